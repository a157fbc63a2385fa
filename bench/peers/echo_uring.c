/* The limit on io_uring: multishot accept and receive, answers sent straight from the provided buffers, one enter a
 * batch. Linux 6.12 fills a buffer by several receives, one behind the other, so half a MiB is enough and stays in the
 * cache. MSG_DONTWAIT ends an answer in the enter that submits it; what the kernel did not take is copied, sent later. */
#include <liburing.h>
#include <poll.h>
#include <string.h>
#include "../serve.h"

#define TAG(what, fd) ((uint64_t)(what) << 32 | (unsigned)(fd))
#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define FLAGS (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE)
enum { SUBMISSIONS = 2048, COMPLETIONS = 8192, BUFFERS = 8, BUFFER_BYTES = 64 * 1024, FDS = 1 << 20 };
enum { BUFFER_MORE = 1 << 4, INCREMENTAL = 2 }; /* IORING_CQE_F_BUF_MORE, IOU_PBUF_RING_INC: newer than the headers */
enum { RECEIVED, ANSWERED, ROOM, IGNORED, ACCEPTED, TERMINATE }; /* a tag's upper half; the lower is the descriptor */
static struct connection {
    const unsigned char *data; /* what the answer sends */
    unsigned length;           /* 0 once it has had its completion */
    bool armed, ended;         /* the receive has not had its last completion; to close once nothing is kept */
    unsigned char *kept;       /* what goes out after the answer, or when there is room */
    size_t kept_bytes;
} connections[FDS] __attribute__((aligned(64)));
static struct io_uring ring;
static unsigned char memory[BUFFERS][BUFFER_BYTES] __attribute__((aligned(4096)));
static struct io_uring_buf provided[BUFFERS] __attribute__((aligned(4096)));
static unsigned used, full, given; /* bytes of the buffer being filled; buffers so far: the kernel keeps their order */
static unsigned starved[FDS], starved_head, starved_tail; /* connections whose receive ended early */
static serve_options options;

static inline struct io_uring_sqe *submission(unsigned what, int fd) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    for (; !LIKELY(sqe != NULL); sqe = io_uring_get_sqe(&ring))
        io_uring_submit(&ring);
    sqe->user_data = TAG(what, fd);
    return sqe;
}

/* Put data among what is kept. If that gets long, receiving stops until it has gone. */
static __attribute__((noinline)) void keep(struct connection *peer, size_t at, const void *data, size_t length) {
    peer->kept = serve_grow(peer->kept, peer->kept_bytes + length + 1);
    memmove(peer->kept + at + length, peer->kept + at, peer->kept_bytes - at);
    memcpy(peer->kept + at, data, length);
    peer->kept_bytes += length;
    if (peer->kept_bytes >= BUFFER_BYTES && peer->armed)
        io_uring_prep_cancel64(submission(IGNORED, 0), TAG(RECEIVED, peer - connections), 0);
}

/* No answer is on its way: send what is kept, then receive or close. What cannot be sent is dropped. */
static __attribute__((noinline)) void go_on(int fd, struct connection *peer) {
    while (peer->kept_bytes > 0) {
        ssize_t sent = send(fd, peer->kept, peer->kept_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            io_uring_prep_poll_add(submission(ROOM, fd), fd, POLLOUT);
            return;
        }
        size_t taken = sent < 0 ? peer->kept_bytes : (size_t)sent;
        memmove(peer->kept, peer->kept + taken, peer->kept_bytes -= taken);
    }
    if (peer->armed)
        return;
    struct io_uring_sqe *sqe = submission(peer->ended ? IGNORED : RECEIVED, fd);
    io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
    sqe->flags = IOSQE_BUFFER_SELECT;
    if (peer->ended)
        io_uring_prep_close(sqe, fd);
    *peer = (struct connection){peer->data, peer->length, .armed = !peer->ended, .kept = peer->kept};
}

static inline void on_received(int fd, struct connection *peer, unsigned length, unsigned flags) {
    const unsigned char *data = memory[flags >> IORING_CQE_BUFFER_SHIFT] + used;
    used = LIKELY((flags & BUFFER_MORE) != 0) ? used + length : 0;
    full += used == 0;
    struct io_uring_sqe *last = &ring.sq.sqes[(ring.sq.sqe_tail - 1) % SUBMISSIONS]; /* the answer before this? */
    if (LIKELY(peer->length == 0 && peer->kept_bytes == 0 && !options.sink)) {
        io_uring_prep_send(submission(ANSWERED, fd), fd, data, length, MSG_DONTWAIT);
        peer->data = data;
        peer->length = length;
    } else if (last->user_data == TAG(ANSWERED, fd) && io_uring_sq_ready(&ring) && data == peer->data + peer->length) {
        last->len = peer->length += length;
    } else if (!options.sink) {
        keep(peer, peer->kept_bytes, data, length);
    }
}

