/*
 * Who is who in the tests of TLS: certificates and keys made here, as PEM texts, so that no file of the tree expires. Their
 * dates are fixed, and with them the length of everything that is sent.
 */
#ifndef TEPAL_TESTS_TLS_IDENTITIES_H
#define TEPAL_TESTS_TLS_IDENTITIES_H

#include "harness/test.h"

typedef struct identity {
    char *certificate; /* PEM */
    char *key;         /* PEM */
    void *x509, *pkey;
} identity;

/* What a certificate is to say. */
typedef struct identity_wish {
    const char *common_name;
    const char *names;        /* "DNS:localhost,IP:127.0.0.1"; NULL: none */
    const char *usage;        /* "serverAuth"; NULL: anything */
    const char *from, *until; /* "20200101000000Z"; NULL: it is valid now */
    const identity *issuer;   /* NULL: itself */
    const char *raw_name;     /* a DNS name of any bytes, instead of names */
    size_t raw_length;
    bool is_authority;
} identity_wish;

/* Live as long as the test. */
const identity *identity_make(const identity_wish *wish);

/* Made when first asked for. */
const identity *identity_authority(void);
const identity *identity_stranger(void); /* another authority */
const identity *identity_server(void);   /* localhost, 127.0.0.1, ::1 */
const identity *identity_other(void);    /* the same with other keys */
const identity *identity_client(void);
/* A server's, issued by the authority, for these names: "DNS:example.org". */
const identity *identity_for(const char *names);

/* PEM texts one after the other, as long as the test lives. */
const char *identity_join(const char *first, const char *second);
/* The key again, encrypted. */
const char *identity_encrypt_key(const identity *self, const char *password);

#endif
