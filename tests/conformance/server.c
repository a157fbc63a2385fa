/* Servers: making, serving and closing them. What happens when accepting fails is in accept.c. */
#include "conformance/peers.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int listen_on(peers *all, const tepal_server_options *options, tepal_server **server) {
    return tepal_loop_listen(all->loop, peers_factory, all, options, server);
}

static bool has_ipv6(void) {
    const int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct sockaddr_in6 loopback = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    const bool has = fd >= 0 && bind(fd, (const struct sockaddr *)&loopback, sizeof loopback) == 0;

    if (fd >= 0) {
        close(fd);
    }
    return has;
}

/* Making */

TEST_DRIVERS(server, serves_every_connection_with_a_protocol_of_its_own) {
    peers all = {.echo = true};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    CHECK(tepal_server_is_serving(server));
    CHECK_EQ(tepal_server_socket_count(server), 1);
    CHECK_EQ(tepal_server_connection_count(server), 0);

    const int first = plain_dial("127.0.0.1", server_port(server, 0));
    const int second = plain_dial("127.0.0.1", server_port(server, 0));
    PEERS_UNTIL(&all, all.made == 2);
    CHECK_EQ(tepal_server_connection_count(server), 2);
    check_echo(&all, first);
    check_echo(&all, second);
    PEERS_UNTIL(&all, all.lost == 2 && tepal_server_connection_count(server) == 0);

    tepal_server_close(server);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(server, tells_its_sockets_and_addresses) {
    peers all = {0};
    tepal_address address;
    char text[TEPAL_ADDRESS_TEXT];
    peers_open(&all);
    tepal_server *server = peers_serve(&all);

    CHECK_OK(tepal_server_local(server, 0, &address));
    CHECK_OK(tepal_address_format(&address, text, sizeof text));
    CHECK_EQ(strncmp(text, "127.0.0.1:", 10), 0);
    CHECK_GE(tepal_server_socket(server, 0), 0);
    CHECK_NE(fcntl(tepal_server_socket(server, 0), F_GETFD) & FD_CLOEXEC, 0);
    CHECK_EQ(tepal_server_socket(server, 1), TEPAL_EINVAL);
    CHECK_EQ(tepal_server_local(server, 1, &address), TEPAL_EINVAL);

    tepal_server_close(server);
    CHECK_EQ(tepal_server_socket_count(server), 0);
    CHECK_EQ(tepal_server_socket(server, 0), TEPAL_EINVAL);
    CHECK_EQ(tepal_server_local(server, 0, &address), TEPAL_EINVAL);
    CHECK(!tepal_server_is_serving(server));
    tepal_server_close(server);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(server, a_port_that_the_system_chooses_is_the_same_for_every_host) {
    const char *const hosts[] = {"127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.1"};
    peers all = {0};
    tepal_server *server;
    peers_open(&all);

    CHECK_OK(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 4), &server));
    CHECK_EQ(tepal_server_socket_count(server), 3); /* one address was named twice */
    CHECK_EQ(server_port(server, 1), server_port(server, 0));
    CHECK_EQ(server_port(server, 2), server_port(server, 0));
    tepal_server_close(server);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(server, without_a_host_listens_on_every_address) {
    peers all = {.echo = true};
    tepal_server *server;
    peers_open(&all);

    CHECK_OK(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .backlog = 8), &server));
    CHECK_EQ(tepal_server_socket_count(server), has_ipv6() ? 2 : 1);
    check_echo(&all, plain_dial("127.0.0.1", server_port(server, 0)));
    if (has_ipv6()) {
        CHECK_EQ(server_port(server, 1), server_port(server, 0));
        check_echo(&all, plain_dial("::1", server_port(server, 0)));
    }
    tepal_server_close(server);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(server, ipv6_takes_ipv4_too_only_when_asked_to) {
    const char *const hosts[] = {"::"};
    peers all = {.echo = true};
    tepal_server *server;
    peers_open(&all);
    if (!has_ipv6()) {
        SKIP("no IPv6");
    }

    CHECK_OK(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1), &server));
    CHECK_EQ(plain_dial("127.0.0.1", server_port(server, 0)), -ECONNREFUSED);
    tepal_server_close(server);
    tepal_server_unref(server);

    CHECK_OK(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .ipv4_mapped = true), &server));
    CHECK_EQ(tepal_server_socket_count(server), 1);
    check_echo(&all, plain_dial("127.0.0.1", server_port(server, 0)));
    check_echo(&all, plain_dial("::1", server_port(server, 0)));
    tepal_server_close(server);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(server, is_made_whole_or_not_at_all) {
    const char *const hosts[] = {"127.0.0.1", "203.0.113.1"};
    char path[128];
    peers all = {0};
    tepal_server *server = NULL;
    uint16_t port;
    peers_open(&all);
    const int own = plain_bound(&port);
    const int descriptors = test_fd_count();
    snprintf(path, sizeof path, "%s/socket", test_directory());

    CHECK_EQ(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 2), &server),
             TEPAL_SYSTEM(EADDRNOTAVAIL));
    const int fds[] = {own, 9999};
    CHECK_EQ(listen_on(&all,
                       TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .unix_path = path,
                                     .fds = fds, .fd_count = 2),
                       &server),
             TEPAL_EBADF);
    CHECK(server == NULL);
    CHECK_EQ(access(path, F_OK), -1);
    peers_settle(&all);
    CHECK_EQ(test_fd_count(), descriptors);
    CHECK_EQ(close(own), 0); /* it has stayed ours */
    peers_close(&all);
}

