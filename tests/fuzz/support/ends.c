/* See ends.h. */
#include "fuzz/support/ends.h"

#include <stdlib.h>

static uint8_t stream_byte(unsigned stream, uint64_t place) {
    return (uint8_t)((place * 7 + (place >> 8) * 31 + stream * 101) % NOISE);
}

void world_act(world *w) {
    if (w->depth < 3 && fuzz_below(&w->input, 4) == 1) {
        w->depth++;
        w->operate(w);
        w->depth--;
    }
}

/* What an upcall returns: mostly 0, sometimes a code that aborts. */
static int answer(end *self) {
    world_act(self->world);
    if (fuzz_byte(&self->world->input) != 0xfe) {
        return 0;
    }
    self->is_broken = true;
    return TEPAL_ERROR(TEPAL_DOMAIN_USER, 7);
}

/* ---- The protocol ---- */

static bool is_line(const end *self) {
    return self->world->count == ENDS;
}

static bool is_inner(const end *self) {
    return is_line(self) && (self->number == 1 || self->number == 2);
}

/* Whose stream arrives here: the other end of the socket's, or the one that comes through a pipe. */
static end *source_of(end *self) {
    static const unsigned in_line[ENDS] = {3, 0, 3, 0};
    return &self->world->ends[is_line(self) ? in_line[self->number] : 1 - self->number];
}

/* The end of an upcall that may not run inside any call. */
static end *enter(tepal_protocol *protocol) {
    speaker *s = (speaker *)protocol;
    end *self = s->end;
    CHECK(s == &self->speakers[self->current]); /* a protocol that was replaced hears nothing */
    CHECK_EQ(self->world->calls, 0);
    CHECK_EQ(self->losts, 0);
    return self;
}

static int made(tepal_protocol *protocol, tepal_transport *transport) {
    end *self = enter(protocol);
    CHECK(transport == self->transport);
    CHECK(!self->world->is_interrupted);
    CHECK_EQ(self->made++, 0);
    return answer(self);
}

static bool is_edge(const end *source, uint64_t place) {
    return place >= EDGES || (source->edges[place / 8] >> place % 8 & 1) != 0;
}

/* The pipe of which this was the source has ended: what it moved has not been seen here. */
static void end_of_pipe(end *self) {
    if (self->pipe != NULL) {
        CHECK(tepal_future_is_done(self->pipe));
        self->received += tepal_pipe_bytes(self->pipe);
        tepal_future_unref(self->pipe);
        self->pipe = NULL;
    }
}

static void check_data(end *self, const uint8_t *data, size_t length) {
    end *source = source_of(self);
    CHECK_GT(length, 0);
    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->eofs, 0);
    CHECK(!self->wants_no_data);
    CHECK(!tepal_transport_is_closing(self->transport));
    end_of_pipe(self);
    for (size_t i = 0; i < length; i++) {
        if (data[i] == NOISE) {
            CHECK(is_line(self) || is_edge(source, self->received)); /* never in the middle of a write */
        } else {
            CHECK_EQ(data[i], stream_byte(source->number, self->received));
            self->received++;
        }
    }
    CHECK_LE(self->received, source->accepted);
}

static int data_received(tepal_protocol *protocol, const void *data, size_t length) {
    end *self = enter(protocol);
    check_data(self, data, length);
    return answer(self);
}

static int get_buffer(tepal_protocol *protocol, size_t hint, void **buffer, size_t *length) {
    end *self = enter(protocol);
    CHECK_GT(hint, 0);
    CHECK(!self->wants_no_data);
    size_t size = fuzz_length(&self->world->input, 9000);
    if (protocol->type->data_received == NULL && size == 0) {
        size = 1; /* it may not decline: there is nowhere else to go */
    }
    const int code = answer(self);
    free(self->lent);
    self->lent = malloc(size + 1); /* of its own, so that a byte too many is seen */
    *buffer = self->lent;
    *length = size;
    return code;
}

static int buffer_updated(tepal_protocol *protocol, size_t length) {
    end *self = enter(protocol);
    check_data(self, self->lent, length);
    return answer(self);
}

