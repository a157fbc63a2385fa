/**
 * The executor: blocking work on threads, its result through a future.
 */
#ifndef TEPAL_EXECUTOR_H
#define TEPAL_EXECUTOR_H

#include <tepal/base.h>
#include <tepal/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Run work(argument, &value) on one of the loop's threads; the future gets value, or the code below 0 that it returned.
 *
 * destroy (may be NULL) is called on the value when the future dies, or at once if the future was cancelled meanwhile:
 * work that has begun cannot be stopped, work that has not begun never begins. argument is borrowed until the future
 * is done or, if it is cancelled, until work has returned. Threads are started when needed, up to the loop's
 * executor_threads, block all signals, and end with the loop. Returns 0; TEPAL_EINVAL; TEPAL_ENOMEM; TEPAL_ECLOSED; EAGAIN as a system error
 * if no thread can be started. Loop thread.
 */
TEPAL_API int tepal_loop_run_in_executor(tepal_loop *loop, int (*work)(void *argument, void **value), void *argument,
                                         void (*destroy)(void *value), tepal_future **future);

#ifdef __cplusplus
}
#endif
#endif
