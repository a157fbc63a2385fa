/*
 * What the files of the io_uring driver share: the ring, the table of descriptors, the buffers that the kernel fills,
 * and the state of an object.
 *
 *   uring.c          its life, one wait, one dispatch, the list of objects with something left
 *   uring_ring.c     the ring and its buffers: made, left by a thread, made anew for another one or in a child
 *   uring_stream.c   receiving, sending, connecting; bytes held for a paused reader
 *   uring_socket.c   opening, closing and releasing, accepting
 *   uring_room.c     waiting until a full socket has room
 *   uring_watch.c    foreign descriptors
 */
#ifndef TPI_URING_INSIDE_H
#define TPI_URING_INSIDE_H

#include <errno.h>
#include <liburing.h>
#include "driver/system.h"
#include <tepal/loop.h>

typedef struct tpi_uring tpi_uring;
typedef struct tpi_parcel tpi_parcel;

/*
 * What a completion belongs to. It is in its tag with the descriptor and the generation of the descriptor's slot, which
 * grows with every new owner, so that a late completion never reaches a stranger.
 */
typedef enum tpi_uring_operation {
    TPI_URING_NOBODY, /* of a cancellation, which says nothing that is not said elsewhere */
    TPI_URING_RECEIVE,
    TPI_URING_SEND,
    TPI_URING_CONNECT,
    TPI_URING_ACCEPT,
    TPI_URING_WAKE,
    TPI_URING_WATCHES,
    TPI_URING_ROOM
} tpi_uring_operation;

#define TPI_URING_OPERATION_SHIFT 56
#define TPI_URING_GENERATIONS UINT64_C(0xffffff)

/* What a descriptor's number stands for now. */
typedef struct tpi_uring_slot {
    tpi_object *object; /* NULL: none */
    tpi_parcel *held;   /* bytes received and not delivered, oldest first */
    uint64_t tag;       /* generation and descriptor, without an operation */
} tpi_uring_slot;

/* What an earlier ring, of another thread, had completed when it was given up. */
typedef struct tpi_uring_past {
    struct tpi_uring_past *next;
    uint8_t *buffers;
    uint32_t first, count;
    bool polled; /* for connections: tpi_uring_polls_listeners() */
    struct io_uring_cqe completions[];
} tpi_uring_past;

struct tpi_uring {
    tpi_driver driver; /* first; driver.inner watches the foreign descriptors */
    struct io_uring ring;
    uint8_t *buffers; /* buffer_count of buffer_bytes each, lent to the kernel for receiving */
    struct io_uring_buf_ring *buffer_ring;
    uint32_t buffer_count, buffer_bytes;
    uint32_t buffer_mask;   /* buffer_count - 1 */
    uint32_t buffer_stride; /* from one to the next */
    uint32_t leased;        /* buffers in which bytes are held */
    uint32_t spared;        /* buffers that the kernel is not to have now: uring_ring.c, "How many buffers" */
    uint16_t first_spare;   /* of those */
    uint32_t permits;       /* receives that found no buffer and may try again before the next wait */
    uint64_t batch_bytes;   /* received since buffers were published last */
    uint16_t buffer_tail;   /* of buffer_ring, with what is not published yet */
    uint32_t entries;       /* of the submission queue */
    uint32_t head;          /* of the completion queue: the next one to be delivered */
    bool is_enabled;        /* a thread has it */
    bool is_foreign;        /* a foreign loop waits on its descriptor */
    bool was_exchanged;     /* an earlier ring may still be going: see tpi_uring_accepted() */
    bool is_registered;     /* the ring's descriptor is registered with that thread */
    bool is_leased;         /* what was held last stays in its buffer, which is not given back */
    bool is_past;           /* what is delivered is of an earlier ring, whose buffers are not given back */
    bool must_poll_wake;    /* the kernel has stopped to report wake-ups */
    bool is_polling;        /* the kernel polls the set of watched descriptors */
    bool is_polling_room;   /* the kernel polls the set of full sockets */
    bool has_room_left;     /* that set is to be looked at */
    bool has_watches_left;  /* an interrupted dispatch left some of their events */
    uint8_t waits;          /* of this run, up to the one that registers */
    uint16_t dispatches;    /* how many there were; goes round */
    tpi_uring_slot *slots;  /* by descriptor */
    uint32_t slot_count;
    tpi_object *first, *last; /* objects with something left; last is undefined while first is NULL */
    struct msghdr *headers;   /* of sends that are not submitted yet, by their place in the submission queue */
    int wake_fd;
    int room_fd;          /* an epoll(7) set of the sockets that were full once; -1: none was */
    tpi_uring_past *past; /* of earlier rings, oldest first */
    tpi_offload offload;
};

