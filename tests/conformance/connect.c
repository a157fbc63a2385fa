/* Connecting: order, options, errors and short memory; moments.c has the ways in which it can end early. */
#include "conformance/peers.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static int dial(peers *all, const tepal_connect_options *options, tepal_future **future) {
    return tepal_loop_create_connection(all->loop, peers_factory, all, options, future);
}

/* A port at which nobody listens. */
static uint16_t dead_port(void) {
    uint16_t port;
    close(plain_bound(&port));
    return port;
}

static void check_text(const tepal_address *found, const char *host, uint16_t port) {
    char text[TEPAL_ADDRESS_TEXT], expected[TEPAL_ADDRESS_TEXT];

    CHECK(found != NULL);
    CHECK_OK(tepal_address_format(found, text, sizeof text));
    snprintf(expected, sizeof expected, strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, port);
    CHECK_STR(text, expected);
}

/* Success */

static void note_done(tepal_future *future, void *argument) {
    CHECK_OK(tepal_future_result(future, NULL));
    peers_note(argument, 'c');
}

TEST_DRIVERS(connect, connection_made_comes_before_the_future_and_that_before_data) {
    uint16_t port;
    peers all = {0};
    peers_open(&all);
    const int listener = plain_bound(&port);
    CHECK_EQ(listen(listener, 1), 0);
    tepal_future *future = peers_dial(&all, port);
    CHECK_OK(tepal_future_add_done_callback(future, note_done, &all));
    CHECK_STR(all.log, ""); /* nothing runs inside the call */

    CHECK_OK(tepal_loop_step(all.loop, 0)); /* the kernel has connected it now, and nobody has looked */
    const int accepted = accept(listener, NULL, NULL);
    test_write_all(accepted, "x", 1); /* data is there before connection_made */
    PEERS_UNTIL(&all, strlen(all.log) >= 4);
    close(accepted);
    PEERS_UNTIL(&all, all.lost == 1);
    CHECK_STR(all.log, "fmcdl");
    tepal_future_unref(future);
    close(listener);
    peers_close(&all);
}

TEST_DRIVERS(connect, the_result_is_the_connection_until_it_is_lost) {
    tepal_transport *transport = NULL;
    tepal_protocol *protocol = NULL;
    tepal_address found;
    peers all = {.echo = true};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    tepal_future *future = peers_dial(&all, server_port(server, 0));

    CHECK_EQ(tepal_connection_result(future, &transport, &protocol), TEPAL_EPENDING);
    PEERS_UNTIL(&all, tepal_future_is_done(future));
    CHECK_OK(tepal_connection_result(future, NULL, NULL));
    CHECK_OK(tepal_connection_result(future, &transport, &protocol));
    CHECK(((peer *)protocol)->transport == transport);
    CHECK_OK(tepal_transport_peer(transport, &found));
    check_text(&found, "127.0.0.1", server_port(server, 0));

    tepal_transport_close(transport);
    CHECK_OK(tepal_connection_result(future, &transport, &protocol)); /* not lost yet */
    PEERS_UNTIL(&all, ((peer *)protocol)->lost == 1);
    CHECK_EQ(tepal_connection_result(future, &transport, &protocol), TEPAL_ECLOSED);
    tepal_server_unref(server);
    peers_close_loop(&all);
    CHECK_EQ(tepal_connection_result(future, &transport, &protocol), TEPAL_ECLOSED);
    tepal_future_unref(future);
    peers_free(&all);
}

TEST_DRIVERS(connect, goes_on_when_nobody_holds_the_future) {
    peers all = {.greeting = "hello"};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);

    tepal_future_unref(peers_dial(&all, server_port(server, 0)));
    PEERS_UNTIL(&all, all.made == 2);
    PEERS_UNTIL(&all, all.newest->received_count == 5 && all.newest->next->received_count == 5);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(connect, a_name_is_resolved_and_its_addresses_are_tried_in_order) {
    tepal_future *future;
    peers all = {0};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const uint16_t port = server_port(server, 0);

    for (int family = 0; family <= AF_INET; family += AF_INET) {
        CHECK_OK(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = "localhost", .port = port, .family = family),
                      &future));
        CHECK_EQ(peers_wait(&all, future), 0); /* ::1, if that is first, refuses */
        tepal_future_unref(future);
    }
    CHECK_OK(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .port = port), &future));
    CHECK_EQ(peers_wait(&all, future), 0);
    tepal_future_unref(future);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(connect, without_a_host_goes_to_the_loopback_address_of_the_family_and_the_longest_limit_is_none) {
    uint16_t port;
    peers all = {0};
    tepal_future *future;
    tepal_address address;
    peers_open(&all);
    const int listener = plain_bound(&port);
    CHECK_EQ(listen(listener, 1), 0);

    CHECK_OK(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .port = port, .family = AF_INET, .limit_ns = INT64_MAX),
                  &future));
    CHECK_OK(peers_wait(&all, future));
    CHECK_OK(tepal_transport_peer(peers_connected(future)->transport, &address));
    CHECK_EQ(address.storage.ss_family, AF_INET);
    tepal_future_unref(future);
    close(listener);
    peers_close(&all);
}

