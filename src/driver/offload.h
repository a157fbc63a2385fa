/*
 * Threads for what blocks: a pool that a driver embeds, for its offload and resolve.
 *
 * Everything here is for the loop's thread. Threads run job->work and nothing else of anybody's; job->done is called
 * from tpi_offload_dispatch() alone. The pool must not move in memory.
 */
#ifndef TPI_OFFLOAD_H
#define TPI_OFFLOAD_H

#include <pthread.h>
#include "driver/driver.h"

typedef struct tpi_offload {
    tpi_driver *driver;
    unsigned max_threads;
    unsigned thread_count;
    pthread_t *threads; /* max_threads of them, once there was work; NULL before */
    tpi_job *known;     /* every job submitted and not delivered; threads never touch this list */
    tpi_job *finished;  /* taken from done_jobs and left over by an interrupted dispatch; oldest first */
    tpi_job *canceled;  /* taken out before they began, to be told so; oldest first */
    tpi_job **canceled_end;

    pthread_mutex_t mutex;   /* for what follows */
    pthread_cond_t has_work; /* or is ending */
    tpi_job *queued;         /* not begun; oldest first */
    tpi_job **queued_end;
    unsigned queued_count;
    unsigned idle; /* threads that wait for work */
    bool ending;
} tpi_offload;

/* No thread is started and nothing is allocated until there is work. */
void tpi_offload_init(tpi_offload *offload, tpi_driver *driver, unsigned max_threads);

/* Have job->work run on a thread. 0; TEPAL_ENOMEM, TEPAL_ECLOSED inside destroy, or why no thread can be started. */
int tpi_offload_submit(tpi_offload *offload, tpi_job *job);

/* Take a submitted job out if it has not begun: done(TEPAL_ECANCELED) comes with the next dispatch. Else nothing changes. */
void tpi_offload_cancel(tpi_offload *offload, tpi_job *job);

/* Whether dispatch has something to deliver. The loop asks once more after it has set driver->sleeping. */
static inline bool tpi_offload_has_done(const tpi_offload *offload) {
    return offload->canceled != NULL || offload->finished != NULL || atomic_load(&offload->driver->done_jobs) != NULL;
}

/*
 * Call done of the jobs that have finished or were cancelled by now, oldest first. done may submit and cancel. Ends early,
 * with the rest kept, once driver->interrupted is set.
 */
void tpi_offload_dispatch(tpi_offload *offload);

/*
 * Wait for the jobs that run, end the threads, and deliver everything: TEPAL_ECANCELED to jobs that had not begun.
 * Before the driver's means of waking go: threads use them until this returns.
 */
void tpi_offload_destroy(tpi_offload *offload);

/*
 * In a forked child, where the threads do not exist: start afresh. What had finished is delivered by the next dispatch
 * as usual, and every other job gets TEPAL_ECANCELED there, also those whose work was half done in the parent. The fork
 * must not have happened in the middle of one of these functions.
 */
void tpi_offload_after_fork(tpi_offload *offload);

/* In a forked child: free the pool's memory without a word to the jobs' owners. */
void tpi_offload_abandon(tpi_offload *offload);

#endif
