/* Addresses as they are written on a command line: "127.0.0.1:7000", "[::1]:0", "name:7000", "unix:PATH",
 * "unix:@abstract". */
#ifndef TOOLS_ENDPOINT_H
#define TOOLS_ENDPOINT_H

#include <stdbool.h>
#include <stdint.h>

enum { ENDPOINT_HOST_MAX = 254 };

/** An address taken apart for the option structs of the library. Either unix_path, or host and port. */
typedef struct endpoint {
    const char *unix_path; /* within the text that was parsed; NULL for TCP */
    const char *host;      /* host_text, or NULL where none was given (":7000" or "*:7000") */
    uint16_t port;
    char host_text[ENDPOINT_HOST_MAX];
} endpoint;

/**
 * Read an address. text must outlive the endpoint, and the endpoint must not be moved: it points into both.
 *
 * Returns NULL, or a sentence that says what is wrong with the text.
 */
const char *endpoint_parse(endpoint *self, const char *text);

#endif
