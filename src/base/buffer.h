/*
 * The output chain: bytes that wait for the kernel, in order, as copied pieces (small ones joined) and owned pieces
 * (the writer's memory, released exactly once). It knows nothing of sockets.
 */
#ifndef TPI_BUFFER_H
#define TPI_BUFFER_H

#include <tepal/transport.h>
#include "base/alloc.h"

/* Copied pieces are joined up to this. */
#define TPI_JOIN_BYTES 16384

typedef struct tpi_piece tpi_piece;

typedef struct tpi_output {
    tpi_piece *first, *last;
    uint64_t bytes;
} tpi_output;

/* Append a copy of the pieces, leaving out their first skip bytes. 0 or TEPAL_ENOMEM, which leaves the chain as it was. */
int tpi_output_copy(tpi_output *output, tpi_realloc allocate, const struct iovec *pieces, size_t count, size_t skip);

/*
 * Append the pieces themselves, leaving out their first skip bytes; release runs when the last byte has been consumed
 * or the chain is discarded. There must be bytes left. 0 or TEPAL_ENOMEM, which leaves the chain as it was.
 */
int tpi_output_own(tpi_output *output, tpi_realloc allocate, const struct iovec *pieces, size_t count, size_t skip,
                   tepal_release release, void *argument);

/* Describe up to limit pieces from the front; returns how many. */
size_t tpi_output_gather(const tpi_output *output, struct iovec *pieces, size_t limit);

/* The first count bytes have left: free and release (with status 0) what is used up. */
void tpi_output_consume(tpi_output *output, tpi_realloc allocate, uint64_t count);

/* Drop everything, releasing with this status. */
void tpi_output_discard(tpi_output *output, tpi_realloc allocate, int status);

/* Drop everything without a word to the owners: in a forked child. */
void tpi_output_forget(tpi_output *output, tpi_realloc allocate);

/* The bytes of a list of pieces; UINT64_MAX if they overflow. */
uint64_t tpi_pieces_bytes(const struct iovec *pieces, size_t count);

#endif
