/* What other threads may do to a loop: post, stop, wake; and many loops in many threads. */
#include "conformance/loops.h"
#include "loop/loop.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS = 8 };

/* FIELD 12: many threads post while the loop is closed. Every post runs, or is dropped with ECLOSED, exactly once. */

typedef struct post {
    tepal_work work; /* first */
    struct sender *sender;
    int number;
} post;

typedef struct sender {
    tepal_loop *loop;
    post *posts;
    int count;
    int next;           /* the number expected next: those of one thread stay in order */
    int ran, dropped;   /* on the loop's thread */
    int sent, refused;  /* on the sender's */
    atomic_int *closed; /* how many senders have seen it closed */
    pthread_t thread;
} sender;

static void post_run(tepal_work *work, int status) {
    post *self = (post *)work;
    CHECK_EQ(self->number, self->sender->next++);
    if (status == 0) {
        self->sender->ran++;
    } else {
        CHECK_EQ(status, TEPAL_ECLOSED);
        self->sender->dropped++;
    }
}

static void *send_posts(void *argument) {
    sender *self = argument;
    for (int i = 0; i < self->count; i++) {
        self->posts[i] = (post){.work.run = post_run, .sender = self, .number = i};
        const int code = tepal_loop_post_threadsafe(self->loop, &self->posts[i].work);
        if (code == 0) {
            self->sent++;
            continue;
        }
        CHECK_EQ(code, TEPAL_ECLOSED);
        self->refused++;
    }
    tepal_loop_wake(self->loop);
    return NULL;
}

static void start_senders(tepal_loop *loop, sender *senders, int count) {
    for (int i = 0; i < THREADS; i++) {
        senders[i] = (sender){.loop = loop, .count = count, .posts = calloc((size_t)count, sizeof(post))};
        CHECK(senders[i].posts != NULL);
        CHECK_EQ(pthread_create(&senders[i].thread, NULL, send_posts, &senders[i]), 0);
    }
}

static int total_ran(const sender *senders) {
    int ran = 0;
    for (int i = 0; i < THREADS; i++) {
        ran += senders[i].ran;
    }
    return ran;
}

static void join_senders(sender *senders) {
    for (int i = 0; i < THREADS; i++) {
        pthread_join(senders[i].thread, NULL);
    }
}

static void free_senders(sender *senders) {
    for (int i = 0; i < THREADS; i++) {
        free(senders[i].posts);
    }
}

TEST_DRIVERS(threads, every_post_of_eight_threads_runs_once_and_in_its_threads_order) {
    const int count = (int)test_rounds(1000000, 50000);
    sender senders[THREADS];
    test_set_timeout(600);
    tepal_loop *loop = LOOP(.debug = false);
    start_senders(loop, senders, count);
    while (total_ran(senders) < THREADS * count) {
        CHECK_OK(tepal_loop_step(loop, -1)); /* a wake-up that is lost is a hang */
    }
    join_senders(senders);
    loop_settle(loop);
    CHECK_EQ(total_ran(senders), THREADS * count);
    CHECK_EQ(loop_stats(loop).posts, THREADS * count);
    loop_end(loop);
    free_senders(senders);
}

TEST_DRIVERS(threads, posts_race_with_close_and_none_is_lost) {
    const int rounds = (int)test_rounds(2000, 60);
    test_set_timeout(600);
    for (int round = 0; round < rounds; round++) {
        sender senders[THREADS];
        const int count = 200;
        tepal_loop *loop = LOOP(.debug = false);
        start_senders(loop, senders, count);
        while (total_ran(senders) < round % 7 * 100) {
            CHECK_OK(tepal_loop_step(loop, -1));
        }
        CHECK_OK(tepal_loop_close(loop));
        join_senders(senders);
        for (int i = 0; i < THREADS; i++) {
            CHECK_EQ(senders[i].sent, senders[i].ran + senders[i].dropped);
            CHECK_EQ(senders[i].sent + senders[i].refused, count);
        }
        tepal_loop_unref(loop);
        free_senders(senders);
    }
}

/* Callbacks with memory of their own */

static void *call_and_wake(void *loop) {
    static int runs;
    for (int i = 0; i < 200; i++) {
        const int code = tepal_loop_call_soon_threadsafe(loop, count_up, &runs);
        CHECK(code == 0 || code == TEPAL_ECLOSED);
        tepal_loop_wake(loop);
    }
    return NULL;
}

TEST_DRIVERS(threads, callbacks_and_wake_ups_race_with_close) {
    for (int round = 0; round < 30; round++) {
        pthread_t threads[THREADS];
        tepal_loop *loop = LOOP(.debug = true);
        for (int i = 0; i < THREADS; i++) {
            CHECK_EQ(pthread_create(&threads[i], NULL, call_and_wake, loop), 0);
        }
        for (int i = 0; i < round; i++) {
            CHECK_OK(tepal_loop_step(loop, 0));
        }
        CHECK_OK(tepal_loop_close(loop));
        for (int i = 0; i < THREADS; i++) {
            pthread_join(threads[i], NULL);
        }
        tepal_loop_unref(loop);
    }
}

