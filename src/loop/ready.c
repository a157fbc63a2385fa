/*
 * The ready queue: callbacks of call_soon in a ring, and intrusive work in a list, in one order.
 *
 * The ring's entries are numbered from 1 on; its number is a callback's handle. A work remembers the number that the
 * next entry will get, and runs before that one. So a callback costs two words, and a work no memory.
 */
#include "loop/loop.h"

#define FIRST_ROOM 64
#define POSTS_AT_ONCE 4096 /* of a crowd of them: the ring stays small, and a snapshot leaves time for input */

static void make_room(tepal_loop *loop, const tpi_soon *old, tpi_soon *grown, uint32_t room) {
    tpi_ready *ready = &loop->ready;
    for (uint64_t at = ready->head; at != ready->tail; at++) {
        grown[at & (room - 1)] = old[at & (ready->room - 1)];
    }
}

/* Twice the room. Debug mode keeps where each callback was scheduled in a second ring behind the first. */
int tpi_ready_grow(tepal_loop *loop) {
    tpi_ready *ready = &loop->ready;
    if (ready->room > UINT32_MAX / 4) {
        return TEPAL_ENOMEM;
    }
    uint32_t room = ready->room == 0 ? FIRST_ROOM : ready->room * 2;
    size_t rings = loop->debug ? 2 : 1;
    tpi_soon *grown = loop->realloc(NULL, rings * room * sizeof *grown);
    if (grown == NULL) {
        return TEPAL_ENOMEM;
    }
    if (ready->room > 0) {
        make_room(loop, ready->ring, grown, room);
        if (loop->debug) {
            make_room(loop, ready->ring + ready->room, grown + room, room);
        }
    }
    tpi_free(loop->realloc, ready->ring);
    ready->ring = grown;
    ready->room = room;
    return 0;
}

static inline void push_soon(tpi_ready *ready, tepal_callback run, void *argument, tepal_handle *handle) {
    uint64_t number = ready->tail++;
    ready->ring[number & (ready->room - 1)] = (tpi_soon){.run = run, .argument = argument};
    if (handle != NULL) {
        *handle = (tepal_handle){.slot = (uint32_t)number & ~TPI_TIMED_HANDLE, .generation = (uint32_t)(number >> 31)};
    }
}

static __attribute__((noinline)) int call_soon_in_general(tepal_loop *loop, tepal_callback run, void *argument,
                                                          tepal_handle *handle, void *place) {
    int code = tpi_loop_check(loop);
    if (code < 0) {
        return code;
    }
    tpi_ready *ready = &loop->ready;
    tpi_posts_merge(loop);
    while (ready->tail - ready->head == ready->room) {
        code = tpi_ready_grow(loop);
        if (code < 0) {
            return code;
        }
        tpi_posts_merge(loop); /* of which some may have been left for want of that room */
    }
    if (loop->debug) {
        ready->ring[ready->room + (ready->tail & (ready->room - 1))].argument = place;
    }
    push_soon(ready, run, argument, handle);
    return 0;
}

int tepal_loop_call_soon(tepal_loop *loop, tepal_callback run, void *argument, tepal_handle *handle) {
    tpi_ready *ready = &loop->ready;
    if (__builtin_expect(loop->strict || ready->tail - ready->head == ready->room || tpi_posts_any(&loop->posts), 0)) {
        return call_soon_in_general(loop, run, argument, handle, __builtin_return_address(0));
    }
    push_soon(ready, run, argument, handle);
    return 0;
}

bool tpi_ready_cancel(tepal_loop *loop, tepal_handle handle) {
    tpi_ready *ready = &loop->ready;
    uint64_t number = (uint64_t)handle.generation << 31 | handle.slot;
    if (number < ready->head || number >= ready->tail) {
        return false;
    }
    /* It cannot leave the middle of the queue: its turn will find nothing to run. */
    tpi_soon *soon = &ready->ring[number & (ready->room - 1)];
    bool pending = soon->run != NULL;
    soon->run = NULL;
    return pending;
}

void tpi_ready_push(tepal_loop *loop, tepal_work *work) {
    tpi_ready *ready = &loop->ready;
    /* Another thread may be posting the same work, and look whether it is queued. */
    __atomic_store_n(&work->state, (uintptr_t)(ready->tail << 1 | TPI_WORK_QUEUED), __ATOMIC_RELAXED);
    work->next = NULL;
    if (ready->first == NULL) {
        ready->first = work;
    } else {
        ready->last->next = work;
    }
    ready->last = work;
}

void tpi_loop_queue(tepal_loop *loop, tepal_work *work) {
    tpi_posts_merge(loop);
    const tpi_ready *ready = &loop->ready;
    if (__builtin_expect(ready->tail - ready->head == ready->room && tpi_posts_any(&loop->posts), 0)) {
        /* Callbacks were left there, it seems for want of memory: behind them, if the loop is not closing. */
        work->state = TPI_WORK_QUEUED;
        if (tpi_posts_add_work(loop, work) == 0) {
            return;
        }
    }
    tpi_ready_push(loop, work);
}

