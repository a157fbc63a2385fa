/* The executor, and running a loop until a future is done, on every driver. */
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>
#include "unit/future_fixture.h"

/* ---- tepal_loop_run_until_complete() ---- */

static void set_result(void *argument) {
    CHECK_OK(tepal_future_set_result(argument, NULL, NULL));
}

static void stop(void *argument) {
    tepal_loop_stop(argument);
}

TEST_DRIVERS(run, until_complete_runs_until_the_future_is_done) {
    fixture self;

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_loop_call_later(self.loop, TEPAL_MS(1), set_result, future, NULL));
    CHECK_OK(tepal_loop_run_until_complete(self.loop, future));
    CHECK(tepal_future_is_done(future));
    CHECK(!tepal_loop_is_running(self.loop));
    tepal_future_unref(future);
    fixture_end(&self);
}

TEST_DRIVERS(run, until_complete_of_a_done_future_runs_what_was_queued_before) {
    fixture self;
    note queued = {&self, 'q'};

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    set_result(future);
    CHECK_OK(tepal_loop_call_soon(self.loop, write_note, &queued, NULL));
    CHECK_OK(tepal_loop_run_until_complete(self.loop, future));
    CHECK_STR(self.log, "q");
    tepal_future_unref(future);
    fixture_end(&self);
}

TEST_DRIVERS(run, until_complete_says_so_if_the_loop_was_stopped_before) {
    fixture self;
    note after = {&self, 'a'};

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_loop_call_soon(self.loop, stop, self.loop, NULL));
    CHECK_EQ(tepal_loop_run_until_complete(self.loop, future), TEPAL_ESTOPPED);
    tepal_loop_stop(self.loop);
    CHECK_EQ(tepal_loop_run_until_complete(self.loop, future), TEPAL_ESTOPPED);

    /* Its callback is gone: completing the future does not stop a later run. */
    set_result(future);
    CHECK_OK(tepal_loop_call_later(self.loop, TEPAL_MS(1), write_note, &after, NULL));
    CHECK_OK(tepal_loop_call_later(self.loop, TEPAL_MS(1), stop, self.loop, NULL));
    CHECK_OK(tepal_loop_run_forever(self.loop));
    CHECK_STR(self.log, "a");
    tepal_future_unref(future);
    fixture_end(&self);
}

static void set_result_and_stop(void *argument) {
    set_result(argument);
    tepal_loop_stop(tepal_future_loop(argument));
}

TEST_DRIVERS(run, a_stop_in_the_turn_that_completes_the_future_is_no_failure_and_ends_one_run) {
    fixture self;
    note after = {&self, 'a'};

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_loop_call_soon(self.loop, set_result_and_stop, future, NULL));
    CHECK_OK(tepal_loop_run_until_complete(self.loop, future));

    CHECK_OK(tepal_loop_call_later(self.loop, TEPAL_MS(1), write_note, &after, NULL));
    CHECK_OK(tepal_loop_call_later(self.loop, TEPAL_MS(1), stop, self.loop, NULL));
    CHECK_OK(tepal_loop_run_forever(self.loop));
    CHECK_STR(self.log, "a");
    tepal_future_unref(future);
    fixture_end(&self);
}

static void interrupt(tepal_future *future, void *argument) {
    (void)argument;
    tepal_loop_interrupt(tepal_future_loop(future), TEPAL_EBUSY);
}

static void watch_for_interrupt(void *argument) {
    CHECK_OK(tepal_future_add_done_callback(argument, interrupt, NULL));
    set_result(argument);
}

TEST_DRIVERS(run, an_interrupt_right_after_the_future_ended_the_run_leaves_no_stop_behind) {
    fixture self;
    note after = {&self, 'a'};

    fixture_start(&self, true);
    tepal_future *future = new_future(&self);
    CHECK_OK(tepal_loop_call_soon(self.loop, watch_for_interrupt, future, NULL));
    CHECK_EQ(tepal_loop_run_until_complete(self.loop, future), TEPAL_EBUSY);
    CHECK_OK(tepal_loop_call_later(self.loop, TEPAL_MS(1), write_note, &after, NULL));
    CHECK_OK(tepal_loop_call_later(self.loop, TEPAL_MS(1), stop, self.loop, NULL));
    CHECK_OK(tepal_loop_run_forever(self.loop));
    CHECK_STR(self.log, "a");
    tepal_future_unref(future);
    fixture_end(&self);
}

