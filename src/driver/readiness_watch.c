/*
 * Foreign descriptors on readiness: level-triggered, one registration each. They are never closed here, and may be
 * closed, or closed and reused, behind our back.
 */
#include "driver/readiness_inside.h"
#include "driver/system.h"

void tpi_watch_forget(tpi_readiness *readiness, tpi_object *object) {
    tpi_readiness_unregister(readiness, object);
    tpi_slot_leave(readiness, object);
    object->fd = -1;
    object->kind = 0;
    object->bits = 0;
}

static int change(tpi_readiness *readiness, tpi_object *object, unsigned events) {
    uint32_t before = object->bits;
    object->bits = TPI_REGISTERED | (uint32_t)events << TPI_EVENTS_SHIFT;
    uint32_t interest = tpi_readiness_interest(readiness, object);
    int code = readiness->poller->change(readiness, object->fd, interest, tpi_readiness_tag(readiness, object->fd));
    if (code == TEPAL_ENOENT) {
        /*
         * Closed behind our back, and the number opened again. A duplicate may keep the old registration alive: its
         * events must not pass for the new one's.
         */
        readiness->slots[object->fd].tag += TPI_GENERATION;
        code = tpi_readiness_register(readiness, object);
    }
    if (code < 0) {
        object->bits = before;
    }
    return code;
}

int tpi_readiness_watch(tpi_driver *driver, tpi_object *object, int fd, unsigned events) {
    tpi_readiness *readiness = (tpi_readiness *)driver;
    int code = tpi_check_watchable(fd);
    if (code < 0) {
        return code;
    }
    if (object->kind == TPI_WATCH) {
        if (object->fd == fd) {
            return change(readiness, object, events);
        }
        tpi_watch_forget(readiness, object);
    }
    object->kind = TPI_WATCH;
    object->bits = (uint32_t)events << TPI_EVENTS_SHIFT;
    code = fd == readiness->wake_fd ? TEPAL_EBUSY : tpi_slot_take(readiness, object, fd);
    if (code == 0) {
        code = tpi_readiness_register(readiness, object);
        if (code < 0) {
            tpi_slot_leave(readiness, object);
        }
    }
    if (code < 0) {
        object->fd = -1;
        object->kind = 0;
        object->bits = 0;
    }
    return code;
}

void tpi_readiness_unwatch(tpi_driver *driver, tpi_object *object) {
    if (object->kind == TPI_WATCH) {
        tpi_watch_forget((tpi_readiness *)driver, object);
    }
}
