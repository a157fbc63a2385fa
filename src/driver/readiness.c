/*
 * The core of the readiness emulation: which object a descriptor stands for, what is left to deliver, and one
 * dispatch. It never blocks, and calls up from dispatch alone.
 *
 * Interest is persistent and edge-triggered for our own sockets, with what is ready remembered in object->bits: try
 * first, sleep after. An object's memory may go only at closed() or released(), which come from the list of objects
 * with something left and never in the middle of a batch, so a pointer taken from the table stays good meanwhile.
 */
#include "driver/readiness_inside.h"
#include "driver/system.h"
#include "base/alloc.h"
#include <unistd.h>

/* So many events of older generations in a row mean a registration that we can no longer name: see tpi_readiness_event. */
#define STALE_LIMIT 64

static const uint32_t stream_events = POLLIN | POLLOUT | POLLPRI | POLLRDHUP;

int tpi_readiness_init(tpi_readiness *readiness, const tpi_driver_ops *ops, const tpi_poller *poller,
                       const tpi_driver_options *options) {
    readiness->driver.ops = ops;
    readiness->driver.realloc = options->realloc;
    readiness->poller = poller;
    readiness->read_budget = options->read_budget;
    readiness->scratch_bytes = options->read_bytes;
    readiness->scratch = options->realloc(NULL, options->read_bytes);
    if (readiness->scratch == NULL) {
        return TEPAL_ENOMEM;
    }
    readiness->wake_fd = tpi_wake_open();
    if (readiness->wake_fd < 0) {
        tpi_free(options->realloc, readiness->scratch);
        return readiness->wake_fd;
    }
    int code = tpi_slot_reserve(readiness, readiness->wake_fd); /* its events are looked up like all others */
    if (code < 0) {
        close(readiness->wake_fd);
        tpi_free(options->realloc, readiness->scratch);
        return code;
    }
    tpi_offload_init(&readiness->offload, &readiness->driver, options->threads);
    readiness->driver.pool = &readiness->offload;
    return 0;
}

static void free_memory(tpi_readiness *readiness) {
    tpi_realloc allocate = readiness->driver.realloc;
    close(readiness->wake_fd);
    tpi_held_free_all(readiness);
    tpi_free(allocate, readiness->slots);
    tpi_free(allocate, readiness->scratch);
}

/* A watch ends silently, and may be started elsewhere. */
static void end_watches(tpi_readiness *readiness) {
    for (uint32_t fd = 0; fd < readiness->slot_count; fd++) {
        tpi_object *object = readiness->slots[fd].object;
        if (object != NULL && object->kind == TPI_WATCH) {
            object->fd = -1;
            object->kind = 0;
            object->bits = 0;
            readiness->slots[fd].object = NULL;
        }
    }
}

void tpi_readiness_destroy(tpi_readiness *readiness) {
    tpi_offload_destroy(&readiness->offload);
    end_watches(readiness);
    free_memory(readiness);
}

static void abandon_object(tpi_object *object) {
    if (object->fd >= 0 && !object->borrowed) {
        close(object->fd);
    }
    if (object->up->abandoned != NULL) {
        object->up->abandoned(object); /* its memory goes */
    }
}

void tpi_readiness_abandon(tpi_readiness *readiness) {
    tpi_offload_abandon(&readiness->offload);
    end_watches(readiness);
    while (readiness->first != NULL) {
        tpi_object *object = readiness->first;
        readiness->first = object->next;
        if (object->bits & (TPI_SAY_CLOSED | TPI_SAY_RELEASED)) {
            abandon_object(object); /* the others are in the table as well */
        }
    }
    for (uint32_t fd = 0; fd < readiness->slot_count; fd++) {
        if (readiness->slots[fd].object != NULL) {
            abandon_object(readiness->slots[fd].object);
        }
    }
    free_memory(readiness);
}

int tpi_readiness_after_fork(tpi_readiness *readiness) {
    tpi_offload_after_fork(&readiness->offload);
    /* The eventfd is shared with the parent, whose wake-ups we would eat. The number stays: nothing learns a new one. */
    return tpi_wake_renew(readiness->wake_fd);
}

/* The table: descriptors and generations */

int tpi_slot_reserve(tpi_readiness *readiness, int fd) {
    if ((uint32_t)fd < readiness->slot_count) {
        return 0;
    }
    uint32_t count = readiness->slot_count == 0 ? 64 : readiness->slot_count;
    while (count <= (uint32_t)fd) {
        count *= 2;
    }
    tpi_slot *slots = readiness->driver.realloc(readiness->slots, count * sizeof *slots);
    if (slots == NULL) {
        return TEPAL_ENOMEM;
    }
    for (uint32_t number = readiness->slot_count; number < count; number++) {
        slots[number] = (tpi_slot){.object = NULL, .tag = number};
    }
    readiness->slots = slots;
    readiness->slot_count = count;
    return 0;
}

