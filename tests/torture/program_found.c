/*
 * What seeds of the random program have found, each as a few lines that fail without its mend and need no chance.
 */
#include "harness/test.h"

#include <tepal.h>

typedef struct side {
    tepal_protocol protocol; /* first */
    tepal_transport *transport;
    int lost;
    int code;
    size_t received, received_at_end;
} side;

static int side_made(tepal_protocol *self, tepal_transport *transport) {
    ((side *)(void *)self)->transport = tepal_transport_ref(transport);
    return 0;
}

static void side_lost(tepal_protocol *self, const tepal_error *error) {
    ((side *)(void *)self)->lost++;
    ((side *)(void *)self)->code = error == NULL ? 0 : error->code;
}

static int side_received(tepal_protocol *self, const void *data, size_t length) {
    (void)data;
    ((side *)(void *)self)->received += length;
    return 0;
}

static int side_ended(tepal_protocol *self) {
    ((side *)(void *)self)->received_at_end = ((side *)(void *)self)->received;
    return TEPAL_KEEP_OPEN;
}

static const tepal_protocol_type side_type = {.size = sizeof(tepal_protocol_type),
                                              .connection_made = side_made,
                                              .data_received = side_received,
                                              .eof_received = side_ended,
                                              .connection_lost = side_lost};

static int give_side(void *argument, tepal_protocol **protocol) {
    *protocol = &((side *)argument)->protocol;
    return 0;
}

static tepal_sim *new_network(tepal_loop **loop) {
    tepal_sim *sim;

    CHECK_OK(tepal_sim_new(&sim, TEPAL_OPTIONS(tepal_sim_options, .seed = 1, .realloc = test_counting_alloc)));
    CHECK_OK(tepal_sim_add_host(sim, "a", TEPAL_OPTIONS(tepal_loop_options, .realloc = test_counting_alloc), loop));
    return sim;
}

/* Two connected ends on one host. */
static void connect_sides(tepal_sim *sim, tepal_loop *loop, const tepal_transport_options *options, side sides[2]) {
    int fds[2];

    CHECK_OK(tepal_sim_socketpair(loop, AF_INET, fds));
    for (int i = 0; i < 2; i++) {
        sides[i] = (side){.protocol.type = &side_type};
        CHECK_OK(tepal_loop_adopt(loop, fds[i], &sides[i].protocol, options, NULL));
    }
    CHECK_EQ(tepal_sim_run(sim, TEPAL_MS(1)), 1);
}

static void write_much(side *self) {
    static const uint8_t zeroes[1 << 20];
    CHECK_OK(tepal_transport_write(self->transport, zeroes, sizeof zeroes));
}

static void end_sides(tepal_sim *sim, side sides[2]) {
    tepal_sim_free(sim);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(sides[i].lost, 1);
        tepal_transport_unref(sides[i].transport);
    }
}

/* Seed 4919: it lingered, and ended its stream while the driver still held a message. */
TEST(found, an_aborted_transport_does_not_linger_while_its_send_is_pending) {
    tepal_loop *loop;
    side sides[2];
    tepal_sim *sim = new_network(&loop);

    connect_sides(sim, loop, TEPAL_OPTIONS(tepal_transport_options, .abort_without_reset = true), sides);
    CHECK_OK(tepal_transport_pause_reading(sides[0].transport));
    CHECK_OK(tepal_transport_pause_reading(sides[1].transport));
    write_much(&sides[0]);
    write_much(&sides[1]);
    CHECK_EQ(tepal_sim_run(sim, TEPAL_MS(100)), 1);
    CHECK_GT(tepal_transport_write_buffer_size(sides[0].transport), 0);
    tepal_transport_abort(sides[0].transport, 0);
    CHECK_EQ(tepal_sim_run(sim, TEPAL_MS(100)), 1);
    CHECK_STR(tepal_sim_failure(sim), NULL);
    end_sides(sim, sides);
}

