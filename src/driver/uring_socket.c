/*
 * Sockets on io_uring, from opening to closing, and accepting. Closing is exact: what the kernel has is asked to end,
 * its last completion is waited for, and only then is the descriptor closed, so no operation outlives its number.
 */
#include "driver/uring_inside.h"
#include "base/alloc.h"
#include <poll.h>
#include <unistd.h>

/* The table: descriptors and generations */

int tpi_uring_reserve(tpi_uring *uring, int fd) {
    if ((uint32_t)fd < uring->slot_count) {
        return 0;
    }
    uint32_t count = uring->slot_count == 0 ? 64 : uring->slot_count;
    while (count <= (uint32_t)fd) {
        count *= 2;
    }
    tpi_uring_slot *slots = uring->driver.realloc(uring->slots, count * sizeof *slots);
    if (slots == NULL) {
        return TEPAL_ENOMEM;
    }
    memset(slots + uring->slot_count, 0, (count - uring->slot_count) * sizeof *slots);
    uring->slots = slots;
    uring->slot_count = count;
    return 0;
}

bool tpi_uring_has(const tpi_uring *uring, int fd) {
    return ((uint32_t)fd < uring->slot_count && uring->slots[fd].object != NULL) || fd == uring->wake_fd ||
           fd == uring->ring.ring_fd || fd == uring->room_fd ||
           (uring->driver.inner != NULL && fd == uring->driver.inner->ops->poll_fd(uring->driver.inner));
}

static void next_generation(tpi_uring_slot *slot, int fd) {
    slot->tag = (((slot->tag >> 32) + 1) & TPI_URING_GENERATIONS) << 32 | (uint32_t)fd;
}

static int take(tpi_uring *uring, tpi_object *object, int fd, tpi_kind kind) {
    int code = tpi_uring_reserve(uring, fd);
    if (code < 0) {
        return code;
    }
    tpi_uring_slot *slot = &uring->slots[fd];
    if (tpi_uring_has(uring, fd)) {
        return TEPAL_EBUSY;
    }
    tpi_uring_forget_watch(uring, fd);
    slot->object = object;
    next_generation(slot, fd);
    object->fd = fd;
    object->kind = (uint8_t)kind;
    object->bits = kind == TPI_LISTENER ? TPI_LISTENS : 0;
    object->sending = NULL;
    uring->driver.objects++;
    return 0;
}

int tpi_uring_open(tpi_driver *driver, tpi_object *object, tpi_kind kind, int family) {
    int fd = tpi_socket_open(family);
    if (fd < 0) {
        return fd;
    }
    int code = take((tpi_uring *)driver, object, fd, kind);
    if (code < 0) {
        close(fd);
        return code;
    }
    object->spare = family == AF_UNIX ? TPI_IS_UNIX : 0;
    return 0;
}

static bool is_unix_socket(int fd) {
    int domain = 0;
    socklen_t length = sizeof domain;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_UNIX;
}

int tpi_uring_adopt(tpi_driver *driver, tpi_object *object, int fd, tpi_kind kind, int accepted) {
    int code = accepted != 0 ? 0 : tpi_socket_adopt(fd, kind);
    if (code == 0) {
        code = take((tpi_uring *)driver, object, fd, kind);
    }
    if (code < 0) {
        return code;
    }
    object->spare = (accepted != 0 ? accepted == AF_UNIX : is_unix_socket(fd)) ? TPI_IS_UNIX : 0;
    object->bits |= kind == TPI_STREAM && accepted == 0 ? (uint32_t)TPI_FRESH : 0;
    return 0;
}

/* The end */

void tpi_uring_poll_input(tpi_uring *uring, tpi_object *object, uint64_t tag) {
    if (tpi_uring_poll(uring, object->fd, POLLIN, tag)) {
        object->bits |= TPI_RECEIVING;
    } else {
        tpi_uring_list(uring, object);
    }
}

void tpi_uring_end_receiving(tpi_uring *uring, tpi_object *object) {
    if (tpi_uring_cancel(uring, object, object->bits & TPI_LISTENS ? TPI_URING_ACCEPT : TPI_URING_RECEIVE)) {
        object->bits |= TPI_CANCELING;
    } else {
        tpi_uring_list(uring, object); /* the queue is full: once more in the next dispatch */
    }
}

/* Whatever the kernel still has of it is asked to end. */
static void cancel_all(tpi_uring *uring, tpi_object *object) {
    const uint32_t bits = object->bits;
    if ((bits & (TPI_RECEIVING | TPI_CANCELING)) == TPI_RECEIVING) {
        tpi_uring_end_receiving(uring, object);
    }
    if (bits & (TPI_SENDING | TPI_CONNECTING) && !(bits & TPI_CANCEL_SEND)) {
        if (tpi_uring_cancel(uring, object, bits & TPI_SENDING ? TPI_URING_SEND : TPI_URING_CONNECT)) {
            object->bits |= TPI_CANCEL_SEND;
        } else {
            tpi_uring_list(uring, object);
        }
    }
}

