/*
 * The simulator's inside: a network of hosts with virtual time, and the driver that each host's loop runs on.
 *
 *   sim_driver.c   the driver contract on simulated sockets: what the loop asks for
 *   sim_dispatch.c what its objects are told
 *   sim_jobs.c     blocking work, and names
 *   sim_socket.c   descriptors, addresses, binding, listening, connecting, closing
 *   sim_stream.c   bytes on their way: segments, windows, ends, resets
 *   sim_links.c    how long what is sent takes, and what is held back while a link is down
 *   sim_faults.c   what goes wrong: scripts and rates
 *   sim_world.c    time, the events to come, whose turn it is
 *   sim_trace.c    the trace, and what went wrong first
 *
 * What concerns loops (making hosts, running the network) is src/loop/sim_hosts.c. Nothing here reads a clock, a
 * pointer's value or anything else that may differ between two runs.
 */
#ifndef TPI_SIM_H
#define TPI_SIM_H

#include <semaphore.h>
#include <tepal/sim.h>
#include "base/alloc.h"
#include "driver/driver.h"

/* The lowest descriptor of a simulated host: above any that a kernel gives. */
#define TPI_SIM_FD 0x01000000
#define TPI_SIM_NEVER INT64_MAX
#define TPI_SIM_END (INT64_MAX / 2) /* nothing happens later, so that times can be added up without a look */
#define TPI_SIM_NAME 24

typedef struct tpi_sim_host tpi_sim_host;
typedef struct tpi_sim_driver tpi_sim_driver;
typedef struct tpi_sim_socket tpi_sim_socket;
typedef struct tpi_sim_event tpi_sim_event;
typedef struct tpi_sim_loop tpi_sim_loop; /* sim_hosts.c's */

typedef enum tpi_sim_rate {
    TPI_RATE_SPLIT,
    TPI_RATE_SHORT,
    TPI_RATE_LATE,
    TPI_RATE_DELAY,
    TPI_RATE_RESET,
    TPI_RATE_REFUSE,
    TPI_RATE_TIMEOUT,
    TPI_RATE_EMFILE,
    TPI_RATE_ENOBUFS,
    TPI_RATE_ENOMEM,
    TPI_RATE_RESOLVE,
    TPI_RATE_STALL,
    TPI_RATE_JUMP,
    TPI_RATE_DROP,
    TPI_RATES
} tpi_sim_rate;

/* What may happen at a time to come. The first ones travel over a link, from `from`'s host to `to`'s. */
typedef enum tpi_sim_happening {
    TPI_SEGMENT,     /* so many bytes of a stream arrive */
    TPI_FIN,         /* its end arrives */
    TPI_RST,         /* a reset arrives */
    TPI_ACK,         /* the peer has read: there is room again */
    TPI_SYN,         /* from a socket that connects */
    TPI_ESTABLISHED, /* the answer to it */
    TPI_REFUSED,     /* the other answer */
    TPI_TRAVELS,     /* only those above do */
    TPI_CONNECT_LIMIT,
    TPI_GIVE_UP, /* nothing has come through for too long */
    TPI_KEEP_ALIVE,
    TPI_HEAL, /* a link that was down by chance */
    TPI_JOB,
    TPI_SCRIPT
} tpi_sim_happening;

struct tpi_sim_event {
    int64_t time_ns;
    uint64_t key;   /* by chance: the order of what happens at the same time */
    uint64_t order; /* of making, should the keys be equal */
    tpi_sim_happening what;
    tpi_sim_socket *from, *to; /* references, or NULL */
    size_t length;             /* bytes; an errno; a keep-alive's count */
    uint64_t epoch;            /* of what is given up */
    tpi_job *job;
    tpi_sim_host *host; /* whose job; who sent it, where that is not from's; whose link is healed */
    char *script;
    tpi_sim_event *next; /* in a list of what a link holds back */
};

/* From one host to another. */
typedef struct tpi_sim_link {
    int64_t min_ns, max_ns;
    uint64_t bandwidth;              /* bytes a second; 0: no limit */
    int64_t busy_ns;                 /* until when it carries what it has */
    bool down;                       /* by a statement */
    int64_t dropped_ns;              /* until then by chance */
    tpi_sim_event *held, **held_end; /* what was sent meanwhile, oldest first */
} tpi_sim_link;

