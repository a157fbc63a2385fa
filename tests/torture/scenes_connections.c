/* Scenes of servers and clients, for system_calls.c: over TCP, IPv6 and Unix sockets. */
#include "torture/stage.h"

/* ---- Three clients ask, a server sends back what comes ---- */

static const size_t questions[] = {1, 3000, 30000};

static void ask(node *self) {
    if (self->number == 2) {
        node_narrow(self);
    }
    node_write(self, questions[self->number]);
}

static void hang_up_when_answered(node *self) {
    if (self->received == questions[self->number]) {
        node_hang_up(self);
    }
}

static void narrow_the_third(node *self) {
    if (self->number == 2) {
        node_narrow(self);
    }
}

static void check_answers(stage *self) {
    for (int i = 0; i < 3; i++) {
        const node *client = stage_client(self, i);
        STAGE_WANT(self, client != NULL && client->received == questions[i] && client->lost_code == 0);
    }
}

static void echo(stage *self, stage_kind kind) {
    self->client.seed_in = STREAM_OF_CLIENT;
    self->client.on_made = ask;
    self->client.on_data = hang_up_when_answered;
    self->server.echo = true;
    self->server.on_made = narrow_the_third;
    self->server.on_lost = node_reset_when_over;
    stage_serve(self, kind, 3);
    STAGE_UNTIL(self, stage_all_lost(self));
    check_answers(self);
    stage_close_servers(self);
}

/* The same into memory that the protocols lend. */
static void lend(stage *self, stage_kind kind) {
    self->client.lends = self->server.lends = true;
    echo(self, kind);
}

/* ---- The client ends its side, the server answers and ends its own ---- */

static void ask_and_end(node *self) {
    node_write(self, 2000);
    node_end(self);
}

static void answer_and_end(node *self) {
    node_write(self, 5000);
    node_end(self);
}

static void check_halves(stage *self) {
    for (int i = 0; i < 2; i++) {
        const node *client = stage_client(self, i), *served = stage_served(self, i);
        STAGE_WANT(self, client != NULL && served != NULL);
        STAGE_WANT(self, client->received == served->sent && served->received == client->sent);
        STAGE_WANT(self, client->eofs == 1 && served->eofs == 1 && client->lost_code == 0 && served->lost_code == 0);
    }
}

static void half_close(stage *self, stage_kind kind) {
    self->client.on_made = ask_and_end;
    self->client.keep_open = self->server.keep_open = true;
    self->server.on_eof = answer_and_end;
    stage_serve(self, kind, 2);
    STAGE_UNTIL(self, stage_all_lost(self));
    check_halves(self);
    stage_close_servers(self);
}

/* The server ends first. */
static void half_close_served(stage *self, stage_kind kind) {
    self->server.on_made = answer_and_end;
    self->client.keep_open = self->server.keep_open = true;
    self->client.on_eof = ask_and_end;
    stage_serve(self, kind, 2);
    STAGE_UNTIL(self, stage_all_lost(self));
    check_halves(self);
    stage_close_servers(self);
}

/* ---- Aborted by the one, by the other, by both ---- */

static void write_much(node *self) {
    node_narrow(self);
    node_write(self, 20000);
}

static void abort_by_number(node *self) {
    if ((self->number == 0) == self->served || self->number == 2 || self->received >= 5000) {
        node_abort(self);
    }
}

static void aborts(stage *self, stage_kind kind) {
    self->client.on_made = self->server.on_made = write_much;
    self->client.on_data = self->server.on_data = abort_by_number;
    stage_serve(self, kind, 3);
    STAGE_UNTIL(self, stage_all_closed(self));
    stage_close_servers(self);
}

/* ---- Closed with input unread: what was written must arrive all the same ---- */

static void write_some(node *self) {
    node_write(self, 6000);
}

static void pause_and_write(node *self) {
    (void)stage_ok(self->stage, tepal_transport_pause_reading(self->transport));
    node_write(self, 3000);
}

static void linger(stage *self, stage_kind kind) {
    self->client.on_made = write_some;
    self->server.on_made = pause_and_write;
    stage_serve(self, kind, 1);
    node *client = stage_client(self, 0), *served = stage_served(self, 0);
    if (client == NULL || served == NULL) {
        return;
    }
    stage_turns(self, 3);
    node_hang_up(served);
    STAGE_UNTIL(self, stage_all_closed(self));
    STAGE_WANT(self, client->received == 3000);
    stage_close_servers(self);
}

