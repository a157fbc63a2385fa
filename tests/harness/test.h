/*
 * The test harness: what a test file includes, and all it needs to know.
 *
 * A test is a function named by a sentence about behaviour. Each runs in a child process of its own, so that
 * a crash, a hang or a leaked descriptor is that test's failure and nobody else's.
 *
 *     #include "harness/test.h"
 *
 *     TEST(buffer, joins_small_pieces_into_one_chunk)
 *     {
 *         CHECK_EQ(2 + 2, 4);
 *     }
 *
 * Environment: TEST_TIMEOUT multiplies every time limit, TEST_SOAK=1 asks test_rounds() for the full count,
 * TEST_SEED changes what test_prng_start() starts from.
 */
#ifndef TEPAL_TESTS_HARNESS_TEST_H
#define TEPAL_TESTS_HARNESS_TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ---- Declaring tests ---- */

enum {
    TEST_PER_DRIVER = 1, /* run once for each name in the table of drivers.c */
    TEST_IS_ALONE = 2,   /* never beside another test: it measures time, or fills the machine */
};

typedef struct test_case {
    const char *suite;
    const char *name;
    const char *file;
    int line;
    unsigned flags;
    void (*run)(void);
    struct test_case *next;
} test_case;

void test_register(test_case *test);

#define TEST_DEFINE(suite_, name_, flags_)                                                                             \
    static void test_body_##suite_##_##name_(void);                                                                    \
    __attribute__((constructor)) static void test_register_##suite_##_##name_(void) {                                  \
        static test_case test = {.suite = #suite_,                                                                     \
                                 .name = #name_,                                                                       \
                                 .file = __FILE__,                                                                     \
                                 .line = __LINE__,                                                                     \
                                 .flags = (flags_),                                                                    \
                                 .run = test_body_##suite_##_##name_};                                                 \
        test_register(&test);                                                                                          \
    }                                                                                                                  \
    static void test_body_##suite_##_##name_(void)

/** A test, run once. */
#define TEST(suite, name) TEST_DEFINE(suite, name, 0)

/** A test run once per driver, with TEPAL_DRIVER set; reported as suite/name:driver. */
#define TEST_DRIVERS(suite, name) TEST_DEFINE(suite, name, TEST_PER_DRIVER)

/** The same two, never run in parallel with another test. */
#define TEST_ALONE(suite, name) TEST_DEFINE(suite, name, TEST_IS_ALONE)
#define TEST_DRIVERS_ALONE(suite, name) TEST_DEFINE(suite, name, TEST_PER_DRIVER | TEST_IS_ALONE)

/** The driver this test runs on; NULL in a test that was not declared with TEST_DRIVERS. */
const char *test_driver(void);

/* ---- Checking: the first check that fails ends the test, from any thread and from a forked child ---- */

_Noreturn void test_fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
_Noreturn void test_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));
void test_check_integers(const char *file, int line, const char *expression, bool holds, intmax_t a, intmax_t b);
void test_check_ok(const char *file, int line, const char *expression, intmax_t code);
void test_check_strings(const char *file, int line, const char *expression, const char *a, const char *b);
void test_check_memory(const char *file, int line, const char *expression, const void *a, const void *b, size_t size);

#define CHECK(condition) ((condition) ? (void)0 : test_fail(__FILE__, __LINE__, "%s", #condition))

#define TEST_COMPARE(a, op, b)                                                                                         \
    do {                                                                                                               \
        const intmax_t test_a_ = (intmax_t)(a);                                                                        \
        const intmax_t test_b_ = (intmax_t)(b);                                                                        \
        test_check_integers(__FILE__, __LINE__, #a " " #op " " #b, test_a_ op test_b_, test_a_, test_b_);              \
    } while (0)

/** Integers of any type; both values are printed. */
#define CHECK_EQ(a, b) TEST_COMPARE(a, ==, b)
#define CHECK_NE(a, b) TEST_COMPARE(a, !=, b)
#define CHECK_LT(a, b) TEST_COMPARE(a, <, b)
#define CHECK_LE(a, b) TEST_COMPARE(a, <=, b)
#define CHECK_GT(a, b) TEST_COMPARE(a, >, b)
#define CHECK_GE(a, b) TEST_COMPARE(a, >=, b)

/** A Tepal call that must not fail: 0 or a count. Prints the code's sentence otherwise. */
#define CHECK_OK(call) test_check_ok(__FILE__, __LINE__, #call, (intmax_t)(call))

/** Strings, either of which may be NULL. */
#define CHECK_STR(a, b) test_check_strings(__FILE__, __LINE__, #a " == " #b, a, b)

/** `size` bytes; prints the first that differs. */
#define CHECK_MEM(a, b, size) test_check_memory(__FILE__, __LINE__, #a " == " #b, a, b, size)

/** End the test here as skipped. Give the reason; .ci/run wants it listed in tests/skips.txt. */
#define SKIP(...) test_skip(__VA_ARGS__)

/* ---- Time and size ---- */

/** Change this test's time limit (20 seconds unless told), before TEST_TIMEOUT and sanitizers stretch it. */
void test_set_timeout(int seconds);

/** True in a build with a sanitizer or counters of coverage, or under valgrind: code is several times slower there. */
bool test_is_slow_build(void);

/** How often to repeat: `soak` times under TEST_SOAK=1, else `normal`, a twentieth of it in slow builds. */
int64_t test_rounds(int64_t soak, int64_t normal);

/** Monotonic nanoseconds, read from the system and not from the library under test. */
int64_t test_now_ns(void);

/* ---- An allocator that counts and can fail ---- */

/** Shaped like realloc; size 0 frees and returns NULL. Safe in any thread. A test that ends with blocks of it
 *  still alive fails. */
void *test_counting_alloc(void *memory, size_t size);

/** Blocks now alive; and calls so far that could have failed (size above 0). */
size_t test_alloc_live(void);
size_t test_alloc_calls(void);

/** Fail the n-th such call from now (1 is the next), and with `onwards` every one after it. 0 turns it off. */
void test_alloc_fail_at(size_t n, bool onwards);

/** True once a call has been failed since test_alloc_fail_at(). */
bool test_alloc_has_failed(void);

/* ---- Descriptors and sockets ---- */

/** How many descriptors this process has open. */
int test_fd_count(void);

/** Two connected stream sockets, non-blocking and close-on-exec: Unix ones, or TCP over 127.0.0.1. */
void test_socketpair(int fds[2]);
void test_tcp_pair(int fds[2]);

/** Move exactly `size` bytes through a descriptor, blocking or not. Fails the test on error or early EOF. */
void test_write_all(int fd, const void *data, size_t size);
void test_read_exactly(int fd, void *data, size_t size);

/** Wait until poll() reports one of `events` on fd, at most 10 s, or fail. Returns what was reported. */
int test_poll(int fd, short events);

/** A fresh directory of this test's own, removed when it ends. The path is short enough for Unix sockets. */
const char *test_directory(void);

/* ---- Random numbers, the same in every run ---- */

typedef struct {
    uint64_t state;
} test_prng;

/** Start a sequence; `stream` tells the sequences of one test apart. */
test_prng test_prng_start(uint64_t stream);
uint64_t test_prng_next(test_prng *prng);

/** From 0 to limit - 1; limit must not be 0. */
uint64_t test_prng_below(test_prng *prng, uint64_t limit);
void test_prng_fill(test_prng *prng, void *data, size_t size);

#endif
