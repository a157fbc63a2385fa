/*
 * Where the scenes of system_calls.c are played: a debug loop, nodes (protocols that check what they are told), and what
 * must hold at the end whatever call has failed. A scene uses the public API alone. Its own system calls stand between
 * faults_own_begin() and faults_own_end(), or are made by the functions here.
 */
#ifndef TEPAL_TESTS_STAGE_H
#define TEPAL_TESTS_STAGE_H

#include "conformance/faults.h"
#include "conformance/plumbing.h"

enum { STAGE_NODES = 24, STAGE_FUTURES = 16, STAGE_SERVERS = 4, STAGE_FDS = 16 };

typedef struct stage stage;
typedef struct node node;

/* Of the two streams of bytes: what clients send, and what servers send that do not just echo. */
enum { STREAM_OF_CLIENT = 1, STREAM_OF_SERVER = 2 };

typedef enum stage_kind { STAGE_TCP, STAGE_TCP6, STAGE_UNIX } stage_kind;

/* One protocol. What follows on_ is called after the node has done its own checks; each may be NULL. */
struct node {
    tepal_protocol protocol; /* first */
    stage *stage;
    int number;                 /* of those with the same role, from 0 */
    tepal_transport *transport; /* between made and lost */
    tepal_transport *held;      /* a reference of the scene's, given back at the end */
    int made, lost, eofs;
    int lost_code;
    int seed_in, seed_out;
    uint64_t received, sent;
    bool served, echo, keep_open, decline;
    bool is_paused; /* by pause_writing */
    void (*on_made)(node *self);
    void (*on_data)(node *self);
    void (*on_eof)(node *self);
    void (*on_lost)(node *self);
    uint8_t lent[600];
};

/* What a factory makes. */
typedef struct role {
    stage *stage;
    bool served; /* on the server's side */
    bool lends;  /* get_buffer, too */
    bool echo, keep_open;
    int seed_in, seed_out;
    void (*on_made)(node *self);
    void (*on_data)(node *self);
    void (*on_eof)(node *self);
    void (*on_lost)(node *self);
    int made; /* so many of it */
} role;

struct stage {
    tepal_loop *loop;
    const fault *plan; /* NULL: nothing goes wrong */
    bool strict;       /* nothing goes wrong, or what does must pass unnoticed */
    bool over;         /* no more turns: the loop cannot wait, or nothing moves any more */
    bool may_stall;    /* the fault may be that something never comes */
    int patience;      /* idle turns of 1 ms before it is said that nothing moves */
    bool told;         /* the plan's error has come out: from a call, a future, a report or connection_lost */
    int idle;
    uint64_t turns, progress;
    role client, server;
    node nodes[STAGE_NODES];
    int node_count;
    tepal_future *futures[STAGE_FUTURES];
    int future_count;
    tepal_server *servers[STAGE_SERVERS];
    int server_count;
    int fds[STAGE_FDS]; /* to be closed after the loop */
    int fd_count;
    char path[108]; /* of a Unix socket; empty: none */
    int called;     /* by stage_count() */
};

/* One program of those that are run with each call failing in turn. */
typedef struct scene {
    const char *name;
    void (*play)(stage *self);
    bool
        may_be_silent; /* it ends what still reads or sends, or has another way to go: nobody need be told of a failure */
} scene;

/* Each ended by a NULL name. */
extern const scene scenes_of_connections[], scenes_of_streams[], scenes_of_servers[], scenes_of_loops[];
extern const scene scenes_of_tls[]; /* where there is TLS */

/* Whether a call of the library has worked. When nothing may be noticed it must have. */
bool stage_ok(stage *self, int code);
/* It must have been refused, whatever fails. */
void stage_refused(stage *self, int code);

