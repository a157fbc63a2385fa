/* The load generator: opens connections to an echo server on loopback, keeps a fixed number of messages in flight on
 * each, checks what comes back and prints JSON. Straight on epoll, with OpenSSL on the descriptor where TLS is asked for,
 * so that no library under test measures itself. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"
#include "load.h"

enum {
    CHUNK_BYTES = 128 * 1024,       /* most that one send or receive moves */
    PERIOD_BYTES = 131071,          /* prime, so that no message length falls into step with it */
    CHECKED_BYTES = 2048,           /* at each end of a long chunk, unless all is checked */
    OPENING_BYTES = 1024,           /* most that is echoed once, at opening */
    CONNECTIONS_PER_ADDRESS = 4000, /* source ports taken from one loopback address */
    EVENTS_PER_WAIT = 256,
};

/* Every connection sends the same endless random text from its own place on, so what comes back is checked by one
 * comparison and bytes lost, repeated, swapped or from another connection are all seen. */
typedef struct flow {
    int fd;
    void *tls;           /* its TLS, or NULL */
    uint32_t send_at;    /* place in the text of the next byte to send */
    uint32_t receive_at; /* and of the next to receive */
    uint32_t part;       /* bytes of the current message that are back */
    uint32_t in_flight;  /* messages */
    uint32_t oldest;     /* ring position of the oldest message's time */
    uint64_t unsent;     /* bytes of begun messages that the kernel has not taken */
    uint64_t *begun_ns;  /* ring of `depth` times */
} flow;

typedef enum phase { WARM_UP, MEASURING, DRAINING } phase;

static load_options options;
static flow *flows;
static unsigned char text[PERIOD_BYTES + CHUNK_BYTES], received[CHUNK_BYTES];
static histogram latencies;
static phase now_in = WARM_UP;
static uint64_t begun, completed, bytes_sent, bytes_received, bytes_wrong;
static unsigned alive;

_Noreturn void load_fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec time = {0, 0};
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* The kernel's name for another process's CPU clock (linux/posix-timers.h); nanoseconds where /proc has ticks. */
static clockid_t process_clock(pid_t process) {
    return (clockid_t)((~(unsigned)process << 3) | 2U);
}

uint64_t load_now_ns(void) {
    return clock_ns(CLOCK_MONOTONIC);
}

load_sample load_take_sample(uint64_t done) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (load_sample){
        .now_ns = load_now_ns(),
        .completed = done,
        .server_ns = options.server == 0 ? 0 : clock_ns(process_clock(options.server)),
        .user_us = (uint64_t)used.ru_utime.tv_sec * 1000000 + (uint64_t)used.ru_utime.tv_usec,
        .system_us = (uint64_t)used.ru_stime.tv_sec * 1000000 + (uint64_t)used.ru_stime.tv_usec,
    };
}

static void fill_text(void) {
    uint64_t state = 0x9e3779b97f4a7c15;
    for (size_t at = 0; at < PERIOD_BYTES; at++) {
        state = state * 6364136223846793005 + 1442695040888963407;
        text[at] = (unsigned char)(state >> 56);
    }
    for (size_t at = PERIOD_BYTES; at < sizeof text; at++)
        text[at] = text[at - PERIOD_BYTES];
}

static uint32_t advance(uint32_t at, size_t length) {
    size_t next = at + length;
    return (uint32_t)(next < PERIOD_BYTES ? next : next % PERIOD_BYTES);
}

static bool matches(uint32_t at, const unsigned char *data, size_t length) {
    if (length <= 2 * CHECKED_BYTES || options.check_all)
        return memcmp(data, text + at, length) == 0;
    size_t tail = length - CHECKED_BYTES;
    return memcmp(data, text + at, CHECKED_BYTES) == 0 && memcmp(data + tail, text + at + tail, CHECKED_BYTES) == 0;
}

static void lose(flow *self) {
    if (self->fd < 0)
        return;
    close(self->fd);
    self->fd = -1;
    alive--;
}

