/* See the header. The library is shown a queue of ours instead of the kernel's. */
#include "conformance/mischief.h"
#include "harness/test.h"

#include <errno.h>
#include <stdlib.h>

enum { PATIENCE = 4, PLACES = 1 << 14 };

typedef struct held {
    unsigned rounds;                /* since it came */
    struct io_uring_cqe completion; /* last: its end is open */
} held;

struct mischief {
    test_prng prng;
    unsigned kinds;
    struct io_uring_cq real; /* the kernel's queue */
    unsigned *real_flags;
    unsigned flags; /* what the library sees: it always has a reason to enter */
    unsigned head, tail;
    struct io_uring_cqe *queue; /* what the library sees, PLACES of them */
    held *waiting;              /* what it does not see yet, oldest first */
    size_t count, room;
    size_t late_cancels;
};

static uint64_t wanted_seed;
static unsigned wanted_kinds;
static atomic_size_t done[MISCHIEF_KINDS];

void mischief_begin(uint64_t seed, unsigned kinds) {
    wanted_seed = seed;
    wanted_kinds = kinds;
}

static int place_of(unsigned kind) {
    return __builtin_ctz(kind);
}

size_t mischief_done(unsigned kind) {
    return atomic_load(&done[place_of(kind)]);
}

/* One time out of so many, where this kind is wanted. */
static bool happens(struct mischief *self, unsigned kind, uint64_t one_of) {
    if (self == NULL || !(self->kinds & kind) || test_prng_below(&self->prng, one_of) != 0) {
        return false;
    }
    atomic_fetch_add(&done[place_of(kind)], 1);
    return true;
}

/* ---- The queue ---- */

struct mischief *mischief_of_ring(const struct io_uring *ring) {
    if (wanted_kinds == 0) {
        return NULL;
    }
    struct mischief *self = calloc(1, sizeof *self);
    CHECK(self != NULL);
    self->prng = test_prng_start(wanted_seed++);
    self->kinds = wanted_kinds;
    self->real = ring->cq;
    self->real_flags = ring->sq.kflags;
    self->flags = IORING_SQ_TASKRUN;
    self->queue = calloc(PLACES, sizeof *self->queue);
    CHECK(self->queue != NULL);
    return self;
}

void mischief_end(struct mischief *self, struct io_uring *ring) {
    if (self != NULL) {
        mischief_step_aside(self, ring);
        free(self->queue);
        free(self->waiting);
        free(self);
    }
}

void mischief_step_aside(struct mischief *self, struct io_uring *ring) {
    if (self != NULL) {
        ring->cq = self->real;
        ring->sq.kflags = self->real_flags;
    }
}

static void hold(struct mischief *self, const struct io_uring_cqe *completion) {
    if (self->count == self->room) {
        self->room = self->room == 0 ? 256 : self->room * 2;
        self->waiting = realloc(self->waiting, self->room * sizeof *self->waiting);
        CHECK(self->waiting != NULL);
    }
    self->waiting[self->count++] = (held){.completion = *completion};
}

/* A receive whose end would say nothing of its own: then its last bytes say that it has ended, as they may. */
static bool ends_with_bytes(struct mischief *self, const struct io_uring_cqe *completion) {
    if (completion->flags & IORING_CQE_F_MORE || (completion->res != -ENOBUFS && completion->res != -EINTR)) {
        return false;
    }
    for (size_t i = self->count; i-- > 0;) {
        struct io_uring_cqe *earlier = &self->waiting[i].completion;
        if (earlier->user_data == completion->user_data) {
            const bool can = earlier->res > 0 && earlier->flags & IORING_CQE_F_MORE;
            earlier->flags &= can ? ~IORING_CQE_F_MORE : UINT32_MAX;
            return can;
        }
    }
    return false;
}

static void take_from_kernel(struct mischief *self) {
    const unsigned tail = io_uring_smp_load_acquire(self->real.ktail);
    unsigned head = *self->real.khead;

    for (; head != tail; head++) {
        const struct io_uring_cqe *completion = &self->real.cqes[head & self->real.ring_mask];
        if (!ends_with_bytes(self, completion)) {
            hold(self, completion);
        }
    }
    io_uring_smp_store_release(self->real.khead, head);
}

static void show(struct mischief *self, size_t place) {
    CHECK_LT(self->tail - self->head, PLACES);
    self->queue[self->tail % PLACES] = self->waiting[place].completion;
    io_uring_smp_store_release(&self->tail, self->tail + 1);
    self->count--;
    memmove(&self->waiting[place], &self->waiting[place + 1], (self->count - place) * sizeof *self->waiting);
}

void mischief_let_go(struct mischief *self) {
    while (self != NULL && self->count > 0) {
        show(self, 0);
    }
}

/* The oldest of the same operation. */
static size_t first_of_its_kind(const struct mischief *self, size_t place) {
    size_t first = 0;

    while (self->waiting[first].completion.user_data != self->waiting[place].completion.user_data) {
        first++;
    }
    return first;
}

