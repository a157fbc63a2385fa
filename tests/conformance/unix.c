/* Unix stream sockets: paths, abstract names, and what happens to the files. */
#include "conformance/peers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char path[128], address[160];

/* A path in the test's directory, and the same as plain_dial() wants it. */
static void set_path(void) {
    snprintf(path, sizeof path, "%s/socket", test_directory());
    snprintf(address, sizeof address, "unix:%s", path);
}

static int listen_at(peers *all, const char *name, tepal_server **server) {
    return tepal_loop_listen(
        all->loop, peers_factory, all,
        TEPAL_OPTIONS(tepal_server_options, .unix_path = name, .accept_failed = peers_accept_failed), server);
}

static int dial_to(peers *all, const char *name, int64_t limit_ns, tepal_future **future) {
    return tepal_loop_create_connection(all->loop, peers_factory, all,
                                        TEPAL_OPTIONS(tepal_connect_options, .unix_path = name, .limit_ns = limit_ns),
                                        future);
}

/* A plain socket bound to path; a server's, if it listens. */
static int plain_bound_at_path(bool listening) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(name.sun_path, path, strlen(path) + 1);
    CHECK_GE(fd, 0);
    CHECK_EQ(bind(fd, (const struct sockaddr *)&name, sizeof name), 0);
    if (listening) {
        CHECK_EQ(listen(fd, 0), 0);
    }
    return fd;
}

/* Connections to a plain listener at path until its backlog is full; the last one is blocked out. Returns how many. */
static int fill_backlog(int fds[], int room) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    memcpy(name.sun_path, path, strlen(path) + 1);

    for (int count = 0; count < room; count++) {
        fds[count] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        CHECK_GE(fds[count], 0);
        if (connect(fds[count], (const struct sockaddr *)&name, sizeof name) != 0) {
            CHECK_EQ(errno, EAGAIN);
            close(fds[count]);
            return count;
        }
    }
    test_fail(__FILE__, __LINE__, "the backlog never fills");
}

static void close_all(const int fds[], int count) {
    for (int i = 0; i < count; i++) {
        close(fds[i]);
    }
}

static void check_text(const tepal_address *found, const char *expected) {
    char text[TEPAL_ADDRESS_TEXT];

    CHECK_OK(tepal_address_format(found, text, sizeof text));
    CHECK_STR(text, expected);
}

