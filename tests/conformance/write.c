/*
 * Writing: what one callback writes is joined and leaves when it returns, in order and once; what is refused is refused
 * before a byte moves.
 */
#include "conformance/script.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void write_sixteen(script *self) {
    for (int i = 0; i < 16; i++) {
        script_write(self, 64);
    }
}

SCRIPT_TEST(write, sixteen_small_writes_of_one_upcall_leave_in_one_call) {
    script self = {.on_data = write_sixteen};

    script_open(&self, SCRIPT_TCP);
    script_feed(&self, 1);
    const size_t before = sends_counted();
    RUN_UNTIL(self.loop, self.received == 1);
    CHECK_EQ(sends_counted() - before, 1);
    script_take_until(&self, 16 * 64);
    script_close(&self);
}

static void write_in_callback(void *argument) {
    write_sixteen(argument);
}

static void write_in_timer(tepal_work *work, int status) {
    script *self = *(script **)(void *)((char *)work + sizeof(tepal_timer));

    if (status == 0) {
        write_sixteen(self);
    }
}

static void write_in_signal(int signal, void *argument) {
    (void)signal;
    write_sixteen(argument);
}

/* One turn, in which one callback writes: all must have left at its end, by one call. */
static void check_one_turn(script *self) {
    const size_t before = sends_counted();
    const uint64_t sent = self->sent;

    RUN_UNTIL(self->loop, self->sent > sent);
    CHECK_EQ(sends_counted() - before, 1);
    CHECK_EQ(script_take(self), 0);
    CHECK_EQ(self->taken, self->sent);
}

static void write_and_flush(void *argument) {
    script *self = argument;
    char bytes[4096];

    script_write(self, 100);
    CHECK_OK(CALL(self, tepal_transport_flush(self->transport)));
    CHECK_EQ(recv(self->peer, bytes, sizeof bytes, MSG_PEEK), (ssize_t)self->sent);
}

/* The first one's output is on its way when the second one, which then blocks, writes. */
SCRIPT_TEST(write, a_flush_takes_along_what_an_earlier_callback_wrote) {
    NEEDS_SENDS_AT_ONCE();
    script self = {0};

    script_open(&self, SCRIPT_UNIX);
    CHECK_OK(tepal_loop_call_soon(self.loop, write_in_callback, &self, NULL));
    CHECK_OK(tepal_loop_call_soon(self.loop, write_and_flush, &self, NULL));
    RUN_UNTIL(self.loop, self.sent > 100);
    script_take_all(&self);
    script_close(&self);
}

SCRIPT_TEST(write, what_callbacks_timers_signals_and_watches_write_leaves_when_they_return) {
    NEEDS_SENDS_AT_ONCE();
    script self = {0};
    struct {
        tepal_timer timer;
        script *self;
    } timer = {.timer.work.run = write_in_timer, .self = &self};
    int fds[2];

    script_open(&self, SCRIPT_UNIX);
    CHECK_OK(tepal_loop_call_soon(self.loop, write_in_callback, &self, NULL));
    check_one_turn(&self);
    CHECK_OK(tepal_loop_call_later(self.loop, 1, write_in_callback, &self, NULL));
    check_one_turn(&self);
    CHECK_OK(tepal_timer_start(self.loop, &timer.timer, 0));
    check_one_turn(&self);
    CHECK_OK(tepal_loop_add_signal(self.loop, SIGUSR1, write_in_signal, &self));
    raise(SIGUSR1);
    check_one_turn(&self);
    CHECK_EQ(tepal_loop_remove_signal(self.loop, SIGUSR1), 1);
    test_socketpair(fds);
    CHECK_OK(tepal_loop_add_writer(self.loop, fds[0], write_in_callback, &self));
    check_one_turn(&self);
    CHECK_EQ(tepal_loop_remove_writer(self.loop, fds[0]), 1);
    close(fds[0]);
    close(fds[1]);
    script_close(&self);
}

SCRIPT_TEST(write, what_is_written_outside_the_loop_leaves_when_it_runs) {
    NEEDS_SENDS_AT_ONCE();
    script self = {0};

    script_open(&self, SCRIPT_UNIX);
    script_write(&self, 100);
    CHECK_EQ(tepal_transport_write_buffer_size(self.transport), 100);
    CHECK_OK(tepal_loop_step(self.loop, 0));
    CHECK_EQ(tepal_transport_write_buffer_size(self.transport), 0);
    CHECK_EQ(script_take(&self), 0);
    CHECK_EQ(self.taken, 100);
    script_close(&self);
}

