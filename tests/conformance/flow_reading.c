/*
 * Flow control of input: what is paused comes no more, also what the driver holds already, and nothing of it is lost.
 */
#include "conformance/script.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>

SCRIPT_TEST(flow_reading, a_pause_in_data_received_is_the_end_of_data_until_resume) {
    script self = {.on_data = script_pause};

    script_open(&self, SCRIPT_TCP);
    script_feed_all(&self, 1 << 20);
    settle(self.loop);
    CHECK_STR(self.log, "MD");
    CHECK(!tepal_transport_is_reading(self.transport));
    const uint64_t before = self.received;
    script_resume(&self);
    CHECK_EQ(self.received, before);
    RUN_UNTIL(self.loop, self.received > before);
    CHECK_STR(self.log, "MDD");
    self.on_data = NULL;
    script_resume(&self);
    RUN_UNTIL(self.loop, self.received == 1 << 20);
    script_close(&self);
}

SCRIPT_TEST(flow_reading, pausing_and_resuming_twice_is_harmless) {
    script self = {0};

    script_open(&self, SCRIPT_UNIX);
    script_pause(&self);
    script_pause(&self);
    script_feed(&self, 1000);
    settle(self.loop);
    CHECK_EQ(self.received, 0);
    script_resume(&self);
    script_resume(&self);
    RUN_UNTIL(self.loop, self.received == 1000);
    CHECK(tepal_transport_is_reading(self.transport));
    script_close(&self);
}

SCRIPT_TEST(flow_reading, a_pause_in_connection_made_holds_the_first_data_back) {
    script self = {.on_made = script_pause};

    script_start(&self, SCRIPT_TCP);
    script_feed(&self, 1000);
    settle(self.loop);
    CHECK_STR(self.log, "M");
    script_resume(&self);
    RUN_UNTIL(self.loop, self.received == 1000);
    script_close(&self);
}

SCRIPT_TEST(flow_reading, a_pause_before_connection_made_counts) {
    script self = {0};

    script_start(&self, SCRIPT_TCP);
    script_pause(&self);
    script_feed(&self, 1000);
    settle(self.loop);
    CHECK_STR(self.log, "M");
    script_resume(&self);
    RUN_UNTIL(self.loop, self.received == 1000);
    script_close(&self);
}

SCRIPT_TEST(flow_reading, the_end_of_the_stream_waits_for_resume_too) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_pause(&self);
    script_feed(&self, 1000);
    script_hang_up(&self);
    settle(self.loop);
    CHECK_STR(self.log, "M");
    script_resume(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "MDEL");
    script_close(&self);
}

SCRIPT_TEST(flow_reading, a_pause_between_data_and_the_end_holds_the_end_back) {
    script self = {.on_data = script_pause};

    script_open(&self, SCRIPT_TCP);
    script_feed(&self, 1000);
    script_hang_up(&self);
    test_poll(self.fd, POLLRDHUP);
    settle(self.loop);
    CHECK_STR(self.log, "MD");
    script_resume(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "MDEL");
    script_close(&self);
}

SCRIPT_TEST(flow_reading, a_paused_peer_is_slowed_and_not_cut_off) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_pause(&self);
    size_t fed = 0, last;
    do {
        last = script_feed(&self, 1 << 20);
        fed += last;
        settle(self.loop);
        CHECK_LT(fed, 100 << 20);
    } while (last > 0);
    script_resume(&self);
    RUN_UNTIL(self.loop, self.received == fed);
    script_feed_all(&self, 100000);
    RUN_UNTIL(self.loop, self.received == fed + 100000);
    script_close(&self);
}

SCRIPT_TEST(flow_reading, a_paused_idle_loop_sleeps) {
    script self = {0};
    tepal_loop_stats before = {.size = sizeof before}, after = {.size = sizeof after};

    script_open(&self, SCRIPT_TCP);
    script_pause(&self);
    script_feed(&self, 1000);
    script_hang_up(&self);
    settle(self.loop);
    CHECK_OK(tepal_loop_get_stats(self.loop, &before));
    CHECK_EQ(tepal_loop_step(self.loop, TEPAL_MS(20)), 0);
    CHECK_OK(tepal_loop_get_stats(self.loop, &after));
    CHECK_EQ(after.turns - before.turns, 1);
    CHECK_EQ(self.received, 0);
    script_close(&self);
}

/* ---- At random ---- */

static test_prng prng;

static void pause_at_random(script *self) {
    if (test_prng_below(&prng, 3) == 0) {
        script_pause(self);
    }
}

static void check_random_pauses(const tepal_protocol_type *type, script_kind kind, size_t buffer_size) {
    script self = {.protocol.type = type, .on_data = pause_at_random, .buffer_size = buffer_size};
    const uint64_t total = (uint64_t)test_rounds(50 << 20, 3 << 20);

    prng = test_prng_start(buffer_size + kind);
    script_open(&self, kind);
    const int64_t give_up_ns = test_now_ns() + TEPAL_SEC(100);
    while (self.received < total) {
        CHECK_LT(test_now_ns(), give_up_ns);
        if (self.fed < total) {
            const uint64_t left = total - self.fed;
            const uint64_t some = test_prng_below(&prng, 70000) + 1;
            script_feed(&self, (size_t)(some < left ? some : left));
        }
        if (self.wants_no_data && test_prng_below(&prng, 2) == 0) {
            script_resume(&self);
            if (test_prng_below(&prng, 4) == 0) {
                script_pause(&self);
                script_resume(&self);
            }
        } else if (test_prng_below(&prng, 10) == 0) {
            script_pause(&self);
        }
        CHECK_OK(tepal_loop_step(self.loop, 0));
    }
    self.on_data = NULL;
    if (self.wants_no_data) {
        script_resume(&self);
    }
    script_hang_up(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.eofs, 1);
    CHECK_EQ(self.received, total);
    script_close(&self);
}

