/*
 * Between being connected and having a protocol: while filters are set up, a protocol of this file stands where the
 * program's will. It writes nothing, is held back from reading, and hears of the end if that comes first.
 */
#include "net/setup.h"
#include "base/alloc.h"

typedef struct tpi_setup {
    tepal_protocol protocol; /* first: stands in for the program's */
    tepal_transport *transport;
    tpi_setup_done done; /* NULL: forsaken */
    void *argument;
} tpi_setup;

static tpi_setup *setup_of(const tepal_transport *transport) {
    return (tpi_setup *)(void *)transport->protocol;
}

static void setup_lost(tepal_protocol *protocol, const tepal_error *error) {
    tpi_setup *setup = (tpi_setup *)(void *)protocol;
    tepal_transport *transport = setup->transport;
    const tepal_error closed = {.code = TEPAL_ECLOSED, .text = tepal_strerror(TEPAL_ECLOSED)};
    transport->flags &= ~(uint32_t)TPI_SETTING_UP;
    if (setup->done != NULL) {
        setup->done(transport, setup->argument, error == NULL ? &closed : error);
    }
    tpi_free(transport->loop->realloc, setup);
}

static const tepal_protocol_type setup_type = {.size = sizeof setup_type, .connection_lost = setup_lost};

int tpi_setup_begin(tepal_transport *transport, tpi_way *way, tpi_setup_done done, void *argument) {
    tepal_loop *loop = transport->loop;
    tepal_filter *filter;
    tpi_setup *setup = tpi_alloc_zero(loop->realloc, sizeof *setup);
    if (setup == NULL) {
        return TEPAL_ENOMEM;
    }
    int code = tpi_tls.make(loop, way, &filter);
    if (code < 0) {
        tpi_free(loop->realloc, setup);
        return code;
    }
    *setup = (tpi_setup){.protocol.type = &setup_type, .transport = transport, .done = done, .argument = argument};
    transport->protocol = &setup->protocol;
    transport->flags |= TPI_SETTING_UP | TPI_HELD_SETUP;
    (void)tepal_transport_push_filter(transport, filter, NULL); /* it is open, and nothing that may fail is asked for */
    tpi_transport_made(transport, &setup->protocol);
    tpi_tls.begin(filter);
    return 0;
}

void tpi_setup_established(tepal_transport *transport) {
    transport->flags |= TPI_SETUP_DUE;
    tpi_transport_queue_event(transport);
}

void tpi_setup_run(tepal_transport *transport) {
    if (transport->flags & TPI_SETTING_UP) {
        tpi_setup *setup = setup_of(transport);
        tpi_setup_done done = setup->done;
        setup->done = NULL;
        if (done != NULL) {
            done(transport, setup->argument, NULL);
        }
        return;
    }
    /* The program has its protocol, and what waits for the future has been told. */
    tpi_flow_let_setup_go(transport);
}

void tpi_setup_finish(tepal_transport *transport, tepal_protocol *protocol) {
    tpi_setup *setup = setup_of(transport);
    transport->flags &= ~(uint32_t)TPI_SETTING_UP;
    tpi_transport_greet(transport, protocol);
    tpi_free(transport->loop->realloc, setup);
}

void tpi_setup_forsake(tepal_transport *transport, int code) {
    setup_of(transport)->done = NULL;
    tepal_transport_abort(transport, code);
}

void tpi_setup_forget(tepal_transport *transport) {
    tpi_free(transport->loop->realloc, setup_of(transport));
    transport->protocol = NULL;
}
