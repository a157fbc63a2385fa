/*
 * A driver that completes late: epoll, but nothing is done within the call that asked for it. What a driver over
 * completions (io_uring) does now and then, this one does always, so that what stands above learns to live with it.
 *
 * send: PENDING, and the message is held, and looked at again when it completes; an offer, which may not be held, takes
 * nothing. connect: PENDING even where it succeeded at once. close: the descriptor stays open for a dispatch, and the
 * message in flight is looked at once more before. Tests choose it by its name, "late".
 */
#include "driver/epoll.h"
#include "driver/readiness_inside.h"
#include "harness/test.h"

#include <pthread.h>
#include <stdlib.h>

typedef enum { LATE_SEND, LATE_CONNECT, LATE_CLOSE } late_operation;

/* At most one for each object. */
typedef struct deferred {
    struct deferred *next;
    tpi_object *object;
    late_operation operation;
    const tpi_message *message; /* in flight, or NULL */
    uint8_t kind;               /* of an object that is being closed */
    uint64_t since;             /* the dispatch before which it was asked for */
} deferred;

typedef struct late {
    struct late *next;
    const tpi_driver *driver;
    deferred *first, **end;
    uint64_t dispatches;
} late;

static tpi_driver_ops late_driver;

/* The driver's own struct has no room for more, so what belongs to it is found in a list. */
static late *all;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static late *of(const tpi_driver *driver) {
    pthread_mutex_lock(&mutex);
    late *found = all;
    while (found->driver != driver) {
        found = found->next;
    }
    pthread_mutex_unlock(&mutex);
    return found;
}

static void forget(const tpi_driver *driver) {
    pthread_mutex_lock(&mutex);
    late **link = &all;
    while ((*link)->driver != driver) {
        link = &(*link)->next;
    }
    late *self = *link;
    *link = self->next;
    pthread_mutex_unlock(&mutex);
    while (self->first != NULL) {
        deferred *next = self->first->next;
        free(self->first);
        self->first = next;
    }
    free(self);
}

static deferred *find(const late *self, const tpi_object *object) {
    deferred *entry = self->first;
    while (entry != NULL && entry->object != object) {
        entry = entry->next;
    }
    return entry;
}

static void take_out(late *self, deferred *entry) {
    deferred **link = &self->first;
    while (*link != entry) {
        link = &(*link)->next;
    }
    *link = entry->next;
    if (entry->next == NULL) {
        self->end = link;
    }
}

/* Note an operation; one that is under way on the same object makes room for it. */
static deferred *defer(tpi_driver *driver, tpi_object *object, late_operation operation) {
    late *self = of(driver);
    deferred *entry = find(self, object);
    if (entry != NULL) {
        take_out(self, entry);
    } else {
        entry = malloc(sizeof *entry);
        CHECK(entry != NULL);
    }
    *entry = (deferred){.object = object, .operation = operation, .since = self->dispatches};
    *self->end = entry;
    self->end = &entry->next;
    driver->backlog = true;
    return entry;
}

/* Read every byte of a message, so that AddressSanitizer sees one that is gone too soon. */
static void look_at(const tpi_message *message) {
    static atomic_uint sum;
    unsigned own = 0;
    for (size_t i = 0; message != NULL && i < message->count; i++) {
        const uint8_t *bytes = message->pieces[i].iov_base;
        for (size_t at = 0; at < message->pieces[i].iov_len; at++) {
            own += bytes[at];
        }
    }
    atomic_fetch_add(&sum, own);
}

/* ---- What is done late ---- */

static int64_t late_offer(tpi_driver *driver, tpi_object *object, const void *data, size_t length) {
    (void)driver;
    (void)object;
    (void)data;
    (void)length;
    return TPI_PENDING;
}

static int64_t late_offer_pieces(tpi_driver *driver, tpi_object *object, const struct iovec *pieces, size_t count) {
    (void)driver;
    (void)object;
    (void)pieces;
    (void)count;
    return TPI_PENDING;
}

static int64_t late_send(tpi_driver *driver, tpi_object *object, const tpi_message *message) {
    look_at(message);
    defer(driver, object, LATE_SEND)->message = message;
    object->sending = message;
    return TPI_PENDING;
}

static int late_connect(tpi_driver *driver, tpi_object *object, const tepal_address *address) {
    int code = tpi_readiness_connect(driver, object, address);
    if (code != 0) {
        return code;
    }
    defer(driver, object, LATE_CONNECT);
    return TPI_PENDING;
}

