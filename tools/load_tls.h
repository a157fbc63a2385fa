/* TLS of the load generator: its options, the context of its connections, and what they agreed upon. */
#ifndef TOOLS_LOAD_TLS_H
#define TOOLS_LOAD_TLS_H

#include "endpoint.h"
#include "tls.h"

enum { TLS_NAME_MAX = 64 };

typedef struct load_tls {
    bool wanted, insecure;
    const char *authorities, *server_name, *certificate, *key, *protocols, *version; /* as given; NULL: not given */
    alpn_list alpn;
    tepal_tls_version only;    /* 0: any */
    tepal_tls_options options; /* for each connection, once there is a context */
    /* Of the first connection. */
    char agreed_version[TLS_NAME_MAX], agreed_cipher[TLS_NAME_MAX];
    char agreed_protocol[ALPN_NAME_MAX + 1]; /* "": none */
    uint64_t handshakes, resumed;
} load_tls;

/** What is wrong with the options as given for this server, as a sentence; NULL if nothing is. */
const char *load_tls_check(load_tls *self, const endpoint *server);

/** Make the context, if TLS was asked for. Returns whether it could be done; if not, that was explained on stderr. */
bool load_tls_begin(load_tls *self);

void load_tls_end(load_tls *self);

/** Look at what a new connection agreed upon. */
void load_tls_note(load_tls *self, const tepal_transport *transport);

/** What to do about an error of connecting, as a sentence; NULL: nothing is known. */
const char *load_tls_hint(int code);

#endif
