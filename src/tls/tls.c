/*
 * The TLS filter. What comes is decrypted out of the driver's own buffer and delivered at once, so between calls it keeps
 * nothing but, rarely, what the layer above left of one delivery; what is written is encrypted at once, so that only the
 * stream below buffers output. Upcalls are made between two calls of the engine's, never inside one.
 */
#include "tls/tls.h"

#define UNASKED_LIMIT 65536 /* bytes of answers that nobody takes */

static tpi_tls_filter *tls_of(const tepal_filter *filter) {
    return (tpi_tls_filter *)(void *)(uintptr_t)filter;
}

/* Failing */

static bool has_failed(const tpi_tls_filter *tls) {
    return tls->state == TPI_TLS_FAILED;
}

/*
 * End the transport with this code. What the engine has said, an alert as a rule, is on its way, and a reset would
 * overtake it: without a close_notify before it, no end of the stream can be taken for a clean one.
 */
static int fail(tpi_tls_filter *tls, int code) {
    tepal_transport *transport = tls->filter.transport;
    if (has_failed(tls)) {
        return code;
    }
    tls->state = TPI_TLS_FAILED;
    if (transport != NULL && !(transport->flags & TPI_ENDED)) {
        const bool is_sent = tpi_stream_waiting(transport) == 0;
        tepal_filter_abort(&tls->filter, code);
        if (is_sent) {
            transport->flags &= ~(uint32_t)TPI_RESET;
        }
        if (is_sent &&
            code == tls->engine.failure) { /* what the peer still sends would make the kernel reset as well */
            transport->flags |= TPI_EXPECTS_INPUT;
        }
    }
    return code;
}

/* What the engine says goes here, for as long as one call lasts. */

static void spill(tpi_engine *engine) {
    tpi_tls_filter *tls = (tpi_tls_filter *)(void *)((char *)engine - offsetof(tpi_tls_filter, engine));
    const struct iovec piece = {.iov_base = engine->out, .iov_len = engine->out_length};
    if (has_failed(tls) || piece.iov_len == 0) {
        engine->out_length = 0;
        return;
    }
    const int code = tepal_filter_down_write(&tls->filter, &piece, 1);
    engine->out_length = 0;
    if (code < 0) {
        tls->state = TPI_TLS_FAILED; /* the transport is being aborted with it */
    }
}

static tpi_tls_loan *open_out(tpi_tls_filter *tls) {
    tpi_tls_loan *loan = tpi_tls_borrow(tls);
    if (loan == NULL) {
        (void)fail(tls, TEPAL_ENOMEM);
        return NULL;
    }
    tls->engine.out = loan->bytes;
    tls->engine.out_room = sizeof loan->bytes;
    tls->engine.out_length = 0;
    tls->engine.spill = spill;
    return loan;
}

static void close_out(tpi_tls_filter *tls, tpi_tls_loan *loan) {
    spill(&tls->engine);
    tls->engine.out = NULL;
    tls->engine.out_room = 0;
    tpi_tls_give_back(tls, loan);
}

/* Output */

/*
 * Whether anything can be said now. Not before the handshake is done, nor between the records of a message that comes in
 * several, a long ticket: OpenSSL wants the rest of it first, and would take its absence for a failure.
 */
static bool may_speak(const tpi_tls_filter *tls) {
    return tls->state == TPI_TLS_OPEN && !tpi_engine_is_busy(&tls->engine);
}

static int tls_write(tepal_filter *filter, const struct iovec *pieces, size_t count) {
    tpi_tls_filter *tls = tls_of(filter);
    if (has_failed(tls)) {
        return TEPAL_ECLOSED;
    }
    if (!may_speak(tls)) {
        return tpi_output_copy(&tls->waiting, tls->loop->realloc, pieces, count, 0);
    }
    tpi_tls_loan *out = open_out(tls);
    if (out == NULL) {
        return TEPAL_ENOMEM;
    }
    const int code = tpi_tls_encrypt(tls, pieces, count);
    close_out(tls, out);
    if (code < 0) {
        return fail(tls, code);
    }
    return has_failed(tls) ? TEPAL_ECLOSED : 0;
}

