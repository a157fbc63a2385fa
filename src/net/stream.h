/*
 * A transport's inside, shared by the files of src/net.
 *
 *   protocol
 *      |  write.c: the cork (what one callback writes, joined)      transport.c: birth, end, protocol swap, queries
 *   filters (filter.c), topmost first                               flow.c: pausing and resuming, both ways; marks
 *      |  stream.c: the bottom: driver upcalls, output chain, EOF, linger
 *   driver
 */
#ifndef TPI_STREAM_H
#define TPI_STREAM_H

#include "base/buffer.h"
#include "driver/driver.h"
#include "loop/loop.h"
#include <tepal/filter.h>
#include <tepal/producer.h>
#include <tepal/server.h>
#include <tepal/transport.h>

#define TPI_WRITE_HIGH 65536u
#define TPI_WRITE_CAP (16u << 20)
#define TPI_LINGER_NS TEPAL_SEC(2)
#define TPI_SEND_PIECES 64 /* gathered in one send */

typedef enum tpi_transport_flag {
    TPI_MADE = 1 << 0,         /* connection_made has begun */
    TPI_CLOSING = 1 << 1,      /* close, abort or an error: nothing is accepted from above */
    TPI_ENDED = 1 << 2,        /* nothing is left to send: connection_lost is queued, or runs, or has run */
    TPI_LOST = 1 << 3,         /* connection_lost has been called */
    TPI_EOF_RECEIVED = 1 << 4, /* the protocol has been told of the peer's EOF */
    TPI_EOF_WANTED = 1 << 5,   /* write_eof: nothing is accepted from above */
    TPI_EOF_DUE = 1 << 6,      /* the bottom is to send FIN once the chain is empty */
    TPI_EOF_SENT = 1 << 7,
    TPI_PAUSED_READING = 1 << 8, /* by the protocol */
    TPI_PAUSED_WRITING = 1 << 9, /* the protocol has been told */
    TPI_CLOSE_DUE = 1 << 10,     /* the bottom is to end once the chain is empty */
    TPI_RESET = 1 << 11,         /* aborted, or failed: close with a reset */
    TPI_NO_RESET = 1 << 12,      /* option */
    TPI_BORROWED = 1 << 13,      /* option */
    TPI_HAS_SENT = 1 << 14,      /* something was handed to the kernel */
    TPI_LINGERING = 1 << 15,     /* lost, and draining unread input */
    TPI_IS_UNIX = 1 << 16,
    TPI_PIPED = 1 << 17,         /* the source of a tepal_pipe */
    TPI_BELOW_PAUSED = 1 << 18,  /* the lowest filter, or flow itself, wants no bytes from the driver */
    TPI_STOP_PRODUCER = 1 << 19, /* the event is to stop the producer */
    TPI_HELD_READING = 1 << 20,  /* paused by the pipe of which it is the source: apart from PAUSED_READING */
    TPI_ACCEPTED = 1 << 21,      /* owner is a server */
    TPI_EOF_HELD = 1 << 22,      /* a filter passed up an EOF while the protocol had paused */
    TPI_SETTING_UP = 1 << 26,    /* filters are set up, and the protocol is setup.c's */
    TPI_SETUP_DUE = 1 << 27,     /* the event is to go on with that */
    TPI_EXPECTS_INPUT = 1 << 28, /* at its end: a filter knows that the peer may still send what nobody asked for */
    TPI_HELD_SETUP = 1 << 29,    /* paused until whoever waits for that has been told */
    TPI_FLYING = 1 << 25,        /* special for its flight alone */
    TPI_GATHERING = 1 << 24,     /* in the middle of a write of very many pieces: nobody is told of marks */
    TPI_SPECIAL = 1 << 23        /* debug, filters, extras or waiting output: the quick paths are not for it */
} tpi_transport_flag;

/* Nothing is to be delivered to the protocol, for whatever reason. */
#define TPI_HELD_BACK (TPI_PAUSED_READING | TPI_HELD_READING | TPI_HELD_SETUP)

