/*
 * A random program over the public API, on a simulated network, and the model that it is checked against.
 *
 *   program.c            hosts, the check after each turn, how a seed begins and ends
 *   program_ends.c       the two ends of connections: what each must be told, and what it must never be
 *   program_writes.c     what an end writes
 *   program_filters.c    filters, and acts with them
 *   program_acts.c       the table of acts, and those on a connection's end
 *   program_calls.c      acts on a host: callbacks, timers, futures, work for the executor
 *   program_places.c     acts on a host: servers, connecting, hosts that end
 *   program_seeds.c      the tests
 *
 * An act is a function and a line in the table of program_acts.c. Everything random comes from the network's seed, and
 * nothing depends on a pointer's value, so that a seed gives the same run every time.
 */
#ifndef TEPAL_TESTS_PROGRAM_H
#define TEPAL_TESTS_PROGRAM_H

#include "harness/test.h"

#include <tepal.h>

enum {
    MOST_NAMES = 4,
    MOST_NODES = 16, /* hosts and what they were before they were started again */
    MOST_JOBS = 8,   /* timers of a host, and works */
    MOST_FACES = 3,
    HEADER = 4, /* a stream begins with its end's number */
};

typedef struct random_program random_program;
typedef struct program_node program_node;
typedef struct program_place program_place;
typedef struct program_end program_end;
typedef struct tracked tracked;
typedef struct layer layer; /* a filter */

/* ---- A connection's end ---- */

/* A protocol; an end has several, of which one is on its transport. */
typedef struct face {
    tepal_protocol protocol; /* first */
    program_end *end;
} face;

/* An end as a producer. */
typedef struct program_feeder {
    tepal_producer producer; /* first */
    program_end *end;
    bool is_registered, is_push, is_paused;
    int portions; /* that a pull producer still gives */
} program_feeder;

struct program_end {
    program_end *next; /* of the program, newest first */
    program_node *node;
    program_place *place; /* whose server accepted it; NULL: it connected */
    unsigned id;          /* from 1 */
    face faces[MOST_FACES];
    int current;                /* the face that is on the transport */
    tepal_transport *transport; /* a reference, from connection_made on */

    /* What it has written, and its peer may be told. */
    uint8_t *tape;
    size_t written, room;
    unsigned owned; /* writes whose release has not run */

    program_end *peer; /* once one of both has heard of the other */
    size_t delivered;
    uint8_t head[HEADER]; /* of what was delivered before the peer was known */

    uint64_t made_turn;
    bool made, lost, is_losing, eof, is_paused; /* by pause_writing */
    int lost_code;
    bool is_swapping;   /* inside set_protocol() */
    bool may_discard;   /* aborted with code 0, which counts as a clean end */
    bool wants_no_data; /* between pause_reading and resume_reading */
    bool has_closed;    /* close() was called, or what amounts to it */
    bool has_ended;     /* write_eof() */
    bool is_ending;     /* inside it */
    bool was_aborted;   /* before anything else ended it; with this code: */
    int abort_code;
    bool may_end;           /* somebody else may close or abort it: a pipe, its server, its host */
    tracked *reads, *feeds; /* the pipe whose source, whose sink it is */
    size_t fed_from;        /* of the pipe's bytes, those that are on the tape already */
    program_feeder *feeder; /* the last one */
    layer *top;             /* of its filters */
    layer *gone;
    unsigned layers;
    unsigned in_data; /* upcalls with bytes, under way */
    uint8_t lent[4096];
};

extern const tepal_protocol_type end_types[MOST_FACES];

