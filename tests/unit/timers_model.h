/*
 * The timer wheel against a list that is searched from end to end: each function does to both what its name says, and
 * compares. For the tests of random operations and for the fuzz target.
 */
#ifndef TEPAL_TESTS_TIMERS_MODEL_H
#define TEPAL_TESTS_TIMERS_MODEL_H

#include "harness/test.h"
#include "loop/timers.h"

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
} model;

static inline bool is_before(const entry *a, const entry *b) {
    return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns : a->order < b->order;
}

static inline int64_t add_saturating(int64_t a, int64_t b) {
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? (b < 0 ? INT64_MIN : INT64_MAX) : sum;
}

static inline void stop(model *m, entry *e) {
    CHECK_EQ(tpi_timers_stop(&m->timers, &e->timer), e->is_started);
    CHECK_EQ(e->timer.work.state, 0);
    m->started -= e->is_started;
    e->is_started = e->is_due = false;
}

static inline void start(model *m, entry *e, int64_t deadline_ns) {
    if (m->is_exact) {
        stop(m, e);
    }
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
static inline void advance(model *m, int64_t now_ns) {
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

static inline bool pop(model *m) {
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
static inline bool check_next(model *m) {
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
static inline void check_wheel(const tpi_timers *timers) {
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

#endif
