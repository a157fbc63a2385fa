/* Scenes of how servers and connections come about, for system_calls.c: names, wildcards, files, refusals. */
#include "torture/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { LENGTH = 700 };

static void ask(node *self) {
    node_write(self, LENGTH);
}

static void hang_up_when_answered(node *self) {
    if (self->received == LENGTH) {
        node_hang_up(self);
    }
}

static void set_roles(stage *self) {
    self->client.seed_in = STREAM_OF_CLIENT;
    self->client.on_made = ask;
    self->client.on_data = hang_up_when_answered;
    self->server.echo = true;
    self->server.on_lost = node_reset_when_over;
}

static uint16_t port_of(stage *self, tepal_server *server) {
    tepal_address address;
    return stage_ok(self, tepal_server_local(server, 0, &address)) ? (uint16_t)tepal_address_port(&address) : 0;
}

/* Every client has had its answer, or whoever dialled knows why not. */
static void wait_for_answers(stage *self, int clients) {
    STAGE_UNTIL(self, stage_all_done(self));
    STAGE_UNTIL(self, stage_all_lost(self));
    for (int i = 0; i < clients; i++) {
        const node *client = stage_client(self, i);
        STAGE_WANT(self, client != NULL && client->received == LENGTH);
    }
}

/* ---- Names ---- */

static void named(stage *self) {
    const char *hosts[] = {"list.stub"};
    tepal_future *future;
    tepal_server *server;

    set_roles(self);
    if (!stage_ok(self, tepal_loop_create_server(self->loop, stage_factory, &self->server,
                                                 TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1),
                                                 &future))) {
        return;
    }
    stage_keep(self, future);
    STAGE_UNTIL(self, stage_all_done(self));
    if (!stage_ok(self, tepal_server_result(future, &server))) {
        return;
    }
    self->servers[self->server_count++] = server;
    const uint16_t port = port_of(self, server);
    if (stage_ok(self, tepal_loop_getaddrinfo(self->loop, "list.stub", port, 0, false, &future))) {
        stage_keep(self, future);
    }
    if (port > 0) {
        (void)stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .host = "list.stub", .port = port));
        (void)stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .host = "list.stub", .port = port));
    }
    wait_for_answers(self, 2);
    stage_close_servers(self);
}

static void nameless(stage *self) {
    const char *hosts[] = {"127.0.0.1", "errno-5.stub"};
    tepal_future *server;

    if (stage_ok(self, tepal_loop_create_server(self->loop, stage_factory, &self->server,
                                                TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 2),
                                                &server))) {
        stage_keep(self, server);
    }
    (void)stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .host = "eai--2.stub", .port = 9));
    tepal_future *canceled =
        stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .host = "list.stub", .port = 9));
    stage_turns(self, 1);
    if (canceled != NULL) {
        (void)tepal_future_cancel(canceled);
    }
    STAGE_UNTIL(self, stage_all_done(self));
    for (int i = 0; i < self->future_count; i++) {
        CHECK(self->over || tepal_future_error(self->futures[i]) != NULL);
    }
}

/* ---- Every address of the machine, started later; and a scope in an address ---- */

static void wildcard(stage *self, bool mapped) {
    set_roles(self);
    /* A port of this process alone: one that the kernel chooses may be shared with who asks for reuse_port as well. */
    tepal_server *server =
        stage_listen_with(self, TEPAL_OPTIONS(tepal_server_options, .port = (uint16_t)(10000 + getpid() % 20000),
                                              .reuse_port = true, .ipv4_mapped = mapped, .do_not_start = true));
    if (server == NULL || !stage_ok(self, tepal_server_start_serving(server))) {
        return;
    }
    const uint16_t port = port_of(self, server);
    tepal_address local;
    char host[STAGE_HOST];
    stage_host(host);
    CHECK_OK(tepal_address_parse(&local, host, 0));
    if (port > 0) {
        (void)stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .port = port, .limit_ns = TEPAL_SEC(60)));
        (void)stage_dial_with(self,
                              TEPAL_OPTIONS(tepal_connect_options, .host = "127.0.0.1", .port = port, .local = &local));
        (void)stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .host = "::1%lo", .port = port));
    }
    wait_for_answers(self, 3);
    stage_close_servers(self);
}

static void wildcard_of_each(stage *self) {
    wildcard(self, false);
}

static void wildcard_of_both(stage *self) {
    wildcard(self, true);
}

/* ---- A listener that is only borrowed ---- */

