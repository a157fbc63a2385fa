/*
 * Option structs of any size: callers built against an older or newer header pass fewer or more members.
 */
#ifndef TPI_OPTIONS_H
#define TPI_OPTIONS_H

#include <string.h>
#include <tepal/error.h>

/*
 * Copy the options that the caller has into a struct of ours, zero (the default) for those it does not know. Members
 * that we do not know must be zero. NULL stands for all defaults. Returns 0 or TEPAL_EINVAL.
 */
static inline int tpi_options_copy(void *ours, size_t our_size, const void *theirs) {
    memset(ours, 0, our_size);
    if (theirs == NULL) {
        return 0;
    }
    size_t size;
    memcpy(&size, theirs, sizeof size);
    if (size < sizeof size) {
        return TEPAL_EINVAL;
    }
    const unsigned char *bytes = theirs;
    for (size_t i = our_size; i < size; i++) {
        if (bytes[i] != 0) {
            return TEPAL_EINVAL;
        }
    }
    memcpy(ours, theirs, size < our_size ? size : our_size);
    return 0;
}

#endif