/* What was written while nothing could be said. */
static int write_waiting(tpi_tls_filter *tls) {
    struct iovec pieces[TPI_SEND_PIECES];
    int code = 0;
    while (tls->waiting.bytes > 0 && code == 0) {
        const size_t count = tpi_output_gather(&tls->waiting, pieces, TPI_SEND_PIECES);
        code = tpi_tls_encrypt(tls, pieces, count);
        tpi_output_consume(&tls->waiting, tls->loop->realloc, tpi_pieces_bytes(pieces, count));
    }
    return code;
}

/* Say close_notify, after what was written, now or as soon as may be. 0 or an error, with which it has failed. */
static int end(tpi_tls_filter *tls) {
    if (!may_speak(tls)) {
        tls->has_ended = tls->end_is_due = true;
        return 0;
    }
    tepal_transport *transport = tls->filter.transport;
    const bool is_last_word = tls->engine.has_ended && tpi_stream_waiting(transport) == 0;
    tpi_tls_loan *out = open_out(tls);
    if (out == NULL) {
        return TEPAL_ENOMEM;
    }
    const int code = tpi_engine_end(&tls->engine);
    tls->has_ended = true;
    close_out(tls, out);
    if (is_last_word && has_failed(tls) && !(transport->flags & TPI_LOST)) {
        transport->code = 0; /* the peer has said all, and been sent all, and need not wait for this */
        return TEPAL_ECLOSED;
    }
    return code < 0 ? fail(tls, code) : 0;
}

static int tls_write_eof(tepal_filter *filter) {
    tpi_tls_filter *tls = tls_of(filter);
    return has_failed(tls) ? TEPAL_ECLOSED : end(tls);
}

static bool tls_can_write_eof(const tepal_filter *filter) {
    const tpi_tls_filter *tls = tls_of(filter);
    return tls->state == TPI_TLS_OPEN && tpi_engine_version(&tls->engine) >= TEPAL_TLS_1_3;
}

static uint64_t tls_buffered(const tepal_filter *filter) {
    return tls_of(filter)->waiting.bytes;
}

int tpi_tls_update_keys(tpi_tls_filter *tls) {
    if (!may_speak(tls)) {
        tls->update_is_due = tpi_engine_version(&tls->engine) >= TEPAL_TLS_1_3;
        return tls->update_is_due ? 0 : TEPAL_ENOTSUP;
    }
    tpi_tls_loan *out = open_out(tls);
    if (out == NULL) {
        return TEPAL_ENOMEM;
    }
    const int code = tpi_engine_update_keys(&tls->engine);
    close_out(tls, out);
    return code < 0 && code != TEPAL_ENOTSUP ? fail(tls, code) : code;
}

/* The end */

static void start_limit(tpi_tls_filter *tls, int64_t limit_ns) {
    if (limit_ns > 0) {
        const int64_t now_ns = tepal_loop_time(tls->loop);
        (void)tepal_timer_start(tls->loop, &tls->limit, limit_ns > INT64_MAX - now_ns ? INT64_MAX : now_ns + limit_ns);
    }
}

/* The handshake has taken too long; or, after close(), the peer has taken nothing of what is left for so long. */
static void limit_reached(tepal_work *work, int status) {
    tpi_tls_filter *tls = (tpi_tls_filter *)(void *)((char *)work - offsetof(tpi_tls_filter, limit.work));
    if (status < 0 || has_failed(tls)) {
        return;
    }
    if (tls->state == TPI_TLS_OPEN) {
        const uint64_t left = tpi_stream_waiting(tls->filter.transport);
        if (left < tls->left) {
            tls->left = left;
            start_limit(tls, tls->shutdown_limit_ns);
            return;
        }
    }
    (void)fail(tls, TEPAL_ETIMEDOUT);
}

