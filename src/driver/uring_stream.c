/*
 * Streams on io_uring: one receive that the kernel goes on with, one send at a time. Pausing is lazy: nothing is said to
 * the kernel until bytes come that nobody wants; those are held here, and the receive is ended.
 */
#include "driver/uring_inside.h"
#include "base/alloc.h"
#include <limits.h>
#include <poll.h>

#ifndef IOV_MAX
#define IOV_MAX 1024
#endif

#define NO_BUFFER (-1)

/* Bytes received and not delivered: in the kernel's own buffer, with this before them, or copied. */
struct tpi_parcel {
    tpi_parcel *next;
    const uint8_t *data;
    uint32_t length;
    int32_t buffer; /* NO_BUFFER: allocated */
};
_Static_assert(sizeof(tpi_parcel) <= TPI_URING_HEAD, "a parcel fits before a buffer");

static uint32_t due_failure(int error) {
    return (uint32_t)error << TPI_FAILURE_SHIFT & TPI_FAILURE;
}

/* Whether nothing that comes is of use any more: bytes were lost, or the end has been told. */
static bool is_broken(const tpi_object *object) {
    return object->bits & TPI_AT_EOF || (object->bits & TPI_FAILURE && !(object->bits & TPI_SEND_FAILED));
}

/* Bytes held */

static tpi_parcel *copy(tpi_uring *uring, const uint8_t *data, size_t length) {
    tpi_parcel *parcel = uring->driver.realloc(NULL, sizeof *parcel + length);
    if (parcel != NULL) {
        memcpy(parcel + 1, data, length);
        *parcel = (tpi_parcel){.data = (uint8_t *)(parcel + 1), .length = (uint32_t)length, .buffer = NO_BUFFER};
    }
    return parcel;
}

static tpi_parcel *lease(tpi_uring *uring, int buffer, const uint8_t *data, size_t length) {
    tpi_parcel *parcel =
        (tpi_parcel *)(void *)(tpi_uring_buffer(uring, uring->buffers, (uint16_t)buffer) - TPI_URING_HEAD);
    *parcel = (tpi_parcel){.data = data, .length = (uint32_t)length, .buffer = buffer};
    uring->leased++;
    return parcel;
}

/*
 * Keep bytes for later: in their buffer while at most a quarter of all are kept, so that paused readers cannot starve
 * others, else copied; and in their buffer once more, up to a half of all, if there is no memory.
 */
static void hold(tpi_uring *uring, tpi_object *object, int buffer, const uint8_t *data, size_t length) {
    if (is_broken(object)) {
        return;
    }
    tpi_parcel *parcel = NULL;
    if (buffer != NO_BUFFER && uring->leased < uring->buffer_count / 4) {
        parcel = lease(uring, buffer, data, length);
    } else {
        parcel = copy(uring, data, length);
        if (parcel == NULL && buffer != NO_BUFFER && uring->leased < uring->buffer_count / 2) {
            parcel = lease(uring, buffer, data, length);
        }
    }
    if (parcel == NULL) {
        object->bits |= due_failure(ENOMEM); /* bytes are lost, so the stream is */
        return;
    }
    uring->is_leased |= parcel->buffer != NO_BUFFER;
    tpi_parcel **link = &uring->slots[object->fd].held;
    while (*link != NULL) {
        link = &(*link)->next;
    }
    *link = parcel;
    object->bits |= TPI_HOLDING;
}

static void free_parcel(tpi_uring *uring, tpi_parcel *parcel) {
    if (parcel->buffer == NO_BUFFER) {
        tpi_free(uring->driver.realloc, parcel);
    } else {
        uring->leased--;
        const uint16_t buffer = (uint16_t)parcel->buffer;
        tpi_uring_give_back(uring, buffer, tpi_uring_buffer(uring, uring->buffers, buffer));
    }
}

