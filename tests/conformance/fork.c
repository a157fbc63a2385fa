/*
 * Forking (FIELD 11): a child may close the loop it has inherited, go on using it, or make one of its own; and the
 * parent's loop goes on as if nothing had happened.
 */
#include "conformance/loops.h"

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

/* A loop with something of everything on it. */
typedef struct household {
    tepal_loop *loop;
    int fds[2]; /* [0] is watched */
    tepal_watch watch;
    tepal_timer timer;
    tepal_work work;
    int ready, timers, works, calls, signals;
    int eat; /* bytes to take in ready */
} household;

static household *self_of_watch;

static void on_ready(tepal_watch *watch, unsigned events) {
    household *self = self_of_watch;
    char byte;
    (void)watch;
    CHECK_EQ(events, TEPAL_READABLE);
    CHECK_EQ(read(self->fds[0], &byte, 1), 1);
    self->ready++;
}

static void on_timer(tepal_work *work, int status) {
    (void)work;
    if (status == 0) {
        self_of_watch->timers++;
    } else {
        CHECK_EQ(status, TEPAL_ECLOSED);
        loop_note('T');
    }
}

static void on_work(tepal_work *work, int status) {
    (void)work;
    if (status == 0) {
        self_of_watch->works++;
    } else {
        CHECK_EQ(status, TEPAL_ECLOSED);
        loop_note('W');
    }
}

static void on_signal(int signal, void *argument) {
    (void)signal;
    ((household *)argument)->signals++;
}

static void open_household(household *self) {
    *self = (household){.loop = LOOP(.debug = true, .slow_callback_ns = -1)};
    self_of_watch = self;
    test_socketpair(self->fds);
    self->watch = (tepal_watch){.fd = self->fds[0], .ready = on_ready};
    self->timer.work.run = on_timer;
    self->work.run = on_work;
    CHECK_OK(tepal_watch_start(self->loop, &self->watch, TEPAL_READABLE));
    CHECK_OK(tepal_timer_start(self->loop, &self->timer, tepal_loop_time(self->loop) + TEPAL_SEC(3600)));
    CHECK_OK(tepal_loop_add_signal(self->loop, SIGUSR1, on_signal, self));
    CHECK_OK(tepal_loop_add_reader(self->loop, self->fds[1], count_up, &self->calls));
    loop_settle(self->loop);
}

/* Everything still works. */
static void check_household(household *self) {
    const int ready = self->ready, works = self->works, signals = self->signals, timers = self->timers;
    test_write_all(self->fds[1], "x", 1);
    CHECK_OK(tepal_loop_post_threadsafe(self->loop, &self->work));
    raise(SIGUSR1);
    CHECK_OK(tepal_timer_start(self->loop, &self->timer, 0));
    TURN_UNTIL(self->loop, self->ready == ready + 1 && self->works == works + 1 && self->signals == signals + 1 &&
                               self->timers == timers + 1);
    /* Asleep, it is woken by what needs the wake-up descriptor alone. */
    tepal_loop_wake(self->loop);
    CHECK_OK(tepal_loop_step(self->loop, -1));
    CHECK_EQ(loop_stats(self->loop).reported, 0);
}

static void close_household(household *self) {
    loop_end(self->loop);
    close(self->fds[0]);
    close(self->fds[1]);
}

/* True in a child. The parent waits for its end first, which must be a good one. */
static bool is_child(void) {
    const int child = fork();
    if (child == 0) {
        return true;
    }
    wait_for_child(child);
    return false;
}

/* Run in a child, then go on in the parent. What the child leaks is its test's failure. */
#define IN_CHILD(body)                                                                                                 \
    if (is_child()) {                                                                                                  \
        body;                                                                                                          \
        CHECK_EQ(test_alloc_live(), 0);                                                                                \
        _exit(0);                                                                                                      \
    }

TEST_DRIVERS(fork, a_child_may_close_the_inherited_loop_without_an_upcall) {
    household self;
    open_household(&self);
    CHECK_OK(tepal_loop_post(self.loop, &self.work));
    CHECK_OK(tepal_loop_call_soon(self.loop, note_first, "c", NULL));
    CHECK_OK(tepal_loop_call_soon_threadsafe(self.loop, note_first, "p"));
    IN_CHILD({
        loop_log_clear();
        const int before = test_fd_count();
        loop_end(self.loop);
        CHECK_STR(loop_log, "");
        CHECK_LT(test_fd_count(), before);
    })
    TURN_UNTIL(self.loop, self.works == 1);
    CHECK_STR(loop_log, "cp");
    check_household(&self);
    close_household(&self);
}

