/*
 * Sessions that are taken up again: where that saves a handshake, and everywhere it must not skip one. FIELD row 29.
 */
#include "conformance/tls_pair.h"
#include "tls/context.h"

#include <unistd.h>

static bool is_resumed(const tls_pair *self) {
    const bool resumed = tls_info(&self->client).resumed;

    CHECK_EQ(tls_info(&self->server).resumed, resumed);
    CHECK(tls_info(&self->client).verified);
    return resumed;
}

/* Connect, exchange some bytes, part. Whether a session was taken up. */
static bool meet(tls_pair *self) {
    tls_open(self);
    tls_exchange(self, 1000);
    const bool resumed = is_resumed(self);
    tls_part(self);
    return resumed;
}

/* There must be a connection for tls_close(). */
static void finish(tls_pair *self) {
    tls_start(self);
    tls_close(self);
}

SCRIPT_TEST(tls_resume, a_context_takes_up_sessions_by_itself) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};

        CHECK(!meet(&self));
        for (int i = 0; i < 10; i++) {
            CHECK(meet(&self));
        }
        finish(&self);
    }
}

SCRIPT_TEST(tls_resume, what_is_known_of_the_peer_is_known_of_a_resumed_connection_too) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};
        tepal_tls_context_options client = tls_usual_options(false, version), server = tls_usual_options(true, version);
        char text[200];

        client.certificate = identity_client()->certificate;
        client.key = identity_client()->key;
        server.clients = TEPAL_TLS_CLIENTS_MUST;
        self.client_context = tls_context(&client);
        self.server_context = tls_context(&server);
        CHECK(!meet(&self));
        tls_open(&self);
        CHECK(is_resumed(&self));
        CHECK(tls_info(&self.server).verified);
        CHECK_GT(tepal_transport_tls_certificate(self.server.transport, TEPAL_TLS_SUBJECT, text, sizeof text), 0);
        CHECK_STR(text, "CN=client,O=Tepal");
        CHECK_GT(tepal_transport_tls_certificate(self.client.transport, TEPAL_TLS_SUBJECT, text, sizeof text), 0);
        CHECK_STR(text, "CN=server,O=Tepal");
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_resume, either_end_can_do_without) {
    for (int server = 0; server < 2; server++) {
        EACH_VERSION(version) {
            tls_pair self = {.version = version};
            tepal_tls_context_options options = tls_usual_options(server, version);

            options.no_resumption = true;
            *(server ? &self.server_context : &self.client_context) = tls_context(&options);
            CHECK(!meet(&self));
            CHECK(!meet(&self));
            tls_open(&self);
            if (server) {
                CHECK_EQ(tepal_transport_tls_session(self.client.transport, NULL, 0), TEPAL_ENOENT);
            }
            tls_close(&self);
        }
    }
}

/* ---- A session that the program keeps ---- */

typedef struct ticket {
    uint8_t bytes[8192];
    size_t length;
} ticket;

/* Connect as self says, and take the session with one. */
static void take(tls_pair *self, ticket *taken) {
    tls_open(self);
    tls_exchange(self, 100); /* on 1.3 the ticket has come by then */
    const int64_t length = tepal_transport_tls_session(self->client.transport, NULL, 0);
    CHECK_GT(length, 0);
    CHECK_EQ(tepal_transport_tls_session(self->client.transport, taken->bytes, (size_t)length - 1), TEPAL_ENOBUFS);
    CHECK_EQ(tepal_transport_tls_session(self->client.transport, taken->bytes, sizeof taken->bytes), length);
    CHECK_EQ(tepal_transport_tls_session(self->server.transport, NULL, 0), TEPAL_ENOENT);
    taken->length = (size_t)length;
    tls_part(self);
}

static void offer(tls_pair *self, const ticket *taken) {
    self->client_options.session = taken->bytes;
    self->client_options.session_length = taken->length;
}

