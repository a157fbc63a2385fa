/*
 * Futures: their state, references and done callbacks. A done callback is never called from inside the function that
 * completes a future; it goes through the ready queue, each as a work of its own.
 */
#include "future/future.h"

#include "base/alloc.h"

int tpi_future_check_thread(const tepal_future *future) {
    const int code = tpi_loop_check(future->loop);
    return code == TEPAL_ECLOSED ? 0 : code;
}

int tpi_future_create(tepal_loop *loop, size_t size, const tpi_future_type *type, tepal_future **future) {
    const int code = tpi_loop_check(loop);
    if (code < 0) {
        return code;
    }
    tepal_future *made = tpi_alloc_zero(loop->realloc, size);
    if (made == NULL) {
        return TEPAL_ENOMEM;
    }
    made->loop = tepal_loop_ref(loop);
    made->type = type;
    made->references = 1;
    *future = made;
    return 0;
}

int tepal_future_new(tepal_loop *loop, tepal_future **future) {
    return tpi_future_create(loop, sizeof(tepal_future), NULL, future);
}

tepal_loop *tepal_future_loop(const tepal_future *future) {
    return future->loop;
}

/* ---- The ring of callbacks ---- */

static void ring_add(tepal_future *future, tpi_done_callback *callback) {
    tpi_done_callback *first = future->callbacks;
    if (first == NULL) {
        callback->next = callback->previous = callback;
        future->callbacks = callback;
        return;
    }
    callback->next = first;
    callback->previous = first->previous;
    first->previous->next = callback;
    first->previous = callback;
}

/* Take a callback off its future's ring and free it. It must not be in the ready queue. */
static void callback_discard(tpi_done_callback *callback) {
    tepal_future *future = callback->future;

    if (callback->next == callback) {
        future->callbacks = NULL;
    } else {
        callback->previous->next = callback->next;
        callback->next->previous = callback->previous;
        if (future->callbacks == callback) {
            future->callbacks = callback->next;
        }
    }
    if (callback == &future->first) {
        future->first_is_used = false;
    } else {
        tpi_free(future->loop->realloc, callback);
    }
}

static void discard_callbacks(tepal_future *future) {
    while (future->callbacks != NULL) {
        callback_discard(future->callbacks);
    }
}

/* From the ready queue, or when it is dropped at the loop's end. */
static void callback_run(tepal_work *work, int status) {
    tpi_done_callback *callback = (tpi_done_callback *)work;
    tepal_future *future = callback->future;
    const tepal_done done = callback->done;
    void *argument = callback->argument;
    const void *place = callback->place;

    callback_discard(callback);
    if (status == 0 && done != NULL) {
        future->loop->place = place;
        done(future, argument);
    }
    tepal_future_unref(future); /* the queue's */
}

static void callback_queue(tpi_done_callback *callback) {
    tepal_future_ref(callback->future);
    tpi_loop_queue(callback->future->loop, &callback->work);
}

int tepal_future_add_done_callback(tepal_future *future, tepal_done done, void *argument) {
    const int code = tpi_future_check_thread(future);
    const bool is_done = future->state != TPI_FUTURE_PENDING;
    tpi_done_callback *callback = &future->first;

    if (code < 0) {
        return code;
    }
    if (done == NULL) {
        return TEPAL_EINVAL;
    }
    if (is_done && future->loop->phase != TPI_PHASE_OPEN) {
        return TEPAL_ECLOSED;
    }
    if (future->first_is_used) {
        callback = future->loop->realloc(NULL, sizeof *callback);
        if (callback == NULL) {
            return TEPAL_ENOMEM;
        }
    } else {
        future->first_is_used = true;
    }
    *callback = (tpi_done_callback){.work.run = callback_run,
                                    .future = future,
                                    .done = done,
                                    .argument = argument,
                                    .place = __builtin_return_address(0)};
    ring_add(future, callback);
    if (is_done) {
        callback_queue(callback);
    }
    return 0;
}

size_t tepal_future_remove_done_callback(tepal_future *future, tepal_done done, void *argument) {
    size_t removed = 0;
    tpi_done_callback *callback = future->callbacks;

    if (callback == NULL || done == NULL || tpi_future_check_thread(future) < 0) {
        return 0;
    }
    const tpi_done_callback *last = callback->previous;
    for (bool more = true; more;) {
        tpi_done_callback *next = callback->next;
        more = callback != last;
        if (callback->done == done && callback->argument == argument) {
            removed++;
            if (future->state == TPI_FUTURE_PENDING) {
                callback_discard(callback);
            } else {
                callback->done = NULL; /* it is in the ready queue, which nothing is taken out of */
            }
        }
        callback = next;
    }
    return removed;
}

