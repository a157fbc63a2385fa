/*
 * The ring and the buffers that the kernel receives into. A ring belongs to the thread that runs the loop (that is what
 * makes it cheap), so a loop that moves to another thread gets a new one, and so does a forked child.
 */
#include "driver/uring_inside.h"
#include "base/alloc.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BUFFER_GROUP 0
#define COMPLETIONS_PER_ENTRY 16 /* so that receives of many connections, which are not submitted, have room */
#define WAITS_TO_REGISTER 8      /* a run that waits as often is worth two calls more */

/*
 * Submit and complete in the thread that runs the loop, and only when it enters the ring; tell when there is a need. Not
 * where a foreign loop waits on the ring's descriptor: what has to be completed by entering does not make it readable.
 */
static const unsigned own_flags = IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
static const unsigned common_flags =
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;

static void *map(size_t length) {
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static size_t buffers_length(const tpi_uring *uring) {
    return (size_t)uring->buffer_count * uring->buffer_stride;
}

static size_t buffer_ring_length(const tpi_uring *uring) {
    return uring->buffer_count * sizeof(struct io_uring_buf);
}

/*
 * How many buffers the kernel has. It fills as many as it has before any of them is looked at, so with long messages they
 * are as few as fit the processor's cache together: the rest is spared. A receive that finds none ends with ENOBUFS, and
 * no more of those try again at a time than there are buffers.
 */

#define BATCH_BYTES (768 << 10)
#define FEWEST_BUFFERS 8

static void *spare_note(const tpi_uring *uring, uint16_t buffer) {
    return tpi_uring_buffer(uring, uring->buffers, buffer) - TPI_URING_HEAD;
}

/* How many it is to have, going by what came in `count` of them; 0: there is nothing to go by. */
static uint32_t wanted_buffers(const tpi_uring *uring, uint32_t count) {
    if (count == 0 || uring->batch_bytes == 0) {
        return 0;
    }
    const uint64_t fitting = (uint64_t)count * BATCH_BYTES / uring->batch_bytes;
    const uint32_t wanted = fitting < FEWEST_BUFFERS ? FEWEST_BUFFERS : (uint32_t)fitting;
    return fitting > uring->buffer_count ? uring->buffer_count : wanted;
}

/* Before what was given back is published: hold some of it back, or add what was held back. */
static void spare_buffers(tpi_uring *uring, uint32_t returned, uint32_t wanted) {
    uint32_t offered = uring->buffer_count - uring->leased - uring->spared;
    for (; offered > wanted && returned > 0; offered--, returned--) {
        const uint16_t buffer = uring->buffer_ring->bufs[--uring->buffer_tail & uring->buffer_mask].bid;
        memcpy(spare_note(uring, buffer), &uring->first_spare, sizeof uring->first_spare);
        uring->first_spare = buffer;
        uring->spared++;
    }
    for (; offered < wanted && uring->spared > 0; offered++) {
        const uint16_t buffer = uring->first_spare;
        memcpy(&uring->first_spare, spare_note(uring, buffer), sizeof uring->first_spare);
        uring->spared--;
        tpi_uring_give_back(uring, buffer, tpi_uring_buffer(uring, uring->buffers, buffer));
    }
}

void tpi_uring_publish_buffers(tpi_uring *uring) {
    const uint32_t returned = (uint16_t)(uring->buffer_tail - uring->buffer_ring->tail);
    const uint32_t wanted = wanted_buffers(uring, returned);
    if (wanted > 0 && (wanted < uring->buffer_count || uring->spared > 0)) {
        spare_buffers(uring, returned, wanted);
    }
    uring->batch_bytes = 0;
    uring->permits = uring->buffer_count - uring->leased - uring->spared;
    __atomic_store_n(&uring->buffer_ring->tail, uring->buffer_tail, __ATOMIC_RELEASE);
}

static void free_buffers(tpi_uring *uring) {
    if (uring->buffers != NULL) {
        munmap(uring->buffers, buffers_length(uring));
    }
    if (uring->buffer_ring != NULL) {
        munmap(uring->buffer_ring, buffer_ring_length(uring));
    }
    uring->buffers = NULL;
    uring->buffer_ring = NULL;
}

static int register_buffers(tpi_uring *uring) {
    uring->buffers = map(buffers_length(uring));
    uring->buffer_ring = map(buffer_ring_length(uring));
    if (uring->buffers == NULL || uring->buffer_ring == NULL) {
        return TEPAL_ENOMEM;
    }
    struct io_uring_buf_reg request = {
        .ring_addr = (uintptr_t)uring->buffer_ring, .ring_entries = uring->buffer_count, .bgid = BUFFER_GROUP};
    int status = io_uring_register_buf_ring(&uring->ring, &request, 0);
    if (status < 0) {
        return TEPAL_SYSTEM(-status);
    }
    uring->buffer_tail = 0;
    uring->spared = 0;
    uring->batch_bytes = 0;
    for (uint32_t i = 0; i < uring->buffer_count; i++) {
        uring->buffer_ring->bufs[i].len = uring->buffer_bytes;
        tpi_uring_give_back(uring, (uint16_t)i, tpi_uring_buffer(uring, uring->buffers, (uint16_t)i));
    }
    tpi_uring_publish_buffers(uring);
    return 0;
}

/* Whether the kernel lets us enter the ring as well: a disabled one says EBADFD. A sandbox may let only some calls pass. */
static int check_enter(struct io_uring *ring) {
    int status = io_uring_get_events(ring);
    return status >= 0 || status == -EBADFD ? 0 : TEPAL_SYSTEM(-status);
}

int tpi_uring_open_ring(tpi_uring *uring) {
    struct io_uring_params parameters = {.flags = common_flags | (uring->is_foreign ? 0 : own_flags),
                                         .cq_entries = uring->entries * COMPLETIONS_PER_ENTRY};
    uring->buffers = NULL; /* those of an earlier ring are the caller's, if this fails */
    uring->buffer_ring = NULL;
    int status = io_uring_queue_init_params(uring->entries, &uring->ring, &parameters);
    if (status < 0) { /* EINVAL: a kernel that does not know some flag */
        return status == -EINVAL ? TEPAL_ENOTSUP : TEPAL_SYSTEM(-status);
    }
    (void)io_uring_ring_dontfork(&uring->ring);
    int code = check_enter(&uring->ring);
    if (code == 0) {
        code = register_buffers(uring);
    }
    if (code < 0) {
        io_uring_queue_exit(&uring->ring);
        free_buffers(uring);
        return code;
    }
    uring->head = 0;
    uring->driver.queued_since = 0;
    uring->is_enabled = uring->is_registered = uring->is_polling = uring->is_polling_room = false;
    uring->waits = 0;
    return 0;
}

void tpi_uring_close_ring(tpi_uring *uring) {
    io_uring_queue_exit(&uring->ring);
    free_buffers(uring);
}

/* The queues are not here: io_uring_ring_dontfork(). */
void tpi_uring_abandon_ring(tpi_uring *uring) {
    close(uring->ring.ring_fd);
    free_buffers(uring);
}

/* Places in the submission queue */

struct io_uring_sqe *tpi_uring_place_slowly(tpi_uring *uring) {
    struct io_uring_sqe *place = io_uring_get_sqe(&uring->ring);
    if (place == NULL) {
        (void)io_uring_submit(&uring->ring);
        place = io_uring_get_sqe(&uring->ring);
    }
    if (place != NULL) {
        uring->driver.queued_since = tpi_ticks();
    }
    return place;
}

bool tpi_uring_cancel(tpi_uring *uring, const tpi_object *object, tpi_uring_operation operation) {
    struct io_uring_sqe *place = tpi_uring_place(uring);
    if (place == NULL) {
        return false;
    }
    io_uring_prep_cancel64(place, tpi_uring_tag(uring, object->fd, operation), 0);
    place->flags |= IOSQE_CQE_SKIP_SUCCESS;
    place->user_data = TPI_URING_NOBODY;
    return true;
}

bool tpi_uring_poll(tpi_uring *uring, int fd, unsigned events, uint64_t tag) {
    struct io_uring_sqe *place = tpi_uring_place(uring);
    if (place == NULL) {
        return false;
    }
    io_uring_prep_poll_add(place, fd, events);
    place->user_data = tag;
    return true;
}

/* Every write to the eventfd is an event, whether anybody reads it or not. */
bool tpi_uring_poll_wake(tpi_uring *uring) {
    struct io_uring_sqe *place = tpi_uring_place(uring);
    if (place == NULL) {
        return false;
    }
    io_uring_prep_poll_multishot(place, uring->wake_fd, POLLIN);
    place->user_data = (uint64_t)TPI_URING_WAKE << TPI_URING_OPERATION_SHIFT;
    return true;
}

/* Another thread, or a child */

/* Completions that another thread's ring still has: they are delivered first, from the buffers they are about. */
static int keep_past(tpi_uring *uring, tpi_uring_past **past) {
    const struct io_uring_cq *queue = &uring->ring.cq;
    uint32_t count = io_uring_smp_load_acquire(queue->ktail) - uring->head;
    if (count == 0) {
        return 0;
    }
    tpi_uring_past *kept = uring->driver.realloc(NULL, sizeof *kept + count * sizeof kept->completions[0]);
    if (kept == NULL) {
        return TEPAL_ENOMEM;
    }
    *kept = (tpi_uring_past){.count = count, .polled = uring->was_exchanged, .buffers = uring->buffers};
    for (uint32_t i = 0; i < count; i++) {
        kept->completions[i] = queue->cqes[(uring->head + i) & queue->ring_mask];
    }
    *past = kept;
    return 0;
}

void tpi_uring_free_past(tpi_uring *uring, tpi_uring_past *past) {
    munmap(past->buffers, buffers_length(uring));
    tpi_free(uring->driver.realloc, past);
}

void tpi_uring_drop_past(tpi_uring *uring) {
    while (uring->past != NULL) {
        tpi_uring_past *next = uring->past->next;
        tpi_uring_free_past(uring, uring->past);
        uring->past = next;
    }
}

static void append_past(tpi_uring *uring, tpi_uring_past *past) {
    tpi_uring_past **link = &uring->past;
    while (*link != NULL) {
        link = &(*link)->next;
    }
    *link = past;
    uring->driver.backlog = true;
}

/* Begin anew what an earlier ring was asked for and will not complete any more. */
static void ask_again(tpi_uring *uring) {
    for (const tpi_uring_past *past = uring->past; past != NULL; past = past->next) {
        for (uint32_t i = past->first; i < past->count; i++) {
            tpi_uring_note_end(uring, &past->completions[i]);
        }
    }
    (void)tpi_uring_poll_wake(uring);
    uring->is_polling = false;
    (void)tpi_uring_poll_watches(uring);
    (void)tpi_uring_poll_room(uring);
    for (uint32_t fd = 0; fd < uring->slot_count; fd++) {
        if (uring->slots[fd].object != NULL) {
            tpi_uring_ask_again(uring, uring->slots[fd].object);
        }
    }
}

/* The new ring takes the old one's number, for who waits on it. Returns the one that is left over. */
static int take_number(tpi_uring *uring, int number) {
    struct io_uring *ring = &uring->ring;
    const int other = ring->ring_fd;
    if (dup3(other, number, O_CLOEXEC) < 0) {
        return number;
    }
    ring->ring_fd = ring->enter_ring_fd = number;
    return other;
}

static int renew(tpi_uring *uring) {
    tpi_uring_past *past = NULL;
    int code = tpi_uring_copy_leases(uring);
    if (code == 0 && io_uring_cq_has_overflow(&uring->ring)) {
        code = TEPAL_EBUSY; /* only its own thread gets what the queue had no room for: one more turn there */
    }
    if (code == 0) {
        code = keep_past(uring, &past);
    }
    if (code < 0) {
        return code;
    }
    struct io_uring old = uring->ring;
    uint8_t *buffers = uring->buffers;
    struct io_uring_buf_ring *buffer_ring = uring->buffer_ring;
    const uint16_t buffer_tail = uring->buffer_tail;
    code = tpi_uring_open_ring(uring);
    if (code < 0) {
        tpi_free(uring->driver.realloc, past);
        uring->ring = old;
        uring->buffers = buffers;
        uring->buffer_ring = buffer_ring;
        uring->buffer_tail = buffer_tail;
        return code;
    }
    old.ring_fd = take_number(uring, old.ring_fd);
    io_uring_queue_exit(&old); /* what it had under way ends with it */
    munmap(buffer_ring, buffer_ring_length(uring));
    if (past == NULL) {
        munmap(buffers, buffers_length(uring));
    } else {
        append_past(uring, past);
    }
    uring->was_exchanged = true;
    ask_again(uring);
    return 0;
}

int tpi_uring_poll_fd(tpi_driver *driver) {
    tpi_uring *uring = (tpi_uring *)driver;
    if (!uring->is_foreign) {
        uring->is_foreign = true;
        int code = renew(uring);
        if (code < 0) {
            uring->is_foreign = false;
            return code;
        }
    }
    return uring->ring.ring_fd;
}

int tpi_uring_renew_in_child(tpi_uring *uring) {
    int code = tpi_uring_copy_leases(uring);
    if (code < 0) {
        return code;
    }
    const struct io_uring old = uring->ring;
    free_buffers(uring);
    code = tpi_uring_open_ring(uring);
    if (code < 0) {
        uring->ring = old; /* abandon() is to find its number */
        return code;
    }
    close(take_number(uring, old.ring_fd));
    tpi_uring_drop_past(uring);
    ask_again(uring);
    return 0;
}

/* Entering the kernel */

/* The first thread to run the loop has the ring. */
static int enable(tpi_uring *uring) {
    /* liburing 2.3 declares io_uring_enable_rings() and does not export it. */
    if (syscall(SYS_io_uring_register, uring->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0) {
        return TEPAL_SYSTEM(errno);
    }
    uring->is_enabled = true;
    return 0;
}

static int submit(tpi_uring *uring, int64_t timeout_ns) {
    struct io_uring *ring = &uring->ring;
    if (timeout_ns == 0) {
        return io_uring_submit_and_get_events(ring);
    }
    struct io_uring_cqe *first;
    struct __kernel_timespec limit = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    return io_uring_submit_and_wait_timeout(ring, &first, 1, timeout_ns < 0 ? NULL : &limit, NULL);
}

static int enter(tpi_uring *uring, int64_t timeout_ns) {
    int code = uring->is_enabled ? 0 : enable(uring);
    if (code < 0) {
        return code;
    }
    int status = submit(uring, timeout_ns);
    if (status == -EEXIST) { /* another thread's */
        code = renew(uring);
        if (code == 0) {
            code = enable(uring);
        }
        if (code < 0) {
            return code;
        }
        status = submit(uring, uring->driver.backlog ? 0 : timeout_ns); /* what was under way is begun by dispatch() */
    }
    uring->driver.queued_since = 0;
    switch (-status) {
    case ETIME:
    case EINTR:
    case EBUSY:  /* completions wait for room in their queue: taking some of them makes it */
    case EAGAIN: /* no memory for some submissions now: they stay queued */
        return 0;
    default:
        return status < 0 ? TEPAL_SYSTEM(-status) : 0;
    }
}

int tpi_uring_wait(tpi_driver *driver, int64_t timeout_ns) {
    tpi_uring *uring = (tpi_uring *)driver;
    const unsigned needs = IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN;
    if (timeout_ns == 0 && uring->is_enabled && io_uring_sq_ready(&uring->ring) == 0 &&
        !(__atomic_load_n(uring->ring.sq.kflags, __ATOMIC_RELAXED) & needs)) {
        return 0; /* the kernel has nothing to do for us, nor to say */
    }
    if (uring->waits < WAITS_TO_REGISTER && ++uring->waits == WAITS_TO_REGISTER && uring->is_enabled) {
        uring->is_registered = io_uring_register_ring_fd(&uring->ring) == 1;
    }
    return enter(uring, timeout_ns);
}

void tpi_uring_flush(tpi_driver *driver) {
    tpi_uring *uring = (tpi_uring *)driver;
    if (io_uring_sq_ready(&uring->ring) > 0) {
        (void)enter(uring, 0);
        driver->backlog |= io_uring_cq_ready(&uring->ring) > 0;
    }
}

/* A registered descriptor is the thread's: it would keep the ring alive after the loop has gone elsewhere. */
void tpi_uring_leave(tpi_driver *driver) {
    tpi_uring *uring = (tpi_uring *)driver;
    if (uring->is_registered) {
        (void)io_uring_unregister_ring_fd(&uring->ring);
        uring->is_registered = false;
    }
    uring->waits = 0;
}
