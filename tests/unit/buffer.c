/* The output chain, against a flat array of bytes that says what it must hold. */
#include "harness/test.h"

#include "base/buffer.h"
#include <stdlib.h>

enum { LIMIT = 8 };

static struct iovec piece_of(const void *data, size_t length) {
    return (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = length};
}

static int copy(tpi_output *output, const void *data, size_t length) {
    const struct iovec piece = piece_of(data, length);
    return tpi_output_copy(output, test_counting_alloc, &piece, 1, 0);
}

/* How many pieces the chain has, and what they hold, which must be expected. */
static size_t check_holds(const tpi_output *output, const void *expected, size_t length) {
    const size_t limit = 70000;
    struct iovec *pieces = malloc(limit * sizeof *pieces);
    const size_t count = tpi_output_gather(output, pieces, limit);
    size_t at = 0;

    CHECK_EQ(output->bytes, length);
    CHECK_EQ(tpi_pieces_bytes(pieces, count), length);
    for (size_t i = 0; i < count; i++) {
        CHECK_GT(pieces[i].iov_len, 0);
        CHECK_MEM(pieces[i].iov_base, (const uint8_t *)expected + at, pieces[i].iov_len);
        at += pieces[i].iov_len;
    }
    free(pieces);
    return count;
}

typedef struct released {
    int times;
    int status;
} released;

static void count_release(void *argument, int status) {
    released *seen = argument;
    seen->times++;
    seen->status = status;
}

TEST(buffer, small_copies_are_joined) {
    tpi_output output = {.first = NULL};
    uint8_t expected[1000];

    for (size_t i = 0; i < sizeof expected; i++) {
        expected[i] = (uint8_t)(i * 7);
        CHECK_OK(copy(&output, &expected[i], 1));
    }
    CHECK_LE(check_holds(&output, expected, sizeof expected), 3);
    tpi_output_discard(&output, test_counting_alloc, TEPAL_ECLOSED);
    CHECK_EQ(output.bytes, 0);
    CHECK(output.first == NULL);
}

TEST(buffer, joined_pieces_grow_to_16_kib_and_no_further) {
    static uint8_t expected[1 << 18];
    tpi_output output = {.first = NULL};
    struct iovec pieces[64];
    test_prng prng = test_prng_start(1);

    test_prng_fill(&prng, expected, sizeof expected);
    for (size_t at = 0; at < sizeof expected; at += 64) {
        CHECK_OK(copy(&output, expected + at, 64));
    }
    /* 256 + 512 + ... + 8,192, then whole ones. */
    CHECK_EQ(check_holds(&output, expected, sizeof expected), 6 + (sizeof expected - 16128 + 16383) / 16384);
    CHECK_EQ(tpi_output_gather(&output, pieces, 64), 22);
    CHECK_EQ(pieces[6].iov_len, TPI_JOIN_BYTES);
    CHECK_EQ(test_alloc_calls(), 22);
    tpi_output_discard(&output, test_counting_alloc, 0);
}

TEST(buffer, a_long_copy_is_one_piece) {
    static uint8_t expected[1 << 20];
    tpi_output output = {.first = NULL};
    test_prng prng = test_prng_start(1);

    test_prng_fill(&prng, expected, sizeof expected);
    CHECK_OK(copy(&output, expected, sizeof expected));
    CHECK_EQ(check_holds(&output, expected, sizeof expected), 1);
    tpi_output_consume(&output, test_counting_alloc, sizeof expected);
    CHECK_EQ(test_alloc_live(), 0);
}

TEST(buffer, bytes_given_to_the_kernel_never_move) {
    tpi_output output = {.first = NULL};
    struct iovec before;
    struct iovec after;
    uint8_t byte = 0;

    CHECK_OK(copy(&output, &byte, 1));
    CHECK_EQ(tpi_output_gather(&output, &before, 1), 1);
    for (int i = 1; i < 40000; i++) {
        byte = (uint8_t)i;
        CHECK_OK(copy(&output, &byte, 1));
    }
    CHECK_EQ(tpi_output_gather(&output, &after, 1), 1);
    CHECK(after.iov_base == before.iov_base);
    tpi_output_discard(&output, test_counting_alloc, 0);
}

TEST(buffer, skip_leaves_out_the_first_bytes_of_either_kind) {
    const struct iovec pieces[] = {piece_of("ab", 2), piece_of(NULL, 0), piece_of("cdef", 4), piece_of("gh", 2)};
    const char *text = "abcdefgh";

    for (size_t skip = 0; skip < 8; skip++) {
        tpi_output output = {.first = NULL};
        released seen = {0};

        CHECK_OK(tpi_output_copy(&output, test_counting_alloc, pieces, 4, skip));
        CHECK_EQ(check_holds(&output, text + skip, 8 - skip), 1);
        tpi_output_discard(&output, test_counting_alloc, 0);
        CHECK_OK(tpi_output_own(&output, test_counting_alloc, pieces, 4, skip, count_release, &seen));
        CHECK_EQ(check_holds(&output, text + skip, 8 - skip), skip < 2 ? 3 : skip < 6 ? 2 : 1);
        tpi_output_consume(&output, test_counting_alloc, 8 - skip);
        CHECK_EQ(seen.times, 1);
    }
}

