/* The threads for blocking work, on a driver that is nothing but a counter of wake-ups. */
#include "unit/offload_pool.h"

#include <signal.h>
#include <stdlib.h>

TEST(offload, a_job_runs_on_a_thread_and_is_delivered_on_this_one) {
    pool self;
    task one = {0};

    pool_start(&self, 4);
    submit(&self, &one);
    finish(&self, &one, 1);
    CHECK_EQ(one.status, 0);
    CHECK_EQ(one.dones, 1);
    CHECK_EQ(one.runs, 1);
    CHECK(!pthread_equal(one.thread, pthread_self()));
    CHECK(one.job.driver == NULL);
    tpi_offload_destroy(&self.offload);
}

TEST(offload, no_thread_and_no_memory_before_there_is_work) {
    pool self;

    pool_start(&self, 4);
    CHECK_EQ(self.offload.thread_count, 0);
    CHECK_EQ(test_alloc_calls(), 0);
    tpi_offload_destroy(&self.offload);
}

TEST(offload, finished_jobs_are_delivered_oldest_first) {
    held_pool self;
    task tasks[5] = {0};

    hold(&self);
    for (int i = 0; i < 5; i++) {
        submit(&self.pool, &tasks[i]);
    }
    sem_post(&self.gate);
    while (idle_threads(&self.pool) == 0) {
        sched_yield();
    }
    tpi_offload_dispatch(&self.pool.offload);
    CHECK_EQ(self.holder.place, 1);
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(tasks[i].place, i + 2);
    }
    tpi_offload_destroy(&self.pool.offload);
}

TEST(offload, jobs_run_at_once_up_to_the_limit_of_threads_and_no_further) {
    pool self;
    task tasks[5] = {0};
    sem_t began, gate;

    sem_init(&began, 0, 0);
    sem_init(&gate, 0, 0);
    pool_start(&self, 3);
    for (int i = 0; i < 5; i++) {
        tasks[i].began = &began;
        tasks[i].gate = &gate;
        submit(&self, &tasks[i]);
    }
    for (int i = 0; i < 3; i++) {
        sem_wait(&began);
    }
    CHECK_EQ(self.offload.thread_count, 3);
    CHECK_EQ(sem_trywait(&began), -1);
    for (int i = 0; i < 5; i++) {
        sem_post(&gate);
    }
    finish(&self, tasks, 5);
    tpi_offload_destroy(&self.offload);
}

TEST(offload, an_idle_thread_is_used_before_a_new_one_is_started) {
    pool self;
    task tasks[3] = {0};

    pool_start(&self, 4);
    for (int i = 0; i < 3; i++) {
        submit(&self, &tasks[i]);
        finish(&self, &tasks[i], 1);
        while (idle_threads(&self) == 0) {
            sched_yield();
        }
    }
    CHECK_EQ(self.offload.thread_count, 1);
    tpi_offload_destroy(&self.offload);
}

TEST(offload, a_job_cancelled_before_it_began_is_told_by_the_next_dispatch_and_never_runs) {
    held_pool self;
    task tasks[3] = {0};

    hold(&self);
    for (int i = 0; i < 3; i++) {
        submit(&self.pool, &tasks[i]);
    }
    tpi_offload_cancel(&self.pool.offload, &tasks[1].job);
    CHECK_EQ(tasks[1].dones, 0);
    CHECK(self.pool.driver.backlog);
    CHECK(tpi_offload_has_done(&self.pool.offload));
    tpi_offload_dispatch(&self.pool.offload);
    CHECK_EQ(tasks[1].dones, 1);
    CHECK_EQ(tasks[1].status, TEPAL_ECANCELED);
    CHECK(!tpi_offload_has_done(&self.pool.offload));

    sem_post(&self.gate);
    finish(&self.pool, &tasks[0], 1);
    finish(&self.pool, &tasks[2], 1);
    CHECK_EQ(tasks[0].runs + tasks[2].runs, 2);
    CHECK_EQ(tasks[1].runs, 0);
    CHECK_EQ(tasks[1].dones, 1);
    tpi_offload_destroy(&self.pool.offload);
}

TEST(offload, the_last_job_of_the_queue_can_be_cancelled_and_others_added_behind) {
    held_pool self;
    task tasks[3] = {0};

    hold(&self);
    submit(&self.pool, &tasks[0]);
    submit(&self.pool, &tasks[1]);
    tpi_offload_cancel(&self.pool.offload, &tasks[1].job);
    submit(&self.pool, &tasks[2]);
    sem_post(&self.gate);
    finish(&self.pool, tasks, 3);
    CHECK_EQ(tasks[0].status, 0);
    CHECK_EQ(tasks[1].status, TEPAL_ECANCELED);
    CHECK_EQ(tasks[2].status, 0);
    tpi_offload_destroy(&self.pool.offload);
}

