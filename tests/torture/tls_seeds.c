/* See tls_seeds.h. */
#define OPENSSL_SUPPRESS_DEPRECATED /* RAND_METHOD: a provider that does the same takes more than it gives here */
#include "torture/tls_seeds.h"

#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>

enum { CONNECTIONS = 5, PORT = 7000, MARK = 4 /* bytes: the number that a client's stream begins with */ };

/* ---- The engine's randomness ---- */

static test_prng engine_prng;

static int random_bytes(unsigned char *bytes, int count) {
    test_prng_fill(&engine_prng, bytes, (size_t)count);
    return 1;
}

static int random_status(void) {
    return 1;
}

static const RAND_METHOD random_method = {.bytes = random_bytes, .pseudorand = random_bytes, .status = random_status};

/* ---- Ends ---- */

static bool has_tickets;

typedef struct run run;
typedef struct side side;

/* One end of one connection. A server's learns which one it is by the first bytes that come. */
struct side {
    tepal_protocol protocol; /* first */
    run *run;
    side *next, *peer; /* peer: once it is known */
    tepal_loop *loop;
    tepal_transport *transport; /* between made and lost */
    tepal_timer timer;          /* when it acts next */
    uint64_t number;
    uint64_t sent, received; /* a client's with the mark */
    uint8_t mark[MARK];
    int made, eofs, lost, lost_code;
    bool is_server, is_known, has_ended, has_closed, has_aborted, is_reading_paused, is_writing_paused;
    int acts;
};

struct run {
    tepal_sim *sim;
    tepal_loop *server_loop, *client_loop;
    tepal_tls_context *server_context, *client_context;
    tepal_server *server;
    side *newest;
    side *clients[CONNECTIONS];
    tepal_future *futures[CONNECTIONS];
    test_prng prng;
    tls_result *result;
    bool is_ending;
    int refused;
};

static uint64_t chance(run *self, uint64_t below) {
    return test_prng_below(&self->prng, below);
}

static uint64_t seed_of(const side *self) {
    return 2 * self->number + self->is_server;
}

/* The bytes of a stream: a client's begin with its number. */
static void stream_of(const side *self, uint64_t offset, uint8_t *bytes, size_t length) {
    stream_fill(seed_of(self), offset, bytes, length);
    for (uint64_t at = offset; !self->is_server && at < MARK && at < offset + length; at++) {
        bytes[at - offset] = (uint8_t)(self->number >> (8 * at));
    }
}

static void write_some(side *self, size_t length) {
    uint8_t data[40000];

    stream_of(self, self->sent, data, length);
    const int code = tepal_transport_write(self->transport, data, length);
    if (code == 0) {
        self->sent += length;
    } else {
        CHECK(code == TEPAL_ECLOSED || code == TEPAL_EPIPE || code == TEPAL_ENOBUFS);
    }
}

static void plan(side *self) {
    const int64_t now_ns = tepal_loop_time(self->loop);
    CHECK_OK(tepal_timer_start(self->loop, &self->timer,
                               now_ns + (int64_t)chance(self->run, (uint64_t)TEPAL_MS(1 << chance(self->run, 10)))));
}

static void bind_to_result(side *self) {
    uint8_t binding[64];
    const int64_t length = tepal_transport_tls_binding(self->transport, "tls-exporter", binding, sizeof binding);

    CHECK_EQ(length, 32);
    for (int i = 0; i < 32; i++) {
        self->run->result->secrets = self->run->result->secrets * 1099511628211u + binding[i];
    }
}

/* One thing that a program may do, at any time. */
static void act(tepal_work *work, int status) {
    side *self = (side *)(void *)((char *)work - offsetof(side, timer.work));

    if (status < 0 || self->transport == NULL) {
        return;
    }
    switch (chance(self->run, 16)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
        write_some(self, 1 + (size_t)chance(self->run, 1u << chance(self->run, 16)) % 40000);
        break;
    case 5:
    case 6:
        (void)tepal_transport_pause_reading(self->transport);
        self->is_reading_paused = true;
        break;
    case 7:
    case 8:
    case 9:
        self->is_reading_paused = false;
        (void)tepal_transport_resume_reading(self->transport);
        break;
    case 10:
    case 11:
        (void)tepal_transport_tls_update_keys(self->transport);
        break;
    case 12:
        (void)tepal_transport_flush(self->transport);
        break;
    case 13:
        if (tepal_transport_write_eof(self->transport) == 0) {
            self->has_ended = true;
        }
        break;
    case 14:
        if (chance(self->run, 4) == 0) {
            self->has_closed = true;
            tepal_transport_close(self->transport);
        }
        break;
    default:
        if (chance(self->run, 8) == 0) {
            self->has_aborted = true;
            tepal_transport_abort(self->transport, TEPAL_ERROR(TEPAL_DOMAIN_USER, 1));
        }
        break;
    }
    if (++self->acts < 60) {
        plan(self);
    }
}

