/*
 * What the tests of futures share: a loop on the counting allocator, a log of what ran, and what the exception handler
 * was told.
 */
#ifndef TEPAL_TESTS_FUTURE_FIXTURE_H
#define TEPAL_TESTS_FUTURE_FIXTURE_H

#include <stdio.h>
#include <tepal.h>
#include "harness/test.h"

typedef struct fixture {
    tepal_loop *loop;
    char log[64];
    int reports;
    int reported_code;
} fixture;

/* A callback that appends one letter to the log. */
typedef struct note {
    fixture *fixture;
    char letter;
} note;

static inline void write_note(void *argument) {
    note *self = argument;
    const size_t length = strlen(self->fixture->log);
    CHECK_LT(length, sizeof self->fixture->log - 1);
    self->fixture->log[length] = self->letter;
}

static inline void note_done(tepal_future *future, void *argument) {
    CHECK(tepal_future_is_done(future));
    write_note(argument);
}

static inline void fixture_report(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    fixture *self = argument;
    CHECK(loop == self->loop);
    CHECK(what != NULL && error->text != NULL);
    self->reports++;
    self->reported_code = error->code;
}

static inline void fixture_start(fixture *self, bool debug) {
    memset(self, 0, sizeof *self);
    CHECK_OK(tepal_loop_new(&self->loop, TEPAL_OPTIONS(tepal_loop_options, .realloc = test_counting_alloc,
                                                       .debug = debug, .slow_callback_ns = -1)));
    tepal_loop_set_exception_handler(self->loop, fixture_report, self);
}

static inline void fixture_end(fixture *self) {
    CHECK_OK(tepal_loop_close(self->loop));
    tepal_loop_unref(self->loop);
}

/* One turn that does not sleep. */
static inline void turn(fixture *self) {
    CHECK_OK(tepal_loop_step(self->loop, 0));
}

static inline tepal_future *new_future(fixture *self) {
    tepal_future *future;
    CHECK_OK(tepal_future_new(self->loop, &future));
    return future;
}

static inline void count_destroy(void *value) {
    ++*(int *)value;
}

#endif
