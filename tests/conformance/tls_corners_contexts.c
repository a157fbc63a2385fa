/*
 * What contexts must not forget, or must: names, authorities, and the sessions that stand for both.
 */
#include "conformance/tls_peer.h"

#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- Names and contexts ---- */

SCRIPT_TEST(tls_corners, the_context_of_a_name_decides_about_tickets) {
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

SCRIPT_TEST(tls_corners, an_authority_that_a_reload_has_dropped_vouches_for_no_ticket) {
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        tepal_tls_context_options options = usual_options(true);
        one_end self = {0};
        stranger other = {.fd = -1, .is_tcp = true}; /* over Unix sockets there are no tickets */

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

SCRIPT_TEST(tls_corners, a_client_that_is_reloaded_forgets_whom_it_has_met) {
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

SCRIPT_TEST(tls_corners, a_session_that_cannot_be_read_is_an_error_of_the_connection) {
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

SCRIPT_TEST(tls_corners, a_client_that_becomes_careful_does_not_go_on_without_a_name) {
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
SCRIPT_TEST(tls_corners, a_name_that_begins_with_a_dot_is_none) {
    tepal_tls_context *client = usual_context(false), *server = usual_context(true), *other = usual_context(true);
    one_end self = {.loop = script_loop()};
    int fds[2];

    test_socketpair(fds);
    CHECK_EQ(tepal_loop_create_connection(self.loop, one_end_factory, &self,
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
