/* Accepting when it fails, and what the hooks of a server may do. FIELD rows 1 to 3. */
#include "conformance/accept_stub.h"
#include "conformance/peers.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Descriptors run out */

static void limit_descriptors(int count) {
    struct rlimit limit;

    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = (rlim_t)count;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* A child that holds so many connections to the port until it is killed. Returns once all are connected. */
static pid_t dial_from_child(uint16_t port, int count) {
    int ready[2];
    char byte;

    CHECK_EQ(pipe(ready), 0);
    const pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < count; i++) {
            CHECK_GE(plain_dial("127.0.0.1", port), 0);
        }
        CHECK_EQ(write(ready[1], "!", 1), 1);
        for (;;) {
            pause();
        }
    }
    CHECK_EQ(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return child;
}

static uint64_t turns(const peers *all) {
    tepal_loop_stats stats = {.size = sizeof stats};

    CHECK_OK(tepal_loop_get_stats(all->loop, &stats));
    return stats.turns;
}

TEST_DRIVERS_ALONE(accept, does_not_spin_while_descriptors_are_short_and_goes_on_when_they_are_not) {
    peers all = {0};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const pid_t child = dial_from_child(server_port(server, 0), 200);
    limit_descriptors(64);

    PEERS_UNTIL(&all, all.failures == 1);
    CHECK_EQ(all.failure.code, TEPAL_SYSTEM(EMFILE));
    CHECK_GT(all.made, 0);
    const int made = all.made;
    const uint64_t before = turns(&all);
    peers_run_for(&all, TEPAL_MS(700));
    CHECK_EQ(all.made, made);
    CHECK_EQ(all.failures, 1);         /* told once a second at most */
    CHECK_LE(turns(&all) - before, 8); /* after 100, 200 and 400 ms, and what the test adds */
    CHECK(tepal_server_is_serving(server));

    /* A descriptor frees: the next retry takes it. */
    tepal_transport_abort(all.newest->transport, TEPAL_ECANCELED);
    PEERS_UNTIL(&all, all.made == made + 1);

    all.close_when_made = true;
    tepal_server_close_clients(server);
    PEERS_UNTIL(&all, all.made == 200);
    PEERS_UNTIL(&all, all.lost == 200);
    CHECK_EQ(kill(child, SIGKILL), 0);
    waitpid(child, NULL, 0);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS_ALONE(accept, a_server_closed_while_descriptors_are_short_stays_closed) {
    peers all = {0};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const pid_t child = dial_from_child(server_port(server, 0), 100);
    limit_descriptors(64);
    PEERS_UNTIL(&all, all.failures == 1);

    tepal_server_close(server);
    tepal_server_abort_clients(server);
    tepal_server_unref(server); /* it goes with its last connection, long before the retry would have come */
    PEERS_UNTIL(&all, all.lost == all.made);
    const int made = all.made;
    peers_run_for(&all, TEPAL_MS(150));
    CHECK_EQ(all.made, made);
    CHECK_EQ(kill(child, SIGKILL), 0);
    waitpid(child, NULL, 0);
    peers_close(&all);
}

TEST_DRIVERS_ALONE(accept, without_a_hook_the_exception_handler_is_told) {
    peers all = {0};
    peers_open(&all);
    const char *const hosts[] = {"127.0.0.1"};
    tepal_server *server;
    CHECK_OK(tepal_loop_listen(all.loop, peers_factory, &all,
                               TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1), &server));
    const pid_t child = dial_from_child(server_port(server, 0), 1);
    limit_descriptors(test_fd_count());
    PEERS_UNTIL(&all, all.reports == 1);
    CHECK_EQ(all.report_code, TEPAL_SYSTEM(EMFILE));
    peers_close_loop(&all); /* with the retry pending */
    CHECK_EQ(kill(child, SIGKILL), 0);
    waitpid(child, NULL, 0);
    tepal_server_unref(server);
    peers_free(&all);
}

