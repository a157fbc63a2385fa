/*
 * What strangers can do to TLS that no well-bred peer does: one end is Tepal's, the other OpenSSL's own with its bytes in
 * the test's hands.
 */
#include "conformance/script.h"
#include "tls/tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <tepal/tls.h>
#include <unistd.h>

/* ---- Two certificates, each its own authority, for the same names ---- */

typedef struct identity {
    X509 *certificate;
    EVP_PKEY *key;
    char certificate_pem[4096], key_pem[4096];
} identity;

static void write_pem(BIO *memory, char *text, size_t size) {
    const int length = BIO_read(memory, text, (int)size - 1);
    CHECK_GT(length, 0);
    text[length] = '\0';
    BIO_free(memory);
}

static const identity *identity_of(int which) {
    static identity all[2];
    identity *self = &all[which];
    X509V3_CTX context;

    if (self->key != NULL) {
        return self;
    }
    self->key = EVP_EC_gen("P-256");
    X509 *made = self->certificate = X509_new();
    CHECK(self->key != NULL && made != NULL);
    X509_set_version(made, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(made), 7 + which);
    ASN1_TIME_set_string(X509_getm_notBefore(made), "20200101000000Z");
    ASN1_TIME_set_string(X509_getm_notAfter(made), "20991231235959Z");
    X509_NAME_add_entry_by_txt(X509_get_subject_name(made), "CN", MBSTRING_ASC,
                               (const unsigned char *)(which == 0 ? "first" : "second"), -1, -1, 0);
    X509_set_issuer_name(made, X509_get_subject_name(made));
    X509_set_pubkey(made, self->key);
    X509V3_set_ctx(&context, made, made, NULL, NULL, 0);
    X509_EXTENSION *names =
        X509V3_EXT_conf_nid(NULL, &context, NID_subject_alt_name, "DNS:localhost,DNS:www.example.org");
    CHECK_EQ(X509_add_ext(made, names, -1), 1);
    X509_EXTENSION_free(names);
    CHECK_GT(X509_sign(made, self->key, EVP_sha256()), 0);
    BIO *memory = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(memory, made);
    write_pem(memory, self->certificate_pem, sizeof self->certificate_pem);
    memory = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(memory, self->key, NULL, NULL, 0, NULL, NULL);
    write_pem(memory, self->key_pem, sizeof self->key_pem);
    return self;
}

static tepal_tls_context_options usual_options(bool server) {
    const identity *first = identity_of(0);
    return (tepal_tls_context_options){.size = sizeof(tepal_tls_context_options),
                                       .server = server,
                                       .certificate = server ? first->certificate_pem : NULL,
                                       .key = server ? first->key_pem : NULL,
                                       .ca = first->certificate_pem};
}

static tepal_tls_context *context_of(const tepal_tls_context_options *options) {
    tepal_tls_context *made;
    CHECK_OK(tepal_tls_context_new(&made, options, NULL, 0));
    return made;
}

static tepal_tls_context *usual_context(bool server) {
    const tepal_tls_context_options options = usual_options(server);
    return context_of(&options);
}

/* ---- Tepal's end ---- */

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

static int end_made(tepal_protocol *protocol, tepal_transport *transport) {
    one_end *self = (one_end *)protocol;
    self->made++;
    self->transport = tepal_transport_ref(transport);
    if (self->on_made != NULL) {
        self->on_made(self);
    }
    return 0;
}

static int end_data(tepal_protocol *protocol, const void *data, size_t length) {
    one_end *self = (one_end *)protocol;
    CHECK_EQ(self->losts + self->eofs, 0);
    if (self->received + length <= sizeof self->data) {
        memcpy(self->data + self->received, data, length);
    }
    self->received += length;
    if (self->on_data != NULL) {
        self->on_data(self);
    }
    return 0;
}

static int end_eof(tepal_protocol *protocol) {
    ((one_end *)protocol)->eofs++;
    return TEPAL_KEEP_OPEN;
}

static void end_lost(tepal_protocol *protocol, const tepal_error *error) {
    one_end *self = (one_end *)protocol;
    self->losts++;
    self->lost_code = error == NULL ? 0 : error->code;
}

static const tepal_protocol_type one_end_type = {.size = sizeof one_end_type,
                                                 .connection_made = end_made,
                                                 .data_received = end_data,
                                                 .eof_received = end_eof,
                                                 .connection_lost = end_lost};

static int end_factory(void *argument, tepal_protocol **protocol) {
    *protocol = &((one_end *)argument)->protocol;
    return 0;
}

/* ---- OpenSSL's end ---- */

typedef struct stranger {
    SSL_CTX *ctx;
    SSL *ssl;
    int fd;
    bool is_tcp;
    bool is_holding;    /* what it says stays in its BIO */
    bool holds_tickets; /* likewise, from the end of the handshake on */
} stranger;