TEST_DRIVERS(server, refuses_options_that_make_no_sense) {
    const char *const name[] = {"localhost"}, *const empty[] = {""}, *const missing[] = {NULL};
    peers all = {0};
    tepal_server *server;
    tepal_future *future;
    int pair[2];
    peers_open(&all);
    test_socketpair(pair);
    const int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
    const int datagram = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    CHECK_EQ(listen_on(&all, NULL, &server), TEPAL_EINVAL);
    CHECK_EQ(listen_on(&all, &(tepal_server_options){0}, &server), TEPAL_EINVAL);
    CHECK_EQ(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = name, .host_count = 1), &server),
             TEPAL_EINVAL);
    CHECK_EQ(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = empty, .host_count = 1), &server),
             TEPAL_EINVAL);
    CHECK_EQ(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = missing, .host_count = 1), &server),
             TEPAL_EINVAL);
    CHECK_EQ(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .host_count = 1), &server), TEPAL_EINVAL);
    CHECK_EQ(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .fd_count = 1), &server), TEPAL_EINVAL);
    CHECK_EQ(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .backlog = -1), &server), TEPAL_EINVAL);
    CHECK_EQ(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .fds = &datagram, .fd_count = 1), &server),
             TEPAL_EINVAL);
    CHECK_EQ(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .fds = &file, .fd_count = 1), &server),
             TEPAL_SYSTEM(ENOTSOCK));
    CHECK_EQ(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .fds = &pair[0], .fd_count = 1), &server),
             TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_listen(all.loop, NULL, NULL, TEPAL_OPTIONS(tepal_server_options, .port = 0), &server),
             TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_create_server(all.loop, peers_factory, &all,
                                      TEPAL_OPTIONS(tepal_server_options, .hosts = empty, .host_count = 1), &future),
             TEPAL_EINVAL);
    peers_settle(&all);
    close(pair[0]);
    close(pair[1]);
    close(file);
    close(datagram);
    peers_close(&all);
}

/* 0.0.0.0 takes in 127.0.0.1, so that one port for both cannot be had, however often another one is chosen. */
TEST_DRIVERS(server, addresses_that_cannot_share_a_port_get_one_each_and_no_attempt_is_left_open) {
    const char *const hosts[] = {"127.0.0.1", "0.0.0.0"};
    peers all = {.echo = true};
    tepal_server *server;
    peers_open(&all);
    const int descriptors = test_fd_count();
    CHECK_OK(listen_on(
        &all, TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 2, .no_reuse_address = true), &server));
    CHECK_EQ(tepal_server_socket_count(server), 2);
    CHECK_NE(server_port(server, 0), server_port(server, 1));
    peers_settle(&all);
    CHECK_EQ(test_fd_count(), descriptors + 2);
    check_echo(&all, plain_dial("127.0.0.1", server_port(server, 0)));
    check_echo(&all, plain_dial("127.0.0.1", server_port(server, 1)));
    tepal_server_close(server);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(server, an_address_in_use_is_an_error_unless_the_port_is_shared) {
    const char *const hosts[] = {"127.0.0.1"};
    peers all = {.echo = true};
    tepal_server *first, *second;
    peers_open(&all);
    first = peers_serve(&all);
    const uint16_t taken = server_port(first, 0);
    CHECK_EQ(
        listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .port = taken), &second),
        TEPAL_SYSTEM(EADDRINUSE));
    tepal_server_close(first);
    tepal_server_unref(first);

    CHECK_OK(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .reuse_port = true),
                       &first));
    CHECK_OK(listen_on(&all,
                       TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .reuse_port = true,
                                     .port = server_port(first, 0)),
                       &second));
    check_echo(&all, plain_dial("127.0.0.1", server_port(first, 0)));
    tepal_server_close(first);
    tepal_server_unref(first);
    check_echo(&all, plain_dial("127.0.0.1", server_port(second, 0)));
    tepal_server_close(second);
    tepal_server_unref(second);
    peers_close(&all);
}

