/* What goes wrong in the simulated network: each statement and each rate does what the header says, and no more. */
#include "unit/sim_fixture.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

TEST(sim_faults, latency_is_what_the_script_says) {
    network net = {.server_echoes = true};
    network_open(&net, 1);
    network_fault(&net, "latency client server 100ms 100ms\nlatency server client 300ms 300ms # and back");
    const int64_t began = tepal_sim_time(net.sim);
    CHECK_OK(network_dial(&net, "10.0.0.1"));
    CHECK_GE(tepal_sim_time(net.sim) - began, TEPAL_MS(400));
    CHECK_LT(tepal_sim_time(net.sim) - began, TEPAL_MS(410));
    network_write(net.connected, 1);
    network_pass(&net, TEPAL_MS(399));
    CHECK_EQ(net.connected->received, 0);
    network_pass(&net, TEPAL_MS(10));
    CHECK_EQ(net.connected->received, 1);
    network_close(&net);
}

TEST(sim_faults, each_unit_of_time_is_what_it_says) {
    static const char *const latencies[] = {"100000000ns", "100000us", "100ms", "0.1s"};
    for (size_t i = 0; i < sizeof latencies / sizeof *latencies; i++) {
        network net = {0};
        char script[96];
        network_open(&net, 1);
        network_connect(&net);
        (void)snprintf(script, sizeof script, "latency client server %s %s", latencies[i], latencies[i]);
        network_fault(&net, script);
        network_write(net.connected, 1);
        network_pass(&net, TEPAL_MS(99));
        CHECK_EQ(net.accepted->received, 0);
        network_pass(&net, TEPAL_MS(2));
        CHECK_EQ(net.accepted->received, 1);
        network_close(&net);
    }
}

TEST(sim_faults, latency_has_a_direction) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    network_fault(&net, "latency client server 100ms 100ms; latency server client 300ms 300ms");
    network_write(net.connected, 1);
    network_write(net.accepted, 1);
    network_pass(&net, TEPAL_MS(110));
    CHECK_EQ(net.accepted->received, 1);
    CHECK_EQ(net.connected->received, 0);
    network_close(&net);
}

TEST(sim_faults, bandwidth_holds_back_what_is_sent_at_once) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    network_fault(&net, "bandwidth client server 10000");
    network_write(net.connected, 50000);
    network_pass(&net, TEPAL_SEC(4));
    CHECK_EQ(net.accepted->received, 0); /* one segment, and its last byte comes after 5 s */
    network_pass(&net, TEPAL_SEC(2));
    CHECK_EQ(net.accepted->received, 50000);
    network_close(&net);
}

TEST(sim_faults, what_was_sent_slowly_comes_at_once_when_the_limit_is_gone) {
    static const char *const ends[] = {"calm", "bandwidth client server 0"};
    for (int i = 0; i < 2; i++) {
        network net = {0};
        network_open(&net, 1);
        network_connect(&net);
        network_fault(&net, "bandwidth client server 1");
        for (int k = 0; k < 5; k++) {
            network_write(net.connected, 10000);
            network_pass(&net, TEPAL_SEC(1));
        }
        CHECK_OK(tepal_transport_write_eof(net.connected->transport));
        network_pass(&net, TEPAL_SEC(1));
        CHECK_EQ(net.accepted->received, 0);
        network_fault(&net, ends[i]);
        network_pass(&net, TEPAL_SEC(1));
        CHECK_EQ(net.accepted->received, 50000);
        CHECK_EQ(net.accepted->eofs, 1);
        network_close(&net);
    }
}

TEST(sim_faults, a_partition_holds_everything_back_and_healing_it_brings_all_of_it_in_order) {
    network net = {.server_echoes = true};
    network_open(&net, 1);
    network_connect(&net);
    network_fault(&net, "partition client server");
    network_write(net.connected, 1000);
    network_pass(&net, TEPAL_SEC(100));
    CHECK_EQ(net.accepted->received, 0);
    CHECK_EQ(net.connected->losts, 0);
    network_write(net.connected, 500);
    network_fault(&net, "heal server client");
    network_write(net.connected, 1);
    network_pass(&net, TEPAL_SEC(5));
    CHECK_EQ(net.connected->received, 1501);
    network_close(&net);
}

