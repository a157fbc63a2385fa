/*
 * Connecting: from a name or an address to a transport with its protocol, through a future. Addresses are tried one
 * after the other, each with a transport of its own.
 *
 * Nothing of it runs inside tepal_loop_create_connection(), whatever connects at once: it begins from the ready queue.
 * It must complete the future exactly once, and never leave an open descriptor behind, whatever comes first: success,
 * an error, the time limit, a cancellation or the end of the loop. After the factory has made a protocol nothing can
 * fail any more.
 */
#include <netdb.h>
#include <tepal/connect.h>
#include "base/address.h"
#include "base/options.h"
#include "net/setup.h"
#include "net/unix.h"

/*
 * A Unix socket whose backlog is full says EAGAIN where a blocking connect(2) would wait. It is asked again after these
 * pauses, each twice the one before, for as long as the caller's time limit allows.
 */
#define BACKLOG_FIRST_NS TEPAL_MS(1)
#define BACKLOG_LONGEST_NS TEPAL_MS(50)

/* An attempt that failed. */
typedef struct tpi_failure {
    tepal_error error;
    tepal_address address;
} tpi_failure;

typedef struct tpi_dial {
    tepal_work start;
    tpi_closer closer;
    tpi_resolve resolve;
    tepal_timer limit;
    tepal_timer backlog; /* until a Unix socket is asked again */
    int64_t backlog_delay_ns;
    tepal_loop *loop;
    tepal_future *future; /* a reference; NULL once it is over */
    tepal_factory factory;
    void *argument;
    tepal_connect_options options; /* without what it points to */
    tepal_transport_options transport_options;
    tpi_way *way; /* to set up TLS; NULL: none is wanted */
    tepal_address local;
    tepal_address *addresses; /* to be tried; NULL while they are looked for */
    tpi_failure *failures;    /* room for one per address */
    size_t count;
    size_t next; /* of the addresses */
    size_t failed;
    tepal_transport *transport; /* of the attempt under way */
    unsigned holds;             /* what will still come back to it: the start, the resolving, its own functions */
    bool resolving;
} tpi_dial;

static const tpi_upcalls dial_upcalls;

/* The end */

static void dial_let_go(tpi_dial *dial) {
    tpi_realloc allocate = dial->loop->realloc;

    if (--dial->holds > 0 || dial->future != NULL) {
        return;
    }
    if (dial->way != NULL) {
        tpi_tls.close(dial->loop, dial->way);
    }
    tpi_free(allocate, dial->addresses);
    tpi_free(allocate, dial->failures);
    tpi_free(allocate, dial);
}

/* Give up the attempt under way. The transport goes when the driver has let go of it. */
static void dial_drop_transport(tpi_dial *dial) {
    tpi_driver *driver = dial->loop->driver;
    tepal_transport *transport = dial->transport;

    if (transport != NULL) {
        dial->transport = NULL;
        transport->owner = NULL;
        if (transport->flags & TPI_SETTING_UP) {
            tpi_setup_forsake(transport, TEPAL_ECANCELED);
        } else {
            driver->ops->close(driver, &transport->object);
        }
    }
}

/* From here on nothing but the caller completes the future, which is returned with its reference. */
static tepal_future *dial_detach(tpi_dial *dial) {
    tepal_future *future = dial->future;

    dial->future = NULL;
    tepal_future_set_cancel_hook(future, NULL, NULL);
    tpi_loop_remove_closer(&dial->closer);
    (void)tepal_timer_stop(dial->loop, &dial->limit);
    (void)tepal_timer_stop(dial->loop, &dial->backlog);
    return future;
}

/* It is over, without a connection. */
static tepal_future *dial_give_up(tpi_dial *dial) {
    tpi_driver *driver = dial->loop->driver;
    tepal_future *future = dial_detach(dial);

    if (dial->resolving) {
        driver->ops->resolve_cancel(driver, &dial->resolve);
    }
    dial_drop_transport(dial);
    return future;
}

/* It has failed. error may point into dial. */
static void dial_fail(tpi_dial *dial, const tepal_error *error) {
    tepal_future *future = dial_give_up(dial);

    (void)tepal_future_set_error(future, error);
    tepal_future_unref(future);
}

static const tepal_error *dial_last_failure(const tpi_dial *dial) {
    return dial->failed > 0 ? &dial->failures[dial->failed - 1].error : NULL;
}

