/* The executor under load: several loops in several threads, and futures cancelled at every moment of their work. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include "unit/future_fixture.h"

enum { THREADS = 8, WINDOW = 16 };

/* One piece of work and what became of it. */
typedef struct piece {
    atomic_int runs;
    int destroyed;
    int told;
} piece;

/* One thread with its loop. */
typedef struct crowd {
    tepal_loop *loop;
    pthread_t thread;
    test_prng prng;
    int64_t rounds;
} crowd;

static int run_piece(void *argument, void **value) {
    piece *self = argument;
    atomic_fetch_add(&self->runs, 1);
    *value = self;
    return 0;
}

static void destroy_piece(void *value) {
    ((piece *)value)->destroyed++;
}

static void piece_done(tepal_future *future, void *argument) {
    piece *self = argument;
    void *value;
    const int code = tepal_future_result(future, &value);
    CHECK(code == TEPAL_ECANCELED || (code == 0 && value == self && atomic_load(&self->runs) == 1));
    self->told++;
}

/* One round: a window of work, some of it cancelled somewhere on its way, all of it waited for. */
static void run_window(crowd *self, piece *pieces) {
    tepal_future *futures[WINDOW], *all[WINDOW], *gathering;

    for (int i = 0; i < WINDOW; i++) {
        CHECK_OK(tepal_loop_run_in_executor(self->loop, run_piece, &pieces[i], destroy_piece, &futures[i]));
        CHECK_OK(tepal_future_add_done_callback(futures[i], piece_done, &pieces[i]));
        if (test_prng_below(&self->prng, 4) == 0) {
            tepal_future_cancel(futures[test_prng_below(&self->prng, (uint64_t)i + 1)]);
        }
        if (test_prng_below(&self->prng, 4) == 0) {
            CHECK_OK(tepal_loop_step(self->loop, 0));
        }
    }
    for (int i = 0; i < WINDOW; i++) { /* each ends with a value: the future that it waited for */
        CHECK_OK(tepal_future_first(self->loop, &futures[i], 1, &all[i]));
    }
    CHECK_OK(tepal_future_gather(self->loop, all, WINDOW, &gathering));
    CHECK_OK(tepal_loop_run_until_complete(self->loop, gathering));
    CHECK_OK(tepal_future_result(gathering, NULL));
    tepal_future_unref(gathering);
    for (int i = 0; i < WINDOW; i++) {
        tepal_future_unref(all[i]);
        tepal_future_unref(futures[i]);
    }
}

static void *run_crowd(void *argument) {
    crowd *self = argument;
    piece *pieces = calloc((size_t)self->rounds * WINDOW, sizeof *pieces);

    CHECK(pieces != NULL);
    CHECK_OK(tepal_loop_new(&self->loop, TEPAL_OPTIONS(tepal_loop_options, .realloc = test_counting_alloc,
                                                       .debug = true, .slow_callback_ns = -1)));
    for (int64_t round = 0; round < self->rounds; round++) {
        run_window(self, &pieces[round * WINDOW]);
    }
    CHECK_OK(tepal_loop_close(self->loop)); /* waits for what was cancelled while it ran */
    tepal_loop_unref(self->loop);
    for (int64_t i = 0; i < self->rounds * WINDOW; i++) {
        CHECK_EQ(pieces[i].told, 1);
        CHECK_EQ(pieces[i].destroyed, pieces[i].runs);
    }
    free(pieces);
    return NULL;
}

TEST_DRIVERS(executor, loops_in_many_threads_cancel_at_random_and_every_piece_of_work_is_accounted_for) {
    crowd crowds[THREADS];

    test_set_timeout(120);
    for (int i = 0; i < THREADS; i++) {
        crowds[i] = (crowd){.prng = test_prng_start((uint64_t)i), .rounds = test_rounds(5000, 200)};
        CHECK_EQ(pthread_create(&crowds[i].thread, NULL, run_crowd, &crowds[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_join(crowds[i].thread, NULL), 0);
    }
}

typedef struct posting {
    tepal_loop *loop;
    tepal_future *future;
    atomic_int left;
} posting;

static void count_down(void *argument) {
    posting *self = argument;
    if (atomic_fetch_sub(&self->left, 1) == 1) {
        CHECK_OK(tepal_future_set_result(self->future, NULL, NULL));
    }
}

static int post_from_thread(void *argument, void **value) {
    posting *self = argument;
    (void)value;
    for (int i = 0; i < 100; i++) {
        CHECK_OK(tepal_loop_call_soon_threadsafe(self->loop, count_down, self));
    }
    return 0;
}

TEST_DRIVERS(executor, work_may_post_to_the_loop_and_complete_futures_there) {
    fixture self;
    tepal_future *works[THREADS];

    fixture_start(&self, true);
    posting posting_ = {.loop = self.loop, .future = new_future(&self), .left = THREADS * 100};
    for (int i = 0; i < THREADS; i++) {
        CHECK_OK(tepal_loop_run_in_executor(self.loop, post_from_thread, &posting_, NULL, &works[i]));
    }
    CHECK_OK(tepal_loop_run_until_complete(self.loop, posting_.future));
    for (int i = 0; i < THREADS; i++) {
        CHECK_OK(tepal_loop_run_until_complete(self.loop, works[i]));
        tepal_future_unref(works[i]);
    }
    tepal_future_unref(posting_.future);
    fixture_end(&self);
}
