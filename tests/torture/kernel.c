/* What the library asks of the kernel: no more calls than a message needs, and nothing that a child inherits. */
#include "conformance/faults.h"
#include "conformance/peers.h"
#include "conformance/script.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

/* As a protocol does that answers one request before it reads the next. */
static void answer_between_pauses(script *self) {
    script_pause(self);
    script_write(self, self->last_length);
    script_resume(self);
}

SCRIPT_TEST(kernel, an_echo_costs_one_receive_one_send_and_no_registration) {
    enum { MESSAGES = 200, LENGTH = 64 };
    script self = {.on_data = answer_between_pauses};
    script_open(&self, SCRIPT_TCP);
    const size_t sends = sends_counted(), receives = receives_counted(), registrations = registrations_counted();
    size_t of_the_peer = 0; /* its socket is counted, too */

    for (uint64_t i = 1; i <= MESSAGES; i++) {
        const size_t before = sends_counted();
        CHECK_EQ(script_feed(&self, LENGTH), LENGTH);
        of_the_peer += sends_counted() - before;
        RUN_UNTIL(self.loop, self.sent == i * LENGTH);
        settle(self.loop);
    }
    CHECK_EQ(sends_counted() - sends - of_the_peer, MESSAGES);
    CHECK_EQ(receives_counted() - receives, MESSAGES);
    CHECK_EQ(registrations_counted(), registrations);
    script_close(&self);
}

static void stop_soon(void *loop) {
    tepal_loop_stop(loop);
}

/* Two that send back what comes, to each other, in one run. */
TEST_DRIVERS(kernel, a_turn_enters_the_ring_once) {
    peers all = {.echo = true};
    tepal_loop_stats before = {.size = sizeof before}, after = {.size = sizeof after};
    if (strcmp(test_driver(), "uring") != 0) {
        return; /* the others have no ring */
    }
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    tepal_future *future = peers_dial(&all, server_port(server, 0));
    CHECK_OK(peers_wait(&all, future));
    PEERS_UNTIL(&all, all.made == 2);
    CHECK_OK(tepal_transport_write(peers_connected(future)->transport, "x", 1));
    CHECK_OK(tepal_loop_call_later(all.loop, TEPAL_MS(20), stop_soon, all.loop, NULL));
    CHECK_OK(tepal_loop_get_stats(all.loop, &before));
    faults_arm(NULL);
    CHECK_OK(tepal_loop_run_forever(all.loop));
    const size_t enters = faults_count(CALL_io_uring_enter), others = faults_count(CALL_io_uring_register);
    faults_disarm();
    CHECK_OK(tepal_loop_get_stats(all.loop, &after));
    CHECK_GT(after.turns - before.turns, 10);
    CHECK_LE(enters, after.turns - before.turns + 1); /* the run's end submits what is left */
    CHECK_LE(others, 2);                              /* its descriptor is registered, and given back */
    tepal_future_unref(future);
    tepal_server_unref(server);
    peers_close(&all);
}

/* The descriptors that a program started from here finds open. */
static void list_in_child(char *list, size_t size) {
    FILE *child = popen("ls /proc/self/fd", "r");
    CHECK(child != NULL);
    const size_t length = fread(list, 1, size - 1, child);
    list[length] = '\0';
    CHECK_GT(length, 0);
    CHECK_EQ(pclose(child), 0);
}

static void ignore_signal(int signal, void *argument) {
    (void)signal;
    (void)argument;
}

static int work(void *argument, void **value) {
    (void)value;
    return argument == NULL ? 0 : TEPAL_EINVAL;
}

TEST_DRIVERS(kernel, a_program_that_is_started_inherits_no_descriptor) {
    char before[512], after[512], path[160];
    tepal_future *future, *done;
    tepal_server *local;
    peers all = {.echo = true};
    list_in_child(before, sizeof before);

    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    snprintf(path, sizeof path, "%s/socket", test_directory());
    CHECK_OK(tepal_loop_listen(all.loop, peers_factory, &all, TEPAL_OPTIONS(tepal_server_options, .unix_path = path),
                               &local));
    future = peers_dial(&all, server_port(server, 0));
    CHECK_EQ(peers_wait(&all, future), 0);
    PEERS_UNTIL(&all, all.made == 2); /* both ends are ours */
    CHECK_OK(tepal_loop_add_signal(all.loop, SIGUSR1, ignore_signal, NULL));
    CHECK_OK(tepal_loop_run_in_executor(all.loop, work, NULL, NULL, &done));
    CHECK_EQ(peers_wait(&all, done), 0);

    list_in_child(after, sizeof after);
    CHECK_STR(after, before);

    tepal_future_unref(done);
    tepal_future_unref(future);
    tepal_server_unref(local);
    tepal_server_unref(server);
    peers_close(&all);
}
