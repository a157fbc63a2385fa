/* The limit for TLS: edge-triggered epoll, registered once, and OpenSSL straight on the descriptor, reading ahead, with one
 * recv and one send for a message of one record. It knows no pieces. bench/README.md says what it was chosen by. */
#include <errno.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../serve.h"
#include "../serve_tls.h"

#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define COLD __attribute__((cold, noinline))

/* An event is about a connection's address, or about one of the tags, which no address can be. */
enum { EVENTS_PER_WAIT = 256, TAG_LISTENER = 0, TAG_TERMINATE = 1, ENDING = EPOLLRDHUP | EPOLLHUP | EPOLLERR };

typedef struct connection {
    SSL *ssl;
    int fd;
    bool was_short;      /* the last receive got less than it asked for, so it left the socket empty */
    unsigned char *rest; /* what could not be written; while it is set nothing more is read */
    int rest_bytes;
} connection;

static unsigned char buffer[SSL3_RT_MAX_PLAIN_LENGTH];
static serve_options options;

/* OpenSSL's own BIO for a socket makes these two calls as well, but does not tell whether a receive was short. */
static int receive(BIO *bio, char *data, size_t room, size_t *received) {
    connection *peer = BIO_get_data(bio);
    ssize_t length = recv(peer->fd, data, room, 0);
    BIO_clear_retry_flags(bio);
    if (UNLIKELY(length < 0 && errno == EAGAIN))
        BIO_set_retry_read(bio);
    peer->was_short = length < (ssize_t)room;
    *received = (size_t)length;
    return length > 0;
}

static int send_record(BIO *bio, const char *data, size_t length, size_t *sent) {
    ssize_t taken = send(((connection *)BIO_get_data(bio))->fd, data, length, MSG_NOSIGNAL);
    BIO_clear_retry_flags(bio);
    if (UNLIKELY(taken < 0 && errno == EAGAIN))
        BIO_set_retry_write(bio);
    *sent = (size_t)taken;
    return taken > 0;
}

/* After a read or write that did not succeed. Returns whether the connection lives, and then waits for the socket. */
static COLD bool survives(connection *peer, int result) {
    int error = SSL_get_error(peer->ssl, result);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
        return true;
    if (error == SSL_ERROR_ZERO_RETURN)
        SSL_shutdown(peer->ssl); /* the answer to a close_notify; whether it can still leave does not matter */
    ERR_clear_error();           /* which tells the next SSL_get_error, whichever connection left it */
    SSL_free(peer->ssl);
    close(peer->fd);
    free(peer->rest);
    free(peer);
    return false;
}

/* Returns whether it is written. What is not is kept, since the shared buffer is about to be read into again; OpenSSL has
 * gone on to EAGAIN, so an edge comes when there is room. */
static inline bool answer(connection *peer, const unsigned char *data, int length) {
    int written = SSL_write(peer->ssl, data, length);
    if (LIKELY(written > 0))
        return true;
    if (survives(peer, written) && peer->rest == NULL) {
        peer->rest = memcpy(serve_grow(NULL, (size_t)length), data, (size_t)length);
        peer->rest_bytes = length;
    }
    return false;
}

/* A connection's event; the handshake is done by the first reads. A short read means that the socket was empty, unless
 * the event also told of an end; data that comes later brings a new edge. */
static void serve(connection *peer, uint32_t events) {
    if (UNLIKELY(peer->rest != NULL)) {
        if (!answer(peer, peer->rest, peer->rest_bytes))
            return;
        free(peer->rest);
        peer->rest = NULL;
        events |= ENDING; /* reading stopped at an unknown place: read until the kernel says empty */
    }
    for (;;) {
        int length = SSL_read(peer->ssl, buffer, sizeof buffer);
        if (UNLIKELY(length <= 0)) {
            survives(peer, length);
            return;
        }
        if (UNLIKELY(!options.sink && !answer(peer, buffer, length)) ||
            LIKELY(!SSL_has_pending(peer->ssl) && peer->was_short && (events & ENDING) == 0))
            return;
    }
}

static COLD void accept_all(int listener, int poller, SSL_CTX *context, const BIO_METHOD *method) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        BIO *bio = BIO_new(method);
        connection *peer = serve_grow(NULL, sizeof *peer);
        *peer = (connection){.ssl = SSL_new(context), .fd = fd};
        if (bio == NULL || peer->ssl == NULL)
            serve_fail("SSL_new");
        BIO_set_data(bio, peer);
        BIO_set_init(bio, 1);
        SSL_set_bio(peer->ssl, bio, bio);
        SSL_set_accept_state(peer->ssl);
        serve_watch(poller, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, peer);
    }
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) /* level-triggered: the rest comes again */
        serve_fail("accept4");
}

int main(int argc, char **argv) {
    options = serve_parse_tls(argc, argv);
    SSL_CTX *context = serve_tls_context(&options);
    SSL_CTX_set_read_ahead(context, 1);
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "descriptor");
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0 || !BIO_meth_set_read_ex(method, receive) || !BIO_meth_set_write_ex(method, send_record) ||
        !BIO_meth_set_ctrl(method, BIO_meth_get_ctrl(BIO_s_null())))
        serve_fail("set-up");
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
                accept_all(listener, poller, context, method);
            } else if (UNLIKELY(event->data.u64 == TAG_TERMINATE)) {
                serve_report("epoll-tls");
                return 0;
            } else {
                serve(event->data.ptr, event->events);
            }
        }
    }
}
