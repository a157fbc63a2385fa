/*
 * An accept4(2) that counts its calls and fails to order. The test program is linked with --wrap=accept4.
 */
#ifndef TEPAL_TESTS_ACCEPT_STUB_H
#define TEPAL_TESTS_ACCEPT_STUB_H

#include <stdbool.h>

/** Fail the next count calls with this errno; the connection stays in the queue. */
void accept_stub_fail(int error, int count);

/** How many calls there were since the last accept_stub_fail(). */
int accept_stub_calls(void);

/* For ring.c: one more is asked for. The errno that it must fail with, or 0. */
int accept_stub_ask(void);
/* Whether one would fail now. */
bool accept_stub_is_failing(void);

#endif
