/* Connected sockets for tests, made by plain system calls and not by the library under test. */
#include "harness/test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { POLL_LIMIT_MS = 10000 };

void test_socketpair(int fds[2]) {
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

void test_tcp_pair(int fds[2]) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    CHECK_GE(listener, 0);
    CHECK_EQ(bind(listener, (struct sockaddr *)&address, length), 0);
    CHECK_EQ(listen(listener, 1), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&address, &length), 0);

    /* Connect while still blocking: the queue of the listener completes it without an accept. */
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_GE(fds[0], 0);
    CHECK_EQ(connect(fds[0], (struct sockaddr *)&address, length), 0);
    fds[1] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK_GE(fds[1], 0);
    close(listener);

    const int flags = fcntl(fds[0], F_GETFL);
    CHECK_EQ(fcntl(fds[0], F_SETFL, flags | O_NONBLOCK), 0);
}

int test_poll(int fd, short events) {
    struct pollfd entry = {.fd = fd, .events = events};
    int count;

    do
        count = poll(&entry, 1, POLL_LIMIT_MS);
    while (count < 0 && errno == EINTR);
    CHECK_EQ(count, 1);
    return entry.revents;
}

void test_write_all(int fd, const void *data, size_t size) {
    for (const char *rest = data; size > 0;) {
        const ssize_t count = write(fd, rest, size);

        if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
            test_poll(fd, POLLOUT);
            continue;
        }
        CHECK_GT(count, 0);
        rest += count;
        size -= (size_t)count;
    }
}

void test_read_exactly(int fd, void *data, size_t size) {
    for (char *rest = data; size > 0;) {
        const ssize_t count = read(fd, rest, size);

        if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
            test_poll(fd, POLLIN);
            continue;
        }
        CHECK_GT(count, 0);
        rest += count;
        size -= (size_t)count;
    }
}
