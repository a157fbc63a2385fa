/*
 * Completions over readiness: what epoll, poll and their like share. A poller says which descriptors are ready; all
 * else that the driver contract asks for is done once, in readiness.c and its helpers.
 */
#ifndef TPI_READINESS_H
#define TPI_READINESS_H

#include <poll.h>
#include "driver/driver.h"
#include "driver/system.h"

typedef struct tpi_readiness tpi_readiness;
typedef struct tpi_held tpi_held;

/*
 * The little that differs. Events are poll(2)'s: POLLIN, POLLOUT, POLLPRI, POLLRDHUP, POLLERR, POLLHUP. A tag comes
 * back with each event of a descriptor.
 */
typedef struct tpi_poller {
    /*
     * The poller reports levels only: a descriptor is reported again and again while it is ready, so interest is
     * changed with every need, and a descriptor of no interest leaves the set (its POLLHUP would spin).
     */
    bool levels;
    int (*add)(tpi_readiness *readiness, int fd, uint32_t events, bool edge, uint64_t tag);
    int (*change)(tpi_readiness *readiness, int fd, uint32_t events, uint64_t tag);
    void (*remove)(tpi_readiness *readiness, int fd); /* the descriptor may be closed already */
    int (*wait)(tpi_readiness *readiness, int64_t timeout_ns);
    void (*deliver)(tpi_readiness *readiness); /* call tpi_readiness_event for what wait found, until interrupted */
    int (*rebuild)(tpi_readiness *readiness);  /* make the set anew, with what is registered; NULL: never needed */
} tpi_poller;

/*
 * What a descriptor's number stands for now, and the tag of its events: the number, and above it a generation that grows
 * with each change.
 */
typedef struct tpi_slot {
    tpi_object *object; /* NULL: none */
    uint64_t tag;
} tpi_slot;

struct tpi_readiness {
    tpi_driver driver;
    const tpi_poller *poller;
    tpi_slot *slots; /* by descriptor */
    uint32_t slot_count;
    unsigned read_budget;
    uint8_t *scratch; /* lent to upcalls */
    size_t scratch_bytes;
    tpi_object *first, *last; /* objects with something left to deliver; last is undefined while first is NULL */
    tpi_held *held;
    int wake_fd;         /* an eventfd(2) */
    uint16_t dispatches; /* how many there were; goes round */
    unsigned stale;      /* events of older generations, in a row */
    tpi_offload offload;
};

/* object->bits */
enum {
    TPI_READABLE = 1 << 0,  /* reading may find something */
    TPI_WRITEABLE = 1 << 1, /* sending may take something */
    TPI_WANT_READ = 1 << 2, /* read_start */
    TPI_CONNECTING = 1 << 3,
    TPI_LISTED = 1 << 4,         /* in the list of objects with something left */
    TPI_SHORT_IS_EMPTY = 1 << 5, /* a read that did not fill its buffer has left nothing behind */
    TPI_HOLDING = 1 << 6,        /* bytes read and not delivered are in readiness->held */
    TPI_AT_EOF = 1 << 7,         /* or reading has failed: there is nothing more to start */
    TPI_ACCEPTING = 1 << 8,
    TPI_SAY_STOPPED = 1 << 9, /* accept_stopped is due */
    TPI_SAY_RELEASED = 1 << 10,
    TPI_SAY_CLOSED = 1 << 11,
    TPI_REGISTERED = 1 << 12, /* with the poller */
    TPI_ADOPTED = 1 << 13,    /* the descriptor may have duplicates: take it out of the poller before closing */
    TPI_LEVELS = 1 << 14,     /* the poller reports levels only */
    TPI_FRESH = 1 << 15, /* adopted: nothing is read in the first dispatch after read_start, whose number follows */
    TPI_START_AGAIN = 1 << 15, /* registering a listener failed: dispatch tries again, and tells */
    TPI_EVENTS_SHIFT = 16      /* a watch's TEPAL_READABLE and TEPAL_WRITABLE; with levels, the events registered */
    /* a fresh stream's number of the last dispatch before read_start stands there as well */
};

#define TPI_GENERATION (UINT64_C(1) << 32)

/* Of the wake-up descriptor; no slot's tag matches it. */
#define TPI_WAKE_TAG(fd) ((uint64_t)UINT32_MAX << 32 | (uint32_t)(fd))

static inline uint64_t tpi_readiness_tag(const tpi_readiness *readiness, int fd) {
    return readiness->slots[fd].tag;
}

/* The poller's events for an object as it is registered; 0: it is to be left out. */
uint32_t tpi_readiness_interest(const tpi_readiness *readiness, const tpi_object *object);

/* The first part of a driver's create, and the last of its destroy, abandon and after_fork. */
int tpi_readiness_init(tpi_readiness *readiness, const tpi_driver_ops *ops, const tpi_poller *poller,
                       const tpi_driver_options *options);
void tpi_readiness_destroy(tpi_readiness *readiness);
void tpi_readiness_abandon(tpi_readiness *readiness);
int tpi_readiness_after_fork(tpi_readiness *readiness);

/* Register with the poller everything that is registered, after the poller was made anew under this descriptor. */
int tpi_readiness_register_all(tpi_readiness *readiness, int poller_fd);

