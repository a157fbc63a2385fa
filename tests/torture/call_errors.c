/*
 * How each system call may fail: the errors that its page of section 2 or 3 of the Linux manual lists, and what other
 * pages add to them (tcp(7): ECONNRESET and ETIMEDOUT of reads). One is left out: a close(2) that says EBADF has closed
 * nothing, so it means that somebody closes twice, and is a failure of the test itself.
 */
#include "torture/stage.h"

#include <errno.h>

#define LIST(...) ((const int[]){__VA_ARGS__, 0})

enum { MOST = 24 }; /* errors of one call */

const int *call_errors(system_call call) {
    static const int lists[SYSTEM_CALLS][MOST + 1] = {
        [CALL_accept4] = {EAGAIN,     EBADF,  ECONNABORTED, EFAULT,          EHOSTDOWN,       EHOSTUNREACH,
                          EINTR,      EINVAL, EMFILE,       ENETDOWN,        ENETUNREACH,     ENFILE,
                          ENOBUFS,    ENOMEM, ENONET,       ENOPROTOOPT,     ENOSR,           ENOTSOCK,
                          EOPNOTSUPP, EPERM,  EPROTO,       EPROTONOSUPPORT, ESOCKTNOSUPPORT, ETIMEDOUT},
        [CALL_bind] = {EACCES, EADDRINUSE, EADDRNOTAVAIL, EBADF, EFAULT, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM,
                       ENOTDIR, ENOTSOCK, EROFS},
        [CALL_close] = {EDQUOT, EINTR, EIO, ENOSPC},
        [CALL_connect] = {EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, EALREADY, EBADF, ECONNREFUSED,
                          EFAULT, EINPROGRESS, EINTR, EISCONN, ENETUNREACH, ENOTSOCK, EPERM, EPROTOTYPE, ETIMEDOUT},
        [CALL_dup3] = {EBADF, EBUSY, EINTR, EINVAL, EMFILE},
        [CALL_epoll_create1] = {EINVAL, EMFILE, ENFILE, ENOMEM},
        [CALL_epoll_ctl] = {EBADF, EEXIST, EINVAL, ELOOP, ENOENT, ENOMEM, ENOSPC, EPERM},
        [CALL_epoll_pwait2] = {EBADF, EFAULT, EINTR, EINVAL, ENOSYS, EPERM},
        [CALL_epoll_wait] = {EBADF, EFAULT, EINTR, EINVAL},
        [CALL_eventfd] = {EINVAL, EMFILE, ENFILE, ENODEV, ENOMEM},
        [CALL_fcntl] = {EACCES, EAGAIN, EBADF, EBUSY, EDEADLK, EFAULT, EINTR, EINVAL, EMFILE, ENOLCK, ENOTDIR, EPERM},
        [CALL_fstat] = {EACCES, EBADF, EFAULT, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, EOVERFLOW},
        [CALL_getpeername] = {EBADF, EFAULT, EINVAL, ENOBUFS, ENOTCONN, ENOTSOCK},
        [CALL_getrandom] = {EAGAIN, EFAULT, EINTR, EINVAL, ENOSYS},
        [CALL_getsockname] = {EBADF, EFAULT, EINVAL, ENOBUFS, ENOTSOCK},
        [CALL_getsockopt] = {EBADF, EFAULT, EINVAL, ENOPROTOOPT, ENOTSOCK},
        [CALL_if_nametoindex] = {ENODEV, ENXIO},
        [CALL_io_uring_enter] = {EAGAIN, EBADF, EBADFD, EBUSY, EEXIST, EFAULT, EINTR, EINVAL, ENXIO, EOPNOTSUPP, ETIME},
        [CALL_io_uring_register] = {EACCES, EBADF, EBADFD, EBUSY, EEXIST, EFAULT, EINVAL, EMFILE, ENOMEM, ENXIO,
                                    EOPNOTSUPP, EOVERFLOW, EPERM},
        [CALL_io_uring_setup] = {EFAULT, EMFILE, ENFILE, ENOMEM, ENOSYS, EPERM},
        [CALL_ioctl] = {EBADF, EFAULT, EINVAL, ENOTTY},
        [CALL_listen] = {EADDRINUSE, EBADF, ENOTSOCK, EOPNOTSUPP},
        [CALL_lstat] = {EACCES, EBADF, EFAULT, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, EOVERFLOW},
        [CALL_mmap] = {ENOMEM}, /* anonymous memory can only be short */
        [CALL_ppoll] = {EFAULT, EINTR, EINVAL, ENOMEM},
        [CALL_pthread_create] = {EAGAIN, EINVAL, EPERM},
        [CALL_read] = {EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EIO, EISDIR},
        [CALL_recv] = {EAGAIN, EBADF, ECONNREFUSED, ECONNRESET, EFAULT, EINTR, EINVAL, ENOMEM, ENOTCONN, ENOTSOCK,
                       ETIMEDOUT},
        [CALL_send] = {EACCES, EAGAIN, EALREADY, EBADF, ECONNRESET, EDESTADDRREQ, EFAULT, EINTR, EINVAL, EISCONN,
                       EMSGSIZE, ENOBUFS, ENOMEM, ENOTCONN, ENOTSOCK, EOPNOTSUPP, EPIPE, ETIMEDOUT},
        [CALL_sendmsg] = {EACCES, EAGAIN, EALREADY, EBADF, ECONNRESET, EDESTADDRREQ, EFAULT, EINTR, EINVAL, EISCONN,
                          EMSGSIZE, ENOBUFS, ENOMEM, ENOTCONN, ENOTSOCK, EOPNOTSUPP, EPIPE, ETIMEDOUT},
        [CALL_setsockopt] = {EBADF, EFAULT, EINVAL, ENOPROTOOPT, ENOTSOCK},
        [CALL_shutdown] = {EBADF, EINVAL, ENOTCONN, ENOTSOCK},
        [CALL_sigaction] = {EFAULT, EINVAL},
        [CALL_socket] = {EACCES, EAFNOSUPPORT, EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTONOSUPPORT},
        [CALL_unlink] = {EACCES, EBUSY, EFAULT, EINVAL, EIO, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR,
                         EPERM, EROFS},
        [CALL_write] = {EAGAIN, EBADF, EDESTADDRREQ, EDQUOT, EFAULT, EFBIG, EINTR, EINVAL, EIO, ENOSPC, EPERM, EPIPE},
    };
    return lists[call];
}

