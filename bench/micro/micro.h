/* What the micro benchmarks share, on every library: the same sequence of random numbers, the same clock and one form
 * of report, so that two programs of a pair do the same work and can be compared line by line. */
#ifndef BENCH_MICRO_H
#define BENCH_MICRO_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- the work, the same for both programs of a pair ------------------------------------------------------------- */

enum {
    SOON_PER_TURN = 1000, /* callbacks posted in one turn of the loop and run in the next */
    SOON_TURNS = 20000,
    SOON_WARM_UP_TURNS = 200,
    TIMER_OPERATIONS = 1000000, /* stop + start of a timer chosen at random */
    REARM_OPERATIONS = 5000000, /* of one idle timeout, the other timers pending */
    REARMS_PER_MS = 1000,       /* its deadline moves on as it would at a million messages a second */
    TIMER_LEAST_MS = 60 * 1000, /* none runs during the measurement */
    TIMER_RANGE_MS = 60 * 60 * 1000,
    POSTS_PER_THREAD = 1000000,
};

/** PCG32 (XSH RR) from a fixed seed: every program of a pair draws the same numbers. */
typedef struct micro_random {
    uint64_t state;
} micro_random;

static inline micro_random micro_random_start(void) {
    return (micro_random){.state = 0x853c49e6748fea9b};
}

static inline uint32_t micro_random_next(micro_random *self) {
    uint64_t old = self->state;
    self->state = old * 6364136223846793005 + 1442695040888963407;
    uint32_t shifted = (uint32_t)(((old >> 18) ^ old) >> 27);
    unsigned turn = (unsigned)(old >> 59);
    return (shifted >> turn) | (shifted << ((32 - turn) & 31));
}

/** A number below `bound` without a division; its bias is below one in a thousand at the bounds used here. */
static inline uint32_t micro_random_below(micro_random *self, uint32_t bound) {
    return (uint32_t)(((uint64_t)micro_random_next(self) * bound) >> 32);
}

/** The delay of a timer that is started, in milliseconds. */
static inline uint32_t micro_timer_delay_ms(micro_random *self) {
    return TIMER_LEAST_MS + micro_random_below(self, TIMER_RANGE_MS);
}

/** The delay of the idle timeout at its re-arming number `index`, in milliseconds: the middle of the others'. */
static inline uint32_t micro_rearm_delay_ms(uint32_t index) {
    return TIMER_LEAST_MS + TIMER_RANGE_MS / 2 + index / REARMS_PER_MS;
}

/* --- clock, command line, report -------------------------------------------------------------------------------- */

static inline uint64_t micro_now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/** CPU time of all this process's threads. */
static inline uint64_t micro_cpu_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/** The number behind `name` on the command line, or `fallback`. */
static inline uint32_t micro_option(int argc, char **argv, const char *name, uint32_t fallback) {
    for (int index = 1; index + 1 < argc; index++) {
        if (strcmp(argv[index], name) == 0)
            return (uint32_t)strtoul(argv[index + 1], NULL, 10);
    }
    return fallback;
}

/** One line of JSON: what was done, with what, how often, and the time and CPU time of one operation. */
static inline void micro_report(const char *bench, const char *with, uint64_t operations, uint64_t wall_ns,
                                uint64_t cpu_ns) {
    printf("{\"bench\": \"%s\", \"with\": \"%s\", \"operations\": %" PRIu64
           ", \"ns\": %.3f, \"cpu_ns\": %.3f, \"per_second\": %.0f}\n",
           bench, with, operations, (double)wall_ns / (double)operations, (double)cpu_ns / (double)operations,
           (double)operations * 1e9 / (double)wall_ns);
    fflush(stdout);
}

#endif
