/*
 * What the tests of the loop share: loops on the counting allocator, and a log of what ran in which order.
 */
#ifndef TEPAL_TESTS_LOOPS_H
#define TEPAL_TESTS_LOOPS_H

#include "harness/test.h"
#include <tepal.h>

/* A loop of the driver under test; members of tepal_loop_options may follow. */
#define LOOP(...)                                                                                                      \
    loop_make(TEPAL_OPTIONS(tepal_loop_options, .driver = test_driver(), .realloc = test_counting_alloc, __VA_ARGS__))
tepal_loop *loop_make(const tepal_loop_options *options);
void loop_end(tepal_loop *loop);

/* Whether this is a build with ThreadSanitizer. */
bool loop_is_under_tsan(void);

/*
 * Around opening and closing descriptors in one of several threads. ThreadSanitizer takes a descriptor's number for
 * memory, and calls it a race that one thread opens under a number what another one has closed; so there it is done one
 * after the other, and elsewhere at once.
 */
void loop_descriptors_begin(void);
void loop_descriptors_end(void);

/* What ran, one letter each. */
extern char loop_log[128];
void loop_log_clear(void);
void loop_note(char what);

/* A callback that notes its argument: a string literal's first letter. */
void note_first(void *letter);

/* Call it with a loop. */
void stop_loop(void *loop);

/* A callback that counts: argument is an int. */
void count_up(void *counter);

/* One turn after the other until the condition holds, or fail after 10 seconds. */
#define TURN_UNTIL(loop, condition)                                                                                    \
    do {                                                                                                               \
        const int64_t give_up_ns_ = test_now_ns() + TEPAL_SEC(test_is_slow_build() ? 100 : 10);                        \
        while (!(condition)) {                                                                                         \
            if (test_now_ns() > give_up_ns_) {                                                                         \
                test_fail(__FILE__, __LINE__, "waited too long for %s", #condition);                                   \
            }                                                                                                          \
            CHECK_OK(tepal_loop_step(loop, TEPAL_MS(100)));                                                            \
        }                                                                                                              \
    } while (0)

/* Turns until none would follow at once. */
void loop_settle(tepal_loop *loop);

tepal_loop_stats loop_stats(const tepal_loop *loop);

/* Two ends of a pipe, non-blocking and close-on-exec; [0] is for reading. */
void loop_pipe(int fds[2]);

/* Wait for a child and check that it ended well: with status 0, by _exit. */
void wait_for_child(int pid);

#endif