/*
 * Everything was written, and close_notify after it. No answer is waited for: the peer need not give one (RFC 8446, 6.1).
 * But a server of TLS 1.3 sends tickets when it comes to the end of the handshake, which may be later than this: closed
 * already, the kernel would answer them by a reset, and forget what it has not sent yet.
 */
static void close_below(tpi_tls_filter *tls) {
    (void)tepal_timer_stop(tls->loop, &tls->limit);
    if (tls->state == TPI_TLS_OPEN && !tls->engine.context->server && !tls->engine.has_ended &&
        tpi_engine_version(&tls->engine) >= TEPAL_TLS_1_3) {
        tls->filter.transport->flags |= TPI_EXPECTS_INPUT;
    }
    tls->left = tpi_stream_waiting(tls->filter.transport);
    if (tls->left > 0) {
        start_limit(tls, tls->shutdown_limit_ns);
    }
    tepal_filter_down_close(&tls->filter);
}

static void tls_close(tepal_filter *filter) {
    tpi_tls_filter *tls = tls_of(filter);
    if (tls->is_closing || has_failed(tls)) {
        return;
    }
    tls->is_closing = true;
    if (tls->state != TPI_TLS_OPEN) {
        if (tls->waiting.bytes == 0) {
            close_below(tls);
        }
        return; /* else once the handshake is done, which has its limit */
    }
    if (!tls->has_ended && end(tls) < 0) {
        return;
    }
    if (tls->end_is_due) {
        start_limit(tls, tls->shutdown_limit_ns); /* of what has to come before it can be said */
    } else {
        close_below(tls);
    }
}

static void tls_abort(tepal_filter *filter, int code) {
    (void)code;
    tls_of(filter)->state = TPI_TLS_FAILED;
}

void tpi_tls_free(tpi_tls_filter *tls) {
    tepal_loop *loop = tls->loop;
    tpi_engine_close(&tls->engine);
    tpi_output_discard(&tls->waiting, loop->realloc, TEPAL_ECLOSED);
    tpi_free(loop->realloc, tls->kept);
    tpi_free(loop->realloc, tls->early);
    tpi_tls_pool_leave(loop, tls->pool);
    tpi_free(loop->realloc, tls);
    tepal_loop_unref(loop);
}

static void tls_lost(tepal_filter *filter, const tepal_error *error) {
    tpi_tls_filter *tls = tls_of(filter);
    (void)error;
    (void)tepal_timer_stop(tls->loop, &tls->limit);
    tls->state = TPI_TLS_FAILED;
    tls->is_lost = true;
    if (tls->go_on.state == 0) {
        tpi_tls_free(tls);
    }
}

static void tls_forget(tepal_filter *filter) {
    tpi_tls_filter *tls = tls_of(filter);
    (void)tepal_timer_stop(tls->loop, &tls->limit);
    tpi_tls_free(tls); /* the ready queue, where it may be, never runs again */
}

/* Input */

/* Keep what the layer above has left. */
static int keep(tpi_tls_filter *tls, const uint8_t *bytes, size_t length) {
    uint8_t *kept = tls->loop->realloc(NULL, length);
    if (kept == NULL) {
        return fail(tls, TEPAL_ENOMEM);
    }
    memcpy(kept, bytes, length);
    tepal_filter_down_pause(&tls->filter); /* it may have gone on for the sake of what is to be said */
    tls->kept = kept;
    tls->kept_length = length;
    return 0;
}

/* Give bytes to the layer above. 0; or below 0 once the transport has ended. */
static int deliver(tpi_tls_filter *tls, const uint8_t *bytes, size_t length) {
    const int64_t used = tepal_filter_up_received(&tls->filter, bytes, length);
    if (used < 0 || has_failed(tls)) {
        return TEPAL_ECLOSED;
    }
    return (size_t)used < length ? keep(tls, bytes + used, length - (size_t)used) : 0;
}

