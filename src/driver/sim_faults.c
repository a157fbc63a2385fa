/*
 * What goes wrong in a simulated network: the statements of a script, what happens by chance, and the links between
 * hosts, with their latencies and what they hold back while they are down.
 */
#include "driver/sim.h"

#include <stdio.h>
#include <stdlib.h>

#define LATENCY_MIN_NS 50000
#define LATENCY_MAX_NS 500000
#define INSIDE_MIN_NS 5000
#define INSIDE_MAX_NS 50000
#define DELAY_MAX_NS TEPAL_MS(200)
#define GIVE_UP_NS TEPAL_MS(924600) /* tcp(7), tcp_retries2 */
#define AGAIN_MAX_NS TEPAL_SEC(1)   /* until what was lost is sent again, once a link is healed */
#define TIME_MAX_NS 1e18            /* in a statement */
#define WORD 32
#define WORDS 7 /* "at TIME" and five more */

/* Links */

void tpi_sim_link_init(const tepal_sim *sim, tpi_sim_link *link, bool within_host) {
    (void)sim;
    *link = (tpi_sim_link){.min_ns = within_host ? INSIDE_MIN_NS : LATENCY_MIN_NS,
                           .max_ns = within_host ? INSIDE_MAX_NS : LATENCY_MAX_NS};
    link->held_end = &link->held;
}

static tpi_sim_link *link_of(const tpi_sim_host *from, const tpi_sim_host *to) {
    return &from->links[to->id - 1];
}

int64_t tpi_sim_travel(tepal_sim *sim, tpi_sim_host *from, const tpi_sim_host *to, size_t length) {
    tpi_sim_link *link = link_of(from, to);
    int64_t at_ns = sim->now_ns + tpi_sim_between(sim, link->min_ns, link->max_ns);
    if (link->bandwidth > 0 && length > 0) {
        int64_t begin_ns = link->busy_ns > sim->now_ns ? link->busy_ns : sim->now_ns;
        double takes_ns = (double)length * 1e9 / (double)link->bandwidth;
        link->busy_ns = begin_ns < TPI_SIM_END ? begin_ns + (int64_t)takes_ns : begin_ns;
        at_ns += link->busy_ns - sim->now_ns;
    }
    if (tpi_sim_chance(sim, TPI_RATE_DELAY)) {
        at_ns += tpi_sim_between(sim, 1, DELAY_MAX_NS);
    }
    return at_ns;
}

bool tpi_sim_hold(tepal_sim *sim, tpi_sim_event *event) {
    tpi_sim_host *from = event->host != NULL ? event->host : event->from == NULL ? NULL : event->from->host;
    if (from == NULL) {
        return false;
    }
    const tpi_sim_host *to = event->to != NULL ? event->to->host : tpi_sim_route(from, &event->from->remote);
    if (to == NULL) {
        return false;
    }
    tpi_sim_link *link = link_of(from, to);
    if (!link->down && !to->crashed) {
        return false;
    }
    event->next = NULL;
    *link->held_end = event;
    link->held_end = &event->next;
    tpi_sim_socket *sender = event->from;
    if ((event->what == TPI_SEGMENT || event->what == TPI_FIN) && sender->held++ == 0) {
        tpi_sim_event *limit = tpi_sim_at(sim, sim->now_ns + GIVE_UP_NS, TPI_GIVE_UP, NULL, sender);
        if (limit != NULL) {
            limit->epoch = ++sender->epoch;
        }
    }
    return true;
}

/* In their order: what belongs to one stream must not overtake itself, nor be overtaken by what is sent from now on. */
void tpi_sim_let_go(tepal_sim *sim, tpi_sim_link *link) {
    tpi_sim_event *event = link->held;
    int64_t at_ns = sim->now_ns;
    link->held = NULL;
    link->held_end = &link->held;
    while (event != NULL) {
        tpi_sim_event *next = event->next;
        at_ns += tpi_sim_between(sim, 1, at_ns == sim->now_ns ? AGAIN_MAX_NS : 1000);
        if (event->what == TPI_SEGMENT || event->what == TPI_FIN) {
            event->from->held--;
        }
        if (event->to != NULL && event->to->last_arrival_ns < at_ns) {
            event->to->last_arrival_ns = at_ns + 1;
        }
        tpi_sim_event_again(sim, event, at_ns);
        event = next;
    }
}