static void stranger_open(stranger *self, bool server, int version) {
    if (self->ctx == NULL) {
        self->ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    }
    CHECK_EQ(SSL_CTX_use_certificate(self->ctx, identity_of(0)->certificate), 1);
    CHECK_EQ(SSL_CTX_use_PrivateKey(self->ctx, identity_of(0)->key), 1);
    if (version != 0) {
        SSL_CTX_set_min_proto_version(self->ctx, version);
        SSL_CTX_set_max_proto_version(self->ctx, version);
    }
    self->ssl = SSL_new(self->ctx);
    CHECK(self->ssl != NULL);
    SSL_set_bio(self->ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    if (server) {
        SSL_set_accept_state(self->ssl);
    } else {
        SSL_set_connect_state(self->ssl);
    }
}

static void stranger_close(stranger *self) {
    SSL_free(self->ssl);
    SSL_CTX_free(self->ctx);
    if (self->fd >= 0) {
        close(self->fd);
    }
    *self = (stranger){.fd = -1};
}

/* Send so much of what it says, at most. */
static size_t stranger_give(stranger *self, size_t limit) {
    static char bytes[65536];
    size_t given = 0;
    while (given < limit && self->fd >= 0) {
        const size_t room = limit - given < sizeof bytes ? limit - given : sizeof bytes;
        const int count = BIO_read(SSL_get_wbio(self->ssl), bytes, (int)room);
        if (count <= 0) {
            break;
        }
        for (int sent = 0; sent < count;) { /* few bytes as a rule, which the socket has room for */
            const ssize_t one = send(self->fd, bytes + sent, (size_t)(count - sent), MSG_NOSIGNAL | MSG_DONTWAIT);
            if (one < 0) {
                return given;
            }
            sent += (int)one;
        }
        given += (size_t)count;
    }
    return given;
}

/* The first record of what it has still to say goes alone. */
static void stranger_give_record(stranger *self) {
    char *bytes;
    const long length = BIO_get_mem_data(SSL_get_wbio(self->ssl), &bytes);
    CHECK_GT(length, 5);
    const size_t record = 5 + ((size_t)(uint8_t)bytes[3] << 8 | (uint8_t)bytes[4]);
    CHECK_LT(record, length);
    CHECK_EQ(stranger_give(self, record), record);
}

static void stranger_move(stranger *self) {
    char bytes[16384];
    ssize_t count = 0;
    while (self->fd >= 0 && (count = recv(self->fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0) {
        BIO_write(SSL_get_rbio(self->ssl), bytes, (int)count);
    }
    if (!SSL_is_init_finished(self->ssl) && SSL_do_handshake(self->ssl) == 1) {
        self->is_holding = self->holds_tickets;
    }
    ERR_clear_error();
    if (!self->is_holding) {
        (void)stranger_give(self, SIZE_MAX);
    }
}

static void turn(one_end *self, stranger *other) {
    stranger_move(other);
    CHECK_OK(tepal_loop_step(self->loop, TEPAL_MS(1)));
}

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

static void let_settle(one_end *self, stranger *other) {
    for (int i = 0; i < 10; i++) {
        stranger_move(other);
        while (tepal_loop_step(self->loop, 0) == 1) {
        }
    }
}

/* ---- Both ---- */

static void begin(one_end *self, stranger *other, const tepal_tls_options *tls) {
    int fds[2];
    self->protocol.type = &one_end_type;
    if (self->loop == NULL) {
        self->loop = script_loop();
    }
    if (other->is_tcp) {
        test_tcp_pair(fds);
    } else {
        test_socketpair(fds);
    }
    other->fd = fds[1];
    CHECK_OK(tepal_loop_create_connection(
        self->loop, end_factory, self, TEPAL_OPTIONS(tepal_connect_options, .fd = &fds[0], .tls = tls), &self->future));
}

/* Tepal is the client of a stranger that is a server, or the other way round. */
static void join(one_end *self, stranger *other, tepal_tls_context *context, const char *name) {
    begin(self, other, TEPAL_OPTIONS(tepal_tls_options, .context = context, .server_name = name));
    UNTIL(self, other, tepal_future_is_done(self->future));
    CHECK_OK(tepal_future_result(self->future, NULL));
}

static void part(one_end *self, stranger *other) {
    CHECK_OK(tepal_loop_close(self->loop));
    CHECK_EQ(self->made, self->losts);
    (void)tepal_future_error(self->future);
    tepal_future_unref(self->future);
    tepal_transport_unref(self->transport);
    tepal_loop_unref(self->loop);
    stranger_close(other);
}

static const char *stranger_reads(stranger *self) {
    static char bytes[16384];
    const int count = SSL_read(self->ssl, bytes, sizeof bytes - 1);
    bytes[count < 0 ? 0 : count] = '\0';
    return bytes;
}

/* ---- Messages after the handshake ---- */

static int fat_ticket(SSL *ssl, void *argument) {
    static const char ballast[2500];
    (void)argument;
    return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), ballast, sizeof ballast);
}

static SSL_TICKET_RETURN thin_ticket(SSL *ssl, SSL_SESSION *session, const unsigned char *name, size_t length,
                                     SSL_TICKET_STATUS status, void *argument) {
    (void)ssl;
    (void)session;
    (void)name;
    (void)length;
    (void)status;
    (void)argument;
    return SSL_TICKET_RETURN_IGNORE;
}

/* A server whose first ticket comes in several records, of which the client has the first when this returns. */
static void join_in_the_middle_of_a_ticket(one_end *self, stranger *other, tepal_tls_context *context) {
    other->ctx = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_max_send_fragment(other->ctx, 512);
    CHECK_EQ(SSL_CTX_set_session_ticket_cb(other->ctx, fat_ticket, thin_ticket, NULL), 1);
    stranger_open(other, true, TLS1_3_VERSION);
    other->holds_tickets = true;
    join(self, other, context, "localhost");
    let_settle(self, other);
    stranger_give_record(other);
    let_settle(self, other);
    CHECK_EQ(self->made, 1);
}

SCRIPT_TEST(tls_review, what_is_written_while_half_a_ticket_is_here_is_not_lost) {
    tepal_tls_context *context = usual_context(false);
    one_end self = {0};
    stranger other = {.fd = -1};

    join_in_the_middle_of_a_ticket(&self, &other, context);
    CHECK_OK(tepal_transport_write(self.transport, "early", 5));
    let_settle(&self, &other);
    CHECK_EQ(self.losts, 0);
    CHECK_OK(tepal_transport_write(self.transport, " bird", 5));
    other.is_holding = false;
    let_settle(&self, &other);
    CHECK_EQ(self.losts, 0);
    char all[32] = "";
    for (int i = 0; i < 2; i++) {
        strcat(all, stranger_reads(&other));
    }
    CHECK_STR(all, "early bird");
    part(&self, &other);
    tepal_tls_context_unref(context);
}

SCRIPT_TEST(tls_review, half_a_ticket_does_not_stand_in_the_way_of_an_end) {
    for (int how = 0; how < 3; how++) {
        tepal_tls_context *context = usual_context(false);
        one_end self = {0};
        stranger other = {.fd = -1};

        join_in_the_middle_of_a_ticket(&self, &other, context);
        CHECK_OK(tepal_transport_write(self.transport, "last", 4));
        if (how == 0) {
            tepal_transport_close(self.transport);
        } else {
            CHECK_OK(tepal_transport_write_eof(self.transport));
        }
        let_settle(&self, &other);
        if (how == 2) {
            tepal_transport_close(self.transport);
            let_settle(&self, &other);
        }
        other.is_holding = false;
        let_settle(&self, &other);
        CHECK_STR(stranger_reads(&other), "last");
        CHECK_STR(stranger_reads(&other), "");
        CHECK_EQ(SSL_get_shutdown(other.ssl) & SSL_RECEIVED_SHUTDOWN, SSL_RECEIVED_SHUTDOWN);
        CHECK_EQ(self.losts, how != 1);
        CHECK_EQ(self.lost_code, 0);
        part(&self, &other);
        tepal_tls_context_unref(context);
    }
}

SCRIPT_TEST(tls_review, who_pauses_until_its_words_have_left_does_not_wait_for_ever_for_half_a_ticket) {
    tepal_tls_context *context = usual_context(false);
    one_end self = {0};
    stranger other = {.fd = -1};
    tepal_tls_info info = {.size = sizeof info};

    join_in_the_middle_of_a_ticket(&self, &other, context);
    CHECK_OK(tepal_transport_tls_info(self.transport, &info));
    CHECK_EQ(info.version, TEPAL_TLS_1_3);
    CHECK_OK(tepal_transport_tls_update_keys(self.transport));
    CHECK_OK(tepal_transport_pause_reading(self.transport));
    CHECK_OK(tepal_transport_write(self.transport, "early", 5));
    CHECK_EQ(SSL_write(other.ssl, "data", 4), 4);
    CHECK_EQ(tepal_transport_write_buffer_size(self.transport), 5);
    other.is_holding = false;
    UNTIL(&self, &other, tepal_transport_write_buffer_size(self.transport) == 0);
    let_settle(&self, &other);
    CHECK_STR(stranger_reads(&other), "early");
    CHECK_EQ(self.received, 0);
    CHECK_EQ(SSL_write(other.ssl, "more", 4), 4);
    let_settle(&self, &other);
    CHECK_EQ(self.received, 0);
    CHECK_OK(tepal_transport_resume_reading(self.transport));
    let_settle(&self, &other);
    CHECK_EQ(self.received, 8);
    CHECK_MEM(self.data, "datamore", 8);
    CHECK_EQ(self.losts, 0);
    part(&self, &other);
    tepal_tls_context_unref(context);
}

SCRIPT_TEST(tls_review, new_keys_are_not_for_who_has_ended) {
    tepal_tls_context *context = usual_context(false);
    one_end self = {0};
    stranger other = {.fd = -1};

    stranger_open(&other, true, TLS1_3_VERSION);
    join(&self, &other, context, "localhost");
    CHECK_OK(tepal_transport_tls_update_keys(self.transport));
    CHECK_OK(tepal_transport_write_eof(self.transport));
    CHECK_EQ(tepal_transport_tls_update_keys(self.transport), TEPAL_ECLOSED);
    let_settle(&self, &other);
    CHECK_EQ(SSL_write(other.ssl, "data", 4), 4);
    let_settle(&self, &other);
    CHECK_EQ(self.received, 4);
    part(&self, &other);
    tepal_tls_context_unref(context);
}

static void count_updates(int is_sent, int version, int type, const void *message, size_t length, SSL *ssl,
                          void *count) {
    (void)version;
    (void)ssl;
    if (!is_sent && type == SSL3_RT_HANDSHAKE && length > 0 && *(const uint8_t *)message == SSL3_MT_KEY_UPDATE) {
        ++*(int *)count;
    }
}

SCRIPT_TEST(tls_review, a_key_that_has_sealed_many_records_is_replaced) {
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        tepal_tls_context *context = usual_context(true);
        one_end self = {0};
        stranger other = {.fd = -1};
        const void *filter;
        int count = 0;

        stranger_open(&other, false, version);
        SSL_set_msg_callback(other.ssl, count_updates);
        SSL_set_msg_callback_arg(other.ssl, &count);
        join(&self, &other, context, NULL);
        UNTIL(&self, &other, SSL_is_init_finished(other.ssl));
        CHECK_OK(tepal_transport_info(self.transport, "tls", &filter));
        for (int times = 1; times <= 2; times++) {
            ((tpi_tls_filter *)(uintptr_t)filter)->records = TPI_TLS_RECORDS_OF_KEY - 2;
            for (int i = 0; i < 4; i++) {
                CHECK_OK(tepal_transport_write(self.transport, "x", 1));
                let_settle(&self, &other);
                CHECK_STR(stranger_reads(&other), "x");
            }
            CHECK_EQ(SSL_read(other.ssl, &(char){0}, 1), -1);
            CHECK_EQ(count, version == TLS1_3_VERSION ? times : 0);
            CHECK_EQ(SSL_write(other.ssl, "y", 1), 1);
            let_settle(&self, &other);
            CHECK_EQ(self.received, times);
        }
        part(&self, &other);
        tepal_tls_context_unref(context);
    }
}

