/*
 * A TLS context's inside: one SSL_CTX that is made of options and may be exchanged, the names that other contexts serve,
 * the keys that tickets are sealed with, and the sessions that a client may take up. All of it is shared by threads.
 */
#ifndef TPI_TLS_CONTEXT_H
#define TPI_TLS_CONTEXT_H

#include "base/alloc.h"
#include <tepal/tls.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>

#define TPI_TLS_NAME_BYTES 254 /* of a host, with its NUL */
#define TPI_TICKET_KEY_NS TEPAL_SEC(86400)

/* What tickets are sealed with. They are valid for two lives of it, so each key is kept for one more. */
typedef struct tpi_ticket_key {
    unsigned char name[16], cipher[32], mac[32];
    int64_t born_ns;
    bool exists;
} tpi_ticket_key;

/* What is made of one set of options; it never changes, and connections hold it while a reload puts another in its place. */
typedef struct tpi_credentials {
    atomic_uint references;
    SSL_CTX *ctx;
    tepal_tls_context *context; /* borrowed: it lives as long as its connections do */
    tepal_tls_context_options options;
    char **strings;      /* the options' own: copies, and NULL at the end */
    unsigned char *alpn; /* in the wire's form: each with its length before it */
    size_t alpn_length;
    int keylog_fd; /* -1: none */
} tpi_credentials;

typedef struct tpi_served_name {
    struct tpi_served_name *next;
    tepal_tls_context *context; /* a reference */
    char name[TPI_TLS_NAME_BYTES];
} tpi_served_name;

/* A session of a client, to be taken up with the host of that name. */
typedef struct tpi_kept_session {
    struct tpi_kept_session *next;
    SSL_SESSION *session;
    char name[TPI_TLS_NAME_BYTES];
} tpi_kept_session;

struct tepal_tls_context {
    atomic_uint references;
    bool server;
    pthread_mutex_t lock; /* of all that follows */
    tpi_credentials *credentials;
    tpi_served_name *names;
    tpi_ticket_key keys[2];     /* the one in use, and the one before */
    tpi_kept_session *sessions; /* most recent first */
    unsigned session_count;
};

/* credentials.c: make them of options, which are copied. As tepal_tls_context_new(). */
int tpi_credentials_new(tepal_tls_context *context, const tepal_tls_context_options *options, tpi_credentials **made,
                        char *why, size_t why_size);
void tpi_credentials_unref(tpi_credentials *credentials);

/* The ones in use now, with a reference. */
tpi_credentials *tpi_context_credentials(tepal_tls_context *context);

/* A copy of a text, for tpi_free(); NULL: no memory. Contexts belong to no loop, so their memory is libc's. */
char *tpi_tls_copy_text(const char *text);

/* Whether a name can be a host's: 1 to 253 bytes. A dot at its end is left out of the copy; one at the
 * beginning is refused, for OpenSSL would take it for any name below. */
bool tpi_tls_copy_name(char copy[TPI_TLS_NAME_BYTES], const char *name, size_t length);

/*
 * Server: the context for this name (NULL: none was asked for), with a reference. Returns 0, or below 0: there is none, or
 * the program refuses it.
 */
int tpi_context_choose(tepal_tls_context *context, const tpi_credentials *credentials, const char *name,
                       tepal_tls_context **chosen);

/*
 * Client: keep a session, taking the reference over, unless these credentials, by which its server was found good, are no
 * longer in use; take one that was kept (NULL: none), with a reference.
 */
void tpi_context_keep_session(tepal_tls_context *context, const tpi_credentials *credentials, const char *name,
                              SSL_SESSION *session);
SSL_SESSION *tpi_context_take_session(tepal_tls_context *context, const char *name);

/* OpenSSL's callback for tickets. */
int tpi_context_seal_ticket(SSL *ssl, unsigned char name[16], unsigned char *iv, EVP_CIPHER_CTX *cipher,
                            EVP_MAC_CTX *mac, int encrypt);

/* For tests: as if so much time had passed since the ticket keys were made. */
void tpi_context_age_keys(tepal_tls_context *context, int64_t by_ns);

/* engine.c: OpenSSL's callbacks that concern one connection, set in each SSL_CTX. */
void tpi_engine_install(SSL_CTX *ctx, const tpi_credentials *credentials);

#endif
