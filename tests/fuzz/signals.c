/*
 * Signals of several loops in one thread: add, remove, raise, step and close in any order, also from inside the
 * callbacks. Each loop that asked hears of each arrival in its next turn, once however often it came; nobody else
 * does; and when the last loop lets go the process's own disposition is back.
 *
 * Meanwhile somebody else writes any bytes into the loops' wake-up descriptors. They mean "look", and nothing else:
 * nobody hears of anything, and the next wake-up is not missed.
 */
#include "fuzz/support/fuzz.h"
#include <tepal.h>

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

enum { LOOPS = 3, SIGNALS = 5 };

/* Ignored by default, or of no use to libFuzzer. */
static const int numbers[SIGNALS] = {SIGWINCH, SIGURG, SIGCHLD, SIGCONT, SIGIO};

typedef struct listener {
    struct listening *owner;
    unsigned loop;
    bool is_added, is_pending, is_due; /* it came; and this turn is to tell */
} listener;

typedef struct listening {
    fuzz_input input;
    tepal_loop *loops[LOOPS]; /* NULL: closed */
    int wakes[LOOPS];         /* their wake-up descriptors */
    listener listeners[LOOPS][SIGNALS];
    unsigned running, depth;
} listening;

static void operate(listening *self);

static unsigned index_of(int signal) {
    unsigned i = 0;
    while (numbers[i] != signal) {
        i++;
    }
    return i;
}

static void heard(int signal, void *argument) {
    listener *self = argument;
    CHECK(self == &self->owner->listeners[self->owner->running][index_of(signal)]);
    CHECK(self->is_added);
    CHECK(self->is_due);
    self->is_due = false;
    if (self->owner->depth++ < 2 && fuzz_below(&self->owner->input, 2) == 1) {
        operate(self->owner);
    }
    self->owner->depth--;
}

static bool is_caught(const listening *self, unsigned s) {
    bool caught = false;
    for (unsigned l = 0; l < LOOPS; l++) {
        caught = caught || self->listeners[l][s].is_added;
    }
    return caught;
}

static void check_dispositions(const listening *self) {
    for (unsigned s = 0; s < SIGNALS; s++) {
        struct sigaction now;
        CHECK_EQ(sigaction(numbers[s], NULL, &now), 0);
        CHECK_EQ(now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN, is_caught(self, s));
    }
}

static void step(listening *self, unsigned l) {
    if (self->depth > 0) {
        return; /* running one loop inside another is nobody's use, and the model does not know it */
    }
    self->running = l;
    for (unsigned s = 0; s < SIGNALS; s++) {
        self->listeners[l][s].is_due = self->listeners[l][s].is_pending;
        self->listeners[l][s].is_pending = false; /* whatever comes while callbacks run waits for the next turn */
    }
    CHECK_OK(tepal_loop_step(self->loops[l], 0));
    for (unsigned s = 0; s < SIGNALS; s++) {
        CHECK(!self->listeners[l][s].is_due);
    }
}

static void close_loop(listening *self, unsigned l) {
    if (self->depth > 0 && self->running == l) {
        CHECK_EQ(tepal_loop_close(self->loops[l]), TEPAL_ERECURSION);
        return;
    }
    CHECK_OK(tepal_loop_close(self->loops[l]));
    CHECK_EQ(tepal_loop_add_signal(self->loops[l], numbers[0], heard, self), TEPAL_ECLOSED);
    tepal_loop_unref(self->loops[l]);
    self->loops[l] = NULL;
    for (unsigned s = 0; s < SIGNALS; s++) {
        self->listeners[l][s].is_added = self->listeners[l][s].is_pending =
            false; /* no turn of it runs: nothing is due */
    }
}

/* The highest descriptor that is an eventfd: of the loop that was made last. */
static int newest_eventfd(void) {
    char name[64], target[64];
    for (int fd = 40; fd > 2; fd--) {
        (void)snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        const ssize_t length = readlink(name, target, sizeof target - 1);
        target[length > 0 ? length : 0] = '\0';
        if (strstr(target, "eventfd") != NULL) {
            return fd;
        }
    }
    test_fail(__FILE__, __LINE__, "the loop has no eventfd");
}

