/*
 * From options to an SSL_CTX: certificates, keys, trust, versions, ciphers. What is read is read here, once; what is wrong
 * gets a code and a sentence, and nothing half made is left.
 */
#include "tls/context.h"
#include "tls/engine.h"
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* TLS 1.2: forward secret, and with a cipher that authenticates. */
#define DEFAULT_CIPHERS "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!aDSS"

/* Where it is said what is wrong. */
typedef struct tpi_report_place {
    char *text;
    size_t size;
} tpi_report_place;

static int __attribute__((format(printf, 3, 4))) fail(const tpi_report_place *why, int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(why->text, why->text == NULL ? 0 : why->size, format, arguments);
    va_end(arguments);
    ERR_clear_error();
    return code;
}

/* Whether it was for want of memory that OpenSSL has just failed. */
static int engine_code(int otherwise) {
    return ERR_GET_REASON(ERR_peek_last_error()) == ERR_R_MALLOC_FAILURE ? TEPAL_ENOMEM : otherwise;
}

/* Options: copies */

static const char **text_members(tepal_tls_context_options *options, size_t index) {
    const char **members[] = {&options->certificate_file, &options->certificate, &options->key_file, &options->key,
                              &options->key_password,     &options->ca_file,     &options->ca,       &options->ciphers,
                              &options->cipher_suites,    &options->keylog_file};
    return index < sizeof members / sizeof members[0] ? members[index] : NULL;
}

/* Have the options point to copies of what they point to; all of them are in strings. */
static int copy_texts(tpi_credentials *made) {
    tepal_tls_context_options *options = &made->options;
    size_t count = options->alpn_count + 2, used = 0;
    for (size_t i = 0; text_members(options, i) != NULL; i++) {
        count++;
    }
    made->strings = tpi_alloc_zero(tpi_default_realloc, count * sizeof *made->strings);
    char **names = tpi_alloc_zero(tpi_default_realloc, (options->alpn_count + 1) * sizeof *names);
    if (made->strings == NULL || names == NULL) {
        tpi_free(tpi_default_realloc, names);
        return TEPAL_ENOMEM;
    }
    made->strings[used++] = (char *)names; /* freed as the others are */
    const char **member;
    for (size_t i = 0; (member = text_members(options, i)) != NULL; i++) {
        if (*member != NULL && (*member = made->strings[used++] = tpi_tls_copy_text(*member)) == NULL) {
            return TEPAL_ENOMEM;
        }
    }
    for (size_t i = 0; i < options->alpn_count; i++) {
        if (options->alpn[i] == NULL) {
            return TEPAL_EINVAL;
        }
        if ((names[i] = made->strings[used++] = tpi_tls_copy_text(options->alpn[i])) == NULL) {
            return TEPAL_ENOMEM;
        }
    }
    options->alpn = (const char *const *)names;
    return 0;
}

static int copy_alpn(tpi_credentials *made) {
    const tepal_tls_context_options *options = &made->options;
    size_t length = 0;
    for (size_t i = 0; i < options->alpn_count; i++) {
        const size_t one = strlen(options->alpn[i]);
        if (one == 0 || one > 255) {
            return TEPAL_EINVAL;
        }
        length += 1 + one;
    }
    if (length == 0) {
        return 0;
    }
    unsigned char *at = made->alpn = tpi_default_realloc(NULL, length);
    if (at == NULL) {
        return TEPAL_ENOMEM;
    }
    for (size_t i = 0; i < options->alpn_count; i++) {
        const size_t one = strlen(options->alpn[i]);
        *at++ = (unsigned char)one;
        memcpy(at, options->alpn[i], one);
        at += one;
    }
    made->alpn_length = length;
    return 0;
}