static void dial_fail_code(tpi_dial *dial, int code) {
    const bool trying = dial->transport != NULL;
    const tepal_error error = {.code = code,
                               .text = tepal_strerror(code),
                               .address = trying ? &dial->addresses[dial->next - 1] : NULL,
                               .next = dial_last_failure(dial)};
    dial_fail(dial, &error);
}

static void dial_canceled(tepal_future *future, void *argument) {
    tpi_dial *dial = argument;

    dial->holds++;
    (void)dial_give_up(dial);
    tepal_future_unref(future);
    dial_let_go(dial);
}

static void dial_closing(tpi_closer *closer) {
    tpi_dial *dial = (tpi_dial *)((char *)closer - offsetof(tpi_dial, closer));

    dial->holds++;
    dial_fail_code(dial, TEPAL_ECLOSED);
    dial_let_go(dial);
}

/*
 * The same in a forked child, where neither the driver nor the ready queue says another word. The driver takes care of
 * the transport.
 */
static void dial_abandoned(tpi_closer *closer) {
    tpi_dial *dial = (tpi_dial *)((char *)closer - offsetof(tpi_dial, closer));

    dial->holds = 1;
    dial->resolving = false;
    if (dial->transport != NULL) {
        dial->transport->owner = NULL;
        dial->transport = NULL;
    }
    dial_fail_code(dial, TEPAL_ECLOSED);
    dial_let_go(dial);
}

static void dial_out_of_time(tepal_work *work, int status) {
    tpi_dial *dial = (tpi_dial *)((char *)work - offsetof(tpi_dial, limit.work));

    if (status == 0) {
        dial->holds++;
        dial_fail_code(dial, TEPAL_ETIMEDOUT);
        dial_let_go(dial);
    }
}

/* Success */

/* A TCP socket with a port out of the range it connects to can meet itself, where nobody listens: a refusal. */
static bool is_own_peer(const tpi_dial *dial) {
    tpi_driver *driver = dial->loop->driver;
    tepal_address local;

    return driver->ops->query(driver, &dial->transport->object, TPI_QUERY_LOCAL, &local) == 0 &&
           tpi_address_is_same_port(&local, &dial->addresses[dial->next - 1]);
}

static void unref_transport(void *transport) {
    tepal_transport_unref(transport);
}

/* The connection stands: protocol, connection_made, and only then the future. */
static void dial_deliver(tpi_dial *dial) {
    const tepal_address *address = &dial->addresses[dial->next - 1];
    tepal_protocol *protocol = NULL;

    tepal_future *future = dial_detach(dial);
    int code = dial->factory(dial->argument, &protocol);
    if (code >= 0 && protocol == NULL) {
        code = TEPAL_EINVAL;
    }
    if (code < 0) {
        const tepal_error error = {.code = code, .text = tepal_strerror(code), .address = address};
        dial_drop_transport(dial);
        (void)tepal_future_set_error(future, &error);
        tepal_future_unref(future);
        return;
    }
    tepal_transport *transport = tepal_transport_ref(dial->transport); /* the future's */
    const bool was_set_up = (transport->flags & TPI_SETTING_UP) != 0;
    dial->transport = NULL;
    transport->owner = NULL;
    if (was_set_up) {
        tpi_setup_finish(transport, protocol);
    } else {
        tpi_transport_made(transport, protocol);
    }
    if (tepal_future_set_result(future, transport, unref_transport) < 0) {
        /* Cancelled by the factory or by connection_made: too late to be silent, for the protocol must be ended. */
        tepal_transport_abort(transport, TEPAL_ECANCELED);
        tepal_transport_unref(transport);
    } else if (was_set_up) {
        tpi_setup_established(transport); /* after what waits for the future, it may read */
    }
    tepal_future_unref(future);
}

/* The handshake is done, or has failed, with which the transport is lost. */
static void dial_set_up(tepal_transport *transport, void *argument, const tepal_error *failure) {
    tpi_dial *dial = argument;
    (void)transport;

    dial->holds++;
    if (failure == NULL) {
        dial_deliver(dial);
    } else {
        const tepal_error error = {.code = failure->code,
                                   .text = failure->text,
                                   .address = &dial->addresses[dial->next - 1],
                                   .next = dial_last_failure(dial)};
        dial->transport->owner = NULL;
        dial->transport = NULL; /* the loop's, and on its way out */
        dial_fail(dial, &error);
    }
    dial_let_go(dial);
}

