/**
 * The event loop: callbacks, timers, descriptors, signals, and the ways to run, step and end it.
 *
 * One turn (src/loop/loop.c): flush output, wait, run the callbacks queued so far, deliver I/O, run the timers due,
 * flush. What a turn schedules runs in the next one.
 */
#ifndef TEPAL_LOOP_H
#define TEPAL_LOOP_H

#include <tepal/base.h>
#include <tepal/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/** In which order a turn runs ready callbacks; the two orders of the 2012 meeting. */
typedef enum tepal_order {
    TEPAL_ORDER_SNAPSHOT, /**< the default: those queued when the turn began; what they add runs in the next turn */
    TEPAL_ORDER_DRAIN     /**< until none is left, or drain_limit have run */
} tepal_order;

/** How a loop is made. Zero is the default of each member. */
typedef struct tepal_loop_options {
    size_t size;               /**< sizeof(tepal_loop_options) */
    const char *driver;        /**< "uring", "epoll", "poll", "sim"; NULL: what TEPAL_DRIVER says, else the best */
    tepal_order order;         /**< snapshot or drain */
    unsigned drain_limit;      /**< callbacks a turn runs at most in drain order; 0: 1,024 */
    unsigned read_budget;      /**< reads from one descriptor in one turn; 0: 4 */
    unsigned read_bytes;       /**< bytes one read may take, 4,096 to 16,777,216; 0: 73,728 */
    unsigned executor_threads; /**< threads for blocking work at most, 1 to 1,024; 0: 4 */
    bool debug;                /**< check threads and invariants, report slow callbacks */
    int64_t slow_callback_ns;  /**< with debug: report callbacks that take longer; 0: 100 ms, negative: none */
    void *(*realloc)(void *, size_t); /**< the allocator: realloc(3), with free for size 0; NULL: libc's */
    unsigned ring_entries;            /**< io_uring: submissions queued at most, a power of two from 8; 0: 256 */
    unsigned ring_buffers;            /**< io_uring: buffers lent to the kernel, a power of two from 2; 0: 64 */
    unsigned ring_buffer_bytes;       /**< io_uring: of each buffer, 1,024 to 1,048,576; 0: 65,536 */
} tepal_loop_options;

/** A callback queued by call_soon, call_later and call_at. argument is borrowed. */
typedef void (*tepal_callback)(void *argument);

/**
 * A small value that names one scheduled callback. It may outlive the callback and the loop's closing: cancelling a
 * callback that has run, or was cancelled, does nothing. All zero names none.
 */
typedef struct tepal_handle {
    uint32_t slot;
    uint32_t generation;
} tepal_handle;

/**
 * A callback embedded in a struct of yours: queueing it never allocates and never fails on an open loop.
 *
 * Set run, leave the rest zero. Once posted it belongs to the loop until run is called: exactly once, with status 0,
 * or with TEPAL_ECLOSED if the loop was closed first. Inside run it is yours again and may be freed or posted anew.
 */
typedef struct tepal_work {
    struct tepal_work *next;                          /**< the loop's */
    void (*run)(struct tepal_work *work, int status); /**< yours */
    uintptr_t state;                                  /**< the loop's; zero while not queued */
} tepal_work;

/**
 * A timer embedded in a struct of yours: starting, moving and stopping it never allocates and is O(1).
 *
 * Set work.run, leave the rest zero. It runs once for each start; start it again from run to repeat.
 */
typedef struct tepal_timer {
    tepal_work work;      /**< run is yours; status is 0, or TEPAL_ECLOSED if the loop was closed first */
    int64_t deadline_ns;  /**< when it is due; read only */
    uint64_t reserved[3]; /**< the loop's */
} tepal_timer;

/** What a watched descriptor is ready for. A hang-up or an error counts as both. */
enum { TEPAL_READABLE = 1, TEPAL_WRITABLE = 2 };

/**
 * A descriptor of yours that the loop watches, level-triggered, for as long as it is started.
 *
 * Set fd and ready, leave the rest zero. One watch per descriptor and loop. The descriptor stays yours: you may even
 * close it while it is watched (it is then forgotten silently). ready may stop, free or change any watch, its own too.
 */
typedef struct tepal_watch {
    int fd;                                                    /**< yours */
    unsigned events;                                           /**< what it is started for; read only */
    void (*ready)(struct tepal_watch *watch, unsigned events); /**< yours; what it is ready for, 1 to 3 */
    uint64_t reserved[8];                                      /**< the loop's */
} tepal_watch;

/**
 * Hooks for a binding with a lock of its own (an interpreter's): they run around a wait that may block.
 *
 * before_wait gets the time limit (negative: none); after_wait what the wait returned. A negative code from either
 * ends the run with that code, at once, and keeps everything queued.
 */
