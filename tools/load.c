/* `tepal load`: options, opening the connections, the clock, and the end. It opens every connection first, then sends
 * for the time asked for, then waits (for a while) until every echo is back and both sides have closed. */
#include "load.h"
#include "endpoint.h"
#include "options.h"
#include "tools.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    CONNECTIONS_MAX = 1000000,
    DEPTH_MAX = 65536,
    DIALS_AT_ONCE = 64,     /* so that the server's backlog does not run over */
    DESCRIPTORS_BESIDE = 32 /* what the process needs beside its connections */
};

#define PROGRESS_NS TEPAL_MS(200)
#define CONNECT_LIMIT_NS TEPAL_SEC(20)

static const command_text load_text = {
    .name = "load",
    .usage = "--connect ADDRESS [options]",
    .summary = "Drives an echo server: opens the connections, keeps messages in flight on each for some seconds,\n"
               "compares every byte that comes back, ends each connection in order and prints what it measured.",
    .notes = "ADDRESS is 127.0.0.1:7000, [::1]:7000, name:7000, unix:PATH or unix:@abstract.\n"
             "With --tls the server's certificate must be good, and for the host connected to.\n"
             "Exit status: 0 if every byte came back, 1 if bytes or connections were lost or it could not connect,\n"
             "2 if the command line is wrong.",
};

/* What runs a load, beside the load itself. */
typedef struct conductor {
    load_run load; /* first: the flows know only this */
    endpoint server;
    tepal_address source;
    bool has_source;
    tepal_timer deadline; /* of the phase */
    tepal_timer progress;
    bool show_progress;
    bool failed; /* a connect did; it was explained */
} conductor;

static conductor *conductor_of(tepal_work *work, size_t offset) {
    return (conductor *)((char *)work - offset);
}

/* Go to a phase, and set what belongs to it in motion. */
static void enter(conductor *self, load_phase phase) {
    load_run *load = &self->load;
    int64_t now_ns = tepal_loop_time(load->loop);
    load->phase = phase;
    switch (phase) {
    case LOAD_OPENING:
        break;
    case LOAD_RUNNING:
        load->began_ns = now_ns;
        tepal_timer_start(load->loop, &self->deadline, now_ns + load->seconds_ns);
        break;
    case LOAD_DRAINING:
        load->ended_ns = now_ns;
        load->used = cpu_time_now();
        tepal_timer_start(load->loop, &self->deadline, now_ns + load->limit_ns);
        break;
    case LOAD_OVER:
        tepal_timer_stop(load->loop, &self->deadline);
        tepal_timer_stop(load->loop, &self->progress);
        tepal_loop_stop(load->loop);
        return;
    }
    for (uint64_t index = 0; index < load->connections; index++)
        flow_go_on(&load->flows[index]);
}

/* End without waiting for anything. */
static void give_up(conductor *self) {
    load_run *load = &self->load;
    for (uint64_t index = 0; index < load->connections; index++)
        if (load->flows[index].transport != NULL)
            tepal_transport_abort(load->flows[index].transport, TEPAL_ETIMEDOUT);
    if (load->alive == 0)
        enter(self, LOAD_OVER);
}

static void deadline_passed(tepal_work *work, int status) {
    conductor *self = conductor_of(work, offsetof(conductor, deadline.work));
    if (status < 0)
        return;
    if (self->load.phase == LOAD_RUNNING)
        enter(self, LOAD_DRAINING);
    else
        give_up(self);
}

static void progress_due(tepal_work *work, int status) {
    conductor *self = conductor_of(work, offsetof(conductor, progress.work));
    if (status < 0)
        return;
    load_show_progress(&self->load);
    tepal_timer_start(self->load.loop, &self->progress, tepal_loop_time(self->load.loop) + PROGRESS_NS);
}

/* The first signal ends the sending early, the next one everything. */
static void signaled(int signal, void *argument) {
    conductor *self = argument;
    (void)signal;
    if (self->load.phase == LOAD_RUNNING) {
        enter(self, LOAD_DRAINING);
    } else if (self->load.phase == LOAD_OPENING) {
        self->failed = true;
        enter(self, LOAD_OVER);
    } else {
        give_up(self);
    }
}

void load_connected(load_run *self, const tepal_transport *transport) {
    self->connected++;
    self->alive++;
    load_tls_note(&self->tls, transport);
}

