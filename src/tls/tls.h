/*
 * The TLS filter's inside, for the files of src/tls.
 *
 *   tls.c          the filter: what comes, what goes, the end
 *   start.c        from options to a filter on a transport
 *   info.c         what can be asked of one
 *   records.c      what is written, cut into records
 *   pool.c         memory for the time of a call
 *   openssl.c      the engine
 *   context.c      contexts; credentials.c makes an SSL_CTX of options
 */
#ifndef TPI_TLS_H
#define TPI_TLS_H

#include "net/setup.h"
#include "tls/engine.h"

#define TPI_PLAIN_BYTES (4 * TPI_RECORD_BYTES) /* decrypted and delivered at once, at most */
#define TPI_SEALED_BYTES (4 * TPI_RECORD_ROOM) /* encrypted and handed down at once, at most */

/* Memory that is used within a call, and shared by the filters of a loop: it is lent, and comes back before the call ends. */
typedef struct tpi_tls_loan {
    struct tpi_tls_loan *next;
    uint8_t bytes[TPI_SEALED_BYTES]; /* more than TPI_PLAIN_BYTES */
} tpi_tls_loan;

typedef struct tpi_tls_pool {
    tpi_tls_loan *free;
    unsigned free_count;
    unsigned filters;
} tpi_tls_pool;

typedef enum tpi_tls_state {
    TPI_TLS_NEW,   /* pushed, and nothing was said yet */
    TPI_TLS_SETUP, /* the handshake is under way */
    TPI_TLS_OPEN,
    TPI_TLS_FAILED /* the transport is being aborted, or was */
} tpi_tls_state;

typedef struct tpi_tls_filter {
    tepal_filter filter; /* first */
    tepal_loop *loop;
    tpi_tls_pool *pool;
    tpi_engine engine;
    tepal_timer limit;  /* of the handshake, then of the end */
    tepal_work go_on;   /* begins, or delivers what is kept */
    tpi_output waiting; /* written while nothing could be said: before the handshake was done */
    uint8_t *kept;      /* decrypted, and not taken by the layer above; NULL: nothing */
    uint8_t *early;     /* came from the peer before the filter was here; NULL: nothing */
    size_t kept_length, early_length, early_used;
    int64_t handshake_limit_ns, shutdown_limit_ns;
    int64_t written_ns;   /* when something was encrypted last */
    uint64_t left;        /* to be sent, when the limit of the end was set */
    size_t unasked;       /* answered by itself, the engine's new keys and alerts, since all output had left */
    uint32_t records;     /* encrypted with the key in use */
    uint32_t small_bytes; /* how much goes in small records before they grow */
    uint8_t state;        /* tpi_tls_state */
    bool is_closing;      /* close() was called */
    bool has_ended;       /* close_notify was said, or ... */
    bool end_is_due;      /* ... will be, once it can */
    bool update_is_due;   /* likewise of new keys */
    bool has_told_end;    /* eof_received was passed up */
    bool is_lost;         /* to be freed once go_on has run */
} tpi_tls_filter;

/* The topmost TLS filter of a transport. Returns 0, TEPAL_ENOENT or TEPAL_ECLOSED. */
int tpi_tls_find(const tepal_transport *transport, tpi_tls_filter **filter);

/* records.c: encrypt all of it. The engine's `out` is open. 0 or an error. */
int tpi_tls_encrypt(tpi_tls_filter *tls, const struct iovec *pieces, size_t count);
#define TPI_TLS_SMALL_BYTES 40000 /* so much goes in small records at the beginning, and again after a rest */

/* AES-GCM is good for 2^24.5 full records of one key (RFC 8446, section 5.5), and OpenSSL does not count them. */
#define TPI_TLS_RECORDS_OF_KEY (1u << 22)

/* start.c, for the factory: a filter by its way. */
extern const tepal_filter_type tpi_tls_filter_type;
void tpi_tls_begin(tepal_filter *filter);
void tpi_tls_free(tpi_tls_filter *tls);
/* Begin from the ready queue. */
void tpi_tls_begin_soon(tpi_tls_filter *tls);
/* The work and timer of a filter that is new. */
void tpi_tls_prepare(tpi_tls_filter *tls);

/* pool.c: a loop's pool, for one filter more (NULL: no memory), or less. */
tpi_tls_pool *tpi_tls_pool_join(tepal_loop *loop);
void tpi_tls_pool_leave(tepal_loop *loop, tpi_tls_pool *pool);
/* NULL: no memory. */
tpi_tls_loan *tpi_tls_borrow(tpi_tls_filter *tls);
void tpi_tls_give_back(tpi_tls_filter *tls, tpi_tls_loan *loan);

/* 0, TEPAL_ENOTSUP, or an error with which the filter has failed. */
int tpi_tls_update_keys(tpi_tls_filter *tls);

#endif
