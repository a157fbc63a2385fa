/*
 * The poll driver: a poller for the readiness emulation that knows levels only. The array given to poll(2) holds just
 * the descriptors of interest; a descriptor of none keeps its place with a negative number.
 */
#include "driver/poll.h"
#include "driver/readiness.h"
#include "base/alloc.h"
#include <errno.h>
#include <unistd.h>

typedef struct tpi_poll {
    tpi_readiness readiness; /* first */
    struct pollfd *polled;   /* the wake-up descriptor first */
    uint64_t *tags;          /* of the same places; 0: the place was left during a delivery */
    unsigned count, capacity;
    unsigned *places; /* by descriptor: its place; 0: none, as the wake-up descriptor has that one */
    unsigned place_count;
    unsigned next; /* places from here on have events to be delivered; count: none has */
    unsigned left; /* how many of them */
} tpi_poll;

static unsigned place_of(const tpi_poll *poll, int fd) {
    return (unsigned)fd < poll->place_count ? poll->places[fd] : 0;
}

static int grow(tpi_realloc allocate, void **memory, unsigned *capacity, size_t size, unsigned needed) {
    if (needed <= *capacity) {
        return 0;
    }
    unsigned count = *capacity == 0 ? 64 : *capacity;
    while (count < needed) {
        count *= 2;
    }
    char *grown = allocate(*memory, count * size);
    if (grown == NULL) {
        return TEPAL_ENOMEM;
    }
    memset(grown + *capacity * size, 0, (count - *capacity) * size);
    *memory = grown;
    *capacity = count;
    return 0;
}

static int reserve(tpi_poll *poll, int fd) {
    tpi_realloc allocate = poll->readiness.driver.realloc;
    unsigned tag_capacity = poll->capacity;
    void *memory = poll->tags;
    int code = grow(allocate, &memory, &tag_capacity, sizeof *poll->tags, poll->count + 1);
    poll->tags = memory;
    if (code == 0) {
        memory = poll->polled;
        code = grow(allocate, &memory, &poll->capacity, sizeof *poll->polled, poll->count + 1);
        poll->polled = memory;
    }
    if (code == 0) {
        memory = poll->places;
        code = grow(allocate, &memory, &poll->place_count, sizeof *poll->places, (unsigned)fd + 1);
        poll->places = memory;
    }
    return code;
}

static void set_place(tpi_poll *poll, unsigned place, int fd, uint32_t events) {
    poll->polled[place].fd = events == 0 ? -1 - fd : fd;
    poll->polled[place].events = (short)events;
}

static int add(tpi_readiness *readiness, int fd, uint32_t events, bool edge, uint64_t tag) {
    tpi_poll *poll = (tpi_poll *)readiness;
    (void)edge;
    int code = reserve(poll, fd);
    if (code < 0) {
        return code;
    }
    unsigned place = poll->count++;
    poll->polled[place] = (struct pollfd){.revents = 0};
    poll->tags[place] = tag;
    poll->places[fd] = place;
    set_place(poll, place, fd, events);
    return 0;
}

static int change(tpi_readiness *readiness, int fd, uint32_t events, uint64_t tag) {
    tpi_poll *poll = (tpi_poll *)readiness;
    unsigned place = place_of(poll, fd);
    if (place == 0) {
        return TEPAL_ENOENT;
    }
    poll->tags[place] = tag;
    set_place(poll, place, fd, events);
    return 0;
}

static void take_out(tpi_readiness *readiness, int fd) {
    tpi_poll *poll = (tpi_poll *)readiness;
    unsigned place = place_of(poll, fd);
    if (place == 0) {
        return;
    }
    poll->places[fd] = 0;
    unsigned last = --poll->count;
    if (place != last) {
        /* The last one moves into the gap; delivery goes from the end to the front, so it has been seen already. */
        poll->polled[place] = poll->polled[last];
        poll->tags[place] = poll->tags[last];
        int moved = poll->polled[place].fd;
        poll->places[moved < 0 ? -1 - moved : moved] = place;
    }
}

static int wait_for_events(tpi_readiness *readiness, int64_t timeout_ns) {
    tpi_poll *poll = (tpi_poll *)readiness;
    if (poll->left > 0) {
        return 0; /* interrupted: those come first */
    }
    struct timespec limit = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    int ready = ppoll(poll->polled, poll->count, timeout_ns < 0 ? NULL : &limit, NULL);
    if (ready < 0) {
        return errno == EINTR ? 0 : TEPAL_SYSTEM(errno);
    }
    poll->left = (unsigned)ready;
    poll->next = poll->count;
    return 0;
}

static void read_wake(tpi_poll *poll) {
    uint64_t posts;
    ssize_t count = read(poll->readiness.wake_fd, &posts, sizeof posts);
    (void)count;
}

/* From the end to the front: what is taken out or added meanwhile moves only places that have been seen. */
static void deliver(tpi_readiness *readiness) {
    tpi_poll *poll = (tpi_poll *)readiness;
    while (poll->left > 0 && poll->next > 0 && !readiness->driver.interrupted) {
        unsigned place = --poll->next;
        if (place >= poll->count || poll->polled[place].revents == 0) {
            continue;
        }
        uint32_t events = (unsigned short)poll->polled[place].revents;
        poll->polled[place].revents = 0;
        poll->left--;
        if (place == 0) {
            read_wake(poll);
        } else {
            tpi_readiness_event(readiness, poll->tags[place], events);
        }
    }
    if (poll->next == 0) {
        poll->left = 0;
    }
}

static const tpi_poller poller = {
    .levels = true,
    .add = add,
    .change = change,
    .remove = take_out,
    .wait = wait_for_events,
    .deliver = deliver,
};

static void free_memory(tpi_poll *poll) {
    tpi_realloc allocate = poll->readiness.driver.realloc;
    tpi_free(allocate, poll->polled);
    tpi_free(allocate, poll->tags);
    tpi_free(allocate, poll->places);
    tpi_free(allocate, poll);
}

static void destroy(tpi_driver *driver) {
    tpi_readiness_destroy((tpi_readiness *)driver);
    free_memory((tpi_poll *)driver);
}

static void abandon(tpi_driver *driver) {
    tpi_readiness_abandon((tpi_readiness *)driver);
    free_memory((tpi_poll *)driver);
}

static int create(tpi_driver **driver, const tpi_driver_options *options) {
    tpi_poll *poll = tpi_alloc_zero(options->realloc, sizeof *poll);
    if (poll == NULL) {
        return TEPAL_ENOMEM;
    }
    int code = tpi_readiness_init(&poll->readiness, &tpi_poll_driver, &poller, options);
    if (code < 0) {
        tpi_free(options->realloc, poll);
        return code;
    }
    code = add(&poll->readiness, poll->readiness.wake_fd, POLLIN, false, TPI_WAKE_TAG(poll->readiness.wake_fd));
    if (code < 0) {
        destroy(&poll->readiness.driver);
        return code;
    }
    *driver = &poll->readiness.driver;
    return 0;
}

static int after_fork(tpi_driver *driver) {
    ((tpi_poll *)driver)->left = 0; /* the parent's */
    return tpi_readiness_after_fork((tpi_readiness *)driver);
}

static int poll_fd(tpi_driver *driver) {
    (void)driver;
    return TEPAL_ENOTSUP; /* poll(2) has no descriptor to wait on */
}

const tpi_driver_ops tpi_poll_driver = {
    .name = "poll",
    .create = create,
    .destroy = destroy,
    .abandon = abandon,
    .after_fork = after_fork,
    .poll_fd = poll_fd,
    TPI_READINESS_OPS,
};