/* A peer that asks for new keys again and again, and takes none of the answers. */
SCRIPT_TEST(tls_review, answers_that_nobody_takes_do_not_fill_the_memory) {
    tepal_tls_context *context = usual_context(true);
    one_end self = {0};
    stranger other = {.fd = -1};

    stranger_open(&other, false, TLS1_3_VERSION);
    join(&self, &other, context, NULL);
    let_settle(&self, &other);
    const int little = 1; /* room in the socket; the simulator's has enough for all */
    (void)setsockopt(tepal_transport_fd(self.transport), SOL_SOCKET, SO_SNDBUF, &little, sizeof little);
    for (int i = 0; i < 6000 && self.losts == 0; i++) {
        CHECK_EQ(SSL_key_update(other.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        CHECK_EQ(SSL_do_handshake(other.ssl), 1);
        if (i % 50 == 49) {
            (void)stranger_give(&other, SIZE_MAX);
            while (tepal_loop_step(self.loop, 0) == 1) {
            }
        }
        CHECK_LT(tepal_transport_write_buffer_size(self.transport), 100000);
    }
    if (strcmp(test_driver(), "sim") == 0) {
        CHECK_EQ(tepal_transport_write_buffer_size(self.transport), 0);
    } else {
        CHECK_EQ(self.losts, 1);
        CHECK_EQ(self.lost_code, TEPAL_ENOBUFS);
    }
    part(&self, &other);
    tepal_tls_context_unref(context);
}

/* ---- The end of a handshake on a live connection ---- */

static one_end successor;

static void hand_over(tepal_future *future, void *argument) {
    one_end *self = argument;
    (void)future;
    successor.protocol.type = &one_end_type;
    CHECK_OK(tepal_transport_set_protocol(self->transport, &successor.protocol, NULL));
}

SCRIPT_TEST(tls_review, who_waits_for_start_tls_is_told_before_data_comes) {
    for (int paused = 0; paused < 2; paused++) {
        tepal_tls_context *context = usual_context(false);
        one_end self = {0};
        stranger other = {.fd = -1};

        successor = (one_end){0};
        stranger_open(&other, true, TLS1_2_VERSION);
        begin(&self, &other, NULL);
        UNTIL(&self, &other, self.made == 1);
        other.holds_tickets = true;
        CHECK_OK(tepal_transport_start_tls(
            self.transport, TEPAL_OPTIONS(tepal_tls_options, .context = context, .server_name = "localhost"),
            &self.upgraded));
        CHECK_OK(tepal_future_add_done_callback(self.upgraded, hand_over, &self));
        if (paused) {
            CHECK_OK(tepal_transport_pause_reading(self.transport));
        }
        UNTIL(&self, &other, other.is_holding);
        CHECK_EQ(SSL_write(other.ssl, "data", 4), 4);
        other.is_holding = false;
        let_settle(&self, &other);
        CHECK(tepal_future_is_done(self.upgraded));
        CHECK_EQ(self.received, 0);
        if (paused) {
            CHECK_EQ(successor.received, 0);
            CHECK_OK(tepal_transport_resume_reading(self.transport));
            let_settle(&self, &other);
        }
        CHECK_EQ(successor.received, 4);
        tepal_future_unref(self.upgraded);
        CHECK_OK(tepal_loop_close(self.loop));
        CHECK_EQ(successor.losts, 1);
        self.losts = 1;
        part(&self, &other);
        tepal_tls_context_unref(context);
    }
}

SCRIPT_TEST(tls_review, an_outer_handshake_is_not_taken_for_the_inner_one) {
    tepal_tls_context *context = usual_context(false);
    const tepal_tls_options options = {.size = sizeof options, .context = context, .server_name = "localhost"};
    one_end self = {0};
    stranger other = {.fd = -1};

    stranger_open(&other, true, 0);
    begin(&self, &other, NULL);
    UNTIL(&self, &other, self.made == 1);
    CHECK_OK(tepal_transport_start_tls(self.transport, &options, NULL));
    CHECK_OK(tepal_transport_start_tls(self.transport, &options, &self.upgraded));
    UNTIL(&self, &other, SSL_is_init_finished(other.ssl));
    let_settle(&self, &other);
    CHECK(!tepal_future_is_done(self.upgraded));
    CHECK_EQ(stranger_reads(&other)[0], SSL3_RT_HANDSHAKE);
    part(&self, &other);
    (void)tepal_future_error(self.upgraded);
    tepal_future_unref(self.upgraded);
    tepal_tls_context_unref(context);
}

SCRIPT_TEST(tls_review, nothing_is_encrypted_for_who_has_ended_already) {
    tepal_tls_context *context = usual_context(false);
    one_end self = {0};
    stranger other = {.fd = -1};
    tepal_future *future;

    stranger_open(&other, true, 0);
    begin(&self, &other, NULL);
    UNTIL(&self, &other, self.made == 1);
    CHECK_EQ(shutdown(other.fd, SHUT_WR), 0);
    let_settle(&self, &other);
    CHECK_EQ(self.eofs, 1);
    CHECK_EQ(tepal_transport_start_tls(self.transport,
                                       TEPAL_OPTIONS(tepal_tls_options, .context = context, .server_name = "localhost"),
                                       &future),
             TEPAL_ECLOSED);
    part(&self, &other);
    tepal_tls_context_unref(context);
}

/* ---- Names and contexts ---- */

SCRIPT_TEST(tls_review, the_context_of_a_name_decides_about_tickets) {
    for (int issues = 0; issues < 2; issues++) {
        tepal_tls_context_options options = usual_options(true);
        one_end self = {0};
        stranger other = {.fd = -1};

        options.no_resumption = issues;
        tepal_tls_context *base = context_of(&options);
        options.no_resumption = !issues;
        tepal_tls_context *named = context_of(&options);
        CHECK_OK(tepal_tls_context_add_name(base, "www.example.org", named));
        stranger_open(&other, false, TLS1_2_VERSION);
        CHECK_EQ(SSL_set_tlsext_host_name(other.ssl, "www.example.org"), 1);
        join(&self, &other, base, NULL);
        UNTIL(&self, &other, SSL_is_init_finished(other.ssl));
        CHECK_EQ(SSL_SESSION_has_ticket(SSL_get_session(other.ssl)), issues);
        part(&self, &other);
        tepal_tls_context_unref(base);
        tepal_tls_context_unref(named);
    }
}

static const char *authority_file(int which) {
    static char path[300];
    snprintf(path, sizeof path, "%s/authority.pem", test_directory());
    FILE *file = fopen(path, "we");
    CHECK(file != NULL);
    CHECK(fputs(identity_of(which)->certificate_pem, file) >= 0);
    CHECK_EQ(fclose(file), 0);
    return path;
}

SCRIPT_TEST(tls_review, an_authority_that_a_reload_has_dropped_vouches_for_no_ticket) {
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        tepal_tls_context_options options = usual_options(true);
        one_end self = {0};
        stranger other = {.fd = -1};

        options.ca = NULL;
        options.ca_file = authority_file(0);
        options.clients = TEPAL_TLS_CLIENTS_MUST;
        tepal_tls_context *context = context_of(&options);
        stranger_open(&other, false, version);
        join(&self, &other, context, NULL);
        let_settle(&self, &other);
        (void)stranger_reads(&other); /* and with it a ticket */
        SSL_CTX *kept = other.ctx;
        SSL_SESSION *session = SSL_get1_session(other.ssl);
        CHECK_EQ(SSL_SESSION_is_resumable(session), 1);
        CHECK_EQ(SSL_CTX_up_ref(kept), 1);
        SSL_set_shutdown(other.ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN); /* else it would forget the session */
        part(&self, &other);

        (void)authority_file(1);
        CHECK_OK(tepal_tls_context_reload(context, NULL, NULL, 0));
        self = (one_end){0};
        other.ctx = kept;
        stranger_open(&other, false, version);
        CHECK_EQ(SSL_set_session(other.ssl, session), 1);
        begin(&self, &other, TEPAL_OPTIONS(tepal_tls_options, .context = context));
        UNTIL(&self, &other, tepal_future_is_done(self.future));
        CHECK(tepal_future_error(self.future) != NULL);
        CHECK_EQ(self.made, 0);
        part(&self, &other);
        SSL_SESSION_free(session);
        tepal_tls_context_unref(context);
    }
}

SCRIPT_TEST(tls_review, a_client_that_is_reloaded_forgets_whom_it_has_met) {
    for (int late = 0; late < 2; late++) { /* the ticket comes before or after the reload */
        tepal_tls_context_options options = usual_options(false);
        tepal_tls_context *context = context_of(&options);
        one_end self = {0};
        stranger other = {.fd = -1, .holds_tickets = late};

        stranger_open(&other, true, TLS1_3_VERSION);
        join(&self, &other, context, "localhost");
        let_settle(&self, &other);
        SSL_CTX *kept = other.ctx;
        CHECK_EQ(SSL_CTX_up_ref(kept), 1);
        options.ca = identity_of(1)->certificate_pem;
        CHECK_OK(tepal_tls_context_reload(context, &options, NULL, 0));
        other.is_holding = false;
        let_settle(&self, &other);
        tepal_transport_close(self.transport);
        let_settle(&self, &other);
        part(&self, &other);

        self = (one_end){0};
        other.ctx = kept;
        stranger_open(&other, true, TLS1_3_VERSION);
        begin(&self, &other, TEPAL_OPTIONS(tepal_tls_options, .context = context, .server_name = "localhost"));
        UNTIL(&self, &other, tepal_future_is_done(self.future));
        CHECK(tepal_future_error(self.future) != NULL);
        part(&self, &other);
        tepal_tls_context_unref(context);
    }
}

SCRIPT_TEST(tls_review, a_session_that_cannot_be_read_is_an_error_of_the_connection) {
    tepal_tls_context *context = usual_context(false);
    one_end self = {0};
    stranger other = {.fd = -1};

    stranger_open(&other, true, 0);
    begin(&self, &other,
          TEPAL_OPTIONS(tepal_tls_options, .context = context, .server_name = "localhost", .session = "rubbish",
                        .session_length = 7));
    UNTIL(&self, &other, tepal_future_is_done(self.future));
    CHECK_EQ(tepal_future_error(self.future)->code, TEPAL_ETLS_SESSION);
    part(&self, &other);
    tepal_tls_context_unref(context);
}

SCRIPT_TEST(tls_review, a_client_that_becomes_careful_does_not_go_on_without_a_name) {
    tepal_tls_context_options options = usual_options(false);
    one_end self = {0};
    stranger other = {.fd = -1};

    options.insecure = true;
    tepal_tls_context *context = context_of(&options);
    stranger_open(&other, true, 0);
    begin(&self, &other, TEPAL_OPTIONS(tepal_tls_options, .context = context));
    options.insecure = false;
    CHECK_OK(tepal_tls_context_reload(context, &options, NULL, 0));
    UNTIL(&self, &other, tepal_future_is_done(self.future));
    CHECK(tepal_future_error(self.future) != NULL);
    CHECK_EQ(tepal_future_error(self.future)->code, TEPAL_EINVAL);
    part(&self, &other);
    tepal_tls_context_unref(context);
}

/* To OpenSSL a name that begins with a dot is any name below it. */
SCRIPT_TEST(tls_review, a_name_that_begins_with_a_dot_is_none) {
    tepal_tls_context *client = usual_context(false), *server = usual_context(true), *other = usual_context(true);
    one_end self = {.loop = script_loop()};
    int fds[2];

    test_socketpair(fds);
    CHECK_EQ(tepal_loop_create_connection(self.loop, end_factory, &self,
                                          TEPAL_OPTIONS(tepal_connect_options, .fd = &fds[0],
                                                        .tls = TEPAL_OPTIONS(tepal_tls_options, .context = client,
                                                                             .server_name = ".example.org")),
                                          &self.future),
             TEPAL_EINVAL);
    CHECK_EQ(tepal_tls_context_add_name(server, ".example.org", other), TEPAL_EINVAL);
    close(fds[0]);
    close(fds[1]);
    CHECK_OK(tepal_loop_close(self.loop));
    tepal_loop_unref(self.loop);
    tepal_tls_context_unref(client);
    tepal_tls_context_unref(server);
    tepal_tls_context_unref(other);
}

/* ---- Ends ---- */

/* All in one segment: the end of the handshake, data, close_notify, FIN. */
SCRIPT_TEST(tls_review, a_client_that_says_all_at_once_and_leaves_is_heard) {
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        tepal_tls_context *context = usual_context(true);
        one_end self = {0};
        stranger other = {.fd = -1, .is_tcp = true};

        stranger_open(&other, false, version);
        other.holds_tickets = version == TLS1_3_VERSION; /* the client's last words are the last of all */
        if (version == TLS1_3_VERSION) {
            begin(&self, &other, TEPAL_OPTIONS(tepal_tls_options, .context = context));
            UNTIL(&self, &other, other.is_holding);
        } else {
            join(&self, &other, context, NULL);
            UNTIL(&self, &other, SSL_is_init_finished(other.ssl));
        }
        CHECK_EQ(SSL_write(other.ssl, "all of it", 9), 9);
        CHECK_EQ(SSL_shutdown(other.ssl), 0);
        (void)stranger_give(&other, SIZE_MAX);
        close(other.fd);
        other.fd = -1;
        const int64_t give_up_ns = test_now_ns() + TEPAL_SEC(5);
        while (self.losts == 0 && self.eofs == 0 && test_now_ns() < give_up_ns) {
            CHECK_OK(tepal_loop_step(self.loop, TEPAL_MS(1)));
        }
        CHECK_EQ(self.received, 9);
        part(&self, &other);
        tepal_tls_context_unref(context);
    }
}

