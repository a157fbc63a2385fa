/* In which order a turn runs callbacks, I/O and timers; the two sequences of the 2012 meeting notes among it. */
#include "conformance/loops.h"

#include <unistd.h>

/* Callback A schedules callback B while I/O waits. */
typedef struct scene {
    tepal_loop *loop;
    int fds[2];
    int runs;
} scene;

static void note_io(void *argument) {
    scene *self = argument;
    char byte;

    loop_note('i');
    CHECK_EQ(read(self->fds[0], &byte, 1), 1);
}

static void open_scene(scene *self, tepal_loop *loop) {
    *self = (scene){.loop = loop};
    loop_pipe(self->fds);
    CHECK_OK(tepal_loop_add_reader(loop, self->fds[0], note_io, self));
    test_write_all(self->fds[1], "x", 1);
}

static void close_scene(scene *self) {
    loop_end(self->loop);
    close(self->fds[0]);
    close(self->fds[1]);
}

static void run_a(void *argument) {
    scene *self = argument;

    loop_note('A');
    CHECK_OK(tepal_loop_call_soon(self->loop, note_first, "B", NULL));
}

TEST_DRIVERS(loop_order, drain_runs_a_and_b_before_the_io_that_waits) {
    for (int debug = 0; debug < 2; debug++) {
        scene self;
        open_scene(&self, LOOP(.order = TEPAL_ORDER_DRAIN, .debug = debug != 0, .slow_callback_ns = -1));
        loop_log_clear();
        CHECK_OK(tepal_loop_call_soon(self.loop, run_a, &self, NULL));
        TURN_UNTIL(self.loop, strlen(loop_log) == 3);
        CHECK_STR(loop_log, "ABi");
        close_scene(&self);
    }
}

TEST_DRIVERS(loop_order, snapshot_runs_the_io_between_a_and_b) {
    for (int debug = 0; debug < 2; debug++) {
        scene self;
        open_scene(&self, LOOP(.order = TEPAL_ORDER_SNAPSHOT, .debug = debug != 0, .slow_callback_ns = -1));
        loop_log_clear();
        CHECK_OK(tepal_loop_call_soon(self.loop, run_a, &self, NULL));
        TURN_UNTIL(self.loop, strlen(loop_log) == 3);
        CHECK_STR(loop_log, "AiB");
        close_scene(&self);
    }
}

TEST_DRIVERS(loop_order, the_default_is_snapshot) {
    scene self;
    open_scene(&self, LOOP(.debug = false));
    CHECK_OK(tepal_loop_call_soon(self.loop, run_a, &self, NULL));
    TURN_UNTIL(self.loop, strlen(loop_log) == 3);
    CHECK_STR(loop_log, "AiB");
    close_scene(&self);
}

TEST_DRIVERS(loop_order, debug_mode_changes_neither_order) {
    for (int order = TEPAL_ORDER_SNAPSHOT; order <= TEPAL_ORDER_DRAIN; order++) {
        scene self;
        loop_log_clear();
        open_scene(&self, LOOP(.order = (tepal_order)order, .debug = true));
        CHECK_OK(tepal_loop_call_soon(self.loop, run_a, &self, NULL));
        TURN_UNTIL(self.loop, strlen(loop_log) == 3);
        CHECK_STR(loop_log, order == TEPAL_ORDER_DRAIN ? "ABi" : "AiB");
        close_scene(&self);
    }
}

static void run_again(void *argument) {
    scene *self = argument;

    self->runs++;
    CHECK_OK(tepal_loop_call_soon(self->loop, run_again, self, NULL));
}

/* Returns how often run_again ran before the I/O. */
static int runs_before_io(tepal_loop *loop) {
    scene self;
    open_scene(&self, loop);
    CHECK_OK(tepal_loop_call_soon(loop, run_again, &self, NULL));
    TURN_UNTIL(loop, strlen(loop_log) == 1);
    const int runs = self.runs;
    close_scene(&self);
    return runs;
}

