/* Tepal's timers with many pending: stop + start of one chosen at random, and re-arming one idle timeout.
 * `--pending N` says how many are pending (1,000,000). Two JSON lines. As with libuv, whose clock stands still
 * between turns, deadlines count from the time of the turn. */
#include <tepal.h>

#include "../micro/micro.h"

static tepal_loop *loop;

static void on_timer(tepal_work *work, int status) {
    (void)work;
    if (status == 0)
        abort(); /* every delay is longer than the measurement */
}

static int64_t after_ms(uint32_t delay_ms) {
    return tepal_loop_turn_time(loop) + TEPAL_MS(delay_ms);
}

static void start_all(tepal_timer *timers, uint32_t pending, micro_random *random) {
    for (uint32_t index = 0; index < pending; index++) {
        timers[index].work.run = on_timer;
        tepal_timer_start(loop, &timers[index], after_ms(micro_timer_delay_ms(random)));
    }
}

static void stop_and_start(tepal_timer *timers, uint32_t pending, micro_random *random) {
    uint64_t cpu = micro_cpu_ns(), start = micro_now_ns();
    for (uint32_t index = 0; index < TIMER_OPERATIONS; index++) {
        tepal_timer *timer = &timers[micro_random_below(random, pending)];
        tepal_timer_stop(loop, timer);
        tepal_timer_start(loop, timer, after_ms(micro_timer_delay_ms(random)));
    }
    uint64_t wall = micro_now_ns() - start;
    micro_report("timer_restart", "tepal", TIMER_OPERATIONS, wall, micro_cpu_ns() - cpu);
}

static void rearm(void) {
    tepal_timer idle = {.work.run = on_timer};
    tepal_timer_start(loop, &idle, after_ms(micro_rearm_delay_ms(0)));
    uint64_t cpu = micro_cpu_ns(), start = micro_now_ns();
    for (uint32_t index = 0; index < REARM_OPERATIONS; index++)
        tepal_timer_start(loop, &idle, after_ms(micro_rearm_delay_ms(index)));
    uint64_t wall = micro_now_ns() - start;
    micro_report("timer_rearm", "tepal", REARM_OPERATIONS, wall, micro_cpu_ns() - cpu);
    tepal_timer_stop(loop, &idle);
}

int main(int argc, char **argv) {
    uint32_t pending = micro_option(argc, argv, "--pending", 1000000);
    tepal_timer *timers = calloc(pending, sizeof *timers);
    if (timers == NULL || pending == 0 || tepal_loop_new(&loop, NULL) < 0)
        return 1;
    micro_random random = micro_random_start();
    start_all(timers, pending, &random);
    stop_and_start(timers, pending, &random);
    rearm();
    tepal_loop_close(loop);
    tepal_loop_unref(loop);
    free(timers);
    return 0;
}
