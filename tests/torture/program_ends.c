/*
 * The two ends of a connection. Each keeps what it has written on a tape, and what the other is told is compared with
 * it: always a prefix, and the whole of it where the stream has ended. What is on a tape is by chance, behind a number
 * that tells the peer whose it is.
 */
#include "torture/program.h"

#include <stdlib.h>

static program_end *of(tepal_protocol *protocol) {
    return ((face *)(void *)protocol)->end;
}

static program_node *node_of(const program_end *self) {
    return self->node;
}

bool end_is_closing(const program_end *self) {
    return tepal_transport_is_closing(self->transport);
}

static uint64_t turns_of(const program_node *node) {
    tepal_loop_stats stats = {.size = sizeof stats};
    EXPECT_EQ(node->program, tepal_loop_get_stats(node->loop, &stats), 0);
    return stats.turns;
}

/* ---- Closing ---- */

void end_close(program_end *self) {
    self->has_closed = true;
    CALL_VOID(self->node->program, tepal_transport_close(self->transport));
    EXPECT(self->node->program, end_is_closing(self));
}

/* It is being aborted: with which code it is to be lost, unless it was ending already. */
static void note_abort(program_end *self, int code) {
    self->may_discard = self->may_discard || code == 0;
    if (end_is_closing(self)) {
        self->may_end = true;
    } else if (!self->was_aborted) {
        self->was_aborted = true;
        self->abort_code = code;
    }
}

void end_abort(program_end *self, int code) {
    note_abort(self, code);
    CALL_VOID(self->node->program, tepal_transport_abort(self->transport, code));
    EXPECT(self->node->program, end_is_closing(self));
}

/* ---- Pipes ---- */

void end_take_pipe(program_end *self) {
    const tracked *pipe = self->feeds;
    random_program *program = self->node->program;

    if (pipe == NULL) {
        return;
    }
    const size_t total = (size_t)tepal_pipe_bytes(pipe->future);
    EXPECT(program, total >= self->fed_from);
    const size_t length = total - self->fed_from;
    if (length == 0) {
        return;
    }
    program_end *source = pipe->end;
    EXPECT(program, source->delivered + length <= source->peer->written);
    end_make_room(self, length);
    memcpy(self->tape + self->written, source->peer->tape + source->delivered, length);
    self->written += length;
    self->fed_from = total;
    source->delivered += length;
}

void end_pipe_done(tracked *pipe) {
    program_end *source = pipe->end, *sink = pipe->sink;
    void *value;

    if (source->reads != pipe) {
        return;
    }
    end_take_pipe(sink);
    source->reads = NULL;
    sink->feeds = NULL;
    sink->fed_from = 0;
    if (tepal_future_result(pipe->future, &value) == 0) {
        const tepal_pipe_result *result = value;
        EXPECT_EQ(source->node->program, result->bytes, tepal_pipe_bytes(pipe->future));
        if (result->eof) {
            source->eof = true;
        }
        sink->has_ended = sink->has_ended || (!pipe->was_canceled && pipe->worked == 0);
    }
}

/* A pipe may have ended without its callback having run. */
void end_look_at_pipes(program_end *self) {
    if (self->reads != NULL && tepal_future_is_done(self->reads->future)) {
        end_pipe_done(self->reads);
    }
    if (self->feeds != NULL && tepal_future_is_done(self->feeds->future)) {
        end_pipe_done(self->feeds);
    }
}

/* ---- What it is told ---- */

static const program_node *told(program_end *self, tepal_protocol *protocol, bool may_be_inside) {
    random_program *program = self->node->program;
    const program_node *before = upcall_begins(node_of(self), may_be_inside);

    EXPECT(program, self->made);
    EXPECT(program, !self->lost);
    EXPECT(program, protocol == &self->faces[self->current].protocol);
    end_look_at_pipes(self);
    return before;
}

/* What an upcall returns: mostly 0, else a code that aborts the transport. */
static int answer(program_end *self, int ordinary) {
    random_program *program = self->node->program;

    if (program->is_calm || !chance(program, 150)) {
        return ordinary;
    }
    const int code = TEPAL_ERROR(TEPAL_DOMAIN_USER, 1 + (int)below(program, 9));
    note_abort(self, code);
    return code;
}

static int end_made(tepal_protocol *protocol, tepal_transport *transport) {
    program_end *self = of(protocol);
    random_program *program = self->node->program;
    const program_node *before = upcall_begins(self->node, false);

    EXPECT(program, !self->made && !self->lost);
    self->made = true;
    self->made_turn = turns_of(self->node);
    if (self->transport == NULL) {
        self->transport = tepal_transport_ref(transport);
    }
    EXPECT(program, self->transport == transport);
    EXPECT(program, tepal_transport_loop(transport) == self->node->loop);
    end_write_some(self, HEADER + (size_t)below(program, 20));
    act_now(self->node, self, false);
    const int code = answer(self, 0);
    upcall_ends(self->node, before);
    return code;
}

static program_end *find(const random_program *program, unsigned id) {
    for (program_end *one = program->ends; one != NULL; one = one->next) {
        if (one->id == id) {
            return one;
        }
    }
    return NULL;
}