/* object->bits; the highest eight are the errno of a failure that a paused reader has not been told. */
enum {
    TPI_WANTS = 1 << 0,      /* read_start, or accept_start */
    TPI_RECEIVING = 1 << 1,  /* the kernel has a receive, or an accept */
    TPI_SENDING = 1 << 2,    /* the kernel has a send */
    TPI_CONNECTING = 1 << 3, /* the kernel polls for the end of a connect */
    TPI_IN_KERNEL = TPI_RECEIVING | TPI_SENDING | TPI_CONNECTING,
    TPI_CANCELING = 1 << 4,     /* the receive or accept was asked to end */
    TPI_LISTED = 1 << 5,        /* in the list of objects with something left */
    TPI_HOLDING = 1 << 6,       /* the slot holds bytes */
    TPI_EOF_DUE = 1 << 7,       /* the peer's EOF has come, and the reader has not been told */
    TPI_AT_EOF = 1 << 8,        /* it has been told, of that or of an error: there is nothing more to start */
    TPI_FRESH = 1 << 9,         /* adopted: receiving begins in the first dispatch after read_start */
    TPI_LISTENS = 1 << 10,      /* a listener: also while it is being closed */
    TPI_STOPPING = 1 << 11,     /* accept_stopped is due once the kernel has no accept */
    TPI_CLOSING = 1 << 12,      /* closed() is due once the kernel has nothing */
    TPI_RELEASING = 1 << 13,    /* released(), likewise */
    TPI_LAST_WORD = 1 << 14,    /* closed or left: nothing but closed() or released() is to be said */
    TPI_CANCEL_SEND = 1 << 15,  /* the send, or the poll of a connect, was asked to end */
    TPI_DIALS = 1 << 16,        /* connected() is due */
    TPI_SEND_FAILED = 1 << 17,  /* sent() is due, once what came before the failure is delivered ... */
    TPI_SEND_WAITED = 1 << 18,  /* ... which it has had a dispatch for */
    TPI_ENDS_RECEIVE = 1 << 19, /* while rings are exchanged: the old one has ended it */
    TPI_ENDS_SEND = 1 << 20,
    TPI_ENDS_CONNECT = 1 << 21,
    TPI_DROPPED = 1 << 22, /* bytes received were dropped by close(): the peer is to learn that */
    TPI_BLOCKED = 1 << 23, /* the send waits for room */
    TPI_FAILURE_SHIFT = 24
};
/* object->spare */
#define TPI_IN_ROOM 1 /* registered with room_fd */
#define TPI_IS_UNIX 2 /* a Unix socket */
#define TPI_STARVED 4 /* its receive found no buffer */

#define TPI_FAILURE (UINT32_C(0xff) << TPI_FAILURE_SHIFT)

static inline uint64_t tpi_uring_tag(const tpi_uring *uring, int fd, tpi_uring_operation operation) {
    return uring->slots[fd].tag | (uint64_t)operation << TPI_URING_OPERATION_SHIFT;
}

/* Whether the ring whose completions are delivered, or asked for, polls for connections instead of accepting them. */
static inline bool tpi_uring_polls_listeners(const tpi_uring *uring) {
    return uring->is_past && uring->past != NULL ? uring->past->polled : uring->was_exchanged;
}

/* Before each buffer: what is noted of bytes that are held in it. */
#define TPI_URING_HEAD 64

static inline uint8_t *tpi_uring_buffer(const tpi_uring *uring, uint8_t *buffers, uint16_t buffer) {
    return buffers + (size_t)buffer * uring->buffer_stride + TPI_URING_HEAD;
}

/* The object that a tag names, or NULL: it has gone. */
static inline tpi_object *tpi_uring_object(const tpi_uring *uring, uint64_t tag) {
    const tpi_uring_slot *slot = &uring->slots[(uint32_t)tag];
    return (tag ^ slot->tag) << (64 - TPI_URING_OPERATION_SHIFT) == 0 ? slot->object : NULL;
}

/* Give a buffer back to the kernel, which sees it once it is published. */
static inline void tpi_uring_give_back(tpi_uring *uring, uint16_t buffer, const uint8_t *bytes) {
    struct io_uring_buf *place = &uring->buffer_ring->bufs[uring->buffer_tail++ & uring->buffer_mask];
    place->addr = (uintptr_t)bytes;
    place->bid = buffer; /* the length is there from the beginning, and the same for all */
}

struct io_uring_sqe *tpi_uring_place_slowly(tpi_uring *uring);

