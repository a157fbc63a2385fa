/* One end of a dialogue: what it does when it is its turn, and what it is told. It acts upon what it has seen alone. */
#include "torture/differential_program.h"

#include <stdlib.h>

static const tepal_protocol_type protocol_types[PROTOCOLS];

static const move *next_move(const side *self) {
    const dialogue *talked = self->talk->dialogue;
    return self->at < talked->move_count ? &talked->moves[self->at] : NULL;
}

static bool is_own(const side *self, const move *made) {
    return made->by_server == self->is_server;
}

/* ---- Saying ---- */

static void count_release(void *argument, int status) {
    run *here = ((side **)argument)[0]->talk->run;
    (void)status; /* an abort may overtake the word that the kernel has it */
    CHECK_GT(here->releases, 0);
    here->releases--;
    free(argument);
}

static int write_owned(side *self, const uint8_t *data, size_t length) {
    /* Whose it is, and the bytes behind it. */
    side **block = malloc(sizeof *block + length);
    CHECK(block != NULL);
    block[0] = self;
    memcpy(block + 1, data, length);
    const struct iovec pieces[2] = {{.iov_base = block + 1, .iov_len = length / 3},
                                    {.iov_base = (uint8_t *)(block + 1) + length / 3, .iov_len = length - length / 3}};
    self->talk->run->releases++;
    const int code = tepal_transport_write_owned(self->transport, pieces, 2, count_release, block);
    if (code < 0) {
        self->talk->run->releases--;
        free(block);
    }
    return code;
}

static int write_pieces(side *self, uint8_t *data, size_t length) {
    struct iovec pieces[6];
    size_t count = 0, at = 0;
    for (; count < 5 && at < length; count++) {
        pieces[count] = (struct iovec){.iov_base = data + at};
        pieces[count].iov_len = test_prng_below(&self->prng, length - at + 1);
        at += pieces[count].iov_len;
    }
    pieces[count++] = (struct iovec){.iov_base = data + at, .iov_len = length - at};
    return tepal_transport_writev(self->transport, pieces, count);
}

static void write_some(side *self, uint32_t length) {
    uint8_t small[4096];
    uint8_t *data = length <= sizeof small ? small : malloc(length);
    int code;
    CHECK(data != NULL);
    test_prng_fill(&self->prng, data, length);
    switch (test_prng_below(&self->prng, 4)) {
    case 0:
        code = write_pieces(self, data, length);
        break;
    case 1:
        code = length == 0 ? 0 : write_owned(self, data, length);
        break;
    default:
        code = tepal_transport_write(self->transport, data, length);
        break;
    }
    if (data != small) {
        free(data);
    }
    if (code < 0) {
        story_tell(&self->story, "write: %s", tepal_error_name(code));
    }
    if (test_prng_below(&self->prng, 8) == 0) {
        (void)tepal_transport_flush(self->transport);
    }
}

static void go_on(void *argument) {
    side *self = argument;
    self->is_hopping = false;
    if (self->is_gone) {
        story_tell(&self->story, "gone meanwhile");
    } else {
        const int code = side_advance(self);
        if (code < 0) {
            tepal_transport_abort(self->transport, code);
        }
    }
    run_close(self->talk->run);
}

static void go_on_later(side *self, unsigned way, story *to) {
    self->is_hopping = true;
    self->talk->run->open++;
    hop(self->talk->run, way, to, go_on, self);
}

/* What is left of the message; between two pieces there may be a hop. */
static void say_on(side *self) {
    while (self->left > 0 && !self->is_hopping) {
        uint32_t length = self->left;
        if (self->in_pieces && test_prng_below(&self->prng, 2) == 0) {
            length = 1 + (uint32_t)test_prng_below(&self->prng, length);
        }
        self->left -= length;
        write_some(self, length);
        if (self->left > 0 && test_prng_below(&self->prng, 4) == 0) {
            go_on_later(self, (unsigned)test_prng_below(&self->prng, HOP_SLOW), NULL);
        }
    }
}

static void say(side *self, const move *made) {
    story_tell(&self->story, "says %u", made->length);
    self->prng = (test_prng){made->seed};
    self->left = made->length;
    self->in_pieces = made->detail == SAY_IN_PIECES;
    if (self->in_pieces && test_prng_below(&self->prng, 4) == 0) {
        write_some(self, 0);
    }
    say_on(self);
}

/* ---- Moves ---- */

static void resume(void *argument) {
    side *self = argument;
    if (--self->pauses == 0 && !self->is_gone) {
        (void)tepal_transport_resume_reading(self->transport);
    }
    run_close(self->talk->run);
}

