/* create_server: servers on names, through a future. */
#include "conformance/peers.h"
#include "unit/resolver_stub.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

static const char *const localhost[] = {"localhost"};

static tepal_future *create(peers *all, const tepal_server_options *options) {
    tepal_future *future;

    CHECK_OK(tepal_loop_create_server(all->loop, peers_factory, all, options, &future));
    return future;
}

TEST_DRIVERS(create_server, listens_on_the_addresses_of_a_name) {
    tepal_server *server;
    peers all = {.echo = true};
    peers_open(&all);
    tepal_future *future = create(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = localhost, .host_count = 1));

    CHECK_EQ(tepal_server_result(future, &server), TEPAL_EPENDING);
    CHECK_EQ(peers_wait(&all, future), 0);
    CHECK_OK(tepal_server_result(future, &server));
    CHECK_GE(tepal_server_socket_count(server), 1);
    check_echo(&all, plain_dial("127.0.0.1", server_port(server, 0)));
    tepal_future_unref(future);
    CHECK(tepal_server_is_serving(server));
    tepal_server_close(server);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(create_server, goes_on_when_nobody_holds_the_future) {
    const char *const hosts[] = {"127.0.0.1", "localhost"};
    peers all = {.echo = true};
    peers_open(&all);
    uint16_t port;
    close(plain_bound(&port));

    tepal_future_unref(
        create(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 2, .port = port)));
    int fd;
    while ((fd = plain_dial("127.0.0.1", port)) < 0) {
        CHECK_EQ(fd, -ECONNREFUSED);
        CHECK_OK(tepal_loop_step(all.loop, TEPAL_MS(10)));
    }
    check_echo(&all, fd);
    peers_close(&all);
}

TEST_DRIVERS(create_server, an_error_names_the_address) {
    const char *const hosts[] = {"127.0.0.1", "203.0.113.1"};
    char text[TEPAL_ADDRESS_TEXT];
    peers all = {0};
    peers_open(&all);
    tepal_future *future = create(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 2));

    CHECK_EQ(peers_wait(&all, future), TEPAL_SYSTEM(EADDRNOTAVAIL));
    CHECK(tepal_future_error(future)->address != NULL);
    CHECK_OK(tepal_address_format(tepal_future_error(future)->address, text, sizeof text));
    CHECK_EQ(strncmp(text, "203.0.113.1:", 12), 0);
    tepal_future_unref(future);
    future = create(&all, TEPAL_OPTIONS(tepal_server_options, .unix_path = "/nowhere/at/all"));
    CHECK_EQ(peers_wait(&all, future), TEPAL_ENOENT);
    CHECK_OK(tepal_address_format(tepal_future_error(future)->address, text, sizeof text));
    CHECK_STR(text, "unix:/nowhere/at/all");
    tepal_future_unref(future);
    peers_close(&all);
}

TEST_DRIVERS(create_server, a_name_that_leads_nowhere_is_an_error_of_the_resolver) {
    const char *const hosts[] = {"127.0.0.1", "eai--2.stub"};
    peers all = {0};
    peers_open(&all);
    tepal_future *future = create(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 2));

    CHECK_OK(tepal_loop_run_until_complete(all.loop, future));
    CHECK_EQ(tepal_error_domain(tepal_future_result(future, NULL)), TEPAL_DOMAIN_RESOLVER);
    tepal_future_unref(future);
    peers_close(&all);
}

TEST_DRIVERS(create_server, can_be_cancelled_while_it_resolves) {
    static const char *const slow[] = {"127.0.0.1", "slow.stub"};
    peers all = {0};
    peers_open(&all);
    const int descriptors = test_fd_count();
    tepal_future *future = create(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = slow, .host_count = 2));

    resolver_stub_wait();
    CHECK(tepal_future_cancel(future));
    CHECK_EQ(tepal_future_result(future, NULL), TEPAL_ECANCELED);
    tepal_future_unref(future);
    resolver_stub_release();
    peers_run_for(&all, TEPAL_MS(10));
    CHECK_EQ(test_fd_count(), descriptors);
    peers_close(&all);
}

TEST_DRIVERS(create_server, fails_once_when_the_loop_closes_while_it_resolves) {
    static const char *const slow[] = {"slow.stub"};
    peers all = {0};
    peers_open(&all);
    tepal_future *future = create(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = slow, .host_count = 1));

    resolver_stub_wait();
    resolver_stub_release(); /* closing waits for the thread */
    peers_close_loop(&all);
    CHECK_EQ(tepal_future_result(future, NULL), TEPAL_ECLOSED);
    tepal_future_unref(future);
    peers_free(&all);
}

TEST_DRIVERS(create_server, keeps_its_own_copy_of_the_options) {
    char host[] = "127.0.0.1", path[128];
    const char *hosts[] = {host, "localhost"};
    tepal_server *server;
    peers all = {.echo = true};
    peers_open(&all);
    snprintf(path, sizeof path, "%s/socket", test_directory());
    tepal_server_options options = {.size = sizeof options, .hosts = hosts, .host_count = 2, .unix_path = path};
    tepal_transport_options transport = {.size = sizeof transport, .borrow = true, .write_high = 1234};
    options.transport = &transport;
    uint16_t port;
    int fd = plain_bound(&port);
    options.fds = &fd;
    options.fd_count = 1;

    tepal_future *future = create(&all, &options);
    memset(host, 'x', sizeof host - 1);
    memset(path, 'x', sizeof path - 1);
    memset(&transport, 0xff, sizeof transport);
    memset(&options, 0xff, sizeof options);
    const int bound = fd;
    fd = -1;
    CHECK_EQ(peers_wait(&all, future), 0);
    CHECK_OK(tepal_server_result(future, &server));
    CHECK_GE(tepal_server_socket_count(server), 3);
    const int dialed = plain_dial("127.0.0.1", port);
    PEERS_UNTIL(&all, all.made == 1);
    uint64_t high;
    tepal_transport_get_write_limits(all.newest->transport, &high, NULL, NULL);
    CHECK_EQ(high, 1234);
    check_echo(&all, dialed);
    tepal_future_unref(future);
    tepal_server_unref(server);
    peers_close(&all);
    CHECK_EQ(close(bound), 0);
}

TEST_DRIVERS(create_server, survives_each_failing_allocation) {
    const char *const hosts[] = {"127.0.0.2", "127.0.0.1", "localhost"};
    peers all = {0};
    bool clean = false;
    peers_open(&all);

    for (size_t step = 1; !clean; step++) {
        tepal_future *future = NULL;
        tepal_server *server;
        test_alloc_fail_at(step, false);
        int code =
            tepal_loop_create_server(all.loop, peers_factory, &all,
                                     TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 3), &future);
        if (code == 0) {
            code = peers_wait(&all, future);
        }
        clean = !test_alloc_has_failed();
        test_alloc_fail_at(0, false);
        if (code == 0) {
            CHECK_OK(tepal_server_result(future, &server));
            tepal_server_close(server);
            tepal_server_unref(server);
        } else {
            CHECK_EQ(code, TEPAL_ENOMEM);
        }
        tepal_future_unref(future);
        peers_settle(&all);
        CHECK_LT(step, 100);
    }
    peers_close(&all);
}
