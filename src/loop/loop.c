/*
 * The loop: its life, one turn of it, and the ways to run it. A turn is in turn() and reads from top to bottom.
 */
#include "loop/loop.h"
#include "base/options.h"
#include <unistd.h>

#define DEFAULT_DRAIN_LIMIT 1024
#define DEFAULT_READ_BUDGET 4
#define DEFAULT_READ_BYTES (72 << 10) /* a message of 64 KiB and more fits, so that its read is short */
#define DEFAULT_THREADS 4
#define DEFAULT_SLOW_NS TEPAL_MS(100)
#define MOMENT_NS 50000 /* for a thread that was held up in the middle of posting */
#define MOST_FAILURES 8 /* of waiting for last words */

/* Its life */

/* A power of two within these limits, or 0. */
static bool is_power(unsigned value, unsigned least, unsigned most) {
    return value == 0 || (value >= least && value <= most && (value & (value - 1)) == 0);
}

static int check_options(const tepal_loop_options *options) {
    if ((unsigned)options->order > TEPAL_ORDER_DRAIN || options->executor_threads > 1024) {
        return TEPAL_EINVAL;
    }
    if (!is_power(options->ring_entries, 8, 32768) || !is_power(options->ring_buffers, 2, 32768) ||
        (options->ring_buffer_bytes != 0 &&
         (options->ring_buffer_bytes < 1024 || options->ring_buffer_bytes > 1u << 20))) {
        return TEPAL_EINVAL;
    }
    if (options->read_bytes != 0 && (options->read_bytes < 4096 || options->read_bytes > 16u << 20)) {
        return TEPAL_EINVAL;
    }
    return 0;
}

int tepal_loop_new(tepal_loop **loop, const tepal_loop_options *options) {
    return tpi_loop_new(loop, options, NULL);
}

int tpi_loop_new(tepal_loop **loop, const tepal_loop_options *options, struct tpi_sim_host *sim_host) {
    tepal_loop_options own = {0};
    int code = tpi_options_copy(&own, sizeof own, options);
    if (code == 0) {
        code = check_options(&own);
    }
    if (code < 0) {
        return code;
    }
    tpi_realloc allocate = own.realloc == NULL ? tpi_default_realloc : own.realloc;
    tepal_loop *made = tpi_alloc_zero(allocate, sizeof *made);
    if (made == NULL) {
        return TEPAL_ENOMEM;
    }
    tpi_driver_options driver_options = {
        .realloc = allocate,
        .read_budget = own.read_budget == 0 ? DEFAULT_READ_BUDGET : own.read_budget,
        .read_bytes = own.read_bytes == 0 ? DEFAULT_READ_BYTES : own.read_bytes,
        .threads = own.executor_threads == 0 ? DEFAULT_THREADS : own.executor_threads,
        .ring_entries = own.ring_entries,
        .ring_buffers = own.ring_buffers,
        .ring_buffer_bytes = own.ring_buffer_bytes,
        .sim_host = sim_host,
    };
    made->realloc = allocate;
    made->debug = own.debug;
    code = tpi_posts_init(made);
    if (code < 0) {
        tpi_free(allocate, made);
        return code;
    }
    code = tpi_ready_init(made);
    if (code == 0) {
        code = tpi_driver_new(&made->driver, sim_host == NULL ? own.driver : "sim", &driver_options);
    }
    if (code < 0) {
        tpi_ready_free(made);
        tpi_posts_free(made);
        tpi_free(allocate, made);
        return code;
    }
    made->driver_name = made->driver->ops->name;
    made->order = own.order;
    made->drain_limit = own.drain_limit == 0 ? DEFAULT_DRAIN_LIMIT : own.drain_limit;
    made->strict = own.debug;
    made->slow_callback_ns = own.slow_callback_ns == 0 ? DEFAULT_SLOW_NS : own.slow_callback_ns;
    made->pid = getpid();
    made->stats.size = sizeof made->stats;
    tpi_timers_init(&made->timers, tepal_loop_time(made));
    atomic_init(&made->references, 1);
    atomic_init(&made->wakeable, true);
    *loop = made;
    return 0;
}

