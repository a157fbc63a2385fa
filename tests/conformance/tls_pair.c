/* See tls_pair.h. */
#include "conformance/tls_pair.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const tepal_tls_version tls_versions[2] = {TEPAL_TLS_1_2, TEPAL_TLS_1_3};

void tls_note(tls_end *self, char what) {
    const size_t length = strlen(self->log);

    if (length + 1 < sizeof self->log && !(what == 'D' && length > 0 && self->log[length - 1] == 'D')) {
        self->log[length] = what;
    }
}

/* ---- Upcalls ---- */

static uint64_t turns(const tls_end *self) {
    tepal_loop_stats stats = {.size = sizeof stats};

    CHECK_OK(tepal_loop_get_stats(self->pair->loop, &stats));
    return stats.turns;
}

static int end_made(tepal_protocol *protocol, tepal_transport *transport) {
    tls_end *self = (tls_end *)protocol;

    CHECK_EQ(self->built, 1);
    CHECK_EQ(self->made++, 0);
    CHECK_EQ(self->losts, 0);
    self->transport = tepal_transport_ref(transport);
    self->made_turn = turns(self);
    tls_note(self, 'M');
    if (self->on_made != NULL) {
        self->on_made(self);
    }
    return 0;
}

static int came(tls_end *self, const void *data, size_t length) {
    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->losts, 0);
    CHECK_EQ(self->eofs, 0);
    CHECK_GT(length, 0);
    CHECK(!self->wants_no_data);
    CHECK(!tepal_transport_is_closing(self->transport));
    CHECK_GT(turns(self), self->made_turn);
    tls_note(self, 'D');
    if (self->is_raw) {
        const size_t room = self->received < sizeof self->raw ? sizeof self->raw - (size_t)self->received : 0;
        memcpy(self->raw + (sizeof self->raw - room), data, length < room ? length : room);
    } else {
        stream_check(self->peer->seed, self->received, data, length);
    }
    self->received += length;
    self->portions++;
    self->last_length = length;
    if (self->echoes) {
        tls_end_write(self, length);
    }
    if (self->on_data != NULL) {
        self->on_data(self);
    }
    return 0;
}

static int end_received(tepal_protocol *protocol, const void *data, size_t length) {
    return came((tls_end *)protocol, data, length);
}

static int end_get_buffer(tepal_protocol *protocol, size_t hint, void **buffer, size_t *length) {
    tls_end *self = (tls_end *)protocol;

    CHECK_EQ(self->losts, 0);
    CHECK_GT(hint, 0);
    CHECK(!self->wants_no_data);
    *buffer = self->raw;
    *length = hint < sizeof self->raw ? hint : sizeof self->raw;
    return 0;
}

static int end_updated(tepal_protocol *protocol, size_t length) {
    tls_end *self = (tls_end *)protocol;
    return came(self, self->raw, length);
}

static int end_eof(tepal_protocol *protocol) {
    tls_end *self = (tls_end *)protocol;

    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->losts, 0);
    CHECK_EQ(self->eofs++, 0);
    CHECK(!self->wants_no_data);
    CHECK(self->is_raw || tls_end_has_all(self));
    tls_note(self, 'E');
    if (self->on_eof != NULL) {
        self->on_eof(self);
    }
    return self->closes_at_eof ? 0 : TEPAL_KEEP_OPEN;
}

static void end_pause(tepal_protocol *protocol) {
    tls_end *self = (tls_end *)protocol;

    CHECK(!self->is_paused);
    CHECK_EQ(self->losts, 0);
    self->is_paused = true;
    self->pauses++;
    tls_note(self, 'P');
    if (self->on_pause != NULL) {
        self->on_pause(self);
    }
}

static void end_resume(tepal_protocol *protocol) {
    tls_end *self = (tls_end *)protocol;

    CHECK(self->is_paused);
    CHECK_EQ(self->losts, 0);
    self->is_paused = false;
    tls_note(self, 'R');
    if (self->on_resume != NULL) {
        self->on_resume(self);
    }
}

static void end_lost(tepal_protocol *protocol, const tepal_error *error) {
    tls_end *self = (tls_end *)protocol;

    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->losts++, 0);
    self->lost_code = error == NULL ? 0 : error->code;
    if (error != NULL) {
        CHECK_STR(error->text, tepal_strerror(error->code));
    }
    tls_note(self, 'L');
    if (self->on_lost != NULL) {
        self->on_lost(self);
    }
}

#define COMMON                                                                                                         \
    .size = sizeof(tepal_protocol_type), .connection_made = end_made, .eof_received = end_eof,                         \
    .pause_writing = end_pause, .resume_writing = end_resume, .connection_lost = end_lost

const tepal_protocol_type tls_end_type = {COMMON, .data_received = end_received};
const tepal_protocol_type tls_lending_type = {COMMON, .get_buffer = end_get_buffer, .buffer_updated = end_updated};

int tls_factory(void *argument, tepal_protocol **protocol) {
    tls_end *self = argument;

    CHECK_EQ(self->built++, 0);
    tls_note(self, 'F');
    if (self->factory_code < 0) {
        return self->factory_code;
    }
    *protocol = &self->protocol;
    return 0;
}

