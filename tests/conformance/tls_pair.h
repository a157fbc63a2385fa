/*
 * What the tests of TLS share: two Tepal ends of one connection on one loop, joined directly or through a wire that the test
 * moves. Both are made by tepal_loop_create_connection() on a descriptor, the one with a client's context, the other with
 * a server's. Every upcall checks what must always hold, and both directions carry streams of which each byte is known.
 */
#ifndef TEPAL_TESTS_TLS_PAIR_H
#define TEPAL_TESTS_TLS_PAIR_H

#include "conformance/script.h"
#include "conformance/tls_identities.h"
#include "conformance/tls_wire.h"

typedef struct tls_pair tls_pair;
typedef struct tls_end tls_end;

enum { TLS_LOG = 128 };

struct tls_end {
    tepal_protocol protocol; /* first; its type is tls_end_type unless the test sets another */
    tls_pair *pair;
    tls_end *peer;
    uint64_t seed;              /* of the stream that it sends */
    tepal_transport *transport; /* a reference, from connection_made to tls_close() */
    tepal_future *future;       /* of its connection */
    tepal_future *upgraded;     /* of tls_upgrade(), or NULL */
    char log[TLS_LOG]; /* F factory, M made, C the future's callback, D data, E end, P pause, R resume, L lost */
    int built, made, eofs, losts, lost_code, pauses;
    uint64_t received, sent; /* of the stream */
    uint64_t portions;       /* upcalls with data */
    uint64_t made_turn;
    bool closes_at_eof; /* else it stays half-open */
    bool is_paused;     /* by pause_writing */
    bool wants_no_data; /* between tls_end_pause() and tls_end_resume() */
    bool is_raw;        /* what comes is not the known stream */
    bool echoes;
    int factory_code;
    void (*on_made)(tls_end *self);
    void (*on_data)(tls_end *self);
    void (*on_eof)(tls_end *self);
    void (*on_pause)(tls_end *self);
    void (*on_resume)(tls_end *self);
    void (*on_lost)(tls_end *self);
    size_t last_length;
    uint8_t raw[4096]; /* the beginning of what came, if it is raw */
    void *user;
};

typedef enum tls_way { TLS_OVER_TCP, TLS_OVER_UNIX, TLS_OVER_WIRE } tls_way;

struct tls_pair {
    tepal_loop *loop; /* made unless it is there */
    tls_way way;
    tepal_tls_version version;                          /* the only one; 0: both */
    tepal_tls_context *client_context, *server_context; /* given back by tls_close(); made unless they are there */
    tepal_tls_options client_options, server_options; /* the context, the name "localhost" and the size are filled in */
    const tepal_transport_options *transport_options;
    bool is_plain; /* no TLS, until tls_upgrade() */
    tls_end client, server;
    wire wire;
};

extern const tepal_protocol_type tls_end_type, tls_lending_type;

/* Both versions, for loops over them. */
extern const tepal_tls_version tls_versions[2];
#define EACH_VERSION(version)                                                                                          \
    for (tepal_tls_version version = TEPAL_TLS_1_2; version <= TEPAL_TLS_1_3;                                          \
         version = (tepal_tls_version)(version + 1))

/* A context that must be right. The second takes a server's or a client's usual options and the version. */
tepal_tls_context *tls_context(const tepal_tls_context_options *options);
tepal_tls_context *tls_usual_context(bool server, tepal_tls_version version);
/* The same as options, to be changed. */
tepal_tls_context_options tls_usual_options(bool server, tepal_tls_version version);

/* Write a text to a file of the test's own directory; its path, as long as the test lives. Eight files at most. */
const char *tls_file(const char *name, const char *text);

/* Begin both connections. */
void tls_start(tls_pair *self);
/* The same, and wait until both stand. */
void tls_open(tls_pair *self);
/* Wait until both futures are done, well or not. */
void tls_shake(tls_pair *self);
/*
 * How it went with one end: 0 while its connection stands or has ended cleanly, else the code with which it failed or was
 * lost. tls_failure() waits until it has failed, been lost or been told of the end.
 */
int tls_failure(tls_end *self);
/* Close the loop, and check that all has ended. */
void tls_close(tls_pair *self);
/* Close the connection, if it stands, but keep loop and contexts: another may be opened. */
void tls_part(tls_pair *self);

/* Begin TLS on a connection that stands, at one end; these bytes of the current upcall belong to it. The result's code. */
int tls_upgrade(tls_end *self, const void *unread, size_t unread_length);
/* Both at once, until it is done. */
void tls_upgrade_both(tls_pair *self);

/* One turn, and one move of the wire if there is one. */
void tls_turn(tls_pair *self);
/* Turns until nothing moves any more. */
void tls_settle(tls_pair *self);
#define TLS_UNTIL(pair, condition)                                                                                     \
    do {                                                                                                               \
        const int64_t give_up_ns_ = test_now_ns() + TEPAL_SEC(test_is_slow_build() ? 100 : 10);                        \
        while (!(condition)) {                                                                                         \
            if (test_now_ns() > give_up_ns_) {                                                                         \
                test_fail(__FILE__, __LINE__, "waited too long for %s (client %s, server %s)", #condition,             \
                          (pair)->client.log, (pair)->server.log);                                                     \
            }                                                                                                          \
            tls_turn(pair);                                                                                            \
        }                                                                                                              \
    } while (0)

/*
 * Whether this is how one end is told that the other has failed so: by its alert. The late driver has not sent that when the
 * connection is ended.
 */
bool tls_is_told(int code, int alert);

/* One end's side. */
void tls_end_write(tls_end *self, size_t length);
void tls_end_pause(tls_end *self);
void tls_end_resume(tls_end *self);
bool tls_end_has_all(const tls_end *self); /* that the other has sent */
/* Bytes both ways, which arrive. */
void tls_exchange(tls_pair *self, size_t length);
tls_end *tls_side(tls_pair *self, bool server);
/* What the connection says about itself. */
tepal_tls_info tls_info(const tls_end *self);
void tls_note(tls_end *self, char what);

/* As a factory, whose argument is the end. */
int tls_factory(void *argument, tepal_protocol **protocol);

#endif