/* An event of the poller's. */
void tpi_readiness_event(tpi_readiness *readiness, uint64_t tag, uint32_t events);

/* Whether a stream waits for bytes and has nothing in flight, and a short read means for it that none is left. */
static inline bool tpi_is_quick(const tpi_object *object) {
    const tpi_object adopted = {.bits = TPI_ADOPTED}; /* it may be that or not */
    const tpi_object quick = {
        .kind = TPI_STREAM,
        .bits = TPI_WANT_READ | TPI_SHORT_IS_EMPTY | TPI_REGISTERED | TPI_WRITEABLE | TPI_ADOPTED,
    };
    return (object->state | adopted.state) == quick.state;
}

/* What a quick read has left to do: a full buffer, part of the data unused, no data, an error. */
void tpi_readiness_quick_read_ended(tpi_readiness *readiness, tpi_object *object, ssize_t count, size_t used);

/*
 * tpi_readiness_event(), with the common case in line and by the shortest way: bytes for a stream in the quick state.
 * For pollers that report edges.
 */
static inline void tpi_readiness_edge(tpi_readiness *readiness, uint64_t tag, uint32_t events) {
    const tpi_slot *slot = &readiness->slots[(uint32_t)tag];
    tpi_object *object = slot->object;
    if (__builtin_expect(slot->tag != tag || (events & ~(uint32_t)POLLOUT) != POLLIN || !tpi_is_quick(object), 0)) {
        tpi_readiness_event(readiness, tag, events);
        return;
    }
    ssize_t count = recv(object->fd, readiness->scratch, readiness->scratch_bytes, 0);
    size_t used = 0;
    if (__builtin_expect(count > 0 && (size_t)count < readiness->scratch_bytes, 1)) {
        used = object->up->data(object, readiness->scratch, (size_t)count);
        if (__builtin_expect(used == (size_t)count, 1)) {
            return;
        }
    }
    tpi_readiness_quick_read_ended(readiness, object, count, used);
}

/* readiness_socket.c */
void tpi_readiness_accept(tpi_readiness *readiness, tpi_object *object);
void tpi_readiness_accept_again(tpi_readiness *readiness, tpi_object *object);

/* The operations that are the same for every poller; a driver fills in the rest of its table. */
#define TPI_READINESS_OPS                                                                                              \
    TPI_SYSTEM_OPS, .open = tpi_readiness_open, .adopt = tpi_readiness_adopt, .release = tpi_readiness_release,        \
                    .close = tpi_readiness_close, .accept_start = tpi_readiness_accept_start,                          \
                    .accept_stop = tpi_readiness_accept_stop, .connect = tpi_readiness_connect,                        \
                    .read_start = tpi_readiness_read_start, .read_stop = tpi_readiness_read_stop,                      \
                    .offer = tpi_readiness_offer, .offer_pieces = tpi_readiness_offer_pieces,                          \
                    .send = tpi_readiness_send, .flush = tpi_readiness_flush, .watch = tpi_readiness_watch,            \
                    .unwatch = tpi_readiness_unwatch, .query = tpi_readiness_query, .wait = tpi_readiness_wait,        \
                    .dispatch = tpi_readiness_dispatch, .wake = tpi_readiness_wake, .each = tpi_readiness_each

int tpi_readiness_open(tpi_driver *driver, tpi_object *object, tpi_kind kind, int family);
int tpi_readiness_adopt(tpi_driver *driver, tpi_object *object, int fd, tpi_kind kind, int accepted);
void tpi_readiness_release(tpi_driver *driver, tpi_object *object);
void tpi_readiness_close(tpi_driver *driver, tpi_object *object);
void tpi_readiness_accept_start(tpi_driver *driver, tpi_object *object);
void tpi_readiness_accept_stop(tpi_driver *driver, tpi_object *object);
int tpi_readiness_connect(tpi_driver *driver, tpi_object *object, const tepal_address *address);
void tpi_readiness_read_start(tpi_driver *driver, tpi_object *object);
void tpi_readiness_read_stop(tpi_driver *driver, tpi_object *object);
int64_t tpi_readiness_offer(tpi_driver *driver, tpi_object *object, const void *data, size_t length);
int64_t tpi_readiness_offer_pieces(tpi_driver *driver, tpi_object *object, const struct iovec *pieces, size_t count);
int64_t tpi_readiness_send(tpi_driver *driver, tpi_object *object, const tpi_message *message);
void tpi_readiness_flush(tpi_driver *driver);
int tpi_readiness_watch(tpi_driver *driver, tpi_object *object, int fd, unsigned events);
void tpi_readiness_unwatch(tpi_driver *driver, tpi_object *object);
int tpi_readiness_query(tpi_driver *driver, const tpi_object *object, tpi_query what, void *answer);
int tpi_readiness_wait(tpi_driver *driver, int64_t timeout_ns);
bool tpi_readiness_dispatch(tpi_driver *driver);
void tpi_readiness_wake(tpi_driver *driver);
void tpi_readiness_each(tpi_driver *driver, void (*visit)(tpi_object *object, void *argument), void *argument);

#endif
