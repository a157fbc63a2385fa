/*
 * What a program's loop does beside its connections: callbacks, timers and futures in an order that the program fixes,
 * and the many ways from one callback to another.
 */
#include "torture/differential_program.h"

#include <stdlib.h>

enum { MOST = 10 };

/* Hops that wait for no time: what goes by these stays in order. */
static const unsigned prompt[] = {0, 2, 4, 5, 6};

/* ---- Hops ---- */

typedef struct hopping {
    tepal_work work; /* first */
    tepal_timer timer;
    run *run;
    story *story;
    void (*then)(void *argument);
    void *argument;
} hopping;

static void arrive(void *argument) {
    const hopping own = *(hopping *)argument;
    free(argument);
    own.then(own.argument);
}

static void arrive_by_work(tepal_work *work, int status) {
    if (status == 0) {
        arrive(work);
    } else {
        free(work);
    }
}

static void arrive_by_timer(tepal_work *work, int status) {
    hopping *self = (hopping *)(void *)((char *)work - offsetof(hopping, timer));
    arrive_by_work(&self->work, status);
}

static void arrive_by_future(tepal_future *future, void *argument) {
    hopping *self = argument;
    const int code = tepal_future_result(future, NULL);
    if (self->story != NULL) {
        story_tell(self->story, "went on: %s", code < 0 ? tepal_error_name(code) : "ok");
    }
    tepal_future_unref(future);
    arrive(self);
}

static int work_on_a_thread(void *argument, void **value) {
    *value = argument;
    return 0;
}

static tepal_future *future_of_way(run *self, unsigned way, hopping *made) {
    tepal_future *future;
    switch (way) {
    case 6:
        CHECK_OK(tepal_future_new(self->loop, &future));
        CHECK_OK(tepal_future_set_result(future, NULL, NULL));
        break;
    case 7:
        CHECK_OK(tepal_loop_run_in_executor(self->loop, work_on_a_thread, made, NULL, &future));
        break;
    case 8:
        CHECK_OK(tepal_loop_getaddrinfo(self->loop, "localhost", 80, AF_INET, false, &future));
        break;
    default:
        CHECK_OK(tepal_loop_getaddrinfo(self->loop, "127.0.0.1", 80, AF_INET, false, &future));
        break;
    }
    return future;
}

void hop(run *self, unsigned way, story *to, void (*then)(void *argument), void *argument) {
    hopping *made = calloc(1, sizeof *made);
    CHECK(made != NULL && way < HOPS);
    *made = (hopping){.run = self, .story = to, .then = then, .argument = argument};
    made->work.run = arrive_by_work;
    made->timer.work.run = arrive_by_timer;
    switch (way) {
    case 0:
        CHECK_OK(tepal_loop_call_soon(self->loop, arrive, made, NULL));
        break;
    case 1:
        CHECK_OK(tepal_loop_call_later(self->loop, 20000, arrive, made, NULL));
        break;
    case 2:
        CHECK_OK(tepal_loop_post(self->loop, &made->work));
        break;
    case 3:
        CHECK_OK(tepal_timer_start(self->loop, &made->timer, tepal_loop_turn_time(self->loop) + 30000));
        break;
    case 4:
        CHECK_OK(tepal_loop_call_soon_threadsafe(self->loop, arrive, made));
        break;
    case 5:
        CHECK_OK(tepal_loop_post_threadsafe(self->loop, &made->work));
        break;
    default:
        CHECK_OK(tepal_future_add_done_callback(future_of_way(self, way, made), arrive_by_future, made));
        break;
    }
}

/* ---- Callbacks and timers ---- */

/* One of a batch that was made in one callback; it may cancel another one, and queue one more. */
typedef struct chore {
    tepal_work work; /* first */
    tepal_timer timer;
    run *run;
    struct batch *batch;
    tepal_handle handle;
    unsigned number;
    enum { BY_HANDLE, BY_WORK, BY_TIMER } kind;
    int cancels; /* the number of another; -1: none */
    bool adds, is_done;
} chore;

typedef struct batch {
    run *run;
    story *story;
    chore chores[MOST];
    unsigned count, left;
} batch;