int tepal_loop_post(tepal_loop *loop, tepal_work *work) {
    int code = tpi_loop_check(loop);
    if (code < 0) {
        return code;
    }
    uintptr_t idle = TPI_WORK_IDLE;
    if (!__atomic_compare_exchange_n(&work->state, &idle, TPI_WORK_QUEUED, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        return TEPAL_EBUSY;
    }
    tpi_loop_queue(loop, work);
    return 0;
}

/* Whether the oldest work comes before the oldest callback. */
static inline bool work_is_next(const tpi_ready *ready) {
    return ready->first != NULL && (intptr_t)((ready->first->state >> 1) - (uintptr_t)ready->head) <= 0;
}

static tepal_work *pop_work(tpi_ready *ready) {
    tepal_work *work = ready->first;
    ready->first = work->next;
    __atomic_store_n(&work->state, TPI_WORK_IDLE, __ATOMIC_RELEASE);
    return work;
}

static inline void run_soon(tepal_loop *loop) {
    tpi_ready *ready = &loop->ready;
    tpi_soon soon = ready->ring[ready->head++ & (ready->room - 1)];
    if (__builtin_expect(soon.run != NULL, 1)) { /* else cancelled */
        loop->stats.callbacks++;
        soon.run(soon.argument);
        tpi_loop_flush(loop);
        tpi_driver_flush_old(loop->driver);
    }
}

/* Run the oldest of all. */
static void run_one(tepal_loop *loop) {
    tpi_ready *ready = &loop->ready;
    if (work_is_next(ready)) {
        tepal_work *work = pop_work(ready);
        loop->stats.callbacks++;
        work->run(work, 0);
        tpi_loop_flush(loop);
        tpi_driver_flush_old(loop->driver);
    } else {
        run_soon(loop);
    }
}

static void run_one_watched(tepal_loop *loop) {
    tpi_ready *ready = &loop->ready;
    int64_t began = tpi_debug_begin(loop);
    if (work_is_next(ready)) {
        loop->function = (uintptr_t)ready->first->run;
    } else {
        loop->place = ready->ring[ready->room + (ready->head & (ready->room - 1))].argument;
    }
    run_one(loop);
    tpi_debug_end(loop, began, "a callback");
}

static void take_posts(tepal_loop *loop) {
    if (tpi_posts_any(&loop->posts)) {
        tpi_posts_merge_some(loop, POSTS_AT_ONCE);
    }
}

static void run_drain(tepal_loop *loop) {
    for (unsigned left = loop->drain_limit; left > 0 && tpi_ready_any(loop) && !loop->interrupted; left--) {
        if (loop->debug) {
            run_one_watched(loop);
        } else {
            run_one(loop);
        }
        if (!tpi_ready_any(loop)) {
            take_posts(loop);
        }
    }
}

void tpi_ready_run(tepal_loop *loop) {
    tpi_ready *ready = &loop->ready;
    take_posts(loop);
    if (loop->order == TEPAL_ORDER_DRAIN) {
        run_drain(loop);
        return;
    }
    /* Those that are here now: callbacks below a number, and works up to the last one. */
    uint64_t end = ready->tail;
    const tepal_work *last = ready->first == NULL ? NULL : ready->last;
    while (__builtin_expect(!loop->interrupted, 1)) {
        if (__builtin_expect(ready->first == NULL && ready->head != end && !loop->debug, 1)) {
            run_soon(loop); /* the common case: callbacks alone */
            continue;
        }
        if (ready->head == end && last == NULL) {
            return;
        }
        if (ready->first == last && work_is_next(ready)) {
            last = NULL;
        }
        if (loop->debug) {
            run_one_watched(loop);
        } else {
            run_one(loop);
        }
    }
}

void tpi_ready_drop(tepal_loop *loop) {
    tpi_ready *ready = &loop->ready;
    ready->head = ready->tail;
    while (ready->first != NULL) {
        tepal_work *work = pop_work(ready);
        work->run(work, TEPAL_ECLOSED);
    }
    tepal_timer *timer;
    while ((timer = tpi_timers_take(&loop->timers)) != NULL) {
        timer->work.run(&timer->work, TEPAL_ECLOSED);
    }
}

int tpi_ready_init(tepal_loop *loop) {
    loop->ready.head = loop->ready.tail = 1; /* so that a handle of zeroes names nothing */
    return tpi_ready_grow(loop);
}

void tpi_ready_free(tepal_loop *loop) {
    tpi_free(loop->realloc, loop->ready.ring);
    loop->ready.ring = NULL;
    loop->ready.room = 0;
    loop->ready.head = loop->ready.tail;
}
