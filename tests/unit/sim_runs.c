/* Scripts, traces, and runs that can be had again: by their seed, to the byte. */
#include "unit/sim_fixture.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* Scripts */

TEST(sim_runs, statements_wait_for_their_time) {
    network net = {0};
    network_open(&net, 1);
    network_fault(&net, "at 5s refuse server; at 7.5s serve server\n\n; ;");
    CHECK_OK(network_dial(&net, "server"));
    network_pass(&net, TEPAL_SEC(6));
    CHECK_EQ(network_dial(&net, "server"), TEPAL_SYSTEM(ECONNREFUSED));
    network_pass(&net, TEPAL_SEC(2));
    CHECK_OK(network_dial(&net, "server"));
    network_close(&net);
}

TEST(sim_runs, every_statement_can_wait_for_its_time) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    network_fault(&net,
                  "at 1s latency client server 5s 5s; at 1s bandwidth client server 1; at 1s reset server client 0");
    network_pass(&net, TEPAL_SEC(2));
    network_write(net.connected, 10);
    network_pass(&net, TEPAL_SEC(14));
    CHECK_EQ(net.accepted->received, 0); /* 10 s for its bytes, and 5 s on its way */
    network_pass(&net, TEPAL_SEC(2));
    CHECK_EQ(net.accepted->received, 10);
    network_write(net.accepted, 1);
    network_pass(&net, TEPAL_SEC(1));
    CHECK_EQ(net.connected->lost_code, TEPAL_SYSTEM(ECONNRESET));
    network_close(&net);
}

TEST(sim_runs, what_is_no_statement_is_refused_with_its_place_and_nothing_is_done) {
    static const char *const bad[] = {
        "flood server",
        "latency client server 1ms",
        "latency client server 2ms 1ms",
        "latency client server 1 2",
        "partition client",
        "partition client nobody",
        "at 5 calm",
        "at 5s",
        "at",
        "rate split",
        "rate split 1.1",
        "rate split -1",
        "rate splat 0.5",
        "stall server",
        "stall server 5",
        "stall server 1.1e9s",
        "descriptors server x",
        "calm now",
        "reset client server 5 6",
        "refuse",
        "at 1s at 2s calm",
        "latency client server 1ms 2ms 3ms 4ms",
        "partition averyveryverylongnamewhichisnohostsname server",
    };
    network net = {0};
    network_open(&net, 1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char script[128];
        (void)snprintf(script, sizeof script, "refuse server; %s", bad[i]);
        CHECK_EQ(tepal_sim_fault(net.sim, script), TEPAL_EINVAL);
        CHECK(strstr(tepal_sim_failure(net.sim), "statement 2") != NULL);
    }
    CHECK_OK(network_dial(&net, "server")); /* it was not refused */
    CHECK_OK(tepal_sim_fault(net.sim, ""));
    CHECK_OK(tepal_sim_fault(net.sim, " # only a comment"));
    network_close(&net);
}

TEST(sim_runs, numbers_are_read_whatever_the_locale_says_of_decimal_points) {
    network net = {0};
    network_open(&net, 1);
    network_fault(&net, "latency client server 1.5ms .0015s; at 1e2s calm; rate split 0.125; rate late 1.");
    CHECK_EQ(tepal_sim_fault(net.sim, "rate split 0,5"), TEPAL_EINVAL);
    CHECK_EQ(tepal_sim_fault(net.sim, "rate split ."), TEPAL_EINVAL);
    CHECK_EQ(tepal_sim_fault(net.sim, "at 2e9s calm"), TEPAL_EINVAL);
    network_close(&net);
}

TEST(sim_runs, a_star_means_every_host_and_pairs_of_different_ones) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    network_fault(&net, "reset * *");
    network_pass(&net, TEPAL_SEC(1));
    CHECK_EQ(net.connected->losts, 1);
    network_fault(&net, "refuse *");
    CHECK_EQ(network_dial(&net, "server"), TEPAL_SYSTEM(ECONNREFUSED));
    network_close(&net);
}

/* The same seed gives the same run to the byte */

static uint64_t run_with_chance(uint64_t seed, char **trace) {
    network net = {.server_echoes = true};
    network_open(&net, seed);
    network_fault(&net, "random; at 300ms partition client server; at 2s heal * *; at 3s jump client 1s; at 4s calm");
    for (int i = 0; i < 3; i++) {
        (void)network_dial(&net, i == 1 ? "10.0.0.1" : "server");
        if (net.connected != NULL && net.connected->transport != NULL &&
            !tepal_transport_is_closing(net.connected->transport)) {
            network_write(net.connected, 1 + (size_t)(tepal_sim_random(net.sim) % 3000));
        }
    }
    for (net_end *end = net.newest; end != NULL; end = end->next) {
        if (end->transport != NULL) {
            tepal_transport_close(end->transport);
        }
    }
    CHECK_OK(tepal_sim_run(net.sim, TEPAL_SEC(2000)));
    tepal_sim_stats stats = {.size = sizeof stats};
    CHECK_OK(tepal_sim_get_stats(net.sim, &stats));
    *trace = strdup(net.trace);
    CHECK(*trace != NULL);
    network_close(&net);
    return stats.hash;
}