int tpi_uring_copy_leases(tpi_uring *uring) {
    for (uint32_t fd = 0; uring->leased > 0 && fd < uring->slot_count; fd++) {
        for (tpi_parcel **link = &uring->slots[fd].held; *link != NULL; link = &(*link)->next) {
            if ((*link)->buffer == NO_BUFFER) {
                continue;
            }
            tpi_parcel *copied = copy(uring, (*link)->data, (*link)->length);
            if (copied == NULL) {
                return TEPAL_ENOMEM;
            }
            copied->next = (*link)->next;
            free_parcel(uring, *link);
            *link = copied;
        }
    }
    return 0;
}

static void free_first(tpi_uring *uring, tpi_object *object) {
    tpi_uring_slot *slot = &uring->slots[object->fd];
    tpi_parcel *parcel = slot->held;
    slot->held = parcel->next;
    if (slot->held == NULL) {
        object->bits &= ~(uint32_t)TPI_HOLDING;
    }
    free_parcel(uring, parcel);
}

void tpi_uring_free_held(tpi_uring *uring, tpi_object *object) {
    while (uring->slots[object->fd].held != NULL) {
        free_first(uring, object);
    }
}

size_t tpi_uring_count_held(const tpi_uring *uring, const tpi_object *object) {
    size_t length = 0;
    for (const tpi_parcel *parcel = uring->slots[object->fd].held; parcel != NULL; parcel = parcel->next) {
        length += parcel->length;
    }
    return length;
}

void tpi_uring_copy_held(const tpi_uring *uring, const tpi_object *object, uint8_t *bytes) {
    for (const tpi_parcel *parcel = uring->slots[object->fd].held; parcel != NULL; parcel = parcel->next) {
        memcpy(bytes, parcel->data, parcel->length);
        bytes += parcel->length;
    }
}

/* Receiving */

/* Whether what comes may be delivered. */
static bool is_open(const tpi_object *object) {
    return (object->bits & (TPI_WANTS | TPI_HOLDING | TPI_CLOSING | TPI_RELEASING)) == TPI_WANTS;
}

static void begin_receiving(tpi_uring *uring, tpi_object *object) {
    const uint64_t tag = tpi_uring_tag(uring, object->fd, TPI_URING_RECEIVE);
    if (object->borrowed) { /* nothing may be taken from it that is not asked for now */
        tpi_uring_poll_input(uring, object, tag);
        return;
    }
    struct io_uring_sqe *place = tpi_uring_place(uring);
    if (place == NULL) {
        tpi_uring_list(uring, object);
        return;
    }
    if (object->spare & TPI_IS_UNIX) {
        /* A multishot one can miss an EOF that follows bytes at once: liburing#1549, seen with Linux 6.18. */
        io_uring_prep_recv(place, object->fd, NULL, 0, 0);
    } else {
        io_uring_prep_recv_multishot(place, object->fd, NULL, 0, 0);
    }
    place->flags |= IOSQE_BUFFER_SELECT;
    place->user_data = tag;
    object->bits |= TPI_RECEIVING;
    object->spare &= (uint8_t)~TPI_STARVED;
}

/* Receive again, if that can lead to anything now: one that found no buffer has to wait until some are back. */
static void receive_again(tpi_uring *uring, tpi_object *object) {
    if (object->spare & TPI_STARVED) {
        if (uring->permits == 0) {
            tpi_uring_list(uring, object);
            return;
        }
        uring->permits--;
    }
    begin_receiving(uring, object);
}

/* The peer's EOF, or a failure, is next. */
static void tell_end(tpi_object *object) {
    const int error = (int)(object->bits >> TPI_FAILURE_SHIFT);
    object->bits &= ~(uint32_t)(TPI_WANTS | TPI_EOF_DUE | TPI_FAILURE | TPI_SEND_FAILED | TPI_SEND_WAITED);
    object->bits |= TPI_AT_EOF;
    if (error != 0) {
        object->up->error(object, TEPAL_SYSTEM(error));
    } else {
        object->up->eof(object);
    }
}