static void meet(program_end *self) {
    random_program *program = self->node->program;
    unsigned id = 0;

    for (size_t i = 0; i < HEADER; i++) {
        id |= (unsigned)self->head[i] << (8 * i);
    }
    program_end *peer = find(program, id);
    EXPECT(program, peer != NULL && peer != self);
    EXPECT(program, peer->peer == NULL || peer->peer == self);
    EXPECT(program, self->peer == NULL || self->peer == peer);
    self->peer = peer;
    peer->peer = self;
}

static void take(program_end *self, const uint8_t *data, size_t length) {
    random_program *program = self->node->program;

    while (self->peer == NULL && length > 0) {
        self->head[self->delivered++] = *data++;
        length--;
        if (self->delivered == HEADER) {
            meet(self);
        }
    }
    if (length == 0) {
        return;
    }
    const program_end *peer = self->peer;
    EXPECT(program, self->delivered + length <= peer->written);
    EXPECT(program, memcmp(data, peer->tape + self->delivered, length) == 0);
    self->delivered += length;
}

/* Data or EOF may be told. */
static void check_inbound(const program_end *self) {
    random_program *program = self->node->program;

    EXPECT(program, !self->eof);
    EXPECT(program, !self->has_closed);
    EXPECT(program, !self->was_aborted);
    EXPECT(program, !end_is_closing(self));
    EXPECT(program, !self->wants_no_data);
    EXPECT(program, self->reads == NULL);
    EXPECT(program, turns_of(self->node) > self->made_turn);
}

static int end_data(tepal_protocol *protocol, const void *data, size_t length) {
    program_end *self = of(protocol);
    const program_node *before = told(self, protocol, false);

    EXPECT(self->node->program, length > 0);
    check_inbound(self);
    take(self, data, length);
    self->in_data++;
    act_now(self->node, self, false);
    self->in_data--;
    const int code = answer(self, 0);
    upcall_ends(self->node, before);
    return code;
}

static int end_get_buffer(tepal_protocol *protocol, size_t hint, void **buffer, size_t *length) {
    program_end *self = of(protocol);
    random_program *program = self->node->program;
    const program_node *before = told(self, protocol, false);

    EXPECT(program, hint > 0);
    check_inbound(self);
    *buffer = self->lent;
    *length = 1 + (size_t)below(program, chance(program, 3) ? 20 : sizeof self->lent);
    if (protocol->type == &end_types[2] && chance(program, 3)) {
        *length = 0; /* to data_received */
    }
    memset(self->lent, 0xee, sizeof self->lent);
    self->in_data++;
    if (chance(program, 8)) {
        act_now(self->node, self, false);
    }
    self->in_data--;
    const int code = answer(self, 0);
    upcall_ends(self->node, before);
    return code;
}

static int end_filled(tepal_protocol *protocol, size_t length) {
    program_end *self = of(protocol);
    const program_node *before = told(self, protocol, false);

    EXPECT(self->node->program, length > 0 && length <= sizeof self->lent);
    check_inbound(self);
    take(self, self->lent, length);
    self->in_data++;
    act_now(self->node, self, false);
    self->in_data--;
    const int code = answer(self, 0);
    upcall_ends(self->node, before);
    return code;
}

static int end_eof(tepal_protocol *protocol) {
    program_end *self = of(protocol);
    random_program *program = self->node->program;
    const program_node *before = told(self, protocol, false);

    check_inbound(self);
    self->eof = true;
    act_now(self->node, self, false);
    int code = answer(self, chance(program, 2) ? TEPAL_KEEP_OPEN : 0);
    /* One that cannot half-close is closed either way. */
    if (code == 0 || (code > 0 && (self->has_ended || !tepal_transport_can_write_eof(self->transport)))) {
        self->has_closed = true;
    }
    upcall_ends(self->node, before);
    return code;
}

static void end_pauses(tepal_protocol *protocol) {
    program_end *self = of(protocol);
    random_program *program = self->node->program;
    const program_node *before = told(self, protocol, true);
    uint64_t high;

    EXPECT(program, !self->is_paused);
    tepal_transport_get_write_limits(self->transport, &high, NULL, NULL);
    /* A protocol that is put on a paused transport is told so, whatever has left meanwhile. */
    EXPECT(program, self->is_swapping || tepal_transport_write_buffer_size(self->transport) > high);
    self->is_paused = true;
    if (chance(program, 4)) {
        act_now(self->node, self, true);
    }
    upcall_ends(self->node, before);
}

static void end_resumes(tepal_protocol *protocol) {
    program_end *self = of(protocol);
    random_program *program = self->node->program;
    const program_node *before = told(self, protocol, true);
    uint64_t low;

    EXPECT(program, self->is_paused);
    tepal_transport_get_write_limits(self->transport, NULL, &low, NULL);
    EXPECT(program, tepal_transport_write_buffer_size(self->transport) <= low);
    self->is_paused = false;
    if (chance(program, 2)) {
        act_now(self->node, self, true);
    }
    upcall_ends(self->node, before);
}