TEST_DRIVERS(connect, binds_to_the_local_address_first) {
    tepal_address local, other, found;
    tepal_future *future;
    peers all = {0};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const uint16_t port = server_port(server, 0);
    CHECK_OK(tepal_address_parse(&local, "127.0.0.2", 0));
    CHECK_OK(tepal_address_parse(&other, "::1", 0));

    CHECK_OK(
        dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1", .port = port, .local = &local), &future));
    CHECK_EQ(peers_wait(&all, future), 0);
    CHECK_OK(tepal_transport_local(peers_connected(future)->transport, &found));
    check_text(&found, "127.0.0.2", (uint16_t)tepal_address_port(&found));
    tepal_future_unref(future);

    CHECK_OK(
        dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1", .port = port, .local = &other), &future));
    CHECK_EQ(peers_wait(&all, future), TEPAL_EINVAL);
    tepal_future_unref(future);
    CHECK_OK(tepal_address_parse(&local, "203.0.113.1", 0));
    CHECK_OK(
        dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1", .port = port, .local = &local), &future));
    CHECK_EQ(peers_wait(&all, future), TEPAL_SYSTEM(EADDRNOTAVAIL));
    tepal_future_unref(future);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(connect, sets_what_the_transport_options_say) {
    tepal_future *future;
    peers all = {0};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);

    for (int nagle = 0; nagle < 2; nagle++) {
        int no_delay = -1, keep_alive = -1;
        socklen_t length = sizeof(int);
        const tepal_transport_options *transport = TEPAL_OPTIONS(
            tepal_transport_options, .nagle = nagle != 0, .keep_alive = nagle != 0, .borrow = true, .write_high = 1000);
        CHECK_OK(dial(&all,
                      TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1", .port = server_port(server, 0),
                                    .transport = transport),
                      &future));
        CHECK_EQ(peers_wait(&all, future), 0);
        tepal_transport *made = peers_connected(future)->transport;
        CHECK_EQ(getsockopt(tepal_transport_fd(made), IPPROTO_TCP, TCP_NODELAY, &no_delay, &length), 0);
        CHECK_EQ(no_delay != 0, nagle == 0);
        CHECK_EQ(getsockopt(tepal_transport_fd(made), SOL_SOCKET, SO_KEEPALIVE, &keep_alive, &length), 0);
        CHECK_EQ(keep_alive != 0, nagle != 0);
        uint64_t high;
        tepal_transport_get_write_limits(made, &high, NULL, NULL);
        CHECK_EQ(high, 1000);
        tepal_future_unref(future);
    }
    tepal_server_unref(server);
    peers_close(&all);
}

/* Failure */

TEST_DRIVERS(connect, an_error_names_its_address_and_the_attempts_before) {
    const uint16_t port = dead_port();
    tepal_future *future;
    peers all = {0};
    peers_open(&all);

    CHECK_OK(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1", .port = port), &future));
    CHECK_EQ(peers_wait(&all, future), TEPAL_SYSTEM(ECONNREFUSED));
    const tepal_error *error = tepal_future_error(future);
    CHECK_STR(error->text, "Connection refused");
    check_text(error->address, "127.0.0.1", port);
    CHECK(error->next == NULL);
    tepal_future_unref(future);

    CHECK_OK(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .port = port), &future)); /* both loopback addresses */
    CHECK_EQ(peers_wait(&all, future), TEPAL_SYSTEM(ECONNREFUSED));
    error = tepal_future_error(future);
    check_text(error->address, "127.0.0.1", port);
    CHECK(error->next != NULL);
    CHECK_LT(error->next->code, 0);
    check_text(error->next->address, "::1", port);
    CHECK(error->next->next == NULL);
    tepal_future_unref(future);

    CHECK_OK(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = "list.stub", .port = port), &future));
    CHECK_EQ(peers_wait(&all, future), TEPAL_SYSTEM(ECONNREFUSED));
    error = tepal_future_error(future);
    check_text(error->address, "127.0.0.2", port);
    check_text(error->next->address, "::1", port);
    check_text(error->next->next->address, "127.0.0.1", port);
    CHECK(error->next->next->next == NULL);
    tepal_future_unref(future);
    CHECK_STR(all.log, ""); /* no factory was called */
    peers_close(&all);
}

