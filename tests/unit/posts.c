/* The queue of posts: one order for callbacks and work, its chunks, its memory, its end, and forks in the midst of it. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>
#include "conformance/loops.h"
#include "loop/loop.h"

enum { THREADS = 8 };

/* One post, as a callback or as work. */
typedef struct note {
    tepal_work work; /* first */
    struct writer *writer;
    int number;
} note;

/* A thread that posts both kinds, mixed at random. */
typedef struct writer {
    tepal_loop *loop;
    pthread_t thread;
    note *notes;
    uint64_t seed;
    int count;
    int next;                 /* no note below this may come any more */
    int called, ran, dropped; /* on the loop's thread */
    int calls, works;         /* that were taken, on the writer's */
    atomic_int sent;
} writer;

static void expect_in_order(note *self) {
    CHECK(self->number >= self->writer->next);
    self->writer->next = self->number + 1;
}

static void note_called(void *argument) {
    expect_in_order(argument);
    ((note *)argument)->writer->called++;
}

static void note_run(tepal_work *work, int status) {
    note *self = (note *)work;
    expect_in_order(self);
    if (status == 0) {
        self->writer->ran++;
    } else {
        CHECK_EQ(status, TEPAL_ECLOSED);
        self->writer->dropped++;
    }
}

/* Whether it was taken. */
static bool send_note(writer *self, note *sent, bool as_work) {
    sent->work.run = note_run;
    sent->writer = self;
    const int code = as_work ? tepal_loop_post_threadsafe(self->loop, &sent->work)
                             : tepal_loop_call_soon_threadsafe(self->loop, note_called, sent);
    if (code < 0) {
        CHECK_EQ(code, TEPAL_ECLOSED);
        return false;
    }
    *(as_work ? &self->works : &self->calls) += 1;
    return true;
}

static void *write_notes(void *argument) {
    writer *self = argument;
    test_prng prng = test_prng_start(self->seed);
    bool closed = false;
    for (int i = 0; i < self->count; i++) {
        self->notes[i].number = i;
        const bool taken = send_note(self, &self->notes[i], test_prng_below(&prng, 3) == 0);
        CHECK(!(closed && taken)); /* closed once, closed for ever */
        closed = !taken;
        atomic_fetch_add(&self->sent, 1);
    }
    return NULL;
}

static void start(writer *self, tepal_loop *loop, int count, uint64_t seed) {
    *self = (writer){.loop = loop, .count = count, .seed = seed, .notes = calloc((size_t)count, sizeof(note))};
    CHECK(self->notes != NULL);
    CHECK_EQ(pthread_create(&self->thread, NULL, write_notes, self), 0);
}

static int64_t told(const writer *writers) {
    int64_t total = 0;
    for (int i = 0; i < THREADS; i++) {
        total += writers[i].called + writers[i].ran;
    }
    return total;
}

TEST_DRIVERS(posts, callbacks_and_work_of_a_thread_stay_in_one_order) {
    writer writers[THREADS];
    const int count = (int)test_rounds(1000000, 50000);
    test_set_timeout(600);
    tepal_loop *loop = LOOP(.debug = false);
    for (int i = 0; i < THREADS; i++) {
        start(&writers[i], loop, count, (uint64_t)i);
    }
    while (told(writers) < (int64_t)THREADS * count) {
        CHECK_OK(tepal_loop_step(loop, -1)); /* a wake-up that is lost is a hang */
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(writers[i].thread, NULL);
        CHECK_EQ(writers[i].called, writers[i].calls);
        CHECK_EQ(writers[i].ran, writers[i].works);
        free(writers[i].notes);
    }
    CHECK_EQ(loop_stats(loop).posts, (int64_t)THREADS * count);
    loop_end(loop);
}

/* What is posted before close is taken; every work that was taken is told once, and a callback runs at most once. */
TEST_DRIVERS(posts, closing_ends_each_post_once) {
    const int rounds = (int)test_rounds(2000, 50);
    test_set_timeout(600);
    for (int round = 0; round < rounds; round++) {
        writer writers[THREADS];
        int before[THREADS];
        tepal_loop *loop = LOOP(.debug = false);
        for (int i = 0; i < THREADS; i++) {
            start(&writers[i], loop, 3000, (uint64_t)(round + i));
        }
        while (told(writers) < round % 8 * 700) {
            CHECK_OK(tepal_loop_step(loop, -1));
        }
        for (int i = 0; i < THREADS; i++) {
            before[i] = atomic_load(&writers[i].sent);
        }
        CHECK_OK(tepal_loop_close(loop));
        for (int i = 0; i < THREADS; i++) {
            pthread_join(writers[i].thread, NULL);
            CHECK_EQ(writers[i].ran + writers[i].dropped, writers[i].works);
            CHECK(writers[i].called <= writers[i].calls);
            CHECK(writers[i].works + writers[i].calls >= before[i]);
            free(writers[i].notes);
        }
        tepal_loop_unref(loop);
    }
    CHECK_EQ(test_alloc_live(), 0);
}