typedef struct tpi_chunk tpi_chunk;
typedef struct tpi_drain tpi_drain;

/* What only some transports need; made when first asked for. */
typedef struct tpi_extras {
    uint64_t high, low, cap; /* marks of the write buffer */
    int64_t linger_ns;
    void (*released)(void *argument, int fd);
    void *released_argument;
    tepal_producer *producer; /* producer.c */
    bool streaming;
    bool producer_paused;     /* push: it was told to pause last */
    tepal_work pull;          /* pull: asks the producer */
    tepal_transport *pulling; /* a reference to whom these belong, while pull is queued */
    tpi_drain *drains;        /* futures of tepal_transport_drain(), oldest first (flow.c) */
    tepal_timer linger;
    tepal_transport *transport;        /* whose extras these are */
    tepal_future *established;         /* of the filter being set up (filter.c) ... */
    tepal_filter *awaited;             /* ... which is this one */
    uint64_t told;                     /* debug: bytes that the protocol was given */
    uint64_t taken, handed, discarded; /* debug: what the bottom was given, and where it went */
} tpi_extras;

/* The output chain while it is not empty, and the message in flight. */
typedef struct tpi_sending {
    tpi_output output;
    tpi_message message;
    struct iovec pieces[TPI_SEND_PIECES];
} tpi_sending;

struct tepal_transport {
    tpi_object object; /* first: the driver's upcalls come with it */
    tepal_loop *loop;  /* a reference */
    tepal_protocol *protocol;
    tepal_filter *filters; /* topmost; NULL: none */
    tpi_chunk *cork;       /* what was written in this callback, unless loop->corked says where that is; or NULL */
    tpi_chunk *flight;     /* a cork that the driver has and will complete; NULL: none */
    tpi_sending *sending;  /* NULL: nothing waits for the kernel, or behind the flight */
    tpi_extras *extras;    /* NULL: all defaults */
    void *owner;           /* the server (a reference) of an accepted one; connect.c's attempt until it is made */
    tepal_work event;      /* queues connection_made (adopt), the producer's stop, connection_lost */
    uint32_t flags;
    int code; /* with which it ends; 0: cleanly */
};

/* transport.c: birth and end */

/*
 * Memory for a transport with one reference, the loop's; upcalls go to up. Its object is not open yet: open or adopt it
 * through the driver. options may be NULL.
 */
int tpi_transport_new(tepal_loop *loop, const tepal_transport_options *options, const tpi_upcalls *up,
                      tepal_transport **transport);

/* Socket options of a TCP transport, from its options; to be called once its object is open. */
void tpi_transport_configure(tepal_transport *transport, const tepal_transport_options *options, int family);

/* A transport whose object never opened, or is closed, and that was never made: give its memory back. */
void tpi_transport_discard(tepal_transport *transport);

/*
 * Put the protocol on, call connection_made, start reading. From dispatch or the ready queue, with the object open and
 * connected; sets object.up. From here on the transport ends through connection_lost.
 */
void tpi_transport_made(tepal_transport *transport, tepal_protocol *protocol);

/* The part of that which concerns the protocol: for setup.c, whose transports were made without it. */
void tpi_transport_greet(tepal_transport *transport, tepal_protocol *protocol);

/* As made, from the ready queue later on: for calls that must not call up. */
void tpi_transport_made_soon(tepal_transport *transport, tepal_protocol *protocol);

/* Begin the end with this code (0: cleanly) and discard output; connection_lost is queued. Again: nothing. */
void tpi_transport_fail(tepal_transport *transport, int code);

/* In a forked child: give the memory back, and call nobody. */
void tpi_transport_forget(tepal_transport *transport);

/* Have the event run: what is due is in the flags. */
void tpi_transport_queue_event(tepal_transport *transport);

/* connection_lost, now. The object is still open; tpi_stream_retire() follows, or the loop's own close. */
void tpi_transport_lose(tepal_transport *transport);

/* Everything is sent (or discarded): queue connection_lost. */
void tpi_transport_end(tepal_transport *transport);

