/*
 * A future's inside, for the files of this folder and for layers above that embed a future in a struct of their own.
 *
 * Two kinds of listeners: callbacks, which are the user's and run from the ready queue, and waiters, which are the
 * library's (combinators) and are told inside the call that completes the future. A waiter must never run user code.
 */
#ifndef TPI_FUTURE_H
#define TPI_FUTURE_H

#include "loop/loop.h"
#include <tepal/future.h>

typedef struct tpi_future_type tpi_future_type;
typedef struct tpi_done_callback tpi_done_callback;
typedef struct tpi_waiter tpi_waiter;

typedef enum tpi_future_state {
    TPI_FUTURE_PENDING,
    TPI_FUTURE_VALUE,
    TPI_FUTURE_ERROR,
    TPI_FUTURE_CANCELED
} tpi_future_state;

/* What a struct that begins with a future wants to hear. Any may be NULL. The future is alive during each. */
struct tpi_future_type {
    void (*ended)(tepal_future *future);    /* it has got its result, by whomever; callbacks are queued */
    void (*canceled)(tepal_future *future); /* after ended, if it was by tepal_future_cancel() */
    void (*finalize)(tepal_future *future); /* the last reference is gone; free what the struct holds, not the struct */
};

/* A done callback of the user's. Those of a future form a ring, oldest first. */
struct tpi_done_callback {
    tepal_work work; /* first; queued once the future is done */
    tpi_done_callback *next, *previous;
    tepal_future *future;
    tepal_done done; /* NULL: removed while queued */
    void *argument;
    const void *place; /* where it was added, for debug mode's reports */
};

/* Those of a future form a ring, oldest first. Each keeps awaited (tpi_future_keep), from before it is added. */
struct tpi_waiter {
    tpi_waiter *next, *previous; /* NULL: not added */
    tepal_future *awaited;
    tepal_future *owner;
    void (*done)(tpi_waiter *waiter); /* awaited is done; the waiter is off its ring, the reference is still owner's */
};

struct tepal_future {
    tepal_loop *loop;
    const tpi_future_type *type; /* NULL: a plain one */
    uint32_t references;
    uint32_t kept; /* the references among them that combinations hold, whether they still wait for it or have ended */
    uint8_t state;
    bool retrieved;      /* somebody looked at the error */
    bool error_is_brief; /* the error is brief, below, and needed no memory */
    bool error_is_lent;  /* the error belongs to a future that this one keeps */
    bool first_is_used;  /* the embedded callback is on the ring */
    union {
        struct {
            void (*hook)(tepal_future *future, void *argument); /* while pending */
            void *hook_argument;
        };
        struct {
            void *value;
            void (*destroy)(void *value);
        };
        const tepal_error *error;
        tepal_error brief;
    };
    tpi_done_callback *callbacks;
    tpi_waiter *waiters;
    tpi_done_callback first;
};

/* A pending future at the head of a zeroed struct of size bytes, with one reference. Returns as tepal_future_new(). */
int tpi_future_create(tepal_loop *loop, size_t size, const tpi_future_type *type, tepal_future **future);

/*
 * A reference for a combination, and its end. A future that nobody else refers to can be completed by nobody, and is
 * cancelled.
 */
tepal_future *tpi_future_keep(tepal_future *future);
void tpi_future_let_go(tepal_future *future);

/* Be told when awaited is done. It is pending, and owner keeps it. Takes no memory. */
void tpi_waiter_add(tpi_waiter *waiter, tepal_future *awaited, tepal_future *owner, void (*done)(tpi_waiter *waiter));

/* Stop being told, if the waiter is on a ring. The reference stays owner's. */
void tpi_waiter_remove(tpi_waiter *waiter);

/*
 * Take value, error or cancellation over from a future that is done. What is taken still belongs to source: future must
 * keep a reference to it as long as it lives. If future is done already, nothing happens.
 */
void tpi_future_follow(tepal_future *future, tepal_future *source);

/* Fail with an error that something else keeps as long as future lives. If future is done already, nothing happens. */
void tpi_future_lend_error(tepal_future *future, const tepal_error *error);

/* As a cancelled future ends, without telling who would have completed it. If future is done already, nothing happens. */
void tpi_future_end_canceled(tepal_future *future);

/* What tepal_future_set_result() and its kind ask first: TEPAL_ETHREAD in debug mode, else 0. A closed loop is fine. */
int tpi_future_check_thread(const tepal_future *future);

#endif