/* ---- Contexts ---- */

tepal_tls_context *tls_context(const tepal_tls_context_options *options) {
    tepal_tls_context *made;
    char why[200] = "";
    const int code = tepal_tls_context_new(&made, options, why, sizeof why);

    if (code < 0) {
        test_fail(__FILE__, __LINE__, "no context: %s (%s)", why, tepal_error_name(code));
    }
    return made;
}

tepal_tls_context_options tls_usual_options(bool server, tepal_tls_version version) {
    return (tepal_tls_context_options){
        .size = sizeof(tepal_tls_context_options),
        .server = server,
        .certificate = server ? identity_server()->certificate : NULL,
        .key = server ? identity_server()->key : NULL,
        .ca = identity_authority()->certificate,
        .minimum = version,
        .maximum = version,
    };
}

tepal_tls_context *tls_usual_context(bool server, tepal_tls_version version) {
    const tepal_tls_context_options options = tls_usual_options(server, version);
    return tls_context(&options);
}

const char *tls_file(const char *name, const char *text) {
    static char paths[8][200];
    const char *directory = test_directory();
    int at = 0;
    char path[200];

    CHECK_LT(snprintf(path, sizeof path, "%s/%s", directory, name), sizeof path);
    while (at < 7 && paths[at][0] != '\0' && strcmp(paths[at], path) != 0) {
        at++;
    }
    memcpy(paths[at], path, sizeof path);
    FILE *file = fopen(path, "we");
    CHECK(file != NULL);
    CHECK(fputs(text, file) >= 0);
    CHECK_EQ(fclose(file), 0);
    return paths[at];
}

/* ---- The pair's life ---- */

static void heard(tepal_future *future, void *argument) {
    tls_end *self = argument;

    (void)future;
    tls_note(self, 'C');
}

static void begin(tls_pair *pair, tls_end *self, tls_end *peer, uint64_t seed, int fd, const tepal_tls_options *tls) {
    if (self->protocol.type == NULL) {
        self->protocol.type = &tls_end_type;
    }
    self->pair = pair;
    self->peer = peer;
    self->seed = seed;
    CHECK_OK(
        tepal_loop_create_connection(pair->loop, tls_factory, self,
                                     TEPAL_OPTIONS(tepal_connect_options, .fd = &fd, .tls = pair->is_plain ? NULL : tls,
                                                   .transport = pair->transport_options),
                                     &self->future));
    CHECK_OK(tepal_future_add_done_callback(self->future, heard, self));
}

void tls_start(tls_pair *self) {
    int fds[2];

    closes_must_be_good();
    if (self->loop == NULL) {
        self->loop = script_loop();
    }
    if (self->client_context == NULL) {
        self->client_context = tls_usual_context(false, self->version);
    }
    if (self->server_context == NULL) {
        self->server_context = tls_usual_context(true, self->version);
    }
    self->client_options.size = self->server_options.size = sizeof(tepal_tls_options);
    self->client_options.context = self->client_context;
    self->server_options.context = self->server_context;
    if (self->client_options.server_name == NULL) {
        self->client_options.server_name = "localhost";
    }
    if (self->way == TLS_OVER_WIRE) {
        wire_open(&self->wire, &fds[0], &fds[1]);
    } else if (self->way == TLS_OVER_TCP) {
        test_tcp_pair(fds);
    } else {
        test_socketpair(fds);
    }
    begin(self, &self->client, &self->server, SCRIPT_OUT, fds[0], &self->client_options);
    begin(self, &self->server, &self->client, SCRIPT_IN, fds[1], &self->server_options);
}

void tls_shake(tls_pair *self) {
    TLS_UNTIL(self, tepal_future_is_done(self->client.future) && tepal_future_is_done(self->server.future));
}

void tls_open(tls_pair *self) {
    tls_start(self);
    tls_shake(self);
    CHECK_OK(tepal_future_result(self->client.future, NULL));
    CHECK_OK(tepal_future_result(self->server.future, NULL));
    tls_settle(self); /* tickets arrive, and the futures' callbacks run */
}

int tls_upgrade(tls_end *self, const void *unread, size_t unread_length) {
    tls_pair *pair = self->pair;
    tepal_tls_options options = self == &pair->server ? pair->server_options : pair->client_options;

    options.unread = unread;
    options.unread_length = unread_length;
    if (self->upgraded != NULL) {
        CHECK_OK(tepal_future_result(self->upgraded, NULL));
        tepal_future_unref(self->upgraded);
        self->upgraded = NULL;
    }
    return tepal_transport_start_tls(self->transport, &options, &self->upgraded);
}

void tls_upgrade_both(tls_pair *self) {
    CHECK_OK(tls_upgrade(&self->client, NULL, 0));
    CHECK_OK(tls_upgrade(&self->server, NULL, 0));
    TLS_UNTIL(self, tepal_future_is_done(self->client.upgraded) && tepal_future_is_done(self->server.upgraded));
    CHECK_OK(tepal_future_result(self->client.upgraded, NULL));
    CHECK_OK(tepal_future_result(self->server.upgraded, NULL));
}

