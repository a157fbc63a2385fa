/*
 * The cork: what one callback writes, joined in a chunk and handed down when the callback returns. Who has written in
 * it, loop->corked says:
 *
 *   NULL         nobody
 *   a transport  that one alone, to the loop's own chunk; and it is not special
 *   loop->net    one or more, each to a chunk of its own: transport->cork, in a list
 *
 * The second is what makes the common case (one upcall, one answer) cheap: no list, no memory, and little to look at. It
 * becomes the third as soon as another one writes, or the transport becomes special. The rest is in write.c.
 */
#ifndef TPI_CORK_H
#define TPI_CORK_H

#include "net/stream.h"

struct tpi_chunk {
    tpi_chunk *next;            /* of the corked ones, in the order of their first write, or of the free ones */
    tepal_transport *transport; /* in the list; NULL: what was in it has been handed down or dropped already */
    size_t used;
    size_t limit;        /* in the list: up to which bytes may be added without further thought; 0: always think */
    struct iovec rest;   /* in flight: what the driver has not sent */
    tpi_message message; /* of that rest */
    uint8_t bytes[TPI_JOIN_BYTES];
};

#define TPI_FREE_CHUNKS 256 /* kept for reuse: a driver may have as many in flight */

/* What the transports of a loop share: loop->net. */
typedef struct tpi_corks {
    tpi_chunk *first; /* of the list, the oldest; NULL unless loop->corked says that there is one */
    tpi_chunk *last;  /* while there are two or more */
    tpi_chunk *free;
    unsigned others; /* corked chunks beside the oldest */
    unsigned free_count;
    bool flushing; /* the oldest is being handed down, and what that calls up may write */
} tpi_corks;

tpi_chunk *tpi_chunk_new(tepal_loop *loop);
void tpi_chunk_give_rarely(tepal_loop *loop, tpi_chunk *chunk);

/* A free chunk, or NULL ... */
static inline tpi_chunk *tpi_chunk_take(tepal_loop *loop) {
    tpi_corks *corks = loop->net;
    tpi_chunk *chunk = corks->free;
    if (__builtin_expect(chunk == NULL, 0)) {
        return tpi_chunk_new(loop);
    }
    corks->free = chunk->next;
    corks->free_count--;
    return chunk;
}

/* ... and back again. */
static inline void tpi_chunk_give(tepal_loop *loop, tpi_chunk *chunk) {
    tpi_corks *corks = loop->net;
    if (__builtin_expect(loop->chunk == NULL || corks->free_count >= TPI_FREE_CHUNKS, 0)) {
        tpi_chunk_give_rarely(loop, chunk);
        return;
    }
    chunk->next = corks->free;
    corks->free = chunk;
    corks->free_count++;
}

/* Make the chunk what transport has in flight. It is in no list. */
static inline const tpi_message *tpi_cork_fly(tepal_transport *transport, tpi_chunk *chunk) {
    chunk->rest.iov_base = chunk->bytes;
    chunk->rest.iov_len = chunk->used;
    transport->flight = chunk;
    transport->flags |= TPI_HAS_SENT | TPI_SPECIAL;
    return &chunk->message;
}

/* Hand the only cork, transport's, to a driver that completes sends later: the chunk, if there is another for the loop. */
void tpi_cork_send(tepal_transport *transport);

/*
 * After an upcall: hand down what was corked. In line for the one transport that answered its own upcall, when the
 * driver takes all of it.
 */
static inline void tpi_cork_flush_after(tepal_transport *transport) {
    tepal_loop *loop = transport->loop;
    if (__builtin_expect(loop->corked == transport, 1)) {
        if (loop->driver->completes) {
            tpi_cork_send(transport);
            return;
        }
        const tpi_chunk *chunk = loop->chunk;
        int64_t sent = loop->driver->ops->offer(loop->driver, &transport->object, chunk->bytes, chunk->used);
        /* An offer calls nobody up. Through transport once more: what is not kept need not be saved around the call. */
        chunk = transport->loop->chunk;
        if (__builtin_expect(sent == (int64_t)chunk->used, 1)) {
            transport->loop->corked = NULL;
            transport->flags |= TPI_HAS_SENT;
        } else {
            tpi_cork_flush_rest(transport, sent);
        }
    } else if (loop->corked != NULL) {
        tpi_corks_flush(loop);
    }
}

#endif
