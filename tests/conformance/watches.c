/* Foreign descriptors: intrusive watches, readers and writers. */
#include "conformance/loops.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct seen {
    tepal_watch watch; /* first */
    tepal_loop *loop;
    int calls;
    unsigned events;
    void (*then)(struct seen *self);
} seen;

static void saw(tepal_watch *watch, unsigned events) {
    seen *self = (seen *)watch;
    self->calls++;
    self->events = events;
    if (self->then != NULL) {
        self->then(self);
    }
}

static void stop_it(seen *self) {
    CHECK_OK(tepal_watch_stop(self->loop, &self->watch));
}

static void watch_for(seen *self, tepal_loop *loop, int fd, unsigned events) {
    *self = (seen){.watch = {.fd = fd, .ready = saw}, .loop = loop};
    CHECK_OK(tepal_watch_start(loop, &self->watch, events));
    CHECK_EQ(self->watch.events, events);
}

TEST_DRIVERS(watches, a_level_is_reported_until_it_is_gone) {
    seen self;
    int fds[2];
    char byte;
    tepal_loop *loop = LOOP(.debug = true);
    loop_pipe(fds);
    watch_for(&self, loop, fds[0], TEPAL_READABLE);
    CHECK_OK(tepal_loop_step(loop, 0));
    CHECK_EQ(self.calls, 0);
    test_write_all(fds[1], "x", 1);
    for (int i = 1; i <= 3; i++) {
        CHECK_OK(tepal_loop_step(loop, -1));
        CHECK_EQ(self.calls, i);
        CHECK_EQ(self.events, TEPAL_READABLE);
    }
    CHECK_EQ(read(fds[0], &byte, 1), 1);
    CHECK_OK(tepal_loop_step(loop, 0));
    CHECK_EQ(self.calls, 3);
    CHECK_OK(tepal_watch_stop(loop, &self.watch));
    CHECK_EQ(tepal_watch_stop(loop, &self.watch), TEPAL_ENOENT);
    CHECK_EQ(self.watch.events, 0);
    test_write_all(fds[1], "x", 1);
    CHECK_OK(tepal_loop_step(loop, 0));
    CHECK_EQ(self.calls, 3);
    loop_end(loop);
    close(fds[0]);
    close(fds[1]);
}

TEST_DRIVERS(watches, what_it_is_for_may_change_while_it_is_started) {
    seen self;
    int fds[2];
    tepal_loop *loop = LOOP(.debug = true);
    test_socketpair(fds);
    watch_for(&self, loop, fds[0], TEPAL_READABLE);
    CHECK_OK(tepal_loop_step(loop, 0));
    CHECK_EQ(self.calls, 0);
    CHECK_OK(tepal_watch_start(loop, &self.watch, TEPAL_READABLE | TEPAL_WRITABLE));
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_EQ(self.events, TEPAL_WRITABLE);
    test_write_all(fds[1], "x", 1);
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_EQ(self.events, TEPAL_READABLE | TEPAL_WRITABLE);
    CHECK_OK(tepal_watch_start(loop, &self.watch, TEPAL_READABLE));
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_EQ(self.events, TEPAL_READABLE);
    CHECK_EQ(self.calls, 3);
    loop_end(loop);
    close(fds[0]);
    close(fds[1]);
}

TEST_DRIVERS(watches, a_hang_up_is_for_the_reader_and_the_writer) {
    seen self;
    int fds[2];
    tepal_loop *loop = LOOP(.debug = true);
    loop_pipe(fds);
    watch_for(&self, loop, fds[1], TEPAL_READABLE | TEPAL_WRITABLE);
    close(fds[0]);
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_EQ(self.events, TEPAL_READABLE | TEPAL_WRITABLE);
    CHECK_OK(tepal_watch_start(loop, &self.watch, TEPAL_READABLE));
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_EQ(self.events, TEPAL_READABLE);
    loop_end(loop);
    close(fds[1]);
}

