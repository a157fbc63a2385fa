/*
 * The life of a stream's transport: the order of the upcalls, what outlives what, and what can be asked of it.
 */
#include "conformance/script.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

SCRIPT_TEST(stream, connection_made_comes_first_and_from_the_ready_queue) {
    script self = {0};

    script_start(&self, SCRIPT_TCP);
    CHECK_EQ(self.made, 0);
    CHECK_OK(tepal_loop_step(self.loop, 0));
    CHECK_STR(self.log, "M");
    script_close(&self);
    CHECK_STR(self.log, "ML");
}

SCRIPT_TEST(stream, data_that_waits_already_comes_no_earlier_than_the_turn_after_connection_made) {
    script self = {0};

    script_start(&self, SCRIPT_TCP);
    script_feed(&self, 100);
    test_poll(self.fd, POLLIN);
    CHECK_OK(tepal_loop_step(self.loop, 0));
    CHECK_STR(self.log, "M");
    RUN_UNTIL(self.loop, self.received == 100);
    CHECK_STR(self.log, "MD");
    script_close(&self);
}

static void feed_from_upcall(script *self) {
    script_feed(self, 10);
    test_poll(self->fd, POLLIN);
}

SCRIPT_TEST(stream, data_that_comes_during_connection_made_waits_too) {
    script self = {.on_made = feed_from_upcall};

    script_start(&self, SCRIPT_UNIX);
    CHECK_OK(tepal_loop_step(self.loop, 0));
    CHECK_STR(self.log, "M");
    RUN_UNTIL(self.loop, self.received == 10);
    script_close(&self);
}

static void note_call(void *argument) {
    script_note(argument, 'c');
}

static void call_soon_then_close(script *self) {
    CHECK_OK(tepal_loop_call_soon(self->loop, note_call, self, NULL));
    script_close_now(self);
    CHECK_OK(tepal_loop_call_soon(self->loop, note_call, self, NULL));
}

SCRIPT_TEST(stream, close_with_nothing_buffered_queues_connection_lost_in_the_order_of_call_soon) {
    script self = {.on_data = call_soon_then_close};

    script_open(&self, SCRIPT_TCP);
    script_feed(&self, 1);
    RUN_UNTIL(self.loop, self.losts == 1);
    settle(self.loop);
    CHECK_STR(self.log, "MDcLc");
    CHECK_EQ(self.lost_code, 0);
    script_close(&self);
}

SCRIPT_TEST(stream, a_close_in_connection_made_still_loses_the_connection_later) {
    script self = {.on_made = script_close_now};

    script_start(&self, SCRIPT_TCP);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "ML");
    script_take_end(&self);
    script_close(&self);
}

SCRIPT_TEST(stream, a_close_before_connection_made_still_makes_the_connection_first) {
    script self = {0};

    script_start(&self, SCRIPT_TCP);
    script_close_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "ML");
    CHECK_EQ(self.lost_code, 0);
    script_close(&self);
}

SCRIPT_TEST(stream, an_abort_before_connection_made_still_makes_the_connection_first) {
    script self = {0};

    script_start(&self, SCRIPT_TCP);
    script_abort_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "ML");
    CHECK_EQ(self.lost_code, TEPAL_ETIMEDOUT);
    script_close(&self);
}

SCRIPT_TEST(stream, a_loop_closed_before_connection_made_makes_and_loses_the_connection) {
    script self = {0};

    script_start(&self, SCRIPT_UNIX);
    script_close(&self);
    CHECK_STR(self.log, "ML");
    CHECK_EQ(self.lost_code, TEPAL_ECLOSED);
}

SCRIPT_TEST(stream, closing_the_loop_loses_every_connection_with_ECLOSED) {
    script first = {0}, second = {0};

    script_open(&first, SCRIPT_TCP);
    second.loop = tepal_loop_ref(first.loop);
    script_open(&second, SCRIPT_UNIX);
    script_close(&first);
    CHECK_EQ(first.lost_code, TEPAL_ECLOSED);
    script_close(&second);
    CHECK_EQ(second.lost_code, TEPAL_ECLOSED);
}

