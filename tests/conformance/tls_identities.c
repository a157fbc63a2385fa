/* See tls_identities.h. */
#include "conformance/tls_identities.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>

/* Everything made is kept in sight until the end of the test. */
typedef struct kept {
    struct kept *next;
    void *what;
} kept;

static kept *all;

static void *keep(void *what) {
    kept *entry = malloc(sizeof *entry);

    CHECK(entry != NULL);
    CHECK(what != NULL);
    *entry = (kept){.next = all, .what = what};
    all = entry;
    return what;
}

static char *text_of(BIO *memory) {
    char *bytes;
    const long length = BIO_get_mem_data(memory, &bytes);
    char *text = keep(malloc((size_t)length + 1));

    memcpy(text, bytes, (size_t)length);
    text[length] = '\0';
    BIO_free(memory);
    return text;
}

static void add_extension(X509 *to, X509 *issuer, int kind, const char *value) {
    X509V3_CTX context;

    X509V3_set_ctx(&context, issuer, to, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, kind, value);
    CHECK(extension != NULL);
    CHECK_EQ(X509_add_ext(to, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

/* A name that a text could not carry: with a NUL in the middle. */
static void add_raw_name(X509 *to, const char *bytes, size_t length) {
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_IA5STRING *string = ASN1_IA5STRING_new();

    CHECK_EQ(ASN1_STRING_set(string, bytes, (int)length), 1);
    GENERAL_NAME_set0_value(name, GEN_DNS, string);
    CHECK_GT(sk_GENERAL_NAME_push(names, name), 0);
    CHECK_EQ(X509_add1_ext_i2d(to, NID_subject_alt_name, names, 0, 0), 1);
    GENERAL_NAMES_free(names);
}

static void set_dates(X509 *to, const identity_wish *wish) {
    CHECK_EQ(ASN1_TIME_set_string(X509_getm_notBefore(to), wish->from == NULL ? "20200101000000Z" : wish->from), 1);
    CHECK_EQ(ASN1_TIME_set_string(X509_getm_notAfter(to), wish->until == NULL ? "20991231235959Z" : wish->until), 1);
}

const identity *identity_make(const identity_wish *wish) {
    static long serial = 1000;
    identity *self = keep(calloc(1, sizeof *self));
    EVP_PKEY *key = keep(EVP_EC_gen("P-256"));
    X509 *made = keep(X509_new());
    X509 *issuer = wish->issuer == NULL ? made : wish->issuer->x509;
    X509_NAME *name = X509_get_subject_name(made);

    self->x509 = made;
    self->pkey = key;
    CHECK_EQ(X509_set_version(made, X509_VERSION_3), 1);
    CHECK_EQ(ASN1_INTEGER_set(X509_get_serialNumber(made), ++serial), 1);
    set_dates(made, wish);
    CHECK_EQ(X509_NAME_add_entry_by_txt(name, "O", MBSTRING_ASC, (const unsigned char *)"Tepal", -1, -1, 0), 1);
    CHECK_EQ(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)wish->common_name, -1, -1, 0),
             1);
    CHECK_EQ(X509_set_issuer_name(made, X509_get_subject_name(issuer)), 1);
    CHECK_EQ(X509_set_pubkey(made, key), 1);
    add_extension(made, issuer, NID_subject_key_identifier, "hash");
    if (issuer != made) {
        add_extension(made, issuer, NID_authority_key_identifier, "keyid");
    }
    add_extension(made, issuer, NID_basic_constraints, wish->is_authority ? "critical,CA:TRUE" : "CA:FALSE");
    if (wish->is_authority) {
        add_extension(made, issuer, NID_key_usage, "critical,keyCertSign,cRLSign");
    }
    if (wish->usage != NULL) {
        add_extension(made, issuer, NID_ext_key_usage, wish->usage);
    }
    if (wish->names != NULL) {
        add_extension(made, issuer, NID_subject_alt_name, wish->names);
    } else if (wish->raw_name != NULL) {
        add_raw_name(made, wish->raw_name, wish->raw_length);
    }
    CHECK_GT(X509_sign(made, wish->issuer == NULL ? key : wish->issuer->pkey, EVP_sha256()), 0);
    BIO *memory = BIO_new(BIO_s_mem());
    CHECK_EQ(PEM_write_bio_X509(memory, made), 1);
    self->certificate = text_of(memory);
    memory = BIO_new(BIO_s_mem());
    CHECK_EQ(PEM_write_bio_PrivateKey(memory, key, NULL, NULL, 0, NULL, NULL), 1);
    self->key = text_of(memory);
    return self;
}

/* ---- Those that most tests know ---- */

static const identity *once(const identity **made, const identity_wish *wish) {
    if (*made == NULL) {
        *made = identity_make(wish);
    }
    return *made;
}

const identity *identity_authority(void) {
    static const identity *made;
    return once(&made, &(identity_wish){.common_name = "The authority", .is_authority = true});
}

const identity *identity_stranger(void) {
    static const identity *made;
    return once(&made, &(identity_wish){.common_name = "A stranger", .is_authority = true});
}

#define OF_LOCALHOST "DNS:localhost,IP:127.0.0.1,IP:0:0:0:0:0:0:0:1"

const identity *identity_server(void) {
    static const identity *made;
    return once(&made, &(identity_wish){.common_name = "server",
                                        .names = OF_LOCALHOST,
                                        .usage = "serverAuth",
                                        .issuer = identity_authority()});
}

const identity *identity_other(void) {
    static const identity *made;
    return once(&made, &(identity_wish){.common_name = "other server",
                                        .names = OF_LOCALHOST,
                                        .usage = "serverAuth",
                                        .issuer = identity_authority()});
}

const identity *identity_client(void) {
    static const identity *made;
    return once(&made,
                &(identity_wish){.common_name = "client", .usage = "clientAuth", .issuer = identity_authority()});
}

const identity *identity_for(const char *names) {
    return identity_make(&(identity_wish){
        .common_name = "a server of names", .names = names, .usage = "serverAuth", .issuer = identity_authority()});
}

/* ---- Texts ---- */

const char *identity_join(const char *first, const char *second) {
    const size_t size = strlen(first) + strlen(second) + 1;
    char *joined = keep(malloc(size));

    snprintf(joined, size, "%s%s", first, second);
    return joined;
}

const char *identity_encrypt_key(const identity *self, const char *password) {
    BIO *memory = BIO_new(BIO_s_mem());

    CHECK_EQ(PEM_write_bio_PKCS8PrivateKey(memory, self->pkey, EVP_aes_128_cbc(), password, (int)strlen(password), NULL,
                                           NULL),
             1);
    return text_of(memory);
}
