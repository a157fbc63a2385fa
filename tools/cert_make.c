/* Making a certificate with OpenSSL (cert.h). */
#include "cert.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

enum {
    COMMON_NAME_MAX = 64, /* what RFC 5280 allows */
    SERIAL_BITS = 127,    /* positive, and too many to meet twice */
    CLOCK_SKEW_SECONDS = 300
};

typedef struct maker {
    const cert_request *request;
    X509 *certificate, *issuer;
    EVP_PKEY *key, *issuer_key;
    BIO *certificate_out, *key_out;
    BIO *chain; /* the authorities' certificates that lead to a root, and not the root, which peers have */
    char *why;
    size_t why_size;
} maker;

/* Why OpenSSL could not do something. */
static bool engine_failed(maker *self, const char *what) {
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    snprintf(self->why, self->why_size, "cannot %s: %s", what, reason != NULL ? reason : "OpenSSL does not say why");
    return false;
}

static BIO *open_file(maker *self, const char *path) {
    FILE *file = fopen(path, "re");
    BIO *in = file == NULL ? NULL : BIO_new_fp(file, BIO_CLOSE);
    if (in != NULL)
        return in;
    snprintf(self->why, self->why_size, "cannot read %s: %s", path, strerror(file == NULL ? errno : ENOMEM));
    if (file != NULL)
        fclose(file);
    return NULL;
}

/* A pem_password_cb: instead of asking on the terminal, remember that a password would be needed. */
static int no_password(char *buffer, int size, int writing, void *asked) {
    (void)buffer;
    (void)size;
    (void)writing;
    *(bool *)asked = true;
    return -1;
}

static bool read_issuer_certificate(maker *self) {
    const char *path = self->request->issuer_certificate;
    bool asked = false, kept = true;
    X509 *next;
    BIO *in = open_file(self, path);
    if (in == NULL)
        return false;
    while (kept && (next = PEM_read_bio_X509(in, NULL, no_password, &asked)) != NULL) {
        const bool is_root = (X509_get_extension_flags(next) & EXFLAG_SS) != 0;
        kept = is_root || PEM_write_bio_X509(self->chain, next) == 1;
        if (self->issuer == NULL)
            self->issuer = next;
        else
            X509_free(next);
    }
    const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    BIO_free(in);
    if (!kept)
        return engine_failed(self, "keep the authority's certificate");
    ERR_clear_error();
    if (self->issuer != NULL && at_end)
        return true;
    snprintf(self->why, self->why_size, "%s certificate in PEM could be read from %s",
             self->issuer == NULL ? "no" : "not every", path);
    return false;
}

static bool read_issuer_key(maker *self) {
    const char *path = self->request->issuer_key;
    bool asked = false;
    BIO *in = open_file(self, path);
    if (in == NULL)
        return false;
    self->issuer_key = PEM_read_bio_PrivateKey(in, NULL, no_password, &asked);
    BIO_free(in);
    ERR_clear_error();
    if (self->issuer_key == NULL && asked)
        snprintf(self->why, self->why_size, "the key in %s is encrypted; 'openssl pkey' can decrypt it", path);
    else if (self->issuer_key == NULL)
        snprintf(self->why, self->why_size, "no private key in PEM could be read from %s", path);
    return self->issuer_key != NULL;
}

/* Who signs: an authority from its files, or the certificate itself. */
static bool find_issuer(maker *self) {
    const cert_request *request = self->request;
    if (request->issuer_certificate == NULL) {
        self->issuer = X509_up_ref(self->certificate) == 1 ? self->certificate : NULL;
        self->issuer_key = EVP_PKEY_up_ref(self->key) == 1 ? self->key : NULL;
        return self->issuer != NULL && self->issuer_key != NULL;
    }
    if (!read_issuer_certificate(self) || !read_issuer_key(self))
        return false;
    const bool belongs = X509_check_private_key(self->issuer, self->issuer_key) == 1;
    ERR_clear_error();
    if (!belongs)
        snprintf(self->why, self->why_size, "the key in %s does not belong to the certificate in %s",
                 request->issuer_key, request->issuer_certificate);
    else if (X509_check_ca(self->issuer) == 0)
        snprintf(self->why, self->why_size, "the certificate in %s is no authority's; --is-ca makes one that is",
                 request->issuer_certificate);
    else if (X509_cmp_current_time(X509_get0_notAfter(self->issuer)) < 0)
        snprintf(self->why, self->why_size, "the certificate in %s has expired", request->issuer_certificate);
    else
        return true;
    return false;
}