SCRIPT_TEST(stream, a_code_below_zero_from_connection_made_aborts_with_it) {
    script self = {.answer_made = TEPAL_EMSGSIZE};

    script_start(&self, SCRIPT_TCP);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "ML");
    CHECK_EQ(self.lost_code, TEPAL_EMSGSIZE);
    script_take_error(&self, ECONNRESET);
    script_close(&self);
}

SCRIPT_TEST(stream, a_code_below_zero_from_data_received_aborts_with_it) {
    script self = {.answer_data = TEPAL_ERROR(TEPAL_DOMAIN_USER, 7)};

    script_open(&self, SCRIPT_TCP);
    script_feed(&self, 500000); /* more than one read: the rest must not come */
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "MDL");
    CHECK_EQ(self.lost_code, TEPAL_ERROR(TEPAL_DOMAIN_USER, 7));
    script_close(&self);
}

SCRIPT_TEST(stream, a_code_below_zero_from_buffer_updated_and_get_buffer_aborts_too) {
    script self = {.protocol.type = &script_lending_type, .answer_data = TEPAL_EMSGSIZE, .buffer_size = 10};

    script_open(&self, SCRIPT_TCP);
    script_feed(&self, 100);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "MDL");
    CHECK_EQ(self.lost_code, TEPAL_EMSGSIZE);
    script_close(&self);
}

static void (*const no_upcalls)(script *self) = NULL;

SCRIPT_TEST(stream, a_protocol_without_functions_is_served_all_the_same) {
    static const tepal_protocol_type empty = {.size = sizeof empty};
    tepal_protocol protocol = {.type = &empty};
    tepal_loop *loop = script_loop();
    tepal_transport *transport;
    int fds[2];
    char byte;

    CHECK(no_upcalls == NULL);
    test_tcp_pair(fds);
    CHECK_OK(tepal_loop_adopt(loop, fds[0], &protocol, NULL, &transport));
    tepal_transport_ref(transport);
    test_write_all(fds[1], "hello", 5);
    shutdown(fds[1], SHUT_WR);
    RUN_UNTIL(loop, tepal_transport_is_closing(transport));
    settle(loop);
    CHECK_EQ(tepal_transport_fd(transport), TEPAL_ECLOSED);
    CHECK_EQ(test_poll(fds[1], POLLIN) & POLLIN, POLLIN);
    CHECK_EQ(read(fds[1], &byte, 1), 0);
    tepal_transport_unref(transport);
    close(fds[1]);
    plumbing_close(loop);
}

static void ask_everything(script *self) {
    tepal_address address;

    CHECK_GE(tepal_transport_fd(self->transport), 0);
    CHECK_EQ(tepal_transport_peer(self->transport, &address), 0);
    CHECK_OK(tepal_transport_local(self->transport, &address));
    CHECK(tepal_transport_is_closing(self->transport));
    CHECK(!tepal_transport_is_reading(self->transport));
    CHECK(!tepal_transport_can_write_eof(self->transport));
    CHECK_EQ(tepal_transport_write_buffer_size(self->transport), 0);
    CHECK(tepal_transport_protocol(self->transport) == &self->protocol);
}

static void check_nothing_works(script *self) {
    tepal_transport *transport = self->transport;
    const struct iovec piece = {.iov_base = self, .iov_len = 1};
    tepal_future *future;

    CHECK_EQ(tepal_transport_write(transport, "x", 1), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_writev(transport, &piece, 1), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_write_owned(transport, &piece, 1, NULL, NULL), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_flush(transport), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_drain(transport, &future), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_write_eof(transport), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_pause_reading(transport), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_resume_reading(transport), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_set_write_limits(transport, 10, 5, 20), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_set_protocol(transport, &self->protocol, NULL), TEPAL_ECLOSED);
    tepal_transport_close(transport);
    tepal_transport_abort(transport, TEPAL_ETIMEDOUT);
}

SCRIPT_TEST(stream, the_descriptor_and_the_addresses_can_be_asked_for_in_connection_lost) {
    script self = {.on_lost = ask_everything};

    script_open(&self, SCRIPT_TCP);
    script_close_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    script_close(&self);
}

