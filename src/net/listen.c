/*
 * Making servers: from options to sockets that listen, all of them or none. What happens on those sockets is server.c's.
 * It must not leave a socket, a file or a borrowed descriptor behind when one of them cannot be had.
 */
#include "base/options.h"
#include "net/server.h"

#include <netinet/in.h>

/* How often to look for a port that is free at every address, before giving each its own. */
#define PORT_ATTEMPTS 16

/* Options */

int tpi_server_read_options(tepal_server_options *options, tepal_transport_options *transport,
                            const tepal_server_options *given) {
    int code = given == NULL ? TEPAL_EINVAL : tpi_options_copy(options, sizeof *options, given);

    if (code < 0 || options->backlog < 0 || (options->host_count > 0 && options->hosts == NULL) ||
        (options->fd_count > 0 && options->fds == NULL)) {
        return TEPAL_EINVAL;
    }
    for (size_t index = 0; index < options->host_count; index++) {
        const char *host = options->hosts[index];
        if (host == NULL || host[0] == '\0' || strnlen(host, sizeof((tpi_resolve *)0)->host) > 253) {
            return TEPAL_EINVAL;
        }
    }
    code = tpi_options_copy(transport, sizeof *transport, options->transport);
    transport->size = sizeof *transport;
    /* What is accepted is nobody else's. */
    transport->borrow = false;
    transport->released = NULL;
    options->transport = transport;
    return code;
}

/* Places */

int tpi_places_add(tpi_places *places, tpi_realloc allocate, const tepal_address *address, bool optional) {
    for (size_t index = 0; index < places->count; index++) {
        const tepal_address *other = &places->first[index].address;
        if (other->length == address->length && memcmp(&other->storage, &address->storage, address->length) == 0) {
            return 0; /* a name may lead twice to the same address */
        }
    }
    if (places->count == places->room) {
        const size_t room = places->room == 0 ? 4 : 2 * places->room;
        tpi_place *grown = allocate(places->first, room * sizeof *grown);
        if (grown == NULL) {
            return TEPAL_ENOMEM;
        }
        places->first = grown;
        places->room = room;
    }
    places->first[places->count++] = (tpi_place){.address = *address, .optional = optional};
    return 0;
}

/* No host, path or descriptor is given: every address of this machine. */
int tpi_places_add_wildcard(tpi_places *places, tpi_realloc allocate, const tepal_server_options *options) {
    tepal_address address;
    int code;

    if ((code = tepal_address_parse(&address, "::", options->port)) < 0 ||
        (code = tpi_places_add(places, allocate, &address, true)) < 0 ||
        (code = tepal_address_parse(&address, "0.0.0.0", options->port)) < 0) {
        return code;
    }
    return tpi_places_add(places, allocate, &address, true);
}

bool tpi_server_is_wildcard(const tepal_server_options *options) {
    return options->host_count == 0 && options->unix_path == NULL && options->fd_count == 0;
}

/* Opening */

static bool is_inet(const tepal_address *address) {
    return address->storage.ss_family == AF_INET || address->storage.ss_family == AF_INET6;
}

static void set_port(tepal_address *address, uint16_t port) {
    if (address->storage.ss_family == AF_INET6) {
        ((struct sockaddr_in6 *)&address->storage)->sin6_port = htons(port);
    } else if (address->storage.ss_family == AF_INET) {
        ((struct sockaddr_in *)&address->storage)->sin_port = htons(port);
    }
}

