/*
 * The system calls of the library that only fail to order, and are short to order where they can be: faults.h says which.
 * The more elaborate ones are in system_calls.c and accept_stub.c.
 */
#include "conformance/faults.h"
#include "conformance/sim_kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * A call that returns an int, and -1 when it fails. Only a macro can define a function under two names. On a simulated
 * descriptor it is sim's.
 */
#define PLAIN_OR(name, parameters, arguments, is_simulated, sim)                                                       \
    int __real_##name parameters;                                                                                      \
    int __wrap_##name parameters;                                                                                      \
    int __wrap_##name parameters {                                                                                     \
        if (is_simulated) {                                                                                            \
            return sim;                                                                                                \
        }                                                                                                              \
        return faults_fail(CALL_##name) ? -1 : __real_##name arguments;                                                \
    }
#define PLAIN(name, parameters, arguments) PLAIN_OR(name, parameters, arguments, false, -1)

PLAIN_OR(bind, (int fd, const struct sockaddr *address, socklen_t length), (fd, address, length), sim_kernel_has(fd),
         sim_kernel_bind(fd, address, length))
PLAIN(epoll_create1, (int flags), (flags))
PLAIN(eventfd, (unsigned value, int flags), (value, flags))
PLAIN_OR(getpeername, (int fd, struct sockaddr *address, socklen_t *length), (fd, address, length), sim_kernel_has(fd),
         sim_kernel_name(fd, true, address, length))
PLAIN_OR(getsockname, (int fd, struct sockaddr *address, socklen_t *length), (fd, address, length), sim_kernel_has(fd),
         sim_kernel_name(fd, false, address, length))
PLAIN_OR(getsockopt, (int fd, int level, int option, void *value, socklen_t *length),
         (fd, level, option, value, length), sim_kernel_has(fd),
         sim_kernel_getsockopt(fd, level, option, value, length))
PLAIN_OR(listen, (int fd, int backlog), (fd, backlog), sim_kernel_has(fd), sim_kernel_listen(fd, backlog))
PLAIN(ppoll, (struct pollfd * fds, nfds_t count, const struct timespec *limit, const sigset_t *mask),
      (fds, count, limit, mask))
PLAIN_OR(setsockopt, (int fd, int level, int option, const void *value, socklen_t length),
         (fd, level, option, value, length), sim_kernel_has(fd),
         sim_kernel_setsockopt(fd, level, option, value, length))
PLAIN_OR(shutdown, (int fd, int how), (fd, how), sim_kernel_has(fd), sim_kernel_shutdown(fd, how))
PLAIN(sigaction, (int signal, const struct sigaction *action, struct sigaction *old), (signal, action, old))
PLAIN_OR(socket, (int family, int type, int protocol), (family, type, protocol), sim_kernel_is_on(),
         sim_kernel_socket(family, type))
PLAIN(unlink, (const char *path), (path))

/* These have a longer name where files may be large. */
int __real_fstat64(int fd, struct stat *status);
int __wrap_fstat64(int fd, struct stat *status);
int __real_lstat64(const char *path, struct stat *status);
int __wrap_lstat64(const char *path, struct stat *status);
int __real_fcntl64(int fd, int command, ...);
int __wrap_fcntl64(int fd, int command, ...);

#ifdef HAVE_TLS /* for key logs */
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);

int __wrap_open64(const char *path, int flags, ...) {
    va_list arguments;

    va_start(arguments, flags);
    const unsigned mode = va_arg(arguments, unsigned); /* as libc does: it is there if flags ask for it */
    va_end(arguments);
    return faults_fail(CALL_open) ? -1 : __real_open64(path, flags, mode);
}
#endif

int __wrap_fstat64(int fd, struct stat *status) {
    return faults_fail(CALL_fstat) ? -1 : __real_fstat64(fd, status);
}

int __wrap_lstat64(const char *path, struct stat *status) {
    return faults_fail(CALL_lstat) ? -1 : __real_lstat64(path, status);
}

int __wrap_fcntl64(int fd, int command, ...) {
    va_list arguments;

    va_start(arguments, command);
    const long argument = va_arg(arguments, long); /* as libc does: an int, a pointer or nothing */
    va_end(arguments);
    if (sim_kernel_has(fd)) {
        return sim_kernel_fcntl(fd, command, argument);
    }
    return faults_fail(CALL_fcntl) ? -1 : __real_fcntl64(fd, command, argument);
}

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

