/* getaddrinfo(3) for tests: see the header. It runs on the library's threads, so it never fails a test itself. */
#include "unit/resolver_stub.h"

#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

typedef int (*resolver)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static sem_t begun;
static sem_t released;
static atomic_int flags;

__attribute__((constructor)) static void make_semaphores(void) {
    sem_init(&begun, 0, 0);
    sem_init(&released, 0, 0);
}

static void take(sem_t *semaphore) {
    while (sem_wait(semaphore) != 0 && errno == EINTR) {
    }
}

void resolver_stub_wait(void) {
    take(&begun);
}

void resolver_stub_release(void) {
    sem_post(&released);
}

int resolver_stub_flags(void) {
    return atomic_load(&flags);
}

static int libc_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                            struct addrinfo **list) {
    resolver next;
    *(void **)&next = dlsym(RTLD_NEXT, "getaddrinfo");
    return next(host, service, hints, list);
}

/* Lists that libc made, chained: freeaddrinfo(3) takes them as one. */
static int fixed_list(const char *service, const struct addrinfo *hints, struct addrinfo **list) {
    static const char *const literals[] = {"127.0.0.1", "::1", "127.0.0.2"};
    struct addrinfo any = *hints;
    struct addrinfo **end = list;

    any.ai_family = AF_UNSPEC;
    for (size_t i = 0; i < 3; i++) {
        const int status = libc_getaddrinfo(literals[i], service, &any, end);
        if (status != 0) {
            return status;
        }
        while (*end != NULL) {
            end = &(*end)->ai_next;
        }
    }
    return 0;
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **list) {
    const size_t length = host != NULL ? strlen(host) : 0;
    int number;

    if (length < 5 || strcmp(host + length - 5, ".stub") != 0) {
        return libc_getaddrinfo(host, service, hints, list);
    }
    atomic_store(&flags, hints->ai_flags);
    if (sscanf(host, "eai-%d.stub", &number) == 1) {
        return number;
    }
    if (sscanf(host, "errno-%d.stub", &number) == 1) {
        errno = number;
        return EAI_SYSTEM;
    }
    if (strcmp(host, "slow.stub") == 0) {
        sem_post(&begun);
        take(&released);
    }
    return fixed_list(service, hints, list);
}