static void run_inside(void *argument) {
    CHECK_EQ(tepal_loop_run_until_complete(tepal_future_loop(argument), argument), TEPAL_ERECURSION);
    set_result(argument);
}

TEST_DRIVERS(run, until_complete_refuses_what_it_cannot_run) {
    fixture self, other;

    fixture_start(&self, true);
    fixture_start(&other, true);
    tepal_future *future = new_future(&self);
    CHECK_EQ(tepal_loop_run_until_complete(other.loop, future), TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_run_until_complete(self.loop, NULL), TEPAL_EINVAL);
    CHECK_OK(tepal_loop_call_soon(self.loop, run_inside, future, NULL));
    CHECK_OK(tepal_loop_run_until_complete(self.loop, future));
    CHECK_OK(tepal_loop_close(self.loop));
    CHECK_EQ(tepal_loop_run_until_complete(self.loop, future), TEPAL_ECLOSED);
    tepal_future_unref(future);
    fixture_end(&other);
    fixture_end(&self);
}

/* ---- tepal_loop_run_in_executor() ---- */

/* What work gets: it says that it began, waits to be let go, and returns code. */
typedef struct errand {
    sem_t began;
    sem_t gate;
    bool waits;
    int code;
    atomic_int runs;
    int destroyed;
    pthread_t thread;
} errand;

static int run_errand(void *argument, void **value) {
    errand *self = argument;
    self->thread = pthread_self();
    sem_post(&self->began);
    while (self->waits && sem_wait(&self->gate) != 0) {
    }
    atomic_fetch_add(&self->runs, 1);
    *value = &self->destroyed;
    return self->code;
}

static tepal_future *send_errand(fixture *self, errand *errand_, bool waits) {
    tepal_future *future;
    memset(errand_, 0, sizeof *errand_);
    sem_init(&errand_->began, 0, 0);
    sem_init(&errand_->gate, 0, 0);
    errand_->waits = waits;
    CHECK_OK(tepal_loop_run_in_executor(self->loop, run_errand, errand_, count_destroy, &future));
    return future;
}

TEST_DRIVERS(executor, work_runs_on_a_thread_and_its_value_is_the_futures) {
    fixture self;
    errand one;
    void *value;

    fixture_start(&self, true);
    tepal_future *future = send_errand(&self, &one, false);
    CHECK_OK(tepal_loop_run_until_complete(self.loop, future));
    CHECK_OK(tepal_future_result(future, &value));
    CHECK(value == &one.destroyed);
    CHECK(!pthread_equal(one.thread, pthread_self()));
    CHECK_EQ(one.destroyed, 0);
    tepal_future_unref(future);
    CHECK_EQ(one.destroyed, 1);
    fixture_end(&self);
}

TEST_DRIVERS(executor, a_code_below_0_is_the_futures_error) {
    fixture self;
    errand one;

    fixture_start(&self, true);
    tepal_future *future = send_errand(&self, &one, true);
    one.code = tepal_error_make(TEPAL_DOMAIN_USER, 7);
    sem_post(&one.gate);
    CHECK_OK(tepal_loop_run_until_complete(self.loop, future));
    CHECK_EQ(tepal_future_result(future, NULL), tepal_error_make(TEPAL_DOMAIN_USER, 7));
    tepal_future_unref(future);
    CHECK_EQ(one.destroyed, 0);
    fixture_end(&self);
}

TEST_DRIVERS(executor, a_future_that_its_maker_drops_still_calls_back) {
    fixture self;
    errand one;

    fixture_start(&self, true);
    note done = {&self, 'd'};
    tepal_future *future = send_errand(&self, &one, false);
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &done));
    tepal_future_unref(future);
    while (self.log[0] == '\0') {
        CHECK_OK(tepal_loop_step(self.loop, -1));
    }
    CHECK_EQ(one.destroyed, 1);
    fixture_end(&self);
}

