/*
 * The ends of connections for the stream target: protocols, filters and producers that check what must always hold, and
 * that do as the input says from inside their upcalls.
 *
 * Each end writes a stream of which every byte is known by its place. What is written from inside a pause or resume may
 * come before or after the write around it; such bytes are NOISE, which the stream never holds.
 */
#ifndef TEPAL_TESTS_FUZZ_ENDS_H
#define TEPAL_TESTS_FUZZ_ENDS_H

#include "fuzz/support/fuzz.h"
#include <tepal.h>

enum { ENDS = 4, OWNED_WRITES = 24, FILTERS = 6, NOISE = 0xff, EDGES = 1 << 15 };

typedef struct end end;
typedef struct world world;

/* One of the two protocols of an end; set_protocol swaps them. */
typedef struct speaker {
    tepal_protocol protocol; /* first */
    end *end;
    bool is_paused; /* told to write less */
} speaker;

typedef struct feeder {
    tepal_producer producer; /* first */
    end *end;
    bool is_registered, is_streaming, is_paused;
} feeder;

typedef struct owned_write {
    uint8_t *memory;
    bool is_accepted;
    int releases;
} owned_write;

struct end {
    world *world;
    unsigned number;
    tepal_transport *transport; /* a reference; NULL: not adopted */
    speaker speakers[2];
    unsigned current; /* speaker */
    feeder feeder;
    tepal_future *pipe; /* of which it is the source */
    bool was_piped;
    int fd; /* if borrowed: ours to close */
    bool is_borrowed;
    int made, eofs, losts, released;
    bool wants_no_data;       /* it paused reading */
    bool is_broken;           /* what it wrote need not arrive whole */
    uint64_t accepted;        /* bytes of its stream */
    uint64_t received;        /* place of the next byte to come of the other's stream */
    unsigned writing;         /* calls under way that carry bytes */
    uint8_t edges[EDGES / 8]; /* places where a write began or ended */
    owned_write writes[OWNED_WRITES];
    unsigned write_count;
    uint8_t *lent;                      /* by get_buffer */
    tepal_filter *filters[FILTERS + 4]; /* lowest first; pushing one may have its pause push others */
    unsigned filter_count;
};

struct world {
    fuzz_input input;
    tepal_loop *loop;
    end ends[ENDS];
    unsigned count; /* of ends: 2, or 4 in a line with pipes in the middle */
    unsigned calls; /* under way from outside or from inside an upcall */
    unsigned depth; /* of acting inside upcalls */
    bool is_interrupted;
    void (*operate)(world *w);
};

/* Plain; one that lends buffers; one that does nothing else. */
extern const tepal_protocol_type speaker_types[3];

/* Inside an upcall: perhaps do something. */
void world_act(world *w);

/* Write length bytes of this end's stream, or noise, in one of three ways. */
void end_write(end *self, size_t length, unsigned way);
void end_push_filter(end *self, unsigned kind, tepal_future **established);
void end_pop_filter(end *self);
void end_register_producer(end *self, bool streaming);
void end_check_over(end *self);

#endif
