/* Runs a program on a loop: its servers and connections, relays between them, and those that come to nothing. */
#include "torture/differential_program.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define STUCK_NS TEPAL_SEC(10)
#define STUCK_SIM_NS TEPAL_SEC(100000) /* simulated time costs nothing, and faults may slow down much */

/* ---- Stories ---- */

static void append(story *self, const char *text, size_t length) {
    if (self->length + length + 1 > self->room) {
        self->room = 2 * (self->length + length + 1);
        self->text = realloc(self->text, self->room);
        CHECK(self->text != NULL);
    }
    memcpy(self->text + self->length, text, length);
    self->length += length;
    self->text[self->length] = '\0';
}

static void append_line(story *self, const char *line) {
    append(self, line, strlen(line));
    append(self, "\n", 1);
}

static void tell_bytes(story *self) {
    char line[80];
    if (self->bytes > 0) {
        snprintf(line, sizeof line, "  %llu bytes, hash %016llx", (unsigned long long)self->bytes,
                 (unsigned long long)self->hash);
        self->bytes = 0;
        append_line(self, line);
    }
}

void story_tell(story *self, const char *format, ...) {
    char line[256];
    va_list arguments;
    tell_bytes(self);
    va_start(arguments, format);
    const int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    CHECK(length >= 0 && (size_t)length < sizeof line);
    append(self, "  ", 2);
    append_line(self, line);
}

/* FNV-1a, whose value does not depend on how the bytes are split. */
void story_bytes(story *self, const void *data, size_t length) {
    uint64_t hash = self->bytes == 0 ? UINT64_C(0xcbf29ce484222325) : self->hash;
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ ((const uint8_t *)data)[i]) * UINT64_C(0x100000001b3);
    }
    self->hash = hash;
    self->bytes += length;
}

static void tell_of(story *whole, story *part) {
    tell_bytes(part);
    if (part->length > 0) {
        append_line(whole, part->name);
        append(whole, part->text, part->length);
    }
    free(part->text);
    *part = (story){0};
}

/* ---- Ends ---- */

void run_close(run *self) {
    CHECK_GT(self->open, 0);
    if (--self->open == 0) {
        tepal_loop_stop(self->loop);
    }
}

static void stuck(void *argument) {
    run *self = argument;
    self->is_stuck = true;
    tepal_loop_stop(self->loop);
}

/* ---- Places ---- */

static const char *const places[PLACES] = {"inet", "inet6", "localhost", "path", "abstract"};

static bool is_unix(place where) {
    return where == PLACE_PATH || where == PLACE_ABSTRACT;
}

/*
 * A loopback address of this process's own for PLACE_INET, where a server's port is called again once it is closed: on
 * 127.0.0.1 another process may have it by then.
 */
static const char *host_of(const run *self, place where) {
    return where == PLACE_INET6 ? "::1" : where == PLACE_INET ? self->host : "127.0.0.1";
}

static bool is_own(place where) {
    return where == PLACE_INET || is_unix(where);
}

/* A path or an abstract name of this run's own; NULL elsewhere. */
static const char *path_of(const run *self, place where, const char *what, char *path, size_t size) {
    if (!is_unix(where)) {
        return NULL;
    }
    if (where == PLACE_PATH) {
        snprintf(path, size, "%s/%s", test_directory(), what);
    } else {
        snprintf(path, size, "@tepal-%d-%llu-%s", (int)getpid(), (unsigned long long)self->program->number, what);
    }
    return path;
}

static tepal_server *listen_at(run *self, place where, const char *path, bool listens, tepal_factory factory,
                               void *argument, const tepal_transport_options *transport) {
    const char *const host = host_of(self, where);
    tepal_server_options options = {
        .size = sizeof options, .do_not_start = !listens, .no_reuse_address = true, .transport = transport};
    tepal_server *server;
    if (path != NULL) {
        options.unix_path = path;
    } else {
        options.hosts = &host;
        options.host_count = 1;
    }
    CHECK_OK(tepal_loop_listen(self->loop, factory, argument, &options, &server));
    return server;
}

static tepal_connect_options options_for(const run *self, const tepal_server *server, place where, const char *path) {
    tepal_connect_options options = {.size = sizeof options};
    if (path != NULL) {
        options.unix_path = path;
        return options;
    }
    tepal_address address;
    CHECK_OK(tepal_server_local(server, 0, &address));
    options.port = (uint16_t)tepal_address_port(&address);
    options.host = where == PLACE_LOCALHOST ? "localhost" : host_of(self, where);
    options.family = where == PLACE_INET6 ? AF_INET6 : AF_INET;
    return options;
}

static const char *name_of_result(int code) {
    return code < 0 ? tepal_error_name(code) : "ok";
}