static int copy_ocsp(tpi_credentials *made) {
    tepal_tls_context_options *options = &made->options;
    if (options->ocsp_response_length == 0) {
        options->ocsp_response = NULL;
        return 0;
    }
    void *copy = options->ocsp_response == NULL ? NULL : tpi_default_realloc(NULL, options->ocsp_response_length);
    if (copy == NULL) {
        const int code = options->ocsp_response == NULL ? TEPAL_EINVAL : TEPAL_ENOMEM;
        options->ocsp_response = NULL; /* the caller's */
        return code;
    }
    memcpy(copy, options->ocsp_response, options->ocsp_response_length);
    options->ocsp_response = copy;
    return 0;
}

/* PEM */

/* A file, or a text, as something that PEM is read from. NULL: *code says why not. */
static BIO *open_pem(const char *file, const char *text, const char *what, const tpi_report_place *why, int *code) {
    BIO *pem = NULL;
    if (file != NULL) {
        ERR_clear_error();
        pem = BIO_new_file(file, "rbe");
        const unsigned long error = pem != NULL ? 0 : ERR_peek_error();
        if (ERR_SYSTEM_ERROR(error)) {
            const int number = ERR_GET_REASON(error);
            *code = fail(why, TEPAL_SYSTEM(number), "%s file %s: %s", what, file, tepal_strerror(TEPAL_SYSTEM(number)));
            return NULL;
        }
    } else {
        pem = BIO_new_mem_buf(text, -1);
    }
    if (pem == NULL) {
        *code = fail(why, TEPAL_ENOMEM, "out of memory");
    }
    return pem;
}

static const char *place_of(const char *file) {
    return file == NULL ? "the text given" : file;
}

/* The end of the PEM text is no failure. */
static bool is_at_end(void) {
    const unsigned long error = ERR_peek_last_error();
    return ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
}

static int no_password(char *buffer, int size, int writing, void *argument) {
    const char *password = argument;
    (void)writing;
    const size_t length = password == NULL ? 0 : strlen(password);
    if (password == NULL || length > (size_t)size) {
        return -1; /* never ask on the terminal */
    }
    for (size_t i = 0; i < length; i++) {
        buffer[i] = password[i]; /* without a NUL */
    }
    return (int)length;
}

/* One's own certificate, and what follows it: the chain. */
static int read_chain(tpi_credentials *made, const tpi_report_place *why) {
    const tepal_tls_context_options *options = &made->options;
    const char *place = place_of(options->certificate_file);
    int code = 0;
    BIO *pem = open_pem(options->certificate_file, options->certificate, "certificate", why, &code);
    if (pem == NULL) {
        return code;
    }
    X509 *own = PEM_read_bio_X509_AUX(pem, NULL, no_password, NULL);
    if (own == NULL) {
        code = fail(why, engine_code(TEPAL_ETLS_PEM), "%s holds no certificate in PEM", place);
    } else if (SSL_CTX_use_certificate(made->ctx, own) <= 0) {
        code = fail(why, engine_code(TEPAL_ETLS_UNFIT), "the certificate in %s is malformed or too weak: %s", place,
                    ERR_reason_error_string(ERR_peek_last_error()));
    }
    X509_free(own);
    while (code == 0) {
        X509 *next = PEM_read_bio_X509(pem, NULL, no_password, NULL);
        if (next == NULL) {
            if (!is_at_end()) {
                code = fail(why, engine_code(TEPAL_ETLS_PEM), "the chain in %s is damaged", place);
            }
            break;
        }
        if (SSL_CTX_add0_chain_cert(made->ctx, next) <= 0) {
            X509_free(next);
            code =
                fail(why, engine_code(TEPAL_ETLS_UNFIT), "the chain in %s has a certificate that is too weak", place);
        }
    }
    ERR_clear_error();
    BIO_free(pem);
    return code;
}

