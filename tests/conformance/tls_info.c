/* What can be asked of a connection: what was agreed upon, the peer's certificate, bytes that bind other protocols to it. */
#include "conformance/tls_pair.h"

#include <stdio.h>
#include <unistd.h>

SCRIPT_TEST(tls_info, a_connection_says_what_was_agreed_upon) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};

        tls_open(&self);
        for (int server = 0; server < 2; server++) {
            const tepal_tls_info info = tls_info(tls_side(&self, server));
            CHECK_EQ(info.version, version);
            CHECK_STR(info.version_name, version == TEPAL_TLS_1_2 ? "TLSv1.2" : "TLSv1.3");
            CHECK(info.cipher != NULL && strstr(info.cipher, "AES") != NULL);
            CHECK_STR(info.alpn, NULL);
            CHECK_STR(info.server_name, "localhost");
            CHECK(!info.resumed);
            CHECK_EQ(info.verified, !server);
            CHECK(info.ocsp_response == NULL);
        }
        tepal_tls_info small = {.size = offsetof(tepal_tls_info, cipher)};
        CHECK_OK(tepal_transport_tls_info(self.client.transport, &small));
        CHECK_EQ(small.version, version);
        CHECK(small.cipher == NULL);
        small.size = 1;
        CHECK_EQ(tepal_transport_tls_info(self.client.transport, &small), TEPAL_EINVAL);
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_info, nothing_is_known_before_the_handshake_is_done_or_after_the_end) {
    tls_pair self = {0};
    tepal_tls_info info = {.size = sizeof info};
    char text[200];
    int fds[2];
    end plain = {.protocol.type = NULL}, peer = {.protocol.type = NULL};

    tls_open(&self);
    test_socketpair(fds);
    end_adopt(self.loop, &plain, fds[0]);
    end_adopt(self.loop, &peer, fds[1]);
    CHECK_EQ(tepal_transport_tls_info(plain.transport, &info), TEPAL_ENOENT);
    CHECK_EQ(tepal_transport_tls_certificate(plain.transport, TEPAL_TLS_SUBJECT, text, sizeof text), TEPAL_ENOENT);
    CHECK_EQ(tepal_transport_tls_binding(plain.transport, "tls-exporter", text, sizeof text), TEPAL_ENOENT);
    CHECK_EQ(tepal_transport_tls_session(plain.transport, text, sizeof text), TEPAL_ENOENT);
    CHECK_EQ(tepal_transport_tls_update_keys(plain.transport), TEPAL_ENOENT);
    TLS_UNTIL(&self, plain.made == 1 && peer.made == 1);
    CHECK_OK(tepal_transport_start_tls(
        plain.transport, TEPAL_OPTIONS(tepal_tls_options, .context = self.client_context, .server_name = "localhost"),
        NULL));
    info.version = 1;
    CHECK_OK(tepal_transport_tls_info(plain.transport, &info));
    CHECK_EQ(info.version, 0);
    CHECK_EQ(tepal_transport_tls_certificate(plain.transport, TEPAL_TLS_SUBJECT, text, sizeof text), TEPAL_ENOENT);
    CHECK_EQ(tepal_transport_tls_binding(plain.transport, "tls-exporter", text, sizeof text), TEPAL_EPENDING);
    CHECK_EQ(tepal_transport_tls_session(plain.transport, text, sizeof text), TEPAL_ENOENT);
    CHECK_EQ(tepal_transport_tls_update_keys(plain.transport), TEPAL_EPENDING);
    tepal_transport_abort(plain.transport, TEPAL_ETIMEDOUT);
    tepal_transport_close(self.client.transport);
    TLS_UNTIL(&self, plain.losts == 1 && self.client.losts == 1);
    CHECK_EQ(tepal_transport_tls_info(self.client.transport, &info), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_tls_certificate(self.client.transport, TEPAL_TLS_SUBJECT, text, sizeof text),
             TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_tls_binding(self.client.transport, "tls-exporter", text, sizeof text), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_tls_session(self.client.transport, text, sizeof text), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_tls_update_keys(self.client.transport), TEPAL_ECLOSED);
    CHECK_EQ(tepal_transport_start_tls(self.client.transport, &self.client_options, NULL), TEPAL_ECLOSED);
    tls_close(&self);
    end_free(&plain);
    end_free(&peer);
}

