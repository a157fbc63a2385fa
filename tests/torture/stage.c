/* See stage.h. */
#include "torture/stage.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    HANG_TURNS = 5000,   /* idle ones: nothing will come any more */
    SPIN_TURNS = 100000, /* in one scene, whether they do anything or not */
    STALL_TURNS = 3      /* where the fault may do that */
};

/* ---- Nodes ---- */

static int node_made(tepal_protocol *protocol, tepal_transport *transport) {
    node *self = (node *)protocol;

    CHECK_EQ(self->made++, 0);
    CHECK_EQ(self->lost, 0);
    self->transport = transport;
    self->stage->progress++;
    if (self->on_made != NULL) {
        self->on_made(self);
    }
    return 0;
}

static int node_received(tepal_protocol *protocol, const void *data, size_t length) {
    node *self = (node *)protocol;

    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->lost, 0);
    CHECK_EQ(self->eofs, 0);
    CHECK_GT(length, 0);
    stream_check((uint64_t)self->seed_in, self->received, data, length);
    self->received += length;
    self->stage->progress++;
    if (self->echo && tepal_transport_write(self->transport, data, length) == 0) {
        self->sent += length;
    }
    if (self->on_data != NULL) {
        self->on_data(self);
    }
    return 0;
}

static int node_get_buffer(tepal_protocol *protocol, size_t hint, void **buffer, size_t *length) {
    node *self = (node *)protocol;

    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->lost, 0);
    *buffer = self->lent;
    *length = self->decline ? 0 : hint < sizeof self->lent ? hint : sizeof self->lent;
    self->decline = !self->decline; /* every other time */
    return 0;
}

static int node_updated(tepal_protocol *protocol, size_t length) {
    return node_received(protocol, ((node *)protocol)->lent, length);
}

static int node_eof(tepal_protocol *protocol) {
    node *self = (node *)protocol;

    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->lost, 0);
    CHECK_EQ(self->eofs++, 0);
    self->stage->progress++;
    if (self->on_eof != NULL) {
        self->on_eof(self);
    }
    return self->keep_open ? TEPAL_KEEP_OPEN : 0;
}

static void node_pause(tepal_protocol *protocol) {
    node *self = (node *)protocol;

    CHECK_EQ(self->lost, 0);
    CHECK(!self->is_paused);
    self->is_paused = true;
}

static void node_resume(tepal_protocol *protocol) {
    node *self = (node *)protocol;

    CHECK_EQ(self->lost, 0);
    CHECK(self->is_paused);
    self->is_paused = false;
    self->stage->progress++;
}

static void node_lost(tepal_protocol *protocol, const tepal_error *error) {
    node *self = (node *)protocol;

    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->lost++, 0);
    self->lost_code = error == NULL ? 0 : error->code;
    self->stage->progress++;
    if (self->on_lost != NULL) {
        self->on_lost(self);
    }
    self->transport = NULL;
}

static const tepal_protocol_type reading_type = {
    .size = sizeof(tepal_protocol_type),
    .connection_made = node_made,
    .data_received = node_received,
    .eof_received = node_eof,
    .pause_writing = node_pause,
    .resume_writing = node_resume,
    .connection_lost = node_lost,
};

static const tepal_protocol_type lending_type = {
    .size = sizeof(tepal_protocol_type),
    .connection_made = node_made,
    .data_received = node_received,
    .get_buffer = node_get_buffer,
    .buffer_updated = node_updated,
    .eof_received = node_eof,
    .pause_writing = node_pause,
    .resume_writing = node_resume,
    .connection_lost = node_lost,
};

node *stage_node(stage *self, role *as) {
    CHECK_LT(self->node_count, STAGE_NODES);
    node *made = &self->nodes[self->node_count++];
    *made = (node){
        .protocol.type = as->lends ? &lending_type : &reading_type,
        .stage = self,
        .number = as->made++,
        .seed_in = as->seed_in,
        .seed_out = as->seed_out,
        .served = as->served,
        .echo = as->echo,
        .keep_open = as->keep_open,
        .on_made = as->on_made,
        .on_data = as->on_data,
        .on_eof = as->on_eof,
        .on_lost = as->on_lost,
    };
    return made;
}

int stage_factory(void *argument, tepal_protocol **protocol) {
    role *self = argument;
    *protocol = &stage_node(self->stage, self)->protocol;
    return 0;
}

node *stage_adopt(stage *self, role *as, int fd, const tepal_transport_options *options) {
    tepal_transport *transport;
    node *made = stage_node(self, as);

    if (!stage_ok(self, tepal_loop_adopt(self->loop, fd, &made->protocol, options, &transport))) {
        self->node_count--;
        return NULL;
    }
    made->held = tepal_transport_ref(transport);
    if (options == NULL || !options->borrow) {
        stage_give(self, fd);
    }
    return made;
}

