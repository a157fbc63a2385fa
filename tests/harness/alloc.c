/* The counting allocator. It has no context argument, so its state is per process; each test has its own. */
#include "harness/internal.h"

#include <stdlib.h>

static atomic_size_t live;
static atomic_size_t calls;
static atomic_size_t fail_at; /* the value of `calls` at which to fail; 0 is never */
static atomic_bool fail_onwards;
static atomic_bool has_failed;

static bool must_fail(size_t call) {
    const size_t at = atomic_load(&fail_at);
    return at != 0 && (call == at || (call > at && atomic_load(&fail_onwards)));
}

void *test_counting_alloc(void *memory, size_t size) {
    if (size == 0) {
        if (memory)
            atomic_fetch_sub(&live, 1);
        free(memory);
        return NULL;
    }
    if (must_fail(atomic_fetch_add(&calls, 1) + 1)) {
        atomic_store(&has_failed, true);
        return NULL;
    }

    void *result = realloc(memory, size);
    if (result && !memory)
        atomic_fetch_add(&live, 1);
    return result;
}

size_t test_alloc_live(void) {
    return atomic_load(&live);
}

size_t test_alloc_calls(void) {
    return atomic_load(&calls);
}

void test_alloc_fail_at(size_t n, bool onwards) {
    atomic_store(&has_failed, false);
    atomic_store(&fail_onwards, onwards);
    atomic_store(&fail_at, n == 0 ? 0 : atomic_load(&calls) + n);
}

bool test_alloc_has_failed(void) {
    return atomic_load(&has_failed);
}
