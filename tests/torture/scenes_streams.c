/* Scenes of transports that are adopted, and of what can be done with one, for system_calls.c. */
#include "torture/stage.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

/* Both ends of a connection on the loop. False when they could not be adopted. */
static bool adopt_both(stage *self, stage_kind kind, node **a, node **b) {
    int fds[2];

    stage_pair(self, kind, fds);
    *a = stage_adopt(self, &self->client, fds[0], NULL);
    *b = stage_adopt(self, &self->server, fds[1], NULL);
    STAGE_UNTIL(self, (node_is_open(*a) || *a == NULL) && (node_is_open(*b) || *b == NULL));
    return node_is_open(*a) && node_is_open(*b);
}

/* ---- Adopted, asked, told, and closed ---- */

static void adopted(stage *self, stage_kind kind) {
    node *a, *b;
    tepal_address address;

    if (!adopt_both(self, kind, &a, &b)) {
        return;
    }
    (void)stage_ok(self, tepal_transport_peer(a->transport, &address));
    (void)stage_ok(self, tepal_transport_local(a->transport, &address));
    if (kind != STAGE_UNIX) {
        (void)stage_ok(self, tepal_transport_set_no_delay(a->transport, false));
        (void)stage_ok(self, tepal_transport_set_keep_alive(a->transport, true, 10, 5, 3));
    }
    stage_refused(self, tepal_loop_adopt(self->loop, tepal_transport_fd(a->transport), &b->protocol, NULL, NULL));
    node_write(a, 2000);
    node_write(b, 3000);
    STAGE_UNTIL(self, (a->received == 3000 && b->received == 2000) || a->lost + b->lost > 0);
    node_hang_up(a);
    STAGE_UNTIL(self, stage_all_closed(self));
}

static void adopted_unix(stage *self) {
    adopted(self, STAGE_UNIX);
}

static void adopted_tcp(stage *self) {
    adopted(self, STAGE_TCP);
}

static void refused(stage *self) {
    int ends[2];
    uint16_t port;
    node *unused = stage_node(self, &self->client);
    char host[STAGE_HOST];
    stage_host(host);
    const int fd = stage_bound(self, host, &port);

    stage_pipe(self, ends);
    stage_refused(self, tepal_loop_adopt(self->loop, ends[0], &unused->protocol, NULL, NULL));
    stage_refused(self, tepal_loop_adopt(self->loop, fd, &unused->protocol, NULL, NULL));
    stage_refused(self, tepal_loop_adopt(self->loop, -1, &unused->protocol, NULL, NULL));
    self->node_count = 0;
}

/* ---- Borrowed, and given back ---- */

static void given_back(void *argument, int fd) {
    stage *self = argument;
    bool known = false;

    for (int i = 0; i < self->fd_count; i++) {
        known = known || self->fds[i] == fd;
    }
    CHECK(known);
    CHECK_GE(fcntl(fd, F_GETFD), 0);
    self->called++;
    self->progress++;
}

static void given_back_alone(void *argument, int fd) {
    faults_own_begin();
    given_back(argument, fd);
    faults_own_end();
}

static void borrowed(stage *self) {
    int fds[2];
    const tepal_transport_options options = {
        .size = sizeof options, .borrow = true, .released = given_back_alone, .argument = self};

    stage_pair(self, STAGE_UNIX, fds);
    node *a = stage_adopt(self, &self->client, fds[0], &options);
    node *b = stage_adopt(self, &self->server, fds[1], &options);
    const int taken = (a != NULL) + (b != NULL);
    STAGE_UNTIL(self, (a == NULL || node_is_open(a)) && (b == NULL || node_is_open(b)));
    if (a != NULL && b != NULL) {
        node_write(a, 1000);
        STAGE_UNTIL(self, b->received == 1000 || a->lost + b->lost > 0);
        node_hang_up(a);
        node_abort(b);
    }
    STAGE_UNTIL(self, self->called == taken || a == NULL || b == NULL);
}

/* ---- Every kind of write, into a socket that is full ---- */

static void count_release(void *argument, int status) {
    stage *self = argument;

    CHECK_LE(status, 0);
    self->called++;
}

enum { ROUNDS = 3, ROUND_BYTES = 9000 };

static void write_in_all_ways(node *self, int round) {
    static uint8_t all[ROUNDS][ROUND_BYTES];
    uint8_t *bytes = all[round];
    struct iovec pieces[60];
    const uint64_t begin = self->sent;
    size_t length = 0;

    stream_fill((uint64_t)self->seed_out, begin, bytes, ROUND_BYTES);
    for (int i = 0; i < 60; i++) {
        pieces[i] = (struct iovec){.iov_base = bytes + length, .iov_len = (size_t)(1 + i)};
        length += (size_t)(1 + i);
    }
    if (tepal_transport_writev(self->transport, pieces, 60) < 0 || tepal_transport_flush(self->transport) < 0) {
        return;
    }
    self->sent += length;
    pieces[0] = (struct iovec){.iov_base = bytes + length, .iov_len = 4000};
    pieces[1] = (struct iovec){.iov_base = bytes + length + 4000, .iov_len = ROUND_BYTES - length - 4000};
    if (tepal_transport_write_owned(self->transport, pieces, 2, count_release, self->stage) == 0) {
        self->sent = begin + ROUND_BYTES;
        self->stage->called -= 1; /* until it is released */
    }
}