/* The peer neither reads its end nor closes: until the time is over. */
static void linger_for_a_while(stage *self) {
    int fds[2];
    const tepal_transport_options options = {.size = sizeof options, .linger_ns = TEPAL_MS(2)};

    stage_pair(self, STAGE_TCP, fds);
    self->server.on_made = pause_and_write;
    self->client.on_made = write_some;
    self->client.keep_open = true;
    node *served = stage_adopt(self, &self->server, fds[0], &options);
    node *client = stage_adopt(self, &self->client, fds[1], NULL);
    STAGE_UNTIL(self, (served == NULL || node_is_open(served)) && (client == NULL || node_is_open(client)));
    if (served == NULL || client == NULL) {
        return;
    }
    stage_turns(self, 3);
    node_hang_up(served);
    STAGE_UNTIL(self, served->lost == 1 && client->eofs + client->lost > 0);
    stage_turns(self, 4);
    node_hang_up(client);
    STAGE_UNTIL(self, stage_all_closed(self));
}

/* ---- Reading is paused at every piece, and goes on a moment later ---- */

static void go_on(void *argument) {
    node *self = argument;
    if (node_is_open(self)) {
        (void)tepal_transport_resume_reading(self->transport);
    }
}

static void pause_for_a_moment(node *self) {
    if (node_is_open(self) && tepal_transport_pause_reading(self->transport) == 0) {
        (void)stage_ok(self->stage, tepal_loop_call_soon(self->stage->loop, go_on, self, NULL));
    }
}

static void pause_or_hang_up(node *self) {
    pause_for_a_moment(self);
    hang_up_when_answered(self);
}

static void pauses(stage *self, stage_kind kind) {
    self->client.seed_in = STREAM_OF_CLIENT;
    self->client.on_made = ask;
    self->client.on_data = pause_or_hang_up;
    self->server.echo = true;
    self->server.on_made = narrow_the_third;
    self->server.on_lost = node_reset_when_over;
    self->server.on_data = pause_for_a_moment;
    stage_serve(self, kind, 3);
    STAGE_UNTIL(self, stage_all_lost(self));
    check_answers(self);
    stage_close_servers(self);
}

/* ---- The loop, or the server, ends in the middle ---- */

static void close_in_the_middle(stage *self, stage_kind kind) {
    self->client.on_made = self->server.on_made = write_much;
    stage_serve(self, kind, 2);
    (void)stage_dial(self, kind);
    stage_turns(self, 2);
}

static void close_a_server(stage *self, stage_kind kind) {
    self->client.on_made = self->server.on_made = write_much;
    stage_serve(self, kind, 3);
    if (self->server_count == 0) {
        return;
    }
    tepal_server_close_clients(self->servers[0]);
    stage_turns(self, 2);
    tepal_server_abort_clients(self->servers[0]);
    stage_close_servers(self);
}

#define OVER(kind, KIND, name)                                                                                         \
    static void name##_##kind(stage *self) {                                                                           \
        name(self, STAGE_##KIND);                                                                                      \
    }
#define OVER_TWO(name) OVER(tcp, TCP, name) OVER(unix, UNIX, name)
/* IPv6 differs from IPv4 in how a connection comes about, not in what then happens. */
#define OVER_THREE(name) OVER_TWO(name) OVER(tcp6, TCP6, name)

OVER_THREE(echo)
OVER_TWO(lend)
OVER_THREE(half_close)
OVER_TWO(half_close_served)
OVER_THREE(aborts)
OVER_TWO(linger)
OVER_TWO(pauses)
OVER_TWO(close_in_the_middle)
OVER_TWO(close_a_server)

const scene scenes_of_connections[] = {
    {"echo tcp", echo_tcp, false},
    {"echo unix", echo_unix, false},
    {"echo tcp6", echo_tcp6, false},
    {"lend tcp", lend_tcp, false},
    {"lend unix", lend_unix, false},
    {"half_close tcp", half_close_tcp, false},
    {"half_close unix", half_close_unix, false},
    {"half_close tcp6", half_close_tcp6, false},
    {"half_close_served tcp", half_close_served_tcp, false},
    {"half_close_served unix", half_close_served_unix, false},
    {"aborts tcp", aborts_tcp, true},
    {"aborts unix", aborts_unix, true},
    {"aborts tcp6", aborts_tcp6, true},
    {"linger tcp", linger_tcp, true},
    {"linger unix", linger_unix, true},
    {"pauses tcp", pauses_tcp, false},
    {"pauses unix", pauses_unix, false},
    {"close_in_the_middle tcp", close_in_the_middle_tcp, true},
    {"close_in_the_middle unix", close_in_the_middle_unix, true},
    {"close_a_server tcp", close_a_server_tcp, true},
    {"close_a_server unix", close_a_server_unix, true},
    {"linger_for_a_while", linger_for_a_while, true},
    {NULL, NULL, false},
};
