/* A request/response protocol with a planted bug, and the simulator that finds it: seeds are tried until one fails, and
 * that seed fails again whenever it is asked for.
 *
 * A client has up to four requests under way, asks again after a time-out, and gives a request up after three tries. Each
 * has the number of its place in a table as its id. The bug: a place is used again, so the late answer to an old request
 * is taken for the answer to the next one in its place. It takes a time-out, an answer that comes nevertheless, and a new
 * request in that place before it does.
 *
 *     sim_requests [--fixed] [--trace] [SEEDS]        SEEDS: how many are tried; 20,000
 *     TEPAL_SIM_SEED=N sim_requests --trace           run the seed N again, and see what happened
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tepal.h>

enum { PLACES = 4, REQUESTS = 40, TRIES = 3, FRAME = 8, PORT = 7000 };
enum { WRONG_ANSWER = TEPAL_ERROR(TEPAL_DOMAIN_USER, 1), NEVER_ENDS = TEPAL_ERROR(TEPAL_DOMAIN_USER, 2) };

#define PATIENCE_NS TEPAL_MS(500)
#define CONNECT_AGAIN_NS TEPAL_MS(300)

/* Frames: an id and a number, of four bytes each. They come in any portions. */

typedef struct frames {
    uint8_t bytes[FRAME]; /* of the one that is not complete */
    size_t length;
} frames;