/* Words of a statement */

typedef struct statement {
    char words[WORDS][WORD];
    int count;
    tpi_sim_host *first, *second; /* NULL: all */
    int64_t time_ns, other_ns;
    double number;
} statement;

static bool read_time(const char *word, int64_t *time_ns) {
    static const struct {
        const char *name;
        double ns;
    } units[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}};
    char *end;
    double value = strtod(word, &end);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (end != word && value >= 0 && value * units[i].ns <= TIME_MAX_NS && strcmp(end, units[i].name) == 0) {
            *time_ns = (int64_t)(value * units[i].ns);
            return true;
        }
    }
    return false;
}

static bool read_number(const char *word, double *number) {
    char *end;
    *number = strtod(word, &end);
    return end != word && *end == '\0' && *number >= 0 && *number < 1e18;
}

static bool read_host(const tepal_sim *sim, const char *word, tpi_sim_host **host) {
    *host = strcmp(word, "*") == 0 ? NULL : tpi_sim_host_find(sim, word);
    return *host != NULL || *word == '*';
}

/* What each statement does; from and to are hosts, the same for those about one */

static void set_latency(tepal_sim *sim, const statement *self, tpi_sim_host *from, tpi_sim_host *to) {
    (void)sim;
    link_of(from, to)->min_ns = self->time_ns;
    link_of(from, to)->max_ns = self->other_ns;
}

static void set_bandwidth(tepal_sim *sim, const statement *self, tpi_sim_host *from, tpi_sim_host *to) {
    (void)sim;
    link_of(from, to)->bandwidth = (uint64_t)self->number;
    link_of(from, to)->busy_ns = 0;
}

static void drop(tepal_sim *sim, const statement *self, tpi_sim_host *from, tpi_sim_host *to) {
    (void)sim;
    (void)self;
    link_of(from, to)->down = true;
}

static void partition(tepal_sim *sim, const statement *self, tpi_sim_host *from, tpi_sim_host *to) {
    drop(sim, self, from, to);
    drop(sim, self, to, from);
}

static void raise_link(tepal_sim *sim, tpi_sim_host *from, const tpi_sim_host *to) {
    tpi_sim_link *link = link_of(from, to);
    link->down = false;
    if (!to->crashed) {
        tpi_sim_let_go(sim, link);
    }
}

static void heal(tepal_sim *sim, const statement *self, tpi_sim_host *from, tpi_sim_host *to) {
    (void)self;
    raise_link(sim, from, to);
    if (from != to) {
        raise_link(sim, to, from);
    }
}

static void reset(tepal_sim *sim, const statement *self, tpi_sim_host *from, tpi_sim_host *to) {
    const tpi_sim_driver *driver = from->driver;
    for (unsigned i = 0; driver != NULL && i < driver->table_room; i++) {
        tpi_sim_socket *socket = driver->table[i];
        if (socket == NULL || socket->peer == NULL || socket->peer->host != to) {
            continue;
        }
        if (self->count == 4) {
            socket->reset_after = socket->sent_total + (uint64_t)self->number + 1;
        } else {
            tpi_sim_stream_reset(socket);
            (void)tpi_sim_at(sim, sim->now_ns, TPI_RST, NULL, socket);
        }
    }
}

static void refuse(tepal_sim *sim, const statement *self, tpi_sim_host *host, tpi_sim_host *same) {
    (void)sim;
    (void)same;
    host->refuses = self->words[0][0] == 'r';
}

static void stall(tepal_sim *sim, const statement *self, tpi_sim_host *host, tpi_sim_host *same) {
    (void)same;
    host->stalled_ns = sim->now_ns + self->time_ns;
}

