/*
 * What the tests of the simulator share: a network with a server and a client, and protocols that note what happens.
 */
#ifndef TEPAL_TESTS_SIM_FIXTURE_H
#define TEPAL_TESTS_SIM_FIXTURE_H

#include "harness/test.h"
#include <tepal.h>

typedef struct network network;

/* One end of a connection. It lives until network_close(). */
typedef struct net_end {
    tepal_protocol protocol; /* first */
    network *network;
    struct net_end *next;
    tepal_transport *transport; /* NULL before connection_made and after connection_lost */
    int made, eofs, losts;
    int lost_code;     /* 0: clean */
    int64_t lost_at;   /* by the network's time */
    uint64_t received; /* bytes */
    size_t largest;    /* of the portions */
    int portions;
    bool echoes, keeps_open, closes_when_made;
} net_end;

struct network {
    tepal_sim *sim;
    tepal_loop *server, *client;
    tepal_server *listener;
    net_end *newest; /* of all ends */
    net_end *accepted, *connected;
    bool server_echoes, keeps_open, closes_when_made;
    uint64_t lines; /* of the trace */
    char *trace;    /* all of it, if there is room */
    size_t trace_length, trace_room;
    int reports, report_code;
};

enum { NETWORK_PORT = 7000 };

/* Hosts "server" and "client"; the server listens on every address at NETWORK_PORT. */
void network_open(network *self, uint64_t seed);
/* The same without hosts, with these options' trace kept. */
void network_open_bare(network *self, uint64_t seed);
void network_close(network *self);
int network_factory(void *argument, tepal_protocol **protocol); /* argument: the network; the client's ends */

/* Connect from the client to this name or address, and let it go on until that is decided. Its code. */
int network_dial(network *self, const char *host);
/* The same from here to there; *future is a reference. */
void network_call(network *self, tepal_loop *from, const char *host, tepal_future **future);
/* Connected, or the test fails: both ends are set. */
void network_connect(network *self);
void network_write(net_end *self, size_t length);
/* Let so much virtual time pass. */
void network_pass(network *self, int64_t ns);
void network_fault(network *self, const char *script);

#endif