static void send_unsent(flow *self) {
    while (self->unsent > 0) {
        size_t length = self->unsent < CHUNK_BYTES ? (size_t)self->unsent : CHUNK_BYTES;
        ssize_t sent = self->tls == NULL ? send(self->fd, text + self->send_at, length, MSG_NOSIGNAL)
                                         : options.tls->send(self->tls, text + self->send_at, length);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            if (errno != EAGAIN)
                lose(self);
            return;
        }
        self->send_at = advance(self->send_at, (size_t)sent);
        self->unsent -= (uint64_t)sent;
        bytes_sent += (uint64_t)sent;
    }
}

static bool may_begin(void) {
    return now_in != DRAINING && (options.messages == 0 || begun < options.messages);
}

static void begin_messages(flow *self, uint64_t now_ns) {
    while (self->in_flight < options.depth && may_begin()) {
        self->begun_ns[(self->oldest + self->in_flight) % options.depth] = now_ns;
        self->in_flight++;
        self->unsent += options.size;
        begun++;
    }
    send_unsent(self);
}

/* Account for bytes that came back; each whole message makes room for the next. */
static void take(flow *self, const unsigned char *data, size_t length) {
    if (!matches(self->receive_at, data, length)) {
        if (bytes_wrong == 0)
            fprintf(stderr, "load: what came back is not what was sent\n");
        bytes_wrong += length;
    }
    self->receive_at = advance(self->receive_at, length);
    bytes_received += length;
    self->part += (uint32_t)length;
    if (self->part < options.size)
        return;
    uint64_t now_ns = load_now_ns();
    while (self->part >= options.size && self->in_flight > 0) {
        self->part -= options.size;
        if (now_in == MEASURING)
            histogram_add(&latencies, now_ns - self->begun_ns[self->oldest]);
        self->oldest = (self->oldest + 1) % options.depth;
        self->in_flight--;
        completed++;
    }
    begin_messages(self, now_ns);
}

/* How much of what was sent is not back yet. */
static uint64_t outstanding(const flow *self) {
    return (uint64_t)self->in_flight * options.size - self->part;
}

static ssize_t receive(flow *self) {
    return self->tls == NULL ? recv(self->fd, received, sizeof received, 0)
                             : options.tls->receive(self->tls, received, sizeof received);
}

/* Edge-triggered. A short read means empty unless the event told of an end; through TLS, where a read is a record, the
 * socket is empty once all that was sent is back. */
static void serve(flow *self, uint32_t events) {
    if (self->fd < 0)
        return;
    if (self->unsent > 0 && (events & EPOLLOUT) != 0)
        send_unsent(self);
    for (;;) {
        ssize_t length = self->fd < 0 ? 0 : receive(self);
        if (length < 0 && errno == EINTR)
            continue;
        if (length < 0 && errno == EAGAIN)
            return;
        if (length <= 0) {
            lose(self);
            return;
        }
        bool empty = self->tls == NULL ? (size_t)length < sizeof received
                                       : (uint64_t)length == outstanding(self) && !options.tls->pending(self->tls);
        take(self, received, (size_t)length);
        if (empty && (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) == 0)
            return;
    }
}

int load_socket(unsigned index, bool nonblocking) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0), 0);
    if (fd < 0)
        load_fail("socket");
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    /* Many runs within a minute leave many closed ports waiting: each run takes loopback addresses of its own. */
    uint32_t host =
        (127U << 24) + (1U << 16) + (((uint32_t)getpid() & 0xff) << 8) + 1 + index / CONNECTIONS_PER_ADDRESS % 250;
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(host)};
    if (bind(fd, (struct sockaddr *)&source, sizeof source) < 0)
        load_fail("bind");
    return fd;
}

bool load_echo_once(int fd, void *tls, const void *message, void *answer, size_t length) {
    if ((tls == NULL ? send(fd, message, length, MSG_NOSIGNAL) : options.tls->send(tls, message, length)) !=
        (ssize_t)length)
        return false;
    for (size_t done = 0; done < length;) {
        void *to = (char *)answer + done;
        ssize_t got = tls == NULL ? recv(fd, to, length - done, 0) : options.tls->receive(tls, to, length - done);
        if (got <= 0)
            return false;
        done += (size_t)got;
    }
    return true;
}