int __wrap_ioctl(int fd, unsigned long request, ...) {
    va_list arguments;

    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    if (sim_kernel_has(fd)) {
        *(int *)argument = sim_kernel_unread(fd);
        return 0;
    }
    return faults_fail(CALL_ioctl) ? -1 : __real_ioctl(fd, request, argument);
}

unsigned __real_if_nametoindex(const char *name);
unsigned __wrap_if_nametoindex(const char *name);

unsigned __wrap_if_nametoindex(const char *name) {
    return faults_fail(CALL_if_nametoindex) ? 0 : __real_if_nametoindex(name);
}

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
    return faults_fail(CALL_pthread_create) ? errno : __real_pthread_create(thread, attributes, run, argument);
}

int __real_dup3(int old_fd, int new_fd, int flags);
int __wrap_dup3(int old_fd, int new_fd, int flags);

int __wrap_dup3(int old_fd, int new_fd, int flags) {
    if (faults_fail(CALL_dup3)) {
        return -1;
    }
    faults_renamed(old_fd, new_fd);
    return __real_dup3(old_fd, new_fd, flags);
}

/* Interrupted, or told that it is under way, it goes on by itself: connect(2). */
int __real_connect(int fd, const struct sockaddr *address, socklen_t length);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t length);

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t length) {
    if (sim_kernel_has(fd)) {
        return sim_kernel_connect(fd, address, length);
    }
    if (!faults_fail(CALL_connect)) {
        return __real_connect(fd, address, length);
    }
    const int error = errno;
    if ((error == EINTR || error == EINPROGRESS) && __real_connect(fd, address, length) < 0 && errno != EINPROGRESS) {
        return -1;
    }
    errno = error;
    return -1;
}

/* ---- Those with a length ---- */

static int64_t failed(const faults_call *call) {
    errno = call->error;
    return faults_end(call, -1);
}

ssize_t __real_read(int fd, void *data, size_t length);
ssize_t __wrap_read(int fd, void *data, size_t length);
ssize_t __real_write(int fd, const void *data, size_t length);
ssize_t __wrap_write(int fd, const void *data, size_t length);
ssize_t __real_getrandom(void *data, size_t length, unsigned flags);
ssize_t __wrap_getrandom(void *data, size_t length, unsigned flags);
int __real_epoll_wait(int epoll_fd, struct epoll_event *events, int count, int limit);
int __wrap_epoll_wait(int epoll_fd, struct epoll_event *events, int count, int limit);
int __real_epoll_pwait2(int epoll_fd, struct epoll_event *events, int count, const struct timespec *limit,
                        const sigset_t *mask);
int __wrap_epoll_pwait2(int epoll_fd, struct epoll_event *events, int count, const struct timespec *limit,
                        const sigset_t *mask);

ssize_t __wrap_read(int fd, void *data, size_t length) {
    if (sim_kernel_has(fd)) {
        return sim_kernel_recv(fd, data, length, 0);
    }
    const faults_call call = faults_begin(CALL_read, length);
    return call.error != 0 ? failed(&call) : faults_end(&call, __real_read(fd, data, call.length));
}

ssize_t __wrap_write(int fd, const void *data, size_t length) {
    if (sim_kernel_has(fd)) {
        const struct iovec piece = {.iov_base = (void *)(uintptr_t)data, .iov_len = length};
        return sim_kernel_send(fd, &piece, 1, 0);
    }
    const faults_call call = faults_begin(CALL_write, length);
    return call.error != 0 ? failed(&call) : faults_end(&call, __real_write(fd, data, call.length));
}

ssize_t __wrap_getrandom(void *data, size_t length, unsigned flags) {
    const faults_call call = faults_begin(CALL_getrandom, length);
    return call.error != 0 ? failed(&call) : faults_end(&call, __real_getrandom(data, call.length, flags));
}

int __wrap_epoll_wait(int epoll_fd, struct epoll_event *events, int count, int limit) {
    const faults_call call = faults_begin(CALL_epoll_wait, (size_t)count);
    return (int)(call.error != 0 ? failed(&call)
                                 : faults_end(&call, __real_epoll_wait(epoll_fd, events, (int)call.length, limit)));
}

int __wrap_epoll_pwait2(int epoll_fd, struct epoll_event *events, int count, const struct timespec *limit,
                        const sigset_t *mask) {
    const faults_call call = faults_begin(CALL_epoll_pwait2, (size_t)count);
    if (call.error != 0) {
        return (int)failed(&call);
    }
    return (int)faults_end(&call, __real_epoll_pwait2(epoll_fd, events, (int)call.length, limit, mask));
}