TEST_DRIVERS(accept, asks_once_per_retry_and_ever_more_rarely) {
    peers all = {.echo = true};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const int64_t began_ns = test_now_ns();
    accept_stub_fail(EMFILE, 5);
    const int fd = plain_dial("127.0.0.1", server_port(server, 0));

    PEERS_UNTIL(&all, all.made == 1);
    CHECK_GE(test_now_ns() - began_ns, TEPAL_MS(2500)); /* 100, 200, 400, 800 and 1,000 ms */
    CHECK_EQ(accept_stub_calls(), 7);                   /* the sixth took it, and the seventh found no other */
    CHECK_EQ(all.failures, 2);                          /* the last came more than a second after the first */
    check_echo(&all, fd);
    accept_stub_fail(0, 0);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(accept, an_error_of_the_system_leaves_no_listener_deaf) {
    static const int errors[] = {EMFILE, ENFILE, ENOBUFS, ENOMEM, EIO};
    peers all = {.echo = true};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const uint16_t port = server_port(server, 0);

    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        accept_stub_fail(errors[i], 1);
        check_echo(&all, plain_dial("127.0.0.1", port));
        check_echo(&all, plain_dial("127.0.0.1", port));
    }
    CHECK_GE(all.failures, 1);
    tepal_server_unref(server);
    peers_close(&all);
}

/* Single connections */

TEST_DRIVERS(accept, an_error_of_one_connection_is_not_the_listeners) {
    static const int errors[] = {ECONNABORTED, EPROTO, EPERM, ENETDOWN, EHOSTUNREACH, ETIMEDOUT};
    peers all = {.echo = true};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const uint16_t port = server_port(server, 0);
    const int64_t began_ns = test_now_ns();

    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        accept_stub_fail(errors[i], 3);
        check_echo(&all, plain_dial("127.0.0.1", port));
    }
    CHECK_EQ(all.failures, 0);
    if (!test_is_slow_build()) {
        CHECK_LT(test_now_ns() - began_ns, TEPAL_MS(600)); /* no pause was made */
    }
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(accept, a_thousand_clients_that_reset_at_once_do_no_harm) {
    peers all = {.echo = true};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const uint16_t port = server_port(server, 0);

    for (int i = 0; i < 1000; i++) {
        const int fd = plain_dial("127.0.0.1", port);
        CHECK_GE(fd, 0);
        plain_reset(fd);
        if (i % 7 == 0) {
            CHECK_OK(tepal_loop_step(all.loop, 0));
        }
    }
    check_echo(&all, plain_dial("127.0.0.1", port));
    PEERS_UNTIL(&all, all.lost == all.made && tepal_server_connection_count(server) == 0);
    CHECK_EQ(all.failures, 0);
    tepal_server_unref(server);
    peers_close(&all);
}

/* After fd was refused: the peer sees an end. */
static void check_ended(peers *all, int fd) {
    char byte;
    ssize_t count = -1;

    PEERS_UNTIL(all, (count = recv(fd, &byte, 1, MSG_DONTWAIT)) >= 0 || errno == ECONNRESET);
    CHECK_LE(count, 0);
    close(fd);
}

TEST_DRIVERS(accept, a_factory_that_refuses_ends_that_connection_alone) {
    peers all = {.echo = true, .factory_code = tepal_error_make(TEPAL_DOMAIN_USER, 7)};
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const uint16_t port = server_port(server, 0);

    check_ended(&all, plain_dial("127.0.0.1", port));
    check_ended(&all, plain_dial("127.0.0.1", port));
    CHECK_EQ(all.failures, 2);
    CHECK_EQ(all.failure.code, all.factory_code);
    CHECK(all.failure.address != NULL);
    CHECK_EQ(all.failure_address.storage.ss_family, AF_INET);
    CHECK_EQ(tepal_server_connection_count(server), 0);
    all.factory_code = 0;
    check_echo(&all, plain_dial("127.0.0.1", port));
    tepal_server_unref(server);
    peers_close(&all);
}