/* write.c: the transport is special now, and so is what it has corked. */
void tpi_cork_settle(tepal_transport *transport);

/* One of the things that TPI_SPECIAL stands for has changed. */
static inline void tpi_transport_update_special(tepal_transport *transport) {
    bool special = transport->filters != NULL || transport->sending != NULL || transport->flight != NULL ||
                   transport->extras != NULL || transport->loop->debug;
    transport->flags =
        (transport->flags & ~(uint32_t)(TPI_SPECIAL | TPI_FLYING)) | (special ? (uint32_t)TPI_SPECIAL : 0);
    if (special) {
        tpi_cork_settle(transport);
    }
}

/* The extras, made if there are none. NULL if memory is short. */
tpi_extras *tpi_transport_extras(tepal_transport *transport);

/* write.c */

/* What the corks of a loop need, if it is not there yet. Returns 0 or TEPAL_ENOMEM. */
int tpi_corks_init(tepal_loop *loop);
/* Hand down what all transports of the loop have corked. */
void tpi_corks_flush(tepal_loop *loop);
/* The same, after the driver was offered all of the only cork, transport's, and answered with sent. */
void tpi_cork_flush_rest(tepal_transport *transport, int64_t sent);
/* Hand the cork down, if there is one. */
void tpi_transport_drain_cork(tepal_transport *transport);
/* Bytes in the cork. */
size_t tpi_transport_corked(const tepal_transport *transport);
/* Drop the cork, if there is one. */
void tpi_transport_drop_cork(tepal_transport *transport);

/* Around each upcall of a protocol but pause_writing and resume_writing; the end flushes. */
int64_t tpi_upcall_begins(const tepal_transport *transport);
void tpi_upcall_ends(tepal_loop *loop, int64_t began_ns, const char *what);

/* stream.c: the bottom */

extern const tpi_upcalls tpi_stream_upcalls;

/* Send or queue; all is taken. A failure ends the transport with its code, which is returned. */
int tpi_stream_write(tepal_transport *transport, const struct iovec *pieces, size_t count);
/* The rest of that, after the driver was offered the pieces and answered with sent. Nothing was waiting. */
int tpi_stream_write_rest(tepal_transport *transport, const struct iovec *pieces, size_t count, int64_t sent);
/* Whether a cork may leave as it is: nothing stands or waits in its way. */
bool tpi_stream_may_fly(const tepal_transport *transport);
/* Hand a cork's chunk, which is in no list, to a driver that completes sends later. It comes back by itself. */
void tpi_stream_fly(tepal_transport *transport, tpi_chunk *chunk);
/* What the driver says of the chunk in flight: bytes sent, or an error. */
void tpi_stream_flown(tepal_transport *transport, int64_t result);
/* What waits behind a flight that has landed and is not delivered as such: hand down what the kernel takes now. */
void tpi_stream_flush(tepal_transport *transport);
/* Bytes at the bottom: in flight, and in the chain. */
uint64_t tpi_stream_waiting(const tepal_transport *transport);
/* The same for the writer's own memory: release runs exactly once, here or later, unless an error below 0 is returned. */
int tpi_stream_write_owned(tepal_transport *transport, const struct iovec *pieces, size_t count, tepal_release release,
                           void *argument);
void tpi_stream_write_eof(tepal_transport *transport);      /* FIN after the chain */
void tpi_stream_close(tepal_transport *transport);          /* end after the chain */
void tpi_stream_update_reading(tepal_transport *transport); /* start or stop the driver's reading, by the flags */
void tpi_stream_update_direct(tepal_transport *transport);  /* whether the driver reads into the protocol's buffers */
/* Drop what waits for the kernel, now or once the message in flight is back. */
void tpi_stream_discard(tepal_transport *transport);
/* linger.c: connection_lost has returned: linger, or close or release the descriptor. */
void tpi_stream_retire(tepal_transport *transport);
/* Close the descriptor, by a reset if one is due. */
void tpi_stream_close_object(tepal_transport *transport);
/* The peer of a lingering transport has ended, or failed. */
void tpi_linger_ends(tepal_transport *transport);

