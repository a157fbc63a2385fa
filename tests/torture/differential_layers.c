/* The filters of differential.c's programs: four kinds, pushed and popped where nothing is on its way. */
#include "torture/differential_program.h"

#include <stdlib.h>

struct layer {
    tepal_filter filter; /* first */
    side *side;
    uint8_t kind;
    bool is_busy, is_gone;
    uint8_t *held; /* of kind 2: what was written and not given down */
    size_t used, room;
    tepal_handle passing; /* the callback that will give it down */
    bool is_passing;
};

static void layer_free(layer *self) {
    free(self->held);
    free(self);
}

static void layer_end(tepal_filter *filter) {
    layer *self = (layer *)filter;
    side *owner = self->side;
    for (size_t i = 0; i < owner->layer_count; i++) {
        if (owner->layers[i] == self) {
            memmove(&owner->layers[i], &owner->layers[i + 1], (owner->layer_count - i - 1) * sizeof(layer *));
            owner->layer_count--;
            break;
        }
    }
    if (self->is_passing) {
        (void)tepal_loop_cancel(owner->talk->run->loop, self->passing);
    }
    self->is_gone = true;
    if (!self->is_busy) {
        layer_free(self);
    }
}

static void layer_lost(tepal_filter *filter, const tepal_error *error) {
    (void)error;
    layer_end(filter);
}

/* Kind 1 turns every bit around, both ways. */
static uint8_t *turned_around(const void *data, size_t length) {
    uint8_t *copy = malloc(length);
    CHECK(copy != NULL);
    for (size_t i = 0; i < length; i++) {
        copy[i] = (uint8_t) ~((const uint8_t *)data)[i];
    }
    return copy;
}

static int turn_write(tepal_filter *filter, const struct iovec *pieces, size_t count) {
    int code = 0;
    for (size_t i = 0; i < count && code == 0; i++) {
        if (pieces[i].iov_len > 0) {
            const struct iovec piece = {.iov_base = turned_around(pieces[i].iov_base, pieces[i].iov_len),
                                        .iov_len = pieces[i].iov_len};
            code = tepal_filter_down_write(filter, &piece, 1);
            free(piece.iov_base);
        }
    }
    return code;
}

static int64_t turn_received(tepal_filter *filter, const void *data, size_t length) {
    layer *self = (layer *)filter;
    uint8_t *copy = turned_around(data, length);
    self->is_busy = true;
    const int64_t used = tepal_filter_up_received(filter, copy, length);
    self->is_busy = false;
    free(copy);
    if (self->is_gone) {
        layer_free(self);
        /* Popped by who had all of it, since nothing is on its way to who acts. */
        return used == TEPAL_ECLOSED ? (int64_t)length : used;
    }
    return used;
}

/* Kind 2 holds back what is written until the next turn, or until it is flushed. */
static int hold_pass(layer *self) {
    const struct iovec piece = {.iov_base = self->held, .iov_len = self->used};
    self->used = 0;
    return piece.iov_len == 0 ? 0 : tepal_filter_down_write(&self->filter, &piece, 1);
}

static void hold_no_longer(void *argument) {
    layer *self = argument;
    self->is_passing = false;
    if (hold_pass(self) == 0) {
        tepal_filter_up_writable(&self->filter);
    }
}

static int hold_write(tepal_filter *filter, const struct iovec *pieces, size_t count) {
    layer *self = (layer *)filter;
    for (size_t i = 0; i < count; i++) {
        if (self->used + pieces[i].iov_len > self->room) {
            self->room = 2 * (self->used + pieces[i].iov_len);
            self->held = realloc(self->held, self->room);
            CHECK(self->held != NULL);
        }
        if (pieces[i].iov_len > 0) {
            memcpy(self->held + self->used, pieces[i].iov_base, pieces[i].iov_len);
            self->used += pieces[i].iov_len;
        }
    }
    if (!self->is_passing) {
        self->is_passing = true;
        return tepal_loop_call_soon(self->side->talk->run->loop, hold_no_longer, self, &self->passing);
    }
    return 0;
}

static int hold_write_eof(tepal_filter *filter) {
    (void)hold_pass((layer *)filter);
    return tepal_filter_down_write_eof(filter);
}

static void hold_flush(tepal_filter *filter) {
    (void)hold_pass((layer *)filter);
    tepal_filter_down_flush(filter);
}

static void hold_close(tepal_filter *filter) {
    (void)hold_pass((layer *)filter);
    tepal_filter_down_close(filter);
}

static uint64_t hold_buffered(const tepal_filter *filter) {
    return ((const layer *)filter)->used;
}

/* Kind 3 delivers in two halves. */
static int64_t halve_received(tepal_filter *filter, const void *data, size_t length) {
    layer *self = (layer *)filter;
    const size_t half = length / 2;
    int64_t used = 0;
    self->is_busy = true;
    if (half > 0) {
        used = tepal_filter_up_received(filter, data, half);
    }
    if (used == (int64_t)half && !self->is_gone) {
        const int64_t more = tepal_filter_up_received(filter, (const uint8_t *)data + half, length - half);
        used = more < 0 ? more : used + more;
    }
    self->is_busy = false;
    if (self->is_gone) {
        layer_free(self);
    }
    return used;
}

static const tepal_filter_type layer_types[] = {
    {.size = sizeof(tepal_filter_type), .lost = layer_lost, .detach = layer_end},
    {.size = sizeof(tepal_filter_type),
     .lost = layer_lost,
     .detach = layer_end,
     .write = turn_write,
     .received = turn_received},
    {.size = sizeof(tepal_filter_type),
     .lost = layer_lost,
     .detach = layer_end,
     .write = hold_write,
     .write_eof = hold_write_eof,
     .flush = hold_flush,
     .close = hold_close,
     .buffered = hold_buffered},
    {.size = sizeof(tepal_filter_type), .lost = layer_lost, .detach = layer_end, .received = halve_received},
};

void side_push(side *self, uint8_t kind) {
    layer *made = calloc(1, sizeof *made);
    CHECK(made != NULL && self->layer_count < LAYERS);
    made->filter.type = &layer_types[kind];
    made->kind = kind;
    made->side = self;
    const int code = tepal_transport_push_filter(self->transport, &made->filter, NULL);
    story_tell(&self->story, "pushes %u: %s", kind, code < 0 ? tepal_error_name(code) : "ok");
    if (code < 0) {
        layer_free(made);
    } else {
        self->layers[self->layer_count++] = made;
    }
}

void side_pop(side *self) {
    CHECK_GT(self->layer_count, 0);
    const int code = tepal_transport_pop_filter(self->transport, &self->layers[self->layer_count - 1]->filter);
    story_tell(&self->story, "pops: %s", code < 0 ? tepal_error_name(code) : "ok");
}
