/*
 * The simulator as a program sees it: networks, the loops of their hosts, and running them. The network itself is below
 * (src/driver/sim.h), and asks a loop only for what tpi_sim_runner says.
 */
#include "base/options.h"
#include "driver/sim.h"
#include "loop/loop.h"

#define SLOW_NEVER (-1) /* no callback takes virtual time */

/* A loop that belongs to a network, which holds a reference to it. */
struct tpi_sim_loop {
    tpi_sim_loop *next;
    tepal_loop *loop;
};

/* What the network asks of a loop */

static int64_t host_timeout(void *argument, bool waits) {
    tepal_loop *loop = argument;
    return !waits && tepal_loop_is_running(loop) ? -1 : tpi_loop_timeout(loop);
}

static int host_step(void *argument) {
    tepal_loop *loop = argument;
    return tepal_loop_step(loop, 0);
}

static const char *host_broken(void *argument, int *number) {
    const tepal_loop *loop = argument;
    *number = loop->broken_number;
    return loop->broken;
}

static uint64_t host_progress(void *argument) {
    const tepal_loop *loop = argument;
    const tepal_loop_stats *stats = &loop->stats;
    return stats->callbacks + stats->timers + stats->posts + stats->signals;
}

/* Networks */

int tepal_sim_new(tepal_sim **sim, const tepal_sim_options *options) {
    tepal_sim_options own = {0};
    int code = tpi_options_copy(&own, sizeof own, options);
    if (code < 0) {
        return code;
    }
    own.size = sizeof own;
    uint64_t seed = own.seed;
    (void)tpi_sim_environment_seed(&seed);
    return tpi_sim_create(sim, &own, seed);
}

void tepal_sim_free(tepal_sim *sim) {
    if (sim == NULL || sim->depth > 0) {
        return;
    }
    while (sim->loops != NULL) {
        tpi_sim_loop *entry = sim->loops;
        sim->loops = entry->next;
        (void)tepal_loop_close(entry->loop);
        tepal_loop_unref(entry->loop);
        tpi_free(sim->realloc, entry);
    }
    tpi_sim_unref(sim);
}

static bool is_name(const char *name) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    tepal_address literal;
    size_t length = strnlen(name, TPI_SIM_NAME + 1);
    return length > 0 && length <= TPI_SIM_NAME && strspn(name, letters) == length && strcmp(name, "localhost") != 0 &&
           tepal_address_parse(&literal, name, 0) < 0; /* an address would be taken for itself */
}

int tepal_sim_add_host(tepal_sim *sim, const char *name, const tepal_loop_options *options, tepal_loop **loop) {
    tepal_loop_options own = {0};
    tpi_sim_host *host;
    tepal_loop *made = NULL;
    int code = tpi_options_copy(&own, sizeof own, options);
    if (code < 0 || own.driver != NULL || name == NULL || !is_name(name)) {
        return TEPAL_EINVAL;
    }
    own.size = sizeof own;
    if (!sim->options.unchecked) {
        own.debug = true;
    }
    if (own.slow_callback_ns == 0) {
        own.slow_callback_ns = SLOW_NEVER;
    }
    tpi_sim_loop *entry = tpi_alloc_zero(sim->realloc, sizeof *entry);
    if (entry == NULL) {
        return TEPAL_ENOMEM;
    }
    const tpi_sim_host *known = tpi_sim_host_find(sim, name);
    tpi_sim_driver *before = known == NULL ? NULL : known->driver;
    code = tpi_sim_host_new(sim, name, &host);
    if (code == 0) {
        code = tpi_loop_new(&made, &own, host);
        if (code < 0) {
            tpi_sim_host_undo(host, before);
        }
    }
    if (code < 0) {
        tpi_free(sim->realloc, entry);
        return code;
    }
    host->driver->runner =
        (tpi_sim_runner){.timeout = host_timeout, .step = host_step, .broken = host_broken, .progress = host_progress};
    host->driver->loop = made;
    host->was_up = true;
    *entry = (tpi_sim_loop){.next = sim->loops, .loop = made};
    sim->loops = entry;
    *loop = made;
    return 0;
}

