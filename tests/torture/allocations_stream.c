/* Scenarios of failing allocations: what a transport offers. Writing, flow control, filters, producers, pipes, the end. */
#include "torture/allocations.h"

#include <stdlib.h>
#include <sys/socket.h>

enum { LARGE = 100000, PIECES = 100 };

/* ---- Writing in every way ---- */

static void release_once(void *argument, int status) {
    (void)status;
    CHECK_EQ(++*(int *)argument, 1);
}

/* As many pieces as one call of the kernel does not take. */
static void write_pieces(party *self) {
    static uint8_t bytes[PIECES * 100];
    struct iovec pieces[PIECES];

    party_fill(self, bytes, sizeof bytes);
    for (int i = 0; i < PIECES; i++) {
        pieces[i] = (struct iovec){.iov_base = bytes + i * 100, .iov_len = 100};
    }
    if (WORKED(tepal_transport_writev(self->transport, pieces, PIECES))) {
        self->sent += sizeof bytes;
    }
}

/* Each time from memory of its own, which stays as it is. */
static void write_owned(party *self, int time, int *released) {
    static uint8_t bytes[2][LARGE];
    const struct iovec piece = {.iov_base = bytes[time], .iov_len = LARGE};

    party_fill(self, bytes[time], LARGE);
    if (WORKED(tepal_transport_write_owned(self->transport, &piece, 1, release_once, &released[time]))) {
        self->sent += LARGE;
    } else {
        CHECK_EQ(released[time], 0);
        released[time] = 1;
    }
}

static void narrow(const party *self) {
    const int least = 1;
    const int fd = tepal_transport_fd(self->transport);

    CHECK(fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof least) == 0);
}

static void write_in_every_way(trial *self) {
    tepal_future *drained;
    party *client, *server;
    int released[2] = {0};
    uint64_t high, low, cap;

    if (!party_pair(self, false, &client, &server)) {
        return;
    }
    narrow(client);
    (void)WORKED(tepal_transport_set_write_limits(client->transport, 20000, 100, 1 << 20));
    tepal_transport_get_write_limits(client->transport, &high, &low, &cap);
    CHECK_LE(high, 65536);
    (void)WORKED(tepal_transport_pause_reading(server->transport));
    CHECK(!tepal_transport_is_reading(server->transport));
    write_owned(client, 0, released);
    party_write(client, 100);
    party_write(client, LARGE);
    write_pieces(client);
    write_owned(client, 1, released);
    (void)WORKED(tepal_transport_flush(client->transport));
    if (WORKED(tepal_transport_drain(client->transport, &drained))) {
        trial_keep(self, drained);
    }
    CHECK_LE(tepal_transport_write_buffer_size(client->transport), client->sent);
    trial_settle(self);
    (void)WORKED(tepal_transport_resume_reading(server->transport));
    TRIAL_UNTIL(self, party_has_all(server));
    if (WORKED(tepal_transport_write_eof(client->transport))) {
        TRIAL_UNTIL(self, server->eofs == 1 || server->lost == 1 || client->lost == 1);
    }
    party_write(server, 50000); /* the other direction is still open */
    TRIAL_UNTIL(self, party_has_all(client));
    tepal_transport_close(server->transport);
    TRIAL_UNTIL(self, server->lost == 1 && (client->lost == 1 || client->eofs == 1));
    CHECK(tepal_transport_is_closing(server->transport));
    tepal_transport_abort(client->transport, TEPAL_EMSGSIZE);
    TRIAL_UNTIL(self, client->lost == 1);
    CHECK_EQ(released[0], 1);
    CHECK_EQ(released[1], 1);
    self->is_finished = true;
}

ALLOCATION_TEST(what_is_written_comes_in_order_or_the_connection_ends, write_in_every_way)

/* ---- Questions and settings ---- */

static void ask_everything(trial *self) {
    tepal_address address;
    tepal_protocol *old = NULL;
    party *client, *server;
    const void *answer;

    if (!party_pair(self, true, &client, &server)) {
        return;
    }
    tepal_transport *transport = tepal_transport_ref(client->transport);
    party *other = party_new(self, true); /* takes the client's place, and its stream */
    other->peer = server;
    if (WORKED(tepal_transport_set_protocol(transport, &other->protocol, &old))) {
        CHECK(old == &client->protocol);
        CHECK(tepal_transport_protocol(transport) == &other->protocol);
        (void)WORKED(tepal_transport_set_protocol(transport, old, NULL));
    }
    CHECK(tepal_transport_loop(transport) == self->loop);
    (void)WORKED(tepal_transport_peer(transport, &address));
    (void)WORKED(tepal_transport_local(transport, &address));
    (void)WORKED(tepal_transport_set_no_delay(transport, false));
    (void)WORKED(tepal_transport_set_keep_alive(transport, true, 60, 10, 3));
    CHECK_EQ(tepal_transport_can_write_eof(transport), !tepal_transport_is_closing(transport));
    const int code = tepal_transport_info(transport, "anything", &answer);
    CHECK(code == TEPAL_ENOENT || code == TEPAL_ECLOSED);
    party_write(server, 1000);
    TRIAL_UNTIL(self, party_has_all(client));
    tepal_transport_unref(transport);
    self->is_finished = true;
}

