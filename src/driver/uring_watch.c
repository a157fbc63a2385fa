/*
 * Foreign descriptors on io_uring: they are in a set of the epoll driver's, which knows what can happen to them behind
 * our back, and the ring polls that set as a whole. It is made with the first of them.
 */
#include "driver/epoll.h"
#include "driver/uring_inside.h"
#include <poll.h>

static int make_inner(tpi_uring *uring) {
    const tpi_driver_options options = {.realloc = uring->driver.realloc, .read_budget = 1, .read_bytes = 1};
    tpi_driver *inner;
    int code = tpi_epoll_driver.create(&inner, &options);
    if (code < 0) {
        return code;
    }
    uring->driver.inner = inner;
    return 0;
}

bool tpi_uring_poll_watches(tpi_uring *uring) {
    const tpi_driver *inner = uring->driver.inner;
    if (inner == NULL || uring->is_polling) {
        return true;
    }
    uring->is_polling = tpi_uring_poll(uring, inner->ops->poll_fd(uring->driver.inner), POLLIN,
                                       (uint64_t)TPI_URING_WATCHES << TPI_URING_OPERATION_SHIFT);
    uring->has_watches_left = !uring->is_polling; /* else the next dispatch looks by itself, and asks again */
    uring->driver.backlog |= uring->has_watches_left;
    return uring->is_polling;
}

/* Level-triggered: the set is polled anew after each time, and says at once if something is still ready. */
void tpi_uring_watches_ready(tpi_uring *uring) {
    tpi_driver *inner = uring->driver.inner;
    uring->has_watches_left = false;
    inner->interrupted = false;
    (void)inner->ops->wait(inner, 0);
    (void)inner->ops->dispatch(inner);
    if (uring->driver.interrupted) {
        uring->has_watches_left = true; /* in the batch that was begun */
    } else {
        (void)tpi_uring_poll_watches(uring);
    }
}

int tpi_uring_watch(tpi_driver *driver, tpi_object *object, int fd, unsigned events) {
    tpi_uring *uring = (tpi_uring *)driver;
    int code = tpi_check_watchable(fd);
    if (code == 0 && tpi_uring_has(uring, fd)) {
        code = TEPAL_EBUSY;
    }
    if (code == 0 && driver->inner == NULL) {
        code = make_inner(uring);
    }
    if (code == 0) {
        code = driver->inner->ops->watch(driver->inner, object, fd, events);
    }
    if (code == 0) {
        (void)tpi_uring_poll_watches(uring);
    }
    return code;
}

void tpi_uring_unwatch(tpi_driver *driver, tpi_object *object) {
    if (object->kind == TPI_WATCH) {
        driver->inner->ops->unwatch(driver->inner, object);
    }
}

void tpi_uring_forget_watch(tpi_uring *uring, int fd) {
    if (uring->driver.inner != NULL) {
        tpi_epoll_forget_watch(uring->driver.inner, fd);
    }
}
