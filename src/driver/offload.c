/*
 * The pool of threads for what blocks. It never calls a job's done from a thread, and a thread never touches the list
 * of known jobs: after a fork that list is whole whatever a thread was doing.
 */
#include "driver/offload.h"

#include <signal.h>
#include "base/alloc.h"

void tpi_offload_init(tpi_offload *offload, tpi_driver *driver, unsigned max_threads) {
    memset(offload, 0, sizeof *offload);
    offload->driver = driver;
    offload->max_threads = max_threads > 0 ? max_threads : 1;
    offload->canceled_end = &offload->canceled;
    offload->queued_end = &offload->queued;
    pthread_mutex_init(&offload->mutex, NULL);
    pthread_cond_init(&offload->has_work, NULL);
}

static void known_add(tpi_offload *offload, tpi_job *job) {
    job->known_next = offload->known;
    job->known_link = &offload->known;
    if (offload->known != NULL) {
        offload->known->known_link = &job->known_next;
    }
    offload->known = job;
}

/* Does nothing for a job that is out of the list already. */
static void known_remove(tpi_job *job) {
    if (job->known_link == NULL) {
        return;
    }
    *job->known_link = job->known_next;
    if (job->known_next != NULL) {
        job->known_next->known_link = job->known_link;
    }
    job->known_link = NULL;
}

/* The three of the queue: under the mutex. */

static void queue_add(tpi_offload *offload, tpi_job *job) {
    job->next = NULL;
    job->link = offload->queued_end;
    *offload->queued_end = job;
    offload->queued_end = &job->next;
    offload->queued_count++;
}

static void queue_remove(tpi_offload *offload, tpi_job *job) {
    *job->link = job->next;
    if (job->next != NULL) {
        job->next->link = job->link;
    } else {
        offload->queued_end = job->link;
    }
    job->link = NULL;
    offload->queued_count--;
}

/* The oldest job, once there is one; NULL: the pool ends. */
static tpi_job *queue_take(tpi_offload *offload) {
    while (offload->queued == NULL && !offload->ending) {
        offload->idle++;
        pthread_cond_wait(&offload->has_work, &offload->mutex);
        offload->idle--;
    }
    tpi_job *job = offload->queued;
    if (job != NULL) {
        queue_remove(offload, job);
    }
    return job;
}

/* From a thread. Sequentially consistent: whoever then sees the loop not sleeping knows that the loop will see job. */
static void push_done(tpi_driver *driver, tpi_job *job) {
    tpi_job *newest = atomic_load_explicit(&driver->done_jobs, memory_order_relaxed);
    do {
        job->next = newest;
    } while (!atomic_compare_exchange_weak(&driver->done_jobs, &newest, job));
    tpi_driver_notify(driver);
}

static void *thread_main(void *argument) {
    tpi_offload *offload = argument;
    tpi_job *job;

    pthread_mutex_lock(&offload->mutex);
    while ((job = queue_take(offload)) != NULL) {
        pthread_mutex_unlock(&offload->mutex);
        job->work(job);
        push_done(offload->driver, job);
        pthread_mutex_lock(&offload->mutex);
    }
    pthread_mutex_unlock(&offload->mutex);
    return NULL;
}

/* One more thread. Its stack is of the system's usual size: what runs on it is the user's, and untouched pages are free. */
static int start_thread(tpi_offload *offload) {
    sigset_t every, before;

    if (offload->threads == NULL) {
        offload->threads = offload->driver->realloc(NULL, offload->max_threads * sizeof *offload->threads);
        if (offload->threads == NULL) {
            return TEPAL_ENOMEM;
        }
    }
    /* A thread inherits the mask it is made under; signals are for the program's own threads. */
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    const int error = pthread_create(&offload->threads[offload->thread_count], NULL, thread_main, offload);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) {
        return TEPAL_SYSTEM(error);
    }
    pthread_setname_np(offload->threads[offload->thread_count], "tepal-work");
    offload->thread_count++;
    return 0;
}

int tpi_offload_submit(tpi_offload *offload, tpi_job *job) {
    pthread_mutex_lock(&offload->mutex);
    const bool ending = offload->ending;
    const bool short_of_threads =
        offload->queued_count >= offload->idle && offload->thread_count < offload->max_threads;
    pthread_mutex_unlock(&offload->mutex);

    if (ending) {
        return TEPAL_ECLOSED;
    }
    if (short_of_threads) {
        const int code = start_thread(offload);
        if (code < 0 && offload->thread_count == 0) {
            return code; /* with any thread at all the job gets its turn */
        }
    }
    job->driver = offload->driver;
    known_add(offload, job);
    pthread_mutex_lock(&offload->mutex);
    queue_add(offload, job);
    pthread_cond_signal(&offload->has_work);
    pthread_mutex_unlock(&offload->mutex);
    return 0;
}

