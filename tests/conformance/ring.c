/* See the header. */
#include "conformance/ring.h"
#include "conformance/accept_stub.h"
#include "conformance/mischief.h"
#include "conformance/system_calls.h"
#include "harness/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
void *__real_mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset);
int __real_io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *parameters);
int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *parameters);
void __real_io_uring_queue_exit(struct io_uring *ring);
void __wrap_io_uring_queue_exit(struct io_uring *ring);
int __real_io_uring_register_buf_ring(struct io_uring *ring, struct io_uring_buf_reg *buffers, unsigned flags);
int __wrap_io_uring_register_buf_ring(struct io_uring *ring, struct io_uring_buf_reg *buffers, unsigned flags);
int __real_io_uring_register_ring_fd(struct io_uring *ring);
int __wrap_io_uring_register_ring_fd(struct io_uring *ring);
int __real_io_uring_unregister_ring_fd(struct io_uring *ring);
int __wrap_io_uring_unregister_ring_fd(struct io_uring *ring);
int __real_io_uring_get_events(struct io_uring *ring);
int __wrap_io_uring_get_events(struct io_uring *ring);
int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);
int __real_io_uring_submit_and_get_events(struct io_uring *ring);
int __wrap_io_uring_submit_and_get_events(struct io_uring *ring);
int __real_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **first, unsigned count,
                                            struct __kernel_timespec *limit, sigset_t *mask);
int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **first, unsigned count,
                                            struct __kernel_timespec *limit, sigset_t *mask);

static ring_state *rings;
static atomic_size_t receives_ended;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

size_t ring_receives_ended(void) {
    return atomic_load(&receives_ended);
}

/* ---- Which ring it is ---- */

/* Takes it out of the list, if it is there. */
static ring_state *take_out(const struct io_uring_sqe *key) {
    pthread_mutex_lock(&mutex);
    ring_state **link = &rings;
    while (*link != NULL && (*link)->key != key) {
        link = &(*link)->next;
    }
    ring_state *found = *link;
    if (found != NULL) {
        *link = found->next;
    }
    pthread_mutex_unlock(&mutex);
    return found;
}

static void forget(struct io_uring *ring) {
    ring_state *self = take_out(ring->sq.sqes);

    for (int i = 0; self != NULL && i < RING_BUCKETS; i++) {
        while (self->flights[i] != NULL) {
            flight *next = self->flights[i]->next;
            free(self->flights[i]->copy);
            free(self->flights[i]);
            self->flights[i] = next;
        }
    }
    if (self != NULL) {
        mischief_end(self->mischief, ring);
    }
    free(self);
}

static ring_state *of(const struct io_uring *ring) {
    pthread_mutex_lock(&mutex);
    ring_state *found = rings;
    while (found != NULL && found->key != ring->sq.sqes) {
        found = found->next;
    }
    pthread_mutex_unlock(&mutex);
    CHECK(found != NULL);
    return found;
}

/* A ring that was not closed here, but left behind in a fork, may have had the same place. */
static void remember(struct io_uring *ring) {
    struct io_uring copy = *ring;
    forget(&copy);
    ring_state *self = calloc(1, sizeof *self);
    CHECK(self != NULL);
    self->key = ring->sq.sqes;
    self->mischief = mischief_of_ring(ring);
    pthread_mutex_lock(&mutex);
    self->next = rings;
    rings = self;
    pthread_mutex_unlock(&mutex);
}

/* ---- What is under way ---- */

static flight **bucket(ring_state *self, uint64_t tag) {
    return &self->flights[(tag ^ tag >> 32 ^ tag >> 53) % RING_BUCKETS];
}

flight *ring_find(ring_state *self, uint64_t tag) {
    flight *found = *bucket(self, tag);
    while (found != NULL && found->tag != tag) {
        found = found->next;
    }
    return found;
}

