/*
 * The io_uring driver. The kernel receives and accepts by itself once it has been asked (multishot), into buffers that
 * it was lent; everything else is queued and submitted by the wait of each turn, in one system call.
 *
 * An object's memory may go only at closed() or released(), which come from the list of objects with something left
 * once the kernel has no operation of it: a completion that is delivered finds its object alive.
 */
#include "driver/uring.h"
#include "driver/uring_inside.h"
#include "base/alloc.h"
#include <unistd.h>

#define ENTRIES 256
#define BUFFERS 64
#define BUFFER_BYTES 65536 /* a long message is one upcall, and its answer one call */

/* The list of objects with something left to deliver */

void tpi_uring_list(tpi_uring *uring, tpi_object *object) {
    if (object->bits & TPI_LISTED) {
        return;
    }
    object->bits |= TPI_LISTED;
    object->next = NULL;
    if (uring->first == NULL) {
        uring->first = object;
    } else {
        uring->last->next = object;
    }
    uring->last = object;
    uring->driver.backlog = true;
}

static void deliver_what_is_left(tpi_uring *uring, tpi_object *object) {
    object->bits &= ~(uint32_t)TPI_LISTED;
    if (object->bits & TPI_LAST_WORD) {
        tpi_uring_say_last_word(uring, object);
    } else if (object->bits & (TPI_CLOSING | TPI_RELEASING)) {
        tpi_uring_wind_up(uring, object);
    } else if (object->bits & TPI_LISTENS) {
        tpi_uring_listener_go_on(uring, object);
    } else {
        tpi_uring_stream_go_on(uring, object);
    }
}

/* Completions */

/* Of nobody who is left: the number has another owner. What it brought goes where it came from. */
static __attribute__((noinline)) void deliver_stale(tpi_uring *uring, tpi_uring_operation operation, int result,
                                                    uint32_t flags) {
    if (operation == TPI_URING_ACCEPT && result >= 0 && !tpi_uring_polls_listeners(uring)) {
        close(result);
    }
    if (flags & IORING_CQE_F_BUFFER && !uring->is_past) {
        const uint16_t buffer = (uint16_t)(flags >> IORING_CQE_BUFFER_SHIFT);
        tpi_uring_give_back(uring, buffer, tpi_uring_buffer(uring, uring->buffers, buffer));
    }
}

static __attribute__((noinline)) void deliver_rare(tpi_uring *uring, tpi_object *object, tpi_uring_operation operation,
                                                   int result, uint32_t flags) {
    if (operation == TPI_URING_ACCEPT) {
        tpi_uring_accepted(uring, object, result, flags);
    } else {
        tpi_uring_connected(uring, object, result);
    }
}

/* Of the driver's own. */
static __attribute__((noinline)) void deliver_own(tpi_uring *uring, tpi_uring_operation operation, uint32_t flags) {
    if (operation == TPI_URING_WAKE && !(flags & IORING_CQE_F_MORE) && !uring->is_past) {
        uring->must_poll_wake = !tpi_uring_poll_wake(uring);
    } else if (operation == TPI_URING_WATCHES && !uring->is_past) {
        uring->is_polling = false;
        tpi_uring_watches_ready(uring);
    } else if (operation == TPI_URING_ROOM && !uring->is_past) {
        uring->is_polling_room = false;
        tpi_uring_room_ready(uring);
    }
}

static __attribute__((always_inline)) inline void deliver(tpi_uring *uring, bool is_past, uint64_t tag, int result,
                                                          uint32_t flags) {
    const tpi_uring_operation operation = (tpi_uring_operation)(tag >> TPI_URING_OPERATION_SHIFT);
    if (__builtin_expect(operation - TPI_URING_RECEIVE > TPI_URING_ACCEPT - TPI_URING_RECEIVE, 0)) {
        deliver_own(uring, operation, flags);
        return;
    }
    tpi_object *object = tpi_uring_object(uring, tag);
    if (__builtin_expect(object == NULL, 0)) {
        deliver_stale(uring, operation, result, flags);
    } else if (is_past && operation == TPI_URING_RECEIVE) {
        tpi_uring_received_in_general(uring, object, result, flags);
    } else if (operation == TPI_URING_RECEIVE) {
        tpi_uring_received(uring, object, result, flags);
        tpi_driver_flush_old(&uring->driver);
    } else if (operation == TPI_URING_SEND) {
        tpi_uring_sent(uring, object, result);
    } else {
        deliver_rare(uring, object, operation, result, flags);
    }
}

static __attribute__((noinline)) void deliver_past(tpi_uring *uring) {
    while (uring->past != NULL && !uring->driver.interrupted) {
        tpi_uring_past *past = uring->past;
        uring->is_past = true;
        while (past->first < past->count && !uring->driver.interrupted) {
            const struct io_uring_cqe *completion = &past->completions[past->first++];
            deliver(uring, true, completion->user_data, completion->res, completion->flags);
        }
        uring->is_past = false;
        if (past->first == past->count) {
            uring->past = past->next;
            tpi_uring_free_past(uring, past);
        }
    }
}

