/* The hooks around the wait, for a binding with a lock of its own. */
#include "conformance/loops.h"

#include <unistd.h>

#define CODE tepal_error_make(TEPAL_DOMAIN_USER, 9)

typedef struct hooked {
    tepal_loop *loop;
    int before, after;
    int before_code, after_code; /* what to answer */
    int status;                  /* that after_wait got */
    int64_t timeout_ns;          /* that before_wait got */
} hooked;

static int before_wait(void *argument, int64_t timeout_ns) {
    hooked *self = argument;
    self->before++;
    self->timeout_ns = timeout_ns;
    CHECK_NE(timeout_ns, 0);
    return self->before_code;
}

static int after_wait(void *argument, int status) {
    hooked *self = argument;
    self->after++;
    self->status = status;
    return self->after_code;
}

static void open_hooked(hooked *self) {
    *self = (hooked){.loop = LOOP(.debug = true)};
    CHECK_OK(tepal_loop_set_hooks(self->loop, TEPAL_OPTIONS(tepal_loop_hooks, .before_wait = before_wait,
                                                            .after_wait = after_wait, .argument = self)));
}

TEST_DRIVERS(loop_hooks, are_called_around_a_wait_that_may_block_and_around_no_other) {
    hooked self;
    open_hooked(&self);
    CHECK_OK(tepal_loop_step(self.loop, 0));
    CHECK_OK(tepal_loop_call_soon(self.loop, note_first, "a", NULL));
    CHECK_OK(tepal_loop_step(self.loop, -1));
    CHECK_OK(tepal_loop_call_later(self.loop, 0, note_first, "b", NULL));
    CHECK_OK(tepal_loop_step(self.loop, -1));
    CHECK_OK(tepal_loop_call_soon_threadsafe(self.loop, note_first, "c"));
    CHECK_OK(tepal_loop_step(self.loop, -1));
    CHECK_STR(loop_log, "abc");
    CHECK_EQ(self.before + self.after, 0);

    CHECK_OK(tepal_loop_step(self.loop, 1));
    CHECK_EQ(self.before, 1);
    CHECK_EQ(self.after, 1);
    CHECK_EQ(self.timeout_ns, 1);
    CHECK_EQ(self.status, 0);
    CHECK_EQ(loop_stats(self.loop).waits, 1);
    loop_end(self.loop);
}

TEST_DRIVERS(loop_hooks, before_wait_hears_the_time_limit) {
    hooked self;
    open_hooked(&self);
    tepal_handle timer;
    self.before_code = CODE;
    CHECK_OK(tepal_loop_call_later(self.loop, TEPAL_SEC(3600), note_first, "t", &timer));
    CHECK_EQ(tepal_loop_run_forever(self.loop), CODE);
    CHECK_EQ(self.before, 1);
    CHECK_GT(self.timeout_ns, 0);
    CHECK_LE(self.timeout_ns, TEPAL_SEC(3600));

    CHECK(tepal_loop_cancel(self.loop, timer)); /* there is nothing to wait for, and so no limit */
    CHECK_EQ(tepal_loop_run_forever(self.loop), CODE);
    CHECK_LT(self.timeout_ns, 0);
    loop_end(self.loop);
}

TEST_DRIVERS(loop_hooks, a_code_of_before_wait_ends_the_run_without_a_wait) {
    hooked self;
    open_hooked(&self);
    self.before_code = CODE;
    CHECK_EQ(tepal_loop_run_forever(self.loop), CODE);
    CHECK_EQ(self.before, 1);
    CHECK_EQ(self.after, 0);
    CHECK(!tepal_loop_is_running(self.loop));
    self.before_code = 0;
    CHECK_OK(tepal_loop_call_soon(self.loop, note_first, "a", NULL));
    CHECK_OK(tepal_loop_step(self.loop, -1));
    CHECK_STR(loop_log, "a");
    loop_end(self.loop);
}

static void note_io(void *argument) {
    char byte;
    CHECK_EQ(read(*(int *)argument, &byte, 1), 1);
    loop_note('i');
}

TEST_DRIVERS(loop_hooks, a_code_of_after_wait_ends_the_run_at_once_and_keeps_everything) {
    hooked self;
    int fds[2];
    open_hooked(&self);
    loop_pipe(fds);
    CHECK_OK(tepal_loop_add_reader(self.loop, fds[0], note_io, fds));
    test_write_all(fds[1], "x", 1);
    self.after_code = CODE;
    CHECK_EQ(tepal_loop_run_forever(self.loop), CODE);
    CHECK_EQ(self.after, 1);
    CHECK_STR(loop_log, "");
    CHECK(!tepal_loop_is_running(self.loop));
    self.after_code = 0;
    CHECK_OK(tepal_loop_call_soon(self.loop, note_first, "a", NULL));
    CHECK_OK(tepal_loop_step(self.loop, -1));
    CHECK_STR(loop_log, "ai");
    loop_end(self.loop);
    close(fds[0]);
    close(fds[1]);
}

static int post_then_wait(void *argument, int64_t timeout_ns) {
    hooked *self = argument;
    self->timeout_ns = timeout_ns;
    self->before++;
    /* As another thread that was let in by this hook would. */
    CHECK_OK(tepal_loop_call_soon_threadsafe(self->loop, stop_loop, self->loop));
    return 0;
}

TEST_DRIVERS(loop_hooks, a_post_that_comes_between_before_wait_and_the_wait_wakes_it) {
    hooked self = {.loop = LOOP(.debug = true)};
    CHECK_OK(tepal_loop_set_hooks(self.loop,
                                  TEPAL_OPTIONS(tepal_loop_hooks, .before_wait = post_then_wait, .argument = &self)));
    for (int round = 1; round <= 10; round++) {
        CHECK_OK(tepal_loop_run_forever(self.loop));
        CHECK_EQ(self.before, round);
        CHECK_LT(self.timeout_ns, 0);
    }
    loop_end(self.loop);
}

TEST_DRIVERS(loop_hooks, may_be_removed) {
    hooked self;
    open_hooked(&self);
    CHECK_OK(tepal_loop_set_hooks(self.loop, NULL));
    CHECK_OK(tepal_loop_step(self.loop, 1));
    CHECK_EQ(self.before + self.after, 0);
    loop_end(self.loop);
}

TEST_DRIVERS(loop_hooks, stay_as_they_are_when_new_ones_are_refused) {
    hooked self;
    open_hooked(&self);
    const tepal_loop_hooks tiny = {.size = 2};
    CHECK_EQ(tepal_loop_set_hooks(self.loop, &tiny), TEPAL_EINVAL);
    CHECK_OK(tepal_loop_step(self.loop, 1));
    CHECK_EQ(self.before, 1);
    loop_end(self.loop);
}

TEST_DRIVERS(loop_hooks, after_a_code_of_theirs_what_the_wait_found_is_not_slept_upon) {
    hooked self;
    int64_t timeout_ns = -1;
    open_hooked(&self);
    self.after_code = CODE;
    CHECK_EQ(tepal_loop_step(self.loop, TEPAL_MS(1)), CODE);
    CHECK_OK(tepal_loop_prepare(self.loop, &timeout_ns));
    CHECK_EQ(timeout_ns, 0); /* a foreign loop's wait would not see again what was edge-triggered */
    CHECK_OK(tepal_loop_step(self.loop, 0));
    loop_end(self.loop);
}
