/*
 * Callbacks and work from other threads: a queue of chunks, one order for both.
 *
 * To post is to take a place (one atomic addition), fill it, and look whether the loop sleeps: no memory and no lock.
 * The lock is for what happens once a chunk: to follow a full one by another, and to take back one that was read.
 *
 * The reader stops at a place that is taken but empty. So each thread's posts stay in order, and who is held up while
 * it fills its place holds up what was posted behind it; the loop does not sleep meanwhile, or not for long.
 *
 * Work must not need memory. When it finds the chunk full and no spare one, it is linked to that chunk, behind the last
 * place; the chunk that some callback then adds comes after it.
 */
#include "loop/loop.h"
#include <time.h>

#define LOOK_AGAIN 200 /* times, which is a microsecond: filling a place takes some 10 ns */

/* Chunks; under the lock */

static tpi_post_chunk *allocate(tepal_loop *loop) {
    const tpi_post_chunk *newest = loop->posts.newest;
    uint64_t size = newest == NULL ? TPI_FIRST_CHUNK : newest->size * 2;
    if (size > TPI_LARGEST_CHUNK) {
        size = TPI_LARGEST_CHUNK;
    }
    tpi_post_chunk *chunk = tpi_alloc_zero(loop->realloc, sizeof *chunk + size * sizeof(tpi_post));
    if (chunk != NULL) {
        chunk->size = size;
        chunk->older = loop->posts.newest;
        loop->posts.newest = chunk;
    }
    return chunk;
}

static tpi_post_chunk *take_spare(tpi_posts *posts) {
    tpi_post_chunk *chunk = posts->spare;
    if (chunk != NULL) {
        posts->spare = chunk->next;
    }
    return chunk;
}

/* Every place of it is empty. From here on a thread that saw it long ago may take one, which is as good as any. */
static void open_chunk(tpi_post_chunk *chunk) {
    atomic_store_explicit(&chunk->tail, 0, memory_order_release);
}

static void add_chunk(tpi_posts *posts, tpi_post_chunk *full, tpi_post_chunk *chunk) {
    chunk->next = NULL;
    full->next = chunk;
    open_chunk(chunk);
    atomic_store_explicit(&posts->current, chunk, memory_order_release);
}

static void add_behind(tpi_post_chunk *full, tepal_work *work) {
    work->next = NULL;
    if (full->after == NULL) {
        full->after = work;
    } else {
        *full->after_end = work;
    }
    full->after_end = &work->next;
}

/* Posting; any thread */

enum { QUEUED = 0, TRY_AGAIN = 1 };

static int make_room_locked(tepal_loop *loop, tepal_work *work) {
    tpi_posts *posts = &loop->posts;
    tpi_post_chunk *last = atomic_load_explicit(&posts->current, memory_order_relaxed);
    if (posts->closed) {
        return TEPAL_ECLOSED;
    }
    if (atomic_load_explicit(&last->tail, memory_order_relaxed) < last->size) {
        return TRY_AGAIN; /* somebody else made room */
    }
    tpi_post_chunk *chunk = take_spare(posts);
    if (chunk == NULL && work != NULL) {
        add_behind(last, work);
        return QUEUED;
    }
    if (chunk == NULL) {
        chunk = allocate(loop);
    }
    if (chunk == NULL) {
        return TEPAL_ENOMEM;
    }
    add_chunk(posts, last, chunk);
    return TRY_AGAIN;
}

/* The last chunk is full. Work, which needs no memory, may be QUEUED here already. Or an error. */
static __attribute__((noinline)) int make_room(tepal_loop *loop, tepal_work *work) {
    pthread_mutex_lock(&loop->posts.lock);
    int code = make_room_locked(loop, work);
    pthread_mutex_unlock(&loop->posts.lock);
    return code;
}

/* One of those that see the loop asleep wakes it; the others ride along. */
static inline void wake_sleeper(tepal_loop *loop) {
    if (__builtin_expect(atomic_load(&loop->posts.sleeping), 0) && atomic_exchange(&loop->posts.sleeping, false)) {
        tepal_loop_wake(loop);
    }
}

