/* Making, running, stopping, stepping and closing a loop. */
#include "conformance/loops.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>

/* Making it */

TEST(loop_new, refuses_what_it_does_not_know_and_leaves_the_output_alone) {
    tepal_loop *const untouched = (tepal_loop *)&loop_log;
    tepal_loop *loop = untouched;
    CHECK_EQ(tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .driver = "kqueue")), TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .order = (tepal_order)2)), TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .read_bytes = 4095)), TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .read_bytes = 16777217)), TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .executor_threads = 1025)), TEPAL_EINVAL);
    const tepal_loop_options tiny = {.size = 1};
    CHECK_EQ(tepal_loop_new(&loop, &tiny), TEPAL_EINVAL);
    CHECK(loop == untouched);
}

TEST(loop_new, takes_a_longer_struct_whose_rest_is_zero) {
    struct {
        tepal_loop_options known;
        int64_t unknown;
    } longer = {.known = {.size = sizeof longer}};
    tepal_loop *loop;
    CHECK_OK(tepal_loop_new(&loop, &longer.known));
    loop_end(loop);
    longer.unknown = 1;
    CHECK_EQ(tepal_loop_new(&loop, &longer.known), TEPAL_EINVAL);
}

TEST(loop_new, chooses_a_driver_without_being_told) {
    tepal_loop *loop;
    unsetenv("TEPAL_DRIVER");
    CHECK_OK(tepal_loop_new(&loop, NULL));
    CHECK_STR(tepal_loop_driver_name(loop), "epoll");
    loop_end(loop);
    setenv("TEPAL_DRIVER", "", 1);
    CHECK_OK(tepal_loop_new(&loop, NULL));
    CHECK_STR(tepal_loop_driver_name(loop), "epoll");
    loop_end(loop);
    setenv("TEPAL_DRIVER", "poll", 1);
    CHECK_OK(tepal_loop_new(&loop, NULL));
    CHECK_STR(tepal_loop_driver_name(loop), "poll");
    loop_end(loop);
    CHECK_OK(tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .driver = "epoll")));
    CHECK_STR(tepal_loop_driver_name(loop), "epoll");
    loop_end(loop);
    setenv("TEPAL_DRIVER", "nonsense", 1);
    CHECK_EQ(tepal_loop_new(&loop, NULL), TEPAL_EINVAL);
}

TEST_DRIVERS(loop_new, names_its_driver) {
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_STR(tepal_loop_driver_name(loop), test_driver());
    CHECK(tepal_loop_is_debug(loop));
    CHECK(!tepal_loop_is_running(loop));
    CHECK(!tepal_loop_is_closed(loop));
    loop_end(loop);
}

/* Stopping it */

TEST_DRIVERS(loop_run, stop_before_running_gives_one_turn_that_does_not_sleep) {
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_SEC(3600), note_first, "t", NULL));
    for (int round = 0; round < 3; round++) {
        tepal_loop_stop(loop);
        CHECK_OK(tepal_loop_run_forever(loop));
        CHECK_EQ(loop_stats(loop).turns, round + 1);
        CHECK_EQ(loop_stats(loop).waits, 0);
    }
    loop_end(loop);
}

static void stop_and_note(void *loop) {
    loop_note('s');
    tepal_loop_stop(loop);
    CHECK_OK(tepal_loop_call_soon(loop, note_first, "n", NULL));
}

TEST_DRIVERS(loop_run, stop_inside_ends_the_run_after_this_turn) {
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_OK(tepal_loop_call_soon(loop, stop_and_note, loop, NULL));
    CHECK_OK(tepal_loop_call_soon(loop, note_first, "a", NULL));
    CHECK_OK(tepal_loop_call_later(loop, 0, note_first, "t", NULL));
    CHECK_OK(tepal_loop_run_forever(loop));
    CHECK_STR(loop_log, "sat");
    tepal_loop_stop(loop);
    CHECK_OK(tepal_loop_run_forever(loop));
    CHECK_STR(loop_log, "satn");
    loop_end(loop);
}

static void *stop_from_thread(void *loop) {
    CHECK_OK(tepal_loop_stop_threadsafe(loop));
    return NULL;
}

