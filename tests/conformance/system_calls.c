/* See the header. */
#include "conformance/system_calls.h"
#include "harness/test.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_size_t sends, receives, registrations, limit, sends_left;
static atomic_int send_error;
static atomic_bool closes_are_checked;

size_t sends_counted(void) {
    return atomic_load(&sends);
}

size_t receives_counted(void) {
    return atomic_load(&receives);
}

size_t registrations_counted(void) {
    return atomic_load(&registrations);
}

void sends_limit(size_t bytes) {
    atomic_store(&limit, bytes);
}

void sends_fail_after(size_t calls, int error) {
    atomic_store(&sends_left, calls);
    atomic_store(&send_error, error);
}

void closes_must_be_good(void) {
    atomic_store(&closes_are_checked, true);
}

/* Whether this call must fail; errno is set then. */
static bool must_fail(void) {
    const int error = atomic_load(&send_error);

    atomic_fetch_add(&sends, 1);
    if (error == 0) {
        return false;
    }
    if (atomic_load(&sends_left) > 0) {
        atomic_fetch_sub(&sends_left, 1);
        return false;
    }
    errno = error;
    return true;
}

ssize_t send(int fd, const void *data, size_t length, int flags) {
    const size_t most = atomic_load(&limit);

    if (must_fail()) {
        return -1;
    }
    return syscall(SYS_sendto, fd, data, most > 0 && length > most ? most : length, flags, NULL, 0);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    const size_t most = atomic_load(&limit);

    if (must_fail()) {
        return -1;
    }
    if (most == 0 || message->msg_iovlen == 0) {
        return syscall(SYS_sendmsg, fd, message, flags);
    }
    size_t length = message->msg_iov->iov_len;
    length = length < most ? length : most;
    return syscall(SYS_sendto, fd, message->msg_iov->iov_base, length, flags, NULL, 0);
}

ssize_t recv(int fd, void *data, size_t length, int flags) {
    atomic_fetch_add(&receives, 1);
    return syscall(SYS_recvfrom, fd, data, length, flags, NULL, NULL);
}

int epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event) {
    atomic_fetch_add(&registrations, 1);
    return (int)syscall(SYS_epoll_ctl, epoll_fd, operation, fd, event);
}

int close(int fd) {
    const int status = (int)syscall(SYS_close, fd);

    if (status < 0 && errno == EBADF && atomic_load(&closes_are_checked)) {
        test_fail(__FILE__, __LINE__, "descriptor %d was closed twice", fd);
    }
    return status;
}
