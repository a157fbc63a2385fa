/*
 * Futures made of futures: gather, first, wait_for, shield. Each listens by waiters inside its own block, so that
 * nothing but the making can fail, and keeps a reference to itself while it is pending: whoever drops it after adding a
 * callback is still called.
 */
#include "future/future.h"

#include <string.h>
#include "base/alloc.h"

/* ---- Of one future: shield and wait_for ---- */

typedef struct follower {
    tepal_future future;
    tpi_waiter waiter;
} follower;

typedef struct limited {
    follower follower;
    tepal_timer timer;
} limited;

static void follower_finalize(tepal_future *future) {
    tpi_future_let_go(((follower *)future)->waiter.awaited);
}

static void follower_ended(tepal_future *future) {
    tpi_waiter_remove(&((follower *)future)->waiter);
    tepal_future_unref(future); /* the one that it had while pending */
}

static void limited_ended(tepal_future *future) {
    /* Not tepal_timer_stop(): a future may also end after its loop did. */
    (void)tpi_timers_stop(&future->loop->timers, &((limited *)future)->timer);
    follower_ended(future);
}

static void limited_canceled(tepal_future *future) {
    tepal_future_cancel(((follower *)future)->waiter.awaited);
}

static const tpi_future_type shield_type = {.ended = follower_ended, .finalize = follower_finalize};
static const tpi_future_type limited_type = {
    .ended = limited_ended, .canceled = limited_canceled, .finalize = follower_finalize};

static void follow(tpi_waiter *waiter) {
    tpi_future_follow(waiter->owner, waiter->awaited);
}

/* A follower at the head of a zeroed struct of size bytes; it follows future already. */
static int follower_new(tepal_future *future, const tpi_future_type *type, size_t size, tepal_future **made) {
    const int code = tpi_future_create(future->loop, size, type, made);
    if (code < 0) {
        return code;
    }
    tpi_waiter *waiter = &((follower *)*made)->waiter;
    tepal_future_ref(*made);
    waiter->awaited = tpi_future_keep(future);
    if (future->state == TPI_FUTURE_PENDING) {
        tpi_waiter_add(waiter, future, *made, follow);
    } else {
        tpi_future_follow(*made, future);
    }
    return 0;
}

int tepal_future_shield(tepal_future *future, tepal_future **out) {
    return follower_new(future, &shield_type, sizeof(follower), out);
}

/* The time is over: end by that, and cancel what was waited for. */
static void time_out(limited *self) {
    tepal_future *future = &self->follower.future;

    tepal_future_ref(future);
    if (tepal_future_set_code(future, TEPAL_ETIMEDOUT) == 0) {
        tepal_future_cancel(self->follower.waiter.awaited);
    }
    tepal_future_unref(future);
}

static void time_limit_passed(tepal_work *work, int status) {
    if (status == 0) { /* else the loop is closed: no limit any more, but the future may still end */
        time_out((limited *)((char *)work - offsetof(limited, timer.work)));
    }
}

int tepal_future_wait_for(tepal_future *future, int64_t limit_ns, tepal_future **out) {
    tepal_loop *loop = future->loop;
    tepal_future *made;
    int64_t deadline_ns;
    const int code = follower_new(future, &limited_type, sizeof(limited), &made);

    if (code < 0) {
        return code;
    }
    limited *self = (limited *)made;
    if (made->state == TPI_FUTURE_PENDING && limit_ns <= 0) {
        time_out(self);
    } else if (made->state == TPI_FUTURE_PENDING) {
        if (__builtin_add_overflow(tepal_loop_time(loop), limit_ns, &deadline_ns)) {
            deadline_ns = INT64_MAX;
        }
        self->timer.work.run = time_limit_passed;
        (void)tepal_timer_start(loop, &self->timer, deadline_ns); /* fails only on a closed loop */
    }
    *out = made;
    return 0;
}

/* ---- Of many: gather and first ---- */

typedef struct group {
    tepal_future future;
    size_t count;
    size_t left;            /* gather: members without a value yet */
    tepal_future **members; /* in the same block, behind the waiters */
    tpi_waiter waiters[];
} group;