static void pause_now(one_end *self) {
    CHECK_OK(tepal_transport_pause_reading(self->transport));
}

/* An end that comes while there is more than was taken: all of it first. */
SCRIPT_TEST(tls_review, an_end_that_comes_while_paused_waits_for_what_was_kept) {
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        tepal_tls_context *context = usual_context(false);
        one_end self = {.on_data = pause_now};
        stranger other = {.fd = -1};
        static char data[16384];

        stranger_open(&other, true, version);
        join(&self, &other, context, "localhost");
        let_settle(&self, &other);
        for (int i = 0; i < 3; i++) {
            CHECK_EQ(SSL_write(other.ssl, data, sizeof data), sizeof data);
        }
        CHECK_EQ(SSL_shutdown(other.ssl), 0);
        (void)stranger_give(&other, SIZE_MAX);
        CHECK_EQ(shutdown(other.fd, SHUT_WR), 0);
        for (int i = 0; i < 20 && self.eofs == 0; i++) {
            let_settle(&self, &other);
            CHECK_OK(self.eofs == 1 ? 0 : tepal_transport_resume_reading(self.transport));
        }
        CHECK_EQ(self.received, 3 * sizeof data);
        CHECK_EQ(self.eofs, 1);
        part(&self, &other);
        tepal_tls_context_unref(context);
    }
}