/* Echo once before anything is measured: the server has then accepted, and its first-time costs are paid. */
static void open_flow(flow *self, unsigned index) {
    self->fd = load_socket(index, false);
    struct timeval patience = {.tv_sec = 20, .tv_usec = 0};
    setsockopt(self->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(self->fd, (struct sockaddr *)&options.address, sizeof options.address) < 0)
        load_fail("connect");
    alive++;
    if (options.sink)
        return; /* nothing comes back */
    uint32_t start = (uint32_t)((uint64_t)index * 7919 % PERIOD_BYTES);
    size_t length = options.size < OPENING_BYTES ? options.size : OPENING_BYTES;
    self->tls = options.tls == NULL ? NULL : options.tls->begin(self->fd, false);
    if (!load_echo_once(self->fd, self->tls, text + start, received, length) || !matches(start, received, length))
        load_fail("the first echo is missing or wrong");
    self->send_at = self->receive_at = advance(start, length);
    self->begun_ns = calloc(options.depth, sizeof *self->begun_ns);
    if (self->begun_ns == NULL)
        load_fail("calloc");
}

static int watch_flows(void) {
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        load_fail("epoll_create1");
    for (unsigned index = 0; index < options.connections; index++) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = &flows[index]};
        if (fcntl(flows[index].fd, F_SETFL, O_NONBLOCK) < 0) /* opening used it blocking */
            load_fail("fcntl");
        if (epoll_ctl(poller, EPOLL_CTL_ADD, flows[index].fd, &event) < 0)
            load_fail("epoll_ctl");
    }
    return poller;
}

/* One wait and what it brings. */
static void turn(int poller) {
    static struct epoll_event events[EVENTS_PER_WAIT];
    int count = epoll_wait(poller, events, EVENTS_PER_WAIT, 20);
    if (count < 0 && errno != EINTR)
        load_fail("epoll_wait");
    for (int index = 0; index < count; index++)
        serve(events[index].data.ptr, events[index].events);
}

/* Warm-up, measured time, and then only what is still in flight. With --messages all of it is measured. */
static void run(int poller, load_sample *start, load_sample *end) {
    uint64_t opened_ns = load_now_ns();
    uint64_t measure_ns = opened_ns + (uint64_t)(options.warm_up * 1e9);
    uint64_t end_ns = measure_ns + (uint64_t)(options.seconds * 1e9);
    uint64_t limit_ns = opened_ns + (uint64_t)(options.limit * 1e9);
    if (options.messages > 0) {
        *start = load_take_sample(completed);
        now_in = MEASURING;
    }
    for (unsigned index = 0; index < options.connections; index++)
        begin_messages(&flows[index], load_now_ns());
    while (alive > 0 && (now_in != DRAINING || completed < begun)) {
        turn(poller);
        uint64_t now_ns = load_now_ns();
        if (options.messages > 0) {
            if (completed == options.messages)
                break;
        } else if (now_in == WARM_UP && now_ns >= measure_ns) {
            *start = load_take_sample(completed);
            end_ns = start->now_ns + (uint64_t)(options.seconds * 1e9);
            now_in = MEASURING;
        } else if (now_in == MEASURING && now_ns >= end_ns) {
            *end = load_take_sample(completed);
            now_in = DRAINING;
        }
        if (now_ns >= limit_ns) {
            fprintf(stderr, "load: gave up after %g seconds\n", options.limit);
            break;
        }
    }
    if (now_in != DRAINING)
        *end = load_take_sample(completed);
}

/* One way: keep every socket's buffer full, and at the end see each connection closed, which a server does once it has
 * read everything. Level-triggered, so that each connection has its turn. */
