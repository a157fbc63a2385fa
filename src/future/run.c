/*
 * Running a loop until one future is done. The loop is ended by a done callback, so what was queued before the future
 * was done runs first, as asyncio's users expect.
 */
#include "future/future.h"

static void stop_loop(tepal_future *future, void *argument) {
    bool *done = argument;
    *done = true;
    tepal_loop_stop(future->loop);
}

int tepal_loop_run_until_complete(tepal_loop *loop, tepal_future *future) {
    bool done = false;

    if (future == NULL || future->loop != loop) {
        return TEPAL_EINVAL;
    }
    /* Not from inside: the callback would outlive this call. */
    int code = loop->running ? tepal_loop_run_forever(loop) : tpi_loop_check(loop);
    if (code < 0) {
        return code;
    }
    tepal_future_ref(future);
    code = tepal_future_add_done_callback(future, stop_loop, &done);
    if (code == 0) {
        code = tepal_loop_run_forever(loop);
        /* If somebody else ended the run, nobody may stop a later one, or touch this frame. */
        (void)tepal_future_remove_done_callback(future, stop_loop, &done);
    }
    if (code == 0 && !done && !tepal_future_is_done(future)) {
        code = TEPAL_ESTOPPED;
    }
    tepal_future_unref(future);
    return code;
}
