/*
 * What a random program may do: the table of acts, which of them a seed uses, and those on a connection's end. An act
 * is one call of the library's, or a few, with what the model must know of it.
 */
#include "torture/program.h"

#include <stdlib.h>

/* ---- Producers ---- */

static void feed_resume(tepal_producer *producer) {
    program_feeder *self = (program_feeder *)(void *)producer;
    random_program *program = self->end->node->program;

    EXPECT(program, self->is_registered);
    EXPECT(program, !self->end->lost && !self->end->has_ended);
    if (self->is_push) {
        EXPECT(program, self->is_paused);
        self->is_paused = false;
    }
    if (self->portions-- > 0) {
        end_write_some(self->end, 1 + (size_t)below(program, program->most_bytes));
    } else if (self->is_registered) {
        self->is_registered = false;
        EXPECT_EQ(program, CALL(program, tepal_transport_unregister_producer(self->end->transport)), 0);
    }
}

static void feed_pause(tepal_producer *producer) {
    program_feeder *self = (program_feeder *)(void *)producer;

    EXPECT(self->end->node->program, self->is_registered && self->is_push && !self->is_paused);
    self->is_paused = true;
}

static void feed_stop(tepal_producer *producer) {
    program_feeder *self = (program_feeder *)(void *)producer;

    EXPECT(self->end->node->program, self->is_registered);
    EXPECT(self->end->node->program, end_is_closing(self->end));
    self->is_registered = false;
}

static void act_producer(program_node *node, program_end *self) {
    random_program *program = node->program;

    if (self->feeder == NULL) {
        self->feeder = calloc(1, sizeof *self->feeder);
        EXPECT(program, self->feeder != NULL);
    }
    program_feeder *feeder = self->feeder;
    if (feeder->is_registered) {
        feeder->is_registered = false;
        EXPECT_EQ(program, CALL(program, tepal_transport_unregister_producer(self->transport)), 0);
        return;
    }
    const bool was_closing = end_is_closing(self), had_ended = self->has_ended;
    feeder->producer = (tepal_producer){
        .size = sizeof feeder->producer, .resume = feed_resume, .pause = feed_pause, .stop = feed_stop};
    feeder->end = self;
    feeder->is_push = chance(program, 2);
    feeder->is_paused = false;
    feeder->portions = (int)below(program, 6);
    feeder->is_registered = true;
    const int code =
        CALL(program, tepal_transport_register_producer(self->transport, &feeder->producer, feeder->is_push));
    if (code < 0) {
        feeder->is_registered = false;
        if (was_closing || had_ended) {
            EXPECT_EQ(program, code, was_closing ? TEPAL_ECLOSED : TEPAL_EPIPE);
        } else {
            EXPECT(program, (code == TEPAL_EBUSY && self->feeds != NULL) || !worked(program, code));
        }
    }
}

/* ---- Acts on an end ---- */

static void act_write(program_node *node, program_end *self) {
    end_write_some(self, 1 + (size_t)below(node->program, chance(node->program, 4) ? node->program->most_bytes : 40));
}

static void act_flush(program_node *node, program_end *self) {
    const bool was_closing = end_is_closing(self);
    const int code = CALL(node->program, tepal_transport_flush(self->transport));
    EXPECT(node->program, code == 0 || (was_closing && code == TEPAL_ECLOSED));
}

static void act_write_eof(program_node *node, program_end *self) {
    random_program *program = node->program;

    if (self->feeds != NULL) {
        return; /* the pipe's */
    }
    const bool was_closing = end_is_closing(self);
    const bool had_ended = self->has_ended;
    const bool can = CALL(program, tepal_transport_can_write_eof(self->transport));
    self->is_ending = true;
    const int code = CALL(program, tepal_transport_write_eof(self->transport));
    self->is_ending = false;
    if (was_closing) {
        EXPECT_EQ(program, code, TEPAL_ECLOSED);
    } else if (!can && !had_ended) {
        EXPECT_EQ(program, code, TEPAL_ENOTSUP);
        return;
    } else {
        EXPECT_EQ(program, code, 0);
    }
    self->has_ended = true;
    self->has_closed = self->has_closed || (self->eof && code == 0);
}

static void act_pause(program_node *node, program_end *self) {
    const bool was_closing = end_is_closing(self);
    const int code = CALL(node->program, tepal_transport_pause_reading(self->transport));
    EXPECT(node->program, was_closing ? code == TEPAL_ECLOSED : code == 0);
    self->wants_no_data = self->wants_no_data || code == 0;
}

static void act_resume(program_node *node, program_end *self) {
    const bool was_closing = end_is_closing(self);
    const int code = CALL(node->program, tepal_transport_resume_reading(self->transport));
    EXPECT(node->program, was_closing ? code == TEPAL_ECLOSED : code == 0);
    self->wants_no_data = self->wants_no_data && code != 0;
}

static void act_close(program_node *node, program_end *self) {
    (void)node;
    end_close(self);
}