TEST(sim_faults, an_end_does_not_overtake_what_a_partition_held_back) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        network net = {0};
        network_open(&net, seed);
        network_connect(&net);
        network_fault(&net, "latency client server 100ms 100ms; partition client server");
        network_write(net.connected, 1000);
        network_pass(&net, TEPAL_SEC(1));
        CHECK_OK(tepal_transport_write_eof(net.connected->transport));
        network_pass(&net, TEPAL_MS(50)); /* it is on its way, and was not held back */
        network_fault(&net, "heal client server");
        CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
        CHECK_EQ(net.accepted->received, 1000);
        CHECK_EQ(net.accepted->eofs, 1);
        network_close(&net);
    }
}

TEST(sim_faults, one_direction_may_be_dropped_alone) {
    network net = {.server_echoes = true};
    network_open(&net, 1);
    network_connect(&net);
    network_fault(&net, "drop server client");
    network_write(net.connected, 10);
    network_pass(&net, TEPAL_SEC(10));
    CHECK_EQ(net.accepted->received, 10);
    CHECK_EQ(net.connected->received, 0);
    network_fault(&net, "calm");
    network_pass(&net, TEPAL_SEC(5));
    CHECK_EQ(net.connected->received, 10);
    network_close(&net);
}

TEST(sim_faults, a_connection_that_hears_nothing_for_too_long_is_given_up) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    network_fault(&net, "partition * *");
    network_write(net.connected, 10);
    network_pass(&net, TEPAL_SEC(900));
    CHECK_EQ(net.connected->losts, 0);
    network_pass(&net, TEPAL_SEC(60));
    CHECK_EQ(net.connected->lost_code, TEPAL_ETIMEDOUT);
    CHECK_EQ(net.accepted->losts, 0); /* it waits, and knows of nothing */
    network_close(&net);
}

TEST(sim_faults, a_connect_into_a_partition_times_out_as_tcp_does) {
    network net = {0};
    network_open(&net, 1);
    network_fault(&net, "partition client server");
    const int64_t began = tepal_sim_time(net.sim);
    CHECK_EQ(network_dial(&net, "10.0.0.1"), TEPAL_ETIMEDOUT);
    CHECK_GE(tepal_sim_time(net.sim) - began, TEPAL_SEC(127));
    network_close(&net);
}

TEST(sim_faults, a_reset_ends_both_sides) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    network_fault(&net, "reset client server");
    network_pass(&net, TEPAL_SEC(1));
    CHECK_EQ(net.connected->lost_code, TEPAL_SYSTEM(ECONNRESET));
    CHECK_EQ(net.accepted->lost_code, TEPAL_SYSTEM(ECONNRESET));
    network_close(&net);
}

TEST(sim_faults, a_reset_can_be_set_to_any_byte_of_a_write) {
    for (int bytes = 0; bytes < 300; bytes++) {
        network net = {0};
        char script[64];
        network_open(&net, (uint64_t)bytes + 1);
        network_connect(&net);
        (void)snprintf(script, sizeof script, "reset client server %d; rate short 0.5", bytes);
        network_fault(&net, script);
        network_write(net.connected, 1000);
        network_pass(&net, TEPAL_SEC(1));
        CHECK_EQ(net.connected->lost_code, TEPAL_SYSTEM(ECONNRESET));
        CHECK_EQ(net.accepted->lost_code, TEPAL_SYSTEM(ECONNRESET));
        CHECK_EQ(net.accepted->received, (uint64_t)bytes);
        network_close(&net);
    }
}

TEST(sim_faults, a_deaf_host_reads_nothing_until_it_hears) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    network_fault(&net, "deaf server; buffers client 1000");
    network_write(net.connected, 5000);
    network_pass(&net, TEPAL_SEC(1000));
    CHECK_EQ(net.accepted->received, 0);
    CHECK_EQ(tepal_transport_write_buffer_size(net.connected->transport), 4000);
    network_fault(&net, "hear server");
    network_pass(&net, TEPAL_SEC(1));
    CHECK_EQ(net.accepted->received, 5000);
    network_fault(&net, "deaf *");
    network_write(net.connected, 1);
    network_pass(&net, TEPAL_SEC(1));
    CHECK_EQ(net.accepted->received, 5000);
    network_fault(&net, "calm");
    network_pass(&net, TEPAL_SEC(1));
    CHECK_EQ(net.accepted->received, 5001);
    network_close(&net);
}