/* What holds unless the fault may be noticed. */
#define STAGE_WANT(self, condition)                                                                                    \
    (!(self)->strict || (self)->over || (condition) ? (void)0 : test_fail(__FILE__, __LINE__, "%s", #condition))

/* One turn. False once there is no point in going on: see over. A program that spins fails. */
bool stage_turn(stage *self);

/* Turn until the condition holds; a fault may make that impossible. */
#define STAGE_UNTIL(self, condition)                                                                                   \
    do {                                                                                                               \
        while (!(condition) && stage_turn(self)) {                                                                     \
        }                                                                                                              \
        STAGE_WANT(self, condition);                                                                                   \
    } while (0)

void stage_turns(stage *self, int count);

/* What a run of the loop has returned: an error can only be the one with which its wait failed, and ends the scene. */
void stage_ran(stage *self, int status);

/* A callback that counts: argument is the stage. */
void stage_count(void *argument);

/* Servers and connections. NULL when that fails. */
tepal_server *stage_listen(stage *self, stage_kind kind);
tepal_server *stage_listen_with(stage *self, const tepal_server_options *options);
tepal_future *stage_dial(stage *self, stage_kind kind); /* to what stage_listen() has made */
tepal_future *stage_dial_with(stage *self, const tepal_connect_options *options);
void stage_keep(stage *self, tepal_future *future);          /* must be done at the end; given back then */
bool stage_all_done(const stage *self);                      /* every future so far */
bool stage_all_lost(const stage *self);                      /* every node so far; none of them is needed */
bool stage_all_closed(const stage *self);                    /* every descriptor of a transport as well */
void stage_serve(stage *self, stage_kind kind, int clients); /* listen, and dial so often */
void stage_close_servers(stage *self);                       /* and wait until they are */

/* Nodes */
node *stage_node(stage *self, role *as);
int stage_factory(void *argument, tepal_protocol **protocol);                             /* argument: a role */
node *stage_adopt(stage *self, role *as, int fd, const tepal_transport_options *options); /* NULL when that fails */
node *stage_client(stage *self, int number); /* NULL if there is none with that number */
node *stage_served(stage *self, int number);
void node_write(node *self, size_t length);
void node_narrow(node *self); /* buffers of the socket as small as they can be */
void node_end(node *self);    /* write_eof */
void node_hang_up(node *self);
void node_abort(node *self);
/*
 * As on_lost, where the other side closes first and nothing is on its way: a reset leaves no connection in TIME_WAIT, of
 * which thousands of runs would make too many.
 */
void node_reset_when_over(node *self);
bool node_is_open(const node *self); /* made, and not lost */

/* Sockets of the scene's own, closed by the end of it unless they were given away. */
void stage_pair(stage *self, stage_kind kind, int fds[2]);
void stage_pipe(stage *self, int fds[2]);
/*
 * An address of the loopback network that comes back late: the ports of 127.0.0.1 would be used up by connections in
 * TIME_WAIT, ours and those of other tests.
 */
enum { STAGE_HOST = 16 };
void stage_host(char host[STAGE_HOST]);
int stage_bound(stage *self, const char *host, uint16_t *port); /* not listening */
void stage_give(stage *self, int fd);                           /* it is the library's now */
void stage_take(stage *self, int fd);                           /* it is the scene's */
void stage_close_fd(stage *self, int fd);

/* Close the loop, check that all has ended, and give everything back. */
void stage_finish(stage *self);

/* Play a scene. Returns whether the fault has happened. */
bool stage_play(const scene *played, const fault *plan, bool may_be_noticed);

/* call_errors.c: with which errno a call may fail, ended by 0. And whether nobody may notice that it did. */
const int *call_errors(system_call call);
bool call_error_passes(system_call call, int error);
bool call_has_length(system_call call);
/* Whether somebody always hears of its error, as long as there is somebody to hear. */
bool call_is_told_of(system_call call, int error);
/* Whether something may never come when it fails, and nobody be told. Else all must come to an end, well or not. */
bool call_may_stall(system_call call, int error);

#endif
