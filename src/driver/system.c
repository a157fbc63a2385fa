/*
 * What every driver over a real kernel does alike: the clock, randomness, waking by an eventfd(2), jobs on threads, and
 * the calls on a socket that no driver needs to do its own way.
 */
#include "driver/system.h"
#include "driver/resolve.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The sources of what is not a pure function */

int64_t tpi_system_now(tpi_driver *driver) {
    (void)driver;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

uint64_t tpi_system_random(tpi_driver *driver) {
    (void)driver;
    uint64_t value = 0;
    while (getrandom(&value, sizeof value, 0) != sizeof value) {
        /* only a signal can cut eight bytes short: getrandom(2) */
    }
    return value;
}

int tpi_system_offload(tpi_driver *driver, tpi_job *job) {
    return tpi_offload_submit(driver->pool, job);
}

void tpi_system_offload_cancel(tpi_driver *driver, tpi_job *job) {
    tpi_offload_cancel(driver->pool, job);
}

int tpi_system_resolve(tpi_driver *driver, tpi_resolve *request) {
    return tpi_resolve_submit(driver->pool, request);
}

void tpi_system_resolve_cancel(tpi_driver *driver, tpi_resolve *request) {
    tpi_resolve_cancel(driver->pool, request);
}

/* Waking */

int tpi_wake_open(void) {
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd < 0 ? TEPAL_SYSTEM(errno) : fd;
}

int tpi_wake_renew(int fd) {
    int fresh = tpi_wake_open();
    if (fresh < 0) {
        return fresh;
    }
    int code = dup3(fresh, fd, O_CLOEXEC) < 0 ? TEPAL_SYSTEM(errno) : 0;
    close(fresh);
    return code;
}

void tpi_wake_send(int fd) {
    int saved = errno; /* also from signal handlers */
    uint64_t count = 1;
    while (write(fd, &count, sizeof count) < 0 && (errno == EAGAIN || errno == EINTR)) {
        if (errno == EAGAIN) {
            /* The counter is full, which takes somebody else's bytes; a poller of edges must see it change. */
            ssize_t emptied = read(fd, &count, sizeof count);
            (void)emptied;
            count = 1;
        }
    }
    errno = saved;
}

/* Sockets */

int tpi_socket_open(int family) {
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return fd < 0 ? TEPAL_SYSTEM(errno) : fd;
}

/* Whether a stream can be made of a descriptor that somebody else opened. */
static int check_stream(int fd) {
    int type = 0, listening = 0;
    socklen_t length = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0) {
        return errno == EBADF ? TEPAL_EBADF : TEPAL_EINVAL;
    }
    length = sizeof listening;
    if (type != SOCK_STREAM || getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) < 0 || listening) {
        return TEPAL_EINVAL;
    }
    struct sockaddr_storage peer;
    length = sizeof peer;
    return getpeername(fd, (struct sockaddr *)&peer, &length) < 0 ? TEPAL_EINVAL : 0;
}

/* The same of a listener, which need not listen yet. */
static int check_listener(int fd) {
    int type = 0;
    socklen_t length = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0) {
        return TEPAL_SYSTEM(errno);
    }
    return type == SOCK_STREAM ? 0 : TEPAL_EINVAL;
}

static int set_flags(int fd) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        return errno == EBADF ? TEPAL_EBADF : TEPAL_SYSTEM(errno);
    }
    return 0;
}

int tpi_socket_adopt(int fd, tpi_kind kind) {
    int code = kind == TPI_STREAM ? check_stream(fd) : check_listener(fd);
    return code < 0 ? code : set_flags(fd);
}

void tpi_system_discard(tpi_driver *driver, int fd) {
    (void)driver;
    close(fd);
}

/* Shut down, it refuses even if the descriptor stays open in a child process. */
void tpi_system_refuse(tpi_driver *driver, tpi_object *object) {
    (void)driver;
    (void)shutdown(object->fd, SHUT_RD);
}

int tpi_system_bind(tpi_driver *driver, tpi_object *object, const tepal_address *address) {
    (void)driver;
    int status = bind(object->fd, (const struct sockaddr *)&address->storage, address->length);
    return status < 0 ? TEPAL_SYSTEM(errno) : 0;
}