/* A place in the submission queue; NULL: none that is had without further thought. */
static inline struct io_uring_sqe *tpi_uring_place_quickly(tpi_uring *uring) {
    struct io_uring_sq *queue = &uring->ring.sq;
    const uint32_t tail = queue->sqe_tail;
    if (__builtin_expect(
            tail - IO_URING_READ_ONCE(*queue->khead) >= queue->ring_entries || uring->driver.queued_since == 0, 0)) {
        return NULL;
    }
    queue->sqe_tail = tail + 1;
    return &queue->sqes[tail & queue->ring_mask];
}

/* A place in the submission queue, submitting what fills it; NULL: the kernel takes nothing now. */
static inline struct io_uring_sqe *tpi_uring_place(tpi_uring *uring) {
    struct io_uring_sqe *place = tpi_uring_place_quickly(uring);
    return place != NULL ? place : tpi_uring_place_slowly(uring);
}

/* uring_ring.c */

/* Make the ring and its buffers; it belongs to no thread yet. */
int tpi_uring_open_ring(tpi_uring *uring);
void tpi_uring_close_ring(tpi_uring *uring);
/* In a forked child: close the descriptor, which is all that the child has of it. */
void tpi_uring_abandon_ring(tpi_uring *uring);
/* In a forked child: a ring of its own under the old number. */
int tpi_uring_renew_in_child(tpi_uring *uring);
void tpi_uring_free_past(tpi_uring *uring, tpi_uring_past *past);
void tpi_uring_drop_past(tpi_uring *uring);
/* Each asks the kernel for something, and returns false where it takes nothing now: to end an operation, which then completes ... */
bool tpi_uring_cancel(tpi_uring *uring, const tpi_object *object, tpi_uring_operation operation);
/* ... to say once that a descriptor is ready ... */
bool tpi_uring_poll(tpi_uring *uring, int fd, unsigned events, uint64_t tag);
/* ... to report wake-ups. */
bool tpi_uring_poll_wake(tpi_uring *uring);
void tpi_uring_publish_buffers(tpi_uring *uring);
int tpi_uring_wait(tpi_driver *driver, int64_t timeout_ns);
void tpi_uring_flush(tpi_driver *driver);
void tpi_uring_leave(tpi_driver *driver);
int tpi_uring_poll_fd(tpi_driver *driver);

/* uring.c */

void tpi_uring_list(tpi_uring *uring, tpi_object *object);
/* A ring was given up: note in its object that this completion of it ends an operation ... */
void tpi_uring_note_end(tpi_uring *uring, const struct io_uring_cqe *completion);
/* ... and ask the new one for every operation that nothing ends. */
void tpi_uring_ask_again(tpi_uring *uring, tpi_object *object);

/* uring_stream.c */

void tpi_uring_received_in_general(tpi_uring *uring, tpi_object *object, int result, uint32_t flags);
void tpi_uring_received_in_part(tpi_uring *uring, tpi_object *object, uint16_t buffer, const uint8_t *rest,
                                size_t length);
void tpi_uring_send_ended(tpi_uring *uring, tpi_object *object, int result);
void tpi_uring_connected(tpi_uring *uring, tpi_object *object, int result);
/* Submit the message of a send that the kernel has not got, if there is one. */
void tpi_uring_send_again(tpi_uring *uring, tpi_object *object);
/* From the list: what is held, EOF and failure due; then receiving goes on. */
void tpi_uring_stream_go_on(tpi_uring *uring, tpi_object *object);
void tpi_uring_free_held(tpi_uring *uring, tpi_object *object);
/* Bytes held of an object, together. */
size_t tpi_uring_count_held(const tpi_uring *uring, const tpi_object *object);
/* Bytes that are held in buffers are copied: the buffers go. */
int tpi_uring_copy_leases(tpi_uring *uring);
void tpi_uring_copy_held(const tpi_uring *uring, const tpi_object *object, uint8_t *bytes);
int tpi_uring_connect(tpi_driver *driver, tpi_object *object, const tepal_address *address);
void tpi_uring_read_start(tpi_driver *driver, tpi_object *object);
void tpi_uring_read_stop(tpi_driver *driver, tpi_object *object);
int64_t tpi_uring_offer(tpi_driver *driver, tpi_object *object, const void *data, size_t length);
int64_t tpi_uring_offer_pieces(tpi_driver *driver, tpi_object *object, const struct iovec *pieces, size_t count);
int64_t tpi_uring_send(tpi_driver *driver, tpi_object *object, const tpi_message *message);

/* uring_socket.c */

