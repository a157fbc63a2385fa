/* The load generator's churn: connections opened, used for one message and closed, as fast as the server takes them. Each
 * is closed by a reset (SO_LINGER of 0), so that no closed port is left waiting, and takes the next of many source
 * addresses, so that a minute's runs do not use up the ports of one. */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

enum { EVENTS_PER_WAIT = 256, MESSAGE_MOST = 1024 };

typedef struct attempt {
    int fd;
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
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = self};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, self->fd, &event) < 0)
        load_fail("epoll_ctl");
}

/* Returns whether the message is back. */
static bool step(attempt *self, uint32_t events) {
    if (!self->sent && (events & EPOLLOUT) != 0) {
        if (send(self->fd, message, message_bytes, MSG_NOSIGNAL) != (ssize_t)message_bytes)
            load_fail("send");
        self->sent = true;
    }
    if (!self->sent || (events & EPOLLIN) == 0)
        return false;
    unsigned char answer[MESSAGE_MOST];
    ssize_t length = recv(self->fd, answer, message_bytes - self->received, 0);
    if (length == 0)
        errno = ECONNRESET;
    if (length == 0 || (length < 0 && errno != EAGAIN))
        load_fail("recv");
    self->received += length > 0 ? (size_t)length : 0;
    return self->received == message_bytes;
}

void load_churn(const load_options *wanted, histogram *latencies, load_sample *start, load_sample *end) {
    options = wanted;
    message_bytes = options->size < MESSAGE_MOST ? options->size : MESSAGE_MOST;
    attempt *attempts = calloc(options->connections, sizeof *attempts);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (attempts == NULL || poller < 0)
        load_fail("churn");
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
            close(self->fd);
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
    *end = load_take_sample(done);
    for (unsigned index = 0; index < options->connections; index++)
        close(attempts[index].fd);
    free(attempts);
}
