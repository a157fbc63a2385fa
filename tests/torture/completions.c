/*
 * A kernel that does to the ring whatever it may (conformance/mischief.h), under programs whose models know what must
 * come of them: the scenes of the torture of system calls, connections at random, and programs that are told the same on
 * every driver. TEST_MISCHIEF=n begins with that seed.
 */
#include "conformance/mischief.h"
#include "torture/differential_program.h"
#include "torture/stage.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static uint64_t first_seed(void) {
    const char *text = getenv("TEST_MISCHIEF");
    return text == NULL ? 1 : strtoull(text, NULL, 0);
}

/* What is being played stands at the beginning of the test's output, where it is found after a crash, too. */
static void tell(const char *what, uint64_t seed) {
    char text[100];
    const int length = snprintf(text, sizeof text, "%-70s seed %llu\n", what, (unsigned long long)seed);

    if (pwrite(STDOUT_FILENO, text, (size_t)length, 0) < 0) {
        return; /* a terminal */
    }
}

static void play_scenes(const scene *scenes, unsigned kinds, int64_t rounds) {
    uint64_t seed = first_seed();

    (void)test_directory();
    for (int64_t round = 0; round < rounds; round++) {
        for (const scene *next = scenes; next->name != NULL; next++) {
            tell(next->name, seed);
            mischief_begin(seed, kinds);
            CHECK(!stage_play(next, NULL, false));
            seed += 1000;
        }
    }
    for (unsigned kind = 1; kind < 1u << MISCHIEF_KINDS; kind <<= 1) {
        CHECK(!(kinds & kind) || mischief_done(kind) > 0);
    }
}

TEST_DRIVERS(completions, in_any_order_serve_clients_as_well) {
    test_set_timeout(120);
    play_scenes(scenes_of_connections, MISCHIEF_ORDER, test_rounds(500, 10));
    play_scenes(scenes_of_connections, MISCHIEF_HARMLESS, test_rounds(500, 10));
}

TEST_DRIVERS(completions, in_any_order_keep_streams_in_theirs) {
    test_set_timeout(120);
    play_scenes(scenes_of_streams, MISCHIEF_ORDER, test_rounds(500, 10));
    play_scenes(scenes_of_streams, MISCHIEF_HARMLESS, test_rounds(500, 10));
}

TEST_DRIVERS(completions, in_any_order_bring_servers_about) {
    test_set_timeout(120);
    play_scenes(scenes_of_servers, MISCHIEF_ORDER, test_rounds(500, 10));
    play_scenes(scenes_of_servers, MISCHIEF_HARMLESS, test_rounds(500, 10));
}

TEST_DRIVERS(completions, in_any_order_run_a_loop) {
    test_set_timeout(120);
    play_scenes(scenes_of_loops, MISCHIEF_ORDER, test_rounds(500, 10));
    play_scenes(scenes_of_loops, MISCHIEF_ORDER | MISCHIEF_CANCELS, test_rounds(500, 10));
}

/* Where anything may fail for good, what must hold is what must hold whatever system call fails: system_calls.c. */
static void play_hard(const scene *scenes, int64_t rounds) {
    const fault never = {.call = CALL_accept4, .occurrence = 0, .error = EMFILE};
    uint64_t seed = first_seed();

    for (int64_t round = 0; round < rounds; round++) {
        for (const scene *next = scenes; next->name != NULL; next++, seed += 1000) {
            tell(next->name, seed);
            mischief_begin(seed, MISCHIEF_HARMLESS | MISCHIEF_HARD);
            CHECK(!stage_play(next, &never, true));
        }
    }
}

TEST_DRIVERS(completions, that_fail_for_good_end_connections_and_leave_nothing) {
    const int64_t rounds = test_rounds(500, 10);

    test_set_timeout(120);
    (void)test_directory();
    play_hard(scenes_of_connections, rounds);
    play_hard(scenes_of_streams, rounds);
    play_hard(scenes_of_servers, rounds);
    CHECK_GT(mischief_done(MISCHIEF_HARD), 0);
}

/* ---- Programs that are told the same ---- */

static char *run_on(const program *what, const char *driver) {
    tepal_loop_options options = what->loop;
    tepal_loop *loop;

    options.driver = driver;
    options.realloc = test_counting_alloc;
    CHECK_OK(tepal_loop_new(&loop, &options));
    char *told = differential_program_run(what, loop);
    tepal_loop_unref(loop);
    return told;
}

static void check_told(uint64_t number, const char *a, const char *b) {
    size_t at = 0, start = 0;

    while (a[at] != '\0' && a[at] == b[at]) {
        at++;
        start = a[at - 1] == '\n' ? at : start;
    }
    if (a[at] != b[at]) {
        test_fail(__FILE__, __LINE__, "program %llu is told otherwise:\n epoll: %.200s\n ring: %.200s",
                  (unsigned long long)number, a + start, b + start);
    }
}

static void try_programs(uint64_t count, bool relayed) {
    test_set_timeout(120);
    for (uint64_t number = first_seed(); number < first_seed() + count; number++) {
        program what;
        program_draw(&what, number, relayed, true);
        tell("program", number);
        char *plain = run_on(&what, "epoll");
        mischief_begin(number, what.is_whole ? MISCHIEF_HARMLESS & ~MISCHIEF_PARTS : MISCHIEF_HARMLESS);
        char *told = run_on(&what, test_driver());
        check_told(number, plain, told);
        free(plain);
        free(told);
    }
}

TEST_DRIVERS(completions, in_any_order_tell_a_program_the_same) {
    try_programs((uint64_t)test_rounds(10000, 300), false);
}

TEST_DRIVERS(completions, in_any_order_tell_a_program_the_same_through_relays) {
    try_programs((uint64_t)test_rounds(10000, 300), true);
}