TEST_DRIVERS(watches, files_and_directories_are_refused) {
    tepal_loop *loop = LOOP(.debug = true);
    seen self = {.watch.ready = saw};
    self.watch.fd = open(test_directory(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK_EQ(tepal_watch_start(loop, &self.watch, TEPAL_READABLE), TEPAL_EPERM);
    const int file = openat(self.watch.fd, "file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    close(self.watch.fd);
    self.watch.fd = file;
    CHECK_EQ(tepal_watch_start(loop, &self.watch, TEPAL_READABLE), TEPAL_EPERM);
    CHECK_EQ(self.watch.events, 0);
    CHECK_EQ(tepal_watch_stop(loop, &self.watch), TEPAL_ENOENT);
    CHECK_EQ(tepal_loop_add_reader(loop, file, note_first, "a"), TEPAL_EPERM);
    CHECK_EQ(tepal_loop_remove_reader(loop, file), 0);
    loop_end(loop);
    close(file);
}

TEST_DRIVERS(watches, what_cannot_be_watched_is_said_so) {
    tepal_loop *loop = LOOP(.debug = true);
    seen self = {.watch = {.fd = -1, .ready = saw}};
    int fds[2];
    loop_pipe(fds);
    CHECK_EQ(tepal_watch_start(loop, &self.watch, TEPAL_READABLE), TEPAL_EBADF);
    self.watch.fd = 1000;
    CHECK_EQ(tepal_watch_start(loop, &self.watch, TEPAL_READABLE), TEPAL_EBADF);
    self.watch.fd = fds[0];
    CHECK_EQ(tepal_watch_start(loop, &self.watch, 0), TEPAL_EINVAL);
    CHECK_EQ(tepal_watch_start(loop, &self.watch, 4), TEPAL_EINVAL);
    self.watch.ready = NULL;
    CHECK_EQ(tepal_watch_start(loop, &self.watch, TEPAL_READABLE), TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_add_reader(loop, -1, note_first, "a"), TEPAL_EBADF);
    CHECK_EQ(tepal_loop_add_reader(loop, fds[0], NULL, NULL), TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_remove_reader(loop, -1), 0);
    CHECK_EQ(tepal_loop_remove_writer(loop, fds[0]), 0);
    loop_end(loop);
    close(fds[0]);
    close(fds[1]);
}

TEST_DRIVERS(watches, a_second_one_on_the_same_descriptor_is_refused) {
    seen first, second = {.watch.ready = saw};
    int fds[2];
    tepal_loop *loop = LOOP(.debug = true);
    loop_pipe(fds);
    watch_for(&first, loop, fds[0], TEPAL_READABLE);
    second.watch.fd = fds[0];
    CHECK_EQ(tepal_watch_start(loop, &second.watch, TEPAL_READABLE), TEPAL_EBUSY);
    CHECK_EQ(tepal_loop_add_reader(loop, fds[0], note_first, "a"), TEPAL_EBUSY);
    CHECK_OK(tepal_watch_stop(loop, &first.watch));
    CHECK_OK(tepal_watch_start(loop, &second.watch, TEPAL_READABLE));
    test_write_all(fds[1], "x", 1);
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_EQ(first.calls, 0);
    CHECK_EQ(second.calls, 1);
    loop_end(loop);
    close(fds[0]);
    close(fds[1]);
}

TEST_DRIVERS(watches, one_that_is_started_may_move_to_another_descriptor) {
    seen self;
    int first[2], second[2];
    tepal_loop *loop = LOOP(.debug = true);
    loop_pipe(first);
    loop_pipe(second);
    watch_for(&self, loop, first[0], TEPAL_READABLE);
    self.watch.fd = second[0];
    CHECK_OK(tepal_watch_start(loop, &self.watch, TEPAL_READABLE));
    test_write_all(first[1], "x", 1);
    loop_settle(loop);
    CHECK_EQ(self.calls, 0);
    test_write_all(second[1], "x", 1);
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_EQ(self.calls, 1);
    CHECK_OK(tepal_loop_add_reader(loop, first[0], note_first, "a")); /* that one is nobody's now */
    loop_end(loop);
    for (int i = 0; i < 2; i++) {
        close(first[i]);
        close(second[i]);
    }
}

/* Its own upcall may do anything to it. */

static void free_it(seen *self) {
    CHECK_OK(tepal_watch_stop(self->loop, &self->watch));
    CHECK(test_counting_alloc(self, 0) == NULL);
}

TEST_DRIVERS(watches, one_may_stop_and_free_itself_and_others_in_its_upcall) {
    enum { COUNT = 6 };
    seen *all[COUNT];
    int fds[COUNT][2];
    tepal_loop *loop = LOOP(.debug = true);
    for (int i = 0; i < COUNT; i++) {
        loop_pipe(fds[i]);
        test_write_all(fds[i][1], "x", 1);
        all[i] = test_counting_alloc(NULL, sizeof *all[i]);
        watch_for(all[i], loop, fds[i][0], TEPAL_READABLE);
        all[i]->then = free_it;
    }
    loop_settle(loop);
    CHECK_EQ(loop_stats(loop).reported, 0);
    loop_end(loop);
    for (int i = 0; i < COUNT; i++) {
        close(fds[i][0]);
        close(fds[i][1]);
    }
}

static seen *victim;

static void stop_victim(seen *self) {
    (void)self;
    if (victim->watch.events != 0) {
        CHECK_OK(tepal_watch_stop(victim->loop, &victim->watch));
    }
}

TEST_DRIVERS(watches, one_that_is_stopped_by_another_in_the_same_turn_is_not_called) {
    seen pair[2];
    int fds[2][2];
    tepal_loop *loop = LOOP(.debug = true);
    for (int i = 0; i < 2; i++) {
        loop_pipe(fds[i]);
        test_write_all(fds[i][1], "x", 1);
        watch_for(&pair[i], loop, fds[i][0], TEPAL_READABLE);
    }
    for (int first = 0; first < 2; first++) {
        /* Whichever comes first stops the other one. */
        victim = &pair[1 - first];
        pair[first].then = stop_victim;
        pair[1 - first].then = NULL;
        pair[0].calls = pair[1].calls = 0;
        CHECK_OK(tepal_loop_step(loop, -1));
        CHECK_EQ(pair[first].calls, 1);
        CHECK_LE(pair[1 - first].calls, 1);
        CHECK_OK(tepal_loop_step(loop, -1));
        CHECK_EQ(pair[first].calls, 2);
        CHECK_LE(pair[1 - first].calls, 1);
        CHECK_OK(tepal_watch_start(loop, &pair[1 - first].watch, TEPAL_READABLE));
    }
    loop_end(loop);
    for (int i = 0; i < 2; i++) {
        close(fds[i][0]);
        close(fds[i][1]);
    }
}

/* Closed, or closed and opened anew, behind our back */

TEST_DRIVERS(watches, a_descriptor_closed_behind_our_back_is_forgotten) {
    seen self;
    int fds[2];
    tepal_loop *loop = LOOP(.debug = true);
    loop_pipe(fds);
    watch_for(&self, loop, fds[0], TEPAL_READABLE);
    close(fds[0]);
    close(fds[1]);
    loop_settle(loop);
    const uint64_t turns = loop_stats(loop).turns;
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_MS(20), stop_loop, loop, NULL));
    CHECK_OK(tepal_loop_run_forever(loop));
    CHECK_LE(loop_stats(loop).turns - turns, 4);
    CHECK_EQ(self.calls, 0);
    CHECK_OK(tepal_watch_stop(loop, &self.watch));
    loop_end(loop);
}

TEST_DRIVERS(watches, a_start_after_the_number_was_reused_registers_anew) {
    seen self;
    int fds[2], again[2];
    tepal_loop *loop = LOOP(.debug = true);
    loop_pipe(fds);
    watch_for(&self, loop, fds[0], TEPAL_READABLE);
    close(fds[0]);
    close(fds[1]);
    loop_pipe(again);
    CHECK_EQ(again[0], fds[0]);
    CHECK_OK(tepal_watch_start(loop, &self.watch, TEPAL_READABLE));
    test_write_all(again[1], "x", 1);
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_EQ(self.calls, 1);
    CHECK_OK(tepal_watch_stop(loop, &self.watch));
    loop_end(loop);
    close(again[0]);
    close(again[1]);
}

TEST_DRIVERS(watches, bytes_that_no_reader_wants_any_more_wake_nobody) {
    int fds[2];
    tepal_loop *loop = LOOP(.debug = true);
    test_socketpair(fds);
    CHECK_OK(tepal_loop_add_reader(loop, fds[0], note_first, "r"));
    CHECK_OK(tepal_loop_add_writer(loop, fds[0], note_first, "w"));
    test_write_all(fds[1], "x", 1);
    CHECK_EQ(tepal_loop_remove_reader(loop, fds[0]), 1);
    CHECK_EQ(tepal_loop_remove_writer(loop, fds[0]), 1);
    loop_settle(loop);
    const uint64_t turns = loop_stats(loop).turns;
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_MS(20), stop_loop, loop, NULL));
    CHECK_OK(tepal_loop_run_forever(loop));
    CHECK_LE(loop_stats(loop).turns - turns, 4);
    CHECK_STR(loop_log, "");
    loop_end(loop);
    close(fds[0]);
    close(fds[1]);
}