/* A factory for connections; argument: an end that waits for its transport, or a place. */
int end_connects(void *argument, tepal_protocol **protocol);
int end_accepts(void *argument, tepal_protocol **protocol);
program_end *end_new(program_node *node, program_place *place);
/* Write one portion in a way by chance. */
void end_write_some(program_end *self, size_t length);
/* Room on its tape. */
void end_make_room(program_end *self, size_t length);
/* What the pipe into it has moved is on its tape, and its source has had it. */
void end_take_pipe(program_end *self);
/* A pipe is over; its future is done. */
void end_pipe_done(tracked *pipe);
/* It may be over without its callback having run. */
void end_look_at_pipes(program_end *self);
/* After a call that may change what is buffered. */
void end_check_marks(const program_end *self);
/* What the model knows of it, after a turn; and at the very end. */
void end_check(const program_end *self);
void end_check_last(const program_end *self);
void end_give_back(program_end *self);
void end_free_filters(program_end *self);
/* Filters that hold output back let it go. */
void end_open_gates(program_end *self);
bool end_is_closing(const program_end *self);
/* These mark what follows from it. */
void end_close(program_end *self);
void end_abort(program_end *self, int code);

/* ---- Futures ---- */

typedef enum tracked_kind {
    IS_PROMISE, /* somebody completes it */
    IS_COMBINED,
    IS_CONNECT,
    IS_SERVER,
    IS_WAIT_CLOSED,
    IS_DRAIN,
    IS_PIPE,
    IS_WORK,
    IS_NAMES,
    IS_ESTABLISHED,
} tracked_kind;

struct tracked {
    tracked *next; /* of its node, newest first */
    program_node *node;
    tepal_future *future; /* a reference, until the end of the random_program */
    tracked_kind kind;
    bool is_told, is_deaf, was_canceled;
    program_end *end, *sink;
    program_place *place;
    int worked, destroyed; /* of work for the executor */
};

tracked *track(program_node *node, tepal_future *future, tracked_kind kind);
tracked *tracked_pending(const program_node *node); /* one by chance, or NULL */

/* ---- Hosts ---- */

typedef struct call call;

typedef struct alarm_clock {
    tepal_timer timer; /* first */
    program_node *node;
    bool is_started, in_turn;
    uint64_t order, turn;
} alarm_clock;

typedef struct program_chore {
    tepal_work work; /* first */
    program_node *node;
    bool is_posted;
    uint64_t order;
} program_chore;

struct program_node {
    random_program *program;
    int name; /* "a" to "d" */
    tepal_loop *loop;
    bool is_closed, is_closing, has_crashed;
    bool in_timers;                               /* what is due now runs, and what that starts is for the next turn */
    uint64_t soon_order;                          /* of what is to be called next */
    uint64_t interrupted_since, interrupted_turn; /* turns, one after the other, that were not ended */
    call *calls;                                  /* pending ones, newest first */
    alarm_clock clocks[MOST_JOBS];
    program_chore chores[MOST_JOBS];
    tracked *futures;
};

/* A server. */
struct program_place {
    program_place *next;
    program_node *node;
    tepal_server *server; /* a reference; NULL: not yet */
    uint16_t port;
    int family; /* AF_UNIX: by path */
    char path[24];
    bool is_closed;
    program_end *probe; /* a connection made to see that it serves */
    tepal_transport_options options;
};

typedef struct act act;

struct random_program {
    tepal_sim *sim;
    program_node nodes[MOST_NODES];
    int node_count, names;
    program_node *by_name[MOST_NAMES]; /* NULL: closed */
    program_place *places;
    program_end *ends;
    unsigned end_count;
    int calls;                   /* public functions under way */
    int depth;                   /* of acts inside acts */
    const program_node *running; /* whose upcall runs */
    int interrupted;             /* the code that a run may end with */
    uint64_t order;              /* of everything that is queued */
    int acts_left;
    size_t bytes_left;
    size_t most_bytes; /* of a write */
    uint64_t turns;
    uint64_t most_turns; /* that it may take until it is stopped */
    bool is_calm;        /* no more acts */
    bool mixes;          /* hosts are acted on from each other's upcalls */
    bool has_faults, starves /* of memory */;
    uint32_t enabled; /* faults of scripts */
    bool acts[64];    /* by the table: those of this seed */
    tepal_loop_options loop_options;
};

/* The code with which a run ends that has taken its turns: pipes may go round in circles. */
#define PROGRAM_IS_TIRED TEPAL_ERROR(TEPAL_DOMAIN_USER, 998)

/* The counts of each act over all seeds of this process. */
extern uint64_t act_counts[64];