static void pause_reading(side *self, uint8_t way) {
    (void)tepal_transport_pause_reading(self->transport);
    self->pauses++;
    story_tell(&self->story, "pauses");
    if (way != PAUSE_FOR_EVER) {
        self->talk->run->open++;
        hop(self->talk->run, way, NULL, resume, self);
    }
}

static void swap(side *self, uint8_t which) {
    tepal_protocol *old;
    const int code = tepal_transport_set_protocol(self->transport, &self->protocols[which].protocol, &old);
    story_tell(&self->story, "swaps: %s", code < 0 ? tepal_error_name(code) : "ok");
}

static void end_writing(side *self) {
    const int code = tepal_transport_write_eof(self->transport);
    story_tell(&self->story, "ends: %s", code < 0 ? tepal_error_name(code) : "ok");
}

static void over(side *self) {
    if (!self->is_over) {
        self->is_over = true;
        talk_check_over(self->talk);
    }
}

static void close_now(side *self) {
    story_tell(&self->story, "closes");
    tepal_transport_close(self->transport);
}

static int make(side *self, const move *made) {
    switch (made->kind) {
    case MOVE_SAY:
        say(self, made);
        break;
    case MOVE_ECHO:
        self->is_asking = true;
        say(self, made);
        return 0; /* and wait */
    case MOVE_HOP:
        go_on_later(self, made->detail, &self->story);
        break;
    case MOVE_SWAP:
        swap(self, made->detail);
        break;
    case MOVE_PUSH:
        side_push(self, made->detail);
        break;
    case MOVE_POP:
        side_pop(self);
        break;
    case MOVE_PAUSE:
        pause_reading(self, made->detail);
        break;
    case MOVE_END:
        end_writing(self);
        break;
    case LAST_NONE:
        over(self);
        break;
    case LAST_CLOSE:
        close_now(self);
        break;
    case LAST_ABORT:
        story_tell(&self->story, "aborts");
        tepal_transport_abort(self->transport, tepal_error_make(TEPAL_DOMAIN_USER, made->detail));
        break;
    case LAST_RETURN:
        story_tell(&self->story, "returns a code");
        self->at++;
        return tepal_error_make(TEPAL_DOMAIN_USER, made->detail);
    }
    self->at++;
    return 0;
}

/* Whether the other's move has been seen, where no upcall tells of it. */
static bool see(side *self, const move *made) {
    switch (made->kind) {
    case MOVE_SAY:
        if (made->length > 0) {
            return false;
        }
        break;
    case MOVE_ECHO:
    case MOVE_END:
    case LAST_ABORT:
    case LAST_RETURN:
        return false;
    case LAST_CLOSE:
        if (made->detail != ANSWER_BEFORE) {
            return false;
        }
        close_now(self);
        break;
    case LAST_NONE:
        over(self);
        break;
    default:
        break; /* nothing to be seen of it */
    }
    self->at++;
    return true;
}

int side_advance(side *self) {
    int code = 0;
    if (self->left > 0) {
        say_on(self);
    }
    for (const move *made = next_move(self); code == 0 && made != NULL && !self->is_hopping; made = next_move(self)) {
        if (!is_own(self, made)) {
            if (!see(self, made)) {
                break;
            }
        } else if (self->is_asking) {
            break;
        } else {
            code = make(self, made);
        }
    }
    return code;
}

/* ---- What it is told ---- */

static side *of(tepal_protocol *protocol) {
    return ((side_protocol *)protocol)->side;
}

static int side_made(tepal_protocol *protocol, tepal_transport *transport) {
    side *self = of(protocol);
    story_tell(&self->story, "made");
    self->transport = transport;
    return side_advance(self);
}

/* Bytes of the next move, or of several. */
static int take(side *self, const uint8_t *data, size_t length) {
    int code = 0;
    CHECK(self->is_server || self->is_connected);
    story_bytes(&self->story, data, length);
    while (length > 0 && code == 0) {
        const move *made = next_move(self);
        if (made == NULL || (made->kind != MOVE_SAY && made->kind != MOVE_ECHO) ||
            is_own(self, made) != self->is_asking) {
            story_tell(&self->story, "%zu unexpected", length);
            return 0;
        }
        const size_t part = length < made->length - self->got ? length : made->length - self->got;
        if (made->kind == MOVE_ECHO && !self->is_asking) {
            code = tepal_transport_write(self->transport, data, part);
            if (code < 0) {
                story_tell(&self->story, "echo: %s", tepal_error_name(code));
            }
        }
        data += part;
        length -= part;
        self->got += (uint32_t)part;
        if (self->got == made->length || (made->kind == MOVE_SAY && made->detail == SAY_AND_ONE_IS_READ)) {
            self->got = 0;
            self->is_asking = false;
            self->at++;
            code = side_advance(self);
        }
    }
    return code;
}

