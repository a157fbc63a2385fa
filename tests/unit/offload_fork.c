/* The threads for blocking work in a forked child, which has none of them. */
#include "unit/offload_pool.h"

#include <sys/wait.h>
#include <unistd.h>

/* Wait for a child that checks; a failed check ends it with a status of its own. */
static void wait_for_child(pid_t pid) {
    int status;

    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ThreadSanitizer ends a child that starts threads. */
#if defined(__SANITIZE_THREAD__)
#define THREADS_START_IN_A_FORKED_CHILD false
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREADS_START_IN_A_FORKED_CHILD false
#endif
#endif
#ifndef THREADS_START_IN_A_FORKED_CHILD
#define THREADS_START_IN_A_FORKED_CHILD true
#endif

/* In the child: what had finished is told so, what had not is cancelled, and the pool works again. */
static void check_child(held_pool *self, task *finished, task *queued) {
    task fresh = {0};

    tpi_offload_after_fork(&self->pool.offload);
    CHECK(self->pool.driver.backlog);
    tpi_offload_dispatch(&self->pool.offload);
    CHECK_EQ(finished->dones, 1);
    CHECK_EQ(finished->status, 0);
    CHECK_EQ(self->holder.dones, 1);
    CHECK_EQ(self->holder.status, TEPAL_ECANCELED);
    CHECK_EQ(queued->dones, 1);
    CHECK_EQ(queued->status, TEPAL_ECANCELED);
    CHECK_LT(self->holder.place, queued->place);
    if (THREADS_START_IN_A_FORKED_CHILD) {
        submit(&self->pool, &fresh);
        finish(&self->pool, &fresh, 1);
        CHECK_EQ(fresh.status, 0);
    }
    tpi_offload_destroy(&self->pool.offload);
    CHECK_EQ(test_alloc_live(), 0);
    _exit(0);
}

static void *lock_for_a_while(void *argument) {
    held_pool *self = argument;
    pthread_mutex_lock(&self->pool.offload.mutex);
    sem_post(&self->began);
    sem_wait(&self->gate);
    pthread_mutex_unlock(&self->pool.offload.mutex);
    return NULL;
}

TEST(offload, a_forked_child_starts_afresh_even_if_a_thread_held_the_lock) {
    held_pool self;
    task finished = {0}, queued = {0};
    pthread_t locker;

    memset(&self, 0, sizeof self);
    pool_start(&self.pool, 1);
    sem_init(&self.began, 0, 0);
    sem_init(&self.gate, 0, 0);
    submit(&self.pool, &finished);
    self.holder.began = &self.began;
    self.holder.gate = &self.gate;
    submit(&self.pool, &self.holder);
    sem_wait(&self.began);
    submit(&self.pool, &queued);
    pthread_create(&locker, NULL, lock_for_a_while, &self);
    sem_wait(&self.began);

    const pid_t pid = fork();
    if (pid == 0) {
        check_child(&self, &finished, &queued);
    }
    wait_for_child(pid);
    sem_post(&self.gate);
    sem_post(&self.gate);
    pthread_join(locker, NULL);
    finish(&self.pool, &queued, 1);
    CHECK_EQ(self.holder.status, 0);
    CHECK_EQ(queued.status, 0);
    tpi_offload_destroy(&self.pool.offload);
}

TEST(offload, a_forked_child_may_abandon_the_pool_without_a_word) {
    held_pool self;

    hold(&self);
    const pid_t pid = fork();
    if (pid == 0) {
        tpi_offload_abandon(&self.pool.offload);
        CHECK_EQ(self.holder.dones, 0);
        CHECK_EQ(test_alloc_live(), 0);
        _exit(0);
    }
    wait_for_child(pid);
    sem_post(&self.gate);
    tpi_offload_destroy(&self.pool.offload);
    CHECK_EQ(self.holder.status, 0);
}

/* Whether an idle thread is used again, or one more is started: where there is none, what still waits is counted. */
static void check_threads_of_child(pool *self) {
    task fresh[3] = {0};

    tpi_offload_after_fork(&self->offload);
    tpi_offload_dispatch(&self->offload);
    for (int i = 0; i < 3; i++) {
        submit(self, &fresh[i]);
        finish(self, &fresh[i], 1);
        while (idle_threads(self) == 0) {
            sched_yield();
        }
    }
    CHECK_EQ(self->offload.thread_count, 1);
    tpi_offload_destroy(&self->offload);
    _exit(0);
}

TEST(offload, a_forked_child_counts_none_of_the_parents_jobs_and_threads) {
    pool self;
    task tasks[3] = {0}; /* two hold the threads, and one is queued */
    sem_t began, gate;

    if (!THREADS_START_IN_A_FORKED_CHILD) {
        SKIP("ThreadSanitizer ends a child that starts threads");
    }
    sem_init(&began, 0, 0);
    sem_init(&gate, 0, 0);
    pool_start(&self, 2);
    for (int i = 0; i < 3; i++) {
        tasks[i].began = &began;
        tasks[i].gate = &gate;
        submit(&self, &tasks[i]);
    }
    sem_wait(&began);
    sem_wait(&began);
    const pid_t pid = fork();
    if (pid == 0) {
        check_threads_of_child(&self);
    }
    wait_for_child(pid);
    for (int i = 0; i < 3; i++) {
        sem_post(&gate);
    }
    finish(&self, tasks, 3);
    tpi_offload_destroy(&self.offload);
}

/* The child's condition must know nothing of threads that wait in the parent: to end it would wait for them. */
TEST(offload, a_forked_child_does_not_wait_for_the_parents_idle_threads) {
    pool self;
    task first = {0};

    if (!THREADS_START_IN_A_FORKED_CHILD) {
        SKIP("ThreadSanitizer ends a child that starts threads");
    }
    pool_start(&self, 2);
    submit(&self, &first);
    finish(&self, &first, 1);
    while (idle_threads(&self) == 0) {
        sched_yield();
    }
    const pid_t pid = fork();
    if (pid == 0) {
        check_threads_of_child(&self);
    }
    wait_for_child(pid);
    tpi_offload_destroy(&self.offload);
}