/* What somebody else has left in OpenSSL's queue of errors is not ours. */
SCRIPT_TEST(tls_review, errors_that_the_program_left_are_no_errors_here) {
    tepal_tls_context *context = usual_context(false);
    one_end self = {0};
    stranger other = {.fd = -1};

    stranger_open(&other, true, 0);
    ERR_raise(ERR_LIB_SSL, SSL_R_BAD_LENGTH);
    begin(&self, &other, TEPAL_OPTIONS(tepal_tls_options, .context = context, .server_name = "localhost"));
    for (int i = 0; i < 20; i++) {
        ERR_raise(ERR_LIB_SSL, SSL_R_BAD_LENGTH);
        CHECK_OK(tepal_loop_step(self.loop, TEPAL_MS(1)));
        stranger_move(&other);
    }
    CHECK_EQ(self.made, 1);
    ERR_raise(ERR_LIB_SSL, SSL_R_BAD_LENGTH);
    CHECK_OK(tepal_transport_write(self.transport, "data", 4));
    CHECK_OK(tepal_loop_step(self.loop, TEPAL_MS(1)));
    let_settle(&self, &other);
    CHECK_STR(stranger_reads(&other), "data");
    CHECK_EQ(SSL_write(other.ssl, "data", 4), 4);
    CHECK_EQ(SSL_shutdown(other.ssl), 0);
    (void)stranger_give(&other, SIZE_MAX);
    ERR_raise(ERR_LIB_SSL, SSL_R_BAD_LENGTH);
    while (tepal_loop_step(self.loop, TEPAL_MS(1)) == 1 || self.eofs == 0) {
        ERR_raise(ERR_LIB_SSL, SSL_R_BAD_LENGTH);
    }
    CHECK_EQ(self.received, 4);
    ERR_clear_error();
    part(&self, &other);
    tepal_tls_context_unref(context);
}