TEST_DRIVERS(watches, a_reader_may_be_removed_after_its_descriptor_was_closed) {
    int fds[2];
    tepal_loop *loop = LOOP(.debug = true);
    test_socketpair(fds);
    CHECK_OK(tepal_loop_add_reader(loop, fds[0], note_first, "r"));
    CHECK_OK(tepal_loop_add_writer(loop, fds[0], note_first, "w"));
    close(fds[0]);
    CHECK_EQ(tepal_loop_remove_writer(loop, fds[0]), 1);
    CHECK_EQ(tepal_loop_remove_reader(loop, fds[0]), 1);
    CHECK_EQ(tepal_loop_remove_reader(loop, fds[0]), 0);
    loop_end(loop);
    close(fds[1]);
}

static int fork_holding(void) {
    const int child = fork();
    CHECK_GE(child, 0);
    if (child == 0) {
        pause();
        _exit(0);
    }
    return child;
}

/* FIELD 10: a child's duplicate keeps the registration alive in an epoll set after we have closed the descriptor. */
TEST_DRIVERS(watches, a_duplicate_in_a_child_neither_spins_nor_wakes_who_has_the_number_now) {
    seen self;
    int fds[2], again[2];
    tepal_loop *loop = LOOP(.debug = true);
    test_socketpair(fds);
    watch_for(&self, loop, fds[0], TEPAL_READABLE);
    const int child = fork_holding();
    test_write_all(fds[1], "x", 1); /* readable from now on, for the duplicate too */
    close(fds[0]);
    test_socketpair(again);
    CHECK_EQ(again[0], fds[0]);
    CHECK_OK(tepal_watch_start(loop, &self.watch, TEPAL_READABLE));

    const uint64_t turns = loop_stats(loop).turns;
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_MS(100), stop_loop, loop, NULL));
    CHECK_OK(tepal_loop_run_forever(loop));
    CHECK_EQ(self.calls, 0);
    CHECK_LE(loop_stats(loop).turns - turns, 200);
    test_write_all(again[1], "x", 1);
    TURN_UNTIL(loop, self.calls == 1);

    CHECK_OK(tepal_watch_stop(loop, &self.watch));
    loop_end(loop);
    kill(child, SIGKILL);
    CHECK_EQ(waitpid(child, NULL, 0), child);
    close(fds[1]);
    close(again[0]);
    close(again[1]);
}

