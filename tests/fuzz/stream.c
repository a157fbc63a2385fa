/*
 * Streams: two transports over a socket pair, or four in a line with pipes in the middle, on one loop in debug mode (a
 * broken invariant fails) and on a plain one. Writes of every kind, flushes, half-close, close, abort, pauses, limits,
 * protocols and filters that come and go, pipes, producers, futures, interrupts, allocations that fail and the loop's
 * close, in any sequence, from outside and from inside every upcall.
 *
 * Checked (most of it in support/ends.c): what arrives is a prefix of what was accepted, no write is split, all of it has
 * arrived at a clean EOF; upcalls come in their order, outside of all calls but for pauses, connection_lost once; owned
 * writes are released once; and afterwards all memory and descriptors are back. Nothing waits for time.
 */
#include "fuzz/support/ends.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FUTURES = 8 };

static tepal_future *futures[FUTURES];

static void keep_future(world *w, tepal_future *future) {
    tepal_future **slot = &futures[fuzz_below(&w->input, FUTURES)];
    tepal_future_unref(*slot);
    *slot = future;
}

static void act_soon(void *argument) {
    world *w = argument;
    CHECK_EQ(w->calls, 0);
    CHECK(!w->is_interrupted);
    world_act(w);
}

static void step(world *w) {
    if (w->depth > 0) {
        if (tepal_loop_is_running(w->loop) || tepal_loop_is_closed(w->loop)) {
            CHECK(tepal_loop_step(w->loop, 0) < 0);
        }
        return;
    }
    const unsigned calls = w->calls; /* upcalls come from it, as they must */
    w->calls = 0;
    const int code = tepal_loop_step(w->loop, 0);
    w->calls = calls;
    if (tepal_loop_is_closed(w->loop)) {
        CHECK_EQ(code, TEPAL_ECLOSED);
    } else {
        CHECK(w->is_interrupted ? code == TEPAL_ECANCELED : code >= 0);
    }
    w->is_interrupted = false;
}

static void interrupt(world *w) {
    if (tepal_loop_is_running(w->loop)) {
        tepal_loop_interrupt(w->loop, TEPAL_ECANCELED);
        w->is_interrupted = true;
    }
}

static void close_loop(world *w) {
    if (fuzz_below(&w->input, 4) != 3) {
        return;
    }
    if (tepal_loop_is_running(w->loop)) {
        CHECK_EQ(tepal_loop_close(w->loop), TEPAL_ERECURSION);
    } else if (w->depth == 0) {
        const unsigned calls = w->calls;
        w->calls = 0;
        CHECK_OK(tepal_loop_close(w->loop));
        w->calls = calls;
    }
}

static void set_protocol(end *self) {
    tepal_protocol *old = NULL;
    const unsigned before = self->current;
    if (self->losts > 0) {
        return;
    }
    self->current = 1 - before;
    self->speakers[self->current].is_paused = false;
    if (tepal_transport_set_protocol(self->transport, &self->speakers[1 - before].protocol, &old) < 0) {
        self->current = before;
    } else {
        CHECK(old == &self->speakers[before].protocol);
    }
}

/* Only between the two connections of a line, and each way once: what the far end expects is then known. */
static void start_pipe(world *w, end *self) {
    end *sink = &w->ends[3 - self->number];
    if (w->count != ENDS || (self->number != 1 && self->number != 2) || self->was_piped || sink->transport == NULL) {
        return;
    }
    self->was_piped = true;
    w->ends[self->number == 1 ? 3 : 0].received = self->received;
    const tepal_pipe_options options = {.size = sizeof options, .keep_sink_open = fuzz_below(&w->input, 4) == 3};
    if (tepal_pipe(self->transport, sink->transport, &options, &self->pipe) < 0) {
        self->pipe = NULL;
        self->was_piped = false;
    }
}

static void cancel_future(world *w, end *self) {
    const unsigned i = fuzz_below(&w->input, FUTURES + 2);
    tepal_future *future = i < FUTURES ? futures[i] : self->pipe;
    if (future != NULL) {
        (void)tepal_future_cancel(future);
        CHECK(tepal_future_is_done(future));
    }
}