/* Another context of the client's, which keeps no sessions: only what is offered can be taken up. */
static void forget(tls_pair *self) {
    tepal_tls_context_unref(self->client_context);
    self->client_context = tls_usual_context(false, self->version);
}

SCRIPT_TEST(tls_resume, a_session_that_the_program_has_kept_is_taken_up_by_another_context) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};
        ticket taken;

        take(&self, &taken);
        forget(&self);
        offer(&self, &taken);
        CHECK(meet(&self));
        forget(&self);
        offer(&self, &(ticket){.length = 0});
        CHECK(!meet(&self)); /* contexts have no sessions in common */
        finish(&self);
    }
}

SCRIPT_TEST(tls_resume, a_session_that_cannot_be_read_is_refused_at_the_call_or_by_the_future) {
    static const uint8_t junk[] = {0x30, 0x82, 1, 2, 3};
    tls_pair self = {.loop = script_loop(), .client.pair = &self};
    tepal_tls_context *client = tls_usual_context(false, 0);
    tepal_future *future;
    int fds[2];

    test_socketpair(fds);
    const tepal_tls_options tls = {
        .size = sizeof tls, .context = client, .server_name = "a", .session = junk, .session_length = sizeof junk};
    const tepal_tls_options none = {
        .size = sizeof tls, .context = client, .server_name = "a", .session = NULL, .session_length = 1};
    CHECK_EQ(tepal_loop_create_connection(self.loop, tls_factory, &self.client,
                                          TEPAL_OPTIONS(tepal_connect_options, .fd = &fds[0], .tls = &none), &future),
             TEPAL_EINVAL);
    int code = tepal_loop_create_connection(self.loop, tls_factory, &self.client,
                                            TEPAL_OPTIONS(tepal_connect_options, .fd = &fds[0], .tls = &tls), &future);
    if (code == 0) {
        TLS_UNTIL(&self, tepal_future_is_done(future));
        code = tepal_future_result(future, NULL);
        tepal_future_unref(future);
    }
    CHECK_EQ(code, TEPAL_ETLS_SESSION);
    CHECK_EQ(self.client.built, 0);
    plumbing_close(self.loop);
    tepal_tls_context_unref(client);
    close(fds[1]);
}

/* ---- Where it must not be ---- */

/* A server of two names. */
static void serve_two(tls_pair *self, tepal_tls_clients second) {
    const identity *names[] = {identity_for("DNS:one.example"), identity_for("DNS:two.example")};
    const char *const called[] = {"one.example", "two.example"};

    self->server_context = tls_usual_context(true, self->version);
    for (int i = 0; i < 2; i++) {
        tepal_tls_context_options options = tls_usual_options(true, self->version);
        options.certificate = names[i]->certificate;
        options.key = names[i]->key;
        options.clients = i == 1 ? second : TEPAL_TLS_CLIENTS_ANY;
        tepal_tls_context *made = tls_context(&options);
        CHECK_OK(tepal_tls_context_add_name(self->server_context, called[i], made));
        tepal_tls_context_unref(made);
    }
}

SCRIPT_TEST(tls_resume, a_session_of_one_name_is_not_taken_up_by_another) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version, .client_options.server_name = "one.example"};
        ticket taken;

        serve_two(&self, TEPAL_TLS_CLIENTS_ANY);
        take(&self, &taken);
        offer(&self, &taken);
        self.client_options.server_name = "two.example";
        CHECK(!meet(&self));
        offer(&self, &taken);
        self.client_options.server_name = "one.example";
        CHECK(meet(&self));
        finish(&self);
    }
}

