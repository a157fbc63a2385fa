/* Latency histogram (histogram.h). */
#include "histogram.h"

/* 2^5 to 2^6 - 1 are the first 32 values of a linear range of 64; each later power of two shares 32 buckets. */
enum { STEP_BITS = 5 };

static unsigned bucket_of(uint64_t value) {
    if (value < 2 * HISTOGRAM_STEPS)
        return (unsigned)value;
    unsigned shift = 63 - (unsigned)__builtin_clzll(value) - STEP_BITS;
    return shift * HISTOGRAM_STEPS + (unsigned)(value >> shift);
}

/* The largest value that falls into a bucket. */
static uint64_t top_of(unsigned bucket) {
    if (bucket < 2 * HISTOGRAM_STEPS)
        return bucket;
    unsigned shift = bucket / HISTOGRAM_STEPS - 1;
    uint64_t first = (uint64_t)(bucket - shift * HISTOGRAM_STEPS) << shift;
    return first + (((uint64_t)1 << shift) - 1);
}

void histogram_add(histogram *self, uint64_t value) {
    self->counts[bucket_of(value)]++;
    self->total++;
    if (value > self->most)
        self->most = value;
}

uint64_t histogram_at(const histogram *self, double part) {
    const double wanted = part * (double)self->total;
    uint64_t seen = 0;
    for (unsigned bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
        seen += self->counts[bucket];
        if (seen > 0 && (double)seen >= wanted)
            return top_of(bucket) < self->most ? top_of(bucket) : self->most;
    }
    return self->most;
}
