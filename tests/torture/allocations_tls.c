/* Scenarios of failing allocations: TLS, by connecting and serving, and on connections that stand. */
#include "conformance/tls_pair.h"
#include "torture/allocations.h"

/* Contexts are no loop's: they are made once, and without resumption, so that each trial is like the one before. */
static tepal_tls_context *context(bool server, tepal_tls_version version) {
    static tepal_tls_context *made[2][2];
    tepal_tls_context **const kept = &made[server][version == TEPAL_TLS_1_3];

    if (*kept == NULL) {
        tepal_tls_context_options options = tls_usual_options(server, version);
        options.no_resumption = true;
        *kept = tls_context(&options);
    }
    return *kept;
}

static void refused(void *argument, const tepal_error *error) {
    trial *self = argument;

    CHECK(test_alloc_has_failed());
    CHECK_LT(error->code, 0);
    self->refused++;
}

/* ---- Connecting and serving ---- */

static void look_at(const party *self) {
    tepal_tls_info info = {.size = sizeof info};
    uint8_t binding[64];
    char text[4000];

    if (tepal_transport_is_closing(self->transport)) {
        return;
    }
    (void)WORKED(tepal_transport_tls_info(self->transport, &info));
    (void)WORKED(tepal_transport_tls_certificate(self->transport, TEPAL_TLS_CHAIN, text, sizeof text));
    (void)WORKED(tepal_transport_tls_binding(self->transport, "tls-exporter", binding, sizeof binding));
    CHECK_EQ(tepal_transport_tls_session(self->transport, text, sizeof text), TEPAL_ENOENT); /* none is kept */
    if (info.version == TEPAL_TLS_1_3) {
        (void)WORKED(tepal_transport_tls_update_keys(self->transport));
    }
}

static void visit(trial *self, tepal_server *server, tepal_tls_version version) {
    const tepal_tls_options tls = {.size = sizeof tls, .context = context(false, version), .server_name = "localhost"};
    const int refusals = self->refused;
    tepal_address address;
    tepal_future *future;

    self->client = NULL;
    CHECK_OK(tepal_server_local(server, 0, &address));
    if (!WORKED(tepal_loop_create_connection(self->loop, party_client, self,
                                             TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1",
                                                           .port = (uint16_t)tepal_address_port(&address), .tls = &tls),
                                             &future))) {
        return;
    }
    trial_keep(self, future);
    TRIAL_UNTIL(self, tepal_future_is_done(future));
    if (!WORKED(tepal_future_result(future, NULL))) {
        return;
    }
    party *const client = self->client;
    party_write(client, 30000);
    TRIAL_UNTIL(self, client->received == 30000 || client->lost == 1 || client->eofs == 1 || self->refused > refusals ||
                          self->unwritten > 0);
    look_at(client);
    tepal_transport_close(client->transport);
    TRIAL_UNTIL(self, client->lost == 1);
}

static void serve(trial *self, tepal_tls_version version) {
    static const char *const hosts[] = {"127.0.0.1"};
    const tepal_tls_options tls = {.size = sizeof tls, .context = context(true, version)};
    tepal_server *server;

    if (!WORKED(tepal_loop_listen(
            self->loop, party_server, self,
            TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .accept_failed = refused, .tls = &tls),
            &server))) {
        return;
    }
    visit(self, server, version);
    tepal_server_close(server);
    tepal_server_abort_clients(server);
    TRIAL_UNTIL(self, tepal_server_connection_count(server) == 0);
    tepal_server_unref(server);
    self->is_finished = true;
}

static void serve_new(trial *self) {
    serve(self, TEPAL_TLS_1_3);
}

static void serve_old(trial *self) {
    serve(self, TEPAL_TLS_1_2);
}

ALLOCATION_TEST(a_tls_server_serves_or_refuses, serve_new)
ALLOCATION_TEST(a_tls_server_of_the_old_version_serves_or_refuses, serve_old)

/* ---- On a connection that stands ---- */

static bool begin(trial *self, party *each, bool server, const char *unread) {
    const tepal_tls_options tls = {.size = sizeof tls,
                                   .context = context(server, TEPAL_TLS_1_3),
                                   .server_name = server ? NULL : "localhost",
                                   .unread = unread,
                                   .unread_length = unread == NULL ? 0 : strlen(unread)};
    tepal_future *future;

    if (!WORKED(tepal_transport_start_tls(each->transport, &tls, &future))) {
        return false;
    }
    trial_keep(self, future);
    return true;
}

static void change(trial *self) {
    party *client, *server;

    if (!party_pair(self, true, &client, &server)) {
        return;
    }
    const bool first = begin(self, client, false, NULL);
    const bool second = begin(self, server, true, NULL);
    if (!first || !second) {
        return; /* they would wait for each other */
    }
    party_write(client, 40000);
    party_write(server, 40000);
    TRIAL_UNTIL(self, self->unwritten > 0 || (party_has_all(client) && party_has_all(server)));
    client->pauses = true; /* something has to be kept */
    party_write(server, 100000);
    trial_settle(self);
    if (WORKED(tepal_transport_flush(server->transport)) && WORKED(tepal_transport_resume_reading(client->transport))) {
        trial_settle(self);
        client->pauses = false;
        (void)WORKED(tepal_transport_resume_reading(client->transport));
        TRIAL_UNTIL(self, self->unwritten > 0 || party_has_all(client));
    }
    if (tepal_transport_can_write_eof(server->transport) && WORKED(tepal_transport_write_eof(server->transport))) {
        TRIAL_UNTIL(self, client->eofs == 1 || client->lost == 1 || server->lost == 1 || self->unwritten > 0);
    }
    tepal_transport_close(client->transport);
    tepal_transport_close(server->transport);
    TRIAL_UNTIL(self, client->lost == 1 && server->lost == 1);
    self->is_finished = true;
}

ALLOCATION_TEST(a_connection_changes_to_tls_or_ends, change)

static void change_to_nonsense(trial *self) {
    party *client, *server;

    if (!party_pair(self, true, &client, &server) || !begin(self, server, true, "QUIT\r\n")) {
        return;
    }
    TRIAL_UNTIL(self, server->lost == 1);
    TRIAL_UNTIL(self, client->lost == 1 || client->eofs == 1);
    self->is_finished = true;
}

ALLOCATION_TEST(a_connection_that_changes_to_nonsense_ends, change_to_nonsense)

/* ---- Contexts, which have libc's memory ---- */

TEST(allocations, contexts_do_without_the_memory_of_loops) {
    tepal_tls_context_options options = tls_usual_options(true, 0);
    const size_t calls = test_alloc_calls();

    CHECK(tepal_tls_engine() != NULL);
    tepal_tls_context *made, *other;
    CHECK_OK(tepal_tls_context_new(&made, &options, NULL, 0));
    CHECK_OK(tepal_tls_context_new(&other, &options, NULL, 0));
    CHECK_OK(tepal_tls_context_add_name(made, "example.org", other));
    CHECK_OK(tepal_tls_context_reload(made, &options, NULL, 0));
    tepal_tls_context_unref(tepal_tls_context_ref(made));
    tepal_tls_context_unref(made);
    tepal_tls_context_unref(other);
    CHECK_EQ(test_alloc_calls(), calls);
}
