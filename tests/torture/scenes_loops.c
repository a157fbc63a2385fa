/* Scenes of the loop itself, for system_calls.c: watches, signals, threads, wake-ups, forks, and its end. */
#include "torture/stage.h"
#include "driver/driver.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- Descriptors ---- */

typedef struct tap {
    stage *stage;
    int from;
} tap;

static void take_byte(void *argument) {
    const tap *self = argument;
    char byte;

    faults_own_begin();
    const ssize_t count = read(self->from, &byte, 1);
    faults_own_end();
    self->stage->progress++;
    self->stage->called += count == 1;
}

static void put_bytes(int fd, size_t count) {
    faults_own_begin();
    test_write_all(fd, "abcdefgh", count);
    faults_own_end();
}

static void count_writable(void *argument) {
    tap *self = argument;

    self->stage->progress++;
    CHECK_EQ(tepal_loop_remove_writer(self->stage->loop, self->from), 1);
}

static void readers(stage *self) {
    int ends[2];

    stage_pipe(self, ends);
    static tap in, out;
    in = (tap){self, ends[0]};
    out = (tap){self, ends[1]};
    const bool reads = stage_ok(self, tepal_loop_add_reader(self->loop, ends[0], take_byte, &in));
    (void)stage_ok(self, tepal_loop_add_writer(self->loop, ends[1], count_writable, &out));
    (void)stage_ok(self, tepal_loop_add_writer(self->loop, ends[0], count_writable, &in));
    put_bytes(ends[1], 3);
    STAGE_UNTIL(self, !reads || self->called == 3);
    (void)tepal_loop_remove_writer(self->loop, ends[0]);
    (void)tepal_loop_remove_reader(self->loop, ends[0]);
    put_bytes(ends[1], 1);
    stage_turns(self, 3);
    CHECK(!reads || self->over || self->called == 3);
}

typedef struct look {
    tepal_watch watch; /* first */
    stage *stage;
    unsigned seen;
} look;

static void look_ready(tepal_watch *watch, unsigned events) {
    look *self = (look *)watch;

    self->seen |= events;
    self->stage->progress++;
    CHECK_OK(tepal_watch_stop(self->stage->loop, watch));
}

static bool look_at(look *self, unsigned events) {
    return stage_ok(self->stage, tepal_watch_start(self->stage->loop, &self->watch, events));
}

static void watches(stage *self) {
    int fds[2];

    stage_pair(self, STAGE_UNIX, fds);
    static look one;
    one = (look){.watch = {.fd = fds[0], .ready = look_ready}, .stage = self};
    if (!look_at(&one, TEPAL_READABLE)) {
        return;
    }
    stage_turns(self, 1);
    (void)look_at(&one, TEPAL_READABLE | TEPAL_WRITABLE);
    put_bytes(fds[1], 1);
    STAGE_UNTIL(self, one.seen != 0);
    if (one.watch.events == 0 && look_at(&one, TEPAL_READABLE)) {
        STAGE_UNTIL(self, one.watch.events == 0);
        STAGE_WANT(self, one.seen & TEPAL_READABLE);
    }
}

/* The descriptor is closed while it is watched, and its number is another's when it is watched again. */
static void another_number(stage *self) {
    int fds[2], others[2];

    stage_pair(self, STAGE_UNIX, fds);
    stage_pair(self, STAGE_UNIX, others);
    static look one;
    one = (look){.watch = {.fd = fds[0], .ready = look_ready}, .stage = self};
    if (!look_at(&one, TEPAL_READABLE)) {
        return;
    }
    faults_own_begin();
    CHECK_EQ(dup2(others[0], fds[0]), fds[0]);
    faults_own_end();
    if (look_at(&one, TEPAL_READABLE)) {
        put_bytes(others[1], 1);
        STAGE_UNTIL(self, one.seen != 0);
    }
    (void)tepal_watch_stop(self->loop, &one.watch);
}