/* Readers and writers */

TEST_DRIVERS(watches, the_reader_of_a_descriptor_runs_before_its_writer) {
    int fds[2];
    tepal_loop *loop = LOOP(.debug = true);
    test_socketpair(fds);
    CHECK_OK(tepal_loop_add_writer(loop, fds[0], note_first, "w"));
    CHECK_OK(tepal_loop_add_reader(loop, fds[0], note_first, "x"));
    CHECK_OK(tepal_loop_add_reader(loop, fds[0], note_first, "r")); /* replaces the one before */
    test_write_all(fds[1], "x", 1);
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_STR(loop_log, "rw");
    CHECK_EQ(tepal_loop_remove_reader(loop, fds[0]), 1);
    CHECK_EQ(tepal_loop_remove_reader(loop, fds[0]), 0);
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_STR(loop_log, "rww");
    CHECK_EQ(tepal_loop_remove_writer(loop, fds[0]), 1);
    CHECK_OK(tepal_loop_step(loop, 0));
    CHECK_STR(loop_log, "rww");
    loop_end(loop);
    close(fds[0]);
    close(fds[1]);
}

typedef struct both {
    tepal_loop *loop;
    int fd;
} both;

static void remove_both(void *argument) {
    const both *self = argument;
    loop_note('r');
    CHECK_EQ(tepal_loop_remove_reader(self->loop, self->fd), 1);
    CHECK_EQ(tepal_loop_remove_writer(self->loop, self->fd), 1);
}

