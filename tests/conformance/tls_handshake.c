/* TLS from the beginning: in which order things come, through which doors, and what is said to who speaks something else. */
#include "conformance/peers.h"
#include "conformance/tls_pair.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- Order ---- */

static void greet(tls_end *self) {
    tls_end_write(self, 1000);
}

SCRIPT_TEST(tls, connection_made_comes_first_then_the_future_then_data_in_a_later_turn) {
    for (tls_way way = TLS_OVER_TCP; way <= TLS_OVER_WIRE; way++) {
        EACH_VERSION(version) {
            tls_pair self = {.way = way, .version = version, .client.on_made = greet, .server.on_made = greet};

            tls_open(&self);
            TLS_UNTIL(&self, tls_end_has_all(&self.client) && tls_end_has_all(&self.server));
            CHECK_STR(self.client.log, "FMCD");
            CHECK_STR(self.server.log, "FMCD");
            CHECK_EQ(tls_info(&self.client).version, version);
            CHECK_EQ(tls_info(&self.server).version, version);
            tls_exchange(&self, 300000);
            tls_close(&self);
        }
    }
}

/* The data is in the same segment as the end of the handshake. */
SCRIPT_TEST(tls, data_that_comes_with_the_end_of_the_handshake_waits_for_the_protocol) {
    EACH_VERSION(version) {
        tls_pair self = {.way = TLS_OVER_WIRE, .version = version, .client.on_made = greet};

        tls_start(&self);
        /* The client speaks last on 1.3: hold back what it says after its first flight, until it has written. */
        self.wire.up.limit = 5;
        TLS_UNTIL(&self, self.wire.up.length > 5);
        self.wire.up.limit = self.wire.up.length;
        if (version == TEPAL_TLS_1_3) {
            TLS_UNTIL(&self, self.client.made == 1);
            tls_settle(&self);
            CHECK_EQ(self.server.built, 0);
        }
        self.wire.up.limit = SIZE_MAX;
        tls_shake(&self);
        TLS_UNTIL(&self, tls_end_has_all(&self.server));
        CHECK_STR(self.server.log, "FMCD");
        tls_close(&self);
    }
}

SCRIPT_TEST(tls, a_protocol_that_lends_its_buffers_gets_everything) {
    EACH_VERSION(version) {
        tls_pair self = {
            .version = version, .client.protocol.type = &tls_lending_type, .server.protocol.type = &tls_lending_type};

        tls_open(&self);
        tls_exchange(&self, 1000000);
        tls_close(&self);
    }
}

SCRIPT_TEST(tls, a_factory_that_refuses_ends_the_connection_with_its_code) {
    for (int server = 0; server < 2; server++) {
        tls_pair self = {.version = TEPAL_TLS_1_2};

        tls_side(&self, server)->factory_code = TEPAL_ERROR(TEPAL_DOMAIN_USER, 5);
        tls_start(&self);
        tls_shake(&self);
        CHECK_EQ(tepal_future_result(tls_side(&self, server)->future, NULL), TEPAL_ERROR(TEPAL_DOMAIN_USER, 5));
        CHECK_NE(tls_failure(tls_side(&self, !server)), 0);
        CHECK_EQ(tls_side(&self, server)->made, 0);
        tls_close(&self);
    }
}

/* ---- Servers and connecting ---- */

typedef struct place {
    peers all;
    tepal_tls_context *client, *own;
    tepal_server *server;
    char path[100];
} place;

static void place_open(place *self, bool is_unix) {
    const char *const hosts[] = {"127.0.0.1"};

    self->client = tls_usual_context(false, 0);
    self->own = tls_usual_context(true, 0);
    peers_open(&self->all);
    snprintf(self->path, sizeof self->path, "@tepal-tls-%d", (int)getpid());
    CHECK_OK(
        tepal_loop_listen(self->all.loop, peers_factory, &self->all,
                          TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = !is_unix,
                                        .unix_path = is_unix ? self->path : NULL, .accept_failed = peers_accept_failed,
                                        .tls = TEPAL_OPTIONS(tepal_tls_options, .context = self->own)),
                          &self->server));
}

static tepal_future *place_dial(place *self, bool is_unix, const char *name) {
    tepal_future *future;
    const tepal_tls_options tls = {.size = sizeof tls, .context = self->client, .server_name = name};
    const tepal_connect_options to_path = {.size = sizeof to_path, .unix_path = self->path, .tls = &tls};
    const tepal_connect_options to_host = {
        .size = sizeof to_host, .host = "127.0.0.1", .port = is_unix ? 0 : server_port(self->server, 0), .tls = &tls};

    CHECK_OK(tepal_loop_create_connection(self->all.loop, peers_factory, &self->all, is_unix ? &to_path : &to_host,
                                          &future));
    return future;
}

