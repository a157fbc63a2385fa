/*
 * TLS in a library that was built without it: the same functions, which say so.
 */
#include "net/setup.h"

const char *tepal_tls_engine(void) {
    return NULL;
}

int tepal_tls_context_new(tepal_tls_context **context, const tepal_tls_context_options *options, char *why,
                          size_t why_size) {
    static const char sentence[] = "this library was built without TLS";
    (void)context;
    (void)options;
    if (why != NULL && why_size > 0) {
        const size_t length = sizeof sentence - 1 < why_size - 1 ? sizeof sentence - 1 : why_size - 1;
        memcpy(why, sentence, length);
        why[length] = '\0';
    }
    return TEPAL_ENOTSUP;
}

tepal_tls_context *tepal_tls_context_ref(tepal_tls_context *context) {
    return context;
}

void tepal_tls_context_unref(tepal_tls_context *context) {
    (void)context;
}

int tepal_tls_context_reload(tepal_tls_context *context, const tepal_tls_context_options *options, char *why,
                             size_t why_size) {
    return tepal_tls_context_new(&context, options, why, why_size);
}

int tepal_tls_context_add_name(tepal_tls_context *context, const char *name, tepal_tls_context *other) {
    (void)context;
    (void)name;
    (void)other;
    return TEPAL_ENOTSUP;
}

int tepal_transport_start_tls(tepal_transport *transport, const tepal_tls_options *options, tepal_future **future) {
    (void)transport;
    (void)options;
    (void)future;
    return TEPAL_ENOTSUP;
}

int tepal_transport_tls_info(const tepal_transport *transport, tepal_tls_info *info) {
    (void)transport;
    (void)info;
    return TEPAL_ENOENT;
}

int64_t tepal_transport_tls_certificate(const tepal_transport *transport, tepal_tls_certificate_part part, char *text,
                                        size_t size) {
    (void)transport;
    (void)part;
    (void)text;
    (void)size;
    return TEPAL_ENOENT;
}

int64_t tepal_transport_tls_binding(const tepal_transport *transport, const char *type, void *bytes, size_t size) {
    (void)transport;
    (void)type;
    (void)bytes;
    (void)size;
    return TEPAL_ENOENT;
}

int64_t tepal_transport_tls_session(const tepal_transport *transport, void *bytes, size_t size) {
    (void)transport;
    (void)bytes;
    (void)size;
    return TEPAL_ENOENT;
}

int tepal_transport_tls_update_keys(tepal_transport *transport) {
    (void)transport;
    return TEPAL_ENOENT;
}

/* Nothing is made by a way that cannot be opened. */

static int way_open(tepal_loop *loop, const tepal_tls_options *options, tpi_role role, const char *host,
                    tpi_way **way) {
    (void)loop;
    (void)options;
    (void)role;
    (void)host;
    (void)way;
    return TEPAL_ENOTSUP;
}

static void way_close(tepal_loop *loop, tpi_way *way) {
    (void)loop;
    (void)way;
}

const tpi_filter_factory tpi_tls = {.open = way_open, .close = way_close};