/* ---- Upcalls, and the model ---- */

static int side_made(tepal_protocol *protocol, tepal_transport *transport) {
    side *self = (side *)protocol;

    CHECK_EQ(self->made++, 0);
    self->transport = transport;
    self->run->result->made++;
    bind_to_result(self);
    if (!self->is_server) {
        write_some(self, MARK);
        plan(self);
    }
    return 0;
}

/* The server's end learns who its peer is. */
static void learn(side *self) {
    run *const all = self->run;
    uint64_t number = 0;

    for (int i = 0; i < MARK; i++) {
        number |= (uint64_t)self->mark[i] << (8 * i);
    }
    CHECK_LT(number, CONNECTIONS);
    self->number = number;
    self->peer = all->clients[number];
    CHECK(self->peer != NULL);
    CHECK(self->peer->peer == NULL);
    self->peer->peer = self;
    self->is_known = true;
    plan(self);
}

static int side_received(tepal_protocol *protocol, const void *data, size_t length) {
    side *self = (side *)protocol;
    const uint8_t *bytes = data;
    uint8_t expected[512];

    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->lost + self->eofs, 0);
    CHECK(!self->is_reading_paused);
    CHECK(!tepal_transport_is_closing(self->transport));
    self->run->result->bytes += length;
    if (!self->is_known && self->is_server) {
        for (; length > 0 && self->received < MARK; length--) {
            self->mark[self->received++] = *bytes++;
        }
        if (self->received == MARK) {
            learn(self);
        }
    }
    CHECK(length == 0 || self->peer != NULL);
    while (length > 0) {
        const size_t part = length < sizeof expected ? length : sizeof expected;
        stream_of(self->peer, self->received, expected, part);
        CHECK_MEM(bytes, expected, part);
        self->received += part;
        bytes += part;
        length -= part;
    }
    CHECK(self->peer == NULL || self->received <= self->peer->sent);
    return 0;
}

static int side_eof(tepal_protocol *protocol) {
    side *self = (side *)protocol;

    CHECK_EQ(self->eofs++, 0);
    CHECK_EQ(self->lost, 0);
    CHECK(!self->is_reading_paused);
    if (self->peer != NULL) { /* the end is what the peer wanted, and everything before it is here */
        CHECK(self->peer->has_ended || self->peer->has_closed);
        CHECK_EQ(self->received, self->peer->sent);
        self->run->result->clean_ends++;
    }
    const bool keeps = chance(self->run, 2) == 0;
    self->has_closed = self->has_closed || !keeps;
    if (keeps) {
        tepal_tls_info info = {.size = sizeof info};
        CHECK_OK(tepal_transport_tls_info(self->transport, &info));
        self->has_closed = self->has_closed || info.version == TEPAL_TLS_1_2; /* it has no choice */
    }
    return keeps ? TEPAL_KEEP_OPEN : 0;
}

static void side_pause(tepal_protocol *protocol) {
    side *self = (side *)protocol;
    CHECK(!self->is_writing_paused);
    self->is_writing_paused = true;
}

static void side_resume(tepal_protocol *protocol) {
    side *self = (side *)protocol;
    CHECK(self->is_writing_paused);
    self->is_writing_paused = false;
}

static void side_lost(tepal_protocol *protocol, const tepal_error *error) {
    side *self = (side *)protocol;

    CHECK_EQ(self->made, 1);
    CHECK_EQ(self->lost++, 0);
    self->lost_code = error == NULL ? 0 : error->code;
    self->transport = NULL;
    (void)tepal_timer_stop(self->loop, &self->timer);
    if (self->lost_code == 0) { /* it wanted that, one way or the other */
        CHECK(self->has_closed || (self->has_ended && self->eofs == 1));
    }
    if (self->lost_code == TEPAL_ERROR(TEPAL_DOMAIN_USER, 1)) {
        CHECK(self->has_aborted);
    }
    CHECK_NE(self->lost_code, TEPAL_ETLS_DAMAGED);
    CHECK_NE(self->lost_code, TEPAL_ETLS_PROTOCOL);
    CHECK_NE(self->lost_code, TEPAL_ETLS_ENGINE);
}

