/*
 * A getaddrinfo(3) that fails, waits or answers as the name says. The test program's own definition comes before
 * libc's; names that do not end in ".stub" go on to libc.
 *
 *   eai-N.stub      fails with the EAI_ code N, given as it is (negative in glibc)
 *   errno-N.stub    fails with EAI_SYSTEM and errno N
 *   list.stub       127.0.0.1, ::1 and 127.0.0.2, in that order
 *   slow.stub       the same after resolver_stub_release(), once for each call of it
 */
#ifndef TEPAL_TESTS_RESOLVER_STUB_H
#define TEPAL_TESTS_RESOLVER_STUB_H

/** Wait until a call for slow.stub has begun. */
void resolver_stub_wait(void);

/** Let one call for slow.stub end. */
void resolver_stub_release(void);

/** The flags of the last call for a name that ends in ".stub". */
int resolver_stub_flags(void);

#endif
