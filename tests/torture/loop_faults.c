/* Every allocation and every descriptor of the loop's own functions fails in turn: an error, no leak, a loop that goes on. */
#include "conformance/faults.h"
#include "conformance/loops.h"
#include "conformance/script.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MOST_CALLS = 200 }; /* more allocations than any scenario here makes */

/*
 * Run a scenario with its first, second, third, ... allocation failing, once and from then on, until it makes none more.
 * It returns 0 or TEPAL_ENOMEM.
 */
static void fail_each(int (*scenario)(void *argument), void *argument) {
    for (int onwards = 0; onwards < 2; onwards++) {
        size_t n = 0;
        bool has_failed;
        do {
            CHECK_LT(n, MOST_CALLS);
            test_alloc_fail_at(++n, onwards == 1);
            const int code = scenario(argument);
            has_failed = test_alloc_has_failed();
            test_alloc_fail_at(0, false);
            CHECK(code == 0 || (code == TEPAL_ENOMEM && has_failed));
        } while (has_failed);
    }
}

static int make_loop(void *argument) {
    tepal_loop *loop = argument;
    const int code = tepal_loop_new(
        &loop, TEPAL_OPTIONS(tepal_loop_options, .driver = test_driver(), .realloc = test_counting_alloc));
    if (code == 0) {
        loop_end(loop);
    } else {
        CHECK(loop == argument);
    }
    return code;
}

TEST_DRIVERS(loop_faults, no_memory_for_a_loop) {
    fail_each(make_loop, NULL);
    CHECK_EQ(test_alloc_live(), 0);
}

TEST_DRIVERS(loop_faults, no_descriptors_for_a_loop) {
    struct rlimit before, low;
    const int next = fcntl(0, F_DUPFD_CLOEXEC, 0); /* the lowest number that is free */
    bool succeeded = false;
    CHECK_GE(next, 0);
    close(next);
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    for (int room = 0; !succeeded; room++) {
        tepal_loop *loop = NULL;
        low = before;
        low.rlim_cur = (rlim_t)(next + room);
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
        const int code = tepal_loop_new(
            &loop, TEPAL_OPTIONS(tepal_loop_options, .driver = test_driver(), .realloc = test_counting_alloc));
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
        CHECK_LT(room, 8);
        succeeded = code == 0;
        if (succeeded) {
            CHECK_GT(room, 0);
            loop_end(loop);
        } else {
            CHECK_EQ(code, TEPAL_SYSTEM(EMFILE));
            CHECK(loop == NULL);
        }
        CHECK_EQ(test_alloc_live(), 0);
    }
}

/* Functions of a loop that is there. Each scenario gets a new one, so that nothing has grown yet. */

typedef int (*use)(tepal_loop *loop);

static int runs;

/* The loop still works after a failure. */
static void check_usable(tepal_loop *loop) {
    const int before = runs;
    CHECK_OK(tepal_loop_call_soon(loop, count_up, &runs, NULL));
    CHECK_OK(tepal_loop_call_later(loop, 0, count_up, &runs, NULL));
    CHECK_OK(tepal_loop_call_soon_threadsafe(loop, count_up, &runs));
    loop_settle(loop);
    CHECK_GE(runs, before + 3);
}

static int with_loop(void *argument) {
    const use *scenario = argument;
    tepal_loop *loop = NULL;
    int code = tepal_loop_new(
        &loop, TEPAL_OPTIONS(tepal_loop_options, .driver = test_driver(), .realloc = test_counting_alloc));
    if (code < 0) {
        return code;
    }
    code = (*scenario)(loop);
    const bool has_failed = test_alloc_has_failed();
    if (has_failed) {
        test_alloc_fail_at(0, false);
        check_usable(loop);
        loop_end(loop);
        test_alloc_fail_at(1, false); /* so that fail_each() knows, whatever came between */
        CHECK(test_counting_alloc(NULL, 1) == NULL);
    } else {
        loop_end(loop);
    }
    return code;
}

static void fail_use(use scenario) {
    fail_each(with_loop, &scenario);
}

static int call_many(tepal_loop *loop) {
    int code = 0;
    for (int i = 0; i < 300 && code == 0; i++) {
        code = tepal_loop_call_soon(loop, count_up, &runs, NULL);
    }
    return code;
}

static int call_many_later(tepal_loop *loop) {
    int code = 0;
    for (int i = 0; i < 300 && code == 0; i++) {
        tepal_handle handle;
        code = tepal_loop_call_later(loop, i, count_up, &runs, &handle);
        if (code == 0 && i % 3 == 0) {
            CHECK(tepal_loop_cancel(loop, handle));
        }
    }
    return code;
}

static int post_some(tepal_loop *loop) {
    int code = 0;
    for (int i = 0; i < 5 && code == 0; i++) {
        code = tepal_loop_call_soon_threadsafe(loop, count_up, &runs);
    }
    return code;
}

static int stop_it(tepal_loop *loop) {
    return tepal_loop_stop_threadsafe(loop);
}

TEST_DRIVERS(loop_faults, no_memory_for_callbacks) {
    fail_use(call_many);
    fail_use(call_many_later);
    fail_use(post_some);
    fail_use(stop_it);
}

enum { PIPES = 40 };

static int pipes[PIPES][2];

