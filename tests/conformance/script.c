/* See script.h. */
#include "conformance/script.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

void script_note(script *self, char what) {
    const size_t length = strlen(self->log);
    if (length + 1 < sizeof self->log) {
        self->log[length] = what;
    }
}

/* ---- Upcalls ---- */

static void check_alive(script *self, char what) {
    CHECK_EQ(self->calls, 0);
    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->losts, 0);
    script_note(self, what);
}

static int made(tepal_protocol *protocol, tepal_transport *transport) {
    script *self = (script *)protocol;

    CHECK_EQ(self->made++, 0);
    check_alive(self, 'M');
    if (self->transport == NULL) {
        self->transport = tepal_transport_ref(transport);
    }
    CHECK(self->transport == transport);
    if (self->on_made != NULL) {
        self->on_made(self);
    }
    return self->answer_made;
}

static int came(script *self, const void *data, size_t length) {
    check_alive(self, 'D');
    CHECK_EQ(self->eofs, 0);
    CHECK_GT(length, 0);
    CHECK(!self->wants_no_data);
    CHECK(!tepal_transport_is_closing(self->transport));
    if (!self->is_raw) {
        stream_check(SCRIPT_IN, self->received, data, length);
    }
    self->received += length;
    self->last_length = length;
    if (self->on_data != NULL) {
        self->on_data(self);
    }
    return self->answer_data;
}

static int data_received(tepal_protocol *protocol, const void *data, size_t length) {
    return came((script *)protocol, data, length);
}

static int get_buffer(tepal_protocol *protocol, size_t hint, void **buffer, size_t *length) {
    script *self = (script *)protocol;
    const size_t size = self->buffer_size < sizeof self->buffer ? self->buffer_size : sizeof self->buffer;

    CHECK_EQ(self->calls, 0);
    CHECK_EQ(self->losts, 0);
    CHECK_GT(hint, 0);
    CHECK(!self->wants_no_data);
    self->asked++;
    *buffer = self->buffer;
    *length = size < hint ? size : hint;
    if (self->on_asked != NULL) {
        self->on_asked(self);
    }
    return 0;
}

static int buffer_updated(tepal_protocol *protocol, size_t length) {
    script *self = (script *)protocol;

    CHECK_LE(length, self->buffer_size);
    return came(self, self->buffer, length);
}

static int eof_received(tepal_protocol *protocol) {
    script *self = (script *)protocol;

    check_alive(self, 'E');
    CHECK_EQ(self->eofs++, 0);
    CHECK(!self->wants_no_data);
    CHECK(!tepal_transport_is_closing(self->transport));
    if (!self->is_raw) {
        CHECK_EQ(self->received, self->fed);
    }
    if (self->on_eof != NULL) {
        self->on_eof(self);
    }
    return self->answer_eof;
}

static void pause_writing(tepal_protocol *protocol) {
    script *self = (script *)protocol;
    uint64_t high;

    CHECK(!self->is_paused);
    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->losts, 0);
    tepal_transport_get_write_limits(self->transport, &high, NULL, NULL);
    CHECK(self->is_swapped || tepal_transport_write_buffer_size(self->transport) > high);
    self->is_paused = true;
    self->pauses++;
    script_note(self, 'P');
    if (self->on_pause != NULL) {
        self->on_pause(self);
    }
}

static void resume_writing(tepal_protocol *protocol) {
    script *self = (script *)protocol;
    uint64_t low;

    CHECK(self->is_paused);
    CHECK_EQ(self->losts, 0);
    tepal_transport_get_write_limits(self->transport, NULL, &low, NULL);
    CHECK_LE(tepal_transport_write_buffer_size(self->transport), low);
    self->is_paused = false;
    self->resumes++;
    script_note(self, 'R');
    if (self->on_resume != NULL) {
        self->on_resume(self);
    }
}

