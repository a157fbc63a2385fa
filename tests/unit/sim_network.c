/* The simulated network without faults: hosts, names, time, whose turn it is, and what it has not got. */
#include "unit/sim_fixture.h"

#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

TEST(sim, two_hosts_talk_over_the_network) {
    network net = {.server_echoes = true};
    network_open(&net, 1);
    network_connect(&net);
    network_write(net.connected, 1000000);
    CHECK_OK(tepal_transport_write_eof(net.connected->transport));
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0); /* until nothing is left to happen */
    CHECK_EQ(net.accepted->received, 1000000);
    CHECK_EQ(net.connected->received, 1000000);
    CHECK_EQ(net.connected->lost_code, 0);
    CHECK_EQ(net.accepted->losts, 1);
    CHECK_EQ(net.reports, 0);
    network_close(&net);
}

TEST(sim, a_host_is_found_by_its_name_and_by_both_addresses_and_itself_as_localhost) {
    static const char *const names[] = {"server", "10.0.0.1", "fd00::1"};
    network net = {0};
    network_open(&net, 1);
    for (size_t i = 0; i < 3; i++) {
        CHECK_OK(network_dial(&net, names[i]));
    }
    CHECK_EQ(network_dial(&net, "localhost"), TEPAL_SYSTEM(ECONNREFUSED)); /* the client does not listen */
    CHECK_EQ(network_dial(&net, "nobody"), TEPAL_ERROR(TEPAL_DOMAIN_RESOLVER, abs(EAI_NONAME)));
    CHECK_EQ(network_dial(&net, "10.0.0.9"), TEPAL_SYSTEM(EHOSTUNREACH));
    tepal_address address, peer;
    CHECK_OK(tepal_sim_address(net.sim, "client", AF_INET6, 1, &address));
    CHECK_OK(network_dial(&net, "fd00::1"));
    network_pass(&net, TEPAL_MS(10));
    CHECK_OK(tepal_transport_peer(net.accepted->transport, &peer));
    CHECK_MEM(&((struct sockaddr_in6 *)&peer.storage)->sin6_addr, &((struct sockaddr_in6 *)&address.storage)->sin6_addr,
              16);
    CHECK_EQ(tepal_sim_address(net.sim, "nobody", AF_INET, 1, &address), TEPAL_ENOENT);
    CHECK_EQ(tepal_sim_address(net.sim, "client", AF_UNIX, 1, &address), TEPAL_EINVAL);
    network_close(&net);
}

static void note_time(void *argument) {
    network *net = argument;
    net->lines = (uint64_t)tepal_sim_time(net->sim);
}

TEST(sim, an_hour_passes_at_once_and_no_timer_is_early) {
    network net = {0};
    network_open(&net, 1);
    const int64_t began_ns = test_now_ns();
    CHECK_OK(tepal_loop_call_later(net.client, TEPAL_SEC(3600), note_time, &net, NULL));
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    CHECK_GE(net.lines, TEPAL_SEC(3600));
    CHECK_LT(net.lines, TEPAL_SEC(3600) + TEPAL_MS(1));
    CHECK_LT(test_now_ns() - began_ns, TEPAL_SEC(600));
    network_close(&net);
}

static void spin(void *argument) {
    network *net = argument;
    CHECK_OK(tepal_loop_call_soon(net->client, spin, net, NULL));
}

TEST(sim, a_host_that_is_never_idle_does_not_keep_the_others_from_their_turns) {
    network net = {0};
    network_open(&net, 1);
    CHECK_OK(tepal_loop_call_soon(net.client, spin, &net, NULL));
    network_connect(&net);
    CHECK_EQ(tepal_sim_run(net.sim, TEPAL_MS(1)), 1);
    CHECK(tepal_sim_failure(net.sim) == NULL); /* it has something to do, so it does not spin */
    network_close(&net);
}

TEST(sim, running_one_loop_runs_the_network) {
    network net = {.server_echoes = true};
    tepal_future *future, *done;
    network_open(&net, 1);
    network_call(&net, net.client, "server", &future);
    CHECK_OK(tepal_loop_run_until_complete(net.client, future));
    network_write(net.connected, 10);
    CHECK_OK(tepal_loop_step(net.client, TEPAL_SEC(1)));
    while (net.connected->received < 10) {
        CHECK_OK(tepal_loop_step(net.client, TEPAL_SEC(1)));
    }
    CHECK_EQ(net.accepted->received, 10);
    tepal_transport_close(net.connected->transport);
    CHECK_OK(tepal_server_wait_closed(net.listener, &done));
    tepal_server_close(net.listener);
    CHECK_OK(tepal_loop_run_until_complete(net.server, done));
    tepal_future_unref(done);
    tepal_future_unref(future);
    network_close(&net);
}

