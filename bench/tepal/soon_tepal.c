/* Tepal's call_soon against the ring written by hand: the same turns of the same thousand callbacks. */
#include <tepal.h>

#include "../micro/micro.h"

static tepal_loop *loop;
static uint64_t runs;
static uint32_t turns;

static void post(tepal_callback run, void *argument) {
    if (tepal_loop_call_soon(loop, run, argument, NULL) < 0)
        abort();
}

static void count_run(void *argument) {
    (*(uint64_t *)argument)++;
}

static void fill_turn(void *argument) {
    uint32_t *left = argument;
    if (--*left == 0) {
        tepal_loop_stop(loop);
        return;
    }
    for (unsigned index = 0; index < SOON_PER_TURN; index++)
        post(count_run, &runs);
    post(fill_turn, left);
}

static void run_turns(uint32_t count) {
    turns = count + 1;
    post(fill_turn, &turns);
    if (tepal_loop_run_forever(loop) < 0)
        abort();
}

int main(void) {
    if (tepal_loop_new(&loop, NULL) < 0)
        return 1;
    run_turns(SOON_WARM_UP_TURNS);
    runs = 0;
    uint64_t cpu = micro_cpu_ns(), start = micro_now_ns();
    run_turns(SOON_TURNS);
    uint64_t wall = micro_now_ns() - start;
    cpu = micro_cpu_ns() - cpu;
    if (runs != (uint64_t)SOON_TURNS * SOON_PER_TURN)
        abort();
    micro_report("soon", "tepal", runs, wall, cpu);
    tepal_loop_close(loop);
    tepal_loop_unref(loop);
    return 0;
}