/* Connected: now what stands between that and the protocol, if anything does. */
static void dial_stands(tpi_dial *dial) {
    tepal_transport *transport = dial->transport;

    tpi_transport_configure(transport, &dial->transport_options, dial->addresses[dial->next - 1].storage.ss_family);
    if (dial->way == NULL) {
        dial_deliver(dial);
        return;
    }
    const int code = tpi_setup_begin(transport, dial->way, dial_set_up, dial);
    if (code < 0) {
        dial_fail_code(dial, code);
    }
}

/* Attempts */

static int dial_connect(tpi_dial *dial) {
    tpi_driver *driver = dial->loop->driver;
    const tepal_address *address = &dial->addresses[dial->next - 1];
    const int code = driver->ops->connect(driver, &dial->transport->object, address);

    if (code == TEPAL_SYSTEM(EAGAIN) && address->storage.ss_family == AF_UNIX) {
        const int64_t longer_ns = dial->backlog_delay_ns == 0 ? BACKLOG_FIRST_NS : 2 * dial->backlog_delay_ns;
        dial->backlog_delay_ns = longer_ns < BACKLOG_LONGEST_NS ? longer_ns : BACKLOG_LONGEST_NS;
        (void)tepal_timer_start(dial->loop, &dial->backlog, tepal_loop_time(dial->loop) + dial->backlog_delay_ns);
        return TPI_PENDING;
    }
    return code;
}

/* Try the next address. 0 or PENDING, which is also the answer when it is over; or an error. */
static int dial_try(tpi_dial *dial) {
    tpi_driver *driver = dial->loop->driver;
    const tepal_address *address = &dial->addresses[dial->next++];
    const int family = address->storage.ss_family;
    tepal_transport *transport;

    if (dial->options.allow != NULL && dial->options.allow(dial->options.allow_argument, address) < 0) {
        return TEPAL_EREFUSED;
    }
    if (dial->future == NULL) {
        return TPI_PENDING; /* the program's check has cancelled it */
    }
    if (dial->local.length > 0 && dial->local.storage.ss_family != family) {
        return TEPAL_EINVAL;
    }
    int code = tpi_transport_new(dial->loop, &dial->transport_options, &dial_upcalls, &transport);
    if (code < 0) {
        return code;
    }
    code = driver->ops->open(driver, &transport->object, TPI_STREAM, family);
    if (code < 0) {
        tpi_transport_discard(transport);
        return code;
    }
    dial->transport = transport;
    transport->owner = dial;
    if (dial->local.length > 0) {
        code = driver->ops->bind(driver, &transport->object, &dial->local);
    }
    return code < 0 ? code : dial_connect(dial);
}

/* The attempt under way has ended with code, or goes on if that is PENDING: deliver it, or try the next. */
static void dial_advance(tpi_dial *dial, int code) {
    tpi_driver *driver = dial->loop->driver;

    dial->holds++;
    while (dial->future != NULL && code != TPI_PENDING) {
        if (code == 0 && is_own_peer(dial)) {
            (void)driver->ops->set(driver, &dial->transport->object, TPI_OPTION_RESET_ON_CLOSE, 1);
            code = TEPAL_SYSTEM(ECONNREFUSED);
        }
        if (code == 0) {
            dial_stands(dial);
            break;
        }
        dial_drop_transport(dial);
        tpi_failure *failure = &dial->failures[dial->failed];
        failure->address = dial->addresses[dial->next - 1];
        failure->error = (tepal_error){
            .code = code, .text = tepal_strerror(code), .address = &failure->address, .next = dial_last_failure(dial)};
        dial->failed++;
        if (dial->next == dial->count) {
            dial_fail(dial, &failure->error);
            break;
        }
        code = dial_try(dial);
    }
    dial_let_go(dial);
}

static void dial_connected(tpi_object *object, int code) {
    dial_advance(((tepal_transport *)object)->owner, code);
}

static void dial_ask_again(tepal_work *work, int status) {
    tpi_dial *dial = (tpi_dial *)((char *)work - offsetof(tpi_dial, backlog.work));

    if (status == 0) {
        dial_advance(dial, dial_connect(dial));
    }
}

static void dial_closed(tpi_object *object) {
    tpi_transport_discard((tepal_transport *)object);
}

