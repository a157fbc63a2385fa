/* See sim_fixture.h. */
#include "unit/sim_fixture.h"

#include <stdlib.h>

static int end_made(tepal_protocol *protocol, tepal_transport *transport) {
    net_end *self = (net_end *)protocol;
    CHECK_EQ(self->made++, 0);
    self->transport = transport;
    if (self->closes_when_made) {
        tepal_transport_close(transport);
    }
    return 0;
}

static int end_data(tepal_protocol *protocol, const void *data, size_t length) {
    net_end *self = (net_end *)protocol;
    CHECK_EQ(self->losts, 0);
    CHECK_EQ(self->eofs, 0);
    self->received += length;
    self->portions++;
    self->largest = length > self->largest ? length : self->largest;
    return self->echoes ? tepal_transport_write(self->transport, data, length) : 0;
}

static int end_eof(tepal_protocol *protocol) {
    net_end *self = (net_end *)protocol;
    CHECK_EQ(self->eofs++, 0);
    return self->keeps_open ? TEPAL_KEEP_OPEN : 0;
}

static void end_lost(tepal_protocol *protocol, const tepal_error *error) {
    net_end *self = (net_end *)protocol;
    CHECK_EQ(self->losts++, 0);
    self->lost_code = error == NULL ? 0 : error->code;
    self->lost_at = tepal_sim_time(self->network->sim);
    self->transport = NULL;
}

static const tepal_protocol_type end_type = {.size = sizeof end_type,
                                             .connection_made = end_made,
                                             .data_received = end_data,
                                             .eof_received = end_eof,
                                             .connection_lost = end_lost};

static net_end *new_end(network *self) {
    net_end *made = calloc(1, sizeof *made);
    CHECK(made != NULL);
    made->protocol.type = &end_type;
    made->network = self;
    made->next = self->newest;
    made->keeps_open = self->keeps_open;
    self->newest = made;
    return made;
}

int network_factory(void *argument, tepal_protocol **protocol) {
    network *self = argument;
    self->connected = new_end(self);
    *protocol = &self->connected->protocol;
    return 0;
}

static int server_factory(void *argument, tepal_protocol **protocol) {
    network *self = argument;
    self->accepted = new_end(self);
    self->accepted->echoes = self->server_echoes;
    self->accepted->closes_when_made = self->closes_when_made;
    *protocol = &self->accepted->protocol;
    return 0;
}

static void keep_line(void *argument, const char *line) {
    network *self = argument;
    const size_t length = strlen(line);
    self->lines++;
    if (self->trace_length + length + 2 > self->trace_room) {
        self->trace_room = 2 * (self->trace_room + length + 2);
        self->trace = realloc(self->trace, self->trace_room);
        CHECK(self->trace != NULL);
    }
    memcpy(self->trace + self->trace_length, line, length);
    memcpy(self->trace + self->trace_length + length, "\n", 2);
    self->trace_length += length + 1;
}

void network_open_bare(network *self, uint64_t seed) {
    CHECK_OK(tepal_sim_new(&self->sim,
                           TEPAL_OPTIONS(tepal_sim_options, .seed = seed, .trace = keep_line, .argument = self)));
}

static void reported(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    network *self = argument;
    (void)loop;
    (void)what;
    self->reports++;
    self->report_code = error->code;
}

void network_open(network *self, uint64_t seed) {
    network_open_bare(self, seed);
    const tepal_loop_options options = {.size = sizeof options, .realloc = test_counting_alloc};
    CHECK_OK(tepal_sim_add_host(self->sim, "server", &options, &self->server));
    CHECK_OK(tepal_sim_add_host(self->sim, "client", &options, &self->client));
    tepal_loop_set_exception_handler(self->server, reported, self);
    tepal_loop_set_exception_handler(self->client, reported, self);
    CHECK_OK(tepal_loop_listen(self->server, server_factory, self,
                               TEPAL_OPTIONS(tepal_server_options, .port = NETWORK_PORT), &self->listener));
}

void network_close(network *self) {
    tepal_server_unref(self->listener);
    tepal_sim_free(self->sim);
    while (self->newest != NULL) {
        net_end *next = self->newest->next;
        CHECK_EQ(self->newest->losts, self->newest->made);
        free(self->newest);
        self->newest = next;
    }
    free(self->trace);
}

void network_call(network *self, tepal_loop *from, const char *host, tepal_future **future) {
    CHECK_OK(tepal_loop_create_connection(
        from, network_factory, self, TEPAL_OPTIONS(tepal_connect_options, .host = host, .port = NETWORK_PORT), future));
}

int network_dial(network *self, const char *host) {
    tepal_future *future;
    tepal_transport *transport;
    tepal_protocol *protocol;
    network_call(self, self->client, host, &future);
    while (!tepal_future_is_done(future)) {
        const int more = tepal_sim_run(self->sim, TEPAL_MS(1));
        CHECK_OK(more);
        CHECK(more == 1 || tepal_future_is_done(future));
    }
    const int code = tepal_connection_result(future, &transport, &protocol);
    tepal_future_unref(future);
    return code;
}

void network_connect(network *self) {
    CHECK_OK(network_dial(self, "server"));
    while (self->accepted == NULL || self->accepted->made == 0) {
        CHECK_OK(tepal_sim_run(self->sim, TEPAL_MS(1)));
    }
}

void network_write(net_end *self, size_t length) {
    char *data = calloc(1, length);
    CHECK(data != NULL);
    CHECK_OK(tepal_transport_write(self->transport, data, length));
    free(data);
}

void network_pass(network *self, int64_t ns) {
    CHECK_OK(tepal_sim_run(self->sim, ns));
}

void network_fault(network *self, const char *script) {
    const int code = tepal_sim_fault(self->sim, script);
    if (code < 0) {
        test_fail(__FILE__, __LINE__, "%s", tepal_sim_failure(self->sim));
    }
}