static void write_and_stop(void *argument) {
    script *self = argument;

    script_write(self, 1000);
    tepal_loop_stop(self->loop);
}

SCRIPT_TEST(write, what_is_written_before_the_loop_stops_has_left_when_it_returns) {
    NEEDS_SENDS_AT_ONCE();
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    CHECK_OK(tepal_loop_call_soon(self.loop, write_and_stop, &self, NULL));
    CHECK_OK(tepal_loop_run_forever(self.loop));
    test_poll(self.peer, POLLIN);
    CHECK_EQ(script_take(&self), 0);
    CHECK_EQ(self.taken, 1000);
    script_close(&self);
}

static void write_and_interrupt(void *argument) {
    script *self = argument;

    script_write(self, 1000);
    tepal_loop_interrupt(self->loop, TEPAL_EMSGSIZE);
}

SCRIPT_TEST(write, what_is_written_before_an_interrupt_has_left_when_the_loop_returns) {
    NEEDS_SENDS_AT_ONCE();
    script self = {0};

    script_open(&self, SCRIPT_UNIX);
    CHECK_OK(tepal_loop_call_soon(self.loop, write_and_interrupt, &self, NULL));
    CHECK_EQ(tepal_loop_run_forever(self.loop), TEPAL_EMSGSIZE);
    CHECK_EQ(script_take(&self), 0);
    CHECK_EQ(self.taken, 1000);
    script_close(&self);
}

SCRIPT_TEST(write, what_is_written_before_the_loop_closes_is_not_lost) {
    NEEDS_SENDS_AT_ONCE();
    script self = {0};

    script_open(&self, SCRIPT_UNIX);
    script_write(&self, 1000);
    CHECK_OK(tepal_loop_close(self.loop));
    CHECK_EQ(script_take(&self), 1);
    CHECK_EQ(self.taken, 1000);
    script_close(&self);
}

static void write_flush_and_look(void *argument) {
    script *self = argument;

    script_write(self, 1000);
    CHECK_EQ(script_take(self), 0);
    CHECK_EQ(self->taken, 0);
    CHECK_OK(CALL(self, tepal_transport_flush(self->transport)));
    CHECK_EQ(script_take(self), 0);
    CHECK_EQ(self->taken, 1000);
    CHECK_OK(CALL(self, tepal_transport_flush(self->transport)));
}

SCRIPT_TEST(write, flush_hands_over_in_the_middle_of_a_long_callback) {
    NEEDS_SENDS_AT_ONCE();
    script self = {0};

    script_open(&self, SCRIPT_UNIX);
    CHECK_OK(tepal_loop_call_soon(self.loop, write_flush_and_look, &self, NULL));
    RUN_UNTIL(self.loop, self.taken == 1000);
    script_close(&self);
}

static void block_until_taken(script *self) {
    script_write(self, 100);
    CHECK_OK(tepal_transport_flush(self->transport));
    test_poll(self->peer, POLLIN); /* fails after 10 s if nothing came */
    CHECK_EQ(script_take(self), 0);
    CHECK_EQ(self->taken, 100);
}

SCRIPT_TEST(write, an_upcall_that_flushes_and_then_blocks_for_the_answer_gets_it) {
    NEEDS_SENDS_AT_ONCE();
    script self = {.on_data = block_until_taken};

    script_open(&self, SCRIPT_TCP);
    script_feed(&self, 1);
    RUN_UNTIL(self.loop, self.taken == 100);
    script_close(&self);
}

SCRIPT_TEST(write, five_thousand_pieces_are_one_write) {
    script self = {0};
    static struct iovec pieces[5000];
    size_t total = 0;

    for (size_t i = 0; i < 5000; i++) {
        pieces[i].iov_len = i % 7 == 0 ? 0 : i % 97;
        pieces[i].iov_base = malloc(pieces[i].iov_len + 1);
        stream_fill(SCRIPT_OUT, total, pieces[i].iov_base, pieces[i].iov_len);
        total += pieces[i].iov_len;
    }
    script_open(&self, SCRIPT_TCP);
    self.sent = total;
    const size_t before = sends_counted();
    CHECK_OK(CALL(&self, tepal_transport_writev(self.transport, pieces, 5000)));
    for (size_t i = 0; i < 5000; i++) {
        memset(pieces[i].iov_base, 0, pieces[i].iov_len);
        free(pieces[i].iov_base);
    }
    script_take_until(&self, total);
    CHECK_LE(sends_counted() - before, 1 + total / 4096);
    script_close(&self);
}

