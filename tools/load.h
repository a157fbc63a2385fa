/* The load generator's state, shared by what drives it (load.c), its connections (load_flow.c) and the report. */
#ifndef TOOLS_LOAD_H
#define TOOLS_LOAD_H

#include <tepal.h>

#include "histogram.h"
#include "load_tls.h"
#include "process.h"

typedef struct load_run load_run;

/** One connection and the endless text that it sends: it is verified by its place in that text alone. */
typedef struct load_flow {
    tepal_protocol protocol;
    tepal_transport *transport; /* NULL before and after the connection */
    load_run *load;
    uint64_t start;     /* where in the text this connection begins */
    uint64_t sent;      /* bytes given to the transport */
    uint64_t echoed;    /* bytes that came back in their place, right or wrong */
    uint64_t wrong;     /* bytes that were not what was sent there, or came without having been sent */
    uint64_t unsent;    /* bytes of begun messages, held back because the transport asked for a pause */
    uint64_t begun;     /* messages */
    uint64_t completed; /* messages */
    int64_t *begun_ns;  /* ring of `depth` times */
    bool paused;        /* writing */
    bool ended;         /* our side, by write_eof */
} load_flow;

/** What a load goes through, in this order. */
typedef enum load_phase { LOAD_OPENING, LOAD_RUNNING, LOAD_DRAINING, LOAD_OVER } load_phase;

/** How the load was asked for, and what came of it. */
struct load_run {
    const char *address; /* as it was given */
    const char *driver;
    uint64_t connections, size, depth;
    int64_t seconds_ns, limit_ns;
    load_tls tls;
    bool json;

    tepal_loop *loop;
    load_phase phase;
    load_flow *flows;
    unsigned char *text;
    uint64_t dialed, connected, alive;
    uint64_t lost;     /* connections that ended before all their echoes were back */
    uint64_t messages; /* completed */
    histogram latencies;
    int64_t began_ns, ended_ns; /* of the time in which messages are begun */
    cpu_time used;              /* until ended_ns */
    char first_error[192];      /* of a lost connection */
};

/** load_flow.c: prepare the text and the connections. Returns 0 or TEPAL_ENOMEM. */
int load_make_flows(load_run *self);
void load_free_flows(load_run *self);

/** A tepal_factory for a connect; argument is the flow. */
int flow_factory(void *argument, tepal_protocol **protocol);

/** Begin as many messages as may be in flight, or end our side if no more are wanted and all are back. */
void flow_go_on(load_flow *self);

/** load.c: told by the flows. */
void load_connected(load_run *self, const tepal_transport *transport);
void load_disconnected(load_run *self);

/** load_report.c: the line on a terminal while it runs (and how to remove it), and the result. */
void load_show_progress(const load_run *self);
void load_clear_progress(void);
uint64_t load_bytes_lost(const load_run *self);
void load_report(const load_run *self);

#endif
