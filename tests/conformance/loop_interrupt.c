/* tepal_loop_interrupt(): leave at once, from wherever it is called, and keep the rest in order. */
#include "conformance/loops.h"

#include <signal.h>
#include <unistd.h>

#define CODE tepal_error_make(TEPAL_DOMAIN_USER, 5)

static void interrupt_it(void *loop) {
    loop_note('!');
    tepal_loop_interrupt(loop, CODE);
    tepal_loop_interrupt(loop, TEPAL_ECANCELED); /* the first one counts */
}

static void run_rest(tepal_loop *loop) {
    tepal_loop_stop(loop);
    CHECK_OK(tepal_loop_run_forever(loop));
}

TEST_DRIVERS(loop_interrupt, the_callbacks_behind_it_keep_their_order) {
    for (int order = TEPAL_ORDER_SNAPSHOT; order <= TEPAL_ORDER_DRAIN; order++) {
        tepal_loop *loop = LOOP(.order = (tepal_order)order);
        CHECK_OK(tepal_loop_call_soon(loop, note_first, "a", NULL));
        CHECK_OK(tepal_loop_call_soon(loop, interrupt_it, loop, NULL));
        CHECK_OK(tepal_loop_call_soon(loop, note_first, "b", NULL));
        CHECK_OK(tepal_loop_call_soon(loop, note_first, "c", NULL));
        CHECK_OK(tepal_loop_call_later(loop, 0, note_first, "t", NULL));
        CHECK_EQ(tepal_loop_run_forever(loop), CODE);
        CHECK_STR(loop_log, "a!");
        CHECK(!tepal_loop_is_running(loop));
        CHECK_OK(tepal_loop_call_soon(loop, note_first, "d", NULL));
        run_rest(loop);
        CHECK_STR(loop_log, "a!bcdt");
        loop_end(loop);
    }
}

TEST_DRIVERS(loop_interrupt, the_timers_behind_it_keep_their_order) {
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_OK(tepal_loop_call_at(loop, 1, note_first, "a", NULL));
    CHECK_OK(tepal_loop_call_at(loop, 2, interrupt_it, loop, NULL));
    CHECK_OK(tepal_loop_call_at(loop, 3, note_first, "b", NULL));
    CHECK_OK(tepal_loop_call_at(loop, 3, note_first, "c", NULL));
    CHECK_EQ(tepal_loop_step(loop, 0), CODE);
    CHECK_STR(loop_log, "a!");
    CHECK_OK(tepal_loop_call_at(loop, 0, note_first, "d", NULL));
    CHECK_EQ(tepal_loop_step(loop, -1), 0);
    CHECK_STR(loop_log, "a!bcd");
    loop_end(loop);
}

/* In the middle of I/O */

enum { WATCHES = 5 };

typedef struct watched {
    tepal_watch watch; /* first */
    tepal_loop *loop;
    int fds[2];
    int calls;
    bool interrupts;
} watched;

static void watched_ready(tepal_watch *watch, unsigned events) {
    watched *self = (watched *)watch;
    char byte;
    CHECK_EQ(events, TEPAL_READABLE);
    CHECK_EQ(read(self->fds[0], &byte, 1), 1);
    self->calls++;
    if (self->interrupts) {
        tepal_loop_interrupt(self->loop, CODE);
    }
}

static int calls_of(const watched *all) {
    int calls = 0;
    for (int i = 0; i < WATCHES; i++) {
        calls += all[i].calls;
    }
    return calls;
}

