/* Adopting descriptors that were opened elsewhere: what is refused, and borrowing. */
#include "conformance/script.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

static int adopt(tepal_loop *loop, int fd, const tepal_transport_options *options) {
    static script unused;
    tepal_transport *transport = NULL;

    unused.protocol.type = &script_type;
    const int code = tepal_loop_adopt(loop, fd, &unused.protocol, options, &transport);
    CHECK(transport == NULL);
    CHECK_EQ(unused.made, 0);
    return code;
}

SCRIPT_TEST(adopt, only_a_connected_stream_socket_is_taken) {
    tepal_loop *loop = script_loop();
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int datagrams = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const int fresh = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int file = open("/dev/null", O_RDWR | O_CLOEXEC);

    CHECK_EQ(listen(listener, 1), 0);
    CHECK_EQ(adopt(loop, -1, NULL), TEPAL_EBADF);
    CHECK_EQ(adopt(loop, 4000, NULL), TEPAL_EBADF);
    CHECK_EQ(adopt(loop, file, NULL), TEPAL_EINVAL);
    CHECK_EQ(adopt(loop, datagrams, NULL), TEPAL_EINVAL);
    CHECK_EQ(adopt(loop, listener, NULL), TEPAL_EINVAL);
    CHECK_EQ(adopt(loop, fresh, NULL), TEPAL_EINVAL);
    plumbing_close(loop);
    close(listener);
    close(datagrams);
    close(fresh);
    close(file);
}

SCRIPT_TEST(adopt, a_descriptor_of_this_loop_is_refused_and_stays_as_it_was) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    CHECK_EQ(adopt(self.loop, self.fd, NULL), TEPAL_EBUSY);
    script_write(&self, 1000);
    script_take_until(&self, 1000);
    script_close(&self);
}

SCRIPT_TEST(adopt, wrong_options_and_protocols_are_refused) {
    tepal_loop *loop = script_loop();
    tepal_protocol protocol = {0};
    int fds[2];

    test_socketpair(fds);
    CHECK_EQ(tepal_loop_adopt(loop, fds[0], NULL, NULL, NULL), TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_adopt(loop, fds[0], &protocol, NULL, NULL), TEPAL_EINVAL);
    CHECK_EQ(adopt(loop, fds[0], &(tepal_transport_options){0}), TEPAL_EINVAL); /* without its size */
    CHECK_EQ(adopt(loop, fds[0], TEPAL_OPTIONS(tepal_transport_options, .write_high = 100, .write_low = 101)),
             TEPAL_EINVAL);
    CHECK_EQ(adopt(loop, fds[0], TEPAL_OPTIONS(tepal_transport_options, .write_high = 100, .write_cap = 99)),
             TEPAL_EINVAL);
    close(fds[0]);
    close(fds[1]);
    plumbing_close(loop);
}

SCRIPT_TEST(adopt, a_closed_loop_takes_nothing) {
    tepal_loop *loop = script_loop();
    int fds[2];

    test_socketpair(fds);
    CHECK_OK(tepal_loop_close(loop));
    CHECK_EQ(adopt(loop, fds[0], NULL), TEPAL_ECLOSED);
    tepal_loop_unref(loop);
    close(fds[0]);
    close(fds[1]);
}

