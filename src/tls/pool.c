/*
 * Memory for one call: plain text that is delivered, records that are handed down. The filters of a loop share it, so that
 * an idle connection has none.
 */
#include "tls/tls.h"

#define POOLED_LOANS 4 /* kept for the next call; more are used only by layers on layers */

tpi_tls_pool *tpi_tls_pool_join(tepal_loop *loop) {
    if (loop->tls == NULL) {
        loop->tls = tpi_alloc_zero(loop->realloc, sizeof(tpi_tls_pool));
    }
    tpi_tls_pool *pool = loop->tls;
    if (pool != NULL) {
        pool->filters++;
    }
    return pool;
}

void tpi_tls_pool_leave(tepal_loop *loop, tpi_tls_pool *pool) {
    if (--pool->filters > 0) {
        return;
    }
    while (pool->free != NULL) {
        tpi_tls_loan *loan = pool->free;
        pool->free = loan->next;
        tpi_free(loop->realloc, loan);
    }
    tpi_free(loop->realloc, pool);
    loop->tls = NULL;
}

tpi_tls_loan *tpi_tls_borrow(tpi_tls_filter *tls) {
    tpi_tls_pool *pool = tls->pool;
    tpi_tls_loan *loan = pool->free;
    if (loan == NULL) {
        return tls->loop->realloc(NULL, sizeof *loan);
    }
    pool->free = loan->next;
    pool->free_count--;
    return loan;
}

void tpi_tls_give_back(tpi_tls_filter *tls, tpi_tls_loan *loan) {
    tpi_tls_pool *pool = tls->pool;
    if (pool->free_count == POOLED_LOANS) {
        tpi_free(tls->loop->realloc, loan);
        return;
    }
    loan->next = pool->free;
    pool->free = loan;
    pool->free_count++;
}
