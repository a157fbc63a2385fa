/*
 * What is written, cut into records and encrypted: small ones at first, large ones in bulk, and short pieces joined.
 */
#include "tls/tls.h"

/* Records are small at first, so that each can be used as soon as its segment is there, and large in bulk. */
#define SMALL_RECORD 1330 /* with what TCP, IP and TLS add, less than 1,400 */
#define REST_NS TEPAL_SEC(1)

/* Pieces shorter than this are joined before they are encrypted. */
#define JOIN_BELOW 4096

static size_t record_limit(tpi_tls_filter *tls) {
    const int64_t now_ns = tepal_loop_time(tls->loop);
    if (now_ns - tls->written_ns > REST_NS) {
        tls->small_bytes = TPI_TLS_SMALL_BYTES;
    }
    tls->written_ns = now_ns;
    return tls->small_bytes > 0 ? SMALL_RECORD : TPI_RECORD_BYTES;
}

static int encrypt(tpi_tls_filter *tls, const uint8_t *bytes, size_t length) {
    int code = 0;
    while (length > 0 && code == 0) {
        const size_t limit = record_limit(tls);
        const size_t count = length < limit ? length : limit;
        if (tls->engine.out_room - tls->engine.out_length < TPI_RECORD_ROOM) {
            tls->engine.spill(&tls->engine);
        }
        code = tpi_engine_write(&tls->engine, bytes, count);
        if (code == 0 && ++tls->records == TPI_TLS_RECORDS_OF_KEY) {
            tls->records = 0;
            code = tpi_engine_update_keys(&tls->engine);
            code = code == TEPAL_ENOTSUP ? 0 : code; /* TLS 1.2 has but one */
        }
        tls->small_bytes -= tls->small_bytes < count ? tls->small_bytes : (uint32_t)count;
        bytes += count;
        length -= count;
    }
    return code;
}

/* Short pieces are joined, so that they do not become a record each. */
int tpi_tls_encrypt(tpi_tls_filter *tls, const struct iovec *pieces, size_t count) {
    if (count == 1) {
        return encrypt(tls, pieces->iov_base, pieces->iov_len);
    }
    tpi_tls_loan *join = tpi_tls_borrow(tls);
    if (join == NULL) {
        return TEPAL_ENOMEM;
    }
    size_t joined = 0;
    int code = 0;
    for (size_t i = 0; i < count && code == 0; i++) {
        const uint8_t *bytes = pieces[i].iov_base;
        const size_t length = pieces[i].iov_len;
        const bool is_short = length < JOIN_BELOW;
        if (joined > 0 && (!is_short || joined + length > TPI_RECORD_BYTES)) {
            code = encrypt(tls, join->bytes, joined);
            joined = 0;
        }
        if (is_short && code == 0) {
            if (length > 0) {
                memcpy(join->bytes + joined, bytes, length);
            }
            joined += length;
        } else if (code == 0) {
            code = encrypt(tls, bytes, length);
        }
    }
    if (code == 0) {
        code = encrypt(tls, join->bytes, joined);
    }
    tpi_tls_give_back(tls, join);
    return code;
}
