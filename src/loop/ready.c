/*
 * The ready queue, and the callbacks that handles name: slots with generations, so that a handle may outlive what it
 * names. A slot whose generations are used up is never used again.
 */
#include "loop/loop.h"

#define CALLS_PER_CHUNK 64

/* One callback of call_soon, call_later or call_at. Its work runs tpi_call_run. */
struct tpi_call {
    tepal_timer timer;  /* first; its work alone for call_soon */
    tepal_callback run; /* NULL: cancelled while queued */
    void *argument;
    tepal_loop *loop;
    uint32_t slot;
    uint32_t generation; /* 0: retired */
    const void *place;   /* debug: the return address of who scheduled it */
};

static void give_back(tpi_call *call) {
    if (++call->generation == 0) {
        return; /* 2^32 uses: another one could be taken for an old one */
    }
    call->timer.work.next = (tepal_work *)call->loop->calls.free;
    call->loop->calls.free = call;
}

static void call_run(tepal_work *work, int status) {
    tpi_call *call = (tpi_call *)work;
    tepal_callback run = call->run;
    void *argument = call->argument;
    tepal_loop *loop = call->loop;
    loop->place = call->place;
    give_back(call);
    if (run != NULL && status == 0) {
        run(argument);
    }
}

static int grow(tepal_loop *loop) {
    tpi_calls *calls = &loop->calls;
    tpi_call **chunks = loop->realloc(calls->chunks, (calls->chunk_count + 1) * sizeof *chunks);
    if (chunks == NULL) {
        return TEPAL_ENOMEM;
    }
    calls->chunks = chunks;
    tpi_call *chunk = tpi_alloc_zero(loop->realloc, CALLS_PER_CHUNK * sizeof *chunk);
    if (chunk == NULL) {
        return TEPAL_ENOMEM;
    }
    for (uint32_t i = CALLS_PER_CHUNK; i-- > 0;) {
        chunk[i].loop = loop;
        chunk[i].slot = calls->chunk_count * CALLS_PER_CHUNK + i;
        chunk[i].timer.work.run = call_run;
        give_back(&chunk[i]); /* to generation 1: a handle of zeroes names nothing */
    }
    chunks[calls->chunk_count++] = chunk;
    return 0;
}

void tpi_calls_free(tepal_loop *loop) {
    for (uint32_t i = 0; i < loop->calls.chunk_count; i++) {
        tpi_free(loop->realloc, loop->calls.chunks[i]);
    }
    tpi_free(loop->realloc, loop->calls.chunks);
    loop->calls = (tpi_calls){0};
}

/* A slot for a callback; NULL, with the reason in code. */
static tpi_call *take(tepal_loop *loop, tepal_callback run, void *argument, tepal_handle *handle, int *code) {
    *code = tpi_loop_check(loop);
    if (*code == 0 && __builtin_expect(loop->calls.free == NULL, 0)) {
        *code = grow(loop);
    }
    if (*code < 0) {
        return NULL;
    }
    tpi_call *call = loop->calls.free;
    loop->calls.free = (tpi_call *)call->timer.work.next;
    call->run = run;
    call->argument = argument;
    if (handle != NULL) {
        *handle = (tepal_handle){.slot = call->slot, .generation = call->generation};
    }
    return call;
}

int tepal_loop_call_soon(tepal_loop *loop, tepal_callback run, void *argument, tepal_handle *handle) {
    int code;
    tpi_call *call = take(loop, run, argument, handle, &code);
    if (call == NULL) {
        return code;
    }
    call->place = __builtin_return_address(0);
    tpi_posts_merge(loop);
    call->timer.work.state = TPI_WORK_QUEUED;
    tpi_queue_push(&loop->ready, &call->timer.work);
    return 0;
}

int tepal_loop_call_at(tepal_loop *loop, int64_t when_ns, tepal_callback run, void *argument, tepal_handle *handle) {
    int code;
    tpi_call *call = take(loop, run, argument, handle, &code);
    if (call == NULL) {
        return code;
    }
    call->place = __builtin_return_address(0);
    tpi_timers_start(&loop->timers, &call->timer, when_ns);
    return 0;
}