TEST_DRIVERS(loop_run, a_loop_that_sleeps_is_stopped_by_another_thread) {
    tepal_loop *loop = LOOP(.debug = true);
    for (int round = 0; round < 20; round++) {
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, stop_from_thread, loop), 0);
        CHECK_OK(tepal_loop_run_forever(loop));
        pthread_join(thread, NULL);
    }
    loop_end(loop);
}

TEST_DRIVERS(loop_run, step_says_whether_another_turn_would_do_something_at_once) {
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_EQ(tepal_loop_step(loop, 0), 0);
    CHECK_OK(tepal_loop_call_soon(loop, stop_and_note, loop, NULL));
    CHECK_EQ(tepal_loop_step(loop, -1), 1);
    CHECK_STR(loop_log, "s");
    CHECK_EQ(tepal_loop_step(loop, TEPAL_SEC(3600)), 0);
    CHECK_STR(loop_log, "sn");
    loop_end(loop);
}

/* Running it from where it must not be */

static int all_ways_to_run(tepal_loop *loop, int expected) {
    int64_t timeout_ns;
    CHECK_EQ(tepal_loop_run_forever(loop), expected);
    CHECK_EQ(tepal_loop_step(loop, 0), expected);
    CHECK_EQ(tepal_loop_step(loop, -1), expected);
    CHECK_EQ(tepal_loop_prepare(loop, &timeout_ns), expected);
    return expected;
}

static void run_from_inside(void *loop) {
    CHECK(tepal_loop_is_running(loop));
    all_ways_to_run(loop, TEPAL_ERECURSION);
    CHECK_EQ(tepal_loop_close(loop), TEPAL_ERECURSION);
    loop_note('r');
}

static void run_from_work(tepal_work *work, int status) {
    (void)work;
    CHECK_EQ(status, 0);
    loop_note('w');
}

TEST_DRIVERS(loop_run, running_or_closing_it_from_its_own_callbacks_is_refused) {
    tepal_loop *loop = LOOP(.debug = true);
    tepal_work work = {.run = run_from_work};
    CHECK_OK(tepal_loop_call_soon(loop, run_from_inside, loop, NULL));
    CHECK_OK(tepal_loop_post(loop, &work));
    CHECK_OK(tepal_loop_call_later(loop, 0, run_from_inside, loop, NULL));
    CHECK_OK(tepal_loop_call_later(loop, 0, stop_loop, loop, NULL));
    CHECK_OK(tepal_loop_run_forever(loop));
    CHECK_STR(loop_log, "rwr");
    CHECK(!tepal_loop_is_running(loop));
    loop_end(loop);
}

static void *run_from_elsewhere(void *loop) {
    CHECK_EQ(tepal_loop_run_forever(loop), TEPAL_ETHREAD);
    CHECK_EQ(tepal_loop_step(loop, 0), TEPAL_ETHREAD);
    return NULL;
}

static void let_another_thread_run_it(void *loop) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, run_from_elsewhere, loop), 0);
    pthread_join(thread, NULL);
    tepal_loop_stop(loop);
}

TEST_DRIVERS(loop_run, two_threads_cannot_run_it_at_once) {
    tepal_loop *loop = LOOP(.debug = false);
    CHECK_OK(tepal_loop_call_soon(loop, let_another_thread_run_it, loop, NULL));
    CHECK_OK(tepal_loop_run_forever(loop));
    loop_end(loop);
}

static void *run_for_a_while(void *loop) {
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_MS(1), stop_loop, loop, NULL));
    CHECK_OK(tepal_loop_run_forever(loop));
    return NULL;
}

TEST_DRIVERS(loop_run, it_may_move_from_thread_to_thread_between_runs) {
    tepal_loop *loop = LOOP(.debug = true);
    for (int round = 0; round < 10; round++) {
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, run_for_a_while, loop), 0);
        pthread_join(thread, NULL);
        run_for_a_while(loop);
    }
    CHECK_EQ(loop_stats(loop).reported, 0);
    loop_end(loop);
}

/* Closing it */

static void note_status(tepal_work *work, int status) {
    CHECK_EQ(work->state, 0);
    loop_note(status == 0 ? '0' : status == TEPAL_ECLOSED ? 'C' : '?');
}

static void no_signal(int signal, void *argument) {
    (void)signal;
    (void)argument;
}

