/* A worker of the echo server: what it does with a connection, and how it stops without losing what is under way. */
#include "echo.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* While stopping: the time between two looks at whether anything still comes in. */
#define STEP_NS TEPAL_MS(50)

/* How many connections that were not accepted are told of in a second. */
enum { COMPLAINTS_A_SECOND = 5 };

/* As small as it can be: there may be very many. */
typedef struct connection {
    tepal_protocol protocol; /* its type is the worker's upcalls */
    tepal_transport *transport;
    bool paused;
} connection;

static echo_worker *worker_of(const connection *self) {
    return (echo_worker *)(uintptr_t)self->protocol.type;
}

int echo_factory(void *argument, tepal_protocol **protocol) {
    echo_worker *worker = argument;
    connection *self = calloc(1, sizeof *self);
    if (self == NULL)
        return TEPAL_ENOMEM;
    self->protocol.type = &worker->upcalls;
    *protocol = &self->protocol;
    return 0;
}

static int connection_made(tepal_protocol *protocol, tepal_transport *transport) {
    connection *self = (connection *)protocol;
    echo_worker *worker = worker_of(self);
    self->transport = transport;
    worker->alive++;
    worker->counters.connections++;
    if (worker->has_tls) {
        tepal_tls_info tls = {.size = sizeof tls};
        if (tepal_transport_tls_info(transport, &tls) == 0 && tls.resumed)
            worker->counters.resumed++;
    }
    return 0;
}

static int data_received(tepal_protocol *protocol, const void *data, size_t length) {
    connection *self = (connection *)protocol;
    echo_worker *worker = worker_of(self);
    worker->counters.reads++;
    if (worker->stage >= ECHO_ENDING) { /* this peer still has not stopped: all it gets now is our end */
        int code = tepal_transport_write_eof(self->transport);
        return code == TEPAL_ENOTSUP ? 0 : code; /* TLS 1.2 cannot tell it before the connection closes */
    }
    worker->counters.bytes += length;
    return tepal_transport_write(self->transport, data, length);
}

/* A peer that does not read its echo is not read from either. The end of its stream is not told while reading is
 * paused, so everything is echoed before the connection closes. */
static void pause_writing(tepal_protocol *protocol) {
    connection *self = (connection *)protocol;
    echo_worker *worker = worker_of(self);
    self->paused = true;
    worker->paused++;
    worker->counters.pauses++;
    tepal_transport_pause_reading(self->transport);
}

static void resume_writing(tepal_protocol *protocol) {
    connection *self = (connection *)protocol;
    self->paused = false;
    worker_of(self)->paused--;
    tepal_transport_resume_reading(self->transport);
}

static void connection_lost(tepal_protocol *protocol, const tepal_error *error) {
    connection *self = (connection *)protocol;
    echo_worker *worker = worker_of(self);
    if (self->paused)
        worker->paused--;
    if (error != NULL)
        worker->counters.aborted++;
    free(self);
    if (--worker->alive == 0 && worker->stage != ECHO_SERVING)
        tepal_loop_stop(worker->loop);
}

static void say_unsaid(echo_complaints *self) {
    if (self->unsaid > 0)
        fprintf(stderr, "tepal echo: %" PRIu64 " more connections were not accepted\n", self->unsaid);
    self->unsaid = 0;
}

void echo_accept_failed(void *argument, const tepal_error *error) {
    echo_worker *worker = argument;
    echo_complaints *self = &worker->complaints;
    int64_t now_ns = tepal_loop_time(worker->loop);
    char from[TEPAL_ADDRESS_TEXT] = "";
    worker->counters.refused++;
    if (error->code == TEPAL_ECLOSED) /* by ourselves: it was still shaking hands when we stopped */
        return;
    if (self->said == 0 || now_ns - self->since_ns >= TEPAL_SEC(1)) {
        say_unsaid(self);
        self->since_ns = now_ns;
        self->said = 0;
    }
    if (self->said == COMPLAINTS_A_SECOND) {
        self->unsaid++;
        return;
    }
    self->said++;
    if (error->address != NULL)
        tepal_address_format(error->address, from, sizeof from);
    fprintf(stderr, "tepal echo: a connection%s%s was not accepted: %s\n", *from == '\0' ? "" : " from ", from,
            error->text);
}

