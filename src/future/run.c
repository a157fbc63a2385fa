/*
 * Running a loop until one future is done. The loop is ended by a done callback, so what was queued before the future
 * was done runs first, as asyncio's users expect.
 */
#include "future/future.h"

typedef struct run {
    bool done;    /* the callback has run */
    bool stopped; /* and it was the first to stop the loop */
} run;

static void stop_loop(tepal_future *future, void *argument) {
    run *self = argument;
    self->done = true;
    self->stopped = !future->loop->stop;
    tepal_loop_stop(future->loop);
}

int tepal_loop_run_until_complete(tepal_loop *loop, tepal_future *future) {
    run self = {false, false};

    if (future == NULL || future->loop != loop) {
        return TEPAL_EINVAL;
    }
    /* Not from inside: the callback would outlive this call. */
    int code = tepal_loop_is_running(loop) ? tepal_loop_run_forever(loop) : tpi_loop_check(loop);
    if (code < 0) {
        return code;
    }
    tepal_future_ref(future);
    code = tepal_future_add_done_callback(future, stop_loop, &self);
    if (code == 0) {
        code = tepal_loop_run_forever(loop);
        /* If somebody else ended the run, nobody may stop a later one, or touch this frame. */
        (void)tepal_future_remove_done_callback(future, stop_loop, &self);
    }
    if (code < 0 && self.stopped) {
        loop->stop = false; /* an interrupted run keeps the stops that were asked for; this one is answered */
    }
    if (code == 0 && !self.done && !tepal_future_is_done(future)) {
        code = TEPAL_ESTOPPED;
    }
    tepal_future_unref(future);
    return code;
}
