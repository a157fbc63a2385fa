/* Debug mode, reports to the exception handler, and the counters. */
#include "conformance/loops.h"
#include "loop/loop.h"

#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

typedef struct reports {
    int count;
    int code;
    char what[128];
    char text[512];
} reports;

static void note_report(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    reports *self = argument;
    CHECK(loop != NULL);
    self->count++;
    self->code = error->code;
    snprintf(self->what, sizeof self->what, "%s", what);
    snprintf(self->text, sizeof self->text, "%s", error->text);
}

/* Threads */

static void *call_from_elsewhere(void *loop) {
    tepal_handle handle = {.slot = 1, .generation = 1};
    tepal_work work = {.run = (void (*)(tepal_work *, int))1};
    tepal_timer timer = {.work.run = (void (*)(tepal_work *, int))1};
    CHECK_EQ(tepal_loop_call_soon(loop, note_first, "X", &handle), TEPAL_ETHREAD);
    CHECK_EQ(tepal_loop_call_later(loop, 0, note_first, "X", NULL), TEPAL_ETHREAD);
    CHECK_EQ(tepal_loop_call_at(loop, 0, note_first, "X", NULL), TEPAL_ETHREAD);
    CHECK_EQ(tepal_loop_post(loop, &work), TEPAL_ETHREAD);
    CHECK_EQ(tepal_timer_start(loop, &timer, 0), TEPAL_ETHREAD);
    CHECK_EQ(tepal_timer_stop(loop, &timer), TEPAL_ETHREAD);
    CHECK_EQ(tepal_loop_add_reader(loop, 0, note_first, "X"), TEPAL_ETHREAD);
    CHECK_EQ(tepal_loop_call_soon_threadsafe(loop, note_first, "p"), 0);
    CHECK_EQ(handle.slot, 1);
    CHECK_EQ(work.state, 0);
    return NULL;
}

static void start_thread(void *loop) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, call_from_elsewhere, loop), 0);
    pthread_join(thread, NULL);
}

TEST_DRIVERS(debug, a_call_from_a_wrong_thread_is_refused_and_reported) {
    reports seen = {0};
    tepal_loop *loop = LOOP(.debug = true, .slow_callback_ns = -1);
    tepal_loop_set_exception_handler(loop, note_report, &seen);
    CHECK_OK(tepal_loop_call_soon(loop, start_thread, loop, NULL));
    loop_settle(loop);
    CHECK_EQ(seen.count, 7);
    CHECK_EQ(seen.code, TEPAL_ETHREAD);
    CHECK_EQ(loop_stats(loop).reported, 7);
    CHECK_STR(loop_log, "p");
    loop_end(loop);
}

static void *call_while_idle(void *loop) {
    CHECK_OK(tepal_loop_call_soon(loop, note_first, "a", NULL));
    return NULL;
}

TEST_DRIVERS(debug, while_nobody_runs_it_any_thread_may_call) {
    reports seen = {0};
    pthread_t thread;
    tepal_loop *loop = LOOP(.debug = true);
    tepal_loop_set_exception_handler(loop, note_report, &seen);
    CHECK_EQ(pthread_create(&thread, NULL, call_while_idle, loop), 0);
    pthread_join(thread, NULL);
    loop_settle(loop);
    CHECK_STR(loop_log, "a");
    CHECK_EQ(seen.count, 0);
    loop_end(loop);
}

/* Slow callbacks. Every callback takes longer than a nanosecond. */

static void slow_work(tepal_work *work, int status) {
    (void)work;
    (void)status;
}

static void slow_watch(tepal_watch *watch, unsigned events) {
    char byte;
    (void)events;
    CHECK_EQ(read(watch->fd, &byte, 1), 1);
}