int tpi_slot_take(tpi_readiness *readiness, tpi_object *object, int fd) {
    int code = tpi_slot_reserve(readiness, fd);
    if (code < 0) {
        return code;
    }
    tpi_slot *slot = &readiness->slots[fd];
    if (slot->object != NULL) {
        if (slot->object->kind != TPI_WATCH || object->kind == TPI_WATCH) {
            return TEPAL_EBUSY;
        }
        /* A watched descriptor was closed behind our back, and its number came back as one of our own sockets. */
        tpi_watch_forget(readiness, slot->object);
    }
    slot->object = object;
    slot->tag += TPI_GENERATION;
    object->fd = fd;
    return 0;
}

void tpi_slot_leave(tpi_readiness *readiness, const tpi_object *object) {
    tpi_slot *slot = &readiness->slots[object->fd];
    slot->object = NULL;
    slot->tag += TPI_GENERATION;
}

/* Registration with the poller */

uint32_t tpi_readiness_interest(const tpi_readiness *readiness, const tpi_object *object) {
    uint32_t bits = object->bits;
    switch (object->kind) {
    case TPI_LISTENER:
        return bits & TPI_ACCEPTING ? POLLIN : 0;
    case TPI_WATCH:
        return (bits >> TPI_EVENTS_SHIFT & TEPAL_READABLE ? POLLIN : 0) |
               (bits >> TPI_EVENTS_SHIFT & TEPAL_WRITABLE ? POLLOUT : 0);
    default:
        if (!readiness->poller->levels) {
            return stream_events;
        }
        return ((bits & (TPI_WANT_READ | TPI_READABLE)) == TPI_WANT_READ ? POLLIN : 0) |
               (bits & TPI_CONNECTING || object->sending != NULL ? POLLOUT : 0);
    }
}

int tpi_readiness_register(tpi_readiness *readiness, tpi_object *object) {
    uint32_t events = tpi_readiness_interest(readiness, object);
    bool edge = object->kind == TPI_STREAM;
    int code = readiness->poller->add(readiness, object->fd, events, edge, tpi_readiness_tag(readiness, object->fd));
    if (code >= 0) {
        object->bits |= TPI_REGISTERED;
    }
    return code;
}

void tpi_readiness_unregister(tpi_readiness *readiness, tpi_object *object) {
    if (object->bits & TPI_REGISTERED) {
        object->bits &= ~(uint32_t)TPI_REGISTERED;
        readiness->poller->remove(readiness, object->fd);
    }
}

void tpi_readiness_update(tpi_readiness *readiness, const tpi_object *object) {
    if (readiness->poller->levels && object->bits & TPI_REGISTERED) {
        /* Changing what is there needs no memory. */
        (void)readiness->poller->change(readiness, object->fd, tpi_readiness_interest(readiness, object),
                                        tpi_readiness_tag(readiness, object->fd));
    }
}

int tpi_readiness_register_all(tpi_readiness *readiness, int poller_fd) {
    for (uint32_t fd = 0; fd < readiness->slot_count; fd++) {
        tpi_object *object = readiness->slots[fd].object;
        if (object == NULL || !(object->bits & TPI_REGISTERED)) {
            continue;
        }
        int code = tpi_readiness_register(readiness, object);
        bool is_gone = code == TEPAL_EBADF || code == TEPAL_EPERM || (code < 0 && object->fd == poller_fd);
        if (is_gone && object->kind == TPI_WATCH) {
            /* Closed behind our back, and perhaps a regular file now, or the new poller itself. */
            tpi_watch_forget(readiness, object);
        } else if (code < 0) {
            return code;
        }
    }
    return 0;
}

/* The list of objects with something left to deliver */

void tpi_readiness_list(tpi_readiness *readiness, tpi_object *object) {
    if (object->bits & TPI_LISTED) {
        return;
    }
    object->bits |= TPI_LISTED;
    object->next = NULL;
    if (readiness->first == NULL) {
        readiness->first = object;
    } else {
        readiness->last->next = object;
    }
    readiness->last = object;
    readiness->driver.backlog = true;
}

static void deliver_last_word(tpi_readiness *readiness, tpi_object *object) {
    readiness->driver.objects--;
    if (object->bits & TPI_SAY_CLOSED) {
        object->up->closed(object);
        return;
    }
    int fd = object->fd;
    size_t length = 0;
    tpi_held *held = tpi_held_take(readiness, object);
    const uint8_t *bytes = tpi_held_bytes(held, &length);
    object->fd = -1;
    object->kind = 0;
    object->up->released(object, fd, bytes, length);
    tpi_held_free(readiness, held);
}

