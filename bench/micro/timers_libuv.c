/* libuv's timers with many pending: stop + start of one chosen at random, and re-arming one idle timeout.
 * `--pending N` says how many are pending (1,000,000). Two JSON lines. */
#include <uv.h>

#include "micro.h"

static void on_timer(uv_timer_t *timer) {
    (void)timer;
    abort(); /* every delay is longer than the measurement */
}

static void start_all(uv_loop_t *loop, uv_timer_t *timers, uint32_t pending, micro_random *random) {
    for (uint32_t index = 0; index < pending; index++) {
        uv_timer_init(loop, &timers[index]);
        uv_timer_start(&timers[index], on_timer, micro_timer_delay_ms(random), 0);
    }
}

static void stop_and_start(uv_timer_t *timers, uint32_t pending, micro_random *random) {
    uint64_t cpu = micro_cpu_ns(), start = micro_now_ns();
    for (uint32_t index = 0; index < TIMER_OPERATIONS; index++) {
        uv_timer_t *timer = &timers[micro_random_below(random, pending)];
        uv_timer_stop(timer);
        uv_timer_start(timer, on_timer, micro_timer_delay_ms(random), 0);
    }
    uint64_t wall = micro_now_ns() - start;
    micro_report("timer_restart", "libuv", TIMER_OPERATIONS, wall, micro_cpu_ns() - cpu);
}

/* uv_timer_start on an active timer stops it first: the documented way to push a timeout back. */
static void rearm(uv_loop_t *loop) {
    uv_timer_t idle;
    uv_timer_init(loop, &idle);
    uv_timer_start(&idle, on_timer, micro_rearm_delay_ms(0), 0);
    uint64_t cpu = micro_cpu_ns(), start = micro_now_ns();
    for (uint32_t index = 0; index < REARM_OPERATIONS; index++)
        uv_timer_start(&idle, on_timer, micro_rearm_delay_ms(index), 0);
    uint64_t wall = micro_now_ns() - start;
    micro_report("timer_rearm", "libuv", REARM_OPERATIONS, wall, micro_cpu_ns() - cpu);
    uv_timer_stop(&idle);
}

int main(int argc, char **argv) {
    uint32_t pending = micro_option(argc, argv, "--pending", 1000000);
    uv_loop_t *loop = uv_default_loop();
    uv_timer_t *timers = calloc(pending, sizeof *timers);
    if (timers == NULL || pending == 0)
        return 1;
    micro_random random = micro_random_start();
    start_all(loop, timers, pending, &random);
    stop_and_start(timers, pending, &random);
    rearm(loop);
    return 0; /* the process ends with its timers: closing a million handles is not what is measured */
}
