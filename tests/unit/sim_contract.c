/*
 * The simulator as a judge: what it says of a loop that breaks an invariant, of a caller that breaks the driver contract,
 * of a host that spins; and the corners of its sockets.
 */
#include "driver/driver.h"
#include "loop/loop.h"
#include "unit/sim_fixture.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>

/* ---- Broken invariants ---- */

static void break_one(void *argument) {
    tpi_invariant(argument, 3, "a test says so");
}

TEST(sim_contract, a_broken_invariant_ends_the_run_with_seed_time_and_host) {
    network net = {0};
    CHECK_EQ(unsetenv("TEPAL_SIM_SEED"), 0);
    network_open(&net, 41);
    CHECK_OK(tepal_loop_call_later(net.client, TEPAL_SEC(2), break_one, net.client, NULL));
    CHECK_EQ(tepal_sim_run(net.sim, TEPAL_SEC(10)), TEPAL_EINVARIANT);
    const char *failure = tepal_sim_failure(net.sim);
    CHECK(strstr(failure, "seed 41, 2.") == failure);
    CHECK(strstr(failure, "host client: invariant 3 does not hold: a test says so") != NULL);
    CHECK_EQ(tepal_sim_run(net.sim, TEPAL_SEC(10)), TEPAL_EINVARIANT); /* it does not heal */
    CHECK(strstr(net.trace, "FAILED") != NULL);
    network_close(&net);
}

/* The first block is the statement's words, the second one the event. */
static void run_out_of_memory(void *argument) {
    test_alloc_fail_at(2, false);
    CHECK_EQ(tepal_sim_fault(argument, "at 10s calm"), TEPAL_ENOMEM);
    CHECK(test_alloc_has_failed());
    test_alloc_fail_at(0, false);
}

TEST(sim_contract, a_network_that_runs_out_of_memory_ends_the_run_and_says_so) {
    tepal_sim *sim;
    tepal_loop *loop;
    CHECK_OK(tepal_sim_new(&sim, TEPAL_OPTIONS(tepal_sim_options, .realloc = test_counting_alloc)));
    CHECK_OK(tepal_sim_add_host(sim, "a", NULL, &loop));
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_SEC(1), run_out_of_memory, sim, NULL));
    CHECK_EQ(tepal_sim_run(sim, TEPAL_SEC(20)), TEPAL_ENOMEM);
    CHECK(strstr(tepal_sim_failure(sim), "no memory for what is to come") != NULL);
    tepal_sim_free(sim);
}

/* As if something were left to deliver, for ever. */
static int keep_busy(void *argument) {
    tepal_loop *loop = *(tepal_loop **)argument;
    loop->driver->backlog = true;
    return 0;
}

TEST(sim_contract, a_host_that_takes_turns_with_nothing_to_do_is_found_out) {
    tepal_sim *sim;
    tepal_loop *loop = NULL;
    CHECK_OK(
        tepal_sim_new(&sim, TEPAL_OPTIONS(tepal_sim_options, .check = keep_busy, .argument = &loop, .turn_limit = 50)));
    CHECK_OK(tepal_sim_add_host(sim, "a", NULL, &loop));
    loop->driver->backlog = true;
    CHECK_EQ(tepal_sim_run(sim, TEPAL_SEC(1)), TEPAL_EINVARIANT);
    CHECK(strstr(tepal_sim_failure(sim), "invariant 7") != NULL);
    tepal_sim_free(sim);
}

/* ---- The driver contract ---- */

/* An object of nobody's, on the client's driver. */
typedef struct odd {
    tpi_object object; /* first */
    network *network;
    size_t use; /* of data */
    int closed;
} odd;

static size_t odd_data(tpi_object *object, const uint8_t *data, size_t length) {
    (void)data;
    return ((odd *)object)->use < length ? ((odd *)object)->use : length;
}

static void odd_ignore(tpi_object *object) {
    (void)object;
}

static void odd_told(tpi_object *object, int code) {
    (void)object;
    (void)code;
}

static void odd_sent(tpi_object *object, int64_t result) {
    (void)object;
    (void)result;
}

static void odd_closed(tpi_object *object) {
    ((odd *)object)->closed++;
}

static void odd_ending(tpi_object *object) {
    tpi_driver *driver = ((odd *)object)->network->client->driver;
    driver->ops->close(driver, object);
}

static const tpi_upcalls odd_upcalls = {.data = odd_data,
                                        .eof = odd_ignore,
                                        .error = odd_told,
                                        .connected = odd_told,
                                        .sent = odd_sent,
                                        .closed = odd_closed,
                                        .ending = odd_ending};

typedef void (*odd_act)(tpi_driver *driver, odd *self);

static void close_twice(tpi_driver *driver, odd *self) {
    driver->ops->close(driver, &self->object);
    driver->ops->close(driver, &self->object);
}