ALLOCATION_TEST(a_transport_answers, ask_everything)

/* ---- Filters ---- */

/* It passes everything on, by each function there is for that. */
typedef struct passer {
    tepal_filter filter; /* first */
    int losts, detaches, aborts;
    bool fails;     /* ends the connection at the next write */
    size_t portion; /* passes at most so much up at a time; 0: all */
} passer;

static int64_t passer_received(tepal_filter *self, const void *data, size_t length) {
    const size_t most = ((passer *)self)->portion == 0 ? length : ((passer *)self)->portion;
    int64_t used = 0, last = 1;

    while ((size_t)used < length && last > 0) {
        const size_t left = length - (size_t)used;
        last = tepal_filter_up_received(self, (const uint8_t *)data + used, left < most ? left : most);
        used += last > 0 ? last : 0;
    }
    CHECK(last < 0 || (size_t)used == length || tepal_filter_is_paused(self));
    return last < 0 ? last : used;
}

static int passer_write(tepal_filter *self, const struct iovec *pieces, size_t count) {
    if (((passer *)self)->fails) {
        tepal_filter_abort(self, TEPAL_ECANCELED);
        return TEPAL_ECANCELED;
    }
    return tepal_filter_down_write(self, pieces, count);
}

static void passer_lost(tepal_filter *self, const tepal_error *error) {
    (void)error;
    CHECK_EQ(((passer *)self)->losts++, 0);
}

static void passer_detach(tepal_filter *self) {
    CHECK_EQ(((passer *)self)->detaches++, 0);
}

static void passer_abort(tepal_filter *self, int code) {
    CHECK_LT(code, 0);
    ((passer *)self)->aborts++;
}

static int passer_info(const tepal_filter *self, const char *what, const void **answer) {
    *answer = self;
    return strcmp(what, "passer") == 0 ? 0 : TEPAL_ENOENT;
}

static const tepal_filter_type passer_type = {
    .size = sizeof passer_type,
    .received = passer_received,
    .received_eof = tepal_filter_up_received_eof,
    .writable = tepal_filter_up_writable,
    .established = tepal_filter_up_established,
    .lost = passer_lost,
    .write = passer_write,
    .write_eof = tepal_filter_down_write_eof,
    .pause = tepal_filter_down_pause,
    .resume = tepal_filter_down_resume,
    .flush = tepal_filter_down_flush,
    .close = tepal_filter_down_close,
    .abort = passer_abort,
    .detach = passer_detach,
    .info = passer_info,
};

/* Two layers of it on the client; whether both are there. */
static bool push_two(trial *self, party *client, passer filters[2]) {
    tepal_future *established;
    int pushed = 0;

    for (int i = 0; i < 2; i++) {
        filters[i] = (passer){.filter.type = &passer_type};
        if (WORKED(tepal_transport_push_filter(client->transport, &filters[i].filter, i == 0 ? NULL : &established))) {
            pushed++;
        }
    }
    if (filters[1].filter.transport != NULL) {
        trial_keep(self, established);
        tepal_filter_up_established(&filters[1].filter);
        CHECK(tepal_future_is_done(established));
    }
    return pushed == 2;
}

static void pass_through_filters(trial *self) {
    static passer filters[2]; /* for as long as the loop */
    party *client, *server;
    const void *answer;

    if (!party_pair(self, true, &client, &server) || !push_two(self, client, filters)) {
        return;
    }
    narrow(client);
    if (WORKED(tepal_transport_info(client->transport, "passer", &answer))) {
        CHECK(answer == &filters[1]);
    }
    party_write(client, LARGE);
    (void)WORKED(tepal_transport_flush(client->transport));
    (void)WORKED(tepal_transport_pause_reading(client->transport));
    party_write(server, 10000);
    trial_settle(self);
    (void)WORKED(tepal_transport_resume_reading(client->transport));
    TRIAL_UNTIL(self, party_has_all(server) && party_has_all(client));
    if (!tepal_transport_is_closing(client->transport) &&
        WORKED(tepal_transport_pop_filter(client->transport, &filters[1].filter))) {
        CHECK_EQ(filters[1].detaches, 1);
    }
    (void)WORKED(tepal_transport_write_eof(server->transport)); /* the filter passes its end on */
    TRIAL_UNTIL(self, client->eofs == 1 || client->lost == 1 || server->lost == 1);
    (void)WORKED(tepal_transport_write_eof(client->transport));
    TRIAL_UNTIL(self, client->lost == 1 && server->lost == 1);
    CHECK_EQ(filters[0].losts, 1);
    CHECK_EQ(filters[1].losts + filters[1].detaches, 1);
    self->is_finished = true;
}

