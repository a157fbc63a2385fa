/*
 * Connections that have something to set up, a TLS handshake, between being connected and having a protocol.
 */
#ifndef TPI_SETUP_H
#define TPI_SETUP_H

#include "net/stream.h"
#include <tepal/tls.h>

/*
 * What makes the filter of such a connection; tpi_tls is src/tls's. A way is what one set of options says, ready to
 * make any number of filters.
 */
typedef struct tpi_way tpi_way;
typedef enum tpi_role { TPI_EITHER, TPI_CONNECTS, TPI_ACCEPTS } tpi_role;
typedef struct tpi_filter_factory {
    /*
     * Check and copy options, whose context must be fit for the role. host is what a client without a server_name
     * connects to; NULL: nothing that has a name.
     */
    int (*open)(tepal_loop *loop, const tepal_tls_options *options, tpi_role role, const char *host, tpi_way **way);
    void (*close)(tepal_loop *loop, tpi_way *way);
    /* A filter that is to be pushed: it frees itself in lost. */
    int (*make)(tepal_loop *loop, tpi_way *way, tepal_filter **filter);
    /* It was pushed: say the first word, if that is this end's. Ends in tepal_filter_up_established(), or the transport's end. */
    void (*begin)(tepal_filter *filter);
} tpi_filter_factory;

extern const tpi_filter_factory tpi_tls;

/*
 * How it went: error is NULL once the filter is established. Then tpi_setup_finish() follows, or tpi_setup_forsake(). With
 * an error the transport is lost, and the descriptor still open.
 */
typedef void (*tpi_setup_done)(tepal_transport *transport, void *argument, const tepal_error *error);

/*
 * Set up a connected transport that was never made: push a filter of this way, and hold what comes from above until a
 * protocol is there. done is called exactly once, from the ready queue, unless the transport is forsaken before. From
 * dispatch or the ready queue. On an error nothing was changed.
 */
int tpi_setup_begin(tepal_transport *transport, tpi_way *way, tpi_setup_done done, void *argument);

/* Set up: give it its protocol and call connection_made. What comes is delivered from the next turn on. */
void tpi_setup_finish(tepal_transport *transport, tepal_protocol *protocol);

/* Nobody wants it any more: done is not called. It ends with this code (0: cleanly). */
void tpi_setup_forsake(tepal_transport *transport, int code);

#endif
