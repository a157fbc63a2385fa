/* See plumbing.h. */
#include "conformance/plumbing.h"

#include <sys/socket.h>

static void fail_test(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    (void)loop;
    (void)argument;
    test_fail(__FILE__, __LINE__, "%s: %s", what, error->text);
}

static tepal_loop *make_loop(bool debug) {
    tepal_loop *loop;

    CHECK_OK(tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .driver = test_driver(), .debug = debug,
                                                 .slow_callback_ns = -1, .realloc = test_counting_alloc)));
    tepal_loop_set_exception_handler(loop, fail_test, NULL);
    return loop;
}

tepal_loop *plumbing_loop(void) {
    return make_loop(true);
}

tepal_loop *plumbing_quiet_loop(void) {
    return make_loop(false);
}

void plumbing_close(tepal_loop *loop) {
    CHECK_OK(tepal_loop_close(loop));
    tepal_loop_unref(loop);
}

void settle(tepal_loop *loop) {
    for (int idle = 0; idle < 3; idle++) {
        while (tepal_loop_step(loop, 0) == 1) {
            idle = 0;
        }
    }
}

static uint64_t stream_word(uint64_t seed, uint64_t index) {
    uint64_t word = (seed + 1) * 0x9e3779b97f4a7c15u + index;

    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
    word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
    return word ^ (word >> 31);
}

void stream_fill(uint64_t seed, uint64_t offset, void *data, size_t length) {
    uint8_t *to = data;

    for (size_t i = 0; i < length; i++, offset++) {
        to[i] = (uint8_t)(stream_word(seed, offset / 8) >> (offset % 8 * 8));
    }
}

void stream_check(uint64_t seed, uint64_t offset, const void *data, size_t length) {
    const uint8_t *from = data;
    uint8_t expected[512];

    for (size_t at = 0; at < length; at += sizeof expected) {
        const size_t part = length - at < sizeof expected ? length - at : sizeof expected;
        stream_fill(seed, offset + at, expected, part);
        CHECK_MEM(from + at, expected, part);
    }
}

/* ---- Ends ---- */

static int end_made(tepal_protocol *protocol, tepal_transport *transport) {
    end *self = (end *)protocol;

    CHECK_EQ(self->made++, 0);
    if (self->transport == NULL) {
        self->transport = tepal_transport_ref(transport);
    }
    CHECK(self->transport == transport);
    return 0;
}

static int end_received(tepal_protocol *protocol, const void *data, size_t length) {
    end *self = (end *)protocol;

    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->eofs, 0);
    CHECK_EQ(self->losts, 0);
    CHECK_GT(length, 0);
    stream_check(self->seed, self->received, data, length);
    self->received += length;
    if (self->on_data != NULL) {
        self->on_data(self);
    }
    return 0;
}

static int end_get_buffer(tepal_protocol *protocol, size_t hint, void **buffer, size_t *length) {
    end *self = (end *)protocol;

    *buffer = self->buffer;
    *length = hint < sizeof self->buffer ? hint : sizeof self->buffer;
    return 0;
}

static int end_buffer_updated(tepal_protocol *protocol, size_t length) {
    return end_received(protocol, ((end *)protocol)->buffer, length);
}

static int end_eof(tepal_protocol *protocol) {
    end *self = (end *)protocol;

    CHECK_EQ(self->eofs++, 0);
    CHECK_EQ(self->losts, 0);
    return self->close_at_eof ? 0 : TEPAL_KEEP_OPEN;
}

static void end_pause(tepal_protocol *protocol) {
    end *self = (end *)protocol;

    CHECK(!self->is_paused);
    CHECK_EQ(self->losts, 0);
    self->is_paused = true;
    self->pauses++;
    if (self->on_pause != NULL) {
        self->on_pause(self);
    }
}

static void end_resume(tepal_protocol *protocol) {
    end *self = (end *)protocol;

    CHECK(self->is_paused);
    CHECK_EQ(self->losts, 0);
    self->is_paused = false;
    self->resumes++;
}

static void end_lost(tepal_protocol *protocol, const tepal_error *error) {
    end *self = (end *)protocol;

    CHECK_EQ(self->losts++, 0);
    self->lost_code = error == NULL ? 0 : error->code;
}

const tepal_protocol_type end_type = {
    .size = sizeof(tepal_protocol_type),
    .connection_made = end_made,
    .data_received = end_received,
    .eof_received = end_eof,
    .pause_writing = end_pause,
    .resume_writing = end_resume,
    .connection_lost = end_lost,
};

const tepal_protocol_type buffered_end_type = {
    .size = sizeof(tepal_protocol_type),
    .connection_made = end_made,
    .get_buffer = end_get_buffer,
    .buffer_updated = end_buffer_updated,
    .eof_received = end_eof,
    .pause_writing = end_pause,
    .resume_writing = end_resume,
    .connection_lost = end_lost,
};