/* Chunks and memory, on one thread */

static writer solo(tepal_loop *loop, int count) {
    writer self = {.loop = loop, .count = count, .notes = calloc((size_t)count, sizeof(note))};
    CHECK(self.notes != NULL);
    for (int i = 0; i < count; i++) {
        self.notes[i].number = i;
    }
    return self;
}

TEST(posts, work_needs_no_memory_however_much_there_is) {
    tepal_loop *loop = LOOP(.debug = true);
    writer self = solo(loop, 10 * TPI_LARGEST_CHUNK);
    for (int round = 0; round < 5; round++) {
        self.next = 0;
        test_alloc_fail_at(1, true);
        for (int i = 0; i < self.count; i++) {
            CHECK(send_note(&self, &self.notes[i], true));
        }
        loop_settle(loop);
        CHECK(!test_alloc_has_failed());
        test_alloc_fail_at(0, false);
        CHECK_EQ(self.ran, (round + 1) * self.count);
    }
    loop_end(loop);
    free(self.notes);
}

TEST(posts, callbacks_reuse_the_memory_of_those_that_ran) {
    tepal_loop *loop = LOOP(.debug = false);
    writer self = solo(loop, 3 * TPI_LARGEST_CHUNK);
    size_t calls = 0;
    for (int round = 0; round < 20; round++) {
        self.next = 0;
        for (int i = 0; i < self.count; i++) {
            CHECK(send_note(&self, &self.notes[i], i % 5 == 0));
        }
        loop_settle(loop);
        if (round == 5) {
            calls = test_alloc_calls();
        }
    }
    CHECK_EQ(self.called + self.ran, 20 * self.count);
    CHECK_EQ(test_alloc_calls(), calls);
    loop_end(loop);
    free(self.notes);
}

TEST(posts, without_memory_callbacks_are_refused_and_the_rest_stays_in_order) {
    tepal_loop *loop = LOOP(.debug = true);
    writer self = solo(loop, 3 * TPI_LARGEST_CHUNK);
    int i = 0;
    for (; i < TPI_FIRST_CHUNK - 1; i++) {
        CHECK(send_note(&self, &self.notes[i], false));
    }
    test_alloc_fail_at(1, true);
    CHECK(send_note(&self, &self.notes[i++], false)); /* the last place */
    CHECK_EQ(tepal_loop_call_soon_threadsafe(loop, note_called, NULL), TEPAL_ENOMEM);
    CHECK_EQ(tepal_loop_stop_threadsafe(loop), TEPAL_ENOMEM);
    CHECK(send_note(&self, &self.notes[i++], true)); /* behind the full chunk */
    CHECK(send_note(&self, &self.notes[i++], true));
    test_alloc_fail_at(0, false);
    for (; i < self.count; i++) {
        CHECK(send_note(&self, &self.notes[i], i % 3 == 0));
    }
    loop_settle(loop);
    CHECK_EQ(self.called, self.calls);
    CHECK_EQ(self.ran, self.works);
    CHECK_EQ(self.next, self.count);
    loop_end(loop);
    free(self.notes);
}

TEST(posts, a_ready_queue_that_cannot_grow_loses_no_post) {
    tepal_loop *loop = LOOP(.debug = false);
    writer self = solo(loop, 2 * TPI_LARGEST_CHUNK);
    CHECK(send_note(&self, &self.notes[0], false));
    loop_settle(loop);
    for (int i = 1; i < self.count; i++) {
        CHECK(send_note(&self, &self.notes[i], i % 7 == 0));
    }
    test_alloc_fail_at(1, true);
    loop_settle(loop); /* in pieces, as large as the ring is */
    CHECK(test_alloc_has_failed());
    test_alloc_fail_at(0, false);
    CHECK_EQ(self.next, self.count);
    loop_end(loop);
    free(self.notes);
}