static int read_many(tepal_loop *loop) {
    int code = 0, added = 0;
    while (added < PIPES && (code = tepal_loop_add_reader(loop, pipes[added][0], count_up, &runs)) == 0) {
        added++;
    }
    for (int i = 0; i < added; i += 2) {
        CHECK_EQ(tepal_loop_remove_reader(loop, pipes[i][0]), 1);
    }
    for (int i = added; i < PIPES; i++) {
        CHECK_EQ(tepal_loop_remove_reader(loop, pipes[i][0]), 0);
    }
    return code;
}

static void watch_ready(tepal_watch *watch, unsigned events) {
    (void)watch;
    (void)events;
}

static int watch_many(tepal_loop *loop) {
    static tepal_watch watches[PIPES];
    int code = 0;
    for (int i = 0; i < PIPES && code == 0; i++) {
        watches[i] = (tepal_watch){.fd = pipes[i][0], .ready = watch_ready};
        code = tepal_watch_start(loop, &watches[i], TEPAL_READABLE | TEPAL_WRITABLE);
        CHECK_EQ(watches[i].events == 0, code < 0);
    }
    return code;
}

TEST_DRIVERS(loop_faults, no_memory_for_watches) {
    for (int i = 0; i < PIPES; i++) {
        loop_pipe(pipes[i]);
    }
    fail_use(read_many);
    fail_use(watch_many);
    for (int i = 0; i < PIPES; i++) {
        close(pipes[i][0]);
        close(pipes[i][1]);
    }
}

static void on_signal(int signal, void *argument) {
    (void)signal;
    (void)argument;
}

static bool is_default(int signal) {
    struct sigaction now;
    CHECK_EQ(sigaction(signal, NULL, &now), 0);
    return now.sa_handler == SIG_DFL;
}

static int hear_signals(tepal_loop *loop) {
    int code = tepal_loop_add_signal(loop, SIGUSR1, on_signal, NULL);
    CHECK_EQ(is_default(SIGUSR1), code < 0);
    if (code == 0) {
        code = tepal_loop_add_signal(loop, SIGUSR2, on_signal, NULL);
        CHECK_EQ(is_default(SIGUSR2), code < 0);
    }
    return code;
}

TEST_DRIVERS(loop_faults, no_memory_for_signals) {
    fail_use(hear_signals);
    CHECK(is_default(SIGUSR1));
    CHECK(is_default(SIGUSR2));
}

/* After a fork, when the kernel has nothing left to give */

TEST_DRIVERS(loop_faults, a_child_that_cannot_take_the_loop_over_can_still_close_it) {
    int calls = 0, fds[2];
    struct rlimit limit;
    tepal_loop *loop = LOOP(.debug = true);
    loop_pipe(fds);
    CHECK_OK(tepal_loop_add_reader(loop, fds[0], count_up, &calls));
    const int child = fork();
    if (child == 0) {
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
        limit.rlim_cur = (rlim_t)fds[0];
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
        CHECK_EQ(tepal_loop_after_fork(loop), TEPAL_SYSTEM(EMFILE));
        CHECK_EQ(tepal_loop_step(loop, 0), TEPAL_EINVAL);
        loop_end(loop);
        CHECK_EQ(test_alloc_live(), 0);
        _exit(0);
    }
    wait_for_child(child);
    test_write_all(fds[1], "x", 1);
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_EQ(calls, 1);
    loop_end(loop);
    close(fds[0]);
    close(fds[1]);
}

/* Waking, when the kernel is not ready to be told */

static int post_once(void *argument, int64_t timeout_ns) {
    (void)timeout_ns;
    CHECK_OK(tepal_loop_call_soon_threadsafe(argument, count_up, &runs));
    CHECK_OK(tepal_loop_set_hooks(argument, TEPAL_OPTIONS(tepal_loop_hooks, .argument = NULL)));
    return 0;
}

static void wake_with_error(int error) {
    const fault plan = {.call = CALL_write, .occurrence = 1, .error = error};
    tepal_loop *loop = LOOP(.debug = true);
    int overslept = 0;
    runs = 0;
    CHECK_OK(tepal_loop_set_hooks(loop, TEPAL_OPTIONS(tepal_loop_hooks, .before_wait = post_once, .argument = loop)));
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_SEC(10), count_up, &overslept, NULL));
    faults_arm(&plan);
    while (runs == 0 && overslept == 0) {
        CHECK_OK(tepal_loop_step(loop, -1));
    }
    faults_disarm();
    CHECK(faults_hit());
    CHECK_EQ(overslept, 0);
    loop_end(loop);
}

TEST_DRIVERS(loop_faults, a_wake_up_that_is_interrupted_or_finds_the_counter_full_wakes_all_the_same) {
    wake_with_error(EINTR);
    wake_with_error(EAGAIN);
}

/* Closing, when the kernel refuses even to be asked */

TEST_DRIVERS(loop_faults, a_wait_that_fails_while_the_loop_closes_keeps_nothing_from_being_given_back) {
    const fault plan = {
        .call = strcmp(test_driver(), "poll") == 0    ? CALL_ppoll
                : strcmp(test_driver(), "uring") == 0 ? CALL_io_uring_enter
                                                      : CALL_epoll_wait,
        .occurrence = 1,
        .error = EINVAL,
    };
    script self = {0};
    script_open(&self, SCRIPT_TCP);
    script_write(&self, 1000);
    faults_arm(&plan);
    script_close(&self);
    CHECK(faults_hit());
    CHECK_EQ(self.losts, 1);
    CHECK_EQ(test_alloc_live(), 0);
}
