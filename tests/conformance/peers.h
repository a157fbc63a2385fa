/*
 * What the tests of servers and connecting share: a loop with counters, a protocol that notes what happens to it, and
 * plain sockets on the other side.
 */
#ifndef TEPAL_TESTS_PEERS_H
#define TEPAL_TESTS_PEERS_H

#include "harness/test.h"
#include <tepal.h>

enum { PEERS_LOG = 64 };

typedef struct peers peers;

/* One connection's protocol. It lives until peers_close(), so that a test can look at it after connection_lost. */
typedef struct peer {
    tepal_protocol protocol; /* first */
    peers *all;
    struct peer *next;
    tepal_transport *transport; /* NULL before connection_made and after connection_lost */
    int made, lost;
    int lost_code;
    char received[16];
    size_t received_count;
} peer;

/* A loop and the protocols of its connections. It is the argument of its own factories and hooks. */
struct peers {
    tepal_loop *loop;
    peer *newest;
    int built, made, lost; /* factories called with success, connection_made, connection_lost */
    int alive;
    bool echo; /* send back what comes */
    bool close_when_made;
    const char *greeting; /* written in connection_made */
    int factory_code;     /* refuse with this */
    void (*in_factory)(peers *all);
    void (*when_made)(peers *all, peer *self);
    void (*when_lost)(peers *all, peer *self);
    char log[PEERS_LOG]; /* f factory, m made, d data, l lost, c a future's callback */
    int failures;        /* accept_failed */
    tepal_error failure; /* the last one; its address is in failure_address */
    tepal_address failure_address;
    int reports; /* to the exception handler */
    int report_code;
    void *user;
};

/* A debug loop of the driver under test on the counting allocator. */
void peers_open(peers *all);
/* Close the loop and give back all memory. */
void peers_close(peers *all);
/* Close the loop, and let the test look at what that did before peers_free(). */
void peers_close_loop(peers *all);
void peers_free(peers *all);

int peers_factory(void *argument, tepal_protocol **protocol);
void peers_accept_failed(void *argument, const tepal_error *error);
void peers_note(peers *all, char what);

/* One turn after the other until the condition holds, or fail after 10 seconds. */
#define PEERS_UNTIL(all, condition)                                                                                    \
    do {                                                                                                               \
        const int64_t give_up_ns_ = test_now_ns() + TEPAL_SEC(test_is_slow_build() ? 100 : 10);                        \
        while (!(condition)) {                                                                                         \
            if (test_now_ns() > give_up_ns_) {                                                                         \
                test_fail(__FILE__, __LINE__, "waited too long for %s", #condition);                                   \
            }                                                                                                          \
            CHECK_OK(tepal_loop_step((all)->loop, TEPAL_MS(100)));                                                     \
        }                                                                                                              \
    } while (0)

/* Turn the loop until it has nothing to do at once. */
void peers_settle(peers *all);
/* Turn the loop for this long. */
void peers_run_for(peers *all, int64_t duration_ns);

/* A server on 127.0.0.1, port 0. */
tepal_server *peers_serve(peers *all);
uint16_t server_port(const tepal_server *server, size_t index);

/* Start to connect to 127.0.0.1. */
tepal_future *peers_dial(peers *all, uint16_t port);
/* Wait until it is done; its code. */
int peers_wait(peers *all, tepal_future *future);
/* The peer behind a connect future that has succeeded. */
peer *peers_connected(tepal_future *future);

/* A blocking plain socket connected to host, or -errno. host may be "unix:PATH", with "@" for an abstract name. */
int plain_dial(const char *host, uint16_t port);
/* A plain socket bound to 127.0.0.1, not listening; its port. */
int plain_bound(uint16_t *port);
/* Close with a reset. */
void plain_reset(int fd);
/* Send a line and wait until it comes back, turning the loop. Closes fd. */
void check_echo(peers *all, int fd);

#endif
