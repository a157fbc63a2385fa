/* Reading addresses from a command line (endpoint.h). */
#include "endpoint.h"

#include <stdlib.h>
#include <string.h>

static const char *parse_port(endpoint *self, const char *text) {
    unsigned long port = 0;
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || text[digits] != '\0')
        return "the port must be a number, as in 127.0.0.1:7000";
    if (digits > 5 || (port = strtoul(text, NULL, 10)) > UINT16_MAX)
        return "a port is at most 65535";
    self->port = (uint16_t)port;
    return NULL;
}

/* What unix(7) has room for: an abstract name needs no NUL at its end. */
enum { UNIX_PATH_MAX_BYTES = 107, UNIX_NAME_MAX_BYTES = 108 };

static const char *parse_unix(endpoint *self, const char *path) {
    size_t most = path[0] == '@' ? UNIX_NAME_MAX_BYTES : UNIX_PATH_MAX_BYTES;
    self->unix_path = path;
    if (path[0] == '\0' || strcmp(path, "@") == 0)
        return "a path or @name must follow 'unix:'";
    return strlen(path) > most ? "a Unix path is at most 107 bytes" : NULL;
}

const char *endpoint_parse(endpoint *self, const char *text) {
    *self = (endpoint){.port = 0};
    if (strncmp(text, "unix:", 5) == 0)
        return parse_unix(self, text + 5);
    const char *host = text, *colon = strrchr(text, ':');
    if (colon == NULL)
        return "it has no port; write HOST:PORT, [IPV6]:PORT or unix:PATH";
    size_t length = (size_t)(colon - text);
    if (text[0] == '[') {
        if (length < 2 || colon[-1] != ']')
            return "an IPv6 address and its port are written [::1]:7000";
        host = text + 1;
        length -= 2;
    } else if (memchr(text, ':', length) != NULL) {
        return "an IPv6 address needs brackets: [::1]:7000";
    }
    if (length >= sizeof self->host_text)
        return "the name is too long";
    memcpy(self->host_text, host, length);
    self->host = length == 0 || strcmp(self->host_text, "*") == 0 ? NULL : self->host_text;
    return parse_port(self, colon + 1);
}
