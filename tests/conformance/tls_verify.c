/* Who is believed: certificates, names, authorities, what both ends have to have in common. The code at both ends. */
#include "conformance/tls_pair.h"

#include <stdlib.h>

typedef struct expectation {
    const char *what; /* for who reads a failure */
    const identity *shown;
    const char *chain;  /* PEM after it; NULL: nothing */
    const char *ca;     /* PEM; NULL: the authority's */
    const char *name;   /* NULL: localhost */
    int client, server; /* codes */
} expectation;

/* Both ends' codes where the server shows this. */
static void check_shown(const expectation *expected, tepal_tls_version version) {
    tls_pair self = {.version = version};
    tepal_tls_context_options server = tls_usual_options(true, version), client = tls_usual_options(false, version);

    server.certificate = expected->chain == NULL ? expected->shown->certificate
                                                 : identity_join(expected->shown->certificate, expected->chain);
    server.key = expected->shown->key;
    client.ca = expected->ca == NULL ? client.ca : expected->ca;
    self.server_context = tls_context(&server);
    self.client_context = tls_context(&client);
    self.client_options.server_name = expected->name;
    tls_start(&self);
    tls_shake(&self);
    const int at_client = tepal_future_result(self.client.future, NULL);
    const int at_server = tepal_future_result(self.server.future, NULL);
    if (at_client != expected->client || !tls_is_told(at_server, expected->server)) {
        test_fail(__FILE__, __LINE__, "%s on %x: the client said %s, the server %s", expected->what, version,
                  tepal_error_name(at_client), tepal_error_name(at_server));
    }
    if (expected->client < 0) {
        CHECK_EQ(self.client.built, 0);
        CHECK_EQ(self.server.built, 0);
    } else {
        CHECK(tls_info(&self.client).verified);
        CHECK(!tls_info(&self.server).verified);
        tls_exchange(&self, 1000);
    }
    tls_close(&self);
}

static void check_all(const expectation *expected, size_t count) {
    for (size_t i = 0; i < count; i++) {
        EACH_VERSION(version) {
            check_shown(&expected[i], version);
        }
    }
}

#define CHECK_SHOWN(...)                                                                                               \
    do {                                                                                                               \
        const expectation expected_[] = {__VA_ARGS__};                                                                 \
        check_all(expected_, sizeof expected_ / sizeof expected_[0]);                                                  \
    } while (0)

static const identity *wish(identity_wish made) {
    if (made.issuer == NULL && !made.is_authority) {
        made.issuer = identity_authority();
    }
    made.common_name = made.common_name == NULL ? "somebody" : made.common_name;
    return identity_make(&made);
}

#define WISH(...) wish((identity_wish){__VA_ARGS__})

SCRIPT_TEST(tls_verify, a_certificate_out_of_its_time_is_refused_by_name) {
    CHECK_SHOWN({.what = "expired",
                 .shown = WISH(.names = "DNS:localhost", .from = "20010101000000Z", .until = "20020101000000Z"),
                 .client = TEPAL_ETLS_EXPIRED,
                 .server = TEPAL_ETLS_REFUSED},
                {.what = "not yet valid",
                 .shown = WISH(.names = "DNS:localhost", .from = "20900101000000Z"),
                 .client = TEPAL_ETLS_NOT_YET_VALID,
                 .server = TEPAL_ETLS_REFUSED});
}