static void act_abort(program_node *node, program_end *self) {
    end_abort(self, chance(node->program, 4) ? 0 : TEPAL_ERROR(TEPAL_DOMAIN_USER, 100 + (int)below(node->program, 9)));
}

static void act_set_protocol(program_node *node, program_end *self) {
    random_program *program = node->program;
    const bool was_paused = self->is_paused;
    const int before = self->current;
    tepal_protocol *old = NULL;

    self->current = (self->current + 1 + (int)below(program, MOST_FACES - 1)) % MOST_FACES;
    self->is_paused = false;
    self->is_swapping = true;
    const int code =
        CALL(program, tepal_transport_set_protocol(self->transport, &self->faces[self->current].protocol, &old));
    self->is_swapping = false;
    EXPECT_EQ(program, code, self->lost ? TEPAL_ECLOSED : 0);
    if (code < 0) {
        EXPECT(program, old == NULL);
        self->current = before;
        self->is_paused = was_paused;
    } else {
        EXPECT(program, old == &self->faces[before].protocol);
        EXPECT_EQ(program, self->is_paused, was_paused);
    }
}

static void act_limits(program_node *node, program_end *self) {
    random_program *program = node->program;
    const bool was_closing = end_is_closing(self);
    const uint64_t high = chance(program, 4) ? 0 : below(program, 2 * program->most_bytes);
    const uint64_t low = high == 0 ? 0 : below(program, high + 1);
    const uint64_t cap = chance(program, 3) ? UINT64_MAX : high + below(program, 4 * program->most_bytes);
    const int code = CALL(program, tepal_transport_set_write_limits(self->transport, high, low, cap));

    EXPECT(program, (was_closing && code == TEPAL_ECLOSED) || !worked(program, code) || !self->lost);
    if (!was_closing) {
        const int wrong = CALL(program, tepal_transport_set_write_limits(self->transport, 2, 3, 9));
        EXPECT(program, wrong == TEPAL_EINVAL || (wrong == TEPAL_ECLOSED && end_is_closing(self)));
    }
}

static void act_drain(program_node *node, program_end *self) {
    tepal_future *future;
    const bool was_lost = self->lost;
    const int code = CALL(node->program, tepal_transport_drain(self->transport, &future));

    if (code == 0) {
        EXPECT(node->program, !was_lost);
        track(node, future, IS_DRAIN)->end = self;
    } else {
        EXPECT(node->program, (code == TEPAL_ECLOSED && end_is_closing(self)) || !worked(node->program, code));
    }
}

/* Everything it has is read and sent on by another end of the same host. */
static void act_pipe(program_node *node, program_end *source) {
    random_program *program = node->program;
    tepal_future *future;

    program_end *sink = program->ends;
    for (uint64_t skip = below(program, 6); sink != NULL && (sink->node != node || !sink->made || skip-- > 0);) {
        sink = sink->next;
    }
    if (sink == NULL || sink == source || source->peer == NULL || source->reads != NULL || sink->feeds != NULL ||
        sink->written < HEADER || source->lost || sink->lost || sink->peer == source) {
        return;
    }
    const bool keep = chance(program, 3);
    const int code = CALL(program, tepal_pipe(source->transport, sink->transport,
                                              TEPAL_OPTIONS(tepal_pipe_options, .keep_sink_open = keep), &future));
    if (code == 0) {
        tracked *pipe = track(node, future, IS_PIPE);
        pipe->end = source;
        pipe->sink = sink;
        pipe->worked = keep;
        source->reads = pipe;
        sink->feeds = pipe;
        source->may_end = sink->may_end = true;
        return;
    }
    const bool is_ending = end_is_closing(source) || end_is_closing(sink);
    const bool is_busy = sink->feeder != NULL && sink->feeder->is_registered;
    EXPECT(program, (code == TEPAL_ECLOSED && is_ending) || (code == TEPAL_EBUSY && is_busy) ||
                        (code == TEPAL_EPIPE && sink->has_ended) || !worked(program, code));
}

static void act_ask(program_node *node, program_end *self) {
    random_program *program = node->program;
    tepal_address address;
    const void *answer;

    const int code = CALL(program, tepal_transport_peer(self->transport, &address));
    EXPECT(program, self->lost && !self->is_losing ? code == TEPAL_ECLOSED : code <= 0);
    EXPECT_EQ(program, CALL(program, tepal_transport_info(self->transport, "nothing", &answer)),
              self->lost ? TEPAL_ECLOSED : TEPAL_ENOENT);
    (void)CALL(program, tepal_transport_set_no_delay(self->transport, chance(program, 2)));
    (void)CALL(program, tepal_transport_set_keep_alive(self->transport, chance(program, 2), 1, 1, 3));
    (void)CALL(program, tepal_transport_local(self->transport, &address));
    EXPECT(program, self->lost || tepal_transport_fd(self->transport) >= 0);
}

/* ---- The table ---- */