SCRIPT_TEST(flow_reading, pauses_at_random_lose_and_repeat_nothing) {
    check_random_pauses(&script_type, SCRIPT_TCP, 0);
    check_random_pauses(&script_type, SCRIPT_UNIX, 0);
}

SCRIPT_TEST(flow_reading, pauses_at_random_lose_and_repeat_nothing_in_lent_buffers) {
    check_random_pauses(&script_lending_type, SCRIPT_TCP, 8192);
    check_random_pauses(&script_lending_type, SCRIPT_UNIX, 1500);
}

/* ---- Lent buffers ---- */

SCRIPT_TEST(flow_reading, lent_buffers_of_every_size_get_the_whole_stream) {
    static const size_t sizes[] = {1, 2, 7, 100, 4096, 8192};

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        script self = {.protocol.type = &script_lending_type, .buffer_size = sizes[i]};
        const size_t total = sizes[i] < 10 ? 500 : 200000;

        script_open(&self, SCRIPT_TCP);
        script_feed_all(&self, total);
        script_hang_up(&self);
        RUN_UNTIL(self.loop, self.losts == 1);
        CHECK_EQ(self.received, total);
        CHECK_EQ(self.eofs, 1);
        script_close(&self);
    }
}

SCRIPT_TEST(flow_reading, no_buffer_is_asked_for_while_nothing_waits) {
    script self = {.protocol.type = &script_lending_type, .buffer_size = 4096};

    script_open(&self, SCRIPT_TCP);
    settle(self.loop);
    CHECK_LE(self.asked, 1); /* the first try, before the kernel has told anything */
    const int before = self.asked;
    script_write(&self, 1000);
    script_take_until(&self, 1000);
    CHECK_EQ(self.asked, before);
    script_close(&self);
}

static void decline_sometimes(script *self) {
    self->buffer_size = self->asked % 3 == 0 ? 0 : 3000;
}

SCRIPT_TEST(flow_reading, a_declined_read_goes_to_data_received) {
    script self = {.protocol.type = &script_both_type, .on_data = decline_sometimes, .buffer_size = 3000};

    script_open(&self, SCRIPT_TCP);
    script_feed_all(&self, 1 << 20);
    RUN_UNTIL(self.loop, self.received == 1 << 20);
    script_close(&self);

    script other = {.protocol.type = &script_both_type};
    script_open(&other, SCRIPT_TCP);
    script_feed_all(&other, 5000);
    RUN_UNTIL(other.loop, other.received == 5000);
    CHECK_GT(other.asked, 0);
    script_close(&other);
}

SCRIPT_TEST(flow_reading, a_buffer_lent_by_who_closes_pauses_or_aborts_is_given_back_unused) {
    static void (*const acts[])(script *) = {script_close_now, script_abort_now, script_pause};

    for (int i = 0; i < 3; i++) {
        script self = {.protocol.type = &script_lending_type, .on_asked = acts[i], .buffer_size = 100};

        script_open(&self, SCRIPT_TCP);
        if (!self.wants_no_data) {
            script_feed(&self, 10);
            RUN_UNTIL(self.loop, self.asked == 1);
        }
        settle(self.loop);
        CHECK_EQ(self.asked, 1);
        CHECK_EQ(self.received, 0);
        CHECK_EQ(self.losts, i < 2);
        script_close(&self);
    }
}

static int fail_to_lend(tepal_protocol *protocol, size_t hint, void **buffer, size_t *length) {
    (void)protocol;
    (void)hint;
    (void)buffer;
    (void)length;
    return TEPAL_EMSGSIZE;
}

SCRIPT_TEST(flow_reading, a_code_below_zero_from_get_buffer_aborts_with_it) {
    static tepal_protocol_type type;
    script self = {0};

    type = script_lending_type;
    type.get_buffer = fail_to_lend;
    self.protocol.type = &type;
    script_open(&self, SCRIPT_TCP);
    script_feed(&self, 10);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, TEPAL_EMSGSIZE);
    script_close(&self);
}

static void check_length(script *self) {
    CHECK_LE(self->last_length, 4096);
}

SCRIPT_TEST(flow_reading, reads_are_no_longer_and_no_more_a_turn_than_the_loop_was_told) {
    script self = {.on_data = check_length};

    CHECK_OK(tepal_loop_new(&self.loop, TEPAL_OPTIONS(tepal_loop_options, .driver = test_driver(), .read_bytes = 4096,
                                                      .read_budget = 2, .debug = !script_is_plain,
                                                      .slow_callback_ns = -1, .realloc = test_counting_alloc)));
    script_open(&self, SCRIPT_TCP);
    script_feed(&self, 50000);
    test_poll(self.fd, POLLIN);
    while (self.received < 50000) {
        const uint64_t before = self.received;
        CHECK_OK(tepal_loop_step(self.loop, -1));
        if (strcmp(test_driver(), "uring") != 0) { /* the kernel has received already, with the buffers it was lent */
            CHECK_LE(self.received - before, 2 * 4096);
        }
    }
    script_close(&self);
}