/* What the network must ask of a host's loop, which lies above. */
typedef struct tpi_sim_runner {
    /*
     * How long it may sleep; 0: a turn is due; negative: for ever, or it cannot be stepped now. waits: it is in its own
     * wait, and asked whether to go on with that.
     */
    int64_t (*timeout)(void *loop, bool waits);
    int (*step)(void *loop); /* one turn, without sleeping; below 0: an error */
    /* What of the library's invariants was found broken, or NULL. */
    const char *(*broken)(void *loop, int *number);
    uint64_t (*progress)(void *loop); /* grows with each callback, timer, post and signal */
} tpi_sim_runner;

/* A host: what stays of it when its loop is closed, since its last segments are still on their way. */
struct tpi_sim_host {
    tepal_sim *sim;
    unsigned id; /* from 1 */
    char name[TPI_SIM_NAME + 1];
    tpi_sim_driver *driver; /* of its loop; NULL: closed or crashed */
    bool crashed;
    bool refuses;
    bool deaf;             /* its sockets are not read */
    bool was_up;           /* it has had a loop */
    int64_t stalled_ns;    /* no turn before this time */
    int64_t clock_ns;      /* how far its clock is ahead */
    tpi_sim_link *links;   /* to each host, by id - 1; room for sim->host_room */
    unsigned limit;        /* of descriptors */
    size_t capacity;       /* of its sockets' buffers; 0: by chance */
    uint16_t port;         /* the last one that was chosen for a socket */
    tpi_sim_socket *bound; /* sockets with a name of their own, listeners among them */
};

/* The driver of a host's loop: what a process is to a kernel. */
struct tpi_sim_driver {
    tpi_driver driver; /* first */
    tepal_sim *sim;    /* a reference */
    tpi_sim_host *host;
    tpi_sim_runner runner;
    void *loop;             /* the runner's; NULL: alone, or not yet known */
    tpi_sim_socket **table; /* by descriptor - TPI_SIM_FD; references */
    unsigned table_room, open;
    unsigned read_budget;
    size_t read_bytes;
    uint8_t *scratch;
    tpi_sim_socket *first, *last; /* sockets with something to deliver; last is undefined while first is NULL */
    tpi_job *due, **due_end;      /* jobs to run and deliver, oldest first */
    tpi_job *jobs;                /* all that are not delivered, by known_next */
    uint64_t dispatches, upcalls;
    uint64_t progress; /* what runner.progress said at the last turn */
    unsigned idle_turns;
    bool alone, crashed;
    sem_t awake; /* alone: where it sleeps */
    atomic_bool woken;
};

struct tpi_sim_socket {
    unsigned references;
    int fd; /* -1: closed, or not accepted yet */
    tpi_sim_host *host;
    tpi_sim_driver *driver; /* whose descriptor it is; NULL: not accepted yet */
    tpi_object *object;     /* NULL: nobody has it */
    uint8_t kind;           /* of tpi_kind */
    bool closed; /* nobody has it any more: it only sends what it has; data that arrives is answered with a reset */
    bool dead;   /* beyond that: it was reset, or vanished with its host; its end is answered with a reset, too */
    int family;
    tepal_address local, remote;
    tpi_sim_socket *peer;                     /* a reference; NULL: not connected, or no longer */
    tpi_sim_socket *next_bound, **bound_link; /* link is NULL while not bound */
    tpi_sim_socket *next; /* in its driver's list of those with something to deliver, or a backlog */
    bool listed, connecting, connected;
    bool ipv6_only, reuse_port, reset_on_close, keep_alive, no_delay;
    int keep_idle_s, keep_interval_s, keep_count;

    /* What comes in: bytes[start .. start + count), of which the first `arrived` are here and the rest is on its way. */
    uint8_t *bytes;
    size_t start, count, room, arrived;
    int64_t last_arrival_ns; /* of what was sent to it */
    size_t ack_due;          /* read, and the sender does not know yet */
    bool ack_travels, fin_arrived;
    bool error_told; /* by a send */
    int error;       /* an errno that has arrived: the connection is over */