static node *find_node(stage *self, int number, bool served) {
    for (int i = 0; i < self->node_count; i++) {
        node *found = &self->nodes[i];
        if (found->number == number && found->served == served) {
            return found;
        }
    }
    return NULL;
}

node *stage_client(stage *self, int number) {
    return find_node(self, number, false);
}

node *stage_served(stage *self, int number) {
    return find_node(self, number, true);
}

bool node_is_open(const node *self) {
    return self != NULL && self->transport != NULL && self->lost == 0;
}

void node_write(node *self, size_t length) {
    uint8_t data[16384];

    while (length > 0 && node_is_open(self)) {
        const size_t part = length < sizeof data ? length : sizeof data;
        stream_fill((uint64_t)self->seed_out, self->sent, data, part);
        if (!stage_ok(self->stage, tepal_transport_write(self->transport, data, part))) {
            return;
        }
        self->sent += part;
        length -= part;
    }
}

void node_narrow(node *self) {
    const int size = 1; /* the kernel makes it its least */

    if (node_is_open(self)) {
        const int fd = tepal_transport_fd(self->transport);
        faults_own_begin();
        CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
        faults_own_end();
        (void)tepal_transport_set_write_limits(self->transport, 3000, 1000, UINT64_MAX);
    }
}

void node_end(node *self) {
    if (node_is_open(self)) {
        (void)stage_ok(self->stage, tepal_transport_write_eof(self->transport));
    }
}

void node_hang_up(node *self) {
    if (node_is_open(self)) {
        tepal_transport_close(self->transport);
    }
}

void node_abort(node *self) {
    if (node_is_open(self)) {
        tepal_transport_abort(self->transport, TEPAL_ERROR(TEPAL_DOMAIN_USER, 7));
    }
}

void node_reset_when_over(node *self) {
    const struct linger now = {.l_onoff = 1};

    if (self->eofs > 0 && self->stage->path[0] == '\0') {
        const int fd = tepal_transport_fd(self->transport);
        faults_own_begin();
        CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
        faults_own_end();
    }
}

/* ---- Turns ---- */

static void hear_of(stage *self, int code) {
    self->told = self->told || (self->plan != NULL && code == TEPAL_SYSTEM(self->plan->error));
}

bool stage_ok(stage *self, int code) {
    CHECK_NE(code, TEPAL_EINVARIANT);
    hear_of(self, code);
    if (code < 0 && self->strict && !self->over) {
        test_fail(__FILE__, __LINE__, "a call of the library failed: %s", tepal_strerror(code));
    }
    return code >= 0;
}

void stage_refused(stage *self, int code) {
    CHECK_LT(code, 0);
    CHECK_NE(code, TEPAL_EINVARIANT);
    hear_of(self, code);
}

static bool is_wait(system_call call) {
    return call == CALL_epoll_wait || call == CALL_epoll_pwait2 || call == CALL_ppoll || call == CALL_io_uring_enter ||
           call == CALL_io_uring_register; /* enables it before the first wait */
}

void stage_ran(stage *self, int status) {
    if (status < 0) {
        CHECK(self->plan != NULL && is_wait(self->plan->call) && !self->strict);
        CHECK_EQ(status, TEPAL_SYSTEM(self->plan->error));
        self->over = true;
    }
}

bool stage_turn(stage *self) {
    const uint64_t before = self->progress;

    if (self->over || self->loop == NULL) {
        return false;
    }
    const int status = tepal_loop_step(self->loop, TEPAL_MS(1));
    stage_ran(self, status);
    CHECK_LT(++self->turns, SPIN_TURNS);
    self->idle = status == 0 && self->progress == before ? self->idle + 1 : 0;
    if (self->idle > self->patience) {
        if (!self->may_stall) {
            test_fail(__FILE__, __LINE__, "nothing moves any more");
        }
        self->over = true;
    }
    return !self->over;
}

void stage_turns(stage *self, int count) {
    while (count-- > 0 && stage_turn(self)) {
    }
}

void stage_count(void *argument) {
    stage *self = argument;
    self->called++;
    self->progress++;
}

/* ---- Servers and connections ---- */

tepal_server *stage_listen_with(stage *self, const tepal_server_options *options) {
    tepal_server *server;

    CHECK_LT(self->server_count, STAGE_SERVERS);
    if (!stage_ok(self, tepal_loop_listen(self->loop, stage_factory, &self->server, options, &server))) {
        return NULL;
    }
    self->servers[self->server_count++] = server;
    return server;
}

