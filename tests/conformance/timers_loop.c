/* Timers as the loop runs them: order, deadlines, extreme delays, and what they must not starve. */
#include "conformance/loops.h"

#include <stdlib.h>
#include <unistd.h>

typedef struct due {
    tepal_loop *loop;
    int64_t when_ns;
    int number;
} due;

static int last_number;
static int64_t last_when_ns;
static int ran;

static void check_due(void *argument) {
    const due *self = argument;
    CHECK_LE(self->when_ns, tepal_loop_time(self->loop));
    CHECK_LE(last_when_ns, self->when_ns);
    if (last_when_ns == self->when_ns) {
        CHECK_LT(last_number, self->number);
    }
    last_number = self->number;
    last_when_ns = self->when_ns;
    ran++;
}

TEST_DRIVERS(loop_timers, run_in_the_order_of_deadlines_then_of_insertion_and_never_early) {
    enum { COUNT = 2000 };
    static due all[COUNT];
    tepal_loop *loop = LOOP(.debug = true);
    test_prng prng = test_prng_start(1);
    const int64_t start_ns = tepal_loop_time(loop);
    for (int i = 0; i < COUNT; i++) {
        /* Few different deadlines, so that many are equal. */
        const int64_t when_ns = start_ns + (int64_t)test_prng_below(&prng, 40) * 250000;
        all[i] = (due){.loop = loop, .when_ns = when_ns, .number = i};
        CHECK_OK(tepal_loop_call_at(loop, when_ns, check_due, &all[i], NULL));
    }
    last_when_ns = INT64_MIN;
    TURN_UNTIL(loop, ran == COUNT);
    CHECK_EQ(loop_stats(loop).timers, COUNT);
    CHECK_EQ(loop_stats(loop).reported, 0);
    loop_end(loop);
}

TEST_DRIVERS(loop_timers, the_past_is_due_in_the_order_of_its_deadlines) {
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_OK(tepal_loop_call_at(loop, 0, note_first, "c", NULL));
    CHECK_OK(tepal_loop_call_at(loop, INT64_MIN, note_first, "a", NULL));
    CHECK_OK(tepal_loop_call_at(loop, 1, note_first, "d", NULL));
    CHECK_OK(tepal_loop_call_at(loop, -1, note_first, "b", NULL));
    CHECK_OK(tepal_loop_call_at(loop, 1, note_first, "e", NULL));
    CHECK_EQ(tepal_loop_step(loop, -1), 0);
    CHECK_STR(loop_log, "abcde");
    loop_end(loop);
}

/* FIELD 15 */
TEST_DRIVERS(loop_timers, extreme_delays_are_safe) {
    tepal_loop *loop = LOOP(.debug = true);
    tepal_timer never = {.work.run = NULL};
    int64_t timeout_ns;
    CHECK_OK(tepal_loop_call_later(loop, 0, note_first, "a", NULL));
    CHECK_OK(tepal_loop_call_later(loop, -1, note_first, "b", NULL));
    CHECK_OK(tepal_loop_call_later(loop, INT64_MIN, note_first, "c", NULL));
    CHECK_OK(tepal_loop_call_later(loop, INT64_MAX, note_first, "X", NULL));
    CHECK_OK(tepal_loop_call_later(loop, INT64_MAX - 1, note_first, "X", NULL));
    CHECK_OK(tepal_loop_call_at(loop, INT64_MAX, note_first, "X", NULL));
    CHECK_OK(tepal_timer_start(loop, &never, INT64_MAX));
    CHECK_EQ(tepal_loop_step(loop, -1), 0);
    CHECK_EQ(strlen(loop_log), 3);
    CHECK_EQ(strspn(loop_log, "abc"), 3);
    CHECK_OK(tepal_loop_prepare(loop, &timeout_ns));
    CHECK(timeout_ns < 0 || timeout_ns > TEPAL_SEC(3600));
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_MS(1), stop_loop, loop, NULL));
    CHECK_OK(tepal_loop_run_forever(loop));
    CHECK_EQ(strlen(loop_log), 3);
    CHECK_OK(tepal_timer_stop(loop, &never));
    loop_end(loop);
}

/* FIELD 16 */

typedef struct restless {
    tepal_timer timer; /* first */
    tepal_loop *loop;
    int fds[2];
    int timers, reads;
} restless;

static void start_again(tepal_work *work, int status) {
    restless *self = (restless *)work;
    if (status == 0) {
        self->timers++;
        CHECK_OK(tepal_timer_start(self->loop, &self->timer, self->timers % 2 == 0 ? 0 : tepal_loop_time(self->loop)));
    }
}

static void later_again(void *argument) {
    restless *self = argument;
    CHECK_OK(tepal_loop_call_later(self->loop, 0, later_again, self, NULL));
}

static void read_one(void *argument) {
    restless *self = argument;
    char byte;
    CHECK_EQ(read(self->fds[0], &byte, 1), 1);
    self->reads++;
}