/* ---- Calls that come to nothing ---- */

typedef struct call {
    run *run;
    tepal_server *server; /* to be given back, or NULL */
    story *story;
    tepal_future *future;
    tepal_address address; /* what it calls */
} call;

static int make_none(void *argument, tepal_protocol **protocol) {
    (void)argument;
    (void)protocol;
    test_fail(__FILE__, __LINE__, "a factory was called for a connection that comes to nothing");
}

/* Who calls and changes its mind may have been heard all the same. */
static int make_mute(void *argument, tepal_protocol **protocol) {
    static const tepal_protocol_type type = {.size = sizeof type};
    static tepal_protocol mute = {.type = &type};
    (void)argument;
    *protocol = &mute;
    return 0;
}

/* Whose address an error has. */
static const char *address_of(const tepal_error *error, const tepal_address *called) {
    char text[2][TEPAL_ADDRESS_TEXT];
    if (error == NULL || error->address == NULL) {
        return "no address";
    }
    CHECK_OK(tepal_address_format(error->address, text[0], sizeof text[0]));
    CHECK_OK(tepal_address_format(called, text[1], sizeof text[1]));
    return strcmp(text[0], text[1]) == 0 ? "its address" : "another address";
}

static void call_failed(tepal_future *future, void *argument) {
    call *self = argument;
    run *here = self->run;
    story_tell(self->story, "%s, %s", name_of_result(tepal_connection_result(future, NULL, NULL)),
               address_of(tepal_future_error(future), &self->address));
    tepal_future_unref(self->future);
    if (self->server != NULL) {
        tepal_server_close(self->server);
        tepal_server_unref(self->server);
    }
    free(self);
    run_close(here);
}

/* address: the server's, which may be closed; to_close: the server, if that is to be given back after. */
static tepal_future *call_nobody(run *self, story *to, tepal_server *to_close, const tepal_address *address,
                                 const tepal_connect_options *options) {
    call *made = malloc(sizeof *made);
    CHECK(made != NULL);
    *made = (call){.run = self, .server = to_close, .story = to, .address = *address};
    self->open++;
    CHECK_OK(tepal_loop_create_connection(self->loop, make_none, NULL, options, &made->future));
    CHECK_OK(tepal_future_add_done_callback(made->future, call_failed, made));
    return made->future;
}

/* A server that is called once, in vain, and closed after. */
static tepal_future *call_place(run *self, story *to, place where, const char *what, bool listens) {
    char path[128];
    tepal_address address;
    const char *named = path_of(self, where, what, path, sizeof path);
    tepal_server *server = listen_at(self, where, named, listens, listens ? make_mute : make_none, NULL, NULL);
    const tepal_connect_options options = options_for(self, server, where, named);
    CHECK_OK(tepal_server_local(server, 0, &address));
    return call_nobody(self, to, server, &address, &options);
}

static void call_in_vain(run *self) {
    for (unsigned i = 0; i < PLACES; i++) {
        if ((self->program->refused & 1u << i) != 0) {
            (void)call_place(self, &self->refused[i], (place)i, "nobody", false);
        }
        if ((self->program->canceled & 1u << i) != 0) {
            CHECK(tepal_future_cancel(call_place(self, &self->canceled[i], (place)i, "mute", true)));
        }
    }
}

/* ---- Talks ---- */

static void server_is_gone(tepal_future *future, void *argument) {
    talk *self = argument;
    story_tell(&self->story, "server closed: %s", name_of_result(tepal_future_result(future, NULL)));
    tepal_future_unref(future);
    run_close(self->run);
}

/* Both ends are over, and what is between them. */
void talk_check_over(talk *self) {
    const dialogue *what = self->dialogue;
    const bool is_open = what->moves[what->move_count - 1].kind == LAST_NONE;
    if (self->is_over || self->run->has_ended || !self->sides[0].is_over || !self->sides[1].is_over ||
        (what->is_relayed && !is_open && !(self->relays[0].is_gone && self->relays[1].is_gone))) {
        return;
    }
    self->is_over = true;
    if (!is_open && self->servers[0] != NULL) {
        tepal_future *closed;
        tepal_server *server = self->servers[0];
        const tepal_connect_options options =
            options_for(self->run, server, what->place, is_unix(what->place) ? self->paths[0] : NULL);
        tepal_address address;
        CHECK_OK(tepal_server_local(server, 0, &address));
        tepal_server_close(server);
        self->run->open++;
        CHECK_OK(tepal_server_wait_closed(server, &closed));
        CHECK_OK(tepal_future_add_done_callback(closed, server_is_gone, self));
        if (what->is_called_again && is_own(what->place)) {
            (void)call_nobody(self->run, &self->again, NULL, &address, &options);
        }
    }
    run_close(self->run);
}

