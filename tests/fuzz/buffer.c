/*
 * The output chain (src/base/buffer.h) against what it stands for, one long row of bytes: what is gathered is that row
 * in order, nothing moves or changes while it is in the chain, an allocation that fails changes nothing, and each owned
 * write is released once, when its last byte has left.
 *
 * The byte at each place of the row is known from the place, so the row itself need not be kept.
 */
#include "fuzz/support/fuzz.h"
#include "base/buffer.h"

#include <stdlib.h>

enum { PIECES = 6, WRITES = 64, MOST = 20000, HELD = 24 };

typedef struct owned {
    uint8_t *memory;
    uint64_t end; /* the place behind its last byte */
    bool is_released;
    int status;
} owned;

typedef struct row {
    fuzz_input input;
    tpi_output output;
    uint64_t head, tail; /* places of the first byte in the chain and of the next to come */
    owned writes[WRITES];
    size_t write_count;
} row;

static uint8_t at(uint64_t place) {
    return (uint8_t)(place ^ place >> 8 ^ 0x5a);
}

static void release(void *argument, int status) {
    owned *write = argument;
    CHECK(!write->is_released);
    write->is_released = true;
    write->status = status;
    free(write->memory);
}

/* Cut memory for skip strange bytes and then the next of the row into pieces, some empty. Returns how many bytes. */
static size_t make_pieces(row *r, struct iovec pieces[PIECES], uint8_t **memory, size_t *skip) {
    size_t lengths[PIECES], length = 0;
    for (size_t i = 0; i < PIECES; i++) {
        lengths[i] = fuzz_length(&r->input, MOST);
        length += lengths[i];
    }
    *skip = fuzz_length(&r->input, length);
    uint8_t *bytes = malloc(length + 1);
    for (size_t i = 0; i < length; i++) {
        bytes[i] = i < *skip ? 0xee : at(r->tail + i - *skip);
    }
    *memory = bytes;
    for (size_t i = 0; i < PIECES; i++) {
        pieces[i] = (struct iovec){.iov_base = lengths[i] == 0 ? NULL : bytes, .iov_len = lengths[i]};
        bytes += lengths[i];
    }
    CHECK_EQ(tpi_pieces_bytes(pieces, PIECES), length);
    return length;
}

static void copy(row *r) {
    struct iovec pieces[PIECES];
    uint8_t *memory;
    size_t skip;
    const size_t length = make_pieces(r, pieces, &memory, &skip);
    const uint64_t before = r->output.bytes;
    const int code = tpi_output_copy(&r->output, test_counting_alloc, pieces, PIECES, skip);
    free(memory);
    if (code == 0) {
        r->tail += length - skip;
    } else {
        CHECK_EQ(code, TEPAL_ENOMEM);
        CHECK(test_alloc_has_failed());
        CHECK_EQ(r->output.bytes, before);
    }
}

static void own(row *r) {
    struct iovec pieces[PIECES];
    uint8_t *memory;
    size_t skip;
    if (r->write_count == WRITES) {
        return;
    }
    const size_t length = make_pieces(r, pieces, &memory, &skip);
    if (length == skip) {
        free(memory);
        return;
    }
    owned *write = &r->writes[r->write_count];
    *write = (owned){.memory = memory, .end = r->tail + length - skip};
    const int code = tpi_output_own(&r->output, test_counting_alloc, pieces, PIECES, skip, release, write);
    CHECK(!write->is_released);
    if (code == 0) {
        r->tail += length - skip;
        r->write_count++;
    } else {
        CHECK_EQ(code, TEPAL_ENOMEM);
        CHECK(test_alloc_has_failed());
        free(memory);
    }
}

/* Everything in the chain is the row from head to tail. */
static void check_bytes(const row *r) {
    static struct iovec all[PIECES * WRITES + 4096];
    const size_t count = tpi_output_gather(&r->output, all, sizeof all / sizeof all[0]);
    uint64_t place = r->head;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *bytes = all[i].iov_base;
        CHECK_GT(all[i].iov_len, 0);
        for (size_t k = 0; k < all[i].iov_len; k++) {
            CHECK_EQ(bytes[k], at(place++));
        }
    }
    CHECK_EQ(place, r->tail);
    CHECK_EQ(r->output.bytes, r->tail - r->head);
    struct iovec few[3];
    const size_t limit = count < 3 ? count : 3;
    CHECK_EQ(tpi_output_gather(&r->output, few, 3), limit);
    CHECK_MEM(few, all, limit * sizeof few[0]);
}

/* A driver may hold what was gathered: adding must leave it where it is, and only the last piece may become longer. */
static void add(row *r, void (*how)(row *)) {
    struct iovec before[HELD], after[HELD];
    const size_t count = tpi_output_gather(&r->output, before, HELD);
    how(r);
    CHECK_GE(tpi_output_gather(&r->output, after, HELD), count);
    for (size_t i = 0; i < count; i++) {
        CHECK(after[i].iov_base == before[i].iov_base);
        CHECK(after[i].iov_len == before[i].iov_len ||
              (after[i].iov_len > before[i].iov_len && (i == count - 1 || i == HELD - 1)));
    }
}

static void check_released(const row *r) {
    for (size_t i = 0; i < r->write_count; i++) {
        CHECK_EQ(r->writes[i].is_released, r->writes[i].end <= r->head);
        CHECK(!r->writes[i].is_released || r->writes[i].status <= 0);
    }
}

static void consume(row *r) {
    const uint64_t waiting = r->tail - r->head;
    uint64_t count = fuzz_number(&r->input, 2);
    count = count < waiting ? count : waiting;
    r->head += count; /* first: a release looks at nothing, but the checks do */
    tpi_output_consume(&r->output, test_counting_alloc, count);
}

static void discard(row *r) {
    bool waited[WRITES];
    for (size_t i = 0; i < r->write_count; i++) {
        waited[i] = !r->writes[i].is_released;
    }
    r->head = r->tail;
    tpi_output_discard(&r->output, test_counting_alloc, TEPAL_ECLOSED);
    for (size_t i = 0; i < r->write_count; i++) {
        CHECK_EQ(r->writes[i].status, waited[i] ? TEPAL_ECLOSED : r->writes[i].status);
    }
}

/* As in a forked child: the chain is gone, and nobody was told. */
static void forget(row *r) {
    tpi_output_forget(&r->output, test_counting_alloc);
    for (size_t i = 0; i < r->write_count; i++) {
        if (r->writes[i].end > r->head) {
            CHECK(!r->writes[i].is_released);
            free(r->writes[i].memory);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static row r;
    memset(&r, 0, sizeof r);
    r.input = (fuzz_input){.data = data, .left = size < 2000 ? size : 2000};
    test_alloc_fail_at(0, false);
    while (r.input.left > 0) {
        switch (fuzz_below(&r.input, 8)) {
        case 0:
        case 1:
        case 2:
            add(&r, copy);
            break;
        case 3:
            add(&r, own);
            break;
        case 4:
        case 5:
            consume(&r);
            break;
        case 6:
            test_alloc_fail_at(fuzz_below(&r.input, 4), false);
            break;
        default:
            if (fuzz_below(&r.input, 8) == 7) {
                discard(&r);
            } else {
                check_bytes(&r);
            }
        }
        check_released(&r);
        CHECK_EQ(r.output.bytes, r.tail - r.head);
    }
    check_bytes(&r);
    if (size % 2 == 0) {
        discard(&r);
        check_released(&r);
    } else {
        forget(&r);
    }
    CHECK_EQ(test_alloc_live(), 0);
    return 0;
}