/* ---- Waiters ---- */

void tpi_waiter_add(tpi_waiter *waiter, tepal_future *awaited, tepal_future *owner, void (*done)(tpi_waiter *waiter)) {
    tpi_waiter *first = awaited->waiters;

    *waiter = (tpi_waiter){.awaited = awaited, .owner = owner, .done = done};
    if (first == NULL) {
        waiter->next = waiter->previous = waiter;
        awaited->waiters = waiter;
    } else {
        waiter->next = first;
        waiter->previous = first->previous;
        first->previous->next = waiter;
        first->previous = waiter;
    }
}

void tpi_waiter_remove(tpi_waiter *waiter) {
    tepal_future *awaited = waiter->awaited;

    if (waiter->next == NULL) {
        return;
    }
    if (waiter->next == waiter) {
        awaited->waiters = NULL;
    } else {
        waiter->previous->next = waiter->next;
        waiter->next->previous = waiter->previous;
        if (awaited->waiters == waiter) {
            awaited->waiters = waiter->next;
        }
    }
    waiter->next = waiter->previous = NULL;
}

/* ---- Completing ---- */

/*
 * future has just got its state and result: tell everybody. All callbacks are queued before the waiters are told, so
 * whoever waits for the future itself is called before whoever waits for a combination of it.
 */
static void ended(tepal_future *future) {
    tepal_future_ref(future);
    if (future->loop->phase != TPI_PHASE_OPEN) {
        discard_callbacks(future);
    } else if (future->callbacks != NULL) {
        tpi_done_callback *callback = future->callbacks;
        do {
            callback_queue(callback);
            callback = callback->next;
        } while (callback != future->callbacks);
    }
    if (future->type != NULL && future->type->ended != NULL) {
        future->type->ended(future);
    }
    while (future->waiters != NULL) {
        tpi_waiter *waiter = future->waiters;
        tpi_waiter_remove(waiter);
        waiter->done(waiter);
    }
    tepal_future_unref(future);
}

int tepal_future_set_result(tepal_future *future, void *value, void (*destroy)(void *value)) {
    const int code = tpi_future_check_thread(future);
    if (code < 0) {
        return code;
    }
    if (future->state != TPI_FUTURE_PENDING) {
        return TEPAL_EDONE;
    }
    future->value = value;
    future->destroy = destroy;
    future->state = TPI_FUTURE_VALUE;
    ended(future);
    return 0;
}

/* The error that needs no memory. */
static void keep_code(tepal_future *future, int code) {
    future->brief = (tepal_error){.code = code, .text = tepal_strerror(code)};
    future->error_is_brief = true;
}

int tepal_future_set_error(tepal_future *future, const tepal_error *error) {
    const int code = tpi_future_check_thread(future);
    if (code < 0) {
        return code;
    }
    if (error == NULL || error->code >= 0) {
        return TEPAL_EINVAL;
    }
    if (future->state != TPI_FUTURE_PENDING) {
        return TEPAL_EDONE;
    }
    const bool is_code_alone = error->text == NULL && error->address == NULL && error->next == NULL;
    tepal_error *copy = is_code_alone ? NULL : tpi_error_copy(future->loop->realloc, error);
    if (copy != NULL) {
        future->error = copy;
    } else {
        keep_code(future, error->code);
    }
    future->state = TPI_FUTURE_ERROR;
    ended(future);
    return 0;
}

int tepal_future_set_code(tepal_future *future, int code) {
    const tepal_error error = {.code = code};
    return tepal_future_set_error(future, &error);
}

void tpi_future_end_canceled(tepal_future *future) {
    if (future->state == TPI_FUTURE_PENDING) {
        keep_code(future, TEPAL_ECANCELED);
        future->state = TPI_FUTURE_CANCELED;
        ended(future);
    }
}

bool tepal_future_cancel(tepal_future *future) {
    if (tpi_future_check_thread(future) < 0 || future->state != TPI_FUTURE_PENDING) {
        return false;
    }
    void (*hook)(tepal_future *, void *) = future->hook;
    void *argument = future->hook_argument;

    tepal_future_ref(future);
    tpi_future_end_canceled(future);
    if (future->type != NULL && future->type->canceled != NULL) {
        future->type->canceled(future);
    }
    if (hook != NULL) {
        hook(future, argument);
    }
    tepal_future_unref(future);
    return true;
}

