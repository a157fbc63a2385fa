/* The load generator's churn: connections opened, used for one message and closed, as fast as the server takes them. Each
 * is closed by a reset (SO_LINGER of 0), so that no closed port is left waiting, and takes the next of many source
 * addresses, so that a minute's runs do not use up the ports of one. Through TLS this measures handshakes; a close_notify
 * then goes before the reset, and comes first. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

enum { EVENTS_PER_WAIT = 256, MESSAGE_MOST = 1024 };

typedef struct attempt {
    int fd;
    void *tls; /* NULL: plain TCP */
    bool sent;
    size_t received;
    uint64_t begun_ns;
} attempt;

static const load_options *options;
static int poller;
static unsigned opened;
static size_t message_bytes;
static unsigned char message[MESSAGE_MOST];

static void begin(attempt *self) {
    *self = (attempt){.fd = load_socket(opened++, true), .begun_ns = load_now_ns()};
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    setsockopt(self->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (connect(self->fd, (const struct sockaddr *)&options->address, sizeof options->address) < 0 &&
        errno != EINPROGRESS)
        load_fail("connect");
    if (options->tls != NULL)
        self->tls = options->tls->begin(self->fd, options->resume);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = self};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, self->fd, &event) < 0)
        load_fail("epoll_ctl");
}

/* Send the message, which is one segment and one record. Returns whether it is sent; a handshake wants many events. */
static bool send_message(attempt *self, uint32_t events) {
    if (self->tls == NULL && (events & EPOLLOUT) == 0)
        return false;
    ssize_t sent = self->tls == NULL ? send(self->fd, message, message_bytes, MSG_NOSIGNAL)
                                     : options->tls->send(self->tls, message, message_bytes);
    if (sent < 0 && errno == EAGAIN && self->tls != NULL)
        return false;
    if (sent != (ssize_t)message_bytes)
        load_fail("send");
    return true;
}

/* Returns whether the message is back. */
static bool step(attempt *self, uint32_t events) {
    if (!self->sent) {
        self->sent = send_message(self, events);
        return false; /* what answers it is an event of its own */
    }
    if (self->tls == NULL && (events & EPOLLIN) == 0)
        return false;
    unsigned char answer[MESSAGE_MOST];
    while (self->received < message_bytes) {
        ssize_t length = self->tls == NULL ? recv(self->fd, answer, message_bytes - self->received, 0)
                                           : options->tls->receive(self->tls, answer, message_bytes - self->received);
        if (length < 0 && errno == EAGAIN)
            return false;
        if (length == 0)
            errno = ECONNRESET;
        if (length <= 0)
            load_fail("recv");
        if (memcmp(answer, message + self->received, (size_t)length) != 0) {
            errno = EBADMSG;
            load_fail("what came back is not what was sent");
        }
        self->received += (size_t)length;
    }
    return true;
}

static void end(attempt *self) {
    if (self->tls != NULL)
        options->tls->end(self->tls);
    close(self->fd);
}

/* The handshake must have been of the kind that is measured. */
static void check_handshake(const attempt *self) {
    if (self->tls == NULL || options->tls->resumed(self->tls) == options->resume)
        return;
    errno = EPROTO;
    load_fail(options->resume ? "a session was not resumed" : "a session was resumed");
}

/* The connection whose session the others take up. */
static void make_session(void) {
    int fd = load_socket(opened++, false);
    struct timeval patience = {.tv_sec = 20, .tv_usec = 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (const struct sockaddr *)&options->address, sizeof options->address) < 0)
        load_fail("connect");
    void *tls = options->tls->begin(fd, false);
    unsigned char answer[MESSAGE_MOST];
    errno = EPROTO;
    if (!load_echo_once(fd, tls, message, answer, message_bytes) || !options->tls->keep_session(tls))
        load_fail("there is no session to resume");
    end(&(attempt){.fd = fd, .tls = tls});
}

void load_churn(const load_options *wanted, histogram *latencies, load_sample *start, load_sample *finish) {
    options = wanted;
    message_bytes = options->size < MESSAGE_MOST ? options->size : MESSAGE_MOST;
    attempt *attempts = calloc(options->connections, sizeof *attempts);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (attempts == NULL || poller < 0)
        load_fail("churn");
    for (size_t index = 0; index < message_bytes; index++)
        message[index] = (unsigned char)(index * 167 + 13);
    if (options->resume)
        make_session();
    for (unsigned index = 0; index < options->connections; index++)
        begin(&attempts[index]);
    uint64_t done = 0, limit_ns = load_now_ns() + (uint64_t)(options->limit * 1e9);
    uint64_t measure_ns = load_now_ns() + (uint64_t)(options->warm_up * 1e9), end_ns = UINT64_MAX;
    while (options->messages > 0 ? done < options->messages : load_now_ns() < end_ns) {
        struct epoll_event events[EVENTS_PER_WAIT];
        int count = epoll_wait(poller, events, EVENTS_PER_WAIT, 20);
        for (int index = 0; index < count; index++) {
            attempt *self = events[index].data.ptr;
            if (!step(self, events[index].events))
                continue;
            if (start->now_ns != 0)
                histogram_add(latencies, load_now_ns() - self->begun_ns);
            check_handshake(self);
            end(self);
            begin(self);
            done++;
        }
        uint64_t now_ns = load_now_ns();
        if (start->now_ns == 0 && now_ns >= measure_ns) {
            *start = load_take_sample(done);
            end_ns = start->now_ns + (uint64_t)(options->seconds * 1e9);
        }
        if (now_ns >= limit_ns) {
            errno = ETIMEDOUT;
            load_fail("churn");
        }
    }
    *finish = load_take_sample(done);
    for (unsigned index = 0; index < options->connections; index++)
        end(&attempts[index]);
    free(attempts);
}
