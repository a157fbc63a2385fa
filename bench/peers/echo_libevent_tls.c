/* The libevent peer for TLS: echo_libevent.c with the bufferevents that libevent has for OpenSSL. Reading ahead stays off,
 * since libevent does not look for what OpenSSL has read and not yet decrypted. */
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "../serve.h"
#include "../serve_tls.h"

static serve_options options;
static SSL_CTX *context;

static void on_drained(struct bufferevent *peer, void *unused) {
    (void)unused;
    if (evbuffer_get_length(bufferevent_get_output(peer)) == 0)
        bufferevent_free(peer);
}

/* The peer has ended or is lost. After an end, what is queued still goes out before the connection closes. */
static void on_event(struct bufferevent *peer, short what, void *unused) {
    (void)unused;
    if ((what & BEV_EVENT_EOF) != 0 && evbuffer_get_length(bufferevent_get_output(peer)) > 0) {
        bufferevent_setcb(peer, NULL, on_drained, on_event, NULL);
        bufferevent_disable(peer, EV_READ);
    } else if ((what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) != 0) {
        bufferevent_free(peer);
    }
}

/* One bufferevent_write a piece, or the pieces moved together; libevent joins both in its output buffer. */
static void echo_pieces(struct bufferevent *peer, struct evbuffer *input) {
    size_t length = evbuffer_get_length(input);
    size_t piece = serve_piece(length, options.pieces);
    char *data = (char *)evbuffer_pullup(input, -1);
    if (data == NULL)
        return;
    if (options.gathered) {
        struct evbuffer_iovec parts[SERVE_PIECES_MAX];
        unsigned count = 0;
        for (size_t done = 0; done < length; done += piece)
            parts[count++] = (struct evbuffer_iovec){data + done, length - done < piece ? length - done : piece};
        evbuffer_add_iovec(bufferevent_get_output(peer), parts, (int)count);
    } else {
        for (size_t done = 0; done < length; done += piece)
            bufferevent_write(peer, data + done, length - done < piece ? length - done : piece);
    }
    evbuffer_drain(input, length);
}

static void on_read(struct bufferevent *peer, void *unused) {
    (void)unused;
    struct evbuffer *input = bufferevent_get_input(peer);
    if (options.pieces == 1)
        evbuffer_add_buffer(bufferevent_get_output(peer), input);
    else if (options.sink)
        evbuffer_drain(input, evbuffer_get_length(input));
    else
        echo_pieces(peer, input);
}

static void on_connection(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address, int length,
                          void *unused) {
    (void)address;
    (void)length;
    (void)unused;
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    SSL *ssl = SSL_new(context);
    struct bufferevent *peer = ssl == NULL
                                   ? NULL
                                   : bufferevent_openssl_socket_new(evconnlistener_get_base(listener), fd, ssl,
                                                                    BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
    if (peer == NULL)
        serve_fail("bufferevent_openssl_socket_new");
    bufferevent_setcb(peer, on_read, NULL, on_event, NULL);
    bufferevent_enable(peer, EV_READ | EV_WRITE);
}

static void on_signal(evutil_socket_t number, short what, void *base) {
    (void)number;
    (void)what;
    event_base_loopbreak(base);
}

int main(int argc, char **argv) {
    options = serve_parse_tls(argc, argv);
    context = serve_tls_context(&options);
    struct event_base *base = event_base_new();
    if (base == NULL)
        serve_fail("event_base_new");
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(options.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct evconnlistener *listener =
        evconnlistener_new_bind(base, on_connection, NULL, LEV_OPT_REUSEABLE | LEV_OPT_CLOSE_ON_FREE, SERVE_BACKLOG,
                                (struct sockaddr *)&address, sizeof address);
    if (listener == NULL)
        serve_fail("evconnlistener_new_bind");
    struct event *terminate = evsignal_new(base, SIGTERM, on_signal, base);
    struct event *interrupt = evsignal_new(base, SIGINT, on_signal, base);
    if (terminate == NULL || interrupt == NULL || event_add(terminate, NULL) < 0 || event_add(interrupt, NULL) < 0)
        serve_fail("evsignal_new");
    socklen_t length = sizeof address;
    if (getsockname(evconnlistener_get_fd(listener), (struct sockaddr *)&address, &length) < 0)
        serve_fail("getsockname");
    serve_announce(ntohs(address.sin_port));
    event_base_dispatch(base);
    serve_report("libevent-tls");
    return 0;
}
