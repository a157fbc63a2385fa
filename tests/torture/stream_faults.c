/*
 * Memory runs out: each allocation of a scenario that touches every function of a transport fails in turn, once and from
 * then on. No crash, no leak; what cannot be done is told, and every connection that was made is lost once.
 */
#include "conformance/shim.h"

#include <stdlib.h>
#include <unistd.h>
#include <sys/socket.h>

/* Any error will do, and none; but nothing else. */
static bool worked(int code) {
    CHECK(code == 0 || code == TEPAL_ENOMEM || code == TEPAL_ECLOSED || code == TEPAL_EPIPE || code == TEPAL_ENOBUFS);
    return code == 0;
}

static void ignore_report(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    (void)loop;
    (void)what;
    (void)argument;
    CHECK_NE(error->code, TEPAL_EINVARIANT);
}

static void release_once(void *argument, int status) {
    (void)status;
    CHECK_EQ(++*(int *)argument, 1);
}

static void turn(tepal_loop *loop) {
    for (int idle = 0; idle < 2;) {
        const int status = tepal_loop_step(loop, 0);
        CHECK(status >= 0 || status == TEPAL_ENOMEM);
        idle = status > 0 ? 0 : idle + 1;
    }
}

static void write_everything(script *self, int *released) {
    static const uint8_t bytes[50000];
    const struct iovec piece = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = sizeof bytes};
    struct iovec pieces[100];
    tepal_future *future;

    for (int i = 0; i < 100; i++) {
        pieces[i] = (struct iovec){.iov_base = (void *)(uintptr_t)bytes, .iov_len = 400};
    }
    worked(tepal_transport_write(self->transport, bytes, 100));
    worked(tepal_transport_write(self->transport, bytes, sizeof bytes));
    worked(tepal_transport_writev(self->transport, pieces, 100));
    const int code = tepal_transport_write_owned(self->transport, &piece, 1, release_once, released);
    if (!worked(code)) {
        CHECK_EQ(*released, 0);
        *released = 1;
    }
    worked(tepal_transport_flush(self->transport));
    if (worked(tepal_transport_drain(self->transport, &future))) {
        tepal_future_unref(future);
    }
    worked(tepal_transport_set_write_limits(self->transport, 20000, 100, 1 << 20));
}

static void take_anything(script *self) {
    static char sink[100000];

    while (recv(self->peer, sink, sizeof sink, MSG_DONTWAIT) > 0) {
        turn(self->loop);
    }
}

/* Returns whether the loop could be made and the transport adopted. */
static bool scenario(script *self, shim *filter, int *released) {
    tepal_loop *loop;
    tepal_transport *transport;
    tepal_future *established;
    int fds[2];

    if (tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .driver = test_driver(), .debug = !script_is_plain,
                                            .slow_callback_ns = -1, .realloc = test_counting_alloc)) < 0) {
        return false;
    }
    tepal_loop_set_exception_handler(loop, ignore_report, NULL);
    self->loop = loop;
    self->is_raw = true;
    self->answer_eof = TEPAL_KEEP_OPEN;
    self->protocol.type = &script_type;
    script_pair(SCRIPT_TCP, fds);
    self->fd = fds[0];
    self->peer = fds[1];
    if (!worked(tepal_loop_adopt(loop, fds[0], &self->protocol, NULL, &transport))) {
        CHECK_OK(tepal_loop_close(loop));
        tepal_loop_unref(loop);
        close(fds[0]);
        close(fds[1]);
        return false;
    }
    self->transport = tepal_transport_ref(transport);
    script_narrow(self);
    turn(loop);
    script_feed(self, 10000);
    turn(loop);
    write_everything(self, &released[0]);
    turn(loop);
    take_anything(self);
    if (worked(tepal_transport_push_filter(self->transport, &filter->filter, &established))) {
        tepal_filter_up_established(&filter->filter);
        tepal_future_unref(established);
        write_everything(self, &released[1]);
        worked(tepal_transport_pause_reading(self->transport));
        script_feed(self, 10000);
        turn(loop);
        worked(tepal_transport_resume_reading(self->transport));
        turn(loop);
        (void)tepal_transport_pop_filter(self->transport, &filter->filter);
    } else {
        released[1] = 1;
    }
    take_anything(self);
    worked(tepal_transport_write_eof(self->transport));
    turn(loop);
    take_anything(self);
    script_feed(self, 1000);
    tepal_transport_close(self->transport);
    turn(loop);
    return true;
}

static void check_faults(bool onwards) {
    for (size_t n = 1;; n++) {
        test_alloc_fail_at(n, onwards);
        script self = {0};
        shim *filter = shim_new(&self, 0);
        int released[2] = {0};
        const bool done = scenario(&self, filter, released);
        const bool failed = test_alloc_has_failed();
        if (done) {
            script_close(&self);
            CHECK_EQ(released[0], 1);
            CHECK_EQ(released[1], 1);
        }
        test_alloc_fail_at(0, false);
        free(filter);
        CHECK_EQ(test_alloc_live(), 0);
        if (!failed) {
            CHECK_GT(n, 5);
            return;
        }
        CHECK_LT(n, 500);
    }
}

SCRIPT_TEST(stream_faults, each_allocation_that_fails_once_is_survived) {
    check_faults(false);
}

SCRIPT_TEST(stream_faults, each_allocation_that_fails_and_all_after_it_are_survived) {
    check_faults(true);
}
