/* Time limits and repetition counts, and what stretches or shrinks them. */
#include "harness/internal.h"

#include <stdlib.h>
#include <time.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define IS_SANITIZED 1
#endif
#endif

static bool is_soak(void) {
    const char *soak = getenv("TEST_SOAK");
    return soak && strcmp(soak, "1") == 0;
}

bool test_is_slow_build(void) {
#if defined(IS_SANITIZED) || defined(COUNTS_COVERAGE)
    return true;
#else
    /* tests/run --valgrind says so; asking valgrind itself would need its headers. */
    return getenv("TEST_VALGRIND") != NULL;
#endif
}

int test_timeout_factor(void) {
    const char *text = getenv("TEST_TIMEOUT");
    const int asked = text ? atoi(text) : 0;
    const int factor = asked > 0 ? asked : 1;

    return factor * (test_is_slow_build() ? 4 : 1) * (is_soak() ? 60 : 1);
}

void test_set_timeout(int seconds) {
    atomic_store(&test_current_report()->timeout_s, seconds);
}

int64_t test_rounds(int64_t soak, int64_t normal) {
    if (is_soak())
        return soak;
    if (test_is_slow_build() && normal > 20)
        return normal / 20;
    return normal;
}

int64_t test_now_ns(void) {
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}
