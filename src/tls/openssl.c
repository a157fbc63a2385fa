/*
 * The TLS engine on OpenSSL 3. A BIO of our own stands where OpenSSL expects a socket: its reads copy out of what came
 * from below, straight into the record buffer, and its writes append to what is to go below, straight from it.
 *
 * Errors become codes here, and OpenSSL's queue of them is left empty. Its retries need no queue: SSL_want() tells.
 */
#include "tls/engine.h"
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <arpa/inet.h>
#include <unistd.h>

/* The BIO */

static int bio_read(BIO *bio, char *data, size_t length, size_t *read) {
    tpi_engine *engine = BIO_get_data(bio);
    const size_t count = length < engine->in_length ? length : engine->in_length;
    BIO_clear_retry_flags(bio);
    if (count == 0) {
        engine->is_dry = true;
        BIO_set_retry_read(bio);
        return 0;
    }
    memcpy(data, engine->in, count);
    engine->in += count;
    engine->in_length -= count;
    *read = count;
    return 1;
}

static int bio_write(BIO *bio, const char *data, size_t length, size_t *written) {
    tpi_engine *engine = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    for (size_t done = 0; done < length;) {
        if (engine->out_length == engine->out_room) {
            engine->spill(engine);
        }
        const size_t room = engine->out_room - engine->out_length;
        if (room == 0) {
            return 0; /* it has nowhere to go: the stream has ended */
        }
        const size_t count = length - done < room ? length - done : room;
        memcpy(engine->out + engine->out_length, data + done, count);
        engine->out_length += count;
        done += count;
    }
    *written = length;
    return 1;
}

static long bio_control(BIO *bio, int command, long number, void *pointer) {
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

static int bio_create(BIO *bio) {
    BIO_set_init(bio, 1);
    return 1;
}

static BIO_METHOD *bio_method;
static pthread_once_t bio_once = PTHREAD_ONCE_INIT;

static void make_bio_method(void) {
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "tepal");
    if (method != NULL && BIO_meth_set_read_ex(method, bio_read) && BIO_meth_set_write_ex(method, bio_write) &&
        BIO_meth_set_ctrl(method, bio_control) && BIO_meth_set_create(method, bio_create)) {
        bio_method = method;
    } else {
        BIO_meth_free(method);
    }
}

/* Errors */

static int verify_code(long result) {
    switch (result) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        return TEPAL_ETLS_EXPIRED;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return TEPAL_ETLS_NOT_YET_VALID;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        return TEPAL_ETLS_WRONG_HOST;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
        return TEPAL_ETLS_SELF_SIGNED;
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_UNTRUSTED:
        return TEPAL_ETLS_UNKNOWN_AUTHORITY;
    case X509_V_ERR_CERT_REVOKED:
        return TEPAL_ETLS_REVOKED;
    case X509_V_ERR_OUT_OF_MEM:
        return TEPAL_ENOMEM;
    default:
        return TEPAL_ETLS_UNFIT;
    }
}

/* What an alert of the peer's means (RFC 8446, section 6.2). */
static int alert_code(int alert) {
    switch (alert) {
    case SSL_AD_HANDSHAKE_FAILURE:
        return TEPAL_ETLS_NOTHING_IN_COMMON;
    case SSL_AD_NO_CERTIFICATE:
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNKNOWN_CA:
        return TEPAL_ETLS_REFUSED;
    case SSL_AD_PROTOCOL_VERSION:
        return TEPAL_ETLS_VERSION;
    case SSL_AD_INSUFFICIENT_SECURITY:
        return TEPAL_ETLS_CIPHER;
    case SSL_AD_UNRECOGNIZED_NAME:
        return TEPAL_ETLS_UNKNOWN_NAME;
    case SSL_AD_CERTIFICATE_REQUIRED:
        return TEPAL_ETLS_CERTIFICATE_REQUIRED;
    case SSL_AD_NO_APPLICATION_PROTOCOL:
        return TEPAL_ETLS_ALPN;
    case SSL_AD_BAD_RECORD_MAC:
        return TEPAL_ETLS_DAMAGED;
    default:
        return TEPAL_ETLS_ALERT;
    }
}