static void dial_ending(tpi_object *object) {
    (void)object; /* the dial has heard of the loop's end first, and closed it */
}

/* Of a transport until it is made; then they are the stream's. */
static const tpi_upcalls dial_upcalls = {
    .connected = dial_connected,
    .closed = dial_closed,
    .ending = dial_ending,
    .abandoned = dial_closed,
};

/* Addresses */

/* The addresses are known: try the first. */
static void dial_begin(tpi_dial *dial) {
    dial->failures = dial->loop->realloc(NULL, dial->count * sizeof *dial->failures);
    if (dial->failures == NULL) {
        dial_fail_code(dial, TEPAL_ENOMEM);
        return;
    }
    dial_advance(dial, dial_try(dial));
}

static void dial_resolved(tpi_resolve *resolve) {
    tpi_dial *dial = (tpi_dial *)((char *)resolve - offsetof(tpi_dial, resolve));

    dial->resolving = false;
    dial->addresses = resolve->addresses;
    dial->count = resolve->count;
    if (dial->future != NULL && resolve->code < 0) {
        dial_fail_code(dial, resolve->code);
    } else if (dial->future != NULL && dial->count == 0) {
        dial_fail_code(dial, TEPAL_ERROR(TEPAL_DOMAIN_RESOLVER, EAI_NONAME < 0 ? -EAI_NONAME : EAI_NONAME));
    } else if (dial->future != NULL) {
        dial_begin(dial);
    }
    dial_let_go(dial);
}

static void dial_start(tepal_work *work, int status) {
    tpi_dial *dial = (tpi_dial *)work;
    tpi_driver *driver = dial->loop->driver;

    if (status < 0 || dial->future == NULL) {
        /* cancelled, or ended with the loop */
    } else if (dial->transport != NULL) {
        dial_stands(dial); /* adopted */
    } else if (dial->addresses != NULL) {
        dial_begin(dial);
    } else {
        const int code = driver->ops->resolve(driver, &dial->resolve);
        if (code == 0) {
            dial->resolving = true;
            return; /* the start's hold is now the resolving's */
        }
        dial_fail_code(dial, code);
    }
    dial_let_go(dial);
}

static int dial_add_literal(tpi_dial *dial, const char *text) {
    tepal_address *address = &dial->addresses[dial->count];
    const int family = dial->options.family;

    if (tepal_address_parse(address, text, dial->options.port) < 0 ||
        (family != 0 && address->storage.ss_family != family)) {
        return TEPAL_EINVAL;
    }
    dial->count++;
    return 0;
}

/* Addresses that no resolver is asked for. 0 if there are some; 1 if host is a name; or an error. */
static int dial_find_literals(tpi_dial *dial, const tepal_connect_options *options) {
    tepal_address address;

    if (options->host != NULL && tepal_address_parse(&address, options->host, options->port) < 0) {
        memcpy(dial->resolve.host, options->host, strlen(options->host) + 1);
        return 1;
    }
    dial->addresses = tpi_alloc_zero(dial->loop->realloc, 2 * sizeof *dial->addresses);
    if (dial->addresses == NULL) {
        return TEPAL_ENOMEM;
    }
    if (options->fd != NULL) {
        dial->count = dial->next = 1; /* the peer's, once it is adopted */
        return 0;
    }
    if (options->unix_path != NULL) {
        dial->count = 1;
        return tpi_unix_address(dial->addresses, options->unix_path);
    }
    if (options->host != NULL) {
        return dial_add_literal(dial, options->host);
    }
    /* The order of getaddrinfo(3). A family that is not asked for is left out. */
    (void)dial_add_literal(dial, "::1");
    (void)dial_add_literal(dial, "127.0.0.1");
    return 0;
}

/* The public face */

static int check_options(const tepal_connect_options *options) {
    if ((options->host != NULL) + (options->unix_path != NULL) + (options->fd != NULL) > 1 ||
        (options->fd != NULL && options->local != NULL)) {
        return TEPAL_EINVAL;
    }
    if (options->family != 0 && options->family != AF_INET && options->family != AF_INET6) {
        return TEPAL_EINVAL;
    }
    if (options->host != NULL && (options->host[0] == '\0' || strnlen(options->host, 254) > 253)) {
        return TEPAL_EINVAL;
    }
    return 0;
}

