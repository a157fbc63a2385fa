/*
 * Sends that the kernel had no room for. They never wait inside the ring: there a peer that has half-closed counts as
 * room (POLLRDHUP cannot be masked), so that a send to it would be tried in a circle and end as a blocking call of a
 * kernel thread, which no cancellation reaches (seen with Linux 6.18). A set of epoll(7), which the ring polls as a
 * whole, tells of room instead: a stream is in it from the first time that it had none.
 */
#include "driver/uring_inside.h"
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#define BATCH 64

static int open_room(tpi_uring *uring) {
    if (uring->room_fd < 0) {
        uring->room_fd = epoll_create1(EPOLL_CLOEXEC);
    }
    return uring->room_fd < 0 ? TEPAL_SYSTEM(errno) : 0;
}

bool tpi_uring_poll_room(tpi_uring *uring) {
    if (uring->room_fd < 0 || uring->is_polling_room) {
        return true;
    }
    uring->is_polling_room =
        tpi_uring_poll(uring, uring->room_fd, POLLIN, (uint64_t)TPI_URING_ROOM << TPI_URING_OPERATION_SHIFT);
    uring->has_room_left = !uring->is_polling_room; /* else the next dispatch looks by itself, and asks again */
    uring->driver.backlog |= uring->has_room_left;
    return uring->is_polling_room;
}

/* Once each time, and asked anew: whatever happened in between, it is told if there is room now. */
int tpi_uring_await_room(tpi_uring *uring, tpi_object *object) {
    int code = open_room(uring);
    if (code < 0) {
        return code;
    }
    struct epoll_event event = {.events = EPOLLOUT | (uint32_t)EPOLLONESHOT,
                                .data.u64 = tpi_uring_tag(uring, object->fd, TPI_URING_SEND)};
    const int operation = object->spare & TPI_IN_ROOM ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(uring->room_fd, operation, object->fd, &event) < 0) {
        return TEPAL_SYSTEM(errno);
    }
    object->spare |= TPI_IN_ROOM;
    object->bits |= TPI_BLOCKED;
    (void)tpi_uring_poll_room(uring);
    return 0;
}

void tpi_uring_leave_room(tpi_uring *uring, tpi_object *object) {
    if (object->spare & TPI_IN_ROOM) {
        object->spare &= (uint8_t)~TPI_IN_ROOM;
        (void)epoll_ctl(uring->room_fd, EPOLL_CTL_DEL, object->fd, NULL);
    }
}

void tpi_uring_room_ready(tpi_uring *uring) {
    struct epoll_event events[BATCH];
    int count = epoll_wait(uring->room_fd, events, BATCH, 0);
    for (int i = 0; i < count; i++) {
        tpi_object *object = tpi_uring_object(uring, events[i].data.u64);
        if (object != NULL && object->bits & TPI_BLOCKED) {
            object->bits &= ~(uint32_t)TPI_BLOCKED;
            tpi_uring_list(uring, object); /* which sends */
        }
    }
    uring->has_room_left = false;
    (void)tpi_uring_poll_room(uring);
}

/* Nothing is in it any more. */
void tpi_uring_close_room(tpi_uring *uring) {
    if (uring->room_fd >= 0) {
        close(uring->room_fd);
        uring->room_fd = -1;
    }
}