static int reason_code(int reason) {
    switch (reason) {
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
        return TEPAL_ETLS_HTTP;
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_VERSION_TOO_LOW:
    case SSL_R_VERSION_TOO_HIGH:
    case SSL_R_WRONG_SSL_VERSION:
    case SSL_R_UNKNOWN_PROTOCOL:
    case SSL_R_INAPPROPRIATE_FALLBACK:
        return TEPAL_ETLS_VERSION;
    case SSL_R_NO_SHARED_CIPHER:
    case SSL_R_NO_CIPHERS_AVAILABLE:
    case SSL_R_NO_SUITABLE_KEY_SHARE:
    case SSL_R_NO_SUITABLE_GROUPS:
    case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
    case SSL_R_NO_SHARED_SIGNATURE_ALGORITHMS:
        return TEPAL_ETLS_CIPHER;
    case SSL_R_NO_APPLICATION_PROTOCOL:
        return TEPAL_ETLS_ALPN;
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        return TEPAL_ETLS_NO_CERTIFICATE;
    case SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC:
    case SSL_R_DECRYPTION_FAILED:
        return TEPAL_ETLS_DAMAGED;
    case SSL_R_CA_KEY_TOO_SMALL:
    case SSL_R_CA_MD_TOO_WEAK:
    case SSL_R_EE_KEY_TOO_SMALL:
        return TEPAL_ETLS_UNFIT;
    default:
        return TEPAL_ETLS_PROTOCOL;
    }
}

/* Whether the first bytes that came are those of a line of text that HTTP begins with. */
static bool is_http(const uint8_t *bytes, size_t length) {
    static const char *const beginnings[] = {"HTTP/", "GET ",     "POST ",    "HEAD ",
                                             "PUT ",  "OPTIONS ", "CONNECT ", "DELETE "};
    for (size_t i = 0; i < sizeof beginnings / sizeof beginnings[0]; i++) {
        const size_t size = strlen(beginnings[i]);
        if (length >= size && memcmp(bytes, beginnings[i], size) == 0) {
            return true;
        }
    }
    return false;
}

/* What OpenSSL's newest error means for the connection. */
static int failure_of(tpi_engine *engine) {
    const unsigned long error = ERR_peek_last_error();
    const int reason = ERR_GET_REASON(error);
    const long verified = SSL_get_verify_result(engine->ssl);
    int code;
    if (engine->failure < 0) {
        code = engine->failure;
    } else if (reason == ERR_R_MALLOC_FAILURE) {
        code = TEPAL_ENOMEM;
    } else if (ERR_GET_LIB(error) != ERR_LIB_SSL) {
        code = error == 0 ? TEPAL_ETLS_PROTOCOL : TEPAL_ETLS_ENGINE;
    } else if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED && verified != X509_V_OK) {
        code = verify_code(verified);
    } else {
        code = reason > SSL_AD_REASON_OFFSET ? alert_code(reason - SSL_AD_REASON_OFFSET) : reason_code(reason);
    }
    ERR_clear_error();
    engine->failure = code;
    return code;
}

/* What a call of OpenSSL's that has not succeeded says. */
static int outcome(tpi_engine *engine) {
    if (engine->is_dry && SSL_want(engine->ssl) == SSL_READING) {
        return TPI_ENGINE_DRY;
    }
    if (engine->failure == 0 && engine->has_ended) {
        ERR_clear_error(); /* what came after it */
        return TPI_ENGINE_ENDED;
    }
    return failure_of(engine);
}

/* Callbacks */

static tpi_engine *engine_of(const SSL *ssl) {
    return SSL_get_app_data(ssl);
}

/* The peer's close_notify is told here, where no error that somebody else has left in the queue can hide it. */
static void note_alert(const SSL *ssl, int where, int alert) {
    if (where == SSL_CB_READ_ALERT && (alert & 0xff) == SSL_AD_CLOSE_NOTIFY) {
        engine_of(ssl)->has_ended = true;
    }
}