SCRIPT_TEST(tls_verify, a_certificate_of_another_host_is_refused) {
    static const char cut[] = "localhost\0.example.org";
    const identity *wild = identity_for("DNS:*.example.org");

    CHECK_SHOWN({.what = "another name",
                 .shown = identity_for("DNS:example.org"),
                 .client = TEPAL_ETLS_WRONG_HOST,
                 .server = TEPAL_ETLS_REFUSED},
                {.what = "another address",
                 .shown = identity_server(),
                 .name = "127.0.0.2",
                 .client = TEPAL_ETLS_WRONG_HOST,
                 .server = TEPAL_ETLS_REFUSED},
                {.what = "its address", .shown = identity_server(), .name = "127.0.0.1"},
                {.what = "its address of the other family", .shown = identity_server(), .name = "::1"},
                {.what = "an address as a name",
                 .shown = identity_for("DNS:127.0.0.1"),
                 .name = "127.0.0.1",
                 .client = TEPAL_ETLS_WRONG_HOST,
                 .server = TEPAL_ETLS_REFUSED},
                {.what = "the subject alone",
                 .shown = WISH(.common_name = "localhost"),
                 .client = TEPAL_ETLS_WRONG_HOST,
                 .server = TEPAL_ETLS_REFUSED},
                {.what = "a name with a NUL",
                 .shown = WISH(.raw_name = cut, .raw_length = sizeof cut - 1),
                 .client = TEPAL_ETLS_WRONG_HOST,
                 .server = TEPAL_ETLS_REFUSED},
                {.what = "a part of a label",
                 .shown = identity_for("DNS:local*"),
                 .client = TEPAL_ETLS_WRONG_HOST,
                 .server = TEPAL_ETLS_REFUSED},
                {.what = "one label", .shown = wild, .name = "a.example.org"},
                {.what = "in capitals, with a dot", .shown = wild, .name = "A.Example.ORG."},
                {.what = "two labels",
                 .shown = wild,
                 .name = "a.b.example.org",
                 .client = TEPAL_ETLS_WRONG_HOST,
                 .server = TEPAL_ETLS_REFUSED},
                {.what = "no label",
                 .shown = wild,
                 .name = "example.org",
                 .client = TEPAL_ETLS_WRONG_HOST,
                 .server = TEPAL_ETLS_REFUSED});
}

SCRIPT_TEST(tls_verify, an_authority_has_to_be_trusted) {
    const identity *alone = identity_make(&(identity_wish){.common_name = "alone", .names = "DNS:localhost"});
    const identity *below =
        identity_make(&(identity_wish){.common_name = "below", .is_authority = true, .issuer = identity_authority()});
    const identity *far = WISH(.names = "DNS:localhost", .issuer = below);
    const identity *strange = WISH(.names = "DNS:localhost", .issuer = identity_stranger());

    CHECK_SHOWN({.what = "a stranger's",
                 .shown = strange,
                 .client = TEPAL_ETLS_UNKNOWN_AUTHORITY,
                 .server = TEPAL_ETLS_REFUSED},
                {.what = "a stranger's with its root",
                 .shown = strange,
                 .chain = identity_stranger()->certificate,
                 .client = TEPAL_ETLS_UNKNOWN_AUTHORITY,
                 .server = TEPAL_ETLS_REFUSED},
                {.what = "its own", .shown = alone, .client = TEPAL_ETLS_SELF_SIGNED, .server = TEPAL_ETLS_REFUSED},
                {.what = "its own, trusted", .shown = alone, .ca = alone->certificate},
                {.what = "a chain", .shown = far, .chain = below->certificate},
                {.what = "a chain with a gap",
                 .shown = far,
                 .client = TEPAL_ETLS_UNKNOWN_AUTHORITY,
                 .server = TEPAL_ETLS_REFUSED},
                {.what = "trusted in the middle", .shown = far, .ca = below->certificate},
                {.what = "trusted itself", .shown = far, .ca = far->certificate},
                {.what = "several are trusted",
                 .shown = strange,
                 .ca = identity_join(identity_authority()->certificate, identity_stranger()->certificate)});
}

SCRIPT_TEST(tls_verify, a_certificate_for_another_use_is_refused) {
    const identity *leaf = WISH(.names = "DNS:localhost");

    CHECK_SHOWN({.what = "a client's",
                 .shown = WISH(.names = "DNS:localhost", .usage = "clientAuth"),
                 .client = TEPAL_ETLS_UNFIT,
                 .server = TEPAL_ETLS_REFUSED},
                {.what = "signed by one that is no authority",
                 .shown = WISH(.names = "DNS:localhost", .issuer = leaf),
                 .chain = leaf->certificate,
                 .client = TEPAL_ETLS_UNFIT,
                 .server = TEPAL_ETLS_REFUSED});
}

