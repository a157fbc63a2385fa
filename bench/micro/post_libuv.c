/* Calls posted to a libuv loop from other threads, as libuv's guide does it: a queue under a mutex and uv_async_send
 * for each post. `--threads N` says how many threads post (1); `--nodes 1` makes the queue a list of allocated nodes,
 * the common way, instead of two arrays, the fast one. One JSON line; an operation is one callback run. */
#include <pthread.h>
#include <stdbool.h>
#include <uv.h>

#include "micro.h"

typedef struct call {
    void (*run)(void *);
    void *argument;
} call;

/* Two arrays, exchanged by the loop under the lock: no allocation a post, and the lock is held for a few
 * instructions. As fast as a locked queue gets, but only for calls that are never cancelled. */
typedef struct queue {
    call *calls;
    size_t length, room;
} queue;

typedef struct node {
    struct node *next;
    call call;
} node;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t ready;
static queue filling, running;
static node *first, **last = &first;
static bool with_nodes;
static uv_async_t wake;
static uint64_t runs, wanted;

static void post_array(void (*run)(void *), void *argument) {
    pthread_mutex_lock(&lock);
    if (filling.length == filling.room) {
        filling.room = filling.room == 0 ? 1024 : filling.room * 2;
        filling.calls = realloc(filling.calls, filling.room * sizeof *filling.calls);
        if (filling.calls == NULL)
            abort();
    }
    filling.calls[filling.length++] = (call){run, argument};
    pthread_mutex_unlock(&lock);
    uv_async_send(&wake);
}

static void post_node(void (*run)(void *), void *argument) {
    node *added = malloc(sizeof *added);
    if (added == NULL)
        abort();
    *added = (node){NULL, {run, argument}};
    pthread_mutex_lock(&lock);
    *last = added;
    last = &added->next;
    pthread_mutex_unlock(&lock);
    uv_async_send(&wake);
}

static void run_array(void) {
    pthread_mutex_lock(&lock);
    queue taken = filling;
    filling = running;
    filling.length = 0;
    pthread_mutex_unlock(&lock);
    for (size_t index = 0; index < taken.length; index++)
        taken.calls[index].run(taken.calls[index].argument);
    running = taken;
}

static void run_nodes(void) {
    pthread_mutex_lock(&lock);
    node *taken = first;
    first = NULL;
    last = &first;
    pthread_mutex_unlock(&lock);
    while (taken != NULL) {
        node *next = taken->next;
        taken->call.run(taken->call.argument);
        free(taken);
        taken = next;
    }
}

static void count_run(void *argument) {
    (*(uint64_t *)argument)++;
}

static void on_wake(uv_async_t *handle) {
    if (with_nodes)
        run_nodes();
    else
        run_array();
    if (runs == wanted)
        uv_stop(handle->loop);
}

static void *produce(void *unused) {
    (void)unused;
    void (*post)(void (*)(void *), void *) = with_nodes ? post_node : post_array;
    pthread_barrier_wait(&ready);
    for (uint32_t index = 0; index < POSTS_PER_THREAD; index++)
        post(count_run, &runs);
    return NULL;
}

int main(int argc, char **argv) {
    uint32_t count = micro_option(argc, argv, "--threads", 1);
    if (count == 0 || count > 64)
        return 1;
    with_nodes = micro_option(argc, argv, "--nodes", 0) != 0;
    uv_loop_t *loop = uv_default_loop();
    uv_async_init(loop, &wake, on_wake);
    wanted = (uint64_t)count * POSTS_PER_THREAD;
    pthread_barrier_init(&ready, NULL, count + 1);
    pthread_t threads[64];
    for (uint32_t index = 0; index < count; index++) {
        if (pthread_create(&threads[index], NULL, produce, NULL) != 0)
            return 1;
    }
    uint64_t cpu = micro_cpu_ns(), start = micro_now_ns();
    pthread_barrier_wait(&ready);
    uv_run(loop, UV_RUN_DEFAULT);
    uint64_t wall = micro_now_ns() - start;
    for (uint32_t index = 0; index < count; index++)
        pthread_join(threads[index], NULL);
    micro_report("post", with_nodes ? "libuv, list of nodes" : "libuv, two arrays", wanted, wall, micro_cpu_ns() - cpu);
    return 0;
}