static void place_close(place *self) {
    tepal_server_close(self->server);
    tepal_server_unref(self->server);
    peers_close(&self->all);
    tepal_tls_context_unref(self->client);
    tepal_tls_context_unref(self->own);
}

static void meet(bool is_unix) {
    place self = {.all = {0}};
    const char *const name = is_unix ? "localhost" : NULL; /* NULL: the address, which the certificate is for */

    place_open(&self, is_unix);
    tepal_future *future = place_dial(&self, is_unix, name);
    CHECK_OK(peers_wait(&self.all, future));
    peer *client = peers_connected(future);
    PEERS_UNTIL(&self.all, self.all.made == 2);
    CHECK_OK(tepal_transport_write(client->transport, "hello", 5));
    for (peer *each = self.all.newest; each != NULL; each = each->next) {
        if (each != client) {
            PEERS_UNTIL(&self.all, each->received_count == 5);
            CHECK_MEM(each->received, "hello", 5);
        }
    }
    CHECK_EQ(tepal_server_connection_count(self.server), 1);
    CHECK_EQ(self.all.failures, 0);
    tepal_future_unref(future);
    place_close(&self);
}

TEST_DRIVERS(tls, a_server_and_a_connection_meet_over_tcp) {
    meet(false);
}

TEST_DRIVERS(tls, a_server_and_a_connection_meet_over_a_unix_socket) {
    meet(true);
}

TEST_DRIVERS(tls, a_handshake_that_fails_is_told_to_both_ends_and_no_factory_is_called) {
    place self = {.all = {0}};

    place_open(&self, false);
    tepal_future *future = place_dial(&self, false, "example.org");
    CHECK_EQ(peers_wait(&self.all, future), TEPAL_ETLS_WRONG_HOST);
    CHECK(tepal_future_error(future)->address != NULL);
    CHECK_EQ(tepal_address_port(tepal_future_error(future)->address), server_port(self.server, 0));
    PEERS_UNTIL(&self.all, self.all.failures == 1);
    CHECK(tls_is_told(self.all.failure.code, TEPAL_ETLS_REFUSED));
    CHECK(self.all.failure.address != NULL || self.all.failure.code == TEPAL_SYSTEM(ECONNRESET)); /* it has gone */
    CHECK_STR(self.all.log, "");
    PEERS_UNTIL(&self.all, tepal_server_connection_count(self.server) == 0);
    tepal_future_unref(future);
    place_close(&self);
}

TEST_DRIVERS(tls, a_server_made_by_a_future_sets_up_tls_as_well) {
    static const char *const hosts[] = {"localhost"};
    tepal_future *future;
    place self = {.client = tls_usual_context(false, 0), .own = tls_usual_context(true, 0)};

    peers_open(&self.all);
    CHECK_OK(tepal_loop_create_server(self.all.loop, peers_factory, &self.all,
                                      TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1,
                                                    .accept_failed = peers_accept_failed,
                                                    .tls = TEPAL_OPTIONS(tepal_tls_options, .context = self.own)),
                                      &future));
    CHECK_OK(peers_wait(&self.all, future));
    CHECK_OK(tepal_server_result(future, &self.server));
    tepal_future_unref(future);
    tepal_tls_context_unref(tepal_tls_context_ref(self.own));
    CHECK_OK(tepal_loop_create_connection(
        self.all.loop, peers_factory, &self.all,
        TEPAL_OPTIONS(tepal_connect_options, .host = "localhost", .port = server_port(self.server, 0),
                      .tls = TEPAL_OPTIONS(tepal_tls_options, .context = self.client)),
        &future));
    CHECK_OK(peers_wait(&self.all, future));
    PEERS_UNTIL(&self.all, self.all.made == 2);
    CHECK_EQ(self.all.failures, 0);
    tepal_future_unref(future);
    place_close(&self);
}

/* ---- Options ---- */

static int try_name(tls_pair *self, const char *name, tepal_tls_context *context) {
    tepal_future *future = (tepal_future *)self; /* must stay as it is */
    const tepal_tls_options tls = {.size = sizeof tls, .context = context, .server_name = name};
    int fds[2];

    test_socketpair(fds);
    const int code =
        tepal_loop_create_connection(self->loop, tls_factory, &self->client,
                                     TEPAL_OPTIONS(tepal_connect_options, .fd = &fds[0], .tls = &tls), &future);
    if (code < 0) {
        CHECK(future == (tepal_future *)self);
        close(fds[0]); /* still the caller's */
    } else {
        CHECK(tepal_future_cancel(future));
        tls_settle(self);
        tepal_future_unref(future);
    }
    close(fds[1]);
    return code;
}