static int dial_new(tepal_loop *loop, const tepal_connect_options *options, tpi_dial **out) {
    tpi_dial *dial = tpi_alloc_zero(loop->realloc, sizeof *dial);

    if (dial == NULL) {
        return TEPAL_ENOMEM;
    }
    dial->loop = loop;
    dial->holds = 1; /* the start's */
    dial->options = *options;
    int code = tpi_options_copy(&dial->transport_options, sizeof dial->transport_options, options->transport);
    dial->transport_options.size = sizeof dial->transport_options;
    dial->transport_options.borrow = false; /* a descriptor made here is nobody else's */
    dial->transport_options.released = NULL;
    if (options->local != NULL) {
        dial->local = *options->local;
    }
    dial->resolve.port = options->port;
    dial->resolve.family = options->family;
    dial->resolve.done = dial_resolved;
    dial->resolve.realloc = loop->realloc;
    dial->start.run = dial_start;
    dial->closer.closing = dial_closing;
    dial->closer.abandoned = dial_abandoned;
    dial->limit.work.run = dial_out_of_time;
    dial->backlog.work.run = dial_ask_again;
    if (code >= 0 && options->tls != NULL) {
        code = tpi_tls.open(loop, options->tls, options->fd == NULL ? TPI_CONNECTS : TPI_EITHER, options->host,
                            &dial->way);
    }
    if (code >= 0) {
        code = dial_find_literals(dial, options);
    }
    if (code < 0) {
        dial_let_go(dial);
        return code;
    }
    *out = dial;
    return 0;
}

/* Take a socket that is connected already, in the place of the one attempt. On an error it stays the caller's. */
static int dial_adopt(tpi_dial *dial, int fd) {
    tpi_driver *driver = dial->loop->driver;
    tepal_transport *transport;
    int code = tpi_transport_new(dial->loop, &dial->transport_options, &dial_upcalls, &transport);

    if (code < 0) {
        return code;
    }
    code = driver->ops->adopt(driver, &transport->object, fd, TPI_STREAM, 0);
    if (code < 0) {
        tpi_transport_discard(transport);
        return code;
    }
    dial->transport = transport;
    transport->owner = dial;
    if (driver->ops->query(driver, &transport->object, TPI_QUERY_PEER, dial->addresses) < 0) {
        dial->addresses->storage.ss_family = AF_UNIX; /* it has gone already, which reading will tell */
    }
    return 0;
}

int tepal_loop_create_connection(tepal_loop *loop, tepal_factory factory, void *argument,
                                 const tepal_connect_options *given, tepal_future **future) {
    tepal_connect_options options = {0};
    tepal_future *result;
    tpi_dial *dial;
    int code = tpi_loop_check(loop);

    if (code >= 0) {
        code = factory == NULL || given == NULL ? TEPAL_EINVAL : tpi_options_copy(&options, sizeof options, given);
    }
    if (code < 0 || (code = check_options(&options)) < 0 || (code = dial_new(loop, &options, &dial)) < 0) {
        return code;
    }
    code = tepal_future_new(loop, &result);
    if (code < 0) {
        dial_let_go(dial);
        return code;
    }
    if (options.fd != NULL && (code = dial_adopt(dial, *options.fd)) < 0) {
        tepal_future_unref(result);
        dial_let_go(dial);
        return code;
    }
    dial->factory = factory;
    dial->argument = argument;
    dial->future = tepal_future_ref(result);
    tepal_future_set_cancel_hook(result, dial_canceled, dial);
    tpi_loop_add_closer(loop, &dial->closer);
    if (options.limit_ns > 0) {
        const int64_t now_ns = tepal_loop_time(loop);
        const int64_t end_ns = options.limit_ns > INT64_MAX - now_ns ? INT64_MAX : now_ns + options.limit_ns;
        (void)tepal_timer_start(loop, &dial->limit, end_ns);
    }
    tpi_loop_queue(loop, &dial->start);
    *future = result;
    return 0;
}

int tepal_connection_result(tepal_future *future, tepal_transport **transport, tepal_protocol **protocol) {
    void *value;
    const int code = tepal_future_result(future, &value);

    if (code < 0) {
        return code;
    }
    tepal_transport *connection = value;
    if ((connection->flags & TPI_LOST) != 0) {
        return TEPAL_ECLOSED;
    }
    if (transport != NULL) {
        *transport = connection;
    }
    if (protocol != NULL) {
        *protocol = connection->protocol;
    }
    return 0;
}