static int eof_received(tepal_protocol *protocol) {
    end *self = enter(protocol);
    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->eofs++, 0);
    CHECK(!self->wants_no_data);
    end_of_pipe(self);
    if (!is_line(self) && !source_of(self)->is_broken) {
        CHECK_EQ(self->received, source_of(self)->accepted); /* nothing is missing at a clean end */
    }
    const int code = answer(self);
    return code < 0 || fuzz_below(&self->world->input, 2) == 0 ? code : TEPAL_KEEP_OPEN;
}

static void pause_writing(tepal_protocol *protocol) {
    speaker *s = (speaker *)protocol;
    CHECK(s == &s->end->speakers[s->end->current]);
    CHECK_EQ(s->end->losts, 0);
    CHECK(!s->is_paused);
    s->is_paused = true;
    world_act(s->end->world);
}

static void resume_writing(tepal_protocol *protocol) {
    speaker *s = (speaker *)protocol;
    CHECK(s == &s->end->speakers[s->end->current]);
    CHECK_EQ(s->end->losts, 0);
    CHECK(s->is_paused);
    s->is_paused = false;
    world_act(s->end->world);
}

static void connection_lost(tepal_protocol *protocol, const tepal_error *error) {
    end *self = enter(protocol);
    CHECK_EQ(self->made, 1);
    CHECK(error == NULL || error->code < 0);
    self->losts = 1;
    self->is_broken = self->is_broken || error != NULL;
    CHECK_EQ(tepal_transport_write(self->transport, "x", 1), TEPAL_ECLOSED);
    world_act(self->world);
}

#define COMMON                                                                                                         \
    .size = sizeof(tepal_protocol_type), .connection_made = made, .eof_received = eof_received,                        \
    .pause_writing = pause_writing, .resume_writing = resume_writing, .connection_lost = connection_lost

const tepal_protocol_type speaker_types[3] = {
    {COMMON, .data_received = data_received},
    {COMMON, .data_received = data_received, .get_buffer = get_buffer, .buffer_updated = buffer_updated},
    {COMMON, .get_buffer = get_buffer, .buffer_updated = buffer_updated}};

/* ---- Writing ---- */

static void release(void *argument, int status) {
    owned_write *write = argument;
    CHECK_EQ(write->releases++, 0);
    CHECK_LE(status, 0);
    free(write->memory);
}

static void mark_edge(end *self, uint64_t place) {
    if (place < EDGES) {
        self->edges[place / 8] |= (uint8_t)(1 << place % 8);
    }
}

static int write_pieces(end *self, const uint8_t *bytes, size_t length) {
    enum { MANY = 150 };
    struct iovec pieces[MANY];
    const size_t count = length % 2 == 0 ? 3 : MANY; /* the second is more than one call of the kernel takes here */
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        const size_t part = i == count - 1 ? length - at : length / count;
        pieces[i] = (struct iovec){.iov_base = (void *)(uintptr_t)(bytes + at), .iov_len = part};
        at += part;
    }
    return tepal_transport_writev(self->transport, pieces, count);
}

static int write_owned(end *self, uint8_t *bytes, size_t length) {
    owned_write *write = &self->writes[self->write_count++];
    *write = (owned_write){.memory = bytes};
    const struct iovec pieces[3] = {{bytes, length / 2}, {NULL, 0}, {bytes + length / 2, length - length / 2}};
    const int code = tepal_transport_write_owned(self->transport, pieces, 3, release, write);
    write->is_accepted = code == 0;
    if (code < 0) {
        CHECK_EQ(write->releases, 0);
        free(bytes);
    }
    return code;
}

