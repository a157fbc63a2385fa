/*
 * Schedules of the simulator: hosts, faults and a little program (connects, writes, ends, closes, pauses, crashes, steps
 * of one loop), all as the input says, also from inside the upcalls. What arrives is what was sent, up to where it was
 * sent; at a stream's end it is all of it; nothing follows the last word. Once it is calm and everybody has closed, the
 * run comes to its end. And the same input gives the same run again.
 */
#include "fuzz/support/fuzz.h"
#include <tepal.h>

#include <stdio.h>

enum { HOSTS = 4, ENDS = 24, BYTES = 20000, STEPS = 300, DEPTH = 2, PORT = 7000 };

typedef struct simulation simulation;

typedef struct host {
    simulation *owner;
    tepal_loop *loop; /* NULL: closed, or never added */
    tepal_server *server;
} host;

/* One end of a connection. A client's stream begins with its number, by which the server's end knows whose it is. */
typedef struct end {
    tepal_protocol protocol; /* first */
    simulation *owner;
    tepal_loop *loop;           /* NULL: not in use */
    struct end *peer;           /* NULL: not known yet */
    tepal_transport *transport; /* while it is connected */
    unsigned stream;
    uint64_t accepted, received;
    int made, eofs, losts;
    bool is_server, has_ended, is_paused;
    bool is_cut; /* it failed or was aborted, over a Unix socket, whose peer cannot tell that from an end: unix(7) */
} end;

struct simulation {
    fuzz_input input;
    tepal_sim *sim;
    host hosts[HOSTS];
    unsigned host_count;
    end clients[ENDS], servers[ENDS];
    unsigned client_count, server_count, depth;
    uint64_t bytes;
    bool is_running;
};

static void operate(simulation *self);

static void act(simulation *self) {
    if (self->depth < DEPTH && fuzz_below(&self->input, 4) == 1) {
        self->depth++;
        operate(self);
        self->depth--;
    }
}

/* ---- The protocol ---- */

static uint8_t stream_byte(unsigned stream, uint64_t place) {
    return place == 0 ? (uint8_t)stream : (uint8_t)(place * 7 + (place >> 8) * 31 + stream * 101);
}

static end *enter(tepal_protocol *protocol) {
    end *self = (end *)protocol;
    CHECK_EQ(self->losts, 0);
    return self;
}

static int made(tepal_protocol *protocol, tepal_transport *transport) {
    end *self = enter(protocol);
    CHECK_EQ(self->made++, 0);
    self->transport = transport;
    act(self->owner);
    return 0;
}

static void find_peer(end *self, uint8_t number) {
    CHECK(self->is_server);
    CHECK_LT(number, self->owner->client_count);
    self->peer = &self->owner->clients[number];
    CHECK(self->peer->peer == NULL);
    self->peer->peer = self;
    self->stream = number + ENDS;
}

static int received(tepal_protocol *protocol, const void *data, size_t length) {
    end *self = enter(protocol);
    const uint8_t *bytes = data;
    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->eofs, 0);
    CHECK_GT(length, 0);
    CHECK(!self->is_paused);
    if (self->peer == NULL) {
        find_peer(self, bytes[0]);
    }
    for (size_t i = 0; i < length; i++) {
        CHECK_EQ(bytes[i], stream_byte(self->peer->stream, self->received + i));
    }
    self->received += length;
    CHECK_LE(self->received, self->peer->accepted);
    act(self->owner);
    return 0;
}

static int eof(tepal_protocol *protocol) {
    end *self = enter(protocol);
    CHECK_EQ(self->eofs++, 0);
    CHECK(!self->is_paused);
    if (self->peer != NULL) {
        CHECK(self->peer->has_ended);
        CHECK(self->received == self->peer->accepted || self->peer->is_cut);
    }
    act(self->owner);
    if (fuzz_below(&self->owner->input, 2) == 1) {
        return TEPAL_KEEP_OPEN;
    }
    self->has_ended = true; /* it closes */
    return 0;
}

static void paused(tepal_protocol *protocol) {
    act(enter(protocol)->owner);
}

static void lost(tepal_protocol *protocol, const tepal_error *error) {
    end *self = enter(protocol);
    tepal_address peer;
    CHECK_EQ(self->made, 1);
    if (error != NULL && tepal_transport_peer(self->transport, &peer) == 0) {
        self->is_cut = peer.storage.ss_family == AF_UNIX;
    }
    self->losts++;
    self->has_ended = true; /* what was cut off must not look complete to the other one */
    self->transport = NULL;
    act(self->owner);
}

