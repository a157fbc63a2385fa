/* A library for LD_PRELOAD that counts the system calls a server makes through libc, and its allocations. Tracing
 * would slow each call and so change how many messages one wait returns; a relaxed increment does not.
 *
 * BENCH_COUNT names the file to which a JSON line is appended at exit and on SIGUSR2; SIGUSR1 sets all counts to 0.
 * liburing makes its system calls by its own instructions, so its functions that may enter the kernel are counted
 * instead. Those that submit do not enter if there is nothing to submit and nothing to wait for, so the count can be
 * above what strace sees, never below. */
/* Both names of fcntl are defined below, so neither may be turned into the other. */
#undef _FILE_OFFSET_BITS
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "preload.h"

/* clang-format would push each line further to the right each time. */
/* clang-format off */
#define COUNTED(X)                                                                                                     \
    X(epoll_wait) X(epoll_pwait) X(epoll_pwait2) X(epoll_ctl) X(poll) X(ppoll) X(recv) X(recvfrom) X(recvmsg)          \
    X(read) X(readv) X(send) X(sendto) X(sendmsg) X(write) X(writev) X(accept) X(accept4) X(close) X(shutdown)         \
    X(ioctl) X(fcntl) X(setsockopt) X(getsockopt) X(eventfd_read) X(eventfd_write) X(timerfd_settime)                  \
    X(io_uring_enter) X(io_uring_enter2) X(io_uring_submit) X(io_uring_submit_and_wait)                                \
    X(io_uring_submit_and_wait_timeout) X(io_uring_submit_and_get_events) X(io_uring_get_events)                       \
    X(io_uring_wait_cqes) X(io_uring_wait_cqe_timeout) X(__io_uring_get_cqe) X(other_syscall) X(malloc) X(calloc) X(realloc)
/* clang-format on */

#define NAME_INDEX(name) INDEX_##name,
enum { COUNTED(NAME_INDEX) INDEXES };

#define NAME_TEXT(name) #name,
static const char *const names[INDEXES] = {COUNTED(NAME_TEXT)};

static atomic_ullong counts[INDEXES];

static void count(unsigned index) {
    atomic_fetch_add_explicit(&counts[index], 1, memory_order_relaxed);
}