static void deliver_completions(tpi_uring *uring) {
    const struct io_uring_cqe *const completions = uring->ring.cq.cqes;
    const uint32_t mask = uring->ring.cq.ring_mask;
    const uint32_t tail = io_uring_smp_load_acquire(uring->ring.cq.ktail);
    for (uint32_t head = uring->head; head != tail && !uring->driver.interrupted;) {
        const struct io_uring_cqe *completion = &completions[head & mask];
        uring->head = ++head; /* who is called up may ask for what is left */
        deliver(uring, false, completion->user_data, completion->res, completion->flags);
    }
    tpi_uring_publish_buffers(uring);
    io_uring_smp_store_release(uring->ring.cq.khead, uring->head);
}

static bool has_left(const tpi_uring *uring) {
    return uring->first != NULL || uring->past != NULL || tpi_offload_has_done(&uring->offload) ||
           uring->driver.interrupted || uring->has_watches_left || uring->has_room_left || uring->must_poll_wake ||
           io_uring_smp_load_acquire(uring->ring.cq.ktail) != uring->head;
}

static bool dispatch(tpi_driver *driver) {
    tpi_uring *uring = (tpi_uring *)driver;
    const tpi_object *end = uring->first == NULL ? NULL : uring->last;
    uring->dispatches++;
    if (__builtin_expect(uring->past != NULL, 0)) {
        deliver_past(uring);
    }
    if (__builtin_expect(uring->has_watches_left && !driver->interrupted, 0)) {
        tpi_uring_watches_ready(uring);
    }
    if (__builtin_expect(uring->has_room_left, 0)) {
        tpi_uring_room_ready(uring);
    }
    if (__builtin_expect(uring->must_poll_wake, 0)) {
        uring->must_poll_wake = !tpi_uring_poll_wake(uring);
    }
    deliver_completions(uring);
    /* Only what was left before this dispatch: what it adds waits for the next one, so nobody can keep us here. */
    while (end != NULL && !driver->interrupted) {
        tpi_object *object = uring->first;
        uring->first = object->next;
        if (object == end) {
            end = NULL;
        }
        deliver_what_is_left(uring, object);
    }
    if (tpi_offload_has_done(&uring->offload) && !driver->interrupted) {
        tpi_offload_dispatch(&uring->offload);
    }
    driver->backlog = has_left(uring);
    return driver->backlog;
}

/* Exchanging rings */

void tpi_uring_note_end(tpi_uring *uring, const struct io_uring_cqe *completion) {
    static const uint32_t ends[] = {
        [TPI_URING_RECEIVE] = TPI_ENDS_RECEIVE,
        [TPI_URING_SEND] = TPI_ENDS_SEND,
        [TPI_URING_CONNECT] = TPI_ENDS_CONNECT,
        [TPI_URING_ACCEPT] = TPI_ENDS_RECEIVE,
    };
    const uint64_t tag = completion->user_data;
    const uint64_t operation = tag >> TPI_URING_OPERATION_SHIFT;
    if (operation < TPI_URING_RECEIVE || operation > TPI_URING_ACCEPT || completion->flags & IORING_CQE_F_MORE) {
        return;
    }
    tpi_object *object = tpi_uring_object(uring, tag);
    if (object != NULL) {
        object->bits |= ends[operation];
    }
}

void tpi_uring_ask_again(tpi_uring *uring, tpi_object *object) {
    const uint32_t bits = object->bits;
    const uint32_t going = (bits & TPI_ENDS_RECEIVE ? 0 : TPI_RECEIVING | TPI_CANCELING) |
                           (bits & TPI_ENDS_SEND ? 0 : TPI_SENDING | TPI_CANCEL_SEND) |
                           (bits & TPI_ENDS_CONNECT ? 0 : TPI_CONNECTING) | TPI_BLOCKED;
    object->bits &= ~(uint32_t)(going | TPI_ENDS_RECEIVE | TPI_ENDS_SEND | TPI_ENDS_CONNECT);
    tpi_uring_send_again(uring, object); /* at once: the loop may be about to close */
    tpi_uring_list(uring, object);       /* which begins what else is wanted and not under way */
}

/* Its life */

static int create(tpi_driver **driver, const tpi_driver_options *options) {
    tpi_uring *uring = tpi_alloc_zero(options->realloc, sizeof *uring);
    if (uring == NULL) {
        return TEPAL_ENOMEM;
    }
    uring->driver.ops = &tpi_uring_driver;
    uring->driver.realloc = options->realloc;
    uring->driver.completes = true;
    uring->room_fd = -1;
    uring->entries = options->ring_entries == 0 ? ENTRIES : options->ring_entries;
    uring->buffer_count = options->ring_buffers == 0 ? BUFFERS : options->ring_buffers;
    uring->buffer_bytes = options->ring_buffer_bytes != 0      ? options->ring_buffer_bytes
                          : options->read_bytes < BUFFER_BYTES ? options->read_bytes
                                                               : BUFFER_BYTES;
    uring->buffer_mask = uring->buffer_count - 1;
    uring->buffer_stride = TPI_URING_HEAD + uring->buffer_bytes;
    uring->headers = tpi_alloc_zero(options->realloc, uring->entries * sizeof *uring->headers);
    uring->wake_fd = uring->headers == NULL ? TEPAL_ENOMEM : tpi_wake_open();
    int code = uring->wake_fd < 0 ? uring->wake_fd : tpi_uring_open_ring(uring);
    if (code < 0) {
        if (uring->wake_fd >= 0) {
            close(uring->wake_fd);
        }
        tpi_free(options->realloc, uring->headers);
        tpi_free(options->realloc, uring);
        return code;
    }
    (void)tpi_uring_poll_wake(uring);
    tpi_offload_init(&uring->offload, &uring->driver, options->threads);
    uring->driver.pool = &uring->offload;
    *driver = &uring->driver;
    return 0;
}

