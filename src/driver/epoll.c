/*
 * The epoll driver: a poller for the readiness emulation. Streams are registered once, edge-triggered; listeners and
 * foreign descriptors are level-triggered.
 */
#include "driver/epoll.h"
#include "driver/readiness_inside.h"
#include "base/alloc.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/epoll.h>
#include <unistd.h>

#define BATCH 256 /* events taken from the kernel in one wait */

typedef struct tpi_epoll {
    tpi_readiness readiness; /* first */
    int epoll_fd;
    bool whole_milliseconds;              /* the kernel has no epoll_pwait2(2) */
    const struct epoll_event *next, *end; /* events taken and not delivered: none unless next is before end */
    struct epoll_event events[BATCH];
} tpi_epoll;

/* POLL* and EPOLL* agree on Linux, so events pass through unchanged. */
_Static_assert(POLLIN == EPOLLIN && POLLOUT == EPOLLOUT && POLLPRI == EPOLLPRI && POLLERR == EPOLLERR &&
                   POLLHUP == EPOLLHUP && POLLRDHUP == EPOLLRDHUP,
               "poll(2) and epoll(7) name events alike");

static int control(tpi_readiness *readiness, int operation, int fd, uint32_t events, uint64_t tag) {
    struct epoll_event event = {.events = events, .data.u64 = tag};
    int status = epoll_ctl(((tpi_epoll *)readiness)->epoll_fd, operation, fd, &event);
    return status < 0 ? TEPAL_SYSTEM(errno) : 0;
}

static int add(tpi_readiness *readiness, int fd, uint32_t events, bool edge, uint64_t tag) {
    uint32_t wanted = events | (edge ? (uint32_t)EPOLLET : 0);
    int code = control(readiness, EPOLL_CTL_ADD, fd, wanted, tag);
    if (code == TEPAL_SYSTEM(EEXIST)) {
        /* The same open file under the same number is still registered: by a watch closed and opened behind our back. */
        code = control(readiness, EPOLL_CTL_MOD, fd, wanted, tag);
    }
    return code;
}

static int change(tpi_readiness *readiness, int fd, uint32_t events, uint64_t tag) {
    return control(readiness, EPOLL_CTL_MOD, fd, events, tag);
}

static void take_out(tpi_readiness *readiness, int fd) {
    (void)control(readiness, EPOLL_CTL_DEL, fd, 0, 0); /* ENOENT, EBADF: it is gone already */
}

static int wait_milliseconds(tpi_epoll *epoll, int64_t timeout_ns) {
    int64_t milliseconds = timeout_ns / 1000000 + (timeout_ns % 1000000 != 0); /* late rather than early */
    return epoll_wait(epoll->epoll_fd, epoll->events, BATCH, milliseconds > INT_MAX ? INT_MAX : (int)milliseconds);
}

static int wait_for_events(tpi_readiness *readiness, int64_t timeout_ns) {
    tpi_epoll *epoll = (tpi_epoll *)readiness;
    if (epoll->next < epoll->end) {
        return 0; /* interrupted: those come first */
    }
    epoll->next = epoll->end = epoll->events;
    int count;
    if (timeout_ns <= 0) {
        count = epoll_wait(epoll->epoll_fd, epoll->events, BATCH, timeout_ns < 0 ? -1 : 0);
    } else if (epoll->whole_milliseconds) {
        count = wait_milliseconds(epoll, timeout_ns);
    } else {
        struct timespec limit = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
        count = epoll_pwait2(epoll->epoll_fd, epoll->events, BATCH, &limit, NULL);
        if (count < 0 && (errno == ENOSYS || errno == EPERM)) { /* EPERM: a sandbox that does not know the call */
            epoll->whole_milliseconds = true;
            count = wait_milliseconds(epoll, timeout_ns);
        }
    }
    if (count < 0) {
        return errno == EINTR ? 0 : TEPAL_SYSTEM(errno);
    }
    epoll->end = epoll->events + count;
    return 0;
}

static void deliver(tpi_readiness *readiness) {
    tpi_epoll *epoll = (tpi_epoll *)readiness;
    const struct epoll_event *event = epoll->next;
    for (; event < epoll->end && !readiness->driver.interrupted; event++) {
        tpi_readiness_edge(readiness, event->data.u64, event->events);
    }
    epoll->next = event; /* past the end, if an upcall has made the set anew */
}

