/* What a failing or skipped check does: says where and why, and ends the test's process at once. */
#include "harness/internal.h"

#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

/* The library's own words for a code, when the test binary has the library in it. */
const char *tepal_strerror(int code) __attribute__((weak));

static test_report *current_report;
static const test_item *current_item;
static bool is_forked;
static jmp_buf back_to_runner;

void test_enter(test_report *report, const test_item *item, bool forked) {
    current_report = report;
    current_item = item;
    is_forked = forked;
}

test_report *test_current_report(void) {
    return current_report;
}

const char *test_driver(void) {
    return current_item ? current_item->driver : NULL;
}

static void skip_what_the_driver_lacks(const test_item *item) {
    for (const test_lack *lack = test_lacks; lack->driver; lack++) {
        if (strcmp(lack->driver, item->driver) == 0 && strncmp(item->label, lack->prefix, strlen(lack->prefix)) == 0)
            test_skip("%s", lack->reason);
    }
}

/* Runs the test. Comes back here, in no-fork mode, also when the test skips itself. */
void test_run_body(const test_item *item) {
    if (item->driver)
        setenv("TEPAL_DRIVER", item->driver, 1);
    if (is_forked || setjmp(back_to_runner) == 0) {
        if (item->driver)
            skip_what_the_driver_lacks(item);
        item->test->run();
    }
}

/* Only the first outcome counts: after a failure, other threads may still fail while the process goes down. */
bool test_claim(test_outcome outcome) {
    int expected = TEST_UNFINISHED;
    return atomic_compare_exchange_strong(&current_report->outcome, &expected, (int)outcome);
}

static bool is_being_debugged(void) {
    char line[128];
    bool traced = false;
    FILE *status = fopen("/proc/self/status", "re");

    if (!status)
        return false;
    while (fgets(line, sizeof line, status)) {
        if (strncmp(line, "TracerPid:", 10) == 0)
            traced = atoi(line + 10) != 0;
    }
    fclose(status);
    return traced;
}

void test_fail(const char *file, int line, const char *format, ...) {
    char what[900];
    va_list arguments;

    while (strncmp(file, "../", 3) == 0) /* the build folder is below the tree's root */
        file += 3;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    if (test_claim(TEST_FAILED))
        snprintf(current_report->message, sizeof current_report->message, "%s:%d: %s", file, line, what);
    fflush(NULL);
    if (is_forked)
        _exit(1);

    printf("FAIL  %s\n      %s\n", current_item->label, current_report->message);
    fflush(stdout);
    if (is_being_debugged())
        raise(SIGTRAP);
    printf("0 passed, 1 failed, 0 skipped\n");
    fflush(stdout);
    _exit(1);
}

void test_skip(const char *format, ...) {
    va_list arguments;

    va_start(arguments, format);
    if (test_claim(TEST_SKIPPED))
        vsnprintf(current_report->message, sizeof current_report->message, format, arguments);
    va_end(arguments);
    fflush(NULL);
    if (is_forked)
        _exit(0);
    longjmp(back_to_runner, 1);
}

void test_check_integers(const char *file, int line, const char *expression, bool holds, intmax_t a, intmax_t b) {
    if (!holds)
        test_fail(file, line, "%s (left is %jd, right is %jd)", expression, a, b);
}

void test_check_ok(const char *file, int line, const char *expression, intmax_t code) {
    if (code < 0)
        test_fail(file, line, "%s gave %jd: %s", expression, code,
                  tepal_strerror ? tepal_strerror((int)code) : "an error");
}

void test_check_strings(const char *file, int line, const char *expression, const char *a, const char *b) {
    const bool equal = a && b ? strcmp(a, b) == 0 : a == b;

    if (!equal)
        test_fail(file, line, "%s (left is %s%s%s, right is %s%s%s)", expression, a ? "\"" : "", a ? a : "NULL",
                  a ? "\"" : "", b ? "\"" : "", b ? b : "NULL", b ? "\"" : "");
}

void test_check_memory(const char *file, int line, const char *expression, const void *a, const void *b, size_t size) {
    const unsigned char *left = a;
    const unsigned char *right = b;

    for (size_t i = 0; i < size; i++) {
        if (left[i] != right[i])
            test_fail(file, line, "%s differ at byte %zu of %zu (left has 0x%02x, right has 0x%02x)", expression, i,
                      size, left[i], right[i]);
    }
}