TEST_DRIVERS(server, a_port_can_be_listened_on_again_at_once) {
    const char *const hosts[] = {"127.0.0.1"};
    peers all = {.close_when_made = true};
    tepal_server *server;
    peers_open(&all);
    server = peers_serve(&all);
    const uint16_t port = server_port(server, 0);
    const int fd = plain_dial("127.0.0.1", port);
    PEERS_UNTIL(&all, all.lost == 1); /* our end closed first: it stays in TIME_WAIT */
    tepal_server_close(server);
    tepal_server_unref(server);
    close(fd);
    peers_settle(&all);

    CHECK_OK(
        listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .port = port), &server));
    tepal_server_close(server);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(server, accepts_nothing_before_it_is_started) {
    const char *const hosts[] = {"127.0.0.1"};
    peers all = {.echo = true};
    tepal_server *server;
    peers_open(&all);

    CHECK_OK(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .do_not_start = true),
                       &server));
    CHECK(!tepal_server_is_serving(server));
    CHECK_EQ(plain_dial("127.0.0.1", server_port(server, 0)), -ECONNREFUSED);
    CHECK_EQ(tepal_server_start_serving(server), 0);
    CHECK_OK(tepal_server_start_serving(server));
    CHECK(tepal_server_is_serving(server));
    check_echo(&all, plain_dial("127.0.0.1", server_port(server, 0)));

    tepal_server_close(server);
    CHECK_EQ(tepal_server_start_serving(server), TEPAL_ECLOSED);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(server, that_nobody_holds_goes_on_serving) {
    peers all = {.echo = true};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const uint16_t port = server_port(server, 0);

    tepal_server_unref(server);
    tepal_server_unref(NULL);
    check_echo(&all, plain_dial("127.0.0.1", port));
    peers_close(&all);
}

/* Closing */

TEST_DRIVERS(server, the_kernel_refuses_once_close_has_returned) {
    peers all = {.echo = true};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const uint16_t port = server_port(server, 0);
    const int duplicate = dup(tepal_server_socket(server, 0)); /* as a child process would have */
    const int before = plain_dial("127.0.0.1", port);
    PEERS_UNTIL(&all, all.made == 1);

    tepal_server_close(server);
    CHECK_EQ(plain_dial("127.0.0.1", port), -ECONNREFUSED);
    check_echo(&all, before); /* what was accepted goes on */
    close(duplicate);
    tepal_server_unref(server);
    peers_close(&all);
}

static void close_from_factory(peers *all) {
    tepal_server_close(all->user);
}

TEST_DRIVERS(server, may_be_closed_by_its_own_factory) {
    peers all = {.echo = true, .in_factory = close_from_factory};
    peers_open(&all);
    all.user = peers_serve(&all);
    const uint16_t port = server_port(all.user, 0);
    const int first = plain_dial("127.0.0.1", port);
    const int second = plain_dial("127.0.0.1", port);

    check_echo(&all, first);
    CHECK_EQ(all.made, 1); /* the second had not been accepted */
    close(second);
    tepal_server_unref(all.user);
    peers_close(&all);
}

TEST_DRIVERS(server, borrowed_sockets_are_served_and_given_back_untouched) {
    peers all = {.echo = true};
    tepal_server *server;
    uint16_t ports[2];
    peers_open(&all);
    const int fds[] = {plain_bound(&ports[0]), plain_bound(&ports[1])};
    CHECK_EQ(listen(fds[1], 16), 0);

    for (int round = 0; round < 2; round++) {
        CHECK_OK(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .fds = fds, .fd_count = 2), &server));
        CHECK_EQ(tepal_server_socket(server, 1), fds[1]);
        CHECK_EQ(server_port(server, 0), ports[0]);
        check_echo(&all, plain_dial("127.0.0.1", ports[0]));
        check_echo(&all, plain_dial("127.0.0.1", ports[1]));
        tepal_server_close(server);
        tepal_server_unref(server);
        peers_settle(&all);

        /* Both still listen; who comes now waits for the owner to accept. */
        const int made = all.made;
        const int dialed = plain_dial("127.0.0.1", ports[round]);
        CHECK_GE(dialed, 0);
        peers_settle(&all);
        CHECK_EQ(all.made, made);
        const int accepted = accept(fds[round], NULL, NULL);
        CHECK_GE(accepted, 0);
        close(accepted);
        close(dialed);
    }
    peers_close(&all);
    CHECK_EQ(close(fds[0]), 0);
    CHECK_EQ(close(fds[1]), 0);
}