static const tepal_protocol_type end_type = {
    .size = sizeof end_type,
    .connection_made = made,
    .data_received = received,
    .eof_received = eof,
    .pause_writing = paused,
    .resume_writing = paused,
    .connection_lost = lost,
};

static int client_factory(void *argument, tepal_protocol **protocol) {
    *protocol = &((end *)argument)->protocol;
    return 0;
}

static int server_factory(void *argument, tepal_protocol **protocol) {
    host *at = argument;
    simulation *self = at->owner;
    if (self->server_count == ENDS) {
        return TEPAL_ENOMEM;
    }
    end *one = &self->servers[self->server_count++];
    *one = (end){.protocol.type = &end_type, .owner = self, .loop = at->loop, .is_server = true};
    *protocol = &one->protocol;
    return 0;
}

/* ---- Hosts ---- */

static void report(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    (void)loop;
    (void)argument;
    if (error->code == TEPAL_EINVARIANT || error->code == TEPAL_ETHREAD) {
        test_fail(__FILE__, __LINE__, "%s: %s", what, error->text);
    }
}

/* Anew if it has crashed or was closed; it may fail to listen where faults are about. */
static void start_host(simulation *self, unsigned number) {
    host *at = &self->hosts[number];
    const char *const here[] = {"0.0.0.0", "::"};
    char name[8];
    tepal_loop *loop;
    if (self->depth > 0 && !self->is_running) {
        return; /* one is being closed */
    }
    snprintf(name, sizeof name, "h%u", number);
    const int code =
        tepal_sim_add_host(self->sim, name, TEPAL_OPTIONS(tepal_loop_options, .realloc = test_counting_alloc), &loop);
    if (code == TEPAL_EBUSY) {
        CHECK(at->loop != NULL);
        return;
    }
    CHECK_OK(code);
    tepal_server_unref(at->server);
    *at = (host){.owner = self, .loop = loop};
    tepal_loop_set_exception_handler(loop, report, NULL);
    if (tepal_loop_listen(
            loop, server_factory, at,
            TEPAL_OPTIONS(tepal_server_options, .hosts = here, .host_count = 2, .port = PORT, .unix_path = "@fuzz"),
            &at->server) < 0) {
        at->server = NULL;
    }
}

static void close_host(simulation *self, host *at) {
    if (self->depth > 0 || at->loop == NULL) {
        return;
    }
    tepal_loop *loop = at->loop;
    at->loop = NULL; /* nothing new on it from inside */
    CHECK_OK(tepal_loop_close(loop));
}

/* ---- What the input says ---- */

static void connect_one(simulation *self) {
    const host *from = &self->hosts[fuzz_below(&self->input, self->host_count)];
    char name[8];
    tepal_future *future;
    snprintf(name, sizeof name, "h%u", fuzz_below(&self->input, self->host_count));
    const bool is_local = fuzz_below(&self->input, 4) == 3;
    if (from->loop == NULL || self->client_count == ENDS) {
        return;
    }
    end *one = &self->clients[self->client_count];
    *one = (end){.protocol.type = &end_type, .owner = self, .loop = from->loop, .stream = self->client_count};
    const tepal_connect_options options = {.size = sizeof options,
                                           .host = is_local ? NULL : name,
                                           .port = is_local ? 0 : PORT,
                                           .unix_path = is_local ? "@fuzz" : NULL};
    CHECK_OK(tepal_loop_create_connection(from->loop, client_factory, one, &options, &future));
    self->client_count++;
    (void)tepal_future_error(future); /* nobody is to be told of it */
    if (fuzz_below(&self->input, 8) == 7) {
        CHECK(tepal_future_cancel(future));
    }
    tepal_future_unref(future);
}

static void write_some(simulation *self, end *one) {
    uint8_t bytes[4096];
    const size_t length = fuzz_length(&self->input, sizeof bytes);
    if (self->bytes + length > BYTES || (one->is_server && one->peer == NULL)) {
        return; /* a server's end does not know yet who it is */
    }
    for (size_t i = 0; i < length; i++) {
        bytes[i] = stream_byte(one->stream, one->accepted + i);
    }
    /* A pause inside the write may write, and comes first or last: the count must not be wrong meanwhile. */
    self->depth += DEPTH;
    const int code = tepal_transport_write(one->transport, bytes, length);
    self->depth -= DEPTH;
    if (code == 0) {
        CHECK(!one->has_ended);
        one->accepted += length;
        self->bytes += length;
    }
}

