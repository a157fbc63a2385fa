/* See peers.h. */
#include "conformance/peers.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* The loop */

static void note_report(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    peers *all = argument;

    (void)loop;
    if (error->code == TEPAL_EINVARIANT || error->code == TEPAL_ETHREAD) {
        test_fail(__FILE__, __LINE__, "%s: %s", what, error->text);
    }
    all->reports++;
    all->report_code = error->code;
}

void peers_open(peers *all) {
    CHECK_OK(tepal_loop_new(&all->loop, TEPAL_OPTIONS(tepal_loop_options, .driver = test_driver(), .debug = true,
                                                      .slow_callback_ns = -1, .realloc = test_counting_alloc)));
    tepal_loop_set_exception_handler(all->loop, note_report, all);
}

void peers_close_loop(peers *all) {
    CHECK_OK(tepal_loop_close(all->loop));
    CHECK_EQ(all->alive, 0);
    CHECK_EQ(all->made, all->lost);
    CHECK_EQ(all->made, all->built);
}

void peers_free(peers *all) {
    tepal_loop_unref(all->loop);
    while (all->newest != NULL) {
        peer *next = all->newest->next;
        free(all->newest);
        all->newest = next;
    }
}

void peers_close(peers *all) {
    peers_close_loop(all);
    peers_free(all);
}

void peers_settle(peers *all) {
    for (int idle = 0; idle < 3; idle++) {
        while (tepal_loop_step(all->loop, 0) == 1) {
            idle = 0;
        }
    }
}

void peers_run_for(peers *all, int64_t duration_ns) {
    const int64_t end_ns = test_now_ns() + duration_ns;
    int64_t left_ns;

    while ((left_ns = end_ns - test_now_ns()) > 0) {
        CHECK_OK(tepal_loop_step(all->loop, left_ns));
    }
}

void peers_note(peers *all, char what) {
    const size_t length = strlen(all->log);
    if (length + 1 < sizeof all->log) {
        all->log[length] = what;
    }
}

/* Protocols */

static int peer_made(tepal_protocol *protocol, tepal_transport *transport) {
    peer *self = (peer *)protocol;
    peers *all = self->all;

    CHECK_EQ(self->made++, 0);
    self->transport = transport;
    all->made++;
    all->alive++;
    peers_note(all, 'm');
    if (all->greeting != NULL) {
        CHECK_OK(tepal_transport_write(transport, all->greeting, strlen(all->greeting)));
    }
    if (all->when_made != NULL) {
        all->when_made(all, self);
    }
    if (all->close_when_made) {
        tepal_transport_close(transport);
    }
    return 0;
}

static int peer_received(tepal_protocol *protocol, const void *data, size_t length) {
    peer *self = (peer *)protocol;
    const size_t room = sizeof self->received - self->received_count;

    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->lost, 0);
    peers_note(self->all, 'd');
    memcpy(self->received + self->received_count, data, length < room ? length : room);
    self->received_count += length < room ? length : room;
    return self->all->echo ? tepal_transport_write(self->transport, data, length) : 0;
}

static void peer_lost(tepal_protocol *protocol, const tepal_error *error) {
    peer *self = (peer *)protocol;
    peers *all = self->all;

    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->lost++, 0);
    self->lost_code = error == NULL ? 0 : error->code;
    all->lost++;
    all->alive--;
    peers_note(all, 'l');
    if (all->when_lost != NULL) {
        all->when_lost(all, self);
    }
    self->transport = NULL;
}

static const tepal_protocol_type peer_type = {
    .size = sizeof(tepal_protocol_type),
    .connection_made = peer_made,
    .data_received = peer_received,
    .connection_lost = peer_lost,
};

int peers_factory(void *argument, tepal_protocol **protocol) {
    peers *all = argument;

    peers_note(all, 'f');
    if (all->in_factory != NULL) {
        all->in_factory(all);
    }
    if (all->factory_code < 0) {
        return all->factory_code;
    }
    peer *self = calloc(1, sizeof *self);
    CHECK(self != NULL);
    self->protocol.type = &peer_type;
    self->all = all;
    self->next = all->newest;
    all->newest = self;
    all->built++;
    *protocol = &self->protocol;
    return 0;
}

void peers_accept_failed(void *argument, const tepal_error *error) {
    peers *all = argument;

    all->failures++;
    all->failure = *error;
    if (error->address != NULL) {
        all->failure_address = *error->address;
        all->failure.address = &all->failure_address;
    }
}

/* Servers and connections */

tepal_server *peers_serve(peers *all) {
    const char *const hosts[] = {"127.0.0.1"};
    tepal_server *server;

    CHECK_OK(tepal_loop_listen(
        all->loop, peers_factory, all,
        TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .accept_failed = peers_accept_failed),
        &server));
    return server;
}

uint16_t server_port(const tepal_server *server, size_t index) {
    tepal_address address;

    CHECK_OK(tepal_server_local(server, index, &address));
    const int port = tepal_address_port(&address);
    CHECK_GT(port, 0);
    return (uint16_t)port;
}

tepal_future *peers_dial(peers *all, uint16_t port) {
    tepal_future *future;

    CHECK_OK(tepal_loop_create_connection(all->loop, peers_factory, all,
                                          TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1", .port = port),
                                          &future));
    return future;
}

int peers_wait(peers *all, tepal_future *future) {
    PEERS_UNTIL(all, tepal_future_is_done(future));
    return tepal_future_result(future, NULL);
}

peer *peers_connected(tepal_future *future) {
    tepal_protocol *protocol;

    CHECK_OK(tepal_connection_result(future, NULL, &protocol));
    return (peer *)protocol;
}

/* Plain sockets */

static socklen_t plain_address(struct sockaddr_storage *address, const char *host, uint16_t port) {
    memset(address, 0, sizeof *address);
    if (strncmp(host, "unix:", 5) == 0) {
        struct sockaddr_un *name = (struct sockaddr_un *)address;
        const size_t length = strlen(host + 5);
        CHECK_LT(length, sizeof name->sun_path);
        name->sun_family = AF_UNIX;
        memcpy(name->sun_path, host + 5, length);
        if (name->sun_path[0] == '@') {
            name->sun_path[0] = '\0';
        }
        return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    }
    struct sockaddr_in *four = (struct sockaddr_in *)address;
    if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons(port);
        return sizeof *four;
    }
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)address;
    CHECK_EQ(inet_pton(AF_INET6, host, &six->sin6_addr), 1);
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(port);
    return sizeof *six;
}

int plain_dial(const char *host, uint16_t port) {
    struct sockaddr_storage address;
    const socklen_t length = plain_address(&address, host, port);
    const int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    CHECK_GE(fd, 0);
    if (connect(fd, (struct sockaddr *)&address, length) == 0) {
        return fd;
    }
    const int error = errno;
    close(fd);
    return -error;
}

int plain_bound(uint16_t *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    CHECK_GE(fd, 0);
    CHECK_EQ(bind(fd, (struct sockaddr *)&address, length), 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    *port = ntohs(address.sin_port);
    return fd;
}

void plain_reset(int fd) {
    const struct linger now = {.l_onoff = 1, .l_linger = 0};

    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
    close(fd);
}

void check_echo(peers *all, int fd) {
    char text[6];
    ssize_t count = -1;

    CHECK_GE(fd, 0);
    test_write_all(fd, "hello", 6);
    PEERS_UNTIL(all, (count = recv(fd, text, sizeof text, MSG_DONTWAIT)) >= 0);
    CHECK_EQ(count, 6);
    CHECK_STR(text, "hello");
    close(fd);
}