/* The next definition of `name`, looked up once for each place that asks. Racing look-ups find the same. */
#define NEXT(name)                                                                                                     \
    ({                                                                                                                 \
        static _Atomic(void *) cached;                                                                                 \
        void *found = atomic_load_explicit(&cached, memory_order_relaxed);                                             \
        if (found == NULL) {                                                                                           \
            found = dlsym(RTLD_NEXT, #name);                                                                           \
            atomic_store_explicit(&cached, found, memory_order_relaxed);                                               \
        }                                                                                                              \
        found;                                                                                                         \
    })

/* One wrapper: count under `index`, then call the next `name`. Debian builds its libraries with _FORTIFY_SOURCE, so
 * some calls come as __recv_chk and the like. */
#define COUNT_CALL(result, name, index, parameters, arguments)                                                         \
    result name parameters;                                                                                            \
    result name parameters {                                                                                           \
        count(INDEX_##index);                                                                                          \
        result(*next) parameters = (result(*) parameters)NEXT(name);                                                   \
        return next arguments;                                                                                         \
    }

COUNT_CALL(int, epoll_wait, epoll_wait, (int fd, struct epoll_event *events, int most, int timeout),
           (fd, events, most, timeout))
COUNT_CALL(int, epoll_pwait, epoll_pwait,
           (int fd, struct epoll_event *events, int most, int timeout, const sigset_t *mask),
           (fd, events, most, timeout, mask))
COUNT_CALL(int, epoll_pwait2, epoll_pwait2,
           (int fd, struct epoll_event *events, int most, const struct timespec *timeout, const sigset_t *mask),
           (fd, events, most, timeout, mask))
COUNT_CALL(int, epoll_ctl, epoll_ctl, (int fd, int what, int target, struct epoll_event *event),
           (fd, what, target, event))
COUNT_CALL(int, poll, poll, (struct pollfd * fds, nfds_t length, int timeout), (fds, length, timeout))
COUNT_CALL(int, __poll_chk, poll, (struct pollfd * fds, nfds_t length, int timeout, size_t room),
           (fds, length, timeout, room))
COUNT_CALL(int, ppoll, ppoll,
           (struct pollfd * fds, nfds_t length, const struct timespec *timeout, const sigset_t *mask),
           (fds, length, timeout, mask))
COUNT_CALL(int, __ppoll_chk, ppoll,
           (struct pollfd * fds, nfds_t length, const struct timespec *timeout, const sigset_t *mask, size_t room),
           (fds, length, timeout, mask, room))
COUNT_CALL(ssize_t, recv, recv, (int fd, void *data, size_t length, int flags), (fd, data, length, flags))
COUNT_CALL(ssize_t, __recv_chk, recv, (int fd, void *data, size_t length, size_t room, int flags),
           (fd, data, length, room, flags))
COUNT_CALL(ssize_t, recvfrom, recvfrom,
           (int fd, void *restrict data, size_t length, int flags, struct sockaddr *restrict from,
            socklen_t *restrict size),
           (fd, data, length, flags, from, size))
COUNT_CALL(ssize_t, __recvfrom_chk, recvfrom,
           (int fd, void *restrict data, size_t length, size_t room, int flags, struct sockaddr *restrict from,
            socklen_t *restrict size),
           (fd, data, length, room, flags, from, size))
COUNT_CALL(ssize_t, recvmsg, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
COUNT_CALL(ssize_t, read, read, (int fd, void *data, size_t length), (fd, data, length))
COUNT_CALL(ssize_t, __read_chk, read, (int fd, void *data, size_t length, size_t room), (fd, data, length, room))
COUNT_CALL(ssize_t, readv, readv, (int fd, const struct iovec *parts, int length), (fd, parts, length))
COUNT_CALL(ssize_t, send, send, (int fd, const void *data, size_t length, int flags), (fd, data, length, flags))
COUNT_CALL(ssize_t, sendto, sendto,
           (int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t size),
           (fd, data, length, flags, to, size))
COUNT_CALL(ssize_t, sendmsg, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
COUNT_CALL(ssize_t, write, write, (int fd, const void *data, size_t length), (fd, data, length))
COUNT_CALL(ssize_t, writev, writev, (int fd, const struct iovec *parts, int length), (fd, parts, length))
COUNT_CALL(int, accept, accept, (int fd, struct sockaddr *restrict from, socklen_t *restrict size), (fd, from, size))
COUNT_CALL(int, accept4, accept4, (int fd, struct sockaddr *restrict from, socklen_t *restrict size, int flags),
           (fd, from, size, flags))
COUNT_CALL(int, close, close, (int fd), (fd))
COUNT_CALL(int, shutdown, shutdown, (int fd, int how), (fd, how))
COUNT_CALL(int, setsockopt, setsockopt, (int fd, int level, int name, const void *value, socklen_t length),
           (fd, level, name, value, length))
COUNT_CALL(int, getsockopt, getsockopt, (int fd, int level, int name, void *restrict value, socklen_t *restrict length),
           (fd, level, name, value, length))
COUNT_CALL(int, eventfd_read, eventfd_read, (int fd, eventfd_t *value), (fd, value))
COUNT_CALL(int, eventfd_write, eventfd_write, (int fd, eventfd_t value), (fd, value))
COUNT_CALL(int, timerfd_settime, timerfd_settime,
           (int fd, int flags, const struct itimerspec *value, struct itimerspec *old), (fd, flags, value, old))

/* liburing's, whose types matter to nobody here. */
COUNT_CALL(int, io_uring_enter, io_uring_enter,
           (unsigned fd, unsigned submit, unsigned least, unsigned flags, sigset_t *mask),
           (fd, submit, least, flags, mask))
COUNT_CALL(int, io_uring_enter2, io_uring_enter2,
           (unsigned fd, unsigned submit, unsigned least, unsigned flags, sigset_t *mask, size_t size),
           (fd, submit, least, flags, mask, size))
COUNT_CALL(int, io_uring_submit, io_uring_submit, (void *ring), (ring))
COUNT_CALL(int, io_uring_submit_and_wait, io_uring_submit_and_wait, (void *ring, unsigned least), (ring, least))
COUNT_CALL(int, io_uring_submit_and_wait_timeout, io_uring_submit_and_wait_timeout,
           (void *ring, void **completion, unsigned least, void *time, sigset_t *mask),
           (ring, completion, least, time, mask))
COUNT_CALL(int, io_uring_submit_and_get_events, io_uring_submit_and_get_events, (void *ring), (ring))
COUNT_CALL(int, io_uring_get_events, io_uring_get_events, (void *ring), (ring))
COUNT_CALL(int, io_uring_wait_cqes, io_uring_wait_cqes,
           (void *ring, void **completion, unsigned least, void *time, sigset_t *mask),
           (ring, completion, least, time, mask))
COUNT_CALL(int, io_uring_wait_cqe_timeout, io_uring_wait_cqe_timeout, (void *ring, void **completion, void *time),
           (ring, completion, time))
COUNT_CALL(int, __io_uring_get_cqe, __io_uring_get_cqe,
           (void *ring, void **completion, unsigned submit, unsigned least, sigset_t *mask),
           (ring, completion, submit, least, mask))

/* The variadic ones pass on one argument: none of their commands takes more. */
int ioctl(int fd, unsigned long command, ...) {
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    count(INDEX_ioctl);
    int (*next)(int, unsigned long, ...) = (int (*)(int, unsigned long, ...))NEXT(ioctl);
    return next(fd, command, argument);
}

int fcntl(int fd, int command, ...) {
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    count(INDEX_fcntl);
    int (*next)(int, int, ...) = (int (*)(int, int, ...))NEXT(fcntl);
    return next(fd, command, argument);
}

/* What a program built with 64-bit file offsets calls instead. */
int fcntl64(int fd, int command, ...) __attribute__((alias("fcntl")));

static unsigned syscall_index(long number) {
    switch (number) {
    case SYS_epoll_wait:
        return INDEX_epoll_wait;
    case SYS_epoll_pwait:
        return INDEX_epoll_pwait;
    case SYS_epoll_pwait2:
        return INDEX_epoll_pwait2;
    case SYS_epoll_ctl:
        return INDEX_epoll_ctl;
    case SYS_recvmsg:
        return INDEX_recvmsg;
    case SYS_sendmsg:
        return INDEX_sendmsg;
    case SYS_accept4:
        return INDEX_accept4;
    case SYS_close:
        return INDEX_close;
    case SYS_io_uring_enter:
        return INDEX_io_uring_enter;
    default:
        return INDEX_other_syscall;
    }
}

/* libuv and OpenSSL make some calls this way. Six arguments are always passed on; the kernel looks at those it wants. */
long syscall(long number, ...) {
    long arguments[6];
    va_list list;
    va_start(list, number);
    for (unsigned index = 0; index < 6; index++)
        arguments[index] = va_arg(list, long);
    va_end(list);
    count(syscall_index(number));
    long (*next)(long, ...) = (long (*)(long, ...))NEXT(syscall);
    return next(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}

/* glibc's own names, since dlsym allocates and would come back here. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t number, size_t size);
void *__libc_realloc(void *old, size_t size);

void *malloc(size_t size) {
    count(INDEX_malloc);
    return __libc_malloc(size);
}

void *calloc(size_t number, size_t size) {
    count(INDEX_calloc);
    return __libc_calloc(number, size);
}

void *realloc(void *old, size_t size) {
    count(INDEX_realloc);
    return __libc_realloc(old, size);
}

/* Goes to the kernel directly, so that the report does not count itself. */
static void write_report(void) {
    char line[INDEXES * 64];
    size_t at = preload_put_text(line, 0, "{");
    for (unsigned index = 0; index < INDEXES; index++) {
        at = preload_put_text(line, at, index == 0 ? "\"" : ", \"");
        at = preload_put_text(line, at, names[index]);
        at = preload_put_text(line, at, "\": ");
        at = preload_put_number(line, at, atomic_load_explicit(&counts[index], memory_order_relaxed));
    }
    at = preload_put_text(line, at, "}\n");
    int error = errno;
    long (*next)(long, ...) = (long (*)(long, ...))NEXT(syscall);
    int fd = preload_open();
    if (fd >= 0) {
        next(SYS_write, fd, line, at);
        next(SYS_close, fd);
    }
    errno = error;
}

static void on_signal(int number) {
    if (number == SIGUSR2) {
        write_report();
        return;
    }
    for (unsigned index = 0; index < INDEXES; index++)
        atomic_store_explicit(&counts[index], 0, memory_order_relaxed);
}

__attribute__((constructor)) static void begin(void) {
    preload_on_signals(on_signal);
}

__attribute__((destructor)) static void end(void) {
    write_report();
}