TEST_DRIVERS(fork, a_child_may_make_a_loop_of_its_own) {
    household self;
    open_household(&self);
    IN_CHILD({
        household own;
        loop_end(self.loop);
        open_household(&own);
        check_household(&own);
        close_household(&own);
    })
    self_of_watch = &self;
    check_household(&self);
    close_household(&self);
}

TEST_DRIVERS(fork, a_child_may_go_on_with_the_inherited_loop_after_saying_so) {
    household self;
    open_household(&self);
    IN_CHILD({
        CHECK_OK(tepal_loop_after_fork(self.loop));
        for (int i = 0; i < 3; i++) {
            check_household(&self);
        }
        loop_end(self.loop);
    })
    for (int i = 0; i < 3; i++) {
        check_household(&self);
    }
    close_household(&self);
}

/* The number of what is closed is the next one that anything gets, also what the loop makes anew. */
TEST_DRIVERS(fork, a_watch_whose_descriptor_was_closed_meanwhile_is_forgotten) {
    household self;
    tepal_watch closed = {.ready = on_ready};
    int numbers[2];
    open_household(&self);
    loop_pipe(numbers);
    closed.fd = numbers[0];
    CHECK_OK(tepal_watch_start(self.loop, &closed, TEPAL_READABLE));
    IN_CHILD({
        close(numbers[0]);
        CHECK_OK(tepal_loop_after_fork(self.loop));
        check_household(&self);
        loop_end(self.loop);
    })
    CHECK_OK(tepal_watch_stop(self.loop, &closed));
    close(numbers[0]);
    close(numbers[1]);
    check_household(&self);
    close_household(&self);
}

TEST_DRIVERS(fork, a_grandchild_may_do_the_same) {
    household self;
    open_household(&self);
    IN_CHILD({
        CHECK_OK(tepal_loop_after_fork(self.loop));
        check_household(&self);
        IN_CHILD({
            CHECK_OK(tepal_loop_after_fork(self.loop));
            check_household(&self);
            loop_end(self.loop);
        })
        check_household(&self);
        loop_end(self.loop);
    })
    check_household(&self);
    close_household(&self);
}

TEST_DRIVERS(fork, until_it_says_so_a_child_cannot_run_the_loop) {
    household self;
    int64_t timeout_ns;
    open_household(&self);
    IN_CHILD({
        CHECK_EQ(tepal_loop_run_forever(self.loop), TEPAL_EINVAL);
        CHECK_EQ(tepal_loop_step(self.loop, 0), TEPAL_EINVAL);
        CHECK_EQ(tepal_loop_prepare(self.loop, &timeout_ns), TEPAL_EINVAL);
        loop_end(self.loop);
    })
    check_household(&self);
    close_household(&self);
}

TEST_DRIVERS(fork, a_childs_wake_ups_and_signals_do_not_reach_the_parent) {
    household self;
    open_household(&self);
    const uint64_t turns = loop_stats(self.loop).turns;
    IN_CHILD({
        CHECK_OK(tepal_loop_after_fork(self.loop));
        for (int i = 0; i < 100; i++) {
            tepal_loop_wake(self.loop);
            raise(SIGUSR1);
        }
        loop_settle(self.loop);
        CHECK_GE(self.signals, 1);
        loop_end(self.loop);
    })
    /* It would wake the parent's sleep before its time. */
    CHECK_OK(tepal_loop_call_later(self.loop, TEPAL_MS(20), stop_loop, self.loop, NULL));
    CHECK_OK(tepal_loop_run_forever(self.loop));
    CHECK_LE(loop_stats(self.loop).turns - turns, 1); /* the turn that sleeps until the timer */
    CHECK_EQ(self.signals, 0);
    check_household(&self);
    close_household(&self);
}

TEST_DRIVERS(fork, a_signal_in_a_child_that_has_said_nothing_is_nobodys) {
    household self;
    open_household(&self);
    const uint64_t turns = loop_stats(self.loop).turns;
    IN_CHILD({
        raise(SIGUSR1); /* its handler is inherited, and must not wake the parent */
        loop_end(self.loop);
    })
    CHECK_OK(tepal_loop_call_later(self.loop, TEPAL_MS(5), stop_loop, self.loop, NULL));
    CHECK_OK(tepal_loop_run_forever(self.loop));
    CHECK_LE(loop_stats(self.loop).turns - turns, 1);
    CHECK_EQ(self.signals, 0);
    check_household(&self);
    close_household(&self);
}

