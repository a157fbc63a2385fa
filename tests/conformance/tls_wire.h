/*
 * A wire between two sockets that the test moves itself: it sees every byte, and decides how many go on at a time, where
 * it stops, and what becomes of the connection there.
 */
#ifndef TEPAL_TESTS_TLS_WIRE_H
#define TEPAL_TESTS_TLS_WIRE_H

#include "harness/test.h"

/* What happens once as many bytes as may have gone on. */
typedef enum wire_end { WIRE_HOLDS, WIRE_ENDS /* with a FIN */, WIRE_RESETS } wire_end;

/* One direction. The first of a wire is what the client sends. */
typedef struct wire_way {
    int from, to;   /* plain sockets of the test's */
    uint8_t *bytes; /* all that has come, from the beginning */
    size_t length, room;
    size_t passed;
    size_t limit;   /* so many may go on, from the beginning */
    size_t portion; /* so many at a time */
    wire_end at_limit;
    bool ended;      /* by the sender */
    bool end_passed; /* told to the receiver */
    bool is_broken;  /* the sender was reset, or nobody receives any more */
} wire_way;

typedef struct wire {
    wire_way up, down;
    int fds[2]; /* the test's: next to the client, next to the server; -1: closed */
} wire;

/* A wire with two sockets that are still to be adopted. Nothing is limited. */
void wire_open(wire *self, int *client, int *server);
/* Move what may be moved, once in each direction. Whether anything was. */
bool wire_move(wire *self);
/* A reset for both sides, now. */
void wire_reset(wire *self);
void wire_close(wire *self);

/*
 * The record that begins at *offset of what has come: its type, and the length of what is in it; *offset is then where the
 * next one begins. False if it is not all there.
 */
bool wire_record(const wire_way *way, size_t *offset, int *type, size_t *length);

#endif