TEST_DRIVERS(loop_order, drain_lets_io_in_after_its_limit) {
    CHECK_EQ(runs_before_io(LOOP(.order = TEPAL_ORDER_DRAIN, .drain_limit = 10)), 10);
}

TEST_DRIVERS(loop_order, drain_runs_1024_callbacks_a_turn_unless_told) {
    CHECK_EQ(runs_before_io(LOOP(.order = TEPAL_ORDER_DRAIN)), 1024);
}

TEST_DRIVERS(loop_order, a_callback_that_reschedules_itself_does_not_starve_io_in_snapshot_order) {
    CHECK_EQ(runs_before_io(LOOP(.debug = true)), 1);
}

/* Callbacks, works and posts, in turn. */

enum { MIXED = 3000 };

typedef struct numbered {
    tepal_work work; /* first */
    int number;
} numbered;

static int next_number;

static void check_number(void *argument) {
    CHECK_EQ(((numbered *)argument)->number, next_number++);
}

static void check_work_number(tepal_work *work, int status) {
    CHECK_EQ(status, 0);
    check_number(work);
}

static void queue_mixed(tepal_loop *loop, numbered *all) {
    for (int i = 0; i < MIXED; i++) {
        all[i] = (numbered){.work = {.run = check_work_number}, .number = i};
        switch (i % 7) {
        case 0:
        case 3:
            CHECK_OK(tepal_loop_post(loop, &all[i].work));
            break;
        case 1:
            CHECK_OK(tepal_loop_post_threadsafe(loop, &all[i].work));
            break;
        case 4:
            CHECK_OK(tepal_loop_call_soon_threadsafe(loop, check_number, &all[i]));
            break;
        default:
            CHECK_OK(tepal_loop_call_soon(loop, check_number, &all[i], NULL));
            break;
        }
    }
}

TEST_DRIVERS(loop_order, callbacks_works_and_posts_share_one_order) {
    static numbered all[MIXED];
    for (int order = TEPAL_ORDER_SNAPSHOT; order <= TEPAL_ORDER_DRAIN; order++) {
        tepal_loop *loop = LOOP(.order = (tepal_order)order, .drain_limit = 100);
        for (int round = 0; round < 3; round++) {
            next_number = 0;
            queue_mixed(loop, all);
            TURN_UNTIL(loop, next_number == MIXED);
        }
        loop_end(loop);
    }
}

/* A callback that was posted needs room in the ready queue, which a work does not. */
TEST_DRIVERS(loop_order, nothing_overtakes_a_post_for_which_memory_was_short) {
    for (int onwards = 0; onwards <= 1; onwards++) {
        for (int with_work = 0; with_work <= 1; with_work++) {
            numbered all[3] = {{.number = 0}, {.number = with_work ? 1 : 2}, {.number = with_work ? 2 : 1}};
            tepal_loop *loop = LOOP(.order = TEPAL_ORDER_DRAIN);
            int counted = 0;
            next_number = 0;
            all[1].work.run = check_work_number;
            for (int i = 0; i < 64; i++) { /* what there is room for from the start */
                CHECK_OK(tepal_loop_call_soon(loop, count_up, &counted, NULL));
            }
            CHECK_OK(tepal_loop_call_soon_threadsafe(loop, check_number, &all[0]));
            test_alloc_fail_at(1, onwards);
            if (with_work) {
                CHECK_OK(tepal_loop_post(loop, &all[1].work));
            }
            const int code = tepal_loop_call_soon(loop, check_number, &all[2], NULL);
            CHECK(test_alloc_has_failed());
            test_alloc_fail_at(0, false);
            if (code < 0) {
                CHECK_EQ(code, TEPAL_ENOMEM);
                CHECK_OK(tepal_loop_call_soon(loop, check_number, &all[2], NULL));
            }
            if (!with_work) {
                CHECK_OK(tepal_loop_post(loop, &all[1].work));
            }
            TURN_UNTIL(loop, next_number == 3);
            loop_end(loop);
        }
    }
}

