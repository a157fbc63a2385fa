/*
 * Filters of random programs. Sieves scramble, and take what comes in portions; they come in pairs that undo each other,
 * so that a byte which passes only one of them is noticed. Gates hold output back for a while, are set up late, and may
 * not be able to end one side.
 */
#include "torture/program.h"

#include <stdlib.h>

struct layer {
    tepal_filter filter; /* first */
    layer *next;         /* among those of its end that are gone */
    layer *under;
    program_end *end;
    bool is_gate, is_gone;
    size_t since, passed; /* of its end's stream: where it was pushed, and what has come by since */

    uint8_t key; /* a sieve's: added going down, taken away coming up */
    size_t portion;

    bool holds, no_half, wants_eof, wants_close, is_set_up; /* a gate's */
    uint8_t *held;
    size_t length, room;
};

static layer *of(tepal_filter *filter) {
    return (layer *)(void *)filter;
}

/* ---- Both ---- */

/* Its received may still be running, and its timer be started: its memory goes with its end's. */
static void gone(layer *self) {
    program_end *end = self->end;

    EXPECT(end->node->program, !self->is_gone && end->layers > 0);
    EXPECT(end->node->program, self->filter.transport == NULL || end_is_closing(end));
    self->is_gone = true;
    self->next = end->gone;
    end->gone = self;
    end->layers--;
    end->top = self->under;
}

/* The lowest one goes first. */
static void layer_lost(tepal_filter *filter, const tepal_error *error) {
    layer *self = of(filter);
    program_end *end = self->end;

    EXPECT(end->node->program, error == NULL || error->code < 0);
    EXPECT(end->node->program, !end->lost);
    if (end->top == self) {
        gone(self);
        return;
    }
    layer *above = end->top;
    while (above->under != self) {
        above = above->under;
        EXPECT(end->node->program, above != NULL);
    }
    layer *top = end->top;
    above->under = self->under;
    gone(self);
    end->top = top;
}

static void layer_detach(tepal_filter *filter) {
    EXPECT(of(filter)->end->node->program, of(filter)->end->top == of(filter));
    gone(of(filter));
}

void end_free_filters(program_end *self) {
    while (self->gone != NULL) {
        layer *one = self->gone;
        self->gone = one->next;
        free(one->held);
        free(one);
    }
}

static int64_t layer_received(tepal_filter *filter, const void *data, size_t length) {
    const layer *self = of(filter);
    const random_program *program = self->end->node->program;
    const uint8_t *from = data;
    uint8_t part[1024];
    size_t used = 0;

    while (used < length && filter->transport != NULL && !tepal_filter_is_paused(filter)) {
        const size_t some = length - used < self->portion ? length - used : self->portion;
        for (size_t i = 0; i < some; i++) {
            part[i] = (uint8_t)(from[used + i] - self->key);
        }
        const int64_t taken = tepal_filter_up_received(filter, part, some);
        if (taken < 0) {
            return taken;
        }
        EXPECT(program, (size_t)taken <= some);
        used += (size_t)taken;
        if ((size_t)taken < some) {
            break;
        }
    }
    return (int64_t)used;
}

/* ---- Sieves ---- */

static int sieve_write(tepal_filter *filter, const struct iovec *pieces, size_t count) {
    layer *self = of(filter);
    uint8_t part[1024];

    for (size_t i = 0; i < count; i++) {
        const uint8_t *from = pieces[i].iov_base;
        self->passed += pieces[i].iov_len;
        for (size_t done = 0; done < pieces[i].iov_len;) {
            const size_t rest = pieces[i].iov_len - done;
            const struct iovec piece = {.iov_base = part, .iov_len = rest < sizeof part ? rest : sizeof part};
            for (size_t k = 0; k < piece.iov_len; k++) {
                part[k] = (uint8_t)(from[done + k] + self->key);
            }
            const int code = tepal_filter_down_write(filter, &piece, 1);
            if (code < 0) {
                return code;
            }
            done += piece.iov_len;
        }
    }
    return 0;
}

static const tepal_filter_type sieve_type = {
    .size = sizeof sieve_type,
    .received = layer_received,
    .write = sieve_write,
    .lost = layer_lost,
    .detach = layer_detach,
};

/* ---- Gates ---- */

static int pass_down(layer *self) {
    const struct iovec piece = {.iov_base = self->held, .iov_len = self->length};

    self->length = 0;
    return piece.iov_len == 0 ? 0 : tepal_filter_down_write(&self->filter, &piece, 1);
}

/* What was held goes on, and what waited for it. */
static void open_gate(layer *self) {
    tepal_transport *transport = self->end->transport;

    if (self->is_gone) {
        return;
    }
    tepal_transport_ref(transport);
    self->holds = false;
    if (!self->is_set_up) {
        self->is_set_up = true;
        tepal_filter_up_established(&self->filter);
    }
    if (!self->is_gone && pass_down(self) == 0 && !self->is_gone) {
        if (self->wants_close) {
            self->wants_close = false;
            tepal_filter_down_close(&self->filter);
        } else if (self->wants_eof) {
            self->wants_eof = false;
            (void)tepal_filter_down_write_eof(&self->filter);
        } else {
            tepal_filter_up_writable(&self->filter);
        }
    }
    tepal_transport_unref(transport);
}

