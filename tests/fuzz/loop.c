/*
 * A loop's scheduling: callbacks, works, timers, cancelling, posts, watches, stop and interrupt in any sequence, in both
 * orders, on both drivers, also from inside the callbacks, and with allocations that fail. What is queued runs in the
 * order of queueing, each start once; what is cancelled or stopped never does; after an interrupt nothing runs until the
 * next turn; at close each work and timer that waits is told so, once, and callbacks vanish.
 *
 * Nothing waits for time: deadlines are long past or a year away.
 */
#include "fuzz/support/fuzz.h"
#include <tepal.h>

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { WORKS = 6, TIMERS = 6, CALLS = 256, DEPTH = 2 };

typedef enum place { IDLE, IN_QUEUE, IN_WHEEL, CANCELLED } place;

typedef struct scheduler scheduler;

/* One callback, work or timer: where it is, and its number among all that were queued. */
typedef struct item {
    union {
        tepal_work work; /* first: they are found by it */
        tepal_timer timer;
    };
    scheduler *owner;
    place place;
    uint64_t number;
    tepal_handle handle;
} item;

struct scheduler {
    fuzz_input input;
    tepal_loop *loop;
    item works[WORKS], timers[TIMERS], calls[CALLS];
    unsigned call_count, depth;
    uint64_t queued, run; /* numbers: of the last queued, and of the last that ran */
    bool is_interrupted, is_closing, stop_asked;
    int fds[2]; /* watched; -1: closed */
    bool reads[2], writes[2];
};

static void operate(scheduler *s);

/* Inside a callback: perhaps do something. */
static void act(scheduler *s) {
    CHECK(!s->is_interrupted);
    if (s->depth < DEPTH && fuzz_below(&s->input, 3) == 1) {
        s->depth++;
        operate(s);
        s->depth--;
    }
}

static void check_queue_order(scheduler *s, const item *one) {
    CHECK_GT(one->number, s->run);
    s->run = one->number;
}

static void run_call(void *argument) {
    item *one = argument;
    CHECK(!one->owner->is_closing);
    CHECK(one->place == IN_QUEUE || one->place == IN_WHEEL);
    if (one->place == IN_QUEUE) {
        check_queue_order(one->owner, one);
    }
    one->place = IDLE;
    CHECK(!tepal_loop_cancel(one->owner->loop, one->handle));
    act(one->owner);
}

static void run_work(tepal_work *work, int status) {
    item *one = (item *)work;
    CHECK(one->place == IN_QUEUE || one->place == IN_WHEEL);
    CHECK_EQ(status, one->owner->is_closing ? TEPAL_ECLOSED : 0);
    if (one->place == IN_QUEUE) {
        check_queue_order(one->owner, one);
    }
    one->place = IDLE;
    if (one->owner->is_closing) {
        CHECK_EQ(tepal_loop_post(one->owner->loop, work), TEPAL_ECLOSED);
        CHECK_EQ(tepal_timer_start(one->owner->loop, &one->timer, 0), TEPAL_ECLOSED);
    } else {
        act(one->owner);
    }
}

/* What was closed behind the loop's back may be told once more, of events that the turn had seen before. */
static bool is_any_closed(const scheduler *s) {
    return s->fds[0] < 0 || s->fds[1] < 0;
}

static void readable(void *argument) {
    scheduler *s = argument;
    CHECK(s->reads[0] || s->reads[1] || is_any_closed(s));
    act(s);
}

static void writable(void *argument) {
    scheduler *s = argument;
    CHECK(s->writes[0] || s->writes[1] || is_any_closed(s));
    act(s);
}

static int64_t some_time(scheduler *s) {
    const uint8_t byte = fuzz_byte(&s->input);
    return byte % 4 == 3 ? tepal_loop_time(s->loop) + TEPAL_SEC(31536000) : INT64_MIN + byte;
}

static void queue(scheduler *s, item *one) {
    one->place = IN_QUEUE;
    one->number = ++s->queued;
}