TEST(buffer, a_copy_of_nothing_adds_nothing) {
    tpi_output output = {.first = NULL};
    const struct iovec pieces[] = {piece_of(NULL, 0), piece_of("ab", 2)};

    CHECK_OK(tpi_output_copy(&output, test_counting_alloc, pieces, 0, 0));
    CHECK_OK(tpi_output_copy(&output, test_counting_alloc, pieces, 1, 0));
    CHECK_OK(tpi_output_copy(&output, test_counting_alloc, pieces, 2, 2));
    CHECK(output.first == NULL);
    CHECK_EQ(test_alloc_calls(), 0);
}

TEST(buffer, owned_pieces_are_sent_from_where_they_are) {
    tpi_output output = {.first = NULL};
    const char first[] = "first";
    const char second[] = "second";
    const struct iovec pieces[] = {piece_of(first, 5), piece_of(first, 0), piece_of(second, 6)};
    struct iovec gathered[LIMIT];
    released seen = {0};

    CHECK_OK(tpi_output_own(&output, test_counting_alloc, pieces, 3, 0, count_release, &seen));
    CHECK_EQ(tpi_output_gather(&output, gathered, LIMIT), 2);
    CHECK(gathered[0].iov_base == first);
    CHECK(gathered[1].iov_base == second);
    CHECK_EQ(tpi_output_gather(&output, gathered, 1), 1);

    tpi_output_consume(&output, test_counting_alloc, 10);
    CHECK_EQ(seen.times, 0);
    tpi_output_consume(&output, test_counting_alloc, 1);
    CHECK_EQ(seen.times, 1);
    CHECK_EQ(seen.status, 0);
    CHECK_EQ(output.bytes, 0);
    CHECK_EQ(test_alloc_live(), 0);
}

TEST(buffer, a_discarded_owned_piece_is_released_once_with_the_code) {
    tpi_output output = {.first = NULL};
    const struct iovec pieces[] = {piece_of("abc", 3), piece_of("def", 3)};
    released partly = {0};
    released whole = {0};

    CHECK_OK(tpi_output_own(&output, test_counting_alloc, pieces, 2, 0, count_release, &partly));
    CHECK_OK(copy(&output, "between", 7));
    CHECK_OK(tpi_output_own(&output, test_counting_alloc, pieces, 2, 0, count_release, &whole));
    tpi_output_consume(&output, test_counting_alloc, 4);
    tpi_output_discard(&output, test_counting_alloc, TEPAL_ECLOSED);
    tpi_output_discard(&output, test_counting_alloc, TEPAL_EPIPE);
    CHECK_EQ(partly.times, 1);
    CHECK_EQ(partly.status, TEPAL_ECLOSED);
    CHECK_EQ(whole.times, 1);
    CHECK_EQ(whole.status, TEPAL_ECLOSED);
}

TEST(buffer, a_copy_is_never_joined_onto_an_owned_piece) {
    tpi_output output = {.first = NULL};
    char memory[8] = "owned";
    const struct iovec piece = piece_of(memory, 5);
    released seen = {0};

    CHECK_OK(tpi_output_own(&output, test_counting_alloc, &piece, 1, 0, count_release, &seen));
    CHECK_OK(copy(&output, "xyz", 3));
    CHECK_MEM(memory, "owned\0\0", 8);
    CHECK_EQ(check_holds(&output, "ownedxyz", 8), 2);
    tpi_output_discard(&output, test_counting_alloc, 0);
}

TEST(buffer, lengths_that_overflow_are_too_long) {
    tpi_output output = {.first = NULL};
    const struct iovec pieces[] = {piece_of("a", SIZE_MAX), piece_of("b", 2)};

    CHECK_EQ(tpi_pieces_bytes(pieces, 2), UINT64_MAX);
    CHECK_EQ(tpi_pieces_bytes(pieces, 0), 0);
    CHECK_EQ(tpi_output_copy(&output, test_counting_alloc, pieces, 2, 0), TEPAL_ENOMEM);
    CHECK(output.first == NULL);
}

TEST(buffer, without_memory_the_chain_stays_as_it_was) {
    static uint8_t data[20000];
    tpi_output output = {.first = NULL};
    const struct iovec pieces[] = {piece_of(data, 300), piece_of(data, 19700)};
    released seen = {0};

    for (int held = 0; held < 2; held++) {
        test_alloc_fail_at(1, true);
        CHECK_EQ(tpi_output_copy(&output, test_counting_alloc, pieces, 2, 0), TEPAL_ENOMEM);
        CHECK_EQ(tpi_output_own(&output, test_counting_alloc, pieces, 2, 0, count_release, &seen), TEPAL_ENOMEM);
        CHECK(test_alloc_has_failed());
        check_holds(&output, "x", (size_t)held);
        /* What fits the room that is there needs no memory. */
        CHECK_EQ(copy(&output, "y", 1), held == 0 ? TEPAL_ENOMEM : 0);
        test_alloc_fail_at(0, false);
        if (held == 0) {
            CHECK_OK(copy(&output, "x", 1));
        }
    }
    check_holds(&output, "xy", 2);
    CHECK_EQ(seen.times, 0);
    tpi_output_discard(&output, test_counting_alloc, 0);
}