static int gate_write(tepal_filter *filter, const struct iovec *pieces, size_t count) {
    layer *self = of(filter);
    const random_program *program = self->end->node->program;

    EXPECT(program, !self->wants_eof && !self->wants_close);
    for (size_t i = 0; i < count; i++) {
        self->passed += pieces[i].iov_len;
    }
    if (!self->holds) {
        return tepal_filter_down_write(filter, pieces, count);
    }
    for (size_t i = 0; i < count; i++) {
        if (self->length + pieces[i].iov_len > self->room) {
            self->room = 2 * (self->length + pieces[i].iov_len);
            self->held = realloc(self->held, self->room);
            EXPECT(program, self->held != NULL);
        }
        if (pieces[i].iov_len > 0) {
            memcpy(self->held + self->length, pieces[i].iov_base, pieces[i].iov_len);
        }
        self->length += pieces[i].iov_len;
    }
    return 0;
}

static int gate_write_eof(tepal_filter *filter) {
    layer *self = of(filter);

    self->wants_eof = self->length > 0;
    return self->wants_eof ? 0 : tepal_filter_down_write_eof(filter);
}

static void gate_close(tepal_filter *filter) {
    layer *self = of(filter);

    self->wants_close = self->length > 0;
    if (!self->wants_close) {
        tepal_filter_down_close(filter);
    }
}

static bool gate_can_write_eof(const tepal_filter *filter) {
    return !((const layer *)(const void *)filter)->no_half;
}

static uint64_t gate_buffered(const tepal_filter *filter) {
    return ((const layer *)(const void *)filter)->length;
}

static void gate_pause(tepal_filter *filter) {
    tepal_filter_down_pause(filter);
}

static void gate_resume(tepal_filter *filter) {
    tepal_filter_down_resume(filter);
}

static int gate_eof(tepal_filter *filter) {
    return tepal_filter_up_received_eof(filter);
}

static const tepal_filter_type gate_type = {
    .size = sizeof gate_type,
    .received = layer_received,
    .received_eof = gate_eof,
    .write = gate_write,
    .write_eof = gate_write_eof,
    .pause = gate_pause,
    .resume = gate_resume,
    .close = gate_close,
    .lost = layer_lost,
    .detach = layer_detach,
    .can_write_eof = gate_can_write_eof,
    .buffered = gate_buffered,
};

void end_open_gates(program_end *self) {
    for (layer *one = self->top; one != NULL;) {
        layer *under = one->under;
        if (one->is_gate) {
            CALL_VOID(self->node->program, open_gate(one));
        }
        one = under;
    }
}

/* ---- Acts ---- */

static layer *push(program_end *self, layer made, bool sets_up) {
    random_program *program = self->node->program;
    const bool was_closing = end_is_closing(self);
    tepal_future *established;
    layer *kept = malloc(sizeof *kept);

    EXPECT(program, kept != NULL);
    *kept = made;
    kept->end = self;
    kept->under = self->top;
    kept->portion = 1 + (size_t)below(program, 1024);
    kept->is_set_up = !sets_up;
    const int code =
        CALL(program, tepal_transport_push_filter(self->transport, &kept->filter, sets_up ? &established : NULL));
    if (code < 0) {
        const bool is_over = was_closing || self->has_ended || end_is_closing(self);
        EXPECT(program, is_over ? code == TEPAL_ECLOSED || code == TEPAL_ENOMEM
                                : (code == TEPAL_EBUSY && sets_up) || !worked(program, code));
        free(kept);
        return NULL;
    }
    self->layers++;
    self->top = kept;
    end_take_pipe(self);
    kept->since = self->written;
    if (sets_up) {
        track(self->node, established, IS_ESTABLISHED)->end = self;
    }
    return kept;
}

void act_push(program_node *node, program_end *self) {
    random_program *program = node->program;
    const uint8_t key = (uint8_t)below(program, 256);
    const layer one = {.filter.type = &sieve_type, .key = key};
    const layer other = {.filter.type = &sieve_type, .key = (uint8_t)-key};

    if (self->layers < 4 && !self->lost && push(self, one, false) != NULL && push(self, other, false) == NULL &&
        !end_is_closing(self)) {
        end_abort(self, TEPAL_ENOMEM);
    }
}

void act_gate(program_node *node, program_end *self) {
    random_program *program = node->program;
    const layer made = {.filter.type = &gate_type,
                        .is_gate = true,
                        .holds = !chance(program, 4),
                        .no_half = chance(program, 4) && !self->has_ended};

    if (self->top != NULL && self->top->is_gate && chance(program, 2)) {
        CALL_VOID(program, open_gate(self->top));
    } else if (self->layers < 4 && !self->lost) {
        (void)push(self, made, chance(program, 3));
    }
}

/* Not while its bytes are on their way up: those that have passed one of a pair could not pass the other. */
void act_pop(program_node *node, program_end *self) {
    random_program *program = node->program;
    const int count = self->top != NULL && self->top->is_gate ? 1 : 2;

    for (int i = 0; i < count && self->layers > 0 && self->in_data == 0; i++) {
        const bool was_closing = end_is_closing(self);
        const layer *top = self->top;
        const int code = CALL(program, tepal_transport_pop_filter(self->transport, &self->top->filter));
        if (code == TEPAL_EBUSY) {
            EXPECT(program, top->is_gate && top->length > 0);
        } else if (code < 0) {
            EXPECT(program, code == TEPAL_ECLOSED && (was_closing || end_is_closing(self)));
        } else {
            /* What was written before it was pushed went below it, what came since has passed. */
            EXPECT(program, top->is_gone);
            end_take_pipe(self);
            EXPECT_EQ(program, top->passed, self->written - top->since);
        }
        if (code < 0) {
            return;
        }
    }
}
