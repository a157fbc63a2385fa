/* The timer wheel by itself: no loop, and a clock that the tests turn. */
#include "harness/test.h"
#include "loop/timers.h"

#include <stdlib.h>

static const int64_t year_ns = INT64_C(365) * 24 * 3600 * 1000000000;

static void check_pops(tpi_timers *timers, tepal_timer *expected) {
    CHECK(tpi_timers_pop(timers) == expected);
    if (expected != NULL) {
        CHECK_EQ(expected->work.state, 0);
    }
}

TEST(timers, come_out_by_deadline_and_then_by_start) {
    tpi_timers timers;
    tpi_timers_init(&timers, 1000);
    tepal_timer late = {0}, first = {0}, second = {0}, third = {0};
    tpi_timers_start(&timers, &late, 5001);
    tpi_timers_start(&timers, &first, 5000);
    tpi_timers_start(&timers, &second, 5000);
    tpi_timers_start(&timers, &third, 5000);
    tpi_timers_advance(&timers, 6000);
    check_pops(&timers, &first);
    check_pops(&timers, &second);
    check_pops(&timers, &third);
    check_pops(&timers, &late);
    check_pops(&timers, NULL);
    CHECK_EQ(timers.count, 0);
}

TEST(timers, starting_again_counts_as_the_last_start) {
    tpi_timers timers;
    tpi_timers_init(&timers, 0);
    tepal_timer a = {0}, b = {0}, c = {0};
    tpi_timers_start(&timers, &a, 100);
    tpi_timers_start(&timers, &b, 100);
    tpi_timers_start(&timers, &c, 50);
    tpi_timers_start(&timers, &a, 100);
    tpi_timers_start(&timers, &c, 100);
    CHECK_EQ(timers.count, 3);
    tpi_timers_advance(&timers, 100);
    check_pops(&timers, &b);
    check_pops(&timers, &a);
    check_pops(&timers, &c);
    check_pops(&timers, NULL);
}

TEST(timers, are_due_at_their_deadline_and_not_a_nanosecond_earlier) {
    for (unsigned shift = 0; shift < 62; shift++) {
        for (int64_t off = -1; off <= 1; off++) {
            tpi_timers timers;
            tepal_timer timer = {0};
            const int64_t start_ns = INT64_C(123456789);
            const int64_t deadline_ns = start_ns + (INT64_C(1) << shift) + off;
            if (deadline_ns <= start_ns) {
                continue;
            }
            tpi_timers_init(&timers, start_ns);
            tpi_timers_start(&timers, &timer, deadline_ns);
            CHECK_EQ(tpi_timers_next(&timers), deadline_ns);
            tpi_timers_advance(&timers, deadline_ns - 1);
            check_pops(&timers, NULL);
            CHECK_EQ(tpi_timers_next(&timers), deadline_ns);
            tpi_timers_advance(&timers, deadline_ns);
            check_pops(&timers, &timer);
        }
    }
}

TEST(timers, a_stopped_timer_is_referred_to_by_nothing) {
    tpi_timers timers;
    tpi_timers_init(&timers, 0);
    tepal_timer *const stopped = malloc(sizeof *stopped); /* so that a sanitizer sees a late look at it */
    tepal_timer before = {0}, after = {0};
    *stopped = (tepal_timer){0};
    CHECK(!tpi_timers_stop(&timers, stopped));
    tpi_timers_start(&timers, &before, 100);
    tpi_timers_start(&timers, stopped, 100);
    tpi_timers_start(&timers, &after, 100);
    CHECK(tpi_timers_stop(&timers, stopped));
    CHECK_EQ(stopped->work.state, 0);
    CHECK(!tpi_timers_stop(&timers, stopped));
    CHECK_EQ(timers.count, 2);
    free(stopped);
    tpi_timers_advance(&timers, 100);
    check_pops(&timers, &before);
    check_pops(&timers, &after);
    check_pops(&timers, NULL);
}

