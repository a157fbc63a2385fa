/*
 * Flow control of output: pauses and resumes at the marks, and the futures of those who wait for room.
 */
#include "conformance/script.h"

#include <errno.h>
#include <poll.h>

static const tepal_transport_options narrow_options = {
    .size = sizeof narrow_options, .write_high = 10000, .write_low = 3000};

static void open_narrow(script *self) {
    if (self->options == NULL) {
        self->options = &narrow_options;
    }
    script_open(self, SCRIPT_UNIX);
    script_narrow(self);
}

static uint64_t buffered(const script *self) {
    return tepal_transport_write_buffer_size(self->transport);
}

SCRIPT_TEST(flow_writing, the_pause_comes_within_the_call_that_passes_the_high_mark) {
    script self = {0};

    open_narrow(&self);
    for (int i = 0; i < 2000; i++) {
        script_write(&self, 700);
        CHECK_EQ(self.is_paused, buffered(&self) > 10000);
        CHECK_OK(tepal_transport_flush(self.transport));
        if (self.is_paused) {
            break;
        }
    }
    CHECK_EQ(self.pauses, 1);
    script_write(&self, 20000);
    CHECK_EQ(self.pauses, 1);
    script_close(&self);
}

SCRIPT_TEST(flow_writing, exactly_the_high_mark_is_no_pause) {
    script self = {0};

    open_narrow(&self);
    sends_fail_after(0, EAGAIN);
    script_write(&self, 10000);
    CHECK_EQ(buffered(&self), 10000);
    CHECK_EQ(self.pauses, 0);
    script_write(&self, 1);
    CHECK_EQ(self.pauses, 1);
    sends_fail_after(0, 0);
    script_close(&self);
}

SCRIPT_TEST(flow_writing, the_resume_comes_at_the_low_mark_or_below) {
    script self = {0};

    open_narrow(&self);
    script_fill(&self);
    while (self.is_paused) {
        CHECK_GT(buffered(&self), 3000);
        CHECK_EQ(script_take(&self), 0);
        CHECK_OK(tepal_loop_step(self.loop, TEPAL_MS(1)));
    }
    CHECK_LE(buffered(&self), 3000);
    CHECK_STR(self.log, "MPR");
    script_close(&self);
}

SCRIPT_TEST(flow_writing, pauses_and_resumes_alternate_through_a_long_stream) {
    script self = {.on_resume = script_fill};

    open_narrow(&self);
    script_fill(&self);
    while (self.resumes < 20) {
        CHECK_EQ(script_take(&self), 0);
        CHECK_OK(tepal_loop_step(self.loop, TEPAL_MS(1)));
        CHECK_EQ(self.pauses, self.resumes + self.is_paused);
    }
    self.on_resume = NULL;
    script_take_until(&self, self.sent);
    RUN_UNTIL(self.loop, self.pauses == self.resumes);
    script_close(&self);
}

SCRIPT_TEST(flow_writing, a_write_that_fits_the_socket_raises_no_pause) {
    NEEDS_SENDS_AT_ONCE();
    script self = {0};

    script_open(&self, SCRIPT_UNIX);
    script_write(&self, 100000);
    CHECK_EQ(self.pauses, 0);
    CHECK_EQ(buffered(&self), 0);
    script_take_until(&self, 100000);
    script_close(&self);
}

SCRIPT_TEST(flow_writing, a_high_mark_of_zero_pauses_at_every_byte_the_kernel_does_not_take) {
    NEEDS_SENDS_AT_ONCE();
    script self = {0};

    open_narrow(&self);
    CHECK_OK(CALL(&self, tepal_transport_set_write_limits(self.transport, 0, 0, 1 << 20)));
    script_write(&self, 1);
    CHECK_EQ(self.pauses, 0);
    CHECK_EQ(buffered(&self), 0);
    script_fill(&self);
    CHECK_EQ(self.pauses, 1);
    script_take_until(&self, self.sent);
    RUN_UNTIL(self.loop, self.resumes == 1);
    CHECK_EQ(buffered(&self), 0);
    script_close(&self);
}