    /* What goes out. */
    size_t capacity; /* sent and not yet read at most */
    size_t unread;   /* of that, now, as far as it knows */
    bool fin_sent;
    unsigned held;                    /* segments that a link holds back */
    uint64_t sent_total, reset_after; /* a reset comes after reset_after - 1 bytes; 0: none */
    bool is_held;                     /* and it is waited for that they go on */
    uint64_t epoch;                   /* of giving up */
    uint64_t keep_epoch;              /* of keep-alive */

    /* What its object wants, and is to be told. */
    bool reading, at_end, fresh, accepting;
    bool was_stopped; /* in the upcall under way */
    bool say_connected, say_stopped, say_closed, say_released, say_sent, start_again;
    int connect_code;
    size_t given_back; /* of the last portion */
    int64_t sent_result;
    uint64_t message_sum;   /* of a message that was not taken when it was sent */
    uint64_t reading_since; /* the dispatch before read_start, of a fresh one */
    uint64_t not_before;    /* the dispatch that may tell what is late */

    /* A listener's backlog. */
    bool listening;
    int backlog, waiting;
    tpi_sim_socket *first_waiting, *last_waiting; /* references, linked by next */
};

/* A sequence of random numbers. */
typedef struct tpi_sim_prng {
    uint64_t state;
} tpi_sim_prng;

struct tepal_sim {
    unsigned references; /* the user's, and one for each driver */
    tpi_realloc realloc;
    tepal_sim_options options;
    uint64_t seed;
    tpi_sim_prng network, program, kernel; /* kernel: what drivers give as random */
    int64_t now_ns;
    tpi_sim_host **hosts;
    unsigned host_count, host_room;
    tpi_sim_loop *loops;    /* to be given back with the network */
    tpi_sim_event **events; /* a heap */
    size_t event_count, event_room;
    size_t background; /* of those, the ones that nobody waits for */
    size_t waiting;    /* sockets that wait for one of them all the same */
    uint64_t event_order;
    uint32_t rates[TPI_RATES]; /* of 2 to the 32nd */
    size_t min_capacity, max_capacity;
    const tpi_sim_driver *stepping; /* whose turn it is, for which the network has stepped it */
    unsigned depth;                 /* of runs inside runs */
    int failed;                     /* the code with which every run ends from now on; 0: none */
    char failure[512];
    char line[256]; /* of the trace */
    bool has_failure;
    tepal_sim_stats stats;
};

/* sim_world.c */

int tpi_sim_create(tepal_sim **sim, const tepal_sim_options *options, uint64_t seed);
void tpi_sim_unref(tepal_sim *sim);
/* The seed that the environment asks for. Whether there is one. */
bool tpi_sim_environment_seed(uint64_t *seed);
/* A host with this name, new or started anew. */
int tpi_sim_host_new(tepal_sim *sim, const char *name, tpi_sim_host **host);
/* No loop could be made for it: it is what it was before tpi_sim_host_new(), with this driver. */
void tpi_sim_host_undo(tpi_sim_host *host, tpi_sim_driver *before);
tpi_sim_host *tpi_sim_host_find(const tepal_sim *sim, const char *name);

uint64_t tpi_sim_next(tpi_sim_prng *prng);
uint64_t tpi_sim_below(tpi_sim_prng *prng, uint64_t limit); /* 0 to limit - 1; limit is not 0 */
/* From the network's numbers: between two values, both included. */
int64_t tpi_sim_between(tepal_sim *sim, int64_t min, int64_t max);
bool tpi_sim_chance(tepal_sim *sim, tpi_sim_rate rate);

/* An event at a time; the caller fills in the rest. NULL: memory ran out, which ends the run. */
tpi_sim_event *tpi_sim_at(tepal_sim *sim, int64_t time_ns, tpi_sim_happening what, tpi_sim_socket *from,
                          tpi_sim_socket *to);
