/* See the header. What else the library calls is in system_calls_plain.c. */
#include "conformance/system_calls.h"
#include "conformance/faults.h"
#include "conformance/sim_kernel.h"
#include "driver/sim.h"
#include "harness/test.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

ssize_t __real_send(int fd, const void *data, size_t length, int flags);
ssize_t __wrap_send(int fd, const void *data, size_t length, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __real_recv(int fd, void *data, size_t length, int flags);
ssize_t __wrap_recv(int fd, void *data, size_t length, int flags);
int __real_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event);
int __real_close(int fd);
int __wrap_close(int fd);

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

bool sends_must_fail(void) {
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

size_t sends_at_most(size_t length) {
    const size_t most = atomic_load(&limit);
    return most > 0 && length > most ? most : length;
}

void receives_add(void) {
    atomic_fetch_add(&receives, 1);
}

/* A call on a stream that the plan lets fail. */
static int64_t failed(const faults_call *call, int fd) {
    errno = call->error;
    if (call->error == EAGAIN) {
        faults_edge_again(fd);
    }
    return faults_end(call, -1);
}

ssize_t __wrap_send(int fd, const void *data, size_t length, int flags) {
    if (sim_kernel_has(fd)) {
        const struct iovec piece = {.iov_base = (void *)(uintptr_t)data, .iov_len = length};
        return sim_kernel_send(fd, &piece, 1, flags);
    }
    if (sends_must_fail()) {
        return -1;
    }
    const faults_call call = faults_begin(CALL_send, sends_at_most(length));
    return call.error != 0 ? failed(&call, fd) : faults_end(&call, __real_send(fd, data, call.length, flags));
}

/* A send of the simulator, the library's or a test's: it is counted, fails and is cut short as one of the kernel's is. */
int64_t __real_tpi_sim_stream_send(tpi_sim_socket *socket, const struct iovec *pieces, size_t count);
int64_t __wrap_tpi_sim_stream_send(tpi_sim_socket *socket, const struct iovec *pieces, size_t count);

int64_t __wrap_tpi_sim_stream_send(tpi_sim_socket *socket, const struct iovec *pieces, size_t count) {
    const size_t most = atomic_load(&limit);

    if (sends_must_fail()) {
        return errno == EAGAIN ? TPI_PENDING : TEPAL_SYSTEM(errno);
    }
    if (most > 0 && count > 0) {
        const struct iovec part = {.iov_base = pieces->iov_base, .iov_len = sends_at_most(pieces->iov_len)};
        return __real_tpi_sim_stream_send(socket, &part, 1);
    }
    return __real_tpi_sim_stream_send(socket, pieces, count);
}

/* The same message with so many bytes at most. */
static ssize_t send_part(int fd, const struct msghdr *message, size_t most, int flags) {
    struct iovec pieces[1024];
    struct msghdr part = *message;
    size_t count = 0;

    while (count < message->msg_iovlen && count < 1024 && most > 0) {
        pieces[count] = message->msg_iov[count];
        if (pieces[count].iov_len > most) {
            pieces[count].iov_len = most;
        }
        most -= pieces[count++].iov_len;
    }
    part.msg_iov = pieces;
    part.msg_iovlen = count;
    return __real_sendmsg(fd, &part, flags);
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags) {
    size_t length = 0;

    if (sim_kernel_has(fd)) {
        return sim_kernel_send(fd, message->msg_iov, message->msg_iovlen, flags);
    }
    if (sends_must_fail()) {
        return -1;
    }
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        length += message->msg_iov[i].iov_len;
    }
    const faults_call call = faults_begin(CALL_sendmsg, sends_at_most(length));
    if (call.error != 0) {
        return failed(&call, fd);
    }
    return faults_end(&call, call.length < length ? send_part(fd, message, call.length, flags)
                                                  : __real_sendmsg(fd, message, flags));
}

ssize_t __wrap_recv(int fd, void *data, size_t length, int flags) {
    if (sim_kernel_has(fd)) {
        return sim_kernel_recv(fd, data, length, flags);
    }
    atomic_fetch_add(&receives, 1);
    const faults_call call = faults_begin(CALL_recv, length);
    if (call.error != 0) {
        return failed(&call, fd);
    }
    const ssize_t count = faults_end(&call, __real_recv(fd, data, call.length, flags));
    if (call.is_short) {
        faults_edge_again(fd); /* as if the rest had come a moment later */
    }
    return count;
}

int __wrap_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event) {
    atomic_fetch_add(&registrations, 1);
    if (faults_fail(CALL_epoll_ctl)) {
        return -1;
    }
    const int status = __real_epoll_ctl(epoll_fd, operation, fd, event);
    if (status == 0) {
        faults_registered(epoll_fd, operation, fd, event);
    }
    return status;
}

/* One that fails has closed the descriptor all the same: close(2), "Dealing with error returns". */
int __wrap_close(int fd) {
    if (sim_kernel_has(fd)) {
        return sim_kernel_close(fd);
    }
    faults_registered(0, EPOLL_CTL_DEL, fd, NULL);
    const int status = __real_close(fd);

    if (status < 0 && errno == EBADF && atomic_load(&closes_are_checked)) {
        test_fail(__FILE__, __LINE__, "descriptor %d was closed twice", fd);
    }
    return faults_fail(CALL_close) ? -1 : status;
}
