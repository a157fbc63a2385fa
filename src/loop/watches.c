/*
 * Foreign descriptors: intrusive watches, and readers and writers kept in watches of our own. A watch's object lives
 * in the watch, so starting one allocates nothing here.
 */
#include "loop/loop.h"

/* What tepal_watch.reserved holds. */
typedef struct tpi_watch {
    tpi_object object;
    tepal_loop *loop;
    tepal_watch *watch;
} tpi_watch;

_Static_assert(sizeof(tpi_watch) <= sizeof((tepal_watch *)0)->reserved, "a watch's inside fits");

static tpi_watch *inside(tepal_watch *watch) {
    return (tpi_watch *)(void *)watch->reserved;
}

static void watch_ready(tpi_object *object, unsigned events) {
    tpi_watch *self = (tpi_watch *)object;
    tepal_loop *loop = self->loop;
    int64_t began = loop->debug ? tpi_debug_begin(loop) : 0;
    self->watch->ready(self->watch, events); /* the watch may be gone after this */
    tpi_loop_flush(loop);
    if (loop->debug) {
        tpi_debug_end(loop, began, "a watch");
    }
}

static const tpi_upcalls watch_upcalls = {.ready = watch_ready};

int tepal_watch_start(tepal_loop *loop, tepal_watch *watch, unsigned events) {
    int code = tpi_loop_check(loop);
    if (code < 0) {
        return code;
    }
    if (events == 0 || events > (TEPAL_READABLE | TEPAL_WRITABLE) || watch->ready == NULL) {
        return TEPAL_EINVAL;
    }
    tpi_watch *self = inside(watch);
    self->object.up = &watch_upcalls;
    self->loop = loop;
    self->watch = watch;
    code = loop->driver->ops->watch(loop->driver, &self->object, watch->fd, events);
    if (code == 0) {
        watch->events = events;
    }
    return code;
}

int tepal_watch_stop(tepal_loop *loop, tepal_watch *watch) {
    int code = tpi_loop_check(loop);
    if (code == TEPAL_ETHREAD) {
        return code;
    }
    if (watch->events == 0) {
        return TEPAL_ENOENT;
    }
    watch->events = 0;
    if (code == 0) { /* else it has ended with the loop */
        loop->driver->ops->unwatch(loop->driver, &inside(watch)->object);
    }
    return 0;
}

/* Readers and writers: one of these for each descriptor that has any. */
typedef struct tpi_callbacks {
    tepal_watch watch; /* first */
    struct tpi_callbacks *next;
    tepal_loop *loop;
    tepal_callback run[2]; /* of the reader, of the writer; NULL: none */
    void *argument[2];
} tpi_callbacks;

enum { READER, WRITER };

struct tpi_watches {
    size_t bucket_count; /* a power of two */
    size_t count;
    tpi_callbacks **buckets; /* by descriptor */
};

static tpi_callbacks **find(tpi_watches *watches, int fd) {
    tpi_callbacks **link = &watches->buckets[(unsigned)fd & (watches->bucket_count - 1)];
    while (*link != NULL && (*link)->watch.fd != fd) {
        link = &(*link)->next;
    }
    return link;
}

static int reserve(tepal_loop *loop) {
    tpi_watches *watches = loop->watches;
    if (watches == NULL) {
        watches = tpi_alloc_zero(loop->realloc, sizeof *watches);
        if (watches == NULL) {
            return TEPAL_ENOMEM;
        }
        loop->watches = watches;
    }
    if (watches->count < watches->bucket_count) {
        return 0;
    }
    tpi_watches grown = {.bucket_count = watches->bucket_count == 0 ? 16 : watches->bucket_count * 2};
    grown.buckets = tpi_alloc_zero(loop->realloc, grown.bucket_count * sizeof(tpi_callbacks *));
    if (grown.buckets == NULL) {
        return TEPAL_ENOMEM;
    }
    for (size_t i = 0; i < watches->bucket_count; i++) {
        for (tpi_callbacks *entry = watches->buckets[i], *next; entry != NULL; entry = next) {
            next = entry->next;
            tpi_callbacks **link = find(&grown, entry->watch.fd);
            entry->next = NULL;
            *link = entry;
        }
    }
    tpi_free(loop->realloc, watches->buckets);
    grown.count = watches->count;
    *watches = grown;
    return 0;
}

