/*
 * create_server: looks up the names among the hosts, one after the other, then makes the server as listen does. It must
 * complete its future exactly once whatever comes first: the server, an error, a cancellation or the end of the loop.
 */
#include "net/server.h"

/* While it looks for names. One block of memory holds it and what its options point to. */
typedef struct tpi_creation {
    tpi_closer closer;
    tpi_resolve resolve;
    tepal_loop *loop;
    tepal_future *future; /* a reference; NULL once it is over */
    tepal_factory factory;
    void *argument;
    tepal_server_options options;
    tepal_transport_options transport;
    tpi_places places;
    tpi_way *way; /* to set up TLS; NULL: none is wanted, or the server has it */
    size_t next;  /* of the hosts */
} tpi_creation;

static void creation_free(tpi_creation *creation) {
    tpi_realloc allocate = creation->loop->realloc;

    if (creation->way != NULL) {
        tpi_tls.close(creation->loop, creation->way);
    }
    tpi_free(allocate, creation->places.first);
    tpi_free(allocate, creation);
}

/* Nothing more will come of it but the end of a resolving, if one is under way. Returns the future. */
static tepal_future *creation_end(tpi_creation *creation) {
    tepal_future *future = creation->future;

    creation->future = NULL;
    tepal_future_set_cancel_hook(future, NULL, NULL);
    tpi_loop_remove_closer(&creation->closer);
    return future;
}

static void creation_fail(tpi_creation *creation, const tepal_error *error) {
    tepal_future *future = creation_end(creation);

    (void)tepal_future_set_error(future, error);
    tepal_future_unref(future);
}

static void unref_server(void *server) {
    tepal_server_unref(server);
}

/* Every name is known: open the sockets. */
static void creation_finish(tpi_creation *creation) {
    tepal_address path;
    tepal_server *server;
    tepal_error error;

    if (tpi_server_make(creation->loop, creation->factory, creation->argument, &creation->options, &creation->places,
                        &path, &creation->way, &server, &error) < 0) {
        creation_fail(creation, &error);
        return;
    }
    tepal_future *future = creation_end(creation);
    (void)tepal_future_set_result(future, server, unref_server);
    tepal_future_unref(future);
}

/* Go on with the hosts. True while a name is being looked up; false once it is over. */
static bool creation_go_on(tpi_creation *creation) {
    tpi_driver *driver = creation->loop->driver;
    tpi_resolve *resolve = &creation->resolve;
    tepal_address address;
    int code = 0;

    while (code >= 0 && creation->next < creation->options.host_count) {
        const char *host = creation->options.hosts[creation->next++];
        if (tepal_address_parse(&address, host, creation->options.port) == 0) {
            code = tpi_places_add(&creation->places, creation->loop->realloc, &address, false);
            continue;
        }
        memcpy(resolve->host, host, strlen(host) + 1);
        resolve->code = 0;
        resolve->count = 0;
        resolve->addresses = NULL;
        code = driver->ops->resolve(driver, resolve);
        if (code == 0) {
            return true;
        }
    }
    if (code < 0) {
        creation_fail(creation, &(tepal_error){.code = code, .text = tepal_strerror(code)});
    } else {
        creation_finish(creation);
    }
    return false;
}

static void creation_resolved(tpi_resolve *resolve) {
    tpi_creation *self = (tpi_creation *)((char *)resolve - offsetof(tpi_creation, resolve));
    int code = resolve->code;

    for (size_t index = 0; self->future != NULL && code >= 0 && index < resolve->count; index++) {
        code = tpi_places_add(&self->places, self->loop->realloc, &resolve->addresses[index], true);
    }
    tpi_free(self->loop->realloc, resolve->addresses);
    resolve->addresses = NULL;
    if (self->future != NULL && code < 0) {
        creation_fail(self, &(tepal_error){.code = code, .text = tepal_strerror(code)});
    }
    if (self->future == NULL || !creation_go_on(self)) {
        creation_free(self);
    }
}

static void creation_canceled(tepal_future *future, void *argument) {
    tpi_creation *creation = argument;
    tpi_driver *driver = creation->loop->driver;

    (void)creation_end(creation);
    driver->ops->resolve_cancel(driver, &creation->resolve);
    tepal_future_unref(future);
}

