/*
 * The executor: a future whose value is made on one of the driver's threads. The thread writes the job's own members
 * and never the future.
 */
#include "future/future.h"

#include <tepal/executor.h>

typedef struct execution {
    tepal_future future;
    tpi_job job;
    tpi_closer closer;
    int (*work)(void *argument, void **value);
    void *argument;
    void (*destroy)(void *value);
    void *value; /* the thread's until the job is done */
    int code;
} execution;

static execution *execution_of_job(tpi_job *job) {
    return (execution *)((char *)job - offsetof(execution, job));
}

static void execution_work(tpi_job *job) {
    execution *self = execution_of_job(job);
    self->code = self->work(self->argument, &self->value);
}

/* From dispatch, once: the job's reference to the future ends here. */
static void execution_done(tpi_job *job, int status) {
    execution *self = execution_of_job(job);
    tepal_future *future = &self->future;

    tpi_loop_remove_closer(&self->closer);
    if (status < 0) {
        tpi_future_end_canceled(future);
    } else if (self->code < 0) {
        (void)tepal_future_set_code(future, self->code);
    } else if (tepal_future_set_result(future, self->value, self->destroy) < 0 && self->destroy != NULL) {
        self->destroy(self->value); /* it was cancelled meanwhile */
    }
    tepal_future_unref(future);
}

static void execution_canceled(tepal_future *future) {
    tpi_job *job = &((execution *)future)->job;
    if (job->driver != NULL) {
        job->driver->ops->offload_cancel(job->driver, job);
    }
}

/* The loop is closed in a forked child, whose driver forgets the job without a word: let the future go. */
static void execution_abandoned(tpi_closer *closer) {
    execution *self = (execution *)((char *)closer - offsetof(execution, closer));
    tpi_future_end_canceled(&self->future);
    tepal_future_unref(&self->future);
}

static const tpi_future_type execution_type = {.canceled = execution_canceled};

int tepal_loop_run_in_executor(tepal_loop *loop, int (*work)(void *argument, void **value), void *argument,
                               void (*destroy)(void *value), tepal_future **future) {
    tepal_future *made;
    int code = work == NULL ? TEPAL_EINVAL : tpi_future_create(loop, sizeof(execution), &execution_type, &made);
    if (code < 0) {
        return code;
    }
    execution *self = (execution *)made;
    self->work = work;
    self->argument = argument;
    self->destroy = destroy;
    self->job.work = execution_work;
    self->job.done = execution_done;
    self->closer.abandoned = execution_abandoned;
    code = loop->driver->ops->offload(loop->driver, &self->job);
    if (code < 0) {
        tepal_future_unref(made);
        return code;
    }
    tpi_loop_add_closer(loop, &self->closer);
    *future = tepal_future_ref(made); /* one is the caller's, one the job's */
    return 0;
}