TEST(timers, one_that_is_due_can_still_be_stopped_or_moved) {
    tpi_timers timers;
    tpi_timers_init(&timers, 0);
    tepal_timer t[5] = {0};
    for (int i = 0; i < 5; i++) {
        tpi_timers_start(&timers, &t[i], 10 + i);
    }
    tpi_timers_advance(&timers, 100);
    CHECK_EQ(tpi_timers_next(&timers), 100);
    check_pops(&timers, &t[0]);
    CHECK(tpi_timers_stop(&timers, &t[2]));
    tpi_timers_start(&timers, &t[1], 200);
    tpi_timers_start(&timers, &t[4], 5); /* the past: with the next advance */
    check_pops(&timers, &t[3]);
    check_pops(&timers, NULL);
    tpi_timers_advance(&timers, 100);
    check_pops(&timers, &t[4]);
    check_pops(&timers, NULL);
    CHECK_EQ(tpi_timers_next(&timers), 200);
    tpi_timers_advance(&timers, 200);
    check_pops(&timers, &t[1]);
    CHECK_EQ(timers.count, 0);
}

TEST(timers, what_an_earlier_advance_made_due_comes_first) {
    tpi_timers timers;
    tpi_timers_init(&timers, 0);
    tepal_timer a = {0}, b = {0}, c = {0}, d = {0};
    tpi_timers_start(&timers, &a, 10);
    tpi_timers_start(&timers, &b, 20);
    tpi_timers_advance(&timers, 30);
    tpi_timers_start(&timers, &c, 5);
    tpi_timers_advance(&timers, 40);
    CHECK(tpi_timers_stop(&timers, &c)); /* the last one due: what follows must find the new end */
    tpi_timers_start(&timers, &d, 15);
    tpi_timers_start(&timers, &c, 1);
    tpi_timers_advance(&timers, 40);
    check_pops(&timers, &a);
    check_pops(&timers, &b);
    check_pops(&timers, &c);
    check_pops(&timers, &d);
    check_pops(&timers, NULL);
}

TEST(timers, one_that_restarts_itself_for_the_past_does_not_keep_pop_from_ending) {
    tpi_timers timers;
    tpi_timers_init(&timers, 1000);
    tepal_timer greedy = {0}, other = {0};
    tpi_timers_start(&timers, &greedy, 0);
    tpi_timers_start(&timers, &other, 2000);
    for (int64_t now_ns = 1000; now_ns <= 3000; now_ns += 1000) {
        CHECK_LE(tpi_timers_next(&timers), now_ns);
        tpi_timers_advance(&timers, now_ns);
        int runs = 0;
        for (tepal_timer *due; (due = tpi_timers_pop(&timers)) != NULL; runs++) {
            CHECK_LT(runs, 3);
            if (due == &greedy) {
                tpi_timers_start(&timers, &greedy, runs == 0 ? 0 : now_ns);
            }
        }
        CHECK_EQ(runs, now_ns == 2000 ? 2 : 1);
    }
}

TEST(timers, any_deadline_is_safe) {
    const int64_t starts[] = {INT64_MIN, -1, 0, 1, year_ns, INT64_MAX - 5, INT64_MAX};
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        const int64_t deadlines[] = {INT64_MIN, INT64_MIN + 1, -1, 0, 1, year_ns, INT64_MAX - 1, INT64_MAX};
        enum { COUNT = sizeof deadlines / sizeof deadlines[0] };
        tpi_timers timers;
        tepal_timer t[COUNT] = {0};
        tpi_timers_init(&timers, starts[i]);
        for (size_t k = COUNT; k-- > 0;) {
            tpi_timers_start(&timers, &t[k], deadlines[k]);
        }
        tpi_timers_advance(&timers, starts[i]);
        size_t popped = 0;
        while (popped < COUNT && deadlines[popped] <= starts[i]) {
            check_pops(&timers, &t[popped++]);
        }
        check_pops(&timers, NULL);
        while (popped < COUNT) {
            CHECK_EQ(tpi_timers_next(&timers), deadlines[popped]);
            tpi_timers_advance(&timers, deadlines[popped]);
            check_pops(&timers, &t[popped++]);
            check_pops(&timers, NULL);
        }
        CHECK_EQ(tpi_timers_next(&timers), INT64_MAX);
    }
}

TEST(timers, never_is_a_deadline_like_none) {
    tpi_timers timers;
    tpi_timers_init(&timers, 0);
    CHECK_EQ(tpi_timers_next(&timers), INT64_MAX);
    tepal_timer never = {0};
    tpi_timers_start(&timers, &never, INT64_MAX);
    CHECK_EQ(tpi_timers_next(&timers), INT64_MAX);
    tpi_timers_advance(&timers, 200 * year_ns);
    check_pops(&timers, NULL);
    CHECK_EQ(tpi_timers_next(&timers), INT64_MAX);
    CHECK(tpi_timers_stop(&timers, &never));
}