TEST(offload, cancelling_a_job_that_runs_changes_nothing) {
    held_pool self;

    hold(&self);
    tpi_offload_cancel(&self.pool.offload, &self.holder.job);
    CHECK(!tpi_offload_has_done(&self.pool.offload));
    sem_post(&self.gate);
    finish(&self.pool, &self.holder, 1);
    CHECK_EQ(self.holder.status, 0);
    CHECK_EQ(self.holder.runs, 1);
    tpi_offload_destroy(&self.pool.offload);
}

TEST(offload, destroy_waits_for_what_runs_and_cancels_what_has_not_begun) {
    held_pool self;
    task tasks[2] = {0};

    hold(&self);
    submit(&self.pool, &tasks[0]);
    submit(&self.pool, &tasks[1]);
    sem_post(&self.gate);
    tpi_offload_destroy(&self.pool.offload);
    CHECK_EQ(self.holder.dones, 1);
    CHECK_EQ(self.holder.status, 0);
    for (int i = 0; i < 2; i++) { /* the thread may have taken them before destroy did */
        CHECK_EQ(tasks[i].dones, 1);
        CHECK_EQ(tasks[i].status, tasks[i].runs == 1 ? 0 : TEPAL_ECANCELED);
    }
}

static void free_done(tpi_job *job, int status) {
    (void)status;
    free(job);
}

TEST(offload, a_job_may_be_freed_while_it_is_delivered) {
    pool self;
    tpi_job *job = calloc(1, sizeof(task));

    pool_start(&self, 1);
    job->work = task_work;
    job->done = free_done;
    CHECK_OK(tpi_offload_submit(&self.offload, job));
    tpi_offload_destroy(&self.offload);
}

typedef struct chain {
    tpi_job job;
    tpi_offload *offload;
    int left;
    int refused;
} chain;

static void chain_work(tpi_job *job) {
    (void)job;
}

static void chain_done(tpi_job *job, int status) {
    chain *self = (chain *)job;
    CHECK_EQ(status, 0);
    if (--self->left > 0) {
        self->refused = tpi_offload_submit(self->offload, job);
    }
}

TEST(offload, a_job_may_be_submitted_again_while_it_is_delivered) {
    pool self;
    chain links = {.job = {.work = chain_work, .done = chain_done}, .offload = &self.offload, .left = 5};

    pool_start(&self, 2);
    CHECK_OK(tpi_offload_submit(&self.offload, &links.job));
    while (links.left > 0) {
        sched_yield();
        tpi_offload_dispatch(&self.offload);
    }
    CHECK_EQ(links.refused, 0);
    tpi_offload_destroy(&self.offload);
}

TEST(offload, nothing_is_taken_while_the_pool_is_destroyed) {
    pool self;
    chain links = {.job = {.work = chain_work, .done = chain_done}, .offload = &self.offload, .left = 2};

    pool_start(&self, 1);
    CHECK_OK(tpi_offload_submit(&self.offload, &links.job));
    while (atomic_load(&self.driver.done_jobs) == NULL) {
        sched_yield();
    }
    tpi_offload_destroy(&self.offload);
    CHECK_EQ(links.refused, TEPAL_ECLOSED);
}

static void interrupt_done(tpi_job *job, int status) {
    task_done(job, status);
    ((task *)job)->interrupts->driver.interrupted = true;
}

TEST(offload, an_interrupted_dispatch_keeps_the_rest_in_order) {
    held_pool self;
    task tasks[4] = {0};

    hold(&self);
    for (int i = 0; i < 4; i++) {
        submit(&self.pool, &tasks[i]);
    }
    tasks[0].interrupts = &self.pool;
    tasks[0].job.done = interrupt_done;
    tasks[2].interrupts = &self.pool;
    tasks[2].job.done = interrupt_done;
    tpi_offload_cancel(&self.pool.offload, &tasks[2].job);
    tpi_offload_cancel(&self.pool.offload, &tasks[3].job);
    sem_post(&self.gate);
    while (idle_threads(&self.pool) == 0) {
        sched_yield();
    }

    tpi_offload_dispatch(&self.pool.offload); /* the holder and 0 */
    CHECK_EQ(tasks[0].dones, 1);
    CHECK_EQ(tasks[1].dones, 0);
    CHECK(tpi_offload_has_done(&self.pool.offload));
    self.pool.driver.interrupted = false;
    tpi_offload_dispatch(&self.pool.offload); /* 1, and of the cancelled ones 2 */
    CHECK_EQ(tasks[1].dones, 1);
    CHECK_EQ(tasks[2].dones, 1);
    CHECK_EQ(tasks[3].dones, 0);
    CHECK(tpi_offload_has_done(&self.pool.offload));
    tpi_offload_destroy(&self.pool.offload); /* nothing is left, interrupted or not */
    CHECK_EQ(tasks[3].dones, 1);
}

