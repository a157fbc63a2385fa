/* The ends of a transport: close and abort, against peers that read, read slowly, never read or reset; and lingering. */
#include "conformance/script.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

SCRIPT_TEST(closing, close_sends_what_is_buffered_to_a_slow_peer_first) {
    for (script_kind kind = SCRIPT_UNIX; kind <= SCRIPT_TCP; kind++) {
        script self = {0};

        script_open(&self, kind);
        script_narrow(&self);
        script_write(&self, 1 << 20);
        script_close_now(&self);
        CHECK(tepal_transport_is_closing(self.transport));
        script_close_now(&self);
        settle(self.loop);
        CHECK_EQ(self.losts, 0);
        script_take_end(&self);
        CHECK_EQ(self.taken, 1 << 20);
        RUN_UNTIL(self.loop, self.losts == 1);
        CHECK_EQ(self.lost_code, 0);
        script_close(&self);
    }
}

SCRIPT_TEST(closing, partial_sends_lose_nothing_at_close) {
    static const size_t limits[] = {1, 2, 100, 16384};

    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        for (script_kind kind = SCRIPT_UNIX; kind <= SCRIPT_TCP; kind++) {
            script self = {0};

            script_open(&self, kind);
            sends_limit(limits[i]);
            script_write(&self, limits[i] < 10 ? 2000 : 300000);
            script_write(&self, 100);
            script_close_now(&self);
            script_take_end(&self);
            CHECK_EQ(self.taken, self.sent);
            sends_limit(0);
            script_close(&self);
        }
    }
}

SCRIPT_TEST(closing, no_data_comes_after_close) {
    script self = {0};

    script_open(&self, SCRIPT_UNIX);
    script_narrow(&self);
    script_write(&self, 300000);
    script_feed(&self, 1000);
    script_close_now(&self);
    script_take_end(&self);
    settle(self.loop);
    CHECK_EQ(self.received, 0);
    CHECK_EQ(self.eofs, 0);
    script_close(&self);
}

SCRIPT_TEST(closing, a_close_in_data_received_is_the_last_data) {
    script self = {.on_data = script_close_now};

    script_open(&self, SCRIPT_TCP);
    script_feed(&self, 300000);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "MDL");
    script_close(&self);
}

static void leave_it(tepal_producer *producer) {
    (void)producer;
}

typedef struct stoppable {
    tepal_producer producer; /* first */
    int stops;
} stoppable;

static void note_stop(tepal_producer *producer) {
    ((stoppable *)producer)->stops++;
}

SCRIPT_TEST(closing, a_close_stops_the_producer_and_still_sends_everything) {
    script self = {0};
    stoppable source = {
        .producer = {.size = sizeof source.producer, .resume = leave_it, .pause = leave_it, .stop = note_stop}};

    script_open(&self, SCRIPT_TCP);
    script_narrow(&self);
    CHECK_OK(tepal_transport_register_producer(self.transport, &source.producer, true));
    script_write(&self, 1 << 20);
    script_close_now(&self);
    settle(self.loop);
    CHECK_EQ(source.stops, 1);
    CHECK_EQ(self.losts, 0);
    script_take_end(&self);
    CHECK_EQ(self.taken, self.sent);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(source.stops, 1);
    script_close(&self);
}

SCRIPT_TEST(closing, a_reset_ends_a_close_that_is_still_sending) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_narrow(&self);
    script_write(&self, 1 << 20);
    script_close_now(&self);
    settle(self.loop);
    CHECK_EQ(self.losts, 0);
    script_reset(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, TEPAL_SYSTEM(ECONNRESET));
    script_close(&self);
}

SCRIPT_TEST(closing, abort_ends_a_close_that_is_still_sending) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_narrow(&self);
    script_write(&self, 1 << 20);
    script_close_now(&self);
    settle(self.loop);
    CHECK_EQ(self.losts, 0);
    script_abort_now(&self);
    CALL_VOID(&self, tepal_transport_abort(self.transport, TEPAL_EMSGSIZE));
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, TEPAL_ETIMEDOUT);
    script_take_error(&self, ECONNRESET);
    script_close(&self);
}

SCRIPT_TEST(closing, the_loop_ends_a_close_that_is_still_sending) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_narrow(&self);
    script_write(&self, 1 << 20);
    script_close_now(&self);
    settle(self.loop);
    CHECK_OK(tepal_loop_close(self.loop));
    CHECK_EQ(self.losts, 1);
    CHECK_EQ(self.lost_code, TEPAL_ECLOSED);
    script_close(&self);
}

SCRIPT_TEST(closing, abort_resets_and_discards) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_write(&self, 100);
    script_abort_now(&self);
    CHECK_EQ(tepal_transport_write_buffer_size(self.transport), 0);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, TEPAL_ETIMEDOUT);
    script_take_error(&self, ECONNRESET);
    CHECK_EQ(self.taken, 0);
    script_close(&self);
}