TEST_DRIVERS(unix_sockets, a_path_connects_and_goes_with_its_server) {
    tepal_future *future;
    tepal_server *server;
    tepal_address found;
    peers all = {.echo = true};
    peers_open(&all);
    set_path();

    CHECK_OK(listen_at(&all, path, &server));
    CHECK_OK(tepal_server_local(server, 0, &found));
    check_text(&found, address);
    check_echo(&all, plain_dial(address, 0));
    PEERS_UNTIL(&all, all.lost == 1);

    all.echo = false;
    CHECK_OK(dial_to(&all, path, 0, &future));
    CHECK_EQ(peers_wait(&all, future), 0);
    peer *self = peers_connected(future);
    CHECK_OK(tepal_transport_peer(self->transport, &found));
    check_text(&found, address);
    PEERS_UNTIL(&all, all.made == 3);

    tepal_server_close(server);
    CHECK_EQ(access(path, F_OK), -1);
    CHECK_EQ(plain_dial(address, 0), -ENOENT);
    tepal_future_unref(future);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(unix_sockets, an_abstract_name_needs_no_file) {
    char name[64], plain[80];
    tepal_future *future;
    tepal_server *server, *second;
    tepal_address found;
    peers all = {.echo = true};
    peers_open(&all);
    snprintf(name, sizeof name, "@tepal-test-%d-%s", (int)getpid(), test_driver());
    snprintf(plain, sizeof plain, "unix:%s", name);

    CHECK_OK(listen_at(&all, name, &server));
    CHECK_EQ(listen_at(&all, name, &second), TEPAL_SYSTEM(EADDRINUSE));
    CHECK_OK(tepal_server_local(server, 0, &found));
    check_text(&found, plain);
    check_echo(&all, plain_dial(plain, 0));
    all.echo = false;
    CHECK_OK(dial_to(&all, name, 0, &future));
    CHECK_EQ(peers_wait(&all, future), 0);
    CHECK_EQ(access(name, F_OK), -1);
    tepal_server_close(server);
    CHECK_EQ(plain_dial(plain, 0), -ECONNREFUSED);
    tepal_future_unref(future);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(unix_sockets, names_that_cannot_be_are_refused) {
    char longest[109];
    tepal_future *future;
    tepal_server *server;
    peers all = {0};
    peers_open(&all);
    memset(longest, 'x', sizeof longest);
    longest[108] = '\0'; /* one more than a path may have */

    CHECK_EQ(listen_at(&all, longest, &server), TEPAL_EINVAL);
    CHECK_EQ(listen_at(&all, "", &server), TEPAL_EINVAL);
    CHECK_EQ(listen_at(&all, "@", &server), TEPAL_EINVAL);
    CHECK_EQ(dial_to(&all, longest, 0, &future), TEPAL_EINVAL);
    CHECK_EQ(dial_to(&all, "", 0, &future), TEPAL_EINVAL);
    CHECK_EQ(dial_to(&all, "@", 0, &future), TEPAL_EINVAL);
    CHECK_EQ(listen_at(&all, "/nowhere/at/all", &server), TEPAL_ENOENT);
    longest[0] = '@'; /* for an abstract name it is just right */
    longest[1 + snprintf(longest + 1, 32, "%d", (int)getpid())] = 'x';
    CHECK_OK(listen_at(&all, longest, &server));
    tepal_server_close(server);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(unix_sockets, the_file_of_a_dead_server_is_replaced) {
    tepal_server *server;
    peers all = {.echo = true};
    peers_open(&all);
    set_path();
    close(plain_bound_at_path(true));
    CHECK_EQ(access(path, F_OK), 0);

    CHECK_OK(listen_at(&all, path, &server));
    check_echo(&all, plain_dial(address, 0));
    tepal_server_close(server);
    CHECK_EQ(access(path, F_OK), -1);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(unix_sockets, what_is_not_a_dead_server_is_left_alone) {
    int fds[8];
    struct stat before, after;
    tepal_server *server;
    peers all = {0};
    peers_open(&all);
    set_path();

    const int alive = plain_bound_at_path(true);
    CHECK_EQ(stat(path, &before), 0);
    CHECK_EQ(listen_at(&all, path, &server), TEPAL_SYSTEM(EADDRINUSE));
    const int filled = fill_backlog(fds, 8); /* with a full backlog it is still alive */
    CHECK_EQ(listen_at(&all, path, &server), TEPAL_SYSTEM(EADDRINUSE));
    CHECK_EQ(stat(path, &after), 0);
    CHECK_EQ(before.st_ino, after.st_ino);
    close_all(fds, filled);
    close(alive);
    CHECK_EQ(unlink(path), 0);

    const int file = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK_GE(file, 0);
    close(file);
    CHECK_EQ(listen_at(&all, path, &server), TEPAL_SYSTEM(EADDRINUSE));
    CHECK_EQ(stat(path, &after), 0);
    CHECK(S_ISREG(after.st_mode));
    CHECK_EQ(unlink(path), 0);
    peers_close(&all);
}

TEST_DRIVERS(unix_sockets, a_path_that_somebody_else_has_taken_over_is_left_alone) {
    tepal_server *server;
    peers all = {0};
    peers_open(&all);
    set_path();

    CHECK_OK(listen_at(&all, path, &server));
    CHECK_EQ(unlink(path), 0);
    const int other = plain_bound_at_path(true);
    tepal_server_close(server);
    CHECK_EQ(access(path, F_OK), 0);
    close(other);
    CHECK_EQ(unlink(path), 0);
    tepal_server_unref(server);
    peers_close(&all);
}

TEST_DRIVERS(unix_sockets, the_loops_end_removes_the_path) {
    tepal_server *server;
    peers all = {0};
    peers_open(&all);
    set_path();

    CHECK_OK(listen_at(&all, path, &server));
    tepal_server_unref(server);
    peers_close(&all);
    CHECK_EQ(access(path, F_OK), -1);
}

TEST_DRIVERS(unix_sockets, a_full_backlog_is_waited_for) {
    int fds[8];
    tepal_future *future;
    peers all = {0};
    peers_open(&all);
    set_path();
    const int listener = plain_bound_at_path(true);
    const int filled = fill_backlog(fds, 8);

    CHECK_OK(dial_to(&all, path, 0, &future));
    peers_run_for(&all, TEPAL_MS(20));
    CHECK(!tepal_future_is_done(future));
    const int accepted = accept(listener, NULL, NULL);
    CHECK_EQ(peers_wait(&all, future), 0);
    tepal_transport_close(peers_connected(future)->transport);
    tepal_future_unref(future);

    close(accepted);
    close(listener);
    close_all(fds, filled);
    PEERS_UNTIL(&all, all.lost == 1);
    peers_close(&all);
}

TEST_DRIVERS(unix_sockets, waiting_for_a_full_backlog_ends_with_the_limit_a_cancellation_or_the_loop) {
    int fds[8];
    tepal_future *limited, *canceled, *closed;
    peers all = {0};
    peers_open(&all);
    set_path();
    const int listener = plain_bound_at_path(true);
    const int filled = fill_backlog(fds, 8);

    CHECK_OK(dial_to(&all, path, TEPAL_MS(20), &limited));
    CHECK_OK(dial_to(&all, path, 0, &canceled));
    CHECK_OK(dial_to(&all, path, 0, &closed));
    CHECK_EQ(peers_wait(&all, limited), TEPAL_ETIMEDOUT);
    check_text(tepal_future_error(limited)->address, address);
    CHECK(tepal_future_cancel(canceled));
    peers_close_loop(&all);
    CHECK_EQ(tepal_future_result(closed, NULL), TEPAL_ECLOSED);
    tepal_future_unref(limited);
    tepal_future_unref(canceled);
    tepal_future_unref(closed);
    peers_free(&all);
    close(listener);
    close_all(fds, filled);
}

TEST_DRIVERS(unix_sockets, an_error_names_the_path) {
    tepal_future *future;
    peers all = {0};
    peers_open(&all);
    set_path();

    CHECK_OK(dial_to(&all, path, 0, &future));
    CHECK_EQ(peers_wait(&all, future), TEPAL_ENOENT);
    check_text(tepal_future_error(future)->address, address);
    tepal_future_unref(future);
    close(plain_bound_at_path(false));
    CHECK_OK(dial_to(&all, path, 0, &future));
    CHECK_EQ(peers_wait(&all, future), TEPAL_SYSTEM(ECONNREFUSED));
    tepal_future_unref(future);
    peers_close(&all);
}
