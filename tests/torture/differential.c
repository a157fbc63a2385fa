/*
 * The same program on every driver, told the same: whatever carries the bytes, each connection, each callback, timer and
 * future hears the same things in the same order. How bytes are split is left out, and pause_writing and resume_writing,
 * which depend on the kernel's buffers; so are addresses.
 *
 * DIFFERENTIAL_PROGRAM=n runs that program alone and prints what was told; TEST_SEED draws others.
 */
#include "harness/internal.h" /* for the table of drivers */
#include "torture/differential_program.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <tepal/sim.h>
#include <unistd.h>

enum { DIFFERENCE = 700, SEEDS = 3 /* of the simulator's, for each program */ };

/* On a loop of this driver. */
static char *run_on_driver(const program *what, const char *driver) {
    tepal_loop_options options = what->loop;
    tepal_loop *loop;
    options.driver = driver;
    options.realloc = test_counting_alloc;
    CHECK_OK(tepal_loop_new(&loop, &options));
    char *told = differential_program_run(what, loop);
    tepal_loop_unref(loop);
    return told;
}

static char *run_on_simulator_alone(const program *what, uint64_t seed) {
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)seed);
    CHECK_EQ(setenv("TEPAL_SIM_SEED", text, 1), 0);
    char *told = run_on_driver(what, "sim");
    CHECK_EQ(unsetenv("TEPAL_SIM_SEED"), 0);
    return told;
}

/* Never, now and then, or almost always. */
static void slow_down(tepal_sim *sim, const char *rate) {
    static const char *const chances[] = {"0", "0.05", "0.3", "0.9"};
    char script[40];
    snprintf(script, sizeof script, "rate %s %s", rate, chances[tepal_sim_random(sim) % 4]);
    CHECK_OK(tepal_sim_fault(sim, script));
}

/* On a host of a network in which much goes slowly and in pieces, and nothing wrong. */
static char *run_on_simulated_host(const program *what, uint64_t seed) {
    tepal_loop_options options = what->loop;
    tepal_sim *sim;
    tepal_loop *loop;
    options.realloc = test_counting_alloc;
    CHECK_OK(tepal_sim_new(&sim, TEPAL_OPTIONS(tepal_sim_options, .seed = seed, .realloc = test_counting_alloc)));
    CHECK_OK(tepal_sim_add_host(sim, "host", &options, &loop));
    slow_down(sim, "split");
    slow_down(sim, "late");
    slow_down(sim, "delay");
    if (!what->is_whole) {
        slow_down(sim, "short");
    }
    char *told = differential_program_run(what, loop);
    if (tepal_sim_failure(sim) != NULL) {
        test_fail(__FILE__, __LINE__, "program %llu: %s", (unsigned long long)what->number, tepal_sim_failure(sim));
    }
    tepal_sim_free(sim);
    return told;
}

/* ---- Comparing ---- */

static char *show(const char *name, char *told) {
    if (getenv("DIFFERENTIAL_PROGRAM") != NULL) {
        fprintf(stderr, "--- %s\n%s", name, told);
    }
    return told;
}

static const char *line_at(const char *text, int number) {
    for (; number > 0 && text != NULL; number--) {
        text = strchr(text, '\n');
        text = text == NULL ? NULL : text + 1;
    }
    return text;
}

static int length_of_line(const char *line) {
    return line == NULL ? 0 : (int)strcspn(line, "\n");
}

/* The last line up to this one that is the name of a story. */
static const char *name_before(const char *text, int number) {
    const char *name = NULL;
    for (int i = 0; i <= number; i++) {
        const char *line = line_at(text, i);
        if (line != NULL && *line != ' ' && *line != '\0') {
            name = line;
        }
    }
    return name;
}

/* The first line that differs, with those around it. */
static void describe(char *into, size_t size, const char *a_name, const char *a, const char *b_name, const char *b) {
    int at = 0, used;
    while (a[0] != '\0' && strncmp(line_at(a, at), line_at(b, at), (size_t)length_of_line(line_at(a, at)) + 1) == 0) {
        at++;
    }
    const char *name = name_before(a, at);
    used = snprintf(into, size, "in \"%.*s\":", length_of_line(name), name == NULL ? "" : name);
    for (int i = 0; i < 2; i++) {
        used += snprintf(into + used, size - (size_t)used, "\n %s:", i == 0 ? a_name : b_name);
        for (int n = at < 2 ? 0 : at - 2; n < at + 4 && (size_t)used < size - 80; n++) {
            const char *line = line_at(i == 0 ? a : b, n);
            if (line == NULL) {
                break;
            }
            const int length = length_of_line(line);
            used += snprintf(into + used, size - (size_t)used, "\n  %c%.*s", n == at ? '>' : ' ',
                             length < 60 ? length : 60, line);
        }
    }
}

static void compare(const program *what, const char *a_name, const char *a, const char *b_name, char *b) {
    char difference[DIFFERENCE];
    (void)show(b_name, b);
    if (strcmp(a, b) != 0) {
        describe(difference, sizeof difference, a_name, a, b_name, b);
        test_fail(__FILE__, __LINE__, "program %llu is told otherwise, %s", (unsigned long long)what->number,
                  difference);
    }
    free(b);
}

/* What no program should be told, even where all drivers agree on it. */
static void check(const program *what, const char *told) {
    static const char *const wrong[] = {"reports\n",         " unexpected\n", "gone meanwhile\n",
                                        "another address\n", "write: ",       "echo: "};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const char *found = strstr(told, wrong[i]);
        if (found != NULL) {
            test_fail(__FILE__, __LINE__, "program %llu is told this: %.300s", (unsigned long long)what->number, found);
        }
    }
}

static bool has_inet6(void) {
    const struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    const int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool has = fd >= 0 && bind(fd, (const struct sockaddr *)&address, sizeof address) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return has;
}

static void try_program(uint64_t number, bool relayed, bool inet6) {
    char name[64];
    program what;
    program_draw(&what, number, relayed, inet6);
    char *first = show(test_driver_table[0], run_on_driver(&what, test_driver_table[0]));
    check(&what, first);
    for (size_t i = 1; test_driver_table[i] != NULL; i++) {
        if (strcmp(test_driver_table[i], "sim") != 0) {
            compare(&what, test_driver_table[0], first, test_driver_table[i],
                    run_on_driver(&what, test_driver_table[i]));
        }
    }
    for (uint64_t seed = number + 1; seed <= number + SEEDS; seed++) {
        snprintf(name, sizeof name, "sim with seed %llu", (unsigned long long)seed);
        compare(&what, test_driver_table[0], first, name, run_on_simulator_alone(&what, seed));
        snprintf(name, sizeof name, "sim with faults and seed %llu", (unsigned long long)seed);
        compare(&what, test_driver_table[0], first, name, run_on_simulated_host(&what, seed));
    }
    free(first);
}

static void try_programs(int64_t count, bool relayed) {
    const char *only = getenv("DIFFERENTIAL_PROGRAM");
    const bool inet6 = has_inet6();
    test_set_timeout(3600);
    CHECK_EQ(unsetenv("TEPAL_SIM_SEED"), 0);
    if (only != NULL) {
        try_program(strtoull(only, NULL, 10), relayed, inet6);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        try_program((uint64_t)i, relayed, inet6);
    }
}

TEST(differential, a_program_without_races_is_told_the_same_on_every_driver) {
    try_programs(test_rounds(10000, 300), false);
}

TEST(differential, a_program_that_goes_through_relays_is_told_the_same_on_every_driver) {
    try_programs(test_rounds(10000, 300), true);
}