TEST_DRIVERS(fork, signals_that_came_to_the_parent_are_the_parents) {
    household self;
    open_household(&self);
    raise(SIGUSR1);
    IN_CHILD({
        CHECK_OK(tepal_loop_after_fork(self.loop));
        loop_settle(self.loop);
        CHECK_EQ(self.signals, 0);
        loop_end(self.loop);
    })
    loop_settle(self.loop);
    CHECK_EQ(self.signals, 1);
    close_household(&self);
}

/* The parent's wake-ups are not eaten by a child that lives on. */
TEST_DRIVERS(fork, parent_and_child_use_their_loops_at_the_same_time) {
    household self;
    int go[2];
    char byte = 0;
    test_socketpair(go);
    open_household(&self);
    const int child = fork();
    if (child == 0) {
        CHECK_OK(tepal_loop_after_fork(self.loop));
        /* Their sockets are one and the same: the child leaves them to the parent. */
        CHECK_OK(tepal_watch_stop(self.loop, &self.watch));
        CHECK_EQ(tepal_loop_remove_reader(self.loop, self.fds[1]), 1);
        test_write_all(go[1], "r", 1);
        for (int i = 0; i < 200; i++) {
            CHECK_OK(tepal_loop_post_threadsafe(self.loop, &self.work));
            TURN_UNTIL(self.loop, self.works == i + 1);
        }
        test_read_exactly(go[1], &byte, 1);
        CHECK_EQ(self.ready, 0);
        loop_end(self.loop);
        _exit(0);
    }
    test_read_exactly(go[0], &byte, 1);
    for (int i = 0; i < 100; i++) {
        check_household(&self);
    }
    test_write_all(go[0], "x", 1);
    wait_for_child(child);
    check_household(&self);
    close_household(&self);
    close(go[0]);
    close(go[1]);
}

/* Forked from inside */

static void fork_inside(household *self) {
    loop_note('f');
    IN_CHILD(loop_end(self->loop))
    IN_CHILD({
        CHECK_OK(tepal_loop_after_fork(self->loop));
        CHECK_EQ(tepal_loop_run_forever(self->loop), TEPAL_ERECURSION);
        CHECK_OK(tepal_loop_call_soon(self->loop, note_first, "a", NULL));
        _exit(0); /* the loop cannot be closed from one of its own callbacks now */
    })
}

static void fork_in_callback(void *argument) {
    fork_inside(argument);
}

static void fork_in_signal(int signal, void *argument) {
    (void)signal;
    fork_inside(argument);
}

TEST_DRIVERS(fork, from_inside_each_kind_of_callback_leaves_the_parent_unharmed) {
    household self;
    open_household(&self);
    CHECK_OK(tepal_loop_call_soon(self.loop, fork_in_callback, &self, NULL));
    CHECK_OK(tepal_loop_call_later(self.loop, 0, fork_in_callback, &self, NULL));
    CHECK_OK(tepal_loop_add_signal(self.loop, SIGUSR2, fork_in_signal, &self));
    CHECK_OK(tepal_loop_add_writer(self.loop, self.fds[1], fork_in_callback, &self));
    raise(SIGUSR2);
    CHECK_OK(tepal_loop_step(self.loop, -1));
    CHECK_STR(loop_log, "ffff");
    CHECK_EQ(tepal_loop_remove_writer(self.loop, self.fds[1]), 1);
    check_household(&self);
    close_household(&self);
}

static void go_on_in_child(void *argument) {
    household *self = argument;
    const int child = fork();
    if (child == 0) {
        CHECK_OK(tepal_loop_after_fork(self->loop));
        loop_note('c');
        tepal_loop_stop(self->loop);
        return;
    }
    wait_for_child(child);
    loop_note('p');
    tepal_loop_stop(self->loop);
}

TEST_DRIVERS(fork, a_child_may_return_into_the_loop_it_was_forked_from) {
    household self;
    open_household(&self);
    const int parent = getpid();
    CHECK_OK(tepal_loop_call_soon(self.loop, go_on_in_child, &self, NULL));
    CHECK_OK(tepal_loop_call_soon(self.loop, note_first, "n", NULL));
    CHECK_OK(tepal_loop_run_forever(self.loop));
    CHECK_STR(loop_log, getpid() == parent ? "pn" : "cn");
    check_household(&self);
    close_household(&self);
    if (getpid() != parent) {
        _exit(0);
    }
}

TEST_DRIVERS(fork, a_child_that_does_nothing_does_no_harm) {
    household self;
    open_household(&self);
    for (int i = 0; i < 10; i++) {
        const int child = fork();
        if (child == 0) {
            _exit(0);
        }
        check_household(&self);
        wait_for_child(child);
    }
    close_household(&self);
}