TEST(sim_runs, a_thousand_seeds_give_the_same_trace_to_the_byte_when_run_again) {
    test_set_timeout(120);
    const uint64_t count = test_is_slow_build() ? 50 : 1000;
    CHECK_EQ(unsetenv("TEPAL_SIM_SEED"), 0);
    uint64_t different = 0, last = 0;
    for (uint64_t seed = 1; seed <= count; seed++) {
        char *first, *second;
        const uint64_t hash = run_with_chance(seed, &first);
        CHECK_EQ(run_with_chance(seed, &second), hash);
        CHECK_STR(first, second);
        different += hash != last;
        last = hash;
        free(first);
        free(second);
    }
    CHECK_EQ(different, count); /* and each seed is another run */
}

TEST(sim_runs, the_trace_has_a_line_for_each_event_with_hosts_as_columns) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    const char *server = strstr(net.trace, "| server: "), *client = strstr(net.trace, "| client: ");
    CHECK(server != NULL);
    CHECK(client != NULL);
    const char *line = client;
    while (line > net.trace && line[-1] != '\n') {
        line--;
    }
    CHECK_EQ(client - line, (server - net.trace) + 30);
    network_fault(&net, " latency  client\tserver 1ms 2ms; calm");
    CHECK(strstr(net.trace, "| network: latency client server 1ms 2ms\n") != NULL);
    CHECK(strstr(net.trace, "| network: calm\n") != NULL); /* and no blanks at its end */
    tepal_sim_stats stats = {.size = sizeof stats};
    CHECK_OK(tepal_sim_get_stats(net.sim, &stats));
    CHECK_EQ(stats.events, net.lines);
    stats.size = 1;
    CHECK_EQ(tepal_sim_get_stats(net.sim, &stats), TEPAL_EINVAL);
    network_close(&net);
}

/* A line begins with the network's time, to the nanosecond. */
static void compare_time(void *argument, const char *line) {
    const tepal_sim *sim = *(tepal_sim **)argument;
    int64_t seconds, rest;
    CHECK_EQ(sscanf(line, "%" SCNd64 ".%9" SCNd64, &seconds, &rest), 2);
    CHECK_EQ(seconds * 1000000000 + rest, sim == NULL ? 0 : tepal_sim_time(sim));
}

TEST(sim_runs, each_line_of_the_trace_has_the_networks_time) {
    tepal_sim *sim = NULL;
    CHECK_OK(tepal_sim_new(&sim, TEPAL_OPTIONS(tepal_sim_options, .trace = compare_time, .argument = &sim)));
    CHECK_OK(tepal_sim_fault(sim, "at 1500000001ns calm; at 7s calm; at 1000s calm"));
    CHECK_EQ(tepal_sim_run(sim, -1), 0);
    CHECK_GE(tepal_sim_time(sim), TEPAL_SEC(1000));
    tepal_sim_free(sim);
}

/* Searching */

static int fail_from(tepal_sim *sim, void *argument) {
    return tepal_sim_seed(sim) >= *(const uint64_t *)argument ? TEPAL_ERROR(TEPAL_DOMAIN_USER, 3) : 0;
}

TEST(sim_runs, a_search_names_the_first_seed_that_fails) {
    uint64_t bad = 13, failed = 0;
    CHECK_EQ(unsetenv("TEPAL_SIM_SEED"), 0);
    CHECK_OK(tepal_sim_search(NULL, 1, 12, fail_from, &bad, &failed));
    CHECK_EQ(failed, 0);
    CHECK_EQ(tepal_sim_search(NULL, 1, 100, fail_from, &bad, &failed), TEPAL_ERROR(TEPAL_DOMAIN_USER, 3));
    CHECK_EQ(failed, 13);
    CHECK_EQ(setenv("TEPAL_SIM_SEED", "40", 1), 0);
    CHECK_EQ(tepal_sim_search(NULL, 1, 2, fail_from, &bad, &failed), TEPAL_ERROR(TEPAL_DOMAIN_USER, 3));
    CHECK_EQ(failed, 40);
    CHECK_EQ(tepal_sim_search(NULL, 1, 2, NULL, NULL, NULL), TEPAL_EINVAL);
}