TEST_DRIVERS(loop_close, nothing_runs_on_a_closed_loop) {
    tepal_loop *loop = LOOP(.debug = true);
    tepal_work work = {.run = note_status};
    tepal_timer timer = {.work.run = note_status};
    tepal_watch watch = {.fd = 0, .ready = (void (*)(tepal_watch *, unsigned))abort};
    tepal_loop_stats stats = {.size = sizeof stats};
    CHECK_OK(tepal_loop_close(loop));
    CHECK_OK(tepal_loop_close(loop));
    CHECK(tepal_loop_is_closed(loop));
    CHECK(!tepal_loop_is_running(loop));
    all_ways_to_run(loop, TEPAL_ECLOSED);
    CHECK_EQ(tepal_loop_call_soon(loop, note_first, "a", NULL), TEPAL_ECLOSED);
    CHECK_EQ(tepal_loop_call_later(loop, 0, note_first, "a", NULL), TEPAL_ECLOSED);
    CHECK_EQ(tepal_loop_call_at(loop, 0, note_first, "a", NULL), TEPAL_ECLOSED);
    CHECK_EQ(tepal_loop_call_soon_threadsafe(loop, note_first, "a"), TEPAL_ECLOSED);
    CHECK_EQ(tepal_loop_stop_threadsafe(loop), TEPAL_ECLOSED);
    CHECK_EQ(tepal_loop_post(loop, &work), TEPAL_ECLOSED);
    CHECK_EQ(tepal_loop_post_threadsafe(loop, &work), TEPAL_ECLOSED);
    CHECK_EQ(tepal_timer_start(loop, &timer, 0), TEPAL_ECLOSED);
    CHECK_EQ(tepal_timer_stop(loop, &timer), TEPAL_ENOENT);
    CHECK_EQ(tepal_watch_start(loop, &watch, TEPAL_READABLE), TEPAL_ECLOSED);
    CHECK_EQ(tepal_watch_stop(loop, &watch), TEPAL_ENOENT);
    CHECK_EQ(tepal_loop_add_reader(loop, 0, note_first, "a"), TEPAL_ECLOSED);
    CHECK_EQ(tepal_loop_remove_reader(loop, 0), 0);
    CHECK_EQ(tepal_loop_add_signal(loop, 10, no_signal, NULL), TEPAL_ECLOSED);
    CHECK_EQ(tepal_loop_remove_signal(loop, 10), 0);
    CHECK_EQ(tepal_loop_poll_fd(loop), TEPAL_ECLOSED);
    CHECK_EQ(tepal_loop_after_fork(loop), TEPAL_ECLOSED);
    CHECK_OK(tepal_loop_get_stats(loop, &stats));
    CHECK_STR(tepal_loop_driver_name(loop), test_driver());
    CHECK_EQ(tepal_loop_time(loop), 0);
    tepal_loop_wake(loop);
    tepal_loop_stop(loop);
    tepal_loop_interrupt(loop, TEPAL_ECANCELED);
    CHECK_STR(loop_log, "");
    tepal_loop_unref(loop);
}

TEST_DRIVERS(loop_close, works_and_timers_hear_of_it_once_and_callbacks_vanish) {
    enum { EACH = 100 };
    static tepal_work works[EACH], posts[EACH];
    static tepal_timer timers[EACH];
    tepal_loop *loop = LOOP(.debug = true);
    loop_log_clear();
    for (int i = 0; i < 20; i++) {
        works[i].run = posts[i].run = timers[i].work.run = note_status;
        CHECK_OK(tepal_loop_post(loop, &works[i]));
        CHECK_OK(tepal_loop_call_soon(loop, note_first, "a", NULL));
        CHECK_OK(tepal_timer_start(loop, &timers[i], i % 2 == 0 ? 0 : INT64_MAX));
        CHECK_OK(tepal_loop_call_later(loop, 0, note_first, "t", NULL));
        CHECK_OK(tepal_loop_call_soon_threadsafe(loop, note_first, "p"));
        CHECK_OK(tepal_loop_post_threadsafe(loop, &posts[i]));
    }
    loop_end(loop);
    CHECK_EQ(strlen(loop_log), 60);
    CHECK_EQ(strspn(loop_log, "C"), 60);
}

typedef struct partner {
    tepal_work work; /* first */
    sem_t began, gate;
} partner;

