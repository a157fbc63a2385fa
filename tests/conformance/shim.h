/*
 * The test filter: it scrambles (so that a byte which misses it is noticed), counts, and can hold output back.
 */
#ifndef TEPAL_TESTS_SHIM_H
#define TEPAL_TESTS_SHIM_H

#include "conformance/script.h"

typedef struct shim {
    tepal_filter filter; /* first */
    script *self;
    uint8_t key;      /* added going down, taken away coming up */
    size_t portion;   /* received uses at most so many bytes before it asks whether to go on; 0: all at once */
    bool holds;       /* output is kept until let_go() */
    bool no_half;     /* cannot end one side */
    bool wants_close; /* close came while it held something */
    bool wants_eof;
    uint8_t held[1 << 20];
    size_t held_length;
    uint64_t up, down;
    int losts, detaches, aborts, establishes, code;
} shim;

extern const tepal_filter_type shim_type;
int shim_write(tepal_filter *filter, const struct iovec *pieces, size_t count);

/* One with this key, for free(); and the same on self's transport. */
shim *shim_new(script *self, uint8_t key);
shim *shim_push(script *self, uint8_t key);
/* Hold nothing back any more. */
void shim_let_go(shim *self);

/* The peer, which knows the sum of the keys, feeds and takes so many bytes. */
void shim_feed(script *self, size_t length, uint8_t key);
void shim_take(script *self, size_t length, uint8_t key);
void shim_check_both_ways(script *self, size_t length, uint8_t key);

#endif