static void send_twice(tpi_driver *driver, odd *self) {
    static char byte = 'x';
    static const struct iovec piece = {.iov_base = &byte, .iov_len = 1};
    static const tpi_message message = {.pieces = &piece, .count = 1};
    network_fault(self->network, "rate late 1");
    CHECK_EQ(driver->ops->send(driver, &self->object, &message), TPI_PENDING);
    (void)driver->ops->send(driver, &self->object, &message);
}

static void send_after_the_end(tpi_driver *driver, odd *self) {
    CHECK_OK(driver->ops->shutdown(driver, &self->object));
    (void)driver->ops->offer(driver, &self->object, "x", 1);
}

static void change_a_message(tpi_driver *driver, odd *self) {
    static char byte = 'x';
    static const struct iovec piece = {.iov_base = &byte, .iov_len = 1};
    static const tpi_message message = {.pieces = &piece, .count = 1};
    network_fault(self->network, "rate late 1");
    CHECK_EQ(driver->ops->send(driver, &self->object, &message), TPI_PENDING);
    byte = 'y';
}

static void connect_again(tpi_driver *driver, odd *self) {
    tepal_address address;
    CHECK_OK(tepal_sim_address(self->network->sim, "server", AF_INET, NETWORK_PORT, &address));
    (void)driver->ops->connect(driver, &self->object, &address);
}

static void leave_data(tpi_driver *driver, odd *self) {
    self->use = 0;
    driver->ops->read_start(driver, &self->object);
    network_write(self->network->accepted, 10);
}

TEST(sim_contract, a_caller_that_breaks_the_driver_contract_is_found_out) {
    static const struct {
        odd_act act;
        const char *said;
    } cases[] = {
        {close_twice, "an object is closed that is not open"},
        {send_twice, "something is sent while a send is pending"},
        {send_after_the_end, "something is sent after the end"},
        {change_a_message, "a message changed while its send was pending"},
        {connect_again, "an object connects twice"},
        {leave_data, "data was left unused by who goes on reading"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        network net = {0};
        tepal_address address;
        network_open(&net, 1);
        odd self = {.object.up = &odd_upcalls, .network = &net};
        tpi_driver *driver = net.client->driver;
        CHECK_OK(tepal_sim_address(net.sim, "server", AF_INET, NETWORK_PORT, &address));
        CHECK_OK(driver->ops->open(driver, &self.object, TPI_STREAM, AF_INET));
        CHECK_EQ(driver->ops->connect(driver, &self.object, &address), TPI_PENDING);
        network_pass(&net, TEPAL_SEC(1));
        cases[i].act(driver, &self);
        CHECK_EQ(tepal_sim_run(net.sim, TEPAL_SEC(1)), TEPAL_EINVARIANT);
        CHECK(strstr(tepal_sim_failure(net.sim), cases[i].said) != NULL);
        network_close(&net);
        CHECK_EQ(self.closed, 1);
    }
}

/* ---- Corners of sockets ---- */

static int never_run(tepal_sim *sim, void *argument) {
    (void)sim;
    (void)argument;
    return 0;
}

TEST(sim_contract, options_of_an_unknown_size_are_refused) {
    tepal_sim *sim;
    tepal_sim_options options = {.size = 1};
    CHECK_EQ(tepal_sim_new(&sim, &options), TEPAL_EINVAL);
    CHECK_EQ(tepal_sim_search(&options, 1, 1, never_run, NULL, NULL), TEPAL_EINVAL);
    tepal_sim_free(NULL);
}

static int listen_at(network *net, tepal_loop *loop, const char *host, uint16_t port, bool share,
                     tepal_server **server) {
    const char *const hosts[] = {host};
    return tepal_loop_listen(
        loop, network_factory, net,
        TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .port = port, .reuse_port = share),
        server);
}

TEST(sim_contract, addresses_and_ports_are_had_as_on_a_real_host) {
    network net = {0};
    tepal_server *first, *second;
    network_open(&net, 1);
    CHECK_EQ(listen_at(&net, net.server, "10.0.0.2", 90, false, &first), TEPAL_SYSTEM(EADDRNOTAVAIL));
    CHECK_EQ(listen_at(&net, net.server, "10.1.2.3", 90, false, &first), TEPAL_SYSTEM(EADDRNOTAVAIL));
    CHECK_OK(listen_at(&net, net.server, "10.0.0.1", 90, false, &first));
    CHECK_EQ(listen_at(&net, net.server, "0.0.0.0", 90, false, &second), TEPAL_SYSTEM(EADDRINUSE));
    CHECK_OK(listen_at(&net, net.server, "127.0.0.1", 90, false, &second));
    tepal_server_unref(second);
    CHECK_OK(listen_at(&net, net.client, "10.0.0.2", 90, false, &second)); /* another host, other ports */
    tepal_server_unref(second);
    tepal_server_close(first);
    tepal_server_unref(first);
    CHECK_OK(listen_at(&net, net.server, "10.0.0.1", 91, true, &first));
    CHECK_OK(listen_at(&net, net.server, "10.0.0.1", 91, true, &second));
    tepal_server_unref(first);
    tepal_server_unref(second);
    network_close(&net);
}