static inline __attribute__((always_inline)) void on_completion(unsigned what, int fd, int result, unsigned flags) {
    struct connection *peer = &connections[fd];
    if (LIKELY(what == RECEIVED)) {
        if (LIKELY(result > 0))
            on_received(fd, peer, (unsigned)result, flags);
        if (LIKELY((flags & IORING_CQE_F_MORE) != 0))
            return;
        peer->armed = false;
        peer->ended = result <= 0 && result != -ENOBUFS && result != -ECANCELED;
        if (!peer->ended)
            starved[starved_tail++ % FDS] = (unsigned)fd;
        else if (peer->length == 0 && peer->kept_bytes == 0)
            go_on(fd, peer);
    } else if (LIKELY(what == ANSWERED)) {
        unsigned length = peer->length, taken = result == -EAGAIN ? 0 : result < 0 ? length : (unsigned)result;
        peer->length = 0;
        if (LIKELY(result == (int)length && !peer->ended && peer->kept_bytes == 0))
            return;
        keep(peer, 0, peer->data + taken, length - taken);
        go_on(fd, peer);
    } else if (what == ROOM) {
        go_on(fd, peer);
    } else if (what == ACCEPTED) {
        if (result >= 0)
            go_on(result, &connections[result]);
        if ((flags & IORING_CQE_F_MORE) == 0)
            io_uring_prep_multishot_accept(submission(ACCEPTED, fd), fd, NULL, NULL, SOCK_CLOEXEC);
    }
}

int main(int argc, char **argv) {
    options = serve_parse(argc, argv);
    struct io_uring_params parameters = {.flags = FLAGS, .cq_entries = COMPLETIONS};
    struct io_uring_buf_reg reg = {.ring_addr = (uintptr_t)provided, .ring_entries = BUFFERS, .pad = INCREMENTAL};
    serve_check(io_uring_queue_init_params(SUBMISSIONS, &ring, &parameters), "io_uring");
    serve_check(io_uring_register_buf_ring(&ring, &reg, 0), "io_uring: incremental buffers");
    io_uring_register_ring_fd(&ring);
    struct io_uring_buf_ring *to = (struct io_uring_buf_ring *)provided;
    int listener = serve_listen(&options, false);
    io_uring_prep_multishot_accept(submission(ACCEPTED, listener), listener, NULL, NULL, SOCK_CLOEXEC);
    io_uring_prep_poll_add(submission(TERMINATE, 0), serve_signals(), POLLIN);
    unsigned full_before = 0; /* buffers that were full before the answers just completed were submitted */
    for (bool stop = false; !stop;) {
        int count = 0;
        for (; given != full_before + BUFFERS; given++)
            io_uring_buf_ring_add(to, memory[given % BUFFERS], BUFFER_BYTES, given % BUFFERS, BUFFERS - 1, count++);
        io_uring_buf_ring_advance(to, count);
        for (unsigned room = given - full; room > 0 && starved_head != starved_tail; room--) {
            unsigned fd = starved[starved_head++ % FDS];
            if (connections[fd].kept_bytes == 0)
                go_on((int)fd, &connections[fd]);
        }
        full_before = full;
        bool sleep = starved_head == starved_tail || given - full == BUFFERS;
        while (serve_check(io_uring_submit_and_wait(&ring, sleep), "io_uring_enter") < 0)
            continue;
        unsigned head = *ring.cq.khead, ready = io_uring_cq_ready(&ring);
        for (unsigned end = head + ready; head != end; head++) {
            const struct io_uring_cqe *cqe = &ring.cq.cqes[head & (COMPLETIONS - 1)];
            on_completion((unsigned)(cqe->user_data >> 32), (int)(unsigned)cqe->user_data, cqe->res, cqe->flags);
            stop |= cqe->user_data >> 32 == TERMINATE;
        }
        io_uring_cq_advance(&ring, ready);
    }
    serve_report("uring");
}