/* One order */

static void *post_two(void *loop) {
    CHECK_OK(tepal_loop_call_soon_threadsafe(loop, note_first, "2"));
    CHECK_OK(tepal_loop_call_soon_threadsafe(loop, note_first, "3"));
    return NULL;
}

TEST_DRIVERS(threads, call_soon_and_posts_that_happened_before_share_one_order) {
    for (int order = TEPAL_ORDER_SNAPSHOT; order <= TEPAL_ORDER_DRAIN; order++) {
        tepal_loop *loop = LOOP(.order = (tepal_order)order);
        pthread_t thread;
        CHECK_OK(tepal_loop_call_soon(loop, note_first, "1", NULL));
        CHECK_EQ(pthread_create(&thread, NULL, post_two, loop), 0);
        pthread_join(thread, NULL);
        CHECK_OK(tepal_loop_call_soon(loop, note_first, "4", NULL));
        loop_settle(loop);
        CHECK_STR(loop_log, "1234");
        loop_end(loop);
    }
}

static void note_four(tepal_work *work, int status) {
    (void)work;
    CHECK_OK(status);
    loop_note('4');
}

TEST_DRIVERS(threads, works_and_posts_that_happened_before_share_one_order) {
    for (int order = TEPAL_ORDER_SNAPSHOT; order <= TEPAL_ORDER_DRAIN; order++) {
        tepal_loop *loop = LOOP(.order = (tepal_order)order);
        tepal_work work = {.run = note_four};
        pthread_t thread;
        loop_log_clear();
        CHECK_OK(tepal_loop_call_soon(loop, note_first, "1", NULL));
        CHECK_EQ(pthread_create(&thread, NULL, post_two, loop), 0);
        pthread_join(thread, NULL);
        CHECK_OK(tepal_loop_post(loop, &work));
        loop_settle(loop);
        CHECK_STR(loop_log, "1234");
        loop_end(loop);
    }
}

/* A work may be posted again from run, and from anywhere once it has run. */

typedef struct ping {
    tepal_work work; /* first */
    tepal_loop *loop, *other;
    int left;
} ping;

static void bounce(tepal_work *work, int status) {
    ping *self = (ping *)work;
    tepal_loop *other = self->other;
    if (status != 0) {
        return;
    }
    if (--self->left <= 0) {
        CHECK_OK(tepal_loop_stop_threadsafe(other));
        tepal_loop_stop(self->loop);
        return;
    }
    self->other = self->loop;
    self->loop = other;
    CHECK_OK(tepal_loop_post_threadsafe(other, work));
}

static void *run_loop(void *loop) {
    CHECK_OK(tepal_loop_run_forever(loop));
    return NULL;
}

TEST_DRIVERS(threads, two_loops_that_sleep_play_ping_pong_with_one_work) {
    ping self = {.work.run = bounce, .left = (int)test_rounds(1000000, 20000)};
    pthread_t thread;
    test_set_timeout(600);
    tepal_loop *a = self.loop = LOOP(.debug = false);
    tepal_loop *b = self.other = LOOP(.debug = false);
    CHECK_OK(tepal_loop_post_threadsafe(a, &self.work));
    CHECK_EQ(pthread_create(&thread, NULL, run_loop, b), 0);
    CHECK_OK(tepal_loop_run_forever(a));
    pthread_join(thread, NULL);
    loop_end(a);
    loop_end(b);
}

TEST_DRIVERS(threads, a_work_that_is_queued_is_busy) {
    tepal_loop *loop = LOOP(.debug = true);
    sender self = {.loop = loop};
    post one = {.work.run = post_run, .sender = &self};
    CHECK_OK(tepal_loop_post_threadsafe(loop, &one.work));
    CHECK_EQ(tepal_loop_post_threadsafe(loop, &one.work), TEPAL_EBUSY);
    CHECK_EQ(tepal_loop_post(loop, &one.work), TEPAL_EBUSY);
    loop_settle(loop);
    CHECK_EQ(self.ran, 1);
    one.number = 1;
    CHECK_OK(tepal_loop_post(loop, &one.work));
    CHECK_EQ(tepal_loop_post_threadsafe(loop, &one.work), TEPAL_EBUSY);
    loop_settle(loop);
    CHECK_EQ(self.ran, 2);
    loop_end(loop);
}

TEST_DRIVERS(threads, wake_gives_a_loop_that_sleeps_one_more_turn) {
    tepal_loop *loop = LOOP(.debug = true);
    tepal_loop_wake(loop);
    tepal_loop_wake(loop);
    CHECK_OK(tepal_loop_step(loop, -1)); /* else it sleeps for ever */
    const uint64_t turns = loop_stats(loop).turns;
    CHECK_EQ(turns, 1);
    loop_end(loop);
}

/*
 * A post that comes after the loop has looked for work, and before others can see that it sleeps. The driver's clock is
 * asked in just that moment, to know how long the next timer leaves.
 */

