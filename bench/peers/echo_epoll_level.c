/* The simple limit: level-triggered epoll, one recv and one send an event, as a textbook has it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../serve.h"

enum { EVENTS_PER_WAIT = 256 };

typedef struct connection {
    int fd;
    unsigned char *rest; /* what the kernel refused; while it is set nothing more is read */
    size_t rest_at;
    size_t rest_end;
} connection;

static unsigned char buffer[SERVE_READ_BYTES];
static serve_options options;
static int poller;
static connection listener, terminate;

/* Tell epoll what the connection waits for: EPOLLIN, or EPOLLOUT while it has a rest. */
static void want(connection *peer, int what, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = peer};
    if (epoll_ctl(poller, what, peer->fd, &event) < 0)
        serve_fail("epoll_ctl");
}

static void drop(connection *peer) {
    close(peer->fd);
    free(peer->rest);
    free(peer);
}

static void keep_rest(connection *peer, size_t taken, size_t length) {
    peer->rest = serve_grow(NULL, length - taken);
    memcpy(peer->rest, buffer + taken, length - taken);
    peer->rest_at = 0;
    peer->rest_end = length - taken;
    want(peer, EPOLL_CTL_MOD, EPOLLOUT);
}

static void on_readable(connection *peer) {
    ssize_t length = recv(peer->fd, buffer, sizeof buffer, 0);
    if (length <= 0) {
        if (length == 0 || (errno != EAGAIN && errno != EINTR))
            drop(peer);
        return;
    }
    ssize_t sent = options.pieces == 1 ? send(peer->fd, buffer, (size_t)length, MSG_NOSIGNAL)
                                       : serve_answer(&options, peer->fd, buffer, (size_t)length);
    if (sent == length)
        return;
    if (sent < 0 && errno != EAGAIN && errno != EINTR)
        drop(peer);
    else
        keep_rest(peer, sent < 0 ? 0 : (size_t)sent, (size_t)length);
}

static void on_writable(connection *peer) {
    ssize_t sent = send(peer->fd, peer->rest + peer->rest_at, peer->rest_end - peer->rest_at, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR)
            drop(peer);
        return;
    }
    peer->rest_at += (size_t)sent;
    if (peer->rest_at < peer->rest_end)
        return;
    free(peer->rest);
    peer->rest = NULL;
    want(peer, EPOLL_CTL_MOD, EPOLLIN);
}

static void on_connection(void) {
    int fd = accept4(listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
            serve_fail("accept4");
        return;
    }
    connection *peer = calloc(1, sizeof *peer);
    if (peer == NULL)
        serve_fail("calloc");
    peer->fd = fd;
    want(peer, EPOLL_CTL_ADD, EPOLLIN);
}

int main(int argc, char **argv) {
    options = serve_parse(argc, argv);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        serve_fail("epoll_create1");
    listener.fd = serve_listen(&options, true);
    want(&listener, EPOLL_CTL_ADD, EPOLLIN);
    terminate.fd = serve_signals();
    want(&terminate, EPOLL_CTL_ADD, EPOLLIN);

    static struct epoll_event events[EVENTS_PER_WAIT];
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS_PER_WAIT, -1);
        if (count < 0 && errno != EINTR)
            serve_fail("epoll_wait");
        for (int index = 0; index < count; index++) {
            connection *peer = events[index].data.ptr;
            if (peer == &listener) {
                on_connection();
            } else if (peer == &terminate) {
                serve_report("epoll-level");
                return 0;
            } else if (peer->rest != NULL) {
                on_writable(peer);
            } else {
                on_readable(peer);
            }
        }
    }
}
