/*
 * A kernel that does to a ring whatever it may, by the seed: completions of different operations in any order and later
 * than they could come, sends and receives in parts, operations that fail and must be asked for again, cancellations
 * that come too late. The completions of one operation keep their order, and every one comes in the end.
 */
#ifndef TEPAL_TESTS_MISCHIEF_H
#define TEPAL_TESTS_MISCHIEF_H

#include <stddef.h>
#include <stdint.h>

enum {
    MISCHIEF_ORDER = 1,   /* completions are held back, and overtake each other */
    MISCHIEF_PARTS = 2,   /* sends and receives are short */
    MISCHIEF_PASSING = 4, /* errors that nobody above the driver need hear of */
    MISCHIEF_CANCELS = 8, /* cancellations lose their races */
    MISCHIEF_HARD = 16,   /* errors that end a connection, and EMFILE of an accept */
    MISCHIEF_KINDS = 5,
    MISCHIEF_HARMLESS = MISCHIEF_ORDER | MISCHIEF_PARTS | MISCHIEF_PASSING | MISCHIEF_CANCELS
};

/** Rings that are made from now on do this; kinds 0: none. */
void mischief_begin(uint64_t seed, unsigned kinds);

/** How often one of the kinds was done by this process. */
size_t mischief_done(unsigned kind);

#ifdef HAVE_LIBURING

#include "conformance/ring.h"

/* For ring.c. Where mischief is NULL nothing happens. */

/* Of a new ring; NULL: none is wanted. */
struct mischief *mischief_of_ring(const struct io_uring *ring);
/* The ring is to be closed, and has its own queue again. */
void mischief_end(struct mischief *self, struct io_uring *ring);

/* Around an entry into the kernel, which is told of the ring's own queue. */
void mischief_step_aside(struct mischief *self, struct io_uring *ring);
void mischief_step_in(struct mischief *self, struct io_uring *ring);
/* Everything that is held back comes now. */
void mischief_let_go(struct mischief *self);
/* Something is held back, or not taken yet: nobody may sleep. */
bool mischief_is_holding(const struct mischief *self);
/* Before an entry: cancellations that were held back, and the sizes of buffers. */
void mischief_before(struct mischief *self, const struct io_uring *ring, ring_state *state);

/* About one submission, after its flight has begun, and of a cancellation with what it ends, or NULL. */
void mischief_on_submission(struct mischief *self, flight *operation, struct io_uring_sqe *submission);
void mischief_on_cancel(struct mischief *self, flight *operation, struct io_uring_sqe *submission);
/* About a completion after which the kernel goes on: the error with which it is to end, or 0. */
int mischief_on_completion(struct mischief *self, const flight *operation);

#endif

#endif
