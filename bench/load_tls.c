/* The load generator's TLS: OpenSSL straight on the descriptor, whatever the server is made of, so that what the client
 * costs is the same for all. It reads ahead and keeps its buffers. */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "load.h"

static SSL_CTX *context;
static SSL_SESSION *session;

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "load: %s: ", what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

/* The version and the suite are fixed, so a server that would rather have others fails the handshake. */
static void set_up(void) {
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes by write() */
    context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(context, "TLS_AES_256_GCM_SHA384") != 1)
        fail("SSL_CTX_new");
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_read_ahead(context, 1);
}

static void *begin(int fd, bool resume) {
    if (context == NULL)
        set_up();
    SSL *ssl = SSL_new(context);
    if (ssl == NULL || SSL_set_fd(ssl, fd) != 1 || (resume && SSL_set_session(ssl, session) != 1))
        fail("SSL_new");
    SSL_set_connect_state(ssl);
    return ssl;
}

/* What send() and recv() would have returned. errno is the system's own where the socket failed. */
static ssize_t outcome(SSL *ssl, int result) {
    if (result > 0)
        return result;
    int error = SSL_get_error(ssl, result);
    if (error == SSL_ERROR_ZERO_RETURN)
        return 0;
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        errno = EAGAIN;
    } else if (error == SSL_ERROR_SSL) {
        ERR_print_errors_fp(stderr);
        errno = EPROTO;
    }
    return -1;
}

static ssize_t send_record(void *tls, const void *data, size_t length) {
    return outcome(tls, SSL_write(tls, data, (int)length));
}

static ssize_t receive_record(void *tls, void *data, size_t length) {
    return outcome(tls, SSL_read(tls, data, (int)length));
}

static bool pending(void *tls) {
    return SSL_has_pending(tls) == 1;
}

static bool keep_session(void *tls) {
    session = SSL_get1_session(tls);
    return session != NULL && SSL_SESSION_is_resumable(session) == 1;
}

static bool resumed(void *tls) {
    return SSL_session_reused(tls) == 1;
}

/* A session whose connection is freed without a close_notify could not be resumed any more. */
static void end(void *tls) {
    if (SSL_is_init_finished(tls) == 0 || SSL_shutdown(tls) < 0)
        SSL_set_shutdown(tls, SSL_SENT_SHUTDOWN);
    SSL_free(tls);
    ERR_clear_error();
}

const load_tls_calls load_openssl = {
    .begin = begin,
    .send = send_record,
    .receive = receive_record,
    .pending = pending,
    .keep_session = keep_session,
    .resumed = resumed,
    .end = end,
};
