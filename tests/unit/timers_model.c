/* Random operations on the timer wheel, compared step by step with the model of timers_model.h. */
#include "unit/timers_model.h"

/* Near, far, equal, past and extreme times, all often. */
static int64_t random_time(const model *m, test_prng *prng) {
    const uint64_t bits = test_prng_next(prng);
    const int64_t distance = (int64_t)(bits >> (1 + test_prng_below(prng, 63)));
    switch (test_prng_below(prng, 16)) {
    case 0:
        return add_saturating(m->now_ns, -distance);
    case 1:
        return m->entries[test_prng_below(prng, COUNT)].deadline_ns;
    case 2:
        return (int64_t)bits;
    case 3: {
        const int64_t extremes[] = {INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX - 1, INT64_MAX, m->now_ns};
        return extremes[test_prng_below(prng, sizeof extremes / sizeof extremes[0])];
    }
    case 4:
    case 5:
    case 6:
        return add_saturating(m->now_ns, distance % 100);
    default:
        return add_saturating(m->now_ns, distance % INT64_C(1000000000000));
    }
}

static void run(uint64_t seed, int operations) {
    static model m;
    memset(&m, 0, sizeof m);
    test_prng prng = test_prng_start(seed);
    const int64_t begins[] = {INT64_MIN, -5000, 0, 1000000, INT64_C(1) << 50, INT64_MAX - (INT64_C(1) << 40)};
    m.now_ns = begins[seed % (sizeof begins / sizeof begins[0])];
    tpi_timers_init(&m.timers, m.now_ns);
    const size_t crowd = 1 + test_prng_below(&prng, seed % 2 == 0 ? 16 : COUNT);
    m.is_exact = crowd <= 16;
    for (int i = 0; i < operations; i++) {
        entry *const e = &m.entries[test_prng_below(&prng, crowd)];
        const uint64_t step = UINT64_C(1) << test_prng_below(&prng, 36);
        switch (test_prng_below(&prng, 16)) {
        case 0:
        case 1:
            advance(&m, add_saturating(m.now_ns, (int64_t)test_prng_below(&prng, step)));
            break;
        case 2:
            advance(&m, tpi_timers_next(&m.timers) == INT64_MAX ? m.now_ns : tpi_timers_next(&m.timers));
            break;
        case 3:
            advance(&m, add_saturating(m.now_ns, -(int64_t)step));
            break;
        case 4:
        case 5:
            while (pop(&m)) {
            }
            break;
        case 6:
        case 7:
            (void)pop(&m);
            break;
        case 8:
        case 9:
        case 10:
            stop(&m, e);
            break;
        case 11:
            (void)check_next(&m);
            check_wheel(&m.timers);
            break;
        default:
            start(&m, e, random_time(&m, &prng));
        }
        CHECK_EQ(m.timers.count, m.started);
    }
    check_wheel(&m.timers);
    for (; m.started > 0; m.started--) {
        CHECK(tpi_timers_take(&m.timers) != NULL);
    }
    CHECK(tpi_timers_take(&m.timers) == NULL);
}

TEST(timers, agree_with_a_searched_list_over_random_operations) {
    const int64_t rounds = test_rounds(1000, 100);
    for (int64_t seed = 0; seed < rounds; seed++) {
        run((uint64_t)seed, 5000);
    }
}

/* A loop that sleeps until the wheel says: each timer runs at its deadline exactly, whatever its callback does. */
TEST(timers, a_loop_that_trusts_the_wheel_meets_every_deadline) {
    static model m;
    const int64_t rounds = test_rounds(200, 20);
    for (int64_t seed = 0; seed < rounds; seed++) {
        memset(&m, 0, sizeof m);
        test_prng prng = test_prng_start(1000 + (uint64_t)seed);
        tpi_timers_init(&m.timers, 0);
        for (int turn = 0; turn < 3000; turn++) {
            for (uint64_t i = test_prng_below(&prng, 4); i > 0; i--) {
                start(&m, &m.entries[test_prng_below(&prng, COUNT)], random_time(&m, &prng));
            }
            stop(&m, &m.entries[test_prng_below(&prng, COUNT)]);
            const bool is_due = check_next(&m);
            const int64_t next_ns = tpi_timers_next(&m.timers);
            if (next_ns > INT64_MAX / 2) {
                continue;
            }
            advance(&m, next_ns);
            bool popped = false;
            while (pop(&m)) {
                popped = true;
            }
            CHECK(popped || !is_due);
        }
    }
}