static bool is_one_of(int error, const int *list) {
    while (*list != 0 && *list != error) {
        list++;
    }
    return *list != 0;
}

bool call_error_passes(system_call call, int error) {
    switch (call) {
    case CALL_recv:
    case CALL_send:
    case CALL_sendmsg:
        return is_one_of(error, LIST(EAGAIN, EINTR));
    case CALL_accept4: /* of one connection that is no more, or of nothing: the next one is served */
        return is_one_of(error, LIST(EAGAIN, EINTR, ECONNABORTED, EPROTO, EPERM, ENETDOWN, ENOPROTOOPT, EHOSTDOWN,
                                     ENONET, EHOSTUNREACH, ENETUNREACH, ETIMEDOUT));
    case CALL_connect:
        return is_one_of(error, LIST(EINPROGRESS, EINTR));
    case CALL_epoll_wait:
    case CALL_ppoll:
        return error == EINTR;
    case CALL_epoll_pwait2:
        return is_one_of(error, LIST(EINTR, ENOSYS, EPERM));
    case CALL_getrandom:
        return is_one_of(error, LIST(EAGAIN, EINTR));
    case CALL_io_uring_enter: /* EEXIST: the ring is another thread's, and a new one is made */
        return is_one_of(error, LIST(EAGAIN, EBUSY, EEXIST, EINTR, ETIME));
    case CALL_write: /* to the descriptor that wakes */
        return is_one_of(error, LIST(EAGAIN, EINTR));
    case CALL_read: /* from it */
    case CALL_close:
        return true;
    default:
        return false;
    }
}

bool call_has_length(system_call call) {
    switch (call) {
    case CALL_recv:
    case CALL_send:
    case CALL_sendmsg:
    case CALL_getrandom:
    case CALL_epoll_wait:
    case CALL_epoll_pwait2:
        return true;
    default: /* eight bytes of an eventfd(2) go whole or not at all */
        return false;
    }
}

bool call_is_told_of(system_call call, int error) {
    switch (call) {
    case CALL_connect:
        return error != EAGAIN; /* a Unix socket whose backlog is full is asked again */
    case CALL_recv:             /* a ring receives also for who has paused, or closes just then */
        return strcmp(test_driver(), "uring") != 0;
    case CALL_accept4:
    case CALL_bind:
    case CALL_fcntl:
    case CALL_listen:
    case CALL_send:
    case CALL_sendmsg:
    case CALL_socket:
        return true;
    default: /* some of their failures are made good, or mean something else to the caller */
        return false;
    }
}

bool call_may_stall(system_call call, int error) {
    switch (call) {
    case CALL_epoll_ctl: /* as if a watched descriptor were closed, or were a file now: it is forgotten silently */
        return error == EBADF || error == EPERM;
    case CALL_accept4:  /* the server looks again after 100 ms, which nobody waits for here */
    case CALL_shutdown: /* the peer is not told of the end */
    case CALL_write:    /* the loop is not woken */
        return true;
    default:
        return false;
    }
}