int tpi_uring_reserve(tpi_uring *uring, int fd);
/* Whether fd is an object's, or the driver's own. */
bool tpi_uring_has(const tpi_uring *uring, int fd);
void tpi_uring_accepted(tpi_uring *uring, tpi_object *object, int result, uint32_t flags);
/* From the list: accepting begins, or is over. */
void tpi_uring_listener_go_on(tpi_uring *uring, tpi_object *object);
/* Instead of a receive, or an accept: have the kernel say that there is something for it. */
void tpi_uring_poll_input(tpi_uring *uring, tpi_object *object, uint64_t tag);
/* Ask the kernel to end the receive, or the accept, of an object. */
void tpi_uring_end_receiving(tpi_uring *uring, tpi_object *object);
/* An operation of an object that is being closed or released has ended, or was to be asked to. */
void tpi_uring_wind_up(tpi_uring *uring, tpi_object *object);
void tpi_uring_say_last_word(tpi_uring *uring, tpi_object *object);
int tpi_uring_open(tpi_driver *driver, tpi_object *object, tpi_kind kind, int family);
int tpi_uring_adopt(tpi_driver *driver, tpi_object *object, int fd, tpi_kind kind, int accepted);
void tpi_uring_release(tpi_driver *driver, tpi_object *object);
void tpi_uring_close(tpi_driver *driver, tpi_object *object);
void tpi_uring_accept_start(tpi_driver *driver, tpi_object *object);
void tpi_uring_accept_stop(tpi_driver *driver, tpi_object *object);
int tpi_uring_query(tpi_driver *driver, const tpi_object *object, tpi_query what, void *answer);

/* uring_room.c */

/* Have the send of an object tried again once there is room. */
int tpi_uring_await_room(tpi_uring *uring, tpi_object *object);
void tpi_uring_leave_room(tpi_uring *uring, tpi_object *object);
void tpi_uring_room_ready(tpi_uring *uring);
bool tpi_uring_poll_room(tpi_uring *uring);
void tpi_uring_close_room(tpi_uring *uring);

/* uring_watch.c */

int tpi_uring_watch(tpi_driver *driver, tpi_object *object, int fd, unsigned events);
void tpi_uring_unwatch(tpi_driver *driver, tpi_object *object);
/* A number has come back as one of our sockets: a watch of it was closed behind our back. */
void tpi_uring_forget_watch(tpi_uring *uring, int fd);
/* The set of watched descriptors has something ready, or is to be polled anew. */
void tpi_uring_watches_ready(tpi_uring *uring);
bool tpi_uring_poll_watches(tpi_uring *uring);

/* What happens with every message, in line. */

/* Whether a stream is read, and nothing special is the matter with it. */
static inline bool tpi_uring_is_quick(const tpi_object *object) {
    const tpi_object mask = {
        .direct = true,
        .borrowed = true,
        .bits = TPI_WANTS | TPI_HOLDING | TPI_CLOSING | TPI_RELEASING | TPI_CANCELING | TPI_FAILURE,
    };
    const tpi_object quick = {.bits = TPI_WANTS};
    return (object->state & mask.state) == quick.state;
}

static inline void tpi_uring_received(tpi_uring *uring, tpi_object *object, int result, uint32_t flags) {
    const uint32_t both = IORING_CQE_F_BUFFER | IORING_CQE_F_MORE;
    if (__builtin_expect(!tpi_uring_is_quick(object) || (flags & both) != both, 0)) {
        tpi_uring_received_in_general(uring, object, result, flags);
        return;
    }
    const uint16_t buffer = (uint16_t)(flags >> IORING_CQE_BUFFER_SHIFT);
    const uint8_t *data = tpi_uring_buffer(uring, uring->buffers, buffer);
    uring->batch_bytes += (uint32_t)result;
    const size_t used = object->up->data(object, data, (size_t)result);
    if (__builtin_expect(used < (size_t)result, 0)) {
        tpi_uring_received_in_part(uring, object, buffer, data + used, (size_t)result - used);
        return;
    }
    tpi_uring_give_back(uring, buffer, data);
}

static inline void tpi_uring_sent(tpi_uring *uring, tpi_object *object, int result) {
    const uint32_t bits = object->bits;
    object->bits = bits & ~(uint32_t)(TPI_SENDING | TPI_CANCEL_SEND);
    if (__builtin_expect(result <= 0 || bits & (TPI_CLOSING | TPI_RELEASING), 0)) {
        tpi_uring_send_ended(uring, object, result);
        return;
    }
    object->sending = NULL;
    object->up->sent(object, result);
}

#endif