/* ---- Forked children ---- */

enum fork_state { FORK_SHAKING, FORK_EARLY, FORK_WAITING, FORK_PAUSED, FORK_STATES };

static void bring_to(one_end *self, stranger *other, tepal_tls_context *context, enum fork_state state) {
    tepal_tls_options options = {.size = sizeof options, .context = context, .server_name = "localhost"};

    if (state == FORK_SHAKING) {
        begin(self, other, &options);
        CHECK_OK(tepal_loop_step(self->loop, 0));
    } else if (state == FORK_PAUSED) {
        self->on_data = pause_now;
        join(self, other, context, "localhost");
        for (int i = 0; i < 3; i++) {
            CHECK_EQ(SSL_write(other->ssl, "data", 4), 4);
            let_settle(self, other);
        }
        CHECK_EQ(self->received, 4);
        CHECK_OK(tepal_transport_resume_reading(self->transport));
    } else {
        begin(self, other, NULL);
        UNTIL(self, other, self->made == 1);
        options.unread = "\x16\x03";
        options.unread_length = state == FORK_EARLY ? 2 : 0;
        CHECK_OK(tepal_transport_start_tls(self->transport, &options, &self->upgraded));
        if (state == FORK_WAITING) {
            CHECK_OK(tepal_transport_write(self->transport, "data", 4));
            CHECK_OK(tepal_loop_step(self->loop, 0));
        }
    }
}