ALLOCATION_TEST(filters_pass_everything_on, pass_through_filters)

/* The protocol pauses after the first portion: what has been read beyond it has to be kept. */
static void pause_between_portions(trial *self) {
    static passer filters[2];
    party *client, *server;

    if (!party_pair(self, true, &client, &server) || !push_two(self, client, filters)) {
        return;
    }
    filters[1].portion = 1000;
    client->pauses = true;
    party_write(server, 5000);
    TRIAL_UNTIL(self, client->received > 0 || client->lost == 1 || server->lost == 1 || self->unwritten > 0);
    trial_settle(self);
    CHECK_LE(client->received, 1000);
    client->pauses = false;
    (void)WORKED(tepal_transport_resume_reading(client->transport));
    TRIAL_UNTIL(self, party_has_all(client));
    self->is_finished = true;
}

ALLOCATION_TEST(what_was_read_too_early_is_kept_or_the_connection_ends, pause_between_portions)

static void end_by_a_filter(trial *self) {
    static passer filters[2];
    party *client, *server;

    if (!party_pair(self, true, &client, &server) || !push_two(self, client, filters)) {
        return;
    }
    filters[0].fails = true;
    party_write(client, 100);
    tepal_transport_close(client->transport);
    TRIAL_UNTIL(self, client->lost == 1 && (server->lost == 1 || server->eofs == 1));
    CHECK_EQ(filters[0].losts + filters[1].losts, 2);
    CHECK_LE(filters[0].aborts, 1);
    self->is_finished = true;
}

ALLOCATION_TEST(a_filter_ends_the_connection, end_by_a_filter)

/* ---- Producers and pipes ---- */

typedef struct pump {
    tepal_producer producer; /* first */
    party *party;
    int portions; /* left to write */
    bool is_stopped;
} pump;

static void pump_resume(tepal_producer *producer) {
    pump *self = (pump *)producer;

    CHECK_GT(self->portions, 0);
    CHECK(!self->is_stopped);
    party_write(self->party, 30000);
    if (--self->portions == 0) {
        CHECK_OK(tepal_transport_unregister_producer(self->party->transport));
        (void)WORKED(tepal_transport_write_eof(self->party->transport));
    }
}

static void pump_stop(tepal_producer *producer) {
    pump *self = (pump *)producer;

    CHECK(!self->is_stopped);
    self->is_stopped = true;
}

/* writer ---- source ==pipe==> sink ---- reader */
static void pump_through_a_pipe(trial *self) {
    static pump pumping;
    party *writer, *source, *sink, *reader;
    tepal_future *piped;

    pumping =
        (pump){.producer = {.size = sizeof(tepal_producer), .resume = pump_resume, .stop = pump_stop}, .portions = 4};
    if (!party_pair(self, true, &writer, &source) || !party_pair(self, false, &sink, &reader)) {
        return;
    }
    pumping.party = writer;
    reader->peer = writer; /* by way of the pipe */
    narrow(sink);
    if (!WORKED(tepal_pipe(source->transport, sink->transport, NULL, &piped))) {
        return;
    }
    trial_keep(self, piped);
    if (!WORKED(tepal_transport_register_producer(writer->transport, &pumping.producer, false))) {
        return;
    }
    TRIAL_UNTIL(self, tepal_future_is_done(piped) || pumping.is_stopped || writer->lost == 1);
    TRIAL_UNTIL(self, tepal_future_is_done(piped));
    CHECK_LE(tepal_pipe_bytes(piped), writer->sent);
    if (WORKED(tepal_future_result(piped, NULL))) {
        CHECK_EQ(tepal_pipe_bytes(piped), writer->sent);
        TRIAL_UNTIL(self, party_has_all(reader));
    }
    self->is_finished = true;
}

ALLOCATION_TEST(a_pipe_moves_everything_or_ends, pump_through_a_pipe)
