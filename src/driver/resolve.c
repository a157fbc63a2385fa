/*
 * Names by getaddrinfo(3), on the offload threads. A thread leaves the resolver's list in the request as it is; it is
 * copied into the loop's memory when the job is delivered, so the loop's allocator is never called from a thread here.
 */
#include "driver/resolve.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include "base/alloc.h"

static tpi_resolve *request_of(tpi_job *job) {
    return (tpi_resolve *)job; /* its first member */
}

static int resolver_code(int status, int system_error) {
    switch (status) {
    case 0:
        return 0;
    case EAI_SYSTEM:
        return TEPAL_SYSTEM(system_error != 0 ? system_error : EIO);
    case EAI_MEMORY:
        return TEPAL_ENOMEM;
    default:
        return TEPAL_ERROR(TEPAL_DOMAIN_RESOLVER, abs(status)); /* negative on some systems, positive on others */
    }
}

/*
 * On a thread. No AI_ADDRCONFIG: it hides 127.0.0.1 and ::1 on a machine whose only interface is the loopback one, and
 * the order that the resolver gives already puts what can be reached first.
 */
static void resolve_work(tpi_job *job) {
    tpi_resolve *request = request_of(job);
    struct addrinfo hints = {.ai_family = request->family,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICSERV | (request->passive ? AI_PASSIVE : 0)};
    struct addrinfo *list = NULL;
    char service[8];

    (void)snprintf(service, sizeof service, "%u", (unsigned)request->port);
    errno = 0;
    const int status = getaddrinfo(request->host[0] != '\0' ? request->host : NULL, service, &hints, &list);
    request->code = resolver_code(status, errno);
    request->resolved = status == 0 ? list : NULL;
}

static bool usable(const struct addrinfo *entry) {
    return (entry->ai_family == AF_INET || entry->ai_family == AF_INET6) &&
           entry->ai_addrlen <= sizeof(struct sockaddr_storage);
}

/* 0, with the addresses in request; or why there are none. */
static int copy_addresses(tpi_resolve *request, const struct addrinfo *list, tpi_realloc allocate) {
    size_t count = 0;

    for (const struct addrinfo *entry = list; entry != NULL; entry = entry->ai_next) {
        count += usable(entry);
    }
    if (count == 0) {
        return TEPAL_ERROR(TEPAL_DOMAIN_RESOLVER, abs(EAI_NONAME));
    }
    tepal_address *addresses = tpi_alloc_zero(allocate, count * sizeof *addresses);
    if (addresses == NULL) {
        return TEPAL_ENOMEM;
    }
    request->addresses = addresses;
    request->count = count;
    for (const struct addrinfo *entry = list; entry != NULL; entry = entry->ai_next) {
        if (usable(entry)) {
            addresses->length = entry->ai_addrlen;
            memcpy(&addresses->storage, entry->ai_addr, entry->ai_addrlen);
            addresses++;
        }
    }
    return 0;
}

static void resolve_done(tpi_job *job, int status) {
    tpi_resolve *request = request_of(job);
    struct addrinfo *list = request->resolved;

    request->resolved = NULL;
    if (status != 0) {
        list = NULL; /* the work never began, or what a thread left was lost in a fork */
        request->code = status;
    } else if (request->canceled) {
        request->code = TEPAL_ECANCELED;
    } else if (request->code == 0) {
        request->code = copy_addresses(request, list, request->realloc);
    }
    if (list != NULL) {
        freeaddrinfo(list);
    }
    request->done(request);
}

int tpi_resolve_submit(tpi_offload *offload, tpi_resolve *request) {
    request->job.work = resolve_work;
    request->job.done = resolve_done;
    request->realloc = offload->driver->realloc;
    request->resolved = NULL;
    request->canceled = false;
    request->code = 0;
    request->count = 0;
    request->addresses = NULL;
    return tpi_offload_submit(offload, &request->job);
}

void tpi_resolve_cancel(tpi_offload *offload, tpi_resolve *request) {
    request->canceled = true;
    tpi_offload_cancel(offload, &request->job);
}