/* CVE-2025-23419. */
SCRIPT_TEST(tls_resume, a_session_does_not_stand_for_the_clients_certificate_at_another_name) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version, .client_options.server_name = "one.example"};
        ticket taken;

        serve_two(&self, TEPAL_TLS_CLIENTS_MUST);
        take(&self, &taken);
        offer(&self, &taken);
        self.client_options.server_name = "two.example";
        tls_start(&self);
        CHECK_EQ(tls_failure(&self.server), TEPAL_ETLS_NO_CERTIFICATE);
        CHECK_EQ(self.server.built, 0);
        CHECK_NE(tls_failure(&self.client), 0);
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_resume, a_session_does_not_stand_for_a_certificate_that_is_asked_for_after_a_reload) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};
        tepal_tls_context_options options = tls_usual_options(true, version);

        CHECK(!meet(&self));
        options.clients = TEPAL_TLS_CLIENTS_MUST;
        CHECK_OK(tepal_tls_context_reload(self.server_context, &options, NULL, 0));
        tls_start(&self);
        CHECK_EQ(tls_failure(&self.server), TEPAL_ETLS_NO_CERTIFICATE);
        CHECK_EQ(self.server.built, 0);
        CHECK_NE(tls_failure(&self.client), 0);
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_resume, a_session_of_one_certificate_is_not_taken_up_for_another) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};
        tepal_tls_context_options options = tls_usual_options(true, version);

        CHECK(!meet(&self));
        options.certificate = identity_other()->certificate;
        options.key = identity_other()->key;
        CHECK_OK(tepal_tls_context_reload(self.server_context, &options, NULL, 0));
        CHECK(!meet(&self));
        CHECK(meet(&self));
        finish(&self);
    }
}

SCRIPT_TEST(tls_resume, a_session_of_one_server_is_not_taken_up_by_another) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};

        CHECK(!meet(&self));
        tepal_tls_context_unref(self.server_context);
        self.server_context = tls_usual_context(true, version); /* the same certificate, other keys for tickets */
        CHECK(!meet(&self));
        finish(&self);
    }
}

/* The certificate is not for the name any more that the client asks for now. */
SCRIPT_TEST(tls_resume, for_whom_the_certificate_is_is_looked_at_again) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};
        ticket taken;

        take(&self, &taken);
        forget(&self);
        offer(&self, &taken);
        self.client_options.server_name = "example.org";
        tls_start(&self);
        CHECK_EQ(tls_failure(&self.client), TEPAL_ETLS_WRONG_HOST);
        CHECK_EQ(self.client.built, 0);
        tls_shake(&self);
        CHECK_NE(tls_failure(&self.server), 0);
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_resume, who_trusts_others_after_a_reload_takes_up_nothing_of_before) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};
        tepal_tls_context_options options = tls_usual_options(false, version);

        CHECK(!meet(&self));
        CHECK(meet(&self));
        options.ca = identity_stranger()->certificate;
        CHECK_OK(tepal_tls_context_reload(self.client_context, &options, NULL, 0));
        tls_start(&self);
        CHECK_EQ(tls_failure(&self.client), TEPAL_ETLS_UNKNOWN_AUTHORITY);
        CHECK_EQ(self.client.built, 0);
        tls_shake(&self);
        CHECK_NE(tls_failure(&self.server), 0);
        tls_close(&self);
    }
}

/* ---- Ticket keys ---- */

SCRIPT_TEST(tls_resume, a_ticket_is_good_for_a_day_after_its_key_was_replaced_and_renewed_meanwhile) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version};
        ticket first, renewed;

        take(&self, &first);
        tpi_context_age_keys(self.server_context, TPI_TICKET_KEY_NS);
        forget(&self);
        CHECK(!meet(&self)); /* which makes a new key */
        forget(&self);
        offer(&self, &first);
        take(&self, &renewed);
        tpi_context_age_keys(self.server_context, TPI_TICKET_KEY_NS - TEPAL_SEC(60));
        forget(&self);
        offer(&self, &first); /* the old key has lived twice as long as it may */
        tpi_context_age_keys(self.server_context, TEPAL_SEC(60));
        CHECK(!meet(&self));
        forget(&self);
        offer(&self, &renewed);
        CHECK(meet(&self));
        tpi_context_age_keys(self.server_context, 2 * TPI_TICKET_KEY_NS);
        forget(&self);
        offer(&self, &renewed);
        CHECK(!meet(&self));
        finish(&self);
    }
}