static void show_some(struct mischief *self) {
    size_t shown = test_prng_below(&self->prng, self->count + 1);

    while (shown-- > 0) {
        show(self, first_of_its_kind(self, test_prng_below(&self->prng, self->count)));
    }
    while (self->count > 0 && self->waiting[0].rounds >= PATIENCE) {
        show(self, 0);
    }
    for (size_t i = 0; i < self->count; i++) {
        self->waiting[i].rounds++;
    }
}

void mischief_step_in(struct mischief *self, struct io_uring *ring) {
    if (self == NULL) {
        return;
    }
    take_from_kernel(self);
    if (self->count > 0 && happens(self, MISCHIEF_ORDER, 1)) {
        show_some(self);
    } else {
        mischief_let_go(self);
    }
    ring->cq.khead = &self->head;
    ring->cq.ktail = &self->tail;
    ring->cq.cqes = self->queue;
    ring->cq.ring_mask = PLACES - 1;
    ring->cq.ring_entries = PLACES;
    ring->sq.kflags = &self->flags;
}

bool mischief_is_holding(const struct mischief *self) {
    return self != NULL && (self->count > 0 || self->late_cancels > 0 || self->head != self->tail);
}

/* ---- Operations ---- */

static int any_of(struct mischief *self, const int *errors, size_t count) {
    return errors[test_prng_below(&self->prng, count)];
}

#define ANY_OF(self, ...) any_of(self, (const int[]){__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int))

/* With what an operation is to fail, or 0. */
static int error_for(struct mischief *self, uint8_t opcode, uint64_t one_of) {
    const bool passes = happens(self, MISCHIEF_PASSING, one_of);
    const bool is_hard = !passes && happens(self, MISCHIEF_HARD, 16 * one_of);

    if (!passes && !is_hard) {
        return 0;
    }
    switch (opcode) {
    case IORING_OP_ACCEPT:
        return is_hard ? EMFILE : ANY_OF(self, ECONNABORTED, EINTR, EPROTO, EAGAIN);
    case IORING_OP_RECV:
        return is_hard ? ANY_OF(self, ECONNRESET, ETIMEDOUT, ENOMEM) : ANY_OF(self, ENOBUFS, EINTR, EAGAIN, ECANCELED);
    default:
        return is_hard ? ANY_OF(self, ECONNRESET, EPIPE, ENOBUFS) : ANY_OF(self, EINTR, EAGAIN, ECANCELED);
    }
}

void mischief_on_submission(struct mischief *self, flight *operation, struct io_uring_sqe *submission) {
    if (self == NULL || operation->is_nothing) {
        return;
    }
    const int error = error_for(self, submission->opcode, 6);
    if (error != 0) {
        ring_fail_submission(operation, submission, error);
    } else if (submission->opcode == IORING_OP_SEND && submission->len > 1 && happens(self, MISCHIEF_PARTS, 3)) {
        submission->len = 1 + (unsigned)test_prng_below(&self->prng, submission->len);
    }
}

int mischief_on_completion(struct mischief *self, const flight *operation) {
    return self == NULL ? 0 : error_for(self, operation->opcode, 8);
}

void mischief_on_cancel(struct mischief *self, flight *operation, struct io_uring_sqe *submission) {
    if (operation == NULL || operation->cancel_in > 0 || !happens(self, MISCHIEF_CANCELS, 2)) {
        return;
    }
    operation->cancel_in = 1 + (unsigned)test_prng_below(&self->prng, 5);
    self->late_cancels++;
    hold(self, &(struct io_uring_cqe){.user_data = submission->user_data, .res = -ANY_OF(self, ENOENT, EALREADY)});
    submission->opcode = IORING_OP_NOP; /* which says nothing, as a cancellation that succeeds */
    submission->fd = -1;
    submission->addr = 0;
    submission->len = 0;
    submission->cancel_flags = 0;
}

static void cancel_at_last(struct mischief *self, const struct io_uring *ring, const ring_state *state) {
    self->late_cancels = 0;
    for (int i = 0; i < RING_BUCKETS; i++) {
        for (flight *operation = state->flights[i]; operation != NULL; operation = operation->next) {
            if (operation->cancel_in > 0 && --operation->cancel_in == 0) {
                ring_cancel(ring, operation->tag);
            }
            self->late_cancels += operation->cancel_in > 0;
        }
    }
}

void mischief_before(struct mischief *self, const struct io_uring *ring, ring_state *state) {
    if (self == NULL) {
        return;
    }
    if (self->late_cancels > 0) {
        cancel_at_last(self, ring, state);
    }
    if (happens(self, MISCHIEF_PARTS, 3)) {
        const unsigned count = 1 + (unsigned)test_prng_below(&self->prng, 8);
        ring_shorten_buffers(
            state, ring, count,
            1 + (unsigned)test_prng_below(&self->prng, test_prng_below(&self->prng, 2) == 0 ? 16 : 4000));
    }
}