TEST(sim, where_nothing_is_left_to_happen_a_loop_says_so_and_does_not_hang) {
    network net = {0};
    network_open(&net, 1);
    CHECK_EQ(tepal_loop_run_forever(net.client), TEPAL_SYSTEM(EDEADLK));
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    network_close(&net);
}

static void run_inside(void *argument) {
    network *net = argument;
    net->report_code = tepal_sim_run(net->sim, -1);
}

TEST(sim, a_run_inside_a_run_is_refused) {
    network net = {0};
    network_open(&net, 1);
    CHECK_OK(tepal_loop_call_soon(net.client, run_inside, &net, NULL));
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    CHECK_EQ(net.report_code, TEPAL_ERECURSION);
    network_close(&net);
}

static int say_no(void *argument) {
    return --*(int *)argument < 0 ? TEPAL_ERROR(TEPAL_DOMAIN_USER, 7) : 0;
}

TEST(sim, the_programs_check_runs_after_each_turn_and_ends_the_run) {
    tepal_sim *sim;
    tepal_loop *loop;
    int turns = 3;
    CHECK_OK(tepal_sim_new(&sim, TEPAL_OPTIONS(tepal_sim_options, .check = say_no, .argument = &turns)));
    network net = {.sim = sim};
    CHECK_OK(tepal_sim_add_host(sim, "a", NULL, &loop));
    for (int i = 1; i < 10; i++) {
        CHECK_OK(tepal_loop_call_later(loop, TEPAL_SEC(i), note_time, &net, NULL));
    }
    CHECK_EQ(tepal_sim_run(sim, -1), TEPAL_ERROR(TEPAL_DOMAIN_USER, 7));
    CHECK_EQ(turns, -1);
    CHECK(strstr(tepal_sim_failure(sim), "host a") != NULL);
    tepal_sim_free(sim);
}

static void leave(void *argument) {
    tepal_loop_interrupt(argument, TEPAL_ERROR(TEPAL_DOMAIN_USER, 9));
}

TEST(sim, an_interrupt_ends_the_run_and_the_next_one_goes_on) {
    network net = {0};
    network_open(&net, 1);
    network_pass(&net, TEPAL_MS(1));
    CHECK_OK(tepal_loop_call_soon(net.client, leave, net.client, NULL));
    CHECK_OK(tepal_loop_call_soon(net.client, note_time, &net, NULL));
    CHECK_EQ(tepal_sim_run(net.sim, -1), TEPAL_ERROR(TEPAL_DOMAIN_USER, 9));
    net.lines = 0;
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    CHECK_GT(net.lines, 0);
    network_close(&net);
}

static int one_error(void *argument, void **value) {
    *value = argument;
    return argument == NULL ? TEPAL_EINVAL : 0;
}

TEST(sim, blocking_work_runs_in_the_loops_thread_and_can_be_cancelled) {
    network net = {0};
    tepal_future *first, *second, *third;
    void *value;
    network_open(&net, 1);
    CHECK_OK(tepal_loop_run_in_executor(net.client, one_error, &net, NULL, &first));
    CHECK_OK(tepal_loop_run_in_executor(net.client, one_error, NULL, NULL, &second));
    CHECK_OK(tepal_loop_run_in_executor(net.client, one_error, &net, NULL, &third));
    CHECK(tepal_future_cancel(third));
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    CHECK_OK(tepal_future_result(first, &value));
    CHECK(value == &net);
    CHECK_EQ(tepal_future_result(second, &value), TEPAL_EINVAL);
    CHECK_EQ(tepal_future_result(third, &value), TEPAL_ECANCELED);
    tepal_future_unref(first);
    tepal_future_unref(second);
    tepal_future_unref(third);
    network_close(&net);
}

TEST(sim, work_that_has_not_begun_is_cancelled_with_the_loop) {
    network net = {0};
    tepal_future *future;
    void *value;
    network_open(&net, 1);
    CHECK_OK(tepal_loop_run_in_executor(net.client, one_error, &net, NULL, &future));
    CHECK_OK(tepal_loop_close(net.client));
    CHECK_EQ(tepal_future_result(future, &value), TEPAL_ECANCELED);
    tepal_future_unref(future);
    network_close(&net);
}