void tepal_future_set_cancel_hook(tepal_future *future, void (*canceled)(tepal_future *future, void *argument),
                                  void *argument) {
    if (tpi_future_check_thread(future) == 0 && future->state == TPI_FUTURE_PENDING) {
        future->hook = canceled;
        future->hook_argument = argument;
    }
}

/* ---- Looking ---- */

static const tepal_error *error_of(const tepal_future *future) {
    if (future->state != TPI_FUTURE_ERROR && future->state != TPI_FUTURE_CANCELED) {
        return NULL;
    }
    return future->error_is_brief ? &future->brief : future->error;
}

bool tepal_future_is_done(const tepal_future *future) {
    return future->state != TPI_FUTURE_PENDING;
}

bool tepal_future_is_canceled(const tepal_future *future) {
    return future->state == TPI_FUTURE_CANCELED;
}

const tepal_error *tepal_future_error(tepal_future *future) {
    const tepal_error *error = error_of(future);
    if (error != NULL) {
        future->retrieved = true;
    }
    return error;
}

int tepal_future_result(tepal_future *future, void **value) {
    if (future->state == TPI_FUTURE_PENDING) {
        return TEPAL_EPENDING;
    }
    const tepal_error *error = tepal_future_error(future);
    if (error != NULL) {
        return error->code;
    }
    if (value != NULL) {
        *value = future->value;
    }
    return 0;
}

void tpi_future_lend_error(tepal_future *future, const tepal_error *error) {
    if (future->state == TPI_FUTURE_PENDING) {
        future->error = error;
        future->error_is_lent = true;
        future->state = TPI_FUTURE_ERROR;
        ended(future);
    }
}

void tpi_future_follow(tepal_future *future, tepal_future *source) {
    if (future->state != TPI_FUTURE_PENDING) {
        return;
    }
    const tepal_error *error = tepal_future_error(source);
    if (source->state == TPI_FUTURE_CANCELED) {
        tpi_future_end_canceled(future);
        return;
    }
    if (error != NULL) {
        tpi_future_lend_error(future, error);
        return;
    }
    future->value = source->value;
    future->destroy = NULL;
    future->state = TPI_FUTURE_VALUE;
    ended(future);
}

/* ---- References ---- */

tepal_future *tepal_future_ref(tepal_future *future) {
    future->references++;
    return future;
}

/*
 * A failure that nobody looked at. That something ended because it was cancelled, or because the loop did, is no news to
 * whoever cancelled or closed.
 */
static void report_unretrieved(tepal_future *future) {
    const tepal_error *error = error_of(future);

    if (future->state != TPI_FUTURE_ERROR || future->retrieved || error->code == TEPAL_ECANCELED ||
        (error->code == TEPAL_ECLOSED && future->loop->phase != TPI_PHASE_OPEN)) {
        return;
    }
    tepal_loop_call_exception_handler(future->loop, "an error of a future was never looked at", error);
}

static void die(tepal_future *future) {
    tepal_loop *loop = future->loop;

    report_unretrieved(future);
    discard_callbacks(future); /* nobody can complete it any more */
    if (future->type != NULL && future->type->finalize != NULL) {
        future->type->finalize(future);
    }
    if (future->state == TPI_FUTURE_VALUE && future->destroy != NULL) {
        future->destroy(future->value);
    } else if (future->state == TPI_FUTURE_ERROR && !future->error_is_brief && !future->error_is_lent) {
        tpi_free(loop->realloc, (void *)(uintptr_t)future->error);
    }
    tpi_free(loop->realloc, future);
    tepal_loop_unref(loop);
}

void tepal_future_unref(tepal_future *future) {
    if (future == NULL) {
        return;
    }
    (void)tpi_future_check_thread(future); /* reports; what else could be done about it */
    if (--future->references == 0) {
        die(future);
    } else if (future->state == TPI_FUTURE_PENDING && future->references == future->kept) {
        /*
         * Only combinations are left: nobody can complete it. As cancelled it lets those that wait for it, and itself,
         * go. One that has ended counts too: it may be a member of one that waits, which would wait for ever.
         */
        tpi_future_end_canceled(future);
    }
}

tepal_future *tpi_future_keep(tepal_future *future) {
    future->kept++;
    return tepal_future_ref(future);
}

void tpi_future_let_go(tepal_future *future) {
    future->kept--;
    tepal_future_unref(future);
}
