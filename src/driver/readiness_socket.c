/*
 * Sockets on readiness, from opening to closing, and accepting. Descriptors are non-blocking and close-on-exec from
 * birth. Closing is exact: out of the table, out of the poller where a duplicate may live on, then close(2).
 */
#include "driver/readiness_inside.h"
#include "driver/system.h"
#include <unistd.h>

/* Connections accepted from one listener in one dispatch at most: the rest is reported again. */
#define ACCEPT_BUDGET 64

static bool is_inet(int family) {
    return family == AF_INET || family == AF_INET6;
}

static int family_of(int fd) {
    int family = AF_UNSPEC;
    socklen_t length = sizeof family;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) == 0 ? family : AF_UNSPEC;
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
    int fd = tpi_socket_open(family);
    if (fd < 0) {
        return fd;
    }
    int code = bind_object(readiness, object, fd, kind);
    if (code < 0) {
        close(fd);
        return code;
    }
    object->bits = first_bits(readiness, is_inet(family));
    return 0;
}

int tpi_readiness_adopt(tpi_driver *driver, tpi_object *object, int fd, tpi_kind kind, int accepted) {
    tpi_readiness *readiness = (tpi_readiness *)driver;
    int code = accepted != 0 ? 0 : tpi_socket_adopt(fd, kind);
    if (code == 0) {
        code = fd == readiness->wake_fd ? TEPAL_EBUSY : bind_object(readiness, object, fd, kind);
    }
    if (code < 0) {
        return code;
    }
    const bool tcp = kind == TPI_STREAM && is_inet(accepted != 0 ? accepted : family_of(fd));
    object->bits = first_bits(readiness, tcp) | (accepted != 0 ? 0 : TPI_ADOPTED | TPI_FRESH);
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
        } else if (!tpi_is_of_one_connection(errno)) {
            int code = TEPAL_SYSTEM(errno);
            stop_accepting(readiness, object);
            object->up->accept_failed(object, code);
            return;
        }
    }
}

int tpi_readiness_query(tpi_driver *driver, const tpi_object *object, tpi_query what, void *answer) {
    size_t held = object->bits & TPI_HOLDING ? tpi_held_count((tpi_readiness *)driver, object) : 0;
    return tpi_system_query(object, what, held, answer);
}
