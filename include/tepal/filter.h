/**
 * Filters: layers between a transport's socket and its protocol. TLS is one, and yours may be.
 *
 * Each has the same two-way interface, so they stack. The one on top talks to the protocol, the lowest to the socket;
 * to reach its neighbours a filter calls tepal_filter_up_* and tepal_filter_down_* on itself. Embed tepal_filter first
 * in a struct of your own, set its type, and push it. A member that is NULL passes the call on unchanged.
 */
#ifndef TEPAL_FILTER_H
#define TEPAL_FILTER_H

#include <tepal/base.h>
#include <tepal/error.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tepal_filter tepal_filter;

/** A filter's table of functions. All run on the loop's thread. */
typedef struct tepal_filter_type {
    size_t size; /**< sizeof(tepal_filter_type) */

    /**
     * From below: bytes came. Returns how many were used, or a code below 0 that aborts the transport.
     *
     * Fewer than length only while the layer above has paused, or after being popped: the rest is kept below and comes first after resume.
     * data is valid during the call.
     */
    int64_t (*received)(tepal_filter *self, const void *data, size_t length);

    /** From below: the stream ended. Returns as a protocol's eof_received does. Default: pass it up. */
    int (*received_eof)(tepal_filter *self);

    /** From below: what is buffered there fell; what this filter holds back may go on. Default: pass it up. */
    void (*writable)(tepal_filter *self);

    /** From below: the layer below can carry data (a connect or handshake is done). Default: pass it up. */
    void (*established)(tepal_filter *self);

    /** The connection is gone. Nothing can be sent or received any more; free yourself. Lowest filter first. */
    void (*lost)(tepal_filter *self, const tepal_error *error);

    /**
     * From above: write these pieces; all are taken (copied, passed on or counted in buffered). Returns 0 or a code
     * below 0 that aborts the transport.
     */
    int (*write)(tepal_filter *self, const struct iovec *pieces, size_t count);

    /** From above: end the writing side after what was written. Returns 0 or a code below 0 for the caller. */
    int (*write_eof)(tepal_filter *self);

    /** From above: deliver nothing up until resume. Default: pass it down. */
    void (*pause)(tepal_filter *self);

    /** From above: deliver again; what is held here comes first, but not inside this call (see up_received). */
    void (*resume)(tepal_filter *self);

    /** From above: send what is held back for joining. Default: pass it down. */
    void (*flush)(tepal_filter *self);

    /** From above: close after what was written is sent. Call tepal_filter_down_close() when that is so. */
    void (*close)(tepal_filter *self);

    /** The transport is being aborted with this code; lost follows. Only to be told: it cannot be prevented. */
    void (*abort)(tepal_filter *self, int code);

    /**
     * The filter was popped while the transport lives on; free yourself. It may be popped by what up_received called:
     * then its received is still running, up_received gives TEPAL_ECLOSED from now on, and the bytes that received leaves
     * unused are for who stands in its place.
     */
    void (*detach)(tepal_filter *self);

    /** Whether write_eof works now, given that the layers below can. Default: true. */
    bool (*can_write_eof)(const tepal_filter *self);

    /** Bytes taken from above and not yet given down. Default: 0. */
    uint64_t (*buffered)(const tepal_filter *self);

    /** Answer a question by name ("tls.version"). Returns 0, or TEPAL_ENOENT to ask the layer below. */
    int (*info)(const tepal_filter *self, const char *what, const void **answer);

    /** In a forked child whose loop is closed or forgets its connections: give back memory, and call nothing of the transport's. */
    void (*forget)(tepal_filter *self);
} tepal_filter_type;

/** The first member of a filter of yours. Set type; the rest is the transport's while it is pushed. */
struct tepal_filter {
    const tepal_filter_type *type;
    tepal_filter *above;        /**< NULL: the protocol */
    tepal_filter *below;        /**< NULL: the socket */
    tepal_transport *transport; /**< NULL: not pushed */
    uint64_t reserved;          /**< the transport's */
};

/**
 * Put a filter on top of a live transport. Output written before goes out below it.
 *
 * With established not NULL the filter is one that has to be set up (a handshake): the future is done when the filter
 * calls tepal_filter_up_established(), or fails with the connection. Returns 0, TEPAL_EBUSY if it is on a transport
 * already, TEPAL_EINVAL, TEPAL_ENOMEM or TEPAL_ECLOSED: the filter is then the caller's.
 */
TEPAL_API int tepal_transport_push_filter(tepal_transport *transport, tepal_filter *filter, tepal_future **established);

/** Take the topmost filter off; its detach is called inside. Output written before passes through it first. Returns 0; TEPAL_EINVAL if it is not the topmost; TEPAL_EBUSY if it holds output (buffered) even after a flush; or TEPAL_ECLOSED. */
TEPAL_API int tepal_transport_pop_filter(tepal_transport *transport, tepal_filter *filter);

/** Ask the filters, topmost first, a question by name; answer is valid until the filter changes. Returns 0, TEPAL_ENOENT if none knows, or TEPAL_ECLOSED. */
TEPAL_API int tepal_transport_info(const tepal_transport *transport, const char *what, const void **answer);

/**
 * Deliver bytes to the layer above. Returns how many it used (fewer than length only once it has paused: keep the
 * rest), or a code below 0, after which the transport is aborted and the filter must touch nothing but itself.
 *
 * Call it from received or from a callback of the loop's, never from resume, write or another call from above.
 */
TEPAL_API int64_t tepal_filter_up_received(tepal_filter *self, const void *data, size_t length);

/** Tell the layer above that the stream ended cleanly. Returns as eof_received does; with 0 close has been called already. */
TEPAL_API int tepal_filter_up_received_eof(tepal_filter *self);

/** Tell the layers above that this filter's buffered fell. */
TEPAL_API void tepal_filter_up_writable(tepal_filter *self);

/** Tell the layer above that data can flow. Once. */
TEPAL_API void tepal_filter_up_established(tepal_filter *self);

/** Whether the layer above has paused: up_received would use nothing. */
TEPAL_API bool tepal_filter_is_paused(const tepal_filter *self);

/** Write down; all is taken. Returns 0, or a code below 0 with which the transport is being aborted. */
TEPAL_API int tepal_filter_down_write(tepal_filter *self, const struct iovec *pieces, size_t count);

/** End the writing side of the layer below. Returns 0, TEPAL_ENOTSUP or TEPAL_ECLOSED. */
TEPAL_API int tepal_filter_down_write_eof(tepal_filter *self);

/** Ask the layer below for no more bytes. */
TEPAL_API void tepal_filter_down_pause(tepal_filter *self);

/** Ask the layer below for bytes again. */
TEPAL_API void tepal_filter_down_resume(tepal_filter *self);

/** Send what the layers below hold back for joining. */
TEPAL_API void tepal_filter_down_flush(tepal_filter *self);

/** Close the layer below, after what was written down. */
TEPAL_API void tepal_filter_down_close(tepal_filter *self);

/** Abort the transport with a code (negative): a filter's way to end it with an error. */
TEPAL_API void tepal_filter_abort(tepal_filter *self, int code);

#ifdef __cplusplus
}
#endif
#endif
