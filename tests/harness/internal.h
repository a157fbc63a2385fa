/* What the harness's own files share. Tests include test.h only. */
#ifndef TEPAL_TESTS_HARNESS_INTERNAL_H
#define TEPAL_TESTS_HARNESS_INTERNAL_H

#include "harness/test.h"

#include <stdatomic.h>
#include <stdio.h>

/* The drivers that TEST_DRIVERS runs on, ended by NULL. */
extern const char *const test_driver_table[];

/* What a driver has not got: tests whose label begins so are skipped on it. Ended by NULL. */
typedef struct {
    const char *driver, *prefix, *reason;
} test_lack;
extern const test_lack test_lacks[];

typedef enum {
    TEST_UNFINISHED,
    TEST_PASSED,
    TEST_FAILED,
    TEST_SKIPPED,
} test_outcome;

/* One test to run: a case, and for per-driver cases one of the drivers. */
typedef struct {
    const test_case *test;
    const char *driver;   /* or NULL */
    char label[256];      /* "suite/name" or "suite/name:driver" */
    test_outcome outcome; /* once it has run */
    double seconds;
} test_item;

/* What a test's process tells the runner, in memory that both see. A grandchild that fails writes it too. */
typedef struct {
    atomic_int outcome;
    atomic_int timeout_s;
    char message[1024];
    char directory[64];
} test_report;

typedef struct {
    int jobs;
    int limit_s; /* no test gets more seconds; 0: as many as it asks for */
    bool verbose;
    bool no_fork;
    bool fail_fast;
} test_options;

/* Which tests to run; what is NULL or 0 selects all. */
typedef struct {
    char *const *prefixes; /* of labels; one of them must fit */
    int prefix_count;
    const char *driver; /* of the tests that run once per driver, those on this one */
    const char *folder; /* "unit", "conformance", "torture": where the test's file is */
} test_selection;

/* registry.c: every test x driver that is selected, in the order they run. The caller frees the array. */
test_item *test_select(const test_selection *selection, size_t *count);

/* check.c: where this process reports to, and what it runs. In no-fork mode a skip jumps back to the runner. */
void test_enter(test_report *report, const test_item *item, bool forked);
test_report *test_current_report(void);
/* Settle the outcome; false if it is settled already. */
bool test_claim(test_outcome outcome);
void test_run_body(const test_item *item);

/* runner.c: run them, and note each one's outcome. */
void test_run_forked(test_item *items, size_t count, const test_options *options);
void test_run_here(test_item *items, size_t count);

/* time.c */
int test_timeout_factor(void);

/* descriptors.c: a set of open descriptors, and what became of it. */
typedef struct {
    int *fds;
    int count;
} test_fd_set;

test_fd_set test_fds_take(void);
void test_fds_compare(const test_fd_set *before);
void test_directory_remove(const char *path);

#endif