TEST(sim_faults, a_host_refuses_until_it_serves) {
    network net = {0};
    network_open(&net, 1);
    network_fault(&net, "refuse server");
    CHECK_EQ(network_dial(&net, "server"), TEPAL_SYSTEM(ECONNREFUSED));
    network_fault(&net, "serve server");
    CHECK_OK(network_dial(&net, "server"));
    network_close(&net);
}

static void note_time(void *argument) {
    network *net = argument;
    net->lines = (uint64_t)tepal_sim_time(net->sim);
}

TEST(sim_faults, a_stalled_host_takes_no_turn_and_the_others_do) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    network_fault(&net, "stall server 10s");
    CHECK_OK(tepal_loop_call_later(net.server, TEPAL_SEC(1), note_time, &net, NULL));
    network_write(net.connected, 10);
    const int64_t began = tepal_sim_time(net.sim);
    network_pass(&net, TEPAL_SEC(9));
    CHECK_EQ(net.accepted->received, 0);
    network_pass(&net, TEPAL_SEC(2));
    CHECK_EQ(net.accepted->received, 10);
    CHECK_GE((int64_t)net.lines - began, TEPAL_SEC(10));
    network_close(&net);
}

TEST(sim_faults, a_loop_that_runs_by_itself_is_stalled_too) {
    network net = {0};
    network_open(&net, 1);
    network_fault(&net, "stall client 10s");
    CHECK_OK(tepal_loop_step(net.client, 0));
    CHECK_GE(tepal_sim_time(net.sim), TEPAL_SEC(10));
    network_close(&net);
}

TEST(sim_faults, a_clock_that_jumps_makes_timers_due_on_that_host_alone) {
    network net = {0};
    network_open(&net, 1);
    CHECK_OK(tepal_loop_call_later(net.client, TEPAL_SEC(3600), note_time, &net, NULL));
    network_pass(&net, TEPAL_SEC(1));
    const int64_t client = tepal_loop_time(net.client), server = tepal_loop_time(net.server);
    network_fault(&net, "jump client 7200s");
    CHECK_EQ(tepal_loop_time(net.client), client + TEPAL_SEC(7200));
    CHECK_EQ(tepal_loop_time(net.server), server);
    network_pass(&net, TEPAL_MS(1));
    CHECK_LT((int64_t)net.lines, TEPAL_SEC(2));
    CHECK_GT(net.lines, 0);
    network_close(&net);
}

static void jump_inside(void *argument) {
    network_fault(argument, "jump client 10s");
}

TEST(sim_faults, a_callback_is_not_slow_because_the_clock_has_jumped_meanwhile) {
    network net = {0};
    network_open(&net, 1);
    CHECK_OK(tepal_loop_call_later(net.client, TEPAL_SEC(1), jump_inside, &net, NULL));
    network_pass(&net, TEPAL_SEC(2));
    CHECK_GE(tepal_loop_time(net.client), TEPAL_SEC(13));
    CHECK_EQ(net.reports, 0);
    network_close(&net);
}

TEST(sim_faults, a_crashed_host_says_nothing_and_its_peer_hears_of_it_when_it_is_back) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    network_fault(&net, "crash server");
    network_write(net.connected, 10);
    network_pass(&net, TEPAL_SEC(60));
    CHECK_EQ(net.connected->losts, 0); /* half open */
    CHECK_EQ(net.accepted->losts, 0);
    CHECK_EQ(tepal_loop_run_forever(net.server), TEPAL_SYSTEM(EHOSTDOWN));
    tepal_loop *again;
    CHECK_OK(tepal_sim_add_host(net.sim, "server", NULL, &again));
    network_pass(&net, TEPAL_SEC(60));
    CHECK_EQ(net.connected->lost_code, TEPAL_SYSTEM(ECONNRESET));
    CHECK_EQ(network_dial(&net, "server"), TEPAL_SYSTEM(ECONNREFUSED));
    CHECK_OK(tepal_loop_close(net.server));
    CHECK_EQ(net.accepted->lost_code, TEPAL_ECLOSED);
    network_close(&net);
}

