/* A foreign loop drives Tepal: a plain poll(2) loop, and libuv's. */
#include "conformance/faults.h"
#include "conformance/loops.h"
#include "conformance/script.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

/* Work for the loop: timers, posts from a thread, bytes that come back. */
typedef struct guest {
    tepal_loop *loop;
    int fds[2];
    int timers, posts, reads;
    pthread_t thread;
} guest;

enum { TIMERS = 5, POSTS = 20, READS = 10 };

static bool is_done(const guest *self) {
    return self->timers == TIMERS && self->posts == POSTS && self->reads == READS;
}

static void timer_again(void *argument) {
    guest *self = argument;
    if (++self->timers < TIMERS) {
        CHECK_OK(tepal_loop_call_later(self->loop, TEPAL_MS(2), timer_again, self, NULL));
    }
}

static void post_came(void *argument) {
    ((guest *)argument)->posts++;
}

static void byte_came(void *argument) {
    guest *self = argument;
    char byte;
    CHECK_EQ(read(self->fds[0], &byte, 1), 1);
    if (++self->reads < READS) {
        test_write_all(self->fds[1], "x", 1);
    }
}

static void *post_slowly(void *argument) {
    guest *self = argument;
    for (int i = 0; i < POSTS; i++) {
        CHECK_OK(tepal_loop_call_soon_threadsafe(self->loop, post_came, self));
        usleep(500); /* so that the loop sleeps in between, most of the time */
    }
    return NULL;
}

static void open_guest(guest *self) {
    *self = (guest){.loop = LOOP(.debug = true, .slow_callback_ns = -1)};
    loop_pipe(self->fds);
    CHECK_OK(tepal_loop_add_reader(self->loop, self->fds[0], byte_came, self));
    test_write_all(self->fds[1], "x", 1);
    CHECK_OK(tepal_loop_call_later(self->loop, TEPAL_MS(1), timer_again, self, NULL));
    CHECK_EQ(pthread_create(&self->thread, NULL, post_slowly, self), 0);
}

static void close_guest(guest *self) {
    pthread_join(self->thread, NULL);
    CHECK(is_done(self));
    CHECK_EQ(loop_stats(self->loop).reported, 0);
    loop_end(self->loop);
    close(self->fds[0]);
    close(self->fds[1]);
}

static bool has_poll_fd(void) {
    tepal_loop *loop = LOOP(.debug = true);
    const int fd = tepal_loop_poll_fd(loop);
    if (fd < 0) {
        CHECK_STR(test_driver(), "poll");
        CHECK_EQ(fd, TEPAL_ENOTSUP);
    }
    loop_end(loop);
    return fd >= 0;
}

static int milliseconds(int64_t timeout_ns) {
    return timeout_ns < 0 ? -1 : (int)((timeout_ns + 999999) / 1000000);
}

TEST_DRIVERS(foreign, a_plain_poll_loop_drives_it) {
    guest self;
    int64_t timeout_ns;
    if (!has_poll_fd()) {
        return; /* poll(2) has no descriptor to wait on: documented */
    }
    open_guest(&self);
    while (!is_done(&self)) {
        CHECK_OK(tepal_loop_prepare(self.loop, &timeout_ns));
        struct pollfd entry = {.fd = tepal_loop_poll_fd(self.loop), .events = POLLIN};
        const int ready = poll(&entry, 1, milliseconds(timeout_ns));
        CHECK(ready >= 0 || errno == EINTR);
        CHECK_OK(tepal_loop_step(self.loop, 0));
    }
    close_guest(&self);
}

/* A ring that others wait on is another one than before. */
TEST_DRIVERS(foreign, a_descriptor_that_could_not_be_had_can_be_asked_for_again) {
    const fault plan = {.call = CALL_io_uring_setup, .occurrence = 1, .error = EMFILE};
    guest self;
    int64_t timeout_ns;
    if (strcmp(test_driver(), "uring") != 0) {
        return; /* the others make nothing for it */
    }
    open_guest(&self);
    faults_arm(&plan);
    CHECK_EQ(tepal_loop_poll_fd(self.loop), TEPAL_SYSTEM(EMFILE));
    faults_disarm();
    while (!is_done(&self)) {
        CHECK_OK(tepal_loop_prepare(self.loop, &timeout_ns));
        struct pollfd entry = {.fd = tepal_loop_poll_fd(self.loop), .events = POLLIN};
        CHECK_GE(poll(&entry, 1, milliseconds(timeout_ns)), 0);
        CHECK_OK(tepal_loop_step(self.loop, 0));
    }
    close_guest(&self);
}

TEST_DRIVERS(foreign, another_tepal_loop_drives_it) {
    guest self;
    int64_t timeout_ns;
    if (!has_poll_fd()) {
        return;
    }
    open_guest(&self);
    tepal_loop *host;
    int wakes = 0;
    CHECK_OK(tepal_loop_new(&host, TEPAL_OPTIONS(tepal_loop_options, .driver = "epoll")));
    CHECK_OK(tepal_loop_add_reader(host, tepal_loop_poll_fd(self.loop), count_up, &wakes));
    while (!is_done(&self)) {
        CHECK_OK(tepal_loop_prepare(self.loop, &timeout_ns));
        CHECK_OK(tepal_loop_step(host, timeout_ns));
        CHECK_OK(tepal_loop_step(self.loop, 0));
    }
    CHECK_GT(wakes, 0);
    loop_end(host);
    close_guest(&self);
}

