/*
 * After connection_lost: the descriptor is closed or released, or lingers, without a protocol, until the peer has ended its
 * side too, so that input which nobody read does not reset what was written.
 */
#include "net/stream.h"

static const tpi_driver_ops *ops(const tepal_transport *transport) {
    return transport->loop->driver->ops;
}

void tpi_stream_close_object(tepal_transport *transport) {
    transport->flags &= ~(uint32_t)TPI_LINGERING;
    transport->flags |= TPI_ENDED;
    if (transport->flags & TPI_RESET) {
        (void)ops(transport)->set(transport->loop->driver, &transport->object, TPI_OPTION_RESET_ON_CLOSE, 1);
    }
    ops(transport)->close(transport->loop->driver, &transport->object);
}

void tpi_linger_ends(tepal_transport *transport) {
    tpi_timers_stop(&transport->loop->timers, &transport->extras->linger);
    tpi_stream_close_object(transport);
}

static void linger_is_over(tepal_work *work, int status) {
    tpi_extras *extras = (tpi_extras *)(void *)((char *)work - offsetof(tpi_extras, linger));
    tepal_transport *transport = extras->transport;
    if (status == 0) {
        tpi_stream_close_object(transport);
    }
}

/* Whether there is unread input, or will be. What has failed and is not reset is TLS's, whose alert is on its way. */
static bool has_unread(tepal_transport *transport) {
    size_t unread = 0;
    return transport->flags & TPI_EXPECTS_INPUT ||
           (transport->code == 0 &&
            ops(transport)->query(transport->loop->driver, &transport->object, TPI_QUERY_UNREAD, &unread) >= 0 &&
            unread > 0);
}

/* Unread input would make close(2) reset, and a reset can overtake what we wrote: send FIN, and read it away for a while. */
static bool linger(tepal_transport *transport) {
    int64_t limit_ns =
        transport->extras == NULL || transport->extras->linger_ns == 0 ? TPI_LINGER_NS : transport->extras->linger_ns;
    if (transport->flags & TPI_RESET || !(transport->flags & TPI_HAS_SENT) || limit_ns < 0 ||
        transport->object.sending != NULL || /* aborted while it was sending: closing cancels that */
        !has_unread(transport)) {
        return false;
    }
    tpi_extras *extras = tpi_transport_extras(transport);
    if (extras == NULL) {
        return false;
    }
    if (!(transport->flags & TPI_EOF_SENT)) {
        (void)ops(transport)->shutdown(transport->loop->driver, &transport->object);
    }
    int64_t end_ns;
    if (__builtin_add_overflow(tepal_loop_time(transport->loop), limit_ns, &end_ns)) {
        end_ns = INT64_MAX;
    }
    extras->linger.work.run = linger_is_over;
    tpi_timers_start(&transport->loop->timers, &extras->linger, end_ns);
    transport->flags |= TPI_LINGERING;
    transport->object.direct = false;
    ops(transport)->read_start(transport->loop->driver, &transport->object);
    return true;
}

void tpi_stream_retire(tepal_transport *transport) {
    if (transport->flags & TPI_BORROWED) {
        ops(transport)->release(transport->loop->driver, &transport->object);
    } else if (!linger(transport)) {
        tpi_stream_close_object(transport);
    }
}