static bool has_ended(const tls_end *self) {
    return self->losts > 0 || self->eofs > 0 ||
           (tepal_future_is_done(self->future) && tepal_future_error(self->future) != NULL);
}

int tls_failure(tls_end *self) {
    TLS_UNTIL(self->pair, has_ended(self));
    if (self->losts > 0) {
        return self->lost_code;
    }
    const tepal_error *error = tepal_future_error(self->future);
    return error == NULL ? 0 : error->code;
}

static void let_go(tls_end *self) {
    if (self->future == NULL) {
        return;
    }
    (void)tepal_future_error(self->future); /* looked at */
    tepal_future_unref(self->future);
    if (self->upgraded != NULL) {
        CHECK(tepal_future_is_done(self->upgraded));
        (void)tepal_future_error(self->upgraded);
        tepal_future_unref(self->upgraded);
        self->upgraded = NULL;
    }
    tepal_transport_unref(self->transport);
    self->future = NULL;
    self->transport = NULL;
}

static void check_end(const tls_end *self) {
    CHECK_EQ(self->made, self->losts);
    CHECK_LE(self->built, 1);
    CHECK(self->made == self->built || self->factory_code < 0);
}

void tls_part(tls_pair *self) {
    tls_end *ends[] = {&self->client, &self->server};

    for (int i = 0; i < 2; i++) {
        if (!tepal_future_is_done(ends[i]->future)) {
            (void)tepal_future_cancel(ends[i]->future);
        }
        if (ends[i]->made > ends[i]->losts) {
            tepal_transport_close(ends[i]->transport);
        }
    }
    TLS_UNTIL(self, self->client.made == self->client.losts && self->server.made == self->server.losts);
    tls_settle(self);
    for (int i = 0; i < 2; i++) {
        check_end(ends[i]);
        let_go(ends[i]);
        *ends[i] = (tls_end){.protocol = ends[i]->protocol};
    }
    if (self->way == TLS_OVER_WIRE) {
        wire_close(&self->wire);
    }
}

void tls_close(tls_pair *self) {
    tepal_loop_stats stats = {.size = sizeof stats};

    CHECK_OK(tepal_loop_close(self->loop));
    CHECK_OK(tepal_loop_get_stats(self->loop, &stats));
    CHECK_EQ(stats.transports, 0);
    CHECK_EQ(stats.invariants, 0);
    check_end(&self->client);
    check_end(&self->server);
    let_go(&self->client);
    let_go(&self->server);
    tepal_loop_unref(self->loop);
    if (self->way == TLS_OVER_WIRE) {
        wire_close(&self->wire);
    }
    tepal_tls_context_unref(self->client_context);
    tepal_tls_context_unref(self->server_context);
    self->loop = NULL;
    self->client_context = self->server_context = NULL;
}

/* ---- Turns ---- */

void tls_turn(tls_pair *self) {
    const bool has_moved = self->way == TLS_OVER_WIRE && wire_move(&self->wire);
    CHECK_OK(tepal_loop_step(self->loop, has_moved ? 0 : TEPAL_MS(1)));
}

void tls_settle(tls_pair *self) {
    for (int idle = 0; idle < 4; idle++) {
        while (self->way == TLS_OVER_WIRE && wire_move(&self->wire)) {
            CHECK_OK(tepal_loop_step(self->loop, 0));
            idle = 0;
        }
        while (tepal_loop_step(self->loop, 0) == 1) {
            idle = 0;
        }
    }
}

bool tls_is_told(int code, int alert) {
    return code == alert || (strcmp(test_driver(), "late") == 0 && code == TEPAL_SYSTEM(ECONNRESET));
}

/* ---- One end's side ---- */

void tls_end_write(tls_end *self, size_t length) {
    static uint8_t data[1 << 20];

    while (length > 0) {
        const size_t part = length < sizeof data ? length : sizeof data;
        stream_fill(self->seed, self->sent, data, part);
        self->sent += part; /* first: the call may pause, and that write more */
        CHECK_OK(tepal_transport_write(self->transport, data, part));
        length -= part;
    }
}

void tls_end_pause(tls_end *self) {
    CHECK_OK(tepal_transport_pause_reading(self->transport));
    self->wants_no_data = true;
}

void tls_end_resume(tls_end *self) {
    self->wants_no_data = false;
    CHECK_OK(tepal_transport_resume_reading(self->transport));
}

bool tls_end_has_all(const tls_end *self) {
    return self->received == self->peer->sent;
}

void tls_exchange(tls_pair *self, size_t length) {
    tls_end_write(&self->client, length);
    tls_end_write(&self->server, length);
    TLS_UNTIL(self, tls_end_has_all(&self->client) && tls_end_has_all(&self->server));
}

tls_end *tls_side(tls_pair *self, bool server) {
    return server ? &self->server : &self->client;
}

tepal_tls_info tls_info(const tls_end *self) {
    tepal_tls_info info = {.size = sizeof info};

    CHECK_OK(tepal_transport_tls_info(self->transport, &info));
    return info;
}