static flight *begin(ring_state *self, const struct io_uring_sqe *submission) {
    flight **place = bucket(self, submission->user_data);
    CHECK(ring_find(self, submission->user_data) == NULL); /* the library never has two of a kind on one socket */
    flight *made = calloc(1, sizeof *made);
    CHECK(made != NULL);
    *made = (flight){.next = *place, .tag = submission->user_data, .fd = submission->fd, .opcode = submission->opcode};
    *place = made;
    return made;
}

static void end(ring_state *self, flight *over) {
    flight **link = bucket(self, over->tag);
    while (*link != over) {
        link = &(*link)->next;
    }
    *link = over->next;
    free(over->copy);
    free(over);
}

void ring_cancel(const struct io_uring *ring, uint64_t tag) {
    struct io_uring_sync_cancel_reg request = {.addr = tag, .fd = -1};

    /* What is over already, or about to be, is not found: then it ends by itself. */
    (void)__real_syscall(SYS_io_uring_register, ring->ring_fd, IORING_REGISTER_SYNC_CANCEL, &request, 1);
}

void ring_fail_submission(flight *operation, struct io_uring_sqe *submission, int error) {
    memset(submission, 0, sizeof *submission);
    submission->opcode = IORING_OP_NOP;
    submission->fd = -1;
    submission->user_data = operation->tag;
    operation->is_nothing = true;
    operation->error = error;
}

void ring_fail_operation(const struct io_uring *ring, flight *operation, int error) {
    operation->error = error;
    ring_cancel(ring, operation->tag);
}

/* The kernel's documented value and struct, which are newer than the headers we build with. */
enum { REGISTER_BUFFER_STATUS = 26 };
struct buffer_status {
    uint32_t group, head, reserved[8];
};

void ring_shorten_buffers(ring_state *self, const struct io_uring *ring, unsigned count, unsigned bytes) {
    struct buffer_status status = {0};

    if (self->buffers == NULL ||
        __real_syscall(SYS_io_uring_register, ring->ring_fd, REGISTER_BUFFER_STATUS, &status, 1) < 0) {
        return;
    }
    self->buffer_bytes = self->buffers->bufs[0].len;
    for (unsigned i = 0; i < count && (uint16_t)(status.head + i) != self->buffers->tail; i++) {
        struct io_uring_buf *next = &self->buffers->bufs[(status.head + i) & (self->buffer_count - 1)];
        next->len = next->len < bytes ? next->len : bytes;
    }
}

static void restore_buffers(ring_state *self) {
    for (unsigned i = 0; self->buffer_bytes != 0 && i < self->buffer_count; i++) {
        self->buffers->bufs[i].len = self->buffer_bytes;
    }
    self->buffer_bytes = 0;
}

/* ---- Submissions ---- */

/* The same message with so many bytes at most. */
static void cut_message(flight *operation, struct io_uring_sqe *submission, size_t most) {
    const struct msghdr *whole = (const struct msghdr *)(uintptr_t)submission->addr;
    struct msghdr *part = malloc(sizeof *part + whole->msg_iovlen * sizeof(struct iovec));
    CHECK(part != NULL);
    struct iovec *pieces = (struct iovec *)(part + 1);
    size_t count = 0;

    for (; count < whole->msg_iovlen && most > 0; count++) {
        pieces[count] = whole->msg_iov[count];
        if (pieces[count].iov_len > most) {
            pieces[count].iov_len = most;
        }
        most -= pieces[count].iov_len;
    }
    *part = *whole;
    part->msg_iov = pieces;
    part->msg_iovlen = count;
    submission->addr = (uintptr_t)part;
    operation->copy = part;
}

static size_t length_of(const struct io_uring_sqe *submission) {
    if (submission->opcode == IORING_OP_SEND) {
        return submission->len;
    }
    const struct msghdr *message = (const struct msghdr *)(uintptr_t)submission->addr;
    size_t length = 0;
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        length += message->msg_iov[i].iov_len;
    }
    return length;
}