SCRIPT_TEST(stream, nothing_can_be_done_to_a_transport_in_connection_lost) {
    script self = {.on_lost = check_nothing_works};

    script_open(&self, SCRIPT_TCP);
    script_close_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_EQ(self.lost_code, 0);
    script_close(&self);
}

SCRIPT_TEST(stream, a_reference_outlives_connection_lost_and_the_loop) {
    script self = {0};
    tepal_address address;

    script_open(&self, SCRIPT_TCP);
    tepal_transport *transport = tepal_transport_ref(self.transport);
    tepal_loop *loop = self.loop;
    script_close_now(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    check_nothing_works(&self);
    CHECK(tepal_transport_protocol(transport) == NULL);
    CHECK_EQ(tepal_transport_fd(transport), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_peer(transport, &address), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_set_no_delay(transport, true), TEPAL_ECLOSED);
    script_close(&self);

    CHECK(tepal_transport_loop(transport) == loop);
    CHECK_EQ(tepal_transport_write(transport, "x", 1), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_local(transport, &address), TEPAL_ECLOSED);
    tepal_transport_close(transport);
    tepal_transport_unref(transport);
    tepal_transport_unref(NULL);
}

SCRIPT_TEST(stream, every_kind_of_socket_carries_two_megabytes_both_ways) {
    for (script_kind kind = SCRIPT_UNIX; kind <= SCRIPT_TCP6; kind++) {
        script self = {0};

        script_open(&self, kind);
        script_write(&self, 2 << 20);
        script_take_until(&self, 2 << 20);
        script_feed_all(&self, 2 << 20);
        RUN_UNTIL(self.loop, self.received == 2 << 20);
        script_close(&self);
    }
}

SCRIPT_TEST(stream, TCP_NODELAY_is_on_unless_nagle_is_asked_for) {
    const tepal_transport_options nagle = {.size = sizeof nagle, .nagle = true, .keep_alive = true};
    script plain = {0}, other = {.options = &nagle};
    int value;
    socklen_t length = sizeof value;

    script_open(&plain, SCRIPT_TCP);
    CHECK_EQ(getsockopt(plain.fd, IPPROTO_TCP, TCP_NODELAY, &value, &length), 0);
    CHECK_NE(value, 0);
    CHECK_OK(tepal_transport_set_no_delay(plain.transport, false));
    CHECK_EQ(getsockopt(plain.fd, IPPROTO_TCP, TCP_NODELAY, &value, &length), 0);
    CHECK_EQ(value, 0);
    CHECK_EQ(getsockopt(plain.fd, SOL_SOCKET, SO_KEEPALIVE, &value, &length), 0);
    CHECK_EQ(value, 0);
    CHECK_OK(tepal_transport_set_keep_alive(plain.transport, true, 30, 5, 4));
    CHECK_EQ(getsockopt(plain.fd, IPPROTO_TCP, TCP_KEEPIDLE, &value, &length), 0);
    CHECK_EQ(value, 30);
    CHECK_EQ(getsockopt(plain.fd, IPPROTO_TCP, TCP_KEEPINTVL, &value, &length), 0);
    CHECK_EQ(value, 5);
    CHECK_EQ(getsockopt(plain.fd, IPPROTO_TCP, TCP_KEEPCNT, &value, &length), 0);
    CHECK_EQ(value, 4);
    CHECK_EQ(getsockopt(plain.fd, SOL_SOCKET, SO_KEEPALIVE, &value, &length), 0);
    CHECK_NE(value, 0);
    CHECK_OK(tepal_transport_set_keep_alive(plain.transport, false, 0, 0, 0));
    CHECK_EQ(getsockopt(plain.fd, SOL_SOCKET, SO_KEEPALIVE, &value, &length), 0);
    CHECK_EQ(value, 0);
    CHECK_EQ(tepal_transport_set_keep_alive(plain.transport, true, 1u << 31, 0, 0), TEPAL_EINVAL);
    CHECK_EQ(tepal_transport_set_keep_alive(plain.transport, true, 0, 1u << 31, 0), TEPAL_EINVAL);
    CHECK_EQ(tepal_transport_set_keep_alive(plain.transport, true, 0, 0, 1u << 31), TEPAL_EINVAL);
    CHECK_OK(tepal_transport_set_keep_alive(plain.transport, true, 0, 0, 0)); /* what the system has */
    script_close(&plain);

    script_open(&other, SCRIPT_TCP);
    CHECK_EQ(getsockopt(other.fd, IPPROTO_TCP, TCP_NODELAY, &value, &length), 0);
    CHECK_EQ(value, 0);
    CHECK_EQ(getsockopt(other.fd, SOL_SOCKET, SO_KEEPALIVE, &value, &length), 0);
    CHECK_NE(value, 0);
    script_close(&other);
}

SCRIPT_TEST(stream, a_unix_socket_has_no_TCP_options_and_an_unnamed_address) {
    script self = {0};
    tepal_address address;
    char text[TEPAL_ADDRESS_TEXT];

    script_open(&self, SCRIPT_UNIX);
    CHECK_EQ(tepal_transport_set_no_delay(self.transport, true), TEPAL_ENOTSUP);
    CHECK_EQ(tepal_transport_set_keep_alive(self.transport, true, 0, 0, 0), TEPAL_ENOTSUP);
    CHECK_EQ(tepal_transport_peer(self.transport, &address), 0);
    CHECK_OK(tepal_address_format(&address, text, sizeof text));
    CHECK_STR(text, "unix:");
    CHECK_EQ(tepal_transport_fd(self.transport), self.fd);
    script_close(&self);
}

SCRIPT_TEST(stream, the_addresses_are_those_of_the_socket) {
    script self = {0};
    tepal_address local, peer;

    script_open(&self, SCRIPT_TCP6);
    CHECK_OK(tepal_transport_local(self.transport, &local));
    CHECK_OK(tepal_transport_peer(self.transport, &peer));
    struct sockaddr_in6 theirs;
    socklen_t length = sizeof theirs;
    CHECK_EQ(getsockname(self.peer, (struct sockaddr *)&theirs, &length), 0);
    CHECK_EQ(tepal_address_port(&peer), ntohs(theirs.sin6_port));
    CHECK_EQ(getpeername(self.peer, (struct sockaddr *)&theirs, &length), 0);
    CHECK_EQ(tepal_address_port(&local), ntohs(theirs.sin6_port));
    script_close(&self);
}

SCRIPT_TEST(stream, a_reset_by_the_peer_is_the_error_of_connection_lost) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_feed(&self, 1000);
    RUN_UNTIL(self.loop, self.received == 1000);
    script_reset(&self);
    RUN_UNTIL(self.loop, self.losts == 1);
    CHECK_STR(self.log, "MDL");
    CHECK_EQ(self.lost_code, TEPAL_SYSTEM(ECONNRESET));
    script_close(&self);
}

SCRIPT_TEST(stream, an_end_at_every_offset_comes_after_all_that_was_sent) {
    for (size_t length = 0; length < 300000; length = length * 2 + 1) {
        script self = {0};

        script_open(&self, SCRIPT_TCP);
        script_feed_all(&self, length);
        script_hang_up(&self);
        RUN_UNTIL(self.loop, self.losts == 1);
        CHECK_EQ(self.received, length);
        CHECK_EQ(self.eofs, 1);
        CHECK_EQ(self.lost_code, 0);
        script_close(&self);
    }
}

SCRIPT_TEST(stream, a_reset_at_every_offset_leaves_a_prefix_and_one_connection_lost) {
    for (size_t length = 0; length < 300000; length = length * 2 + 1) {
        script self = {0};

        script_open(&self, SCRIPT_TCP);
        script_feed_all(&self, length);
        script_reset(&self);
        RUN_UNTIL(self.loop, self.losts == 1);
        CHECK_LE(self.received, length);
        CHECK_EQ(self.eofs, 0);
        CHECK_EQ(self.lost_code, TEPAL_SYSTEM(ECONNRESET));
        script_close(&self);
    }
}