SCRIPT_TEST(tls_verify, the_systems_authorities_are_asked_unless_others_are_named) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};
        tepal_tls_context_options client = tls_usual_options(false, version);

        client.ca = NULL;
        CHECK_EQ(setenv("SSL_CERT_FILE", tls_file("roots.pem", identity_authority()->certificate), 1), 0);
        self.client_context = tls_context(&client);
        tls_open(&self);
        CHECK(tls_info(&self.client).verified);
        tls_close(&self);
        self = (tls_pair){.version = version};
        CHECK_EQ(setenv("SSL_CERT_FILE", tls_file("roots.pem", identity_stranger()->certificate), 1), 0);
        self.client_context = tls_context(&client);
        tls_start(&self);
        tls_shake(&self);
        CHECK_EQ(tls_failure(&self.client), TEPAL_ETLS_UNKNOWN_AUTHORITY);
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_verify, nothing_is_verified_by_who_asked_for_that) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};
        tepal_tls_context_options client = tls_usual_options(false, version), server = tls_usual_options(true, version);
        const identity *worst = identity_make(
            &(identity_wish){.common_name = "worst", .until = "20010101000000Z", .from = "20000101000000Z"});

        client.insecure = true;
        client.ca = NULL;
        server.certificate = worst->certificate;
        server.key = worst->key;
        self.client_context = tls_context(&client);
        self.server_context = tls_context(&server);
        tls_open(&self);
        CHECK(!tls_info(&self.client).verified);
        tls_exchange(&self, 1000);
        tls_close(&self);
    }
}

/* ---- Clients' certificates ---- */

typedef struct showing {
    tepal_tls_clients clients;
    const identity *shown;  /* NULL: none */
    int server;             /* its code */
    int old_client, client; /* its code on 1.2 and 1.3 */
} showing;

static void show(const showing *expected, tepal_tls_version version) {
    tls_pair self = {.version = version};
    tepal_tls_context_options server = tls_usual_options(true, version), client = tls_usual_options(false, version);

    server.clients = expected->clients;
    if (expected->shown != NULL) {
        client.certificate = expected->shown->certificate;
        client.key = expected->shown->key;
    }
    self.server_context = tls_context(&server);
    self.client_context = tls_context(&client);
    tls_start(&self);
    if (expected->server < 0) {
        CHECK_EQ(tls_failure(&self.server), expected->server);
        CHECK_EQ(self.server.built, 0);
        CHECK(
            tls_is_told(tls_failure(&self.client), version == TEPAL_TLS_1_2 ? expected->old_client : expected->client));
    } else {
        tls_shake(&self);
        const bool is_verified = expected->clients != TEPAL_TLS_CLIENTS_ANY && expected->shown != NULL;
        CHECK_OK(tepal_future_result(self.server.future, NULL));
        CHECK_OK(tepal_future_result(self.client.future, NULL));
        CHECK_EQ(tls_info(&self.server).verified, is_verified);
        CHECK_EQ(tepal_transport_tls_certificate(self.server.transport, TEPAL_TLS_SUBJECT, NULL, 0) > 0, is_verified);
        tls_exchange(&self, 1000);
    }
    tls_close(&self);
}

