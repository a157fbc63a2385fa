/* Calls posted to a Tepal loop from other threads with tepal_loop_call_soon_threadsafe. `--threads N` says how many
 * threads post (1). One JSON line; an operation is one callback run. */
#include <pthread.h>
#include <tepal.h>

#include "../micro/micro.h"

static tepal_loop *loop;
static pthread_barrier_t ready;
static uint64_t runs, wanted;

static void count_run(void *argument) {
    if (++*(uint64_t *)argument == wanted)
        tepal_loop_stop(loop);
}

static void *produce(void *unused) {
    (void)unused;
    pthread_barrier_wait(&ready);
    for (uint32_t index = 0; index < POSTS_PER_THREAD; index++) {
        if (tepal_loop_call_soon_threadsafe(loop, count_run, &runs) < 0)
            abort();
    }
    return NULL;
}

int main(int argc, char **argv) {
    uint32_t count = micro_option(argc, argv, "--threads", 1);
    if (count == 0 || count > 64 || tepal_loop_new(&loop, NULL) < 0)
        return 1;
    wanted = (uint64_t)count * POSTS_PER_THREAD;
    pthread_barrier_init(&ready, NULL, count + 1);
    pthread_t threads[64];
    for (uint32_t index = 0; index < count; index++) {
        if (pthread_create(&threads[index], NULL, produce, NULL) != 0)
            return 1;
    }
    uint64_t cpu = micro_cpu_ns(), start = micro_now_ns();
    pthread_barrier_wait(&ready);
    if (tepal_loop_run_forever(loop) < 0)
        abort();
    uint64_t wall = micro_now_ns() - start;
    for (uint32_t index = 0; index < count; index++)
        pthread_join(threads[index], NULL);
    micro_report("post", "tepal", wanted, wall, micro_cpu_ns() - cpu);
    tepal_loop_close(loop);
    tepal_loop_unref(loop);
    return 0;
}
