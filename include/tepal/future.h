/**
 * Futures: what happens once. A future is pending, then holds a value, an error or a cancellation.
 *
 * Counted references, loop thread only. There is no wait(): outside the loop use tepal_loop_run_until_complete().
 */
#ifndef TEPAL_FUTURE_H
#define TEPAL_FUTURE_H

#include <tepal/base.h>
#include <tepal/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Told once, from the ready queue, that future is done. It holds a reference to future during the call. */
typedef void (*tepal_done)(tepal_future *future, void *argument);

/** Make a pending future with one reference, the caller's. Returns 0, TEPAL_ENOMEM or TEPAL_ECLOSED. */
TEPAL_API int tepal_future_new(tepal_loop *loop, tepal_future **future);

/** One more reference. Returns future. */
TEPAL_API tepal_future *tepal_future_ref(tepal_future *future);

/**
 * Give back a reference; NULL is allowed. With the last one the value's destructor runs, and an error at which nobody
 * looked goes to the loop's exception handler (but a TEPAL_ECANCELED, or at the loop's end a TEPAL_ECLOSED, is no
 * news). A pending future that only combinations (below) still refer to is cancelled: nobody can complete it any more.
 */
TEPAL_API void tepal_future_unref(tepal_future *future);

/** The loop of a future; borrowed. */
TEPAL_API tepal_loop *tepal_future_loop(const tepal_future *future);

/**
 * Give the future its value. destroy (may be NULL) is called on it when the future dies.
 *
 * Returns 0, or TEPAL_EDONE if it already has a result: value is then still the caller's.
 */
TEPAL_API int tepal_future_set_result(tepal_future *future, void *value, void (*destroy)(void *value));

/**
 * Give the future an error; it is copied, with its chain. A NULL text means tepal_strerror(code).
 *
 * If memory for the copy is short, code alone is kept. Returns 0, TEPAL_EDONE, or TEPAL_EINVAL for a code that is not
 * negative.
 */
TEPAL_API int tepal_future_set_error(tepal_future *future, const tepal_error *error);

/** tepal_future_set_error() from a code alone. */
TEPAL_API int tepal_future_set_code(tepal_future *future, int code);

/**
 * Cancel: the future is done with TEPAL_ECANCELED, and what would have completed it is told to give up. (An error that
 * is set to TEPAL_ECANCELED is an error of that code, and no cancellation.)
 *
 * Returns false if it was done before.
 */
TEPAL_API bool tepal_future_cancel(tepal_future *future);

/**
 * Who is told, inside tepal_future_cancel(), that the future was cancelled: for those who make futures. One per
 * future; NULL removes it. It is not called for a future that is done.
 */
TEPAL_API void tepal_future_set_cancel_hook(tepal_future *future,
                                            void (*canceled)(tepal_future *future, void *argument), void *argument);

/** Whether it has a value, an error or a cancellation. */
TEPAL_API bool tepal_future_is_done(const tepal_future *future);

/** Whether it was cancelled. */
TEPAL_API bool tepal_future_is_canceled(const tepal_future *future);

/**
 * The value, which stays the future's; value may be NULL. Looking counts as retrieving.
 *
 * Returns 0, TEPAL_EPENDING, or the code of its error (TEPAL_ECANCELED when cancelled).
 */
TEPAL_API int tepal_future_result(tepal_future *future, void **value);

/** The error, owned by the future, or NULL if it has none. Looking counts as retrieving. */
TEPAL_API const tepal_error *tepal_future_error(tepal_future *future);

/**
 * Call done from the ready queue once the future is done; if it is done already, it is queued now.
 *
 * Callbacks run in the order they were added. The first one needs no memory. The future keeps itself alive until they
 * have run; argument is borrowed. When the loop closes, callbacks that have not run are dropped. Returns 0,
 * TEPAL_ENOMEM, TEPAL_EINVAL for a NULL done, or TEPAL_ECLOSED if it is done and its loop is closed.
 */
TEPAL_API int tepal_future_add_done_callback(tepal_future *future, tepal_done done, void *argument);

/** Remove every callback with this function and argument that has not run. Returns how many. */
TEPAL_API size_t tepal_future_remove_done_callback(tepal_future *future, tepal_done done, void *argument);

/*
 * Combinations: futures that end inside the call that ends their members, with callbacks from the ready queue as
 * always, those of a member first. A pending one keeps itself and its members alive: who added a callback may give
 * back its reference. All may be made of futures that are done.
 */

/**
 * A future that is done when all are, with a value of type tepal_future *const * (count of them, in order), owned by
 * it.
 *
 * If a member fails or is cancelled, the gathering takes the first such error, by time, at once (it is not cancelled
 * by that itself); the other members go on, and their errors count as retrieved. Cancelling it cancels every member.
 * count may be 0. Returns 0, TEPAL_ENOMEM,
 * TEPAL_ECLOSED, or TEPAL_EINVAL if a member is of another loop.
 */
TEPAL_API int tepal_future_gather(tepal_loop *loop, tepal_future *const *futures, size_t count, tepal_future **out);

/**
 * A future that is done when the first of count futures (1 or more) is, however it ended; its value is that future
 * (tepal_future *), owned by it. The others go on. Cancelling it cancels none of them. Returns as gather does.
 */
TEPAL_API int tepal_future_first(tepal_loop *loop, tepal_future *const *futures, size_t count, tepal_future **out);

/**
 * A future that ends as future does, or with TEPAL_ETIMEDOUT after limit_ns (0 or negative: at once, unless it is
 * done); future is then cancelled. Its value is future's, valid as long as out. Cancelling out cancels future. The
 * limit holds even if out is given back. Returns 0, TEPAL_ENOMEM or TEPAL_ECLOSED.
 */
TEPAL_API int tepal_future_wait_for(tepal_future *future, int64_t limit_ns, tepal_future **out);

/**
 * A future that ends as future does, but whose cancellation leaves future alone. Its value is future's, valid as long
 * as out. Returns as wait_for does.
 */
TEPAL_API int tepal_future_shield(tepal_future *future, tepal_future **out);

#ifdef __cplusplus
}
#endif
#endif