void stage_host(char host[STAGE_HOST]) {
    static unsigned number;

    number++;
    snprintf(host, STAGE_HOST, "127.%u.%u.%u", 1 + number / 62500 % 250, 1 + number / 250 % 250, 1 + number % 250);
}

tepal_server *stage_listen(stage *self, stage_kind kind) {
    char text[STAGE_HOST];
    const char *hosts[] = {kind == STAGE_TCP6 ? "::1" : text};

    if (kind == STAGE_UNIX) {
        snprintf(self->path, sizeof self->path, "%s/socket", test_directory());
        return stage_listen_with(self, TEPAL_OPTIONS(tepal_server_options, .unix_path = self->path));
    }
    stage_host(text);
    return stage_listen_with(self, TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1));
}

tepal_future *stage_dial_with(stage *self, const tepal_connect_options *options) {
    tepal_future *future;

    if (!stage_ok(self, tepal_loop_create_connection(self->loop, stage_factory, &self->client, options, &future))) {
        return NULL;
    }
    stage_keep(self, future);
    return future;
}

tepal_future *stage_dial(stage *self, stage_kind kind) {
    tepal_address address;
    char text[INET6_ADDRSTRLEN];

    if (self->server_count == 0) {
        return NULL;
    }
    if (kind == STAGE_UNIX) {
        return stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .unix_path = self->path));
    }
    if (!stage_ok(self, tepal_server_local(self->servers[self->server_count - 1], 0, &address))) {
        return NULL;
    }
    if (kind == STAGE_TCP6) {
        snprintf(text, sizeof text, "::1");
    } else {
        inet_ntop(AF_INET, &((struct sockaddr_in *)&address.storage)->sin_addr, text, sizeof text);
    }
    return stage_dial_with(
        self, TEPAL_OPTIONS(tepal_connect_options, .host = text, .port = (uint16_t)tepal_address_port(&address)));
}

void stage_keep(stage *self, tepal_future *future) {
    CHECK_LT(self->future_count, STAGE_FUTURES);
    self->futures[self->future_count++] = future;
}

bool stage_all_done(const stage *self) {
    for (int i = 0; i < self->future_count; i++) {
        if (!tepal_future_is_done(self->futures[i])) {
            return false;
        }
    }
    return true;
}

bool stage_all_lost(const stage *self) {
    for (int i = 0; i < self->node_count; i++) {
        if (self->nodes[i].lost == 0) {
            return false;
        }
    }
    return true;
}

bool stage_all_closed(const stage *self) {
    tepal_loop_stats stats = {.size = sizeof stats};

    CHECK_OK(tepal_loop_get_stats(self->loop, &stats));
    return stage_all_lost(self) && stats.transports == 0;
}

static bool all_are_served(const stage *self) {
    int waiting = 0;

    for (int i = 0; i < self->node_count; i++) {
        waiting += self->nodes[i].served ? -1 : self->nodes[i].lost == 0;
    }
    return waiting <= 0;
}

void stage_serve(stage *self, stage_kind kind, int clients) {
    if (stage_listen(self, kind) == NULL) {
        return;
    }
    for (int i = 0; i < clients; i++) {
        (void)stage_dial(self, kind);
    }
    STAGE_UNTIL(self, stage_all_done(self));
    for (int i = 0; i < self->future_count; i++) {
        STAGE_WANT(self, tepal_future_error(self->futures[i]) == NULL);
    }
    STAGE_UNTIL(self, all_are_served(self)); /* or have heard that they are not */
}

void stage_close_servers(stage *self) {
    tepal_future *future;

    for (int i = 0; i < self->server_count; i++) {
        tepal_server_close(self->servers[i]);
        if (stage_ok(self, tepal_server_wait_closed(self->servers[i], &future))) {
            stage_keep(self, future);
        }
    }
    STAGE_UNTIL(self, stage_all_done(self));
}

/* ---- Descriptors of the scene's own ---- */

void stage_take(stage *self, int fd) {
    CHECK_LT(self->fd_count, STAGE_FDS);
    self->fds[self->fd_count++] = fd;
}

void stage_give(stage *self, int fd) {
    for (int i = 0; i < self->fd_count; i++) {
        if (self->fds[i] == fd) {
            self->fds[i] = self->fds[--self->fd_count];
            return;
        }
    }
    test_fail(__FILE__, __LINE__, "descriptor %d was not the scene's", fd);
}

void stage_close_fd(stage *self, int fd) {
    stage_give(self, fd);
    faults_own_begin();
    CHECK_EQ(close(fd), 0);
    faults_own_end();
}

