/*
 * TLS on a simulated network, by chance: two hosts, a server, several connections, and what both ends do with them. A model
 * knows what each end was told and did, and says what may follow. Everything comes of the seed, the engine's randomness too.
 */
#ifndef TEPAL_TESTS_TLS_SEEDS_H
#define TEPAL_TESTS_TLS_SEEDS_H

#include "conformance/plumbing.h"
#include "conformance/tls_identities.h"

typedef struct tls_result {
    uint64_t hash, events;
    uint64_t bytes;   /* that arrived, of all streams */
    uint64_t secrets; /* a hash of what binds each connection: equal only where every byte of the handshakes is */
    unsigned made, clean_ends, failures;
} tls_result;

/*
 * One run; it fails the test, with the seed, where the model is not held to. Without tickets, which have the time of day in
 * them, it is the same to the byte each time.
 */
void tls_seeds_run(uint64_t seed, bool has_tickets, tls_result *result);

#endif