TEST_DRIVERS(tls, a_client_that_does_not_know_whom_to_expect_is_refused_at_once) {
    tepal_tls_context_options trusting = {.size = sizeof trusting, .insecure = true};
    tls_pair self = {.loop = plumbing_loop(), .client.pair = &self};
    tepal_tls_context *client = tls_usual_context(false, 0), *server = tls_usual_context(true, 0);
    tepal_tls_context *insecure = tls_context(&trusting);

    CHECK_EQ(try_name(&self, NULL, client), TEPAL_EINVAL);
    CHECK_EQ(try_name(&self, "", client), TEPAL_EINVAL);
    CHECK_EQ(try_name(&self, "localhost", server), TEPAL_EINVAL); /* a server asks for no name */
    CHECK_OK(try_name(&self, "localhost", client));
    CHECK_OK(try_name(&self, NULL, insecure));
    CHECK_OK(try_name(&self, NULL, server));
    plumbing_close(self.loop);
    tepal_tls_context_unref(client);
    tepal_tls_context_unref(server);
    tepal_tls_context_unref(insecure);
}

/* FIELD row 30. */
TEST_DRIVERS(tls, a_name_of_any_length_is_taken_whole_or_refused) {
    static const size_t lengths[] = {0, 1, 63, 64, 252, 253, 254, 255, 256, 257, 1000, 4096, 65535, 65536};
    tls_pair self = {.loop = plumbing_loop(), .client.pair = &self};
    tepal_tls_context *client = tls_usual_context(false, 0);
    char *name = malloc(70000);

    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        memset(name, 'a', lengths[i]);
        name[lengths[i]] = '\0';
        CHECK_EQ(try_name(&self, name, client), lengths[i] >= 1 && lengths[i] <= 253 ? 0 : TEPAL_EINVAL);
    }
    free(name);
    plumbing_close(self.loop);
    tepal_tls_context_unref(client);
}

TEST_DRIVERS(tls, a_context_of_the_other_role_is_refused) {
    const char *const hosts[] = {"127.0.0.1"};
    tepal_tls_context *client = tls_usual_context(false, 0), *own = tls_usual_context(true, 0);
    tepal_server *server;
    tepal_future *future;
    peers all = {0};

    peers_open(&all);
    CHECK_EQ(tepal_loop_listen(all.loop, peers_factory, &all,
                               TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1,
                                             .tls = TEPAL_OPTIONS(tepal_tls_options, .context = client)),
                               &server),
             TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_listen(all.loop, peers_factory, &all,
                               TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1,
                                             .tls = TEPAL_OPTIONS(tepal_tls_options, .context = NULL)),
                               &server),
             TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_create_connection(all.loop, peers_factory, &all,
                                          TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1", .port = 1,
                                                        .tls = TEPAL_OPTIONS(tepal_tls_options, .context = own)),
                                          &future),
             TEPAL_EINVAL);
    peers_close(&all);
    tepal_tls_context_unref(client);
    tepal_tls_context_unref(own);
}

TEST_DRIVERS(tls, a_descriptor_excludes_a_host_a_path_and_a_local_address) {
    tepal_tls_context *client = tls_usual_context(false, 0);
    const tepal_tls_options tls = {.size = sizeof tls, .context = client, .server_name = "localhost"};
    tepal_address local;
    tepal_future *future;
    peers all = {0};
    int fds[2];

    peers_open(&all);
    test_socketpair(fds);
    CHECK_OK(tepal_address_parse(&local, "127.0.0.1", 0));
    const tepal_connect_options wrong[] = {
        {.size = sizeof wrong[0], .tls = &tls, .fd = &fds[0], .host = "localhost", .port = 1},
        {.size = sizeof wrong[0], .tls = &tls, .fd = &fds[0], .unix_path = "@a"},
        {.size = sizeof wrong[0], .tls = &tls, .fd = &fds[0], .local = &local},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        CHECK_EQ(tepal_loop_create_connection(all.loop, peers_factory, &all, &wrong[i], &future), TEPAL_EINVAL);
    }
    const int none = 1 << 20;
    CHECK_LT(tepal_loop_create_connection(all.loop, peers_factory, &all,
                                          TEPAL_OPTIONS(tepal_connect_options, .tls = &tls, .fd = &none), &future),
             0);
    close(fds[0]);
    close(fds[1]);
    peers_close(&all);
    tepal_tls_context_unref(client);
}