int tepal_loop_call_later(tepal_loop *loop, int64_t delay_ns, tepal_callback run, void *argument,
                          tepal_handle *handle) {
    int code;
    tpi_call *call = take(loop, run, argument, handle, &code);
    if (call == NULL) {
        return code;
    }
    call->place = __builtin_return_address(0);
    int64_t when_ns;
    if (__builtin_add_overflow(tepal_loop_time(loop), delay_ns < 0 ? 0 : delay_ns, &when_ns)) {
        when_ns = INT64_MAX;
    }
    tpi_timers_start(&loop->timers, &call->timer, when_ns);
    return 0;
}

bool tepal_loop_cancel(tepal_loop *loop, tepal_handle handle) {
    uint32_t chunk = handle.slot / CALLS_PER_CHUNK;
    if (handle.generation == 0 || chunk >= loop->calls.chunk_count || tpi_loop_check(loop) < 0) {
        return false;
    }
    tpi_call *call = &loop->calls.chunks[chunk][handle.slot % CALLS_PER_CHUNK];
    if (call->generation != handle.generation || call->timer.work.state == TPI_WORK_IDLE || call->run == NULL) {
        return false;
    }
    if (call->timer.work.state == TPI_WORK_QUEUED) {
        call->run = NULL; /* it cannot leave the middle of the queue; its turn will find nothing to run */
    } else {
        tpi_timers_stop(&loop->timers, &call->timer);
        give_back(call);
    }
    return true;
}

void tpi_loop_queue(tepal_loop *loop, tepal_work *work) {
    tpi_posts_merge(loop);
    work->state = TPI_WORK_QUEUED;
    tpi_queue_push(&loop->ready, work);
}

int tepal_loop_post(tepal_loop *loop, tepal_work *work) {
    int code = tpi_loop_check(loop);
    if (code < 0) {
        return code;
    }
    uintptr_t idle = TPI_WORK_IDLE;
    if (!__atomic_compare_exchange_n(&work->state, &idle, TPI_WORK_QUEUED, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
        return TEPAL_EBUSY;
    }
    tpi_posts_merge(loop);
    tpi_queue_push(&loop->ready, work);
    return 0;
}

static void run_one(tepal_loop *loop) {
    tepal_work *work = tpi_queue_pop(&loop->ready);
    __atomic_store_n(&work->state, TPI_WORK_IDLE, __ATOMIC_RELAXED);
    loop->stats.callbacks++;
    work->run(work, 0);
    tpi_loop_flush(loop);
}

static void run_one_watched(tepal_loop *loop) {
    int64_t began = tpi_debug_begin(loop);
    run_one(loop);
    tpi_debug_end(loop, began, "a callback");
}

void tpi_ready_run(tepal_loop *loop) {
    tpi_posts_merge(loop);
    void (*run)(tepal_loop *) = loop->debug ? run_one_watched : run_one;
    if (loop->order == TEPAL_ORDER_DRAIN) {
        for (unsigned left = loop->drain_limit; left > 0 && loop->ready.first != NULL && !loop->interrupted; left--) {
            run(loop);
            tpi_posts_merge(loop);
        }
        return;
    }
    const tepal_work *last = loop->ready.first == NULL ? NULL : loop->ready.last;
    while (last != NULL && !loop->interrupted) {
        if (loop->ready.first == last) {
            last = NULL;
        }
        run(loop);
    }
}

void tpi_ready_drop(tepal_loop *loop) {
    tepal_work *work;
    while ((work = tpi_queue_pop(&loop->ready)) != NULL) {
        __atomic_store_n(&work->state, TPI_WORK_IDLE, __ATOMIC_RELAXED);
        work->run(work, TEPAL_ECLOSED);
    }
    tepal_timer *timer;
    while ((timer = tpi_timers_take(&loop->timers)) != NULL) {
        timer->work.run(&timer->work, TEPAL_ECLOSED);
    }
}
