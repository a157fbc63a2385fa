/*
 * Names to addresses through a future: the driver's resolve, whose request is part of the future.
 */
#include "future/future.h"

#include <netinet/in.h>
#include <string.h>
#include <tepal/connect.h>
#include "base/alloc.h"

enum { LONGEST_NAME = 253 }; /* RFC 1035's 255 octets on the wire, as text */

typedef struct resolution {
    tepal_future future;
    tpi_resolve request;
    tpi_closer closer;
    tepal_addresses value;
} resolution;

/* From dispatch, once: the request's reference to the future ends here. */
static void resolution_done(tpi_resolve *request) {
    resolution *self = (resolution *)((char *)request - offsetof(resolution, request));
    tepal_future *future = &self->future;

    tpi_loop_remove_closer(&self->closer);
    if (request->code == TEPAL_ECANCELED) {
        tpi_future_end_canceled(future);
    } else if (request->code < 0) {
        (void)tepal_future_set_code(future, request->code);
    } else {
        self->value = (tepal_addresses){.count = request->count, .address = request->addresses};
        (void)tepal_future_set_result(future, &self->value, NULL); /* fails if it was cancelled meanwhile */
    }
    tepal_future_unref(future);
}

static void resolution_canceled(tepal_future *future) {
    tpi_resolve *request = &((resolution *)future)->request;
    tpi_driver *driver = request->job.driver;
    if (driver != NULL) {
        driver->ops->resolve_cancel(driver, request);
    }
}

static void resolution_finalize(tepal_future *future) {
    tpi_free(future->loop->realloc, ((resolution *)future)->request.addresses);
}

/* As the executor's: the loop is closed in a forked child. */
static void resolution_abandoned(tpi_closer *closer) {
    resolution *self = (resolution *)((char *)closer - offsetof(resolution, closer));
    tpi_future_end_canceled(&self->future);
    tepal_future_unref(&self->future);
}

static const tpi_future_type resolution_type = {.canceled = resolution_canceled, .finalize = resolution_finalize};

int tepal_loop_getaddrinfo(tepal_loop *loop, const char *host, uint16_t port, int family, bool passive,
                           tepal_future **future) {
    tepal_future *made;
    const size_t length = host != NULL ? strnlen(host, LONGEST_NAME + 1) : 0;

    if ((host != NULL && length == 0) || length > LONGEST_NAME ||
        (family != 0 && family != AF_INET && family != AF_INET6)) {
        return TEPAL_EINVAL;
    }
    int code = tpi_future_create(loop, sizeof(resolution), &resolution_type, &made);
    if (code < 0) {
        return code;
    }
    resolution *self = (resolution *)made;
    if (length > 0) {
        memcpy(self->request.host, host, length);
    }
    self->request.port = port;
    self->request.family = family;
    self->request.passive = passive;
    self->request.done = resolution_done;
    self->closer.abandoned = resolution_abandoned;
    code = loop->driver->ops->resolve(loop->driver, &self->request);
    if (code < 0) {
        tepal_future_unref(made);
        return code;
    }
    tpi_loop_add_closer(loop, &self->closer);
    *future = tepal_future_ref(made); /* one is the caller's, one the request's */
    return 0;
}