TEST_DRIVERS(loop_timers, one_that_rearms_itself_at_zero_starves_neither_io_nor_callbacks) {
    restless self = {.timer.work.run = start_again, .loop = LOOP(.debug = true)};
    loop_pipe(self.fds);
    test_write_all(self.fds[1], "0123456789", 10);
    CHECK_OK(tepal_timer_start(self.loop, &self.timer, 0));
    CHECK_OK(tepal_loop_call_later(self.loop, 0, later_again, &self, NULL));
    CHECK_OK(tepal_loop_add_reader(self.loop, self.fds[0], read_one, &self));
    CHECK_OK(tepal_loop_call_soon(self.loop, note_first, "a", NULL));
    for (int i = 1; i <= 10; i++) {
        CHECK_EQ(tepal_loop_step(self.loop, -1), 1);
        CHECK_EQ(self.timers, i);
        CHECK_EQ(self.reads, i);
    }
    CHECK_STR(loop_log, "a");
    loop_end(self.loop);
    close(self.fds[0]);
    close(self.fds[1]);
}

/* Timers of the user's own */

typedef struct own {
    tepal_timer timer; /* first */
    tepal_loop *loop;
    int runs, status;
    int again; /* how often to start it again from run */
} own;

static void own_run(tepal_work *work, int status) {
    own *self = (own *)work;
    self->runs++;
    self->status = status;
    CHECK_EQ(work->state, 0);
    if (status == 0 && self->again > 0) {
        self->again--;
        CHECK_OK(tepal_timer_start(self->loop, &self->timer, tepal_loop_turn_time(self->loop) + 1000));
    }
}

TEST_DRIVERS(loop_timers, an_embedded_one_starts_moves_stops_and_repeats) {
    own self = {.timer.work.run = own_run, .loop = LOOP(.debug = true), .again = 4};
    const int64_t far_ns = tepal_loop_time(self.loop) + TEPAL_SEC(3600);
    CHECK_EQ(tepal_timer_stop(self.loop, &self.timer), TEPAL_ENOENT);
    CHECK_OK(tepal_timer_start(self.loop, &self.timer, far_ns));
    CHECK_EQ(self.timer.deadline_ns, far_ns);
    CHECK_OK(tepal_timer_start(self.loop, &self.timer, far_ns + 5));
    CHECK_EQ(self.timer.deadline_ns, far_ns + 5);
    CHECK_EQ(tepal_loop_post(self.loop, &self.timer.work), TEPAL_EBUSY);
    CHECK_EQ(tepal_loop_post_threadsafe(self.loop, &self.timer.work), TEPAL_EBUSY);
    CHECK_OK(tepal_timer_stop(self.loop, &self.timer));
    CHECK_EQ(tepal_timer_stop(self.loop, &self.timer), TEPAL_ENOENT);
    CHECK_EQ(self.timer.work.state, 0);
    CHECK_OK(tepal_timer_start(self.loop, &self.timer, far_ns));
    CHECK_OK(tepal_timer_start(self.loop, &self.timer, 0)); /* to an earlier time */
    TURN_UNTIL(self.loop, self.runs == 5);
    loop_settle(self.loop);
    CHECK_EQ(self.runs, 5);
    CHECK_EQ(self.status, 0);
    CHECK_EQ(tepal_timer_stop(self.loop, &self.timer), TEPAL_ENOENT);

    CHECK_OK(tepal_loop_post(self.loop, &self.timer.work));
    CHECK_EQ(tepal_timer_start(self.loop, &self.timer, 0), TEPAL_EBUSY);
    CHECK_EQ(tepal_timer_stop(self.loop, &self.timer), TEPAL_ENOENT);
    loop_settle(self.loop);
    CHECK_EQ(self.runs, 6);
    loop_end(self.loop);
}

typedef struct stopper {
    tepal_timer timer; /* first */
    tepal_loop *loop;
    tepal_timer *victim;
} stopper;

static void stop_victim(tepal_work *work, int status) {
    const stopper *self = (stopper *)work;
    CHECK_EQ(status, 0);
    CHECK_OK(tepal_timer_stop(self->loop, self->victim));
}

TEST_DRIVERS(loop_timers, one_that_is_due_already_may_be_stopped_or_moved_by_the_one_before) {
    tepal_loop *loop = LOOP(.debug = true);
    own victim = {.timer.work.run = own_run, .loop = loop};
    own rest = {.timer.work.run = own_run, .loop = loop};
    stopper first = {.timer.work.run = stop_victim, .loop = loop, .victim = &victim.timer};
    CHECK_OK(tepal_timer_start(loop, &first.timer, 1));
    CHECK_OK(tepal_timer_start(loop, &victim.timer, 2));
    CHECK_OK(tepal_timer_start(loop, &rest.timer, 3));
    CHECK_EQ(tepal_loop_step(loop, 0), 0);
    CHECK_EQ(victim.runs, 0);
    CHECK_EQ(rest.runs, 1);
    CHECK_OK(tepal_timer_start(loop, &victim.timer, 0));
    CHECK_EQ(tepal_loop_step(loop, 0), 0);
    CHECK_EQ(victim.runs, 1);
    loop_end(loop);
}

