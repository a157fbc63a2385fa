/* Signals: any number of them, on several loops, none lost, and the process's own handling given back. */
#include "conformance/loops.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

typedef struct heard {
    tepal_loop *loop;
    int calls;
    int last;
    bool removes;
} heard;

static void hear(int signal, void *argument) {
    heard *self = argument;
    self->calls++;
    self->last = signal;
    if (self->removes) {
        CHECK_EQ(tepal_loop_remove_signal(self->loop, signal), 1);
    }
}

static bool is_default(int signal) {
    struct sigaction now;
    CHECK_EQ(sigaction(signal, NULL, &now), 0);
    return now.sa_handler == SIG_DFL;
}

TEST_DRIVERS(signals, the_callback_runs_on_the_loop_and_not_in_the_handler) {
    heard self = {.loop = LOOP(.debug = true)};
    CHECK_OK(tepal_loop_add_signal(self.loop, SIGUSR1, hear, &self));
    raise(SIGUSR1);
    CHECK_EQ(self.calls, 0);
    CHECK_OK(tepal_loop_step(self.loop, -1));
    CHECK_EQ(self.calls, 1);
    CHECK_EQ(self.last, SIGUSR1);
    CHECK_EQ(loop_stats(self.loop).signals, 1);
    CHECK_OK(tepal_loop_step(self.loop, 0));
    CHECK_EQ(self.calls, 1);
    loop_end(self.loop);
    CHECK(is_default(SIGUSR1));
}

TEST_DRIVERS(signals, every_signal_that_can_be_caught_is_told_apart) {
    static heard all[65];
    tepal_loop *loop = LOOP(.debug = true);
    int caught = 0;
    for (int signal = 1; signal <= 64; signal++) {
        all[signal].loop = loop;
        const int code = tepal_loop_add_signal(loop, signal, hear, &all[signal]);
        const bool hopeless = signal == SIGKILL || signal == SIGSTOP || signal == SIGSEGV || signal == SIGBUS ||
                              signal == SIGFPE || signal == SIGILL;
        const bool of_libc = signal == 32 || signal == 33; /* its own: sigaction(2) refuses them */
        CHECK_EQ(code == 0, !hopeless && !of_libc);
        if (hopeless) {
            CHECK_EQ(code, TEPAL_EINVAL);
        }
        all[signal].last = code;
    }
    for (int signal = 1; signal <= 64; signal++) {
        if (all[signal].last == 0) {
            CHECK_EQ(raise(signal), 0);
            caught++;
        }
    }
    loop_settle(loop);
    for (int signal = 1; signal <= 64; signal++) {
        if (all[signal].calls > 0) {
            CHECK_EQ(all[signal].calls, 1);
            CHECK_EQ(all[signal].last, signal);
            caught--;
        }
    }
    CHECK_EQ(caught, 0);
    loop_end(loop);
}

TEST_DRIVERS(signals, what_is_no_signal_is_refused) {
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_EQ(tepal_loop_add_signal(loop, 0, hear, NULL), TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_add_signal(loop, -1, hear, NULL), TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_add_signal(loop, 65, hear, NULL), TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_add_signal(loop, SIGUSR1, NULL, NULL), TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_remove_signal(loop, 0), TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_remove_signal(loop, SIGUSR1), 0);
    loop_end(loop);
    CHECK(is_default(SIGUSR1));
}

TEST_DRIVERS(signals, adding_again_replaces_the_callback) {
    heard first = {0}, second = {0};
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_OK(tepal_loop_add_signal(loop, SIGUSR1, hear, &first));
    raise(SIGUSR1);
    CHECK_OK(tepal_loop_add_signal(loop, SIGUSR1, hear, &second));
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_EQ(first.calls, 0);
    CHECK_EQ(second.calls, 1);
    CHECK_EQ(tepal_loop_remove_signal(loop, SIGUSR1), 1);
    CHECK_EQ(tepal_loop_remove_signal(loop, SIGUSR1), 0);
    loop_end(loop);
}

