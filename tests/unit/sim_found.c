/* What a first user of the simulator stumbled on: each stays mended. */
#include "unit/sim_fixture.h"

#include <stdlib.h>

/* ---- A loop that is run by itself sees what the others do to it ---- */

typedef struct meddler {
    network *net;
    tepal_future *future;
    tepal_timer timer;
    int what, runs;
    int64_t at_ns;
} meddler;

static void note(void *argument) {
    meddler *self = argument;
    self->runs++;
    self->at_ns = tepal_sim_time(self->net->sim);
    tepal_loop_stop(self->net->server);
}

static void note_timer(tepal_work *work, int status) {
    if (status == 0) {
        note((char *)work - offsetof(meddler, timer.work));
    }
}

/* In the client's turn, to the server that sleeps. */
static void meddle(void *argument) {
    meddler *self = argument;
    tepal_loop *loop = self->net->server;
    switch (self->what) {
    case 0:
        CHECK_OK(tepal_future_set_result(self->future, NULL, NULL));
        break;
    case 1:
        CHECK_OK(tepal_loop_call_soon(loop, note, self, NULL));
        break;
    case 2:
        self->timer.work.run = note_timer;
        CHECK_OK(tepal_timer_start(loop, &self->timer, tepal_loop_time(loop) + TEPAL_MS(1)));
        break;
    case 3:
        tepal_loop_stop(loop);
        break;
    default:
        tepal_loop_interrupt(loop, TEPAL_ERROR(TEPAL_DOMAIN_USER, 5));
        break;
    }
}

TEST(sim_found, a_loop_that_is_run_by_itself_sees_what_other_hosts_do_to_it) {
    for (int what = 0; what < 5; what++) {
        network net = {0};
        network_open(&net, 1);
        meddler self = {.net = &net, .what = what};
        CHECK_OK(tepal_future_new(net.server, &self.future));
        CHECK_OK(tepal_loop_call_later(net.client, TEPAL_MS(20), meddle, &self, NULL));
        const int code =
            what == 0 ? tepal_loop_run_until_complete(net.server, self.future) : tepal_loop_run_forever(net.server);
        CHECK_EQ(code, (what == 4 ? TEPAL_ERROR(TEPAL_DOMAIN_USER, 5) : 0));
        CHECK_EQ(self.runs, what == 1 || what == 2);
        CHECK_LT(tepal_sim_time(net.sim), TEPAL_MS(25));
        tepal_future_unref(self.future);
        network_close(&net);
    }
}

TEST(sim_found, a_clock_that_jumps_is_seen_by_a_loop_that_is_run_by_itself) {
    network net = {0};
    network_open(&net, 1);
    meddler self = {.net = &net};
    CHECK_OK(tepal_loop_call_later(net.server, TEPAL_SEC(5), note, &self, NULL));
    network_fault(&net, "at 1s jump server 100s");
    CHECK_OK(tepal_loop_run_forever(net.server));
    CHECK_LT(self.at_ns, TEPAL_SEC(2));
    network_close(&net);
}

/* ---- Ends ---- */

static int close_and_fail(void *argument) {
    tepal_loop **loop = argument;
    if (*loop == NULL) {
        return 0;
    }
    CHECK_OK(tepal_loop_close(*loop));
    *loop = NULL;
    return TEPAL_ERROR(TEPAL_DOMAIN_USER, 8);
}

static void nothing(void *argument) {
    (void)argument;
}

TEST(sim_found, a_check_may_close_the_loop_whose_turn_it_was_and_fail) {
    tepal_sim *sim;
    tepal_loop *loop = NULL;
    CHECK_OK(tepal_sim_new(&sim, TEPAL_OPTIONS(tepal_sim_options, .check = close_and_fail, .argument = &loop)));
    CHECK_OK(tepal_sim_add_host(sim, "a", NULL, &loop));
    CHECK_OK(tepal_loop_call_soon(loop, nothing, NULL, NULL));
    CHECK_EQ(tepal_sim_run(sim, -1), TEPAL_ERROR(TEPAL_DOMAIN_USER, 8));
    tepal_sim_free(sim);
}

static void free_inside(void *argument) {
    tepal_sim_free(((meddler *)argument)->net->sim);
    ((meddler *)argument)->runs++;
}

TEST(sim_found, freeing_a_network_inside_its_run_does_nothing) {
    network net = {0};
    network_open(&net, 1);
    meddler self = {.net = &net};
    CHECK_OK(tepal_loop_call_soon(net.client, free_inside, &self, NULL));
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    CHECK_EQ(self.runs, 1);
    network_close(&net);
}

TEST(sim_found, limits_that_nobody_waits_for_keep_no_run_going) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    CHECK_LT(tepal_sim_time(net.sim), TEPAL_SEC(1)); /* not the 127 of a connect that has long ended */
    network_close(&net);
}

TEST(sim_found, a_connect_that_is_never_answered_is_waited_for) {
    network net = {0};
    tepal_future *future;
    network_open(&net, 1);
    network_fault(&net, "rate timeout 1");
    network_call(&net, net.client, "10.0.0.1", &future);
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    CHECK_EQ(tepal_future_error(future)->code, TEPAL_ETIMEDOUT);
    tepal_future_unref(future);
    network_close(&net);
}

TEST(sim_found, keep_alive_that_is_set_again_and_again_is_one_keep_alive) {
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    for (int i = 0; i < 2000; i++) {
        CHECK_OK(tepal_transport_set_keep_alive(net.connected->transport, true, 1, 1, 3));
    }
    network_pass(&net, TEPAL_SEC(10000)); /* a chain for each would take minutes */
    CHECK_EQ(net.connected->losts, 0);
    network_close(&net);
}

/* ---- Names and numbers ---- */

TEST(sim_found, a_host_for_which_no_loop_can_be_made_is_not_there) {
    network net = {0};
    tepal_loop *loop;
    tepal_address address;
    network_open(&net, 1);
    CHECK_EQ(tepal_sim_add_host(net.sim, "ghost", TEPAL_OPTIONS(tepal_loop_options, .read_bytes = 1), &loop),
             TEPAL_EINVAL);
    CHECK_EQ(tepal_sim_address(net.sim, "ghost", AF_INET, 1, &address), TEPAL_ENOENT);
    CHECK_EQ(tepal_sim_fault(net.sim, "stall ghost 1s"), TEPAL_EINVAL);
    network_fault(&net, "crash client");
    CHECK_EQ(tepal_sim_add_host(net.sim, "client", TEPAL_OPTIONS(tepal_loop_options, .read_bytes = 1), &loop),
             TEPAL_EINVAL);
    CHECK_EQ(tepal_loop_run_forever(net.client), TEPAL_SYSTEM(EHOSTDOWN)); /* it is as crashed as before */
    CHECK_OK(tepal_sim_add_host(net.sim, "ghost", NULL, &loop));
    CHECK_OK(tepal_sim_add_host(net.sim, "client", NULL, &loop));
    CHECK_EQ(tepal_sim_add_host(net.sim, "10.0.0.2", NULL, &loop), TEPAL_EINVAL);
    network_close(&net);
}

TEST(sim_found, only_a_star_alone_means_every_host) {
    network net = {0};
    network_open(&net, 1);
    CHECK_EQ(tepal_sim_fault(net.sim, "crash *b"), TEPAL_EINVAL);
    CHECK_EQ(tepal_sim_fault(net.sim, "stall ** 1s"), TEPAL_EINVAL);
    network_connect(&net);
    network_close(&net);
}
