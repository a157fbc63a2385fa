/* The limit on epoll: edge-triggered, registered once, one recv and one send a message, and nothing between the socket
 * and the loop. It holds what any correct server must (short writes, half-close, resets) and not one instruction more. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../serve.h"

#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define COLD __attribute__((cold, noinline)) /* kept out of the loop, whose registers it would take */

/* An event is about a connection's address, or about one of the tags, which no address can be. */
enum { EVENTS_PER_WAIT = 256, TAG_LISTENER = 0, TAG_TERMINATE = 1 };

/* Loopback and TCP wake a reader with IN and OUT set together, so asking for OUT too brings no event of its own. */
static const uint32_t interest = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
static const uint32_t ending = EPOLLRDHUP | EPOLLHUP | EPOLLERR;

typedef struct connection {
    int fd;
    unsigned char *rest; /* what the kernel refused; while it is set nothing more is read */
    size_t rest_at;
    size_t rest_end;
} connection;

static unsigned char buffer[SERVE_READ_BYTES];
static serve_options options;

static COLD void drop(connection *peer) {
    close(peer->fd);
    free(peer->rest);
    free(peer);
}

/* Send the remainder. Returns 1 once it is gone, 0 if the kernel is full again, -1 if the connection is lost. */
static COLD int send_rest(connection *peer) {
    while (peer->rest_at < peer->rest_end) {
        ssize_t sent = send(peer->fd, peer->rest + peer->rest_at, peer->rest_end - peer->rest_at, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return errno == EAGAIN ? 0 : -1;
        peer->rest_at += (size_t)sent;
    }
    free(peer->rest);
    peer->rest = NULL;
    return 1;
}

/* After a send that did not take everything: keep what is left, since the shared buffer is about to be read into again,
 * and try once more, since room may have come whose edge was the one just consumed. Like send_rest. */
static COLD int after_short_send(connection *peer, ssize_t sent, size_t length) {
    if (sent < 0 && errno != EAGAIN && errno != EINTR)
        return -1;
    size_t taken = sent < 0 ? 0 : (size_t)sent;
    peer->rest = malloc(length - taken);
    if (peer->rest == NULL)
        return -1;
    memcpy(peer->rest, buffer + taken, length - taken);
    peer->rest_at = 0;
    peer->rest_end = length - taken;
    return send_rest(peer);
}

/* A connection's event. A short read means that the socket was empty, unless the event also told of an end; data that
 * comes later brings a new edge. A client that sends without pause can hold the loop here; ours do not for long. */
static void serve(connection *peer, uint32_t events) {
    if (UNLIKELY(peer->rest != NULL)) {
        int state = send_rest(peer);
        if (state < 0)
            drop(peer);
        if (state <= 0)
            return;
        events |= ending; /* reading stopped at an unknown place: read until the kernel says empty */
    }
    for (;;) {
        ssize_t length = recv(peer->fd, buffer, sizeof buffer, 0);
        if (UNLIKELY(length <= 0)) {
            if (length < 0 && errno == EINTR)
                continue;
            if (length == 0 || errno != EAGAIN)
                drop(peer);
            return;
        }
        ssize_t sent = LIKELY(options.pieces == 1) ? send(peer->fd, buffer, (size_t)length, MSG_NOSIGNAL)
                                                   : serve_answer(&options, peer->fd, buffer, (size_t)length);
        if (UNLIKELY(sent != length)) {
            int state = after_short_send(peer, sent, (size_t)length);
            if (state < 0)
                drop(peer);
            if (state <= 0)
                return;
        }
        if (LIKELY((size_t)length < sizeof buffer && (events & ending) == 0))
            return;
    }
}

static COLD void accept_all(int listener, int poller) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        connection *peer = calloc(1, sizeof *peer);
        if (peer == NULL)
            serve_fail("calloc");
        peer->fd = fd;
        serve_watch(poller, fd, interest, peer);
    }
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) /* level-triggered: the rest comes again */
        serve_fail("accept4");
}

int main(int argc, char **argv) {
    options = serve_parse(argc, argv);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        serve_fail("epoll_create1");
    int listener = serve_listen(&options, true);
    serve_watch(poller, listener, EPOLLIN, (void *)TAG_LISTENER);
    serve_watch(poller, serve_signals(), EPOLLIN, (void *)TAG_TERMINATE);

    static struct epoll_event events[EVENTS_PER_WAIT];
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS_PER_WAIT, -1);
        if (UNLIKELY(count < 0) && errno != EINTR)
            serve_fail("epoll_wait");
        for (const struct epoll_event *event = events; event < events + count; event++) {
            if (UNLIKELY(event->data.u64 == TAG_LISTENER)) {
                accept_all(listener, poller);
            } else if (UNLIKELY(event->data.u64 == TAG_TERMINATE)) {
                serve_report("epoll");
                return 0;
            } else {
                serve(event->data.ptr, event->events);
            }
        }
    }
}
