/* Handles: cancelling a callback in every state that it can be in, and long after. */
#include "conformance/loops.h"

typedef struct pair {
    tepal_loop *loop;
    tepal_handle own, other;
    bool result;
} pair;

static void cancel_other(void *argument) {
    pair *self = argument;

    loop_note('x');
    self->result = tepal_loop_cancel(self->loop, self->other);
}

static void cancel_own(void *argument) {
    pair *self = argument;

    loop_note('o');
    self->result = tepal_loop_cancel(self->loop, self->own);
}

TEST_DRIVERS(loop_cancel, a_queued_callback_does_not_run_once_cancelled) {
    tepal_loop *loop = LOOP(.debug = true);
    tepal_handle handle;
    CHECK_OK(tepal_loop_call_soon(loop, note_first, "a", NULL));
    CHECK_OK(tepal_loop_call_soon(loop, note_first, "b", &handle));
    CHECK_OK(tepal_loop_call_soon(loop, note_first, "c", NULL));
    CHECK(tepal_loop_cancel(loop, handle));
    CHECK(!tepal_loop_cancel(loop, handle));
    loop_settle(loop);
    CHECK_STR(loop_log, "ac");
    CHECK(!tepal_loop_cancel(loop, handle));
    loop_end(loop);
}

TEST_DRIVERS(loop_cancel, a_callback_may_cancel_the_next_one_of_the_same_turn) {
    for (int order = TEPAL_ORDER_SNAPSHOT; order <= TEPAL_ORDER_DRAIN; order++) {
        pair self = {.loop = LOOP(.order = (tepal_order)order)};
        CHECK_OK(tepal_loop_call_soon(self.loop, cancel_other, &self, NULL));
        CHECK_OK(tepal_loop_call_soon(self.loop, note_first, "b", &self.other));
        CHECK_OK(tepal_loop_call_soon(self.loop, note_first, "c", NULL));
        loop_settle(self.loop);
        CHECK(self.result);
        CHECK_STR(loop_log, "xc");
        loop_end(self.loop);
    }
}

TEST_DRIVERS(loop_cancel, the_last_of_a_turn_may_be_cancelled_by_the_one_before) {
    pair self = {.loop = LOOP(.debug = true)};
    CHECK_OK(tepal_loop_call_soon(self.loop, cancel_other, &self, NULL));
    CHECK_OK(tepal_loop_call_soon(self.loop, note_first, "b", &self.other));
    loop_settle(self.loop);
    CHECK_OK(tepal_loop_call_soon(self.loop, note_first, "c", NULL));
    loop_settle(self.loop);
    CHECK_STR(loop_log, "xc");
    loop_end(self.loop);
}

TEST_DRIVERS(loop_cancel, a_callback_that_runs_cannot_be_cancelled) {
    pair self = {.loop = LOOP(.debug = true), .result = true};
    CHECK_OK(tepal_loop_call_soon(self.loop, cancel_own, &self, &self.own));
    loop_settle(self.loop);
    CHECK(!self.result);
    self.result = true;
    CHECK_OK(tepal_loop_call_later(self.loop, 0, cancel_own, &self, &self.own));
    loop_settle(self.loop);
    CHECK(!self.result);
    CHECK_STR(loop_log, "oo");
    loop_end(self.loop);
}

TEST_DRIVERS(loop_cancel, a_timer_does_not_run_once_cancelled_and_is_waited_for_no_longer) {
    tepal_loop *loop = LOOP(.debug = true);
    tepal_handle soon, late;
    int64_t timeout_ns;
    CHECK_OK(tepal_loop_call_later(loop, 0, note_first, "a", &soon));
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_SEC(3600), note_first, "b", &late));
    CHECK(tepal_loop_cancel(loop, soon));
    CHECK(!tepal_loop_cancel(loop, soon));
    CHECK(tepal_loop_cancel(loop, late));
    loop_settle(loop);
    CHECK_STR(loop_log, "");
    CHECK_OK(tepal_loop_prepare(loop, &timeout_ns));
    CHECK_LT(timeout_ns, 0);
    loop_end(loop);
}