TEST_DRIVERS(executor, work_cancelled_while_it_runs_has_its_value_destroyed) {
    fixture self;
    errand one;

    fixture_start(&self, true);
    tepal_future *future = send_errand(&self, &one, true);
    sem_wait(&one.began);
    CHECK(tepal_future_cancel(future));
    CHECK(tepal_future_is_canceled(future));
    tepal_future_unref(future);
    sem_post(&one.gate);
    while (one.destroyed == 0) {
        CHECK_OK(tepal_loop_step(self.loop, -1));
    }
    fixture_end(&self);
    CHECK_EQ(one.destroyed, 1);
}

/* As many errands as there are threads, all begun. */
static void occupy(fixture *self, errand *errands, tepal_future **futures) {
    for (int i = 0; i < 4; i++) {
        futures[i] = send_errand(self, &errands[i], true);
        sem_wait(&errands[i].began);
    }
}

TEST_DRIVERS(executor, work_cancelled_before_it_began_never_runs) {
    fixture self;
    errand errands[4], queued;
    tepal_future *futures[4];

    fixture_start(&self, true);
    occupy(&self, errands, futures);
    tepal_future *future = send_errand(&self, &queued, false);
    CHECK(tepal_future_cancel(future));
    tepal_future_unref(future);
    turn(&self);
    for (int i = 0; i < 4; i++) {
        sem_post(&errands[i].gate);
        CHECK_OK(tepal_loop_run_until_complete(self.loop, futures[i]));
        tepal_future_unref(futures[i]);
    }
    fixture_end(&self);
    CHECK_EQ(queued.runs, 0);
    CHECK_EQ(queued.destroyed, 0);
}

TEST_DRIVERS(executor, closing_the_loop_waits_for_work_and_leaves_nothing) {
    fixture self;
    errand errands[4], queued;
    tepal_future *futures[4];
    note done = {&self, 'd'};

    fixture_start(&self, true);
    occupy(&self, errands, futures);
    tepal_future *future = send_errand(&self, &queued, true);
    for (int i = 0; i < 4; i++) {
        CHECK_OK(tepal_future_add_done_callback(futures[i], note_done, &done));
        sem_post(&errands[i].gate);
    }
    sem_post(&queued.gate);
    tepal_future_unref(futures[3]);
    fixture_end(&self);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(tepal_future_result(futures[i], NULL));
        tepal_future_unref(futures[i]);
        CHECK_EQ(errands[i].destroyed, 1);
    }
    CHECK_EQ(errands[3].destroyed, 1);
    CHECK_EQ(tepal_future_result(future, NULL), queued.runs == 1 ? 0 : TEPAL_ECANCELED);
    tepal_future_unref(future);
    CHECK_EQ(queued.destroyed, queued.runs);
    CHECK_STR(self.log, "");
}

TEST_DRIVERS(executor, what_cannot_be_run_is_refused) {
    fixture self;
    tepal_future *future = NULL;

    fixture_start(&self, true);
    CHECK_EQ(tepal_loop_run_in_executor(self.loop, NULL, NULL, NULL, &future), TEPAL_EINVAL);
    CHECK_OK(tepal_loop_close(self.loop));
    CHECK_EQ(tepal_loop_run_in_executor(self.loop, run_errand, NULL, NULL, &future), TEPAL_ECLOSED);
    CHECK(future == NULL);
    fixture_end(&self);
}