static int read_key(tpi_credentials *made, const tpi_report_place *why) {
    const tepal_tls_context_options *options = &made->options;
    const bool is_apart = options->key_file != NULL || options->key != NULL;
    const char *file = is_apart ? options->key_file : options->certificate_file;
    const char *text = is_apart ? options->key : options->certificate;
    int code = 0;
    BIO *pem = open_pem(file, text, "key", why, &code);
    if (pem == NULL) {
        return code;
    }
    EVP_PKEY *key = PEM_read_bio_PrivateKey(pem, NULL, no_password, (void *)(uintptr_t)options->key_password);
    if (key == NULL) {
        const unsigned long error = ERR_peek_last_error();
        const int reason = ERR_GET_REASON(error);
        if (ERR_GET_LIB(error) == ERR_LIB_OSSL_DECODER) { /* of which the PEM reader's own word for it is dropped */
            code = fail(why, engine_code(TEPAL_ETLS_PEM), "%s holds no private key in PEM", place_of(file));
        } else if (options->key_password == NULL && reason != PEM_R_BAD_PASSWORD_READ) {
            code = fail(why, engine_code(TEPAL_ETLS_PEM), "the private key in %s is damaged", place_of(file));
        } else {
            code =
                fail(why, engine_code(TEPAL_ETLS_PASSWORD), "the private key in %s is encrypted, and %s",
                     place_of(file), options->key_password == NULL ? "no password was given" : "the password is wrong");
        }
    } else if (SSL_CTX_use_PrivateKey(made->ctx, key) <= 0 || SSL_CTX_check_private_key(made->ctx) <= 0) {
        code = fail(why, engine_code(TEPAL_ETLS_KEY), "the private key in %s does not belong to the certificate",
                    place_of(file));
    }
    EVP_PKEY_free(key);
    BIO_free(pem);
    return code;
}

/* Authorities out of a text; a server names them to its clients. */
static int read_authorities(tpi_credentials *made, const tpi_report_place *why) {
    const tepal_tls_context_options *options = &made->options;
    const char *place = place_of(options->ca_file);
    X509_STORE *store = SSL_CTX_get_cert_store(made->ctx);
    int code = 0, count = 0;
    BIO *pem = open_pem(options->ca_file, options->ca, "authority", why, &code);
    if (pem == NULL) {
        return code;
    }
    while (code == 0) {
        X509 *authority = PEM_read_bio_X509_AUX(pem, NULL, no_password, NULL);
        if (authority == NULL) {
            if (count == 0 || !is_at_end()) {
                code = fail(why, engine_code(TEPAL_ETLS_PEM), "%s holds %s in PEM", place,
                            count == 0 ? "no certificate of an authority" : "a damaged certificate");
            }
            break;
        }
        count++;
        if (X509_STORE_add_cert(store, authority) <= 0 ||
            (options->server && SSL_CTX_add_client_CA(made->ctx, authority) <= 0)) {
            code = fail(why, engine_code(TEPAL_ETLS_UNFIT), "%s holds an authority that cannot be used", place);
        }
        X509_free(authority);
    }
    ERR_clear_error();
    BIO_free(pem);
    return code;
}

static int read_trust(tpi_credentials *made, const tpi_report_place *why) {
    const tepal_tls_context_options *options = &made->options;
    const bool asks = options->server ? options->clients != TEPAL_TLS_CLIENTS_ANY : !options->insecure;
    if (!asks) {
        return 0;
    }
    /* What is trusted need not be a root: an authority below one, or a certificate itself, will do. */
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(made->ctx), X509_V_FLAG_PARTIAL_CHAIN);
    if (options->ca_file != NULL || options->ca != NULL) {
        return read_authorities(made, why);
    }
    if (SSL_CTX_set_default_verify_paths(made->ctx) <= 0) {
        return fail(why, engine_code(TEPAL_ETLS_PEM), "the system's authorities cannot be read");
    }
    return 0;
}

/* The rest */