static void free_memory(tpi_uring *uring) {
    tpi_realloc allocate = uring->driver.realloc;
    close(uring->wake_fd);
    tpi_uring_close_room(uring);
    tpi_free(allocate, uring->slots);
    tpi_free(allocate, uring->headers);
    tpi_free(allocate, uring);
}

static void destroy(tpi_driver *driver) {
    tpi_uring *uring = (tpi_uring *)driver;
    tpi_offload_destroy(&uring->offload);
    if (driver->inner != NULL) {
        driver->inner->ops->destroy(driver->inner);
    }
    tpi_uring_drop_past(uring);
    tpi_uring_close_ring(uring);
    free_memory(uring);
}

static void abandon_object(tpi_object *object) {
    if (object->fd >= 0 && !object->borrowed) {
        close(object->fd);
    }
    if (object->up->abandoned != NULL) {
        object->up->abandoned(object); /* its memory goes */
    }
}

static void abandon(tpi_driver *driver) {
    tpi_uring *uring = (tpi_uring *)driver;
    tpi_offload_abandon(&uring->offload);
    if (driver->inner != NULL) {
        driver->inner->ops->abandon(driver->inner);
    }
    while (uring->first != NULL) {
        tpi_object *object = uring->first;
        uring->first = object->next;
        if (object->bits & TPI_LAST_WORD) { /* the others are in the table as well */
            if (object->fd >= 0) {
                tpi_uring_free_held(uring, object);
            }
            abandon_object(object);
        }
    }
    for (uint32_t fd = 0; fd < uring->slot_count; fd++) {
        tpi_object *object = uring->slots[fd].object;
        if (object != NULL) {
            tpi_uring_free_held(uring, object);
            abandon_object(object);
        }
    }
    tpi_uring_drop_past(uring);
    tpi_uring_abandon_ring(uring);
    free_memory(uring);
}

static int after_fork(tpi_driver *driver) {
    tpi_uring *uring = (tpi_uring *)driver;
    tpi_offload_after_fork(&uring->offload);
    tpi_uring_close_room(uring); /* the parent's, too */
    for (uint32_t fd = 0; fd < uring->slot_count; fd++) {
        if (uring->slots[fd].object != NULL) {
            uring->slots[fd].object->spare &= (uint8_t)~TPI_IN_ROOM;
        }
    }
    int code = tpi_wake_renew(uring->wake_fd);
    if (code == 0 && driver->inner != NULL) {
        code = driver->inner->ops->after_fork(driver->inner);
    }
    return code < 0 ? code : tpi_uring_renew_in_child(uring);
}

static void wake(tpi_driver *driver) {
    tpi_wake_send(((tpi_uring *)driver)->wake_fd);
}

static void each(tpi_driver *driver, void (*visit)(tpi_object *object, void *argument), void *argument) {
    tpi_uring *uring = (tpi_uring *)driver;
    for (uint32_t fd = 0; fd < uring->slot_count; fd++) {
        tpi_object *object = uring->slots[fd].object;
        if (object != NULL && !(object->bits & (TPI_CLOSING | TPI_RELEASING))) {
            visit(object, argument);
        }
    }
}

const tpi_driver_ops tpi_uring_driver = {
    TPI_SYSTEM_OPS,
    .name = "uring",
    .create = create,
    .destroy = destroy,
    .abandon = abandon,
    .after_fork = after_fork,
    .open = tpi_uring_open,
    .adopt = tpi_uring_adopt,
    .release = tpi_uring_release,
    .close = tpi_uring_close,
    .accept_start = tpi_uring_accept_start,
    .accept_stop = tpi_uring_accept_stop,
    .connect = tpi_uring_connect,
    .read_start = tpi_uring_read_start,
    .read_stop = tpi_uring_read_stop,
    .offer = tpi_uring_offer,
    .offer_pieces = tpi_uring_offer_pieces,
    .send = tpi_uring_send,
    .flush = tpi_uring_flush,
    .leave = tpi_uring_leave,
    .watch = tpi_uring_watch,
    .unwatch = tpi_uring_unwatch,
    .query = tpi_uring_query,
    .wait = tpi_uring_wait,
    .dispatch = dispatch,
    .wake = wake,
    .poll_fd = tpi_uring_poll_fd,
    .each = each,
};