SCRIPT_TEST(flow_writing, marks_that_are_changed_take_effect_at_once) {
    script self = {0};

    open_narrow(&self);
    sends_fail_after(0, EAGAIN);
    script_write(&self, 8000);
    CHECK_OK(CALL(&self, tepal_transport_flush(self.transport)));
    CHECK_EQ(self.pauses, 0);
    CHECK_OK(CALL(&self, tepal_transport_set_write_limits(self.transport, 7999, 100, 1 << 20)));
    CHECK_EQ(self.pauses, 1);
    CHECK_OK(CALL(&self, tepal_transport_set_write_limits(self.transport, 9000, 7999, 1 << 20)));
    CHECK_EQ(self.resumes, 0);
    CHECK_OK(CALL(&self, tepal_transport_set_write_limits(self.transport, 9000, 8000, 1 << 20)));
    CHECK_EQ(self.resumes, 1);
    CHECK_EQ(tepal_transport_set_write_limits(self.transport, 10, 11, 12), TEPAL_EINVAL);
    CHECK_EQ(tepal_transport_set_write_limits(self.transport, 13, 11, 12), TEPAL_EINVAL);
    CHECK_OK(CALL(&self, tepal_transport_set_write_limits(self.transport, 7000, 100, 7000)));
    CHECK_EQ(CALL(&self, tepal_transport_write(self.transport, "x", 1)), TEPAL_ENOBUFS);
    sends_fail_after(0, 0);
    script_close(&self);
}

SCRIPT_TEST(flow_writing, marks_that_are_changed_in_a_callback_count_what_is_corked) {
    script self = {0};

    script_open(&self, SCRIPT_UNIX);
    sends_fail_after(0, EAGAIN);
    script_write(&self, 5000);
    CHECK_OK(CALL(&self, tepal_transport_set_write_limits(self.transport, 4999, 0, 10000)));
    CHECK_EQ(self.pauses, 1);
    sends_fail_after(0, 0);
    script_close(&self);
}

SCRIPT_TEST(flow_writing, a_pause_before_connection_made_is_told_after_it) {
    script self = {.options = &narrow_options};

    script_start(&self, SCRIPT_TCP);
    script_narrow(&self);
    for (int i = 0; i < 200; i++) {
        script_write(&self, 10000);
    }
    CHECK_GT(buffered(&self), 10000);
    CHECK_EQ(self.pauses, 0);
    CHECK_OK(tepal_loop_step(self.loop, 0));
    CHECK_STR(self.log, "MP");
    script_take_until(&self, self.sent);
    RUN_UNTIL(self.loop, self.resumes == 1);
    CHECK_STR(self.log, "MPR");
    script_close(&self);
}

/* ---- What a pause may do ---- */

static void write_more(script *self) {
    if (self->pauses < 3) {
        script_write(self, 30000);
    }
}

SCRIPT_TEST(flow_writing, a_pause_may_write) {
    script self = {.on_pause = write_more, .on_resume = write_more};

    open_narrow(&self);
    script_fill(&self);
    script_take_all(&self);
    while (self.resumes != self.pauses) { /* a resume writes more, for which there is to be room */
        CHECK_OK(tepal_loop_step(self.loop, TEPAL_MS(1)));
        script_take_all(&self);
    }
    script_close(&self);
}

SCRIPT_TEST(flow_writing, what_a_pause_writes_comes_after_the_whole_gathered_write_that_caused_it) {
    script self = {.on_pause = write_more};
    static uint8_t bytes[100000];
    struct iovec pieces[1000];

    open_narrow(&self);
    script_fill(&self);
    script_take_until(&self, self.sent);
    RUN_UNTIL(self.loop, self.resumes == 1);
    sends_fail_after(0, EAGAIN);
    stream_fill(SCRIPT_OUT, self.sent, bytes, sizeof bytes);
    for (size_t i = 0; i < 1000; i++) {
        pieces[i] = (struct iovec){.iov_base = bytes + 100 * i, .iov_len = 100};
    }
    self.sent += sizeof bytes;
    CHECK_OK(CALL(&self, tepal_transport_writev(self.transport, pieces, 1000)));
    CHECK_EQ(self.pauses, 2);
    /* The driver waits for room that was there all the time: have it look again. */
    sends_fail_after(0, 0);
    CHECK_GE(buffered(&self), 130000);
    script_close(&self);
}