void end_write(end *self, size_t length, unsigned way) {
    bool is_noise = self->writing > 0;
    if (is_line(self)) { /* a pipe's bytes are those of an outer end, and nothing else */
        if (is_noise && !is_inner(self)) {
            return;
        }
        is_noise = is_inner(self);
    }
    if (way == 2 && self->write_count == OWNED_WRITES) {
        way = 0;
    }
    uint8_t *bytes = malloc(length + 1);
    for (size_t i = 0; i < length; i++) {
        bytes[i] = is_noise ? NOISE : stream_byte(self->number, self->accepted + i);
    }
    if (!is_noise) {
        mark_edge(self, self->accepted);
        self->accepted += length;
        mark_edge(self, self->accepted);
    }
    self->writing++;
    const int code = way == 0   ? tepal_transport_write(self->transport, bytes, length)
                     : way == 1 ? write_pieces(self, bytes, length)
                                : write_owned(self, bytes, length);
    self->writing--;
    CHECK(code == 0 || code == TEPAL_ECLOSED || code == TEPAL_EPIPE || code == TEPAL_ENOBUFS || code == TEPAL_ENOMEM);
    if (code < 0 && !is_noise) {
        self->accepted -= length;
    }
    if (way != 2) {
        free(bytes);
    }
}

/* ---- Filters ---- */

typedef struct layer {
    tepal_filter filter; /* first */
    end *end;
    uint8_t held[700];
    size_t used;
    unsigned busy; /* inside received: it is freed when that returns */
    bool is_gone, is_told;
} layer;

static void free_layer(layer *self) {
    self->is_gone = true;
    if (self->busy == 0) {
        free(self);
    }
}

/* It is no longer on the transport: told by lost or detach, once. */
static void take_off(layer *self) {
    end *e = self->end;
    unsigned i = 0;
    while (i < e->filter_count && e->filters[i] != &self->filter) {
        i++;
    }
    CHECK_LT(i, e->filter_count);
    e->filter_count--;
    for (; i < e->filter_count; i++) {
        e->filters[i] = e->filters[i + 1];
    }
    free_layer(self);
}

static void layer_lost(tepal_filter *filter, const tepal_error *error) {
    (void)error;
    CHECK_EQ(((layer *)filter)->end->world->calls, 0);
    CHECK(filter == ((layer *)filter)->end->filters[0]); /* the lowest first */
    take_off((layer *)filter);
}

static void layer_detach(tepal_filter *filter) {
    CHECK_EQ(((layer *)filter)->used, 0);
    take_off((layer *)filter);
}

static int layer_pass(layer *self) {
    const struct iovec piece = {.iov_base = self->held, .iov_len = self->used};
    self->used = 0;
    return piece.iov_len == 0 ? 0 : tepal_filter_down_write(&self->filter, &piece, 1);
}

static int layer_write(tepal_filter *filter, const struct iovec *pieces, size_t count) {
    layer *self = (layer *)filter;
    for (size_t i = 0; i < count; i++) {
        int code = pieces[i].iov_len > sizeof self->held - self->used ? layer_pass(self) : 0;
        if (code == 0 && pieces[i].iov_len > sizeof self->held) {
            code = tepal_filter_down_write(filter, &pieces[i], 1);
        } else if (code == 0 && pieces[i].iov_len > 0) {
            memcpy(self->held + self->used, pieces[i].iov_base, pieces[i].iov_len);
            self->used += pieces[i].iov_len;
        }
        if (code < 0) {
            return code;
        }
    }
    return 0;
}

static int layer_write_eof(tepal_filter *filter) {
    (void)layer_pass((layer *)filter);
    return tepal_filter_down_write_eof(filter);
}

static void layer_flush(tepal_filter *filter) {
    (void)layer_pass((layer *)filter);
    tepal_filter_down_flush(filter);
}

static void layer_close(tepal_filter *filter) {
    (void)layer_pass((layer *)filter);
    tepal_filter_down_close(filter);
}

static uint64_t layer_buffered(const tepal_filter *filter) {
    return ((const layer *)filter)->used;
}

/* In two halves, between which much may happen. */
static int64_t layer_received(tepal_filter *filter, const void *data, size_t length) {
    layer *self = (layer *)filter;
    const size_t half = length / 2;
    int64_t used = 0, more;
    self->busy++;
    if (!self->is_told) {
        self->is_told = true;
        tepal_filter_up_established(filter);
    }
    if (half > 0) {
        used = tepal_filter_up_received(filter, data, half);
    }
    if (used == (int64_t)half && !self->is_gone) {
        more = tepal_filter_up_received(filter, (const uint8_t *)data + half, length - half);
        used = more < 0 ? more : used + more;
    }
    self->busy--;
    if (self->is_gone) {
        free_layer(self);
    }
    return used;
}

