/*
 * What debug mode checks about streams is really looked at. Nothing that the public headers allow can break an
 * invariant, so the tests break it from inside: as a faulty driver would, or by a wrong note in the transport.
 */
#include "conformance/plumbing.h"
#include "net/stream.h"

#include <stdio.h>
#include <unistd.h>

typedef struct witness {
    tepal_protocol protocol; /* first */
    tepal_loop *loop;
    tepal_transport *transport; /* a reference */
    int peer;
    int reports;
    char said[256]; /* the last one */
} witness;

static void note_report(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    witness *self = argument;

    (void)loop;
    (void)what;
    CHECK_EQ(error->code, TEPAL_EINVARIANT);
    self->reports++;
    snprintf(self->said, sizeof self->said, "%s", error->text);
}

static const tepal_protocol_type quiet_type = {.size = sizeof quiet_type};

static void open_witness(witness *self, const tepal_protocol_type *type) {
    int fds[2];

    *self = (witness){.protocol.type = type, .loop = plumbing_loop()};
    tepal_loop_set_exception_handler(self->loop, note_report, self);
    test_socketpair(fds);
    self->peer = fds[1];
    CHECK_OK(tepal_loop_adopt(self->loop, fds[0], &self->protocol, NULL, &self->transport));
    tepal_transport_ref(self->transport);
    settle(self->loop);
    CHECK_EQ(self->reports, 0);
}

static void close_witness(witness *self, int reports, const char *name) {
    CHECK_EQ(self->reports, reports);
    CHECK(strstr(self->said, name) != NULL);
    tepal_loop_set_exception_handler(self->loop, NULL, NULL);
    tepal_transport_unref(self->transport);
    plumbing_close(self->loop);
    close(self->peer);
}

TEST_DRIVERS(invariants, data_that_a_driver_delivers_while_reading_is_paused_is_reported) {
    witness self;
    const uint8_t byte = 0;

    open_witness(&self, &quiet_type);
    CHECK_OK(tepal_transport_pause_reading(self.transport));
    CHECK_EQ(self.transport->object.up->data(&self.transport->object, &byte, 1), 0);
    close_witness(&self, 1, "inbound");
}

static void do_nothing(void *argument, int status) {
    (void)argument;
    (void)status;
}

TEST_DRIVERS(invariants, a_byte_too_many_in_the_account_is_reported_by_the_next_write_of_each_kind) {
    witness self;
    const struct iovec piece = {.iov_base = "x", .iov_len = 1};

    open_witness(&self, &quiet_type);
    self.transport->extras->taken++;
    CHECK_OK(tepal_transport_write(self.transport, "x", 1));
    CHECK_OK(tepal_transport_flush(self.transport));
    CHECK_EQ(self.reports, 1);
    settle(self.loop);
    const int before = self.reports; /* more than 1 if the driver has told of it later */
    CHECK_OK(tepal_transport_write_owned(self.transport, &piece, 1, do_nothing, NULL));
    CHECK_EQ(self.reports, before + 1);
    settle(self.loop);
    self.transport->extras->taken--;
    close_witness(&self, self.reports, "outbound");
}

/* As if it had not been resumed, though nothing waits. */
static void pause_again(tepal_protocol *protocol) {
    ((witness *)protocol)->transport->flags |= TPI_PAUSED_WRITING;
}

TEST_DRIVERS(invariants, a_writer_left_paused_at_the_low_mark_is_reported) {
    static const tepal_protocol_type type = {.size = sizeof type, .resume_writing = pause_again};
    witness self;

    open_witness(&self, &type);
    self.transport->flags |= TPI_PAUSED_WRITING;
    tpi_flow_fallen(self.transport);
    self.transport->flags &= ~(uint32_t)TPI_PAUSED_WRITING;
    close_witness(&self, 1, "back-pressure");
}

static void end_timer(tepal_work *work, int status) {
    (void)work;
    (void)status;
}

TEST_DRIVERS(invariants, a_timer_that_runs_a_turn_too_late_is_reported) {
    witness self;
    tepal_timer timer = {.work.run = end_timer};

    open_witness(&self, &quiet_type);
    CHECK_OK(tepal_timer_start(self.loop, &timer, tepal_loop_time(self.loop)));
    CHECK_OK(tepal_loop_step(self.loop, 0));
    CHECK_EQ(self.reports, 0);
    CHECK_OK(tepal_timer_start(self.loop, &timer, tepal_loop_time(self.loop)));
    self.loop->served_ns = timer.deadline_ns; /* as if its turn had gone by */
    self.loop->served_sequence = UINT64_MAX;
    CHECK_OK(tepal_loop_step(self.loop, 0));
    close_witness(&self, 1, "liveness");
}

TEST_DRIVERS(invariants, a_transport_that_goes_without_connection_lost_is_reported) {
    witness self;

    open_witness(&self, &quiet_type);
    self.transport->flags |= TPI_LOST; /* as if it had been told */
    self.transport->loop->driver->ops->close(self.loop->driver, &self.transport->object);
    self.transport->flags &= ~(uint32_t)TPI_LOST;
    RUN_UNTIL(self.loop, self.reports > 0);
    self.transport->flags |= TPI_LOST;
    close_witness(&self, 1, "lifecycle");
}

static witness *told_less;

/* As if the library had given it a byte less than it took for used. */
static int forget_a_byte(tepal_protocol *protocol, const void *data, size_t length) {
    (void)protocol;
    (void)data;
    (void)length;
    told_less->transport->extras->told--;
    return 0;
}

TEST_DRIVERS(invariants, a_byte_that_is_not_told_is_reported) {
    static const tepal_protocol_type type = {.size = sizeof type, .data_received = forget_a_byte};
    witness self;

    open_witness(&self, &type);
    CHECK(self.transport->extras != NULL);
    told_less = &self;
    test_write_all(self.peer, "bytes", 5);
    RUN_UNTIL(self.loop, self.reports > 0);
    close_witness(&self, 1, "inbound");
}