static void call(scheduler *s) {
    const unsigned how = fuzz_below(&s->input, 6);
    int code;
    if (s->call_count == CALLS) {
        return;
    }
    item *one = &s->calls[s->call_count];
    *one = (item){.owner = s};
    if (how < 3) {
        code = tepal_loop_call_soon(s->loop, run_call, one, &one->handle);
    } else if (how == 3) {
        code = tepal_loop_call_soon_threadsafe(s->loop, run_call, one);
    } else if (how == 4) {
        code = tepal_loop_call_at(s->loop, some_time(s), run_call, one, &one->handle);
    } else {
        code = tepal_loop_call_later(s->loop, fuzz_below(&s->input, 2) ? INT64_MAX : -1, run_call, one, &one->handle);
    }
    if (code < 0) {
        CHECK_EQ(code, TEPAL_ENOMEM);
        CHECK(test_alloc_has_failed());
        return;
    }
    s->call_count++;
    queue(s, one);
    if (how >= 4) {
        one->place = IN_WHEEL;
    }
}

static void cancel(scheduler *s) {
    item *one = &s->calls[fuzz_byte(&s->input)];
    if (one->owner != NULL && (one->handle.slot | one->handle.generation) != 0) {
        const bool waits = one->place == IN_QUEUE || one->place == IN_WHEEL;
        CHECK_EQ(tepal_loop_cancel(s->loop, one->handle), waits);
        one->place = waits ? CANCELLED : one->place;
    }
}

static void post(scheduler *s, item *one, bool threadsafe) {
    const int code =
        threadsafe ? tepal_loop_post_threadsafe(s->loop, &one->work) : tepal_loop_post(s->loop, &one->work);
    CHECK_EQ(code, one->place == IDLE ? 0 : TEPAL_EBUSY);
    if (code == 0) {
        queue(s, one);
    }
}

static void start_timer(scheduler *s, item *one) {
    const int64_t when_ns = some_time(s);
    const int code = tepal_timer_start(s->loop, &one->timer, when_ns);
    CHECK_EQ(code, one->place == IN_QUEUE ? TEPAL_EBUSY : 0);
    if (code == 0) {
        CHECK_EQ(one->timer.deadline_ns, when_ns);
        one->place = IN_WHEEL;
    }
}

static void stop_timer(scheduler *s, item *one) {
    CHECK_EQ(tepal_timer_stop(s->loop, &one->timer), one->place == IN_WHEEL ? 0 : TEPAL_ENOENT);
    one->place = one->place == IN_WHEEL ? IDLE : one->place;
}

/* Readers and writers of a socket pair of which an end may be closed behind the loop's back. */
static void watch(scheduler *s) {
    const unsigned i = fuzz_below(&s->input, 2);
    const int fd = s->fds[i];
    int code;
    if (fd < 0) {
        return;
    }
    switch (fuzz_below(&s->input, 5)) {
    case 0:
    case 1: {
        const bool read = fuzz_below(&s->input, 2) == 0;
        code = read ? tepal_loop_add_reader(s->loop, fd, readable, s) : tepal_loop_add_writer(s->loop, fd, writable, s);
        CHECK(code == 0 || (code == TEPAL_ENOMEM && test_alloc_has_failed()));
        s->reads[i] |= code == 0 && read;
        s->writes[i] |= code == 0 && !read;
        break;
    }
    case 2:
        CHECK_EQ(tepal_loop_remove_reader(s->loop, fd), s->reads[i]);
        s->reads[i] = false;
        break;
    case 3:
        CHECK_EQ(tepal_loop_remove_writer(s->loop, fd), s->writes[i]);
        s->writes[i] = false;
        break;
    default:
        if (s->fds[1 - i] >= 0) {
            CHECK_GE(send(fd, "x", 1, MSG_NOSIGNAL), 0);
        }
        if (fuzz_below(&s->input, 4) == 3) {
            close(fd);
            s->fds[i] = -1;
            s->reads[i] = s->writes[i] = false;
        }
    }
}