static int layer_received_eof(tepal_filter *filter) {
    return tepal_filter_up_received_eof(filter);
}

static void layer_writable(tepal_filter *filter) {
    tepal_filter_up_writable(filter);
}

static void layer_pause(tepal_filter *filter) {
    tepal_filter_down_pause(filter);
}

static void layer_resume(tepal_filter *filter) {
    tepal_filter_down_resume(filter);
}

static const tepal_filter_type layer_types[] = {
    {.size = sizeof(tepal_filter_type), .lost = layer_lost, .detach = layer_detach},
    {.size = sizeof(tepal_filter_type),
     .lost = layer_lost,
     .detach = layer_detach,
     .write = layer_write,
     .write_eof = layer_write_eof,
     .flush = layer_flush,
     .close = layer_close,
     .buffered = layer_buffered},
    {.size = sizeof(tepal_filter_type),
     .lost = layer_lost,
     .detach = layer_detach,
     .received = layer_received,
     .received_eof = layer_received_eof,
     .writable = layer_writable,
     .pause = layer_pause,
     .resume = layer_resume},
};

void end_push_filter(end *self, unsigned kind, tepal_future **established) {
    if (self->filter_count >= FILTERS) {
        return;
    }
    layer *made = calloc(1, sizeof *made);
    made->filter.type = &layer_types[kind % 3];
    made->end = self;
    const int code = tepal_transport_push_filter(self->transport, &made->filter, established);
    if (code < 0) {
        CHECK(code == TEPAL_ECLOSED || code == TEPAL_ENOMEM || code == TEPAL_EBUSY);
        free_layer(made);
    } else {
        CHECK_LT(self->filter_count, FILTERS + 4);
        self->filters[self->filter_count++] = &made->filter;
    }
}

void end_pop_filter(end *self) {
    if (self->filter_count > 0) {
        const int code = tepal_transport_pop_filter(self->transport, self->filters[self->filter_count - 1]);
        CHECK(code == 0 || code == TEPAL_ECLOSED);
    }
}

/* ---- Producers ---- */

static void feeder_resume(tepal_producer *producer) {
    feeder *self = (feeder *)producer;
    CHECK(self->is_registered);
    CHECK(!self->is_streaming || self->is_paused);
    self->is_paused = false;
    world_act(self->end->world);
}

static void feeder_pause(tepal_producer *producer) {
    feeder *self = (feeder *)producer;
    CHECK(self->is_registered && self->is_streaming && !self->is_paused);
    self->is_paused = true;
    world_act(self->end->world);
}

static void feeder_stop(tepal_producer *producer) {
    feeder *self = (feeder *)producer;
    CHECK(self->is_registered);
    CHECK_EQ(self->end->world->calls, 0);
    self->is_registered = false;
    world_act(self->end->world);
}

void end_register_producer(end *self, bool streaming) {
    feeder *f = &self->feeder;
    if (f->is_registered) {
        const int code = tepal_transport_register_producer(self->transport, &f->producer, streaming);
        CHECK(code == TEPAL_EBUSY || code == TEPAL_ECLOSED || code == TEPAL_EPIPE);
        return;
    }
    *f = (feeder){.producer = {sizeof f->producer, feeder_resume, feeder_pause, feeder_stop},
                  .end = self,
                  .is_registered = true,
                  .is_streaming = streaming};
    if (tepal_transport_register_producer(self->transport, &f->producer, streaming) < 0) {
        f->is_registered = false;
    }
}

void end_check_over(end *self) {
    CHECK_EQ(self->made, self->transport != NULL);
    CHECK_EQ(self->losts, self->transport != NULL);
    CHECK_EQ(self->released, self->transport != NULL && self->is_borrowed);
    CHECK(!self->feeder.is_registered);
    CHECK_EQ(self->filter_count, 0);
    for (unsigned i = 0; i < self->write_count; i++) {
        CHECK_EQ(self->writes[i].releases, self->writes[i].is_accepted);
    }
}