static int bind_listener(tpi_listener *listener, const tepal_server_options *options) {
    tpi_driver *driver = listener->server->loop->driver;
    const tpi_driver_ops *ops = driver->ops;
    tpi_object *object = &listener->object;
    const tepal_address *address = &listener->address;
    int code = 0;

    if (is_inet(address) && !options->no_reuse_address) {
        code = ops->set(driver, object, TPI_OPTION_REUSE_ADDRESS, 1);
    }
    if (code >= 0 && is_inet(address) && options->reuse_port) {
        code = ops->set(driver, object, TPI_OPTION_REUSE_PORT, 1);
    }
    if (code >= 0 && address->storage.ss_family == AF_INET6) {
        code = ops->set(driver, object, TPI_OPTION_IPV6_ONLY, !options->ipv4_mapped);
    }
    if (code < 0) {
        return code;
    }
    code = ops->bind(driver, object, address);
    if (code == TEPAL_SYSTEM(EADDRINUSE) && !ops->simulated && tpi_unix_is_dead(address)) {
        code = tpi_unix_remove(address);
        if (code == 0 || code == TEPAL_ENOENT) {
            code = ops->bind(driver, object, address);
        }
    }
    if (code < 0) {
        return code;
    }
    if (!ops->simulated) {
        tpi_unix_file_note(&listener->file, address);
    }
    if (!options->do_not_start) {
        code = ops->listen(driver, object, listener->server->backlog);
        listener->listening = code == 0;
    }
    return code;
}

/* Open a socket for this address and add it to the server. */
static int open_address(tepal_server *server, const tepal_address *address, const tepal_server_options *options) {
    tpi_driver *driver = server->loop->driver;
    tpi_listener *listener = tpi_listener_new(server);

    if (listener == NULL) {
        return TEPAL_ENOMEM;
    }
    listener->address = *address;
    int code = driver->ops->open(driver, &listener->object, TPI_LISTENER, address->storage.ss_family);
    if (code < 0) {
        tpi_listener_discard(listener);
        return code;
    }
    code = bind_listener(listener, options);
    if (code < 0) {
        tpi_listener_retire(listener);
        return code;
    }
    server->listeners[server->listener_count++] = listener;
    return 0;
}

/* Take a descriptor of the user's, for as long as the server is open. */
static int open_borrowed(tepal_server *server, int fd) {
    tpi_driver *driver = server->loop->driver;
    tpi_listener *listener = tpi_listener_new(server);
    if (listener == NULL) {
        return TEPAL_ENOMEM;
    }
    listener->object.borrowed = true;
    const int code = driver->ops->adopt(driver, &listener->object, fd, TPI_LISTENER, 0);
    if (code < 0) {
        tpi_listener_discard(listener);
        return code;
    }
    server->listeners[server->listener_count++] = listener;
    return driver->ops->query(driver, &listener->object, TPI_QUERY_LISTENING, &listener->listening);
}

/* Give up the sockets opened so far. */
static void retire_all(tepal_server *server) {
    while (server->listener_count > 0) {
        tpi_listener_retire(server->listeners[--server->listener_count]);
    }
}

/* What a machine says that has no IPv6, or not there. */
static bool is_absent(int code) {
    return code == TEPAL_SYSTEM(EAFNOSUPPORT) || code == TEPAL_SYSTEM(EPROTONOSUPPORT) ||
           code == TEPAL_SYSTEM(EADDRNOTAVAIL);
}

/*
 * Open every place. With same_port the port that the system chose for the first is asked for at the others.
 * *failed is the address that could not be had; it is set with an error only.
 */
static int open_places(tepal_server *server, tpi_places *places, const tepal_server_options *options, bool same_port,
                       const tepal_address **failed) {
    tpi_driver *driver = server->loop->driver;
    uint16_t port = options->port;
    bool dual = false;
    int code = 0;

    for (size_t index = 0; index < places->count; index++) {
        tpi_place *place = &places->first[index];
        if (dual && place->optional) {
            continue; /* the IPv6 wildcard takes IPv4 too, and would be in the way */
        }
        set_port(&place->address, port);
        const int result = open_address(server, &place->address, options);
        if (result < 0 && place->optional && is_absent(result)) {
            code = result; /* an error after all if none of them can be had */
            *failed = &place->address;
            continue;
        }
        if (result < 0) {
            *failed = &place->address;
            return result;
        }
        dual = options->ipv4_mapped && tpi_server_is_wildcard(options) && place->address.storage.ss_family == AF_INET6;
        if (port == 0 && same_port) {
            tepal_address local;
            const int known = driver->ops->query(driver, &server->listeners[server->listener_count - 1]->object,
                                                 TPI_QUERY_LOCAL, &local);
            const int chosen = known < 0 ? known : tepal_address_port(&local);
            if (chosen < 0) {
                *failed = &place->address;
                return chosen;
            }
            port = (uint16_t)chosen;
        }
    }
    return server->listener_count > 0 ? 0 : code;
}

