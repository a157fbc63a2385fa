/* The harness's checks for fuzz targets: they say what failed and abort. See fuzz.h. */
#include "fuzz/support/fuzz.h"
#include <tepal/error.h>

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void test_fail(const char *file, int line, const char *format, ...) {
    va_list arguments;

    fprintf(stderr, "%s:%d: ", file, line);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    abort();
}

void test_check_integers(const char *file, int line, const char *expression, bool holds, intmax_t a, intmax_t b) {
    if (!holds) {
        test_fail(file, line, "%s (left is %jd, right is %jd)", expression, a, b);
    }
}

void test_check_ok(const char *file, int line, const char *expression, intmax_t code) {
    if (code < 0) {
        test_fail(file, line, "%s gave %jd: %s", expression, code, tepal_strerror((int)code));
    }
}

void test_check_strings(const char *file, int line, const char *expression, const char *a, const char *b) {
    if (strcmp(a, b) != 0) {
        test_fail(file, line, "%s (left is \"%s\", right is \"%s\")", expression, a, b);
    }
}

void test_check_memory(const char *file, int line, const char *expression, const void *a, const void *b, size_t size) {
    if (memcmp(a, b, size) != 0) {
        test_fail(file, line, "%s differ", expression);
    }
}

int test_fd_count(void) {
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");

    CHECK(directory != NULL);
    while (readdir(directory) != NULL) {
        count++;
    }
    closedir(directory);
    return count; /* with "." and ".." and the directory itself, the same each time */
}
