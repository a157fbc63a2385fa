/*
 * Streams on readiness: reading with a budget, sending what is taken at once and the rest when there is room, and
 * connecting. Bytes that a paused reader left in an upcall are held here until it reads again.
 */
#include "driver/readiness_inside.h"
#include "base/alloc.h"
#include <limits.h>

#ifndef IOV_MAX
#define IOV_MAX 1024
#endif

/* Bytes read and not delivered. Rare (a reader that paused in the middle of an upcall), so a list will do. */
struct tpi_held {
    tpi_held *next;
    const tpi_object *object;
    size_t offset, length;
    uint8_t bytes[];
};

tpi_held *tpi_held_take(tpi_readiness *readiness, const tpi_object *object) {
    for (tpi_held **link = &readiness->held; *link != NULL; link = &(*link)->next) {
        if ((*link)->object == object) {
            tpi_held *held = *link;
            *link = held->next;
            return held;
        }
    }
    return NULL;
}

const uint8_t *tpi_held_bytes(const tpi_held *held, size_t *length) {
    *length = held == NULL ? 0 : held->length - held->offset;
    return held == NULL ? NULL : held->bytes + held->offset;
}

void tpi_held_free(tpi_readiness *readiness, tpi_held *held) {
    tpi_free(readiness->driver.realloc, held);
}

void tpi_held_free_all(tpi_readiness *readiness) {
    while (readiness->held != NULL) {
        tpi_held *next = readiness->held->next;
        tpi_held_free(readiness, readiness->held);
        readiness->held = next;
    }
}

size_t tpi_held_count(const tpi_readiness *readiness, const tpi_object *object) {
    size_t length = 0;
    for (const tpi_held *held = readiness->held; held != NULL; held = held->next) {
        if (held->object == object) {
            (void)tpi_held_bytes(held, &length);
        }
    }
    return length;
}

static void reading_failed(tpi_object *object, int code) {
    object->bits = (object->bits & ~(uint32_t)(TPI_WANT_READ | TPI_READABLE)) | TPI_AT_EOF;
    object->up->error(object, code);
}

static void hold(tpi_readiness *readiness, tpi_object *object, const uint8_t *data, size_t length) {
    tpi_held *held = readiness->driver.realloc(NULL, sizeof *held + length);
    if (held == NULL) {
        if (!(object->bits & TPI_SAY_RELEASED)) {
            reading_failed(object, TEPAL_ENOMEM); /* bytes are lost, so the stream is */
        }
        return;
    }
    *held = (tpi_held){.next = readiness->held, .object = object, .length = length};
    memcpy(held->bytes, data, length);
    readiness->held = held;
    object->bits |= TPI_HOLDING;
    if (object->bits & TPI_WANT_READ) {
        tpi_readiness_list(readiness, object); /* stopped, and started again, in the same upcall */
    }
}

/*
 * Whether reading may go on: it was not stopped, nor the object closed, in the upcall before. What is held comes
 * before what the socket has.
 */
static bool still_reading(const tpi_object *object) {
    return (object->bits & (TPI_WANT_READ | TPI_HOLDING)) == TPI_WANT_READ;
}

static __attribute__((noinline)) void keep_rest(tpi_readiness *readiness, tpi_object *object, const uint8_t *data,
                                                size_t length) {
    if (!(object->bits & TPI_SAY_CLOSED)) {
        hold(readiness, object, data, length);
    }
}

static void deliver(tpi_readiness *readiness, tpi_object *object, const uint8_t *data, size_t length) {
    size_t used = object->up->data(object, data, length);
    if (__builtin_expect(used < length, 0)) {
        keep_rest(readiness, object, data + used, length - used);
    }
}

static void deliver_held(tpi_readiness *readiness, tpi_object *object) {
    tpi_held *held = tpi_held_take(readiness, object);
    object->bits &= ~(uint32_t)TPI_HOLDING;
    size_t length;
    const uint8_t *bytes = tpi_held_bytes(held, &length);
    deliver(readiness, object, bytes, length);
    tpi_held_free(readiness, held);
}

