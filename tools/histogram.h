/* A histogram of latencies whose buckets are no wider than 1/32 of their value: linear below 64, then 32 to each
 * power of two. Recording is a shift and an increment; no samples are kept. */
#ifndef TOOLS_HISTOGRAM_H
#define TOOLS_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_STEPS = 32, HISTOGRAM_BUCKETS = HISTOGRAM_STEPS * 60 };

typedef struct histogram {
    uint64_t total;
    uint64_t most; /* the largest value, exactly */
    uint64_t counts[HISTOGRAM_BUCKETS];
} histogram;

/** Count a value. */
void histogram_add(histogram *self, uint64_t value);

/** The value that a part (0.99 for p99) of those counted do not exceed, to the width of a bucket; 0 for none. */
uint64_t histogram_at(const histogram *self, double part);

#endif
