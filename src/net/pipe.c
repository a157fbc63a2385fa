/*
 * A pipe: everything that one transport receives is written to another.
 *
 * It is three things in one block of memory: the source's protocol while it runs (the program's own is set aside, and
 * hears of everything but data and EOF), the sink's push producer, and the future of its end. It ends exactly once, in
 * detach(), after which neither transport knows of it; only then does it act on them, so that none of what follows
 * comes back to it. It must never buffer: a byte that is read is written in the same upcall.
 */
#include "future/future.h"
#include "net/stream.h"

typedef struct piping {
    tepal_future future; /* first; while the pipe runs it holds a reference to itself */
    tepal_protocol protocol;
    tepal_producer producer;
    tepal_work late_eof;            /* ends a pipe whose source had received EOF before */
    tepal_transport *source, *sink; /* references; NULL once it has ended */
    tepal_protocol *aside;
    tepal_pipe_result result;
    bool keep_sink_open;
} piping;

static piping *of_protocol(tepal_protocol *protocol) {
    return (piping *)((char *)protocol - offsetof(piping, protocol));
}

static piping *of_producer(tepal_producer *producer) {
    return (piping *)((char *)producer - offsetof(piping, producer));
}

tepal_protocol **tpi_pipe_aside(tepal_transport *transport) {
    return &of_protocol(transport->protocol)->aside;
}

/*
 * tepal_transport_set_protocol() would tell the new one that writing is paused. Neither side of this exchange needs
 * to hear it: pauses and resumes pass through the pipe.
 */
static void exchange(tepal_transport *transport, tepal_protocol *protocol) {
    transport->protocol = protocol;
    tpi_stream_update_direct(transport);
}

/* Leave both transports, as if the pipe had never been. The pipe may be freed by this: who goes on holds a reference. */
static void detach(piping *pipe) {
    tepal_transport *source = pipe->source;
    tepal_transport *sink = pipe->sink;

    if (source == NULL) {
        return;
    }
    pipe->source = pipe->sink = NULL;
    if (sink->extras != NULL && sink->extras->producer == &pipe->producer) {
        (void)tepal_transport_unregister_producer(sink);
    }
    source->flags &= ~(uint32_t)TPI_PIPED;
    if (source->protocol == &pipe->protocol) { /* else it is lost */
        exchange(source, pipe->aside);
    }
    tpi_flow_let_go(source);
    tepal_transport_unref(source);
    tepal_transport_unref(sink);
    tepal_future_unref(&pipe->future);
}

/* The pipe's end, with an error or (NULL) a result. The pipe may be freed by this. */
static void finish(piping *pipe, const tepal_error *error) {
    tepal_future *future = tepal_future_ref(&pipe->future);

    detach(pipe);
    if (error != NULL) {
        (void)tepal_future_set_error(future, error);
    } else {
        (void)tepal_future_set_result(future, &pipe->result, NULL);
    }
    tepal_future_unref(future);
}

static void finish_with_code(piping *pipe, int code) {
    const tepal_error error = {.code = code};
    finish(pipe, code < 0 ? &error : NULL);
}

void tpi_pipe_forget(tepal_transport *transport) {
    piping *pipe = of_protocol(transport->protocol);

    tepal_future_ref(&pipe->future);
    transport->flags &= ~(uint32_t)TPI_HELD_READING; /* so that nothing is asked of the driver */
    if (pipe->late_eof.state != TPI_WORK_IDLE) {
        tepal_future_unref(&pipe->future); /* the queue's */
    }
    finish_with_code(pipe, TEPAL_ECLOSED);
    tepal_future_unref(&pipe->future);
}

static void end_writing(tepal_transport *sink) {
    if (!tepal_transport_can_write_eof(sink)) {
        tepal_transport_close(sink);
    } else {
        (void)tepal_transport_write_eof(sink); /* fails on a transport that is closing, which is an end as well */
    }
}

/* The source gives no more, and that is no error. */
static void source_ended(piping *pipe, bool eof) {
    tepal_transport *sink = tepal_transport_ref(pipe->sink);
    const bool keep_sink_open = pipe->keep_sink_open;

    pipe->result.eof = eof;
    finish(pipe, NULL);
    if (!keep_sink_open) {
        end_writing(sink);
    }
    tepal_transport_unref(sink);
}

/* ---- The source's protocol ---- */

static void sink_stopped(tepal_producer *producer);

static int source_made(tepal_protocol *self, tepal_transport *transport) {
    tepal_protocol *aside = of_protocol(self)->aside;
    return aside->type->connection_made == NULL ? 0 : aside->type->connection_made(aside, transport);
}

/* The sink took nothing of these bytes. Returns what the upcall is to return. */
static int sink_refused(piping *pipe, int code) {
    tepal_transport *sink = pipe->sink;

    if ((sink->flags & (TPI_CLOSING | TPI_ENDED)) != 0) {
        sink_stopped(&pipe->producer); /* not later: who cancelled the pipe before would go on behind these bytes */
        return 0;
    }
    tepal_transport_ref(sink);
    finish_with_code(pipe, code);
    if (code != TEPAL_EPIPE) { /* its stream has a hole now; after write_eof it is complete */
        tepal_transport_abort(sink, code);
    }
    tepal_transport_unref(sink);
    return code;
}

