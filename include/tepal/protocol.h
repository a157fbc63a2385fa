/**
 * Protocols: what your program does with a connection. Embed tepal_protocol first in a struct of your own.
 */
#ifndef TEPAL_PROTOCOL_H
#define TEPAL_PROTOCOL_H

#include <tepal/base.h>
#include <tepal/error.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tepal_protocol tepal_protocol;

/** What eof_received returns to keep its own side open (half-close). */
enum { TEPAL_KEEP_OPEN = 1 };

/**
 * The upcalls of a protocol; a const table shared by all its instances. Every member may be NULL.
 *
 * Order: connection_made once and first; then data, at most one EOF, pauses and resumes; connection_lost once and
 * last. An upcall that returns a code below 0 aborts the transport with it, and connection_lost then gets that code.
 * All run on the loop's thread, none inside a call that caused it, but for pause_writing and resume_writing, which may run
 * inside a write, and may themselves write, close and abort.
 */
typedef struct tepal_protocol_type {
    size_t size; /**< sizeof(tepal_protocol_type) */

    /** The connection stands. transport lives until connection_lost returns; hold it longer with a reference. */
    int (*connection_made)(tepal_protocol *self, tepal_transport *transport);

    /** length (1 or more) bytes came; data is valid during the call. */
    int (*data_received)(tepal_protocol *self, const void *data, size_t length);

    /**
     * Instead of data_received: lend a buffer for what has come. hint is how many bytes a read would take at most.
     *
     * *length 0 declines: that read goes to data_received, if there is one. The buffer is filled before anything else
     * happens on this loop, or given back unused (nothing is said then).
     */
    int (*get_buffer)(tepal_protocol *self, size_t hint, void **buffer, size_t *length);

    /** length (1 or more) bytes of the buffer lent are filled. */
    int (*buffer_updated)(tepal_protocol *self, size_t length);

    /**
     * The peer has ended its side. Return 0 to close, TEPAL_KEEP_OPEN to go on writing, below 0 to abort.
     *
     * NULL closes. Where the transport cannot half-close (TLS 1.2), what is buffered is sent and it closes either way.
     */
    int (*eof_received)(tepal_protocol *self);

    /** More than the high mark is buffered: please write less. Alternates with resume_writing, and comes first. */
    void (*pause_writing)(tepal_protocol *self);

    /** The buffer fell to the low mark or below. */
    void (*resume_writing)(tepal_protocol *self);

    /**
     * The connection is gone; error is NULL after a clean end, and is valid during the call. Free yourself here.
     *
     * The transport's descriptor is still open and its addresses can be asked for; nothing can be written.
     */
    void (*connection_lost)(tepal_protocol *self, const tepal_error *error);
} tepal_protocol_type;

/** The first member of a protocol of yours. */
struct tepal_protocol {
    const tepal_protocol_type *type;
};

/**
 * Makes the protocol of a new connection. Called last, after everything that can fail, so connection_made follows.
 *
 * The protocol is owned by whoever made it and is freed in its connection_lost. Returns 0 or a code below 0, which
 * refuses the connection.
 */
typedef int (*tepal_factory)(void *argument, tepal_protocol **protocol);

#ifdef __cplusplus
}
#endif
#endif