TEST_DRIVERS(signals, a_callback_may_remove_itself_and_what_waits_of_it) {
    tepal_loop *loop = LOOP(.debug = true);
    heard self = {.loop = loop, .removes = true};
    CHECK_OK(tepal_loop_add_signal(loop, SIGUSR1, hear, &self));
    raise(SIGUSR1);
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_EQ(self.calls, 1);
    CHECK(is_default(SIGUSR1));
    CHECK_OK(tepal_loop_add_signal(loop, SIGUSR2, hear, &self));
    raise(SIGUSR2);
    CHECK_EQ(tepal_loop_remove_signal(loop, SIGUSR2), 1);
    loop_settle(loop);
    CHECK_EQ(self.calls, 1);
    loop_end(loop);
}

static heard *other;

static void remove_other(int signal, void *argument) {
    hear(signal, argument);
    CHECK_EQ(tepal_loop_remove_signal(other->loop, SIGUSR2), 1);
}

TEST_DRIVERS(signals, one_that_has_arrived_is_not_heard_once_it_is_removed_by_another) {
    tepal_loop *loop = LOOP(.debug = true);
    heard first = {.loop = loop}, second = {.loop = loop};
    other = &second;
    CHECK_OK(tepal_loop_add_signal(loop, SIGUSR1, remove_other, &first));
    CHECK_OK(tepal_loop_add_signal(loop, SIGUSR2, hear, &second));
    raise(SIGUSR2);
    raise(SIGUSR1);
    loop_settle(loop);
    CHECK_EQ(first.calls, 1);
    CHECK_EQ(second.calls, 0);
    loop_end(loop);
}

static void add_other_anew(int signal, void *argument) {
    remove_other(signal, argument);
    CHECK_OK(tepal_loop_add_signal(other->loop, SIGUSR2, hear, other));
}

TEST_DRIVERS(signals, who_is_added_by_another_does_not_hear_of_what_came_before) {
    tepal_loop *loop = LOOP(.debug = true);
    heard first = {.loop = loop}, second = {.loop = loop};
    other = &second;
    CHECK_OK(tepal_loop_add_signal(loop, SIGUSR1, add_other_anew, &first));
    CHECK_OK(tepal_loop_add_signal(loop, SIGUSR2, hear, &second));
    raise(SIGUSR2);
    raise(SIGUSR1);
    loop_settle(loop);
    CHECK_EQ(first.calls, 1);
    CHECK_EQ(second.calls, 0);
    raise(SIGUSR2);
    loop_settle(loop);
    CHECK_EQ(second.calls, 1);
    loop_end(loop);
}

static atomic_int plain_calls;

static void plain(int signal) {
    (void)signal;
    atomic_fetch_add(&plain_calls, 1);
}

TEST_DRIVERS(signals, every_loop_hears_and_the_last_one_gives_the_previous_handler_back) {
    enum { LOOPS = 5 };
    heard all[LOOPS] = {0};
    const struct sigaction own = {.sa_handler = plain};
    struct sigaction now;
    CHECK_EQ(sigaction(SIGUSR1, &own, NULL), 0);
    for (int i = 0; i < LOOPS; i++) {
        all[i].loop = LOOP(.debug = true);
        CHECK_OK(tepal_loop_add_signal(all[i].loop, SIGUSR1, hear, &all[i]));
    }
    for (int alive = LOOPS; alive > 0; alive--) {
        raise(SIGUSR1);
        for (int i = 0; i < alive; i++) {
            all[i].calls = 0;
            CHECK_OK(tepal_loop_step(all[i].loop, -1));
            CHECK_EQ(all[i].calls, 1);
        }
        if (alive % 2 == 0) {
            CHECK_EQ(tepal_loop_remove_signal(all[alive - 1].loop, SIGUSR1), 1);
        }
        loop_end(all[alive - 1].loop);
    }
    CHECK_EQ(plain_calls, 0);
    CHECK_EQ(sigaction(SIGUSR1, NULL, &now), 0);
    CHECK(now.sa_handler == plain);
    raise(SIGUSR1);
    CHECK_EQ(plain_calls, 1);
}

/* FIELD 13: signals come while the loop is blocked, more than any pipe holds. */

static void *send_signals(void *argument) {
    const int count = *(int *)argument;
    for (int i = 0; i < count; i++) {
        CHECK_EQ(kill(getpid(), i % 2 == 0 ? SIGUSR1 : SIGUSR2), 0);
    }
    return NULL;
}