static int refuse_ipv6(void *argument, const tepal_address *address) {
    (*(int *)argument)++;
    return address->storage.ss_family == AF_INET6 ? -1 : 0;
}

static int refuse_all(void *argument, const tepal_address *address) {
    (void)argument;
    (void)address;
    return tepal_error_make(TEPAL_DOMAIN_USER, 1);
}

TEST_DRIVERS(connect, the_programs_own_check_can_refuse_an_address) {
    tepal_future *future;
    int asked = 0;
    peers all = {0};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const uint16_t port = server_port(server, 0);

    CHECK_OK(dial(&all,
                  TEPAL_OPTIONS(tepal_connect_options, .port = port, .allow = refuse_ipv6, .allow_argument = &asked),
                  &future));
    CHECK_EQ(asked, 0); /* not inside the call */
    CHECK_EQ(peers_wait(&all, future), 0);
    CHECK_EQ(asked, 2);
    tepal_future_unref(future);
    CHECK_OK(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .port = port, .allow = refuse_all), &future));
    CHECK_EQ(peers_wait(&all, future), TEPAL_EREFUSED);
    check_text(tepal_future_error(future)->address, "127.0.0.1", port);
    CHECK_EQ(tepal_future_error(future)->next->code, TEPAL_EREFUSED);
    tepal_future_unref(future);
    tepal_server_unref(server);
    peers_close(&all);
}

static int cancel_in_check(void *argument, const tepal_address *address) {
    (void)address;
    CHECK(tepal_future_cancel(*(tepal_future **)argument));
    return 0;
}

TEST_DRIVERS(connect, may_be_cancelled_by_the_programs_own_check) {
    tepal_future *future;
    peers all = {0};
    peers_open(&all);
    CHECK_OK(dial(&all,
                  TEPAL_OPTIONS(tepal_connect_options, .port = 1, .allow = cancel_in_check, .allow_argument = &future),
                  &future));
    CHECK_EQ(peers_wait(&all, future), TEPAL_ECANCELED);
    tepal_future_unref(future);
    peers_close(&all);
}

TEST_DRIVERS(connect, a_factorys_error_is_the_futures_and_closes_the_socket) {
    uint16_t port;
    char byte;
    peers all = {.factory_code = tepal_error_make(TEPAL_DOMAIN_USER, 7)};
    peers_open(&all);
    const int listener = plain_bound(&port);
    CHECK_EQ(listen(listener, 1), 0);

    tepal_future *future = peers_dial(&all, port);
    CHECK_EQ(peers_wait(&all, future), all.factory_code);
    check_text(tepal_future_error(future)->address, "127.0.0.1", port);
    const int accepted = accept(listener, NULL, NULL);
    peers_settle(&all); /* the driver may close late */
    CHECK_EQ(read(accepted, &byte, 1), 0);
    CHECK_STR(all.log, "f");
    tepal_future_unref(future);
    close(accepted);
    close(listener);
    peers_close(&all);
}

static int make_nothing(void *argument, tepal_protocol **protocol) {
    (void)protocol;
    peers_note(argument, 'f');
    return 0;
}

TEST_DRIVERS(connect, a_factory_that_makes_nothing_is_an_error) {
    uint16_t port;
    peers all = {0};
    peers_open(&all);
    tepal_future *future;
    const int listener = plain_bound(&port);
    CHECK_EQ(listen(listener, 1), 0);

    CHECK_OK(tepal_loop_create_connection(all.loop, make_nothing, &all,
                                          TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1", .port = port),
                                          &future));
    CHECK_EQ(peers_wait(&all, future), TEPAL_EINVAL);
    CHECK_STR(all.log, "f");
    tepal_future_unref(future);
    close(listener);
    peers_close(&all);
}

/* The code of connecting from an address to itself. */
static int meet_oneself(const char *host) {
    tepal_address local;
    tepal_future *future;
    peers all = {0};
    peers_open(&all);
    const uint16_t port = dead_port();
    CHECK_OK(tepal_address_parse(&local, host, port));

    CHECK_OK(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = host, .port = port, .local = &local), &future));
    const int code = peers_wait(&all, future);
    CHECK_STR(all.log, "");
    tepal_future_unref(future);
    peers_close(&all);
    return code;
}