/* Put an event that a link has held back where it belongs. */
void tpi_sim_event_again(tepal_sim *sim, tpi_sim_event *event, int64_t time_ns);
void tpi_sim_event_free(tepal_sim *sim, tpi_sim_event *event);
/* Out of what is to come, the events that match, in their order: a list by next. */
tpi_sim_event *tpi_sim_take_events(tepal_sim *sim, bool (*matches)(const tpi_sim_event *event, const void *argument),
                                   const void *argument);

/*
 * Let the network go on until self has something to deliver, or the time has come; at least a moment passes. self NULL:
 * until then. 0; 1: nothing is left to happen; or below 0.
 */
int tpi_sim_drive(tepal_sim *sim, tpi_sim_driver *self, int64_t until_ns);

/* sim_trace.c */

/* host may be NULL. */
void tpi_sim_trace(tepal_sim *sim, const tpi_sim_host *host, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Something went wrong: what went wrong first is kept, and ends every run. Returns code. */
int tpi_sim_fail(tepal_sim *sim, const tpi_sim_host *host, int code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The driver contract, or an invariant of this number, is broken by what is above. */
int tpi_sim_broken(tpi_sim_driver *driver, int number, const char *what);

/* sim_faults.c */

int tpi_sim_script(tepal_sim *sim, const char *script);
void tpi_sim_script_event(tepal_sim *sim, tpi_sim_event *event);

/* sim_links.c */

void tpi_sim_link_init(tpi_sim_link *link, bool within_host);
static inline tpi_sim_link *tpi_sim_link_of(const tpi_sim_host *from, const tpi_sim_host *to) {
    return &from->links[to->id - 1];
}
/* When what is sent now from one host to another arrives. length: bytes that take bandwidth. */
int64_t tpi_sim_travel(tepal_sim *sim, tpi_sim_host *from, const tpi_sim_host *to, size_t length);
/* Whether a link carries nothing now. */
bool tpi_sim_link_is_down(const tepal_sim *sim, const tpi_sim_link *link);
/* Whether an event that has come to its time is held back by its link; then it is the link's. */
bool tpi_sim_hold(tepal_sim *sim, tpi_sim_event *event);
/* What a link held back goes on its way. */
void tpi_sim_let_go(tepal_sim *sim, tpi_sim_link *link);
/* What is on its way comes as if it had not been sent slowly: the link is faster now. */
void tpi_sim_hurry(tepal_sim *sim, const tpi_sim_host *from, const tpi_sim_host *to);
/* A link that was down by chance is up again. */
void tpi_sim_heal_event(tepal_sim *sim, const tpi_sim_event *event);

/* sim_socket.c */

tpi_sim_socket *tpi_sim_socket_ref(tpi_sim_socket *socket);
void tpi_sim_socket_unref(tpi_sim_socket *socket);
/* The socket behind a descriptor; NULL: none. */
tpi_sim_socket *tpi_sim_socket_at(const tpi_sim_driver *driver, int fd);
/* A new socket, with one reference and no descriptor. NULL: no memory. */
tpi_sim_socket *tpi_sim_socket_new(tpi_sim_host *host, tpi_kind kind, int family);
/* Give it a descriptor, which takes a reference: the descriptor, or an error. */
int tpi_sim_socket_open(tpi_sim_socket *socket, tpi_sim_driver *driver);
/* Its descriptor is closed: what it still has to say is said. */
void tpi_sim_socket_close(tpi_sim_socket *socket);
int tpi_sim_socket_bind(tpi_sim_socket *socket, const tepal_address *address);
int tpi_sim_socket_listen(tpi_sim_socket *socket, int backlog);
int tpi_sim_socket_connect(tpi_sim_socket *socket, const tepal_address *address);
int tpi_sim_socket_pair(tpi_sim_driver *driver, int family, int fds[2]);
/* Events. */
void tpi_sim_syn_arrives(tepal_sim *sim, tpi_sim_event *event);
void tpi_sim_connect_ends(tpi_sim_socket *socket, int code);
/* It vanishes: not a word to anybody. Its descriptors stay what they are, and lead to nothing. */
void tpi_sim_host_crash(tpi_sim_host *host);
/* The host behind an address, as `from` sees it; NULL: none. */
tpi_sim_host *tpi_sim_route(tpi_sim_host *from, const tepal_address *address);
void tpi_sim_host_address(const tpi_sim_host *host, int family, uint16_t port, tepal_address *address);

/* sim_stream.c */

/* Something is to be delivered to the socket's object. */
void tpi_sim_list(tpi_sim_socket *socket);
/* Take what there is room for: bytes, PENDING, or an error. */
int64_t tpi_sim_stream_send(tpi_sim_socket *socket, const struct iovec *pieces, size_t count);
void tpi_sim_stream_fin(tpi_sim_socket *socket);
void tpi_sim_stream_reset(tpi_sim_socket *socket); /* tell the peer of a reset */
/* Move up to size bytes that have arrived to `to`; and the last ones of them back. */
size_t tpi_sim_stream_read(tpi_sim_socket *socket, uint8_t *to, size_t size);
void tpi_sim_stream_put_back(tpi_sim_socket *socket, const uint8_t *from, size_t size);
/* Tell the sender of the room that reading has made. */
void tpi_sim_stream_acknowledge(tpi_sim_socket *socket);
bool tpi_sim_stream_has_news(const tpi_sim_socket *socket); /* for one that reads */
/* Something has come, or may be heard again: its object is told if it reads. */
void tpi_sim_stream_news(tpi_sim_socket *socket);
/* The connection is over: neither end knows the other any more. */
void tpi_sim_sever(tpi_sim_socket *socket);
/* Nobody is behind a socket any more, and nobody has told its peer. */
void tpi_sim_stream_probe(tpi_sim_socket *socket);
void tpi_sim_stream_event(tepal_sim *sim, tpi_sim_event *event);
void tpi_sim_keep_alive(tpi_sim_socket *socket);

/* sim_dispatch.c */

bool tpi_sim_dispatch(tpi_driver *driver);
/* Out of the list of sockets with something to deliver, with its reference. */
tpi_sim_socket *tpi_sim_take_first(tpi_sim_driver *driver);

/* sim_jobs.c */

int tpi_sim_offload(tpi_driver *driver, tpi_job *job);
void tpi_sim_offload_cancel(tpi_driver *driver, tpi_job *job);
int tpi_sim_resolve(tpi_driver *driver, tpi_resolve *request);
void tpi_sim_resolve_cancel(tpi_driver *driver, tpi_resolve *request);
void tpi_sim_job_event(tepal_sim *sim, tpi_sim_event *event);
/* Run and deliver what is due, in dispatch. */
void tpi_sim_tell_jobs(tpi_sim_driver *driver);
/* At the end: all of them are dropped, and told so or not. */
void tpi_sim_forget_jobs(tpi_sim_driver *driver, bool tell);

/* sim_driver.c */

/* A driver for a loop that will be this host's. */
int tpi_sim_driver_new(tpi_driver **driver, tpi_sim_host *host, const tpi_driver_options *options);
/* Of a message in flight, to notice a change. */
uint64_t tpi_sim_sum_of(const tpi_message *message);
extern const tpi_driver_ops tpi_sim_driver_ops;

/* Nothing but the last word may follow. */
static inline bool tpi_sim_is_gone(const tpi_sim_socket *socket) {
    return socket->say_closed || socket->say_released;
}

/* As the trace has it: its descriptor from 0 on; -1: none any more, or not yet. */
static inline int tpi_sim_number(const tpi_sim_socket *socket) {
    return socket->fd < 0 ? -1 : socket->fd - TPI_SIM_FD;
}

/* Note in one of a socket's flags that something is waited for, so that the network does not count as quiet. */
static inline void tpi_sim_waits(const tpi_sim_socket *socket, bool *flag, bool waits) {
    if (*flag != waits) {
        *flag = waits;
        socket->host->sim->waiting += waits ? 1 : (size_t)-1;
    }
}

static inline tpi_sim_driver *tpi_sim_driver_of(tpi_driver *driver) {
    return (tpi_sim_driver *)driver;
}

#endif