/* The host name of a ClientHello's server_name extension (RFC 6066, section 3). 0; 1: there is none; or below 0. */
static int asked_name(SSL *ssl, char name[TPI_TLS_NAME_BYTES]) {
    const unsigned char *bytes;
    size_t length;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &bytes, &length)) {
        return 1;
    }
    /* A list of names, each with its kind, of which there is one: the host's. */
    if (length < 5 || (size_t)(bytes[0] << 8 | bytes[1]) != length - 2 || bytes[2] != TLSEXT_NAMETYPE_host_name ||
        (size_t)(bytes[3] << 8 | bytes[4]) != length - 5) {
        return TEPAL_ETLS_PROTOCOL;
    }
    return tpi_tls_copy_name(name, (const char *)bytes + 5, length - 5) ? 0 : TEPAL_ETLS_UNKNOWN_NAME;
}

/*
 * From now on as the credentials say that were found for the name. Of what a connection takes from its SSL_CTX when it is
 * made OpenSSL exchanges the certificates and who is trusted; the rest is exchanged here. 0 or TEPAL_ENOMEM.
 */
static int use_credentials(tpi_engine *engine) {
    SSL *ssl = engine->ssl;
    SSL_CTX *ctx = engine->credentials->ctx;
    if (SSL_set_SSL_CTX(ssl, ctx) != ctx) {
        return TEPAL_ENOMEM; /* what stays is somebody else's trust */
    }
    SSL_set_verify(ssl, SSL_CTX_get_verify_mode(ctx), SSL_CTX_get_verify_callback(ctx));
    X509_VERIFY_PARAM_set_flags(SSL_get0_param(ssl), X509_VERIFY_PARAM_get_flags(SSL_CTX_get0_param(ctx)));
    SSL_clear_options(ssl, SSL_OP_NO_TICKET);
    SSL_set_options(ssl, SSL_CTX_get_options(ctx));
    const bool done = SSL_set_min_proto_version(ssl, (int)SSL_CTX_get_min_proto_version(ctx)) > 0 &&
                      SSL_set_max_proto_version(ssl, (int)SSL_CTX_get_max_proto_version(ctx)) > 0 &&
                      SSL_set_num_tickets(ssl, engine->no_tickets ? 0 : SSL_CTX_get_num_tickets(ctx)) > 0;
    return done ? 0 : TEPAL_ENOMEM;
}

static int choose_context(SSL *ssl, int *alert, void *argument) {
    tpi_engine *engine = engine_of(ssl);
    char name[TPI_TLS_NAME_BYTES];
    tepal_tls_context *chosen;
    (void)argument;
    int code = asked_name(ssl, name);
    const bool is_named = code == 0;
    if (is_named) {
        tpi_free(tpi_default_realloc, engine->name);
        engine->name = tpi_tls_copy_text(name);
        code = engine->name == NULL ? TEPAL_ENOMEM : 0;
    }
    if (code >= 0) {
        code = tpi_context_choose(engine->context, engine->credentials, is_named ? name : NULL, &chosen);
    }
    if (code < 0) {
        engine->failure = code == TEPAL_ENOMEM || code == TEPAL_ETLS_PROTOCOL ? code : TEPAL_ETLS_UNKNOWN_NAME;
        *alert = code == TEPAL_ETLS_PROTOCOL ? SSL_AD_DECODE_ERROR : SSL_AD_UNRECOGNIZED_NAME;
        return SSL_CLIENT_HELLO_ERROR;
    }
    if (chosen == engine->context) {
        tepal_tls_context_unref(chosen);
        return SSL_CLIENT_HELLO_SUCCESS;
    }
    tpi_credentials *own = engine->credentials;
    tepal_tls_context *before = engine->context;
    engine->context = chosen;
    engine->credentials = tpi_context_credentials(chosen);
    code = use_credentials(engine);
    tpi_credentials_unref(own);
    tepal_tls_context_unref(before);
    if (code < 0) {
        engine->failure = code;
        *alert = SSL_AD_INTERNAL_ERROR;
        return SSL_CLIENT_HELLO_ERROR;
    }
    return SSL_CLIENT_HELLO_SUCCESS;
}