TEST_DRIVERS(executor, each_allocation_may_fail_without_a_leak) {
    for (int onwards = 0; onwards < 2; onwards++) {
        bool complete = false;
        for (size_t n = 1; !complete; n++) {
            fixture self;
            errand one = {.waits = false};
            tepal_future *future = NULL, *names = NULL;

            fixture_start(&self, false);
            sem_init(&one.began, 0, 0);
            test_alloc_fail_at(n, onwards);
            const int code = tepal_loop_run_in_executor(self.loop, run_errand, &one, count_destroy, &future);
            const int name_code = tepal_loop_getaddrinfo(self.loop, "list.stub", 80, 0, false, &names);
            CHECK(code == 0 || code == TEPAL_ENOMEM);
            CHECK(name_code == 0 || name_code == TEPAL_ENOMEM);
            CHECK_EQ(code == 0, future != NULL);
            CHECK_EQ(name_code == 0, names != NULL);
            complete = code == 0 && name_code == 0;
            if (future != NULL) {
                CHECK_OK(tepal_loop_run_until_complete(self.loop, future));
                CHECK_OK(tepal_future_result(future, NULL));
            }
            if (names != NULL) {
                CHECK_OK(tepal_loop_run_until_complete(self.loop, names));
                const int result = tepal_future_result(names, NULL);
                CHECK(result == 0 || result == TEPAL_ENOMEM);
                complete = complete && result == 0;
            }
            CHECK_NE(complete, test_alloc_has_failed());
            test_alloc_fail_at(0, false);
            tepal_future_unref(future);
            tepal_future_unref(names);
            fixture_end(&self);
            CHECK_EQ(test_alloc_live(), 0);
        }
    }
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

/* In a child, after fork(2) with work under way. */
static void child_goes_on(fixture *self, tepal_future *busy, tepal_future *queued) {
    errand fresh;

    CHECK_OK(tepal_loop_after_fork(self->loop));
    CHECK_OK(tepal_loop_run_until_complete(self->loop, busy));
    CHECK_OK(tepal_loop_run_until_complete(self->loop, queued));
    CHECK_EQ(tepal_future_result(busy, NULL), TEPAL_ECANCELED);
    CHECK_EQ(tepal_future_result(queued, NULL), TEPAL_ECANCELED);
    if (THREADS_START_IN_A_FORKED_CHILD) {
        tepal_future *future = send_errand(self, &fresh, false);
        CHECK_OK(tepal_loop_run_until_complete(self->loop, future));
        CHECK_OK(tepal_future_result(future, NULL));
        tepal_future_unref(future);
    }
}

static void child_closes(fixture *self, tepal_future *busy, tepal_future *queued) {
    CHECK_OK(tepal_loop_close(self->loop));
    CHECK_EQ(tepal_future_result(busy, NULL), TEPAL_ECANCELED);
    CHECK_EQ(tepal_future_result(queued, NULL), TEPAL_ECANCELED);
    CHECK(!tepal_future_cancel(busy));
}

static void fork_with_work_under_way(void (*in_child)(fixture *, tepal_future *, tepal_future *)) {
    fixture self;
    errand errands[4], queued;
    tepal_future *futures[4];
    int status;

    fixture_start(&self, true);
    occupy(&self, errands, futures);
    tepal_future *waiting = send_errand(&self, &queued, false);
    const pid_t pid = fork();
    if (pid == 0) {
        in_child(&self, futures[0], waiting);
        for (int i = 0; i < 4; i++) {
            tepal_future_unref(futures[i]);
        }
        tepal_future_unref(waiting);
        fixture_end(&self);
        CHECK_EQ(test_alloc_live(), 0);
        _exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    for (int i = 0; i < 4; i++) { /* and the parent is undisturbed */
        sem_post(&errands[i].gate);
        CHECK_OK(tepal_loop_run_until_complete(self.loop, futures[i]));
        CHECK_OK(tepal_future_result(futures[i], NULL));
        tepal_future_unref(futures[i]);
    }
    CHECK_OK(tepal_loop_run_until_complete(self.loop, waiting));
    CHECK_OK(tepal_future_result(waiting, NULL));
    tepal_future_unref(waiting);
    fixture_end(&self);
}

TEST_DRIVERS(executor, work_under_way_is_cancelled_in_a_forked_child_that_goes_on) {
    fork_with_work_under_way(child_goes_on);
}

TEST_DRIVERS(executor, a_forked_child_may_close_the_loop_with_work_under_way) {
    fork_with_work_under_way(child_closes);
}