static void ask(end *self) {
    tepal_address address;
    const void *answer;
    uint64_t high, low, cap;
    tepal_transport_get_write_limits(self->transport, &high, &low, &cap);
    CHECK(low <= high && high <= cap);
    (void)tepal_transport_peer(self->transport, &address);
    (void)tepal_transport_local(self->transport, &address);
    CHECK(tepal_transport_info(self->transport, "no such thing", &answer) < 0);
    CHECK(tepal_transport_set_no_delay(self->transport, true) < 0);
    CHECK(!tepal_transport_is_reading(self->transport) || !self->wants_no_data);
    CHECK(!tepal_transport_can_write_eof(self->transport) || !tepal_transport_is_closing(self->transport));
    CHECK_EQ(tepal_transport_fd(self->transport) < 0,
             self->losts > 0 && tepal_transport_protocol(self->transport) == NULL);
}

static void set_limits(world *w, end *self) {
    const uint64_t high = fuzz_byte(&w->input) * 16u, low = high * fuzz_below(&w->input, 4) / 3;
    const uint64_t cap = fuzz_below(&w->input, 2) == 1 ? high + fuzz_byte(&w->input) * 64u : UINT64_MAX;
    const int code = tepal_transport_set_write_limits(self->transport, high, low, cap);
    CHECK(code == 0 || code == TEPAL_ECLOSED || code == TEPAL_ENOMEM);
}

/* Those with a future. */
static void make_future(world *w, end *self) {
    tepal_future *future = NULL;
    if (fuzz_below(&w->input, 2) == 0) {
        (void)tepal_transport_drain(self->transport, &future);
    } else {
        end_push_filter(self, 2, &future);
    }
    if (future != NULL) {
        keep_future(w, future);
    }
}

static void operate_flow(world *w, end *self, unsigned what) {
    int code;
    switch (what) {
    case 0:
    case 1:
        code = tepal_transport_pause_reading(self->transport);
        self->wants_no_data = self->wants_no_data || code == 0;
        break;
    case 2:
    case 3:
        self->wants_no_data = false; /* a closing transport delivers nothing either way */
        (void)tepal_transport_resume_reading(self->transport);
        break;
    case 4:
        set_limits(w, self);
        break;
    case 5:
        end_register_producer(self, fuzz_below(&w->input, 2) == 1);
        break;
    case 6:
        if (self->feeder.is_registered) { /* else it may be a pipe's */
            CHECK_EQ(tepal_transport_unregister_producer(self->transport), 0);
            self->feeder.is_registered = false;
        }
        break;
    case 7:
        make_future(w, self);
        break;
    default:
        start_pipe(w, self);
    }
}

static void operate_ends(world *w, end *self, unsigned what) {
    switch (what) {
    case 0:
    case 1:
    case 2:
    case 3:
        end_write(self, fuzz_length(&w->input, 9000), what % 3);
        break;
    case 4:
        (void)tepal_transport_flush(self->transport);
        break;
    case 5:
        (void)tepal_transport_write_eof(self->transport);
        break;
    case 6:
        if (fuzz_below(&w->input, 3) == 2) {
            tepal_transport_close(self->transport);
        }
        break;
    case 7:
        if (fuzz_below(&w->input, 4) == 3) {
            self->is_broken = true;
            tepal_transport_abort(self->transport, fuzz_below(&w->input, 2) == 1 ? TEPAL_ETIMEDOUT : 0);
        }
        break;
    case 8:
        set_protocol(self);
        break;
    case 9:
        end_push_filter(self, fuzz_below(&w->input, 3), NULL);
        break;
    case 10:
        end_pop_filter(self);
        break;
    default:
        ask(self);
    }
}

/* One call from outside or from inside an upcall. */
static void operate(world *w) {
    const uint8_t byte = fuzz_byte(&w->input);
    end *const self = &w->ends[byte % w->count];
    const unsigned what = byte / 4 % 32;
    w->calls++;
    if (what < 8) {
        step(w);
    } else if (what < 20) {
        operate_ends(w, self, what - 8);
    } else if (what < 28) {
        operate_flow(w, self, what - 20);
    } else if (what == 28) {
        operate_flow(w, self, 8);
        (void)tepal_loop_call_soon(w->loop, act_soon, w, NULL);
    } else if (what == 29) {
        cancel_future(w, self);
    } else if (what == 30) {
        test_alloc_fail_at(fuzz_below(&w->input, 6), false);
    } else {
        close_loop(w);
        interrupt(w);
    }
    w->calls--;
}

