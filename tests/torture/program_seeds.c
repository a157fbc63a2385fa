/*
 * Seeds of the random program: each a network, hosts and what they do, checked against the model in program.h. A test
 * that fails says the seed; TEPAL_SIM_SEED=n runs that one alone, TEST_TRACE=1 prints what happens, TEST_COUNTS=1 how often
 * each act was done.
 */
#include "torture/program.h"

#include <stdio.h>
#include <stdlib.h>

enum { PARTS = 8 };

static void print_counts(void) {
    if (getenv("TEST_COUNTS") == NULL) {
        return;
    }
    for (int i = 0; act_name(i) != NULL; i++) {
        printf("%-14s %llu\n", act_name(i), (unsigned long long)act_counts[i]);
    }
}

/* Whether the environment asks for one seed, which the first test here runs. */
static const char *asked_for(void) {
    const char *text = getenv("TEPAL_SIM_SEED");
    return text == NULL || *text == '\0' ? NULL : text;
}

static void skip_if_one_is_asked_for(void) {
    if (asked_for() != NULL) {
        SKIP("TEPAL_SIM_SEED asks for one seed: program/one_seed_holds_to_the_model runs it");
    }
}

/* The seeds from 1 on are dealt out to tests that run beside each other. */
static void run_part(uint64_t part) {
    skip_if_one_is_asked_for();
    const uint64_t count = (uint64_t)test_rounds(100000 / PARTS, 2000 / PARTS);
    program_result result;

    test_set_timeout(3600);
    for (uint64_t i = 0; i < count; i++) {
        program_run(1 + PARTS * i + part, &result);
    }
    print_counts();
}

TEST(program, one_seed_holds_to_the_model) {
    program_result result;

    program_run(asked_for() == NULL ? 20121220 : strtoull(asked_for(), NULL, 0), &result);
    print_counts();
}

TEST(program, holds_to_the_model_part_1) {
    run_part(0);
}

TEST(program, holds_to_the_model_part_2) {
    run_part(1);
}

TEST(program, holds_to_the_model_part_3) {
    run_part(2);
}

TEST(program, holds_to_the_model_part_4) {
    run_part(3);
}

TEST(program, holds_to_the_model_part_5) {
    run_part(4);
}

TEST(program, holds_to_the_model_part_6) {
    run_part(5);
}

TEST(program, holds_to_the_model_part_7) {
    run_part(6);
}

TEST(program, holds_to_the_model_part_8) {
    run_part(7);
}

/* The same seed gives the same run: every line of the trace, and every byte of it. */
static void run_twice(uint64_t part) {
    skip_if_one_is_asked_for();
    const uint64_t count = (uint64_t)test_rounds(500, 500);
    program_result first, second;

    test_set_timeout(3600);
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t seed = 1000001 + 2 * i + part;
        program_run(seed, &first);
        program_run(seed, &second);
        CHECK_EQ(first.length, second.length);
        CHECK_EQ(first.trace, second.trace);
        CHECK_EQ(first.hash, second.hash);
        CHECK_EQ(first.events, second.events);
    }
}

TEST(program, the_same_seed_gives_the_same_run_part_1) {
    run_twice(0);
}

TEST(program, the_same_seed_gives_the_same_run_part_2) {
    run_twice(1);
}