static void late_close(tpi_driver *driver, tpi_object *object) {
    const tpi_message *message = object->sending;
    if (object->kind == TPI_LISTENER) {
        tpi_readiness_unregister((tpi_readiness *)driver, object);
    }
    deferred *entry = defer(driver, object, LATE_CLOSE);
    entry->message = message;
    entry->kind = object->kind;
    object->sending = NULL;
    object->kind = 0;
    object->bits &= ~(uint32_t)(TPI_WANT_READ | TPI_CONNECTING | TPI_ACCEPTING | TPI_SAY_STOPPED | TPI_START_AGAIN);
    object->bits &= (UINT32_C(1) << TPI_EVENTS_SHIFT) - 1; /* of no kind, it could be taken for a watch */
}

static void late_release(tpi_driver *driver, tpi_object *object) {
    late *self = of(driver);
    deferred *entry = find(self, object);
    if (entry != NULL) {
        look_at(object->sending); /* the entry's own message may have been sent meanwhile, and be gone */
        take_out(self, entry);
        free(entry);
    }
    object->sending = NULL;
    tpi_readiness_release(driver, object);
}

static void complete(tpi_driver *driver, const deferred *entry) {
    tpi_object *object = entry->object;
    look_at(entry->message);
    switch (entry->operation) {
    case LATE_SEND:
        object->sending = NULL;
        int64_t sent = tpi_readiness_send(driver, object, entry->message);
        if (sent != TPI_PENDING) {
            object->up->sent(object, sent);
        }
        break;
    case LATE_CONNECT:
        object->up->connected(object, 0);
        break;
    case LATE_CLOSE:
        object->kind = entry->kind;
        tpi_readiness_close(driver, object);
        break;
    }
}

static bool late_dispatch(tpi_driver *driver) {
    late *self = of(driver);
    self->dispatches++;
    while (self->first != NULL && self->first->since + 1 < self->dispatches && !driver->interrupted) {
        deferred *entry = self->first;
        take_out(self, entry);
        /* A socket that came to be writable meanwhile may have taken it already: then it is no longer in flight. */
        if (entry->operation != LATE_SEND || entry->object->sending == entry->message) {
            complete(driver, entry);
        }
        free(entry);
    }
    bool more = tpi_readiness_dispatch(driver);
    driver->backlog = more || self->first != NULL;
    return driver->backlog;
}

typedef struct visitor {
    late *self;
    void (*visit)(tpi_object *object, void *argument);
    void *argument;
} visitor;

static void visit_open(tpi_object *object, void *argument) {
    visitor *self = argument;
    const deferred *entry = find(self->self, object);
    if (entry == NULL || entry->operation != LATE_CLOSE) {
        self->visit(object, self->argument);
    }
}

static void late_each(tpi_driver *driver, void (*visit)(tpi_object *object, void *argument), void *argument) {
    visitor self = {.self = of(driver), .visit = visit, .argument = argument};
    tpi_readiness_each(driver, visit_open, &self);
}

/* ---- Its life ---- */

static int late_create(tpi_driver **driver, const tpi_driver_options *options) {
    int code = tpi_epoll_driver.create(driver, options);
    if (code < 0) {
        return code;
    }
    late *self = calloc(1, sizeof *self);
    CHECK(self != NULL);
    self->driver = *driver;
    self->end = &self->first;
    (*driver)->ops = &late_driver;
    (*driver)->completes = true;
    pthread_mutex_lock(&mutex);
    self->next = all;
    all = self;
    pthread_mutex_unlock(&mutex);
    return 0;
}

static void late_destroy(tpi_driver *driver) {
    forget(driver);
    tpi_epoll_driver.destroy(driver);
}

static void late_abandon(tpi_driver *driver) {
    forget(driver);
    tpi_epoll_driver.abandon(driver);
}

__attribute__((constructor)) static void offer_late_driver(void) {
    late_driver = tpi_epoll_driver;
    late_driver.name = "late";
    late_driver.create = late_create;
    late_driver.destroy = late_destroy;
    late_driver.abandon = late_abandon;
    late_driver.offer = late_offer;
    late_driver.offer_pieces = late_offer_pieces;
    late_driver.send = late_send;
    late_driver.connect = late_connect;
    late_driver.close = late_close;
    late_driver.release = late_release;
    late_driver.dispatch = late_dispatch;
    late_driver.each = late_each;
    tpi_extra_driver = &late_driver;
}