/* What a chain holds by right: a window of one long array, and the owned writes within it. */
typedef struct model {
    uint8_t *bytes;
    size_t from, to;
    struct owned {
        uint8_t *memory;
        size_t end; /* in bytes[]: released once this has been consumed */
        released seen;
    } * owned;
    size_t owned_count;
} model;

enum { MODEL_BYTES = 1 << 22, MODEL_OWNED = 1 << 14, MODEL_PIECES = 6 };

static uint64_t some_length(test_prng *prng) {
    switch (test_prng_below(prng, 8)) {
    case 0:
        return 0;
    case 1:
        return test_prng_below(prng, 40000);
    case 2:
        return test_prng_below(prng, 2000);
    default:
        return test_prng_below(prng, 64);
    }
}

static void write_some(tpi_output *output, model *want, test_prng *prng) {
    const size_t count = test_prng_below(prng, MODEL_PIECES) + 1;
    const bool own = test_prng_below(prng, 3) == 0;
    struct iovec pieces[MODEL_PIECES];
    size_t length = 0;

    for (size_t i = 0; i < count; i++) {
        pieces[i].iov_len = some_length(prng);
        length += pieces[i].iov_len;
    }
    if (length > MODEL_BYTES - want->to || want->owned_count == MODEL_OWNED) {
        return;
    }
    const size_t skip = length == 0 ? 0 : test_prng_below(prng, 2) * test_prng_below(prng, length);
    uint8_t *memory = malloc(length + 1);
    test_prng_fill(prng, memory, length);
    for (size_t i = 0, at = 0; i < count; at += pieces[i].iov_len, i++) {
        pieces[i].iov_base = memory + at;
    }

    test_alloc_fail_at(test_prng_below(prng, 4) == 0 ? 1 : 0, false);
    int code;
    struct owned *owned = &want->owned[want->owned_count];
    if (own && length > skip) {
        *owned = (struct owned){.memory = memory, .end = want->to + length - skip};
        code = tpi_output_own(output, test_counting_alloc, pieces, count, skip, count_release, &owned->seen);
        CHECK_EQ(owned->seen.times, 0);
    } else {
        code = tpi_output_copy(output, test_counting_alloc, pieces, count, skip);
    }
    CHECK_EQ(code, test_alloc_has_failed() ? TEPAL_ENOMEM : 0);
    test_alloc_fail_at(0, false);
    if (code == 0) {
        memcpy(want->bytes + want->to, memory + skip, length - skip);
        want->to += length - skip;
        if (own && length > skip) {
            want->owned_count++;
            return;
        }
    }
    memset(memory, 0, length); /* a copy must not need it */
    free(memory);
}

static void check_releases(const model *want) {
    for (size_t i = 0; i < want->owned_count; i++) {
        CHECK_EQ(want->owned[i].seen.times, want->owned[i].end <= want->from);
        CHECK_EQ(want->owned[i].seen.status, 0);
    }
}

TEST(buffer, holds_what_a_flat_array_would_through_random_writes_and_failures) {
    test_set_timeout(60);
    const int64_t runs = test_rounds(300, 20);
    model want = {.bytes = malloc(MODEL_BYTES), .owned = malloc(MODEL_OWNED * sizeof(struct owned))};

    for (int64_t run = 0; run < runs; run++) {
        test_prng prng = test_prng_start((uint64_t)run);
        tpi_output output = {.first = NULL};
        want.from = want.to = want.owned_count = 0;
        for (int step = 0; step < 400; step++) {
            write_some(&output, &want, &prng);
            if (test_prng_below(&prng, 3) == 0) {
                const size_t held = want.to - want.from;
                const size_t some = test_prng_below(&prng, 4) == 0 ? held : test_prng_below(&prng, held + 1);
                tpi_output_consume(&output, test_counting_alloc, some);
                want.from += some;
            }
            check_holds(&output, want.bytes + want.from, want.to - want.from);
            check_releases(&want);
        }
        tpi_output_discard(&output, test_counting_alloc, TEPAL_ECLOSED);
        for (size_t i = 0; i < want.owned_count; i++) {
            CHECK_EQ(want.owned[i].seen.times, 1);
            CHECK_EQ(want.owned[i].seen.status, want.owned[i].end <= want.from ? 0 : TEPAL_ECLOSED);
            free(want.owned[i].memory);
        }
        CHECK_EQ(test_alloc_live(), 0);
    }
    free(want.bytes);
    free(want.owned);
}