TEST_DRIVERS(server, borrowed_sockets_outlive_the_loop) {
    peers all = {0};
    tepal_server *server;
    uint16_t port;
    peers_open(&all);
    const int fd = plain_bound(&port);

    CHECK_OK(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .fds = &fd, .fd_count = 1), &server));
    tepal_server *second;
    CHECK_EQ(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .fds = &fd, .fd_count = 1), &second), TEPAL_EBUSY);
    peers_close_loop(&all);
    tepal_server_unref(server);
    peers_free(&all);

    const int dialed = plain_dial("127.0.0.1", port);
    CHECK_GE(dialed, 0);
    close(dialed);
    CHECK_EQ(close(fd), 0);
}

TEST_DRIVERS(server, may_be_closed_right_before_its_loop) {
    peers all = {0};
    tepal_server *server;
    uint16_t port;
    peers_open(&all);
    const int fd = plain_bound(&port);
    const char *const hosts[] = {"127.0.0.1"};

    CHECK_OK(listen_on(&all,
                       TEPAL_OPTIONS(tepal_server_options, .fds = &fd, .fd_count = 1, .hosts = hosts, .host_count = 1),
                       &server));
    tepal_server_close(server);
    peers_close_loop(&all); /* before the driver could say its last word on either socket */
    tepal_server_unref(server);
    peers_free(&all);
    CHECK_EQ(close(fd), 0);
}

TEST_DRIVERS(server, close_clients_sends_what_was_written_first) {
    static char page[1 << 20];
    peers all = {0};
    peers_open(&all);
    tepal_server *server = peers_serve(&all), *other = peers_serve(&all);
    const int fd = plain_dial("127.0.0.1", server_port(server, 0));
    const int stranger = plain_dial("127.0.0.1", server_port(other, 0));
    PEERS_UNTIL(&all, all.made == 2);
    tepal_server_close_clients(other);
    PEERS_UNTIL(&all, all.lost == 1);
    CHECK_EQ(tepal_server_connection_count(server), 1);

    for (peer *each = all.newest; each != NULL; each = each->next) {
        if (each->transport != NULL) {
            CHECK_OK(tepal_transport_write(each->transport, page, sizeof page));
        }
    }
    tepal_server_close_clients(server);
    size_t received = 0;
    ssize_t count = 1;
    while (count != 0) {
        static char piece[65536];
        CHECK_OK(tepal_loop_step(all.loop, 0));
        count = recv(fd, piece, sizeof piece, MSG_DONTWAIT);
        received += count > 0 ? (size_t)count : 0;
    }
    CHECK_EQ(received, sizeof page);
    PEERS_UNTIL(&all, all.lost == 2);
    CHECK_EQ(all.newest->lost_code, 0);
    close(fd);
    close(stranger);
    tepal_server_unref(server);
    tepal_server_unref(other);
    peers_close(&all);
}

