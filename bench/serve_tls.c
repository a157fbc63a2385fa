/* The context of the echo servers on OpenSSL (see serve_tls.h). */
#include "serve_tls.h"

#include <openssl/err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "%s: ", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

SSL_CTX *serve_tls_context(const serve_options *options) {
    if (options->tls_certificate == NULL) {
        fprintf(stderr, "this server needs --tls-cert and --tls-key\n");
        exit(2);
    }
    signal(SIGPIPE, SIG_IGN);
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    if (context == NULL || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1)
        fail("SSL_CTX_new");
    if (SSL_CTX_use_certificate_chain_file(context, options->tls_certificate) != 1)
        fail(options->tls_certificate);
    if (SSL_CTX_use_PrivateKey_file(context, options->tls_key, SSL_FILETYPE_PEM) != 1)
        fail(options->tls_key);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return context;
}