static void group_ended(tepal_future *future) {
    group *self = (group *)future;
    for (size_t i = 0; i < self->count; i++) {
        tpi_waiter_remove(&self->waiters[i]);
    }
    tepal_future_unref(future); /* the one that it had while pending */
}

static void group_finalize(tepal_future *future) {
    group *self = (group *)future;
    for (size_t i = 0; i < self->count; i++) {
        tpi_future_let_go(self->members[i]);
    }
}

static void gather_canceled(tepal_future *future) {
    group *self = (group *)future;
    for (size_t i = 0; i < self->count; i++) {
        tepal_future_cancel(self->members[i]);
    }
}

static const tpi_future_type gather_type = {
    .ended = group_ended, .canceled = gather_canceled, .finalize = group_finalize};
static const tpi_future_type first_type = {.ended = group_ended, .finalize = group_finalize};

static void gather_all_have_values(group *self) {
    (void)tepal_future_set_result(&self->future, self->members, NULL);
}

static void gather_member_done(tpi_waiter *waiter) {
    group *self = (group *)waiter->owner;
    const tepal_error *error = tepal_future_error(waiter->awaited);

    if (error == NULL) {
        if (--self->left == 0) {
            gather_all_have_values(self);
        }
        return;
    }
    for (size_t i = 0; i < self->count; i++) {
        self->members[i]->retrieved = true; /* also of those that have yet to fail */
    }
    tpi_future_lend_error(&self->future, error);
}

static void first_member_done(tpi_waiter *waiter) {
    (void)tepal_future_set_result(waiter->owner, waiter->awaited, NULL);
}

static int group_check(const tepal_loop *loop, tepal_future *const *futures, size_t count) {
    if (futures == NULL && count > 0) {
        return TEPAL_EINVAL;
    }
    if (count > (SIZE_MAX - sizeof(group)) / (sizeof(tpi_waiter) + sizeof(tepal_future *))) {
        return TEPAL_ENOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        if (futures[i] == NULL || futures[i]->loop != loop) {
            return TEPAL_EINVAL;
        }
    }
    return 0;
}

static int group_new(tepal_loop *loop, const tpi_future_type *type, tepal_future *const *futures, size_t count,
                     group **made) {
    tepal_future *outer;
    int code = group_check(loop, futures, count);
    if (code == 0) {
        const size_t size = sizeof(group) + count * (sizeof(tpi_waiter) + sizeof(tepal_future *));
        code = tpi_future_create(loop, size, type, &outer);
    }
    if (code != 0) {
        return code;
    }
    group *self = (group *)outer;
    self->count = self->left = count;
    self->members = (tepal_future **)(void *)&self->waiters[count];
    for (size_t i = 0; i < count; i++) {
        self->members[i] = tpi_future_keep(futures[i]);
        self->waiters[i] = (tpi_waiter){.awaited = futures[i], .owner = outer};
    }
    *made = self;
    return 0;
}

/* Listen to every member, until the group is done: some members may be. */
static void group_start(group *self, void (*done)(tpi_waiter *waiter)) {
    tepal_future_ref(&self->future);
    for (size_t i = 0; i < self->count && self->future.state == TPI_FUTURE_PENDING; i++) {
        if (self->members[i]->state == TPI_FUTURE_PENDING) {
            tpi_waiter_add(&self->waiters[i], self->members[i], &self->future, done);
        } else {
            done(&self->waiters[i]);
        }
    }
}

int tepal_future_gather(tepal_loop *loop, tepal_future *const *futures, size_t count, tepal_future **out) {
    group *self;
    const int code = group_new(loop, &gather_type, futures, count, &self);
    if (code != 0) {
        return code;
    }
    group_start(self, gather_member_done);
    if (count == 0) {
        gather_all_have_values(self);
    }
    *out = &self->future;
    return 0;
}

int tepal_future_first(tepal_loop *loop, tepal_future *const *futures, size_t count, tepal_future **out) {
    group *self;
    const int code = count == 0 ? TEPAL_EINVAL : group_new(loop, &first_type, futures, count, &self);
    if (code != 0) {
        return code;
    }
    group_start(self, first_member_done);
    *out = &self->future;
    return 0;
}
