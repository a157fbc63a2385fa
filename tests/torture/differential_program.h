/*
 * Random programs whose outcome does not depend on timing, for differential.c: a few connections on one loop, each with
 * a dialogue in which a side acts only upon what it has seen, and the loop's own chores beside them.
 *
 *   differential_program.c  draws a program from its number
 *   differential_run.c      runs it on a loop: servers, connections, relays
 *   differential_side.c     one end of a connection: what it does, and what it is told
 *   differential_layers.c   its filters
 *   differential_chores.c   callbacks, timers and futures; and the ways from one callback to the next
 */
#ifndef TEPAL_TESTS_DIFFERENTIAL_PROGRAM_H
#define TEPAL_TESTS_DIFFERENTIAL_PROGRAM_H

#include "harness/test.h"
#include <tepal.h>

enum { DIALOGUES = 4, MOVES = 40, LAYERS = 3, PROTOCOLS = 4, ROUNDS = 2 };

/* ---- Programs ---- */

typedef enum place { PLACE_INET, PLACE_INET6, PLACE_LOCALHOST, PLACE_PATH, PLACE_ABSTRACT, PLACES } place;

/*
 * What one side does, and how the other one knows that it has. At any time one side may act, the other waits to see it;
 * so nothing is on its way to who acts, and only MOVE_SAY and MOVE_ECHO and the ends are seen by the other.
 */
typedef enum move_kind {
    MOVE_SAY,   /* write length bytes: seen once all have come */
    MOVE_ECHO,  /* write length bytes, which the other sends back as they come: seen by both once all have come */
    MOVE_HOP,   /* go on from another callback: detail is the way there */
    MOVE_SWAP,  /* set_protocol(): detail is the next one */
    MOVE_PUSH,  /* a filter: detail is its kind */
    MOVE_POP,   /* the topmost one */
    MOVE_PAUSE, /* reading, until a hop has ended: detail is its way; PAUSE_FOR_EVER: never resumed */
    MOVE_END,   /* write_eof(): seen by eof_received */
    /* The last moves. */
    LAST_NONE,   /* nobody closes, but the loop at its end */
    LAST_CLOSE,  /* detail is what the other does: of close_answer */
    LAST_ABORT,  /* with a code: detail */
    LAST_RETURN, /* a code below 0 from the upcall that led here: detail */
} move_kind;

enum { PAUSE_FOR_EVER = 255 };

/* detail of MOVE_SAY */
enum { SAY_IN_PIECES, SAY_AT_ONCE, SAY_AND_ONE_IS_READ }; /* one: the other sees it, or means to, by its first byte */

/* What the other side does about a close: upon the EOF, but for the last. */
typedef enum close_answer {
    ANSWER_ZERO,
    ANSWER_KEEP_AND_CLOSE,
    ANSWER_KEEP_AND_CLOSE_LATER,
    ANSWER_KEEP_AND_END,
    ANSWER_BEFORE, /* it closes when it has seen what was said before */
    ANSWERS
} close_answer;

typedef struct move {
    move_kind kind;
    bool by_server;
    uint8_t detail;
    uint32_t length;
    uint64_t seed;
} move;

typedef struct dialogue {
    place place, relay_place; /* of the server that the client calls; of the one behind it, with is_relayed */
    bool is_relayed, is_called_again;
    uint8_t protocol[2]; /* the first one, by by_server */
    uint8_t dial_hop;    /* by way of which the client calls; 0: before the loop runs */
    tepal_transport_options transport[2];
    move moves[MOVES];
    size_t move_count;
} dialogue;

typedef struct program {
    uint64_t number, seed;
    tepal_loop_options loop; /* but for the driver */
    dialogue dialogues[DIALOGUES];
    size_t dialogue_count;
    unsigned refused, canceled; /* places where nobody listens, dials that are cancelled: bits by place */
    bool is_whole;              /* it counts on a write that arrives whole */
} program;

/* The same number, the same program. has_inet6: whether this system has. */
void program_draw(program *self, uint64_t number, bool relayed, bool has_inet6);

/* ---- Runs ---- */

/* What one connection, or one kind of chore, was told, in order; bytes between two other lines are one line. */
typedef struct story {
    char name[32];
    char *text;
    size_t length, room;
    uint64_t bytes, hash;
} story;

void story_tell(story *self, const char *format, ...) __attribute__((format(printf, 2, 3)));
void story_bytes(story *self, const void *data, size_t length);

typedef struct run run;
typedef struct talk talk;
typedef struct side side;

typedef struct side_protocol {
    tepal_protocol protocol; /* first */
    side *side;
} side_protocol;

typedef struct layer layer;

/* One end of a dialogue. */
struct side {
    side_protocol protocols[PROTOCOLS];
    talk *talk;
    bool is_server, is_over, is_gone; /* over: it waits for nothing more. gone: connection_lost was called */
    bool is_hopping, is_asking;       /* asking: its echo is under way */
    bool is_connected;                /* a client whose connect future has told so */
    tepal_transport *transport;
    layer *layers[LAYERS];
    size_t layer_count;
    size_t at;    /* of the moves: which is next, to be made or seen */
    uint32_t got; /* bytes of it that have come */
    unsigned pauses;
    uint8_t lent[3000];
    size_t lending; /* of those, how many */
    unsigned lends;
    test_prng prng; /* for the message that is being said, and what is left of it */
    uint32_t left;
    bool in_pieces;
    story story;
};

/* The two ends in between: what the relay accepted, and what it dialled. */
typedef struct relay {
    tepal_protocol protocol; /* first */
    talk *talk;
    tepal_transport *transport;
    tepal_future *piped; /* its pipe to the other one */
    bool is_gone;
    story story, pipe;
} relay;

struct talk {
    run *run;
    const dialogue *dialogue;
    side sides[2]; /* client, server */
    relay relays[2];
    tepal_server *servers[2]; /* what the client calls; what the relay calls */
    char paths[2][128];
    story story, dial, again; /* of its server; of the call; of another one once the server is closed */
    bool is_over;
};

struct run {
    const program *program;
    tepal_loop *loop;
    char host[64];
    talk talks[DIALOGUES];
    story refused[PLACES], canceled[PLACES], soon, timers, futures, reports;
    size_t open;     /* what has to end before the loop stops */
    size_t releases; /* of owned writes, that are still to come */
    bool is_stuck, has_ended;
    test_prng prng; /* for the chores */
    unsigned round, outstanding;
};

/* Run it on this loop and close that. Its stories, one after the other, to be freed. */
char *differential_program_run(const program *program, tepal_loop *loop);

/* differential_run.c */
void run_close(run *self); /* one thing less is open */
void talk_check_over(talk *self);

/* differential_side.c */
void side_init(side *self, talk *talk, bool is_server);
/* Do what is to be done and has not been. 0, or a code below 0 to be returned from the upcall. */
int side_advance(side *self);

/* differential_layers.c */
void side_push(side *self, uint8_t kind);
void side_pop(side *self);

/* differential_chores.c */
enum { HOPS = 10, HOP_SLOW = 7 }; /* from HOP_SLOW on they take a thread */
void chores_start(run *self);
/* Call then(argument) from another callback. to: where the result of that way is told, or NULL. */
void hop(run *self, unsigned way, story *to, void (*then)(void *argument), void *argument);

#endif
