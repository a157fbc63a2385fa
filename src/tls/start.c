/*
 * From options to a TLS filter: for connections that are being made and for live ones. Everything that can be wrong with
 * the options is found here, before a byte moves.
 */
#include "tls/tls.h"
#include "base/options.h"

#define HANDSHAKE_LIMIT_NS TEPAL_SEC(10)
#define SHUTDOWN_LIMIT_NS TEPAL_SEC(5)

/* What one set of options says, checked and copied. */
struct tpi_way {
    tepal_tls_context *context; /* a reference */
    int64_t handshake_limit_ns, shutdown_limit_ns;
    void *session;
    size_t session_length;
    bool has_name;
    char name[TPI_TLS_NAME_BYTES];
};

static void way_close(tepal_loop *loop, tpi_way *way) {
    tepal_tls_context_unref(way->context);
    tpi_free(loop->realloc, way->session);
    tpi_free(loop->realloc, way);
}

static int64_t or_default(int64_t given_ns, int64_t default_ns) {
    return given_ns == 0 ? default_ns : given_ns;
}

/* Who the server has to be. A client that verifies needs to know. */
static int take_name(tpi_way *way, const char *server_name, const char *host, bool insecure) {
    const char *name = server_name != NULL ? server_name : host;
    if (name == NULL) {
        return insecure ? 0 : TEPAL_EINVAL;
    }
    const bool is_scoped = strchr(name, ':') != NULL && strchr(name, '%') != NULL; /* fe80::1%eth0 */
    const size_t length = is_scoped ? strcspn(name, "%") : strnlen(name, TPI_TLS_NAME_BYTES + 1);
    way->has_name = tpi_tls_copy_name(way->name, name, length);
    return way->has_name ? 0 : TEPAL_EINVAL;
}

static int take_session(tpi_way *way, tepal_loop *loop, const tepal_tls_options *options) {
    if (options->session_length == 0) {
        return 0;
    }
    if (options->session == NULL || options->session_length > 1u << 20) {
        return TEPAL_EINVAL;
    }
    way->session = loop->realloc(NULL, options->session_length);
    if (way->session == NULL) {
        return TEPAL_ENOMEM;
    }
    memcpy(way->session, options->session, options->session_length);
    way->session_length = options->session_length;
    return 0;
}

/* A client's context with every default: reading the system's authorities takes long enough to do it but once. */
static int default_context(tepal_tls_context **context) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static tepal_tls_context *cached; /* for the life of the process */
    const tepal_tls_context_options defaults = {.size = sizeof defaults};
    pthread_mutex_lock(&lock);
    const int code = cached != NULL ? 0 : tepal_tls_context_new(&cached, &defaults, NULL, 0);
    if (code == 0) {
        *context = tepal_tls_context_ref(cached);
    }
    pthread_mutex_unlock(&lock);
    return code;
}

/* What the options name, or a client's default. */
static int take_context(tpi_way *way, tepal_tls_context *given, tpi_role role) {
    if (given == NULL) {
        return role == TPI_ACCEPTS ? TEPAL_EINVAL : default_context(&way->context);
    }
    if (role != TPI_EITHER && given->server != (role == TPI_ACCEPTS)) {
        return TEPAL_EINVAL;
    }
    way->context = tepal_tls_context_ref(given);
    return 0;
}

static bool is_insecure(tepal_tls_context *context) {
    tpi_credentials *credentials = tpi_context_credentials(context);
    const bool insecure = credentials->options.insecure;
    tpi_credentials_unref(credentials);
    return insecure;
}

static int way_open(tepal_loop *loop, const tepal_tls_options *given, tpi_role role, const char *host, tpi_way **out) {
    tepal_tls_options options;
    int code = tpi_options_copy(&options, sizeof options, given);
    if (code < 0) {
        return code;
    }
    tpi_way *way = tpi_alloc_zero(loop->realloc, sizeof *way);
    if (way == NULL) {
        return TEPAL_ENOMEM;
    }
    way->handshake_limit_ns = or_default(options.handshake_limit_ns, HANDSHAKE_LIMIT_NS);
    way->shutdown_limit_ns = or_default(options.shutdown_limit_ns, SHUTDOWN_LIMIT_NS);
    code = take_context(way, options.context, role);
    if (code == 0 && way->context->server) {
        code = options.server_name == NULL && options.session_length == 0 ? 0 : TEPAL_EINVAL;
    } else if (code == 0) {
        code = take_name(way, options.server_name, host, is_insecure(way->context));
        code = code < 0 ? code : take_session(way, loop, &options);
    }
    if (code < 0) {
        way_close(loop, way);
        return code;
    }
    *out = way;
    return 0;
}

static int make(tepal_loop *loop, tpi_way *way, tepal_filter **filter) {
    tpi_tls_filter *tls = tpi_alloc_zero(loop->realloc, sizeof *tls);
    if (tls == NULL) {
        return TEPAL_ENOMEM;
    }
    tls->pool = tpi_tls_pool_join(loop);
    if (tls->pool == NULL) {
        tpi_free(loop->realloc, tls);
        return TEPAL_ENOMEM;
    }
    tls->loop = tepal_loop_ref(loop);
    tls->handshake_limit_ns = way->handshake_limit_ns;
    tls->shutdown_limit_ns = way->shutdown_limit_ns;
    tpi_tls_prepare(tls);
    const int code = tpi_engine_open(&tls->engine, way->context, way->has_name ? way->name : NULL, way->session,
                                     way->session_length);
    if (code < 0) {
        tpi_tls_free(tls);
        return code;
    }
    *filter = &tls->filter;
    return 0;
}

const tpi_filter_factory tpi_tls = {.open = way_open, .close = way_close, .make = make, .begin = tpi_tls_begin};

/* A live connection */

static int take_unread(tpi_tls_filter *tls, const tepal_tls_options *options) {
    if (options->unread_length == 0) {
        return 0;
    }
    if (options->unread == NULL) {
        return TEPAL_EINVAL;
    }
    tls->early = tls->loop->realloc(NULL, options->unread_length);
    if (tls->early == NULL) {
        return TEPAL_ENOMEM;
    }
    memcpy(tls->early, options->unread, options->unread_length);
    tls->early_length = options->unread_length;
    return 0;
}

int tepal_transport_start_tls(tepal_transport *transport, const tepal_tls_options *given, tepal_future **future) {
    tepal_loop *loop = transport->loop;
    tepal_tls_options options;
    tepal_filter *filter;
    tpi_way *way;
    int code = tpi_loop_check(loop);
    const uint32_t has_ended = TPI_CLOSING | TPI_EOF_RECEIVED | TPI_EOF_HELD; /* nobody will answer */
    if (code < 0 || transport->flags & has_ended) {
        return code < 0 ? code : TEPAL_ECLOSED;
    }
    code = given == NULL ? TEPAL_EINVAL : tpi_options_copy(&options, sizeof options, given);
    code = code < 0 ? code : way_open(loop, given, TPI_EITHER, NULL, &way);
    if (code < 0) {
        return code;
    }
    code = make(loop, way, &filter);
    way_close(loop, way);
    if (code < 0) {
        return code;
    }
    tpi_tls_filter *tls = (tpi_tls_filter *)(void *)filter;
    code = take_unread(tls, &options);
    code = code < 0 ? code : tepal_transport_push_filter(transport, filter, future);
    if (code < 0) {
        tpi_tls_free(tls);
        return code;
    }
    tpi_tls_begin_soon(tls);
    return 0;
}