static int set_versions(tpi_credentials *made, const tpi_report_place *why) {
    const tepal_tls_context_options *options = &made->options;
    const int least = options->minimum == 0 ? TEPAL_TLS_1_2 : (int)options->minimum;
    const int most = options->maximum == 0 ? TEPAL_TLS_1_3 : (int)options->maximum;
    if (least < TEPAL_TLS_1_2 || most > TEPAL_TLS_1_3 || least > most) {
        return fail(why, TEPAL_EINVAL, "no such range of versions");
    }
    if (SSL_CTX_set_min_proto_version(made->ctx, least) <= 0 || SSL_CTX_set_max_proto_version(made->ctx, most) <= 0) {
        return fail(why, engine_code(TEPAL_ETLS_VERSION), "the versions of TLS cannot be had");
    }
    const char *ciphers = options->ciphers == NULL ? DEFAULT_CIPHERS : options->ciphers;
    if (SSL_CTX_set_cipher_list(made->ctx, ciphers) <= 0) {
        return fail(why, engine_code(TEPAL_ETLS_NO_CIPHER), "there is no cipher of TLS 1.2 in \"%s\"", ciphers);
    }
    if (options->cipher_suites != NULL && SSL_CTX_set_ciphersuites(made->ctx, options->cipher_suites) <= 0) {
        return fail(why, engine_code(TEPAL_ETLS_NO_CIPHER), "there is no cipher of TLS 1.3 in \"%s\"",
                    options->cipher_suites);
    }
    return 0;
}

/* As they are now: a file's name would stay the same when an authority in it is dropped. */
static bool hash_authorities(EVP_MD_CTX *hash, SSL_CTX *ctx) {
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);
    bool done = X509_STORE_lock(store) > 0;
    if (!done) {
        return false;
    }
    STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(store);
    for (int i = 0; i < sk_X509_OBJECT_num(objects) && done; i++) {
        const X509 *authority = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(objects, i));
        unsigned char digest[EVP_MAX_MD_SIZE];
        unsigned length = 0;
        done = authority == NULL || (X509_digest(authority, EVP_sha256(), digest, &length) > 0 &&
                                     EVP_DigestUpdate(hash, digest, length) > 0);
    }
    (void)X509_STORE_unlock(store);
    return done;
}

/* Sessions are taken up only where they were made: for one certificate, and one set of clients that are accepted. */
static int set_session_place(tpi_credentials *made, const tpi_report_place *why) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    const uintptr_t place = (uintptr_t)made->context;
    const X509 *own = SSL_CTX_get0_certificate(made->ctx);
    EVP_MD_CTX *hash = EVP_MD_CTX_new();
    unsigned char *der = NULL;
    const int der_length = own == NULL ? 0 : i2d_X509(own, &der);
    const tepal_tls_context_options *options = &made->options;
    bool done = hash != NULL && der_length >= 0 && EVP_DigestInit_ex(hash, EVP_sha256(), NULL) > 0 &&
                EVP_DigestUpdate(hash, der, (size_t)der_length) > 0 && hash_authorities(hash, made->ctx) &&
                EVP_DigestUpdate(hash, &options->clients, sizeof options->clients) > 0 &&
                EVP_DigestUpdate(hash, &place, sizeof place) > 0 && EVP_DigestFinal_ex(hash, digest, &length) > 0;
    length = length < SSL_MAX_SID_CTX_LENGTH ? length : SSL_MAX_SID_CTX_LENGTH;
    done = done && SSL_CTX_set_session_id_context(made->ctx, digest, length) > 0;
    OPENSSL_free(der);
    EVP_MD_CTX_free(hash);
    return done ? 0 : fail(why, TEPAL_ENOMEM, "out of memory");
}

static int set_up(tpi_credentials *made, const tpi_report_place *why) {
    const tepal_tls_context_options *options = &made->options;
    SSL_CTX *ctx = made->ctx;
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE |
                                 SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_clear_options(ctx, SSL_OP_LEGACY_SERVER_CONNECT);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN);
    SSL_CTX_set_app_data(ctx, made);
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
    int code = set_versions(made, why);
    if (code == 0 && (options->certificate_file != NULL || options->certificate != NULL)) {
        code = read_chain(made, why);
        code = code < 0 ? code : read_key(made, why);
    }
    code = code < 0 ? code : read_trust(made, why);
    code = code < 0 || !options->server ? code : set_session_place(made, why);
    if (code == 0 && options->keylog_file != NULL) {
        made->keylog_fd = open(options->keylog_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (made->keylog_fd < 0) {
            code = fail(why, TEPAL_SYSTEM(errno), "key log %s: %s", options->keylog_file,
                        tepal_strerror(TEPAL_SYSTEM(errno)));
        }
    }
    if (code == 0) {
        tpi_engine_install(ctx, made);
    }
    return code;
}

