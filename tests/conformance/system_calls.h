/*
 * send(2), sendmsg(2), recv(2), epoll_ctl(2) and close(2) for tests: they count, cut short, fail to order, and do not
 * let a descriptor be closed twice. The test program is linked with --wrap for each; faults.h has a plan for all calls.
 */
#ifndef TEPAL_TESTS_SYSTEM_CALLS_H
#define TEPAL_TESTS_SYSTEM_CALLS_H

#include <stdbool.h>
#include <stddef.h>

/** Calls of send and sendmsg by this process so far. */
size_t sends_counted(void);

/** Calls of recv and of epoll_ctl by this process so far. */
size_t receives_counted(void);
size_t registrations_counted(void);

/** From now on each call takes at most this many bytes; 0: no limit of ours. */
void sends_limit(size_t bytes);

/** Let so many more calls succeed, then fail each with this errno; error 0: fail none. */
void sends_fail_after(size_t calls, int error);

/** From now on closing what is not open fails the test: it might have been a stranger's. */
void closes_must_be_good(void);

/* For ring.c, whose sends and receives are counted and fail as the calls do. */

/* A send begins: whether it must fail; errno is set then. */
bool sends_must_fail(void);
size_t sends_at_most(size_t length);
void receives_add(void);

#endif