/* Copy what has come into the owner's buffers. Returns how much; less than length: the rest is for data(), or is kept. */
static size_t fill(tpi_object *object, const uint8_t *data, size_t length) {
    size_t filled = 0;
    while (filled < length && object->direct && is_open(object)) {
        void *buffer = NULL;
        size_t size = 0;
        object->up->get_buffer(object, length - filled, &buffer, &size);
        if (size == 0 || !is_open(object)) {
            break;
        }
        size = size < length - filled ? size : length - filled;
        memcpy(buffer, data + filled, size);
        filled += size;
        object->up->filled(object, size);
    }
    return filled;
}

static size_t give(tpi_object *object, const uint8_t *data, size_t length) {
    size_t used = 0;
    if (__builtin_expect(object->direct, 0)) {
        used = fill(object, data, length);
    }
    if (used < length && is_open(object)) {
        used += object->up->data(object, data + used, length - used);
    }
    return used;
}

/* Unless the object is being closed, which drops them. */
static __attribute__((noinline)) void keep_rest(tpi_uring *uring, tpi_object *object, int buffer, const uint8_t *data,
                                                size_t length) {
    if (object->bits & TPI_CLOSING) {
        object->bits |= TPI_DROPPED;
    } else {
        hold(uring, object, buffer, data, length);
        if (object->bits & TPI_WANTS) {
            tpi_uring_list(uring, object); /* stopped, and started again, in the same upcall */
        }
    }
}

static void deliver(tpi_uring *uring, tpi_object *object, int buffer, const uint8_t *data, size_t length) {
    const size_t used = is_open(object) && !is_broken(object) ? give(object, data, length) : 0;
    if (__builtin_expect(used < length, 0)) {
        keep_rest(uring, object, buffer, data + used, length - used);
    }
}

/* What is to follow a completion, or a part of what is held. */
static void go_on(tpi_uring *uring, tpi_object *object) {
    const uint32_t bits = object->bits;
    if (bits & (TPI_CLOSING | TPI_RELEASING)) {
        if (!(bits & TPI_LAST_WORD)) {
            tpi_uring_wind_up(uring, object);
        }
    } else if (bits & TPI_HOLDING || !(bits & TPI_WANTS)) {
        if ((bits & (TPI_HOLDING | TPI_RECEIVING | TPI_CANCELING)) == (TPI_HOLDING | TPI_RECEIVING)) {
            tpi_uring_end_receiving(uring, object);
        }
    } else if (bits & TPI_EOF_DUE || (bits & TPI_FAILURE && (is_broken(object) || !(bits & TPI_RECEIVING)))) {
        tell_end(object);
    } else if (!(bits & TPI_RECEIVING)) {
        receive_again(uring, object);
    }
}

/* What a receive that brought no bytes says. */
static void note_end(tpi_object *object, int result) {
    switch (-result) {
    case 0:
        object->bits |= TPI_EOF_DUE;
        break;
    case ENOBUFS: /* the buffers are with us, and go back before the next wait */
        object->spare |= TPI_STARVED;
        break;
    case ECANCELED: /* we asked for it */
    case EINTR:
    case EAGAIN:
        break;
    default:
        if (!(object->bits & TPI_FAILURE)) {
            object->bits |= due_failure(-result);
        }
    }
}

/* The kernel has something of a borrowed descriptor. */
static void receive_borrowed(tpi_uring *uring, tpi_object *object) {
    uint8_t bytes[4096];
    if (is_open(object)) {
        const ssize_t count = recv(object->fd, bytes, sizeof bytes, 0);
        if (count > 0) {
            deliver(uring, object, NO_BUFFER, bytes, (size_t)count);
        } else {
            note_end(object, count == 0 ? 0 : -errno);
        }
    }
}