typedef struct tepal_loop_hooks {
    size_t size;
    int (*before_wait)(void *argument, int64_t timeout_ns);
    int (*after_wait)(void *argument, int status);
    void *argument;
} tepal_loop_hooks;

/** Counters of a loop, since it was made. */
typedef struct tepal_loop_stats {
    size_t size;
    uint64_t turns;      /**< turns of the loop */
    uint64_t waits;      /**< turns that could have slept: their wait had a time limit other than 0 */
    uint64_t callbacks;  /**< callbacks run from the ready queue */
    uint64_t timers;     /**< timers run */
    uint64_t posts;      /**< callbacks that came from other threads */
    uint64_t signals;    /**< signal callbacks run */
    uint64_t reported;   /**< errors handed to the exception handler, or counted here because there is none */
    uint64_t invariants; /**< broken invariants among them */
    uint64_t slow;       /**< slow callbacks among them */
    uint64_t transports; /**< transports alive now: made, and their descriptor not closed */
} tepal_loop_stats;

/**
 * Make a loop. options may be NULL.
 *
 * It belongs to no thread until it is run. Give it back with tepal_loop_close() and tepal_loop_unref(). Returns 0;
 * TEPAL_EINVAL for an unknown driver or an option out of range; TEPAL_ENOTSUP for a driver that this build or kernel has
 * not got; EPERM as a system error where io_uring was asked for by name and is forbidden (io_uring_disabled, seccomp(2));
 * TEPAL_ENOMEM; EMFILE or ENFILE as system errors. Any thread.
 */
TEPAL_API int tepal_loop_new(tepal_loop **loop, const tepal_loop_options *options);

/** Hold the loop's memory: one more reference. Returns loop. Any thread. */
TEPAL_API tepal_loop *tepal_loop_ref(tepal_loop *loop);

/**
 * Give back a reference; with the last one the loop is closed, if it is not, and its memory goes. NULL is allowed.
 *
 * Any thread, but the last reference of an open loop must go on the loop's thread.
 */
TEPAL_API void tepal_loop_unref(tepal_loop *loop);

/**
 * End the loop: every transport gets connection_lost(TEPAL_ECLOSED), every queued tepal_work and started tepal_timer
 * runs with TEPAL_ECLOSED, queued callbacks are dropped silently, watches end silently, descriptors are closed.
 *
 * It waits for blocking work that runs in the executor's threads (their functions cannot be interrupted). In a forked
 * child it makes no upcall and leaves the parent's loop unharmed; there it may also be called from inside a callback,
 * which must then not return. Returns 0 (also when it was closed before), or TEPAL_ERECURSION while it runs. Loop
 * thread, or any thread while no thread runs it.
 */
TEPAL_API int tepal_loop_close(tepal_loop *loop);

/** Set or, with NULL, remove the hooks around the wait; copied. Returns 0 or TEPAL_EINVAL. Loop thread. */
TEPAL_API int tepal_loop_set_hooks(tepal_loop *loop, const tepal_loop_hooks *hooks);

/**
 * Run until tepal_loop_stop(). If stop was called before, one turn is run that does not sleep.
 *
 * Returns 0 after stop, the code given to tepal_loop_interrupt() or by a hook, TEPAL_ERECURSION from one of the
 * loop's own callbacks, TEPAL_ECLOSED, TEPAL_ETHREAD while another thread runs it, TEPAL_EINVAL in a forked child
 * before tepal_loop_after_fork(), or the driver's error if waiting itself failed.
 */
TEPAL_API int tepal_loop_run_forever(tepal_loop *loop);

/**
 * Run until future is done; look at its result afterwards. future's loop must be this one.
 *
 * Returns 0 when it is done; TEPAL_ESTOPPED if the loop was stopped before; otherwise as tepal_loop_run_forever().
 */
TEPAL_API int tepal_loop_run_until_complete(tepal_loop *loop, tepal_future *future);

/**
 * Run one turn that waits at most timeout_ns (0: does not sleep; negative: no limit of its own).
 *
 * Returns 1 if something is ready for another turn at once, 0 if not, or a code as tepal_loop_run_forever() does.
 */
TEPAL_API int tepal_loop_step(tepal_loop *loop, int64_t timeout_ns);

/**
 * For a foreign loop: get ready to be waited for, and tell how long that may last.
 *
 * Flushes output; writes the longest time to wait (0: step at once; negative: no limit). Then wait until
 * tepal_loop_poll_fd() is readable or the time is over, and call tepal_loop_step(loop, 0). Anything called on the
 * loop in between makes another prepare necessary. Returns 0, TEPAL_ECLOSED, TEPAL_ERECURSION, or TEPAL_EINVAL in a
 * forked child.
 */