/* A broken invariant or a wrong thread; errors of futures at which nobody looked are no news here. */
static void report(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    (void)loop;
    (void)argument;
    if (error->code == TEPAL_EINVARIANT || error->code == TEPAL_ETHREAD) {
        test_fail(__FILE__, __LINE__, "%s: %s", what, error->text);
    }
}

static void released(void *argument, int fd) {
    end *self = argument;
    CHECK_EQ(fd, self->fd);
    CHECK_EQ(self->losts, 1);
    self->released++;
}

static void adopt(world *w, end *self, int fd) {
    const uint8_t kind = fuzz_byte(&w->input);
    const int small = 4096;
    self->world = w;
    self->number = (unsigned)(self - w->ends);
    self->is_borrowed = (kind & 1) != 0;
    self->fd = fd;
    for (unsigned i = 0; i < 2; i++) {
        self->speakers[i] = (speaker){.protocol.type = &speaker_types[((kind >> 1 & 3) + i) % 3], .end = self};
    }
    if (kind & 8) {
        CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
    }
    CHECK_OK(tepal_loop_adopt(w->loop, fd, &self->speakers[0].protocol,
                              TEPAL_OPTIONS(tepal_transport_options, .borrow = self->is_borrowed,
                                            .abort_without_reset = (kind & 16) != 0, .linger_ns = kind & 32 ? -1 : 0,
                                            .write_high = kind & 64 ? 1000 : 0, .write_cap = kind & 128 ? 30000 : 0,
                                            .released = released, .argument = self),
                              &self->transport));
    tepal_transport_ref(self->transport);
}

static void begin(world *w) {
    const uint8_t kind = fuzz_byte(&w->input);
    test_alloc_fail_at(0, false);
    w->operate = operate;
    w->count = kind & 4 ? ENDS : 2;
    CHECK_OK(tepal_loop_new(&w->loop, TEPAL_OPTIONS(tepal_loop_options, .driver = kind & 1 ? "poll" : "epoll",
                                                    .order = kind & 8 ? TEPAL_ORDER_DRAIN : TEPAL_ORDER_SNAPSHOT,
                                                    .read_bytes = kind & 16 ? 4096 : 0, .debug = !(kind & 2),
                                                    .slow_callback_ns = -1, .realloc = test_counting_alloc)));
    tepal_loop_set_exception_handler(w->loop, report, NULL);
    for (unsigned i = 0; i < w->count; i += 2) {
        int fds[2];
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        adopt(w, &w->ends[i], fds[0]);
        adopt(w, &w->ends[i + 1], fds[1]);
    }
}

static void finish(world *w) {
    w->depth = 3; /* nobody acts any more */
    CHECK_OK(tepal_loop_close(w->loop));
    for (unsigned i = 0; i < FUTURES; i++) {
        tepal_future_unref(futures[i]);
        futures[i] = NULL;
    }
    for (unsigned i = 0; i < w->count; i++) {
        end *self = &w->ends[i];
        tepal_future_unref(self->pipe);
        end_check_over(self);
        tepal_transport_unref(self->transport);
        free(self->lent);
        if (self->is_borrowed) {
            CHECK_EQ(close(self->fd), 0);
        }
    }
    tepal_loop_unref(w->loop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static world w;
    const int descriptors = test_fd_count();

    memset(&w, 0, sizeof w);
    w.input = (fuzz_input){.data = data, .left = size < 1000 ? size : 1000};
    begin(&w);
    while (w.input.left > 0) {
        operate(&w);
    }
    for (int turn = 0; turn < 6; turn++) {
        step(&w);
    }
    finish(&w);
    CHECK_EQ(test_alloc_live(), 0);
    CHECK_EQ(test_fd_count(), descriptors);
    return 0;
}