void tpi_uring_wind_up(tpi_uring *uring, tpi_object *object) {
    if (object->bits & TPI_IN_KERNEL) {
        cancel_all(uring, object);
        return;
    }
    tpi_uring_leave_room(uring, object);
    tpi_uring_slot *slot = &uring->slots[object->fd];
    slot->object = NULL;
    next_generation(slot, object->fd);
    object->sending = NULL;
    if (object->bits & TPI_CLOSING) {
        if (object->bits & TPI_DROPPED) { /* as the kernel does where input is unread */
            (void)tpi_system_set(&uring->driver, object, TPI_OPTION_RESET_ON_CLOSE, 1);
        }
        close(object->fd);
        object->fd = -1;
    }
    object->bits |= TPI_LAST_WORD;
    tpi_uring_list(uring, object);
}

static void end(tpi_uring *uring, tpi_object *object, uint32_t how) {
    object->bits &= ~(uint32_t)(TPI_WANTS | TPI_STOPPING | TPI_DIALS | TPI_SEND_FAILED | TPI_BLOCKED);
    object->bits |= how;
    tpi_uring_wind_up(uring, object);
}

void tpi_uring_close(tpi_driver *driver, tpi_object *object) {
    tpi_uring *uring = (tpi_uring *)driver;
    if (uring->slots[object->fd].held != NULL) { /* also while the first of it is being delivered */
        tpi_uring_free_held(uring, object);
        object->bits |= TPI_DROPPED;
    }
    object->kind = 0;
    end(uring, object, TPI_CLOSING);
}

void tpi_uring_release(tpi_driver *driver, tpi_object *object) {
    end((tpi_uring *)driver, object, TPI_RELEASING);
}

/* The object may be gone after. */
void tpi_uring_say_last_word(tpi_uring *uring, tpi_object *object) {
    uring->driver.objects--;
    if (object->bits & TPI_CLOSING) {
        object->up->closed(object);
        return;
    }
    int fd = object->fd;
    size_t length = tpi_uring_count_held(uring, object);
    uint8_t *bytes = length == 0 ? NULL : uring->driver.realloc(NULL, length);
    if (bytes != NULL) {
        tpi_uring_copy_held(uring, object, bytes);
    }
    tpi_uring_free_held(uring, object);
    object->fd = -1;
    object->kind = 0;
    object->up->released(object, fd, bytes, bytes == NULL ? 0 : length);
    tpi_free(uring->driver.realloc, bytes);
}

/* Accepting */

/*
 * A ring that was given up still waits for connections until the kernel has taken it down, and it alone may be woken by the
 * next one (an accept is an exclusive waiter). So after an exchange connections are polled for, which every waiter hears.
 */