/* What recv(2) said when it gave no bytes. Whether to try again. */
static bool read_nothing(tpi_object *object, ssize_t count) {
    if (count == 0) {
        object->bits = (object->bits & ~(uint32_t)(TPI_WANT_READ | TPI_READABLE)) | TPI_AT_EOF;
        object->up->eof(object);
        return false;
    }
    if (errno == EAGAIN) {
        object->bits &= ~(uint32_t)TPI_READABLE;
        return false;
    }
    if (errno != EINTR) {
        reading_failed(object, TEPAL_SYSTEM(errno));
        return false;
    }
    return true;
}

/* Read into a buffer of the owner's. *asked: it lent one. Whether another read may find more. */
static bool read_direct(tpi_readiness *readiness, tpi_object *object, bool *asked) {
    void *buffer = NULL;
    size_t size = 0;
    object->up->get_buffer(object, readiness->scratch_bytes, &buffer, &size);
    if (!still_reading(object)) {
        *asked = true;
        return false;
    }
    if (size == 0) {
        return false;
    }
    *asked = true;
    ssize_t count = recv(object->fd, buffer, size, 0);
    if (count <= 0) {
        return read_nothing(object, count);
    }
    bool more = (size_t)count == size || !(object->bits & TPI_SHORT_IS_EMPTY);
    if (!more) {
        object->bits &= ~(uint32_t)TPI_READABLE;
    }
    object->up->filled(object, (size_t)count);
    return more;
}

/* One recv(2) and its upcall. Whether another one may find more. */
static bool read_once(tpi_readiness *readiness, tpi_object *object) {
    if (__builtin_expect(object->direct, 0)) {
        bool asked = false;
        bool more = read_direct(readiness, object, &asked);
        if (asked) {
            return more;
        }
    }
    ssize_t count = recv(object->fd, readiness->scratch, readiness->scratch_bytes, 0);
    if (__builtin_expect(count <= 0, 0)) {
        return read_nothing(object, count);
    }
    bool more = (size_t)count == readiness->scratch_bytes || !(object->bits & TPI_SHORT_IS_EMPTY);
    if (!more) {
        object->bits &= ~(uint32_t)TPI_READABLE;
    }
    deliver(readiness, object, readiness->scratch, (size_t)count);
    return more;
}

static void read_some(tpi_readiness *readiness, tpi_object *object) {
    for (unsigned budget = readiness->read_budget; budget > 0; budget--) {
        if (!read_once(readiness, object) || !still_reading(object)) {
            return;
        }
        if (readiness->driver.interrupted) {
            break;
        }
    }
    tpi_readiness_list(readiness, object);
}

static int64_t send_result(ssize_t count) {
    return count >= 0 ? count : errno == EAGAIN ? TPI_PENDING : TEPAL_SYSTEM(errno);
}

