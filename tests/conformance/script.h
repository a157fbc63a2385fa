/*
 * What the tests of streams share: a transport whose protocol does as the test tells it, with a plain socket as its
 * peer. Both directions carry streams of which each byte is known, and every upcall checks what must always hold.
 */
#ifndef TEPAL_TESTS_SCRIPT_H
#define TEPAL_TESTS_SCRIPT_H

#include "conformance/plumbing.h"
#include "conformance/system_calls.h"

enum { SCRIPT_LOG = 256, SCRIPT_IN = 1, SCRIPT_OUT = 2 /* the seeds of the two streams */ };

typedef enum script_kind { SCRIPT_UNIX, SCRIPT_TCP, SCRIPT_TCP6 } script_kind;

typedef struct script script;
struct script {
    tepal_protocol protocol; /* first; its type is script_type unless the test sets another */
    tepal_loop *loop;
    tepal_transport *transport;             /* a reference, until script_close() */
    const tepal_transport_options *options; /* set before script_open(); may be NULL */
    int fd, peer;                           /* the transport's descriptor (once), and the plain socket or -1 */

    char log[SCRIPT_LOG]; /* M made, D data, E end of stream, P pause, R resume, L lost; tests may add theirs */
    int made, eofs, pauses, resumes, losts;
    int lost_code;
    uint64_t received, sent; /* by the protocol */
    uint64_t fed, taken;     /* by the peer */
    size_t last_length;      /* of the last data */
    size_t buffer_size;      /* lent by get_buffer; 0 declines */
    uint8_t buffer[8192];
    int asked;          /* for a buffer */
    bool is_paused;     /* by pause_writing */
    bool wants_no_data; /* between script_pause() and script_resume() */
    bool is_swapped;    /* put on a live transport: what it is told of may have been so for long */
    bool is_raw;        /* what comes is not the known stream */

    int answer_made, answer_data, answer_eof; /* what the upcalls return */
    void (*on_made)(script *self);
    void (*on_data)(script *self);
    void (*on_asked)(script *self);
    void (*on_eof)(script *self);
    void (*on_pause)(script *self);
    void (*on_resume)(script *self);
    void (*on_lost)(script *self);
    int calls; /* public functions under way: no upcall but pauses and resumes may run */
    void *user;
};

/* With data_received; with get_buffer instead; with both. */
extern const tepal_protocol_type script_type, script_lending_type, script_both_type;

/*
 * A test that runs twice: on a debug loop, where the invariants are checked, and on a plain one, where the quick paths
 * are taken.
 */
extern bool script_is_plain;
#define SCRIPT_TEST(suite, name)                                                                                       \
    static void script_body_##suite##_##name(void);                                                                    \
    TEST_DRIVERS(suite, name) {                                                                                        \
        script_body_##suite##_##name();                                                                                \
    }                                                                                                                  \
    TEST_DRIVERS(suite, name##_without_debug) {                                                                        \
        script_is_plain = true;                                                                                        \
        script_body_##suite##_##name();                                                                                \
    }                                                                                                                  \
    static void script_body_##suite##_##name(void)

/* For tests of what one call of the kernel does. */
#define NEEDS_SENDS_AT_ONCE()                                                                                          \
    do {                                                                                                               \
        if (strcmp(test_driver(), "late") == 0) {                                                                      \
            SKIP("the late driver sends nothing within the call");                                                     \
        }                                                                                                              \
    } while (0)

/* A public function of Tepal's; upcalls may not run inside it. */
#define CALL(self, expression)                                                                                         \
    __extension__({                                                                                                    \
        script *calling_ = (self);                                                                                     \
        calling_->calls++;                                                                                             \
        __auto_type result_ = (expression);                                                                            \
        calling_->calls--;                                                                                             \
        result_;                                                                                                       \
    })
#define CALL_VOID(self, expression)                                                                                    \
    do {                                                                                                               \
        (self)->calls++;                                                                                               \
        (expression);                                                                                                  \
        (self)->calls--;                                                                                               \
    } while (0)

tepal_loop *script_loop(void);

/* A loop (unless there is one already), a connection, and its adoption; until connection_made has run. */
void script_open(script *self, script_kind kind);
/* The same without waiting. */
void script_start(script *self, script_kind kind);
/* Close the loop, which ends what has not ended; and check that it did. */
void script_close(script *self);
void script_note(script *self, char what);

/* Two connected plain sockets. */
void script_pair(script_kind kind, int fds[2]);
/* A small send buffer in the kernel. */
void script_narrow(script *self);

/* The protocol's side. */
void script_write(script *self, size_t length);
/* Write until writing is paused. */
void script_fill(script *self);
void script_pause(script *self);
void script_resume(script *self);
void script_abort_now(script *self); /* these two as hooks */
void script_close_now(script *self);

/* The peer's side. It feeds and takes what it can at once, checking each byte. */
size_t script_feed(script *self, size_t length);
/* Feed all of it, turning the loop. */
void script_feed_all(script *self, size_t length);
/* Take what is there. Returns 0 when no more is, 1 at the end of the stream, or -errno. */
int script_take(script *self);
/* Turn the loop until the peer has taken so many bytes in all; until it is at the end, or has this error. */
void script_take_until(script *self, uint64_t total);
void script_take_all(script *self); /* ... all that was sent, and is sent meanwhile */
void script_take_end(script *self);
void script_take_error(script *self, int error);
void script_hang_up(script *self); /* the peer closes */
void script_reset(script *self);   /* with a reset, if it is TCP */

#endif