uint64_t below(random_program *self, uint64_t limit);
bool chance(random_program *self, uint64_t limit); /* one in limit */

_Noreturn void program_fail(const random_program *self, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
#define EXPECT(program, condition) ((condition) ? (void)0 : program_fail(program, __FILE__, __LINE__, "%s", #condition))
#define EXPECT_EQ(program, a, b)                                                                                       \
    do {                                                                                                               \
        const intmax_t a_ = (intmax_t)(a);                                                                             \
        const intmax_t b_ = (intmax_t)(b);                                                                             \
        if (a_ != b_) {                                                                                                \
            program_fail(program, __FILE__, __LINE__, "%s is %jd, %s is %jd", #a, a_, #b, b_);                         \
        }                                                                                                              \
    } while (0)

/* A public function; but for the documented ones, no upcall runs inside. */
#define CALL(program_, expression)                                                                                     \
    __extension__({                                                                                                    \
        random_program *calling_ = (program_);                                                                         \
        calling_->calls++;                                                                                             \
        __auto_type result_ = (expression);                                                                            \
        calling_->calls--;                                                                                             \
        result_;                                                                                                       \
    })
#define CALL_VOID(program_, expression)                                                                                \
    do {                                                                                                               \
        (program_)->calls++;                                                                                           \
        (expression);                                                                                                  \
        (program_)->calls--;                                                                                           \
    } while (0)

/* An upcall of a host's begins; inside a public function only where that may be. It ends. */
const program_node *upcall_begins(program_node *node, bool may_be_inside);
void upcall_ends(program_node *node, const program_node *before);
/* The code of a function that allocates, and one that opens a socket too: 0, or what this run allows. Whether it worked. */
bool program_worked(const random_program *self, int code, bool opens, const char *file, int line);
#define worked(program, code) program_worked(program, code, false, __FILE__, __LINE__)
#define opened(program, code) program_worked(program, code, true, __FILE__, __LINE__)

/* Acts by chance, on this host; inside: a call that is under way, in which little may be done. */
void act_now(program_node *node, program_end *end, bool inside);
void acts_choose(random_program *self);
const char *act_name(int number); /* NULL: no more */

void program_node_close(program_node *self);
void node_crash(program_node *self);
void node_add(random_program *self, int name);
void node_forget_calls(program_node *self);
/* Complete every promise, stop every timer. */
void node_calm(program_node *self);
void node_cancel_pipes(program_node *self);
bool node_is_up(const program_node *self);

void act_push(program_node *node, program_end *end);
void act_pop(program_node *node, program_end *end);
void act_gate(program_node *node, program_end *end);

void act_call_soon(program_node *node, program_end *end);
void act_call_later(program_node *node, program_end *end);
void act_cancel_call(program_node *node, program_end *end);
void act_timer(program_node *node, program_end *end);
void act_post(program_node *node, program_end *end);
void act_promise(program_node *node, program_end *end);
void act_forget_callback(program_node *node, program_end *end);
void act_settle(program_node *node, program_end *end);
void act_combine(program_node *node, program_end *end);
void act_cancel_future(program_node *node, program_end *end);
void act_executor(program_node *node, program_end *end);
void act_names(program_node *node, program_end *end);
void act_interrupt(program_node *node, program_end *end);
void act_stats(program_node *node, program_end *end);

void act_listen(program_node *node, program_end *end);
void act_connect(program_node *node, program_end *end);
void act_adopt(program_node *node, program_end *end);
void act_server(program_node *node, program_end *end);
void act_fault(program_node *node, program_end *end);
void act_close_loop(program_node *node, program_end *end);
void act_crash(program_node *node, program_end *end);
void place_free(program_place *self);
void place_close(program_place *self);
/* Connect to it from its own host. */
void place_probe(program_place *self);

/* What a run left behind: the trace's hash and length as it was heard, and what the simulator says of it. */
typedef struct program_result {
    uint64_t trace, length, hash, events;
} program_result;

/* One seed, from the beginning to the end. */
void program_run(uint64_t seed, program_result *result);

#endif