TEST_DRIVERS(loop_order, posts_that_were_accepted_run_even_if_memory_is_never_to_be_had) {
    for (int debug = 0; debug <= 1; debug++) {
        tepal_loop *loop = LOOP(.debug = debug == 1);
        int accepted = 0, run = 0;
        test_alloc_fail_at(1, true);
        while (accepted < 1000 && tepal_loop_call_soon_threadsafe(loop, count_up, &run) == 0) {
            accepted++;
        }
        CHECK_GT(accepted, 64);
        for (int turns = 0; turns < 100; turns++) {
            CHECK_OK(tepal_loop_step(loop, 0));
        }
        CHECK_EQ(run, accepted);
        test_alloc_fail_at(0, false);
        loop_end(loop);
    }
}

/* What a turn schedules */

static void schedule_more(void *argument) {
    tepal_loop *loop = argument;

    loop_note('A');
    CHECK_OK(tepal_loop_call_soon(loop, note_first, "B", NULL));
    CHECK_OK(tepal_loop_call_later(loop, 0, note_first, "t", NULL));
}

TEST_DRIVERS(loop_order, what_a_callback_schedules_runs_in_the_next_turn) {
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_OK(tepal_loop_call_soon(loop, schedule_more, loop, NULL));
    CHECK_EQ(tepal_loop_step(loop, 0), 1);
    CHECK(loop_log[0] == 'A' && strchr(loop_log, 'B') == NULL);
    TURN_UNTIL(loop, strlen(loop_log) == 3);
    CHECK(strchr(loop_log, 'B') != NULL && strchr(loop_log, 't') != NULL);
    loop_end(loop);
}

static void schedule_from_timer(void *argument) {
    loop_note('T');
    CHECK_OK(tepal_loop_call_soon(argument, note_first, "B", NULL));
    CHECK_OK(tepal_loop_call_later(argument, -5, note_first, "t", NULL));
}

TEST_DRIVERS(loop_order, what_a_timer_schedules_runs_in_the_next_turn) {
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_OK(tepal_loop_call_later(loop, 0, schedule_from_timer, loop, NULL));
    CHECK_EQ(tepal_loop_step(loop, 0), 1);
    CHECK_STR(loop_log, "T");
    CHECK_EQ(tepal_loop_step(loop, 0), 0);
    CHECK_STR(loop_log, "TBt");
    loop_end(loop);
}

TEST_DRIVERS(loop_order, a_turn_runs_what_was_queued_then_io_then_timers) {
    scene self;
    open_scene(&self, LOOP(.debug = true));
    CHECK_OK(tepal_loop_call_later(self.loop, 0, note_first, "t", NULL));
    CHECK_OK(tepal_loop_call_soon(self.loop, note_first, "c", NULL));
    CHECK_EQ(tepal_loop_step(self.loop, 0), 0);
    CHECK_STR(loop_log, "cit");
    close_scene(&self);
}

static void schedule_from_io(void *argument) {
    note_io(argument);
    CHECK_OK(tepal_loop_call_soon(((scene *)argument)->loop, note_first, "B", NULL));
}

TEST_DRIVERS(loop_order, what_io_schedules_runs_in_the_next_turn) {
    scene self;
    open_scene(&self, LOOP(.order = TEPAL_ORDER_DRAIN));
    CHECK_OK(tepal_loop_add_reader(self.loop, self.fds[0], schedule_from_io, &self));
    CHECK_EQ(tepal_loop_step(self.loop, 0), 1);
    CHECK_STR(loop_log, "i");
    CHECK_EQ(tepal_loop_step(self.loop, 0), 0);
    CHECK_STR(loop_log, "iB");
    close_scene(&self);
}
