/*
 * The callbacks of call_later and call_at: slots with generations, so that a handle may outlive what it names. A slot
 * whose generations are used up is never used again.
 */
#include "loop/loop.h"

#define CALLS_PER_CHUNK 64

struct tpi_call {
    tepal_timer timer; /* first */
    tepal_callback run;
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
    call->loop->place = call->place;
    give_back(call);
    if (status == 0) {
        run(argument);
    }
}

static int grow(tepal_loop *loop) {
    tpi_calls *calls = &loop->calls;
    if (calls->chunk_count >= TPI_TIMED_HANDLE / CALLS_PER_CHUNK) {
        return TEPAL_ENOMEM;
    }
    tpi_call **chunks = loop->realloc(calls->chunks, (calls->chunk_count + 1) * sizeof(tpi_call *));
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
        give_back(&chunk[i]); /* to generation 1 */
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

static int call_at(tepal_loop *loop, int64_t when_ns, tepal_callback run, void *argument, tepal_handle *handle,
                   const void *place) {
    if (loop->calls.free == NULL) {
        int code = grow(loop);
        if (code < 0) {
            return code;
        }
    }
    tpi_call *call = loop->calls.free;
    loop->calls.free = (tpi_call *)call->timer.work.next;
    call->run = run;
    call->argument = argument;
    call->place = place;
    if (handle != NULL) {
        *handle = (tepal_handle){.slot = call->slot | TPI_TIMED_HANDLE, .generation = call->generation};
    }
    tpi_timers_start(&loop->timers, &call->timer, when_ns);
    return 0;
}

int tepal_loop_call_at(tepal_loop *loop, int64_t when_ns, tepal_callback run, void *argument, tepal_handle *handle) {
    int code = tpi_loop_check(loop);
    return code < 0 ? code : call_at(loop, when_ns, run, argument, handle, __builtin_return_address(0));
}

int tepal_loop_call_later(tepal_loop *loop, int64_t delay_ns, tepal_callback run, void *argument,
                          tepal_handle *handle) {
    int code = tpi_loop_check(loop);
    if (code < 0) {
        return code;
    }
    int64_t when_ns;
    if (__builtin_add_overflow(tepal_loop_time(loop), delay_ns < 0 ? 0 : delay_ns, &when_ns)) {
        when_ns = INT64_MAX;
    }
    return call_at(loop, when_ns, run, argument, handle, __builtin_return_address(0));
}

bool tepal_loop_cancel(tepal_loop *loop, tepal_handle handle) {
    if (tpi_loop_check(loop) < 0) {
        return false;
    }
    if (!(handle.slot & TPI_TIMED_HANDLE)) {
        return tpi_ready_cancel(loop, handle);
    }
    uint32_t slot = handle.slot & ~TPI_TIMED_HANDLE;
    if (slot / CALLS_PER_CHUNK >= loop->calls.chunk_count) {
        return false;
    }
    tpi_call *call = &loop->calls.chunks[slot / CALLS_PER_CHUNK][slot % CALLS_PER_CHUNK];
    if (call->generation != handle.generation || !tpi_timers_stop(&loop->timers, &call->timer)) {
        return false;
    }
    give_back(call);
    return true;
}