static bool set_serial(X509 *certificate) {
    BIGNUM *number = BN_new();
    bool done = number != NULL && BN_rand(number, SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
                BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != NULL;
    BN_free(number);
    return done;
}

/* Two authorities must not be taken for each other, so one without a name gets a number. */
static bool set_subject(const maker *self) {
    const cert_request *request = self->request;
    X509_NAME *subject = X509_get_subject_name(self->certificate);
    char numbered[COMMON_NAME_MAX];
    unsigned char number[4];
    const char *common = request->name_count > 0 ? request->names[0] : numbered;
    if (RAND_bytes(number, sizeof number) != 1)
        return false;
    snprintf(numbered, sizeof numbered, "Tepal development authority %02x%02x%02x%02x", number[0], number[1], number[2],
             number[3]);
    if (X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_ASC, (const unsigned char *)"Tepal development", -1, -1, 0) !=
        1)
        return false;
    return strlen(common) > COMMON_NAME_MAX || /* the alternative names hold it anyway */
           X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)common, -1, -1, 0) == 1;
}

static bool set_times(const maker *self) {
    const cert_request *request = self->request;
    const int days = (int)request->days;
    const ASN1_TIME *most = X509_get0_notAfter(self->issuer);
    ASN1_TIME *from = X509_getm_notBefore(self->certificate), *until = X509_getm_notAfter(self->certificate);
    if (request->is_expired)
        return X509_time_adj_ex(from, -1 - days, 0, NULL) != NULL && X509_time_adj_ex(until, -1, 0, NULL) != NULL;
    if (X509_time_adj_ex(from, 0, -CLOCK_SKEW_SECONDS, NULL) == NULL || X509_time_adj_ex(until, days, 0, NULL) == NULL)
        return false;
    /* Longer than its authority it would not be believed. */
    return request->issuer_certificate == NULL || ASN1_TIME_compare(until, most) <= 0 ||
           X509_set1_notAfter(self->certificate, most) == 1;
}

static GENERAL_NAME *general_name(const char *text) {
    unsigned char bytes[sizeof(struct in6_addr)];
    const int length = inet_pton(AF_INET, text, bytes) == 1    ? (int)sizeof(struct in_addr)
                       : inet_pton(AF_INET6, text, bytes) == 1 ? (int)sizeof(struct in6_addr)
                                                               : 0;
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_STRING *value = ASN1_STRING_type_new(length > 0 ? V_ASN1_OCTET_STRING : V_ASN1_IA5STRING);
    if (name == NULL || value == NULL ||
        ASN1_STRING_set(value, length > 0 ? (const void *)bytes : text, length > 0 ? length : -1) != 1) {
        GENERAL_NAME_free(name);
        ASN1_STRING_free(value);
        return NULL;
    }
    GENERAL_NAME_set0_value(name, length > 0 ? GEN_IPADD : GEN_DNS, value);
    return name;
}

static bool add_names(const maker *self) {
    const cert_request *request = self->request;
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    bool done = names != NULL;
    for (size_t index = 0; done && index < request->name_count; index++) {
        GENERAL_NAME *name = general_name(request->names[index]);
        done = name != NULL && sk_GENERAL_NAME_push(names, name) > 0;
        if (!done)
            GENERAL_NAME_free(name);
    }
    done = done && X509_add1_ext_i2d(self->certificate, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) == 1;
    GENERAL_NAMES_free(names);
    return done;
}

static bool add_extension(const maker *self, int name, const char *value) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, self->issuer, self->certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, name, value);
    bool done = extension != NULL && X509_add_ext(self->certificate, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return done;
}