enum {
    ON_END = 1, /* on an end that has been made, perhaps lost since */
    INSIDE = 2, /* may be done by pause_writing and resume_writing too */
};

struct act {
    const char *name;
    unsigned weight, flags;
    void (*run)(program_node *node, program_end *end);
};

static const act table[] = {
    {"write", 30, ON_END | INSIDE, act_write},
    {"flush", 4, ON_END, act_flush},
    {"write_eof", 3, ON_END, act_write_eof},
    {"pause", 5, ON_END, act_pause},
    {"resume", 10, ON_END, act_resume},
    {"close", 2, ON_END | INSIDE, act_close},
    {"abort", 1, ON_END | INSIDE, act_abort},
    {"set_protocol", 4, ON_END, act_set_protocol},
    {"limits", 3, ON_END, act_limits},
    {"drain", 4, ON_END, act_drain},
    {"push", 3, ON_END, act_push},
    {"gate", 4, ON_END, act_gate},
    {"pop", 2, ON_END, act_pop},
    {"producer", 4, ON_END, act_producer},
    {"pipe", 4, ON_END, act_pipe},
    {"ask", 2, ON_END, act_ask},
    {"call_soon", 8, 0, act_call_soon},
    {"call_later", 8, 0, act_call_later},
    {"cancel_call", 4, 0, act_cancel_call},
    {"timer", 8, 0, act_timer},
    {"post", 4, 0, act_post},
    {"promise", 3, 0, act_promise},
    {"deaf", 1, 0, act_forget_callback},
    {"settle", 4, 0, act_settle},
    {"combine", 4, 0, act_combine},
    {"cancel_future", 2, 0, act_cancel_future},
    {"executor", 3, 0, act_executor},
    {"names", 2, 0, act_names},
    {"interrupt", 1, 0, act_interrupt},
    {"stats", 1, 0, act_stats},
    {"listen", 4, 0, act_listen},
    {"connect", 12, 0, act_connect},
    {"adopt", 3, 0, act_adopt},
    {"server", 2, 0, act_server},
    {"fault", 2, 0, act_fault},
    {"close_loop", 1, 0, act_close_loop},
    {"crash", 1, 0, act_crash},
};
enum { ACTS = sizeof table / sizeof *table };
_Static_assert(ACTS <= sizeof((random_program *)0)->acts / sizeof(bool), "room for all acts");

uint64_t act_counts[64];

const char *act_name(int number) {
    return number < ACTS ? table[number].name : NULL;
}

/* Each seed goes without some: what is always done hides what only shows without it. */
void acts_choose(random_program *self) {
    for (int i = 0; i < ACTS; i++) {
        self->acts[i] = !chance(self, 4);
    }
}

static program_end *choose_end(const program_node *node) {
    random_program *program = node->program;
    program_end *chosen = NULL;
    uint64_t seen = 0;

    for (program_end *one = program->ends; one != NULL; one = one->next) {
        if (one->node == node && one->made && (!one->lost || chance(program, 8)) && below(program, ++seen) == 0) {
            chosen = one;
        }
    }
    return chosen;
}

static bool may_do(const random_program *program, int number, const program_end *end, bool inside) {
    return program->acts[number] && (!inside || (table[number].flags & INSIDE) != 0) &&
           ((table[number].flags & ON_END) == 0 || end != NULL);
}

static void act_once(program_node *node, program_end *end, bool inside) {
    random_program *program = node->program;
    uint64_t total = 0;

    for (int i = 0; i < ACTS; i++) {
        total += may_do(program, i, end, inside) ? table[i].weight : 0;
    }
    if (total == 0) {
        return;
    }
    uint64_t left = below(program, total);
    for (int i = 0; i < ACTS; i++) {
        const unsigned weight = may_do(program, i, end, inside) ? table[i].weight : 0;
        if (left < weight) {
            act_counts[i]++;
            if ((table[i].flags & ON_END) != 0) {
                end_look_at_pipes(end);
            }
            table[i].run(node, end);
            return;
        }
        left -= weight;
    }
}

/* Another host whose loop rests: it may be acted on from here, as a test would. */
static program_node *idle_node(program_node *node) {
    random_program *program = node->program;
    program_node *other = program->by_name[below(program, (uint64_t)program->names)];
    return other == NULL || !node_is_up(other) || tepal_loop_is_running(other->loop) ? node : other;
}

void act_now(program_node *node, program_end *end, bool inside) {
    random_program *program = node->program;

    if (program->is_calm || program->depth >= 3 || !node_is_up(node)) {
        return;
    }
    program->depth++;
    for (uint64_t count = below(program, 4); count > 0 && program->acts_left > 0; count--) {
        program->acts_left--;
        if (!node_is_up(node)) {
            break;
        }
        program_node *other = inside || !program->mixes || !chance(program, 4) ? node : idle_node(node);
        act_once(other, end != NULL && other == node && (inside || !chance(program, 4)) ? end : choose_end(other),
                 inside);
    }
    program->depth--;
}