static int source_received(tepal_protocol *self, const void *data, size_t length) {
    piping *pipe = of_protocol(self);
    int code;

    tepal_future_ref(&pipe->future); /* the sink's own protocol may cancel it from inside the write */
    code = tepal_transport_write(pipe->sink, data, length);
    if (code == 0) {
        pipe->result.bytes += length;
    } else if (pipe->source != NULL) {
        code = sink_refused(pipe, code);
    } else {
        code = 0;
    }
    tepal_future_unref(&pipe->future);
    return code;
}

static int source_received_eof(tepal_protocol *self) {
    source_ended(of_protocol(self), true);
    return TEPAL_KEEP_OPEN;
}

static void late_eof(tepal_work *work, int status) {
    piping *pipe = (piping *)((char *)work - offsetof(piping, late_eof));

    if (status == 0 && pipe->source != NULL) {
        source_ended(pipe, true);
    }
    tepal_future_unref(&pipe->future);
}

static void source_pause_writing(tepal_protocol *self) {
    tepal_protocol *aside = of_protocol(self)->aside;
    if (aside->type->pause_writing != NULL) {
        aside->type->pause_writing(aside);
    }
}

static void source_resume_writing(tepal_protocol *self) {
    tepal_protocol *aside = of_protocol(self)->aside;
    if (aside->type->resume_writing != NULL) {
        aside->type->resume_writing(aside);
    }
}

static void source_lost(tepal_protocol *self, const tepal_error *error) {
    piping *pipe = of_protocol(self);
    tepal_protocol *aside = pipe->aside;

    if (error == NULL) {
        source_ended(pipe, false);
    } else {
        tepal_transport *sink = tepal_transport_ref(pipe->sink);
        finish(pipe, error);
        tepal_transport_abort(sink, error->code);
        tepal_transport_unref(sink);
    }
    if (aside->type->connection_lost != NULL) {
        aside->type->connection_lost(aside, error);
    }
}

static const tepal_protocol_type source_protocol = {
    .size = sizeof(tepal_protocol_type),
    .connection_made = source_made,
    .data_received = source_received,
    .eof_received = source_received_eof,
    .pause_writing = source_pause_writing,
    .resume_writing = source_resume_writing,
    .connection_lost = source_lost,
};

/* ---- The sink's producer ---- */

static void sink_is_full(tepal_producer *producer) {
    tpi_flow_hold(of_producer(producer)->source);
}

static void sink_has_room(tepal_producer *producer) {
    tpi_flow_let_go(of_producer(producer)->source);
}

/* The sink is closing or gone. */
static void sink_stopped(tepal_producer *producer) {
    piping *pipe = of_producer(producer);
    tepal_transport *source = tepal_transport_ref(pipe->source);
    const int code = pipe->sink->code;

    finish_with_code(pipe, code);
    if (code < 0) {
        tepal_transport_abort(source, code);
    } else {
        tepal_transport_close(source);
    }
    tepal_transport_unref(source);
}

/* ---- The future ---- */

/* Cancelled, or given a result by somebody else. */
static void future_ended(tepal_future *future) {
    detach((piping *)future);
}

static const tpi_future_type pipe_future = {.ended = future_ended};

uint64_t tepal_pipe_bytes(const tepal_future *future) {
    return future != NULL && future->type == &pipe_future ? ((const piping *)future)->result.bytes : 0;
}

static int check(const tepal_transport *source, const tepal_transport *sink, const tepal_pipe_options *options) {
    if (source == sink || source->loop != sink->loop || (options != NULL && options->size < sizeof *options)) {
        return TEPAL_EINVAL;
    }
    const int code = tpi_loop_check(source->loop);
    if (code < 0) {
        return code;
    }
    if (((source->flags | sink->flags) & (TPI_CLOSING | TPI_ENDED)) != 0) {
        return TEPAL_ECLOSED;
    }
    return (source->flags & TPI_PIPED) != 0 ? TEPAL_EBUSY : 0;
}

int tepal_pipe(tepal_transport *source, tepal_transport *sink, const tepal_pipe_options *options,
               tepal_future **future) {
    int code = check(source, sink, options);
    if (code < 0) {
        return code;
    }
    tepal_future *made;
    code = tpi_future_create(source->loop, sizeof(piping), &pipe_future, &made);
    if (code < 0) {
        return code;
    }

    piping *pipe = (piping *)made;
    pipe->protocol.type = &source_protocol;
    pipe->producer = (tepal_producer){
        .size = sizeof pipe->producer, .resume = sink_has_room, .pause = sink_is_full, .stop = sink_stopped};
    pipe->late_eof.run = late_eof;
    pipe->keep_sink_open = options != NULL && options->keep_sink_open;
    pipe->source = source; /* may be paused inside register */
    code = tepal_transport_register_producer(sink, &pipe->producer, true);
    if (code < 0) {
        pipe->source = NULL;
        tepal_future_unref(made);
        return code;
    }

    tepal_transport_ref(source);
    pipe->sink = tepal_transport_ref(sink);
    pipe->aside = source->protocol;
    exchange(source, &pipe->protocol);
    source->flags |= TPI_PIPED;
    tepal_future_ref(made);
    if ((source->flags & TPI_EOF_RECEIVED) != 0) {
        tepal_future_ref(made);
        tpi_loop_queue(source->loop, &pipe->late_eof);
    }
    *future = made;
    return 0;
}
