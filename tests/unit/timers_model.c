/* The timer wheel against a list that is searched from end to end: random operations, compared step by step. */
#include "harness/test.h"
#include "loop/timers.h"

#include <stdlib.h>

enum { COUNT = 96 };

typedef struct entry {
    tepal_timer timer; /* the wheel's */
    bool is_started;
    bool is_due;
    int64_t deadline_ns;
    uint64_t order; /* of the start; of coming due */
} entry;

typedef struct model {
    tpi_timers timers;
    entry entries[COUNT];
    int64_t now_ns;
    uint64_t starts;
    size_t started;
    bool is_exact; /* never many timers, and none is moved: the wheel has no excuse for an early wake-up */
    test_prng prng;
} model;

static bool is_before(const entry *a, const entry *b) {
    return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns : a->order < b->order;
}

static int64_t add_saturating(int64_t a, int64_t b) {
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? (b < 0 ? INT64_MIN : INT64_MAX) : sum;
}

/* Near, far, equal, past and extreme times, all often. */
static int64_t random_time(model *m) {
    const uint64_t bits = test_prng_next(&m->prng);
    const int64_t distance = (int64_t)(bits >> (1 + test_prng_below(&m->prng, 63)));
    switch (test_prng_below(&m->prng, 16)) {
    case 0:
        return add_saturating(m->now_ns, -distance);
    case 1:
        return m->entries[test_prng_below(&m->prng, COUNT)].deadline_ns;
    case 2:
        return (int64_t)bits;
    case 3: {
        const int64_t extremes[] = {INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX - 1, INT64_MAX, m->now_ns};
        return extremes[test_prng_below(&m->prng, sizeof extremes / sizeof extremes[0])];
    }
    case 4:
    case 5:
    case 6:
        return add_saturating(m->now_ns, distance % 100);
    default:
        return add_saturating(m->now_ns, distance % INT64_C(1000000000000));
    }
}

static void stop(model *m, entry *e) {
    CHECK_EQ(tpi_timers_stop(&m->timers, &e->timer), e->is_started);
    CHECK_EQ(e->timer.work.state, 0);
    m->started -= e->is_started;
    e->is_started = e->is_due = false;
}

static void start(model *m, entry *e) {
    if (m->is_exact) {
        stop(m, e);
    }
    const int64_t deadline_ns = random_time(m);
    tpi_timers_start(&m->timers, &e->timer, deadline_ns);
    m->started += !e->is_started;
    e->is_started = true;
    e->is_due = false;
    e->deadline_ns = deadline_ns;
    e->order = ++m->starts;
    CHECK_EQ(e->timer.deadline_ns, deadline_ns);
    CHECK_GT(e->timer.work.state, 1);
}

/* What is due keeps the order in which it became so: a second number series after that of all starts. */
static void advance(model *m, int64_t now_ns) {
    m->now_ns = now_ns > m->now_ns ? now_ns : m->now_ns;
    tpi_timers_advance(&m->timers, now_ns);
    for (;;) {
        entry *first = NULL;
        for (entry *e = m->entries; e < m->entries + COUNT; e++) {
            if (e->is_started && !e->is_due && e->deadline_ns <= m->now_ns && (first == NULL || is_before(e, first))) {
                first = e;
            }
        }
        if (first == NULL) {
            return;
        }
        first->is_due = true;
        first->order = ++m->starts;
    }
}

static bool pop(model *m) {
    entry *first = NULL;
    for (entry *e = m->entries; e < m->entries + COUNT; e++) {
        if (e->is_due && (first == NULL || e->order < first->order)) {
            first = e;
        }
    }
    tepal_timer *const popped = tpi_timers_pop(&m->timers);
    CHECK(popped == (first == NULL ? NULL : &first->timer));
    if (first == NULL) {
        return false;
    }
    CHECK_LE(popped->deadline_ns, m->now_ns);
    CHECK_EQ(popped->work.state, 0);
    first->is_started = first->is_due = false;
    m->started--;
    return true;
}

/* Returns whether something can be popped now or after an advance that lets no time pass. */
static bool check_next(model *m) {
    int64_t earliest_ns = INT64_MAX;
    for (const entry *e = m->entries; e < m->entries + COUNT; e++) {
        if (e->is_started) {
            const int64_t at_ns = e->is_due || e->deadline_ns < m->now_ns ? m->now_ns : e->deadline_ns;
            earliest_ns = at_ns < earliest_ns ? at_ns : earliest_ns;
        }
    }
    const int64_t next_ns = tpi_timers_next(&m->timers);
    CHECK_LE(next_ns, earliest_ns);
    CHECK_GE(next_ns, m->now_ns); /* or a loop would spin */
    if (m->is_exact) {
        CHECK_EQ(next_ns, earliest_ns);
    }
    CHECK(next_ns > m->now_ns || earliest_ns == m->now_ns);
    return earliest_ns <= m->now_ns;
}

/* Every list whole, every bit right, every timer where time has not come by yet. */
static void check_wheel(const tpi_timers *timers) {
    size_t count = 0;
    for (unsigned position = 0; position < TPI_TIMERS_LEVELS * TPI_TIMERS_SLOTS + 2; position++) {
        const tepal_timer *previous = NULL;
        const bool has_bit = (timers->occupied[position / 64] >> position % 64 & 1) != 0;
        CHECK_EQ(has_bit, timers->lists[position] != NULL);
        for (const tepal_timer *t = timers->lists[position]; t != NULL; t = (const tepal_timer *)t->work.next) {
            CHECK(t->reserved[0] == (uintptr_t)previous);
            CHECK_EQ(t->work.state, (position + 1) * 2);
            if (position < TPI_TIMERS_LEVELS * TPI_TIMERS_SLOTS) {
                CHECK_GT(t->deadline_ns, timers->elapsed_ns);
            }
            previous = t;
            count++;
        }
    }
    CHECK_EQ(count, timers->count);
}

static void run(uint64_t seed, int operations) {
    static model m;
    memset(&m, 0, sizeof m);
    m.prng = test_prng_start(seed);
    const int64_t begins[] = {INT64_MIN, -5000, 0, 1000000, INT64_C(1) << 50, INT64_MAX - (INT64_C(1) << 40)};
    m.now_ns = begins[seed % (sizeof begins / sizeof begins[0])];
    tpi_timers_init(&m.timers, m.now_ns);
    const size_t crowd = 1 + test_prng_below(&m.prng, seed % 2 == 0 ? 16 : COUNT);
    m.is_exact = crowd <= 16;
    for (int i = 0; i < operations; i++) {
        entry *const e = &m.entries[test_prng_below(&m.prng, crowd)];
        const uint64_t step = UINT64_C(1) << test_prng_below(&m.prng, 36);
        switch (test_prng_below(&m.prng, 16)) {
        case 0:
        case 1:
            advance(&m, add_saturating(m.now_ns, (int64_t)test_prng_below(&m.prng, step)));
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
            start(&m, e);
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
        m.prng = test_prng_start(1000 + (uint64_t)seed);
        tpi_timers_init(&m.timers, 0);
        for (int turn = 0; turn < 3000; turn++) {
            for (uint64_t i = test_prng_below(&m.prng, 4); i > 0; i--) {
                start(&m, &m.entries[test_prng_below(&m.prng, COUNT)]);
            }
            stop(&m, &m.entries[test_prng_below(&m.prng, COUNT)]);
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