static void add_canceled(tpi_offload *offload, tpi_job *job) {
    job->link = NULL;
    job->next = NULL;
    *offload->canceled_end = job;
    offload->canceled_end = &job->next;
    offload->driver->backlog = true; /* nothing else would keep the loop from sleeping */
}

void tpi_offload_cancel(tpi_offload *offload, tpi_job *job) {
    pthread_mutex_lock(&offload->mutex);
    const bool unbegun = job->link != NULL;
    if (unbegun) {
        queue_remove(offload, job);
    }
    pthread_mutex_unlock(&offload->mutex);
    if (unbegun) {
        add_canceled(offload, job);
    }
}

/* Hand a job back to its owner. Its memory may be gone at the return. */
static void deliver(tpi_job *job, int status) {
    known_remove(job);
    job->driver = NULL;
    job->done(job, status);
}

static tpi_job *reversed(tpi_job *newest) {
    tpi_job *oldest = NULL;
    while (newest != NULL) {
        tpi_job *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

/* Put a list in front of what has been cancelled meanwhile. */
static void put_back_canceled(tpi_offload *offload, tpi_job *rest) {
    tpi_job *last = rest;
    while (last->next != NULL) {
        last = last->next;
    }
    last->next = offload->canceled;
    if (offload->canceled == NULL) {
        offload->canceled_end = &last->next;
    }
    offload->canceled = rest;
}

void tpi_offload_dispatch(tpi_offload *offload) {
    const tpi_driver *driver = offload->driver;
    tpi_job **end = &offload->finished;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = reversed(atomic_exchange(&offload->driver->done_jobs, NULL));
    while (offload->finished != NULL && !driver->interrupted) {
        tpi_job *job = offload->finished;
        offload->finished = job->next;
        deliver(job, 0);
    }

    tpi_job *canceled = offload->canceled; /* what is cancelled from now on waits for the next dispatch */
    offload->canceled = NULL;
    offload->canceled_end = &offload->canceled;
    while (canceled != NULL && !driver->interrupted) {
        tpi_job *job = canceled;
        canceled = job->next;
        deliver(job, TEPAL_ECANCELED);
    }
    if (canceled != NULL) {
        put_back_canceled(offload, canceled);
    }
}

void tpi_offload_destroy(tpi_offload *offload) {
    pthread_mutex_lock(&offload->mutex);
    offload->ending = true;
    tpi_job *unbegun = offload->queued;
    offload->queued = NULL;
    offload->queued_end = &offload->queued;
    offload->queued_count = 0;
    pthread_cond_broadcast(&offload->has_work);
    pthread_mutex_unlock(&offload->mutex);

    while (unbegun != NULL) {
        tpi_job *job = unbegun;
        unbegun = job->next;
        add_canceled(offload, job);
    }
    for (unsigned i = 0; i < offload->thread_count; i++) {
        pthread_join(offload->threads[i], NULL);
    }
    offload->thread_count = 0;
    while (tpi_offload_has_done(offload)) {
        offload->driver->interrupted = false; /* this is the last occasion: nothing may be left */
        tpi_offload_dispatch(offload);
    }
    pthread_cond_destroy(&offload->has_work);
    pthread_mutex_destroy(&offload->mutex);
    tpi_free(offload->driver->realloc, offload->threads);
    offload->threads = NULL;
}

static void forget(tpi_job *list) {
    for (tpi_job *job = list; job != NULL; job = job->next) {
        known_remove(job);
    }
}

void tpi_offload_after_fork(tpi_offload *offload) {
    tpi_driver *driver = offload->driver;

    /* What is in a list of its own already keeps its status. */
    forget(atomic_load(&driver->done_jobs));
    forget(offload->finished);
    forget(offload->canceled);
    tpi_job *lost = NULL; /* oldest first: the list of known jobs begins with the newest */
    while (offload->known != NULL) {
        tpi_job *job = offload->known;
        known_remove(job);
        job->next = lost;
        lost = job;
    }
    while (lost != NULL) {
        tpi_job *job = lost;
        lost = job->next;
        add_canceled(offload, job);
    }

    /* A thread of the parent may have held the mutex, or been half way through the queue: both are made anew. */
    offload->thread_count = 0;
    offload->queued = NULL;
    offload->queued_end = &offload->queued;
    offload->queued_count = 0;
    offload->idle = 0;
    pthread_mutex_init(&offload->mutex, NULL);
    pthread_cond_init(&offload->has_work, NULL);
}

void tpi_offload_abandon(tpi_offload *offload) {
    tpi_free(offload->driver->realloc, offload->threads);
    offload->threads = NULL;
}