TEST_DRIVERS(foreign, prepare_says_how_long_to_wait) {
    tepal_loop *loop = LOOP(.debug = true);
    int64_t timeout_ns = 7;
    CHECK_OK(tepal_loop_prepare(loop, &timeout_ns));
    CHECK_LT(timeout_ns, 0);
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_SEC(10), note_first, "t", NULL));
    CHECK_OK(tepal_loop_prepare(loop, &timeout_ns));
    CHECK_GT(timeout_ns, 0);
    CHECK_LE(timeout_ns, TEPAL_SEC(10));
    CHECK_OK(tepal_loop_call_soon(loop, note_first, "a", NULL));
    CHECK_OK(tepal_loop_prepare(loop, &timeout_ns));
    CHECK_EQ(timeout_ns, 0);
    CHECK_OK(tepal_loop_step(loop, 0));
    CHECK_STR(loop_log, "a");
    loop_end(loop);
}

TEST_DRIVERS(foreign, what_is_written_between_turns_leaves_before_the_foreign_loop_waits) {
    script self = {0};
    int64_t timeout_ns;
    NEEDS_SENDS_AT_ONCE();
    script_open(&self, SCRIPT_TCP);
    script_write(&self, 100);
    CHECK_OK(tepal_loop_prepare(self.loop, &timeout_ns));
    test_poll(self.peer, POLLIN);
    CHECK_EQ(script_take(&self), 0);
    CHECK_EQ(self.taken, 100);
    script_close(&self);
}

#ifdef HAVE_LIBUV
#include <uv.h>

typedef struct host {
    guest guest;
    uv_loop_t loop;
    uv_prepare_t prepare;
    uv_timer_t timer;
    uv_poll_t poll;
} host;

static void time_is_up(uv_timer_t *timer) {
    (void)timer; /* the check handle steps */
}

static void guest_is_readable(uv_poll_t *handle, int status, int events) {
    host *self = handle->data;
    CHECK_EQ(status, 0);
    CHECK_EQ(events, UV_READABLE);
    CHECK_OK(tepal_loop_step(self->guest.loop, 0));
}

static void before_poll(uv_prepare_t *prepare) {
    host *self = prepare->data;
    int64_t timeout_ns;
    /* What is due now is run here; then libuv waits for the rest. */
    do {
        CHECK_OK(tepal_loop_step(self->guest.loop, 0));
        CHECK_OK(tepal_loop_prepare(self->guest.loop, &timeout_ns));
    } while (timeout_ns == 0 && !is_done(&self->guest));
    if (is_done(&self->guest)) {
        uv_close((uv_handle_t *)&self->prepare, NULL);
        uv_close((uv_handle_t *)&self->timer, NULL);
        uv_close((uv_handle_t *)&self->poll, NULL);
    } else if (timeout_ns > 0) {
        uv_timer_start(&self->timer, time_is_up, (uint64_t)milliseconds(timeout_ns), 0);
    } else {
        uv_timer_stop(&self->timer);
    }
}

TEST_DRIVERS(foreign, libuv_drives_it) {
    host self;
    if (!has_poll_fd()) {
        return;
    }
    open_guest(&self.guest);
    CHECK_EQ(uv_loop_init(&self.loop), 0);
    CHECK_EQ(uv_prepare_init(&self.loop, &self.prepare), 0);
    CHECK_EQ(uv_timer_init(&self.loop, &self.timer), 0);
    CHECK_EQ(uv_poll_init(&self.loop, &self.poll, tepal_loop_poll_fd(self.guest.loop)), 0);
    self.prepare.data = self.poll.data = &self;
    CHECK_EQ(uv_prepare_start(&self.prepare, before_poll), 0);
    CHECK_EQ(uv_poll_start(&self.poll, UV_READABLE, guest_is_readable), 0);
    CHECK_EQ(uv_run(&self.loop, UV_RUN_DEFAULT), 0);
    CHECK_EQ(uv_loop_close(&self.loop), 0);
    uv_library_shutdown();
    close_guest(&self.guest);
}
#else
TEST_DRIVERS(foreign, libuv_drives_it) {
    SKIP("built without libuv");
}
#endif

static void ask_inside(void *argument) {
    guest *self = argument;
    char bytes[8];
    CHECK_GT(read(self->fds[0], bytes, sizeof bytes), 0);
    CHECK_EQ(tepal_loop_poll_fd(self->loop), TEPAL_ERECURSION);
    self->reads++;
    CHECK_OK(tepal_loop_remove_reader(self->loop, self->fds[0]));
}

TEST_DRIVERS(foreign, its_descriptor_cannot_be_asked_for_in_a_callback) {
    guest self = {.loop = LOOP(.debug = true)};
    test_socketpair(self.fds);
    CHECK_OK(tepal_loop_add_reader(self.loop, self.fds[0], ask_inside, &self));
    CHECK_EQ(write(self.fds[1], "1", 1), 1);
    while (self.reads == 0) {
        CHECK_OK(tepal_loop_step(self.loop, TEPAL_MS(100)));
    }
    loop_end(self.loop);
    close(self.fds[0]);
    close(self.fds[1]);
}