/* Whether the issuer says which key it has; a certificate that signs itself has just been given that. */
static bool issuer_has_key_id(const maker *self) {
    return X509_get_ext_by_NID(self->issuer, NID_subject_key_identifier, -1) >= 0;
}

static bool add_extensions(const maker *self) {
    if (!add_extension(self, NID_subject_key_identifier, "hash"))
        return false;
    if (issuer_has_key_id(self) && !add_extension(self, NID_authority_key_identifier, "keyid:always"))
        return false;
    if (self->request->is_authority)
        return add_extension(self, NID_basic_constraints, "critical,CA:TRUE") &&
               add_extension(self, NID_key_usage, "critical,keyCertSign,cRLSign");
    return add_extension(self, NID_basic_constraints, "critical,CA:FALSE") &&
           add_extension(self, NID_key_usage, "critical,digitalSignature") &&
           add_extension(self, NID_ext_key_usage, "serverAuth,clientAuth") && add_names(self);
}

/* By SHA-256, but for keys that bring a hash of their own (Ed25519). */
static bool sign(const maker *self) {
    int hash = NID_undef;
    const bool is_set = EVP_PKEY_get_default_digest_nid(self->issuer_key, &hash) == 2;
    return X509_sign(self->certificate, self->issuer_key, is_set && hash == NID_undef ? NULL : EVP_sha256()) > 0;
}

static char *text_of(BIO *out) {
    char *data;
    const long length = BIO_get_mem_data(out, &data);
    char *text = length <= 0 ? NULL : malloc((size_t)length + 1);
    if (text != NULL) {
        memcpy(text, data, (size_t)length);
        text[length] = '\0';
    }
    return text;
}

static bool write_texts(const maker *self, cert_texts *made) {
    char *chain;
    struct tm until;
    long chain_length = BIO_get_mem_data(self->chain, &chain);
    if (PEM_write_bio_X509(self->certificate_out, self->certificate) != 1 ||
        (chain_length > 0 && BIO_write(self->certificate_out, chain, (int)chain_length) != chain_length) ||
        PEM_write_bio_PKCS8PrivateKey(self->key_out, self->key, NULL, NULL, 0, NULL, NULL) != 1 ||
        ASN1_TIME_to_tm(X509_get0_notAfter(self->certificate), &until) != 1)
        return false;
    strftime(made->until, sizeof made->until, "%Y-%m-%d", &until);
    made->certificate = text_of(self->certificate_out);
    made->key = text_of(self->key_out);
    return made->certificate != NULL && made->key != NULL;
}

static bool make(maker *self, cert_texts *made) {
    self->certificate = X509_new();
    self->key = EVP_EC_gen("P-256");
    self->certificate_out = BIO_new(BIO_s_mem());
    self->key_out = BIO_new(BIO_s_mem());
    self->chain = BIO_new(BIO_s_mem());
    if (self->certificate == NULL || self->key == NULL || self->certificate_out == NULL || self->key_out == NULL ||
        self->chain == NULL)
        return engine_failed(self, "make a key");
    if (!find_issuer(self))
        return *self->why != '\0' ? false : engine_failed(self, "find who signs");
    if (X509_set_version(self->certificate, X509_VERSION_3) != 1 ||
        X509_set_pubkey(self->certificate, self->key) != 1 || !set_serial(self->certificate) || !set_subject(self) ||
        X509_set_issuer_name(self->certificate, X509_get_subject_name(self->issuer)) != 1 || !set_times(self) ||
        !add_extensions(self) || !sign(self) || !write_texts(self, made))
        return engine_failed(self, "make the certificate");
    return true;
}

bool cert_make(const cert_request *request, cert_texts *made, char *why, size_t why_size) {
    maker self = {.request = request, .why = why, .why_size = why_size};
    *why = '\0';
    bool done = make(&self, made);
    X509_free(self.certificate);
    X509_free(self.issuer);
    EVP_PKEY_free(self.key);
    EVP_PKEY_free(self.issuer_key);
    BIO_free(self.certificate_out);
    BIO_free(self.key_out);
    BIO_free(self.chain);
    return done;
}
