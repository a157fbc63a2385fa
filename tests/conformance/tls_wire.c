/* See tls_wire.h. */
#include "conformance/tls_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

/*
 * Two connected TCP sockets, over an address that comes back late: thousands of wires would use up the ports of 127.0.0.1,
 * which stay in TIME_WAIT.
 */
static void spread_pair(int fds[2]) {
    static unsigned number;
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;

    if (strcmp(test_driver(), "sim") == 0) {
        test_tcp_pair(fds);
        return;
    }
    const unsigned place = ((unsigned)getpid() * 64 + number++) % 0xfffff0;
    address.sin_addr.s_addr = htonl(0x7f000000u + 8 + place);
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_GE(listener, 0);
    CHECK_EQ(bind(listener, (struct sockaddr *)&address, length), 0);
    CHECK_EQ(listen(listener, 1), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&address, &length), 0);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_GE(fds[0], 0);
    CHECK_EQ(connect(fds[0], (struct sockaddr *)&address, length), 0);
    fds[1] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK_GE(fds[1], 0);
    close(listener);
    CHECK_EQ(fcntl(fds[0], F_SETFL, fcntl(fds[0], F_GETFL) | O_NONBLOCK), 0);
}

void wire_open(wire *self, int *client, int *server) {
    int near_client[2], near_server[2];

    spread_pair(near_client);
    spread_pair(near_server);
    *client = near_client[0];
    *server = near_server[0];
    self->fds[0] = near_client[1];
    self->fds[1] = near_server[1];
    const int on = 1;
    for (int i = 0; i < 2; i++) { /* a part that waits for the acknowledgement of the one before would wait 40 ms */
        CHECK_EQ(setsockopt(self->fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), 0);
    }
    self->up = (wire_way){.from = self->fds[0], .to = self->fds[1], .limit = SIZE_MAX, .portion = SIZE_MAX};
    self->down = (wire_way){.from = self->fds[1], .to = self->fds[0], .limit = SIZE_MAX, .portion = SIZE_MAX};
}

static bool take(wire_way *way) {
    const size_t chunk = 1 << 18;

    if (way->ended || way->is_broken) {
        return false;
    }
    if (way->room - way->length < chunk) {
        way->room = 2 * way->room + chunk;
        way->bytes = realloc(way->bytes, way->room);
        CHECK(way->bytes != NULL);
    }
    const ssize_t count = recv(way->from, way->bytes + way->length, chunk, MSG_DONTWAIT);
    if (count < 0) {
        if (errno != EAGAIN) {
            way->is_broken = true;
        }
        return false;
    }
    way->ended = count == 0;
    way->length += (size_t)count;
    return true;
}

static bool give(wire_way *way) {
    size_t count = way->length < way->limit ? way->length - way->passed : way->limit - way->passed;

    count = count < way->portion ? count : way->portion;
    if (count == 0 || way->is_broken || way->end_passed) {
        return false;
    }
    const ssize_t sent = send(way->to, way->bytes + way->passed, count, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
        if (errno != EAGAIN) {
            way->is_broken = true;
        }
        return false;
    }
    way->passed += (size_t)sent;
    return true;
}

static void end(wire_way *way) {
    way->end_passed = true;
    (void)shutdown(way->to, SHUT_WR); /* fails if the receiver has gone already */
}

static bool move(wire *self, wire_way *way) {
    if (self->fds[0] < 0) {
        return false;
    }
    const bool has_taken = take(way);
    if (way->is_broken) { /* what broke here is broken at the other side, too */
        wire_reset(self);
        return true;
    }
    const bool has_given = give(way);
    const bool is_at_limit = way->passed == way->limit && !way->end_passed && !way->is_broken;

    if (is_at_limit && way->at_limit == WIRE_RESETS) {
        wire_reset(self);
        return true;
    }
    if ((is_at_limit && way->at_limit == WIRE_ENDS) ||
        (way->ended && way->passed == way->length && !way->end_passed && !way->is_broken)) {
        end(way);
        return true;
    }
    return has_taken || has_given;
}

bool wire_move(wire *self) {
    const bool up = move(self, &self->up);
    const bool down = move(self, &self->down);
    return up || down;
}

void wire_reset(wire *self) {
    const struct linger now = {.l_onoff = 1, .l_linger = 0};

    for (int i = 0; i < 2; i++) {
        if (self->fds[i] >= 0) {
            CHECK_EQ(setsockopt(self->fds[i], SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
            close(self->fds[i]);
            self->fds[i] = -1;
        }
    }
}

void wire_close(wire *self) {
    for (int i = 0; i < 2; i++) {
        if (self->fds[i] >= 0) {
            close(self->fds[i]);
            self->fds[i] = -1;
        }
    }
    free(self->up.bytes);
    free(self->down.bytes);
    self->up.bytes = self->down.bytes = NULL;
}

bool wire_record(const wire_way *way, size_t *offset, int *type, size_t *length) {
    const uint8_t *header = way->bytes + *offset;

    if (way->length < *offset + 5) {
        return false;
    }
    *type = header[0];
    *length = (size_t)header[3] << 8 | header[4];
    if (way->length < *offset + 5 + *length) {
        return false;
    }
    *offset += 5 + *length;
    return true;
}