SCRIPT_TEST(adopt, the_descriptor_is_made_non_blocking_and_close_on_exec) {
    script self = {.loop = script_loop()};
    int fds[2];

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    self.protocol.type = &script_type;
    self.peer = fds[1];
    CHECK_OK(tepal_loop_adopt(self.loop, fds[0], &self.protocol, NULL, NULL));
    CHECK_EQ(fcntl(fds[0], F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    CHECK_EQ(fcntl(fds[0], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    RUN_UNTIL(self.loop, self.made == 1);
    script_close(&self);
}

/* What one and the same bit says of a listener must not be read into a stream that has input before it first reads. */
SCRIPT_TEST(adopt, a_stream_that_begins_paused_reads_later_without_being_registered_again) {
    script self = {.on_made = script_pause};

    script_open(&self, SCRIPT_TCP);
    CHECK_EQ(script_feed(&self, 100), 100);
    settle(self.loop);
    const size_t before = registrations_counted();
    script_resume(&self);
    RUN_UNTIL(self.loop, self.received == 100);
    CHECK_EQ(registrations_counted(), before);
    script_close(&self);
}

SCRIPT_TEST(adopt, marks_that_are_not_given_follow_those_that_are) {
    static const struct {
        tepal_transport_options options;
        uint64_t high, low, cap;
    } cases[] = {
        {{.size = sizeof cases[0].options}, 65536, 16384, 16 << 20},
        {{.size = sizeof cases[0].options, .write_high = 1000}, 1000, 250, 16 << 20},
        {{.size = sizeof cases[0].options, .write_high = 32 << 20}, 32 << 20, 8 << 20, 32 << 20},
        {{.size = sizeof cases[0].options, .write_low = 1}, 65536, 1, 16 << 20},
        {{.size = sizeof cases[0].options, .write_cap = UINT64_MAX}, 65536, 16384, UINT64_MAX},
        {{.size = sizeof cases[0].options, .write_cap = 4000}, 4000, 1000, 4000},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        script self = {.options = &cases[i].options};
        uint64_t high, low, cap;

        script_open(&self, SCRIPT_UNIX);
        tepal_transport_get_write_limits(self.transport, &high, &low, &cap);
        CHECK_EQ(high, cases[i].high);
        CHECK_EQ(low, cases[i].low);
        CHECK_EQ(cap, cases[i].cap);
        tepal_transport_get_write_limits(self.transport, NULL, NULL, NULL);
        script_close(&self);
    }
}

static void leave_it(tepal_producer *producer) {
    (void)producer;
}

SCRIPT_TEST(adopt, marks_that_nobody_set_stay_when_a_producer_is_registered) {
    script self = {0};
    tepal_producer producer = {.size = sizeof producer, .resume = leave_it, .pause = leave_it, .stop = leave_it};
    uint64_t high, low, cap;

    script_open(&self, SCRIPT_UNIX);
    CHECK_OK(tepal_transport_register_producer(self.transport, &producer, true));
    tepal_transport_get_write_limits(self.transport, &high, &low, &cap);
    CHECK_EQ(high, 65536);
    CHECK_EQ(low, 16384);
    CHECK_EQ(cap, 16 << 20);
    CHECK_OK(tepal_transport_unregister_producer(self.transport));
    script_close(&self);
}

/* ---- Borrowing ---- */

typedef struct lender {
    script self;
    int released, fd;
} lender;

static void take_back(void *argument, int fd) {
    lender *all = argument;

    CHECK_EQ(all->self.losts, 1);
    all->released++;
    all->fd = fd;
}

static tepal_transport_options borrowed(lender *all) {
    return (tepal_transport_options){
        .size = sizeof(tepal_transport_options), .borrow = true, .released = take_back, .argument = all};
}

static void check_released(lender *all) {
    script *self = &all->self;
    char byte = 'x';

    CHECK_EQ(all->released, 1);
    CHECK_EQ(all->fd, self->fd);
    CHECK_EQ(tepal_transport_fd(self->transport), TEPAL_ECLOSED);
    /* It still works, and nobody else listens to it. */
    CHECK_EQ(write(self->fd, &byte, 1), 1);
    test_read_exactly(self->peer, &byte, 1);
    script_close(self);
    CHECK_EQ(all->released, 1);
    close(self->fd);
}

SCRIPT_TEST(adopt, a_borrowed_descriptor_is_given_back_after_close) {
    lender all = {0};
    const tepal_transport_options options = borrowed(&all);

    all.self.options = &options;
    script_open(&all.self, SCRIPT_TCP);
    script_write(&all.self, 100);
    script_close_now(&all.self);
    CHECK_EQ(all.released, 0);
    RUN_UNTIL(all.self.loop, all.released == 1);
    script_take_until(&all.self, 100);
    check_released(&all);
}

SCRIPT_TEST(adopt, a_borrowed_descriptor_is_given_back_after_abort_and_not_reset) {
    lender all = {0};
    const tepal_transport_options options = borrowed(&all);

    all.self.options = &options;
    script_open(&all.self, SCRIPT_TCP);
    script_abort_now(&all.self);
    RUN_UNTIL(all.self.loop, all.released == 1);
    check_released(&all);
}

SCRIPT_TEST(adopt, a_borrowed_descriptor_is_given_back_when_the_loop_closes) {
    lender all = {0};
    const tepal_transport_options options = borrowed(&all);

    all.self.options = &options;
    script_open(&all.self, SCRIPT_UNIX);
    CHECK_OK(tepal_loop_close(all.self.loop));
    check_released(&all);
}

SCRIPT_TEST(adopt, a_borrowed_descriptor_with_unread_input_is_given_back_with_it) {
    lender all = {0};
    const tepal_transport_options options = borrowed(&all);
    char bytes[100];

    all.self.options = &options;
    script_open(&all.self, SCRIPT_TCP);
    script_write(&all.self, 1);
    script_pause(&all.self);
    script_feed(&all.self, sizeof bytes);
    test_poll(all.self.fd, POLLIN);
    script_close_now(&all.self);
    RUN_UNTIL(all.self.loop, all.released == 1);
    test_read_exactly(all.self.fd, bytes, sizeof bytes);
    stream_check(SCRIPT_IN, 0, bytes, sizeof bytes);
    script_take_until(&all.self, 1);
    check_released(&all);
}

SCRIPT_TEST(adopt, a_borrowed_descriptor_is_given_back_after_an_error_with_output_waiting) {
    lender all = {0};
    const tepal_transport_options options = borrowed(&all);

    all.self.options = &options;
    script_open(&all.self, SCRIPT_TCP);
    script_narrow(&all.self);
    script_fill(&all.self);
    script_reset(&all.self);
    RUN_UNTIL(all.self.loop, all.released == 1);
    CHECK_LT(all.self.lost_code, 0);
    script_close(&all.self);
    CHECK_EQ(all.released, 1);
    close(all.self.fd);
}

SCRIPT_TEST(adopt, a_descriptor_given_back_can_be_adopted_again) {
    lender all = {0};
    const tepal_transport_options options = borrowed(&all);
    script again = {0};

    all.self.options = &options;
    script_open(&all.self, SCRIPT_TCP);
    script_close_now(&all.self);
    RUN_UNTIL(all.self.loop, all.released == 1);
    again.protocol.type = &script_type;
    again.loop = tepal_loop_ref(all.self.loop);
    again.peer = all.self.peer;
    all.self.peer = -1;
    CHECK_OK(tepal_loop_adopt(again.loop, all.fd, &again.protocol, NULL, NULL));
    script_feed(&again, 10);
    RUN_UNTIL(again.loop, again.received == 10);
    script_close(&again);
    script_close(&all.self);
}
