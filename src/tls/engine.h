/*
 * The TLS engine: bytes in, bytes out, no sockets. It takes what came from below through `in`, and has what is to go below
 * collected in `out`, which it empties through `spill` when it is full. Records are decrypted out of the one and encrypted
 * into the other with no buffer between.
 */
#ifndef TPI_TLS_ENGINE_H
#define TPI_TLS_ENGINE_H

#include "tls/context.h"

/* What is said instead of a count. */
enum {
    TPI_ENGINE_DRY = 0,                                  /* it needs more input: all there was is taken */
    TPI_ENGINE_ENDED = TEPAL_ERROR(TEPAL_DOMAIN_USER, 1) /* the peer's close_notify came */
};

#define TPI_RECORD_BYTES 16384        /* of plain text in a record, at most */
#define TPI_RECORD_ROOM (16384 + 512) /* and encrypted, with its header and what the cipher adds */

typedef struct tpi_engine {
    SSL *ssl;
    tpi_credentials *credentials; /* a reference; those of the name that was asked for */
    tepal_tls_context *context;   /* a reference; likewise */
    const uint8_t *in;
    size_t in_length;
    uint8_t *out;
    size_t out_length, out_room;
    void (*spill)(struct tpi_engine *engine); /* hand `out` down: out_length is 0 afterwards */
    char *name;          /* client: whom the certificate must be for; server: who was asked for; or NULL */
    int failure;         /* found in a callback: it says more than OpenSSL's own */
    bool is_dry;         /* it has just asked for input that is not there */
    bool has_ended;      /* the peer's close_notify came */
    bool has_seen_input; /* of the handshake */
    bool no_tickets;     /* server, TLS 1.3: none at the end of the handshake, whatever the context says */
} tpi_engine;

/*
 * Begin: as a client or a server, by the context. name is a client's (NULL: none is verified); session is one to offer, or NULL. The
 * engine is zero before; after an error it needs no close. Returns 0, TEPAL_ENOMEM, TEPAL_ETLS_SESSION or TEPAL_EINVAL.
 */
int tpi_engine_open(tpi_engine *engine, tepal_tls_context *context, const char *name, const void *session,
                    size_t session_length);
void tpi_engine_close(tpi_engine *engine);

/* Server, before the handshake: see no_tickets. */
void tpi_engine_leave_out_tickets(tpi_engine *engine);
/* Go on with the handshake: 1 once it is done, TPI_ENGINE_DRY or an error; what there is to say to the peer is in out. */
int tpi_engine_set_up(tpi_engine *engine);
/* Decrypt up to room bytes: a count, TPI_ENGINE_DRY, TPI_ENGINE_ENDED or an error. Room for a record takes a whole one. */
int64_t tpi_engine_read(tpi_engine *engine, uint8_t *bytes, size_t room);
/* Encrypt bytes, TPI_RECORD_BYTES at most, as one record. 0 or an error. */
int tpi_engine_write(tpi_engine *engine, const void *bytes, size_t length);
/* Say close_notify, once. 0 or an error. */
int tpi_engine_end(tpi_engine *engine);
/* New keys for both directions, from the next record on. */
int tpi_engine_update_keys(tpi_engine *engine);

static inline int tpi_engine_version(const tpi_engine *engine) {
    return SSL_version(engine->ssl);
}

/* After the handshake: whether a part of a message of the peer's has come, and the rest has not. Nothing can be said then. */
static inline bool tpi_engine_is_busy(const tpi_engine *engine) {
    return SSL_in_init(engine->ssl) != 0;
}

#endif