static void write_much(script *self) {
    uint8_t zeros[1000] = {0};
    const struct iovec piece = {.iov_base = zeros, .iov_len = sizeof zeros};

    for (int i = 0; i < 3000; i++) {
        CHECK_LE(tepal_transport_writev(self->transport, &piece, 1), 0);
    }
}

SCRIPT_TEST(flow_writing, a_pause_that_fills_the_buffer_does_not_break_the_write_that_caused_it) {
    const tepal_transport_options options = {.size = sizeof options, .write_high = 10000, .write_cap = 200000};
    script self = {.options = &options, .on_pause = write_much};
    static uint8_t bytes[150000];
    struct iovec pieces[1500];

    for (size_t i = 0; i < 1500; i++) {
        pieces[i] = (struct iovec){.iov_base = bytes + 100 * i, .iov_len = 100};
    }
    open_narrow(&self);
    sends_fail_after(0, EAGAIN);
    CHECK_OK(CALL(&self, tepal_transport_writev(self.transport, pieces, 1500)));
    CHECK_EQ(self.pauses, 1);
    sends_fail_after(0, 0);
    CHECK(!tepal_transport_is_closing(self.transport));
    CHECK_EQ(buffered(&self), 200000);
    script_close(&self);
}

SCRIPT_TEST(flow_writing, a_pause_may_close_and_everything_is_sent) {
    script self = {.on_pause = script_close_now};

    open_narrow(&self);
    while (!self.is_paused) {
        script_write(&self, 4000);
    }
    CHECK(tepal_transport_is_closing(self.transport));
    script_take_end(&self);
    CHECK_EQ(self.taken, self.sent);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, 0);
    script_close(&self);
}

SCRIPT_TEST(flow_writing, a_pause_may_abort) {
    script self = {.on_pause = script_abort_now};
    static uint8_t bytes[300000];
    struct iovec pieces[3000];

    for (size_t i = 0; i < 3000; i++) {
        pieces[i] = (struct iovec){.iov_base = bytes + 100 * i, .iov_len = 100};
    }
    open_narrow(&self);
    while (!self.is_paused) {
        CHECK_OK(CALL(&self, tepal_transport_writev(self.transport, pieces, 3000)));
    }
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, TEPAL_ETIMEDOUT);
    CHECK_EQ(self.resumes, 0);
    script_close(&self);
}

static void write_eof_now(script *self) {
    CHECK_OK(CALL(self, tepal_transport_write_eof(self->transport)));
}

SCRIPT_TEST(flow_writing, a_pause_may_write_the_end) {
    script self = {.on_pause = write_eof_now, .answer_eof = TEPAL_KEEP_OPEN};

    open_narrow(&self);
    while (!self.is_paused) {
        script_write(&self, 4000);
    }
    script_take_end(&self);
    CHECK_EQ(self.taken, self.sent);
    CHECK_EQ(self.resumes, 1);
    script_close(&self);
}

SCRIPT_TEST(flow_writing, a_resume_may_abort_and_close) {
    for (int round = 0; round < 2; round++) {
        script self = {.on_resume = round ? script_abort_now : script_close_now};

        open_narrow(&self);
        script_fill(&self);
        while (self.losts == 0) {
            (void)script_take(&self);
            CHECK_OK(tepal_loop_step(self.loop, TEPAL_MS(1)));
        }
        CHECK_EQ(self.lost_code, round ? TEPAL_ETIMEDOUT : 0);
        CHECK_STR(self.log, "MPRL");
        script_close(&self);
    }
}