TEST_DRIVERS(debug, a_slow_callback_is_reported_with_the_place_that_scheduled_it) {
    reports seen = {0};
    tepal_loop *loop = LOOP(.debug = true, .slow_callback_ns = 1);
    tepal_loop_set_exception_handler(loop, note_report, &seen);
    CHECK_OK(tepal_loop_call_soon(loop, note_first, "a", NULL));
    loop_settle(loop);
    CHECK_EQ(seen.count, 1);
    CHECK_EQ(seen.code, TEPAL_ESLOW);
    CHECK(strstr(seen.text, "a callback took ") != NULL);
    CHECK(strstr(seen.text, "tepal-tests") != NULL); /* the file to ask addr2line about */
    CHECK(strstr(seen.text, "+0x") != NULL);
    CHECK(strstr(seen.text, "null") == NULL); /* without a symbol's name there is the file's */

    CHECK_OK(tepal_loop_call_later(loop, 0, note_first, "a", NULL));
    loop_settle(loop);
    CHECK_EQ(seen.count, 2);
    CHECK(strstr(seen.text, "tepal-tests") != NULL);
    CHECK_EQ(loop_stats(loop).slow, 2);
    loop_end(loop);
}

TEST_DRIVERS(debug, slow_works_timers_and_watches_are_reported_too) {
    int fds[2];
    reports seen = {0};
    tepal_work work = {.run = slow_work};
    tepal_timer timer = {.work.run = slow_work};
    tepal_watch watch = {.ready = slow_watch};
    tepal_loop *loop = LOOP(.debug = true, .slow_callback_ns = 1);
    tepal_loop_set_exception_handler(loop, note_report, &seen);
    loop_pipe(fds);
    watch.fd = fds[0];
    CHECK_OK(tepal_loop_post(loop, &work));
    loop_settle(loop);
    CHECK_EQ(seen.count, 1);
    CHECK(strstr(seen.text, "a callback took ") != NULL);
    CHECK(strstr(seen.text, "; its function is at ") != NULL);
    CHECK_OK(tepal_timer_start(loop, &timer, 0));
    loop_settle(loop);
    CHECK_EQ(seen.count, 2);
    CHECK(strstr(seen.text, "a timer took ") != NULL);
    CHECK(strstr(seen.text, "tepal-tests") != NULL);
    CHECK_OK(tepal_watch_start(loop, &watch, TEPAL_READABLE));
    test_write_all(fds[1], "x", 1);
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_EQ(seen.count, 3);
    CHECK(strstr(seen.text, "a watch took ") != NULL);
    loop_end(loop);
    close(fds[0]);
    close(fds[1]);
}

TEST_DRIVERS(debug, nothing_is_slow_with_a_negative_limit_or_without_debug) {
    reports seen = {0};
    for (int i = 0; i < 2; i++) {
        tepal_loop *loop = i == 0 ? LOOP(.debug = true, .slow_callback_ns = -1) : LOOP(.slow_callback_ns = 1);
        tepal_loop_set_exception_handler(loop, note_report, &seen);
        CHECK_OK(tepal_loop_call_soon(loop, note_first, "a", NULL));
        loop_settle(loop);
        CHECK_EQ(seen.count, 0);
        loop_end(loop);
    }
}

/* Invariants. None can be broken through the public headers, so the check itself is called. */

TEST_DRIVERS(debug, a_broken_invariant_is_reported_and_counted) {
    static const char *const names[] = {"lifecycle", "inbound",    "outbound", "back-pressure",
                                        "ownership", "scheduling", "liveness"};
    reports seen = {0};
    tepal_loop *loop = LOOP(.debug = true);
    tepal_loop_set_exception_handler(loop, note_report, &seen);
    for (int i = 0; i < 7; i++) {
        TPI_INVARIANT(loop, i + 1, i < 0);
        CHECK_EQ(seen.count, i + 1);
        CHECK_EQ(seen.code, TEPAL_EINVARIANT);
        CHECK(strstr(seen.text, names[i]) != NULL);
        CHECK(strstr(seen.text, "i < 0") != NULL);
    }
    TPI_INVARIANT(loop, 1, seen.count == 7);
    CHECK_EQ(loop_stats(loop).invariants, 7);
    loop_end(loop);
}