static void end_lost(tepal_protocol *protocol, const tepal_error *error) {
    program_end *self = of(protocol);
    random_program *program = self->node->program;
    const program_node *before = told(self, protocol, false);

    self->lost_code = error == NULL ? 0 : error->code;
    EXPECT(program, error == NULL || error->code < 0);
    EXPECT(program, tepal_transport_is_closing(self->transport));
    EXPECT(program, error != NULL || self->may_discard || tepal_transport_write_buffer_size(self->transport) == 0);
    if (self->was_aborted) {
        EXPECT(program, self->lost_code == self->abort_code || self->node->is_closing);
    } else if (error == NULL) {
        EXPECT(program, self->has_closed || (self->eof && self->has_ended) || self->may_end);
    } else if (error->code == TEPAL_ECLOSED) {
        EXPECT(program, self->may_end || self->node->is_closing);
    }
    self->lost = self->is_losing = true;
    if (!self->node->is_closing) {
        act_now(self->node, self, false);
    }
    self->is_losing = false;
    upcall_ends(self->node, before);
}

const tepal_protocol_type end_types[MOST_FACES] = {
    {.size = sizeof(tepal_protocol_type),
     .connection_made = end_made,
     .data_received = end_data,
     .eof_received = end_eof,
     .pause_writing = end_pauses,
     .resume_writing = end_resumes,
     .connection_lost = end_lost},
    {.size = sizeof(tepal_protocol_type),
     .connection_made = end_made,
     .get_buffer = end_get_buffer,
     .buffer_updated = end_filled,
     .eof_received = end_eof,
     .pause_writing = end_pauses,
     .resume_writing = end_resumes,
     .connection_lost = end_lost},
    {.size = sizeof(tepal_protocol_type),
     .connection_made = end_made,
     .data_received = end_data,
     .get_buffer = end_get_buffer,
     .buffer_updated = end_filled,
     .eof_received = end_eof,
     .pause_writing = end_pauses,
     .resume_writing = end_resumes,
     .connection_lost = end_lost},
};

/* ---- Its life ---- */

program_end *end_new(program_node *node, program_place *place) {
    random_program *program = node->program;
    program_end *made = calloc(1, sizeof *made);

    EXPECT(program, made != NULL);
    made->node = node;
    made->place = place;
    made->id = ++program->end_count;
    made->current = (int)below(program, MOST_FACES);
    for (int i = 0; i < MOST_FACES; i++) {
        made->faces[i] = (face){.protocol.type = &end_types[i], .end = made};
    }
    made->next = program->ends;
    program->ends = made;
    return made;
}

/* One factory in thirty refuses. */
static int enter(program_end *self, tepal_protocol **protocol) {
    *protocol = &self->faces[self->current].protocol;
    return 0;
}

int end_connects(void *argument, tepal_protocol **protocol) {
    program_end *self = argument;
    random_program *program = self->node->program;

    EXPECT(program, !self->made);
    EXPECT_EQ(program, program->calls, 0);
    return !program->is_calm && chance(program, 30) ? TEPAL_ERROR(TEPAL_DOMAIN_USER, 77) : enter(self, protocol);
}

int end_accepts(void *argument, tepal_protocol **protocol) {
    program_place *place = argument;
    random_program *program = place->node->program;

    EXPECT_EQ(program, program->calls, 0);
    if (!program->is_calm && chance(program, 30)) {
        return TEPAL_ERROR(TEPAL_DOMAIN_USER, 78);
    }
    program_end *self = end_new(place->node, place);
    return enter(self, protocol);
}

void end_check(const program_end *self) {
    random_program *program = self->node->program;

    if (!self->made || self->node->has_crashed || self->node->is_closed) {
        return;
    }
    if (self->lost) {
        EXPECT(program, tepal_transport_protocol(self->transport) == NULL);
        return;
    }
    EXPECT(program, tepal_transport_protocol(self->transport) != NULL);
    if (self->has_closed || self->was_aborted) {
        EXPECT(program, end_is_closing(self));
    }
    if (!end_is_closing(self) && self->reads == NULL) {
        EXPECT_EQ(program, tepal_transport_is_reading(self->transport), !self->eof && !self->wants_no_data);
    }
    end_check_marks(self);
}

void end_check_last(const program_end *self) {
    random_program *program = self->node->program;
    const program_end *peer = self->peer;

    EXPECT_EQ(program, self->made, self->lost);
    EXPECT_EQ(program, self->owned, 0);
    if (!self->made || peer == NULL) {
        return;
    }
    EXPECT(program, self->delivered <= peer->written);
    const bool is_cut = peer->lost_code != 0 || peer->was_aborted || peer->may_end || peer->node->has_crashed;
    if (self->eof && !is_cut) {
        EXPECT_EQ(program, self->delivered, peer->written);
        EXPECT(program, peer->has_ended || peer->has_closed);
    }
}

void end_give_back(program_end *self) {
    tepal_transport_unref(self->transport);
    end_free_filters(self);
    free(self->tape);
    free(self->feeder);
    free(self);
}