static void run_bulk(load_sample *start, load_sample *end) {
    int poller = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned index = 0; index < options.connections; index++) {
        struct epoll_event event = {.events = EPOLLOUT, .data.ptr = &flows[index]};
        if (fcntl(flows[index].fd, F_SETFL, O_NONBLOCK) < 0 ||
            epoll_ctl(poller, EPOLL_CTL_ADD, flows[index].fd, &event) < 0)
            load_fail("epoll");
    }
    uint64_t measure_ns = load_now_ns() + (uint64_t)(options.warm_up * 1e9), end_ns = UINT64_MAX;
    while (load_now_ns() < end_ns) {
        struct epoll_event events[EVENTS_PER_WAIT];
        int count = epoll_wait(poller, events, EVENTS_PER_WAIT, 20);
        for (int index = 0; index < count; index++) {
            flow *self = events[index].data.ptr;
            ssize_t sent = send(self->fd, text, options.size < CHUNK_BYTES ? options.size : CHUNK_BYTES, MSG_NOSIGNAL);
            if (sent < 0 && errno != EAGAIN)
                load_fail("send");
            bytes_sent += sent > 0 ? (uint64_t)sent : 0;
        }
        if (end_ns == UINT64_MAX && load_now_ns() >= measure_ns) {
            *start = load_take_sample(bytes_sent / options.size);
            end_ns = start->now_ns + (uint64_t)(options.seconds * 1e9);
        }
    }
    *end = load_take_sample(bytes_sent / options.size);
    for (unsigned index = 0; index < options.connections; index++) {
        shutdown(flows[index].fd, SHUT_WR);
        if (fcntl(flows[index].fd, F_SETFL, 0) < 0 || recv(flows[index].fd, received, sizeof received, 0) != 0)
            load_fail("the server did not read to the end");
    }
    bytes_received = bytes_sent;
}

static uint64_t bytes_lost(void) {
    uint64_t unfinished = (begun - completed) * options.size; /* of lost connections, or of a run given up */
    uint64_t missing = bytes_sent - bytes_received;
    return bytes_wrong + (missing > unfinished ? missing : unfinished);
}

static void report(const load_sample *start, const load_sample *end) {
    printf("{\"messages\": %" PRIu64 ", \"seconds\": %.6f, \"connections\": %u, \"size\": %u, \"depth\": %u, ",
           end->completed - start->completed, (double)(end->now_ns - start->now_ns) / 1e9, options.connections,
           options.size, options.depth);
    printf("\"client_user_us\": %" PRIu64 ", \"client_system_us\": %" PRIu64 ", ", end->user_us - start->user_us,
           end->system_us - start->system_us);
    if (options.server != 0)
        printf("\"server_us\": %.3f, ", (double)(end->server_ns - start->server_ns) / 1e3);
    printf("\"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, ", (double)histogram_at(&latencies, 0.5) / 1e3,
           (double)histogram_at(&latencies, 0.99) / 1e3, (double)histogram_at(&latencies, 0.999) / 1e3);
    printf("\"bytes_sent\": %" PRIu64 ", \"bytes_received\": %" PRIu64 ", \"bytes_lost\": %" PRIu64
           ", \"connections_lost\": %u}\n",
           bytes_sent, bytes_received, bytes_lost(), options.connections - alive);
}

/* Stay idle with every connection open, for whoever measures the server's memory. */
static void hold(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    struct pollfd ends[2] = {{.fd = 0, .events = POLLIN}, {.fd = signalfd(-1, &set, SFD_CLOEXEC), .events = POLLIN}};
    printf("held %u\n", alive);
    fflush(stdout);
    for (;;) {
        char ignored[256];
        if (poll(ends, 2, -1) < 0 && errno != EINTR)
            load_fail("poll");
        if (ends[1].revents != 0 || (ends[0].revents != 0 && read(0, ignored, sizeof ignored) <= 0))
            return;
    }
}

static void pin(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)options.cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0)
        load_fail("sched_setaffinity");
}

int main(int argc, char **argv) {
    options = load_parse(argc, argv);
    if (options.cpu >= 0)
        pin();
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    fill_text();
    flows = calloc(options.connections + options.idle, sizeof *flows);
    if (flows == NULL)
        load_fail("calloc");
    load_sample start = {0}, end = {0};
    if (options.churn) {
        load_churn(&options, &latencies, &start, &end);
        alive = options.connections;
        report(&start, &end);
        return 0;
    }
    for (unsigned index = 0; index < options.connections + options.idle; index++)
        open_flow(&flows[index], index);
    alive -= options.idle;
    if (options.sink) {
        run_bulk(&start, &end);
    } else if (options.hold) {
        start = end = load_take_sample(completed);
        hold();
    } else {
        run(watch_flows(), &start, &end);
    }
    report(&start, &end);
    return bytes_lost() == 0 && alive == options.connections ? 0 : 1;
}