TEST(sim_contract, an_ipv6_socket_sees_ipv4_peers_by_mapped_addresses) {
    static const char *const hosts[] = {"::"};
    network net = {0};
    tepal_server *server;
    tepal_future *future;
    tepal_address peer;
    network_open(&net, 1);
    CHECK_OK(tepal_loop_listen(
        net.server, network_factory, &net,
        TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .port = 90, .ipv4_mapped = true),
        &server));
    CHECK_OK(tepal_loop_create_connection(net.client, network_factory, &net,
                                          TEPAL_OPTIONS(tepal_connect_options, .host = "10.0.0.1", .port = 90),
                                          &future));
    network_pass(&net, TEPAL_SEC(1));
    net_end *accepted = net.newest;
    for (net_end *end = net.newest; end != NULL; end = end->next) {
        CHECK_OK(tepal_transport_peer(end->transport, &peer));
        accepted = peer.storage.ss_family == AF_INET6 ? end : accepted;
    }
    CHECK_OK(tepal_transport_peer(accepted->transport, &peer));
    const struct in6_addr *bytes = &((struct sockaddr_in6 *)&peer.storage)->sin6_addr;
    CHECK(IN6_IS_ADDR_V4MAPPED(bytes));
    CHECK_EQ(bytes->s6_addr[15], 2);
    tepal_future_unref(future);
    tepal_server_unref(server);
    network_close(&net);
}

TEST(sim_contract, a_full_backlog_is_asked_again_until_there_is_room) {
    static const char *const hosts[] = {"10.0.0.1"};
    network net = {0};
    tepal_server *server;
    tepal_future *futures[4];
    network_open(&net, 1);
    CHECK_OK(tepal_loop_listen(net.server, network_factory, &net,
                               TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .port = 90,
                                             .backlog = 1, .do_not_start = true),
                               &server));
    CHECK_OK(tepal_server_start_serving(server));
    network_fault(&net, "stall server 5s");
    for (int i = 0; i < 4; i++) {
        CHECK_OK(tepal_loop_create_connection(net.client, network_factory, &net,
                                              TEPAL_OPTIONS(tepal_connect_options, .host = "10.0.0.1", .port = 90),
                                              &futures[i]));
    }
    network_pass(&net, TEPAL_SEC(4));
    int done = 0;
    for (int i = 0; i < 4; i++) {
        done += tepal_future_is_done(futures[i]);
    }
    CHECK_EQ(done, 1);
    network_pass(&net, TEPAL_SEC(10));
    for (int i = 0; i < 4; i++) {
        CHECK(tepal_future_error(futures[i]) == NULL);
        CHECK(tepal_future_is_done(futures[i]));
        tepal_future_unref(futures[i]);
    }
    tepal_server_unref(server);
    network_close(&net);
}

TEST(sim_contract, keep_alive_finds_a_host_that_was_started_anew) {
    network net = {0};
    tepal_loop *again;
    network_open(&net, 1);
    network_connect(&net);
    CHECK_OK(tepal_transport_set_keep_alive(net.connected->transport, true, 10, 5, 3));
    network_fault(&net, "crash server");
    CHECK_OK(tepal_sim_add_host(net.sim, "server", NULL, &again));
    network_pass(&net, TEPAL_SEC(60));
    CHECK_EQ(net.connected->lost_code, TEPAL_SYSTEM(ECONNRESET));
    network_close(&net);
}

/* Connected from the client; the server accepts it. */
static void connect_kept_alive(network *net, bool from_the_start) {
    tepal_future *future;
    CHECK_OK(tepal_loop_create_connection(
        net->client, network_factory, net,
        TEPAL_OPTIONS(tepal_connect_options, .host = "10.0.0.1", .port = NETWORK_PORT,
                      .transport = TEPAL_OPTIONS(tepal_transport_options, .keep_alive = from_the_start)),
        &future));
    network_pass(net, TEPAL_SEC(1));
    tepal_future_unref(future);
    if (!from_the_start) {
        CHECK_OK(tepal_transport_set_keep_alive(net->connected->transport, true, 0, 0, 0));
    }
}

