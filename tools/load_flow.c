/* One connection of the load generator: sends messages, and compares what comes back byte by byte.
 *
 * All connections send the same pseudo-random text, each from a place of its own on and over and over. Its period is a
 * prime, so no message length falls into step with it: bytes that are lost, repeated, swapped or from another
 * connection are seen. */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PERIOD_BYTES = 65521,     /* prime */
    CHUNK_BYTES = 128 * 1024, /* most that is written or compared at once */
    PLACE_STEP = 7919,        /* between the places where two connections begin */
};

static const unsigned char *text_at(const load_flow *self, uint64_t position) {
    return self->load->text + (self->start + position) % PERIOD_BYTES;
}

static uint64_t count_differences(const unsigned char *left, const unsigned char *right, size_t length) {
    uint64_t count = 0;
    for (size_t at = 0; at < length; at++)
        count += left[at] != right[at];
    return count;
}

/* Compare what came with what was sent in its place. What comes without having been sent is wrong as a whole. */
static void check(load_flow *self, const unsigned char *data, size_t length) {
    uint64_t expected = self->sent - self->echoed;
    if (length > expected) {
        self->wrong += length - expected;
        length = (size_t)expected;
    }
    while (length > 0) {
        size_t part = length < CHUNK_BYTES ? length : CHUNK_BYTES;
        const unsigned char *wanted = text_at(self, self->echoed);
        if (memcmp(data, wanted, part) != 0)
            self->wrong += count_differences(data, wanted, part);
        self->echoed += part;
        data += part;
        length -= part;
    }
}

/* Hand begun messages to the transport until it asks for a pause. A write fails only on a connection that is ending;
 * what was not sent is then not counted as sent, and the message as never completed. */
static void send_unsent(load_flow *self) {
    while (self->unsent > 0 && !self->paused) {
        size_t part = self->unsent < CHUNK_BYTES ? (size_t)self->unsent : CHUNK_BYTES;
        const unsigned char *data = text_at(self, self->sent);
        self->unsent -= part;
        self->sent += part;
        if (tepal_transport_write(self->transport, data, part) < 0) {
            self->sent -= part;
            return;
        }
    }
}

void flow_go_on(load_flow *self) {
    load_run *load = self->load;
    if (self->transport == NULL || self->ended)
        return;
    if (load->phase == LOAD_RUNNING && self->begun - self->completed < load->depth) {
        int64_t now_ns = tepal_loop_time(load->loop);
        while (self->begun - self->completed < load->depth) {
            self->begun_ns[self->begun++ % load->depth] = now_ns;
            self->unsent += load->size;
        }
        send_unsent(self);
    }
    if (load->phase >= LOAD_DRAINING && self->begun == self->completed) {
        self->ended = true;
        if (tepal_transport_write_eof(self->transport) == TEPAL_ENOTSUP) /* TLS 1.2 ends both ways at once */
            tepal_transport_close(self->transport);
    }
}

static int connection_made(tepal_protocol *protocol, tepal_transport *transport) {
    load_flow *self = (load_flow *)protocol;
    self->transport = transport;
    load_connected(self->load, transport);
    return 0;
}

static int data_received(tepal_protocol *protocol, const void *data, size_t length) {
    load_flow *self = (load_flow *)protocol;
    load_run *load = self->load;
    check(self, data, length);
    if (self->begun > self->completed && self->echoed >= (self->completed + 1) * load->size) {
        int64_t now_ns = tepal_loop_time(load->loop);
        while (self->begun > self->completed && self->echoed >= (self->completed + 1) * load->size) {
            int64_t taken_ns = now_ns - self->begun_ns[self->completed++ % load->depth];
            histogram_add(&load->latencies, (uint64_t)taken_ns);
            load->messages++;
        }
        flow_go_on(self);
    }
    return 0;
}

static void pause_writing(tepal_protocol *protocol) {
    ((load_flow *)protocol)->paused = true;
}

static void resume_writing(tepal_protocol *protocol) {
    load_flow *self = (load_flow *)protocol;
    self->paused = false;
    send_unsent(self);
}

/* The orderly end: we ended our side once every echo was back, and the server ended its own. */
static void connection_lost(tepal_protocol *protocol, const tepal_error *error) {
    load_flow *self = (load_flow *)protocol;
    load_run *load = self->load;
    if (!self->ended || error != NULL) {
        load->lost++;
        if (load->first_error[0] == '\0')
            snprintf(load->first_error, sizeof load->first_error, "%s",
                     error == NULL ? "the server closed the connection" : error->text);
    }
    self->transport = NULL;
    load_disconnected(load);
}

static const tepal_protocol_type flow_type = {
    .size = sizeof flow_type,
    .connection_made = connection_made,
    .data_received = data_received,
    .pause_writing = pause_writing,
    .resume_writing = resume_writing,
    .connection_lost = connection_lost,
};

int flow_factory(void *argument, tepal_protocol **protocol) {
    load_flow *self = argument;
    *protocol = &self->protocol;
    return 0;
}

static void fill_text(unsigned char *text) {
    uint64_t state = 88172645463325252;
    for (size_t at = 0; at < PERIOD_BYTES; at++) {
        state ^= state << 13; /* xorshift64 */
        state ^= state >> 7;
        state ^= state << 17;
        text[at] = (unsigned char)(state >> 32);
    }
    for (size_t at = PERIOD_BYTES; at < PERIOD_BYTES + CHUNK_BYTES; at++)
        text[at] = text[at - PERIOD_BYTES];
}

int load_make_flows(load_run *self) {
    self->text = malloc(PERIOD_BYTES + CHUNK_BYTES);
    self->flows = calloc(self->connections, sizeof *self->flows);
    if (self->text == NULL || self->flows == NULL)
        return TEPAL_ENOMEM;
    fill_text(self->text);
    for (uint64_t index = 0; index < self->connections; index++) {
        load_flow *flow = &self->flows[index];
        flow->protocol.type = &flow_type;
        flow->load = self;
        flow->start = index * PLACE_STEP;
        flow->begun_ns = calloc(self->depth, sizeof *flow->begun_ns);
        if (flow->begun_ns == NULL)
            return TEPAL_ENOMEM;
    }
    return 0;
}

void load_free_flows(load_run *self) {
    for (uint64_t index = 0; self->flows != NULL && index < self->connections; index++)
        free(self->flows[index].begun_ns);
    free(self->flows);
    free(self->text);
}
