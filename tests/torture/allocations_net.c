/* Scenarios of failing allocations: servers and connecting, by literal addresses, by names, and over Unix sockets. */
#include "torture/allocations.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <unistd.h>

/* ---- Connecting ---- */

/* One address could not be tried for want of memory, and at the others nobody listens. */
static bool lacked_memory(const tepal_error *error) {
    while (error != NULL && error->code != TEPAL_ENOMEM) {
        error = error->next;
    }
    return error != NULL;
}

/* Connect, exchange some bytes, and leave the connection open. Whether it came about. */
static bool visit(trial *self, const tepal_connect_options *options) {
    tepal_transport *transport;
    tepal_protocol *protocol;
    tepal_future *future;
    const int refused = self->refused;

    self->client = NULL;
    if (!WORKED(tepal_loop_create_connection(self->loop, party_client, self, options, &future))) {
        return false;
    }
    trial_keep(self, future);
    TRIAL_UNTIL(self, tepal_future_is_done(future));
    if (lacked_memory(tepal_future_error(future)) || !WORKED(tepal_connection_result(future, &transport, &protocol))) {
        return false;
    }
    CHECK(protocol == &self->client->protocol);
    party_write(self->client, 30000);
    TRIAL_UNTIL(self, self->client->received == 30000 || self->client->lost == 1 || self->client->eofs == 1 ||
                          self->refused > refused || self->unwritten > 0);
    return self->client->received == 30000;
}

static void end_server(trial *self, tepal_server *server) {
    tepal_future *closed;
    const bool waits = WORKED(tepal_server_wait_closed(server, &closed));

    tepal_server_close(server);
    tepal_server_abort_clients(server);
    if (waits) {
        trial_keep(self, closed);
        TRIAL_UNTIL(self, tepal_future_is_done(closed));
        CHECK_EQ(tepal_server_connection_count(server), 0);
    }
    tepal_server_unref(server);
}

/* ---- By literal addresses ---- */