int stage_bound(stage *self, const char *host, uint16_t *port) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    const int on = 1;

    CHECK_EQ(inet_pton(AF_INET, host, &address.sin_addr), 1);
    faults_own_begin();
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_GE(fd, 0);
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
    CHECK_EQ(bind(fd, (struct sockaddr *)&address, length), 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    faults_own_end();
    *port = ntohs(address.sin_port);
    stage_take(self, fd);
    return fd;
}

/* Two connected TCP sockets. */
static void tcp_pair(stage *self, int fds[2]) {
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    char host[STAGE_HOST];
    uint16_t port;

    stage_host(host);
    const int listener = stage_bound(self, host, &port);
    CHECK_EQ(listen(listener, 1), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&address, &length), 0);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK_GE(fds[0], 0);
    CHECK_EQ(connect(fds[0], (struct sockaddr *)&address, length), 0);
    fds[1] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK_GE(fds[1], 0);
    stage_close_fd(self, listener);
}

void stage_pair(stage *self, stage_kind kind, int fds[2]) {
    faults_own_begin();
    if (kind == STAGE_UNIX) {
        test_socketpair(fds);
    } else {
        tcp_pair(self, fds);
    }
    faults_own_end();
    stage_take(self, fds[0]);
    stage_take(self, fds[1]);
}

void stage_pipe(stage *self, int fds[2]) {
    CHECK_EQ(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
    stage_take(self, fds[0]);
    stage_take(self, fds[1]);
}

/* ---- Beginning and end ---- */

static void note_report(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    (void)loop;
    hear_of(argument, error->code);
    if (error->code == TEPAL_EINVARIANT || error->code == TEPAL_ETHREAD) {
        test_fail(__FILE__, __LINE__, "%s: %s", what, error->text);
    }
}

void stage_finish(stage *self) {
    CHECK_OK(tepal_loop_close(self->loop));
    for (int i = 0; i < self->node_count; i++) {
        CHECK_EQ(self->nodes[i].made, 1);
        CHECK_EQ(self->nodes[i].lost, 1);
        hear_of(self, self->nodes[i].lost_code);
        tepal_transport_unref(self->nodes[i].held);
    }
    for (int i = 0; i < self->server_count; i++) {
        tepal_server_unref(self->servers[i]);
    }
    for (int i = 0; i < self->future_count; i++) {
        CHECK(tepal_future_is_done(self->futures[i]));
        for (const tepal_error *error = tepal_future_error(self->futures[i]); error != NULL; error = error->next) {
            hear_of(self, error->code);
        }
        tepal_future_unref(self->futures[i]);
    }
    tepal_loop_unref(self->loop);
}

static void clean_up(stage *self) {
    faults_own_begin();
    while (self->fd_count > 0) {
        stage_close_fd(self, self->fds[0]);
    }
    if (self->path[0] != '\0') {
        (void)unlink(self->path);
    }
    faults_own_end();
}

bool stage_play(const scene *played, const fault *plan, bool may_be_noticed) {
    const int fds_before = test_fd_count();
    const size_t live_before = test_alloc_live();
    stage *self = calloc(1, sizeof *self);

    CHECK(self != NULL);
    self->plan = plan;
    self->strict = plan == NULL || !may_be_noticed;
    self->may_stall = plan != NULL && may_be_noticed && call_may_stall(plan->call, plan->error);
    self->patience = self->may_stall ? STALL_TURNS : HANG_TURNS;
    self->client = (role){.stage = self, .seed_in = STREAM_OF_SERVER, .seed_out = STREAM_OF_CLIENT};
    self->server = (role){.stage = self, .served = true, .seed_in = STREAM_OF_CLIENT, .seed_out = STREAM_OF_SERVER};
    faults_arm(plan);
    const int code =
        tepal_loop_new(&self->loop, TEPAL_OPTIONS(tepal_loop_options, .driver = test_driver(), .debug = true,
                                                  .slow_callback_ns = -1, .realloc = test_counting_alloc));
    if (stage_ok(self, code)) {
        tepal_loop_set_exception_handler(self->loop, note_report, self);
        played->play(self);
        stage_finish(self);
    } else {
        CHECK(self->loop == NULL);
        CHECK_EQ(code, TEPAL_SYSTEM(plan->error));
    }
    faults_disarm();
    const bool hit = faults_hit();
    if (hit && !self->strict && !played->may_be_silent && call_is_told_of(plan->call, plan->error)) {
        CHECK(self->told);
    }
    clean_up(self);
    free(self);
    CHECK_EQ(test_fd_count(), fds_before);
    CHECK_EQ(test_alloc_live(), live_before);
    return hit;
}
