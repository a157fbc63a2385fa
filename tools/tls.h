/* What the tools share of TLS: lists of application protocols as they are written on a command line, and contexts, or
 * the reason why there is none. */
#ifndef TOOLS_TLS_H
#define TOOLS_TLS_H

#include <tepal.h>

enum { ALPN_MAX = 16, ALPN_NAME_MAX = 255, ALPN_TEXT_MAX = 1024 };

/** Names of application protocols, the preferred first. Must not be moved: the items point into the text. */
typedef struct alpn_list {
    size_t count;
    const char *items[ALPN_MAX];
    char text[ALPN_TEXT_MAX];
} alpn_list;

/** Read the value of --alpn, "h2,http/1.1". Returns NULL, or a sentence that says what is wrong with the text. */
const char *alpn_parse(alpn_list *self, const char *text);

/** Make a context. Returns NULL if there is none, which was explained on stderr ("tepal COMMAND: sentence"). */
tepal_tls_context *tls_context(const char *command, const tepal_tls_context_options *options);

#endif