static inline int post(tepal_loop *loop, uintptr_t run, void *argument) {
    for (;;) {
        tpi_post_chunk *chunk = atomic_load_explicit(&loop->posts.current, memory_order_acquire);
        /* Sequentially consistent: either we then see that the loop sleeps, or it sees the place taken. */
        uint64_t number = atomic_fetch_add(&chunk->tail, 1);
        if (__builtin_expect(number < chunk->size, 1)) {
            chunk->places[number].argument = argument;
            atomic_store_explicit(&chunk->places[number].run, run, memory_order_release);
            break;
        }
        int code = make_room(loop, run == TPI_POST_WORK ? argument : NULL);
        if (code < 0) {
            return code;
        }
        if (code == QUEUED) {
            break;
        }
    }
    wake_sleeper(loop);
    return 0;
}

int tepal_loop_call_soon_threadsafe(tepal_loop *loop, tepal_callback run, void *argument) {
    return run == NULL ? TEPAL_EINVAL : post(loop, (uintptr_t)run, argument);
}

int tpi_posts_add_work(tepal_loop *loop, tepal_work *work) {
    return post(loop, TPI_POST_WORK, work);
}

int tepal_loop_post_threadsafe(tepal_loop *loop, tepal_work *work) {
    uintptr_t idle = TPI_WORK_IDLE;
    if (!__atomic_compare_exchange_n(&work->state, &idle, TPI_WORK_QUEUED, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
        return TEPAL_EBUSY;
    }
    int code = tpi_posts_add_work(loop, work);
    if (code < 0) {
        __atomic_store_n(&work->state, TPI_WORK_IDLE, __ATOMIC_RELEASE);
    }
    return code;
}

/* Reading; the loop's thread */

static tpi_post *end_of(tpi_post_chunk *chunk) {
    return chunk->places + chunk->size;
}

/* How much of the last chunk is taken. */
static tpi_post *taken_of(tpi_post_chunk *chunk, uint64_t tail) {
    return tail < chunk->size ? chunk->places + tail : end_of(chunk);
}

/* The chunk is read: on to the next, or to its own start. */
static void turn_over(tepal_loop *loop) {
    tpi_posts *posts = &loop->posts;
    tpi_post_chunk *chunk = posts->chunk;
    pthread_mutex_lock(&posts->lock);
    for (tepal_work *work = chunk->after, *next; work != NULL; work = next) {
        next = work->next;
        tpi_ready_push(loop, work);
        loop->stats.posts++;
    }
    chunk->after = NULL;
    if (chunk->next != NULL) {
        posts->chunk = chunk->next;
        posts->next = posts->chunk->places;
        chunk->next = posts->spare;
        posts->spare = chunk;
    } else {
        posts->next = chunk->places;
        if (!posts->closed) {
            open_chunk(chunk);
        }
    }
    pthread_mutex_unlock(&posts->lock);
}

/* Move one post to the ready queue. Returns 0 or TEPAL_ENOMEM: it stays where it is until there is room. */
static inline int move(tepal_loop *loop, uintptr_t run, void *argument) {
    if (run == TPI_POST_WORK) {
        tpi_ready_push(loop, argument);
    } else if (run != TPI_POST_NOTHING) {
        int code = tpi_ready_make_room(loop);
        if (code < 0) {
            return code;
        }
        tpi_ready_push_callback(loop, (tepal_callback)run, argument);
    }
    return 0;
}

/* Move what is there, up to the limit. Whether that was reached: not if a place is empty or memory is short. */
static bool take(tepal_loop *loop, const tpi_post *limit) {
    tpi_posts *posts = &loop->posts;
    tpi_post *place = posts->next;
    for (; place != limit; place++) {
        uintptr_t run = atomic_load_explicit(&place->run, memory_order_acquire);
        if (run == TPI_POST_EMPTY || move(loop, run, place->argument) < 0) {
            break;
        }
        atomic_store_explicit(&place->run, TPI_POST_EMPTY, memory_order_relaxed);
    }
    loop->stats.posts += (uint64_t)(place - posts->next);
    posts->next = place;
    return place == limit;
}

void tpi_posts_merge_some(tepal_loop *loop, size_t count) {
    tpi_posts *posts = &loop->posts;
    /* No further than this, or threads that post without end would keep us here. */
    tpi_post_chunk *last = atomic_load_explicit(&posts->current, memory_order_acquire);
    tpi_post *taken = taken_of(last, atomic_load_explicit(&last->tail, memory_order_relaxed));
    bool at_last;
    do {
        at_last = posts->chunk == last;
        tpi_post *limit = at_last ? taken : end_of(posts->chunk);
        size_t there = (size_t)(limit - posts->next);
        size_t wanted = there < count ? there : count;
        count -= wanted;
        if (!take(loop, posts->next + wanted) || posts->next != end_of(posts->chunk)) {
            return;
        }
        turn_over(loop);
    } while (!at_last && count > 0);
}

bool tpi_posts_coming(const tpi_posts *posts) {
    if (atomic_load(&posts->chunk->tail) == (uint64_t)(posts->next - posts->chunk->places)) {
        return false;
    }
    for (int left = LOOK_AGAIN; left > 0 && !tpi_posts_any(posts); left--) {
        atomic_signal_fence(memory_order_seq_cst);
    }
    return true;
}

/* Its end */

/* Work in a place that is taken must be told, so wait for it. */
static uintptr_t wait_for(const tpi_post *place) {
    uintptr_t run;
    while ((run = atomic_load_explicit(&place->run, memory_order_acquire)) == TPI_POST_EMPTY) {
        /* Not sched_yield: it would not let a thread of a lower priority go on. */
        nanosleep(&(struct timespec){.tv_nsec = 10000}, NULL);
    }
    return run;
}

void tpi_posts_close(tepal_loop *loop) {
    tpi_posts *posts = &loop->posts;
    pthread_mutex_lock(&posts->lock);
    posts->closed = true;
    tpi_post_chunk *last = atomic_load_explicit(&posts->current, memory_order_relaxed);
    tpi_post *taken = taken_of(last, atomic_exchange(&last->tail, last->size));
    pthread_mutex_unlock(&posts->lock);
    for (bool at_last = false; !at_last;) {
        at_last = posts->chunk == last;
        const tpi_post *limit = at_last ? taken : end_of(posts->chunk);
        for (; posts->next != limit; posts->next++) {
            if (wait_for(posts->next) == TPI_POST_WORK) {
                tpi_ready_push(loop, posts->next->argument);
            }
            atomic_store_explicit(&posts->next->run, TPI_POST_EMPTY, memory_order_relaxed);
            loop->stats.posts++;
        }
        if (posts->next == end_of(posts->chunk)) {
            turn_over(loop);
        }
    }
}

void tpi_posts_abandon(tepal_loop *loop) {
    tpi_posts_after_fork(loop);
    tpi_posts *posts = &loop->posts;
    posts->closed = true;
    tpi_post_chunk *last = atomic_load(&posts->current);
    atomic_store(&last->tail, last->size);
    for (tpi_post_chunk *chunk = posts->newest; chunk != NULL; chunk = chunk->older) {
        memset(chunk->places, 0, chunk->size * sizeof(tpi_post)); /* nothing looks like a post any more */
    }
    loop->ready.first = NULL;
}

/*
 * Here is one thread. The lock may be held, and places taken, by threads that do not exist; and since a fork copies
 * one page after another, a tail may be older than the places before it.
 */
void tpi_posts_after_fork(tepal_loop *loop) {
    tpi_posts *posts = &loop->posts;
    pthread_mutex_init(&posts->lock, NULL);
    tpi_post_chunk *last = posts->chunk;
    while (last->next != NULL) {
        last = last->next;
    }
    tpi_post *taken = taken_of(last, atomic_load(&last->tail));
    for (tpi_post *place = taken; place != end_of(last); place++) {
        if (atomic_load(&place->run) != TPI_POST_EMPTY) {
            taken = place + 1;
        }
    }
    atomic_store(&last->tail, (uint64_t)(taken - last->places));
    atomic_store(&posts->current, last);
    tpi_post *place = posts->next;
    for (tpi_post_chunk *chunk = posts->chunk; chunk != NULL; chunk = chunk->next) {
        for (; place != (chunk == last ? taken : end_of(chunk)); place++) {
            uintptr_t empty = TPI_POST_EMPTY;
            atomic_compare_exchange_strong(&place->run, &empty, TPI_POST_NOTHING);
        }
        place = chunk->next == NULL ? NULL : chunk->next->places;
    }
}

int tpi_posts_init(tepal_loop *loop) {
    tpi_posts *posts = &loop->posts;
    tpi_post_chunk *chunk = allocate(loop);
    if (chunk == NULL) {
        return TEPAL_ENOMEM;
    }
    pthread_mutex_init(&posts->lock, NULL); /* the default kind cannot fail */
    posts->chunk = chunk;
    posts->next = chunk->places;
    atomic_init(&posts->current, chunk);
    return 0;
}

void tpi_posts_free(tepal_loop *loop) {
    pthread_mutex_destroy(&loop->posts.lock);
    for (tpi_post_chunk *chunk = loop->posts.newest, *older; chunk != NULL; chunk = older) {
        older = chunk->older;
        tpi_free(loop->realloc, chunk);
    }
}