static void next_round(void *argument);

static void one_less(run *self) {
    if (--self->outstanding == 0) {
        CHECK_OK(tepal_loop_call_soon(self->loop, next_round, self, NULL));
    }
}

static void batch_less(batch *self) {
    if (--self->left == 0) {
        run *here = self->run;
        free(self);
        one_less(here);
    }
}

static void cancel(chore *self) {
    bool was = false;
    if (self->kind == BY_HANDLE) {
        was = tepal_loop_cancel(self->run->loop, self->handle);
    } else if (self->kind == BY_TIMER) {
        was = tepal_timer_stop(self->run->loop, &self->timer) == 0;
    }
    story_tell(self->batch->story, "cancels %u: %s", self->number, was ? "yes" : "no");
    CHECK(!was || !self->is_done);
    if (was) {
        self->is_done = true;
        batch_less(self->batch);
    }
}

static void run_added(void *argument) {
    chore *self = argument;
    story_tell(self->batch->story, "%u's own", self->number);
    batch_less(self->batch);
}

static void run_chore(void *argument) {
    chore *self = argument;
    batch *of = self->batch;
    CHECK(!self->is_done);
    self->is_done = true;
    story_tell(of->story, "%u", self->number);
    if (self->cancels >= 0) {
        cancel(&of->chores[self->cancels]);
    }
    /* Only callbacks: when one that a timer adds runs depends on when the next timer is due. */
    if (self->adds) {
        of->left++;
        CHECK_OK(tepal_loop_call_soon(self->run->loop, run_added, self, NULL));
    }
    batch_less(of);
}

static void run_chore_work(tepal_work *work, int status) {
    CHECK_OK(status);
    run_chore(work);
}

static void run_chore_timer(tepal_work *work, int status) {
    CHECK_OK(status);
    run_chore((char *)work - offsetof(chore, timer));
}

static batch *batch_new(run *self, story *to) {
    batch *made = calloc(1, sizeof *made);
    CHECK(made != NULL);
    made->run = self;
    made->story = to;
    made->count = 1 + (unsigned)test_prng_below(&self->prng, MOST);
    made->left = made->count + 1; /* and who makes them */
    self->outstanding++;
    for (unsigned i = 0; i < made->count; i++) {
        chore *one = &made->chores[i];
        *one = (chore){.run = self, .batch = made, .number = i, .cancels = -1};
        one->work.run = run_chore_work;
        one->timer.work.run = run_chore_timer;
        if (test_prng_below(&self->prng, 3) == 0) {
            one->cancels = (int)test_prng_below(&self->prng, made->count);
        }
    }
    return made;
}

static void start_callbacks(run *self) {
    batch *made = batch_new(self, &self->soon);
    for (unsigned i = 0; i < made->count; i++) {
        chore *one = &made->chores[i];
        one->adds = test_prng_below(&self->prng, 3) == 0;
        switch (test_prng_below(&self->prng, 4)) {
        case 0:
            one->kind = BY_WORK;
            CHECK_OK(tepal_loop_post(self->loop, &one->work));
            break;
        case 1:
            one->kind = BY_WORK;
            CHECK_OK(tepal_loop_call_soon_threadsafe(self->loop, run_chore, one));
            break;
        default:
            one->kind = BY_HANDLE;
            CHECK_OK(tepal_loop_call_soon(self->loop, run_chore, one, &one->handle));
            break;
        }
    }
    if (test_prng_below(&self->prng, 2) == 0) {
        cancel(&made->chores[test_prng_below(&self->prng, made->count)]);
    }
    batch_less(made);
}