static void deliver_what_is_left(tpi_readiness *readiness, tpi_object *object) {
    object->bits &= ~(uint32_t)TPI_LISTED;
    if (object->bits & (TPI_SAY_CLOSED | TPI_SAY_RELEASED)) {
        deliver_last_word(readiness, object);
    } else if (object->bits & TPI_SAY_STOPPED) {
        object->bits &= ~(uint32_t)TPI_SAY_STOPPED;
        object->up->accept_stopped(object);
    } else if (object->kind == TPI_LISTENER && object->bits & TPI_START_AGAIN) { /* of a stream the bit says "fresh" */
        tpi_readiness_accept_again(readiness, object);
    } else {
        tpi_stream_go_on(readiness, object);
    }
}

static __attribute__((noinline)) void deliver_list(tpi_readiness *readiness, const tpi_object *end) {
    while (end != NULL && !readiness->driver.interrupted) {
        tpi_object *object = readiness->first;
        readiness->first = object->next;
        if (object == end) {
            end = NULL;
        }
        deliver_what_is_left(readiness, object);
    }
}

bool tpi_readiness_dispatch(tpi_driver *driver) {
    tpi_readiness *readiness = (tpi_readiness *)driver;
    const tpi_object *end = readiness->first == NULL ? NULL : readiness->last;
    readiness->dispatches++;
    readiness->poller->deliver(readiness);
    if (end != NULL) {
        /* Only what was left before this dispatch: what it adds waits for the next one, so nobody can keep us here. */
        deliver_list(readiness, end);
    }
    bool has_done = tpi_offload_has_done(&readiness->offload);
    if (has_done && !driver->interrupted) {
        tpi_offload_dispatch(&readiness->offload);
        has_done = tpi_offload_has_done(&readiness->offload);
    }
    driver->backlog = readiness->first != NULL || has_done || driver->interrupted;
    return driver->backlog;
}

/* Events */

static unsigned watch_events(const tpi_object *object, uint32_t events) {
    unsigned wanted = object->bits >> TPI_EVENTS_SHIFT;
    unsigned ready = 0;
    if (events & ~(uint32_t)POLLOUT) {
        ready |= TEPAL_READABLE; /* a hang-up or an error is for the reader ... */
    }
    if (events & (POLLOUT | POLLHUP | POLLERR)) {
        ready |= TEPAL_WRITABLE; /* ... and for the writer */
    }
    return ready & wanted;
}

/*
 * An event that belongs to nobody: a registration of an earlier owner of the number. Edges of that kind pass by
 * themselves; a level that stays (a foreign descriptor closed behind our back while a duplicate lives in a child) would
 * spin for ever, and can no longer be removed by name, so the whole set is made anew.
 */
static void stale_event(tpi_readiness *readiness) {
    if (++readiness->stale >= STALE_LIMIT && readiness->poller->rebuild != NULL) {
        readiness->stale = 0;
        (void)readiness->poller->rebuild(readiness);
    }
}

void tpi_readiness_event(tpi_readiness *readiness, uint64_t tag, uint32_t events) {
    const tpi_slot *slot = &readiness->slots[(uint32_t)tag];
    tpi_object *object = slot->object;
    if (__builtin_expect(slot->tag != tag || object == NULL, 0)) {
        if (tag != TPI_WAKE_TAG(readiness->wake_fd)) {
            stale_event(readiness);
        }
        return;
    }
    readiness->stale = 0;
    if (__builtin_expect(object->kind == TPI_STREAM, 1)) {
        tpi_stream_event(readiness, object, events);
    } else if (object->kind == TPI_LISTENER) {
        tpi_readiness_accept(readiness, object);
    } else if (events & POLLNVAL) {
        tpi_watch_forget(readiness, object);
    } else {
        unsigned ready = watch_events(object, events);
        if (ready != 0) {
            object->up->ready(object, ready);
        }
    }
}

/* Waiting, and the sources of what is not a pure function */

int tpi_readiness_wait(tpi_driver *driver, int64_t timeout_ns) {
    tpi_readiness *readiness = (tpi_readiness *)driver;
    return readiness->poller->wait(readiness, timeout_ns);
}

void tpi_readiness_wake(tpi_driver *driver) {
    tpi_wake_send(((tpi_readiness *)driver)->wake_fd);
}

void tpi_readiness_flush(tpi_driver *driver) {
    (void)driver; /* nothing is queued: send has sent */
}

void tpi_readiness_each(tpi_driver *driver, void (*visit)(tpi_object *object, void *argument), void *argument) {
    tpi_readiness *readiness = (tpi_readiness *)driver;
    for (uint32_t fd = 0; fd < readiness->slot_count; fd++) {
        tpi_object *object = readiness->slots[fd].object;
        if (object != NULL && object->kind != TPI_WATCH) {
            visit(object, argument);
        }
    }
}
