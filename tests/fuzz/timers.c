/*
 * The timer wheel (src/loop/timers.h) against a list that is searched from end to end, the model of the unit tests:
 * start, move, stop, advance and pop agree step by step, the next deadline is never told late, and every list and bit
 * of the wheel is whole.
 */
#include "fuzz/support/fuzz.h"
#include "unit/timers_model.h"

/* Around now at every distance, at another timer's time, at the ends of time. */
static int64_t some_time(fuzz_input *input, const model *m) {
    const int64_t extremes[] = {INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX - 1, INT64_MAX, m->now_ns};
    switch (fuzz_below(input, 8)) {
    case 0:
        return extremes[fuzz_below(input, sizeof extremes / sizeof extremes[0])];
    case 1:
        return m->entries[fuzz_below(input, COUNT)].deadline_ns;
    case 2:
        return add_saturating(m->now_ns, -(int64_t)fuzz_number(input, 3));
    case 3:
        return (int64_t)fuzz_number(input, 8);
    case 4:
        return add_saturating(m->now_ns, INT64_C(1) << fuzz_below(input, 63));
    case 5:
        return add_saturating(m->now_ns, (INT64_C(1) << fuzz_below(input, 63)) - 1);
    default:
        return add_saturating(m->now_ns, (int64_t)fuzz_number(input, 1 + fuzz_below(input, 6)));
    }
}

static void operate(fuzz_input *input, model *m, size_t crowd) {
    entry *const e = &m->entries[fuzz_byte(input) % crowd];
    switch (fuzz_below(input, 12)) {
    case 0:
    case 1:
        advance(m, some_time(input, m)); /* one that goes back counts as the last */
        break;
    case 2: {
        const int64_t next_ns = tpi_timers_next(&m->timers);
        advance(m, next_ns == INT64_MAX ? m->now_ns : next_ns);
        break;
    }
    case 3:
        while (pop(m)) {
        }
        break;
    case 4:
        (void)pop(m);
        break;
    case 5:
    case 6:
        stop(m, e);
        break;
    case 7:
        (void)check_next(m);
        check_wheel(&m->timers);
        break;
    default:
        start(m, e, some_time(input, m));
    }
    CHECK_EQ(m->timers.count, m->started);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static model m;
    fuzz_input input = {.data = data, .left = size};

    memset(&m, 0, sizeof m);
    const uint8_t kind = fuzz_byte(&input);
    const size_t crowd = kind % 2 == 0 ? 16 : COUNT;
    m.is_exact = kind % 2 == 0;
    m.now_ns = kind & 2 ? (int64_t)fuzz_number(&input, 8) : 0;
    tpi_timers_init(&m.timers, m.now_ns);
    while (input.left > 0) {
        operate(&input, &m, crowd);
    }
    (void)check_next(&m);
    check_wheel(&m.timers);
    for (; m.started > 0; m.started--) {
        CHECK(tpi_timers_take(&m.timers) != NULL);
    }
    CHECK(tpi_timers_take(&m.timers) == NULL);
    return 0;
}