static void use_end(simulation *self, unsigned what) {
    end *ends = fuzz_below(&self->input, 2) == 0 ? self->clients : self->servers;
    const unsigned count = ends == self->clients ? self->client_count : self->server_count;
    end *one = count == 0 ? NULL : &ends[fuzz_below(&self->input, count)];
    if (one == NULL || one->transport == NULL) {
        return;
    }
    switch (what) {
    case 0:
    case 1:
    case 2:
        write_some(self, one);
        break;
    case 3:
        one->has_ended |= tepal_transport_write_eof(one->transport) == 0;
        break;
    case 4:
        one->has_ended = true;
        tepal_transport_close(one->transport);
        break;
    case 5:
        if (fuzz_below(&self->input, 4) == 3) {
            tepal_transport_abort(one->transport, TEPAL_ECANCELED);
        }
        break;
    case 6:
        one->is_paused |= tepal_transport_pause_reading(one->transport) == 0;
        break;
    default:
        one->is_paused &= tepal_transport_resume_reading(one->transport) != 0;
    }
}

static void nothing(void *argument) {
    act(argument);
}

static void start_timer(simulation *self) {
    const host *at = &self->hosts[fuzz_below(&self->input, self->host_count)];
    const int64_t delay_ns = (int64_t)1 << fuzz_below(&self->input, 40);
    if (at->loop != NULL) {
        CHECK_OK(tepal_loop_call_later(at->loop, delay_ns, nothing, self, NULL));
    }
}

static void check_failure(const simulation *self, int code) {
    if (code < 0) {
        const char *failure = tepal_sim_failure(self->sim);
        test_fail(__FILE__, __LINE__, "%s: %s", tepal_strerror(code), failure == NULL ? "?" : failure);
    }
}

static void run(simulation *self) {
    const int64_t limit_ns = (int64_t)1 << fuzz_below(&self->input, 36);
    if (self->depth == 0) {
        self->is_running = true;
        check_failure(self, tepal_sim_run(self->sim, limit_ns));
        self->is_running = false;
    } else if (self->is_running) {
        CHECK_EQ(tepal_sim_run(self->sim, limit_ns), TEPAL_ERECURSION);
    }
}

/* One loop's turn, which the others have turns in, too. */
static void step(simulation *self) {
    const host *at = &self->hosts[fuzz_below(&self->input, self->host_count)];
    const int64_t timeout_ns = (int64_t)1 << fuzz_below(&self->input, 32);
    if (at->loop == NULL || self->depth > 0) {
        return;
    }
    const int code = tepal_loop_step(at->loop, timeout_ns);
    if (code != TEPAL_SYSTEM(EHOSTDOWN)) {
        check_failure(self, code);
    }
}

static void write_word(simulation *self, char **text, size_t *room, const char *kind) {
    static const char *const rates[] = {"split",   "short",  "late",    "delay",  "reset",   "refuse",
                                        "timeout", "emfile", "enobufs", "enomem", "resolve", "stall"};
    const unsigned byte = fuzz_byte(&self->input);
    int length = 0;
    switch (*kind) {
    case 'h':
        length = byte % 8 == 7 ? snprintf(*text, *room, " *") : snprintf(*text, *room, " h%u", byte % self->host_count);
        break;
    case 't':
        length = snprintf(*text, *room, " %lluns", 1ull << byte % 34);
        break;
    case 'T': /* no shorter than any of the above */
        length = snprintf(*text, *room, " %lluns", 1ull << (34 + byte % 6));
        break;
    case 'n':
        length = snprintf(*text, *room, " %u", byte * byte);
        break;
    case 'r':
        length = snprintf(*text, *room, " %s", rates[byte % 12]);
        break;
    default:
        length = snprintf(*text, *room, " %g", (double)byte / 255);
    }
    *text += length;
    *room -= (size_t)length;
}

static void fault(simulation *self) {
    static const char *const statements[][2] = {
        {"latency", "hhtT"}, {"bandwidth", "hhn"},  {"drop", "hh"},  {"partition", "hh"}, {"heal", "hh"},
        {"reset", "hh"},     {"reset", "hhn"},      {"refuse", "h"}, {"serve", "h"},      {"stall", "ht"},
        {"jump", "ht"},      {"descriptors", "hn"}, {"rate", "r%"},  {"rate", "r%"},      {"rate", "r%"},
        {"random", ""},      {"calm", ""},          {"crash", "h"},
    };
    char script[160], *text = script;
    size_t room = sizeof script;
    const unsigned which = fuzz_below(&self->input, sizeof statements / sizeof *statements);
    if (fuzz_below(&self->input, 4) == 3) {
        text += snprintf(text, room, "at");
        room = sizeof script - (size_t)(text - script);
        write_word(self, &text, &room, "t");
    }
    const int length = snprintf(text, room, " %s", statements[which][0]);
    text += length;
    room -= (size_t)length;
    for (const char *kind = statements[which][1]; *kind != '\0'; kind++) {
        write_word(self, &text, &room, kind);
    }
    check_failure(self, tepal_sim_fault(self->sim, script));
}