SCRIPT_TEST(write, a_gathered_write_is_judged_by_the_cap_as_a_whole) {
    const tepal_transport_options options = {.size = sizeof options, .write_cap = 100000};
    script self = {.options = &options};
    static uint8_t bytes[1000];
    struct iovec pieces[101];

    for (size_t i = 0; i < 101; i++) {
        pieces[i] = (struct iovec){.iov_base = bytes, .iov_len = sizeof bytes};
    }
    script_open(&self, SCRIPT_TCP);
    const size_t before = sends_counted();
    CHECK_EQ(CALL(&self, tepal_transport_writev(self.transport, pieces, 101)), TEPAL_ENOBUFS);
    CHECK_EQ(tepal_transport_write_buffer_size(self.transport), 0);
    settle(self.loop);
    CHECK_EQ(sends_counted(), before);
    script_write(&self, 100000);
    script_take_until(&self, 100000);
    script_close(&self);
}

SCRIPT_TEST(write, nothing_is_written_by_lengths_of_zero) {
    script self = {0};
    const struct iovec empty[2] = {{.iov_base = NULL}, {.iov_base = &self}};

    script_open(&self, SCRIPT_TCP);
    const size_t before = sends_counted();
    CHECK_OK(tepal_transport_write(self.transport, NULL, 0));
    CHECK_OK(tepal_transport_writev(self.transport, NULL, 0));
    CHECK_OK(tepal_transport_writev(self.transport, empty, 2));
    script_write(&self, 10);
    CHECK_OK(tepal_transport_write(self.transport, "", 0));
    settle(self.loop);
    CHECK_EQ(sends_counted() - before, 1);
    script_take_until(&self, 10);
    script_close(&self);
}

SCRIPT_TEST(write, writes_after_write_eof_close_and_abort_are_refused) {
    script self = {0};
    const struct iovec piece = {.iov_base = &self, .iov_len = 1};

    script_open(&self, SCRIPT_TCP);
    script_write(&self, 10);
    CHECK_OK(tepal_transport_write_eof(self.transport));
    CHECK_EQ(tepal_transport_write(self.transport, "x", 1), TEPAL_EPIPE);
    CHECK_EQ(tepal_transport_writev(self.transport, &piece, 1), TEPAL_EPIPE);
    CHECK_EQ(tepal_transport_write_owned(self.transport, &piece, 1, NULL, NULL), TEPAL_EPIPE);
    script_close_now(&self);
    CHECK_EQ(tepal_transport_write(self.transport, "x", 1), TEPAL_ECLOSED);
    script_take_end(&self);
    CHECK_EQ(self.taken, 10);
    script_close(&self);
}

SCRIPT_TEST(write, a_write_after_abort_is_refused) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_write(&self, 10);
    script_abort_now(&self);
    CHECK_EQ(tepal_transport_write(self.transport, "x", 1), TEPAL_ECLOSED);
    script_take_error(&self, ECONNRESET);
    CHECK_EQ(self.taken, 0);
    script_close(&self);
}

/* The ways to write so many bytes. */
static int write_simply(tepal_transport *transport, const void *data, size_t length) {
    return tepal_transport_write(transport, data, length);
}

static int write_gathered(tepal_transport *transport, const void *data, size_t length) {
    struct iovec pieces[200];
    const uint8_t *from = data;

    for (size_t i = 0; i < 200; i++) {
        const size_t begin = length * i / 200, stop = length * (i + 1) / 200;
        pieces[i] = (struct iovec){.iov_base = (void *)(uintptr_t)(from + begin), .iov_len = stop - begin};
    }
    return tepal_transport_writev(transport, pieces, 200);
}

static int releases;

static void count_release(void *argument, int status) {
    (void)argument;
    (void)status;
    releases++;
}

static int write_owned(tepal_transport *transport, const void *data, size_t length) {
    const struct iovec piece = {.iov_base = (void *)(uintptr_t)data, .iov_len = length};
    return tepal_transport_write_owned(transport, &piece, 1, count_release, NULL);
}

static int (*const ways[])(tepal_transport *, const void *, size_t) = {write_simply, write_gathered, write_owned};
enum { WAYS = sizeof ways / sizeof ways[0] };