static void open_gate(tepal_work *work, int status) {
    CHECK_EQ(status, TEPAL_ECLOSED);
    sem_post(&((partner *)work)->gate);
}

static int wait_at_gate(void *argument, void **value) {
    partner *self = argument;
    (void)value;
    sem_post(&self->began);
    while (sem_wait(&self->gate) != 0) {
    }
    return 0;
}

static void never(tepal_future *future, void *argument) {
    (void)argument;
    test_fail(__FILE__, __LINE__, "a callback of %p on a loop that is closing", (void *)future);
}

TEST_DRIVERS(loop_close, works_hear_of_it_before_it_waits_for_a_thread_that_waits_for_them) {
    partner self = {.work.run = open_gate};
    tepal_loop *loop = LOOP(.debug = true);
    tepal_future *future;
    sem_init(&self.began, 0, 0);
    sem_init(&self.gate, 0, 0);
    CHECK_OK(tepal_loop_run_in_executor(loop, wait_at_gate, &self, NULL, &future));
    while (sem_wait(&self.began) != 0) {
    }
    CHECK_OK(tepal_future_add_done_callback(future, never, NULL));
    CHECK_OK(tepal_loop_post(loop, &self.work));
    loop_end(loop);
    CHECK_OK(tepal_future_result(future, NULL));
    tepal_future_unref(future);
}

typedef struct stubborn {
    tepal_work work; /* first */
    tepal_loop *loop;
    int result;
} stubborn;

static void post_again(tepal_work *work, int status) {
    stubborn *self = (stubborn *)work;
    CHECK_EQ(status, TEPAL_ECLOSED);
    self->result = tepal_loop_post(self->loop, work);
    CHECK_EQ(tepal_loop_post_threadsafe(self->loop, work), TEPAL_ECLOSED);
    CHECK_EQ(tepal_loop_close(self->loop), TEPAL_ERECURSION);
    CHECK_EQ(tepal_loop_run_forever(self->loop), TEPAL_ECLOSED);
}

TEST_DRIVERS(loop_close, a_work_that_is_dropped_cannot_come_back) {
    stubborn self = {.work.run = post_again, .loop = LOOP(.debug = true)};
    CHECK_OK(tepal_loop_post(self.loop, &self.work));
    loop_end(self.loop);
    CHECK_EQ(self.result, TEPAL_ECLOSED);
}

TEST_DRIVERS(loop_close, the_last_reference_closes_it) {
    tepal_work work = {.run = note_status};
    tepal_loop *loop = LOOP(.debug = true);
    CHECK(tepal_loop_ref(loop) == loop);
    CHECK_OK(tepal_loop_post(loop, &work));
    tepal_loop_unref(loop);
    CHECK_STR(loop_log, "");
    tepal_loop_unref(loop);
    CHECK_STR(loop_log, "C");
    tepal_loop_unref(NULL);
}

static void unref_it(tepal_work *work, int status) {
    CHECK_EQ(status, TEPAL_ECLOSED);
    tepal_loop_unref(((stubborn *)work)->loop);
}

TEST_DRIVERS(loop_close, what_is_ended_may_give_back_the_last_references) {
    stubborn self = {.work.run = unref_it, .loop = LOOP(.debug = true)};
    tepal_loop_ref(self.loop);
    CHECK_OK(tepal_loop_post(self.loop, &self.work));
    loop_end(self.loop);
}

TEST_DRIVERS(loop_close, a_loop_that_never_ran_leaves_nothing_behind) {
    for (int i = 0; i < 10; i++) {
        loop_end(LOOP(.debug = i % 2 == 0));
    }
}

/* Its clock */

TEST_DRIVERS(loop_run, its_clock_is_monotonic_and_a_turns_time_stays) {
    tepal_loop *loop = LOOP(.debug = true);
    const int64_t before = test_now_ns();
    const int64_t own = tepal_loop_time(loop);
    CHECK_LE(before, own);
    CHECK_LE(own, test_now_ns());
    const int64_t turn = tepal_loop_turn_time(loop);
    CHECK_LE(own, turn);
    CHECK_EQ(tepal_loop_turn_time(loop), turn);
    CHECK_EQ(tepal_loop_step(loop, 0), 0);
    CHECK_LE(turn, tepal_loop_turn_time(loop));
    loop_end(loop);
}