TEST(timers, time_may_stand_still_jump_or_seem_to_go_back) {
    tpi_timers timers;
    tpi_timers_init(&timers, 1000);
    tepal_timer soon = {0}, far = {0};
    tpi_timers_start(&timers, &soon, 1001);
    tpi_timers_start(&timers, &far, 10 * year_ns + 1);
    for (int i = 0; i < 1000000; i++) {
        tpi_timers_advance(&timers, 1000);
        CHECK(tpi_timers_pop(&timers) == NULL);
    }
    tpi_timers_advance(&timers, 500);
    check_pops(&timers, NULL);
    CHECK_EQ(tpi_timers_next(&timers), 1001);
    tpi_timers_advance(&timers, 10 * year_ns);
    check_pops(&timers, &soon);
    check_pops(&timers, NULL);
    tpi_timers_start(&timers, &soon, 10 * year_ns);
    CHECK_EQ(tpi_timers_next(&timers), 10 * year_ns);
    tpi_timers_advance(&timers, 5);
    check_pops(&timers, &soon);
    CHECK_EQ(tpi_timers_next(&timers), 10 * year_ns + 1);
}

TEST(timers, a_loop_with_a_few_far_timers_sleeps_until_they_are_due) {
    tpi_timers timers;
    tepal_timer t[10] = {0};
    tpi_timers_init(&timers, 12345);
    test_prng prng = test_prng_start(0);
    int64_t earliest_ns = INT64_MAX;
    for (int i = 0; i < 10; i++) {
        const int64_t deadline_ns = year_ns + (int64_t)test_prng_below(&prng, 1000000000000);
        earliest_ns = deadline_ns < earliest_ns ? deadline_ns : earliest_ns;
        tpi_timers_start(&timers, &t[i], deadline_ns);
    }
    CHECK_EQ(tpi_timers_next(&timers), earliest_ns);
    for (int wakes = 0; wakes < 10; wakes++) {
        tpi_timers_advance(&timers, tpi_timers_next(&timers));
        CHECK(tpi_timers_pop(&timers) != NULL);
    }
    CHECK_EQ(tpi_timers_next(&timers), INT64_MAX);
}

TEST(timers, a_loop_with_many_timers_seldom_wakes_for_nothing) {
    enum { COUNT = 10000 };
    tpi_timers timers;
    tepal_timer *const t = calloc(COUNT, sizeof *t);
    tpi_timers_init(&timers, 0);
    test_prng prng = test_prng_start(0);
    for (int i = 0; i < COUNT; i++) {
        tpi_timers_start(&timers, &t[i], 1 + (int64_t)test_prng_below(&prng, 3600 * UINT64_C(1000000000)));
    }
    int for_nothing = 0;
    while (timers.count > 0) {
        tpi_timers_advance(&timers, tpi_timers_next(&timers));
        int popped = 0;
        while (tpi_timers_pop(&timers) != NULL) {
            popped++;
        }
        for_nothing += popped == 0;
    }
    CHECK_LT(for_nothing, COUNT / 4);
    free(t);
}

TEST(timers, an_idle_limit_that_is_pushed_on_wakes_the_loop_once_a_period) {
    tpi_timers timers;
    tepal_timer idle = {0};
    tpi_timers_init(&timers, 0);
    int wakes = 0;
    for (int64_t now_ns = 0; now_ns < TEPAL_SEC(300); now_ns += TEPAL_MS(1)) {
        tpi_timers_start(&timers, &idle, now_ns + TEPAL_SEC(30));
        wakes += tpi_timers_next(&timers) < now_ns + TEPAL_MS(1);
        tpi_timers_advance(&timers, now_ns + TEPAL_MS(1));
        CHECK(tpi_timers_pop(&timers) == NULL);
    }
    CHECK_LE(wakes, 10);
    const int64_t deadline_ns = idle.deadline_ns;
    tpi_timers_advance(&timers, tpi_timers_next(&timers));
    CHECK_EQ(tpi_timers_next(&timers), deadline_ns);
}