void tpi_uring_received_in_general(tpi_uring *uring, tpi_object *object, int result, uint32_t flags) {
    uint8_t *buffers = uring->is_past ? uring->past->buffers : uring->buffers;
    const uint16_t buffer = (uint16_t)(flags >> IORING_CQE_BUFFER_SHIFT);
    uring->batch_bytes += result > 0 ? (uint32_t)result : 0;
    uring->is_leased = uring->is_past; /* an earlier ring's buffers are not given back */
    if (!(flags & IORING_CQE_F_MORE)) {
        object->bits &= ~(uint32_t)(TPI_RECEIVING | TPI_CANCELING);
    }
    if (result > 0 && object->borrowed) {
        receive_borrowed(uring, object);
    } else if (result > 0) {
        deliver(uring, object, uring->is_past ? NO_BUFFER : buffer, tpi_uring_buffer(uring, buffers, buffer),
                (size_t)result);
    } else {
        note_end(object, result);
    }
    if (flags & IORING_CQE_F_BUFFER && !uring->is_leased) {
        tpi_uring_give_back(uring, buffer, tpi_uring_buffer(uring, buffers, buffer));
    }
    if (uring->driver.interrupted) {
        tpi_uring_list(uring, object);
    } else {
        go_on(uring, object);
    }
}

void tpi_uring_received_in_part(tpi_uring *uring, tpi_object *object, uint16_t buffer, const uint8_t *rest,
                                size_t length) {
    uring->is_leased = false;
    keep_rest(uring, object, buffer, rest, length);
    if (!uring->is_leased) {
        tpi_uring_give_back(uring, buffer, tpi_uring_buffer(uring, uring->buffers, buffer));
    }
}

static void deliver_held(tpi_uring *uring, tpi_object *object) {
    const int fd = object->fd;
    tpi_parcel *parcel = uring->slots[fd].held;
    uring->slots[fd].held = parcel->next; /* what the upcall leaves is put back, so it must be out of the way */
    object->bits &= ~(uint32_t)TPI_HOLDING;
    const size_t length = parcel->length;
    const size_t used = give(object, parcel->data, length);
    if (object->bits & TPI_CLOSING) {
        free_parcel(uring, parcel); /* the others went with close() */
        return;
    }
    tpi_uring_slot *slot = &uring->slots[fd]; /* only now: the upcall may have made the table grow */
    if (used < length) {
        parcel->data += used;
        parcel->length -= (uint32_t)used;
        parcel->next = slot->held;
        slot->held = parcel;
    } else {
        free_parcel(uring, parcel);
    }
    if (slot->held != NULL) {
        object->bits |= TPI_HOLDING;
    }
}

/* A failed send whose turn to be told has come: what came before it has had a dispatch to be delivered. */
static void tell_send_failure(tpi_uring *uring, tpi_object *object) {
    if (!(object->bits & TPI_SEND_WAITED)) {
        object->bits |= TPI_SEND_WAITED;
        tpi_uring_list(uring, object);
        return;
    }
    const int error = (int)(object->bits >> TPI_FAILURE_SHIFT);
    object->bits &= ~(uint32_t)(TPI_SEND_FAILED | TPI_SEND_WAITED);
    object->sending = NULL;
    object->up->sent(object, TEPAL_SYSTEM(error));
}

static int64_t begin_sending(tpi_uring *uring, tpi_object *object);
static void begin_polling(tpi_uring *uring, tpi_object *object);

void tpi_uring_send_again(tpi_uring *uring, tpi_object *object) {
    const uint32_t before = TPI_SENDING | TPI_SEND_FAILED | TPI_BLOCKED | TPI_CLOSING | TPI_RELEASING;
    if (object->sending != NULL && !(object->bits & before)) {
        begin_sending(uring, object);
    }
}