/* The server's preference decides. */
static int choose_alpn(SSL *ssl, const unsigned char **chosen, unsigned char *chosen_length,
                       const unsigned char *offered, unsigned offered_length, void *argument) {
    const tpi_credentials *credentials = engine_of(ssl)->credentials;
    (void)argument;
    for (size_t i = 0; i < credentials->alpn_length; i += 1u + credentials->alpn[i]) {
        const unsigned char *own = credentials->alpn + i;
        for (unsigned at = 0; at + 1 <= offered_length && at + 1 + offered[at] <= offered_length;
             at += 1u + offered[at]) {
            if (own[0] == offered[at] && memcmp(own + 1, offered + at + 1, own[0]) == 0) {
                *chosen = own + 1;
                *chosen_length = own[0];
                return SSL_TLSEXT_ERR_OK;
            }
        }
    }
    return credentials->alpn_length == 0 || credentials->options.alpn_optional ? SSL_TLSEXT_ERR_NOACK
                                                                               : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int keep_session(SSL *ssl, SSL_SESSION *session) {
    const tpi_engine *engine = engine_of(ssl);
    if (engine->name == NULL || !SSL_SESSION_is_resumable(session)) {
        return 0;
    }
    tpi_context_keep_session(engine->context, engine->credentials, engine->name, session);
    return 1; /* the reference is the context's now */
}

static int staple(SSL *ssl, void *argument) {
    const tpi_credentials *credentials = engine_of(ssl)->credentials;
    const size_t length = credentials->options.ocsp_response_length;
    (void)argument;
    void *copy = length == 0 ? NULL : OPENSSL_memdup(credentials->options.ocsp_response, length);
    if (copy == NULL) {
        return SSL_TLSEXT_ERR_NOACK;
    }
    SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long)length);
    return SSL_TLSEXT_ERR_OK;
}

static void log_secret(const SSL *ssl, const char *line) {
    const tpi_credentials *credentials = engine_of(ssl)->credentials;
    char whole[512]; /* a label, 32 bytes and at most 64 in hexadecimal digits */
    const size_t length = strlen(line);
    if (length < sizeof whole) { /* in one write: other threads append to it as well */
        memcpy(whole, line, length + 1);
        whole[length] = '\n';
        (void)!write(credentials->keylog_fd, whole, length + 1);
    }
}

static void install_for_server(SSL_CTX *ctx, const tpi_credentials *credentials) {
    const tepal_tls_context_options *options = &credentials->options;
    SSL_CTX_set_client_hello_cb(ctx, choose_context, NULL);
    SSL_CTX_set_alpn_select_cb(ctx, choose_alpn, NULL);
    SSL_CTX_set_tlsext_status_cb(ctx, staple);
    (void)SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, tpi_context_seal_ticket);
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF); /* tickets only: nothing is kept here */
    if (options->no_resumption) {
        (void)SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
        (void)SSL_CTX_set_num_tickets(ctx, 0);
    }
    SSL_CTX_set_verify(ctx,
                       options->clients == TEPAL_TLS_CLIENTS_ANY   ? SSL_VERIFY_NONE
                       : options->clients == TEPAL_TLS_CLIENTS_MAY ? SSL_VERIFY_PEER
                                                                   : SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                       NULL);
}