TEST_DRIVERS(connect, a_socket_that_meets_itself_counts_as_refused) {
    CHECK_EQ(meet_oneself("127.0.0.1"), TEPAL_SYSTEM(ECONNREFUSED));
    int code;
    do {
        code = meet_oneself("::1");
    } while (code == TEPAL_SYSTEM(EADDRINUSE));                                      /* it was free for IPv4 */
    if (code != TEPAL_SYSTEM(EADDRNOTAVAIL) && code != TEPAL_SYSTEM(EAFNOSUPPORT)) { /* there is IPv6 */
        CHECK_EQ(code, TEPAL_SYSTEM(ECONNREFUSED));
    }
}

TEST_DRIVERS(connect, options_that_make_no_sense_are_refused_at_once) {
    char name[300];
    tepal_future *future;
    peers all = {0};
    peers_open(&all);
    memset(name, 'x', sizeof name);
    name[254] = '\0';

    CHECK_EQ(dial(&all, NULL, &future), TEPAL_EINVAL);
    CHECK_EQ(dial(&all, &(tepal_connect_options){0}, &future), TEPAL_EINVAL);
    CHECK_EQ(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = ""), &future), TEPAL_EINVAL);
    CHECK_EQ(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = name), &future), TEPAL_EINVAL);
    CHECK_EQ(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = "::1", .unix_path = "x"), &future), TEPAL_EINVAL);
    CHECK_EQ(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = "::1", .family = AF_INET), &future), TEPAL_EINVAL);
    CHECK_EQ(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = "::1", .family = AF_UNIX), &future), TEPAL_EINVAL);
    CHECK_EQ(
        tepal_loop_create_connection(all.loop, NULL, NULL, TEPAL_OPTIONS(tepal_connect_options, .port = 1), &future),
        TEPAL_EINVAL);
    name[253] = '\0';
    CHECK_OK(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = name), &future));
    CHECK(tepal_future_cancel(future));
    tepal_future_unref(future);
    peers_close_loop(&all);
    CHECK_EQ(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .port = 1), &future), TEPAL_ECLOSED);
    peers_free(&all);
}

TEST_DRIVERS(connect, a_resolvers_failure_is_the_futures) {
    static const char *const hosts[] = {"eai--2.stub", "errno-5.stub", "no.such.host.invalid"};
    static const int codes[] = {TEPAL_ERROR(TEPAL_DOMAIN_RESOLVER, 2), TEPAL_SYSTEM(EIO), 0};
    peers all = {0};
    peers_open(&all);
    test_set_timeout(60); /* without a network the real resolver may take its time */

    for (int i = 0; i < 3; i++) {
        tepal_future *future;
        CHECK_OK(dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = hosts[i], .port = 1), &future));
        CHECK_OK(tepal_loop_run_until_complete(all.loop, future));
        const tepal_error *error = tepal_future_error(future);
        CHECK(error != NULL);
        CHECK(codes[i] == 0 ? tepal_error_domain(error->code) == TEPAL_DOMAIN_RESOLVER : error->code == codes[i]);
        CHECK(error->address == NULL);
        CHECK(error->next == NULL);
        tepal_future_unref(future);
    }
    peers_close(&all);
}

/* Short memory */

TEST_DRIVERS(connect, survives_each_failing_allocation) {
    peers all = {0};
    bool clean = false;
    uint16_t port;
    peers_open(&all);
    const int listener = plain_bound(&port);
    CHECK_EQ(listen(listener, 64), 0);

    for (size_t step = 1; !clean; step++) {
        tepal_future *future = NULL;
        test_alloc_fail_at(step, false);
        int code = dial(&all, TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1", .port = port), &future);
        if (code == 0) {
            code = peers_wait(&all, future);
        }
        clean = !test_alloc_has_failed();
        test_alloc_fail_at(0, false);
        if (code == 0) {
            tepal_transport_close(peers_connected(future)->transport);
        } else {
            CHECK_EQ(code, TEPAL_ENOMEM);
        }
        tepal_future_unref(future);
        PEERS_UNTIL(&all, all.lost == all.made);
        CHECK_LT(step, 100);
    }
    CHECK_GT(all.made, 0);
    peers_settle(&all);
    close(listener);
    peers_close(&all);
}