static int make_server_side(void *argument, tepal_protocol **protocol) {
    talk *self = argument;
    side *end = &self->sides[1];
    story_tell(&end->story, "built");
    *protocol = &end->protocols[self->dialogue->protocol[1]].protocol;
    return 0;
}

static int make_client_side(void *argument, tepal_protocol **protocol) {
    talk *self = argument;
    side *end = &self->sides[0];
    story_tell(&end->story, "built");
    *protocol = &end->protocols[self->dialogue->protocol[0]].protocol;
    return 0;
}

/* After connection_made and before any byte; who has closed since may be gone already, or still sending. */
static void client_is_connected(tepal_future *future, void *argument) {
    talk *self = argument;
    const int code = tepal_connection_result(future, NULL, NULL);
    CHECK(self->sides[0].transport != NULL);
    self->sides[0].is_connected = true;
    story_tell(&self->dial, "%s", code == TEPAL_ECLOSED ? "ok" : name_of_result(code));
    tepal_future_unref(future);
    run_close(self->run);
}

static void dial(void *argument) {
    talk *self = argument;
    const dialogue *what = self->dialogue;
    tepal_connect_options options =
        options_for(self->run, self->servers[0], what->place, is_unix(what->place) ? self->paths[0] : NULL);
    tepal_future *future;
    options.transport = &what->transport[0];
    CHECK_OK(tepal_loop_create_connection(self->run->loop, make_client_side, self, &options, &future));
    CHECK_OK(tepal_future_add_done_callback(future, client_is_connected, self)); /* whose run_close is dial's */
}

/* ---- Relays ---- */

static void pipe_is_over(tepal_future *future, void *argument) {
    relay *self = argument;
    void *value;
    const int code = tepal_future_result(future, &value);
    if (code < 0) {
        story_tell(&self->pipe, "failed: %s", tepal_error_name(code));
    } else {
        const tepal_pipe_result *result = value;
        story_tell(&self->pipe, "moved %llu bytes%s", (unsigned long long)result->bytes,
                   result->eof ? " to the end" : "");
    }
}

static void relay_is_connected(tepal_future *future, void *argument) {
    talk *self = argument;
    story_tell(&self->relays[1].story, "connected: %s", name_of_result(tepal_connection_result(future, NULL, NULL)));
    tepal_future_unref(future);
    for (int i = 0; i < 2; i++) {
        relay *source = &self->relays[i];
        CHECK_OK(tepal_pipe(source->transport, self->relays[!i].transport, NULL, &source->piped));
        CHECK_OK(tepal_future_add_done_callback(source->piped, pipe_is_over, source));
    }
    CHECK_OK(tepal_transport_resume_reading(self->relays[0].transport));
    run_close(self->run);
}

static int make_dialled(void *argument, tepal_protocol **protocol) {
    talk *self = argument;
    *protocol = &self->relays[1].protocol;
    return 0;
}

static int make_accepted(void *argument, tepal_protocol **protocol) {
    talk *self = argument;
    *protocol = &self->relays[0].protocol;
    return 0;
}

static int relay_made(tepal_protocol *protocol, tepal_transport *transport) {
    relay *self = (relay *)protocol;
    talk *here = self->talk;
    self->transport = transport;
    story_tell(&self->story, "made");
    if (self == &here->relays[0]) {
        const place where = here->dialogue->relay_place;
        tepal_connect_options options =
            options_for(here->run, here->servers[1], where, is_unix(where) ? here->paths[1] : NULL);
        tepal_future *future;
        CHECK_OK(tepal_transport_pause_reading(transport));
        here->run->open++;
        CHECK_OK(tepal_loop_create_connection(here->run->loop, make_dialled, here, &options, &future));
        CHECK_OK(tepal_future_add_done_callback(future, relay_is_connected, here));
    }
    return 0;
}

static void relay_lost(tepal_protocol *protocol, const tepal_error *error) {
    relay *self = (relay *)protocol;
    story_tell(&self->story, "lost: %s", error == NULL ? "ok" : tepal_error_name(error->code));
    self->is_gone = true;
    talk_check_over(self->talk);
}

static const tepal_protocol_type relay_type = {
    .size = sizeof relay_type, .connection_made = relay_made, .connection_lost = relay_lost};

/* ---- Beginning and end ---- */