void tpi_watches_free(tepal_loop *loop) {
    tpi_watches *watches = loop->watches;
    if (watches == NULL) {
        return;
    }
    for (size_t i = 0; i < watches->bucket_count; i++) {
        for (tpi_callbacks *entry = watches->buckets[i], *next; entry != NULL; entry = next) {
            next = entry->next;
            tpi_free(loop->realloc, entry);
        }
    }
    tpi_free(loop->realloc, watches->buckets);
    tpi_free(loop->realloc, watches);
    loop->watches = NULL;
}

static unsigned events_of(const tpi_callbacks *entry) {
    return (entry->run[READER] != NULL ? TEPAL_READABLE : 0u) | (entry->run[WRITER] != NULL ? TEPAL_WRITABLE : 0u);
}

static void callbacks_ready(tepal_watch *watch, unsigned events) {
    tpi_callbacks *entry = (tpi_callbacks *)watch;
    tepal_loop *loop = entry->loop;
    int fd = watch->fd;
    if (events & TEPAL_READABLE && entry->run[READER] != NULL) {
        entry->run[READER](entry->argument[READER]);
        tpi_loop_flush(loop);
        if (loop->phase != TPI_PHASE_OPEN || *find(loop->watches, fd) != entry || loop->interrupted) {
            return; /* removed, or told to leave right after: level-triggered, so the writer will be asked again */
        }
    }
    if (events & TEPAL_WRITABLE && entry->run[WRITER] != NULL) {
        entry->run[WRITER](entry->argument[WRITER]);
    }
}

static int set_callback(tepal_loop *loop, int fd, int which, tepal_callback run, void *argument) {
    int code = tpi_loop_check(loop);
    if (code == 0) {
        code = fd < 0 ? TEPAL_EBADF : run == NULL ? TEPAL_EINVAL : reserve(loop);
    }
    if (code < 0) {
        return code;
    }
    tpi_callbacks **link = find(loop->watches, fd);
    tpi_callbacks *entry = *link;
    if (entry == NULL) {
        entry = tpi_alloc_zero(loop->realloc, sizeof *entry);
        if (entry == NULL) {
            return TEPAL_ENOMEM;
        }
        entry->watch = (tepal_watch){.fd = fd, .ready = callbacks_ready};
        entry->loop = loop;
    }
    unsigned events = events_of(entry) | (which == READER ? TEPAL_READABLE : TEPAL_WRITABLE);
    code = tepal_watch_start(loop, &entry->watch, events);
    if (code < 0) {
        if (*link == NULL) {
            tpi_free(loop->realloc, entry);
        }
        return code;
    }
    if (*link == NULL) {
        *link = entry;
        loop->watches->count++;
    }
    entry->run[which] = run;
    entry->argument[which] = argument;
    return 0;
}

static int remove_callback(tepal_loop *loop, int fd, int which) {
    if (tpi_loop_check(loop) < 0 || loop->watches == NULL || loop->watches->bucket_count == 0 || fd < 0) {
        return 0;
    }
    tpi_callbacks **link = find(loop->watches, fd);
    tpi_callbacks *entry = *link;
    if (entry == NULL || entry->run[which] == NULL) {
        return 0;
    }
    entry->run[which] = NULL;
    unsigned events = events_of(entry);
    if (events != 0) {
        (void)tepal_watch_start(loop, &entry->watch, events); /* EBADF: closed behind our back, and nothing to watch */
        return 1;
    }
    tepal_watch_stop(loop, &entry->watch);
    *link = entry->next;
    loop->watches->count--;
    tpi_free(loop->realloc, entry);
    return 1;
}

int tepal_loop_add_reader(tepal_loop *loop, int fd, tepal_callback run, void *argument) {
    return set_callback(loop, fd, READER, run, argument);
}

int tepal_loop_add_writer(tepal_loop *loop, int fd, tepal_callback run, void *argument) {
    return set_callback(loop, fd, WRITER, run, argument);
}

int tepal_loop_remove_reader(tepal_loop *loop, int fd) {
    return remove_callback(loop, fd, READER);
}

int tepal_loop_remove_writer(tepal_loop *loop, int fd) {
    return remove_callback(loop, fd, WRITER);
}