int tpi_system_listen(tpi_driver *driver, tpi_object *object, int backlog) {
    (void)driver;
    return listen(object->fd, backlog) < 0 ? TEPAL_SYSTEM(errno) : 0;
}

int tpi_system_shutdown(tpi_driver *driver, tpi_object *object) {
    (void)driver;
    return shutdown(object->fd, SHUT_WR) < 0 ? TEPAL_SYSTEM(errno) : 0;
}

/* Errors of one connection, not of the listener: accept(2), "Error handling". */
bool tpi_is_of_one_connection(int error) {
    switch (error) {
    case EINTR:
    case ECONNABORTED:
    case EPROTO:
    case EPERM:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ETIMEDOUT:
        return true;
    default:
        return false;
    }
}

/* Regular files and directories are always ready, and a poller of levels would say so: no driver watches them. */
int tpi_check_watchable(int fd) {
    struct stat status;
    if (fd < 0 || fstat(fd, &status) < 0) {
        return TEPAL_EBADF;
    }
    return S_ISREG(status.st_mode) || S_ISDIR(status.st_mode) ? TEPAL_EPERM : 0;
}

/* Questions and options */

int tpi_system_query(const tpi_object *object, tpi_query what, size_t held, void *answer) {
    if (what == TPI_QUERY_UNREAD) {
        int unread = 0;
        if (ioctl(object->fd, FIONREAD, &unread) < 0) {
            return TEPAL_SYSTEM(errno);
        }
        *(size_t *)answer = (size_t)unread + held;
        return 0;
    }
    if (what == TPI_QUERY_LISTENING) {
        int listening = 0;
        socklen_t length = sizeof listening;
        if (getsockopt(object->fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) < 0) {
            return TEPAL_SYSTEM(errno);
        }
        *(bool *)answer = listening != 0;
        return 0;
    }
    if (what == TPI_QUERY_SENT) {
        return TEPAL_ENOENT; /* a driver that completes later answers by itself */
    }
    tepal_address address = {.length = sizeof address.storage};
    struct sockaddr *name = (struct sockaddr *)&address.storage;
    int status = what == TPI_QUERY_LOCAL ? getsockname(object->fd, name, &address.length)
                                         : getpeername(object->fd, name, &address.length);
    if (status < 0) {
        return TEPAL_SYSTEM(errno);
    }
    *(tepal_address *)answer = address;
    return 0;
}

int tpi_system_set(tpi_driver *driver, tpi_object *object, tpi_option option, int value) {
    (void)driver;
    static const struct {
        int level, name;
    } options[] = {
        [TPI_OPTION_NO_DELAY] = {IPPROTO_TCP, TCP_NODELAY},
        [TPI_OPTION_KEEP_ALIVE] = {SOL_SOCKET, SO_KEEPALIVE},
        [TPI_OPTION_KEEP_ALIVE_IDLE] = {IPPROTO_TCP, TCP_KEEPIDLE},
        [TPI_OPTION_KEEP_ALIVE_INTERVAL] = {IPPROTO_TCP, TCP_KEEPINTVL},
        [TPI_OPTION_KEEP_ALIVE_COUNT] = {IPPROTO_TCP, TCP_KEEPCNT},
        [TPI_OPTION_REUSE_ADDRESS] = {SOL_SOCKET, SO_REUSEADDR},
        [TPI_OPTION_REUSE_PORT] = {SOL_SOCKET, SO_REUSEPORT},
        [TPI_OPTION_IPV6_ONLY] = {IPPROTO_IPV6, IPV6_V6ONLY},
    };
    int status;
    if (option == TPI_OPTION_RESET_ON_CLOSE) {
        struct linger linger = {.l_onoff = value, .l_linger = 0};
        status = setsockopt(object->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    } else {
        status = setsockopt(object->fd, options[option].level, options[option].name, &value, sizeof value);
    }
    return status < 0 ? TEPAL_SYSTEM(errno) : 0;
}