TEST(sim_contract, keep_alive_waits_two_hours_and_nine_probes_unless_told) {
    for (int how = 0; how < 2; how++) {
        network net = {0};
        network_open(&net, 1);
        connect_kept_alive(&net, how == 0);
        network_fault(&net, "crash server");
        network_pass(&net, TEPAL_SEC(10000));
        CHECK_EQ(net.connected->lost_code, TEPAL_ETIMEDOUT);
        CHECK_GE(net.connected->lost_at, TEPAL_SEC(7200 + 9 * 75)); /* tcp(7) */
        CHECK_LT(net.connected->lost_at, TEPAL_SEC(7200 + 9 * 75 + 2));
        network_close(&net);
    }
}

static void ask_for_keep_alive(tpi_driver *driver, odd *self) {
    CHECK_EQ(driver->ops->set(driver, &self->object, TPI_OPTION_KEEP_ALIVE, 1), 0);
    CHECK_EQ(driver->ops->set(driver, &self->object, TPI_OPTION_KEEP_ALIVE_IDLE, 10), 0);
    CHECK_EQ(driver->ops->set(driver, &self->object, TPI_OPTION_KEEP_ALIVE_INTERVAL, 5), 0);
    CHECK_EQ(driver->ops->set(driver, &self->object, TPI_OPTION_KEEP_ALIVE_COUNT, 3), 0);
}

TEST(sim_contract, keep_alive_can_be_asked_for_before_connecting_and_after) {
    for (int after = 0; after < 2; after++) {
        network net = {0};
        tepal_address address;
        network_open(&net, 1);
        odd self = {.object.up = &odd_upcalls, .network = &net};
        tpi_driver *driver = net.client->driver;
        CHECK_OK(tepal_sim_address(net.sim, "server", AF_INET, NETWORK_PORT, &address));
        CHECK_OK(driver->ops->open(driver, &self.object, TPI_STREAM, AF_INET));
        if (after == 0) {
            ask_for_keep_alive(driver, &self);
        }
        CHECK_EQ(driver->ops->connect(driver, &self.object, &address), TPI_PENDING);
        network_pass(&net, TEPAL_SEC(1));
        if (after == 1) {
            ask_for_keep_alive(driver, &self);
        }
        network_fault(&net, "crash server");
        network_pass(&net, TEPAL_SEC(60));
        CHECK(strstr(net.trace, tepal_strerror(TEPAL_ETIMEDOUT)) != NULL);
        network_close(&net);
    }
}

TEST(sim_contract, more_connections_than_one_turn_accepts_are_accepted_in_the_next) {
    enum { MANY = 70 };
    network net = {0};
    tepal_future *futures[MANY];
    network_open(&net, 1);
    network_fault(&net, "stall server 5s");
    for (int i = 0; i < MANY; i++) {
        network_call(&net, net.client, "10.0.0.1", &futures[i]);
    }
    network_pass(&net, TEPAL_SEC(10)); /* and nothing comes any more that would remind it of the rest */
    CHECK_EQ(tepal_server_connection_count(net.listener), MANY);
    for (int i = 0; i < MANY; i++) {
        tepal_future_unref(futures[i]);
    }
    network_close(&net);
}

TEST(sim_contract, a_unix_connection_that_is_late_is_made_all_the_same) {
    network net = {0};
    tepal_server *server;
    tepal_future *future;
    network_open(&net, 1);
    CHECK_OK(tepal_loop_listen(net.client, network_factory, &net,
                               TEPAL_OPTIONS(tepal_server_options, .unix_path = "@late"), &server));
    network_fault(&net, "rate late 1");
    CHECK_OK(tepal_loop_create_connection(net.client, network_factory, &net,
                                          TEPAL_OPTIONS(tepal_connect_options, .unix_path = "@late"), &future));
    network_pass(&net, TEPAL_SEC(1));
    CHECK(tepal_future_is_done(future));
    CHECK(tepal_future_error(future) == NULL);
    CHECK_EQ(tepal_server_connection_count(server), 1);
    tepal_future_unref(future);
    tepal_server_unref(server);
    network_close(&net);
}

TEST(sim_contract, what_has_come_before_connected_is_told_follows_it) {
    network net = {0};
    tepal_address address;
    network_open(&net, 1);
    odd self = {.object.up = &odd_upcalls, .network = &net, .use = 10};
    tpi_driver *driver = net.client->driver;
    CHECK_OK(tepal_sim_address(net.sim, "server", AF_INET, NETWORK_PORT, &address));
    CHECK_OK(driver->ops->open(driver, &self.object, TPI_STREAM, AF_INET));
    CHECK_EQ(driver->ops->connect(driver, &self.object, &address), TPI_PENDING);
    driver->ops->read_start(driver, &self.object);
    network_fault(&net, "stall client 1s");
    network_pass(&net, TEPAL_MS(500));
    network_write(net.accepted, 10);
    network_pass(&net, TEPAL_SEC(1));
    CHECK(strstr(net.trace, "fd 0 reads 10\n") != NULL);
    network_close(&net);
}
