/* Lists of application protocols, and contexts (tls.h). */
#include "tls.h"

#include <stdio.h>
#include <string.h>

enum { WHY_MAX = 512 };

const char *alpn_parse(alpn_list *self, const char *text) {
    size_t length = strlen(text);
    if (length >= sizeof self->text)
        return "the list of --alpn is too long";
    memcpy(self->text, text, length + 1);
    self->count = 0;
    for (char *name = self->text;;) {
        char *end = name + strcspn(name, ",");
        const bool is_last = *end == '\0';
        if (end == name)
            return "a name of --alpn is empty";
        if (end - name > ALPN_NAME_MAX)
            return "a name of --alpn is at most 255 bytes";
        if (self->count == ALPN_MAX)
            return "--alpn takes 16 names at most";
        *end = '\0';
        self->items[self->count++] = name;
        if (is_last)
            return NULL;
        name = end + 1;
    }
}

tepal_tls_context *tls_context(const char *command, const tepal_tls_context_options *options) {
    tepal_tls_context *context = NULL;
    char why[WHY_MAX] = "";
    if (tepal_tls_engine() == NULL) {
        fprintf(stderr, "tepal %s: there is no TLS here: this Tepal was built without OpenSSL\n", command);
        return NULL;
    }
    int code = tepal_tls_context_new(&context, options, why, sizeof why);
    if (code == 0)
        return context;
    fprintf(stderr, "tepal %s: no TLS: %s\n", command, *why != '\0' ? why : tepal_strerror(code));
    return NULL;
}