static void jump(tepal_sim *sim, const statement *self, tpi_sim_host *host, tpi_sim_host *same) {
    (void)sim;
    (void)same;
    if (host->clock_ns < INT64_MAX / 4) {
        host->clock_ns += self->time_ns < INT64_MAX / 4 ? self->time_ns : INT64_MAX / 4;
    }
}

static void crash(tepal_sim *sim, const statement *self, tpi_sim_host *host, tpi_sim_host *same) {
    (void)sim;
    (void)self;
    (void)same;
    tpi_sim_host_crash(host);
}

static void limit_descriptors(tepal_sim *sim, const statement *self, tpi_sim_host *host, tpi_sim_host *same) {
    (void)sim;
    (void)same;
    host->limit = (unsigned)(self->number < 1e6 ? self->number : 1e6);
}

static const char *const rate_names[TPI_RATES] = {
    [TPI_RATE_SPLIT] = "split",     [TPI_RATE_SHORT] = "short",     [TPI_RATE_LATE] = "late",
    [TPI_RATE_DELAY] = "delay",     [TPI_RATE_RESET] = "reset",     [TPI_RATE_REFUSE] = "refuse",
    [TPI_RATE_TIMEOUT] = "timeout", [TPI_RATE_EMFILE] = "emfile",   [TPI_RATE_ENOBUFS] = "enobufs",
    [TPI_RATE_ENOMEM] = "enomem",   [TPI_RATE_RESOLVE] = "resolve", [TPI_RATE_STALL] = "stall",
};

static void set_rate(tepal_sim *sim, const statement *self, tpi_sim_host *from, tpi_sim_host *to) {
    (void)from;
    (void)to;
    for (int i = 0; i < TPI_RATES; i++) {
        if (strcmp(rate_names[i], self->words[1]) == 0) {
            sim->rates[i] = (uint32_t)(self->number * UINT32_MAX);
        }
    }
}

/* Each kind of fault is off, rare or frequent: what is always on hides what only shows without it. */
static void randomize(tepal_sim *sim, const statement *self, tpi_sim_host *from, tpi_sim_host *to) {
    (void)self;
    (void)from;
    (void)to;
    static const uint32_t harmless[] = {0, UINT32_MAX / 20, UINT32_MAX / 3, UINT32_MAX};
    static const uint32_t harmful[] = {0, 0, UINT32_MAX / 1000, UINT32_MAX / 50};
    static const size_t sizes[] = {1, 7, 600, 4096, 65536, 262144};
    tpi_sim_prng *prng = &sim->network;
    for (int i = 0; i < TPI_RATES; i++) {
        const uint32_t *choice = i <= TPI_RATE_DELAY ? harmless : harmful;
        sim->rates[i] = choice[tpi_sim_below(prng, 4)];
    }
    sim->min_capacity = sizes[tpi_sim_below(prng, 6)];
    sim->max_capacity = sizes[tpi_sim_below(prng, 6)];
    for (unsigned i = 0; i < sim->host_count * sim->host_count; i++) {
        tpi_sim_link *link = &sim->hosts[i / sim->host_count]->links[i % sim->host_count];
        link->min_ns = (int64_t)tpi_sim_below(prng, LATENCY_MAX_NS) + 1;
        link->max_ns = link->min_ns * (1 + (int64_t)tpi_sim_below(prng, 200));
    }
}

/* Resets that wait for a byte do not come any more. */
static void disarm(const tpi_sim_host *host) {
    const tpi_sim_driver *driver = host->driver;
    for (unsigned i = 0; driver != NULL && i < driver->table_room; i++) {
        if (driver->table[i] != NULL) {
            driver->table[i]->reset_after = 0;
        }
    }
}