SCRIPT_TEST(flow_writing, neither_follows_the_end) {
    script self = {0};

    open_narrow(&self);
    script_fill(&self);
    script_abort_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    settle(self.loop);
    CHECK_STR(self.log, "MPL");
    script_close(&self);
}

/* ---- Drain ---- */

SCRIPT_TEST(flow_writing, drain_is_done_at_once_while_writing_is_not_paused) {
    script self = {0};
    tepal_future *future;

    script_open(&self, SCRIPT_TCP);
    CHECK_OK(CALL(&self, tepal_transport_drain(self.transport, &future)));
    CHECK(tepal_future_is_done(future));
    CHECK_OK(tepal_future_result(future, NULL));
    tepal_future_unref(future);
    script_close(&self);
}

SCRIPT_TEST(flow_writing, drain_is_done_with_the_next_resume) {
    script self = {0};
    tepal_future *futures[3];

    open_narrow(&self);
    script_fill(&self);
    for (int i = 0; i < 3; i++) {
        CHECK_OK(CALL(&self, tepal_transport_drain(self.transport, &futures[i])));
        CHECK_EQ(tepal_future_result(futures[i], NULL), TEPAL_EPENDING);
    }
    CHECK(tepal_future_cancel(futures[1]));
    while (self.is_paused) {
        CHECK(!tepal_future_is_done(futures[0]));
        CHECK_EQ(script_take(&self), 0);
        CHECK_OK(tepal_loop_step(self.loop, TEPAL_MS(1)));
    }
    CHECK_OK(tepal_future_result(futures[0], NULL));
    CHECK_EQ(tepal_future_result(futures[1], NULL), TEPAL_ECANCELED);
    CHECK_OK(tepal_future_result(futures[2], NULL));
    for (int i = 0; i < 3; i++) {
        tepal_future_unref(futures[i]);
    }
    script_close(&self);
}

SCRIPT_TEST(flow_writing, a_drain_is_not_done_by_a_resume_that_pauses_again) {
    script self = {.on_resume = script_fill};
    tepal_future *future;

    open_narrow(&self);
    script_fill(&self);
    CHECK_OK(tepal_transport_drain(self.transport, &future));
    while (self.resumes < 3) {
        CHECK_EQ(script_take(&self), 0);
        CHECK_OK(tepal_loop_step(self.loop, TEPAL_MS(1)));
        CHECK(!tepal_future_is_done(future));
    }
    self.on_resume = NULL;
    script_take_until(&self, self.sent);
    RUN_UNTIL(self.loop, tepal_future_is_done(future));
    CHECK_OK(tepal_future_result(future, NULL));
    tepal_future_unref(future);
    script_close(&self);
}

/* code 0: whatever connection_lost got. */
static void check_drain_fails(void (*end_it)(script *self), int code) {
    script self = {0};
    tepal_future *future;

    open_narrow(&self);
    script_fill(&self);
    CHECK_OK(tepal_transport_drain(self.transport, &future));
    end_it(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(tepal_future_result(future, NULL), code == 0 ? self.lost_code : code);
    tepal_future_unref(future);
    script_close(&self);
}

static void abort_cleanly(script *self) {
    tepal_transport_abort(self->transport, 0);
}

SCRIPT_TEST(flow_writing, a_drain_fails_with_the_connection) {
    check_drain_fails(script_abort_now, TEPAL_ETIMEDOUT);
    check_drain_fails(abort_cleanly, TEPAL_ECLOSED);
    check_drain_fails(script_hang_up, 0);
}

SCRIPT_TEST(flow_writing, a_drain_fails_with_ECLOSED_when_the_loop_closes) {
    script self = {0};
    tepal_future *future;

    open_narrow(&self);
    script_fill(&self);
    CHECK_OK(tepal_transport_drain(self.transport, &future));
    CHECK_OK(tepal_loop_close(self.loop));
    CHECK_EQ(tepal_future_result(future, NULL), TEPAL_ECLOSED);
    tepal_future_unref(future);
    script_close(&self);
}