static void block_under_signals(void *argument) {
    /* 100,000 arrive while this callback keeps the loop from looking. */
    pthread_t sender;
    CHECK_EQ(pthread_create(&sender, NULL, send_signals, argument), 0);
    pthread_join(sender, NULL);
}

TEST_DRIVERS(signals, a_hundred_thousand_that_come_while_the_loop_is_blocked_lose_nothing) {
    int count = 100000;
    heard first = {0}, second = {0};
    test_set_timeout(60);
    tepal_loop *loop = LOOP(.debug = true, .slow_callback_ns = -1);
    CHECK_OK(tepal_loop_add_signal(loop, SIGUSR1, hear, &first));
    CHECK_OK(tepal_loop_add_signal(loop, SIGUSR2, hear, &second));
    CHECK_OK(tepal_loop_call_soon(loop, block_under_signals, &count, NULL));
    loop_settle(loop);
    CHECK_GE(first.calls, 1);
    CHECK_GE(second.calls, 1);
    const int before = first.calls;
    raise(SIGUSR1);
    CHECK_OK(tepal_loop_step(loop, -1)); /* and the next one is heard: nothing is full */
    CHECK_EQ(first.calls, before + 1);
    loop_end(loop);
}

static void stop_at_signal(int signal, void *loop) {
    (void)signal;
    tepal_loop_stop(loop);
}

static void *one_signal(void *argument) {
    (void)argument;
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
    return NULL;
}

TEST_DRIVERS(signals, wake_a_loop_that_sleeps_whichever_thread_they_come_to) {
    /* One that comes between two calls that it knows is run with the next of them, and entering a ring is none. */
    if (loop_is_under_tsan() && strcmp(test_driver(), "uring") == 0) {
        SKIP("ThreadSanitizer holds signals back while a thread is in a system call that it does not know");
    }
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_OK(tepal_loop_add_signal(loop, SIGUSR1, stop_at_signal, loop));
    for (int round = 0; round < 200; round++) {
        pthread_t sender;
        CHECK_EQ(pthread_create(&sender, NULL, one_signal, NULL), 0);
        CHECK_OK(tepal_loop_run_forever(loop)); /* a wake-up between the check and the wait would be a hang */
        pthread_join(sender, NULL);
    }
    loop_end(loop);
}

/* Loops in many threads come and go while signals arrive. */

static atomic_bool churning;

static void *churn(void *argument) {
    const char *driver = argument;
    for (int i = 0; i < 100; i++) {
        heard self = {0};
        tepal_loop *loop;
        loop_descriptors_begin();
        CHECK_OK(tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .driver = driver)));
        loop_descriptors_end();
        CHECK_OK(tepal_loop_add_signal(loop, SIGUSR1, hear, &self));
        CHECK_OK(tepal_loop_add_signal(loop, SIGUSR2, hear, &self));
        CHECK_OK(tepal_loop_step(loop, 0));
        if (i % 2 == 0) {
            CHECK_EQ(tepal_loop_remove_signal(loop, SIGUSR1), 1);
        }
        loop_descriptors_begin();
        loop_end(loop);
        loop_descriptors_end();
    }
    return NULL;
}

static void *rain(void *argument) {
    (void)argument;
    while (atomic_load(&churning)) {
        CHECK_EQ(kill(getpid(), SIGUSR1), 0);
        CHECK_EQ(kill(getpid(), SIGUSR2), 0);
        sched_yield();
    }
    return NULL;
}

TEST_DRIVERS(signals, loops_in_many_threads_may_add_and_remove_them_under_fire) {
    enum { THREADS = 4 };
    pthread_t threads[THREADS], cloud;
    const struct sigaction own = {.sa_handler = plain};
    test_set_timeout(60);
    CHECK_EQ(sigaction(SIGUSR1, &own, NULL), 0);
    CHECK_EQ(sigaction(SIGUSR2, &own, NULL), 0);
    atomic_store(&churning, true);
    CHECK_EQ(pthread_create(&cloud, NULL, rain, NULL), 0);
    for (int i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, churn, (void *)(uintptr_t)test_driver()), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    atomic_store(&churning, false);
    pthread_join(cloud, NULL);
    struct sigaction now;
    CHECK_EQ(sigaction(SIGUSR1, NULL, &now), 0);
    CHECK(now.sa_handler == plain);
}
