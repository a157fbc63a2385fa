/* A histogram of latencies in nanoseconds with buckets no wider than 1/64 of their value, for the load generator:
 * recording costs a shift and an increment, and reading a percentile needs no samples to be kept. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_STEPS = 64, HISTOGRAM_BUCKETS = HISTOGRAM_STEPS * 59 };

typedef struct histogram {
    uint64_t total;
    uint64_t counts[HISTOGRAM_BUCKETS];
} histogram;

/* Values below 64 have a bucket each; above, the six bits after the leading one choose among 64 of their power. */
static inline unsigned histogram_bucket(uint64_t value) {
    if (value < HISTOGRAM_STEPS)
        return (unsigned)value;
    unsigned shift = 57 - (unsigned)__builtin_clzll(value);
    return (shift + 1) * HISTOGRAM_STEPS + (unsigned)((value >> shift) - HISTOGRAM_STEPS);
}

static inline void histogram_add(histogram *self, uint64_t value) {
    self->counts[histogram_bucket(value)]++;
    self->total++;
}

/** Least value of the bucket that holds the given part (0.99 for p99) of the samples; 0 if there are none. */
static inline uint64_t histogram_at(const histogram *self, double part) {
    uint64_t wanted = (uint64_t)(part * (double)self->total);
    uint64_t seen = 0;
    for (unsigned bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
        seen += self->counts[bucket];
        if (seen > wanted || (seen == self->total && seen > 0)) {
            if (bucket < HISTOGRAM_STEPS)
                return bucket;
            unsigned shift = bucket / HISTOGRAM_STEPS - 1;
            return (uint64_t)(bucket % HISTOGRAM_STEPS + HISTOGRAM_STEPS) << shift;
        }
    }
    return 0;
}

#endif