SCRIPT_TEST(write, every_way_to_write_pauses_and_stops_at_the_cap_when_nobody_reads) {
    static const uint8_t zeros[30000];

    for (size_t way = 0; way < WAYS; way++) {
        const tepal_transport_options options = {.size = sizeof options, .write_cap = 1000000};
        script self = {.options = &options};
        int written = 0, code;

        releases = 0;
        script_open(&self, SCRIPT_TCP);
        script_narrow(&self);
        while ((code = CALL(&self, ways[way](self.transport, zeros, sizeof zeros))) == 0) {
            written++;
            const uint64_t buffered = tepal_transport_write_buffer_size(self.transport);
            CHECK_LE(buffered, 1000000);
            CHECK_EQ(self.is_paused, buffered > 65536);
            CHECK_LT(written, 1000);
        }
        CHECK_EQ(code, TEPAL_ENOBUFS);
        CHECK_EQ(self.pauses, 1);
        CHECK_GT(tepal_transport_write_buffer_size(self.transport), 1000000 - sizeof zeros);
        script_abort_now(&self);
        RUN_UNTIL(self.loop, self.losts == 1);
        settle(self.loop);
        CHECK_EQ(releases, way == 2 ? written : 0);
        script_close(&self);
        CHECK_EQ(releases, way == 2 ? written : 0);
    }
}

SCRIPT_TEST(write, the_cap_is_judged_before_a_byte_moves) {
    const tepal_transport_options options = {.size = sizeof options, .write_cap = 70000};
    static const uint8_t zeros[70001];

    for (size_t way = 0; way < WAYS; way++) {
        script self = {.options = &options};

        releases = 0;
        script_open(&self, SCRIPT_TCP);
        const size_t before = sends_counted();
        CHECK_EQ(CALL(&self, ways[way](self.transport, zeros, sizeof zeros)), TEPAL_ENOBUFS);
        settle(self.loop);
        CHECK_EQ(sends_counted(), before);
        CHECK_EQ(script_take(&self), 0);
        CHECK_EQ(self.taken, 0);
        CHECK_EQ(releases, 0);
        script_write(&self, 70000);
        script_take_until(&self, 70000);
        script_close(&self);
    }
}

SCRIPT_TEST(write, a_cap_of_UINT64_MAX_is_none) {
    const tepal_transport_options options = {.size = sizeof options, .write_cap = UINT64_MAX};
    script self = {.options = &options};

    script_open(&self, SCRIPT_TCP);
    script_narrow(&self);
    script_write(&self, 20 << 20);
    CHECK_GT(tepal_transport_write_buffer_size(self.transport), 16 << 20);
    script_close(&self);
}

SCRIPT_TEST(write, a_large_write_leaves_at_once_behind_what_was_written_before) {
    NEEDS_SENDS_AT_ONCE();
    script self = {0};

    script_open(&self, SCRIPT_UNIX);
    script_write(&self, 100);
    script_write(&self, 50000);
    CHECK_EQ(script_take(&self), 0);
    CHECK_GT(self.taken, 100);
    script_take_until(&self, 50100);
    CHECK_EQ(self.pauses, 0);
    script_close(&self);
}

SCRIPT_TEST(write, partial_sends_of_every_size_lose_and_repeat_nothing) {
    static const size_t limits[] = {1, 2, 3, 7, 100, 4095, 16384, 16385};

    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        script self = {0};
        const size_t total = limits[i] < 10 ? 3000 : 300000;

        script_open(&self, SCRIPT_TCP);
        sends_limit(limits[i]);
        while (self.sent < total) {
            script_write(&self, 1 + self.sent % 700);
        }
        script_take_until(&self, self.sent);
        sends_limit(0);
        script_close(&self);
    }
}

SCRIPT_TEST(write, an_error_of_the_kernel_ends_the_transport_and_not_the_call) {
    static const uint8_t zeros[100000];

    for (size_t way = 0; way < WAYS; way++) {
        for (int large = 0; large < 2; large++) {
            script self = {0};

            releases = 0;
            script_open(&self, SCRIPT_TCP);
            sends_fail_after(0, EPIPE);
            CHECK_OK(CALL(&self, ways[way](self.transport, zeros, large ? sizeof zeros : 1000)));
            RUN_UNTIL(self.loop, self.losts == 1);
            sends_fail_after(0, 0);
            CHECK_EQ(self.lost_code, TEPAL_EPIPE);
            script_close(&self);
            CHECK_EQ(releases, way == 2);
        }
    }
}