TEPAL_API int tepal_loop_prepare(tepal_loop *loop, int64_t *timeout_ns);

/**
 * A descriptor that is readable when a step has I/O to deliver. It stays the loop's. Or TEPAL_ENOTSUP (poll), TEPAL_ECLOSED,
 * or TEPAL_ERECURSION in a callback.
 */
TEPAL_API int tepal_loop_poll_fd(tepal_loop *loop);

/** Stop running at the end of this turn (or of the next one's, when called before running). Loop thread. */
TEPAL_API void tepal_loop_stop(tepal_loop *loop);

/** tepal_loop_stop() for any thread. Returns 0, TEPAL_ENOMEM or TEPAL_ECLOSED. */
TEPAL_API int tepal_loop_stop_threadsafe(tepal_loop *loop);

/**
 * Leave the run right after the current callback or upcall with this code (negative; TEPAL_EINVAL stands in for any
 * other), keeping the rest of the queue in order for the next run. The first call counts; while the loop does not run
 * it does nothing. Loop thread.
 */
TEPAL_API void tepal_loop_interrupt(tepal_loop *loop, int code);

/** Make a loop that sleeps take another turn. Any thread; also from a signal handler. */
TEPAL_API void tepal_loop_wake(tepal_loop *loop);

/**
 * Call in the child after fork(2) to go on using the loop there: its registrations are rebuilt, and the parent's loop
 * is not disturbed. Without it a child may only close the loop. Returns 0 or an error, after which it can only be
 * closed. Executor threads do not exist in the child: work that they held fails with TEPAL_ECANCELED.
 */
TEPAL_API int tepal_loop_after_fork(tepal_loop *loop);

/** Whether a thread runs the loop now. */
TEPAL_API bool tepal_loop_is_running(const tepal_loop *loop);

/** Whether the loop is closed. */
TEPAL_API bool tepal_loop_is_closed(const tepal_loop *loop);

/** Whether the loop was made with debug on. */
TEPAL_API bool tepal_loop_is_debug(const tepal_loop *loop);

/** The driver's name, "epoll". Static. */
TEPAL_API const char *tepal_loop_driver_name(const tepal_loop *loop);

/** The loop's clock now, in nanoseconds: CLOCK_MONOTONIC on real drivers. Timers count on it. */
TEPAL_API int64_t tepal_loop_time(const tepal_loop *loop);

/**
 * The loop's clock when this turn's wait ended: a memory read, for what needs no more (idle limits, say).
 *
 * A timer started at this time plus a delay is due that much after the turn began. Loop thread.
 */
TEPAL_API int64_t tepal_loop_turn_time(tepal_loop *loop);

/** Copy the loop's counters, up to stats->size, which the caller sets. Returns 0 or TEPAL_EINVAL. Loop thread. */
TEPAL_API int tepal_loop_get_stats(const tepal_loop *loop, tepal_loop_stats *stats);

/**
 * Queue a callback; first in, first out. handle may be NULL.
 *
 * Callbacks posted from other threads that can be seen now are queued first, so both kinds share one order. Returns 0,
 * TEPAL_ENOMEM or TEPAL_ECLOSED. Loop thread.
 */
TEPAL_API int tepal_loop_call_soon(tepal_loop *loop, tepal_callback run, void *argument, tepal_handle *handle);

/** Run a callback no earlier than delay_ns from now (0 and negative: in the next turn; huge: never). As call_at. */
TEPAL_API int tepal_loop_call_later(tepal_loop *loop, int64_t delay_ns, tepal_callback run, void *argument,
                                    tepal_handle *handle);

/**
 * Run a callback no earlier than when_ns on tepal_loop_time()'s clock, in the order of deadlines and, for equal ones,
 * of insertion. handle may be NULL. Returns 0, TEPAL_ENOMEM or TEPAL_ECLOSED. Loop thread.
 */
TEPAL_API int tepal_loop_call_at(tepal_loop *loop, int64_t when_ns, tepal_callback run, void *argument,
                                 tepal_handle *handle);

/**
 * tepal_loop_call_soon() for any thread; wakes the loop. What one thread posts, callbacks and work alike, runs in its
 * order. Memory is needed only now and then, for many of them at once. Returns 0, TEPAL_EINVAL if run is NULL,
 * TEPAL_ENOMEM or TEPAL_ECLOSED.
 */
TEPAL_API int tepal_loop_call_soon_threadsafe(tepal_loop *loop, tepal_callback run, void *argument);

/** Cancel what handle names: it will not run. Returns whether there was something to cancel. Loop thread. */
TEPAL_API bool tepal_loop_cancel(tepal_loop *loop, tepal_handle handle);

