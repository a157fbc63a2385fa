/*
 * Producers: who writes to a transport and is told when, as in Twisted.
 *
 * A push producer is told of every pause and resume of writing, which alternate because pausing is remembered here. A
 * pull producer is asked for one portion from the ready queue whenever the write buffer is empty; one that writes
 * nothing leaves it empty and is asked again in the next turn, as Twisted does. One that is not registered is never
 * called: every call out of here looks first.
 */
#include "net/stream.h"

/* Whether a producer may still be told to write. */
static bool is_open(const tepal_transport *transport) {
    return (transport->flags & (TPI_CLOSING | TPI_ENDED | TPI_EOF_WANTED)) == 0;
}

/* From the ready queue. Meanwhile the producer may have gone or been replaced, and the transport may have ended. */
static void ask(tepal_work *work, int status) {
    tpi_extras *extras = (tpi_extras *)((char *)work - offsetof(tpi_extras, pull));
    tepal_transport *transport = extras->pulling;

    extras->pulling = NULL;
    if (status == 0 && extras->producer != NULL && !extras->streaming && is_open(transport) &&
        tepal_transport_write_buffer_size(transport) == 0) {
        tepal_producer *producer = extras->producer;
        producer->resume(producer);
        tpi_producer_drained(transport); /* it wrote nothing; else flow control tells when that has left */
    }
    tepal_transport_unref(transport);
}

static void ask_soon(tepal_transport *transport) {
    tpi_extras *extras = transport->extras;

    if (extras->pulling == NULL) {
        extras->pulling = tepal_transport_ref(transport);
        extras->pull.run = ask;
        tpi_loop_queue(transport->loop, &extras->pull);
    }
}

static bool is_complete(const tepal_producer *producer, bool streaming) {
    return producer != NULL && producer->size >= sizeof *producer && producer->resume != NULL &&
           producer->stop != NULL && (producer->pause != NULL || !streaming);
}

int tepal_transport_register_producer(tepal_transport *transport, tepal_producer *producer, bool streaming) {
    const int code = tpi_loop_check(transport->loop);
    if (code < 0) {
        return code;
    }
    if (!is_complete(producer, streaming)) {
        return TEPAL_EINVAL;
    }
    if (!is_open(transport)) {
        return (transport->flags & (TPI_CLOSING | TPI_ENDED)) != 0 ? TEPAL_ECLOSED : TEPAL_EPIPE;
    }
    tpi_extras *extras = tpi_transport_extras(transport);
    if (extras == NULL) {
        return TEPAL_ENOMEM;
    }
    if (extras->producer != NULL) {
        return TEPAL_EBUSY;
    }

    extras->producer = producer;
    extras->streaming = streaming;
    extras->producer_paused = false;
    if (!streaming) {
        ask_soon(transport);
    } else if ((transport->flags & TPI_PAUSED_WRITING) != 0) {
        tpi_producer_pause(transport);
    }
    return 0;
}

int tepal_transport_unregister_producer(tepal_transport *transport) {
    if (tpi_loop_check(transport->loop) == TEPAL_ETHREAD) {
        return TEPAL_ETHREAD;
    }
    if (transport->extras == NULL || transport->extras->producer == NULL) {
        return TEPAL_ENOENT;
    }
    transport->extras->producer = NULL;
    return 0;
}

void tpi_producer_pause(tepal_transport *transport) {
    tpi_extras *extras = transport->extras;

    if (extras != NULL && extras->producer != NULL && extras->streaming && !extras->producer_paused &&
        is_open(transport)) {
        extras->producer_paused = true;
        extras->producer->pause(extras->producer);
    }
}

void tpi_producer_resume(tepal_transport *transport) {
    tpi_extras *extras = transport->extras;

    if (extras != NULL && extras->producer != NULL && extras->streaming && extras->producer_paused &&
        is_open(transport)) {
        extras->producer_paused = false;
        extras->producer->resume(extras->producer);
    }
}

void tpi_producer_drained(tepal_transport *transport) {
    const tpi_extras *extras = transport->extras;

    if (extras != NULL && extras->producer != NULL && !extras->streaming && is_open(transport) &&
        tepal_transport_write_buffer_size(transport) == 0) {
        ask_soon(transport);
    }
}

void tpi_producer_forget(tepal_transport *transport) {
    if (transport->extras != NULL && transport->extras->pulling != NULL) {
        transport->extras->pulling = NULL;
        tepal_transport_unref(transport);
    }
}

void tpi_producer_stop(tepal_transport *transport) {
    tpi_extras *extras = transport->extras;

    if (extras != NULL && extras->producer != NULL) {
        tepal_producer *producer = extras->producer;
        extras->producer = NULL;
        producer->stop(producer);
    }
}