static void borrowed_listener(stage *self) {
    uint16_t port;
    char host[STAGE_HOST];
    stage_host(host);
    const int fd = stage_bound(self, host, &port);

    set_roles(self);
    faults_own_begin();
    CHECK_EQ(listen(fd, 5), 0);
    faults_own_end();
    if (stage_listen_with(self, TEPAL_OPTIONS(tepal_server_options, .fds = &fd, .fd_count = 1)) == NULL) {
        return;
    }
    (void)stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .host = host, .port = port));
    wait_for_answers(self, 1);
    stage_close_servers(self);
}

/* ---- The file of a Unix socket ---- */

static bool file_exists(const char *path) {
    struct stat status;

    faults_own_begin();
    const bool exists = lstat(path, &status) == 0;
    faults_own_end();
    return exists;
}

/* A socket bound to the stage's path. */
static int bound_unix(stage *self) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};

    snprintf(self->path, sizeof self->path, "%s/file", test_directory());
    memcpy(name.sun_path, self->path, sizeof self->path);
    faults_own_begin();
    (void)unlink(self->path);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK_EQ(bind(fd, (struct sockaddr *)&name, sizeof name), 0);
    faults_own_end();
    stage_take(self, fd);
    return fd;
}

static void dead_file(stage *self) {
    tepal_server *second;

    set_roles(self);
    stage_close_fd(self, bound_unix(self));
    tepal_server *server = stage_listen_with(self, TEPAL_OPTIONS(tepal_server_options, .unix_path = self->path));
    if (server == NULL) {
        return;
    }
    const int code = tepal_loop_listen(self->loop, stage_factory, &self->server,
                                       TEPAL_OPTIONS(tepal_server_options, .unix_path = self->path), &second);
    if (code == 0) { /* taken for dead: what it asked of the living one has failed */
        CHECK(!self->strict);
        self->servers[self->server_count++] = second;
    }
    STAGE_WANT(self, code == TEPAL_SYSTEM(EADDRINUSE));
    (void)stage_dial(self, STAGE_UNIX);
    wait_for_answers(self, 1);
    stage_close_servers(self);
    STAGE_WANT(self, !file_exists(self->path));
}

/* ---- Nobody is there, or nobody answers yet ---- */

static void refused(stage *self) {
    uint16_t port;
    char host[STAGE_HOST];
    stage_host(host);
    (void)stage_bound(self, host, &port);
    (void)stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .port = 1));
    (void)stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .host = host, .port = port));
    (void)stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .unix_path = "/nowhere/to/be/found"));
    tepal_future *canceled = stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .host = host, .port = port));
    if (canceled != NULL) {
        (void)tepal_future_cancel(canceled);
    }
    STAGE_UNTIL(self, stage_all_done(self));
    for (int i = 0; i < self->future_count; i++) {
        STAGE_WANT(self, tepal_future_error(self->futures[i]) != NULL);
    }
}

/* Connect until the backlog is full. */
static void fill_backlog(stage *self) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    bool full = false;

    memcpy(name.sun_path, self->path, sizeof self->path);
    faults_own_begin();
    while (!full) {
        const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        CHECK_GE(fd, 0);
        stage_take(self, fd);
        full = connect(fd, (struct sockaddr *)&name, sizeof name) < 0;
    }
    CHECK_EQ(errno, EAGAIN);
    faults_own_end();
}

static void full_backlog(stage *self) {
    const int listener = bound_unix(self);

    faults_own_begin();
    CHECK_EQ(listen(listener, 1), 0);
    faults_own_end();
    fill_backlog(self);
    (void)stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .unix_path = self->path));
    stage_turns(self, 2);
    faults_own_begin();
    const int accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK_GE(accepted, 0);
    faults_own_end();
    stage_take(self, accepted);
    STAGE_UNTIL(self, stage_all_done(self));
    STAGE_WANT(self, node_is_open(stage_client(self, 0)));
    stage_close_fd(self, listener);
    STAGE_UNTIL(self, stage_all_lost(self)); /* with the listener went what it had not accepted */
}

const scene scenes_of_servers[] = {
    {"named", named, true},
    {"nameless", nameless, true},
    {"wildcard_of_each", wildcard_of_each, true},
    {"wildcard_of_both", wildcard_of_both, true},
    {"borrowed_listener", borrowed_listener, false},
    {"dead_file", dead_file, true},
    {"refused", refused, false},
    {"full_backlog", full_backlog, false},
    {NULL, NULL, false},
};
