/*
 * The load of scripts/soak: connections to an echo server that come and go for as long as it is told, each with numbered
 * messages, pauses in which it does not read, and one of three ends: a half-close, a close once all is back, a reset in
 * the middle. Every message that comes back is looked at: its number, its length, every byte. It prints what it counted,
 * a name and a number a line, and ends with status 1 if anything is lost, twice, out of order or wrong.
 *
 *     soak-load HOST PORT CONNECTIONS SECONDS [SEED]       HOST: an address, or unix:@NAME with port 0
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tepal.h>

enum {
    HEADER = 16,
    BODY_MAX = 32768,
    PERIOD = 65521,  /* of the text that bodies are made of; prime, so that no length falls into step with it */
    DEPTH_MAX = 16,  /* messages in flight */
    DEPTH_RARE = 400 /* more than the sockets hold, so that the server has to wait */
};

#define AGAIN_NS TEPAL_MS(20)  /* until a connection that failed is tried again */
#define LIMIT_NS TEPAL_SEC(30) /* for what must come to its end by itself */

typedef enum ending { HALF_CLOSE, CLOSE, RESET } ending;

typedef struct soak {
    tepal_loop *loop;
    const char *host;
    uint16_t port;
    uint64_t random;
    bool over; /* nothing new is begun */
    unsigned alive;
    uint32_t numbered; /* connections */
    uint64_t opened, half_closed, closed, reset, pauses;
    uint64_t messages, bytes;
    uint64_t lost, duplicated, reordered, wrong, broken, refused;
    uint8_t text[PERIOD + BODY_MAX];
} soak;

typedef struct flow {
    tepal_protocol protocol; /* first */
    soak *soak;
    tepal_transport *transport; /* NULL before and after the connection */
    tepal_timer resume, limit;
    uint32_t number; /* of the connection */
    ending ending;
    uint32_t wanted, sent, expected; /* messages: to send; sent; the next one to come back */
    unsigned depth;
    bool is_paused, has_ended;
    uint32_t sequence, length; /* of the message that is coming */
    size_t have;               /* bytes of it */
    uint8_t header[HEADER];
} flow;

static uint64_t next_random(soak *self) {
    self->random ^= self->random << 13; /* xorshift64 */
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    return self->random;
}

static uint32_t below(soak *self, uint32_t limit) {
    return (uint32_t)((next_random(self) >> 16) % limit);
}

/* Messages: number of the connection, sequence, length of the body, a sum of the three; then the body. */

static void put(uint8_t *to, uint32_t number) {
    memcpy(to, &number, sizeof number); /* both ends are this process */
}

static uint32_t get(const uint8_t *from) {
    uint32_t number;
    memcpy(&number, from, sizeof number);
    return number;
}

static uint32_t sum(uint32_t number, uint32_t sequence, uint32_t length) {
    return (number * 2654435761u + sequence) * 2246822519u ^ length;
}

static const uint8_t *body(const soak *self, uint32_t number, uint32_t sequence) {
    return self->text + ((uint64_t)number * 7919 + (uint64_t)sequence * 104729) % PERIOD;
}

static void flow_go_on(flow *self);
static void flow_connect(void *argument);

static int send_one(flow *self) {
    soak *run = self->soak;
    uint32_t length = below(run, 8) == 0 ? below(run, BODY_MAX) : below(run, 600);
    uint8_t header[HEADER];
    put(header, self->number);
    put(header + 4, self->sent);
    put(header + 8, length);
    put(header + 12, sum(self->number, self->sent, length));
    const struct iovec pieces[] = {
        {.iov_base = header, .iov_len = HEADER},
        {.iov_base = (void *)(uintptr_t)body(run, self->number, self->sent), .iov_len = length},
    };
    int code = tepal_transport_writev(self->transport, pieces, 2);
    self->sent += code == 0;
    return code;
}

/* The header of a message is complete. Whether it is one at all. */
static bool look_at_header(flow *self) {
    soak *run = self->soak;
    self->sequence = get(self->header + 4);
    self->length = get(self->header + 8);
    if (get(self->header) != self->number || get(self->header + 12) != sum(self->number, self->sequence, self->length))
        return false;
    if (self->sequence < self->expected)
        run->duplicated++;
    else if (self->sequence > self->expected)
        run->reordered++;
    if (self->sequence >= self->expected)
        self->expected = self->sequence + 1;
    return true;
}