/* Any bytes, or as many as the counter holds; and then the loop is woken. */
static void scribble(listening *self, unsigned l) {
    uint8_t bytes[16];
    const size_t size = fuzz_below(&self->input, sizeof bytes + 1);
    const uint64_t most = UINT64_MAX - 1;
    for (size_t i = 0; i < size; i++) {
        bytes[i] = fuzz_byte(&self->input);
    }
    ssize_t written = write(self->wakes[l], bytes, size);
    if (fuzz_below(&self->input, 4) == 3) {
        written = write(self->wakes[l], &most, sizeof most);
    }
    (void)written; /* fewer than eight are refused, and so is what would be too much */
    tepal_loop_wake(self->loops[l]);
    struct pollfd wake = {.fd = self->wakes[l], .events = POLLIN};
    CHECK_EQ(poll(&wake, 1, 0), 1);
    wake.fd = tepal_loop_poll_fd(self->loops[l]);
    CHECK(wake.fd == TEPAL_ENOTSUP || wake.fd == TEPAL_ERECURSION || poll(&wake, 1, 0) == 1);
}

static void raise_one(listening *self, unsigned s) {
    if (is_caught(self, s)) {
        for (unsigned l = 0; l < LOOPS; l++) {
            self->listeners[l][s].is_pending |= self->listeners[l][s].is_added;
        }
        CHECK_EQ(raise(numbers[s]), 0); /* delivered before it returns */
    }
}

static void operate(listening *self) {
    const unsigned l = fuzz_below(&self->input, LOOPS), s = fuzz_below(&self->input, SIGNALS);
    listener *const one = &self->listeners[l][s];
    if (self->loops[l] == NULL) {
        return;
    }
    switch (fuzz_below(&self->input, 10)) {
    case 0:
    case 1:
    case 2:
        CHECK_OK(tepal_loop_add_signal(self->loops[l], numbers[s], heard, one));
        one->is_added = true;
        break;
    case 3:
        CHECK_EQ(tepal_loop_remove_signal(self->loops[l], numbers[s]), one->is_added);
        one->is_added = one->is_pending = one->is_due = false;
        break;
    case 4:
    case 5:
    case 6:
        raise_one(self, s);
        break;
    case 7:
        if (fuzz_below(&self->input, 4) == 3) {
            close_loop(self, l);
        } else {
            scribble(self, l);
        }
        break;
    case 8: {
        const int number = (int)(int8_t)fuzz_byte(&self->input);
        if (number < 1 || number > 64 || number == SIGKILL || number == SIGSTOP || number == SIGSEGV) {
            CHECK_EQ(tepal_loop_add_signal(self->loops[l], number, heard, one), TEPAL_EINVAL);
            CHECK_EQ(tepal_loop_remove_signal(self->loops[l], number), TEPAL_EINVAL);
        }
        break;
    }
    default:
        step(self, l);
    }
}

static void fail(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    (void)loop;
    (void)argument;
    test_fail(__FILE__, __LINE__, "%s: %s", what, error->text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static listening self;
    const int descriptors = test_fd_count();

    memset(&self, 0, sizeof self);
    self.input = (fuzz_input){.data = data, .left = size};
    const uint8_t kind = fuzz_byte(&self.input);
    for (unsigned l = 0; l < LOOPS; l++) {
        CHECK_OK(tepal_loop_new(&self.loops[l],
                                TEPAL_OPTIONS(tepal_loop_options, .driver = kind >> l & 1 ? "poll" : "epoll",
                                              .debug = true, .slow_callback_ns = -1, .realloc = test_counting_alloc)));
        self.wakes[l] = newest_eventfd();
        tepal_loop_set_exception_handler(self.loops[l], fail, NULL);
        for (unsigned s = 0; s < SIGNALS; s++) {
            self.listeners[l][s] = (listener){.owner = &self, .loop = l};
        }
    }
    while (self.input.left > 0) {
        operate(&self);
        check_dispositions(&self);
    }
    for (unsigned l = 0; l < LOOPS; l++) {
        if (self.loops[l] != NULL) {
            step(&self, l);
            close_loop(&self, l);
        }
    }
    check_dispositions(&self);
    CHECK_EQ(test_alloc_live(), 0);
    CHECK_EQ(test_fd_count(), descriptors);
    return 0;
}
