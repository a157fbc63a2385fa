/*
 * Work from other threads: a stack that they push to without a lock, taken whole and turned round by the loop, and
 * the wake-up of a loop that sleeps.
 *
 * Many posts cost one wake-up: the loop sets driver->sleeping before it looks a last time and waits, and who posts
 * wakes only a loop that has set it. No descriptor carries data: what was written to one means "look", nothing else.
 */
#include "loop/loop.h"
#include <sched.h>

/* Between these two the driver's wake may be used: tpi_wakeup_close() waits until nobody is between them. */
static bool enter_wake(tepal_loop *loop) {
    atomic_fetch_add(&loop->wakers, 1);
    return atomic_load(&loop->wakeable);
}

static void leave_wake(tepal_loop *loop) {
    atomic_fetch_sub(&loop->wakers, 1);
}

void tepal_loop_wake(tepal_loop *loop) {
    if (enter_wake(loop)) {
        loop->driver->ops->wake(loop->driver);
    }
    leave_wake(loop);
}

static void notify(tepal_loop *loop) {
    if (enter_wake(loop)) {
        tpi_driver_notify(loop->driver);
    }
    leave_wake(loop);
}

void tpi_wakeup_close(tepal_loop *loop) {
    atomic_store(&loop->wakeable, false);
    while (atomic_load(&loop->wakers) != 0) {
        sched_yield(); /* a few instructions and a write(2) at most */
    }
}

static int push(tepal_loop *loop, tepal_work *work) {
    tepal_work *head = atomic_load_explicit(&loop->posts, memory_order_relaxed);
    do {
        if (head == TPI_POSTS_CLOSED) {
            return TEPAL_ECLOSED;
        }
        work->next = head;
    } while (!atomic_compare_exchange_weak(&loop->posts, &head, work));
    if (head == NULL) {
        notify(loop); /* who found the stack empty wakes; the others ride along */
    }
    return 0;
}

int tepal_loop_post_threadsafe(tepal_loop *loop, tepal_work *work) {
    uintptr_t idle = TPI_WORK_IDLE;
    if (!__atomic_compare_exchange_n(&work->state, &idle, TPI_WORK_QUEUED, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
        return TEPAL_EBUSY;
    }
    int code = push(loop, work);
    if (code < 0) {
        __atomic_store_n(&work->state, TPI_WORK_IDLE, __ATOMIC_RELEASE);
    }
    return code;
}

/* A callback from another thread: no handle, and memory of its own, since the loop's slots are the loop thread's. */
typedef struct tpi_remote_call {
    tepal_work work;
    tepal_callback run;
    void *argument;
    tpi_realloc realloc;
} tpi_remote_call;

static void remote_call_run(tepal_work *work, int status) {
    tpi_remote_call *call = (tpi_remote_call *)work;
    tepal_callback run = call->run;
    void *argument = call->argument;
    tpi_free(call->realloc, call);
    if (status == 0) {
        run(argument);
    }
}

int tepal_loop_call_soon_threadsafe(tepal_loop *loop, tepal_callback run, void *argument) {
    tpi_remote_call *call = loop->realloc(NULL, sizeof *call);
    if (call == NULL) {
        return TEPAL_ENOMEM;
    }
    *call = (tpi_remote_call){.work = {.run = remote_call_run, .state = TPI_WORK_QUEUED},
                              .run = run,
                              .argument = argument,
                              .realloc = loop->realloc};
    int code = push(loop, &call->work);
    if (code < 0) {
        tpi_free(loop->realloc, call);
    }
    return code;
}

static void stop_run(void *loop) {
    tepal_loop_stop(loop);
}

int tepal_loop_stop_threadsafe(tepal_loop *loop) {
    return tepal_loop_call_soon_threadsafe(loop, stop_run, loop);
}

/* Oldest first, to the end of the ready queue. */
static void merge(tepal_loop *loop, tepal_work *newest) {
    tepal_work *oldest = NULL;
    while (newest != NULL) {
        tepal_work *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest != NULL) {
        tepal_work *next = oldest->next;
        tpi_ready_push(loop, oldest);
        loop->stats.posts++;
        oldest = next;
    }
}

void tpi_posts_merge_slow(tepal_loop *loop) {
    /* While closing, nothing comes any more. */
    if (atomic_load(&loop->posts) != TPI_POSTS_CLOSED) {
        merge(loop, atomic_exchange(&loop->posts, NULL));
    }
}

void tpi_posts_close(tepal_loop *loop) {
    tepal_work *newest = atomic_exchange(&loop->posts, TPI_POSTS_CLOSED);
    if (newest != TPI_POSTS_CLOSED) {
        merge(loop, newest);
    }
}

void tpi_posts_abandon(tepal_loop *loop) {
    tpi_posts_close(loop);
    for (tepal_work *work = loop->ready.first, *next; work != NULL; work = next) {
        next = work->next;
        if (work->run == remote_call_run) {
            tpi_free(loop->realloc, work);
        }
    }
    loop->ready.first = NULL;
}