TEST_DRIVERS(server, abort_clients_resets_them) {
    char byte;
    peers all = {.greeting = "hello"};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const int fd = plain_dial("127.0.0.1", server_port(server, 0));
    PEERS_UNTIL(&all, all.made == 1);

    tepal_server_abort_clients(server);
    CHECK_EQ(all.lost, 0); /* no upcall inside */
    CHECK_EQ(tepal_server_connection_count(server), 1);
    PEERS_UNTIL(&all, all.lost == 1);
    peers_settle(&all);
    CHECK_EQ(all.newest->lost_code, TEPAL_ECLOSED);
    CHECK_EQ(tepal_server_connection_count(server), 0);
    while (recv(fd, &byte, 1, 0) > 0) {
    }
    CHECK_EQ(errno, ECONNRESET);
    CHECK(tepal_server_is_serving(server));
    close(fd);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(server, wait_closed_waits_for_the_last_connection) {
    tepal_future *first, *second, *canceled, *late;
    peers all = {0};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const int fd = plain_dial("127.0.0.1", server_port(server, 0));
    PEERS_UNTIL(&all, all.made == 1);

    CHECK_OK(tepal_server_wait_closed(server, &first));
    CHECK_OK(tepal_server_wait_closed(server, &canceled));
    CHECK_OK(tepal_server_wait_closed(server, &second));
    CHECK(tepal_future_cancel(canceled));
    tepal_future_unref(canceled);
    tepal_server_close(server);
    peers_settle(&all);
    CHECK(!tepal_future_is_done(first));

    close(fd);
    CHECK_EQ(peers_wait(&all, first), 0);
    CHECK_EQ(peers_wait(&all, second), 0);
    CHECK_EQ(all.lost, 1);
    CHECK_OK(tepal_server_wait_closed(server, &late));
    CHECK(tepal_future_is_done(late));
    tepal_future_unref(first);
    tepal_future_unref(second);
    tepal_future_unref(late);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(server, ends_with_its_loop) {
    tepal_future *waiting, *late;
    peers all = {0};
    peers_open(&all);
    tepal_server *server = peers_serve(&all), *unheld = peers_serve(&all);
    const uint16_t port = server_port(server, 0);
    const int fd = plain_dial("127.0.0.1", port);
    PEERS_UNTIL(&all, all.made == 1);
    CHECK_OK(tepal_server_wait_closed(server, &waiting));
    tepal_server_unref(unheld);

    peers_close_loop(&all);
    CHECK_EQ(all.newest->lost_code, TEPAL_ECLOSED);
    CHECK_EQ(plain_dial("127.0.0.1", port), -ECONNREFUSED);
    CHECK(tepal_future_is_done(waiting));
    CHECK(!tepal_server_is_serving(server));
    CHECK_EQ(tepal_server_socket_count(server), 0);
    CHECK_EQ(tepal_server_connection_count(server), 0);
    CHECK_EQ(tepal_server_start_serving(server), TEPAL_ECLOSED);
    CHECK_EQ(tepal_server_wait_closed(server, &late), TEPAL_ECLOSED);
    tepal_server_close(server);
    tepal_server_close_clients(server);
    tepal_server_abort_clients(server);
    CHECK_EQ(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .port = 0), &server), TEPAL_ECLOSED);
    tepal_future_unref(waiting);
    tepal_server_unref(server);
    close(fd);
    peers_free(&all);
}

TEST_DRIVERS(server, a_forked_child_that_closes_the_loop_leaves_it_alone) {
    char path[128];
    peers all = {.echo = true};
    tepal_server *server;
    peers_open(&all);
    snprintf(path, sizeof path, "%s/socket", test_directory());
    const char *const hosts[] = {"127.0.0.1"};
    CHECK_OK(listen_on(&all, TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .unix_path = path),
                       &server));
    for (int round = 0; round < 2; round++) {
        const pid_t child = fork();
        if (child == 0) {
            if (round == 1) {
                CHECK_OK(tepal_loop_after_fork(all.loop));
                tepal_server_close(server);
            }
            CHECK_OK(tepal_loop_close(all.loop));
            tepal_server_close(server);
            CHECK_EQ(tepal_server_socket_count(server), 0);
            tepal_server_unref(server);
            tepal_loop_unref(all.loop);
            CHECK_EQ(test_alloc_live(), 0);
            _exit(0);
        }
        int status;
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
        check_echo(&all, plain_dial("127.0.0.1", server_port(server, 0)));
        CHECK_EQ(access(path, F_OK), 0);
    }
    tepal_server_close(server);
    CHECK_EQ(access(path, F_OK), -1);
    tepal_server_unref(server);
    peers_close(&all);
}

/* Short memory */

TEST_DRIVERS(server, making_one_survives_each_failing_allocation) {
    const char *const hosts[] = {"127.0.0.1", "127.0.0.2"};
    char path[128];
    peers all = {0};
    bool made = false;
    peers_open(&all);
    snprintf(path, sizeof path, "%s/socket", test_directory());
    const int descriptors = test_fd_count();

    for (size_t step = 1; !made; step++) {
        const tepal_server_options *options =
            TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 2, .unix_path = path);
        tepal_server *server;
        test_alloc_fail_at(step, false);
        const int code = listen_on(&all, options, &server);
        made = code == 0 && !test_alloc_has_failed();
        test_alloc_fail_at(0, false);
        CHECK(code == 0 || code == TEPAL_ENOMEM);
        if (code == 0) {
            CHECK_EQ(tepal_server_socket_count(server), 3);
            tepal_server_close(server);
            tepal_server_unref(server);
        }
        peers_settle(&all);
        CHECK_EQ(test_fd_count(), descriptors);
        CHECK_EQ(access(path, F_OK), -1);
        CHECK_LT(step, 100);
    }
    peers_close(&all);
}