static void check_part(const tls_end *self, tepal_tls_certificate_part part, const char *expected) {
    char text[8192];
    const size_t length = strlen(expected);

    CHECK_EQ(tepal_transport_tls_certificate(self->transport, part, NULL, 0), length);
    CHECK_EQ(tepal_transport_tls_certificate(self->transport, part, text, sizeof text), length);
    CHECK_STR(text, expected);
    memset(text, '#', sizeof text);
    CHECK_EQ(tepal_transport_tls_certificate(self->transport, part, text, length), TEPAL_ENOBUFS);
    CHECK_EQ(text[0], '#');
    CHECK_EQ(tepal_transport_tls_certificate(self->transport, part, text, length + 1), length);
    CHECK_EQ(text[length + 1], '#');
}

SCRIPT_TEST(tls_info, the_parts_of_the_peers_certificate_are_text) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};
        char serial[16];
        const identity *root = identity_authority();
        const identity *one = identity_for("DNS:localhost,DNS:*.example.org,IP:10.1.2.3,email:a@example.org");
        tepal_tls_context_options server = tls_usual_options(true, version);

        server.certificate = one->certificate;
        server.key = one->key;
        self.server_context = tls_context(&server);
        tls_open(&self);
        check_part(&self.client, TEPAL_TLS_SUBJECT, "CN=a server of names,O=Tepal");
        check_part(&self.client, TEPAL_TLS_ISSUER, "CN=The authority,O=Tepal");
        check_part(&self.client, TEPAL_TLS_NAMES,
                   "DNS:localhost, DNS:*.example.org, IP Address:10.1.2.3, email:a@example.org");
        CHECK_GT(tepal_transport_tls_certificate(self.client.transport, TEPAL_TLS_SERIAL, serial, sizeof serial), 0);
        CHECK_EQ(strspn(serial, "0123456789ABCDEF"), strlen(serial));
        check_part(&self.client, TEPAL_TLS_PEM, one->certificate);
        check_part(&self.client, TEPAL_TLS_CHAIN, identity_join(one->certificate, root->certificate));
        CHECK_EQ(tepal_transport_tls_certificate(self.client.transport, (tepal_tls_certificate_part)99, serial, 16),
                 TEPAL_EINVAL);
        CHECK_EQ(tepal_transport_tls_certificate(self.server.transport, TEPAL_TLS_PEM, serial, 16), TEPAL_ENOENT);
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_info, a_servers_view_of_its_client_begins_with_the_clients_own_certificate) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};
        tepal_tls_context_options client = tls_usual_options(false, version), server = tls_usual_options(true, version);

        client.certificate = identity_client()->certificate;
        client.key = identity_client()->key;
        server.clients = TEPAL_TLS_CLIENTS_MUST;
        self.client_context = tls_context(&client);
        self.server_context = tls_context(&server);
        tls_open(&self);
        check_part(&self.server, TEPAL_TLS_SUBJECT, "CN=client,O=Tepal");
        check_part(&self.server, TEPAL_TLS_PEM, identity_client()->certificate);
        check_part(&self.server, TEPAL_TLS_CHAIN,
                   identity_join(identity_client()->certificate, identity_authority()->certificate));
        tls_close(&self);
    }
}

/* ---- Bindings ---- */

static void bind_both(tls_pair *self, const char *type, uint8_t *binding, size_t length) {
    uint8_t other[64];

    CHECK_EQ(tepal_transport_tls_binding(self->client.transport, type, binding, 64), length);
    CHECK_EQ(tepal_transport_tls_binding(self->server.transport, type, other, length), length);
    CHECK_MEM(binding, other, length);
    CHECK_EQ(tepal_transport_tls_binding(self->server.transport, type, other, length - 1), TEPAL_ENOBUFS);
}

SCRIPT_TEST(tls_info, both_ends_compute_the_same_bindings_and_other_connections_others) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};
        uint8_t exporter[2][64], server[2][64];

        for (int i = 0; i < 2; i++) { /* the second one is resumed */
            tls_open(&self);
            bind_both(&self, "tls-exporter", exporter[i], 32);
            bind_both(&self, "tls-server-end-point", server[i], 32);
            CHECK_EQ(tepal_transport_tls_binding(self.client.transport, "tls-unique", exporter[i], 64), TEPAL_EINVAL);
            tls_part(&self);
        }
        CHECK(memcmp(exporter[0], exporter[1], 32) != 0);
        CHECK_MEM(server[0], server[1], 32);
        tls_start(&self);
        tls_close(&self);
    }
}
