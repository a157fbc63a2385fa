/*
 * What can be asked of a connection's TLS: what was agreed upon, who the peer is, bytes to bind other protocols to it.
 */
#include "tls/tls.h"
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#define EXPORTER_LABEL "EXPORTER-Channel-Binding" /* RFC 9266 */
#define EXPORTER_BYTES 32

int tpi_tls_find(const tepal_transport *transport, tpi_tls_filter **filter) {
    const void *answer;
    const int code = tepal_transport_info(transport, "tls", &answer);
    if (code == 0) {
        *filter = (tpi_tls_filter *)(uintptr_t)answer;
        return 0;
    }
    return code < 0 ? code : TEPAL_ENOENT;
}

/* The same, of one whose handshake is done. */
static int find_open(const tepal_transport *transport, tpi_tls_filter **filter) {
    const int code = tpi_tls_find(transport, filter);
    const bool is_done = code == 0 && ((*filter)->state == TPI_TLS_OPEN || SSL_is_init_finished((*filter)->engine.ssl));
    return code < 0 ? code : is_done ? 0 : TEPAL_EPENDING;
}

/* Once the handshake is done, everything but the size is given its value. */
static void tell(tpi_tls_filter *tls, tepal_tls_info *info) {
    SSL *ssl = tls->engine.ssl;
    const unsigned char *bytes;
    unsigned length;
    info->version = tpi_engine_version(&tls->engine);
    info->version_name = SSL_get_version(ssl);
    info->cipher = SSL_get_cipher_name(ssl);
    info->server_name = tls->engine.name;
    info->resumed = SSL_session_reused(ssl) != 0;
    info->verified = SSL_get0_peer_certificate(ssl) != NULL && SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE &&
                     SSL_get_verify_result(ssl) == X509_V_OK;
    SSL_get0_alpn_selected(ssl, &bytes, &length);
    if (length > 0) { /* one's own name for it, which ends with a NUL */
        const tepal_tls_context_options *options = &tls->engine.credentials->options;
        for (size_t i = 0; i < options->alpn_count; i++) {
            if (strlen(options->alpn[i]) == length && memcmp(options->alpn[i], bytes, length) == 0) {
                info->alpn = options->alpn[i];
            }
        }
    }
    const unsigned char *staple = NULL;
    const long staple_length = tls->engine.context->server ? -1 : SSL_get_tlsext_status_ocsp_resp(ssl, &staple);
    if (staple_length > 0) {
        info->ocsp_response = staple;
        info->ocsp_response_length = (size_t)staple_length;
    }
}

int tepal_transport_tls_info(const tepal_transport *transport, tepal_tls_info *info) {
    tpi_tls_filter *tls = NULL;
    tepal_tls_info known = {.size = sizeof known};
    const size_t size = info->size < sizeof known ? info->size : sizeof known;
    int code = tpi_loop_check(transport->loop);
    if (code == 0) {
        code = info->size < sizeof info->size ? TEPAL_EINVAL : find_open(transport, &tls);
    }
    if (code < 0 && code != TEPAL_EPENDING) {
        return code;
    }
    if (code == 0) {
        tell(tls, &known);
    }
    known.size = info->size;
    memcpy(info, &known, size);
    return 0;
}

/* Text out of a BIO, or its length alone. */
static int64_t copy_text(BIO *from, char *text, size_t size) {
    char *bytes;
    const long length = BIO_get_mem_data(from, &bytes);
    if (text == NULL && size == 0) {
        return length;
    }
    if (text == NULL || length < 0 || (size_t)length >= size) {
        return TEPAL_ENOBUFS;
    }
    memcpy(text, bytes, (size_t)length);
    text[length] = '\0';
    return length;
}

static bool write_names(BIO *to, const X509 *peer) {
    GENERAL_NAMES *names = X509_get_ext_d2i(peer, NID_subject_alt_name, NULL, NULL);
    const int count = names == NULL ? 0 : sk_GENERAL_NAME_num(names);
    bool done = true;
    for (int i = 0; i < count && done; i++) {
        done = (i == 0 || BIO_puts(to, ", ") > 0) && GENERAL_NAME_print(to, sk_GENERAL_NAME_value(names, i)) > 0;
    }
    GENERAL_NAMES_free(names);
    return done;
}

static bool write_chain(BIO *to, SSL *ssl, X509 *peer) {
    const bool is_server = SSL_is_server(ssl) != 0;
    const STACK_OF(X509) *verified = SSL_get_verify_result(ssl) == X509_V_OK ? SSL_get0_verified_chain(ssl) : NULL;
    const STACK_OF(X509) *chain = verified != NULL ? verified : SSL_get_peer_cert_chain(ssl);
    /* A server's list of what its client showed begins after the client's own. */
    bool done = verified != NULL || !is_server || PEM_write_bio_X509(to, peer) > 0;
    for (int i = 0; chain != NULL && i < sk_X509_num(chain) && done; i++) {
        done = PEM_write_bio_X509(to, sk_X509_value(chain, i)) > 0;
    }
    return done && (chain != NULL || is_server || PEM_write_bio_X509(to, peer) > 0);
}