static void ignore_watch(tepal_watch *watch, unsigned events) {
    (void)watch;
    (void)events;
}

TEST(sim, what_belongs_to_the_kernel_is_not_supported) {
    network net = {0};
    tepal_watch watch = {.fd = 0, .ready = ignore_watch};
    int fds[2];
    test_socketpair(fds);
    network_open(&net, 1);
    CHECK_STR(tepal_loop_driver_name(net.client), "sim");
    CHECK_EQ(tepal_watch_start(net.client, &watch, TEPAL_READABLE), TEPAL_ENOTSUP);
    CHECK_EQ(tepal_loop_add_reader(net.client, fds[0], note_time, &net), TEPAL_ENOTSUP);
    CHECK_EQ(tepal_loop_poll_fd(net.client), TEPAL_ENOTSUP);
    tepal_protocol *protocol;
    CHECK_OK(network_factory(&net, &protocol));
    CHECK_EQ(tepal_loop_adopt(net.client, fds[0], protocol, NULL, NULL), TEPAL_ENOTSUP);
    CHECK_EQ(tepal_sim_close_fd(net.client, fds[0]), TEPAL_EBADF);
    close(fds[0]);
    close(fds[1]);
    network_close(&net);
}

static int keep_descriptor(void *argument, int fd, const tepal_address *peer) {
    (void)peer;
    *(int *)argument = fd;
    return 1;
}

TEST(sim, descriptors_that_are_handed_out_are_above_the_kernels_and_can_be_adopted_or_closed) {
    network net = {0};
    tepal_server *server;
    tepal_protocol *protocol;
    int fd = -1;
    network_open(&net, 1);
    CHECK_OK(tepal_loop_listen(net.server, network_factory, &fd,
                               TEPAL_OPTIONS(tepal_server_options, .port = 81, .accepted = keep_descriptor), &server));
    for (int round = 0; round < 2; round++) {
        tepal_future *future;
        CHECK_OK(tepal_loop_create_connection(net.client, network_factory, &net,
                                              TEPAL_OPTIONS(tepal_connect_options, .host = "server", .port = 81),
                                              &future));
        network_pass(&net, TEPAL_SEC(1));
        tepal_future_unref(future);
        net_end *client = net.connected;
        CHECK_GE(fd, 0x01000000);
        CHECK_EQ(client->losts, 0);
        if (round == 0) {
            CHECK_EQ(tepal_sim_close_fd(net.server, fd), 0);
            CHECK_EQ(tepal_sim_close_fd(net.server, fd), TEPAL_EBADF);
        } else {
            CHECK_OK(network_factory(&net, &protocol));
            CHECK_OK(tepal_loop_adopt(net.server, fd, protocol, NULL, NULL));
            CHECK_EQ(tepal_sim_close_fd(net.server, fd), TEPAL_EBUSY);
            network_write(client, 10);
            network_pass(&net, TEPAL_SEC(1));
            CHECK_EQ(net.connected->received, 10);
            tepal_transport_close(net.connected->transport);
        }
        network_pass(&net, TEPAL_SEC(1));
        CHECK_EQ(client->eofs, 1);
    }
    tepal_server_unref(server);
    network_close(&net);
}

TEST(sim, a_pair_of_sockets_can_be_had) {
    static const int families[] = {AF_UNIX, AF_INET, AF_INET6};
    network net = {0};
    network_open(&net, 1);
    for (int i = 0; i < 3; i++) {
        int fds[2];
        tepal_protocol *a, *b;
        CHECK_OK(tepal_sim_socketpair(net.client, families[i], fds));
        CHECK_OK(network_factory(&net, &a));
        CHECK_OK(network_factory(&net, &b));
        CHECK_OK(tepal_loop_adopt(net.client, fds[0], a, NULL, NULL));
        CHECK_OK(tepal_loop_adopt(net.client, fds[1], b, NULL, NULL));
        network_pass(&net, TEPAL_SEC(1));
        network_write((net_end *)a, 5);
        tepal_transport_close(((net_end *)a)->transport);
        network_pass(&net, TEPAL_SEC(1));
        CHECK_EQ(((net_end *)b)->received, 5);
        CHECK_EQ(((net_end *)b)->losts, 1);
    }
    int fds[2];
    tepal_loop *real;
    CHECK_EQ(tepal_sim_socketpair(net.client, AF_PACKET, fds), TEPAL_ENOTSUP);
    CHECK_OK(tepal_loop_new(&real, TEPAL_OPTIONS(tepal_loop_options, .driver = "epoll")));
    CHECK_EQ(tepal_sim_socketpair(real, AF_UNIX, fds), TEPAL_ENOTSUP);
    tepal_loop_unref(real);
    network_close(&net);
}