static void serve_literals(trial *self) {
    static const char *const hosts[] = {"127.0.0.1"};
    tepal_address address;
    tepal_server *server;
    char path[100];

    snprintf(path, sizeof path, "%s/s", test_directory());
    const tepal_server_options options = {.size = sizeof options,
                                          .hosts = hosts,
                                          .host_count = 1,
                                          .unix_path = path,
                                          .do_not_start = true,
                                          .accept_failed = trial_refused};
    if (!WORKED(tepal_loop_listen(self->loop, party_server, self, &options, &server))) {
        return;
    }
    CHECK(!tepal_server_is_serving(server));
    CHECK_EQ(tepal_server_socket_count(server), 2);
    CHECK_OK(tepal_server_socket(server, 1));
    CHECK_OK(tepal_server_local(server, 0, &address));
    (void)WORKED(tepal_server_start_serving(server));
    CHECK(tepal_server_is_serving(server));
    tepal_server_unref(tepal_server_ref(server));
    const uint16_t port = (uint16_t)tepal_address_port(&address);
    if (visit(self, TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1", .port = port))) {
        party *client = self->client;
        tepal_server_close_clients(server);
        TRIAL_UNTIL(self, client->lost == 1 || client->eofs == 1);
    }
    (void)visit(self, TEPAL_OPTIONS(tepal_connect_options, .unix_path = path, .limit_ns = TEPAL_SEC(3600)));
    end_server(self, server);
    self->is_finished = true;
}

ALLOCATION_TEST(a_server_serves_or_refuses, serve_literals)

/* ---- Beyond the tables ---- */

enum { TABLE = 128 }; /* the numbers that a driver's tables are made for when the loop has its own */

typedef struct fillers {
    int fds[TABLE];
    int count;
} fillers;

/* Take numbers until the next one is beyond the tables, which must grow for it. */
static void take_numbers(fillers *self) {
    do {
        self->fds[self->count] = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
        CHECK_GE(self->fds[self->count], 0);
        CHECK_LT(self->fds[self->count], TABLE);
    } while (self->fds[self->count++] < TABLE - 1);
}

static void give_numbers_back(fillers *self) {
    while (self->count > 0) {
        close(self->fds[--self->count]);
    }
}

static void accept_beyond_the_tables(trial *self) {
    static const char *const hosts[] = {"127.0.0.1"};
    fillers numbers = {.count = 0};
    tepal_address address;
    tepal_server *server;
    const tepal_server_options options = {
        .size = sizeof options, .hosts = hosts, .host_count = 1, .accept_failed = trial_refused};

    if (!WORKED(tepal_loop_listen(self->loop, party_server, self, &options, &server))) {
        return;
    }
    CHECK_OK(tepal_server_local(server, 0, &address));
    const int visitor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_GE(visitor, 0);
    CHECK_EQ(connect(visitor, (const struct sockaddr *)&address.storage, address.length), 0);
    take_numbers(&numbers);
    TRIAL_UNTIL(self, tepal_server_connection_count(server) == 1 || self->refused > 0);
    tepal_server_close(server);
    tepal_server_abort_clients(server);
    tepal_server_unref(server);
    give_numbers_back(&numbers);
    close(visitor);
    self->is_finished = true;
}

ALLOCATION_TEST(a_number_beyond_the_tables_is_served_or_refused, accept_beyond_the_tables)

/* To a server that has a descriptor of ours, and by a name. */
static void connect_beyond_the_tables(trial *self) {
    fillers numbers = {.count = 0};
    tepal_address address;
    tepal_server *server;
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const tepal_server_options options = {
        .size = sizeof options, .fds = &listener, .fd_count = 1, .accept_failed = trial_refused};

    CHECK_OK(tepal_address_parse(&address, "127.0.0.1", 0));
    CHECK_EQ(bind(listener, (const struct sockaddr *)&address.storage, address.length), 0);
    if (WORKED(tepal_loop_listen(self->loop, party_server, self, &options, &server))) {
        CHECK_OK(tepal_server_local(server, 0, &address));
        const uint16_t port = (uint16_t)tepal_address_port(&address);
        take_numbers(&numbers);
        (void)visit(self, TEPAL_OPTIONS(tepal_connect_options, .host = "list.stub", .port = port, .family = AF_INET));
        give_numbers_back(&numbers);
        end_server(self, server);
    }
    close(listener);
    self->is_finished = true;
}

ALLOCATION_TEST(a_number_beyond_the_tables_connects_or_fails, connect_beyond_the_tables)

/* ---- By names ---- */

static void serve_names(trial *self) {
    static const char *const hosts[] = {"list.stub", "127.0.0.1"};
    tepal_address address;
    tepal_future *future;
    tepal_server *server;
    const tepal_server_options options = {
        .size = sizeof options, .hosts = hosts, .host_count = 2, .accept_failed = trial_refused};

    if (!WORKED(tepal_loop_create_server(self->loop, party_server, self, &options, &future))) {
        return;
    }
    trial_keep(self, future);
    TRIAL_UNTIL(self, tepal_future_is_done(future));
    if (!WORKED(tepal_server_result(future, &server))) {
        return;
    }
    CHECK_OK(tepal_server_local(server, 0, &address));
    const uint16_t port = (uint16_t)tepal_address_port(&address);
    (void)visit(self, TEPAL_OPTIONS(tepal_connect_options, .host = "list.stub", .port = port, .family = AF_INET));
    end_server(self, server);
    self->is_finished = true;
}

ALLOCATION_TEST(names_lead_to_a_server_or_fail, serve_names)

/* ---- Everywhere, and nowhere ---- */

static void serve_everywhere(trial *self) {
    tepal_future *future;
    tepal_server *server;
    const tepal_server_options options = {.size = sizeof options, .do_not_start = true};

    if (!WORKED(tepal_loop_create_server(self->loop, party_server, self, &options, &future))) {
        return;
    }
    trial_keep(self, future);
    TRIAL_UNTIL(self, tepal_future_is_done(future));
    if (WORKED(tepal_server_result(future, &server))) {
        CHECK_GE(tepal_server_socket_count(server), 1);
        end_server(self, server);
    }
    self->is_finished = true;
}

ALLOCATION_TEST(a_server_without_addresses_takes_all_or_fails, serve_everywhere)

static int work(void *argument, void **value) {
    *value = argument;
    return 0;
}

static void cancel_what_is_under_way(trial *self) {
    static const char *const hosts[] = {"list.stub"};
    const tepal_server_options options = {.size = sizeof options, .hosts = hosts, .host_count = 1};
    const tepal_connect_options to_name = {.size = sizeof to_name, .host = "list.stub", .port = 1};
    const tepal_connect_options to_literal = {.size = sizeof to_literal, .host = "127.0.0.1", .port = 1};

    for (int kind = 0; kind < 10; kind++) {
        tepal_future *future;
        const int code =
            kind / 2 == 0   ? tepal_loop_create_server(self->loop, party_server, self, &options, &future)
            : kind / 2 == 1 ? tepal_loop_create_connection(self->loop, party_client, self, &to_name, &future)
            : kind / 2 == 2 ? tepal_loop_create_connection(self->loop, party_client, self, &to_literal, &future)
            : kind / 2 == 3 ? tepal_loop_getaddrinfo(self->loop, "list.stub", 1, 0, false, &future)
                            : tepal_loop_run_in_executor(self->loop, work, self, NULL, &future);
        if (WORKED(code)) {
            trial_keep(self, future);
            if (kind % 2 == 0) { /* the others are under way when the loop ends */
                (void)tepal_future_cancel(future);
            }
        }
    }
    self->is_finished = true;
}

ALLOCATION_TEST(what_is_under_way_can_be_cancelled, cancel_what_is_under_way)