static const tepal_protocol_type side_type = {.size = sizeof side_type,
                                              .connection_made = side_made,
                                              .data_received = side_received,
                                              .eof_received = side_eof,
                                              .pause_writing = side_pause,
                                              .resume_writing = side_resume,
                                              .connection_lost = side_lost};

static side *side_new(run *all, bool is_server) {
    side *made = calloc(1, sizeof *made);

    CHECK(made != NULL);
    *made = (side){.protocol.type = &side_type,
                   .run = all,
                   .next = all->newest,
                   .is_server = is_server,
                   .loop = is_server ? all->server_loop : all->client_loop,
                   .timer.work.run = act};
    all->newest = made;
    return made;
}

static int make_served(void *argument, tepal_protocol **protocol) {
    *protocol = &side_new(argument, true)->protocol;
    return 0;
}

static int make_client(void *argument, tepal_protocol **protocol) {
    *protocol = &((side *)argument)->protocol;
    return 0;
}

static void refused(void *argument, const tepal_error *error) {
    run *self = argument;

    CHECK_LT(error->code, 0);
    CHECK_NE(error->code, TEPAL_EINVARIANT);
    self->refused++;
    self->result->failures++;
}

/* ---- A run ---- */

static tepal_tls_context *context_of(run *self, bool server) {
    const tepal_tls_context_options options = {
        .size = sizeof options,
        .server = server,
        .certificate = server ? identity_server()->certificate : NULL,
        .key = server ? identity_server()->key : NULL,
        .ca = server ? NULL : identity_authority()->certificate,
        .maximum = server && chance(self, 3) == 0 ? TEPAL_TLS_1_2 : 0,
        .no_resumption = !has_tickets || (server && chance(self, 4) == 0),
    };
    tepal_tls_context *made;

    CHECK_OK(tepal_tls_context_new(&made, &options, NULL, 0));
    return made;
}

static void dial(run *self, int number) {
    const tepal_tls_options tls = {.size = sizeof tls, .context = self->client_context, .server_name = "localhost"};
    side *const made = side_new(self, false);

    made->number = (uint64_t)number;
    self->clients[number] = made;
    CHECK_OK(tepal_loop_create_connection(
        self->client_loop, make_client, made,
        TEPAL_OPTIONS(tepal_connect_options, .host = "server", .port = PORT, .tls = &tls), &self->futures[number]));
}

static void open_run(run *self) {
    const tepal_loop_options options = {.size = sizeof options, .realloc = test_counting_alloc};

    CHECK_OK(tepal_sim_add_host(self->sim, "server", &options, &self->server_loop));
    CHECK_OK(tepal_sim_add_host(self->sim, "client", &options, &self->client_loop));
    self->server_context = context_of(self, true);
    self->client_context = context_of(self, false);
    const tepal_tls_options tls = {.size = sizeof tls, .context = self->server_context};
    CHECK_OK(tepal_loop_listen(self->server_loop, make_served, self,
                               TEPAL_OPTIONS(tepal_server_options, .port = PORT, .accept_failed = refused, .tls = &tls),
                               &self->server));
}

/* Everybody is closed; nothing may be left, and of every stream a prefix has come. */
static void close_run(run *self) {
    tepal_server_close(self->server);
    for (side *each = self->newest; each != NULL; each = each->next) {
        if (each->transport != NULL) {
            each->has_closed = true;
            tepal_transport_close(each->transport);
        }
    }
    CHECK_OK(tepal_sim_run(self->sim, TEPAL_SEC(600)));
    for (int i = 0; i < CONNECTIONS; i++) {
        CHECK(tepal_future_is_done(self->futures[i]));
        const tepal_error *error = tepal_future_error(self->futures[i]);
        CHECK_EQ(self->clients[i]->made, error == NULL);
        self->result->failures += error != NULL;
        tepal_future_unref(self->futures[i]);
    }
    CHECK_EQ(tepal_server_connection_count(self->server), 0);
    tepal_server_unref(self->server);
    while (self->newest != NULL) {
        side *const gone = self->newest;
        self->newest = gone->next;
        CHECK_EQ(gone->made, gone->lost);
        free(gone);
    }
}