static void look_at_send(ring_state *self, struct io_uring_sqe *submission) {
    flight *operation = begin(self, submission);

    CHECK(!self->is_sending[submission->fd]); /* the kernel may reorder two */
    self->is_sending[submission->fd] = true;
    if (sends_must_fail()) {
        ring_fail_submission(operation, submission, errno);
        return;
    }
    const size_t length = length_of(submission);
    operation->call =
        faults_begin(submission->opcode == IORING_OP_SEND ? CALL_send : CALL_sendmsg, sends_at_most(length));
    if (operation->call.error != 0) {
        operation->is_planned = true;
        ring_fail_submission(operation, submission, operation->call.error);
    } else if (operation->call.length < length && submission->opcode == IORING_OP_SEND) {
        submission->len = (unsigned)operation->call.length;
    } else if (operation->call.length < length) {
        cut_message(operation, submission, operation->call.length);
    }
    mischief_on_submission(self->mischief, operation, submission);
}

static void look_at_accept(ring_state *self, struct io_uring_sqe *submission) {
    flight *operation = begin(self, submission);
    const int error = accept_stub_ask();
    const faults_call call = error != 0 ? (faults_call){.error = 0} : faults_begin(CALL_accept4, 0);

    if (error != 0 || call.error != 0) {
        ring_fail_submission(operation, submission, error != 0 ? error : call.error);
        operation->is_planned = call.error != 0;
        (void)faults_end(&call, -1);
    }
    mischief_on_submission(self->mischief, operation, submission);
}

static void look_at_cancel(ring_state *self, struct io_uring_sqe *submission) {
    flight *operation = ring_find(self, submission->addr);
    mischief_on_cancel(self->mischief, operation, submission);
    if (operation != NULL) {
        operation->is_canceled = true;
    }
}

/* An accept that waits in the kernel since before it was ordered to fail. */
static void fail_waiting_accepts(const struct io_uring *ring, ring_state *self) {
    for (int i = 0; i < RING_BUCKETS && accept_stub_is_failing(); i++) {
        for (flight *operation = self->flights[i]; operation != NULL; operation = operation->next) {
            if (operation->opcode == IORING_OP_ACCEPT && !operation->is_canceled && operation->error == 0) {
                const int error = accept_stub_ask();
                if (error != 0) {
                    ring_fail_operation(ring, operation, error);
                }
            }
        }
    }
}

static void before(struct io_uring *ring, ring_state *self) {
    struct io_uring_sq *queue = &ring->sq;

    restore_buffers(self);
    mischief_before(self->mischief, ring, self);
    fail_waiting_accepts(ring, self);
    for (; self->looked_at != queue->sqe_tail; self->looked_at++) {
        struct io_uring_sqe *submission = &queue->sqes[self->looked_at & queue->ring_mask];
        switch (submission->opcode) {
        case IORING_OP_SEND:
        case IORING_OP_SENDMSG:
            look_at_send(self, submission);
            break;
        case IORING_OP_POLL_ADD:
            (void)begin(self, submission);
            break;
        case IORING_OP_RECV:
            mischief_on_submission(self->mischief, begin(self, submission), submission);
            break;
        case IORING_OP_ACCEPT:
            look_at_accept(self, submission);
            break;
        case IORING_OP_ASYNC_CANCEL:
            look_at_cancel(self, submission);
            break;
        default:
            break;
        }
    }
    const size_t most = faults_short_next(CALL_recv);
    if (most > 0) {
        ring_shorten_buffers(self, ring, 1, (unsigned)most);
    }
}

/* ---- Completions ---- */

/* An error that was ordered: the operation that waits in the kernel ends, and says it. */
static void end_with(const struct io_uring *ring, flight *operation, struct io_uring_cqe *completion,
                     const faults_call *call) {
    operation->is_planned = true;
    if (completion->flags & IORING_CQE_F_MORE) {
        ring_fail_operation(ring, operation, call->error);
    } else {
        completion->res = -call->error; /* it brought nothing: the end, which comes again */
        operation->error = 0;
    }
}

