/* What the tests of the threads for blocking work share: a pool on a driver that counts wake-ups, and jobs that tell. */
#ifndef TEPAL_TESTS_OFFLOAD_POOL_H
#define TEPAL_TESTS_OFFLOAD_POOL_H

#include "driver/offload.h"
#include "harness/test.h"
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

typedef struct pool {
    tpi_driver driver; /* first: wake() gets it */
    tpi_driver_ops ops;
    tpi_offload offload;
    atomic_int wakes;
} pool;

static inline void count_wake(tpi_driver *driver) {
    atomic_fetch_add(&((pool *)driver)->wakes, 1);
}

static inline void pool_start(pool *self, unsigned threads) {
    memset(self, 0, sizeof *self);
    self->ops.wake = count_wake;
    self->driver.ops = &self->ops;
    self->driver.realloc = test_counting_alloc;
    tpi_offload_init(&self->offload, &self->driver, threads);
}

/* A job that tells what happened to it. With gate it says that it began, and waits. */
typedef struct task {
    tpi_job job;
    sem_t *began;
    sem_t *gate;
    atomic_int runs;
    pthread_t thread;
    int dones;
    int status;
    int place; /* in the order of deliveries, from 1 */
    pool *interrupts;
} task;

static int deliveries;

static inline void task_work(tpi_job *job) {
    task *self = (task *)job;
    self->thread = pthread_self();
    if (self->gate != NULL) {
        sem_post(self->began);
        while (sem_wait(self->gate) != 0) {
        }
    }
    atomic_fetch_add(&self->runs, 1);
}

static inline void task_done(tpi_job *job, int status) {
    task *self = (task *)job;
    self->dones++;
    self->status = status;
    self->place = ++deliveries;
}

static inline void submit(pool *self, task *one) {
    one->job.work = task_work;
    one->job.done = task_done;
    CHECK_OK(tpi_offload_submit(&self->offload, &one->job));
}

/* Dispatch until every one of count tasks has been told. */
static inline void finish(pool *self, task *tasks, size_t count) {
    for (size_t i = 0; i < count; i++) {
        while (tasks[i].dones == 0) {
            sched_yield();
            tpi_offload_dispatch(&self->offload);
        }
    }
}

static inline unsigned idle_threads(pool *self) {
    pthread_mutex_lock(&self->offload.mutex);
    const unsigned idle = self->offload.idle;
    pthread_mutex_unlock(&self->offload.mutex);
    return idle;
}

/* One thread, held by a running job. */
typedef struct held_pool {
    pool pool;
    task holder;
    sem_t began;
    sem_t gate;
} held_pool;

static inline void hold(held_pool *self) {
    memset(self, 0, sizeof *self);
    pool_start(&self->pool, 1);
    sem_init(&self->began, 0, 0);
    sem_init(&self->gate, 0, 0);
    self->holder.began = &self->began;
    self->holder.gate = &self->gate;
    submit(&self->pool, &self->holder);
    sem_wait(&self->began);
}

#endif
