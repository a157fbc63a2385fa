/*
 * Sockets on readiness, from opening to closing, and accepting. Descriptors are non-blocking and close-on-exec from
 * birth. Closing is exact: out of the table, out of the poller where a duplicate may live on, then close(2).
 */
#include "driver/readiness_inside.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Connections accepted from one listener in one dispatch at most: the rest is reported again. */
#define ACCEPT_BUDGET 64

static bool is_tcp(int fd) {
    int domain = 0;
    socklen_t length = sizeof domain;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && (domain == AF_INET || domain == AF_INET6);
}

/* When a read that did not fill its buffer has left nothing: DESIGN section 4 names the case; levels are asked again. */
static uint32_t first_bits(const tpi_readiness *readiness, bool tcp) {
    uint32_t levels = readiness->poller->levels ? TPI_LEVELS : 0;
    return (tcp || levels ? TPI_SHORT_IS_EMPTY : 0) | levels;
}

static int bind_object(tpi_readiness *readiness, tpi_object *object, int fd, tpi_kind kind) {
    object->kind = (uint8_t)kind;
    int code = tpi_slot_take(readiness, object, fd);
    if (code < 0) {
        object->kind = 0;
        return code;
    }
    object->bits = 0;
    object->sending = NULL;
    readiness->driver.objects++;
    return 0;
}

int tpi_readiness_open(tpi_driver *driver, tpi_object *object, tpi_kind kind, int family) {
    tpi_readiness *readiness = (tpi_readiness *)driver;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return TEPAL_SYSTEM(errno);
    }
    int code = bind_object(readiness, object, fd, kind);
    if (code < 0) {
        close(fd);
        return code;
    }
    object->bits = first_bits(readiness, family == AF_INET || family == AF_INET6);
    return 0;
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

int tpi_readiness_adopt(tpi_driver *driver, tpi_object *object, int fd, tpi_kind kind, bool accepted) {
    tpi_readiness *readiness = (tpi_readiness *)driver;
    int code = accepted ? 0 : kind == TPI_STREAM ? check_stream(fd) : check_listener(fd);
    if (code == 0 && !accepted) {
        code = set_flags(fd);
    }
    if (code == 0) {
        code = fd == readiness->wake_fd ? TEPAL_EBUSY : bind_object(readiness, object, fd, kind);
    }
    if (code < 0) {
        return code;
    }
    object->bits = first_bits(readiness, kind == TPI_STREAM && is_tcp(fd)) | (accepted ? 0 : TPI_ADOPTED | TPI_FRESH);
    if (kind == TPI_STREAM) {
        object->bits |= TPI_WRITEABLE; /* try first; what is readable comes as the first edge */
        code = tpi_readiness_register(readiness, object);
        if (code < 0) {
            tpi_slot_leave(readiness, object);
            readiness->driver.objects--;
            object->kind = 0;
            object->fd = -1;
        }
    }
    return code;
}

/* Nothing but the last word may follow. */
static void retire(tpi_readiness *readiness, tpi_object *object, uint32_t last_word) {
    tpi_slot_leave(readiness, object);
    object->sending = NULL;
    object->bits = (object->bits & (TPI_LISTED | TPI_HOLDING)) | last_word;
    tpi_readiness_list(readiness, object);
}

void tpi_readiness_close(tpi_driver *driver, tpi_object *object) {
    tpi_readiness *readiness = (tpi_readiness *)driver;
    if (object->bits & TPI_ADOPTED || object->kind == TPI_LISTENER || readiness->poller->levels) {
        tpi_readiness_unregister(readiness, object);
    }
    if (object->bits & TPI_HOLDING) {
        tpi_held_free(readiness, tpi_held_take(readiness, object));
    }
    retire(readiness, object, TPI_SAY_CLOSED);
    close(object->fd);
    object->fd = -1;
    object->kind = 0;
}