tepal_loop *tepal_loop_ref(tepal_loop *loop) {
    atomic_fetch_add_explicit(&loop->references, 1, memory_order_relaxed);
    return loop;
}

void tepal_loop_unref(tepal_loop *loop) {
    if (loop == NULL) {
        return;
    }
    unsigned before = atomic_fetch_sub_explicit(&loop->references, 1, memory_order_acq_rel);
    if (before == 1 && loop->phase == TPI_PHASE_OPEN) {
        /* Ending it may take and give references: hold one meanwhile. */
        atomic_store(&loop->references, 1);
        (void)tepal_loop_close(loop);
        before = atomic_fetch_sub_explicit(&loop->references, 1, memory_order_acq_rel);
    }
    if (before == 1) {
        tpi_posts_free(loop);
        tpi_free(loop->realloc, loop);
    }
}

void tpi_loop_add_closer(tepal_loop *loop, tpi_closer *closer) {
    closer->next = loop->closers;
    closer->link = &loop->closers;
    if (closer->next != NULL) {
        closer->next->link = &closer->next;
    }
    loop->closers = closer;
}

void tpi_loop_remove_closer(tpi_closer *closer) {
    if (closer->link != NULL) {
        *closer->link = closer->next;
        if (closer->next != NULL) {
            closer->next->link = closer->link;
        }
        closer->link = NULL;
    }
}

static void end_object(tpi_object *object, void *argument) {
    (void)argument;
    object->up->ending(object);
}

/* In a child: no upcall, and not a word to the kernel about what the parent still uses. */
static void close_in_child(tepal_loop *loop) {
    loop->phase = TPI_PHASE_CLOSED;
    loop->strict = true;
    atomic_store(&loop->runner, 0); /* it may have been forked by one of the loop's callbacks */
    atomic_store(&loop->wakeable, false);
    tpi_posts_abandon(loop); /* before what follows gives back what is queued there */
    while (loop->closers != NULL) {
        tpi_closer *closer = loop->closers;
        tpi_loop_remove_closer(closer);
        if (closer->abandoned != NULL) {
            closer->abandoned(closer);
        }
    }
    tpi_signals_close(loop);
    loop->driver->ops->abandon(loop->driver);
}

static void close_everything(tepal_loop *loop) {
    tpi_driver *driver = loop->driver;
    tpi_loop_flush(loop); /* what was written before is not lost for want of a last turn */
    driver->ops->flush(driver);
    loop->phase = TPI_PHASE_CLOSING;
    loop->strict = true;
    while (loop->closers != NULL) {
        tpi_closer *closer = loop->closers;
        tpi_loop_remove_closer(closer);
        if (closer->closing != NULL) {
            closer->closing(closer);
        }
    }
    driver->ops->each(driver, end_object, NULL);
    tpi_signals_close(loop);
    tpi_posts_close(loop);
    tpi_ready_drop(loop);
    driver->interrupted = false;
    driver->ending = true;
    int failures = 0;
    while (driver->objects > 0) {
        /* One that completes later has its objects from the kernel alone, so a failure that passes must not end this. */
        if (driver->ops->wait(driver, driver->backlog ? 0 : -1) < 0 && !driver->backlog &&
            ++failures == MOST_FAILURES) {
            break; /* what the kernel still holds cannot be had back; what the driver has to say still can */
        }
        (void)driver->ops->dispatch(driver);
    }
    TPI_INVARIANT(loop, 5, driver->objects == 0);
    TPI_INVARIANT(loop, 5, loop->stats.transports == 0);
    tpi_wakeup_close(loop);
    loop->driver = NULL;
    driver->ops->destroy(driver); /* ends the jobs, which may queue */
    tpi_ready_drop(loop);
    loop->phase = TPI_PHASE_CLOSED;
}