static void look_at_received(const struct io_uring *ring, flight *operation, struct io_uring_cqe *completion) {
    if (completion->res < 0) {
        return;
    }
    receives_add();
    atomic_fetch_add(&receives_ended, completion->res > 0 && !(completion->flags & IORING_CQE_F_MORE));
    faults_call call = faults_begin(CALL_recv, SIZE_MAX);
    (void)faults_end(&call, completion->res);
    if (call.error != 0 && (completion->res == 0 || completion->flags & IORING_CQE_F_MORE) && !operation->is_canceled) {
        end_with(ring, operation, completion, &call);
    } else if (call.error != 0) {
        faults_missed();
    }
}

/* While it goes on, the kernel asks for the next one by itself. */
static void look_at_accepted(const struct io_uring *ring, flight *operation, struct io_uring_cqe *completion) {
    if (!(completion->flags & IORING_CQE_F_MORE)) {
        return;
    }
    const int error = accept_stub_ask();
    const faults_call call = error != 0 ? (faults_call){.error = error} : faults_begin(CALL_accept4, 0);
    (void)faults_end(&call, completion->res);
    if (call.error == 0) {
        return;
    }
    if (operation->is_canceled || operation->error != 0) {
        faults_missed();
        return;
    }
    operation->is_planned = error == 0;
    ring_fail_operation(ring, operation, call.error);
}

/* The last word of an operation that was ordered to fail. */
static void fail(const flight *operation, struct io_uring_cqe *completion) {
    if (operation->is_nothing || (completion->res == -ECANCELED && !operation->is_canceled)) {
        completion->res = -operation->error;
    } else if (operation->is_planned) {
        faults_missed(); /* something else came first */
    }
}

static void look_at_completion(const struct io_uring *ring, ring_state *self, struct io_uring_cqe *completion) {
    flight *operation = ring_find(self, completion->user_data);
    if (operation == NULL) {
        return;
    }
    if (!(completion->flags & IORING_CQE_F_MORE) && operation->error != 0) {
        fail(operation, completion);
    }
    if (operation->opcode == IORING_OP_RECV) {
        look_at_received(ring, operation, completion);
    } else if (operation->opcode == IORING_OP_ACCEPT) {
        look_at_accepted(ring, operation, completion);
    } else if (operation->opcode != IORING_OP_POLL_ADD) {
        self->is_sending[operation->fd] = false;
        (void)faults_end(&operation->call, completion->res < 0 ? -1 : completion->res);
    }
    if (!(completion->flags & IORING_CQE_F_MORE)) {
        end(self, operation);
    } else if (operation->error == 0 && !operation->is_canceled) {
        const int error = mischief_on_completion(self->mischief, operation);
        if (error != 0 && operation->opcode == IORING_OP_POLL_ADD) {
            ring_cancel(ring, operation->tag); /* as if there had been no room for its completion */
        } else if (error != 0) {
            ring_fail_operation(ring, operation, error);
        }
    }
}

static void after(const struct io_uring *ring, ring_state *self) {
    const struct io_uring_cq *queue = &ring->cq;

    /* What is cancelled here may complete at once. */
    for (; self->seen != io_uring_smp_load_acquire(queue->ktail); self->seen++) {
        look_at_completion(ring, self, &queue->cqes[self->seen & queue->ring_mask]);
    }
}

/* ---- The calls ---- */

/* An error ordered for this call, negative, or 0. */
static int ordered(system_call name) {
    const int saved = errno;
    const int error = faults_fail(name) ? errno : 0;
    errno = saved;
    return -error;
}

int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *parameters) {
    int status = ordered(CALL_io_uring_setup);
    if (status == 0) {
        status = __real_io_uring_queue_init_params(entries, ring, parameters);
    }
    if (status >= 0) {
        remember(ring);
    }
    return status;
}

