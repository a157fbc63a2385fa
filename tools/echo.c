/* `tepal echo`: options, listening, the workers' threads, signals and the counters at the end. On SIGINT or SIGTERM
 * it stops accepting, sends back what is under way (echo_worker.c) and ends; a second signal ends it at once. */
#include "echo.h"
#include "echo_tls.h"
#include "endpoint.h"
#include "process.h"
#include "tools.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WORKERS_MAX = 256 };

static const command_text echo_text = {
    .name = "echo",
    .usage = "--listen ADDRESS [--listen ADDRESS ...] [options]",
    .summary = "Sends back whatever comes, to each peer no faster than it reads. Prints 'listening ADDRESS' for each\n"
               "address, with the port that the system chose where 0 was asked for. SIGINT or SIGTERM stops it: it\n"
               "accepts no more, sends back what is under way, and ends; a second signal ends it at once.\n"
               "With a certificate it speaks TLS; SIGHUP then has it read the files again.",
    .notes = "ADDRESS is 127.0.0.1:7000, [::1]:0, name:7000, *:7000 (every interface), unix:PATH or unix:@abstract.\n"
             "'tepal cert' makes a certificate to try TLS with.\n"
             "Exit status: 0 after a signal, 1 if something failed, 2 if the command line is wrong.",
};

typedef struct echo_server {
    option_list listen;
    endpoint endpoints[OPTION_LIST_MAX];
    uint64_t workers_wanted;
    const char *driver;
    bool stats;
    int64_t grace_ns;
    echo_tls tls;
    echo_worker *workers;
    size_t worker_count; /* of those that were set up */
    size_t running;      /* of those that have a thread */
} echo_server;

static bool parse(echo_server *self, int argument_count, char **arguments, int *status) {
    const option options[] = {
        option_many("listen", "ADDRESS", &self->listen, "where to listen; may be given several times"),
        option_number("workers", "N", &self->workers_wanted, 1, WORKERS_MAX,
                      "threads with a loop each; they share every address (1)"),
        option_text("driver", "NAME", &self->driver, "uring, epoll or poll (the best there is, or $TEPAL_DRIVER)"),
        option_seconds("grace", &self->grace_ns, 1, 3600000, "how long stopping may take before peers are cut off (5)"),
        option_flag("stats", &self->stats, "print counters at the end, a name and a number a line"),
        option_text("tls-cert", "FILE", &self->tls.certificate, "TLS with this certificate (PEM) and its chain"),
        option_text("tls-key", "FILE", &self->tls.key, "its private key (in the certificate's file)"),
        option_text("tls-clients", "may|must", &self->tls.clients,
                    "ask clients for a certificate; they may or must show one"),
        option_text("tls-ca", "FILE", &self->tls.authorities, "authorities to trust for that (the system's)"),
        option_text("alpn", "A,B", &self->tls.protocols, "application protocols to agree upon, the preferred first"),
    };
    if (!options_parse(&echo_text, options, sizeof options / sizeof options[0], argument_count, arguments, status))
        return false;
    if (self->listen.count == 0) {
        *status = usage_error(&echo_text, "say where to listen, for example --listen 127.0.0.1:7000");
        return false;
    }
    for (size_t index = 0; index < self->listen.count; index++) {
        const char *problem = endpoint_parse(&self->endpoints[index], self->listen.items[index]);
        if (problem != NULL) {
            *status = usage_error(&echo_text, "cannot read the address '%s': %s", self->listen.items[index], problem);
            return false;
        }
    }
    const char *problem = echo_tls_check(&self->tls);
    if (problem != NULL)
        *status = usage_error(&echo_text, "%s", problem);
    return problem == NULL;
}

static int listen_failed(const char *text, int code, const tepal_error *error) {
    fprintf(stderr, "tepal echo: cannot listen on %s: %s\n", text, error != NULL ? error->text : tepal_strerror(code));
    if (code == TEPAL_SYSTEM(EADDRINUSE))
        fprintf(stderr, "Another program listens there; stop it, or choose another port (0: any that is free).\n");
    if (code == TEPAL_SYSTEM(EACCES))
        fprintf(stderr, "This user may not listen there: ports below 1024 need root, a path a writable folder.\n");
    return code;
}

