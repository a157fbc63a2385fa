/*
 * Memory through an allocator of realloc's shape: size 0 frees. The loop's user chooses it; everything goes through it.
 */
#ifndef TPI_ALLOC_H
#define TPI_ALLOC_H

#include <string.h>
#include <tepal/error.h>

typedef void *(*tpi_realloc)(void *, size_t);

/* libc's realloc with free for size 0. */
void *tpi_default_realloc(void *memory, size_t size);

/* Zeroed memory, or NULL. */
static inline void *tpi_alloc_zero(tpi_realloc allocate, size_t size) {
    void *memory = allocate(NULL, size);
    if (memory != NULL) {
        memset(memory, 0, size);
    }
    return memory;
}

static inline void tpi_free(tpi_realloc allocate, void *memory) {
    if (memory != NULL) {
        (void)allocate(memory, 0);
    }
}

/*
 * A deep copy of an error, with its text, address and chain, in one block freed by tpi_free(). A NULL text becomes
 * tepal_strerror(code). NULL if memory is short.
 */
tepal_error *tpi_error_copy(tpi_realloc allocate, const tepal_error *error);

#endif