SCRIPT_TEST(tls_verify, a_server_may_ask_its_clients_for_certificates_or_insist_on_them) {
    const identity *strange = identity_make(&(identity_wish){.common_name = "strange", .issuer = identity_stranger()});
    const identity *old = WISH(.usage = "clientAuth", .from = "20000101000000Z", .until = "20010101000000Z");
    const showing all[] = {
        {.clients = TEPAL_TLS_CLIENTS_ANY},
        {.clients = TEPAL_TLS_CLIENTS_ANY, .shown = strange}, /* nobody asks for it */
        {.clients = TEPAL_TLS_CLIENTS_MAY},
        {.clients = TEPAL_TLS_CLIENTS_MAY, .shown = identity_client()},
        {.clients = TEPAL_TLS_CLIENTS_MAY,
         .shown = strange,
         .server = TEPAL_ETLS_UNKNOWN_AUTHORITY,
         .old_client = TEPAL_ETLS_REFUSED,
         .client = TEPAL_ETLS_REFUSED},
        {.clients = TEPAL_TLS_CLIENTS_MUST,
         .server = TEPAL_ETLS_NO_CERTIFICATE,
         .old_client = TEPAL_ETLS_NOTHING_IN_COMMON,
         .client = TEPAL_ETLS_CERTIFICATE_REQUIRED},
        {.clients = TEPAL_TLS_CLIENTS_MUST, .shown = identity_client()},
        {.clients = TEPAL_TLS_CLIENTS_MUST,
         .shown = strange,
         .server = TEPAL_ETLS_UNKNOWN_AUTHORITY,
         .old_client = TEPAL_ETLS_REFUSED,
         .client = TEPAL_ETLS_REFUSED},
        {.clients = TEPAL_TLS_CLIENTS_MUST,
         .shown = old,
         .server = TEPAL_ETLS_EXPIRED,
         .old_client = TEPAL_ETLS_REFUSED,
         .client = TEPAL_ETLS_REFUSED},
        {.clients = TEPAL_TLS_CLIENTS_MUST,
         .shown = identity_server(),
         .server = TEPAL_ETLS_UNFIT,
         .old_client = TEPAL_ETLS_REFUSED,
         .client = TEPAL_ETLS_REFUSED},
    };

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        EACH_VERSION(version) {
            show(&all[i], version);
        }
    }
}

/* ---- In common ---- */

typedef struct agreement {
    tepal_tls_context_options server, client;
    int at_server, at_client;
    const char *alpn;
} agreement;

static void agree(const agreement *expected) {
    tls_pair self = {.server_context = tls_context(&expected->server),
                     .client_context = tls_context(&expected->client)};

    tls_start(&self);
    if (expected->at_server < 0) {
        CHECK_EQ(tls_failure(&self.server), expected->at_server);
        CHECK(tls_is_told(tls_failure(&self.client), expected->at_client));
        CHECK_EQ(self.server.built + self.client.built, 0);
    } else {
        tls_shake(&self);
        CHECK_OK(tepal_future_result(self.server.future, NULL));
        CHECK_OK(tepal_future_result(self.client.future, NULL));
        CHECK_STR(tls_info(&self.server).alpn, expected->alpn);
        CHECK_STR(tls_info(&self.client).alpn, expected->alpn);
        tls_exchange(&self, 100);
    }
    tls_close(&self);
}

static agreement speaking(tepal_tls_version version, const char *const *server, size_t servers,
                          const char *const *client, size_t clients) {
    agreement made = {.server = tls_usual_options(true, version), .client = tls_usual_options(false, version)};

    made.server.alpn = server;
    made.server.alpn_count = servers;
    made.client.alpn = client;
    made.client.alpn_count = clients;
    return made;
}

SCRIPT_TEST(tls_verify, an_application_protocol_is_agreed_upon_by_the_servers_preference) {
    static const char *const both[] = {"h2", "http/1.1"}, *const turned[] = {"http/1.1", "h2"}, *const other[] = {"x"};

    EACH_VERSION(version) {
        agreement is = speaking(version, both, 2, turned, 2);
        is.alpn = "h2";
        agree(&is);
        is = speaking(version, turned, 2, both, 1);
        is.alpn = "h2";
        agree(&is);
        is = speaking(version, both, 2, NULL, 0); /* who offers none takes part in nothing */
        agree(&is);
        is = speaking(version, NULL, 0, both, 2);
        agree(&is);
        is = speaking(version, both, 2, other, 1);
        is.at_server = is.at_client = TEPAL_ETLS_ALPN;
        agree(&is);
        is = speaking(version, both, 2, other, 1);
        is.server.alpn_optional = true;
        agree(&is);
    }
}

