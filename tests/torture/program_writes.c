/*
 * What an end writes, in every way there is. What was accepted is on its tape, behind a number that tells its peer whose
 * it is; the rest is by chance.
 */
#include "torture/program.h"

#include <stdlib.h>

enum { MOST_PIECES = 200 };

/* ---- What it writes ---- */

void end_make_room(program_end *self, size_t length) {
    if (self->written + length > self->room) {
        self->room = 2 * (self->written + length);
        self->tape = realloc(self->tape, self->room);
        EXPECT(self->node->program, self->tape != NULL);
    }
}

/* The next bytes of its stream, on its tape and in a block of their own. */
static uint8_t *compose(program_end *self, size_t length) {
    random_program *program = self->node->program;
    uint64_t word = tepal_sim_random(program->sim);
    uint8_t *copy = malloc(length);

    EXPECT(program, copy != NULL);
    end_make_room(self, length);
    for (size_t i = 0; i < length; i++) {
        const size_t at = self->written + i;
        word = word * UINT64_C(6364136223846793005) + 1442695040888963407u;
        self->tape[at] = (uint8_t)(at < HEADER ? self->id >> (8 * at) : word >> 56);
    }
    memcpy(copy, self->tape + self->written, length);
    self->written += length;
    return copy;
}

typedef struct owned {
    program_end *end;
    uint8_t *bytes;
    size_t length;
} owned;

static void released(void *argument, int status) {
    owned *self = argument;

    EXPECT(self->end->node->program, status <= 0);
    EXPECT(self->end->node->program, self->end->owned > 0);
    self->end->owned--;
    memset(self->bytes, 0xee, self->length);
    free(self->bytes);
    free(self);
}

/* A few pieces of length bytes, and now and then more than leave in one call. */
static int divide(random_program *program, uint8_t *bytes, size_t length, struct iovec *pieces) {
    const int count = 1 + (int)below(program, chance(program, 4) ? MOST_PIECES : 4);
    for (int i = 0; i < count; i++) {
        const size_t part = i + 1 == count ? length : (size_t)below(program, length + 1);
        pieces[i] = (struct iovec){.iov_base = bytes, .iov_len = part};
        bytes += part;
        length -= part;
    }
    return count;
}

static int write_somehow(program_end *self, uint8_t *bytes, size_t length, bool *is_owned) {
    random_program *program = self->node->program;
    struct iovec pieces[MOST_PIECES];
    int count;

    switch (below(program, 3)) {
    case 0:
        return CALL(program, tepal_transport_write(self->transport, bytes, length));
    case 1:
        count = divide(program, bytes, length, pieces);
        return CALL(program, tepal_transport_writev(self->transport, pieces, (size_t)count));
    default: {
        owned *made = malloc(sizeof *made);
        EXPECT(program, made != NULL);
        *made = (owned){.end = self, .bytes = bytes, .length = length};
        count = divide(program, bytes, length, pieces);
        self->owned++;
        *is_owned = true;
        const int code =
            CALL(program, tepal_transport_write_owned(self->transport, pieces, (size_t)count, released, made));
        if (code < 0) {
            self->owned--;
            *is_owned = false;
            free(made);
        }
        return code;
    }
    }
}

/* After a call that may change what is buffered, and after a turn. */
void end_check_marks(const program_end *self) {
    uint64_t high, low, cap;

    if (!self->made || self->lost || end_is_closing(self)) {
        return;
    }
    tepal_transport_get_write_limits(self->transport, &high, &low, &cap);
    if (tepal_transport_write_buffer_size(self->transport) > high) {
        EXPECT(self->node->program, self->is_paused);
    }
}

void end_write_some(program_end *self, size_t length) {
    random_program *program = self->node->program;
    const size_t before = self->written;
    uint64_t cap;

    if (self->feeds != NULL || self->transport == NULL || length == 0 || length > program->bytes_left) {
        return;
    }
    program->bytes_left -= length;
    const bool was_closing = end_is_closing(self), had_ended = self->has_ended;
    const uint64_t size = tepal_transport_write_buffer_size(self->transport);
    tepal_transport_get_write_limits(self->transport, NULL, NULL, &cap);
    bool is_owned = false;
    uint8_t *bytes = compose(self, length);
    const int code = write_somehow(self, bytes, length, &is_owned);
    if (!is_owned) {
        memset(bytes, 0xee, length);
        free(bytes);
    }
    if (code == 0) {
        EXPECT(program, !was_closing && !had_ended);
        EXPECT(program, cap == UINT64_MAX || size + length <= cap);
    } else {
        EXPECT_EQ(program, self->written, before + length); /* nobody wrote behind it, inside */
        self->written = before;
        if (was_closing || had_ended) {
            EXPECT_EQ(program, code, was_closing ? TEPAL_ECLOSED : TEPAL_EPIPE);
        } else if (size + length > cap) {
            EXPECT(program, code == TEPAL_ENOBUFS || (program->starves && code == TEPAL_ENOMEM));
        } else {
            /* It may be found broken inside, or be on its way to its end. */
            EXPECT(program, (code == TEPAL_ECLOSED && end_is_closing(self)) ||
                                (code == TEPAL_EPIPE && self->is_ending) || !worked(program, code));
        }
    }
    end_check_marks(self);
}
