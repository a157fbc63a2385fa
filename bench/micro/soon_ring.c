/* The limit for call_soon: a ring of indirect calls written by hand. A turn runs what the ring held when the turn
 * began; one of those callbacks posts the thousand of the next turn, and itself. */
#include <stdbool.h>

#include "micro.h"

typedef struct call {
    void (*run)(void *);
    void *argument;
} call;

static call *ring;
static uint32_t room, head, tail; /* head and tail run on; the place is the number modulo the room */
static uint64_t runs;
static uint32_t turns;

/* Doubles the ring as a real one would have to; out of the way of a post that finds room. */
static __attribute__((noinline)) void grow(void) {
    uint32_t larger = room == 0 ? 64 : room * 2;
    call *next = malloc(larger * sizeof *next);
    if (next == NULL)
        abort();
    for (uint32_t at = head; at != tail; at++)
        next[at & (larger - 1)] = ring[at & (room - 1)];
    free(ring);
    ring = next;
    room = larger;
}

static inline void post(void (*run)(void *), void *argument) {
    if (__builtin_expect(tail - head == room, 0))
        grow();
    ring[tail++ & (room - 1)] = (call){run, argument};
}

static void run_ready(void) {
    uint32_t mark = tail;
    while (head != mark) {
        call next = ring[head++ & (room - 1)];
        next.run(next.argument);
    }
}

static void count_run(void *argument) {
    (*(uint64_t *)argument)++;
}

static void fill_turn(void *argument) {
    uint32_t *left = argument;
    if (--*left == 0)
        return;
    for (unsigned index = 0; index < SOON_PER_TURN; index++)
        post(count_run, &runs);
    post(fill_turn, left);
}

static void run_turns(uint32_t count) {
    turns = count + 1;
    post(fill_turn, &turns);
    while (head != tail)
        run_ready();
}

int main(void) {
    run_turns(SOON_WARM_UP_TURNS);
    runs = 0;
    uint64_t cpu = micro_cpu_ns(), start = micro_now_ns();
    run_turns(SOON_TURNS);
    uint64_t wall = micro_now_ns() - start;
    cpu = micro_cpu_ns() - cpu;
    if (runs != (uint64_t)SOON_TURNS * SOON_PER_TURN)
        abort();
    micro_report("soon", "ring", runs, wall, cpu);
    free(ring);
    return 0;
}
