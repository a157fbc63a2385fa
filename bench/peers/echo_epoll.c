/* The limit: an echo server written straight on epoll, with nothing between the socket and the loop. It holds what
 * any correct server must (short writes, half-close, resets) and not one instruction more on the path of a message. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../serve.h"

#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define COLD __attribute__((cold, noinline)) /* kept out of the loop, whose registers it would take */

enum { EVENTS_PER_WAIT = 256 };

/* What an event is about: a connection's address, or one of these, which no address can be. */
enum { TAG_LISTENER = 0, TAG_TERMINATE = 1 };

/* Edge-triggered and registered once: no epoll_ctl follows, whatever the connection does. Loopback and TCP wake a
 * reader with IN and OUT set together, so asking for OUT too brings no event of its own. */
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

/* Keep what the kernel refused, since the shared buffer is about to be read into again. */
static bool keep_rest(connection *peer, const unsigned char *data, size_t length) {
    peer->rest = malloc(length);
    if (peer->rest == NULL)
        return false;
    memcpy(peer->rest, data, length);
    peer->rest_at = 0;
    peer->rest_end = length;
    return true;
}

/* Send the remainder. Returns 1 once it is gone, 0 if the kernel is full again, -1 if the connection is lost. */
static COLD int send_rest(connection *peer) {
    while (peer->rest_at < peer->rest_end) {
        ssize_t sent = send(peer->fd, peer->rest + peer->rest_at, peer->rest_end - peer->rest_at, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            return errno == EAGAIN ? 0 : -1;
        }
        peer->rest_at += (size_t)sent;
    }
    free(peer->rest);
    peer->rest = NULL;
    return 1;
}

/* The answer in pieces: one send each, or one call that gathers them. Returns the bytes taken, or -1. */
static __attribute__((noinline)) ssize_t send_pieces(connection *peer, size_t length) {
    size_t piece = serve_piece(length, options.pieces);
    struct iovec parts[SERVE_PIECES_MAX];
    int count = 0;
    size_t done = 0;
    while (done < length) {
        size_t part = length - done < piece ? length - done : piece;
        if (options.gathered) {
            parts[count++] = (struct iovec){.iov_base = buffer + done, .iov_len = part};
            done += part;
            continue;
        }
        ssize_t sent = send(peer->fd, buffer + done, part, MSG_NOSIGNAL);
        if (sent < 0)
            return done > 0 && (errno == EAGAIN || errno == EINTR) ? (ssize_t)done : -1;
        done += (size_t)sent;
        if ((size_t)sent < part)
            return (ssize_t)done;
    }
    if (!options.gathered)
        return (ssize_t)done;
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    return sendmsg(peer->fd, &message, MSG_NOSIGNAL);
}

/* After a send that did not take everything. Returns false if the connection is lost. */
static COLD bool after_short_send(connection *peer, ssize_t sent, size_t length) {
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR)
            return false;
        sent = 0;
    }
    if (!keep_rest(peer, buffer + sent, length - (size_t)sent))
        return false;
    return send_rest(peer) >= 0; /* room may have come since: its edge would be the one just consumed */
}

/* A connection's event. A short read means that the socket was empty, unless the event also told of an end; data
 * that comes later brings a new edge. A client that sends without pause can hold the loop here; ours do not. */
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
                                                   : send_pieces(peer, (size_t)length);
        if (UNLIKELY(sent != length)) {
            if (!after_short_send(peer, sent, (size_t)length)) {
                drop(peer);
                return;
            }
            if (peer->rest != NULL)
                return;
        }
        if (LIKELY((size_t)length < sizeof buffer && (events & ending) == 0))
            return;
    }
}

static COLD void accept_all(int listener, int poller) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EAGAIN)
                return;
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            serve_fail("accept4");
        }
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        connection *peer = calloc(1, sizeof *peer);
        if (peer == NULL)
            serve_fail("calloc");
        peer->fd = fd;
        struct epoll_event event = {.events = interest, .data.ptr = peer};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
            serve_fail("epoll_ctl");
    }
}

static int listen_on(uint16_t port, uint16_t *chosen) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        serve_fail("socket");
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (bind(fd, (struct sockaddr *)&address, length) < 0)
        serve_fail("bind");
    if (listen(fd, SERVE_BACKLOG) < 0)
        serve_fail("listen");
    if (getsockname(fd, (struct sockaddr *)&address, &length) < 0)
        serve_fail("getsockname");
    *chosen = ntohs(address.sin_port);
    return fd;
}

/* SIGTERM as a descriptor, so that the loop needs no flag to look at. */
static int terminate_fd(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0)
        serve_fail("signalfd");
    return fd;
}

static void watch(int poller, int fd, uint64_t tag) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        serve_fail("epoll_ctl");
}

int main(int argc, char **argv) {
    options = serve_parse(argc, argv);
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        serve_fail("epoll_create1");
    uint16_t port = 0;
    int listener = listen_on(options.port, &port);
    watch(poller, listener, TAG_LISTENER);
    watch(poller, terminate_fd(), TAG_TERMINATE);
    serve_announce(port);

    static struct epoll_event events[EVENTS_PER_WAIT];
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS_PER_WAIT, -1);
        if (UNLIKELY(count < 0)) {
            if (errno == EINTR)
                continue;
            serve_fail("epoll_wait");
        }
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