/* Some bytes that came; how many of them belong to the message under way. 0: they are no message. */
static size_t take(flow *self, const uint8_t *data, size_t size) {
    soak *run = self->soak;
    if (self->have < HEADER) {
        size_t some = HEADER - self->have < size ? HEADER - self->have : size;
        memcpy(self->header + self->have, data, some);
        self->have += some;
        if (self->have == HEADER && !look_at_header(self))
            return 0;
        size = some;
    } else {
        size_t at = self->have - HEADER;
        size = self->length - at < size ? self->length - at : size;
        if (memcmp(data, body(run, self->number, self->sequence) + at, size) != 0)
            return 0;
        self->have += size;
    }
    if (self->have >= HEADER && self->have == HEADER + self->length) {
        self->have = 0;
        run->messages++;
    }
    return size;
}

static void pause_now_and_then(flow *self) {
    soak *run = self->soak;
    if (below(run, 60) != 0 || tepal_transport_pause_reading(self->transport) < 0)
        return;
    run->pauses++;
    tepal_timer_start(run->loop, &self->resume, tepal_loop_time(run->loop) + TEPAL_MS(1 + below(run, 40)));
}

static void resume_due(tepal_work *work, int status) {
    flow *self = (flow *)((char *)work - offsetof(flow, resume.work));
    if (status == 0 && self->transport != NULL)
        tepal_transport_resume_reading(self->transport);
}

/* It is broken if it does not come to its end. */
static void limit_due(tepal_work *work, int status) {
    flow *self = (flow *)((char *)work - offsetof(flow, limit.work));
    if (status == 0 && self->transport != NULL)
        tepal_transport_abort(self->transport, TEPAL_ETIMEDOUT);
}

static int flow_received(tepal_protocol *protocol, const void *data, size_t length) {
    flow *self = (flow *)protocol;
    const uint8_t *bytes = data;
    self->soak->bytes += length;
    while (length > 0) {
        size_t used = take(self, bytes, length);
        if (used == 0) {
            self->soak->wrong++;
            return TEPAL_EINVAL;
        }
        bytes += used;
        length -= used;
    }
    pause_now_and_then(self);
    flow_go_on(self);
    return 0;
}

static void end_it(flow *self) {
    soak *run = self->soak;
    self->has_ended = true;
    tepal_timer_start(run->loop, &self->limit, tepal_loop_time(run->loop) + LIMIT_NS);
    switch (self->ending) {
    case HALF_CLOSE:
        run->half_closed++;
        tepal_transport_write_eof(self->transport);
        break;
    case CLOSE:
        run->closed++;
        tepal_transport_close(self->transport);
        break;
    case RESET:
        run->reset++;
        tepal_transport_abort(self->transport, TEPAL_ECANCELED);
        break;
    }
}

/* Send what may be in flight; once all is sent (or, for a close, is back) end the connection. */
static void flow_go_on(flow *self) {
    soak *run = self->soak;
    if (run->over && self->wanted > self->sent)
        self->wanted = self->sent;
    while (!self->has_ended && !self->is_paused && self->sent < self->wanted &&
           self->sent - self->expected < self->depth)
        if (send_one(self) < 0)
            return;
    if (!self->has_ended && self->sent == self->wanted && (self->ending != CLOSE || self->expected == self->sent))
        if (self->have == 0 || self->ending != CLOSE)
            end_it(self);
}

static int flow_made(tepal_protocol *protocol, tepal_transport *transport) {
    flow *self = (flow *)protocol;
    soak *run = self->soak;
    self->transport = transport;
    self->number = ++run->numbered;
    self->ending = (ending)(below(run, 10) < 6 ? HALF_CLOSE : below(run, 2) == 0 ? CLOSE : RESET);
    self->wanted = 1 + below(run, 400);
    self->depth = below(run, 20) == 0 ? DEPTH_RARE : 1 + below(run, DEPTH_MAX);
    self->sent = self->expected = 0;
    self->have = 0;
    self->is_paused = self->has_ended = false;
    run->opened++;
    run->alive++;
    flow_go_on(self);
    return 0;
}

static void flow_pause(tepal_protocol *protocol) {
    ((flow *)protocol)->is_paused = true;
}

static void flow_resume(tepal_protocol *protocol) {
    flow *self = (flow *)protocol;
    self->is_paused = false;
    if (!self->has_ended)
        flow_go_on(self);
}

static void flow_lost(tepal_protocol *protocol, const tepal_error *error) {
    flow *self = (flow *)protocol;
    soak *run = self->soak;
    tepal_timer_stop(run->loop, &self->resume);
    tepal_timer_stop(run->loop, &self->limit);
    self->transport = NULL;
    if (!self->has_ended || self->ending != RESET) {
        run->lost += self->sent - self->expected + (self->have != 0);
        if (error != NULL && run->broken++ == 0)
            fprintf(stderr, "soak-load: a connection broke: %s\n", error->text);
    }
    run->alive--;
    if (!run->over)
        tepal_loop_call_soon(run->loop, flow_connect, self, NULL);
    else if (run->alive == 0)
        tepal_loop_stop(run->loop);
}