int tepal_loop_close(tepal_loop *loop) {
    if (loop->phase == TPI_PHASE_CLOSED) {
        return 0;
    }
    bool in_child = loop->pid != getpid();
    if (loop->phase == TPI_PHASE_CLOSING || (tepal_loop_is_running(loop) && !in_child)) {
        return TEPAL_ERECURSION;
    }
    tepal_loop_ref(loop); /* the last one may go with what is ended */
    if (in_child) {
        close_in_child(loop);
    } else {
        close_everything(loop);
    }
    tpi_watches_free(loop);
    tpi_calls_free(loop);
    tpi_ready_free(loop);
    if (loop->net_free != NULL) {
        loop->net_free(loop);
    }
    loop->driver = NULL;
    tepal_loop_unref(loop);
    return 0;
}

int tepal_loop_after_fork(tepal_loop *loop) {
    if (loop->phase != TPI_PHASE_OPEN) {
        return TEPAL_ECLOSED;
    }
    int code = loop->driver->ops->after_fork(loop->driver);
    if (code < 0) {
        return code; /* still the parent's: closing it must not touch what the parent uses */
    }
    loop->pid = getpid();
    if (atomic_load(&loop->runner) != tpi_this_thread()) {
        atomic_store(&loop->runner, 0); /* a thread of the parent's that ran it does not exist here */
    }
    atomic_store(&loop->wakers, 0);
    tpi_posts_after_fork(loop);
    tpi_signals_after_fork(loop);
    return 0;
}

/* One turn */

static bool has_work(const tepal_loop *loop) {
    return tpi_ready_any(loop) || loop->driver->backlog || loop->stop || loop->interrupted ||
           tpi_posts_any(&loop->posts) || atomic_load(&loop->signals_pending) != 0 ||
           atomic_load(&loop->driver->done_jobs) != NULL;
}

/* Announce to who posts from elsewhere that we may be about to sleep: in order before what is looked at after this. */
static void announce_sleep(tepal_loop *loop) {
    atomic_store(&loop->driver->sleeping, true);
    atomic_store(&loop->posts.sleeping, true);
}

/* Take it back. Who does not see that yet makes one wake-up too many. */
static void take_back_sleep(tepal_loop *loop) {
    atomic_store_explicit(&loop->driver->sleeping, false, memory_order_relaxed);
    atomic_store_explicit(&loop->posts.sleeping, false, memory_order_relaxed);
}

/* How long the loop may sleep: at most limit_ns; negative: for ever. */
static int64_t timeout(tepal_loop *loop, int64_t limit_ns) {
    if (limit_ns == 0 || has_work(loop)) {
        return 0;
    }
    int64_t next_ns = loop->timers.count == 0 ? INT64_MAX : tpi_timers_next(&loop->timers);
    if (next_ns == INT64_MAX) {
        return limit_ns;
    }
    int64_t now_ns = tepal_loop_time(loop);
    int64_t left_ns = next_ns <= now_ns ? 0 : next_ns - now_ns;
    return limit_ns < 0 || left_ns < limit_ns ? left_ns : limit_ns;
}

/*
 * For a loop that has announced its sleep: a post that was begun before anybody could see that, and is not finished,
 * wakes nobody. Sleep only for a moment then.
 */
static int64_t limit_for_posts(const tepal_loop *loop, int64_t limit_ns) {
    bool longer = limit_ns < 0 || limit_ns > MOMENT_NS;
    return tpi_posts_coming(&loop->posts) && longer ? MOMENT_NS : limit_ns;
}

/* A wait that may block: announced to who posts from elsewhere, with the hooks around it. */
static int sleep_for(tepal_loop *loop, int64_t timeout_ns) {
    tpi_driver *driver = loop->driver;
    announce_sleep(loop);
    timeout_ns = limit_for_posts(loop, timeout_ns);
    if (has_work(loop)) { /* it came before anybody could see that we sleep */
        take_back_sleep(loop);
        return driver->ops->wait(driver, 0);
    }
    loop->stats.waits++;
    int code = loop->hooks.before_wait == NULL ? 0 : loop->hooks.before_wait(loop->hooks.argument, timeout_ns);
    if (code >= 0) {
        code = driver->ops->wait(driver, timeout_ns);
        if (loop->hooks.after_wait != NULL) {
            code = loop->hooks.after_wait(loop->hooks.argument, code);
        }
    }
    take_back_sleep(loop);
    return code < 0 ? code : 0;
}