static void creation_closing(tpi_closer *closer) {
    tpi_creation *self = (tpi_creation *)((char *)closer - offsetof(tpi_creation, closer));
    tpi_driver *driver = self->loop->driver;

    creation_fail(self, &(tepal_error){.code = TEPAL_ECLOSED, .text = tepal_strerror(TEPAL_ECLOSED)});
    driver->ops->resolve_cancel(driver, &self->resolve);
}

/* The same in a forked child, where the driver forgets the request without a word. */
static void creation_abandoned(tpi_closer *closer) {
    tpi_creation *self = (tpi_creation *)((char *)closer - offsetof(tpi_creation, closer));

    creation_fail(self, &(tepal_error){.code = TEPAL_ECLOSED, .text = tepal_strerror(TEPAL_ECLOSED)});
    creation_free(self);
}

/* A creation with a copy of the options in the same block of memory. NULL if memory is short. */
static tpi_creation *creation_new(tepal_loop *loop, const tepal_server_options *options) {
    const size_t path_bytes = options->unix_path == NULL ? 0 : strlen(options->unix_path) + 1;
    size_t bytes = sizeof(tpi_creation) + path_bytes;

    for (size_t index = 0; index < options->host_count; index++) {
        bytes += sizeof(char *) + strlen(options->hosts[index]) + 1;
    }
    bytes += options->fd_count * sizeof(int);
    tpi_creation *made = tpi_alloc_zero(loop->realloc, bytes);
    if (made == NULL) {
        return NULL;
    }
    const char **hosts = (const char **)(made + 1);
    int *fds = (int *)(hosts + options->host_count);
    char *text = (char *)(fds + options->fd_count);

    made->options = *options;
    made->transport = *options->transport;
    made->options.transport = &made->transport;
    made->options.hosts = hosts;
    made->options.fds = fds;
    for (size_t index = 0; index < options->host_count; index++) {
        const size_t length = strlen(options->hosts[index]) + 1;
        memcpy(text, options->hosts[index], length);
        hosts[index] = text;
        text += length;
    }
    if (options->fd_count > 0) {
        memcpy(fds, options->fds, options->fd_count * sizeof(int));
    }
    if (path_bytes > 0) {
        memcpy(text, options->unix_path, path_bytes);
        made->options.unix_path = text;
    }
    return made;
}

int tepal_loop_create_server(tepal_loop *loop, tepal_factory factory, void *argument, const tepal_server_options *given,
                             tepal_future **future) {
    tepal_transport_options transport = {0};
    tepal_server_options options = {0};
    tepal_future *result;
    int code = tpi_loop_check(loop);

    if (code >= 0) {
        code = factory == NULL ? TEPAL_EINVAL : tpi_server_read_options(&options, &transport, given);
    }
    if (code < 0 || (code = tepal_future_new(loop, &result)) < 0) {
        return code;
    }
    tpi_creation *creation = creation_new(loop, &options);
    if (creation == NULL) {
        code = TEPAL_ENOMEM;
    } else {
        creation->loop = loop;
        creation->factory = factory;
        creation->argument = argument;
        creation->resolve.port = options.port;
        creation->resolve.passive = true;
        creation->resolve.done = creation_resolved;
        creation->resolve.realloc = loop->realloc;
        if (options.tls != NULL) {
            code = tpi_tls.open(loop, options.tls, TPI_ACCEPTS, NULL, &creation->way);
        }
        if (code >= 0 && tpi_server_is_wildcard(&creation->options)) {
            code = tpi_places_add_wildcard(&creation->places, loop->realloc, &creation->options);
        }
    }
    if (code < 0) {
        if (creation != NULL) {
            creation_free(creation);
        }
        tepal_future_unref(result);
        return code;
    }
    creation->future = tepal_future_ref(result);
    creation->closer.closing = creation_closing;
    creation->closer.abandoned = creation_abandoned;
    tpi_loop_add_closer(loop, &creation->closer);
    tepal_future_set_cancel_hook(result, creation_canceled, creation);
    if (!creation_go_on(creation)) {
        creation_free(creation);
    }
    *future = result;
    return 0;
}

int tepal_server_result(tepal_future *future, tepal_server **server) {
    void *value;
    const int code = tepal_future_result(future, &value);

    if (code < 0) {
        return code;
    }
    *server = tepal_server_ref(value);
    return 0;
}