/* If the peer has said that its stream is complete, and the layer above has all of it, say so. */
static void tell_end(tpi_tls_filter *tls) {
    if (!tls->engine.has_ended || tls->has_told_end || tls->kept != NULL) {
        return;
    }
    tls->has_told_end = true;
    (void)tepal_filter_up_received_eof(&tls->filter);
}

/* The engine has failed, and what it had to say has been handed down. That this could not be sent is not what is wrong. */
static int give_up(tpi_tls_filter *tls, int code) {
    tepal_transport *transport = tls->filter.transport;
    if (has_failed(tls) && transport != NULL && !(transport->flags & TPI_LOST)) {
        transport->code = code;
    }
    return fail(tls, code);
}

static void established(tpi_tls_filter *tls) {
    tls->state = TPI_TLS_OPEN;
    (void)tepal_timer_stop(tls->loop, &tls->limit);
    tepal_filter_up_established(&tls->filter);
    tepal_filter_up_writable(&tls->filter); /* what was written meanwhile is buffered here no more */
}

/* Go on with the handshake. 0, or an error with which the filter has failed. */
static int set_up(tpi_tls_filter *tls) {
    tpi_tls_loan *out = open_out(tls);
    if (out == NULL) {
        return TEPAL_ENOMEM;
    }
    int code = tpi_engine_set_up(&tls->engine);
    if (code == 1) {
        code = write_waiting(tls) < 0 ? tls->engine.failure : 1;
        code = code == 0 ? TEPAL_ENOMEM : code;
    }
    close_out(tls, out);
    if (code < 0) {
        return give_up(tls, code);
    }
    if (has_failed(tls)) {
        return TEPAL_ECLOSED;
    }
    if (code == 1) {
        established(tls);
        if (tls->is_closing && end(tls) == 0) {
            close_below(tls);
        }
    }
    return has_failed(tls) ? TEPAL_ECLOSED : 0;
}

/* What could not be said before, and now can. With `out` open. 0 or an error. */
static int catch_up(tpi_tls_filter *tls) {
    if (!may_speak(tls)) {
        return 0;
    }
    int code = write_waiting(tls);
    if (code == 0 && tls->update_is_due) {
        tls->update_is_due = false;
        code = tpi_engine_update_keys(&tls->engine);
    }
    if (code == 0 && tls->end_is_due) {
        tls->end_is_due = false;
        code = tpi_engine_end(&tls->engine);
    }
    return code;
}

/* Whoever has paused may wait for what was written, which waits for the rest of a message. */
static bool wants_more(const tpi_tls_filter *tls) {
    return !tepal_filter_is_paused(&tls->filter) || tpi_engine_is_busy(&tls->engine);
}

/* Decrypt whole records as long as they fit. Returns how many bytes there are; *last is what the engine said instead of more. */
static size_t decrypt(tpi_tls_filter *tls, uint8_t *plain, int64_t *last) {
    size_t length = 0;
    *last = TPI_ENGINE_DRY;
    while (tls->engine.in_length > 0 && length + TPI_RECORD_BYTES <= TPI_PLAIN_BYTES && wants_more(tls)) {
        *last = tpi_engine_read(&tls->engine, plain + length, TPI_RECORD_BYTES);
        if (*last <= 0) {
            break;
        }
        length += (size_t)*last;
    }
    return length;
}

/* A peer that asks for answers, new keys for one, and takes none of them would fill the memory, whatever the cap. */
static bool too_much_unasked(tpi_tls_filter *tls) {
    if (tpi_stream_waiting(tls->filter.transport) == 0) {
        tls->unasked = 0;
    }
    return tls->unasked > UNASKED_LIMIT;
}