/* What is due when the wait ends; what this turn starts, even for the past, is for the next one. */
static void find_due_timers(tepal_loop *loop) {
    if (loop->timers.count > 0) {
        tpi_timers_advance(&loop->timers, tepal_loop_time(loop));
        loop->due_sequence = loop->timers.sequence;
    }
}

static __attribute__((noinline)) void run_timers(tepal_loop *loop) {
    tepal_timer *timer;
    while (!loop->interrupted && (timer = tpi_timers_pop(&loop->timers)) != NULL) {
        int64_t began = 0;
        if (__builtin_expect(loop->debug, 0)) {
            began = tpi_debug_begin(loop);
            loop->function = (uintptr_t)timer->work.run;
            TPI_INVARIANT(loop, 7, timer->deadline_ns <= tepal_loop_time(loop));
            /* Not late: what was started by then and due has run then. */
            TPI_INVARIANT(loop, 7,
                          timer->deadline_ns > loop->served_ns || tpi_timers_started(timer) > loop->served_sequence);
        }
        loop->stats.timers++;
        timer->work.run(&timer->work, 0);
        tpi_loop_flush(loop);
        if (__builtin_expect(loop->debug, 0)) {
            tpi_debug_end(loop, began, "a timer");
        }
    }
    if (__builtin_expect(loop->debug, 0) && !loop->interrupted) {
        loop->served_ns = loop->timers.elapsed_ns;
        loop->served_sequence = loop->due_sequence;
    }
}

/* DESIGN section 5, step by step. Below 0: the run ends with this code. */
static int turn(tepal_loop *loop, int64_t limit_ns) {
    tpi_driver *driver = loop->driver;
    loop->stats.turns++;
    tpi_loop_flush(loop);

    int64_t timeout_ns = timeout(loop, limit_ns);
    int code = timeout_ns == 0 ? driver->ops->wait(driver, 0) : sleep_for(loop, timeout_ns);
    loop->turn_time_ns = 0;
    if (code < 0) {
        driver->backlog = true; /* what was found is not delivered, and its edges are used up: no sleeping before */
        return code;
    }

    find_due_timers(loop);
    if (__builtin_expect(atomic_load_explicit(&loop->signals_pending, memory_order_relaxed) != 0, 0)) {
        tpi_signals_dispatch(loop);
    }
    if (!loop->interrupted && (tpi_ready_any(loop) || tpi_posts_any(&loop->posts))) {
        tpi_ready_run(loop);
    }
    if (!loop->interrupted) {
        (void)driver->ops->dispatch(driver);
    }
    if (!loop->interrupted && loop->timers.count > 0) {
        run_timers(loop);
    }
    return loop->interrupted ? loop->interrupt_code : 0;
}

/* Running it */

static int check_process(const tepal_loop *loop) {
    if (loop->phase != TPI_PHASE_OPEN) {
        return TEPAL_ECLOSED;
    }
    return loop->pid == getpid() ? 0 : TEPAL_EINVAL; /* a child would eat the parent's events */
}

static int enter(tepal_loop *loop) {
    int code = check_process(loop);
    if (code < 0) {
        return code;
    }
    uintptr_t runner = 0;
    if (!atomic_compare_exchange_strong(&loop->runner, &runner, tpi_this_thread())) {
        return runner == tpi_this_thread() ? TEPAL_ERECURSION : TEPAL_ETHREAD;
    }
    loop->interrupted = false;
    loop->driver->interrupted = false;
    take_back_sleep(loop); /* prepare() may have set it */
    return 0;
}

static void leave(tepal_loop *loop, int code) {
    tpi_driver *driver = loop->driver;
    driver->ops->flush(driver); /* within the run, a wait does it */
    if (driver->ops->leave != NULL) {
        driver->ops->leave(driver);
    }
    if (code == 0) {
        loop->stop = false;
    }
    atomic_store(&loop->runner, 0);
}

int tepal_loop_run_forever(tepal_loop *loop) {
    int code = enter(loop);
    if (code < 0) {
        return code;
    }
    do {
        code = turn(loop, -1);
    } while (code == 0 && !loop->stop);
    leave(loop, code);
    return code;
}

