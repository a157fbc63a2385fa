/*
 * Clients that are not Tepal: OpenSSL itself, over a plain socket, made to do what Tepal's never does. What is refused:
 * renegotiation (FIELD row 28), versions that are too old, early data.
 */
#include "conformance/tls_pair.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct stranger {
    tls_pair pair; /* of which only the server is used */
    SSL_CTX *context;
    SSL *ssl;
    BIO *in, *out;
    int fd;
} stranger;

static void stranger_open(stranger *self, int least, int most) {
    tls_pair *const pair = &self->pair;
    int fds[2];

    pair->loop = script_loop();
    pair->server_context = tls_usual_context(true, 0);
    test_tcp_pair(fds);
    self->fd = fds[1];
    pair->server.protocol.type = &tls_end_type;
    pair->server.pair = pair;
    pair->server.peer = &pair->client;
    pair->server.is_raw = true;
    CHECK_OK(tepal_loop_create_connection(
        pair->loop, tls_factory, &pair->server,
        TEPAL_OPTIONS(tepal_connect_options, .fd = &fds[0],
                      .tls = TEPAL_OPTIONS(tepal_tls_options, .context = pair->server_context)),
        &pair->server.future));
    self->context = SSL_CTX_new(TLS_client_method());
    CHECK(self->context != NULL);
    SSL_CTX_set_security_level(self->context, 0);
    CHECK_EQ(SSL_CTX_set_min_proto_version(self->context, least), 1);
    CHECK_EQ(SSL_CTX_set_max_proto_version(self->context, most), 1);
    self->ssl = SSL_new(self->context);
    self->in = BIO_new(BIO_s_mem());
    self->out = BIO_new(BIO_s_mem());
    SSL_set_bio(self->ssl, self->in, self->out);
    SSL_set_connect_state(self->ssl);
}

static void stranger_close(stranger *self) {
    tls_close(&self->pair);
    close(self->fd);
    SSL_free(self->ssl);
    SSL_CTX_free(self->context);
    ERR_clear_error();
}

/* Move what the stranger says and hears, and turn the loop. */
static void turn(stranger *self) {
    uint8_t bytes[20000];
    const int said = BIO_read(self->out, bytes, sizeof bytes);

    if (said > 0) {
        test_write_all(self->fd, bytes, (size_t)said);
    }
    tls_turn(&self->pair);
    const ssize_t heard = recv(self->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (heard > 0) {
        CHECK_EQ(BIO_write(self->in, bytes, (int)heard), heard);
    }
}

/* Until the handshake has succeeded (0), or failed for good: the reason. */
static int shake(stranger *self) {
    const int64_t give_up_ns = test_now_ns() + TEPAL_SEC(test_is_slow_build() ? 100 : 10);

    for (;;) {
        const int done = SSL_do_handshake(self->ssl);
        if (done == 1) {
            turn(self);
            return 0;
        }
        if (SSL_get_error(self->ssl, done) != SSL_ERROR_WANT_READ) {
            const int reason = ERR_GET_REASON(ERR_peek_last_error());
            turn(self); /* its alert */
            return reason;
        }
        CHECK_LT(test_now_ns(), give_up_ns);
        turn(self);
    }
}

SCRIPT_TEST(tls_strangers, a_client_that_renegotiates_is_told_no) {
    stranger self = {.fd = -1};

    stranger_open(&self, TLS1_2_VERSION, TLS1_2_VERSION);
    CHECK_EQ(shake(&self), 0);
    TLS_UNTIL(&self.pair, self.pair.server.made == 1);
    CHECK_EQ(SSL_write(self.ssl, "hello", 5), 5);
    while (self.pair.server.received < 5) {
        turn(&self);
    }
    CHECK_EQ(SSL_renegotiate(self.ssl), 1);
    CHECK_EQ(shake(&self), SSL_R_NO_RENEGOTIATION);
    CHECK_EQ(self.pair.server.received, 5);
    TLS_UNTIL(&self.pair, self.pair.server.losts == 1); /* the stranger makes an error of it */
    CHECK_EQ(self.pair.server.lost_code, TEPAL_ETLS_NOTHING_IN_COMMON);
    CHECK_EQ(self.pair.server.eofs, 0);
    stranger_close(&self);
}

SCRIPT_TEST(tls_strangers, a_client_of_an_old_version_is_told_so) {
    stranger self = {.fd = -1};

    stranger_open(&self, TLS1_VERSION, TLS1_1_VERSION);
    CHECK_EQ(shake(&self), SSL_R_TLSV1_ALERT_PROTOCOL_VERSION);
    CHECK_EQ(tls_failure(&self.pair.server), TEPAL_ETLS_VERSION);
    CHECK_EQ(self.pair.server.built, 0);
    stranger_close(&self);
}

SCRIPT_TEST(tls_strangers, no_early_data_is_ever_promised) {
    stranger self = {.fd = -1};
    char byte;

    stranger_open(&self, TLS1_3_VERSION, TLS1_3_VERSION);
    CHECK_EQ(shake(&self), 0);
    TLS_UNTIL(&self.pair, self.pair.server.made == 1);
    while (!SSL_SESSION_is_resumable(SSL_get0_session(self.ssl))) {
        turn(&self);
        CHECK_EQ(SSL_read(self.ssl, &byte, 1), -1); /* the ticket, and nothing else */
    }
    CHECK_EQ(SSL_SESSION_get_max_early_data(SSL_get0_session(self.ssl)), 0);
    CHECK_EQ(SSL_get_current_compression(self.ssl) == NULL, 1);
    stranger_close(&self);
}

/* A close_notify is answered, and the client's last words after it are not needed. */
SCRIPT_TEST(tls_strangers, one_that_says_goodbye_is_answered) {
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        stranger self = {.fd = -1, .pair.server.closes_at_eof = true};

        stranger_open(&self, version, version);
        CHECK_EQ(shake(&self), 0);
        TLS_UNTIL(&self.pair, self.pair.server.made == 1);
        CHECK_EQ(SSL_write(self.ssl, "bye", 3), 3);
        CHECK_GE(SSL_shutdown(self.ssl), 0);
        const int64_t give_up_ns = test_now_ns() + TEPAL_SEC(10);
        while (SSL_shutdown(self.ssl) != 1) { /* until the server's close_notify has come */
            turn(&self);
            CHECK_LT(test_now_ns(), give_up_ns);
        }
        TLS_UNTIL(&self.pair, self.pair.server.losts == 1);
        CHECK_EQ(self.pair.server.received, 3);
        CHECK_EQ(self.pair.server.eofs, 1);
        CHECK_EQ(self.pair.server.lost_code, 0);
        stranger_close(&self);
    }
}