static void connection_lost(tepal_protocol *protocol, const tepal_error *error) {
    script *self = (script *)protocol;

    CHECK_EQ(self->losts++, 0);
    CHECK_EQ(self->calls, 0);
    CHECK_EQ(self->made, 1);
    script_note(self, 'L');
    if (error != NULL) {
        CHECK_LT(error->code, 0);
        CHECK_STR(error->text, tepal_strerror(error->code));
    }
    self->lost_code = error == NULL ? 0 : error->code;
    if (self->on_lost != NULL) {
        self->on_lost(self);
    }
}

#define COMMON                                                                                                         \
    .size = sizeof(tepal_protocol_type), .connection_made = made, .eof_received = eof_received,                        \
    .pause_writing = pause_writing, .resume_writing = resume_writing, .connection_lost = connection_lost

const tepal_protocol_type script_type = {COMMON, .data_received = data_received};
const tepal_protocol_type script_lending_type = {COMMON, .get_buffer = get_buffer, .buffer_updated = buffer_updated};
const tepal_protocol_type script_both_type = {COMMON, .data_received = data_received, .get_buffer = get_buffer,
                                              .buffer_updated = buffer_updated};

/* ---- Its life ---- */

bool script_is_plain;

tepal_loop *script_loop(void) {
    return script_is_plain ? plumbing_quiet_loop() : plumbing_loop();
}

static void tcp6_pair(int fds[2]) {
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    socklen_t length = sizeof address;
    const int listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

    CHECK_GE(listener, 0);
    if (bind(listener, (struct sockaddr *)&address, length) < 0) {
        close(listener);
        SKIP("no IPv6 loopback here");
    }
    CHECK_EQ(listen(listener, 1), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&address, &length), 0);
    fds[0] = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_EQ(connect(fds[0], (struct sockaddr *)&address, length), 0);
    fds[1] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK_GE(fds[1], 0);
    close(listener);
}

void script_pair(script_kind kind, int fds[2]) {
    if (kind == SCRIPT_UNIX) {
        test_socketpair(fds);
    } else if (kind == SCRIPT_TCP) {
        test_tcp_pair(fds);
    } else {
        tcp6_pair(fds);
    }
}

void script_start(script *self, script_kind kind) {
    int fds[2];
    tepal_transport *transport;

    closes_must_be_good();
    if (self->loop == NULL) {
        self->loop = script_loop();
    }
    if (self->protocol.type == NULL) {
        self->protocol.type = &script_type;
    }
    script_pair(kind, fds);
    self->fd = fds[0];
    self->peer = fds[1];
    CHECK_OK(CALL(self, tepal_loop_adopt(self->loop, fds[0], &self->protocol, self->options, &transport)));
    self->transport = tepal_transport_ref(transport);
}

void script_open(script *self, script_kind kind) {
    script_start(self, kind);
    RUN_UNTIL(self->loop, self->made > 0);
    settle(self->loop);
}

void script_close(script *self) {
    tepal_loop_stats stats = {.size = sizeof stats};

    CHECK_OK(tepal_loop_close(self->loop));
    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->losts, 1);
    CHECK_OK(tepal_loop_get_stats(self->loop, &stats));
    CHECK_EQ(stats.transports, 0);
    CHECK_EQ(stats.invariants, 0);
    tepal_transport_unref(self->transport);
    tepal_loop_unref(self->loop);
    if (self->peer >= 0) {
        close(self->peer);
    }
}