TEST(sim, names_of_hosts_are_checked_and_given_once) {
    static const char longest[] = "abcdefghijklmnopqrstuvwx";
    static const char *const bad[] = {
        "", "localhost", "a b", "*", "abcdefghijklmnopqrstuvwxy", "abcdefghijklmnopqrstuvwx!", "a/b", "a;b", "ä"};
    tepal_loop *loop;
    network net = {0};
    network_open(&net, 1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_EQ(tepal_sim_add_host(net.sim, bad[i], NULL, &loop), TEPAL_EINVAL);
    }
    CHECK_OK(tepal_sim_add_host(net.sim, longest, NULL, &loop));
    CHECK_EQ(tepal_sim_add_host(net.sim, "server", NULL, &loop), TEPAL_EBUSY);
    CHECK_EQ(tepal_sim_add_host(net.sim, "x", TEPAL_OPTIONS(tepal_loop_options, .driver = "epoll"), &loop),
             TEPAL_EINVAL);
    CHECK_OK(tepal_loop_close(net.server));
    CHECK_OK(tepal_sim_add_host(net.sim, "server", NULL, &loop)); /* its loop is closed: started anew */
    CHECK_EQ(network_dial(&net, "server"), TEPAL_SYSTEM(ECONNREFUSED));
    network_close(&net);
}

TEST(sim, many_hosts_share_a_network) {
    enum { HOSTS = 40 };
    network net = {.server_echoes = true};
    tepal_future *futures[HOSTS];
    network_open(&net, 1);
    for (int i = 0; i < HOSTS; i++) {
        char name[] = {'h', (char)('0' + i / 10), (char)('0' + i % 10), 0};
        tepal_loop *loop;
        CHECK_OK(tepal_sim_add_host(net.sim, name, NULL, &loop));
        network_call(&net, loop, "server", &futures[i]);
    }
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    for (int i = 0; i < HOSTS; i++) {
        CHECK(tepal_future_error(futures[i]) == NULL);
        tepal_future_unref(futures[i]);
    }
    CHECK_EQ(tepal_server_connection_count(net.listener), HOSTS);
    network_close(&net);
}

/* Alone: a loop on the driver "sim" */

static void stop_loop(void *loop) {
    tepal_loop_stop(loop);
}

static void *post_stop(void *loop) {
    CHECK_OK(tepal_loop_stop_threadsafe(loop));
    return NULL;
}

static void stop_at_signal(int number, void *loop) {
    (void)number;
    tepal_loop_stop(loop);
}

/* Crashes its own host at the first bytes, and counts what it hears. */
typedef struct victim {
    tepal_protocol protocol; /* first */
    tepal_sim *sim;
    int portions, eofs, losts;
} victim;

static int victim_data(tepal_protocol *protocol, const void *data, size_t length) {
    victim *self = (victim *)protocol;
    (void)data;
    (void)length;
    self->portions++;
    return tepal_sim_fault(self->sim, "crash server");
}

static int victim_eof(tepal_protocol *protocol) {
    ((victim *)protocol)->eofs++;
    return 0;
}

static void victim_lost(tepal_protocol *protocol, const tepal_error *error) {
    CHECK(error != NULL && error->code == TEPAL_ECLOSED);
    ((victim *)protocol)->losts++;
}

TEST(sim, a_host_that_crashes_in_an_upcall_hears_nothing_more) {
    static const tepal_protocol_type type = {
        .size = sizeof type, .data_received = victim_data, .eof_received = victim_eof, .connection_lost = victim_lost};
    network net = {0};
    network_open(&net, 1);
    network_connect(&net);
    victim self = {.protocol.type = &type, .sim = net.sim};
    tepal_protocol *old;
    CHECK_OK(tepal_transport_set_protocol(net.accepted->transport, &self.protocol, &old));
    network_fault(&net, "stall server 1s"); /* so that all of it comes at once */
    network_write(net.connected, 1000);
    CHECK_OK(tepal_transport_write_eof(net.connected->transport));
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    CHECK_EQ(self.portions, 1);
    CHECK_EQ(self.eofs, 0);
    CHECK_EQ(self.losts, 0);
    CHECK_OK(tepal_loop_close(net.server));
    CHECK_EQ(self.losts, 1);
    net.accepted->losts = 1; /* its connection was another protocol's */
    network_close(&net);
}

