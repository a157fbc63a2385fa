/*
 * An accept4(2) that counts its calls and fails to order. The test program is linked with --wrap=accept4.
 */
#ifndef TEPAL_TESTS_ACCEPT_STUB_H
#define TEPAL_TESTS_ACCEPT_STUB_H

/** Fail the next count calls with this errno; the connection stays in the queue. */
void accept_stub_fail(int error, int count);

/** How many calls there were since the last accept_stub_fail(). */
int accept_stub_calls(void);

#endif