static void each_server(echo_worker *self, void (*end)(tepal_server *server)) {
    for (size_t index = 0; index < self->server_count; index++)
        end(self->servers[index]);
}

static void abort_connections(echo_worker *self) {
    self->stage = ECHO_ABORTED;
    tepal_timer_stop(self->loop, &self->step);
    each_server(self, tepal_server_abort_clients);
}

static void enter_closing(echo_worker *self, int64_t now_ns) {
    int64_t end_ns = self->stop_ns + self->grace_ns;
    self->stage = ECHO_CLOSING;
    each_server(self, tepal_server_close_clients);
    tepal_timer_start(self->loop, &self->step, end_ns > now_ns ? end_ns : now_ns + STEP_NS);
}

/* Settling: what the peers had sent when the stop came may still be in the kernel, so it goes on being echoed until a
 * step in which nothing came and nobody waits for a slow peer.
 * Ending: for peers that have not stopped sending by half of the grace time. They are told of our end and what they send
 * is dropped, until nothing comes; closing a connection with unread input might reset it and lose what was echoed.
 * Closing: close() sends what is buffered. Those who have not taken it when the grace time is over are aborted. */
static void take_step(tepal_work *work, int status) {
    echo_worker *self = (echo_worker *)((char *)work - offsetof(echo_worker, step.work));
    if (status < 0)
        return;
    if (self->stage == ECHO_CLOSING) {
        fprintf(stderr, "tepal echo: %llu connections did not take their echo in time and are cut off\n",
                (unsigned long long)self->alive);
        abort_connections(self);
        return;
    }
    int64_t now_ns = tepal_loop_time(self->loop);
    int64_t taken_ns = now_ns - self->stop_ns;
    bool quiet = self->counters.reads == self->reads_seen && self->paused == 0;
    self->reads_seen = self->counters.reads;
    if (quiet || taken_ns >= self->grace_ns) {
        enter_closing(self, now_ns);
        return;
    }
    if (taken_ns >= self->grace_ns / 2)
        self->stage = ECHO_ENDING;
    tepal_timer_start(self->loop, &self->step, now_ns + STEP_NS);
}

void echo_worker_stop(void *worker) {
    echo_worker *self = worker;
    if (self->stage != ECHO_SERVING) {
        abort_connections(self);
        return;
    }
    self->stage = ECHO_SETTLING;
    self->stop_ns = tepal_loop_time(self->loop);
    self->reads_seen = self->counters.reads;
    each_server(self, tepal_server_close);
    if (self->alive == 0)
        tepal_loop_stop(self->loop);
    else
        tepal_timer_start(self->loop, &self->step, self->stop_ns + STEP_NS);
}

int echo_worker_init(echo_worker *self, const char *driver, int64_t grace_ns) {
    *self = (echo_worker){
        .upcalls =
            {
                .size = sizeof(tepal_protocol_type),
                .connection_made = connection_made,
                .data_received = data_received,
                .pause_writing = pause_writing,
                .resume_writing = resume_writing,
                .connection_lost = connection_lost,
            },
        .step.work.run = take_step,
        .grace_ns = grace_ns,
    };
    for (size_t index = 0; index < OPTION_LIST_MAX; index++)
        self->shared_fds[index] = -1;
    return tepal_loop_new(&self->loop, TEPAL_OPTIONS(tepal_loop_options, .driver = driver));
}

void *echo_worker_run(void *worker) {
    echo_worker *self = worker;
    self->status = tepal_loop_run_forever(self->loop);
    say_unsaid(&self->complaints);
    return NULL;
}

void echo_worker_end(echo_worker *self) {
    for (size_t index = 0; index < self->server_count; index++)
        tepal_server_unref(self->servers[index]);
    if (self->loop != NULL)
        tepal_loop_close(self->loop);
    tepal_loop_unref(self->loop);
    for (size_t index = 0; index < OPTION_LIST_MAX; index++)
        if (self->shared_fds[index] >= 0)
            close(self->shared_fds[index]);
}