/* Listen on endpoint `index` as the options say. Runs the loop, because a name may have to be looked up. */
static int serve_on(echo_worker *worker, size_t index, const char *text, const tepal_server_options *options) {
    tepal_future *future = NULL;
    tepal_server *server = NULL;
    int code = tepal_loop_create_server(worker->loop, echo_factory, worker, options, &future);
    if (code == 0)
        code = tepal_loop_run_until_complete(worker->loop, future);
    if (code == 0)
        code = tepal_server_result(future, &server);
    if (code == 0) {
        worker->servers[index] = server;
        worker->server_count = index + 1;
    } else {
        listen_failed(text, code, future == NULL ? NULL : tepal_future_error(future));
    }
    tepal_future_unref(future);
    return code;
}

/* Workers share a TCP port by SO_REUSEPORT, and the kernel spreads connections over them. Unix sockets have no such
 * thing: there the other workers listen on duplicates of the first one's descriptor. */
static int listen_on(echo_server *self, echo_worker *worker, size_t index) {
    endpoint *place = &self->endpoints[index];
    tepal_server_options options = {.size = sizeof options, .accept_failed = echo_accept_failed};
    tepal_tls_options tls = {.size = sizeof tls, .context = self->tls.context};
    if (worker->has_tls)
        options.tls = &tls;
    if (place->unix_path == NULL) {
        options.hosts = &place->host;
        options.host_count = place->host == NULL ? 0 : 1;
        options.port = place->port;
        options.reuse_port = self->workers_wanted > 1;
    } else if (worker == self->workers) {
        options.unix_path = place->unix_path;
    } else {
        int fd = tepal_server_socket(self->workers[0].servers[index], 0);
        worker->shared_fds[index] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (worker->shared_fds[index] < 0)
            return listen_failed(self->listen.items[index], TEPAL_SYSTEM(errno), NULL);
        options.fds = &worker->shared_fds[index];
        options.fd_count = 1;
    }
    int code = serve_on(worker, index, self->listen.items[index], &options);
    if (code == 0 && place->unix_path == NULL && place->port == 0) {
        tepal_address address; /* the other workers must take the port that the first one got */
        code = tepal_server_local(worker->servers[index], 0, &address);
        place->port = (uint16_t)tepal_address_port(&address);
    }
    return code;
}

static int set_up(echo_server *self) {
    self->workers = calloc(self->workers_wanted, sizeof *self->workers);
    if (self->workers == NULL)
        return TEPAL_ENOMEM;
    while (self->worker_count < self->workers_wanted) {
        echo_worker *worker = &self->workers[self->worker_count++];
        int code = echo_worker_init(worker, self->driver, self->grace_ns);
        if (code < 0) {
            fprintf(stderr, "tepal echo: cannot make a loop%s%s: %s\n", self->driver == NULL ? "" : " on driver ",
                    self->driver == NULL ? "" : self->driver, why_no_loop(self->driver, code));
            return code;
        }
        worker->has_tls = self->tls.context != NULL;
        for (size_t index = 0; index < self->listen.count; index++)
            if ((code = listen_on(self, worker, index)) < 0)
                return code;
    }
    return 0;
}

static void print_addresses(const echo_server *self) {
    const echo_worker *first = &self->workers[0];
    for (size_t index = 0; index < first->server_count; index++) {
        size_t count = tepal_server_socket_count(first->servers[index]);
        for (size_t at = 0; at < count; at++) {
            tepal_address address;
            char text[TEPAL_ADDRESS_TEXT] = "?";
            if (tepal_server_local(first->servers[index], at, &address) == 0)
                tepal_address_format(&address, text, sizeof text);
            printf("listening %s\n", text);
        }
    }
    fflush(stdout);
}

/* On the first worker's loop. The others are told first: their duplicates of its sockets then rest before it ends
 * those. */
static void signaled(int signal, void *argument) {
    echo_server *self = argument;
    (void)signal;
    for (size_t index = 1; index < self->running; index++)
        tepal_loop_call_soon_threadsafe(self->workers[index].loop, echo_worker_stop, &self->workers[index]);
    echo_worker_stop(&self->workers[0]);
}

static void hung_up(int signal, void *argument) {
    (void)signal;
    echo_tls_reload(&((echo_server *)argument)->tls);
}