/* All are made before one can run, so they run in the order of their times, however late that is. */
static void start_timers(run *self) {
    batch *made = batch_new(self, &self->timers);
    const int64_t now_ns = tepal_loop_time(self->loop);
    for (unsigned i = 0; i < made->count; i++) {
        chore *one = &made->chores[i];
        const int64_t when_ns = now_ns - 40000 + 20000 * (int64_t)test_prng_below(&self->prng, 12);
        if (test_prng_below(&self->prng, 2) == 0) {
            one->kind = BY_TIMER;
            CHECK_OK(tepal_timer_start(self->loop, &one->timer, now_ns + TEPAL_SEC(9)));
            CHECK_OK(tepal_timer_start(self->loop, &one->timer, when_ns));
        } else {
            one->kind = BY_HANDLE;
            CHECK_OK(tepal_loop_call_at(self->loop, when_ns, run_chore, one, &one->handle));
        }
    }
    if (test_prng_below(&self->prng, 2) == 0) {
        cancel(&made->chores[test_prng_below(&self->prng, made->count)]);
    }
    batch_less(made);
}

/* ---- Futures ---- */

typedef struct promises {
    run *run;
    tepal_future *futures[4];
    tepal_future *made[4]; /* of them: gathered, the first, shielded, limited */
    unsigned next, left;
    uint64_t ends; /* two bits for each: how it ends */
} promises;

static void promise_less(promises *self) {
    if (--self->left > 0) {
        return;
    }
    for (int i = 0; i < 4; i++) {
        tepal_future_unref(self->made[i]);
        tepal_future_unref(self->futures[i]);
    }
    run *here = self->run;
    free(self);
    one_less(here);
}

static void promise_done(tepal_future *future, void *argument) {
    promises *self = argument;
    for (int i = 0; i < 4; i++) {
        const char *which = future == self->futures[i] ? "future" : future == self->made[i] ? "made of them" : NULL;
        if (which != NULL) {
            const int code = tepal_future_result(future, NULL);
            story_tell(&self->run->futures, "%s %d: %s%s", which, i, code < 0 ? tepal_error_name(code) : "ok",
                       tepal_future_is_canceled(future) ? ", cancelled" : "");
        }
    }
    promise_less(self);
}

static void end_one(void *argument) {
    promises *self = argument;
    tepal_future *future = self->futures[self->next];
    int code = 0;
    switch (self->ends >> 2 * self->next & 3) {
    case 0:
        code = tepal_future_set_code(future, TEPAL_ENOBUFS);
        break;
    case 1:
        code = tepal_future_cancel(future) ? 0 : TEPAL_EDONE;
        break;
    default:
        code = tepal_future_set_result(future, self, NULL);
        break;
    }
    story_tell(&self->run->futures, "ends %u: %s", self->next, code < 0 ? tepal_error_name(code) : "ok");
    self->next++;
    if (self->next < 4) {
        hop(self->run, prompt[(self->ends >> (10 + 3 * self->next)) % 5], NULL, end_one, self);
    } else {
        promise_less(self);
    }
}

static void start_futures(run *self) {
    promises *made = calloc(1, sizeof *made);
    CHECK(made != NULL);
    made->run = self;
    made->ends = test_prng_next(&self->prng);
    made->left = 9;
    self->outstanding++;
    for (int i = 0; i < 4; i++) {
        CHECK_OK(tepal_future_new(self->loop, &made->futures[i]));
        CHECK_OK(tepal_future_add_done_callback(made->futures[i], promise_done, made));
    }
    CHECK_OK(tepal_future_gather(self->loop, made->futures, 4, &made->made[0]));
    CHECK_OK(tepal_future_first(self->loop, made->futures + 1, 3, &made->made[1]));
    CHECK_OK(tepal_future_shield(made->futures[2], &made->made[2]));
    CHECK_OK(tepal_future_wait_for(made->futures[3], TEPAL_SEC(1000), &made->made[3]));
    for (int i = 0; i < 4; i++) {
        CHECK_OK(tepal_future_add_done_callback(made->made[i], promise_done, made));
    }
    hop(self, prompt[test_prng_below(&self->prng, 5)], NULL, end_one, made);
}

static void next_round(void *argument) {
    run *self = argument;
    if (self->round++ == ROUNDS) {
        run_close(self);
        return;
    }
    self->outstanding++;
    start_callbacks(self);
    start_timers(self);
    start_futures(self);
    one_less(self);
}

void chores_start(run *self) {
    self->prng = (test_prng){self->program->seed};
    self->open++;
    CHECK_OK(tepal_loop_call_soon(self->loop, next_round, self, NULL));
}
