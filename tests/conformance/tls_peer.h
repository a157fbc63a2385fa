/*
 * What strangers can do to TLS that no well-bred peer does: one end is Tepal's, the other OpenSSL's own with its bytes in
 * the test's hands.
 */
#ifndef TEPAL_TESTS_TLS_PEER_H
#define TEPAL_TESTS_TLS_PEER_H

#include "conformance/script.h"

#include <openssl/ssl.h>
#include <tepal/tls.h>

/* Two certificates, each its own authority, for the same names: localhost and www.example.org. */
typedef struct identity {
    X509 *certificate;
    EVP_PKEY *key;
    char certificate_pem[4096], key_pem[4096];
} identity;

const identity *identity_of(int which);

/* A server with the first of them, or a client that trusts it. */
tepal_tls_context_options usual_options(bool server);
tepal_tls_context *context_of(const tepal_tls_context_options *options);
tepal_tls_context *usual_context(bool server);

/* Tepal's end, which stays half-open. */
typedef struct one_end one_end;
struct one_end {
    tepal_protocol protocol; /* first */
    tepal_loop *loop;
    tepal_transport *transport; /* a reference */
    tepal_future *future, *upgraded;
    int made, eofs, losts, lost_code;
    char data[65536]; /* the beginning of what came */
    size_t received;
    void (*on_made)(one_end *self);
    void (*on_data)(one_end *self);
};

extern const tepal_protocol_type one_end_type;
int one_end_factory(void *argument, tepal_protocol **protocol);

/* OpenSSL's end. */
typedef struct stranger {
    SSL_CTX *ctx;
    SSL *ssl;
    int fd;
    bool is_tcp;
    bool is_holding;    /* what it says stays in its BIO */
    bool holds_tickets; /* likewise, from the end of the handshake on */
} stranger;

/* With the first certificate. version is OpenSSL's; 0: any. ctx is made unless it is there. */
void stranger_open(stranger *self, bool server, int version);
void stranger_close(stranger *self);
/* Send so much of what it says, at most; the first record of it alone. */
size_t stranger_give(stranger *self, size_t limit);
void stranger_give_record(stranger *self);
/* Take what has come, go on with the handshake, and send unless it is holding. */
void stranger_move(stranger *self);
const char *stranger_reads(stranger *self);

void turn(one_end *self, stranger *other);
void let_settle(one_end *self, stranger *other);
#define UNTIL(self, other, condition)                                                                                  \
    do {                                                                                                               \
        const int64_t give_up_ns_ = test_now_ns() + TEPAL_SEC(test_is_slow_build() ? 60 : 8);                          \
        while (!(condition)) {                                                                                         \
            if (test_now_ns() > give_up_ns_) {                                                                         \
                test_fail(__FILE__, __LINE__, "waited too long for %s", #condition);                                   \
            }                                                                                                          \
            turn(self, other);                                                                                         \
        }                                                                                                              \
    } while (0)

/* Begin a connection of Tepal's to a stranger; and wait until it stands. tls NULL: without TLS. */
void begin(one_end *self, stranger *other, const tepal_tls_options *tls);
void join(one_end *self, stranger *other, tepal_tls_context *context, const char *name);
/* Close the loop, and give everything back. */
void part(one_end *self, stranger *other);

#endif