static int check(const tepal_tls_context_options *options, const tpi_report_place *why) {
    const bool has_certificate = options->certificate_file != NULL || options->certificate != NULL;
    const bool has_key = options->key_file != NULL || options->key != NULL;
    if ((options->certificate_file != NULL && options->certificate != NULL) ||
        (options->key_file != NULL && options->key != NULL) || (options->ca_file != NULL && options->ca != NULL)) {
        return fail(why, TEPAL_EINVAL, "give a file or a text, not both");
    }
    if (has_key && !has_certificate) {
        return fail(why, TEPAL_EINVAL, "there is a key without a certificate");
    }
    if (options->server && !has_certificate && options->choose == NULL) {
        return fail(why, TEPAL_EINVAL, "a server needs a certificate, or a choose that finds one");
    }
    if (options->server ? options->insecure || options->request_ocsp
                        : options->clients != TEPAL_TLS_CLIENTS_ANY || options->choose != NULL ||
                              options->ocsp_response != NULL || options->alpn_optional) {
        return fail(why, TEPAL_EINVAL, "an option is for the other end");
    }
    if (options->alpn_count > 0 && options->alpn == NULL) {
        return fail(why, TEPAL_EINVAL, "alpn_count counts names that are not there");
    }
    return 0;
}

int tpi_credentials_new(tepal_tls_context *context, const tepal_tls_context_options *options, tpi_credentials **out,
                        char *why_text, size_t why_size) {
    const tpi_report_place why = {.text = why_text, .size = why_size};
    int code = check(options, &why);
    tpi_credentials *made = code < 0 ? NULL : tpi_alloc_zero(tpi_default_realloc, sizeof *made);
    if (made == NULL) {
        return code < 0 ? code : fail(&why, TEPAL_ENOMEM, "out of memory");
    }
    atomic_init(&made->references, 1);
    made->context = context;
    made->options = *options;
    made->options.size = sizeof made->options;
    made->keylog_fd = -1;
    code = copy_ocsp(made);
    code = code < 0 ? code : copy_texts(made);
    code = code < 0 ? code : copy_alpn(made);
    if (code < 0) {
        (void)fail(&why, code, "%s", code == TEPAL_ENOMEM ? "out of memory" : "a name or a response is malformed");
    } else {
        made->ctx = SSL_CTX_new(options->server ? TLS_server_method() : TLS_client_method());
        code = made->ctx == NULL ? fail(&why, TEPAL_ENOMEM, "the TLS engine cannot be had") : set_up(made, &why);
    }
    if (code < 0) {
        tpi_credentials_unref(made);
        return code;
    }
    *out = made;
    return 0;
}

void tpi_credentials_unref(tpi_credentials *credentials) {
    if (atomic_fetch_sub_explicit(&credentials->references, 1, memory_order_acq_rel) > 1) {
        return;
    }
    SSL_CTX_free(credentials->ctx);
    for (char **string = credentials->strings; string != NULL && *string != NULL; string++) {
        OPENSSL_cleanse(*string,
                        string == credentials->strings ? sizeof(char *) : strlen(*string)); /* keys, passwords */
        tpi_free(tpi_default_realloc, *string);
    }
    tpi_free(tpi_default_realloc, credentials->strings);
    tpi_free(tpi_default_realloc, credentials->alpn);
    tpi_free(tpi_default_realloc, (void *)(uintptr_t)credentials->options.ocsp_response);
    if (credentials->keylog_fd >= 0) {
        close(credentials->keylog_fd);
    }
    tpi_free(tpi_default_realloc, credentials);
}
