/* A relay as a program writes it: it accepts, dials, joins both by pipes, and only then reads. */
#include "conformance/plumbing.h"

#include <stdlib.h>
#include <sys/resource.h>

enum { MANY = 1000, MANY_BYTES = 30000 };

typedef struct town town;

/* An echo server's connection. It does not know what it is to receive. */
typedef struct echo {
    tepal_protocol protocol; /* first */
    tepal_transport *transport;
} echo;

/* What the relay has accepted, and what it has dialled for it. */
typedef struct front {
    tepal_protocol protocol; /* first */
    tepal_protocol back;
    town *all;
    tepal_future *dial, *there, *back_again;
    tepal_transport *transport;
    int losts, back_losts;
} front;

/* client ---- front ==two pipes== back ---- echo, for each client, all on one loop. */
struct town {
    tepal_loop *loop;
    tepal_server *echo_server, *relay_server;
    size_t clients_made, fronts_made;
    end *clients;
    front *fronts;
};

static int echo_made(tepal_protocol *protocol, tepal_transport *transport) {
    ((echo *)protocol)->transport = transport;
    return 0;
}

static int echo_received(tepal_protocol *protocol, const void *data, size_t length) {
    return tepal_transport_write(((echo *)protocol)->transport, data, length);
}

static void echo_lost(tepal_protocol *protocol, const tepal_error *error) {
    CHECK(error == NULL);
    free(protocol);
}

static const tepal_protocol_type echo_type = {.size = sizeof echo_type,
                                              .connection_made = echo_made,
                                              .data_received = echo_received,
                                              .connection_lost = echo_lost};

static int make_echo(void *argument, tepal_protocol **protocol) {
    echo *made = calloc(1, sizeof *made);

    (void)argument;
    made->protocol.type = &echo_type;
    *protocol = &made->protocol;
    return 0;
}

static void back_lost(tepal_protocol *protocol, const tepal_error *error) {
    front *self = (front *)((char *)protocol - offsetof(front, back));

    CHECK(error == NULL);
    self->back_losts++;
}

static const tepal_protocol_type back_type = {.size = sizeof back_type, .connection_lost = back_lost};

static int make_back(void *argument, tepal_protocol **protocol) {
    front *self = argument;

    self->back.type = &back_type;
    *protocol = &self->back;
    return 0;
}

static void dialled(tepal_future *future, void *argument) {
    front *self = argument;
    tepal_transport *back;

    CHECK_OK(tepal_connection_result(future, &back, NULL));
    CHECK_OK(tepal_pipe(self->transport, back, NULL, &self->there));
    CHECK_OK(tepal_pipe(back, self->transport, NULL, &self->back_again));
    CHECK_OK(tepal_transport_resume_reading(self->transport));
}

static int front_made(tepal_protocol *protocol, tepal_transport *transport) {
    front *self = (front *)protocol;
    tepal_address address;

    self->transport = transport;
    CHECK_OK(tepal_transport_pause_reading(transport));
    CHECK_OK(tepal_server_local(self->all->echo_server, 0, &address));
    CHECK_OK(tepal_loop_create_connection(
        self->all->loop, make_back, self,
        TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1", .port = (uint16_t)tepal_address_port(&address)),
        &self->dial));
    return tepal_future_add_done_callback(self->dial, dialled, self);
}

static void front_lost(tepal_protocol *protocol, const tepal_error *error) {
    CHECK(error == NULL);
    ((front *)protocol)->losts++;
}

static const tepal_protocol_type front_type = {
    .size = sizeof front_type, .connection_made = front_made, .connection_lost = front_lost};

static int make_front(void *argument, tepal_protocol **protocol) {
    town *all = argument;
    front *self = &all->fronts[all->fronts_made++];

    *self = (front){.protocol.type = &front_type, .all = all};
    *protocol = &self->protocol;
    return 0;
}

static int make_client(void *argument, tepal_protocol **protocol) {
    town *all = argument;
    end *self = &all->clients[all->clients_made];

    self->protocol.type = &end_type;
    self->close_at_eof = true;
    self->seed = all->clients_made++;
    *protocol = &self->protocol;
    return 0;
}

static tepal_server *serve(town *all, tepal_factory factory) {
    static const char *const hosts[] = {"127.0.0.1"};
    tepal_server *server;

    CHECK_OK(tepal_loop_listen(all->loop, factory, all,
                               TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1), &server));
    return server;
}

static void dial_all(town *all, size_t count) {
    tepal_address address;

    CHECK_OK(tepal_server_local(all->relay_server, 0, &address));
    for (size_t i = 0; i < count; i++) {
        tepal_future *dial;
        CHECK_OK(tepal_loop_create_connection(
            all->loop, make_client, all,
            TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1", .port = (uint16_t)tepal_address_port(&address)),
            &dial));
        tepal_future_unref(dial);
    }
    RUN_UNTIL(all->loop, all->clients_made == count);
    for (size_t i = 0; i < count; i++) {
        RUN_UNTIL(all->loop, all->clients[i].made == 1);
    }
}

static void check_front(const front *self) {
    CHECK_EQ(self->losts, 1);
    CHECK_EQ(self->back_losts, 1);
    CHECK_OK(tepal_future_result(self->there, NULL));
    CHECK_OK(tepal_future_result(self->back_again, NULL));
    CHECK_EQ(tepal_pipe_bytes(self->there), tepal_pipe_bytes(self->back_again));
    tepal_future_unref(self->dial);
    tepal_future_unref(self->there);
    tepal_future_unref(self->back_again);
}

TEST_DRIVERS_ALONE(relay, between_servers_relays_a_thousand_connections) {
    const size_t count = test_is_slow_build() ? MANY / 10 : MANY;
    struct rlimit descriptors;

    test_set_timeout(120);
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &descriptors), 0);
    descriptors.rlim_cur = descriptors.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &descriptors), 0);
    town all = {.loop = plumbing_loop(),
                .clients = calloc(count, sizeof *all.clients),
                .fronts = calloc(count, sizeof *all.fronts)};
    feed *feeds = calloc(count, sizeof *feeds);
    all.echo_server = serve(&all, make_echo);
    all.relay_server = serve(&all, make_front);

    dial_all(&all, count);
    for (size_t i = 0; i < count; i++) {
        feeds[i].portion = 1 + i * 37 % 9000;
        feed_start(&feeds[i], &all.clients[i], i, MANY_BYTES + i);
    }
    for (size_t i = 0; i < count; i++) {
        RUN_UNTIL(all.loop, all.clients[i].losts == 1);
        CHECK_EQ(all.clients[i].lost_code, 0);
        CHECK_EQ(all.clients[i].received, MANY_BYTES + i);
    }
    RUN_UNTIL(all.loop, tepal_server_connection_count(all.relay_server) == 0);
    settle(all.loop);
    for (size_t i = 0; i < count; i++) {
        check_front(&all.fronts[i]);
        end_free(&all.clients[i]);
    }
    tepal_server_unref(all.echo_server);
    tepal_server_unref(all.relay_server);
    plumbing_close(all.loop);
    free(all.clients);
    free(all.fronts);
    free(feeds);
}