TEST_DRIVERS(watches, a_reader_may_remove_itself_and_the_writer) {
    int fds[2];
    both self = {.loop = LOOP(.debug = true)};
    test_socketpair(fds);
    self.fd = fds[0];
    CHECK_OK(tepal_loop_add_reader(self.loop, fds[0], remove_both, &self));
    CHECK_OK(tepal_loop_add_writer(self.loop, fds[0], note_first, "w"));
    test_write_all(fds[1], "x", 1);
    loop_settle(self.loop);
    CHECK_STR(loop_log, "r");
    loop_end(self.loop);
    close(fds[0]);
    close(fds[1]);
}

TEST_DRIVERS(watches, hundreds_of_readers_are_told_apart) {
    enum { COUNT = 300 };
    static int fds[COUNT][2], runs[COUNT];
    tepal_loop *loop = LOOP(.debug = true);
    for (int i = 0; i < COUNT; i++) {
        loop_pipe(fds[i]);
        CHECK_OK(tepal_loop_add_reader(loop, fds[i][0], count_up, &runs[i]));
    }
    for (int i = 0; i < COUNT; i += 3) {
        test_write_all(fds[i][1], "x", 1);
        CHECK_EQ(tepal_loop_remove_reader(loop, fds[(i + 1) % COUNT][0]), 1);
    }
    TURN_UNTIL(loop, runs[COUNT - 3] > 0);
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQ(runs[i] > 0, i % 3 == 0);
    }
    loop_end(loop);
    for (int i = 0; i < COUNT; i++) {
        close(fds[i][0]);
        close(fds[i][1]);
    }
}

TEST_DRIVERS(watches, one_may_be_started_on_another_loop_after_its_own_was_closed) {
    seen self;
    int fds[2];
    tepal_loop *loop = LOOP(.debug = true);
    loop_pipe(fds);
    watch_for(&self, loop, fds[0], TEPAL_READABLE);
    loop_end(loop);
    test_write_all(fds[1], "x", 1);
    for (int round = 0; round < 3; round++) {
        loop = LOOP(.debug = true);
        self.loop = loop;
        self.calls = 0;
        self.then = stop_it;
        CHECK_OK(tepal_watch_start(loop, &self.watch, TEPAL_READABLE));
        TURN_UNTIL(loop, self.calls == 1);
        self.then = NULL;
        CHECK_OK(tepal_watch_start(loop, &self.watch, TEPAL_READABLE));
        loop_end(loop);
    }
    close(fds[0]);
    close(fds[1]);
}