static void install_for_client(SSL_CTX *ctx, const tpi_credentials *credentials) {
    const tepal_tls_context_options *options = &credentials->options;
    SSL_CTX_set_verify(ctx, options->insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    if (credentials->alpn_length > 0) {
        (void)SSL_CTX_set_alpn_protos(ctx, credentials->alpn, (unsigned)credentials->alpn_length);
    }
    if (options->request_ocsp) {
        (void)SSL_CTX_set_tlsext_status_type(ctx, TLSEXT_STATUSTYPE_ocsp);
    }
    if (options->no_resumption) {
        (void)SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
        (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    } else {
        (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(ctx, keep_session);
    }
}

void tpi_engine_install(SSL_CTX *ctx, const tpi_credentials *credentials) {
    if (credentials->options.server) {
        install_for_server(ctx, credentials);
    } else {
        install_for_client(ctx, credentials);
    }
    SSL_CTX_set_info_callback(ctx, note_alert);
    if (credentials->keylog_fd >= 0) {
        SSL_CTX_set_keylog_callback(ctx, log_secret);
    }
}

/* Life */

static bool is_literal(const char *name) {
    unsigned char bytes[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, name, bytes) == 1 || inet_pton(AF_INET6, name, bytes) == 1;
}

/* Client: who the peer is to be, and what is offered to it. */
static int set_peer(tpi_engine *engine, const char *name, const void *bytes, size_t length) {
    const bool is_verified = !engine->credentials->options.insecure;
    SSL *ssl = engine->ssl;
    if (name == NULL && is_verified) {
        return TEPAL_EINVAL; /* it was insecure when the options were looked at, and was reloaded since */
    }
    if (name != NULL) {
        X509_VERIFY_PARAM *parameters = SSL_get0_param(ssl);
        engine->name = tpi_tls_copy_text(name);
        if (engine->name == NULL) {
            return TEPAL_ENOMEM;
        }
        X509_VERIFY_PARAM_set_hostflags(parameters,
                                        X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
        const bool literal = is_literal(name);
        if (is_verified && (literal ? X509_VERIFY_PARAM_set1_ip_asc(parameters, name)
                                    : X509_VERIFY_PARAM_set1_host(parameters, name, 0)) <= 0) {
            return TEPAL_ENOMEM;
        }
        if (!literal && SSL_set_tlsext_host_name(ssl, name) <= 0) {
            return TEPAL_ENOMEM;
        }
    }
    const unsigned char *at = bytes;
    SSL_SESSION *session = length > 0 ? d2i_SSL_SESSION(NULL, &at, (long)length)
                           : name == NULL || engine->credentials->options.no_resumption
                               ? NULL
                               : tpi_context_take_session(engine->context, name);
    int code = length > 0 && session == NULL ? TEPAL_ETLS_SESSION : 0;
    if (session != NULL && SSL_set_session(ssl, session) <= 0) {
        code = length > 0 ? TEPAL_ETLS_SESSION : 0;
    }
    SSL_SESSION_free(session);
    ERR_clear_error();
    return code;
}

int tpi_engine_open(tpi_engine *engine, tepal_tls_context *context, const char *name, const void *session,
                    size_t session_length) {
    (void)pthread_once(&bio_once, make_bio_method);
    engine->context = tepal_tls_context_ref(context);
    engine->credentials = tpi_context_credentials(context);
    engine->ssl = bio_method == NULL ? NULL : SSL_new(engine->credentials->ctx);
    BIO *bio = engine->ssl == NULL ? NULL : BIO_new(bio_method);
    int code = bio == NULL ? TEPAL_ENOMEM : 0;
    if (code == 0) {
        BIO_set_data(bio, engine);
        SSL_set_bio(engine->ssl, bio, bio);
        SSL_set_app_data(engine->ssl, engine);
        if (context->server) {
            SSL_set_accept_state(engine->ssl);
        } else {
            SSL_set_connect_state(engine->ssl);
            code = set_peer(engine, name, session, session_length);
        }
    }
    if (code < 0) {
        ERR_clear_error();
        tpi_engine_close(engine);
    }
    return code;
}

void tpi_engine_close(tpi_engine *engine) {
    if (engine->context == NULL) {
        return; /* it never was open */
    }
    SSL_free(engine->ssl);
    tpi_free(tpi_default_realloc, engine->name);
    tpi_credentials_unref(engine->credentials);
    tepal_tls_context_unref(engine->context);
    memset(engine, 0, sizeof *engine);
}

void tpi_engine_leave_out_tickets(tpi_engine *engine) {
    engine->no_tickets = true;
    (void)SSL_set_num_tickets(engine->ssl, 0);
}

/* Work */

/* The peer of a session that was taken up was verified when it was made, and for whom is looked at again. */
static int check_resumed(tpi_engine *engine) {
    if (engine->context->server || engine->credentials->options.insecure || !SSL_session_reused(engine->ssl)) {
        return 0;
    }
    const long verified = SSL_get_verify_result(engine->ssl);
    X509 *peer = SSL_get0_peer_certificate(engine->ssl);
    const unsigned flags = X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT;
    if (verified != X509_V_OK) {
        return verify_code(verified);
    }
    if (peer == NULL || engine->name == NULL ||
        (is_literal(engine->name) ? X509_check_ip_asc(peer, engine->name, flags)
                                  : X509_check_host(peer, engine->name, 0, flags, NULL)) != 1) {
        return TEPAL_ETLS_WRONG_HOST;
    }
    return 0;
}

/*
 * Before anything else: is it TLS that the peer speaks? Told by the first bytes of its first record: an alert or a part of
 * the handshake, of a version 3.something. The old ClientHello, a bit, a length and a 1, is left to OpenSSL to refuse;
 * of anything else that begins with a bit it would await up to 32 KiB.
 */
static int check_first_byte(tpi_engine *engine) {
    if (engine->has_seen_input || engine->in_length == 0) {
        return 0;
    }
    engine->has_seen_input = true;
    const uint8_t *in = engine->in;
    if (in[0] & 0x80 ? engine->in_length < 3 || in[2] == SSL2_MT_CLIENT_HELLO
                     : (in[0] == SSL3_RT_ALERT || in[0] == SSL3_RT_HANDSHAKE) &&
                           (engine->in_length < 2 || in[1] == SSL3_VERSION_MAJOR)) {
        return 0;
    }
    engine->failure = is_http(engine->in, engine->in_length) ? TEPAL_ETLS_HTTP : TEPAL_ETLS_NOT_TLS;
    return engine->failure;
}

int tpi_engine_set_up(tpi_engine *engine) {
    int code = check_first_byte(engine);
    if (code < 0) {
        return code;
    }
    engine->is_dry = false;
    if (SSL_do_handshake(engine->ssl) <= 0) {
        code = outcome(engine);
        return code == TPI_ENGINE_ENDED ? TEPAL_ETLS_ENDED : code;
    }
    code = check_resumed(engine);
    return code < 0 ? code : 1;
}

int64_t tpi_engine_read(tpi_engine *engine, uint8_t *bytes, size_t room) {
    size_t count = 0;
    engine->is_dry = false;
    if (SSL_read_ex(engine->ssl, bytes, room, &count) > 0) {
        return (int64_t)count;
    }
    return outcome(engine);
}

int tpi_engine_write(tpi_engine *engine, const void *bytes, size_t length) {
    size_t count = 0;
    if (SSL_write_ex(engine->ssl, bytes, length, &count) > 0) {
        return 0;
    }
    return failure_of(engine);
}

int tpi_engine_end(tpi_engine *engine) {
    if (SSL_get_shutdown(engine->ssl) & SSL_SENT_SHUTDOWN) {
        return 0;
    }
    return SSL_shutdown(engine->ssl) >= 0 ? 0 : failure_of(engine);
}

int tpi_engine_update_keys(tpi_engine *engine) {
    if (SSL_version(engine->ssl) < TLS1_3_VERSION) {
        return TEPAL_ENOTSUP;
    }
    if (SSL_key_update(engine->ssl, SSL_KEY_UPDATE_REQUESTED) <= 0) {
        return failure_of(engine);
    }
    engine->is_dry = false;
    const int done = SSL_do_handshake(engine->ssl);
    return done > 0 ? 0 : failure_of(engine);
}