TEST_DRIVERS(loop_interrupt, io_goes_on_where_it_was_left) {
    watched all[WATCHES];
    tepal_loop *loop = LOOP(.debug = true);
    for (int i = 0; i < WATCHES; i++) {
        all[i] = (watched){.watch.ready = watched_ready, .loop = loop, .interrupts = true};
        loop_pipe(all[i].fds);
        all[i].watch.fd = all[i].fds[0];
        CHECK_OK(tepal_watch_start(loop, &all[i].watch, TEPAL_READABLE));
        test_write_all(all[i].fds[1], "x", 1);
    }
    for (int i = 1; i <= WATCHES; i++) {
        CHECK_EQ(tepal_loop_run_forever(loop), CODE);
        CHECK_EQ(calls_of(all), i);
    }
    CHECK_OK(tepal_loop_call_soon(loop, note_first, "a", NULL));
    loop_settle(loop);
    for (int i = 0; i < WATCHES; i++) {
        CHECK_EQ(all[i].calls, 1);
    }
    loop_end(loop);
    for (int i = 0; i < WATCHES; i++) {
        close(all[i].fds[0]);
        close(all[i].fds[1]);
    }
}

static void interrupt_reader(void *loop) {
    interrupt_it(loop);
}

TEST_DRIVERS(loop_interrupt, a_reader_that_interrupts_leaves_the_writer_for_the_next_run) {
    tepal_loop *loop = LOOP(.debug = true);
    int fds[2];
    test_socketpair(fds);
    test_write_all(fds[1], "x", 1);
    CHECK_OK(tepal_loop_add_reader(loop, fds[0], interrupt_reader, loop));
    CHECK_OK(tepal_loop_add_writer(loop, fds[0], note_first, "w"));
    CHECK_EQ(tepal_loop_run_forever(loop), CODE);
    CHECK_STR(loop_log, "!");
    CHECK_EQ(tepal_loop_remove_reader(loop, fds[0]), 1);
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_STR(loop_log, "!w");
    loop_end(loop);
    close(fds[0]);
    close(fds[1]);
}

static void signal_interrupts(int signal, void *loop) {
    (void)signal;
    interrupt_it(loop);
}

static void signal_notes(int signal, void *argument) {
    (void)argument;
    loop_note(signal == SIGUSR2 ? 's' : '?');
}

TEST_DRIVERS(loop_interrupt, the_signals_behind_it_come_in_the_next_run) {
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_OK(tepal_loop_add_signal(loop, SIGUSR1, signal_interrupts, loop));
    CHECK_OK(tepal_loop_add_signal(loop, SIGUSR2, signal_notes, NULL));
    CHECK_OK(tepal_loop_call_soon(loop, note_first, "a", NULL));
    raise(SIGUSR2);
    raise(SIGUSR1);
    CHECK_EQ(tepal_loop_run_forever(loop), CODE);
    CHECK_STR(loop_log, "!");
    run_rest(loop);
    CHECK_STR(loop_log, "!sa");
    loop_end(loop);
}

TEST_DRIVERS(loop_interrupt, outside_a_run_it_does_nothing) {
    tepal_loop *loop = LOOP(.debug = true);
    tepal_loop_interrupt(loop, CODE);
    CHECK_OK(tepal_loop_call_soon(loop, note_first, "a", NULL));
    run_rest(loop);
    CHECK_STR(loop_log, "a");
    loop_end(loop);
}

static void interrupt_with_success(void *loop) {
    tepal_loop_interrupt(loop, 0);
}

TEST_DRIVERS(loop_interrupt, always_ends_the_run_with_an_error) {
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_OK(tepal_loop_call_soon(loop, interrupt_with_success, loop, NULL));
    CHECK_EQ(tepal_loop_run_forever(loop), TEPAL_EINVAL);
    run_rest(loop);
    loop_end(loop);
}

static void stop_and_interrupt(void *loop) {
    tepal_loop_stop(loop);
    tepal_loop_interrupt(loop, CODE);
}

TEST_DRIVERS(loop_interrupt, a_stop_asked_for_before_is_kept_for_the_next_run) {
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_OK(tepal_loop_call_soon(loop, stop_and_interrupt, loop, NULL));
    CHECK_EQ(tepal_loop_run_forever(loop), CODE);
    CHECK_OK(tepal_loop_run_forever(loop));
    loop_end(loop);
}