/* One that is closed while a duplicate lives is reported for ever: the driver has to make its set anew. */
static void made_anew(stage *self) {
    int ends[2], others[2];

    stage_pipe(self, ends);
    stage_pipe(self, others);
    static tap in; /* the loop may know it until its end */
    in = (tap){self, others[0]};
    static look lost;
    lost = (look){.watch = {.fd = ends[0], .ready = look_ready}, .stage = self};
    const bool reads = stage_ok(self, tepal_loop_add_reader(self->loop, others[0], take_byte, &in));
    if (!look_at(&lost, TEPAL_READABLE)) {
        return;
    }
    faults_own_begin();
    const int twin = fcntl(ends[0], F_DUPFD_CLOEXEC, 100);
    CHECK_GE(twin, 0);
    faults_own_end();
    stage_take(self, twin);
    stage_close_fd(self, ends[0]);
    (void)tepal_watch_stop(self->loop, &lost.watch);
    put_bytes(ends[1], 1);
    stage_turns(self, tepal_loop_poll_fd(self->loop) < 0 ? 3 : 70); /* poll(2) finds it closed and does not spin */
    put_bytes(others[1], 2);
    STAGE_UNTIL(self, !reads || self->called == 2);
}

/* ---- Signals ---- */

static void hear(int signal, void *argument) {
    stage *self = argument;

    CHECK(signal == SIGUSR1 || signal == SIGUSR2);
    self->called++;
    self->progress++;
}

static void signals(stage *self) {
    const bool first = stage_ok(self, tepal_loop_add_signal(self->loop, SIGUSR1, hear, self));
    const bool second = stage_ok(self, tepal_loop_add_signal(self->loop, SIGUSR2, hear, self));

    for (int i = 0; i < 2; i++) {
        if (first) {
            CHECK_EQ(raise(SIGUSR1), 0);
        }
        if (second) {
            CHECK_EQ(raise(SIGUSR2), 0);
        }
        STAGE_UNTIL(self, self->called == (first + second) * (i + 1));
    }
    CHECK_EQ(tepal_loop_remove_signal(self->loop, SIGUSR1), first);
    CHECK_EQ(tepal_loop_remove_signal(self->loop, SIGUSR2), second);
    faults_own_begin();
    signal(SIGUSR1, SIG_DFL); /* it could not be put back, where that was to fail */
    signal(SIGUSR2, SIG_DFL);
    faults_own_end();
}

/* ---- Threads ---- */

static int work(void *argument, void **value) {
    stage *self = argument;

    *value = self;
    return tepal_loop_call_soon_threadsafe(self->loop, stage_count, self);
}

static int work_badly(void *argument, void **value) {
    (void)argument;
    (void)value;
    return TEPAL_EINVAL;
}

static void execute(stage *self, int (*function)(void *argument, void **value)) {
    tepal_future *future;

    if (stage_ok(self, tepal_loop_run_in_executor(self->loop, function, self, NULL, &future))) {
        stage_keep(self, future);
    }
}

static void executor(stage *self) {
    for (int i = 0; i < 4; i++) {
        execute(self, work);
    }
    execute(self, work_badly);
    const int begun = self->future_count;
    STAGE_UNTIL(self, stage_all_done(self));
    STAGE_UNTIL(self, self->called >= begun - 1);
    execute(self, work);
    execute(self, work);
    if (self->future_count == begun + 2) {
        (void)tepal_future_cancel(self->futures[begun + 1]);
    }
}

static void *post(void *argument) {
    stage *self = argument;

    CHECK_OK(tepal_loop_call_soon_threadsafe(self->loop, stage_count, self));
    tepal_loop_wake(self->loop);
    return NULL;
}

static void woken(stage *self) {
    pthread_t thread;

    for (int i = 0; i < 3; i++) {
        (void)stage_ok(self, tepal_loop_call_soon_threadsafe(self->loop, stage_count, self));
        tepal_loop_wake(self->loop);
        tepal_loop_wake(self->loop);
        stage_turns(self, 1);
    }
    faults_own_begin();
    CHECK_EQ(pthread_create(&thread, NULL, post, self), 0);
    faults_own_end();
    STAGE_UNTIL(self, self->called == 4);
    pthread_join(thread, NULL);
}