SCRIPT_TEST(tls_verify, ends_without_a_version_in_common_say_so_both) {
    agreement is = {.server = tls_usual_options(true, TEPAL_TLS_1_2),
                    .client = tls_usual_options(false, TEPAL_TLS_1_3),
                    .at_server = TEPAL_ETLS_VERSION,
                    .at_client = TEPAL_ETLS_VERSION};

    agree(&is);
    is.server = tls_usual_options(true, TEPAL_TLS_1_3);
    is.client = tls_usual_options(false, TEPAL_TLS_1_2);
    agree(&is);
}

SCRIPT_TEST(tls_verify, the_highest_version_in_common_is_spoken) {
    for (int i = 0; i < 4; i++) {
        const tepal_tls_version server = i & 1 ? TEPAL_TLS_1_2 : 0, client = i & 2 ? TEPAL_TLS_1_2 : 0;
        tls_pair self = {.server_context = tls_usual_context(true, server),
                         .client_context = tls_usual_context(false, client)};

        tls_open(&self);
        CHECK_EQ(tls_info(&self.server).version, i == 0 ? TEPAL_TLS_1_3 : TEPAL_TLS_1_2);
        CHECK_STR(tls_info(&self.client).version_name, i == 0 ? "TLSv1.3" : "TLSv1.2");
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_verify, ends_without_a_cipher_in_common_say_so_both) {
    agreement is = {.server = tls_usual_options(true, TEPAL_TLS_1_2),
                    .client = tls_usual_options(false, TEPAL_TLS_1_2),
                    .at_server = TEPAL_ETLS_CIPHER,
                    .at_client = TEPAL_ETLS_NOTHING_IN_COMMON};

    is.server.ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256";
    is.client.ciphers = "ECDHE-ECDSA-AES256-GCM-SHA384";
    agree(&is);
    is.server = tls_usual_options(true, TEPAL_TLS_1_3);
    is.client = tls_usual_options(false, TEPAL_TLS_1_3);
    is.server.cipher_suites = "TLS_AES_128_GCM_SHA256";
    is.client.cipher_suites = "TLS_AES_256_GCM_SHA384";
    agree(&is);
}

SCRIPT_TEST(tls_verify, the_cipher_is_one_that_both_ends_allow) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};
        tepal_tls_context_options client = tls_usual_options(false, version);

        client.ciphers = "ECDHE-ECDSA-CHACHA20-POLY1305";
        client.cipher_suites = "TLS_CHACHA20_POLY1305_SHA256";
        self.client_context = tls_context(&client);
        tls_open(&self);
        CHECK_STR(tls_info(&self.server).cipher, version == TEPAL_TLS_1_2 ? client.ciphers : client.cipher_suites);
        CHECK_STR(tls_info(&self.client).cipher, tls_info(&self.server).cipher);
        tls_exchange(&self, 100000);
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_verify, a_stapled_response_reaches_who_asked_for_it) {
    static const uint8_t response[] = {0x30, 3, 0x0a, 1, 6};

    EACH_VERSION(version) {
        for (int asks = 0; asks < 2; asks++) {
            tls_pair self = {.version = version};
            tepal_tls_context_options client = tls_usual_options(false, version);
            tepal_tls_context_options server = tls_usual_options(true, version);

            client.request_ocsp = asks != 0;
            server.ocsp_response = response;
            server.ocsp_response_length = sizeof response;
            self.client_context = tls_context(&client);
            self.server_context = tls_context(&server);
            tls_open(&self);
            const tepal_tls_info info = tls_info(&self.client);
            CHECK_EQ(info.ocsp_response_length, asks ? sizeof response : 0);
            if (asks) {
                CHECK_MEM(info.ocsp_response, response, sizeof response);
            }
            CHECK_EQ(tls_info(&self.server).ocsp_response_length, 0);
            tls_close(&self);
        }
    }
}