/* Decrypt and deliver, until nothing is left, the layer above has paused, or it is over. */
static void read_records(tpi_tls_filter *tls) {
    tpi_tls_loan *plain = tpi_tls_borrow(tls);
    if (plain == NULL) {
        (void)fail(tls, TEPAL_ENOMEM);
        return;
    }
    while (tls->state == TPI_TLS_OPEN && tls->engine.in_length > 0 && !tls->engine.has_ended && tls->kept == NULL &&
           wants_more(tls)) {
        int64_t last;
        tpi_tls_loan *out = open_out(tls);
        if (out == NULL) {
            break;
        }
        const uint64_t waited = tls->waiting.bytes;
        const bool was_due = tls->end_is_due;
        const size_t length = decrypt(tls, plain->bytes, &last);
        tls->unasked += tls->engine.out_length; /* more if it was spilled, but then much waits already */
        const int code = last < 0 && last != TPI_ENGINE_ENDED ? (int)last : catch_up(tls);
        close_out(tls, out); /* before anybody is called up who may write */
        if (length > 0 && !has_failed(tls) && deliver(tls, plain->bytes, length) < 0) {
            break;
        }
        if (code < 0) {
            (void)give_up(tls, code);
        } else if (!has_failed(tls) && too_much_unasked(tls)) {
            (void)fail(tls, TEPAL_ENOBUFS);
        } else if (!has_failed(tls) && tls->waiting.bytes < waited) {
            tepal_filter_up_writable(&tls->filter);
        }
        if (!has_failed(tls) && was_due && !tls->end_is_due && tls->is_closing) {
            close_below(tls);
        }
    }
    tpi_tls_give_back(tls, plain);
    if (!has_failed(tls)) {
        tell_end(tls);
    }
}

/* Take what came from below; returns how much was used. */
static size_t take(tpi_tls_filter *tls, const uint8_t *data, size_t length) {
    tls->engine.in = data;
    tls->engine.in_length = length;
    if (tls->state == TPI_TLS_SETUP) {
        (void)set_up(tls);
    }
    if (tls->state == TPI_TLS_OPEN) {
        read_records(tls);
    }
    const size_t left = has_failed(tls) || tls->engine.has_ended ? 0 : tls->engine.in_length;
    tls->engine.in = NULL;
    tls->engine.in_length = 0;
    return length - left;
}

/* What the peer had sent before the filter was here. True once there is none. */
static bool take_early(tpi_tls_filter *tls) {
    if (tls->early != NULL) {
        tls->early_used += take(tls, tls->early + tls->early_used, tls->early_length - tls->early_used);
        if (tls->early_used < tls->early_length && !has_failed(tls)) {
            return false;
        }
        tpi_free(tls->loop->realloc, tls->early);
        tls->early = NULL;
    }
    return true;
}

static int64_t tls_received(tepal_filter *filter, const void *data, size_t length) {
    tpi_tls_filter *tls = tls_of(filter);
    if (tls->state == TPI_TLS_NEW) {
        tpi_tls_begin(filter);
    }
    if (has_failed(tls)) {
        return (int64_t)length;
    }
    if (tls->kept != NULL || !take_early(tls)) {
        return 0; /* the layer above has paused */
    }
    return (int64_t)take(tls, data, length);
}

static int tls_received_eof(tepal_filter *filter) {
    tpi_tls_filter *tls = tls_of(filter);
    if (tls->state == TPI_TLS_NEW) {
        tpi_tls_begin(filter);
    }
    if (!has_failed(tls) && take_early(tls)) {
        if (tls->engine.has_ended) {
            return TEPAL_KEEP_OPEN; /* it was told by TLS already, or will be */
        }
        (void)fail(tls, tls->state == TPI_TLS_OPEN ? TEPAL_ETRUNCATED : TEPAL_ETLS_ENDED);
    }
    return TEPAL_KEEP_OPEN;
}

static void tls_pause(tepal_filter *filter) {
    const tpi_tls_filter *tls = tls_of(filter);
    if (tls->state == TPI_TLS_OPEN && !tpi_engine_is_busy(&tls->engine)) {
        tepal_filter_down_pause(filter);
    }
}