static struct {
    tpi_driver_ops ops;
    int64_t (*now)(tpi_driver *driver);
    tepal_loop *loop;
    int runs;
} between;

static void *post_one(void *argument) {
    (void)argument;
    CHECK_OK(tepal_loop_call_soon_threadsafe(between.loop, count_up, &between.runs));
    return NULL;
}

static int64_t now_with_a_post(tpi_driver *driver) {
    if (between.loop != NULL) {
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, post_one, NULL), 0);
        pthread_join(thread, NULL);
        between.loop = NULL;
    }
    return between.now(driver);
}

TEST_DRIVERS(threads, a_post_between_the_look_for_work_and_the_sleep_is_not_slept_over) {
    test_set_timeout(5);
    tepal_loop *loop = LOOP(.debug = false);
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_SEC(3600), note_first, "t", NULL));
    loop_settle(loop);
    between.ops = *loop->driver->ops;
    between.now = between.ops.now;
    between.ops.now = now_with_a_post;
    loop->driver->ops = &between.ops;
    between.loop = loop;
    CHECK_OK(tepal_loop_step(loop, -1)); /* else it sleeps for an hour */
    CHECK_EQ(between.runs, 1);
    loop_end(loop);
}

/* Many posts, one wake-up: counted in the eventfd(2) that a wake-up is written to. */

static int find_eventfd(void) {
    char link[64], target[64];
    for (int fd = 3; fd < 64; fd++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        const ssize_t length = readlink(link, target, sizeof target - 1);
        target[length > 0 ? length : 0] = '\0';
        if (strstr(target, "eventfd") != NULL) {
            return fd;
        }
    }
    return -1;
}

static uint64_t wake_ups_written(void) {
    uint64_t count = 0;
    if (read(find_eventfd(), &count, sizeof count) < 0) {
        return 0;
    }
    CHECK_EQ(write(find_eventfd(), &count, sizeof count), sizeof count); /* as it was */
    return count;
}

enum { MANY = 10000 };

static void *post_many(void *loop) {
    static int count;
    for (int i = 0; i < MANY; i++) {
        CHECK_OK(tepal_loop_call_soon_threadsafe(loop, count_up, &count));
    }
    return NULL;
}

static void post_from_thread(void *loop) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, post_many, loop), 0);
    pthread_join(thread, NULL);
}

static int post_before_wait(void *loop, int64_t timeout_ns) {
    CHECK_LT(timeout_ns, 0);
    post_from_thread(loop); /* the loop counts as asleep here */
    return 0;
}

TEST_DRIVERS(threads, ten_thousand_posts_cost_a_loop_that_sleeps_one_wake_up_and_one_that_runs_none) {
    tepal_loop *loop = LOOP(.debug = false);
    CHECK_OK(tepal_loop_call_soon(loop, post_from_thread, loop, NULL));
    loop_settle(loop);
    CHECK_EQ(loop_stats(loop).posts, MANY);
    CHECK_EQ(wake_ups_written(), 0);
    CHECK_OK(
        tepal_loop_set_hooks(loop, TEPAL_OPTIONS(tepal_loop_hooks, .before_wait = post_before_wait, .argument = loop)));
    CHECK_EQ(loop_stats(loop).waits, 0);
    CHECK_OK(tepal_loop_step(loop, -1));
    loop_settle(loop); /* a turn takes no more than some thousands of a crowd */
    CHECK_EQ(loop_stats(loop).posts, 2 * MANY);
    if (strcmp(test_driver(), "poll") != 0) { /* which reads the descriptor to silence it */
        CHECK_EQ(wake_ups_written(), 1);
    }
    loop_end(loop);
}

TEST_DRIVERS(threads, posts_cost_a_loop_that_has_slept_and_runs_again_no_wake_up) {
    tepal_loop *loop = LOOP(.debug = false);
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_MS(1), post_from_thread, loop, NULL));
    while (loop_stats(loop).posts == 0) {
        CHECK_OK(tepal_loop_step(loop, -1));
    }
    CHECK_GE(loop_stats(loop).waits, 1);
    CHECK_EQ(wake_ups_written(), 0);
    loop_settle(loop);
    loop_end(loop);
}

/* Loops in many threads share nothing. */

static void *live_and_die(void *argument) {
    const char *driver = argument;
    for (int i = 0; i < 20; i++) {
        tepal_loop *loop;
        int runs = 0;
        loop_descriptors_begin();
        CHECK_OK(tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .driver = driver, .debug = i % 2 == 0)));
        loop_descriptors_end();
        CHECK_OK(tepal_loop_call_soon(loop, count_up, &runs, NULL));
        CHECK_OK(tepal_loop_call_later(loop, 1000, stop_loop, loop, NULL));
        CHECK_OK(tepal_loop_run_forever(loop));
        CHECK_EQ(runs, 1);
        loop_descriptors_begin();
        loop_end(loop);
        loop_descriptors_end();
    }
    return NULL;
}

TEST_DRIVERS(threads, loops_come_and_go_in_many_threads_at_once) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, live_and_die, (void *)(uintptr_t)test_driver()), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
}