typedef struct sleeper {
    stage *stage;
    int left;
    bool overslept;
} sleeper;

/* The loop has announced its sleep: from here on only a wake-up ends it. */
static int post_in_sleep(void *argument, int64_t timeout_ns) {
    sleeper *self = argument;

    (void)timeout_ns;
    if (self->left > 0) {
        self->left--;
        (void)stage_ok(self->stage, tepal_loop_call_soon_threadsafe(self->stage->loop, stage_count, self->stage));
    }
    return 0;
}

static void oversleep(void *argument) {
    ((sleeper *)argument)->overslept = true;
}

static void woken_from_sleep(stage *self) {
    static sleeper sleeping;
    const tepal_loop_hooks hooks = {.size = sizeof hooks, .before_wait = post_in_sleep, .argument = &sleeping};
    tepal_handle alarm;

    CHECK_OK(tepal_loop_set_hooks(self->loop, &hooks));
    for (int i = 1; i <= 3 && !self->over; i++) {
        sleeping = (sleeper){.stage = self, .left = 1};
        CHECK_OK(tepal_loop_call_later(self->loop, self->strict ? TEPAL_SEC(5) : TEPAL_MS(10), oversleep, &sleeping,
                                       &alarm));
        while (!self->over && self->called < i && !sleeping.overslept) {
            stage_ran(self, tepal_loop_step(self->loop, -1));
        }
        STAGE_WANT(self, !sleeping.overslept);
        stage_turns(self, 1);
        (void)tepal_loop_cancel(self->loop, alarm);
    }
}

/* ---- Running, and being run by another loop ---- */

static void stop(void *loop) {
    tepal_loop_stop(loop);
}

static void run(stage *self) {
    for (int i = 0; i < 3; i++) {
        tepal_future *future;

        (void)stage_ok(self, tepal_loop_call_later(self->loop, TEPAL_MS(1), stop, self->loop, NULL));
        stage_ran(self, tepal_loop_run_forever(self->loop));
        if (self->over) {
            return;
        }
        CHECK_OK(tepal_future_new(self->loop, &future));
        stage_keep(self, future);
        (void)stage_ok(self, tepal_loop_call_later(self->loop, TEPAL_MS(1), stop, self->loop, NULL));
        const int status = tepal_loop_run_until_complete(self->loop, future);
        (void)tepal_future_set_result(future, NULL, NULL);
        if (status != TEPAL_ESTOPPED) {
            stage_ran(self, status);
        }
    }
}

static void foreign(stage *self) {
    int ends[2];
    int64_t limit_ns;

    stage_pipe(self, ends);
    static tap in; /* the loop may know it until its end */
    in = (tap){self, ends[0]};
    const bool reads = stage_ok(self, tepal_loop_add_reader(self->loop, ends[0], take_byte, &in));
    put_bytes(ends[1], 3);
    for (int i = 0; reads && !self->over && self->called < 3; i++) {
        CHECK_LT(i, 100);
        CHECK_OK(tepal_loop_prepare(self->loop, &limit_ns));
        const int fd = tepal_loop_poll_fd(self->loop);
        struct pollfd entry = {.fd = fd, .events = POLLIN};
        (void)poll(&entry, fd < 0 ? 0 : 1, 1);
        stage_ran(self, tepal_loop_step(self->loop, 0));
    }
}

/* ---- The end, with everything under way ---- */