TEST(timers, stopping_the_earliest_lets_the_loop_sleep_on) {
    tpi_timers timers;
    tepal_timer soon = {0}, later = {0};
    tpi_timers_init(&timers, 0);
    tpi_timers_start(&timers, &later, TEPAL_SEC(60));
    tpi_timers_start(&timers, &soon, TEPAL_MS(1));
    CHECK_EQ(tpi_timers_next(&timers), TEPAL_MS(1));
    CHECK(tpi_timers_stop(&timers, &soon));
    CHECK_EQ(tpi_timers_next(&timers), TEPAL_SEC(60));
    CHECK(tpi_timers_stop(&timers, &later));
    CHECK_EQ(tpi_timers_next(&timers), INT64_MAX);
}

TEST(timers, stopping_a_crowd_lets_the_loop_sleep_on) {
    enum { COUNT = 40 };
    tpi_timers timers;
    tepal_timer crowd[COUNT] = {0}, later = {0};
    tpi_timers_init(&timers, 0);
    tpi_timers_start(&timers, &later, 10 * year_ns);
    for (int i = 0; i < COUNT; i++) {
        tpi_timers_start(&timers, &crowd[i], year_ns + COUNT - i);
    }
    CHECK_EQ(tpi_timers_next(&timers), year_ns + 1);
    CHECK(tpi_timers_stop(&timers, &crowd[COUNT - 1]));
    CHECK_LE(tpi_timers_next(&timers), year_ns + 2); /* the start of the crowd's slot, more cheaply */
    for (int i = 0; i < COUNT - 1; i++) {
        CHECK(tpi_timers_stop(&timers, &crowd[COUNT - 2 - i]));
    }
    CHECK_EQ(tpi_timers_next(&timers), 10 * year_ns);
}

/* Were any of these quadratic, the test would run out of time. */
TEST(timers, many_timers_in_an_unkind_order_stay_cheap) {
    const size_t count = test_is_slow_build() ? 50000 : 500000;
    tepal_timer *const t = calloc(count, sizeof *t);
    tpi_timers timers;
    tpi_timers_init(&timers, TEPAL_SEC(1000));
    test_prng prng = test_prng_start(0);
    for (int kind = 0; kind < 7; kind++) {
        const int64_t now_ns = timers.elapsed_ns + TEPAL_SEC(2);
        for (size_t i = 0; i < count; i++) {
            const int64_t descending = -(int64_t)i;
            const int64_t random = (int64_t)(test_prng_next(&prng) >> 1);
            const int64_t deadlines[] = {
                descending,
                i % 2 == 0 ? (int64_t)i : descending,                          /* zigzag */
                now_ns - TEPAL_SEC(1) + descending,                            /* ahead of the time elapsed */
                7,                                                             /* all equal */
                now_ns - random % 1000,                                        /* many equal */
                now_ns - random % TEPAL_SEC(3),                                /* part of them past */
                random % 100 == 0 ? -random : now_ns - (1 + random) % 5000000, /* some far away from the rest */
            };
            tpi_timers_start(&timers, &t[i], deadlines[kind]);
        }
        tpi_timers_advance(&timers, now_ns);
        const tepal_timer *before = NULL;
        size_t popped = 0;
        for (tepal_timer *due; (due = tpi_timers_pop(&timers)) != NULL; popped++) {
            if (before != NULL) {
                CHECK_LE(before->deadline_ns, due->deadline_ns);
                CHECK(before->deadline_ns < due->deadline_ns || before < due);
            }
            before = due;
        }
        CHECK_EQ(popped, count);
    }
    free(t);
}

TEST(timers, take_empties_the_wheel_wherever_timers_stand) {
    tpi_timers timers;
    tepal_timer t[70] = {0};
    tpi_timers_init(&timers, 0);
    for (int i = 0; i < 70; i++) {
        tpi_timers_start(&timers, &t[i], i < 60 ? INT64_C(1) << i : i - 65);
    }
    tpi_timers_advance(&timers, 3);
    tpi_timers_start(&timers, &t[64], 2);
    for (size_t left = 70; left > 0; left--) {
        CHECK_EQ(timers.count, left);
        tepal_timer *const taken = tpi_timers_take(&timers);
        CHECK(taken != NULL);
        CHECK_EQ(taken->work.state, 0);
    }
    CHECK(tpi_timers_take(&timers) == NULL);
    CHECK_EQ(tpi_timers_next(&timers), INT64_MAX);
}
