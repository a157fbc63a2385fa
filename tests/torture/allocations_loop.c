/* Scenarios of failing allocations: what a loop itself offers. Callbacks, timers, descriptors, signals, running it. */
#include "conformance/loops.h"
#include "torture/allocations.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MANY = 300, PIPES = 40 /* with both ends, more than fit the tables that a driver begins with */ };

static int runs;

/* ---- Callbacks and work ---- */

static void count_work(tepal_work *work, int status) {
    (void)work;
    CHECK_EQ(status, 0);
    runs++;
}

/* Each accepted callback runs once, whatever is refused beside it; and none that was cancelled. */
static void queue_callbacks(trial *self) {
    static tepal_work works[4];
    tepal_handle handle;
    int expected = 0;

    runs = 0;
    memset(works, 0, sizeof works);
    for (int i = 0; i < MANY; i++) {
        if (WORKED(tepal_loop_call_soon(self->loop, count_up, &runs, &handle))) {
            expected += i % 3 != 0;
            CHECK_EQ(i % 3 == 0 && !tepal_loop_cancel(self->loop, handle), false);
        }
        if (WORKED(tepal_loop_call_later(self->loop, i % 2 == 0 ? 0 : TEPAL_SEC(3600), count_up, &runs, &handle))) {
            expected += i % 2 == 0;
        }
        expected += WORKED(tepal_loop_call_soon_threadsafe(self->loop, count_up, &runs));
    }
    expected += WORKED(tepal_loop_call_at(self->loop, tepal_loop_turn_time(self->loop), count_up, &runs, NULL));
    for (int i = 0; i < 4; i++) {
        works[i].run = count_work;
        CHECK_OK(i % 2 == 0 ? tepal_loop_post(self->loop, &works[i])
                            : tepal_loop_post_threadsafe(self->loop, &works[i]));
    }
    trial_settle(self);
    CHECK_EQ(runs, expected + 4);
    self->is_finished = true;
}

ALLOCATION_TEST(callbacks_run_once_or_are_refused, queue_callbacks)

/* ---- Running, and timers ---- */

static void interrupt(void *loop) {
    tepal_loop_interrupt(loop, TEPAL_EMSGSIZE);
}

static int hook(void *argument, int64_t timeout_ns) {
    (void)timeout_ns;
    ++*(int *)argument;
    return 0;
}

static int hook_after(void *argument, int status) {
    ++*(int *)argument;
    return status;
}

static void count_timer(tepal_work *work, int status) {
    count_work(work, status);
}

static void run_in_every_way(trial *self) {
    tepal_loop *loop = tepal_loop_ref(self->loop);
    static tepal_timer timers[2];
    tepal_loop_stats stats = {.size = sizeof stats};
    int64_t timeout_ns;
    int hooked = 0;

    runs = 0;
    memset(timers, 0, sizeof timers);
    for (int i = 0; i < 2; i++) {
        timers[i].work.run = count_timer;
        CHECK_OK(tepal_timer_start(loop, &timers[i], tepal_loop_time(loop)));
    }
    CHECK_OK(tepal_timer_stop(loop, &timers[1]));
    trial_settle(self);
    CHECK_EQ(runs, 1);

    CHECK_OK(tepal_loop_set_hooks(
        loop, TEPAL_OPTIONS(tepal_loop_hooks, .before_wait = hook, .after_wait = hook_after, .argument = &hooked)));
    CHECK_OK(tepal_loop_step(loop, 1000));
    CHECK_EQ(hooked, 2);
    CHECK_OK(tepal_loop_set_hooks(loop, NULL));

    if (WORKED(tepal_loop_call_soon(loop, interrupt, loop, NULL))) {
        CHECK_EQ(tepal_loop_run_forever(loop), TEPAL_EMSGSIZE);
    }
    tepal_loop_stop(loop);
    CHECK_OK(tepal_loop_run_forever(loop));
    if (WORKED(tepal_loop_stop_threadsafe(loop))) {
        CHECK_OK(tepal_loop_run_forever(loop));
    }
    CHECK_OK(tepal_loop_prepare(loop, &timeout_ns));
    CHECK(tepal_loop_poll_fd(loop) >= 0 || strcmp(test_driver(), "poll") == 0);
    tepal_loop_wake(loop);
    CHECK_OK(tepal_loop_step(loop, -1));

    self->expects_report = true;
    tepal_loop_call_exception_handler(loop, "a test", &(tepal_error){.code = TEPAL_EMSGSIZE, .text = "told"});
    CHECK(!self->expects_report);
    CHECK_OK(tepal_loop_get_stats(loop, &stats));
    CHECK_EQ(stats.invariants, 0);
    CHECK(!tepal_loop_is_running(loop));
    CHECK(!tepal_loop_is_closed(loop));
    (void)tepal_loop_is_debug(loop);
    CHECK_STR(tepal_loop_driver_name(loop), test_driver());
    tepal_loop_unref(loop);
    self->is_finished = true;
}

ALLOCATION_TEST(a_loop_runs_in_every_way, run_in_every_way)

