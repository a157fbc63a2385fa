/*
 * What the simulator does by chance has the effect that it is there for: reads that bring less, sends that take less,
 * what comes late or out of order. A test that only sees nothing lost would not miss them.
 */
#include "driver/sim.h"
#include "loop/loop.h"
#include "unit/sim_fixture.h"

#include <errno.h>

#include <stdio.h>
#include <stdlib.h>

enum { SEEDS = 20, KEEPER_PORT = NETWORK_PORT + 1 };

/* How many lines of the trace say this. */
static int count_lines(const network *net, const char *text) {
    int count = 0;
    for (const char *at = net->trace; at != NULL && (at = strstr(at, text)) != NULL; at += strlen(text)) {
        count++;
    }
    return count;
}

TEST(sim_effects, with_split_a_read_brings_less_than_has_come_down_to_a_byte) {
    int single = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        network net = {0};
        network_open(&net, seed);
        network_connect(&net);
        network_fault(&net, "rate split 1");
        network_write(net.connected, 100);
        network_pass(&net, TEPAL_SEC(1));
        CHECK_EQ(net.accepted->received, 100);
        CHECK_EQ(count_lines(&net, " more\n"), 1); /* one segment */
        CHECK_GT(net.accepted->portions, 1);
        CHECK_LT(net.accepted->largest, 100);
        single += count_lines(&net, "reads 1\n") > 0;
        network_close(&net);
    }
    CHECK_GT(single, 0);
}

/* Of the sends in the trace: how many took less than they were given, and how many took one byte of more. */
static void count_short_sends(const network *net, int *fewer, int *single) {
    for (const char *at = net->trace; (at = strstr(at, " sends ")) != NULL; at++) {
        unsigned long taken, given;
        if (sscanf(at, " sends %lu of %lu", &taken, &given) == 2) {
            *fewer += taken < given;
            *single += taken == 1 && given > 1;
        }
    }
}

TEST(sim_effects, with_short_a_send_takes_less_than_there_is_room_for) {
    int fewer = 0, single = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        network net = {0};
        network_open(&net, seed);
        network_connect(&net);
        network_write(net.connected, 100);
        network_pass(&net, TEPAL_SEC(1));
        count_short_sends(&net, &fewer, &single);
        CHECK_EQ(fewer, seed == 1 ? 0 : fewer); /* never without the rate */
        network_fault(&net, "rate short 1");
        network_write(net.connected, 100);
        network_pass(&net, TEPAL_SEC(1));
        CHECK_EQ(net.accepted->received, 200);
        count_short_sends(&net, &fewer, &single);
        network_close(&net);
    }
    CHECK_GE(fewer, SEEDS);
    CHECK_GT(single, 0);
}

/* Two connections; a byte on the first, then one on the second: whether the second comes first. */
static bool is_overtaken(uint64_t seed, const char *script) {
    network net = {0};
    network_open(&net, seed);
    network_connect(&net);
    net_end *first = net.connected, *first_there = net.accepted;
    net.accepted = NULL;
    network_connect(&net);
    network_fault(&net, "latency client server 1ms 1ms");
    network_fault(&net, script);
    network_write(first, 1);
    network_pass(&net, TEPAL_MS(5));
    network_write(net.connected, 1);
    while (first_there->received == 0 && net.accepted->received == 0) {
        network_pass(&net, TEPAL_MS(1));
    }
    const bool overtaken = first_there->received == 0;
    network_close(&net);
    return overtaken;
}

TEST(sim_effects, with_delay_what_is_sent_later_elsewhere_arrives_earlier) {
    int overtaken = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        CHECK(!is_overtaken(seed, "rate delay 0"));
        overtaken += is_overtaken(seed, "rate delay 0.5");
    }
    CHECK_GT(overtaken, 0);
    CHECK_LT(overtaken, SEEDS);
}

/* Turns of the client until its driver's last word about a transport that is closed. */
static int turns_to_close(uint64_t seed, const char *script) {
    network net = {0};
    int turns = 0;
    network_open(&net, seed);
    network_connect(&net);
    network_fault(&net, script);
    tepal_transport_abort(net.connected->transport, TEPAL_ECANCELED);
    for (const size_t objects = net.client->driver->objects; net.client->driver->objects == objects; turns++) {
        CHECK_OK(tepal_loop_step(net.client, 0));
    }
    network_close(&net);
    return turns;
}

TEST(sim_effects, with_late_a_close_completes_turns_later) {
    int least = 100, most = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        const int at_once = turns_to_close(seed, "rate late 0"), later = turns_to_close(seed, "rate late 1");
        CHECK_LE(at_once, later);
        least = later - at_once < least ? later - at_once : least;
        most = later - at_once > most ? later - at_once : most;
    }
    CHECK_EQ(least, 0);
    CHECK_EQ(most, 3);
}