static void let_futures_go(one_end *self) {
    tepal_future *futures[] = {self->future, self->upgraded};
    for (int i = 0; i < 2; i++) {
        if (futures[i] != NULL) {
            (void)tepal_future_error(futures[i]);
            tepal_future_unref(futures[i]);
        }
    }
    tepal_transport_unref(self->transport);
}

SCRIPT_TEST(tls_review, a_forked_child_may_close_the_loop_in_any_state) {
    for (enum fork_state state = 0; state < FORK_STATES; state++) {
        tepal_tls_context *context = usual_context(false);
        one_end self = {0};
        stranger other = {.fd = -1};
        int status;

        stranger_open(&other, true, 0);
        const intmax_t before = (intmax_t)test_alloc_live(); /* the context's */
        bring_to(&self, &other, context, state);
        const pid_t child = fork();
        if (child == 0) {
            const int made = self.made;
            CHECK_OK(tepal_loop_close(self.loop));
            CHECK_EQ(self.made, made);
            CHECK_EQ(self.losts, 0);
            let_futures_go(&self);
            tepal_loop_unref(self.loop);
            CHECK_EQ(test_alloc_live(), before);
            _exit(0);
        }
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
        CHECK_OK(tepal_loop_close(self.loop));
        CHECK_EQ(self.losts, self.made);
        let_futures_go(&self);
        tepal_loop_unref(self.loop);
        stranger_close(&other);
        CHECK_EQ(test_alloc_live(), before);
        tepal_tls_context_unref(context);
    }
}

