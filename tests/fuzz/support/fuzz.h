/*
 * What the fuzz targets share: their input as a stream of small decisions, and the harness's checks, which abort here
 * so that libFuzzer keeps the input.
 *
 * At its end the input goes on with zeroes, so that every target gives 0 the harmless meaning.
 */
#ifndef TEPAL_TESTS_FUZZ_H
#define TEPAL_TESTS_FUZZ_H

#include "harness/test.h"

typedef struct fuzz_input {
    const uint8_t *data;
    size_t left;
} fuzz_input;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline uint8_t fuzz_byte(fuzz_input *input) {
    if (input->left == 0) {
        return 0;
    }
    input->left--;
    return *input->data++;
}

/* Of so many bytes, the lowest first. */
static inline uint64_t fuzz_number(fuzz_input *input, unsigned bytes) {
    uint64_t number = 0;
    for (unsigned i = 0; i < bytes; i++) {
        number |= (uint64_t)fuzz_byte(input) << (8 * i);
    }
    return number;
}

/* From 0 to limit - 1, at most 256. */
static inline unsigned fuzz_below(fuzz_input *input, unsigned limit) {
    return fuzz_byte(input) % limit;
}

/* A length that is often small and sometimes as large as most. */
static inline size_t fuzz_length(fuzz_input *input, size_t most) {
    const uint8_t byte = fuzz_byte(input);
    const size_t length = byte < 192 ? byte : (size_t)(byte - 191) * (size_t)(byte - 191) * 8;
    return length < most ? length : most;
}

#endif