/* Start the other workers' threads, with signals left to this one. Returns whether all could be started. */
static bool start_threads(echo_server *self) {
    sigset_t all, before;
    int error = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (self->running = 1; self->running < self->worker_count; self->running++) {
        echo_worker *worker = &self->workers[self->running];
        error = pthread_create(&worker->thread, NULL, echo_worker_run, worker);
        if (error != 0)
            break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0)
        fprintf(stderr, "tepal echo: cannot start thread %zu: %s\n", self->running, strerror(error));
    return error == 0;
}

/* Run every worker to its end. Returns the exit status. */
static int run(echo_server *self) {
    int status = STATUS_OK;
    tepal_loop *first = self->workers[0].loop;
    if (tepal_loop_add_signal(first, SIGINT, signaled, self) < 0 ||
        tepal_loop_add_signal(first, SIGTERM, signaled, self) < 0 ||
        (self->tls.context != NULL && tepal_loop_add_signal(first, SIGHUP, hung_up, self) < 0)) {
        fprintf(stderr, "tepal echo: cannot handle signals\n");
        return STATUS_FAILED;
    }
    if (start_threads(self)) {
        print_addresses(self);
    } else {
        status = STATUS_FAILED;
        signaled(SIGTERM, self);
    }
    echo_worker_run(&self->workers[0]);
    for (size_t index = 0; index < self->running; index++) {
        if (index > 0)
            pthread_join(self->workers[index].thread, NULL);
        if (self->workers[index].status < 0) {
            fprintf(stderr, "tepal echo: the loop failed: %s\n", tepal_strerror(self->workers[index].status));
            status = STATUS_FAILED;
        }
    }
    return status;
}

static void print_counter(const char *name, uint64_t value) {
    printf("%-16s %" PRIu64 "\n", name, value);
}

static void print_stats(const echo_server *self) {
    echo_counters sum = {0};
    tepal_loop_stats turns = {0};
    cpu_time used = cpu_time_now();
    for (size_t index = 0; index < self->worker_count; index++) {
        const echo_counters *counters = &self->workers[index].counters;
        tepal_loop_stats stats = {.size = sizeof stats};
        sum.connections += counters->connections;
        sum.bytes += counters->bytes;
        sum.reads += counters->reads;
        sum.pauses += counters->pauses;
        sum.aborted += counters->aborted;
        sum.refused += counters->refused;
        sum.resumed += counters->resumed;
        if (tepal_loop_get_stats(self->workers[index].loop, &stats) == 0) {
            turns.turns += stats.turns;
            turns.waits += stats.waits;
        }
    }
    printf("%-16s %s\n", "driver", tepal_loop_driver_name(self->workers[0].loop));
    print_counter("workers", self->worker_count);
    print_counter("connections", sum.connections);
    print_counter("aborted", sum.aborted);
    print_counter("not_accepted", sum.refused);
    print_counter("tls_resumed", sum.resumed);
    print_counter("bytes", sum.bytes);
    print_counter("reads", sum.reads);
    print_counter("pauses", sum.pauses);
    print_counter("turns", turns.turns);
    print_counter("waits", turns.waits);
    print_counter("cpu_user_us", used.user_us);
    print_counter("cpu_system_us", used.system_us);
    for (size_t index = 0; self->worker_count > 1 && index < self->worker_count; index++)
        printf("worker %-9zu connections %" PRIu64 " bytes %" PRIu64 "\n", index,
               self->workers[index].counters.connections, self->workers[index].counters.bytes);
    fflush(stdout);
}

int echo_main(int argument_count, char **arguments) {
    echo_server self = {.workers_wanted = 1, .grace_ns = TEPAL_SEC(5)};
    int status = STATUS_OK;
    if (!parse(&self, argument_count, arguments, &status))
        return status;
    raise_descriptor_limit();
    status = !echo_tls_begin(&self.tls) || set_up(&self) < 0 ? STATUS_FAILED : run(&self);
    if (self.stats && status == STATUS_OK)
        print_stats(&self);
    for (size_t index = self.worker_count; index > 0; index--)
        echo_worker_end(&self.workers[index - 1]);
    free(self.workers);
    tepal_tls_context_unref(self.tls.context);
    return status;
}