void __wrap_io_uring_queue_exit(struct io_uring *ring) {
    forget(ring);
    __real_io_uring_queue_exit(ring);
}

int __wrap_io_uring_register_buf_ring(struct io_uring *ring, struct io_uring_buf_reg *buffers, unsigned flags) {
    int status = ordered(CALL_io_uring_register);
    if (status == 0) {
        status = __real_io_uring_register_buf_ring(ring, buffers, flags);
    }
    if (status >= 0) {
        ring_state *self = of(ring);
        self->buffers = (struct io_uring_buf_ring *)(uintptr_t)buffers->ring_addr;
        self->buffer_count = buffers->ring_entries;
    }
    return status;
}

int __wrap_io_uring_register_ring_fd(struct io_uring *ring) {
    const int status = ordered(CALL_io_uring_register);
    return status < 0 ? status : __real_io_uring_register_ring_fd(ring);
}

int __wrap_io_uring_unregister_ring_fd(struct io_uring *ring) {
    const int status = ordered(CALL_io_uring_register);
    return status < 0 ? status : __real_io_uring_unregister_ring_fd(ring);
}

/* Of all calls only this one of the library's goes this way; what else comes here is a test's. */
long __wrap_syscall(long number, ...) {
    va_list arguments;
    long a[6];

    va_start(arguments, number);
    for (int i = 0; i < 6; i++) {
        a[i] = va_arg(arguments, long);
    }
    va_end(arguments);
    if (number == SYS_io_uring_register && faults_fail(CALL_io_uring_register)) {
        return -1;
    }
    return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

void *__wrap_mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    return faults_fail(CALL_mmap) ? MAP_FAILED : __real_mmap64(address, length, protection, flags, fd, offset);
}

/* The library asks a new ring, once, whether it may be entered. */
int __wrap_io_uring_get_events(struct io_uring *ring) {
    const int status = ordered(CALL_io_uring_setup);
    return status < 0 ? status : __real_io_uring_get_events(ring);
}

typedef enum entry { SUBMIT, SUBMIT_AND_GET, SUBMIT_AND_WAIT } entry;

static int enter(struct io_uring *ring, entry how, struct __kernel_timespec *limit, sigset_t *mask) {
    ring_state *self = of(ring);
    struct io_uring_cqe *first;
    int status = ordered(CALL_io_uring_enter);

    if (status == -EEXIST && how != SUBMIT_AND_WAIT) {
        faults_missed(); /* no other thread begins to run the loop in the middle of a dispatch */
        status = 0;
    }
    if (status < 0) {
        return status;
    }
    mischief_step_aside(self->mischief, ring);
    if (!(ring->flags & IORING_SETUP_DEFER_TASKRUN)) {
        after(ring, self); /* such a ring completes at any time, and its loop may have looked already */
    }
    before(ring, self);
    if (how == SUBMIT) {
        status = __real_io_uring_submit(ring);
    } else if (how == SUBMIT_AND_GET || mischief_is_holding(self->mischief)) {
        status = __real_io_uring_submit_and_get_events(ring);
    } else {
        status = __real_io_uring_submit_and_wait_timeout(ring, &first, 1, limit, mask);
    }
    after(ring, self);
    mischief_step_in(self->mischief, ring);
    if (status == -EEXIST) {
        mischief_let_go(self->mischief); /* it will be left behind */
    }
    return status;
}

int __wrap_io_uring_submit(struct io_uring *ring) {
    return enter(ring, SUBMIT, NULL, NULL);
}

int __wrap_io_uring_submit_and_get_events(struct io_uring *ring) {
    return enter(ring, SUBMIT_AND_GET, NULL, NULL);
}

int __wrap_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **first, unsigned count,
                                            struct __kernel_timespec *limit, sigset_t *mask) {
    (void)first; /* the library looks at the queue itself */
    CHECK_EQ(count, 1);
    return enter(ring, SUBMIT_AND_WAIT, limit, mask);
}
