/*
 * The allocator used where the user named none. It must never abort or print: being short of memory is an answer.
 */
#include "base/alloc.h"

#include <stdlib.h>

void *tpi_default_realloc(void *memory, size_t size) {
    /* C leaves realloc(memory, 0) open, and glibc's answer depends on memory. */
    if (size == 0) {
        free(memory);
        return NULL;
    }
    return realloc(memory, size);
}