static void end_of_everything(stage *self) {
    int ends[2], fds[2];
    tepal_future *future;

    stage_pipe(self, ends);
    stage_pair(self, STAGE_UNIX, fds);
    static tap in; /* the loop may know it until its end */
    in = (tap){self, ends[0]};
    (void)tepal_loop_add_reader(self->loop, ends[0], take_byte, &in);
    (void)tepal_loop_add_signal(self->loop, SIGUSR1, hear, self);
    node *adopted = stage_adopt(self, &self->client, fds[0], NULL);
    (void)stage_listen(self, STAGE_TCP);
    (void)stage_dial(self, STAGE_TCP);
    (void)stage_dial(self, STAGE_TCP);
    (void)stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .host = "list.stub", .port = 9));
    execute(self, work_badly);
    stage_turns(self, 2);
    if (node_is_open(adopted)) {
        node_narrow(adopted);
        node_write(adopted, 9000);
    }
    if (self->server_count > 0 && stage_ok(self, tepal_server_wait_closed(self->servers[0], &future))) {
        stage_keep(self, future);
        tepal_server_close(self->servers[0]);
    }
    CHECK_OK(tepal_loop_close(self->loop));
    faults_own_begin();
    signal(SIGUSR1, SIG_DFL);
    faults_own_end();
    self->over = true;
}

static void nothing(stage *self) {
    stage_turns(self, 2);
}

/* ---- A driver by itself: what no public function asks for ---- */

static void random_numbers(stage *self) {
    tpi_driver *driver;
    const tpi_driver_options options = {
        .realloc = test_counting_alloc, .read_budget = 4, .read_bytes = 4096, .threads = 1};

    if (stage_ok(self, tpi_driver_new(&driver, test_driver(), &options))) {
        const uint64_t first = driver->ops->random(driver);
        CHECK_NE(driver->ops->random(driver), first);
        driver->ops->destroy(driver);
    }
}

/* ---- A child that goes on with the loop ---- */

static void live_on(stage *self, int ends[2]) {
    const int code = tepal_loop_after_fork(self->loop);

    (void)stage_ok(self, code);
    if (code == 0) {
        put_bytes(ends[1], 2);
        node_write(&self->nodes[0], 1000);
        STAGE_UNTIL(self, self->called == 2 && (self->nodes[1].received == 1000 ||
                                                self->nodes[0].lost + self->nodes[1].lost >
                                                    0)); /* one alone: the parent's copy keeps it open for the other */
        execute(self, work_badly);
        tepal_loop_wake(self->loop);
        stage_turns(self, 2);
        stage_finish(self);
    } else { /* the parent's: nobody hears of its end */
        CHECK_OK(tepal_loop_close(self->loop));
        CHECK_EQ(self->nodes[0].lost + self->nodes[1].lost, 0);
    }
}

static void forked(stage *self) {
    int ends[2], fds[2], status = -1;

    stage_pipe(self, ends);
    stage_pair(self, STAGE_TCP, fds);
    static tap in; /* the loop may know it until its end */
    in = (tap){self, ends[0]};
    const bool reads = stage_ok(self, tepal_loop_add_reader(self->loop, ends[0], take_byte, &in));
    const node *a = stage_adopt(self, &self->client, fds[0], NULL);
    const node *b = stage_adopt(self, &self->server, fds[1], NULL);
    STAGE_UNTIL(self, a == NULL || b == NULL || (node_is_open(a) && node_is_open(b)));
    if (!reads || a == NULL || b == NULL || self->over) {
        return;
    }
    const pid_t child = fork();
    if (child == 0) {
        live_on(self, ends);
        _exit(0);
    }
    CHECK_GT(child, 0);
    while (waitpid(child, &status, 0) < 0) {
        CHECK_EQ(errno, EINTR);
    }
    CHECK_EQ(status, 0);
}

const scene scenes_of_loops[] = {
    {"nothing", nothing, false},
    {"readers", readers, false},
    {"watches", watches, false},
    {"another_number", another_number, false},
    {"made_anew", made_anew, false},
    {"signals", signals, false},
    {"executor", executor, false},
    {"woken", woken, false},
    {"woken_from_sleep", woken_from_sleep, false},
    {"run", run, false},
    {"foreign", foreign, false},
    {"end_of_everything", end_of_everything, true},
    {"random_numbers", random_numbers, false},
    {"forked", forked, true},
    {NULL, NULL, false},
};