TEST_DRIVERS(loop_timers, neither_works_nor_timers_nor_watches_allocate) {
    enum { EACH = 100 };
    static own timers[EACH], works[EACH];
    int fds[2];
    loop_pipe(fds);
    tepal_loop *loop = LOOP(.debug = false);
    tepal_watch watch = {.fd = fds[0], .ready = (void (*)(tepal_watch *, unsigned))abort};
    CHECK_OK(tepal_watch_start(loop, &watch, TEPAL_READABLE)); /* the driver's table may grow for the first one */
    CHECK_OK(tepal_watch_stop(loop, &watch));
    const size_t calls = test_alloc_calls();
    for (int i = 0; i < EACH; i++) {
        timers[i] = (own){.timer.work.run = own_run, .loop = loop, .again = 3};
        works[i] = (own){.timer.work.run = own_run, .loop = loop};
        CHECK_OK(tepal_timer_start(loop, &timers[i].timer, i));
        CHECK_OK(tepal_loop_post(loop, &works[i].timer.work));
        CHECK_OK(tepal_watch_start(loop, &watch, TEPAL_READABLE));
        CHECK_OK(tepal_watch_stop(loop, &watch));
    }
    TURN_UNTIL(loop, timers[EACH - 1].runs == 4);
    loop_settle(loop);
    CHECK_EQ(test_alloc_calls(), calls);
    loop_end(loop);
    close(fds[0]);
    close(fds[1]);
}

TEST_DRIVERS(loop_timers, callbacks_do_not_allocate_once_there_is_room_for_them) {
    enum { EACH = 50 };
    tepal_loop *loop = LOOP(.debug = false);
    int runs = 0;
    size_t calls = 0;
    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < EACH; i++) {
            CHECK_OK(tepal_loop_call_soon(loop, count_up, &runs, NULL));
            CHECK_OK(tepal_loop_call_later(loop, i, count_up, &runs, NULL));
        }
        loop_settle(loop);
        calls = round == 0 ? test_alloc_calls() : calls;
    }
    CHECK_EQ(test_alloc_calls(), calls);
    CHECK_EQ(runs, 100 * 2 * EACH);
    loop_end(loop);
}

/* Sleeping */

TEST_DRIVERS(loop_timers, with_nothing_due_no_turns_happen) {
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_SEC(3600), note_first, "X", NULL));
    loop_settle(loop);
    const uint64_t before = loop_stats(loop).turns;
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_MS(100), stop_loop, loop, NULL));
    CHECK_OK(tepal_loop_run_forever(loop));
    /* One that sleeps, one that finds the timer due; a time limit in whole milliseconds may take one more. */
    CHECK_LE(loop_stats(loop).turns - before, 3);
    loop_end(loop);
}

TEST_DRIVERS(loop_timers, many_stopped_ones_do_not_wake_it) {
    enum { STOPPED = 1000 };
    static tepal_timer timers[STOPPED];
    tepal_loop *loop = LOOP(.debug = true);
    for (int i = 0; i < STOPPED; i++) {
        timers[i].work.run = own_run;
        CHECK_OK(tepal_timer_start(loop, &timers[i], tepal_loop_time(loop) + (i + 1) * 50000));
    }
    for (int i = 0; i < STOPPED; i++) {
        CHECK_OK(tepal_timer_stop(loop, &timers[i]));
    }
    loop_settle(loop);
    const uint64_t before = loop_stats(loop).turns;
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_MS(60), stop_loop, loop, NULL));
    CHECK_OK(tepal_loop_run_forever(loop));
    CHECK_LE(loop_stats(loop).turns - before, 4);
    loop_end(loop);
}

/* ---- What a turn starts is for the next one ---- */

typedef struct starter {
    tepal_loop *loop;
    tepal_timer timer;
    int runs;
} starter;

static void count_starter(tepal_work *work, int status) {
    starter *self = (starter *)(void *)((char *)work - offsetof(starter, timer.work));
    self->runs += status == 0;
}

static void start_at_once(void *argument) {
    starter *self = argument;
    CHECK_OK(tepal_timer_start(self->loop, &self->timer, 0));
}

TEST_DRIVERS(loop_timers, one_that_a_callback_starts_for_the_past_runs_in_the_next_turn) {
    starter self = {.loop = loop_make(NULL), .timer.work.run = count_starter};

    CHECK_OK(tepal_loop_call_soon(self.loop, start_at_once, &self, NULL));
    CHECK_EQ(tepal_loop_step(self.loop, 0), 1);
    CHECK_EQ(self.runs, 0);
    CHECK_OK(tepal_loop_step(self.loop, 0));
    CHECK_EQ(self.runs, 1);
    loop_end(self.loop);
}