/* As much as the kernel takes of as many pieces as one call may have. */
static int64_t send_pieces(tpi_object *object, const struct iovec *pieces, size_t count) {
    struct msghdr header = {.msg_iov = (struct iovec *)(uintptr_t)pieces,
                            .msg_iovlen = count > IOV_MAX ? IOV_MAX : count};
    ssize_t sent;
    do {
        sent = sendmsg(object->fd, &header, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return send_result(sent);
}

static int64_t send_message(tpi_object *object, const tpi_message *message) {
    if (message->address == NULL && message->control == NULL && message->flags == 0) {
        return send_pieces(object, message->pieces, message->count);
    }
    struct msghdr header = {
        .msg_name = message->address == NULL ? NULL : (void *)(uintptr_t)&message->address->storage,
        .msg_namelen = message->address == NULL ? 0 : message->address->length,
        .msg_iov = (struct iovec *)(uintptr_t)message->pieces,
        .msg_iovlen = message->count > IOV_MAX ? IOV_MAX : message->count,
        .msg_control = (void *)(uintptr_t)message->control,
        .msg_controllen = message->control_length,
    };
    ssize_t sent;
    do {
        sent = sendmsg(object->fd, &header, message->flags | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return send_result(sent);
}

/* The kernel took nothing: there will be an edge, or a level, when it takes some. */
static int64_t wait_for_room(tpi_object *object) {
    object->bits &= ~(uint32_t)TPI_WRITEABLE;
    return TPI_PENDING;
}

int64_t tpi_readiness_offer_pieces(tpi_driver *driver, tpi_object *object, const struct iovec *pieces, size_t count) {
    (void)driver;
    int64_t sent = object->bits & TPI_WRITEABLE ? send_pieces(object, pieces, count) : TPI_PENDING;
    return sent == TPI_PENDING ? wait_for_room(object) : sent;
}

static __attribute__((noinline)) int64_t offer_failed(tpi_object *object) {
    if (errno == EINTR) {
        return TPI_PENDING; /* nothing was taken; the send that follows tries again */
    }
    return errno == EAGAIN ? wait_for_room(object) : TEPAL_SYSTEM(errno);
}

int64_t tpi_readiness_offer(tpi_driver *driver, tpi_object *object, const void *data, size_t length) {
    (void)driver;
    if (__builtin_expect(!(object->bits & TPI_WRITEABLE), 0)) {
        return TPI_PENDING;
    }
    ssize_t sent = send(object->fd, data, length, MSG_NOSIGNAL);
    return __builtin_expect(sent >= 0, 1) ? sent : offer_failed(object);
}

int64_t tpi_readiness_send(tpi_driver *driver, tpi_object *object, const tpi_message *message) {
    int64_t sent = object->bits & TPI_WRITEABLE ? send_message(object, message) : TPI_PENDING;
    if (sent == TPI_PENDING) {
        object->sending = message;
        (void)wait_for_room(object);
        tpi_readiness_update((tpi_readiness *)driver, object);
    }
    return sent;
}

static void send_pending(tpi_object *object) {
    int64_t count = send_message(object, object->sending);
    if (count == TPI_PENDING) {
        (void)wait_for_room(object);
        return;
    }
    object->sending = NULL;
    object->up->sent(object, count);
}

/* There is room for what is pending; no edge will say so again. */
static void send_or_list(tpi_readiness *readiness, tpi_object *object) {
    if (object->sending == NULL || !(object->bits & TPI_WRITEABLE)) {
        return;
    }
    if (readiness->driver.interrupted) {
        tpi_readiness_list(readiness, object);
    } else {
        send_pending(object);
    }
}

static void finish_connecting(tpi_object *object) {
    int error = 0;
    socklen_t length = sizeof error;
    if (getsockopt(object->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0) {
        error = errno;
    }
    object->bits &= ~(uint32_t)TPI_CONNECTING;
    object->up->connected(object, error == 0 ? 0 : TEPAL_SYSTEM(error));
}

/* Whether this is the first dispatch after an adopted stream's read_start: connection_made ran in this very turn. */
static bool is_too_early(tpi_readiness *readiness, tpi_object *object) {
    if (!(object->bits & TPI_FRESH)) {
        return false;
    }
    uint16_t before = (uint16_t)(object->bits >> TPI_EVENTS_SHIFT);
    object->bits &= (UINT32_C(1) << TPI_EVENTS_SHIFT) - 1 - TPI_FRESH;
    if ((uint16_t)(before + 1) != readiness->dispatches) {
        return false;
    }
    tpi_readiness_list(readiness, object);
    return true;
}

void tpi_stream_event(tpi_readiness *readiness, tpi_object *object, uint32_t events) {
    uint32_t bits = object->bits;
    if (events & ~(uint32_t)POLLOUT) {
        bits |= TPI_READABLE;
    }
    if (events & ~(uint32_t)(POLLIN | POLLPRI | POLLRDHUP)) {
        bits |= TPI_WRITEABLE;
    }
    if (events & ~(uint32_t)(POLLIN | POLLOUT) && !readiness->poller->levels) {
        /*
         * After an EOF, an error or urgent data a short read no longer says that nothing is left, and no new edge
         * will: read to EAGAIN from now on.
         */
        bits &= ~(uint32_t)TPI_SHORT_IS_EMPTY;
    }
    object->bits = bits;
    if (bits & TPI_CONNECTING) {
        if (bits & TPI_WRITEABLE) {
            finish_connecting(object);
        }
        return;
    }
    /* Reading first: what came before a reset is delivered before a send finds the reset. */
    if ((bits & (TPI_READABLE | TPI_WANT_READ)) == (TPI_READABLE | TPI_WANT_READ) && !(bits & TPI_LISTED) &&
        !is_too_early(readiness, object)) {
        read_some(readiness, object);
    }
    send_or_list(readiness, object);
    tpi_readiness_update(readiness, object);
}

void tpi_readiness_quick_read_ended(tpi_readiness *readiness, tpi_object *object, ssize_t count, size_t used) {
    if (count > 0 && (size_t)count < readiness->scratch_bytes) {
        keep_rest(readiness, object, readiness->scratch + used, (size_t)count - used);
        return;
    }
    object->bits |= TPI_READABLE;
    bool more = true;
    if (count > 0) {
        deliver(readiness, object, readiness->scratch, (size_t)count);
    } else {
        more = read_nothing(object, count);
    }
    if (more && still_reading(object)) {
        tpi_readiness_list(readiness, object); /* after all others have had their turn */
    }
}

void tpi_stream_go_on(tpi_readiness *readiness, tpi_object *object) {
    if ((object->bits & (TPI_HOLDING | TPI_WANT_READ)) == (TPI_HOLDING | TPI_WANT_READ)) {
        deliver_held(readiness, object);
        if (readiness->driver.interrupted) {
            tpi_readiness_list(readiness, object);
            return;
        }
    }
    if ((object->bits & (TPI_READABLE | TPI_WANT_READ | TPI_HOLDING)) == (TPI_READABLE | TPI_WANT_READ) &&
        !is_too_early(readiness, object)) {
        read_some(readiness, object);
    }
    send_or_list(readiness, object);
    tpi_readiness_update(readiness, object);
}

void tpi_readiness_read_start(tpi_driver *driver, tpi_object *object) {
    if (object->bits & (TPI_WANT_READ | TPI_AT_EOF)) {
        return;
    }
    object->bits |= TPI_WANT_READ;
    if (object->bits & TPI_FRESH) {
        uint32_t low = object->bits & ((UINT32_C(1) << TPI_EVENTS_SHIFT) - 1);
        object->bits = low | (uint32_t)((tpi_readiness *)driver)->dispatches << TPI_EVENTS_SHIFT;
    }
    if (object->bits & (TPI_READABLE | TPI_HOLDING)) {
        tpi_readiness_list((tpi_readiness *)driver, object);
    }
    tpi_readiness_update((tpi_readiness *)driver, object);
}

void tpi_readiness_read_stop(tpi_driver *driver, tpi_object *object) {
    object->bits &= ~(uint32_t)TPI_WANT_READ;
    tpi_readiness_update((tpi_readiness *)driver, object);
}

int tpi_readiness_connect(tpi_driver *driver, tpi_object *object, const tepal_address *address) {
    tpi_readiness *readiness = (tpi_readiness *)driver;
    int status = connect(object->fd, (const struct sockaddr *)&address->storage, address->length);
    /* EINTR: the connect goes on by itself (connect(2)). A full Unix backlog says EAGAIN and nothing will tell later. */
    if (status < 0 && errno != EINPROGRESS && errno != EINTR) {
        return TEPAL_SYSTEM(errno);
    }
    object->bits |= status < 0 ? TPI_CONNECTING : TPI_WRITEABLE;
    int code = tpi_readiness_register(readiness, object);
    return code < 0 ? code : status < 0 ? TPI_PENDING : 0;
}