void load_disconnected(load_run *self) {
    if (--self->alive == 0 && (self->phase == LOAD_RUNNING || self->phase == LOAD_DRAINING))
        enter((conductor *)self, LOAD_OVER);
}

static void explain_connect_error(const conductor *self, const tepal_error *error) {
    const load_run *load = &self->load;
    fprintf(stderr, "tepal load: cannot connect to %s: %s", load->address, error->text);
    if (load->connected > 0)
        fprintf(stderr, " (after %" PRIu64 " of %" PRIu64 " connections)", load->connected, load->connections);
    fprintf(stderr, "\n");
    if (error->code == TEPAL_SYSTEM(ECONNREFUSED))
        fprintf(stderr, "Nothing listens there. Start a server first: tepal echo --listen %s\n", load->address);
    if (error->code == TEPAL_SYSTEM(EADDRNOTAVAIL))
        fprintf(stderr, "This address has no source port left; take another one: --source 127.0.0.2\n");
    const char *hint = load_tls_hint(error->code);
    if (hint != NULL)
        fprintf(stderr, "%s\n", hint);
}

static void dial(conductor *self);

static void dialed(tepal_future *future, void *argument) {
    conductor *self = argument;
    load_run *load = &self->load;
    const tepal_error *error = tepal_future_error(future);
    if (load->phase == LOAD_OPENING && !self->failed) {
        if (error != NULL) {
            if (self->show_progress)
                load_clear_progress();
            explain_connect_error(self, error);
            self->failed = true;
            enter(self, LOAD_OVER);
        } else if (load->connected == load->connections) {
            enter(self, LOAD_RUNNING);
        } else {
            dial(self);
        }
    }
}

/* Begin one more connection, if there is one to begin. */
static void dial(conductor *self) {
    load_run *load = &self->load;
    tepal_future *future;
    if (load->dialed == load->connections)
        return;
    int code = tepal_loop_create_connection(
        load->loop, flow_factory, &load->flows[load->dialed],
        TEPAL_OPTIONS(tepal_connect_options, .host = self->server.host, .port = self->server.port,
                      .unix_path = self->server.unix_path, .local = self->has_source ? &self->source : NULL,
                      .limit_ns = CONNECT_LIMIT_NS, .tls = load->tls.wanted ? &load->tls.options : NULL),
        &future);
    if (code == 0) {
        load->dialed++;
        code = tepal_future_add_done_callback(future, dialed, self);
        tepal_future_unref(future); /* it lives until dialed has run */
    }
    if (code < 0) {
        explain_connect_error(self, &(tepal_error){.code = code, .text = tepal_strerror(code)});
        self->failed = true;
        enter(self, LOAD_OVER);
    }
}

static bool parse(conductor *self, int argument_count, char **arguments, int *status) {
    load_run *load = &self->load;
    const char *source = NULL;
    const option options[] = {
        option_text("connect", "ADDRESS", &load->address, "the server"),
        option_number("connections", "N", &load->connections, 1, CONNECTIONS_MAX, "connections to open (1)"),
        option_number("size", "BYTES", &load->size, 1, (uint64_t)1 << 30, "bytes of a message (64)"),
        option_number("depth", "N", &load->depth, 1, DEPTH_MAX, "messages in flight on each connection (1)"),
        option_seconds("seconds", &load->seconds_ns, 1, 86400000, "how long to send (5)"),
        option_seconds("limit", &load->limit_ns, 1, 86400000, "how long to wait for the last echoes then (10)"),
        option_text("source", "IP", &source, "local address to connect from"),
        option_text("driver", "NAME", &load->driver, "uring, epoll or poll (the best there is, or $TEPAL_DRIVER)"),
        option_flag("json", &load->json, "print the result as one JSON object"),
        option_flag("tls", &load->tls.wanted, "speak TLS"),
        option_text("ca", "FILE", &load->tls.authorities, "trust the authorities in this file (the system's)"),
        option_flag("insecure", &load->tls.insecure, "do not verify the server's certificate at all"),
        option_text("server-name", "NAME", &load->tls.server_name, "whom the certificate must be for (the host)"),
        option_text("cert", "FILE", &load->tls.certificate, "certificate to show to a server that asks for one"),
        option_text("key", "FILE", &load->tls.key, "its private key (in the certificate's file)"),
        option_text("alpn", "A,B", &load->tls.protocols, "application protocols to offer, the preferred first"),
        option_text("tls-version", "1.2|1.3", &load->tls.version, "speak this version only"),
    };
    if (!options_parse(&load_text, options, sizeof options / sizeof options[0], argument_count, arguments, status))
        return false;
    *status = STATUS_USAGE;
    if (load->address == NULL) {
        usage_error(&load_text, "say where the server is, for example --connect 127.0.0.1:7000");
        return false;
    }
    const char *problem = endpoint_parse(&self->server, load->address);
    if (problem == NULL && self->server.unix_path == NULL && self->server.port == 0)
        problem = "port 0 cannot be connected to";
    if (problem != NULL) {
        usage_error(&load_text, "cannot read the address '%s': %s", load->address, problem);
        return false;
    }
    self->has_source = source != NULL;
    if (source != NULL && tepal_address_parse(&self->source, source, 0) < 0) {
        usage_error(&load_text, "--source takes an address such as 127.0.0.2, not '%s'", source);
        return false;
    }
    problem = load_tls_check(&load->tls, &self->server);
    if (problem != NULL)
        usage_error(&load_text, "%s", problem);
    return problem == NULL;
}

