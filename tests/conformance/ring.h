/*
 * What the tests do to an io_uring: its submissions are looked at before the kernel sees them, and its completions
 * before the library does. The test program is linked with --wrap for the functions of liburing that enter the kernel.
 *
 * Nothing is made up behind the kernel's back: a send that is to fail is submitted as nothing at all, a receive or an
 * accept that is to fail is really cancelled, and its real last completion says the error. So the kernel has nothing
 * that the library takes for over, and no byte and no connection is lost.
 */
#ifndef TEPAL_TESTS_RING_H
#define TEPAL_TESTS_RING_H

#include "conformance/faults.h"

#include <liburing.h>

enum { RING_BUCKETS = 1024, RING_DESCRIPTORS = 65536 };

/* An operation on a socket that the kernel has, or is about to have. */
typedef struct flight {
    struct flight *next;
    uint64_t tag; /* its user_data */
    int fd;
    uint8_t opcode;
    bool is_nothing;    /* the kernel got a NOP instead */
    bool is_canceled;   /* by the library */
    int error;          /* what its last completion is to say, if nothing else ends it; 0: what the kernel says */
    bool is_planned;    /* the error is that of call */
    unsigned cancel_in; /* entries into the kernel; 0: nobody has to */
    faults_call call;   /* of a send */
    void *copy;         /* of a message that was cut short */
} flight;

/* A ring of the library's. The driver copies its struct io_uring; the mapped submissions tell which it is. */
typedef struct ring_state {
    struct ring_state *next;
    const struct io_uring_sqe *key;
    unsigned looked_at; /* submissions */
    unsigned seen;      /* completions */
    struct io_uring_buf_ring *buffers;
    unsigned buffer_count;
    unsigned buffer_bytes; /* what each holds, where some hold less; else 0 */
    flight *flights[RING_BUCKETS];
    struct mischief *mischief; /* NULL: none */
    bool is_sending[RING_DESCRIPTORS];
} ring_state;

/** Receives that brought bytes, and that the kernel has ended all the same. */
size_t ring_receives_ended(void);

/* What follows is for ring.c and mischief.c. */

flight *ring_find(ring_state *self, uint64_t tag);

/* Really end an operation that the kernel has. Its last completion comes with the next entry into the kernel. */
void ring_cancel(const struct io_uring *ring, uint64_t tag);

/* Let the last completion of an operation say an error: a submission ... */
void ring_fail_submission(flight *operation, struct io_uring_sqe *submission, int error);
/* ... or what the kernel has already. */
void ring_fail_operation(const struct io_uring *ring, flight *operation, int error);

/*
 * Let the next buffers that the kernel takes in the next entry hold less than they do: so many of them, so many bytes.
 * Few, for a kernel
 * that has received 32 times without a pause may forget the end of a Unix socket (axboe/liburing#1549).
 */
void ring_shorten_buffers(ring_state *self, const struct io_uring *ring, unsigned count, unsigned bytes);

#endif
