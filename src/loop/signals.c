/*
 * Signals. The handler does two things only: it sets a bit in each loop that asked, and wakes it. The callback runs on
 * the loop. No pipe is involved that could fill.
 *
 * Which loops asked is process-wide by nature: a list for each signal, changed under a mutex and read by the handler
 * without one. A node is freed only when no handler is running. After a fork neither the mutex nor the handlers of the
 * parent's other threads mean anything: pthread_atfork(3) makes them anew.
 */
#include "loop/loop.h"
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#define SIGNALS 64 /* their numbers are 1 to SIGNALS; bit n-1 stands for n */

typedef struct tpi_subscriber {
    _Atomic(struct tpi_subscriber *) next;
    tepal_loop *loop;
    pid_t pid; /* a forked child's handler must not wake the parent's loop */
    void (*run)(int signal, void *argument);
    void *argument;
} tpi_subscriber;

struct tpi_signals {
    tpi_subscriber *subscribers[SIGNALS + 1];
    uint64_t due; /* of those taken by this turn, the ones whose callbacks are still to run */
};

static struct {
    pthread_once_t once;
    pthread_mutex_t mutex; /* for changes */
    _Atomic(tpi_subscriber *) first[SIGNALS + 1];
    struct sigaction previous[SIGNALS + 1];
    atomic_uint handlers; /* running now */
} registry = {.once = PTHREAD_ONCE_INIT, .mutex = PTHREAD_MUTEX_INITIALIZER};

static void handle(int signal) {
    int saved = errno;
    pid_t pid = getpid();
    atomic_fetch_add(&registry.handlers, 1);
    for (tpi_subscriber *node = atomic_load(&registry.first[signal]); node != NULL; node = atomic_load(&node->next)) {
        if (node->pid == pid) {
            atomic_fetch_or(&node->loop->signals_pending, UINT64_C(1) << (signal - 1));
            tepal_loop_wake(node->loop);
        }
    }
    atomic_fetch_sub(&registry.handlers, 1);
    errno = saved;
}

/* Forked, perhaps while another thread held the mutex or ran a handler: neither exists here. */
static void forget_threads(void) {
    pthread_mutex_init(&registry.mutex, NULL);
    atomic_store(&registry.handlers, 0);
}

static void hear_of_forks(void) {
    (void)pthread_atfork(NULL, NULL, forget_threads);
}

static void lock(void) {
    pthread_once(&registry.once, hear_of_forks);
    pthread_mutex_lock(&registry.mutex);
}

static void unlock(void) {
    pthread_mutex_unlock(&registry.mutex);
}

static bool can_be_caught(int signal) {
    switch (signal) {
    case SIGKILL:
    case SIGSTOP:
    case SIGSEGV:
    case SIGBUS:
    case SIGFPE:
    case SIGILL:
        return false;
    default:
        return signal >= 1 && signal <= SIGNALS;
    }
}

static int install(int signal) {
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    sigfillset(&action.sa_mask);
    return sigaction(signal, &action, &registry.previous[signal]) < 0 ? TEPAL_SYSTEM(errno) : 0;
}

static int subscribe(int signal, tpi_subscriber *node) {
    lock();
    tpi_subscriber *first = atomic_load(&registry.first[signal]);
    atomic_store(&node->next, first);
    atomic_store(&registry.first[signal], node);
    int code = first == NULL ? install(signal) : 0;
    if (code < 0) {
        atomic_store(&registry.first[signal], first);
    }
    unlock();
    return code;
}

static void unsubscribe(int signal, tpi_subscriber *node) {
    lock();
    _Atomic(tpi_subscriber *) *link = &registry.first[signal];
    while (atomic_load(link) != node) {
        link = &atomic_load(link)->next;
    }
    atomic_store(link, atomic_load(&node->next));
    if (atomic_load(&registry.first[signal]) == NULL) {
        sigaction(signal, &registry.previous[signal], NULL);
    }
    unlock();
    while (atomic_load(&registry.handlers) != 0) {
        sched_yield(); /* one of them may still look at node */
    }
}

int tepal_loop_add_signal(tepal_loop *loop, int signal, void (*run)(int signal, void *argument), void *argument) {
    int code = tpi_loop_check(loop);
    if (code < 0) {
        return code;
    }
    if (!can_be_caught(signal) || run == NULL) {
        return TEPAL_EINVAL;
    }
    if (loop->signals == NULL) {
        loop->signals = tpi_alloc_zero(loop->realloc, sizeof *loop->signals);
        if (loop->signals == NULL) {
            return TEPAL_ENOMEM;
        }
    }
    tpi_subscriber *node = loop->signals->subscribers[signal];
    if (node == NULL) {
        node = tpi_alloc_zero(loop->realloc, sizeof *node);
        if (node == NULL) {
            return TEPAL_ENOMEM;
        }
        node->loop = loop;
        node->pid = loop->pid;
        code = subscribe(signal, node);
        if (code < 0) {
            tpi_free(loop->realloc, node);
            return code;
        }
        loop->signals->subscribers[signal] = node;
    }
    node->run = run;
    node->argument = argument;
    return 0;
}

static bool remove_one(tepal_loop *loop, int signal) {
    tpi_subscriber *node = loop->signals == NULL ? NULL : loop->signals->subscribers[signal];
    if (node == NULL) {
        return false;
    }
    unsubscribe(signal, node);
    loop->signals->subscribers[signal] = NULL;
    /* Whoever adds this signal again hears of what comes from then on. */
    uint64_t bit = UINT64_C(1) << (signal - 1);
    atomic_fetch_and(&loop->signals_pending, ~bit);
    loop->signals->due &= ~bit;
    tpi_free(loop->realloc, node);
    return true;
}

int tepal_loop_remove_signal(tepal_loop *loop, int signal) {
    if (!can_be_caught(signal)) {
        return TEPAL_EINVAL;
    }
    return tpi_loop_check(loop) == 0 && remove_one(loop, signal);
}

void tpi_signals_dispatch(tepal_loop *loop) {
    tpi_signals *signals = loop->signals;
    signals->due = atomic_exchange(&loop->signals_pending, 0);
    while (signals->due != 0 && !loop->interrupted) {
        int signal = __builtin_ctzll(signals->due) + 1;
        const tpi_subscriber *node = signals->subscribers[signal]; /* removing it takes it out of those due */
        signals->due &= signals->due - 1;
        loop->stats.signals++;
        int64_t began = loop->debug ? tpi_debug_begin(loop) : 0;
        node->run(signal, node->argument);
        tpi_loop_flush(loop);
        if (loop->debug) {
            tpi_debug_end(loop, began, "a signal callback");
        }
    }
    if (signals->due != 0) {
        atomic_fetch_or(&loop->signals_pending, signals->due);
        signals->due = 0;
    }
}

void tpi_signals_close(tepal_loop *loop) {
    if (loop->signals == NULL) {
        return;
    }
    for (int signal = 1; signal <= SIGNALS; signal++) {
        remove_one(loop, signal);
    }
    tpi_free(loop->realloc, loop->signals);
    loop->signals = NULL;
}

void tpi_signals_after_fork(tepal_loop *loop) {
    atomic_store(&loop->signals_pending, 0); /* those came to the parent */
    if (loop->signals == NULL) {
        return;
    }
    loop->signals->due = 0;
    for (int signal = 1; signal <= SIGNALS; signal++) {
        if (loop->signals->subscribers[signal] != NULL) {
            loop->signals->subscribers[signal]->pid = loop->pid;
        }
    }
}