/* Returns the exit status so far. */
static int set_up(conductor *self) {
    load_run *load = &self->load;
    uint64_t descriptors = raise_descriptor_limit();
    if (load->connections + DESCRIPTORS_BESIDE > descriptors) {
        fprintf(stderr,
                "tepal load: %" PRIu64 " connections need more than the %" PRIu64
                " descriptors that this process may open\nAsk for fewer, or raise the limit: ulimit -n\n",
                load->connections, descriptors);
        return STATUS_FAILED;
    }
    if (!load_tls_begin(&load->tls))
        return STATUS_FAILED;
    int code = load_make_flows(load);
    if (code == 0)
        code = tepal_loop_new(&load->loop, TEPAL_OPTIONS(tepal_loop_options, .driver = load->driver));
    if (code == 0)
        code = tepal_loop_add_signal(load->loop, SIGINT, signaled, self);
    if (code == 0)
        code = tepal_loop_add_signal(load->loop, SIGTERM, signaled, self);
    if (code < 0) {
        fprintf(stderr, "tepal load: cannot start%s%s: %s\n", load->driver == NULL ? "" : " on driver ",
                load->driver == NULL ? "" : load->driver, why_no_loop(load->driver, code));
        return STATUS_FAILED;
    }
    return STATUS_OK;
}

static int run(conductor *self) {
    load_run *load = &self->load;
    self->deadline.work.run = deadline_passed;
    self->progress.work.run = progress_due;
    self->show_progress = isatty(STDERR_FILENO) == 1;
    if (self->show_progress)
        tepal_timer_start(load->loop, &self->progress, tepal_loop_time(load->loop));
    for (unsigned at_once = 0; at_once < DIALS_AT_ONCE && !self->failed; at_once++)
        dial(self);
    int code = self->failed ? 0 : tepal_loop_run_forever(load->loop);
    if (self->show_progress)
        load_clear_progress();
    if (code < 0)
        fprintf(stderr, "tepal load: the loop failed: %s\n", tepal_strerror(code));
    if (code < 0 || self->failed)
        return STATUS_FAILED;
    if (load->ended_ns == 0) { /* every connection was lost before the time was over */
        load->ended_ns = tepal_loop_time(load->loop);
        load->used = cpu_time_now();
    }
    load_report(load);
    if (load->lost > 0)
        fprintf(stderr, "tepal load: %" PRIu64 " connections were lost; the first: %s\n", load->lost,
                load->first_error);
    if (load->lost == load->connections && load->messages == 0 && !load->tls.wanted)
        fprintf(stderr, "If the server speaks TLS, so must this: --tls.\n");
    return load->lost > 0 || load_bytes_lost(load) > 0 ? STATUS_FAILED : STATUS_OK;
}

int load_main(int argument_count, char **arguments) {
    static conductor self; /* its histogram is too large for the stack of some */
    int status = STATUS_OK;
    self = (conductor){
        .load = {.connections = 1, .size = 64, .depth = 1, .seconds_ns = TEPAL_SEC(5), .limit_ns = TEPAL_SEC(10)}};
    if (!parse(&self, argument_count, arguments, &status))
        return status;
    status = set_up(&self);
    if (status == STATUS_OK)
        status = run(&self);
    if (self.load.loop != NULL)
        tepal_loop_close(self.load.loop);
    tepal_loop_unref(self.load.loop);
    load_free_flows(&self.load);
    load_tls_end(&self.load.tls);
    return status;
}
