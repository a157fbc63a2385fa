/*
 * What other threads post to a loop: one queue for callbacks and work, many writers and one reader (posts.c).
 */
#ifndef TPI_POSTS_H
#define TPI_POSTS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <tepal/loop.h>

enum {
    TPI_FIRST_CHUNK = 256, /* places; each new chunk has twice as many as the one before, up to the most */
    TPI_LARGEST_CHUNK = 4096,
    TPI_CACHE_LINE = 64, /* what threads that do different things should not share */
};

/* One place in the queue. */
typedef struct tpi_post {
    _Atomic(uintptr_t) run; /* a tepal_callback, or one of the marks below; written last, and 0 says empty */
    void *argument;
} tpi_post;

enum {
    TPI_POST_EMPTY = 0,
    TPI_POST_WORK = 1,    /* argument is a tepal_work */
    TPI_POST_NOTHING = 2, /* who took the place went away in a fork */
};

/*
 * A stretch of the queue. Who posts takes the next place by adding to tail; a number past the end says that the chunk
 * is full. Once read it is used again, and its memory stays until the loop's goes, since a thread that was held up may
 * still add to the tail of a chunk that it saw long ago.
 */
typedef struct tpi_post_chunk {
    struct tpi_post_chunk *older; /* all that were ever allocated */
    struct tpi_post_chunk *next;  /* in the queue, or in the spare ones */
    tepal_work *after;            /* work that found the chunk full and no spare one: it comes behind the last place */
    tepal_work **after_end;       /* undefined while after is NULL */
    char apart[TPI_CACHE_LINE];
    _Atomic(uint64_t) tail; /* places taken */
    uint64_t size;          /* places there are; who posts has this line at hand */
    char apart_too[TPI_CACHE_LINE];
    tpi_post places[];
} tpi_post_chunk;

typedef struct tpi_posts {
    char apart[TPI_CACHE_LINE];
    /* Read by who posts. */
    _Atomic(tpi_post_chunk *) current; /* the last one of the queue */
    atomic_bool sleeping;              /* the loop waits, or is about to, and nobody has undertaken to wake it */
    char apart_too[TPI_CACHE_LINE];
    /* The loop thread's. */
    tpi_post *next; /* the place to read */
    tpi_post_chunk *chunk;
    /* Under the lock, which is taken once a chunk. */
    pthread_mutex_t lock;
    tpi_post_chunk *spare;
    tpi_post_chunk *newest; /* of all chunks */
    bool closed;
} tpi_posts;

/* Returns 0 or TEPAL_ENOMEM. */
int tpi_posts_init(tepal_loop *loop);
/* With the loop's memory: no thread may be posting any more. */
void tpi_posts_free(tepal_loop *loop);

/* Move what was posted to the ready queue, but no more than so many callbacks and works in places. */
void tpi_posts_merge_some(tepal_loop *loop, size_t count);

/* Post a work whose state says so already. Needs no memory. Returns 0 or TEPAL_ECLOSED. */
int tpi_posts_add_work(tepal_loop *loop, tepal_work *work);

/* Whether the next post is there to be merged. One that is still being written is not. */
static inline bool tpi_posts_any(const tpi_posts *posts) {
    return atomic_load_explicit(&posts->next->run, memory_order_relaxed) != TPI_POST_EMPTY;
}

/*
 * Whether a thread has taken a place; waits a moment for it to fill it. Asked once posts->sleeping is set: a thread
 * that takes its place later will see that.
 */
bool tpi_posts_coming(const tpi_posts *posts);

/* Take nothing any more: posted work moves to the ready queue, posted callbacks vanish. */
void tpi_posts_close(tepal_loop *loop);
/* The same in a forked child, where nothing of the queue runs. */
void tpi_posts_abandon(tepal_loop *loop);
/* In a child that goes on: what the parent's threads were doing to the queue will not be finished. */
void tpi_posts_after_fork(tepal_loop *loop);

#endif