/* ---- Threads ---- */

typedef struct thread_work {
    pthread_t thread;
    tepal_tls_context *client, *server;
    int rounds;
} thread_work;

static void *connect_often(void *argument) {
    thread_work *work = argument;
    for (int i = 0; i < work->rounds; i++) {
        tepal_loop *loop;
        one_end ends[2] = {0};
        int fds[2];
        CHECK_OK(tepal_loop_new(&loop, NULL));
        test_socketpair(fds);
        for (int side = 0; side < 2; side++) {
            ends[side].protocol.type = &one_end_type;
            ends[side].loop = loop;
            CHECK_OK(tepal_loop_create_connection(
                loop, end_factory, &ends[side],
                TEPAL_OPTIONS(tepal_connect_options, .fd = &fds[side],
                              .tls =
                                  TEPAL_OPTIONS(tepal_tls_options, .context = side == 0 ? work->client : work->server,
                                                .server_name = side == 0 ? "www.example.org" : NULL)),
                &ends[side].future));
        }
        while (!tepal_future_is_done(ends[0].future) || !tepal_future_is_done(ends[1].future)) {
            CHECK_OK(tepal_loop_step(loop, TEPAL_MS(10)));
        }
        for (int side = 0; side < 2; side++) {
            CHECK_OK(tepal_future_result(ends[side].future, NULL));
            CHECK_OK(tepal_transport_write(ends[side].transport, "data", 4));
        }
        while (ends[0].received < 4 || ends[1].received < 4) {
            CHECK_OK(tepal_loop_step(loop, TEPAL_MS(10)));
        }
        CHECK_OK(tepal_loop_close(loop));
        for (int side = 0; side < 2; side++) {
            let_futures_go(&ends[side]);
        }
        tepal_loop_unref(loop);
    }
    return NULL;
}

TEST(tls_review, contexts_are_shared_by_threads_and_reloaded_meanwhile) {
    tepal_tls_context *client = usual_context(false), *server = usual_context(true), *named = usual_context(true);
    thread_work works[3];

    CHECK_OK(tepal_tls_context_add_name(server, "*.example.org", named));
    for (int i = 0; i < 3; i++) {
        works[i] = (thread_work){.client = client, .server = server, .rounds = 20};
        CHECK_EQ(pthread_create(&works[i].thread, NULL, connect_often, &works[i]), 0);
    }
    for (int i = 0; i < 40; i++) {
        CHECK_OK(tepal_tls_context_reload(i % 2 == 0 ? client : named, NULL, NULL, 0));
        CHECK_OK(tepal_tls_context_add_name(server, "www.example.org", i % 4 == 0 ? NULL : named));
    }
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(pthread_join(works[i].thread, NULL), 0);
    }
    tepal_tls_context_unref(client);
    tepal_tls_context_unref(server);
    tepal_tls_context_unref(named);
}