static const tepal_protocol_type flow_type = {
    .size = sizeof flow_type,
    .connection_made = flow_made,
    .data_received = flow_received,
    .pause_writing = flow_pause,
    .resume_writing = flow_resume,
    .connection_lost = flow_lost,
};

static int flow_factory(void *argument, tepal_protocol **protocol) {
    *protocol = &((flow *)argument)->protocol;
    return ((flow *)argument)->soak->over ? TEPAL_ECANCELED : 0;
}

static void flow_connected(tepal_future *future, void *argument) {
    flow *self = argument;
    const tepal_error *error = tepal_future_error(future);
    if (error == NULL || self->soak->over)
        return;
    if (self->soak->refused++ == 0)
        fprintf(stderr, "soak-load: no connection: %s\n", error->text);
    tepal_loop_call_later(self->soak->loop, AGAIN_NS, flow_connect, self, NULL);
}

/* One source address has some 28,000 ports, each of which rests for a minute after its use. */
static int choose_source(soak *run, tepal_address *source) {
    char text[32];
    snprintf(text, sizeof text, "127.0.1.%u", 1 + below(run, 250));
    return tepal_address_parse(source, text, 0);
}

static void flow_connect(void *argument) {
    flow *self = argument;
    soak *run = self->soak;
    tepal_connect_options options = {.size = sizeof options, .limit_ns = LIMIT_NS};
    tepal_address source;
    tepal_future *future;
    if (run->over)
        return;
    if (strncmp(run->host, "unix:", 5) == 0) {
        options.unix_path = run->host + 5;
    } else {
        options.host = run->host;
        options.port = run->port;
    }
    if (strncmp(run->host, "127.", 4) == 0 && choose_source(run, &source) == 0)
        options.local = &source;
    if (tepal_loop_create_connection(run->loop, flow_factory, self, &options, &future) == 0) {
        tepal_future_add_done_callback(future, flow_connected, self);
        tepal_future_unref(future);
    } else {
        run->refused++;
    }
}

/* The time is over: each connection ends when what it has sent is back. */
static void finish(void *argument) {
    soak *run = argument;
    run->over = true;
    if (run->alive == 0)
        tepal_loop_stop(run->loop);
}

static int print_counts(const soak *run) {
    const struct {
        const char *name;
        uint64_t count;
        bool is_fault;
    } counts[] = {
        {"opened", run->opened, false},        {"half_closed", run->half_closed, false},
        {"closed", run->closed, false},        {"reset", run->reset, false},
        {"pauses", run->pauses, false},        {"messages", run->messages, false},
        {"bytes", run->bytes, false},          {"lost", run->lost, true},
        {"duplicated", run->duplicated, true}, {"reordered", run->reordered, true},
        {"wrong", run->wrong, true},           {"broken", run->broken, true},
        {"refused", run->refused, true},
    };
    int status = 0;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        printf("%s %" PRIu64 "\n", counts[i].name, counts[i].count);
        status |= counts[i].is_fault && counts[i].count > 0;
    }
    return status;
}

static int soak_for(soak *run, flow *flows, unsigned count, double seconds) {
    int code = tepal_loop_new(&run->loop, NULL);
    if (code < 0)
        return code;
    for (unsigned i = 0; i < count; i++) {
        flows[i].protocol.type = &flow_type;
        flows[i].soak = run;
        flows[i].resume.work.run = resume_due;
        flows[i].limit.work.run = limit_due;
        flow_connect(&flows[i]);
    }
    code = tepal_loop_call_later(run->loop, (int64_t)(seconds * 1e9), finish, run, NULL);
    if (code == 0)
        code = tepal_loop_run_forever(run->loop);
    tepal_loop_close(run->loop);
    tepal_loop_unref(run->loop);
    return code;
}

int main(int argc, char **argv) {
    static soak run;
    if (argc < 5) {
        fprintf(stderr, "usage: soak-load HOST PORT CONNECTIONS SECONDS [SEED]\n");
        return 2;
    }
    const unsigned count = (unsigned)atoi(argv[3]);
    flow *flows = calloc(count, sizeof *flows);
    if (flows == NULL)
        return 1;
    run.host = argv[1];
    run.port = (uint16_t)atoi(argv[2]);
    run.random = 88172645463325252 + (argc > 5 ? strtoull(argv[5], NULL, 10) * 7919 : 0);
    for (size_t i = 0; i < PERIOD; i++)
        run.text[i] = (uint8_t)(next_random(&run) >> 32);
    memcpy(run.text + PERIOD, run.text, BODY_MAX);
    const int code = soak_for(&run, flows, count, atof(argv[4]));
    free(flows);
    if (code < 0)
        fprintf(stderr, "soak-load: %s\n", tepal_strerror(code));
    return print_counts(&run) | (code < 0);
}