static int open_everything(tepal_server *server, tpi_places *places, tepal_address *path,
                           const tepal_server_options *options, const tepal_address **failed) {
    int code = 0;

    /* The port that the system chose at one address may be taken at another: then choose again. */
    for (int attempt = 0; attempt < PORT_ATTEMPTS; attempt++) {
        const bool last = attempt + 1 == PORT_ATTEMPTS;
        code = open_places(server, places, options, !last, failed);
        if (code != TEPAL_SYSTEM(EADDRINUSE) || options->port != 0 || places->count < 2) {
            break;
        }
        if (!last) {
            retire_all(server);
        }
    }
    if (code >= 0 && options->unix_path != NULL) {
        *failed = NULL;
        code = tpi_unix_address(path, options->unix_path);
        if (code == 0) {
            code = open_address(server, path, options);
            *failed = path;
        }
    }
    for (size_t index = 0; code >= 0 && index < options->fd_count; index++) {
        *failed = NULL;
        code = open_borrowed(server, options->fds[index]);
    }
    return code;
}

/*
 * Make the server of these options and places. On an error *error says which, with the address concerned, which is of
 * places or of path.
 */
int tpi_server_make(tepal_loop *loop, tepal_factory factory, void *argument, const tepal_server_options *options,
                    tpi_places *places, tepal_address *path, tpi_way **way, tepal_server **out, tepal_error *error) {
    const size_t room = places->count + options->fd_count + 1;
    const tepal_address *failed = NULL;
    tepal_server *server = tpi_server_new(loop, factory, argument, options, room);

    if (server == NULL) {
        *error = (tepal_error){.code = TEPAL_ENOMEM, .text = tepal_strerror(TEPAL_ENOMEM)};
        return TEPAL_ENOMEM;
    }
    server->transport = *options->transport;
    server->way = *way;
    *way = NULL;
    int code = open_everything(server, places, path, options, &failed);
    if (code >= 0 && !options->do_not_start) {
        failed = NULL;
        code = tepal_server_start_serving(server);
    }
    if (code < 0) {
        *error = (tepal_error){.code = code, .text = tepal_strerror(code), .address = failed};
        tepal_server_close(server);
        tepal_server_unref(server);
        return code;
    }
    *out = server;
    return 0;
}

int tepal_loop_listen(tepal_loop *loop, tepal_factory factory, void *argument, const tepal_server_options *given,
                      tepal_server **server) {
    tepal_transport_options transport = {0};
    tepal_server_options options = {0};
    tpi_places places = {0};
    tepal_address path, address;
    tepal_error error;
    tpi_way *way = NULL;
    int code = tpi_loop_check(loop);

    if (code >= 0) {
        code = factory == NULL ? TEPAL_EINVAL : tpi_server_read_options(&options, &transport, given);
    }
    if (code >= 0 && options.tls != NULL) {
        code = tpi_tls.open(loop, options.tls, TPI_ACCEPTS, NULL, &way);
    }
    if (code < 0) {
        return code;
    }
    if (tpi_server_is_wildcard(&options)) {
        code = tpi_places_add_wildcard(&places, loop->realloc, &options);
    }
    for (size_t index = 0; code >= 0 && index < options.host_count; index++) {
        code = tepal_address_parse(&address, options.hosts[index], options.port);
        if (code >= 0) {
            code = tpi_places_add(&places, loop->realloc, &address, false);
        }
    }
    if (code >= 0) {
        code = tpi_server_make(loop, factory, argument, &options, &places, &path, &way, server, &error);
    }
    if (way != NULL) {
        tpi_tls.close(loop, way);
    }
    tpi_free(loop->realloc, places.first);
    return code;
}