int tepal_sim_address(const tepal_sim *sim, const char *name, int family, uint16_t port, tepal_address *address) {
    const tpi_sim_host *host = tpi_sim_host_find(sim, name);
    if (family != AF_INET && family != AF_INET6) {
        return TEPAL_EINVAL;
    }
    if (host == NULL) {
        return TEPAL_ENOENT;
    }
    tpi_sim_host_address(host, family, port, address);
    return 0;
}

int tepal_sim_run(tepal_sim *sim, int64_t limit_ns) {
    if (sim->depth > 0) {
        return TEPAL_ERECURSION;
    }
    bool forever = limit_ns < 0 || limit_ns > TPI_SIM_NEVER - sim->now_ns;
    int code = tpi_sim_drive(sim, NULL, forever ? TPI_SIM_NEVER : sim->now_ns + limit_ns);
    return code < 0 ? code : code == 0; /* 0: the time was up */
}

int tepal_sim_fault(tepal_sim *sim, const char *script) {
    return tpi_sim_script(sim, script);
}

int tepal_sim_search(const tepal_sim_options *options, uint64_t first, uint64_t count,
                     int (*run)(tepal_sim *sim, void *argument), void *argument, uint64_t *failed) {
    tepal_sim_options own = {0};
    uint64_t only;
    int code = tpi_options_copy(&own, sizeof own, options);
    if (code < 0 || run == NULL) {
        return TEPAL_EINVAL;
    }
    own.size = sizeof own;
    if (tpi_sim_environment_seed(&only)) {
        first = only;
        count = 1;
    }
    for (uint64_t seed = first; count > 0 && code >= 0; seed++, count--) {
        tepal_sim *sim;
        own.seed = seed;
        code = tepal_sim_new(&sim, &own);
        if (code == 0) {
            code = run(sim, argument);
            if (code >= 0 && sim->failed < 0) {
                code = sim->failed; /* the program did not look */
            }
            tepal_sim_free(sim);
        }
        if (code < 0 && failed != NULL) {
            *failed = seed;
        }
    }
    return code < 0 ? code : 0;
}

/* Questions */

int64_t tepal_sim_time(const tepal_sim *sim) {
    return sim->now_ns;
}

uint64_t tepal_sim_seed(const tepal_sim *sim) {
    return sim->seed;
}

uint64_t tepal_sim_random(tepal_sim *sim) {
    return tpi_sim_next(&sim->program);
}

const char *tepal_sim_failure(const tepal_sim *sim) {
    return sim->has_failure ? sim->failure : NULL;
}

int tepal_sim_get_stats(const tepal_sim *sim, tepal_sim_stats *stats) {
    size_t size = stats->size;
    if (size < sizeof stats->size) {
        return TEPAL_EINVAL;
    }
    memcpy(stats, &sim->stats, size < sizeof *stats ? size : sizeof *stats);
    stats->size = size;
    return 0;
}

/* Descriptors of a host */

/* 0, with the driver; or why there is none. */
static int simulated(const tepal_loop *loop, tpi_sim_driver **driver) {
    if (loop->driver == NULL || loop->phase != TPI_PHASE_OPEN) {
        return TEPAL_ECLOSED;
    }
    if (loop->driver->ops != &tpi_sim_driver_ops) {
        return TEPAL_ENOTSUP;
    }
    *driver = tpi_sim_driver_of(loop->driver);
    return 0;
}

int tepal_sim_close_fd(tepal_loop *loop, int fd) {
    tpi_sim_driver *driver = NULL;
    int code = simulated(loop, &driver);
    tpi_sim_socket *socket = code < 0 ? NULL : tpi_sim_socket_at(driver, fd);
    if (code < 0) {
        return code;
    }
    if (socket == NULL || socket->object != NULL) {
        return socket == NULL ? TEPAL_EBADF : TEPAL_EBUSY;
    }
    tpi_sim_socket_close(socket);
    return 0;
}

int tepal_sim_socketpair(tepal_loop *loop, int family, int fds[2]) {
    tpi_sim_driver *driver = NULL;
    int code = simulated(loop, &driver);
    if (code < 0) {
        return code;
    }
    if (family != AF_UNIX && family != AF_INET && family != AF_INET6) {
        return TEPAL_ENOTSUP;
    }
    return driver->crashed ? TEPAL_SYSTEM(ENETDOWN) : tpi_sim_socket_pair(driver, family, fds);
}