static void calm(tepal_sim *sim, const statement *self, tpi_sim_host *from, tpi_sim_host *to) {
    (void)from;
    (void)to;
    memset(sim->rates, 0, sizeof sim->rates);
    for (unsigned i = 0; i < sim->host_count; i++) {
        tpi_sim_host *host = sim->hosts[i];
        host->refuses = false;
        host->stalled_ns = 0;
        host->limit = host->limit < 1024 ? 1024 : host->limit;
        disarm(host);
        for (unsigned k = 0; k < sim->host_count; k++) {
            host->links[k].bandwidth = 0;
            heal(sim, self, host, sim->hosts[k]);
        }
    }
}

/* Parameters: h a host, t a time, n a number, r a rate's name, ? the next one may be left out. */
static const struct verb {
    const char *name, *parameters;
    void (*act)(tepal_sim *sim, const statement *self, tpi_sim_host *from, tpi_sim_host *to);
} verbs[] = {
    {"latency", "hhtt", set_latency},
    {"bandwidth", "hhn", set_bandwidth},
    {"drop", "hh", drop},
    {"partition", "hh", partition},
    {"heal", "hh", heal},
    {"reset", "hh?n", reset},
    {"refuse", "h", refuse},
    {"serve", "h", refuse},
    {"stall", "ht", stall},
    {"jump", "ht", jump},
    {"crash", "h", crash},
    {"descriptors", "hn", limit_descriptors},
    {"rate", "rn", set_rate},
    {"random", "", randomize},
    {"calm", "", calm},
};

static const struct verb *find_verb(const char *name) {
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(verbs[i].name, name) == 0) {
            return &verbs[i];
        }
    }
    return NULL;
}