int tepal_loop_step(tepal_loop *loop, int64_t timeout_ns) {
    int code = enter(loop);
    if (code < 0) {
        return code;
    }
    code = turn(loop, timeout_ns < 0 ? -1 : timeout_ns);
    leave(loop, code);
    return code < 0 ? code : timeout(loop, -1) == 0;
}

int tepal_loop_prepare(tepal_loop *loop, int64_t *timeout_ns) {
    int code = check_process(loop);
    if (code < 0) {
        return code;
    }
    if (tepal_loop_is_running(loop)) {
        return TEPAL_ERECURSION;
    }
    tpi_loop_flush(loop);
    loop->driver->ops->flush(loop->driver);
    announce_sleep(loop); /* the foreign loop's wait is ours: who posts must wake it */
    *timeout_ns = timeout(loop, limit_for_posts(loop, -1));
    return 0;
}

int64_t tpi_loop_timeout(tepal_loop *loop) {
    if (check_process(loop) < 0) {
        return -1;
    }
    tpi_loop_flush(loop);
    loop->driver->ops->flush(loop->driver);
    return timeout(loop, -1);
}

int tepal_loop_poll_fd(tepal_loop *loop) {
    if (loop->phase != TPI_PHASE_OPEN) {
        return TEPAL_ECLOSED;
    }
    /* A driver may exchange for it what it is just delivering from. */
    return tepal_loop_is_running(loop) ? TEPAL_ERECURSION : loop->driver->ops->poll_fd(loop->driver);
}

int tepal_loop_set_hooks(tepal_loop *loop, const tepal_loop_hooks *hooks) {
    tepal_loop_hooks own = {0};
    int code = tpi_options_copy(&own, sizeof own, hooks);
    if (code == 0) {
        loop->hooks = own;
    }
    return code;
}

void tepal_loop_stop(tepal_loop *loop) {
    loop->stop = true;
}

void tepal_loop_interrupt(tepal_loop *loop, int code) {
    if (tepal_loop_is_running(loop) && !loop->interrupted) {
        loop->interrupted = true;
        loop->interrupt_code = code < 0 ? code : TEPAL_EINVAL; /* a run cannot end with success here */
        tpi_driver_interrupt(loop->driver);
    }
}

/* Timers of the user's own */

int tepal_timer_start(tepal_loop *loop, tepal_timer *timer, int64_t when_ns) {
    int code = tpi_loop_check(loop);
    if (code < 0) {
        return code;
    }
    if (timer->work.state & TPI_WORK_QUEUED) {
        return TEPAL_EBUSY; /* its work was posted, and is in the ready queue */
    }
    tpi_timers_start(&loop->timers, timer, when_ns);
    return 0;
}

int tepal_timer_stop(tepal_loop *loop, tepal_timer *timer) {
    int code = tpi_loop_check(loop);
    if (code == TEPAL_ETHREAD) {
        return code;
    }
    return tpi_timers_stop(&loop->timers, timer) ? 0 : TEPAL_ENOENT;
}

/* Questions */

bool tepal_loop_is_running(const tepal_loop *loop) {
    return atomic_load(&loop->runner) != 0;
}

bool tepal_loop_is_closed(const tepal_loop *loop) {
    return loop->phase != TPI_PHASE_OPEN;
}

bool tepal_loop_is_debug(const tepal_loop *loop) {
    return loop->debug;
}

const char *tepal_loop_driver_name(const tepal_loop *loop) {
    return loop->driver_name;
}

int64_t tepal_loop_time(const tepal_loop *loop) {
    return loop->driver == NULL ? 0 : loop->driver->ops->now(loop->driver);
}

int64_t tepal_loop_turn_time(tepal_loop *loop) {
    if (loop->turn_time_ns == 0) {
        loop->turn_time_ns = tepal_loop_time(loop);
    }
    return loop->turn_time_ns;
}

int tepal_loop_get_stats(const tepal_loop *loop, tepal_loop_stats *stats) {
    size_t size = stats->size;
    if (size < sizeof stats->size) {
        return TEPAL_EINVAL;
    }
    memcpy(stats, &loop->stats, size < sizeof *stats ? size : sizeof *stats);
    stats->size = size;
    return 0;
}