/* ---- Descriptors ---- */

typedef struct watched {
    tepal_watch watch; /* first */
    tepal_loop *loop;
    int ends[2]; /* of a pipe: the first one never becomes readable, the other is writable at once */
    int calls;
    bool is_started;
} watched;

static void watch_ready(tepal_watch *watch, unsigned events) {
    watched *self = (watched *)watch;

    CHECK_EQ(events, TEPAL_WRITABLE);
    self->calls++;
    CHECK_OK(tepal_watch_stop(self->loop, watch));
}

static void writer_ready(void *argument) {
    watched *self = argument;

    self->calls++;
    CHECK_EQ(tepal_loop_remove_writer(self->loop, self->ends[1]), 1);
}

static void never_ready(void *argument) {
    (void)argument;
    test_fail(__FILE__, __LINE__, "nothing was written");
}

static void watch_descriptors(trial *self) {
    static watched all[PIPES];
    bool is_read[PIPES];

    memset(all, 0, sizeof all);
    for (int i = 0; i < PIPES; i++) {
        watched *each = &all[i];
        loop_pipe(each->ends);
        each->loop = self->loop;
        each->watch.fd = each->ends[1];
        each->watch.ready = watch_ready;
        is_read[i] = WORKED(tepal_loop_add_reader(self->loop, each->ends[0], never_ready, NULL));
        each->is_started = WORKED(i % 2 == 0 ? tepal_watch_start(self->loop, &each->watch, TEPAL_WRITABLE)
                                             : tepal_loop_add_writer(self->loop, each->ends[1], writer_ready, each));
    }
    trial_settle(self);
    for (int i = 0; i < PIPES; i++) {
        CHECK_EQ(all[i].calls, all[i].is_started);
        CHECK_EQ(tepal_loop_remove_reader(self->loop, all[i].ends[0]), is_read[i]);
        CHECK_EQ(tepal_loop_remove_writer(self->loop, all[i].ends[1]), 0);
        close(all[i].ends[0]);
        close(all[i].ends[1]);
    }
    self->is_finished = true;
}

ALLOCATION_TEST(descriptors_are_watched_or_refused, watch_descriptors)

/* ---- Signals ---- */

static void count_signal(int signal, void *argument) {
    CHECK(signal == SIGUSR1 || signal == SIGUSR2);
    ++*(int *)argument;
}

static void hear_signals(trial *self) {
    static const int numbers[] = {SIGUSR1, SIGUSR2};
    int heard[2] = {0};
    bool is_added[2];

    for (int i = 0; i < 2; i++) {
        is_added[i] = WORKED(tepal_loop_add_signal(self->loop, numbers[i], count_signal, &heard[i]));
        if (is_added[i]) {
            CHECK_EQ(raise(numbers[i]), 0);
        }
    }
    trial_settle(self);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(heard[i], is_added[i]);
        CHECK_EQ(tepal_loop_remove_signal(self->loop, numbers[i]), is_added[i]);
    }
    self->is_finished = true;
}

ALLOCATION_TEST(signals_are_heard_or_refused, hear_signals)

/* ---- After a fork ---- */

enum { CHILD_IS_FINE = 0, CHILD_HAS_FAILED = 7 /* an allocation has, and that was survived */ };

static void go_on_in_child(trial *self, int fd) {
    const bool is_taken = WORKED(tepal_loop_after_fork(self->loop));

    runs = 0;
    if (is_taken) {
        int expected = WORKED(tepal_loop_call_soon(self->loop, count_up, &runs, NULL));
        expected += WORKED(tepal_loop_call_soon_threadsafe(self->loop, count_up, &runs));
        expected += WORKED(tepal_loop_call_later(self->loop, 0, count_up, &runs, NULL));
        trial_settle(self);
        CHECK_EQ(runs, expected);
        CHECK_EQ(tepal_loop_remove_reader(self->loop, fd), 1);
    }
    CHECK_OK(tepal_loop_close(self->loop));
    tepal_loop_unref(self->loop);
    const bool has_failed = test_alloc_has_failed();
    test_alloc_fail_at(0, false);
    CHECK_EQ(test_alloc_live(), 0);
    _exit(has_failed ? CHILD_HAS_FAILED : CHILD_IS_FINE);
}

static void take_over_after_a_fork(trial *self) {
    int fds[2], status;

    loop_pipe(fds);
    if (WORKED(tepal_loop_add_reader(self->loop, fds[0], never_ready, NULL))) {
        const pid_t child = fork();
        CHECK_GE(child, 0);
        if (child == 0) {
            go_on_in_child(self, fds[0]);
        }
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK(WIFEXITED(status));
        CHECK(WEXITSTATUS(status) == CHILD_IS_FINE || WEXITSTATUS(status) == CHILD_HAS_FAILED);
        self->failed_in_child = WEXITSTATUS(status) == CHILD_HAS_FAILED;
    }
    close(fds[0]);
    close(fds[1]);
    self->is_finished = true;
}

ALLOCATION_TEST(a_child_takes_the_loop_over, take_over_after_a_fork)
