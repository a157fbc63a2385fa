/* One worker of the echo server: a loop in a thread, its listening sockets, its connections and their counters. */
#ifndef TOOLS_ECHO_H
#define TOOLS_ECHO_H

#include <pthread.h>
#include <tepal.h>

#include "options.h"

/** Counters of a worker's life. */
typedef struct echo_counters {
    uint64_t connections;
    uint64_t bytes;
    uint64_t reads;
    uint64_t pauses;  /* how often a peer that did not read stopped us from reading */
    uint64_t aborted; /* connections that ended with an error, or were cut off at the end */
    uint64_t refused; /* what came and did not become a connection: failed handshakes, for the most part */
    uint64_t resumed; /* connections that took up an earlier TLS session */
} echo_counters;

/* What is said of connections that were not accepted: some lines a second, so that a flood of them does not become a
 * flood of words. */
typedef struct echo_complaints {
    int64_t since_ns; /* when this second of complaining began */
    unsigned said;    /* in it */
    uint64_t unsaid;  /* since the last line */
} echo_complaints;

/* Stopping goes one way, from one step to the next (echo_worker.c tells what each waits for). */
typedef enum echo_stage { ECHO_SERVING, ECHO_SETTLING, ECHO_ENDING, ECHO_CLOSING, ECHO_ABORTED } echo_stage;

typedef struct echo_worker {
    /* First, so that a connection, whose first word points here, finds its worker without a pointer of its own. */
    tepal_protocol_type upcalls;
    tepal_loop *loop;
    tepal_server *servers[OPTION_LIST_MAX];
    int shared_fds[OPTION_LIST_MAX]; /* descriptors of Unix sockets that another worker listens on; -1: none */
    size_t server_count;
    uint64_t alive;  /* connections */
    uint64_t paused; /* connections whose reading waits for their peer to read */
    bool has_tls;
    echo_complaints complaints;
    echo_counters counters;
    echo_stage stage;
    tepal_timer step;    /* the next look while stopping */
    int64_t stop_ns;     /* when stopping began */
    uint64_t reads_seen; /* counters.reads at the last look */
    int64_t grace_ns;    /* how long connections may take to end after they were told to */
    pthread_t thread;
    int status; /* what running the loop returned */
} echo_worker;

/** Set up a worker with a loop on a driver (NULL: the best). Returns 0 or the library's code. */
int echo_worker_init(echo_worker *self, const char *driver, int64_t grace_ns);

/** Makes the protocol of a connection; argument is the worker. */
int echo_factory(void *argument, tepal_protocol **protocol);

/** A tepal_server_options.accept_failed; argument is the worker: says so on stderr, or counts what is not said. */
void echo_accept_failed(void *argument, const tepal_error *error);

/** Run until stopped. As the thread's function it takes the worker, and returns NULL. */
void *echo_worker_run(void *worker);

/** A tepal_callback, on the worker's loop: stop in order; called again, at once. */
void echo_worker_stop(void *worker);

/** Close what is left. Not while the worker runs. */
void echo_worker_end(echo_worker *self);

#endif
