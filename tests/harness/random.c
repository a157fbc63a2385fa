/* Random numbers that are the same in every run (splitmix64), so that a failure can be repeated. */
#include "harness/test.h"

#include <stdlib.h>

test_prng test_prng_start(uint64_t stream) {
    const char *seed = getenv("TEST_SEED");
    test_prng prng = {(seed ? strtoull(seed, NULL, 0) : 20121220) + stream * UINT64_C(0xd1342543de82ef95)};

    return prng;
}

uint64_t test_prng_next(test_prng *prng) {
    uint64_t z = (prng->state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t test_prng_below(test_prng *prng, uint64_t limit) {
    return test_prng_next(prng) % limit; /* the bias is below limit / 2^64, which no test can see */
}

void test_prng_fill(test_prng *prng, void *data, size_t size) {
    unsigned char *bytes = data;

    for (size_t i = 0; i < size; i += 8) {
        const uint64_t word = test_prng_next(prng);
        memcpy(bytes + i, &word, size - i < 8 ? size - i : 8);
    }
}
