/*
 * Blocking work and names of a simulated host. Work runs in the loop's thread, in the dispatch after its time has come,
 * so that a run can be had again.
 */
#include "driver/sim.h"

#include <netdb.h>
#include <stdlib.h>
#include <sys/socket.h>

#define JOB_MAX_NS TEPAL_MS(5)
#define RESOLVE_MAX_NS TEPAL_MS(20)

static void add_due(tpi_sim_driver *self, tpi_job *job) {
    job->next = NULL;
    *self->due_end = job;
    self->due_end = &job->next;
    self->driver.backlog = true;
}

/* The host may have been started anew since: its driver is not the one that the job was given to. */
void tpi_sim_job_event(tepal_sim *sim, tpi_sim_event *event) {
    (void)sim;
    tpi_sim_driver *driver = event->job == NULL ? NULL : tpi_sim_driver_of(event->job->driver);
    if (driver != NULL && !driver->crashed) {
        add_due(driver, event->job);
    }
}

static void finish_job(tpi_sim_driver *self, tpi_job *job, int status) {
    *job->known_link = job->known_next;
    if (job->known_next != NULL) {
        job->known_next->known_link = job->known_link;
    }
    job->driver = NULL;
    job->link = NULL;
    self->upcalls++;
    if (status == 0) {
        job->work(job);
    }
    job->done(job, status);
}

/* A job that was cancelled has a link, which nobody follows. */
void tpi_sim_tell_jobs(tpi_sim_driver *self) {
    for (tpi_job *last = NULL; self->due != NULL && !self->driver.interrupted;) {
        tpi_job *job = self->due;
        last = last == NULL ? (tpi_job *)((char *)self->due_end - offsetof(tpi_job, next)) : last;
        self->due = job->next;
        if (self->due == NULL) {
            self->due_end = &self->due;
        }
        bool is_last = job == last;
        finish_job(self, job, job->link == NULL ? 0 : TEPAL_ECANCELED);
        if (is_last) {
            return; /* what these have submitted waits for another turn */
        }
    }
}

static int submit(tpi_driver *driver, tpi_job *job, int64_t longest_ns) {
    tpi_sim_driver *self = tpi_sim_driver_of(driver);
    tepal_sim *sim = self->sim;
    if (driver->ending) {
        return TEPAL_ECLOSED;
    }
    tpi_sim_event *event = tpi_sim_at(sim, sim->now_ns + tpi_sim_between(sim, 1000, longest_ns), TPI_JOB, NULL, NULL);
    if (event == NULL) {
        return TEPAL_ENOMEM;
    }
    event->job = job;
    event->host = self->host;
    job->driver = driver;
    job->link = NULL;
    job->known_next = self->jobs;
    job->known_link = &self->jobs;
    if (job->known_next != NULL) {
        job->known_next->known_link = &job->known_next;
    }
    self->jobs = job;
    return 0;
}

/* Take a job's event away from it. Whether it was still to come. */
static bool forget_event(tepal_sim *sim, const tpi_job *job) {
    for (size_t i = 0; i < sim->event_count; i++) {
        if (sim->events[i]->what == TPI_JOB && sim->events[i]->job == job) {
            sim->events[i]->job = NULL;
            return true;
        }
    }
    return false;
}

int tpi_sim_offload(tpi_driver *driver, tpi_job *job) {
    return submit(driver, job, JOB_MAX_NS);
}

void tpi_sim_offload_cancel(tpi_driver *driver, tpi_job *job) {
    tpi_sim_driver *self = tpi_sim_driver_of(driver);
    if (job->driver != NULL && forget_event(self->sim, job)) {
        job->link = &self->due;
        add_due(self, job);
    }
}

/* Names: those of hosts, "localhost", and literal addresses */

static int add_address(tpi_resolve *request, const tepal_address *address) {
    int family = address->storage.ss_family;
    if (request->family != 0 && request->family != family) {
        return 0;
    }
    size_t size = (request->count + 1) * sizeof *request->addresses;
    tepal_address *addresses = request->realloc(request->addresses, size);
    if (addresses == NULL) {
        return TEPAL_ENOMEM;
    }
    addresses[request->count++] = *address;
    request->addresses = addresses;
    return 0;
}

static int add_literal(tpi_resolve *request, const char *text) {
    tepal_address address;
    int code = tepal_address_parse(&address, text, request->port);
    return code < 0 ? code : add_address(request, &address);
}

static int find_addresses(tpi_sim_driver *self, tpi_resolve *request) {
    const tpi_sim_host *host = tpi_sim_host_find(self->sim, request->host);
    int code = 0;
    if (request->host[0] == '\0' || strcmp(request->host, "localhost") == 0) {
        bool any = request->passive && request->host[0] == '\0';
        code = add_literal(request, any ? "::" : "::1");
        return code < 0 ? code : add_literal(request, any ? "0.0.0.0" : "127.0.0.1");
    }
    if (host == NULL) {
        code = add_literal(request, request->host);
        return code == TEPAL_EINVAL ? 0 : code;
    }
    static const int families[] = {AF_INET6, AF_INET};
    for (int i = 0; i < 2 && code == 0; i++) {
        tepal_address address;
        tpi_sim_host_address(host, families[i], request->port, &address);
        code = add_address(request, &address);
    }
    return code;
}

static void resolve_work(tpi_job *job) {
    tpi_resolve *request = (tpi_resolve *)job; /* its first member */
    tpi_sim_driver *self = request->resolved;
    if (tpi_sim_chance(self->sim, TPI_RATE_RESOLVE)) {
        self->sim->stats.faults++;
        tpi_sim_trace(self->sim, self->host, "cannot resolve %s this time", request->host);
        request->code = TEPAL_ERROR(TEPAL_DOMAIN_RESOLVER, abs(EAI_AGAIN));
        return;
    }
    request->code = find_addresses(self, request);
    if (request->code < 0) {
        tpi_free(request->realloc, request->addresses);
        request->addresses = NULL;
        request->count = 0;
    } else if (request->count == 0) {
        request->code = TEPAL_ERROR(TEPAL_DOMAIN_RESOLVER, abs(EAI_NONAME));
    }
}

static void resolve_done(tpi_job *job, int status) {
    tpi_resolve *request = (tpi_resolve *)job;
    request->resolved = NULL;
    if (status < 0) {
        request->code = status;
    }
    request->done(request);
}

int tpi_sim_resolve(tpi_driver *driver, tpi_resolve *request) {
    request->job.work = resolve_work;
    request->job.done = resolve_done;
    request->realloc = driver->realloc;
    request->resolved = driver;
    request->canceled = false;
    request->code = 0;
    request->count = 0;
    request->addresses = NULL;
    return submit(driver, &request->job, RESOLVE_MAX_NS);
}

void tpi_sim_resolve_cancel(tpi_driver *driver, tpi_resolve *request) {
    request->canceled = true;
    tpi_sim_offload_cancel(driver, &request->job);
}

void tpi_sim_forget_jobs(tpi_sim_driver *self, bool tell) {
    self->due = NULL;
    self->due_end = &self->due;
    while (self->jobs != NULL) {
        tpi_job *job = self->jobs;
        (void)forget_event(self->sim, job);
        if (tell) {
            finish_job(self, job, TEPAL_ECANCELED);
        } else {
            self->jobs = job->known_next;
        }
    }
}