static bool is_rate(const char *name) {
    for (int i = 0; i < TPI_RATES; i++) {
        if (strcmp(rate_names[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* One parameter of a statement; the second of a kind goes to the second place. */
static bool read_parameter(const tepal_sim *sim, statement *self, char kind, const char *word, bool second) {
    switch (kind) {
    case 'h':
        return read_host(sim, word, second ? &self->second : &self->first);
    case 't':
        return read_time(word, second ? &self->other_ns : &self->time_ns);
    case 'n':
        return read_number(word, &self->number);
    default:
        return is_rate(word);
    }
}

/* What the statement says, with the words there. NULL: nothing that is known. */
static const struct verb *understand(const tepal_sim *sim, statement *self) {
    const struct verb *verb = find_verb(self->words[0]);
    int word = 1;
    char before = 0;
    bool optional = false;
    for (const char *kind = verb == NULL ? "" : verb->parameters; *kind != '\0'; kind++) {
        if (*kind == '?') {
            optional = true;
            continue;
        }
        if (word == self->count && optional) {
            break;
        }
        if (word == self->count || !read_parameter(sim, self, *kind, self->words[word++], *kind == before)) {
            return NULL;
        }
        before = *kind;
    }
    if (verb != NULL && (word != self->count || (verb->act == set_rate && self->number > 1) ||
                         (verb->act == set_latency && self->other_ns < self->time_ns))) {
        return NULL;
    }
    return verb;
}

static void act(tepal_sim *sim, const struct verb *verb, const statement *self) {
    bool two = strncmp(verb->parameters, "hh", 2) == 0;
    bool one = verb->parameters[0] == 'h';
    if (!one) {
        verb->act(sim, self, NULL, NULL);
        return;
    }
    for (unsigned i = 0; i < sim->host_count; i++) {
        tpi_sim_host *from = sim->hosts[i];
        if (self->first != NULL && self->first != from) {
            continue;
        }
        for (unsigned k = 0; k < sim->host_count; k++) {
            tpi_sim_host *to = sim->hosts[k];
            bool meant = two ? self->second == to || (self->second == NULL && to != from) : to == from;
            if (meant) {
                verb->act(sim, self, from, to);
            }
        }
    }
}

/* Scripts */

/* The words of one statement, up to its end, which is returned. */
static const char *split(const char *text, statement *self) {
    *self = (statement){0};
    while (*text != '\0' && *text != ';' && *text != '\n') {
        if (*text == '#') {
            while (*text != '\0' && *text != '\n') {
                text++;
            }
        } else if (*text == ' ' || *text == '\t' || *text == '\r') {
            text++;
        } else {
            size_t length = strcspn(text, " \t\r\n;#");
            int place = self->count < WORDS ? self->count : WORDS - 1;
            size_t kept = length < WORD - 1 ? length : WORD - 1;
            memcpy(self->words[place], text, kept);
            self->words[place][kept] = '\0';
            /* Too many words, or too long a one, are no statement. */
            self->count += length < WORD && self->count < WORDS ? 1 : WORDS + 1;
            text += length;
        }
    }
    return text;
}

/* "at TIME" is taken off the front. Whether what remains is a statement; an empty one is. */
static const struct verb *parse(const tepal_sim *sim, statement *self, int64_t *at_ns, bool *bad) {
    *at_ns = -1;
    *bad = false;
    if (self->count == 0) {
        return NULL;
    }
    *bad = true;
    if (self->count > WORDS) {
        return NULL;
    }
    if (strcmp(self->words[0], "at") == 0) {
        if (self->count < 3 || !read_time(self->words[1], at_ns)) {
            return NULL;
        }
        memmove(self->words, self->words + 2, (size_t)(self->count - 2) * WORD);
        self->count -= 2;
        memset(self->words + self->count, 0, 2 * WORD);
    }
    const struct verb *verb = understand(sim, self);
    *bad = verb == NULL;
    return verb;
}

/* The words as text, divided by single blanks. */
static void join(const statement *self, char text[WORDS * WORD]) {
    size_t length = 0;
    text[0] = '\0';
    for (int i = 0; i < self->count; i++) {
        length += (size_t)snprintf(text + length, WORDS * WORD - length, "%s%s", i == 0 ? "" : " ", self->words[i]);
    }
}

static void perform(tepal_sim *sim, const struct verb *verb, const statement *self) {
    char text[WORDS * WORD];
    join(self, text);
    sim->stats.faults++;
    tpi_sim_trace(sim, NULL, "%s", text);
    act(sim, verb, self);
}

/* Words of a statement that was understood once, as text of its own. */
static char *copy_words(const tepal_sim *sim, const statement *self) {
    char *text = sim->realloc(NULL, WORDS * WORD);
    if (text != NULL) {
        join(self, text);
    }
    return text;
}

void tpi_sim_script_event(tepal_sim *sim, tpi_sim_event *event) {
    statement self;
    (void)split(event->script, &self);
    const struct verb *verb = understand(sim, &self);
    if (verb != NULL) {
        perform(sim, verb, &self);
    }
}

int tpi_sim_script(tepal_sim *sim, const char *script) {
    statement self;
    int64_t at_ns;
    bool bad;
    int number = 0;
    for (const char *text = script; *text != '\0'; text += *text != '\0') {
        const char *begin = text;
        text = split(text, &self);
        number++;
        (void)parse(sim, &self, &at_ns, &bad);
        if (bad) {
            (void)snprintf(sim->failure, sizeof sim->failure, "statement %d of the script is not understood: %.*s",
                           number, (int)(text - begin), begin);
            sim->has_failure = true;
            return TEPAL_EINVAL;
        }
    }
    for (const char *text = script; *text != '\0'; text += *text != '\0') {
        text = split(text, &self);
        const struct verb *verb = parse(sim, &self, &at_ns, &bad);
        if (verb == NULL) {
            continue;
        }
        if (at_ns < 0) {
            perform(sim, verb, &self);
            continue;
        }
        char *words = copy_words(sim, &self);
        tpi_sim_event *event = words == NULL ? NULL : tpi_sim_at(sim, at_ns, TPI_SCRIPT, NULL, NULL);
        if (event == NULL) {
            tpi_free(sim->realloc, words);
            return TEPAL_ENOMEM;
        }
        event->script = words;
    }
    return 0;
}