static void operate(simulation *self) {
    const unsigned what = fuzz_below(&self->input, 16);
    switch (what) {
    case 8:
    case 9:
        connect_one(self);
        break;
    case 10:
    case 11:
        run(self);
        break;
    case 12:
    case 13:
        fault(self);
        break;
    case 14:
        step(self);
        break;
    case 15:
        switch (fuzz_below(&self->input, 8)) {
        case 7:
            close_host(self, &self->hosts[fuzz_below(&self->input, self->host_count)]);
            break;
        case 6:
            start_host(self, fuzz_below(&self->input, self->host_count));
            break;
        default:
            start_timer(self);
        }
        break;
    default:
        use_end(self, what);
    }
}

/* ---- The end ---- */

static void close_all(end *ends, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        if (ends[i].transport != NULL) {
            ends[i].has_ended = true;
            tepal_transport_close(ends[i].transport);
        }
    }
}

static bool is_up(const simulation *self, const tepal_loop *loop) {
    for (unsigned i = 0; i < self->host_count; i++) {
        if (self->hosts[i].loop == loop) {
            return true;
        }
    }
    return false;
}

/*
 * Two ends that close wait for each other for ever if each still has something to send and the sockets between them are
 * full, since neither reads any more. Nothing else may be left, and only an abort ends it.
 */
static void abort_those_that_wait_for_each_other(const end *ends, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        const end *peer = ends[i].peer;
        if (ends[i].transport == NULL || !is_up(ends[i].owner, ends[i].loop)) {
            continue;
        }
        CHECK(peer != NULL && peer->transport != NULL);
        CHECK_GT(tepal_transport_write_buffer_size(ends[i].transport), 0);
        CHECK_GT(tepal_transport_write_buffer_size(peer->transport), 0);
        tepal_transport_abort(ends[i].transport, TEPAL_ECANCELED);
    }
}

static void check_lost(const simulation *self, const end *ends, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        CHECK(ends[i].losts == ends[i].made || !is_up(self, ends[i].loop));
    }
}

static void run_to_the_end(simulation *self) {
    const int code = tepal_sim_run(self->sim, -1);
    check_failure(self, code);
    CHECK_EQ(code, 0);
}

static void come_to_an_end(simulation *self) {
    self->input.left = 0; /* nothing more from inside */
    CHECK_OK(tepal_sim_fault(self->sim, "calm"));
    check_failure(self, tepal_sim_run(self->sim, TEPAL_SEC(2000))); /* connects end, and what was put off has come */
    CHECK_OK(tepal_sim_fault(self->sim, "calm"));
    close_all(self->clients, self->client_count);
    close_all(self->servers, self->server_count);
    run_to_the_end(self);
    for (unsigned i = 0; i < self->host_count; i++) {
        start_host(self, i); /* those that have crashed hear of nothing */
    }
    abort_those_that_wait_for_each_other(self->clients, self->client_count);
    run_to_the_end(self);
    check_lost(self, self->clients, self->client_count);
    check_lost(self, self->servers, self->server_count);
}

static uint64_t simulate(const uint8_t *data, size_t size) {
    static simulation self;
    memset(&self, 0, sizeof self);
    self.input = (fuzz_input){.data = data, .left = size};
    const uint64_t seed = fuzz_number(&self.input, 2);
    self.host_count = 1 + fuzz_below(&self.input, HOSTS);
    CHECK_OK(tepal_sim_new(&self.sim, TEPAL_OPTIONS(tepal_sim_options, .seed = seed, .realloc = test_counting_alloc)));
    for (unsigned i = 0; i < self.host_count; i++) {
        start_host(&self, i);
    }
    for (int steps = 0; steps < STEPS && self.input.left > 0; steps++) {
        operate(&self);
    }
    come_to_an_end(&self);
    tepal_sim_stats stats = {.size = sizeof stats};
    CHECK_OK(tepal_sim_get_stats(self.sim, &stats));
    for (unsigned i = 0; i < self.host_count; i++) {
        tepal_server_unref(self.hosts[i].server);
    }
    tepal_sim_free(self.sim);
    CHECK_EQ(test_alloc_live(), 0);
    return stats.hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint64_t hash = simulate(data, size);
    CHECK_EQ(simulate(data, size), hash);
    return 0;
}
