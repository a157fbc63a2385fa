/* What the parts of the load generator share: its options, read by load_options.c, and what load.c lends to
 * load_churn.c. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "histogram.h"

/* A connection through TLS: what load_tls.c makes of OpenSSL, none of which the rest sees. */
typedef struct load_tls_calls {
    /** The client's end on a connected or connecting socket. The handshake is done by the first send. */
    void *(*begin)(int fd, bool resume);
    /** Like send() and recv(), errno included: EAGAIN is to wait for the socket. One call moves one record at most. */
    ssize_t (*send)(void *tls, const void *data, size_t length);
    ssize_t (*receive)(void *tls, void *data, size_t length);
    /** Whether there is more that has been received from the socket already. */
    bool (*pending)(void *tls);
    /** Keep the session, for those that begin with `resume`. False: the server issued none. */
    bool (*keep_session)(void *tls);
    /** Whether the handshake took up a session. */
    bool (*resumed)(void *tls);
    /** Send close_notify, if it can leave at once, and free; the socket stays open. */
    void (*end)(void *tls);
} load_tls_calls;

extern const load_tls_calls load_openssl; /* where there is OpenSSL: see BENCH_TLS */

typedef struct load_options {
    struct sockaddr_in address;
    unsigned connections;
    unsigned size;             /* bytes of a message */
    unsigned depth;            /* messages in flight on each connection */
    uint64_t messages;         /* exactly this many, or 0: as many as fit into `seconds` */
    double seconds;            /* measured time */
    double warm_up;            /* seconds before it that do not count */
    double limit;              /* seconds after which a run that does not end is given up */
    int cpu;                   /* to run on, or -1 */
    pid_t server;              /* whose CPU time to read at the ends of the measured time, or 0 */
    bool hold;                 /* open, echo once on each, then stay idle until told to end */
    unsigned idle;             /* connections more, which have echoed once and say nothing further */
    bool sink;                 /* the server answers nothing: send without pause */
    bool churn;                /* open, echo once, reset, and again */
    const load_tls_calls *tls; /* how to go through TLS, or NULL: plain TCP */
    bool resume;               /* churn: take up the session of an earlier connection */
    bool check_all;            /* compare every byte; otherwise the two ends of a long chunk */
} load_options;

/* What is read at both ends of the measured time. */
typedef struct load_sample {
    uint64_t now_ns;
    uint64_t completed;
    uint64_t server_ns;
    uint64_t user_us;
    uint64_t system_us;
} load_sample;

/** Read the command line. Prints what is wrong and exits with status 2 if it makes no sense. */
load_options load_parse(int argc, char **argv);

/** The clocks now, with how many messages (or connections) are done. */
load_sample load_take_sample(uint64_t done);

uint64_t load_now_ns(void);

/** A socket bound to the loopback address whose turn it is for the `index`-th connection. */
int load_socket(unsigned index, bool nonblocking);

/** Send `message` on a blocking connection, and receive as much. Returns whether all came. */
bool load_echo_once(int fd, void *tls, const void *message, void *answer, size_t length);

/** Keep `connections` sockets opening, echoing one message and closing; each that is done is counted. */
void load_churn(const load_options *options, histogram *latencies, load_sample *start, load_sample *finish);

/** Print `what` with errno's text and exit with status 1. */
_Noreturn void load_fail(const char *what);

#endif