void script_narrow(script *self) {
    const int small = 4096; /* the kernel takes more than that, but not much; a small window would be slow */

    CHECK_EQ(setsockopt(self->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
}

/* ---- The protocol's side ---- */

void script_write(script *self, size_t length) {
    static uint8_t data[1 << 20];

    while (length > 0) {
        const size_t part = length < sizeof data ? length : sizeof data;
        stream_fill(SCRIPT_OUT, self->sent, data, part);
        self->sent += part; /* first: the call may pause, and that write more */
        CHECK_OK(CALL(self, tepal_transport_write(self->transport, data, part)));
        length -= part;
    }
}

void script_fill(script *self) {
    while (!self->is_paused) {
        script_write(self, 4096);
        CHECK_OK(CALL(self, tepal_transport_flush(self->transport)));
    }
}

void script_pause(script *self) {
    CHECK_OK(CALL(self, tepal_transport_pause_reading(self->transport)));
    self->wants_no_data = true;
}

void script_resume(script *self) {
    self->wants_no_data = false;
    CHECK_OK(CALL(self, tepal_transport_resume_reading(self->transport)));
}

void script_abort_now(script *self) {
    CALL_VOID(self, tepal_transport_abort(self->transport, TEPAL_ETIMEDOUT));
}

void script_close_now(script *self) {
    CALL_VOID(self, tepal_transport_close(self->transport));
}

/* ---- The peer's side ---- */

size_t script_feed(script *self, size_t length) {
    uint8_t data[4096];
    size_t fed = 0;

    while (fed < length) {
        const size_t part = length - fed < sizeof data ? length - fed : sizeof data;
        stream_fill(SCRIPT_IN, self->fed, data, part);
        const ssize_t count = send(self->peer, data, part, MSG_NOSIGNAL);
        if (count < 0) {
            CHECK(errno == EAGAIN || tepal_transport_is_closing(self->transport));
            break;
        }
        self->fed += (uint64_t)count;
        fed += (size_t)count;
    }
    return fed;
}

void script_feed_all(script *self, size_t length) {
    size_t fed = 0;

    RUN_UNTIL(self->loop, (fed += script_feed(self, length - fed)) == length);
}

int script_take(script *self) {
    uint8_t data[16384];

    for (;;) {
        const ssize_t count = read(self->peer, data, sizeof data);
        if (count == 0) {
            return 1;
        }
        if (count < 0) {
            return errno == EAGAIN ? 0 : -errno;
        }
        stream_check(SCRIPT_OUT, self->taken, data, (size_t)count);
        self->taken += (uint64_t)count;
    }
}

/* As RUN_UNTIL, but without sleeping: it is the peer that is waited for. */
#define TAKE_UNTIL(self, condition)                                                                                    \
    do {                                                                                                               \
        const int64_t give_up_ns_ = test_now_ns() + TEPAL_SEC(test_is_slow_build() ? 100 : 10);                        \
        while (!(condition)) {                                                                                         \
            if (test_now_ns() > give_up_ns_) {                                                                         \
                test_fail(__FILE__, __LINE__, "waited too long for %s (taken %llu of %llu)", #condition,               \
                          (unsigned long long)(self)->taken, (unsigned long long)(self)->sent);                        \
            }                                                                                                          \
            CHECK_OK(tepal_loop_step((self)->loop, TEPAL_MS(1)));                                                      \
        }                                                                                                              \
    } while (0)

static bool has_taken(script *self, uint64_t total) {
    CHECK_EQ(script_take(self), 0);
    return self->taken >= total;
}

void script_take_until(script *self, uint64_t total) {
    TAKE_UNTIL(self, has_taken(self, total));
    CHECK_EQ(self->taken, total);
}

void script_take_all(script *self) {
    TAKE_UNTIL(self, has_taken(self, self->sent));
    CHECK_EQ(self->taken, self->sent);
}

void script_take_end(script *self) {
    TAKE_UNTIL(self, script_take(self) == 1);
}

void script_take_error(script *self, int error) {
    int status = 0;

    TAKE_UNTIL(self, (status = script_take(self)) != 0);
    CHECK_EQ(status, -error);
}

void script_hang_up(script *self) {
    close(self->peer);
    self->peer = -1;
}

void script_reset(script *self) {
    const struct linger now = {.l_onoff = 1, .l_linger = 0};

    CHECK_EQ(setsockopt(self->peer, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
    script_hang_up(self);
}