/* Seed 6117: the other end of a connection that had timed out waited for room for ever. */
TEST(found, who_still_sends_to_an_end_that_has_timed_out_is_told) {
    tepal_loop *loop;
    side sides[2];
    tepal_sim *sim = new_network(&loop);

    connect_sides(sim, loop, NULL, sides);
    CHECK_OK(tepal_transport_set_keep_alive(sides[1].transport, true, 1, 1, 2));
    CHECK_OK(tepal_transport_pause_reading(sides[1].transport));
    write_much(&sides[0]);
    CHECK_EQ(tepal_sim_run(sim, TEPAL_MS(100)), 1);
    CHECK_OK(tepal_sim_fault(sim, "partition a a"));
    CHECK_EQ(tepal_sim_run(sim, TEPAL_SEC(60)), 1);
    CHECK_OK(tepal_sim_fault(sim, "heal a a"));
    CHECK_EQ(tepal_sim_run(sim, TEPAL_SEC(60)), 1);
    CHECK_EQ(sides[0].lost, 1);
    CHECK_EQ(sides[0].code, TEPAL_SYSTEM(ECONNRESET));
    CHECK_OK(tepal_transport_resume_reading(sides[1].transport));
    CHECK_EQ(tepal_sim_run(sim, TEPAL_MS(1)), 1);
    CHECK_EQ(sides[1].code, TEPAL_ETIMEDOUT);
    end_sides(sim, sides);
}

static int work(void *argument, void **value) {
    (void)value;
    ++*(int *)argument;
    return 0;
}

/* Seeds 427 and 506: what the host that crashed had given to its executor ran on the host that took its place. */
TEST(found, work_of_a_host_that_crashed_does_not_run_on_its_successor) {
    tepal_loop *before, *after;
    tepal_future *future;
    int worked = 0;
    tepal_sim *sim = new_network(&before);

    CHECK_OK(tepal_loop_run_in_executor(before, work, &worked, NULL, &future));
    CHECK_OK(tepal_sim_fault(sim, "crash a"));
    CHECK_OK(tepal_sim_add_host(sim, "a", TEPAL_OPTIONS(tepal_loop_options, .realloc = test_counting_alloc), &after));
    CHECK_EQ(tepal_sim_run(sim, TEPAL_SEC(1)), 1);
    CHECK_EQ(worked, 0);
    CHECK_OK(tepal_loop_close(before));
    CHECK_EQ(tepal_future_result(future, NULL), TEPAL_ECANCELED);
    tepal_future_unref(future);
    tepal_sim_free(sim);
}

/* Seed 30500: with its window full and nothing on its way, who sent to a host that crashed waited for ever. */
TEST(found, who_waits_for_room_at_a_host_that_crashed_gives_up) {
    tepal_loop *loops[2];
    tepal_server *server;
    tepal_future *future;
    side sides[2] = {{.protocol.type = &side_type}, {.protocol.type = &side_type}};
    tepal_sim *sim = new_network(&loops[0]);

    CHECK_OK(
        tepal_sim_add_host(sim, "b", TEPAL_OPTIONS(tepal_loop_options, .realloc = test_counting_alloc), &loops[1]));
    CHECK_OK(
        tepal_loop_listen(loops[1], give_side, &sides[1], TEPAL_OPTIONS(tepal_server_options, .port = 80), &server));
    CHECK_OK(tepal_loop_create_connection(loops[0], give_side, &sides[0],
                                          TEPAL_OPTIONS(tepal_connect_options, .host = "b", .port = 80), &future));
    CHECK_EQ(tepal_sim_run(sim, TEPAL_SEC(1)), 1);
    CHECK_OK(tepal_transport_pause_reading(sides[1].transport));
    write_much(&sides[0]);
    CHECK_EQ(tepal_sim_run(sim, TEPAL_SEC(1)), 1);
    CHECK_OK(tepal_sim_fault(sim, "crash b"));
    CHECK_EQ(tepal_sim_run(sim, TEPAL_SEC(1000)), 1);
    CHECK_EQ(sides[0].lost, 1);
    CHECK_EQ(sides[0].code, TEPAL_ETIMEDOUT);
    tepal_future_unref(future);
    tepal_server_unref(server);
    end_sides(sim, sides);
}

/* Seed 37499: an end that was sent after a link had held bytes back arrived before them, once it was healed. */
TEST(found, no_end_overtakes_bytes_that_a_link_has_held_back) {
    tepal_loop *loop;
    side sides[2];
    tepal_sim *sim = new_network(&loop);

    connect_sides(sim, loop, NULL, sides);
    CHECK_OK(tepal_sim_fault(sim, "latency a a 10ms 10ms; at 6ms drop a a; at 16ms heal a a"));
    CHECK_OK(tepal_transport_write(sides[0].transport, "bytes", 5));
    CHECK_EQ(tepal_sim_run(sim, TEPAL_MS(13)), 1);
    CHECK_OK(tepal_transport_write_eof(sides[0].transport));
    CHECK_EQ(tepal_sim_run(sim, TEPAL_SEC(5)), 1);
    CHECK_EQ(sides[1].received, 5);
    CHECK_EQ(sides[1].received_at_end, 5);
    end_sides(sim, sides);
}
