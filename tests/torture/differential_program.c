/* Draws random programs without races: see differential_program.h. */
#include "torture/differential_program.h"

typedef struct maker {
    test_prng prng;
    program *program;
    dialogue *dialogue;
    bool holder;         /* whose turn it is: the server's? */
    bool is_said;        /* the holder has said something since the other did */
    bool has_half_ended; /* the other one has ended its side: it only listens */
    bool is_known;       /* the server has heard of the client, which so knows that it is connected */
    size_t layers[2];
} maker;

static uint64_t below(maker *self, uint64_t limit) {
    return test_prng_below(&self->prng, limit);
}

static bool one_in(maker *self, uint64_t many) {
    return below(self, many) == 0;
}

static move *add(maker *self, move_kind kind, uint8_t detail) {
    dialogue *made = self->dialogue;
    CHECK_LT(made->move_count, MOVES);
    move *next = &made->moves[made->move_count++];
    *next = (move){.kind = kind, .by_server = self->holder, .detail = detail, .seed = test_prng_next(&self->prng)};
    return next;
}

/* Most are small, some need many reads, a few are more than any buffer of the kernel's. */
static uint32_t some_length(maker *self) {
    switch (below(self, 40)) {
    case 0:
        return 100000 + (uint32_t)below(self, 200001);
    case 1:
    case 2:
    case 3:
        return 1 + (uint32_t)below(self, 40000);
    case 4:
        return 1;
    default:
        return 1 + (uint32_t)below(self, 2000);
    }
}

/* The holder says something; then it may be the other's turn. */
static move *say(maker *self, uint32_t length, uint8_t how) {
    move *made = add(self, MOVE_SAY, how);
    made->length = length;
    if (length > 0) {
        self->is_said = true;
    }
    return made;
}

static void pass_turn(maker *self) {
    self->is_known = self->is_known || !self->holder;
    self->holder = !self->holder;
    self->is_said = false;
}

static uint8_t some_hop(maker *self) {
    return (uint8_t)(one_in(self, 12) ? HOP_SLOW + below(self, HOPS - HOP_SLOW) : below(self, HOP_SLOW));
}

static void ordinary_move(maker *self) {
    size_t *layers = &self->layers[self->holder];
    switch (below(self, 12)) {
    case 0:
        add(self, MOVE_HOP, some_hop(self));
        return;
    case 1:
        add(self, MOVE_SWAP, (uint8_t)below(self, PROTOCOLS - 1));
        break;
    case 2:
        if (*layers < LAYERS) {
            add(self, MOVE_PUSH, (uint8_t)below(self, 4));
            (*layers)++;
        }
        break;
    case 3:
        if (*layers > 0) {
            add(self, MOVE_POP, 0);
            (*layers)--;
        }
        break;
    case 4:
        if (!self->has_half_ended) {
            add(self, MOVE_PAUSE, some_hop(self));
        }
        break;
    case 5:
        if (!self->has_half_ended) {
            add(self, MOVE_ECHO, 0)->length = some_length(self);
            self->is_said = false; /* all of it has come back */
            return;
        }
        break;
    case 6:
        say(self, 0, SAY_IN_PIECES);
        return;
    default:
        say(self, some_length(self), SAY_IN_PIECES);
        if (!self->has_half_ended && !one_in(self, 4)) {
            pass_turn(self);
        }
        return;
    }
}

/* Both have heard the other since. */
static void agree(maker *self) {
    say(self, 1 + (uint32_t)below(self, 100), SAY_IN_PIECES);
    pass_turn(self);
    say(self, 1 + (uint32_t)below(self, 100), SAY_IN_PIECES);
    pass_turn(self);
}

/* A close with unread input, after a reply that must arrive all the same. Needs who reads by the byte. */
static void unread(maker *self) {
    while (self->layers[self->holder] > 0) {
        add(self, MOVE_POP, 0);
        self->layers[self->holder]--;
    }
    add(self, MOVE_SWAP, PROTOCOLS - 1);
    say(self, 1 + (uint32_t)below(self, 100), SAY_IN_PIECES);
    pass_turn(self);
    say(self, 2 + (uint32_t)below(self, 10000), SAY_AND_ONE_IS_READ);
    pass_turn(self);
    add(self, MOVE_PAUSE, PAUSE_FOR_EVER);
    say(self, some_length(self), SAY_IN_PIECES);
    add(self, LAST_CLOSE, (uint8_t)below(self, ANSWER_BEFORE));
    self->program->is_whole = true;
}