static int play(tepal_sim *sim, void *argument) {
    run self = {.sim = sim, .result = argument, .prng = {.state = tepal_sim_seed(sim) * 2654435761u + 1}};
    tepal_sim_stats stats = {.size = sizeof stats};

    engine_prng = (test_prng){.state = tepal_sim_seed(sim) * 40503u + 7};
    *self.result = (tls_result){.hash = 0};
    open_run(&self);
    if (chance(&self, 3) > 0) {
        CHECK_OK(tepal_sim_fault(sim, "random"));
    }
    for (int i = 0; i < CONNECTIONS; i++) {
        dial(&self, i);
        CHECK_OK(tepal_sim_run(sim, (int64_t)chance(&self, (uint64_t)TEPAL_MS(200))));
    }
    CHECK_OK(tepal_sim_run(sim, TEPAL_SEC(20)));
    CHECK_OK(tepal_sim_fault(sim, "calm"));
    CHECK_OK(tepal_sim_run(sim, TEPAL_SEC(20)));
    close_run(&self);
    CHECK_OK(tepal_sim_get_stats(sim, &stats));
    self.result->hash = stats.hash;
    self.result->events = stats.events;
    tepal_tls_context_unref(self.server_context);
    tepal_tls_context_unref(self.client_context);
    return tepal_sim_failure(sim) == NULL ? 0 : TEPAL_EINVARIANT;
}

void tls_seeds_run(uint64_t seed, bool tickets, tls_result *result) {
    tepal_sim *sim;
    char text[80];

    has_tickets = tickets;
    (void)identity_server(); /* with the engine's own randomness; its length is always the same, nearly */
    CHECK_EQ(RAND_set_rand_method(&random_method), 1);
    snprintf(text, sizeof text, "TEPAL_SIM_SEED=%llu tests/run tls_seeds/one_seed\n", (unsigned long long)seed);
    fputs(text, stderr); /* the last one is the one that failed */
    CHECK_OK(tepal_sim_new(&sim, TEPAL_OPTIONS(tepal_sim_options, .seed = seed)));
    const int code = play(sim, result);
    if (code < 0) {
        test_fail(__FILE__, __LINE__, "seed %llu: %s", (unsigned long long)seed, tepal_sim_failure(sim));
    }
    tepal_sim_free(sim);
    CHECK_EQ(test_alloc_live(), 0);
}

/* ---- Tests ---- */

static const char *asked_for(void) {
    const char *text = getenv("TEPAL_SIM_SEED");
    return text == NULL || *text == '\0' ? NULL : text;
}

TEST(tls_seeds, one_seed_holds_to_the_model) {
    tls_result result;

    tls_seeds_run(asked_for() == NULL ? 20121220 : strtoull(asked_for(), NULL, 0), true, &result);
}

static void run_part(uint64_t part) {
    const uint64_t count = (uint64_t)test_rounds(20000, 200);
    tls_result result, all = {.hash = 0};

    if (asked_for() != NULL) {
        SKIP("TEPAL_SIM_SEED asks for one seed: tls_seeds/one_seed_holds_to_the_model runs it");
    }
    test_set_timeout(3600);
    for (uint64_t i = 0; i < count; i++) {
        tls_seeds_run(1 + 2 * i + part, true, &result);
        all.bytes += result.bytes;
        all.made += result.made;
        all.clean_ends += result.clean_ends;
        all.failures += result.failures;
    }
    CHECK_GT(all.made, 5 * count); /* the seeds do not only fail */
    CHECK_GT(all.clean_ends, count / 4);
    CHECK_GT(all.bytes, 10000 * count);
}

TEST(tls_seeds, hold_to_the_model_part_1) {
    run_part(0);
}

TEST(tls_seeds, hold_to_the_model_part_2) {
    run_part(1);
}

TEST(tls_seeds, the_same_seed_gives_the_same_run_to_the_byte) {
    const uint64_t count = (uint64_t)test_rounds(500, 30);
    tls_result first, second;

    if (asked_for() != NULL) {
        SKIP("TEPAL_SIM_SEED asks for one seed: tls_seeds/one_seed_holds_to_the_model runs it");
    }
    test_set_timeout(3600);
    for (uint64_t seed = 100001; seed < 100001 + count; seed++) {
        tls_seeds_run(seed, false, &first);
        tls_seeds_run(seed, false, &second);
        CHECK_EQ(first.hash, second.hash);
        CHECK_EQ(first.events, second.events);
        CHECK_EQ(first.secrets, second.secrets);
        CHECK_EQ(first.bytes, second.bytes);
    }
}