static void talk_open(run *here, talk *self, const dialogue *what, unsigned number) {
    char name[16];
    *self = (talk){.run = here, .dialogue = what};
    side_init(&self->sides[0], self, false);
    side_init(&self->sides[1], self, true);
    snprintf(self->story.name, sizeof self->story.name, "%u listening", number);
    snprintf(self->again.name, sizeof self->again.name, "%u called again", number);
    snprintf(self->dial.name, sizeof self->dial.name, "%u dial", number);
    snprintf(self->sides[0].story.name, sizeof self->sides[0].story.name, "%u client, %s", number, places[what->place]);
    snprintf(self->sides[1].story.name, sizeof self->sides[1].story.name, "%u server", number);
    for (unsigned i = 0; i < 2; i++) {
        relay *end = &self->relays[i];
        end->protocol.type = &relay_type;
        end->talk = self;
        snprintf(end->story.name, sizeof end->story.name, "%u relay %s", number, i == 0 ? "in" : "out");
        snprintf(end->pipe.name, sizeof end->pipe.name, "%u pipe %s", number, i == 0 ? "there" : "back");
    }
    for (unsigned i = 0; i < (what->is_relayed ? 2 : 1); i++) {
        const bool is_last = !what->is_relayed || i == 1;
        const place where = i == 0 ? what->place : what->relay_place;
        snprintf(name, sizeof name, "%u.%u", number, i);
        const char *path = path_of(here, where, name, self->paths[i], sizeof self->paths[i]);
        self->servers[i] = listen_at(here, where, path, true, is_last ? make_server_side : make_accepted, self,
                                     is_last ? &what->transport[1] : NULL);
    }
    here->open += 2; /* the talk, and the call */
    if (what->dial_hop == 0) {
        dial(self);
    } else {
        hop(here, what->dial_hop - 1u, NULL, dial, self);
    }
}

static void talk_end(talk *self, story *whole) {
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(self->sides[i].layer_count, 0);
        tepal_server_unref(self->servers[i]);
        tepal_future_unref(self->relays[i].piped);
        tell_of(whole, &self->sides[i].story);
        tell_of(whole, &self->relays[i].story);
        tell_of(whole, &self->relays[i].pipe);
    }
    tell_of(whole, &self->story);
    tell_of(whole, &self->dial);
    tell_of(whole, &self->again);
}

static void report(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    run *self = argument;
    (void)loop;
    story_tell(&self->reports, "%s: %s", what, error->text);
}

char *differential_program_run(const program *what, tepal_loop *loop) {
    run *self = calloc(1, sizeof *self);
    story whole = {0};
    tepal_handle limit;
    const int64_t limit_ns = strcmp(tepal_loop_driver_name(loop), "sim") == 0 ? STUCK_SIM_NS : STUCK_NS;
    CHECK(self != NULL);
    self->program = what;
    self->loop = loop;
    for (int i = 0; i < PLACES; i++) {
        snprintf(self->refused[i].name, sizeof self->refused[i].name, "refused at %s", places[i]);
        snprintf(self->canceled[i].name, sizeof self->canceled[i].name, "cancelled to %s", places[i]);
    }
    snprintf(self->soon.name, sizeof self->soon.name, "soon");
    snprintf(self->timers.name, sizeof self->timers.name, "timers");
    snprintf(self->futures.name, sizeof self->futures.name, "futures");
    snprintf(self->reports.name, sizeof self->reports.name, "reports");
    const int pid = getpid();
    snprintf(self->host, sizeof self->host, "127.%d.%d.%d", 1 + pid / 65024 % 254, pid / 254 % 256, 1 + pid % 254);
    tepal_loop_set_exception_handler(loop, report, self);
    for (size_t i = 0; i < what->dialogue_count; i++) {
        talk_open(self, &self->talks[i], &what->dialogues[i], (unsigned)i);
    }
    call_in_vain(self);
    chores_start(self);
    CHECK_OK(tepal_loop_call_later(loop, limit_ns, stuck, self, &limit));
    const int code = tepal_loop_run_forever(loop);
    (void)tepal_loop_cancel(loop, limit);
    self->has_ended = true;
    if (code < 0 || self->is_stuck) {
        story_tell(&self->reports, "the run: %s, %zu open", code < 0 ? tepal_error_name(code) : "stuck", self->open);
    }
    CHECK_OK(tepal_loop_close(loop));
    for (size_t i = 0; i < what->dialogue_count; i++) {
        talk_end(&self->talks[i], &whole);
    }
    if (self->releases > 0) {
        story_tell(&self->reports, "%zu owned writes were not released", self->releases);
    }
    for (int i = 0; i < PLACES; i++) {
        tell_of(&whole, &self->refused[i]);
        tell_of(&whole, &self->canceled[i]);
    }
    tell_of(&whole, &self->soon);
    tell_of(&whole, &self->timers);
    tell_of(&whole, &self->futures);
    tell_of(&whole, &self->reports);
    free(self);
    return whole.text;
}