static uint32_t number_at(const uint8_t *bytes) {
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static int write_frame(tepal_transport *transport, uint32_t id, uint32_t number) {
    uint8_t bytes[FRAME];
    for (unsigned i = 0; i < 4; i++) {
        bytes[i] = (uint8_t)(id >> (24 - 8 * i));
        bytes[4 + i] = (uint8_t)(number >> (24 - 8 * i));
    }
    return tepal_transport_write(transport, bytes, sizeof bytes);
}

/* Take a byte; whether a frame is complete. */
static bool next_frame(frames *self, uint8_t byte, uint32_t *id, uint32_t *number) {
    self->bytes[self->length++] = byte;
    if (self->length < FRAME)
        return false;
    self->length = 0;
    *id = number_at(self->bytes);
    *number = number_at(self->bytes + 4);
    return true;
}

/* The server answers each request with the square of its number. */

typedef struct session {
    tepal_protocol protocol;
    tepal_transport *transport;
    frames input;
} session;

static int session_connection_made(tepal_protocol *protocol, tepal_transport *transport) {
    ((session *)protocol)->transport = transport;
    return 0;
}

static int session_data_received(tepal_protocol *protocol, const void *data, size_t length) {
    session *self = (session *)protocol;
    const uint8_t *bytes = data;
    uint32_t id, number;
    int code = 0;
    for (size_t i = 0; i < length && code == 0; i++)
        if (next_frame(&self->input, bytes[i], &id, &number))
            code = write_frame(self->transport, id, number * number);
    return code;
}

static void session_connection_lost(tepal_protocol *protocol, const tepal_error *error) {
    (void)error;
    free(protocol);
}

static const tepal_protocol_type session_type = {
    .size = sizeof session_type,
    .connection_made = session_connection_made,
    .data_received = session_data_received,
    .connection_lost = session_connection_lost,
};

static int session_factory(void *argument, tepal_protocol **protocol) {
    (void)argument;
    session *self = calloc(1, sizeof *self);
    if (self == NULL)
        return TEPAL_ENOMEM;
    self->protocol.type = &session_type;
    *protocol = &self->protocol;
    return 0;
}

/* The client */

typedef struct request {
    struct client *owner;
    tepal_timer patience;
    bool pending;
    uint32_t id, number;
    int tries;
} request;

typedef struct client {
    tepal_protocol protocol;
    bool fixed, trace;
    tepal_loop *loop;
    tepal_transport *transport; /* NULL: not connected */
    frames input;
    request requests[PLACES];
    uint32_t asked;
    int answered, given_up;
    char wrong[96]; /* what was wrong with an answer; empty: nothing */
} client;

static void client_connect(void *argument);

/* What the client does, beside the simulator's lines. */
static void say(const client *self, const char *what, const request *one) {
    if (self->trace)
        printf("%47s* client %s request %" PRIu32 ", try %d\n", "", what, one->number, one->tries);
}

static void ask(request *one) {
    client *self = one->owner;
    one->tries++;
    say(self, "sends", one);
    if (self->transport != NULL)
        write_frame(self->transport, one->id, one->number); /* if it fails, it is as good as lost on its way */
    tepal_timer_start(self->loop, &one->patience, tepal_loop_time(self->loop) + PATIENCE_NS);
}

/* Fill every place that is free; end the connection when all has been asked and answered. */
static void go_on(client *self) {
    for (unsigned place = 0; place < PLACES; place++) {
        request *one = &self->requests[place];
        if (one->pending || self->asked == REQUESTS)
            continue;
        one->pending = true;
        one->number = ++self->asked;
        one->tries = 0;
        one->id = place;
        if (self->fixed)
            one->id += PLACES * self->asked; /* nobody else has it, now or later */
        ask(one);
    }
    if (self->answered + self->given_up == REQUESTS && self->transport != NULL)
        tepal_transport_close(self->transport);
}

static void out_of_patience(tepal_work *work, int status) {
    request *one = (request *)((char *)work - offsetof(request, patience.work));
    if (status < 0) /* the loop is being closed */
        return;
    if (one->tries < TRIES) {
        ask(one);
        return;
    }
    say(one->owner, "gives up", one);
    one->pending = false;
    one->owner->given_up++;
    go_on(one->owner);
}

static void take_answer(client *self, uint32_t id, uint32_t number) {
    request *one = &self->requests[id % PLACES];
    if (!one->pending || one->id != id)
        return; /* it was answered or given up before */
    tepal_timer_stop(self->loop, &one->patience);
    one->pending = false;
    self->answered++;
    say(self, "has an answer to", one);
    if (number != one->number * one->number && self->wrong[0] == '\0')
        snprintf(self->wrong, sizeof self->wrong, "the square of %" PRIu32 " is said to be %" PRIu32, one->number,
                 number);
    go_on(self);
}

static int client_connection_made(tepal_protocol *protocol, tepal_transport *transport) {
    client *self = (client *)protocol;
    self->transport = transport;
    self->input.length = 0;
    go_on(self);
    return 0;
}

static int client_data_received(tepal_protocol *protocol, const void *data, size_t length) {
    client *self = (client *)protocol;
    const uint8_t *bytes = data;
    uint32_t id, number;
    for (size_t i = 0; i < length; i++)
        if (next_frame(&self->input, bytes[i], &id, &number))
            take_answer(self, id, number);
    return 0;
}

/* Not while the loop is being closed, which refuses it. */
static void client_connect_again(client *self) {
    self->transport = NULL;
    if (self->answered + self->given_up < REQUESTS)
        tepal_loop_call_later(self->loop, CONNECT_AGAIN_NS, client_connect, self, NULL);
}

static void client_connection_lost(tepal_protocol *protocol, const tepal_error *error) {
    (void)error;
    client_connect_again((client *)protocol);
}

static const tepal_protocol_type client_type = {
    .size = sizeof client_type,
    .connection_made = client_connection_made,
    .data_received = client_data_received,
    .connection_lost = client_connection_lost,
};

static int client_factory(void *argument, tepal_protocol **protocol) {
    client *self = argument;
    *protocol = &self->protocol;
    return 0;
}

static void connected(tepal_future *future, void *argument) {
    if (tepal_future_error(future) != NULL)
        client_connect_again(argument);
}

static void client_connect(void *argument) {
    client *self = argument;
    tepal_future *future;
    int code = tepal_loop_create_connection(
        self->loop, client_factory, self,
        TEPAL_OPTIONS(tepal_connect_options, .host = "server", .port = PORT, .limit_ns = TEPAL_SEC(2)), &future);
    if (code < 0) {
        client_connect_again(self);
        return;
    }
    tepal_future_add_done_callback(future, connected, self); /* the first one needs no memory */
    tepal_future_unref(future);
}

/* The test: what it does with each seed */

typedef struct experiment {
    bool fixed, trace;
    uint64_t runs;
    client client; /* of the run */
} experiment;

/* After every turn: safety, what must never be. */
static int check(void *argument) {
    return ((experiment *)argument)->client.wrong[0] == '\0' ? 0 : WRONG_ANSWER;
}

static void trace(void *argument, const char *line) {
    if (((experiment *)argument)->trace)
        puts(line);
}

/* Faults for 20 seconds; then calm, in which everything must come to its end: that is liveness. */
static int talk(tepal_sim *sim, tepal_loop *server_loop, client *asker) {
    tepal_server *server;
    int code = tepal_loop_listen(server_loop, session_factory, NULL, TEPAL_OPTIONS(tepal_server_options, .port = PORT),
                                 &server);
    if (code < 0)
        return code;
    client_connect(asker);
    code = tepal_sim_fault(sim, "rate split 0.3; rate delay 0.1; rate stall 0.001; at 20s calm");
    if (code == 0)
        code = tepal_sim_run(sim, TEPAL_SEC(600));
    tepal_server_unref(server);
    if (code < 0)
        return code;
    return asker->answered + asker->given_up == REQUESTS ? 0 : NEVER_ENDS;
}

static int run(tepal_sim *sim, void *argument) {
    experiment *self = argument;
    client *asker = &self->client;
    tepal_loop *server_loop;
    *asker = (client){.protocol.type = &client_type, .fixed = self->fixed, .trace = self->trace};
    for (unsigned place = 0; place < PLACES; place++) {
        asker->requests[place].owner = asker;
        asker->requests[place].patience.work.run = out_of_patience;
    }
    self->runs++;
    int code = tepal_sim_add_host(sim, "server", NULL, &server_loop);
    if (code == 0)
        code = tepal_sim_add_host(sim, "client", NULL, &asker->loop);
    if (code == 0)
        code = talk(sim, server_loop, asker);
    if (code < 0) {
        const char *failure = tepal_sim_failure(sim);
        printf("%s\n", failure != NULL ? failure : "some requests have not come to their end");
        if (asker->wrong[0] != '\0')
            printf("%s\n", asker->wrong);
    }
    return code; /* the network closes the loops of its hosts */
}

int main(int argc, char **argv) {
    experiment self = {.runs = 0};
    uint64_t seeds = 20000, failed = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--fixed") == 0) {
            self.fixed = true;
        } else if (strcmp(argv[i], "--trace") == 0) {
            self.trace = true;
        } else {
            seeds = strtoull(argv[i], NULL, 10);
        }
    }
    int code = tepal_sim_search(TEPAL_OPTIONS(tepal_sim_options, .check = check, .trace = trace, .argument = &self), 1,
                                seeds, run, &self, &failed);
    if (code < 0)
        printf("again, with what happened:  TEPAL_SIM_SEED=%" PRIu64 " %s%s --trace\n", failed, argv[0],
               self.fixed ? " --fixed" : "");
    printf("%" PRIu64 " seeds tried, %s\n", self.runs, code < 0 ? "one failed" : "none failed");
    return code < 0;
}