static void tls_resume(tepal_filter *filter) {
    tpi_tls_filter *tls = tls_of(filter);
    if (tls->kept != NULL || tls->early != NULL) {
        tpi_tls_begin_soon(tls); /* what is here comes first, and not inside this call */
    } else {
        tepal_filter_down_resume(filter);
    }
}

/* From the ready queue: begin, or deliver what is here and ask for more. */
static void go_on(tepal_work *work, int status) {
    tpi_tls_filter *tls = (tpi_tls_filter *)(void *)((char *)work - offsetof(tpi_tls_filter, go_on));
    if (tls->is_lost) {
        tpi_tls_free(tls);
        return;
    }
    if (status < 0 || has_failed(tls)) {
        return;
    }
    if (tls->state == TPI_TLS_NEW) {
        tpi_tls_begin(&tls->filter);
    }
    if (tls->kept != NULL && !tepal_filter_is_paused(&tls->filter)) {
        uint8_t *kept = tls->kept;
        tls->kept = NULL;
        (void)deliver(tls, kept, tls->kept_length);
        tpi_free(tls->loop->realloc, kept);
        if (!has_failed(tls)) {
            tell_end(tls);
        }
    }
    if (!has_failed(tls) && tls->kept == NULL && take_early(tls) && !tepal_filter_is_paused(&tls->filter)) {
        tepal_filter_down_resume(&tls->filter);
    }
}

/* The beginning */

void tpi_tls_begin_soon(tpi_tls_filter *tls) {
    if (tls->go_on.state == 0) {
        tpi_loop_queue(tls->loop, &tls->go_on);
    }
}

void tpi_tls_prepare(tpi_tls_filter *tls) {
    tls->filter.type = &tpi_tls_filter_type;
    tls->go_on.run = go_on;
    tls->limit.work.run = limit_reached;
    tls->small_bytes = TPI_TLS_SMALL_BYTES;
}

void tpi_tls_begin(tepal_filter *filter) {
    tpi_tls_filter *tls = tls_of(filter);
    if (tls->state != TPI_TLS_NEW) {
        return;
    }
    tls->state = TPI_TLS_SETUP;
    start_limit(tls, tls->handshake_limit_ns);
    if (!tls->engine.context->server) {
        (void)set_up(tls);
    } else if (filter->transport->flags & TPI_IS_UNIX) {
        /* A client may have said all and gone, which a Unix socket tells who writes, and so what it said would be lost. */
        tpi_engine_leave_out_tickets(&tls->engine);
    }
}

/* The layer below can carry data: what was said before has waited there. Who stands above hears of its own. */
static void tls_established(tepal_filter *filter) {
    (void)filter;
}

static int tls_info(const tepal_filter *filter, const char *what, const void **answer) {
    const tpi_tls_filter *tls = tls_of(filter);
    if (strcmp(what, "tls") == 0) {
        *answer = tls;
    } else if (tls->state == TPI_TLS_OPEN && strcmp(what, "tls.version") == 0) {
        *answer = SSL_get_version(tls->engine.ssl);
    } else if (tls->state == TPI_TLS_OPEN && strcmp(what, "tls.cipher") == 0) {
        *answer = SSL_get_cipher_name(tls->engine.ssl);
    } else {
        return TEPAL_ENOENT;
    }
    return 0;
}

const tepal_filter_type tpi_tls_filter_type = {
    .size = sizeof(tepal_filter_type),
    .received = tls_received,
    .received_eof = tls_received_eof,
    .established = tls_established,
    .lost = tls_lost,
    .write = tls_write,
    .write_eof = tls_write_eof,
    .pause = tls_pause,
    .resume = tls_resume,
    .close = tls_close,
    .abort = tls_abort,
    .can_write_eof = tls_can_write_eof,
    .buffered = tls_buffered,
    .info = tls_info,
    .forget = tls_forget,
};
