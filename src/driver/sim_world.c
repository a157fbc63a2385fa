/*
 * The simulated world: its hosts, its time, and the events to come. It decides whose turn it is, and lets time jump to
 * the next event when every host sleeps. It knows of loops only what tpi_sim_runner says.
 */
#include "driver/sim.h"

#include <errno.h>
#include <stdlib.h>

#define FIRST_SECOND TEPAL_SEC(1) /* hosts' clocks begin here: 0 is no time for a loop */
#define TURN_MIN_NS 500           /* a turn takes so long */
#define TURN_MAX_NS 20000
#define MIN_CAPACITY (64u << 10)
#define MAX_CAPACITY (256u << 10)
#define DESCRIPTORS 1024
#define TURN_LIMIT 1000

/* Random numbers: splitmix64 (Steele, Lea, Flood 2014) */

uint64_t tpi_sim_next(tpi_sim_prng *prng) {
    uint64_t z = (prng->state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t tpi_sim_below(tpi_sim_prng *prng, uint64_t limit) {
    return tpi_sim_next(prng) % limit;
}

int64_t tpi_sim_between(tepal_sim *sim, int64_t min, int64_t max) {
    return max <= min ? min : min + (int64_t)tpi_sim_below(&sim->network, (uint64_t)(max - min) + 1);
}

bool tpi_sim_chance(tepal_sim *sim, tpi_sim_rate rate) {
    /* A rate of 0 takes no number, so that a fault which is off changes nothing. */
    return sim->rates[rate] > 0 && (uint32_t)tpi_sim_next(&sim->network) <= sim->rates[rate];
}

/* Its life */

bool tpi_sim_environment_seed(uint64_t *seed) {
    const char *text = secure_getenv("TEPAL_SIM_SEED");
    char *end;
    if (text == NULL || *text < '0' || *text > '9') {
        return false;
    }
    errno = 0;
    uint64_t number = strtoull(text, &end, 0);
    if (*end != '\0' || errno != 0) {
        return false;
    }
    *seed = number;
    return true;
}

int tpi_sim_create(tepal_sim **sim, const tepal_sim_options *options, uint64_t seed) {
    tpi_realloc allocate = options->realloc == NULL ? tpi_default_realloc : options->realloc;
    tepal_sim *made = tpi_alloc_zero(allocate, sizeof *made);
    if (made == NULL) {
        return TEPAL_ENOMEM;
    }
    made->references = 1;
    made->realloc = allocate;
    made->options = *options;
    if (made->options.turn_limit == 0) {
        made->options.turn_limit = TURN_LIMIT;
    }
    made->seed = seed == 0 ? 1 : seed;
    /* Three sequences that have nothing to do with each other. */
    tpi_sim_prng first = {.state = made->seed};
    made->network.state = tpi_sim_next(&first);
    made->program.state = tpi_sim_next(&first);
    made->kernel.state = tpi_sim_next(&first);
    made->min_capacity = MIN_CAPACITY;
    made->max_capacity = MAX_CAPACITY;
    made->stats.size = sizeof made->stats;
    made->stats.hash = UINT64_C(0xcbf29ce484222325);
    *sim = made;
    return 0;
}

static void free_links(tepal_sim *sim, tpi_sim_host *host) {
    for (unsigned i = 0; i < sim->host_count; i++) {
        while (host->links[i].held != NULL) {
            tpi_sim_event *event = host->links[i].held;
            host->links[i].held = event->next;
            tpi_sim_event_free(sim, event);
        }
    }
    tpi_free(sim->realloc, host->links);
}

void tpi_sim_unref(tepal_sim *sim) {
    if (--sim->references > 0) {
        return;
    }
    while (sim->event_count > 0) {
        tpi_sim_event_free(sim, sim->events[--sim->event_count]);
    }
    for (unsigned i = 0; i < sim->host_count; i++) {
        free_links(sim, sim->hosts[i]); /* what they hold may lead to any host */
    }
    for (unsigned i = 0; i < sim->host_count; i++) {
        tpi_free(sim->realloc, sim->hosts[i]);
    }
    tpi_free(sim->realloc, sim->hosts);
    tpi_free(sim->realloc, sim->events);
    tpi_free(sim->realloc, sim);
}

/* Hosts */

tpi_sim_host *tpi_sim_host_find(const tepal_sim *sim, const char *name) {
    for (unsigned i = 0; i < sim->host_count; i++) {
        if (strcmp(sim->hosts[i]->name, name) == 0) {
            return sim->hosts[i];
        }
    }
    return NULL;
}

/* Links to one host more: all tables of links grow before anything else changes. */
static int make_room(tepal_sim *sim) {
    if (sim->host_count < sim->host_room) {
        return 0;
    }
    unsigned room = sim->host_room == 0 ? 4 : 2 * sim->host_room;
    tpi_sim_host **hosts = sim->realloc(sim->hosts, room * sizeof(tpi_sim_host *));
    if (hosts == NULL) {
        return TEPAL_ENOMEM;
    }
    sim->hosts = hosts;
    for (unsigned i = 0; i < sim->host_count; i++) {
        tpi_sim_link *links = sim->realloc(hosts[i]->links, room * sizeof *links);
        if (links == NULL) {
            return TEPAL_ENOMEM;
        }
        hosts[i]->links = links;
        for (unsigned k = 0; k < sim->host_count; k++) {
            if (links[k].held == NULL) {
                links[k].held_end = &links[k].held; /* they have moved */
            }
        }
    }
    sim->host_room = room;
    return 0;
}

static int start_again(tpi_sim_host *host) {
    if (host->driver != NULL && !host->crashed) {
        return TEPAL_EBUSY;
    }
    host->crashed = false;
    host->driver = NULL;
    host->stalled_ns = 0;
    tpi_sim_trace(host->sim, host, "is up again");
    for (unsigned i = 0; i < host->sim->host_count; i++) {
        tpi_sim_link *link = &host->sim->hosts[i]->links[host->id - 1];
        if (!tpi_sim_link_is_down(host->sim, link)) {
            tpi_sim_let_go(host->sim, link);
        }
    }
    return 0;
}

int tpi_sim_host_new(tepal_sim *sim, const char *name, tpi_sim_host **host) {
    tpi_sim_host *made = tpi_sim_host_find(sim, name);
    if (made != NULL) {
        *host = made;
        return start_again(made);
    }
    int code = make_room(sim);
    if (code < 0) {
        return code;
    }
    made = tpi_alloc_zero(sim->realloc, sizeof *made);
    if (made == NULL) {
        return TEPAL_ENOMEM;
    }
    made->links = tpi_alloc_zero(sim->realloc, sim->host_room * sizeof *made->links);
    if (made->links == NULL) {
        tpi_free(sim->realloc, made);
        return TEPAL_ENOMEM;
    }
    made->sim = sim;
    made->id = sim->host_count + 1;
    memcpy(made->name, name, strlen(name) + 1);
    made->clock_ns = FIRST_SECOND;
    made->limit = DESCRIPTORS;
    made->port = (uint16_t)(32768 + tpi_sim_below(&sim->network, 16384));
    sim->hosts[sim->host_count++] = made;
    for (unsigned i = 0; i < sim->host_count; i++) {
        tpi_sim_link_init(&made->links[i], i + 1 == made->id);
        tpi_sim_link_init(&sim->hosts[i]->links[made->id - 1], i + 1 == made->id);
    }
    tpi_sim_trace(sim, made, "is up");
    *host = made;
    return 0;
}

void tpi_sim_host_undo(tpi_sim_host *host, tpi_sim_driver *before) {
    tepal_sim *sim = host->sim;
    if (before != NULL || host->id < sim->host_count || host->was_up) {
        host->driver = before;
        host->crashed = before != NULL;
        return;
    }
    sim->host_count--;
    tpi_free(sim->realloc, host->links);
    tpi_free(sim->realloc, host);
}

/* Events: a binary heap by time, chance, order */

static bool is_before(const tpi_sim_event *a, const tpi_sim_event *b) {
    if (a->time_ns != b->time_ns) {
        return a->time_ns < b->time_ns;
    }
    return a->key != b->key ? a->key < b->key : a->order < b->order;
}

static void sift_up(tepal_sim *sim, size_t at) {
    tpi_sim_event *event = sim->events[at];
    while (at > 0 && is_before(event, sim->events[(at - 1) / 2])) {
        sim->events[at] = sim->events[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    sim->events[at] = event;
}

/* Limits: who still waits for one says so (tpi_sim_waits). */
static bool is_background(const tpi_sim_event *event) {
    return event->what == TPI_KEEP_ALIVE || event->what == TPI_CONNECT_LIMIT || event->what == TPI_GIVE_UP;
}

static tpi_sim_event *take_first(tepal_sim *sim) {
    tpi_sim_event *first = sim->events[0];
    tpi_sim_event *event = sim->events[--sim->event_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < sim->event_count; at = child) {
        if (child + 1 < sim->event_count && is_before(sim->events[child + 1], sim->events[child])) {
            child++;
        }
        if (!is_before(sim->events[child], event)) {
            break;
        }
        sim->events[at] = sim->events[child];
    }
    if (sim->event_count > 0) {
        sim->events[at] = event;
    }
    sim->background -= is_background(first);
    return first;
}

/* Out of what is to come, the events that match, in their order. */
tpi_sim_event *tpi_sim_take_events(tepal_sim *sim, bool (*matches)(const tpi_sim_event *event, const void *argument),
                                   const void *argument) {
    tpi_sim_event *taken = NULL;
    size_t count = sim->event_count;
    sim->event_count = 0;
    for (size_t i = 0; i < count; i++) {
        tpi_sim_event *event = sim->events[i];
        if (!matches(event, argument)) {
            sim->events[sim->event_count++] = event;
            sift_up(sim, sim->event_count - 1);
            continue;
        }
        tpi_sim_event **link = &taken;
        while (*link != NULL && is_before(*link, event)) {
            link = &(*link)->next;
        }
        sim->background -= is_background(event);
        event->next = *link;
        *link = event;
    }
    return taken;
}

static bool reserve_event(tepal_sim *sim) {
    if (sim->event_count < sim->event_room) {
        return true;
    }
    size_t room = sim->event_room == 0 ? 64 : 2 * sim->event_room;
    tpi_sim_event **events = sim->realloc(sim->events, room * sizeof(tpi_sim_event *));
    if (events == NULL) {
        return false;
    }
    sim->events = events;
    sim->event_room = room;
    return true;
}

void tpi_sim_event_again(tepal_sim *sim, tpi_sim_event *event, int64_t time_ns) {
    if (!reserve_event(sim)) {
        tpi_sim_event_free(sim, event);
        (void)tpi_sim_fail(sim, NULL, TEPAL_ENOMEM, "no memory for what is to come");
        return;
    }
    event->time_ns = time_ns < sim->now_ns ? sim->now_ns : time_ns;
    event->next = NULL;
    sim->background += is_background(event);
    sim->events[sim->event_count++] = event;
    sift_up(sim, sim->event_count - 1);
}

tpi_sim_event *tpi_sim_at(tepal_sim *sim, int64_t time_ns, tpi_sim_happening what, tpi_sim_socket *from,
                          tpi_sim_socket *to) {
    tpi_sim_event *event = tpi_alloc_zero(sim->realloc, sizeof *event);
    if (event == NULL || !reserve_event(sim)) {
        tpi_free(sim->realloc, event);
        (void)tpi_sim_fail(sim, NULL, TEPAL_ENOMEM, "no memory for what is to come");
        return NULL;
    }
    event->what = what;
    event->from = from == NULL ? NULL : tpi_sim_socket_ref(from);
    event->to = to == NULL ? NULL : tpi_sim_socket_ref(to);
    event->key = tpi_sim_next(&sim->network);
    event->order = sim->event_order++;
    tpi_sim_event_again(sim, event, time_ns);
    return event;
}

void tpi_sim_event_free(tepal_sim *sim, tpi_sim_event *event) {
    if (event->from != NULL) {
        tpi_sim_socket_unref(event->from);
    }
    if (event->to != NULL) {
        tpi_sim_socket_unref(event->to);
    }
    tpi_free(sim->realloc, event->script);
    tpi_free(sim->realloc, event);
}

static void happen(tepal_sim *sim, tpi_sim_event *event) {
    if (event->what < TPI_TRAVELS && tpi_sim_hold(sim, event)) {
        return;
    }
    switch (event->what) {
    case TPI_SYN:
        tpi_sim_syn_arrives(sim, event);
        break;
    case TPI_CONNECT_LIMIT:
        tpi_sim_connect_ends(event->to, ETIMEDOUT);
        break;
    case TPI_JOB:
        tpi_sim_job_event(sim, event);
        break;
    case TPI_HEAL:
        tpi_sim_heal_event(sim, event);
        break;
    case TPI_SCRIPT:
        tpi_sim_script_event(sim, event);
        break;
    default:
        tpi_sim_stream_event(sim, event);
        break;
    }
    tpi_sim_event_free(sim, event);
}

static void happen_what_is_due(tepal_sim *sim) {
    while (sim->event_count > 0 && sim->events[0]->time_ns <= sim->now_ns && sim->failed == 0) {
        happen(sim, take_first(sim));
    }
}

/* Turns */

static bool has_loop(const tpi_sim_host *host) {
    return host->driver != NULL && !host->crashed && host->driver->loop != NULL;
}

/* When this host needs a turn by itself; NEVER: not before something happens to it. */
static int64_t wants_turn_at(const tpi_sim_host *host, bool waits) {
    if (!has_loop(host)) {
        return TPI_SIM_NEVER;
    }
    int64_t timeout_ns = host->driver->runner.timeout(host->driver->loop, waits);
    if (atomic_load(&host->driver->woken)) {
        timeout_ns = 0;
    }
    if (timeout_ns < 0) {
        return TPI_SIM_NEVER;
    }
    int64_t now_ns = host->sim->now_ns;
    int64_t at_ns = timeout_ns > TPI_SIM_NEVER - now_ns ? TPI_SIM_NEVER : now_ns + timeout_ns;
    return at_ns < host->stalled_ns ? host->stalled_ns : at_ns;
}

static void check_turn(tpi_sim_driver *driver) {
    tepal_sim *sim = driver->sim;
    const tpi_sim_host *host = driver->host;
    int number = 0;
    const char *broken = driver->runner.broken(driver->loop, &number);
    if (broken != NULL) {
        (void)tpi_sim_broken(driver, number, broken);
        return;
    }
    uint64_t progress = driver->runner.progress(driver->loop) + driver->upcalls;
    driver->idle_turns = progress == driver->progress ? driver->idle_turns + 1 : 0;
    driver->progress = progress;
    if (driver->idle_turns > sim->options.turn_limit) {
        (void)tpi_sim_broken(driver, 7, "it takes turn after turn with nothing to do");
        return;
    }
    int code =
        sim->options.check == NULL ? 0 : sim->options.check(sim->options.argument); /* which may close the loop */
    if (code < 0) {
        (void)tpi_sim_fail(sim, host, code, "the program's check failed: %s", tepal_strerror(code));
    }
}

static void pass_a_moment(tepal_sim *sim) {
    sim->now_ns += tpi_sim_between(sim, TURN_MIN_NS, TURN_MAX_NS);
}

static void after_turn(tpi_sim_driver *driver) {
    tepal_sim *sim = driver->sim;
    sim->stats.turns++;
    pass_a_moment(sim);
    if (tpi_sim_chance(sim, TPI_RATE_JUMP)) {
        int64_t length_ns = tpi_sim_between(sim, TEPAL_MS(1), TEPAL_SEC(5));
        tpi_sim_trace(sim, driver->host, "its clock jumps %lld us ahead", (long long)(length_ns / 1000));
        driver->host->clock_ns += length_ns;
        sim->stats.faults++;
    }
    if (tpi_sim_chance(sim, TPI_RATE_STALL)) {
        int64_t length_ns = tpi_sim_between(sim, TEPAL_MS(1), TEPAL_MS(500));
        tpi_sim_trace(sim, driver->host, "stands still for %lld us", (long long)(length_ns / 1000));
        driver->host->stalled_ns = sim->now_ns + length_ns;
        sim->stats.faults++;
    }
    if (driver->loop != NULL && !driver->crashed) {
        check_turn(driver);
    }
}

static void step(tepal_sim *sim, tpi_sim_host *host) {
    tpi_sim_driver *driver = host->driver;
    const tpi_sim_driver *before = sim->stepping;
    sim->stepping = driver;
    int code = driver->runner.step(driver->loop);
    sim->stepping = before;
    if (code < 0) {
        (void)tpi_sim_fail(sim, host, code, "its turn ended with %s", tepal_strerror(code));
    } else if (host->driver == driver && has_loop(host)) {
        after_turn(driver);
    }
    happen_what_is_due(sim);
}

/* The next host, from one chosen by chance on, that is to take a turn now. */
static tpi_sim_host *find_due(tepal_sim *sim, const tpi_sim_driver *self) {
    unsigned from = (unsigned)tpi_sim_below(&sim->network, sim->host_count);
    for (unsigned i = 0; i < sim->host_count; i++) {
        tpi_sim_host *host = sim->hosts[(from + i) % sim->host_count];
        if ((self == NULL || host != self->host) && wants_turn_at(host, false) <= sim->now_ns) {
            return host;
        }
    }
    return NULL;
}

static int64_t next_moment(const tepal_sim *sim, const tpi_sim_driver *self, int64_t until_ns) {
    int64_t next_ns = until_ns;
    for (unsigned i = 0; i < sim->host_count; i++) {
        if (self == NULL || sim->hosts[i] != self->host) {
            int64_t at_ns = wants_turn_at(sim->hosts[i], false);
            next_ns = at_ns < next_ns ? at_ns : next_ns;
        }
    }
    bool waited_for = next_ns != TPI_SIM_NEVER || sim->waiting > 0 || sim->event_count > sim->background;
    if (waited_for && sim->event_count > 0 && sim->events[0]->time_ns < next_ns) {
        next_ns = sim->events[0]->time_ns;
    }
    return next_ns;
}

/* One round: each of the others may take a turn, so that one which is never idle does not keep them from it. */
static void let_others_run(tepal_sim *sim, const tpi_sim_driver *self) {
    for (unsigned i = 0; i < sim->host_count && sim->failed == 0; i++) {
        tpi_sim_host *host = sim->hosts[i];
        if (host != self->host && wants_turn_at(host, false) <= sim->now_ns && tpi_sim_below(&sim->network, 4) != 0) {
            step(sim, host);
        }
    }
}

static bool has_news(const tpi_sim_driver *self) {
    return self->driver.backlog || atomic_load(&self->woken);
}

static int drive(tepal_sim *sim, tpi_sim_driver *self, int64_t until_ns) {
    happen_what_is_due(sim);
    if (self != NULL) {
        after_turn(self);
        let_others_run(sim, self);
    }
    for (;;) {
        happen_what_is_due(sim);
        if (sim->failed < 0) {
            return sim->failed;
        }
        if (self != NULL && self->crashed) {
            return TEPAL_SYSTEM(EHOSTDOWN);
        }
        if (self != NULL) { /* it may have been given something to do, or its clock have jumped */
            int64_t at_ns = wants_turn_at(self->host, true);
            until_ns = at_ns < until_ns ? at_ns : until_ns;
        }
        bool may_return = self == NULL || self->host->stalled_ns <= sim->now_ns;
        if (may_return && (sim->now_ns >= until_ns || (self != NULL && has_news(self)))) {
            return 0;
        }
        tpi_sim_host *due = sim->host_count == 0 ? NULL : find_due(sim, self);
        if (due != NULL) {
            step(sim, due);
            continue;
        }
        int64_t limit_ns = may_return ? until_ns : self->host->stalled_ns;
        int64_t next_ns = next_moment(sim, self, limit_ns);
        if (next_ns > TPI_SIM_END) {
            return 1;
        }
        sim->now_ns = next_ns > sim->now_ns ? next_ns : sim->now_ns;
    }
}

int tpi_sim_drive(tepal_sim *sim, tpi_sim_driver *self, int64_t until_ns) {
    if (sim->depth == 0 && sim->failed != TEPAL_EINVARIANT && sim->failed != TEPAL_ENOMEM) {
        sim->failed = 0; /* of an earlier run; after those two nothing is to be believed */
    }
    sim->references++;
    sim->depth++;
    int code = drive(sim, self, until_ns);
    sim->depth--;
    tpi_sim_unref(sim);
    return code;
}
