/* TLS of the echo server: its options, the context that all workers share, and reading the files again. */
#ifndef TOOLS_ECHO_TLS_H
#define TOOLS_ECHO_TLS_H

#include "tls.h"

typedef struct echo_tls {
    const char *certificate, *key, *authorities, *clients, *protocols; /* as given; NULL: not given */
    alpn_list alpn;
    tepal_tls_clients asked;    /* of the clients */
    tepal_tls_context *context; /* NULL: without TLS */
} echo_tls;

/** What is wrong with the options as given, as a sentence; NULL if nothing is. */
const char *echo_tls_check(echo_tls *self);

/** Make the context, if TLS was asked for. Returns whether it could be done; if not, that was explained on stderr. */
bool echo_tls_begin(echo_tls *self);

/** Read every file again, and say on stderr what came of it. Connections, and on an error the old files, stay. */
void echo_tls_reload(echo_tls *self);

#endif