/* An adopted descriptor without TLS goes the same way. */
SCRIPT_TEST(tls, a_descriptor_without_tls_gets_a_factory_and_a_future_as_well) {
    tls_pair self = {.loop = script_loop()};
    tls_end *const ends[] = {&self.client, &self.server};
    int fds[2];

    test_tcp_pair(fds);
    for (int i = 0; i < 2; i++) {
        ends[i]->pair = &self;
        ends[i]->peer = ends[1 - i];
        ends[i]->protocol.type = &tls_end_type;
        CHECK_OK(tepal_loop_create_connection(self.loop, tls_factory, ends[i],
                                              TEPAL_OPTIONS(tepal_connect_options, .fd = &fds[i]), &ends[i]->future));
        CHECK_EQ(ends[i]->built, 0);
    }
    tls_shake(&self);
    tls_exchange(&self, 100000);
    tepal_tls_info info = {.size = sizeof info};
    CHECK_EQ(tepal_transport_tls_info(self.client.transport, &info), TEPAL_ENOENT);
    tls_close(&self);
}

/* ---- Who does not speak TLS ---- */

/* Begin one end, with a plain socket as its peer that says this; the code with which it fails. */
static int fail_with(bool server, const void *bytes, size_t length, bool hangs_up) {
    tls_pair self = {.loop = script_loop()};
    tepal_tls_context *context = tls_usual_context(server, 0);
    tls_end *const own = tls_side(&self, server);
    int fds[2];

    test_tcp_pair(fds);
    own->pair = &self;
    own->protocol.type = &tls_end_type;
    CHECK_OK(
        tepal_loop_create_connection(self.loop, tls_factory, own,
                                     TEPAL_OPTIONS(tepal_connect_options, .fd = &fds[0],
                                                   .tls = TEPAL_OPTIONS(tepal_tls_options, .context = context,
                                                                        .server_name = server ? NULL : "localhost")),
                                     &own->future));
    test_write_all(fds[1], bytes, length);
    if (hangs_up) {
        CHECK_EQ(shutdown(fds[1], SHUT_WR), 0);
    }
    TLS_UNTIL(&self, tepal_future_is_done(own->future));
    const int code = tepal_future_result(own->future, NULL);
    CHECK_STR(own->log[0] == 'C' ? own->log + 1 : own->log, "");
    tepal_future_unref(own->future);
    own->future = NULL;
    tls_close(&self);
    tepal_tls_context_unref(context);
    close(fds[1]);
    return code;
}

SCRIPT_TEST(tls, http_is_told_from_other_things_that_are_not_tls) {
    static const char *const requests[] = {"GET / HTTP/1.1\r\n\r\n", "POST /a HTTP/1.0\r\n", "HEAD / HTTP/1.0\r\n\r\n",
                                           "CONNECT a:1 HTTP/1.1\r\n\r\n"};
    static const char answer[] = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
    static const char smtp[] = "220 mail.example.org ESMTP ready\r\n";

    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        CHECK_EQ(fail_with(true, requests[i], strlen(requests[i]), false), TEPAL_ETLS_HTTP);
    }
    CHECK_EQ(fail_with(false, answer, sizeof answer - 1, true), TEPAL_ETLS_HTTP);
    CHECK_EQ(fail_with(false, smtp, sizeof smtp - 1, false), TEPAL_ETLS_NOT_TLS);
    CHECK_EQ(fail_with(true, smtp, sizeof smtp - 1, false), TEPAL_ETLS_NOT_TLS);
    CHECK_EQ(fail_with(true, "", 1, false), TEPAL_ETLS_NOT_TLS); /* a NUL */
}

SCRIPT_TEST(tls, junk_in_the_form_of_a_record_is_a_broken_rule) {
    static const uint8_t empty[] = {22, 3, 1, 0, 0}, huge[] = {22, 3, 1, 0xff, 0xff, 1, 2, 3};
    static const uint8_t alien[] = {22, 9, 9, 0, 2, 1, 1}, early[] = {21, 3, 3, 0, 2, 2, 40};
    static const uint8_t old[] = {0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10};

    for (int server = 0; server < 2; server++) {
        CHECK_NE(fail_with(server, empty, sizeof empty, true), TEPAL_ETLS_NOT_TLS);
        CHECK_EQ(tepal_error_domain(fail_with(server, huge, sizeof huge, true)), TEPAL_DOMAIN_TLS);
        CHECK_EQ(tepal_error_domain(fail_with(server, alien, sizeof alien, true)), TEPAL_DOMAIN_TLS);
        CHECK_EQ(fail_with(server, early, sizeof early, false),
                 server ? TEPAL_ETLS_PROTOCOL : TEPAL_ETLS_NOTHING_IN_COMMON); /* a client's turn has not come yet */
        CHECK_EQ(tepal_error_domain(fail_with(server, old, sizeof old, true)), TEPAL_DOMAIN_TLS);
        CHECK_EQ(fail_with(server, NULL, 0, true), TEPAL_ETLS_ENDED);
    }
}
