/*
 * The loop's inside, shared by the files of src/loop and by the layers above it.
 */
#ifndef TPI_LOOP_H
#define TPI_LOOP_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>
#include "base/alloc.h"
#include "driver/driver.h"
#include "loop/posts.h"
#include "loop/timers.h"
#include <tepal/future.h>
#include <tepal/loop.h>

/*
 * What tepal_work.state says: idle, or queued, which is the lowest bit (above it the order; ready.c). Timers use other
 * even values while they are in the wheel (timers.c).
 */
enum { TPI_WORK_IDLE = 0, TPI_WORK_QUEUED = 1 };

/* In a handle's slot: it names a callback of call_later or call_at (calls.c), not one of call_soon (ready.c). */
#define TPI_TIMED_HANDLE (UINT32_C(1) << 31)

typedef struct tpi_call tpi_call;
typedef struct tpi_signals tpi_signals;
typedef struct tpi_watches tpi_watches;

/* The calling thread, as a number that is never 0. */
static inline uintptr_t tpi_this_thread(void) {
    return (uintptr_t)pthread_self();
}

/* A callback of call_soon. */
typedef struct tpi_soon {
    tepal_callback run; /* NULL: cancelled */
    void *argument;
} tpi_soon;

/* What is ready to run, first in, first out (ready.c). */
typedef struct tpi_ready {
    tpi_soon *ring;      /* callback number n is at n & (room - 1) */
    uint32_t room;       /* a power of two, or 0 */
    uint64_t head, tail; /* numbers of the oldest callback and of the next one to come */
    tepal_work *first;   /* intrusive work */
    tepal_work *last;    /* undefined while first is NULL */
} tpi_ready;

/* The callbacks of call_later and call_at: slots with generations, behind handles (calls.c). */
typedef struct tpi_calls {
    tpi_call **chunks;
    uint32_t chunk_count;
    tpi_call *free; /* linked by timer.work.next */
} tpi_calls;

/* Who is told when the loop closes, after every transport has ended and before the queues are dropped. */
typedef struct tpi_closer {
    struct tpi_closer *next, **link;
    void (*closing)(struct tpi_closer *closer);
    void (*abandoned)(
        struct tpi_closer *closer); /* instead, in a forked child: give back memory; NULL: nothing to do */
} tpi_closer;

typedef enum tpi_phase {
    TPI_PHASE_OPEN,
    TPI_PHASE_CLOSING, /* inside tepal_loop_close(): nothing new is accepted */
    TPI_PHASE_CLOSED
} tpi_phase;

struct tepal_loop {
    tpi_driver *driver; /* NULL once closed */
    const char *driver_name;
    tpi_realloc realloc;

    tpi_ready ready;
    tpi_calls calls;
    tpi_timers timers;

    /* Output written in this callback and not yet handed down: whose (net's; NULL: nobody's), and how to flush it. */
    void *corked;
    void *chunk; /* net's: a place for the next output; never NULL while nothing is corked and there is a transport */
    void (*flush_corked)(tepal_loop *loop);
    void *net; /* net's state shared by the transports of a loop; freed by net_free */
    void (*net_free)(tepal_loop *loop);
    void *tls; /* tls' state shared by its filters; NULL while there are none */

    tepal_order order;
    unsigned drain_limit;
    bool debug;
    bool strict;    /* debug, or not open: look closely at every call */
    bool in_upcall; /* debug: an upcall of a protocol runs, and only a pause or resume may run inside it */
    bool stop;      /* leave after this turn */
    bool interrupted;
    int interrupt_code;
    tpi_phase phase;
    int64_t turn_time_ns; /* 0: not read since the wait */
    int64_t slow_callback_ns;
    const void *place;  /* debug: where call_soon, call_later or call_at scheduled what runs, or NULL */
    uintptr_t function; /* debug: that of the work or timer that runs, whose place is not kept, or 0 */
    pid_t pid;          /* who made it or called after_fork */

    tepal_loop_hooks hooks;
    void (*report)(tepal_loop *, const char *, const tepal_error *, void *);
    void *report_argument;
    tepal_loop_stats stats;
    int64_t served_ns;        /* debug: every timer due by then and started up to that number has run */
    uint64_t served_sequence; /* debug */
    uint64_t due_sequence;    /* the last start of a timer before those due were looked for */
    const char *broken;       /* the invariant that was found broken last, and its number; NULL: none */
    int broken_number;

    tpi_closer *closers;
    tpi_watches *watches; /* behind add_reader and add_writer; NULL: none yet */
    tpi_signals *signals; /* NULL: none yet */

    /* Touched by other threads. */
    _Atomic(uintptr_t) runner; /* the thread that runs it (tpi_this_thread); 0: none */
    atomic_uint references;
    _Atomic(uint64_t) signals_pending; /* bit n-1: signal n has arrived */
    atomic_uint wakers;                /* threads and handlers that are about to use the driver's wake */
    atomic_bool wakeable;              /* false once the driver is going away */
    tpi_posts posts;
};