TEST_DRIVERS(loop_cancel, a_timer_may_cancel_another_that_is_due_with_it) {
    pair self = {.loop = LOOP(.debug = true)};
    CHECK_OK(tepal_loop_call_at(self.loop, 1, cancel_other, &self, NULL));
    CHECK_OK(tepal_loop_call_at(self.loop, 2, note_first, "b", &self.other));
    CHECK_OK(tepal_loop_call_at(self.loop, 3, note_first, "c", NULL));
    loop_settle(self.loop);
    CHECK(self.result);
    CHECK_STR(loop_log, "xc");
    loop_end(self.loop);
}

TEST_DRIVERS(loop_cancel, a_handle_of_the_past_does_not_cancel_a_stranger) {
    enum { OLD = 500 };
    static tepal_handle old[2 * OLD];
    tepal_loop *loop = LOOP(.debug = true);
    int runs = 0;
    for (int i = 0; i < OLD; i++) {
        CHECK_OK(tepal_loop_call_soon(loop, count_up, &runs, &old[i]));
        CHECK_OK(tepal_loop_call_later(loop, i, count_up, &runs, &old[OLD + i]));
    }
    TURN_UNTIL(loop, runs == 2 * OLD);
    for (int round = 0; round < 5; round++) {
        runs = 0;
        for (int i = 0; i < OLD; i++) {
            CHECK_OK(tepal_loop_call_soon(loop, count_up, &runs, NULL));
            CHECK_OK(tepal_loop_call_later(loop, i, count_up, &runs, NULL));
        }
        for (int i = 0; i < 2 * OLD; i++) {
            CHECK(!tepal_loop_cancel(loop, old[i]));
        }
        TURN_UNTIL(loop, runs == 2 * OLD);
    }
    loop_end(loop);
}

TEST_DRIVERS(loop_cancel, cancelled_callbacks_leave_no_trace_in_what_follows) {
    enum { CALLS = 1000 };
    tepal_loop *loop = LOOP(.debug = true);
    test_prng prng = test_prng_start(1);
    for (int round = 0; round < 20; round++) {
        static tepal_handle handles[CALLS];
        int runs = 0, expected = 0;
        for (int i = 0; i < CALLS; i++) {
            if (test_prng_below(&prng, 2) == 0) {
                CHECK_OK(tepal_loop_call_soon(loop, count_up, &runs, &handles[i]));
            } else {
                CHECK_OK(
                    tepal_loop_call_later(loop, (int64_t)test_prng_below(&prng, 1000), count_up, &runs, &handles[i]));
            }
        }
        for (int i = 0; i < CALLS; i++) {
            if (test_prng_below(&prng, 3) == 0) {
                CHECK(tepal_loop_cancel(loop, handles[i]));
            } else {
                expected++;
            }
        }
        TURN_UNTIL(loop, runs >= expected);
        loop_settle(loop);
        CHECK_EQ(runs, expected);
    }
    loop_end(loop);
}

TEST_DRIVERS(loop_cancel, a_handle_of_zeroes_or_garbage_names_nothing) {
    tepal_loop *loop = LOOP(.debug = true);
    const tepal_handle none = {0};
    CHECK(!tepal_loop_cancel(loop, none));
    for (int i = 0; i < 3; i++) {
        CHECK_OK(tepal_loop_call_soon(loop, note_first, "a", NULL));
        CHECK_OK(tepal_loop_call_later(loop, 0, note_first, "t", NULL));
    }
    test_prng prng = test_prng_start(2);
    for (int i = 0; i < 1000; i++) {
        const tepal_handle garbage = {.slot = (uint32_t)test_prng_next(&prng) | 1 << 20,
                                      .generation = (uint32_t)test_prng_next(&prng) | 1 << 20};
        CHECK(!tepal_loop_cancel(loop, garbage));
    }
    CHECK(!tepal_loop_cancel(loop, none));
    loop_settle(loop);
    CHECK_STR(loop_log, "aaattt");
    loop_end(loop);
}

TEST_DRIVERS(loop_cancel, after_close_there_is_nothing_to_cancel) {
    tepal_loop *loop = LOOP(.debug = true);
    tepal_handle soon, later;
    CHECK_OK(tepal_loop_call_soon(loop, note_first, "a", &soon));
    CHECK_OK(tepal_loop_call_later(loop, 0, note_first, "t", &later));
    CHECK_OK(tepal_loop_close(loop));
    CHECK(!tepal_loop_cancel(loop, soon));
    CHECK(!tepal_loop_cancel(loop, later));
    CHECK_STR(loop_log, "");
    tepal_loop_unref(loop);
}
