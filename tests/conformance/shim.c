/* See shim.h. */
#include "conformance/shim.h"

#include <stdlib.h>
#include <sys/socket.h>

static int64_t shim_received(tepal_filter *filter, const void *data, size_t length) {
    shim *self = (shim *)filter;
    const uint8_t *from = data;
    uint8_t part[4096];
    size_t used = 0;
    const size_t most = self->portion == 0 || self->portion > sizeof part ? sizeof part : self->portion;

    while (used < length && self->filter.transport != NULL && !tepal_filter_is_paused(filter)) {
        const size_t some = length - used < most ? length - used : most;
        for (size_t i = 0; i < some; i++) {
            part[i] = (uint8_t)(from[used + i] - self->key);
        }
        const int64_t taken = tepal_filter_up_received(filter, part, some);
        if (taken < 0) {
            return taken;
        }
        used += (size_t)taken;
        self->up += (uint64_t)taken;
        if ((size_t)taken < some) {
            break;
        }
    }
    return (int64_t)used;
}

static int pass_down(shim *self) {
    const struct iovec piece = {.iov_base = self->held, .iov_len = self->held_length};

    self->held_length = 0;
    return piece.iov_len == 0 ? 0 : tepal_filter_down_write(&self->filter, &piece, 1);
}

int shim_write(tepal_filter *filter, const struct iovec *pieces, size_t count) {
    shim *self = (shim *)filter;

    CHECK(!self->wants_close);
    CHECK(!self->wants_eof);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *from = pieces[i].iov_base;
        CHECK_LE(pieces[i].iov_len, sizeof self->held - self->held_length);
        for (size_t k = 0; k < pieces[i].iov_len; k++) {
            self->held[self->held_length++] = (uint8_t)(from[k] + self->key);
        }
        self->down += pieces[i].iov_len;
    }
    return self->holds ? 0 : pass_down(self);
}

static int shim_write_eof(tepal_filter *filter) {
    shim *self = (shim *)filter;

    self->wants_eof = true;
    return self->held_length > 0 ? 0 : tepal_filter_down_write_eof(filter);
}

static void shim_close(tepal_filter *filter) {
    shim *self = (shim *)filter;

    self->wants_close = true;
    if (self->held_length == 0) {
        tepal_filter_down_close(filter);
    }
}

static void shim_flush(tepal_filter *filter) {
    (void)pass_down((shim *)filter);
    tepal_filter_down_flush(filter);
}

void shim_let_go(shim *self) {
    self->holds = false;
    CHECK_OK(pass_down(self));
    if (self->wants_eof) {
        CHECK_OK(tepal_filter_down_write_eof(&self->filter));
    }
    if (self->wants_close) {
        tepal_filter_down_close(&self->filter);
    } else {
        tepal_filter_up_writable(&self->filter);
    }
}

static void shim_lost(tepal_filter *filter, const tepal_error *error) {
    shim *self = (shim *)filter;

    CHECK_EQ(self->losts++, 0);
    CHECK_EQ(self->self->losts, 0); /* the protocol hears of it last */
    self->code = error == NULL ? 0 : error->code;
}

static void shim_detach(tepal_filter *filter) {
    ((shim *)filter)->detaches++;
}

static void shim_abort(tepal_filter *filter, int code) {
    ((shim *)filter)->aborts++;
    ((shim *)filter)->code = code;
}

static bool shim_can_write_eof(const tepal_filter *filter) {
    return !((const shim *)filter)->no_half;
}

static uint64_t shim_buffered(const tepal_filter *filter) {
    return ((const shim *)filter)->held_length;
}

static int shim_info(const tepal_filter *filter, const char *what, const void **answer) {
    if (strcmp(what, "shim.key") != 0) {
        return TEPAL_ENOENT;
    }
    *answer = &((const shim *)filter)->key;
    return 0;
}

const tepal_filter_type shim_type = {
    .size = sizeof shim_type,
    .received = shim_received,
    .lost = shim_lost,
    .write = shim_write,
    .write_eof = shim_write_eof,
    .flush = shim_flush,
    .close = shim_close,
    .abort = shim_abort,
    .detach = shim_detach,
    .can_write_eof = shim_can_write_eof,
    .buffered = shim_buffered,
    .info = shim_info,
};

shim *shim_new(script *self, uint8_t key) {
    shim *made = calloc(1, sizeof *made);

    CHECK(made != NULL);
    made->filter.type = &shim_type;
    made->self = self;
    made->key = key;
    return made;
}

shim *shim_push(script *self, uint8_t key) {
    shim *made = shim_new(self, key);

    CHECK_OK(CALL(self, tepal_transport_push_filter(self->transport, &made->filter, NULL)));
    return made;
}

/* The peer, which knows the keys. */
static void shift(uint8_t *data, size_t length, int by) {
    for (size_t i = 0; i < length; i++) {
        data[i] = (uint8_t)(data[i] + by);
    }
}

void shim_feed(script *self, size_t length, uint8_t key) {
    static uint8_t data[300000];

    CHECK_LE(length, sizeof data);
    stream_fill(SCRIPT_IN, self->fed, data, length);
    shift(data, length, key);
    self->fed += length;
    for (size_t done = 0; done < length;) {
        const ssize_t count = send(self->peer, data + done, length - done, MSG_NOSIGNAL | MSG_DONTWAIT);
        done += count > 0 ? (size_t)count : 0;
        CHECK_OK(tepal_loop_step(self->loop, 0));
    }
}

void shim_take(script *self, size_t length, uint8_t key) {
    const int64_t give_up_ns = test_now_ns() + TEPAL_SEC(test_is_slow_build() ? 100 : 10);
    uint8_t data[4096];

    while (length > 0) {
        const size_t most = length < sizeof data ? length : sizeof data;
        const ssize_t count = recv(self->peer, data, most, MSG_DONTWAIT);
        if (count <= 0) {
            CHECK_LT(test_now_ns(), give_up_ns);
            CHECK_OK(tepal_loop_step(self->loop, TEPAL_MS(1)));
            continue;
        }
        shift(data, (size_t)count, -key);
        stream_check(SCRIPT_OUT, self->taken, data, (size_t)count);
        self->taken += (uint64_t)count;
        length -= (size_t)count;
    }
}

void shim_check_both_ways(script *self, size_t length, uint8_t key) {
    const uint64_t received = self->received;

    script_write(self, length);
    shim_take(self, length, key);
    shim_feed(self, length, key);
    RUN_UNTIL(self->loop, self->received == received + length);
}