void tpi_uring_stream_go_on(tpi_uring *uring, tpi_object *object) {
    if (object->bits & TPI_DIALS) {
        if (!(object->bits & TPI_CONNECTING)) {
            begin_polling(uring, object);
        }
        return;
    }
    if (object->sending != NULL && !(object->bits & (TPI_SENDING | TPI_SEND_FAILED | TPI_BLOCKED))) {
        (void)begin_sending(uring, object);
    }
    if (object->bits & TPI_FRESH) {
        object->bits &= ~(uint32_t)TPI_FRESH; /* receiving begins with the next wait */
    }
    while ((object->bits & (TPI_WANTS | TPI_HOLDING)) == (TPI_WANTS | TPI_HOLDING)) {
        if (uring->driver.interrupted) {
            tpi_uring_list(uring, object);
            return;
        }
        deliver_held(uring, object);
    }
    if (uring->driver.interrupted) {
        tpi_uring_list(uring, object);
        return;
    }
    if (object->bits & TPI_SEND_FAILED && !(object->bits & (TPI_CLOSING | TPI_RELEASING))) {
        tell_send_failure(uring, object);
        return;
    }
    go_on(uring, object);
}

void tpi_uring_read_start(tpi_driver *driver, tpi_object *object) {
    tpi_uring *uring = (tpi_uring *)driver;
    if (object->bits & (TPI_WANTS | TPI_AT_EOF)) {
        return;
    }
    object->bits |= TPI_WANTS;
    if (object->bits & (TPI_HOLDING | TPI_EOF_DUE | TPI_FAILURE | TPI_FRESH)) {
        tpi_uring_list(uring, object);
    } else if (!(object->bits & TPI_RECEIVING)) {
        begin_receiving(uring, object);
    }
}

void tpi_uring_read_stop(tpi_driver *driver, tpi_object *object) {
    (void)driver;
    object->bits &= ~(uint32_t)TPI_WANTS;
}

/* Sending */

static int64_t send_result(ssize_t count) {
    return count >= 0 ? count : errno == EAGAIN ? TPI_PENDING : TEPAL_SYSTEM(errno);
}