static void wake_server(void *argument) {
    tepal_loop_wake(((network *)argument)->server);
}

static void note_signal(int number, void *argument) {
    ((network *)argument)->lines = (uint64_t)number;
}

static void raise_signal(void *argument) {
    (void)argument;
    CHECK_EQ(raise(SIGUSR1), 0);
}

static uint64_t turns_of(const tepal_loop *loop) {
    tepal_loop_stats stats = {.size = sizeof stats};
    CHECK_OK(tepal_loop_get_stats(loop, &stats));
    return stats.turns;
}

TEST(sim, a_host_that_sleeps_is_woken_by_another_one_and_by_a_signal) {
    network net = {0};
    network_open(&net, 1);
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    const uint64_t turns = turns_of(net.server);
    CHECK_OK(tepal_loop_call_later(net.client, TEPAL_SEC(1), wake_server, &net, NULL));
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    CHECK_EQ(turns_of(net.server), turns + 1);
    CHECK_OK(tepal_loop_add_signal(net.server, SIGUSR1, note_signal, &net));
    CHECK_OK(tepal_loop_call_later(net.client, TEPAL_SEC(1), raise_signal, NULL, NULL));
    CHECK_EQ(tepal_sim_run(net.sim, -1), 0);
    CHECK_EQ(net.lines, SIGUSR1);
    network_close(&net);
}

TEST(sim, a_loop_alone_has_virtual_time_and_hears_of_threads_and_signals) {
    tepal_loop *loop;
    pthread_t thread;
    CHECK_OK(tepal_loop_new(
        &loop, TEPAL_OPTIONS(tepal_loop_options, .driver = "sim", .debug = true, .realloc = test_counting_alloc)));
    const int64_t began_ns = tepal_loop_time(loop);
    CHECK_OK(tepal_loop_call_later(loop, TEPAL_SEC(86400), stop_loop, loop, NULL));
    CHECK_OK(tepal_loop_run_forever(loop));
    CHECK_GE(tepal_loop_time(loop), began_ns + TEPAL_SEC(86400));
    CHECK_EQ(pthread_create(&thread, NULL, post_stop, loop), 0);
    CHECK_OK(tepal_loop_run_forever(loop));
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_OK(tepal_loop_add_signal(loop, SIGUSR1, stop_at_signal, loop));
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK_OK(tepal_loop_run_forever(loop));
    tepal_loop_unref(loop);
}

TEST(sim, the_environment_chooses_driver_and_seed) {
    tepal_loop *loop;
    tepal_sim *sim;
    CHECK_EQ(setenv("TEPAL_DRIVER", "sim", 1), 0);
    CHECK_EQ(setenv("TEPAL_SIM_SEED", "77", 1), 0);
    CHECK_OK(tepal_loop_new(&loop, NULL));
    CHECK_STR(tepal_loop_driver_name(loop), "sim");
    tepal_loop_unref(loop);
    CHECK_OK(tepal_sim_new(&sim, TEPAL_OPTIONS(tepal_sim_options, .seed = 5)));
    CHECK_EQ(tepal_sim_seed(sim), 77);
    tepal_sim_free(sim);
    CHECK_EQ(setenv("TEPAL_SIM_SEED", "7x", 1), 0);
    CHECK_OK(tepal_sim_new(&sim, TEPAL_OPTIONS(tepal_sim_options, .seed = 5)));
    CHECK_EQ(tepal_sim_seed(sim), 5); /* that is no number */
    tepal_sim_free(sim);
}

TEST(sim, a_forked_child_closes_its_copy_in_silence_or_goes_on_with_it) {
    network net = {.server_echoes = true};
    network_open(&net, 1);
    network_connect(&net);
    network_write(net.connected, 100);
    const int losts = net.connected->losts;
    for (int round = 0; round < 2; round++) {
        const pid_t child = fork();
        CHECK_GE(child, 0);
        if (child == 0) {
            if (round == 0) {
                CHECK_OK(tepal_loop_close(net.client));
                CHECK_OK(tepal_loop_close(net.server));
                CHECK_EQ(net.connected->losts, losts);
            } else {
                CHECK_OK(tepal_loop_after_fork(net.client));
                CHECK_OK(tepal_loop_after_fork(net.server));
                network_pass(&net, TEPAL_SEC(1));
                CHECK_EQ(net.connected->received, 100);
            }
            _exit(0);
        }
        int status;
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
    }
    network_pass(&net, TEPAL_SEC(1));
    CHECK_EQ(net.connected->received, 100);
    network_close(&net);
}