TEST(sim_effects, with_late_a_send_takes_nothing_yet_or_does_not_say_that_it_has) {
    int nothing = 0, unsaid = 0, at_once = 0;
    for (uint64_t seed = 1; seed <= 2 * SEEDS; seed++) {
        network net = {0};
        network_open(&net, seed);
        network_connect(&net);
        network_fault(&net, "rate late 0.5");
        network_write(net.connected, 10);
        CHECK_OK(tepal_transport_flush(net.connected->transport));
        const bool taken = count_lines(&net, "sends 10 of 10") > 0;
        const bool told = tepal_transport_write_buffer_size(net.connected->transport) == 0;
        nothing += !taken;
        unsaid += taken && !told;
        at_once += told;
        network_pass(&net, TEPAL_SEC(1));
        CHECK_EQ(net.accepted->received, 10);
        network_close(&net);
    }
    CHECK_GT(nothing, 0);
    CHECK_GT(unsaid, 0);
    CHECK_GT(at_once, 0);
}

TEST(sim_effects, what_is_ready_in_one_turn_is_told_in_an_order_of_chance) {
    int second_first = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        network net = {0};
        network_open(&net, seed);
        network_connect(&net);
        net_end *first = net.connected;
        network_connect(&net);
        network_fault(&net, "stall server 1s");
        network_write(first, 1);
        network_pass(&net, TEPAL_MS(10)); /* so that it comes before the other */
        network_write(net.connected, 2);
        network_pass(&net, TEPAL_SEC(2));
        const char *one = strstr(net.trace, "reads 1\n"), *two = strstr(net.trace, "reads 2\n");
        CHECK(one != NULL && two != NULL);
        second_first += two < one;
        network_close(&net);
    }
    CHECK_GT(second_first, 0);
    CHECK_LT(second_first, SEEDS);
}

TEST(sim_effects, what_random_brings_is_harmless_up_to_always_and_harmful_rarely) {
    uint32_t most[TPI_RATES] = {0};
    for (uint64_t seed = 1; seed <= 5 * SEEDS; seed++) {
        network net = {0};
        network_open_bare(&net, seed);
        network_fault(&net, "random");
        for (int i = 0; i < TPI_RATES; i++) {
            most[i] = net.sim->rates[i] > most[i] ? net.sim->rates[i] : most[i];
        }
        network_close(&net);
    }
    for (int i = 0; i < TPI_RATES; i++) {
        CHECK_EQ(most[i], i <= TPI_RATE_DELAY ? UINT32_MAX : UINT32_MAX / 50);
    }
}

TEST(sim_effects, calm_lets_a_stalled_host_go_on) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    network_fault(&net, "stall server 10s; calm");
    network_write(net.connected, 10);
    network_pass(&net, TEPAL_SEC(1));
    CHECK_EQ(net.accepted->received, 10);
    network_close(&net);
}

/* A protocol that breaks its contract: it keeps what was lent to it. */
typedef struct keeper {
    tepal_protocol protocol; /* first */
    const unsigned char *kept;
    size_t length;
} keeper;

static int keep(tepal_protocol *protocol, const void *data, size_t length) {
    keeper *self = (keeper *)protocol;
    CHECK_EQ(*(const char *)data, 0);
    self->kept = data;
    self->length = length;
    return 0;
}

static int keeper_factory(void *argument, tepal_protocol **protocol) {
    *protocol = argument;
    return 0;
}

TEST(sim_effects, who_keeps_the_data_of_an_upcall_finds_rubbish_there) {
    static const tepal_protocol_type type = {.size = sizeof type, .data_received = keep};
    keeper self = {.protocol.type = &type};
    network net = {0};
    tepal_server *server;
    tepal_future *future;
    network_open(&net, 1);
    CHECK_OK(tepal_loop_listen(net.server, keeper_factory, &self,
                               TEPAL_OPTIONS(tepal_server_options, .port = KEEPER_PORT), &server));
    CHECK_OK(tepal_loop_create_connection(net.client, network_factory, &net,
                                          TEPAL_OPTIONS(tepal_connect_options, .host = "server", .port = KEEPER_PORT),
                                          &future));
    network_pass(&net, TEPAL_SEC(1));
    network_write(net.connected, 100);
    network_pass(&net, TEPAL_SEC(1));
    CHECK_EQ(self.length, 100);
    for (size_t i = 0; i < self.length; i++) {
        CHECK_EQ(self.kept[i], 0xdb);
    }
    tepal_future_unref(future);
    tepal_server_unref(server);
    network_close(&net);
}

/* Longer than TCP would have tried, had the partition lasted. */
TEST(sim_effects, with_heal_what_was_held_back_is_not_given_up_later) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    network_fault(&net, "partition client server");
    network_write(net.connected, 10);
    network_pass(&net, TEPAL_SEC(5));
    network_fault(&net, "heal client server");
    network_pass(&net, TEPAL_SEC(2000));
    CHECK_EQ(net.accepted->received, 10);
    CHECK_EQ(net.connected->losts, 0);
    network_close(&net);
}

TEST(sim_effects, a_reset_takes_as_long_as_its_own_way_takes) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    network_fault(&net, "latency client server 1ms 1ms; latency server client 10s 10s");
    tepal_transport_close(net.accepted->transport);
    network_pass(&net, TEPAL_SEC(1));
    network_write(net.connected, 10); /* nobody is there any more */
    network_pass(&net, TEPAL_SEC(5));
    CHECK_EQ(net.connected->losts, 0);
    network_pass(&net, TEPAL_SEC(20));
    CHECK_EQ(net.connected->losts, 1);
    network_close(&net);
}