static void look_around(tpi_job *job) {
    task *self = (task *)job;
    sigset_t mask;
    char name[16];

    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    pthread_getname_np(pthread_self(), name, sizeof name);
    for (int signal = 1; signal < 32; signal++) {
        if (signal != SIGKILL && signal != SIGSTOP && sigismember(&mask, signal) != 1) {
            return;
        }
    }
    atomic_store(&self->runs, strcmp(name, "tepal-work") == 0);
}

TEST(offload, threads_have_a_name_and_block_every_signal_and_this_one_does_not) {
    pool self;
    task one = {.job = {.work = look_around, .done = task_done}};
    sigset_t before, after;

    pthread_sigmask(SIG_SETMASK, NULL, &before);
    pool_start(&self, 1);
    CHECK_OK(tpi_offload_submit(&self.offload, &one.job));
    finish(&self, &one, 1);
    CHECK_EQ(one.runs, 1);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int signal = 1; signal < 32; signal++) {
        CHECK_EQ(sigismember(&before, signal), sigismember(&after, signal));
    }
    tpi_offload_destroy(&self.offload);
}

TEST(offload, a_finished_job_wakes_the_loop_only_if_it_sleeps) {
    pool self;
    task tasks[2] = {0};

    pool_start(&self, 1);
    submit(&self, &tasks[0]);
    finish(&self, tasks, 1);
    while (idle_threads(&self) == 0) { /* the wake comes after the push that finish() saw */
        sched_yield();
    }
    CHECK_EQ(self.wakes, 0);
    atomic_store(&self.driver.sleeping, true);
    submit(&self, &tasks[1]);
    finish(&self, tasks, 2);
    while (idle_threads(&self) == 0) {
        sched_yield();
    }
    CHECK_EQ(self.wakes, 1);
    tpi_offload_destroy(&self.offload);
}

TEST(offload, a_job_is_refused_if_memory_is_short) {
    pool self;
    task one = {.job = {.work = task_work, .done = task_done}};

    pool_start(&self, 1);
    test_alloc_fail_at(1, false);
    CHECK_EQ(tpi_offload_submit(&self.offload, &one.job), TEPAL_ENOMEM);
    test_alloc_fail_at(0, false);
    submit(&self, &one);
    finish(&self, &one, 1);
    tpi_offload_destroy(&self.offload);
}

/* Have every new thread ask for size bytes of stack. */
static void set_stack(size_t size) {
    pthread_attr_t attributes;

    pthread_getattr_default_np(&attributes);
    pthread_attr_setstacksize(&attributes, size);
    CHECK_EQ(pthread_setattr_default_np(&attributes), 0);
    pthread_attr_destroy(&attributes);
}

TEST(offload, a_job_is_refused_if_no_thread_can_be_started_and_waits_if_there_is_one) {
    held_pool self;
    pool other;
    task one = {.job = {.work = task_work, .done = task_done}};

    hold(&self);
    self.pool.offload.threads = test_counting_alloc(self.pool.offload.threads, 2 * sizeof(pthread_t));
    self.pool.offload.max_threads = 2;
    pool_start(&other, 1);
    set_stack((size_t)1 << 50); /* more than there are addresses */
    CHECK_LT(tpi_offload_submit(&other.offload, &one.job), 0);
    CHECK(!tpi_offload_has_done(&other.offload));
    submit(&self.pool, &one);
    CHECK_EQ(self.pool.offload.thread_count, 1);
    set_stack((size_t)1 << 20);
    sem_post(&self.gate);
    finish(&self.pool, &one, 1);
    CHECK_EQ(one.status, 0);
    tpi_offload_destroy(&self.pool.offload);
    tpi_offload_destroy(&other.offload);
}

TEST(offload, every_job_is_told_exactly_once_while_jobs_are_cancelled_at_random) {
    enum { TASKS = 64 };
    pool self;
    task tasks[TASKS] = {0};
    test_prng prng = test_prng_start(1);
    const int64_t rounds = test_rounds(20000, 400);

    pool_start(&self, 4);
    for (int64_t round = 0; round < rounds; round++) {
        memset(tasks, 0, sizeof tasks);
        for (int i = 0; i < TASKS; i++) {
            submit(&self, &tasks[i]);
            const uint64_t victim = test_prng_below(&prng, TASKS);
            if (victim <= (uint64_t)i && tasks[victim].dones == 0) {
                tpi_offload_cancel(&self.offload, &tasks[victim].job);
            }
            if (victim % 8 == 0) {
                tpi_offload_dispatch(&self.offload);
            }
        }
        finish(&self, tasks, TASKS);
        for (int i = 0; i < TASKS; i++) {
            CHECK_EQ(tasks[i].dones, 1);
            CHECK_EQ(tasks[i].status, tasks[i].runs == 1 ? 0 : TEPAL_ECANCELED);
        }
    }
    CHECK(self.offload.known == NULL);
    tpi_offload_destroy(&self.offload);
}