/* The server does not read, and the client waits for room. */
static void fill(network *net) {
    network_open(net, 1);
    network_connect(net);
    CHECK_OK(tepal_transport_pause_reading(net->accepted->transport));
    network_write(net->connected, 1000000);
    network_pass(net, TEPAL_SEC(1));
    CHECK_GT(tepal_transport_write_buffer_size(net->connected->transport), 0);
}

TEST(sim_faults, a_sender_that_waits_for_room_hears_that_its_peer_is_gone) {
    for (int again = 0; again < 2; again++) {
        network net = {0};
        fill(&net);
        network_pass(&net, TEPAL_SEC(10000));
        CHECK_EQ(net.connected->losts, 0); /* it is there, and does not read */
        network_fault(&net, "crash server");
        if (again == 1) {
            tepal_loop *loop;
            CHECK_OK(tepal_sim_add_host(net.sim, "server", NULL, &loop));
        }
        CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
        CHECK_EQ(net.connected->lost_code, (again == 1 ? TEPAL_SYSTEM(ECONNRESET) : TEPAL_ETIMEDOUT));
        network_close(&net);
    }
}

TEST(sim_faults, a_sender_that_waits_for_room_hears_that_its_peer_has_given_up) {
    network net = {0};
    fill(&net);
    CHECK_OK(tepal_transport_pause_reading(net.connected->transport)); /* so that nothing else tells it */
    network_fault(&net, "partition client server");
    network_write(net.accepted, 1);
    network_pass(&net, TEPAL_SEC(2000));
    network_write(net.accepted, 1);
    network_pass(&net, TEPAL_SEC(1));
    CHECK_EQ(net.accepted->lost_code, TEPAL_ETIMEDOUT);
    network_fault(&net, "heal client server");
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    CHECK_EQ(net.connected->losts, 1);
    network_close(&net);
}

TEST(sim_faults, keep_alive_finds_a_peer_that_has_vanished) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    CHECK_OK(tepal_transport_set_keep_alive(net.connected->transport, true, 10, 5, 3));
    network_pass(&net, TEPAL_SEC(100));
    CHECK_EQ(net.connected->losts, 0); /* it is there */
    network_fault(&net, "crash server");
    network_pass(&net, TEPAL_SEC(60));
    CHECK_EQ(net.connected->lost_code, TEPAL_ETIMEDOUT);
    network_close(&net);
}

TEST(sim_faults, keep_alive_keeps_no_network_busy) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    CHECK_OK(tepal_transport_set_keep_alive(net.connected->transport, true, 10, 5, 3));
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    network_close(&net);
}

TEST(sim_faults, descriptors_run_out_and_come_back) {
    network net = {0};
    network_open(&net, 1);
    network_fault(&net, "descriptors server 3"); /* two listeners, and one connection */
    network_connect(&net);
    net_end *first = net.connected;
    CHECK_OK(network_dial(&net, "server")); /* in the backlog */
    network_pass(&net, TEPAL_SEC(10));
    CHECK_EQ(tepal_server_connection_count(net.listener), 1);
    CHECK_GE(net.reports, 1);
    CHECK_EQ(net.report_code, TEPAL_SYSTEM(EMFILE));
    tepal_transport_close(first->transport);
    network_pass(&net, TEPAL_SEC(10));
    CHECK_EQ(tepal_server_connection_count(net.listener), 1);
    CHECK_EQ(net.accepted->made, 1);
    network_fault(&net, "descriptors client 1");
    CHECK_EQ(network_dial(&net, "server"), TEPAL_SYSTEM(EMFILE));
    network_close(&net);
}

/* Rates: at 1 each does what it is for, at 0 nothing */

TEST(sim_faults, split_reads_and_short_sends_lose_nothing) {
    static const char *const rates[] = {"rate split 1", "rate short 1", "rate late 1", "rate delay 1",
                                        "rate split 1; rate short 1; rate late 1; rate delay 0.5"};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++) {
        network net = {.server_echoes = true};
        network_open(&net, i + 1);
        network_connect(&net);
        network_fault(&net, rates[i]);
        network_write(net.connected, 100000);
        CHECK_OK(tepal_transport_write_eof(net.connected->transport));
        CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
        CHECK_EQ(net.connected->received, 100000);
        CHECK_EQ(net.connected->lost_code, 0);
        tepal_sim_stats stats = {.size = sizeof stats};
        CHECK_OK(tepal_sim_get_stats(net.sim, &stats));
        CHECK_EQ(stats.bytes, 200000);
        network_close(&net);
    }
}