/* flow.c */

uint64_t tpi_flow_high(const tepal_transport *transport);
uint64_t tpi_flow_low(const tepal_transport *transport);
uint64_t tpi_flow_cap(const tepal_transport *transport);
/* The buffer grew: pause the protocol and the producer if it passed the high mark. */
void tpi_flow_grown(tepal_transport *transport);
/* The buffer fell: resume them if it is at the low mark or below. */
void tpi_flow_fallen(tepal_transport *transport);
/*
 * For the pipe of which it is the source: deliver nothing until let_go, whatever the program pauses and resumes; and the
 * other way round.
 */
void tpi_flow_hold(tepal_transport *transport);
void tpi_flow_let_go(tepal_transport *transport);
/* The same until those who wait for a handshake have been told that it is done. */
void tpi_flow_hold_setup(tepal_transport *transport);
void tpi_flow_let_setup_go(tepal_transport *transport);
/* Connection lost: fail the drain futures. */
void tpi_flow_lost(tepal_transport *transport, const tepal_error *error);

/* filter.c */

int64_t tpi_filters_received(tepal_transport *transport, const uint8_t *data, size_t length);
/* Into what now stands on a filter (NULL: on the socket); if that was popped meanwhile, into the protocol. */
int64_t tpi_filters_received_above(tepal_transport *transport, const tepal_filter *below, const uint8_t *data,
                                   size_t length);
int tpi_filters_received_eof(tepal_transport *transport);
int tpi_filters_write(tepal_transport *transport, const struct iovec *pieces, size_t count);
int tpi_filters_write_eof(tepal_transport *transport);
void tpi_filters_close(tepal_transport *transport);
void tpi_filters_abort(tepal_transport *transport, int code);
void tpi_filters_lost(tepal_transport *transport, const tepal_error *error);
void tpi_filters_forget(tepal_transport *transport); /* in a forked child */
void tpi_filters_flush(tepal_transport *transport);
void tpi_filters_pause(tepal_transport *transport);  /* from the protocol */
void tpi_filters_resume(tepal_transport *transport); /* from the protocol */
void tpi_filters_writable(tepal_transport *transport);
uint64_t tpi_filters_buffered(const tepal_transport *transport);
bool tpi_filters_can_write_eof(const tepal_transport *transport);

/* The top: deliver to the protocol. Returns bytes used (0 while it has paused), or below 0 once it ended the transport. */
int64_t tpi_protocol_received(tepal_transport *transport, const uint8_t *data, size_t length);
/* As eof_received; 0 has closed the transport, below 0 has aborted it. */
int tpi_protocol_received_eof(tepal_transport *transport);

/* producer.c */

void tpi_producer_pause(tepal_transport *transport);   /* writing was paused */
void tpi_producer_resume(tepal_transport *transport);  /* writing was resumed: push producers go on */
void tpi_producer_drained(tepal_transport *transport); /* the buffer is empty: a pull producer is asked (queued) */
void tpi_producer_stop(tepal_transport *transport);    /* from the ready queue: unregister, and tell it */
void tpi_producer_forget(tepal_transport *transport);  /* in a forked child, where the ready queue never runs again */

/* pipe.c */

/* Of a transport with TPI_PIPED: where the program's own protocol is kept while the pipe's stands in its place. */
tepal_protocol **tpi_pipe_aside(tepal_transport *transport);
/* In a forked child: end the pipe of this source, and call nobody. */
void tpi_pipe_forget(tepal_transport *transport);

/* setup.c, whose other side is in setup.h */

/* The filters are established: the event, which is queued, is to go on with it ... */
void tpi_setup_established(tepal_transport *transport);
/* ... here, and once more when the protocol is there. */
void tpi_setup_run(tepal_transport *transport);
/* In a forked child: give back memory, and call nobody. */
void tpi_setup_forget(tepal_transport *transport);

/* server.c */

/* A connection of this server has been lost; gives back its reference. */
void tpi_server_connection_lost(tepal_server *server);

#endif