static void half_close(maker *self) {
    add(self, MOVE_END, 0);
    pass_turn(self);
    self->has_half_ended = true;
    if (one_in(self, 4)) { /* what was said before the abort might not have arrived */
        add(self, one_in(self, 2) ? LAST_ABORT : LAST_RETURN, (uint8_t)(1 + below(self, 200)));
        return;
    }
    for (uint64_t i = below(self, 5); i > 0; i--) {
        ordinary_move(self);
    }
    if (one_in(self, 2)) {
        add(self, MOVE_END, 0);
    } else {
        add(self, LAST_CLOSE, ANSWER_ZERO);
    }
}

static void last_moves(maker *self) {
    switch (below(self, 9)) {
    case 0:
        if (!one_in(self, 3)) {
            add(self, LAST_NONE, 0);
            break;
        }
        /* fall through */
    case 1:
    case 2:
        add(self, LAST_CLOSE, (uint8_t)below(self, ANSWER_BEFORE));
        break;
    case 3:
        say(self, some_length(self), SAY_AT_ONCE);
        add(self, LAST_CLOSE, (uint8_t)below(self, ANSWERS));
        break;
    case 4:
    case 5:
        half_close(self);
        break;
    case 6:
        if (!self->dialogue->is_relayed) {
            unread(self);
            break;
        }
        /* fall through */
    default:
        if (self->is_said || (self->holder && !self->is_known) || one_in(self, 2)) {
            agree(self);
        }
        add(self, one_in(self, 2) ? LAST_ABORT : LAST_RETURN, (uint8_t)(1 + below(self, 200)));
        break;
    }
}

static place some_place(maker *self, bool has_inet6) {
    const place drawn = (place)below(self, PLACES);
    return drawn == PLACE_INET6 && !has_inet6 ? PLACE_INET : drawn;
}

static void draw_transport(maker *self, tepal_transport_options *options) {
    *options = (tepal_transport_options){.size = sizeof *options};
    options->nagle = one_in(self, 40); /* it may wait for 40 ms, each time */
    options->keep_alive = one_in(self, 6);
    options->abort_without_reset = one_in(self, 6);
    if (one_in(self, 3)) {
        options->write_high = 1 + below(self, 100000);
        options->write_low = 1 + below(self, options->write_high);
    }
}

static void draw_dialogue(maker *self, bool relayed, bool has_inet6) {
    dialogue *made = self->dialogue;
    made->is_relayed = relayed && !one_in(self, 4);
    made->place = some_place(self, has_inet6);
    made->relay_place = some_place(self, has_inet6);
    made->is_called_again = one_in(self, 2);
    made->dial_hop = one_in(self, 2) ? 0 : 1 + some_hop(self);
    for (int i = 0; i < 2; i++) {
        made->protocol[i] = (uint8_t)below(self, PROTOCOLS - 1);
        draw_transport(self, &made->transport[i]);
        self->layers[i] = 0;
    }
    self->is_said = self->has_half_ended = self->is_known = false;
    self->holder = one_in(self, 3);
    if (made->is_relayed) { /* who aborts must not do so before the relay has met both */
        agree(self);
    }
    for (uint64_t i = below(self, one_in(self, 4) ? 16 : 8); i > 0; i--) {
        ordinary_move(self);
    }
    last_moves(self);
}

void program_draw(program *self, uint64_t number, bool relayed, bool has_inet6) {
    maker drawing = {.prng = test_prng_start(number * 2 + relayed), .program = self};
    maker *m = &drawing;
    *self = (program){.number = number, .seed = test_prng_next(&m->prng)};
    self->loop = (tepal_loop_options){.size = sizeof self->loop, .slow_callback_ns = -1};
    self->loop.order = one_in(m, 3) ? TEPAL_ORDER_DRAIN : TEPAL_ORDER_SNAPSHOT;
    self->loop.read_bytes = one_in(m, 3) ? 4096 : 0;
    self->loop.read_budget = one_in(m, 3) ? 1 : 0;
    self->loop.debug = one_in(m, 2);
    self->dialogue_count = 1 + (size_t)below(m, DIALOGUES);
    for (size_t i = 0; i < self->dialogue_count; i++) {
        m->dialogue = &self->dialogues[i];
        draw_dialogue(m, relayed, has_inet6);
    }
    for (unsigned i = 0; i < PLACES; i++) {
        const bool is_there = i != PLACE_INET6 || has_inet6;
        self->refused |= is_there && one_in(m, 6) ? 1u << i : 0;
        self->canceled |= is_there && one_in(m, 6) ? 1u << i : 0;
    }
}