void end_adopt(tepal_loop *loop, end *self, int fd) {
    tepal_transport *transport;

    if (self->protocol.type == NULL) {
        self->protocol.type = &end_type;
    }
    CHECK_OK(tepal_loop_adopt(loop, fd, &self->protocol, NULL, &transport));
    self->transport = tepal_transport_ref(transport);
}

static void adopt_both(tepal_loop *loop, end *a, end *b, const int fds[2]) {
    end_adopt(loop, a, fds[0]);
    end_adopt(loop, b, fds[1]);
    RUN_UNTIL(loop, a->made == 1 && b->made == 1);
}

void end_pair(tepal_loop *loop, end *a, end *b) {
    int fds[2];

    test_socketpair(fds);
    adopt_both(loop, a, b, fds);
}

void end_tcp_pair(tepal_loop *loop, end *a, end *b) {
    int fds[2];

    test_tcp_pair(fds);
    adopt_both(loop, a, b, fds);
}

void end_free(end *self) {
    tepal_transport_unref(self->transport);
    self->transport = NULL;
}

void end_write(end *self, const end *other, size_t length) {
    uint8_t data[16384];

    while (length > 0) {
        const size_t part = length < sizeof data ? length : sizeof data;
        stream_fill(other->seed, self->sent, data, part);
        CHECK_OK(tepal_transport_write(self->transport, data, part));
        self->sent += part;
        length -= part;
    }
}

void end_fill(end *self, const end *other) {
    while (!self->is_paused) {
        end_write(self, other, 4096);
        CHECK_OK(tepal_transport_flush(self->transport));
    }
}

void end_narrow(end *self, uint64_t high) {
    const int size = 1; /* the kernel makes it its least */
    const int fd = tepal_transport_fd(self->transport);

    CHECK_OK(fd);
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
    CHECK_OK(tepal_transport_set_write_limits(self->transport, high, high / 4, UINT64_MAX));
}

/* ---- Feeding ---- */

static void feed_resume(tepal_producer *producer) {
    feed *self = (feed *)producer;
    uint8_t data[65536];
    const uint64_t left = self->total - self->sent;
    const size_t length = left < self->portion ? (size_t)left : self->portion;

    CHECK(!self->is_done);
    CHECK(!self->is_stopped);
    CHECK_EQ(tepal_transport_write_buffer_size(self->transport), 0);
    stream_fill(self->seed, self->sent, data, length);
    CHECK_OK(tepal_transport_write(self->transport, data, length));
    self->sent += length;
    self->portion = self->portion * 7 % 65521; /* lengths of all sizes */
    if (self->sent == self->total) {
        self->is_done = true;
        CHECK_OK(tepal_transport_unregister_producer(self->transport));
        if (!self->keep_open) {
            CHECK_OK(tepal_transport_write_eof(self->transport));
        }
    }
}

static void feed_stop(tepal_producer *producer) {
    feed *self = (feed *)producer;

    CHECK(!self->is_done);
    CHECK(!self->is_stopped);
    self->is_stopped = true;
}

void feed_start(feed *self, end *to, uint64_t seed, uint64_t total) {
    self->producer = (tepal_producer){.size = sizeof self->producer, .resume = feed_resume, .stop = feed_stop};
    self->transport = to->transport;
    self->seed = seed;
    self->total = total;
    if (self->portion == 0) {
        self->portion = 40000;
    }
    CHECK_OK(tepal_transport_register_producer(self->transport, &self->producer, false));
}

/* ---- Lines ---- */

void line_open(line *self) {
    if (self->loop == NULL) {
        self->loop = plumbing_loop();
    }
    end_pair(self->loop, &self->writer, &self->source);
    end_pair(self->loop, &self->sink, &self->reader);
}

void line_open_tcp(line *self) {
    if (self->loop == NULL) {
        self->loop = plumbing_loop();
    }
    end_tcp_pair(self->loop, &self->writer, &self->source);
    end_tcp_pair(self->loop, &self->sink, &self->reader);
}

void line_pipe(line *self) {
    CHECK_OK(tepal_pipe(self->source.transport, self->sink.transport, NULL, &self->future));
}

void line_close(line *self) {
    tepal_future_unref(self->future);
    plumbing_close(self->loop);
    end_free(&self->writer);
    end_free(&self->source);
    end_free(&self->sink);
    end_free(&self->reader);
}

void line_check_result(const line *self, uint64_t bytes, bool eof) {
    void *value;

    CHECK_OK(tepal_future_result(self->future, &value));
    CHECK_EQ(((const tepal_pipe_result *)value)->bytes, bytes);
    CHECK_EQ(((const tepal_pipe_result *)value)->eof, eof);
    CHECK_EQ(tepal_pipe_bytes(self->future), bytes);
}

void line_check_failed(const line *self, int code) {
    CHECK_EQ(tepal_future_result(self->future, NULL), code);
}