/** Queue a work in call_soon's order. Returns 0, TEPAL_EBUSY if it is queued already, or TEPAL_ECLOSED. Loop thread. */
TEPAL_API int tepal_loop_post(tepal_loop *loop, tepal_work *work);

/** tepal_loop_post() for any thread; wakes the loop. Returns 0, TEPAL_EBUSY or TEPAL_ECLOSED. */
TEPAL_API int tepal_loop_post_threadsafe(tepal_loop *loop, tepal_work *work);

/**
 * Start a timer, or move one that is started: due at when_ns on tepal_loop_time()'s clock.
 *
 * Any int64_t will do; a time in the past is due in the next turn. Returns 0; TEPAL_EBUSY if its work is queued by
 * tepal_loop_post(); TEPAL_ECLOSED. Loop thread.
 */
TEPAL_API int tepal_timer_start(tepal_loop *loop, tepal_timer *timer, int64_t when_ns);

/** Stop a timer: it will not run, and is yours again. Returns 0, or TEPAL_ENOENT if it was not started. Loop thread. */
TEPAL_API int tepal_timer_stop(tepal_loop *loop, tepal_timer *timer);

/**
 * Start a watch, or change what a started one is for. events: TEPAL_READABLE, TEPAL_WRITABLE or both.
 *
 * Returns 0; TEPAL_EPERM for regular files and directories, which are always ready; TEPAL_EBUSY if another watch or a
 * transport of this loop has the descriptor; TEPAL_EBADF; TEPAL_EINVAL; TEPAL_ENOMEM; TEPAL_ECLOSED. Loop thread.
 */
TEPAL_API int tepal_watch_start(tepal_loop *loop, tepal_watch *watch, unsigned events);

/** Stop a watch: ready is not called again, and it is yours. Returns 0, or TEPAL_ENOENT if it was not started. Loop thread. */
TEPAL_API int tepal_watch_stop(tepal_loop *loop, tepal_watch *watch);

/**
 * Call run whenever fd is readable, at its end or broken; replaces the reader that was there.
 *
 * Reader and writer of one descriptor are one registration; when both are due the reader runs first. Returns as
 * tepal_watch_start(). Loop thread.
 */
TEPAL_API int tepal_loop_add_reader(tepal_loop *loop, int fd, tepal_callback run, void *argument);

/** Call run whenever fd is writable or broken; replaces the writer that was there. Otherwise as add_reader. */
TEPAL_API int tepal_loop_add_writer(tepal_loop *loop, int fd, tepal_callback run, void *argument);

/** Remove fd's reader. Returns 1 if there was one, else 0. The descriptor may be closed already. Loop thread. */
TEPAL_API int tepal_loop_remove_reader(tepal_loop *loop, int fd);

/** Remove fd's writer. Returns 1 if there was one, else 0. The descriptor may be closed already. Loop thread. */
TEPAL_API int tepal_loop_remove_writer(tepal_loop *loop, int fd);

/**
 * Run a callback on the loop after each arrival of a signal (arrivals between two turns count once).
 *
 * Replaces this loop's earlier callback for that signal; several loops may have one each. The process's previous
 * disposition comes back when the last loop removes its own. Returns 0; TEPAL_EINVAL for a number that is no signal
 * or cannot be caught (SIGKILL, SIGSTOP; SIGSEGV, SIGBUS, SIGFPE and SIGILL, which cannot be deferred);
 * TEPAL_ENOMEM; TEPAL_ECLOSED. Loop thread.
 */
TEPAL_API int tepal_loop_add_signal(tepal_loop *loop, int signal, void (*run)(int signal, void *argument),
                                    void *argument);

/** Remove this loop's callback for a signal. Returns 1 if there was one, else 0; TEPAL_EINVAL. Loop thread. */
TEPAL_API int tepal_loop_remove_signal(tepal_loop *loop, int signal);

/**
 * Who hears of errors that nobody else can be told: what is a sentence, error is valid during the call.
 *
 * Unretrieved errors of futures, failed accepts, and in debug mode broken invariants (TEPAL_EINVARIANT), calls from a
 * wrong thread (TEPAL_ETHREAD, on that thread) and slow callbacks (TEPAL_ESLOW). Without a handler they are only
 * counted. NULL removes it. Loop thread.
 */
TEPAL_API void tepal_loop_set_exception_handler(tepal_loop *loop,
                                                void (*report)(tepal_loop *loop, const char *what,
                                                               const tepal_error *error, void *argument),
                                                void *argument);

/** Hand an error to the exception handler, as the library does. error is copied by nobody. Loop thread. */
TEPAL_API void tepal_loop_call_exception_handler(tepal_loop *loop, const char *what, const tepal_error *error);

#ifdef __cplusplus
}
#endif
#endif