TEST_DRIVERS(debug, invariants_are_not_checked_without_it) {
    tepal_loop *loop = LOOP(.debug = false);
    int looked = 0;
    TPI_INVARIANT(loop, 1, looked++ < 0);
    CHECK_EQ(looked, 0);
    CHECK_EQ(loop_stats(loop).invariants, 0);
    loop_end(loop);
}

/* The handler */

TEST_DRIVERS(debug, the_exception_handler_may_be_called_set_and_removed) {
    reports seen = {0};
    const tepal_error error = {.code = TEPAL_EINVAL, .text = "a sentence"};
    tepal_loop *loop = LOOP(.debug = false);
    tepal_loop_call_exception_handler(loop, "nobody listens", &error);
    CHECK_EQ(loop_stats(loop).reported, 1);
    tepal_loop_set_exception_handler(loop, note_report, &seen);
    tepal_loop_call_exception_handler(loop, "something", &error);
    CHECK_EQ(seen.count, 1);
    CHECK_EQ(seen.code, TEPAL_EINVAL);
    CHECK_STR(seen.what, "something");
    CHECK_STR(seen.text, "a sentence");
    tepal_loop_set_exception_handler(loop, NULL, NULL);
    tepal_loop_call_exception_handler(loop, "nobody listens", &error);
    CHECK_EQ(seen.count, 1);
    CHECK_EQ(loop_stats(loop).reported, 3);
    loop_end(loop);
}

/* Counters */

TEST_DRIVERS(debug, the_counters_count) {
    tepal_loop *loop = LOOP(.debug = true);
    tepal_loop_stats stats = {.size = sizeof stats};
    CHECK_OK(tepal_loop_get_stats(loop, &stats));
    CHECK_EQ(stats.size, sizeof stats);
    CHECK_EQ(stats.turns + stats.callbacks + stats.timers + stats.posts + stats.waits, 0);
    CHECK_OK(tepal_loop_call_soon(loop, note_first, "a", NULL));
    CHECK_OK(tepal_loop_call_soon_threadsafe(loop, note_first, "b"));
    CHECK_OK(tepal_loop_call_later(loop, 0, note_first, "c", NULL));
    CHECK_OK(tepal_loop_step(loop, 0));
    CHECK_OK(tepal_loop_step(loop, 1));
    stats = loop_stats(loop);
    CHECK_EQ(stats.turns, 2);
    CHECK_EQ(stats.waits, 1);
    CHECK_EQ(stats.callbacks, 2);
    CHECK_EQ(stats.timers, 1);
    CHECK_EQ(stats.posts, 1);
    CHECK_EQ(stats.transports, 0);
    loop_end(loop);
}

TEST_DRIVERS(debug, the_counters_fit_a_smaller_and_a_larger_struct) {
    tepal_loop *loop = LOOP(.debug = true);
    struct {
        tepal_loop_stats known;
        uint64_t unknown;
    } larger = {.known.size = sizeof larger, .unknown = 7};
    tepal_loop_stats smaller = {.size = offsetof(tepal_loop_stats, waits), .waits = 7};
    CHECK_OK(tepal_loop_step(loop, 0));
    CHECK_OK(tepal_loop_get_stats(loop, &smaller));
    CHECK_EQ(smaller.turns, 1);
    CHECK_EQ(smaller.waits, 7);
    CHECK_OK(tepal_loop_get_stats(loop, &larger.known));
    CHECK_EQ(larger.known.turns, 1);
    CHECK_EQ(larger.known.size, sizeof larger);
    smaller.size = sizeof smaller.size; /* as small as it can be: no counter is asked for */
    CHECK_EQ(tepal_loop_get_stats(loop, &smaller), 0);
    smaller.size = sizeof smaller.size - 1;
    CHECK_EQ(tepal_loop_get_stats(loop, &smaller), TEPAL_EINVAL);
    loop_end(loop);
}