SCRIPT_TEST(write, an_error_after_some_partial_sends_ends_the_transport_once) {
    NEEDS_SENDS_AT_ONCE();
    for (size_t calls = 0; calls < 6; calls++) {
        script self = {0};

        script_open(&self, SCRIPT_TCP);
        sends_limit(10000);
        sends_fail_after(calls, ECONNRESET);
        for (int i = 0; i < 10 && !tepal_transport_is_closing(self.transport); i++) {
            script_write(&self, 20000);
        }
        RUN_UNTIL(self.loop, self.losts == 1);
        sends_fail_after(0, 0);
        sends_limit(0);
        CHECK_EQ(self.lost_code, TEPAL_SYSTEM(ECONNRESET));
        RUN_UNTIL(self.loop, script_take(&self) != 0); /* closing may take another turn */
        CHECK_EQ(self.taken, calls * 10000);
        script_close(&self);
    }
}

/* ---- Many at once ---- */

enum { CROWD = 200 };

typedef struct crowd {
    script members[CROWD];
} crowd;

static void broadcast(void *argument) {
    crowd *all = argument;

    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < CROWD; i++) {
            script_write(&all->members[i], 500);
        }
    }
}

SCRIPT_TEST(write, a_callback_that_writes_to_hundreds_reaches_them_all) {
    static crowd all;

    all.members[0].loop = script_loop();
    for (int i = 0; i < CROWD; i++) {
        all.members[i].loop = i == 0 ? all.members[0].loop : tepal_loop_ref(all.members[0].loop);
        script_open(&all.members[i], SCRIPT_UNIX);
    }
    CHECK_OK(tepal_loop_call_soon(all.members[0].loop, broadcast, &all, NULL));
    RUN_UNTIL(all.members[0].loop, all.members[CROWD - 1].sent == 1500);
    for (int i = 0; i < CROWD; i++) {
        script_take_until(&all.members[i], 1500);
    }
    for (int i = 0; i < CROWD; i++) {
        script_close(&all.members[i]);
    }
}

/* The first of a crowd passes its mark when it is flushed, to make room for the last one's cork. */
static crowd *crowd_now;

static void write_to_last(script *self) {
    (void)self;
    script_write(&crowd_now->members[CROWD - 1], 20000);
}

static void abort_last(script *self) {
    (void)self;
    script_abort_now(&crowd_now->members[CROWD - 1]);
}

static void write_to_each(void *argument) {
    crowd *all = argument;

    for (int i = 0; i < CROWD; i++) {
        if (!tepal_transport_is_closing(all->members[i].transport)) {
            all->members[i].calls = 0;
            uint8_t data[1000];
            stream_fill(SCRIPT_OUT, all->members[i].sent, data, sizeof data);
            if (tepal_transport_write(all->members[i].transport, data, sizeof data) == 0) {
                all->members[i].sent += sizeof data;
            }
        }
    }
}

static void check_crowd(void (*when_paused)(script *self), bool aborted) {
    static crowd all;
    const tepal_transport_options options = {.size = sizeof options, .write_high = 1500};

    memset(&all, 0, sizeof all);
    crowd_now = &all;
    all.members[0].loop = plumbing_quiet_loop();
    for (int i = 0; i < CROWD; i++) {
        all.members[i].loop = i == 0 ? all.members[0].loop : tepal_loop_ref(all.members[0].loop);
        all.members[i].options = &options;
        all.members[i].on_pause = i < CROWD - 1 ? when_paused : NULL;
        script_open(&all.members[i], SCRIPT_UNIX);
    }
    sends_limit(10);
    sends_fail_after(0, EAGAIN);
    write_to_each(&all);
    write_to_each(&all);
    CHECK_GT(all.members[0].pauses, 0);
    sends_fail_after(0, 0);
    sends_limit(0);
    for (int i = 0; i < CROWD; i++) {
        all.members[i].on_pause = NULL;
    }
    settle(all.members[0].loop);
    CHECK_EQ(all.members[CROWD - 1].losts, aborted);
    for (int i = 0; i < CROWD; i++) {
        script_close(&all.members[i]);
    }
}

SCRIPT_TEST(write, a_pause_may_write_to_the_transport_whose_write_brought_it_about) {
    check_crowd(write_to_last, false);
}

SCRIPT_TEST(write, a_pause_may_abort_the_transport_whose_write_brought_it_about) {
    check_crowd(abort_last, true);
}

SCRIPT_TEST(write, an_absurd_length_behind_a_small_write_is_ENOBUFS) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    for (int i = 0; i < 2; i++) {
        script_write(&self, 10);
        CHECK_EQ(CALL(&self, tepal_transport_write(self.transport, self.buffer, SIZE_MAX - 5)), TEPAL_ENOBUFS);
        CHECK_EQ(CALL(&self, tepal_transport_write(self.transport, self.buffer, SIZE_MAX)), TEPAL_ENOBUFS);
        script_take_all(&self);
    }
    script_close(&self);
}