/* loop.c: tepal_loop_new(); with sim_host a simulated host's loop, whatever the options name. */
int tpi_loop_new(tepal_loop **loop, const tepal_loop_options *options, struct tpi_sim_host *sim_host);

/* loop.c: how long it may sleep now, after what was written is on its way; negative: for ever, or it is closed. */
int64_t tpi_loop_timeout(tepal_loop *loop);

/* ready.c */

static inline bool tpi_ready_any(const tepal_loop *loop) {
    return loop->ready.first != NULL || loop->ready.head != loop->ready.tail;
}

/*
 * With room for some callbacks from the start, so that those of other threads, which were accepted already, get their
 * turn even if memory is never to be had. Returns 0 or TEPAL_ENOMEM.
 */
int tpi_ready_init(tepal_loop *loop);
void tpi_ready_free(tepal_loop *loop);
/* Queue a work that is not in the queue. */
void tpi_ready_push(tepal_loop *loop, tepal_work *work);
int tpi_ready_grow(tepal_loop *loop);
/* See that one more callback fits the ring. Returns 0 or TEPAL_ENOMEM. */
static inline int tpi_ready_make_room(tepal_loop *loop) {
    const tpi_ready *ready = &loop->ready;
    return __builtin_expect(ready->tail - ready->head == ready->room, 0) ? tpi_ready_grow(loop) : 0;
}
/* Queue a callback that fits, and was scheduled from nowhere that debug mode could name. */
static inline void tpi_ready_push_callback(tepal_loop *loop, tepal_callback run, void *argument) {
    tpi_ready *ready = &loop->ready;
    if (__builtin_expect(loop->debug, 0)) {
        ready->ring[ready->room + (ready->tail & (ready->room - 1))].argument = NULL;
    }
    ready->ring[ready->tail++ & (ready->room - 1)] = (tpi_soon){.run = run, .argument = argument};
}
/* Cancel a callback of call_soon. Whether there was one. */
bool tpi_ready_cancel(tepal_loop *loop, tepal_handle handle);

/* Queue a work that is known to be idle, after merging posts. The loop must be open or closing. */
void tpi_loop_queue(tepal_loop *loop, tepal_work *work);

/* Run what a turn may run of the ready queue. */
void tpi_ready_run(tepal_loop *loop);
/* Drop everything: intrusive work runs with TEPAL_ECLOSED, callbacks vanish. */
void tpi_ready_drop(tepal_loop *loop);

/* calls.c */
void tpi_calls_free(tepal_loop *loop);

/* Whether the calling code may go on: 0, TEPAL_ECLOSED, or in debug mode TEPAL_ETHREAD after reporting it. */
int tpi_loop_check_slow(const tepal_loop *loop);
static inline int tpi_loop_check(const tepal_loop *loop) {
    if (__builtin_expect(loop->strict, 0)) {
        return tpi_loop_check_slow(loop);
    }
    return 0;
}

/* Hand down what was written, after an upcall or callback. */
static inline void tpi_loop_flush(tepal_loop *loop) {
    if (loop->corked != NULL) {
        loop->flush_corked(loop);
    }
}

/* Callbacks and work from other threads (posts.c), to the end of the ready queue. */
static inline void tpi_posts_merge(tepal_loop *loop) {
    if (tpi_posts_any(&loop->posts)) {
        tpi_posts_merge_some(loop, SIZE_MAX);
    }
}

/* wakeup.c */
/* Wait until no thread or handler is inside the driver's wake, and let none in again. */
void tpi_wakeup_close(tepal_loop *loop);

/* signals.c */
void tpi_signals_dispatch(tepal_loop *loop);   /* run the callbacks of the signals pending */
void tpi_signals_close(tepal_loop *loop);      /* remove every callback */
void tpi_signals_after_fork(tepal_loop *loop); /* in the child: they are this process's now */

/* watches.c */
void tpi_watches_free(tepal_loop *loop);

/* debug.c: reports, and the checks of debug mode */
void tpi_report(tepal_loop *loop, const char *what, int code);
/* A broken invariant (DESIGN's number, 1 to 7). */
void tpi_invariant(tepal_loop *loop, int number, const char *what);
/* Around a callback in debug mode: report it if it was slow. what says which kind it is. */
int64_t tpi_debug_begin(tepal_loop *loop);
void tpi_debug_end(tepal_loop *loop, int64_t began_ns, const char *what);
#define TPI_INVARIANT(loop, number, condition)                                                                         \
    do {                                                                                                               \
        if (__builtin_expect((loop)->debug, 0) && !(condition)) {                                                      \
            tpi_invariant((loop), (number), #condition);                                                               \
        }                                                                                                              \
    } while (0)

/* Hear of the loop's closing; the closer is unlinked before it is called. */
void tpi_loop_add_closer(tepal_loop *loop, tpi_closer *closer);
void tpi_loop_remove_closer(tpi_closer *closer);

#endif