static void step(scheduler *s) {
    if (s->depth > 0) {
        CHECK_EQ(tepal_loop_step(s->loop, 0), TEPAL_ERECURSION);
        CHECK_EQ(tepal_loop_run_forever(s->loop), TEPAL_ERECURSION);
        CHECK_EQ(tepal_loop_close(s->loop), TEPAL_ERECURSION);
        return;
    }
    const bool runs = s->stop_asked && fuzz_below(&s->input, 2) == 1; /* without a stop it would sleep */
    const int code = runs ? tepal_loop_run_forever(s->loop) : tepal_loop_step(s->loop, 0);
    CHECK(s->is_interrupted ? code == TEPAL_ECANCELED : code >= 0);
    s->stop_asked = s->stop_asked && s->is_interrupted;
    s->is_interrupted = false;
    CHECK(!tepal_loop_is_running(s->loop));
}

static void operate(scheduler *s) {
    item *const work = &s->works[fuzz_below(&s->input, WORKS)];
    item *const timer = &s->timers[fuzz_below(&s->input, TIMERS)];
    int64_t timeout_ns;
    switch (fuzz_below(&s->input, 16)) {
    case 0:
    case 1:
        step(s);
        break;
    case 2:
    case 3:
    case 4:
        call(s);
        break;
    case 5:
        cancel(s);
        break;
    case 6:
        post(s, work, false);
        break;
    case 7:
        post(s, work, true);
        break;
    case 8:
    case 9:
        start_timer(s, timer);
        break;
    case 10:
        stop_timer(s, timer);
        break;
    case 11:
        post(s, timer, fuzz_below(&s->input, 2) == 1);
        break;
    case 12:
        tepal_loop_stop(s->loop);
        s->stop_asked = true;
        break;
    case 13:
        tepal_loop_interrupt(s->loop, TEPAL_ECANCELED);
        s->is_interrupted = s->depth > 0;
        break;
    case 14:
        test_alloc_fail_at(fuzz_below(&s->input, 4), false);
        CHECK_EQ(tepal_loop_prepare(s->loop, &timeout_ns), s->depth > 0 ? TEPAL_ERECURSION : 0);
        break;
    default:
        watch(s);
    }
}

static void fail(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    (void)loop;
    (void)argument;
    test_fail(__FILE__, __LINE__, "%s: %s", what, error->text);
}

static void begin(scheduler *s) {
    const uint8_t kind = fuzz_byte(&s->input);
    test_alloc_fail_at(0, false);
    CHECK_OK(tepal_loop_new(&s->loop, TEPAL_OPTIONS(tepal_loop_options, .driver = kind & 1 ? "poll" : "epoll",
                                                    .order = kind & 2 ? TEPAL_ORDER_DRAIN : TEPAL_ORDER_SNAPSHOT,
                                                    .drain_limit = kind & 4 ? 3 : 0, .debug = !(kind & 8),
                                                    .slow_callback_ns = -1, .realloc = test_counting_alloc)));
    tepal_loop_set_exception_handler(s->loop, fail, NULL);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s->fds), 0);
    for (unsigned i = 0; i < WORKS; i++) {
        s->works[i] = (item){.work.run = run_work, .owner = s};
    }
    for (unsigned i = 0; i < TIMERS; i++) {
        s->timers[i] = (item){.timer.work.run = run_work, .owner = s};
    }
}

static void end(scheduler *s) {
    s->is_closing = true;
    CHECK_OK(tepal_loop_close(s->loop));
    for (unsigned i = 0; i < WORKS; i++) {
        CHECK_EQ(s->works[i].place, IDLE);
    }
    for (unsigned i = 0; i < TIMERS; i++) {
        CHECK_EQ(s->timers[i].place, IDLE);
    }
    for (unsigned i = 0; i < s->call_count; i++) {
        CHECK(!tepal_loop_cancel(s->loop, s->calls[i].handle));
    }
    tepal_loop_unref(s->loop);
    for (unsigned i = 0; i < 2; i++) {
        if (s->fds[i] >= 0) {
            close(s->fds[i]);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static scheduler s;
    const int descriptors = test_fd_count();

    memset(&s, 0, sizeof s);
    s.input = (fuzz_input){.data = data, .left = size};
    begin(&s);
    while (s.input.left > 0) {
        operate(&s);
    }
    for (int turn = 0; turn < 3; turn++) {
        step(&s);
    }
    end(&s);
    CHECK_EQ(test_alloc_live(), 0);
    CHECK_EQ(test_fd_count(), descriptors);
    return 0;
}
