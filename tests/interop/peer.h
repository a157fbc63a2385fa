/* What the parts of tls-peer (peer.c) share: what its command line says, and how a connection is made and told of. */
#ifndef INTEROP_PEER_H
#define INTEROP_PEER_H

#include <tepal.h>

enum {
    PERIOD = 65521, /* of the pattern; prime, so that no record and no buffer falls into step with it */
    STEPS_MAX = 32,
    NAMES_MAX = 8
};

struct step_kind;

/** A word of the command line that says what to do. */
typedef struct step {
    const struct step_kind *kind;
    const char *value; /* what follows the "="; "" if there is none */
} step;

/** The whole program. */
typedef struct peer {
    tepal_loop *loop;
    tepal_server *server;
    tepal_tls_context *context;
    const char *listen, *connect;
    const char *certificate, *key, *ca, *clients, *alpn, *minimum, *maximum, *ciphers, *cipher_suites;
    const char *server_name, *session, *keylog, *ocsp, *handshake_ms, *count;
    bool insecure, no_resumption, starttls, alpn_optional, request_ocsp;
    const char *names[NAMES_MAX]; /* NAME=CERTIFICATE, a file with the key in it */
    size_t name_count;
    step steps[STEPS_MAX];
    size_t step_count;
    char *offered; /* the session, of offered_length bytes */
    size_t offered_length;
    char *stapled; /* the OCSP response, of stapled_length bytes */
    size_t stapled_length;
    unsigned long left; /* connections that have not ended yet */
    uint32_t sums[256];
    char pattern[PERIOD];
} peer;

/** Print a line. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/** What each connection of the program is to be given. */
tepal_tls_options tls_options(const peer *self);

/** Told by a connection that ends, or was never made. */
void one_has_ended(peer *self);

/** Read a step, "NAME" or "NAME=VALUE". Returns false if there is none of that name, or too many. */
bool read_step(peer *self, const char *word);

/** A tepal_factory; argument is the peer. */
int make_end(void *argument, tepal_protocol **protocol);

/** Make the pattern and the table of sums. */
void fill_tables(peer *self);

#endif
