/* What the echo servers on OpenSSL share: the context of their connections, so that they differ in how bytes come and go
 * and in nothing else. */
#ifndef BENCH_SERVE_TLS_H
#define BENCH_SERVE_TLS_H

#include <openssl/ssl.h>

#include "serve.h"

/** A server's context for TLS 1.3 with the certificate and key of the command line. Buffers of an idle connection are
 * released, and a write may be repeated from elsewhere; all else is as OpenSSL has it by default. Ignores SIGPIPE, since
 * OpenSSL writes by write(). Exits with status 2 if there is no certificate, and with status 1 if anything fails. */
SSL_CTX *serve_tls_context(const serve_options *options);

#endif