TEST(sim_faults, each_rate_brings_its_own_error) {
    static const struct {
        const char *script;
        int code;
    } cases[] = {
        {"rate refuse 1", TEPAL_SYSTEM(ECONNREFUSED)},
        {"rate timeout 1", TEPAL_ETIMEDOUT},
        {"rate emfile 1", TEPAL_SYSTEM(EMFILE)},
        {"rate enomem 1", TEPAL_ENOMEM},
        {"rate enobufs 1", TEPAL_ENOBUFS},
        {"rate resolve 1", TEPAL_ERROR(TEPAL_DOMAIN_RESOLVER, EAI_AGAIN < 0 ? -EAI_AGAIN : EAI_AGAIN)},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        network net = {0};
        network_open(&net, 1);
        network_fault(&net, cases[i].script);
        CHECK_EQ(network_dial(&net, "server"), cases[i].code);
        network_fault(&net, "calm");
        CHECK_OK(network_dial(&net, "server"));
        network_close(&net);
    }
}

TEST(sim_faults, sends_fail_by_chance_and_end_the_connection) {
    static const struct {
        const char *script;
        int code;
    } cases[] = {{"rate reset 1", TEPAL_SYSTEM(ECONNRESET)}, {"rate enobufs 1", TEPAL_ENOBUFS}};
    for (size_t i = 0; i < 2; i++) {
        network net = {0};
        network_open(&net, 1);
        network_connect(&net);
        network_fault(&net, cases[i].script);
        network_write(net.connected, 10);
        network_pass(&net, TEPAL_SEC(1));
        CHECK_EQ(net.connected->lost_code, cases[i].code);
        network_close(&net);
    }
}

TEST(sim_faults, a_host_may_stand_still_by_chance) {
    network net = {.server_echoes = true};
    network_open(&net, 1);
    network_fault(&net, "rate stall 0.5");
    network_connect(&net);
    network_write(net.connected, 10);
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    CHECK_EQ(net.connected->received, 10);
    CHECK(strstr(net.trace, "stands still") != NULL);
    network_close(&net);
}

TEST(sim_faults, small_buffers_are_full_sooner) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    network_fault(&net, "buffers client 100");
    CHECK_OK(tepal_transport_pause_reading(net.accepted->transport));
    network_write(net.connected, 1000);
    network_pass(&net, TEPAL_SEC(1));
    CHECK_EQ(tepal_transport_write_buffer_size(net.connected->transport), 900);
    CHECK_OK(tepal_transport_resume_reading(net.accepted->transport));
    network_pass(&net, TEPAL_SEC(1));
    CHECK_EQ(net.accepted->received, 1000);
    CHECK_OK(network_dial(&net, "server")); /* and those to come */
    network_write(net.connected, 1000);
    CHECK_OK(tepal_transport_flush(net.connected->transport));
    CHECK_EQ(tepal_transport_write_buffer_size(net.connected->transport), 900);
    network_close(&net);
}

TEST(sim_faults, clocks_jump_by_chance) {
    network net = {0};
    network_open(&net, 1);
    network_fault(&net, "rate jump 1");
    network_connect(&net);
    CHECK_GT(tepal_loop_time(net.server) - tepal_sim_time(net.sim), TEPAL_SEC(1));
    CHECK(strstr(net.trace, "its clock jumps") != NULL);
    network_close(&net);
}

TEST(sim_faults, links_are_down_for_a_while_by_chance_and_lose_nothing) {
    network net = {.server_echoes = true};
    network_open(&net, 1);
    network_fault(&net, "rate drop 0.3");
    network_connect(&net);
    for (int i = 0; i < 20; i++) {
        network_write(net.connected, 1000);
        network_pass(&net, TEPAL_MS(500));
    }
    network_fault(&net, "calm");
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    CHECK_EQ(net.connected->received, 20000);
    CHECK(strstr(net.trace, "is not heard by") != NULL);
    network_close(&net);
}