static void begin_accepting(tpi_uring *uring, tpi_object *object) {
    const uint64_t tag = tpi_uring_tag(uring, object->fd, TPI_URING_ACCEPT);
    if (uring->was_exchanged) {
        tpi_uring_poll_input(uring, object, tag);
        return;
    }
    struct io_uring_sqe *place = tpi_uring_place(uring);
    if (place == NULL) {
        tpi_uring_list(uring, object);
        return;
    }
    io_uring_prep_multishot_accept(place, object->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    place->user_data = tag;
    object->bits |= TPI_RECEIVING;
}

void tpi_uring_accept_start(tpi_driver *driver, tpi_object *object) {
    if (object->bits & TPI_WANTS) {
        return;
    }
    object->bits |= TPI_WANTS;
    if (!(object->bits & TPI_RECEIVING)) {
        begin_accepting((tpi_uring *)driver, object);
    }
}

void tpi_uring_accept_stop(tpi_driver *driver, tpi_object *object) {
    tpi_uring *uring = (tpi_uring *)driver;
    object->bits &= ~(uint32_t)TPI_WANTS;
    object->bits |= TPI_STOPPING;
    if (!(object->bits & TPI_RECEIVING)) {
        tpi_uring_list(uring, object);
    } else if (!(object->bits & TPI_CANCELING)) {
        tpi_uring_end_receiving(uring, object);
    }
}

void tpi_uring_listener_go_on(tpi_uring *uring, tpi_object *object) {
    const uint32_t bits = object->bits;
    if (bits & TPI_RECEIVING) {
        if (bits & TPI_STOPPING && !(bits & TPI_CANCELING)) {
            tpi_uring_end_receiving(uring, object);
        }
        return;
    }
    if (bits & TPI_STOPPING) {
        object->bits &= ~(uint32_t)TPI_STOPPING;
        object->up->accept_stopped(object);
    }
    if ((object->bits & (TPI_WANTS | TPI_RECEIVING | TPI_CLOSING | TPI_RELEASING)) == TPI_WANTS) {
        begin_accepting(uring, object);
    }
}

/* The peer's address, which a multishot accept does not tell. One that has gone already has none but its family. */
static void find_peer(int fd, tepal_address *peer) {
    peer->length = sizeof peer->storage;
    if (getpeername(fd, (struct sockaddr *)&peer->storage, &peer->length) == 0) {
        return;
    }
    peer->length = sizeof peer->storage;
    (void)getsockname(fd, (struct sockaddr *)&peer->storage, &peer->length);
    const sa_family_t family = peer->storage.ss_family;
    *peer = (tepal_address){.length = sizeof family};
    peer->storage.ss_family = family;
}

static void accept_ended(tpi_object *object, int result) {
    const int error = -result;
    if (error == ECANCELED || error == EAGAIN || tpi_is_of_one_connection(error) || !(object->bits & TPI_WANTS)) {
        return;
    }
    object->bits &= ~(uint32_t)TPI_WANTS;
    object->up->accept_failed(object, TEPAL_SYSTEM(error));
}

static void accept_some(tpi_uring *uring, tpi_object *object) {
    for (unsigned budget = 64; budget > 0 && object->bits & TPI_WANTS && !uring->driver.interrupted; budget--) {
        tepal_address peer = {.length = sizeof peer.storage};
        int fd = accept4(object->fd, (struct sockaddr *)&peer.storage, &peer.length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            object->up->accepted(object, fd, &peer);
        } else if (errno == EAGAIN) {
            return;
        } else {
            accept_ended(object, -errno);
        }
    }
}

void tpi_uring_accepted(tpi_uring *uring, tpi_object *object, int result, uint32_t flags) {
    if (!(flags & IORING_CQE_F_MORE)) {
        object->bits &= ~(uint32_t)(TPI_RECEIVING | TPI_CANCELING);
    }
    const bool is_poll = result >= 0 && tpi_uring_polls_listeners(uring);
    if (object->bits & (TPI_CLOSING | TPI_RELEASING)) {
        if (result >= 0 && !is_poll) {
            close(result); /* it lost the race */
        }
    } else if (is_poll) {
        accept_some(uring, object);
    } else if (result >= 0) {
        tepal_address peer = {.length = 0};
        find_peer(result, &peer);
        object->up->accepted(object, result, &peer);
    } else {
        accept_ended(object, result);
    }
    if (object->bits & TPI_LAST_WORD) {
        return;
    }
    if (object->bits & (TPI_CLOSING | TPI_RELEASING)) {
        tpi_uring_wind_up(uring, object);
    } else if (uring->driver.interrupted) {
        tpi_uring_list(uring, object);
    } else if (!(object->bits & TPI_RECEIVING)) {
        tpi_uring_listener_go_on(uring, object);
    }
}

/* Questions */

/* Where among the completions that are not delivered yet, those of earlier rings first. */
typedef struct tpi_undelivered {
    const tpi_uring_past *past; /* NULL: in the ring */
    uint32_t at;
} tpi_undelivered;

static tpi_undelivered undelivered(const tpi_uring *uring) {
    return (tpi_undelivered){.past = uring->past, .at = uring->past != NULL ? uring->past->first : uring->head};
}

/* The next one with this tag, or NULL. */
static const struct io_uring_cqe *next_undelivered(const tpi_uring *uring, tpi_undelivered *place, uint64_t tag) {
    const struct io_uring_cq *queue = &uring->ring.cq;
    for (; place->past != NULL; place->at = place->past != NULL ? place->past->first : uring->head) {
        while (place->at < place->past->count) {
            const struct io_uring_cqe *completion = &place->past->completions[place->at++];
            if (completion->user_data == tag) {
                return completion;
            }
        }
        place->past = place->past->next;
    }
    const uint32_t tail = io_uring_smp_load_acquire(queue->ktail);
    while (place->at != tail) {
        const struct io_uring_cqe *completion = &queue->cqes[place->at++ & queue->ring_mask];
        if (completion->user_data == tag) {
            return completion;
        }
    }
    return NULL;
}

/* Bytes that the kernel has received for an object, whose completion is not delivered yet. */
static size_t count_undelivered(const tpi_uring *uring, const tpi_object *object) {
    const uint64_t tag = tpi_uring_tag(uring, object->fd, TPI_URING_RECEIVE);
    tpi_undelivered place = undelivered(uring);
    const struct io_uring_cqe *completion;
    size_t count = 0;
    while ((completion = next_undelivered(uring, &place, tag)) != NULL) {
        if (completion->res > 0 && completion->flags & IORING_CQE_F_BUFFER) {
            count += (size_t)completion->res;
        }
    }
    return count;
}

/* A completion that is not delivered yet may be the answer. */
static int find_sent(const tpi_uring *uring, const tpi_object *object, int64_t *answer) {
    tpi_undelivered place = undelivered(uring);
    const struct io_uring_cqe *completion =
        next_undelivered(uring, &place, tpi_uring_tag(uring, object->fd, TPI_URING_SEND));
    if (completion == NULL) {
        return TEPAL_ENOENT;
    }
    *answer = completion->res < 0 ? TEPAL_SYSTEM(-completion->res) : completion->res;
    return 0;
}

int tpi_uring_query(tpi_driver *driver, const tpi_object *object, tpi_query what, void *answer) {
    const tpi_uring *uring = (const tpi_uring *)driver;
    if (what == TPI_QUERY_SENT) {
        return find_sent(uring, object, answer);
    }
    size_t held = 0;
    if (what == TPI_QUERY_UNREAD) {
        held = tpi_uring_count_held(uring, object) + count_undelivered(uring, object);
    }
    return tpi_system_query(object, what, held, answer);
}