/* The wake-up descriptor is an edge: every write makes a new one, so nobody needs to read it. */
static int register_wake(tpi_epoll *epoll) {
    return control(&epoll->readiness, EPOLL_CTL_ADD, epoll->readiness.wake_fd, EPOLLIN | (uint32_t)EPOLLET,
                   TPI_WAKE_TAG(epoll->readiness.wake_fd));
}

/*
 * A new set under the old number, so that who waits on poll_fd need not learn another. The old set stays if the new one
 * cannot be filled.
 */
static int rebuild(tpi_readiness *readiness) {
    tpi_epoll *epoll = (tpi_epoll *)readiness;
    int number = epoll->epoll_fd;
    int fresh = epoll_create1(EPOLL_CLOEXEC);
    if (fresh < 0) {
        return TEPAL_SYSTEM(errno);
    }
    epoll->epoll_fd = fresh;
    int code = register_wake(epoll);
    if (code == 0) {
        code = tpi_readiness_register_all(readiness, fresh);
    }
    epoll->epoll_fd = number;
    if (code == 0 && dup3(fresh, number, O_CLOEXEC) < 0) {
        code = TEPAL_SYSTEM(errno);
    }
    close(fresh);
    if (code == 0) {
        epoll->next = epoll->end = epoll->events; /* the new set reports what is ready once more */
    }
    return code;
}

static const tpi_poller poller = {
    .levels = false,
    .add = add,
    .change = change,
    .remove = take_out,
    .wait = wait_for_events,
    .deliver = deliver,
    .rebuild = rebuild,
};

static int create(tpi_driver **driver, const tpi_driver_options *options) {
    tpi_epoll *epoll = tpi_alloc_zero(options->realloc, sizeof *epoll);
    if (epoll == NULL) {
        return TEPAL_ENOMEM;
    }
    epoll->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int code = epoll->epoll_fd < 0 ? TEPAL_SYSTEM(errno) : 0;
    if (code == 0) {
        code = tpi_readiness_init(&epoll->readiness, &tpi_epoll_driver, &poller, options);
        if (code == 0) {
            code = register_wake(epoll);
            if (code < 0) {
                tpi_readiness_destroy(&epoll->readiness);
            }
        }
        if (code < 0) {
            close(epoll->epoll_fd);
        }
    }
    if (code < 0) {
        tpi_free(options->realloc, epoll);
        return code;
    }
    *driver = &epoll->readiness.driver;
    return 0;
}

static void destroy(tpi_driver *driver) {
    tpi_epoll *epoll = (tpi_epoll *)driver;
    tpi_readiness_destroy(&epoll->readiness);
    close(epoll->epoll_fd);
    tpi_free(driver->realloc, epoll);
}

/* In a child: closing the inherited set does nothing to the parent's, as long as nothing is taken out of it. */
static void abandon(tpi_driver *driver) {
    tpi_epoll *epoll = (tpi_epoll *)driver;
    tpi_readiness_abandon(&epoll->readiness);
    close(epoll->epoll_fd);
    tpi_free(driver->realloc, epoll);
}

static int after_fork(tpi_driver *driver) {
    tpi_epoll *epoll = (tpi_epoll *)driver;
    epoll->next = epoll->end = epoll->events; /* the parent's */
    int code = tpi_readiness_after_fork(&epoll->readiness);
    return code < 0 ? code : rebuild(&epoll->readiness);
}

void tpi_epoll_forget_watch(tpi_driver *driver, int fd) {
    tpi_readiness *readiness = (tpi_readiness *)driver;
    if ((uint32_t)fd < readiness->slot_count && readiness->slots[fd].object != NULL) {
        tpi_watch_forget(readiness, readiness->slots[fd].object);
    }
}

static int poll_fd(tpi_driver *driver) {
    return ((tpi_epoll *)driver)->epoll_fd;
}

const tpi_driver_ops tpi_epoll_driver = {
    .name = "epoll",
    .create = create,
    .destroy = destroy,
    .abandon = abandon,
    .after_fork = after_fork,
    .poll_fd = poll_fd,
    TPI_READINESS_OPS,
};