TEST(posts, each_failed_allocation_of_a_new_loop_leaves_nothing) {
    for (size_t n = 1;; n++) {
        tepal_loop *loop = NULL;
        test_alloc_fail_at(n, false);
        const int code =
            tepal_loop_new(&loop, TEPAL_OPTIONS(tepal_loop_options, .realloc = test_counting_alloc, .debug = true));
        const bool failed = test_alloc_has_failed();
        test_alloc_fail_at(0, false);
        if (code == 0) {
            CHECK(!failed);
            loop_end(loop);
            CHECK(n > 2);
            return;
        }
        CHECK_EQ(code, TEPAL_ENOMEM);
        CHECK_EQ(test_alloc_live(), 0);
    }
}

TEST(posts, a_crowd_of_posts_leaves_room_for_timers) {
    tepal_loop *loop = LOOP(.debug = true);
    writer self = solo(loop, 10 * TPI_LARGEST_CHUNK);
    for (int i = 0; i < self.count; i++) {
        CHECK(send_note(&self, &self.notes[i], i % 2 == 0));
    }
    int timers = 0;
    CHECK_OK(tepal_loop_call_later(loop, 0, count_up, &timers, NULL));
    CHECK_EQ(tepal_loop_step(loop, 0), 1);
    CHECK_EQ(timers, 1);
    CHECK(self.next > 0 && self.next < self.count);
    int soon = 0;
    CHECK_OK(tepal_loop_call_soon(loop, count_up, &soon, NULL)); /* behind all of them */
    while (self.next < self.count) {
        CHECK_EQ(soon, 0);
        CHECK_OK(tepal_loop_step(loop, 0));
    }
    loop_settle(loop);
    CHECK_EQ(soon, 1);
    loop_end(loop);
    free(self.notes);
}

TEST(posts, nothing_is_no_callback) {
    tepal_loop *loop = LOOP(.debug = true);
    CHECK_EQ(tepal_loop_call_soon_threadsafe(loop, NULL, NULL), TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_step(loop, 0), 0);
    loop_end(loop);
}

TEST(posts, a_closed_loop_refuses_both_kinds) {
    tepal_loop *loop = LOOP(.debug = true);
    note one = {.work.run = note_run};
    CHECK_OK(tepal_loop_close(loop));
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(tepal_loop_call_soon_threadsafe(loop, note_called, NULL), TEPAL_ECLOSED);
        CHECK_EQ(tepal_loop_post_threadsafe(loop, &one.work), TEPAL_ECLOSED);
        CHECK_EQ(tepal_loop_stop_threadsafe(loop), TEPAL_ECLOSED);
    }
    CHECK_EQ(one.work.state, TPI_WORK_IDLE);
    tepal_loop_unref(loop);
    CHECK_EQ(test_alloc_live(), 0);
}

/* Sleeping */

typedef struct table {
    tepal_loop *loops[2];
    int turn, left;
} table;

static void hit_back(void *argument) {
    table *self = argument;
    self->turn ^= 1;
    if (--self->left > 0) {
        CHECK_OK(tepal_loop_call_soon_threadsafe(self->loops[self->turn], hit_back, self));
    } else {
        CHECK_OK(tepal_loop_stop_threadsafe(self->loops[0]));
        CHECK_OK(tepal_loop_stop_threadsafe(self->loops[1]));
    }
}

static void *run_loop(void *loop) {
    CHECK_OK(tepal_loop_run_forever(loop));
    return NULL;
}

TEST_DRIVERS(posts, two_loops_that_sleep_play_ping_pong_with_callbacks) {
    table self = {.left = (int)test_rounds(1000000, 100000)};
    pthread_t thread;
    test_set_timeout(600);
    self.loops[0] = LOOP(.debug = false);
    self.loops[1] = LOOP(.debug = false);
    CHECK_OK(tepal_loop_call_soon_threadsafe(self.loops[0], hit_back, &self));
    CHECK_EQ(pthread_create(&thread, NULL, run_loop, self.loops[1]), 0);
    CHECK_OK(tepal_loop_run_forever(self.loops[0]));
    pthread_join(thread, NULL);
    CHECK_EQ(self.left, 0);
    loop_end(self.loops[0]);
    loop_end(self.loops[1]);
}

/* The moment between the loop's look at its queues and its sleep, which a hook cannot reach: prepare() can. */
TEST_DRIVERS(posts, a_loop_that_announced_its_sleep_is_woken_by_the_first_post_alone) {
    tepal_loop *loop = LOOP(.debug = true);
    int64_t timeout_ns = 0;
    int runs = 0;
    CHECK_OK(tepal_loop_prepare(loop, &timeout_ns));
    CHECK(timeout_ns < 0);
    CHECK(atomic_load(&loop->posts.sleeping));
    CHECK_OK(tepal_loop_call_soon_threadsafe(loop, count_up, &runs));
    CHECK(!atomic_load(&loop->posts.sleeping)); /* taken on: the next one need not write */
    CHECK_OK(tepal_loop_call_soon_threadsafe(loop, count_up, &runs));
    CHECK_OK(tepal_loop_prepare(loop, &timeout_ns));
    CHECK_EQ(timeout_ns, 0);
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_EQ(runs, 2);
    loop_end(loop);
}