static void writes(stage *self, stage_kind kind) {
    node *a, *b;
    tepal_future *drained;

    if (!adopt_both(self, kind, &a, &b)) {
        return;
    }
    node_narrow(a);
    for (int i = 0; i < ROUNDS && node_is_open(a); i++) {
        write_in_all_ways(a, i);
        if (stage_ok(self, tepal_transport_drain(a->transport, &drained))) {
            stage_keep(self, drained);
        }
        STAGE_UNTIL(self, stage_all_done(self));
    }
    node_end(a);
    STAGE_UNTIL(self, stage_all_closed(self));
    STAGE_WANT(self, b->received == a->sent && b->eofs == 1);
    CHECK(self->over || self->called == 0);
}

static void writes_unix(stage *self) {
    writes(self, STAGE_UNIX);
}

static void writes_tcp(stage *self) {
    writes(self, STAGE_TCP);
}

/* ---- Producers ---- */

typedef struct source {
    tepal_producer producer; /* first */
    node *to;
    int left;
    bool stopped;
} source;

static void source_resume(tepal_producer *producer) {
    source *self = (source *)producer;

    CHECK(!self->stopped);
    self->to->stage->progress++;
    if (self->left-- > 0) {
        node_write(self->to, 2500);
    } else {
        (void)tepal_transport_unregister_producer(self->to->transport);
        node_end(self->to);
    }
}

static void source_pause(tepal_producer *producer) {
    CHECK(!((source *)producer)->stopped);
}

static void source_stop(tepal_producer *producer) {
    source *self = (source *)producer;

    CHECK(!self->stopped);
    self->stopped = true;
}

static void produce(stage *self, bool streaming) {
    static source from;
    node *a, *b;

    if (!adopt_both(self, STAGE_UNIX, &a, &b)) {
        return;
    }
    from = (source){
        .producer = {.size = sizeof from.producer, .resume = source_resume, .pause = source_pause, .stop = source_stop},
        .to = a,
        .left = 6};
    node_narrow(a);
    if (stage_ok(self, tepal_transport_register_producer(a->transport, &from.producer, streaming)) && streaming) {
        node_write(a, 10000); /* it is paused, and resumed once that has left */
    }
    STAGE_UNTIL(self, a->lost == 1 || (b->received >= 10000 && from.left < 6));
    node_hang_up(a);
    STAGE_UNTIL(self, stage_all_closed(self));
    STAGE_WANT(self, b->received == a->sent);
}

static void pulled(stage *self) {
    produce(self, false);
}

static void pushed(stage *self) {
    produce(self, true);
}

/* ---- Pipes: one direction, and a relay ---- */

static void pipe_between(stage *self, node *from, node *to) {
    tepal_future *future;

    if (node_is_open(from) && node_is_open(to) &&
        stage_ok(self, tepal_pipe(from->transport, to->transport, NULL, &future))) {
        stage_keep(self, future);
    }
}

static void relayed(stage *self, stage_kind kind, bool both) {
    node *writer, *from, *to, *reader;

    self->client.keep_open = self->server.keep_open = both;
    if (!adopt_both(self, kind, &writer, &from) || !adopt_both(self, kind, &to, &reader)) {
        return;
    }
    writer->keep_open = reader->keep_open = true;
    node_narrow(writer);
    node_narrow(to);
    pipe_between(self, from, to);
    node_write(writer, 25000);
    node_end(writer);
    if (both) {
        pipe_between(self, to, from);
        node_write(reader, 9000);
        node_end(reader);
    }
    STAGE_UNTIL(self, stage_all_done(self));
    STAGE_UNTIL(self, reader->eofs + reader->lost > 0 && (!both || writer->eofs + writer->lost > 0));
    STAGE_WANT(self, reader->received == 25000 && (!both || writer->received == 9000));
    node_hang_up(writer);
    node_hang_up(reader);
    node_hang_up(from);
    node_hang_up(to);
    STAGE_UNTIL(self, stage_all_closed(self));
}

static void piped_unix(stage *self) {
    relayed(self, STAGE_UNIX, false);
}

static void relayed_unix(stage *self) {
    relayed(self, STAGE_UNIX, true);
}

static void relayed_tcp(stage *self) {
    relayed(self, STAGE_TCP, true);
}

const scene scenes_of_streams[] = {
    {"adopted tcp", adopted_tcp, false},
    {"adopted unix", adopted_unix, false},
    {"refused", refused, false},
    {"borrowed", borrowed, false},
    {"writes tcp", writes_tcp, false},
    {"writes unix", writes_unix, false},
    {"pulled", pulled, false},
    {"pushed", pushed, false},
    {"piped", piped_unix, false},
    {"relayed tcp", relayed_tcp, false},
    {"relayed unix", relayed_unix, false},
    {NULL, NULL, false},
};
