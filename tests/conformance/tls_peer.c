/* See tls_peer.h. */
#include "conformance/tls_peer.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- Two certificates, each its own authority, for the same names ---- */

static void write_pem(BIO *memory, char *text, size_t size) {
    const int length = BIO_read(memory, text, (int)size - 1);
    CHECK_GT(length, 0);
    text[length] = '\0';
    BIO_free(memory);
}

const identity *identity_of(int which) {
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

tepal_tls_context_options usual_options(bool server) {
    const identity *first = identity_of(0);
    return (tepal_tls_context_options){.size = sizeof(tepal_tls_context_options),
                                       .server = server,
                                       .certificate = server ? first->certificate_pem : NULL,
                                       .key = server ? first->key_pem : NULL,
                                       .ca = first->certificate_pem};
}

tepal_tls_context *context_of(const tepal_tls_context_options *options) {
    tepal_tls_context *made;
    CHECK_OK(tepal_tls_context_new(&made, options, NULL, 0));
    return made;
}

tepal_tls_context *usual_context(bool server) {
    const tepal_tls_context_options options = usual_options(server);
    return context_of(&options);
}

/* ---- Tepal's end ---- */

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

const tepal_protocol_type one_end_type = {.size = sizeof one_end_type,
                                          .connection_made = end_made,
                                          .data_received = end_data,
                                          .eof_received = end_eof,
                                          .connection_lost = end_lost};

int one_end_factory(void *argument, tepal_protocol **protocol) {
    *protocol = &((one_end *)argument)->protocol;
    return 0;
}

/* ---- OpenSSL's end ---- */

void stranger_open(stranger *self, bool server, int version) {
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

void stranger_close(stranger *self) {
    SSL_free(self->ssl);
    SSL_CTX_free(self->ctx);
    if (self->fd >= 0) {
        close(self->fd);
    }
    *self = (stranger){.fd = -1};
}

/* Send so much of what it says, at most. */
size_t stranger_give(stranger *self, size_t limit) {
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
void stranger_give_record(stranger *self) {
    char *bytes;
    const long length = BIO_get_mem_data(SSL_get_wbio(self->ssl), &bytes);
    CHECK_GT(length, 5);
    const size_t record = 5 + ((size_t)(uint8_t)bytes[3] << 8 | (uint8_t)bytes[4]);
    CHECK_LT(record, length);
    CHECK_EQ(stranger_give(self, record), record);
}

void stranger_move(stranger *self) {
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

void turn(one_end *self, stranger *other) {
    stranger_move(other);
    CHECK_OK(tepal_loop_step(self->loop, TEPAL_MS(1)));
}

void let_settle(one_end *self, stranger *other) {
    for (int i = 0; i < 10; i++) {
        stranger_move(other);
        while (tepal_loop_step(self->loop, 0) == 1) {
        }
    }
}

/* ---- Both ---- */

void begin(one_end *self, stranger *other, const tepal_tls_options *tls) {
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
    CHECK_OK(tepal_loop_create_connection(self->loop, one_end_factory, self,
                                          TEPAL_OPTIONS(tepal_connect_options, .fd = &fds[0], .tls = tls),
                                          &self->future));
}

/* Tepal is the client of a stranger that is a server, or the other way round. */
void join(one_end *self, stranger *other, tepal_tls_context *context, const char *name) {
    begin(self, other, TEPAL_OPTIONS(tepal_tls_options, .context = context, .server_name = name));
    UNTIL(self, other, tepal_future_is_done(self->future));
    CHECK_OK(tepal_future_result(self->future, NULL));
}

void part(one_end *self, stranger *other) {
    CHECK_OK(tepal_loop_close(self->loop));
    CHECK_EQ(self->made, self->losts);
    (void)tepal_future_error(self->future);
    tepal_future_unref(self->future);
    tepal_transport_unref(self->transport);
    tepal_loop_unref(self->loop);
    stranger_close(other);
}

const char *stranger_reads(stranger *self) {
    static char bytes[16384];
    const int count = SSL_read(self->ssl, bytes, sizeof bytes - 1);
    bytes[count < 0 ? 0 : count] = '\0';
    return bytes;
}
