/* Half-close: each side ends its own writing, in either order. */
#include "conformance/script.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

static void check_alive(script *self, size_t length) {
    const uint64_t taken = self->taken, received = self->received;

    script_write(self, length);
    script_take_until(self, taken + length);
    script_feed_all(self, length);
    RUN_UNTIL(self->loop, self->received == received + length);
}

static void feed_and_shut(script *self, size_t length) {
    script_feed_all(self, length);
    CHECK_EQ(shutdown(self->peer, SHUT_WR), 0);
}

SCRIPT_TEST(half_close, write_eof_ends_our_side_after_what_was_written_and_reading_goes_on) {
    for (script_kind kind = SCRIPT_UNIX; kind <= SCRIPT_TCP; kind++) {
        script self = {.answer_eof = TEPAL_KEEP_OPEN};

        script_open(&self, kind);
        check_alive(&self, 1000);
        CHECK(tepal_transport_can_write_eof(self.transport));
        script_write(&self, 300000);
        CHECK_OK(CALL(&self, tepal_transport_write_eof(self.transport)));
        CHECK_OK(CALL(&self, tepal_transport_write_eof(self.transport)));
        script_take_end(&self);
        CHECK_EQ(self.taken, 301000);
        script_feed_all(&self, 300000);
        RUN_UNTIL(self.loop, self.received == 301000);
        CHECK(tepal_transport_is_reading(self.transport));
        CHECK(!tepal_transport_is_closing(self.transport));
        script_close(&self);
    }
}

SCRIPT_TEST(half_close, after_write_eof_the_peers_end_closes_by_itself) {
    script self = {.answer_eof = TEPAL_KEEP_OPEN};

    script_open(&self, SCRIPT_TCP);
    script_write(&self, 1000);
    CHECK_OK(CALL(&self, tepal_transport_write_eof(self.transport)));
    script_take_end(&self);
    feed_and_shut(&self, 5000);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.received, 5000);
    CHECK_EQ(self.eofs, 1);
    CHECK_EQ(self.lost_code, 0);
    script_close(&self);
}

SCRIPT_TEST(half_close, after_the_peers_end_write_eof_closes_by_itself) {
    script self = {.answer_eof = TEPAL_KEEP_OPEN};

    script_open(&self, SCRIPT_TCP);
    feed_and_shut(&self, 5000);
    RUN_UNTIL(self.loop, self.eofs == 1);
    settle(self.loop);
    CHECK(!tepal_transport_is_closing(self.transport));
    CHECK(!tepal_transport_is_reading(self.transport));
    script_write(&self, 300000);
    CHECK_OK(CALL(&self, tepal_transport_write_eof(self.transport)));
    CHECK_EQ(tepal_transport_write(self.transport, "x", 1), TEPAL_ECLOSED);
    script_take_end(&self);
    CHECK_EQ(self.taken, 300000);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, 0);
    script_close(&self);
}

SCRIPT_TEST(half_close, an_end_that_waits_behind_output_comes_after_all_of_it) {
    script self = {.answer_eof = TEPAL_KEEP_OPEN};

    script_open(&self, SCRIPT_UNIX);
    script_narrow(&self);
    script_write(&self, 500000);
    CHECK_GT(tepal_transport_write_buffer_size(self.transport), 0);
    CHECK_OK(CALL(&self, tepal_transport_write_eof(self.transport)));
    CHECK_EQ(tepal_transport_write(self.transport, "x", 1), TEPAL_EPIPE);
    feed_and_shut(&self, 5000);
    RUN_UNTIL(self.loop, self.eofs == 1);
    script_take_end(&self);
    CHECK_EQ(self.taken, 500000);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, 0);
    script_close(&self);
}

SCRIPT_TEST(half_close, an_answer_after_the_peers_end_arrives_whole) {
    for (script_kind kind = SCRIPT_UNIX; kind <= SCRIPT_TCP; kind++) {
        script self = {.answer_eof = TEPAL_KEEP_OPEN};

        script_open(&self, kind);
        feed_and_shut(&self, 100);
        RUN_UNTIL(self.loop, self.eofs == 1);
        script_write(&self, 1 << 20);
        script_close_now(&self);
        script_take_end(&self);
        CHECK_EQ(self.taken, 1 << 20);
        script_close(&self);
    }
}