SCRIPT_TEST(closing, an_end_for_want_of_memory_is_no_clean_end_for_the_peer) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_narrow(&self);
    test_alloc_fail_at(1, true);
    script_write(&self, 200000); /* more than the kernel takes: the rest has to be kept */
    RUN_UNTIL(self.loop, self.losts == 1);
    test_alloc_fail_at(0, false);
    CHECK_EQ(self.lost_code, TEPAL_ENOMEM);
    script_take_error(&self, ECONNRESET);
    CHECK_LT(self.taken, self.sent);
    script_close(&self);
}

SCRIPT_TEST(closing, abort_without_a_code_resets_too_and_tells_of_no_error) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_write(&self, 100);
    script_take_until(&self, 100);
    script_pause(&self);
    script_feed(&self, 1000); /* unread: no reason to linger */
    test_poll(self.fd, POLLIN);
    CALL_VOID(&self, tepal_transport_abort(self.transport, 0));
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, 0);
    script_take_error(&self, ECONNRESET);
    script_close(&self);
}

SCRIPT_TEST(closing, abort_without_reset_ends_in_the_ordinary_way) {
    const tepal_transport_options options = {.size = sizeof options, .abort_without_reset = true};
    script self = {.options = &options};

    script_open(&self, SCRIPT_TCP);
    script_abort_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, TEPAL_ETIMEDOUT);
    script_take_end(&self);
    script_close(&self);
}

/* ---- Lingering ---- */

static void open_with_unread(script *self, size_t reply) {
    script_open(self, SCRIPT_TCP);
    script_pause(self);
    script_feed(self, 50000);
    test_poll(self->fd, POLLIN);
    script_write(self, reply);
}

SCRIPT_TEST(closing, a_large_reply_arrives_whole_though_input_is_unread) {
    script self = {0};

    open_with_unread(&self, 1 << 20);
    script_close_now(&self);
    do {
        settle(self.loop); /* so that the close never finds the peer reading at the same time */
    } while (script_take(&self) == 0);
    CHECK_EQ(script_take(&self), 1);
    CHECK_EQ(self.taken, 1 << 20);
    CHECK_EQ(self.received, 0);
    script_hang_up(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, 0);
    settle(self.loop);
    script_close(&self);
}

SCRIPT_TEST(closing, a_peer_that_goes_on_sending_while_we_linger_is_not_reset) {
    script self = {0};

    open_with_unread(&self, 1000);
    script_close_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    for (int i = 0; i < 20; i++) {
        script_feed(&self, 10000);
        CHECK_OK(tepal_loop_step(self.loop, 0));
    }
    script_take_end(&self);
    CHECK_EQ(self.taken, 1000);
    script_close(&self);
}

SCRIPT_TEST(closing, lingering_ends_after_its_time) {
    const tepal_transport_options options = {.size = sizeof options, .linger_ns = TEPAL_MS(20)};
    script self = {.options = &options};
    const int64_t began_ns = test_now_ns();

    open_with_unread(&self, 1000);
    script_close_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    script_take_end(&self);
    /* The peer stays: only the time can end it, and then it is refused. */
    while (send(self.peer, "x", 1, MSG_NOSIGNAL) == 1) {
        CHECK_OK(tepal_loop_step(self.loop, TEPAL_MS(1)));
        CHECK_LT(test_now_ns() - began_ns, TEPAL_SEC(10));
    }
    CHECK_GE(test_now_ns() - began_ns, TEPAL_MS(20));
    script_close(&self);
}

SCRIPT_TEST(closing, a_negative_linger_time_is_none) {
    const tepal_transport_options options = {.size = sizeof options, .linger_ns = -1};
    script self = {.options = &options};

    open_with_unread(&self, 1);
    RUN_UNTIL(self.loop, tepal_transport_write_buffer_size(self.transport) == 0);
    script_close_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    settle(self.loop);
    char byte;
    CHECK_GT(test_poll(self.peer, POLLHUP) & (POLLHUP | POLLERR), 0);
    while (read(self.peer, &byte, 1) > 0) {
    }
    CHECK_EQ(errno, ECONNRESET);
    script_close(&self);
}

SCRIPT_TEST(closing, the_longest_linger_time_is_cut_by_the_loop) {
    const tepal_transport_options options = {.size = sizeof options, .linger_ns = INT64_MAX};
    script self = {.options = &options};

    open_with_unread(&self, 1000);
    script_close_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    settle(self.loop);
    CHECK_EQ(self.lost_code, 0);
    script_close(&self);
}

SCRIPT_TEST(closing, without_output_there_is_nothing_to_linger_for) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_pause(&self);
    script_feed(&self, 1000);
    test_poll(self.fd, POLLIN);
    script_close_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    script_take_error(&self, ECONNRESET);
    script_close(&self);
}

SCRIPT_TEST(closing, without_unread_input_there_is_nothing_to_linger_for) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_write(&self, 1000);
    script_take_all(&self);
    script_close_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    settle(self.loop);
    CHECK_EQ(fcntl(self.fd, F_GETFD), -1); /* though the peer has not closed */
    script_close(&self);
}

SCRIPT_TEST(closing, a_reset_ends_lingering) {
    script self = {0};

    open_with_unread(&self, 1000);
    script_close_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    script_reset(&self);
    settle(self.loop);
    script_close(&self);
    CHECK_EQ(self.lost_code, 0);
}