static int make_nothing(void *argument, tepal_protocol **protocol) {
    (void)argument;
    (void)protocol;
    return 0;
}

TEST_DRIVERS(accept, a_factory_that_makes_nothing_is_told_as_an_error) {
    const char *const hosts[] = {"127.0.0.1"};
    peers all = {0};
    tepal_server *server;
    peers_open(&all);
    CHECK_OK(tepal_loop_listen(
        all.loop, make_nothing, &all,
        TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .accept_failed = peers_accept_failed),
        &server));
    check_ended(&all, plain_dial("127.0.0.1", server_port(server, 0)));
    CHECK_EQ(all.failures, 1);
    CHECK_EQ(all.failure.code, TEPAL_EINVAL);
    CHECK_EQ(tepal_server_connection_count(server), 0);
    tepal_server_unref(server);
    peers_close(&all);
}

static int answer; /* of the hook below; a test has a process of its own */
static int hooked = -1;

static int accepted(void *argument, int fd, const tepal_address *from) {
    CHECK(argument != NULL);
    CHECK_EQ(from->storage.ss_family, AF_INET);
    hooked = fd;
    return answer;
}

TEST_DRIVERS(accept, the_hook_decides_about_each_connection) {
    const char *const hosts[] = {"127.0.0.1"};
    peers all = {.echo = true};
    tepal_server *server;
    char text[3];
    peers_open(&all);
    CHECK_OK(tepal_loop_listen(
        all.loop, peers_factory, &all,
        TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .accepted = accepted), &server));
    const uint16_t port = server_port(server, 0);

    check_echo(&all, plain_dial("127.0.0.1", port));
    CHECK_EQ(all.made, 1);

    answer = TEPAL_EREFUSED;
    check_ended(&all, plain_dial("127.0.0.1", port));

    answer = 1;
    hooked = -1;
    const int fd = plain_dial("127.0.0.1", port);
    PEERS_UNTIL(&all, hooked >= 0);
    test_write_all(fd, "hi", 3);
    test_read_exactly(hooked, text, 3);
    CHECK_STR(text, "hi");
    CHECK_EQ(all.made, 1);
    CHECK_EQ(all.reports, 0);
    close(fd);
    CHECK_EQ(close(hooked), 0);
    tepal_server_unref(server);
    peers_close(&all);
}

static int fillers[16384];
static int filler_count;

/* Leave no descriptor below this number free. */
static void use_descriptors(int below) {
    do {
        CHECK_LT(filler_count, 16384);
        fillers[filler_count] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        CHECK_GE(fillers[filler_count], 0);
    } while (fillers[filler_count++] < below);
}

TEST_DRIVERS(accept, each_failing_allocation_costs_at_most_one_connection) {
    peers all = {.echo = true};
    bool clean = false;
    peers_open(&all);
    tepal_server *server = peers_serve(&all);
    const uint16_t port = server_port(server, 0);
    check_echo(&all, plain_dial("127.0.0.1", port)); /* what is made once for all is there */
    PEERS_UNTIL(&all, all.lost == 1);

    for (size_t step = 1; !clean; step++) {
        use_descriptors(64 << step); /* so that the driver's table of them grows, too */
        const int made = all.made, failures = all.failures;
        const int fd = plain_dial("127.0.0.1", port);
        test_alloc_fail_at(step, false);
        PEERS_UNTIL(&all, all.made > made || all.failures > failures);
        clean = !test_alloc_has_failed();
        test_alloc_fail_at(0, false);
        if (all.made == made) {
            CHECK_EQ(all.failure.code, TEPAL_ENOMEM);
            check_ended(&all, fd);
        } else {
            check_echo(&all, fd);
        }
        PEERS_UNTIL(&all, all.lost == all.made);
        check_echo(&all, plain_dial("127.0.0.1", port));
        PEERS_UNTIL(&all, all.lost == all.made);
        CHECK_LT(step, 8);
    }
    while (filler_count > 0) {
        close(fillers[--filler_count]);
    }
    tepal_server_unref(server);
    peers_close(&all);
}
