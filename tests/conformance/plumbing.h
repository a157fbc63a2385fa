/*
 * What the tests of producers, pipes and relays share: a loop that fails the test when an invariant breaks, ends of
 * connections that count what happens to them, and a stream of bytes of which each offset is known.
 */
#ifndef TEPAL_TESTS_PLUMBING_H
#define TEPAL_TESTS_PLUMBING_H

#include "harness/test.h"
#include <tepal.h>

/* A debug loop of the driver under test on the counting allocator. Any report fails the test. */
tepal_loop *plumbing_loop(void);
/* The same without debug: there memory is taken when it is needed, not in advance. */
tepal_loop *plumbing_quiet_loop(void);
void plumbing_close(tepal_loop *loop);

/* Turn the loop until the condition holds, or fail after 10 seconds. */
#define RUN_UNTIL(loop, condition)                                                                                     \
    do {                                                                                                               \
        const int64_t give_up_ns_ = test_now_ns() + TEPAL_SEC(test_is_slow_build() ? 100 : 10);                        \
        while (!(condition)) {                                                                                         \
            if (test_now_ns() > give_up_ns_) {                                                                         \
                test_fail(__FILE__, __LINE__, "waited too long for %s", #condition);                                   \
            }                                                                                                          \
            CHECK_OK(tepal_loop_step(loop, TEPAL_SEC(1)));                                                             \
        }                                                                                                              \
    } while (0)

/* Turn the loop until it would sleep. */
void settle(tepal_loop *loop);

/* The bytes of stream `seed` from an offset on. */
void stream_fill(uint64_t seed, uint64_t offset, void *data, size_t length);
void stream_check(uint64_t seed, uint64_t offset, const void *data, size_t length);

/* One end of a connection: a protocol that checks the stream it receives and counts its upcalls. */
typedef struct end end;
struct end {
    tepal_protocol protocol;    /* first */
    tepal_transport *transport; /* a reference, until end_free() */
    uint64_t seed;              /* of the stream that it receives */
    uint64_t received;
    uint64_t sent; /* by end_write() */
    int made, eofs, pauses, resumes, losts;
    int lost_code;     /* of connection_lost: 0 when clean */
    bool close_at_eof; /* else it stays half-open */
    bool is_paused;    /* by pause_writing */
    bool is_idle;      /* the test's: it has paused reading */
    void (*on_data)(end *self);
    void (*on_pause)(end *self);
    uint8_t buffer[4096]; /* of those with get_buffer */
};

/* Make a connection of two ends, over Unix sockets or TCP, and wait until both are made. */
void end_pair(tepal_loop *loop, end *a, end *b);
void end_tcp_pair(tepal_loop *loop, end *a, end *b);

/* Adopt a descriptor as this end; connection_made is still to come. */
void end_adopt(tepal_loop *loop, end *self, int fd);

/* An end that takes its data through get_buffer. */
extern const tepal_protocol_type end_type, buffered_end_type;

void end_free(end *self);

/* Write the next length bytes of the stream that the other end expects; and the same until writing is paused. */
void end_write(end *self, const end *other, size_t length);
void end_fill(end *self, const end *other);

/* Small socket buffers and marks, so that little data is enough to fill the way from this end to the other. */
void end_narrow(end *self, uint64_t high);

/* A pull producer that writes the first `total` bytes of stream `seed`, then write_eof unless keep_open. */
typedef struct feed {
    tepal_producer producer; /* first */
    tepal_transport *transport;
    uint64_t seed, sent, total;
    size_t portion;
    bool keep_open, is_stopped, is_done;
} feed;

void feed_start(feed *self, end *to, uint64_t seed, uint64_t total);

/*
 *   writer ---- source ==pipe==> sink ---- reader
 *
 * Four ends of two connections on one loop. The reader expects the stream that the writer writes.
 */
typedef struct line {
    tepal_loop *loop;
    end writer, source, sink, reader;
    tepal_future *future;
} line;

void line_open(line *self); /* makes the loop, if there is none yet */
void line_open_tcp(line *self);
void line_pipe(line *self);
void line_close(line *self);

/* How the pipe has ended. */
void line_check_result(const line *self, uint64_t bytes, bool eof);
void line_check_failed(const line *self, int code);

#endif