static int side_received(tepal_protocol *protocol, const void *data, size_t length) {
    return take(of(protocol), data, length);
}

static int side_lend(tepal_protocol *protocol, size_t hint, void **buffer, size_t *length) {
    side *self = of(protocol);
    CHECK_GT(hint, 0);
    self->lends++;
    self->lending = 1 + self->lends * 977 % sizeof self->lent;
    *buffer = self->lent;
    *length = self->lending;
    return 0;
}

static int side_lend_now_and_then(tepal_protocol *protocol, size_t hint, void **buffer, size_t *length) {
    const int code = side_lend(protocol, hint, buffer, length);
    if (of(protocol)->lends % 3 == 0) {
        *length = 0;
    }
    return code;
}

static int side_lend_a_byte(tepal_protocol *protocol, size_t hint, void **buffer, size_t *length) {
    const int code = side_lend(protocol, hint, buffer, length);
    of(protocol)->lending = *length = 1;
    return code;
}

static int side_filled(tepal_protocol *protocol, size_t length) {
    side *self = of(protocol);
    CHECK_LE(length, self->lending);
    return take(self, self->lent, length);
}

static void go_on_and_close(void *argument) {
    side *self = argument;
    if (!self->is_gone) {
        close_now(self);
    }
    run_close(self->talk->run);
}

/* The end of the other's side, by write_eof or by close. */
static int side_ended(tepal_protocol *protocol) {
    side *self = of(protocol);
    const move *made = next_move(self);
    story_tell(&self->story, "eof");
    if (made == NULL || is_own(self, made)) {
        return (self->talk->run->program->seed >> self->at & 1) != 0 ? TEPAL_KEEP_OPEN : 0; /* both have ended */
    }
    self->at++;
    if (made->kind == MOVE_END) {
        const move *answer = next_move(self);
        if (answer == NULL || (answer->kind == LAST_CLOSE && (answer->seed & 1) != 0)) {
            return 0;
        }
        const int code = side_advance(self);
        return code < 0 ? code : TEPAL_KEEP_OPEN;
    }
    if (made->kind != LAST_CLOSE || made->detail == ANSWER_ZERO) {
        return 0; /* an abort without a reset, or of a Unix socket, which knows no other */
    }
    if (made->detail == ANSWER_KEEP_AND_CLOSE) {
        close_now(self);
    } else if (made->detail == ANSWER_KEEP_AND_END) {
        end_writing(self);
    } else {
        self->talk->run->open++;
        hop(self->talk->run, (unsigned)(made->seed % HOP_SLOW), NULL, go_on_and_close, self);
    }
    return TEPAL_KEEP_OPEN;
}

static void side_lost(tepal_protocol *protocol, const tepal_error *error) {
    side *self = of(protocol);
    if (error == NULL) {
        story_tell(&self->story, "lost");
    } else {
        story_tell(&self->story, "lost: %s %d: %s", tepal_error_name(error->code), tepal_error_value(error->code),
                   error->text);
    }
    self->is_gone = true;
    over(self);
}

static const tepal_protocol_type protocol_types[PROTOCOLS] = {
    {.size = sizeof(tepal_protocol_type),
     .connection_made = side_made,
     .data_received = side_received,
     .eof_received = side_ended,
     .connection_lost = side_lost},
    {.size = sizeof(tepal_protocol_type),
     .connection_made = side_made,
     .get_buffer = side_lend,
     .buffer_updated = side_filled,
     .eof_received = side_ended,
     .connection_lost = side_lost},
    {.size = sizeof(tepal_protocol_type),
     .connection_made = side_made,
     .data_received = side_received,
     .get_buffer = side_lend_now_and_then,
     .buffer_updated = side_filled,
     .eof_received = side_ended,
     .connection_lost = side_lost},
    {.size = sizeof(tepal_protocol_type),
     .connection_made = side_made,
     .get_buffer = side_lend_a_byte,
     .buffer_updated = side_filled,
     .eof_received = side_ended,
     .connection_lost = side_lost},
};

void side_init(side *self, talk *of_talk, bool is_server) {
    self->talk = of_talk;
    self->is_server = is_server;
    for (size_t i = 0; i < PROTOCOLS; i++) {
        self->protocols[i] = (side_protocol){.protocol = {&protocol_types[i]}, .side = self};
    }
}
