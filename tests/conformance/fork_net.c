/*
 * A forked child closes the loop that it inherited while connections and names are in the middle of something: nobody is
 * called, all memory is given back, and the parent goes on as if nothing had happened.
 */
#include "conformance/shim.h"
#include "unit/resolver_stub.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void wait_for_good_end(pid_t child) {
    int status;

    CHECK_GE(child, 0);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}

/* ---- Names ---- */

static int never_called(void *argument, tepal_protocol **protocol) {
    (void)argument;
    (void)protocol;
    return TEPAL_EMSGSIZE;
}

enum { NAMES = 3 };

static void look_names_up(tepal_loop *loop, tepal_future *futures[NAMES]) {
    static const char *const hosts[] = {"slow.stub"};
    const tepal_server_options server = {.size = sizeof server, .hosts = hosts, .host_count = 1};
    const tepal_connect_options connection = {.size = sizeof connection, .host = "slow.stub", .port = 1};

    CHECK_OK(tepal_loop_getaddrinfo(loop, "slow.stub", 1, 0, false, &futures[0]));
    CHECK_OK(tepal_loop_create_server(loop, never_called, NULL, &server, &futures[1]));
    CHECK_OK(tepal_loop_create_connection(loop, never_called, NULL, &connection, &futures[2]));
    CHECK_OK(tepal_loop_step(loop, 0)); /* connecting begins in a turn */
    for (int i = 0; i < NAMES; i++) {
        resolver_stub_wait();
    }
}

TEST_DRIVERS(fork, a_child_may_close_the_loop_while_names_are_looked_up) {
    tepal_loop *loop = plumbing_loop();
    tepal_future *futures[NAMES];
    tepal_server *server;

    look_names_up(loop, futures);
    const pid_t child = fork();
    if (child == 0) {
        CHECK_OK(tepal_loop_close(loop));
        CHECK_EQ(tepal_future_result(futures[0], NULL), TEPAL_ECANCELED);
        CHECK_EQ(tepal_future_result(futures[1], NULL), TEPAL_ECLOSED);
        CHECK_EQ(tepal_future_result(futures[2], NULL), TEPAL_ECLOSED);
        for (int i = 0; i < NAMES; i++) {
            tepal_future_unref(futures[i]);
        }
        tepal_loop_unref(loop);
        CHECK_EQ(test_alloc_live(), 0);
        _exit(0);
    }
    wait_for_good_end(child);
    for (int i = 0; i < NAMES; i++) {
        resolver_stub_release();
    }
    for (int i = 0; i < NAMES; i++) {
        RUN_UNTIL(loop, tepal_future_is_done(futures[i]));
    }
    CHECK_OK(tepal_future_result(futures[0], NULL));
    CHECK_OK(tepal_server_result(futures[1], &server));
    CHECK_LT(tepal_future_result(futures[2], NULL), 0); /* nobody listens at port 1 */
    tepal_server_close(server);
    tepal_server_unref(server);
    for (int i = 0; i < NAMES; i++) {
        tepal_future_unref(futures[i]);
    }
    plumbing_close(loop);
}

/* ---- Connections ---- */

static void pause_now(script *self) {
    script_pause(self);
}

/* In the child: close the loop, and find everything given back and nobody called. */
static _Noreturn void close_in_child(script *self, tepal_filter *filter) {
    const int made = self->made, losts = self->losts;

    CHECK_OK(tepal_loop_close(self->loop));
    CHECK_EQ(self->made, made);
    CHECK_EQ(self->losts, losts);
    CHECK(filter == NULL || filter->transport != NULL); /* not told either */
    tepal_transport_unref(self->transport);
    tepal_loop_unref(self->loop);
    CHECK_EQ(test_alloc_live(), 0);
    _exit(0);
}

SCRIPT_TEST(fork, a_child_may_close_the_loop_while_read_bytes_wait_for_a_resume) {
    script self = {.on_data = pause_now};

    script_open(&self, SCRIPT_TCP);
    shim *filter = shim_push(&self, 0);
    filter->portion = 100; /* after which the protocol has paused, and the rest is kept */
    script_feed(&self, 1000);
    RUN_UNTIL(self.loop, self.received == 100);
    const pid_t child = fork();
    if (child == 0) {
        close_in_child(&self, &filter->filter);
    }
    wait_for_good_end(child);
    self.on_data = NULL;
    script_resume(&self);
    RUN_UNTIL(self.loop, self.received == 1000);
    script_close(&self);
    free(filter);
}

SCRIPT_TEST(fork, a_child_may_close_the_loop_before_connection_lost_has_been_told) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_abort_now(&self);
    const pid_t child = fork();
    if (child == 0) {
        close_in_child(&self, NULL);
    }
    wait_for_good_end(child);
    RUN_UNTIL(self.loop, self.losts == 1);
    script_close(&self);
}

static void fork_now(void *argument) {
    script *self = argument;

    CHECK_EQ(self->losts, 1); /* but the driver has yet to say its last word */
    const pid_t child = fork();
    if (child == 0) {
        close_in_child(self, NULL);
    }
    wait_for_good_end(child);
}

SCRIPT_TEST(fork, a_child_may_close_the_loop_right_after_connection_lost_was_told) {
    script self = {0};

    script_open(&self, SCRIPT_TCP);
    script_abort_now(&self);
    CHECK_OK(tepal_loop_call_soon(self.loop, fork_now, &self, NULL));
    settle(self.loop);
    script_close(&self);
}
