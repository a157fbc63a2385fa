/* The command line, the port announcement and the exit report shared by the echo servers, and what those without a
 * library need beside their loop (see serve.h). */
#include "serve.h"

#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static const char usage[] =
    "usage: %s [--port N] [--split N | --split-bufs N | --sink] [--tls-cert FILE --tls-key FILE]\n"
    "  --port N        listen on 127.0.0.1:N; 0, the default, lets the kernel choose\n"
    "  --split N       answer each chunk that was read with N writes in one callback\n"
    "  --split-bufs N  the same pieces, given to one gathering write\n"
    "  --sink          read and drop, without an answer\n"
    "  --tls-cert FILE, --tls-key FILE\n"
    "                  speak TLS 1.3, with this certificate and key (PEM), if this server can\n"
    "Prints `listening 127.0.0.1:PORT`; on SIGTERM prints its CPU time as JSON and exits 0.\n";

static unsigned parse_number(const char *program, const char *text, unsigned least, unsigned most) {
    char *end = NULL;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < least || value > most) {
        fprintf(stderr, "%s: %s: not a number from %u to %u\n", program, text, least, most);
        exit(2);
    }
    return (unsigned)value;
}

static _Noreturn void refuse(const char *program, const char *why) {
    fprintf(stderr, "%s: %s\n", program, why);
    exit(2);
}

serve_options serve_parse_tls(int argc, char **argv) {
    static const struct option names[] = {
        {"port", required_argument, NULL, 'p'},
        {"split", required_argument, NULL, 's'},
        {"split-bufs", required_argument, NULL, 'b'},
        {"sink", no_argument, NULL, 'k'},
        {"tls-cert", required_argument, NULL, 'c'},
        {"tls-key", required_argument, NULL, 'y'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    serve_options options = {.port = 0, .pieces = 1, .gathered = false, .sink = false};
    int name;
    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (name) {
        case 'p':
            options.port = (uint16_t)parse_number(argv[0], optarg, 0, UINT16_MAX);
            break;
        case 's':
        case 'b':
            options.pieces = parse_number(argv[0], optarg, 1, SERVE_PIECES_MAX);
            options.gathered = name == 'b';
            break;
        case 'k':
            options.sink = true;
            options.pieces = 0;
            break;
        case 'c':
            options.tls_certificate = optarg;
            break;
        case 'y':
            options.tls_key = optarg;
            break;
        case 'h':
            printf(usage, argv[0]);
            exit(0);
        default:
            fprintf(stderr, usage, argv[0]);
            exit(2);
        }
    }
    if (optind != argc) {
        fprintf(stderr, usage, argv[0]);
        exit(2);
    }
    if ((options.tls_certificate == NULL) != (options.tls_key == NULL))
        refuse(argv[0], "--tls-cert and --tls-key go together");
    return options;
}

serve_options serve_parse(int argc, char **argv) {
    serve_options options = serve_parse_tls(argc, argv);
    if (options.tls_certificate != NULL)
        refuse(argv[0], "this server knows no TLS");
    return options;
}

int serve_listen(const serve_options *options, bool nonblocking) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0), 0);
    if (fd < 0)
        serve_fail("socket");
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(options->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        serve_fail("bind");
    if (listen(fd, SERVE_BACKLOG) < 0)
        serve_fail("listen");
    socklen_t length = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &length) < 0)
        serve_fail("getsockname");
    serve_announce(ntohs(address.sin_port));
    return fd;
}

void serve_watch(int poller, int fd, uint32_t events, void *tag) {
    struct epoll_event event = {.events = events, .data.ptr = tag};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        serve_fail("epoll_ctl");
}

int serve_signals(void) {
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

ssize_t serve_answer(const serve_options *options, int fd, const void *data, size_t length) {
    if (options->sink)
        return (ssize_t)length;
    size_t piece = serve_piece(length, options->pieces);
    struct iovec parts[SERVE_PIECES_MAX];
    int count = 0;
    for (size_t done = 0; done < length; done += piece)
        parts[count++] = (struct iovec){(char *)data + done, length - done < piece ? length - done : piece};
    if (options->gathered) {
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
        return sendmsg(fd, &message, MSG_NOSIGNAL);
    }
    size_t done = 0;
    for (const struct iovec *part = parts; part < parts + count; part++) {
        ssize_t sent = send(fd, part->iov_base, part->iov_len, MSG_NOSIGNAL);
        if (sent < 0)
            return done > 0 && (errno == EAGAIN || errno == EINTR) ? (ssize_t)done : -1;
        done += (size_t)sent;
        if ((size_t)sent < part->iov_len)
            break;
    }
    return (ssize_t)done;
}

void serve_announce(uint16_t port) {
    printf("listening 127.0.0.1:%u\n", (unsigned)port);
    fflush(stdout);
}

void serve_report(const char *server) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("{\"server\": \"%s\", \"user_us\": %lld, \"system_us\": %lld}\n", server,
           (long long)used.ru_utime.tv_sec * 1000000 + used.ru_utime.tv_usec,
           (long long)used.ru_stime.tv_sec * 1000000 + used.ru_stime.tv_usec);
    fflush(stdout);
}

void *serve_grow(void *old, size_t length) {
    void *grown = realloc(old, length);
    if (grown == NULL)
        serve_fail("realloc");
    return grown;
}

int serve_check(int code, const char *what) {
    if (code < 0 && code != -EINTR) {
        errno = -code;
        serve_fail(what);
    }
    return code;
}

void serve_fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}
