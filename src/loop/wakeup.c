/*
 * The wake-up of a loop that sleeps, from threads and signal handlers.
 *
 * No descriptor carries data: what was written to one means "look", nothing else.
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

void tpi_wakeup_close(tepal_loop *loop) {
    atomic_store(&loop->wakeable, false);
    while (atomic_load(&loop->wakers) != 0) {
        sched_yield(); /* a few instructions and a write(2) at most */
    }
}

static void stop_run(void *loop) {
    tepal_loop_stop(loop);
}

int tepal_loop_stop_threadsafe(tepal_loop *loop) {
    return tepal_loop_call_soon_threadsafe(loop, stop_run, loop);
}