/* A thread that was stopped between taking its place and filling it, played by the test. */
TEST_DRIVERS(posts, a_place_that_is_not_filled_yet_delays_the_loop_but_does_not_stop_it) {
    tepal_loop *loop = LOOP(.debug = true);
    int64_t timeout_ns = 0;
    int runs = 0;
    tpi_post_chunk *chunk = atomic_load(&loop->posts.current);
    tpi_post *place = &chunk->places[atomic_fetch_add(&chunk->tail, 1)];
    CHECK_OK(tepal_loop_call_soon_threadsafe(loop, count_up, &runs));
    CHECK_OK(tepal_loop_prepare(loop, &timeout_ns));
    CHECK(timeout_ns > 0 && timeout_ns < TEPAL_MS(10)); /* nobody will wake it */
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_EQ(runs, 0);
    place->argument = &runs;
    atomic_store(&place->run, (uintptr_t)count_up);
    CHECK_OK(tepal_loop_step(loop, -1));
    CHECK_EQ(runs, 2);
    loop_end(loop);
}

/* Forks */

/* ThreadSanitizer's own allocator is locked for ever in a child that is forked while another thread allocates. */
#if defined(__SANITIZE_THREAD__)
#define THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZER 1
#endif
#endif

TEST_DRIVERS(posts, a_fork_among_posts_leaves_the_child_a_queue_that_works) {
#ifdef THREAD_SANITIZER
    SKIP("ThreadSanitizer cannot follow a fork among threads");
#endif
    const int rounds = (int)test_rounds(500, 30);
    test_set_timeout(600);
    for (int round = 0; round < rounds; round++) {
        writer writers[THREADS];
        tepal_loop *loop = LOOP(.debug = false);
        for (int i = 0; i < THREADS; i++) {
            start(&writers[i], loop, 3000, (uint64_t)(round + i));
        }
        while (told(writers) < round % 8 * 500) {
            CHECK_OK(tepal_loop_step(loop, -1));
        }
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            if (round % 3 != 0) {
                int runs = 0;
                CHECK_OK(tepal_loop_after_fork(loop));
                for (int i = 0; i < 5000; i++) {
                    CHECK_OK(tepal_loop_call_soon_threadsafe(loop, count_up, &runs));
                }
                TURN_UNTIL(loop, runs == 5000);
            }
            CHECK_OK(tepal_loop_close(loop));
            CHECK_EQ(tepal_loop_call_soon_threadsafe(loop, note_called, NULL), TEPAL_ECLOSED);
            tepal_loop_unref(loop);
            _exit(0);
        }
        wait_for_child(child);
        while (told(writers) < THREADS * 3000) {
            CHECK_OK(tepal_loop_step(loop, -1));
        }
        for (int i = 0; i < THREADS; i++) {
            pthread_join(writers[i].thread, NULL);
            free(writers[i].notes);
        }
        loop_end(loop);
    }
}

TEST(posts, in_a_child_a_lock_that_nobody_holds_and_places_that_nobody_fills_are_no_obstacle) {
    tepal_loop *loop = LOOP(.debug = true);
    int runs = 0;
    tpi_post_chunk *chunk = atomic_load(&loop->posts.current);
    CHECK_OK(tepal_loop_call_soon_threadsafe(loop, count_up, &runs));
    atomic_fetch_add(&chunk->tail, 3);
    CHECK_OK(tepal_loop_call_soon_threadsafe(loop, count_up, &runs));
    pthread_mutex_lock(&loop->posts.lock);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK_OK(tepal_loop_after_fork(loop));
        for (int i = 0; i < 3 * TPI_LARGEST_CHUNK; i++) {
            CHECK_OK(tepal_loop_call_soon_threadsafe(loop, count_up, &runs));
        }
        loop_settle(loop);
        CHECK_EQ(runs, 3 * TPI_LARGEST_CHUNK + 2);
        loop_end(loop);
        _exit(0);
    }
    wait_for_child(child);
    pthread_mutex_unlock(&loop->posts.lock);
    for (int i = 1; i <= 3; i++) {
        chunk->places[i].argument = &runs;
        atomic_store(&chunk->places[i].run, (uintptr_t)count_up);
    }
    loop_settle(loop);
    CHECK_EQ(runs, 5);
    loop_end(loop);
}