static bool write_part(BIO *to, SSL *ssl, X509 *peer, tepal_tls_certificate_part part) {
    switch (part) {
    case TEPAL_TLS_SUBJECT:
        return X509_NAME_print_ex(to, X509_get_subject_name(peer), 0, XN_FLAG_RFC2253) >= 0;
    case TEPAL_TLS_ISSUER:
        return X509_NAME_print_ex(to, X509_get_issuer_name(peer), 0, XN_FLAG_RFC2253) >= 0;
    case TEPAL_TLS_NAMES:
        return write_names(to, peer);
    case TEPAL_TLS_SERIAL:
        return i2a_ASN1_INTEGER(to, X509_get0_serialNumber(peer)) > 0;
    case TEPAL_TLS_PEM:
        return PEM_write_bio_X509(to, peer) > 0;
    case TEPAL_TLS_CHAIN:
        return write_chain(to, ssl, peer);
    default:
        return false;
    }
}

int64_t tepal_transport_tls_certificate(const tepal_transport *transport, tepal_tls_certificate_part part, char *text,
                                        size_t size) {
    tpi_tls_filter *tls = NULL;
    int code = tpi_loop_check(transport->loop);
    code = code < 0 ? code : find_open(transport, &tls);
    if (code < 0) { /* before the handshake is done, what is offered to be taken up has a certificate: not the peer's */
        return code == TEPAL_EPENDING ? TEPAL_ENOENT : code;
    }
    if ((unsigned)part > TEPAL_TLS_CHAIN) {
        return TEPAL_EINVAL;
    }
    X509 *peer = SSL_get0_peer_certificate(tls->engine.ssl);
    if (peer == NULL) {
        return TEPAL_ENOENT;
    }
    BIO *memory = BIO_new(BIO_s_mem());
    const int64_t length = memory != NULL && write_part(memory, tls->engine.ssl, peer, part)
                               ? copy_text(memory, text, size)
                               : TEPAL_ENOMEM;
    BIO_free(memory);
    ERR_clear_error();
    return length;
}

/* RFC 5929, section 4: by the hash of its signature, but never a weaker one than SHA-256. */
static int64_t hash_server(const tpi_tls_filter *tls, unsigned char hash[EVP_MAX_MD_SIZE]) {
    SSL *ssl = tls->engine.ssl;
    const X509 *server = tls->engine.context->server ? SSL_get_certificate(ssl) : SSL_get0_peer_certificate(ssl);
    unsigned length = 0;
    int digest;
    if (server == NULL) {
        return TEPAL_ENOENT;
    }
    if (X509_get_signature_info((X509 *)(uintptr_t)server, &digest, NULL, NULL, NULL) <= 0 || digest == NID_md5 ||
        digest == NID_sha1 || digest == NID_undef) {
        digest = NID_sha256;
    }
    const EVP_MD *type = EVP_get_digestbynid(digest);
    return type != NULL && X509_digest(server, type, hash, &length) > 0 ? (int64_t)length : TEPAL_ETLS_ENGINE;
}

int64_t tepal_transport_tls_binding(const tepal_transport *transport, const char *type, void *bytes, size_t size) {
    tpi_tls_filter *tls = NULL;
    unsigned char binding[EVP_MAX_MD_SIZE];
    int64_t length;
    int code = tpi_loop_check(transport->loop);
    code = code < 0 ? code : find_open(transport, &tls);
    if (code < 0) {
        return code;
    }
    if (strcmp(type, "tls-exporter") == 0) {
        const bool done = SSL_export_keying_material(tls->engine.ssl, binding, EXPORTER_BYTES, EXPORTER_LABEL,
                                                     sizeof EXPORTER_LABEL - 1, NULL, 0, 1) > 0;
        length = done ? EXPORTER_BYTES : TEPAL_ETLS_ENGINE;
    } else {
        length = strcmp(type, "tls-server-end-point") == 0 ? hash_server(tls, binding) : TEPAL_EINVAL;
    }
    ERR_clear_error();
    if (length > 0 && (size_t)length > size) {
        return TEPAL_ENOBUFS;
    }
    if (length > 0) {
        memcpy(bytes, binding, (size_t)length);
    }
    return length;
}

int64_t tepal_transport_tls_session(const tepal_transport *transport, void *bytes, size_t size) {
    tpi_tls_filter *tls = NULL;
    int code = tpi_loop_check(transport->loop);
    code = code < 0 ? code : find_open(transport, &tls);
    if (code < 0) {
        return code == TEPAL_EPENDING ? TEPAL_ENOENT : code; /* the one that is offered is none of this connection */
    }
    SSL_SESSION *session = tls->engine.context->server ? NULL : SSL_get_session(tls->engine.ssl);
    if (session == NULL || !SSL_SESSION_is_resumable(session)) {
        return TEPAL_ENOENT;
    }
    const int length = i2d_SSL_SESSION(session, NULL);
    if (length <= 0) {
        return TEPAL_ENOENT;
    }
    if (bytes == NULL && size == 0) {
        return length;
    }
    if ((size_t)length > size) {
        return TEPAL_ENOBUFS;
    }
    unsigned char *at = bytes;
    return i2d_SSL_SESSION(session, &at);
}

int tepal_transport_tls_update_keys(tepal_transport *transport) {
    tpi_tls_filter *tls = NULL;
    int code = tpi_loop_check(transport->loop);
    code = code < 0 ? code : find_open(transport, &tls);
    if (code == 0 && transport->flags & (TPI_CLOSING | TPI_EOF_WANTED)) {
        code = TEPAL_ECLOSED; /* nothing may follow close_notify */
    }
    return code < 0 ? code : tpi_tls_update_keys(tls);
}