void tpi_readiness_release(tpi_driver *driver, tpi_object *object) {
    tpi_readiness *readiness = (tpi_readiness *)driver;
    tpi_readiness_unregister(readiness, object);
    retire(readiness, object, TPI_SAY_RELEASED);
}

void tpi_readiness_discard(tpi_driver *driver, int fd) {
    (void)driver;
    close(fd);
}

/* Shut down, it refuses even if the descriptor stays open in a child process. */
void tpi_readiness_refuse(tpi_driver *driver, tpi_object *object) {
    (void)driver;
    (void)shutdown(object->fd, SHUT_RD);
}

int tpi_readiness_bind(tpi_driver *driver, tpi_object *object, const tepal_address *address) {
    (void)driver;
    int status = bind(object->fd, (const struct sockaddr *)&address->storage, address->length);
    return status < 0 ? TEPAL_SYSTEM(errno) : 0;
}

int tpi_readiness_listen(tpi_driver *driver, tpi_object *object, int backlog) {
    (void)driver;
    return listen(object->fd, backlog) < 0 ? TEPAL_SYSTEM(errno) : 0;
}

/* Accepting */

void tpi_readiness_accept_start(tpi_driver *driver, tpi_object *object) {
    tpi_readiness *readiness = (tpi_readiness *)driver;
    if (object->bits & TPI_ACCEPTING) {
        return;
    }
    object->bits |= TPI_ACCEPTING;
    if (tpi_readiness_register(readiness, object) < 0) {
        object->bits |= TPI_START_AGAIN; /* nobody is called up from here */
        tpi_readiness_list(readiness, object);
    }
}

void tpi_readiness_accept_again(tpi_readiness *readiness, tpi_object *object) {
    object->bits &= ~(uint32_t)TPI_START_AGAIN;
    int code = tpi_readiness_register(readiness, object);
    if (code < 0) {
        object->bits &= ~(uint32_t)TPI_ACCEPTING;
        object->up->accept_failed(object, code);
    }
}

static void stop_accepting(tpi_readiness *readiness, tpi_object *object) {
    object->bits &= ~(uint32_t)(TPI_ACCEPTING | TPI_START_AGAIN);
    tpi_readiness_unregister(readiness, object);
}

void tpi_readiness_accept_stop(tpi_driver *driver, tpi_object *object) {
    tpi_readiness *readiness = (tpi_readiness *)driver;
    stop_accepting(readiness, object);
    object->bits |= TPI_SAY_STOPPED;
    tpi_readiness_list(readiness, object);
}

/* Errors of one connection, not of the listener: accept(2), "Error handling". */
static bool concerns_one_connection(int error) {
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

void tpi_readiness_accept(tpi_readiness *readiness, tpi_object *object) {
    for (unsigned budget = ACCEPT_BUDGET; budget > 0 && object->bits & TPI_ACCEPTING; budget--) {
        tepal_address peer = {.length = sizeof peer.storage};
        int fd = accept4(object->fd, (struct sockaddr *)&peer.storage, &peer.length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            object->up->accepted(object, fd, &peer);
            if (readiness->driver.interrupted) {
                return;
            }
        } else if (errno == EAGAIN) {
            return;
        } else if (!concerns_one_connection(errno)) {
            int code = TEPAL_SYSTEM(errno);
            stop_accepting(readiness, object);
            object->up->accept_failed(object, code);
            return;
        }
    }
}

/* Questions and options */

int tpi_readiness_query(tpi_driver *driver, const tpi_object *object, tpi_query what, void *answer) {
    if (what == TPI_QUERY_UNREAD) {
        int unread = 0;
        if (ioctl(object->fd, FIONREAD, &unread) < 0) {
            return TEPAL_SYSTEM(errno);
        }
        size_t held = object->bits & TPI_HOLDING ? tpi_held_count((tpi_readiness *)driver, object) : 0;
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

int tpi_readiness_set(tpi_driver *driver, tpi_object *object, tpi_option option, int value) {
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