int64_t tpi_uring_offer(tpi_driver *driver, tpi_object *object, const void *data, size_t length) {
    (void)driver;
    ssize_t sent;
    do {
        sent = send(object->fd, data, length, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return send_result(sent);
}

static struct msghdr header_of(const tpi_message *message) {
    return (struct msghdr){
        .msg_name = message->address == NULL ? NULL : (void *)(uintptr_t)&message->address->storage,
        .msg_namelen = message->address == NULL ? 0 : message->address->length,
        .msg_iov = (struct iovec *)(uintptr_t)message->pieces,
        .msg_iovlen = message->count > IOV_MAX ? IOV_MAX : message->count,
        .msg_control = (void *)(uintptr_t)message->control,
        .msg_controllen = message->control_length,
    };
}

int64_t tpi_uring_offer_pieces(tpi_driver *driver, tpi_object *object, const struct iovec *pieces, size_t count) {
    (void)driver;
    const struct msghdr header = header_of(&(tpi_message){.pieces = pieces, .count = count});
    ssize_t sent;
    do {
        sent = sendmsg(object->fd, &header, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return send_result(sent);
}

/* One piece, to the peer, and nothing beside it. */
static inline bool is_plain(const tpi_message *message) {
    return message->count == 1 && ((uintptr_t)message->address | (uintptr_t)message->control) == 0;
}

static inline void send_plainly(tpi_uring *uring, tpi_object *object, struct io_uring_sqe *place) {
    const tpi_message *message = object->sending;
    io_uring_prep_send(place, object->fd, message->pieces->iov_base, message->pieces->iov_len,
                       message->flags | MSG_NOSIGNAL | MSG_DONTWAIT);
    place->user_data = tpi_uring_tag(uring, object->fd, TPI_URING_SEND);
    object->bits |= TPI_SENDING;
}

static __attribute__((noinline)) int64_t begin_sending(tpi_uring *uring, tpi_object *object) {
    const tpi_message *message = object->sending;
    struct io_uring_sqe *place = tpi_uring_place(uring);
    if (place == NULL) {
        tpi_uring_list(uring, object);
    } else if (is_plain(message)) {
        send_plainly(uring, object, place);
    } else {
        struct msghdr *header = &uring->headers[place - uring->ring.sq.sqes];
        *header = header_of(message);
        io_uring_prep_sendmsg(place, object->fd, header, (unsigned)(message->flags | MSG_NOSIGNAL | MSG_DONTWAIT));
        place->user_data = tpi_uring_tag(uring, object->fd, TPI_URING_SEND);
        object->bits |= TPI_SENDING;
    }
    return TPI_PENDING;
}

int64_t tpi_uring_send(tpi_driver *driver, tpi_object *object, const tpi_message *message) {
    tpi_uring *uring = (tpi_uring *)driver;
    object->sending = message;
    struct io_uring_sqe *place = __builtin_expect(is_plain(message), 1) ? tpi_uring_place_quickly(uring) : NULL;
    if (__builtin_expect(place == NULL, 0)) {
        return begin_sending(uring, object);
    }
    send_plainly(uring, object, place);
    return TPI_PENDING;
}

void tpi_uring_send_ended(tpi_uring *uring, tpi_object *object, int result) {
    if (object->bits & (TPI_CLOSING | TPI_RELEASING)) {
        tpi_uring_wind_up(uring, object);
    } else if (result == -EINTR || result == -ECANCELED) {
        (void)begin_sending(uring, object);
    } else if (result == -EAGAIN) {
        const int code = tpi_uring_await_room(uring, object);
        if (code < 0) {
            object->sending = NULL;
            object->up->sent(object, code);
        }
    } else if (object->bits & TPI_WANTS && !(object->bits & TPI_FAILURE)) {
        object->bits |= TPI_SEND_FAILED | due_failure(-result); /* what came before it is delivered first */
        tpi_uring_list(uring, object);
    } else {
        /* After a reset whoever asks first is told so, and the next one hears EPIPE: receiving may have been the first. */
        const int before = (int)(object->bits >> TPI_FAILURE_SHIFT);
        object->sending = NULL;
        object->up->sent(object, TEPAL_SYSTEM(result == -EPIPE && before != 0 ? before : -result));
    }
}

/* Connecting */

/* connect(2) begins it, so that what fails at once fails in the call; the kernel tells of its end. */
int tpi_uring_connect(tpi_driver *driver, tpi_object *object, const tepal_address *address) {
    int status = connect(object->fd, (const struct sockaddr *)&address->storage, address->length);
    if (status == 0) {
        return 0;
    }
    /* EINTR: the connect goes on by itself (connect(2)). A full Unix backlog says EAGAIN and nothing will tell later. */
    if (errno != EINPROGRESS && errno != EINTR) {
        return TEPAL_SYSTEM(errno);
    }
    object->bits |= TPI_DIALS;
    begin_polling((tpi_uring *)driver, object);
    return TPI_PENDING;
}

static void begin_polling(tpi_uring *uring, tpi_object *object) {
    if (tpi_uring_poll(uring, object->fd, POLLOUT, tpi_uring_tag(uring, object->fd, TPI_URING_CONNECT))) {
        object->bits |= TPI_CONNECTING;
    } else {
        tpi_uring_list(uring, object);
    }
}

void tpi_uring_connected(tpi_uring *uring, tpi_object *object, int result) {
    object->bits &= ~(uint32_t)TPI_CONNECTING;
    if (object->bits & (TPI_CLOSING | TPI_RELEASING)) {
        tpi_uring_wind_up(uring, object);
        return;
    }
    if (result < 0) { /* not asked for by us: poll once more */
        begin_polling(uring, object);
        return;
    }
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(object->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0) {
        error = errno;
    }
    object->bits &= ~(uint32_t)TPI_DIALS;
    object->up->connected(object, error == 0 ? 0 : TEPAL_SYSTEM(error));
}