SCRIPT_TEST(half_close, eof_received_that_returns_0_closes_after_what_was_written) {
    script self = {0};

    script_open(&self, SCRIPT_UNIX);
    script_narrow(&self);
    script_write(&self, 200000);
    feed_and_shut(&self, 0);
    RUN_UNTIL(self.loop, self.eofs == 1);
    CHECK(tepal_transport_is_closing(self.transport));
    CHECK(!tepal_transport_can_write_eof(self.transport));
    script_take_end(&self);
    CHECK_EQ(self.taken, 200000);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, 0);
    script_close(&self);
}

SCRIPT_TEST(half_close, eof_received_that_returns_an_error_aborts) {
    script self = {.answer_eof = TEPAL_EMSGSIZE};

    script_open(&self, SCRIPT_TCP);
    feed_and_shut(&self, 10);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "MDEL");
    CHECK_EQ(self.lost_code, TEPAL_EMSGSIZE);
    script_take_error(&self, ECONNRESET);
    script_close(&self);
}

SCRIPT_TEST(half_close, a_protocol_without_eof_received_closes) {
    static tepal_protocol_type type;
    script self = {0};

    type = script_type;
    type.eof_received = NULL;
    self.protocol.type = &type;
    script_open(&self, SCRIPT_TCP);
    feed_and_shut(&self, 10);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "MDL");
    CHECK_EQ(self.lost_code, 0);
    script_take_end(&self);
    script_close(&self);
}

static void write_eof_now(script *self) {
    CHECK_OK(CALL(self, tepal_transport_write_eof(self->transport)));
}

SCRIPT_TEST(half_close, write_eof_inside_eof_received_closes_once) {
    script self = {.on_eof = write_eof_now, .answer_eof = TEPAL_KEEP_OPEN};

    script_open(&self, SCRIPT_TCP);
    feed_and_shut(&self, 10);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "MDEL");
    CHECK_EQ(self.lost_code, 0);
    script_close(&self);
}

SCRIPT_TEST(half_close, write_eof_in_the_upcall_of_the_last_data_keeps_the_order) {
    script self = {.on_data = write_eof_now, .answer_eof = TEPAL_KEEP_OPEN};

    script_open(&self, SCRIPT_TCP);
    feed_and_shut(&self, 10);
    test_poll(self.fd, POLLRDHUP);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "MDEL");
    script_close(&self);
}

SCRIPT_TEST(half_close, an_end_whose_output_cannot_be_sent_is_told_by_connection_lost) {
    script self = {0};

    NEEDS_SENDS_AT_ONCE();
    script_open(&self, SCRIPT_TCP);
    script_write(&self, 100);
    sends_fail_after(0, ECONNRESET);
    CHECK_OK(CALL(&self, tepal_transport_write_eof(self.transport)));
    sends_fail_after(0, 0);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, TEPAL_SYSTEM(ECONNRESET));
    script_close(&self);
}

SCRIPT_TEST(half_close, a_peer_that_resets_after_our_end_is_an_error) {
    script self = {.answer_eof = TEPAL_KEEP_OPEN};

    script_open(&self, SCRIPT_TCP);
    CHECK_OK(CALL(&self, tepal_transport_write_eof(self.transport)));
    script_take_end(&self);
    script_reset(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, TEPAL_SYSTEM(ECONNRESET));
    script_close(&self);
}

SCRIPT_TEST(half_close, can_write_eof_answers_by_the_state_now) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    CHECK(tepal_transport_can_write_eof(self.transport));
    script_close_now(&self);
    CHECK(!tepal_transport_can_write_eof(self.transport));
    CHECK_EQ(tepal_transport_write_eof(self.transport), TEPAL_ECLOSED);
    script_close(&self);
}

SCRIPT_TEST(half_close, write_eof_behind_a_write_that_fails_is_no_error_of_its_own) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_write(&self, 10);
    sends_fail_after(0, EPERM);
    CHECK_EQ(CALL(&self, tepal_transport_write_eof(self.transport)), 0);
    RUN_UNTIL(self.loop, self.losts == 1);
    sends_fail_after(0, 0);
    CHECK_EQ(self.lost_code, TEPAL_SYSTEM(EPERM));
    script_close(&self);
}
