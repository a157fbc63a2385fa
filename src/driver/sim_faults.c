/* What goes wrong in a simulated network: the statements of a script, and the rates of what happens by chance. */
#include "driver/sim.h"

#include <stdio.h>

#define LATENCY_MAX_NS 500000
#define NUMBER_MAX 1e18 /* in a statement; nanoseconds, too */
#define WORD 32
#define WORDS 7 /* "at TIME" and five more */

/* Words of a statement */

typedef struct statement {
    char words[WORDS][WORD];
    int count;
    tpi_sim_host *first, *second; /* NULL: all */
    int64_t time_ns, other_ns;
    double number;
} statement;

/* Digits of a number, added to *value; how many there were. */
static size_t read_digits(const char **text, double *value) {
    size_t count = 0;
    for (; **text >= '0' && **text <= '9'; (*text)++) {
        *value = *value * 10 + (**text - '0');
        count++;
    }
    return count;
}

/* "5", "0.25", "1e9": whatever the locale says of decimal points. Where it ends; NULL: it is none. */
static const char *read_decimal(const char *text, double *value) {
    double whole = 0, exponent = 0;
    size_t digits = read_digits(&text, &whole), places = 0;
    if (*text == '.') {
        text++;
        places = read_digits(&text, &whole);
    }
    if (digits + places == 0) {
        return NULL;
    }
    if (*text == 'e' && text[1] >= '0' && text[1] <= '9') {
        text++;
        (void)read_digits(&text, &exponent);
    }
    for (; places > 0; places--) {
        whole /= 10;
    }
    for (; exponent > 0 && whole < NUMBER_MAX; exponent--) {
        whole *= 10;
    }
    *value = whole;
    return text;
}

static bool read_time(const char *word, int64_t *time_ns) {
    static const struct {
        const char *name;
        double ns;
    } units[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}};
    double value;
    const char *end = read_decimal(word, &value);
    for (size_t i = 0; end != NULL && i < sizeof units / sizeof *units; i++) {
        if (value * units[i].ns <= NUMBER_MAX && strcmp(end, units[i].name) == 0) {
            *time_ns = (int64_t)(value * units[i].ns);
            return true;
        }
    }
    return false;
}

static bool read_number(const char *word, double *number) {
    const char *end = read_decimal(word, number);
    return end != NULL && *end == '\0' && *number < NUMBER_MAX;
}

static bool read_host(const tepal_sim *sim, const char *word, tpi_sim_host **host) {
    *host = strcmp(word, "*") == 0 ? NULL : tpi_sim_host_find(sim, word);
    return *host != NULL || strcmp(word, "*") == 0;
}

/* What each statement does; from and to are hosts, the same for those about one */

static void set_latency(tepal_sim *sim, const statement *self, tpi_sim_host *from, tpi_sim_host *to) {
    (void)sim;
    tpi_sim_link_of(from, to)->min_ns = self->time_ns;
    tpi_sim_link_of(from, to)->max_ns = self->other_ns;
}

static void set_bandwidth(tepal_sim *sim, const statement *self, tpi_sim_host *from, tpi_sim_host *to) {
    tpi_sim_link *link = tpi_sim_link_of(from, to);
    bool was_limited = link->bandwidth > 0;
    link->bandwidth = (uint64_t)self->number;
    link->busy_ns = 0;
    if (was_limited) {
        tpi_sim_hurry(sim, from, to);
    }
}

static void drop(tepal_sim *sim, const statement *self, tpi_sim_host *from, tpi_sim_host *to) {
    (void)sim;
    (void)self;
    tpi_sim_link_of(from, to)->down = true;
}

static void partition(tepal_sim *sim, const statement *self, tpi_sim_host *from, tpi_sim_host *to) {
    drop(sim, self, from, to);
    drop(sim, self, to, from);
}

static void raise_link(tepal_sim *sim, tpi_sim_host *from, const tpi_sim_host *to) {
    tpi_sim_link *link = tpi_sim_link_of(from, to);
    link->down = false;
    link->dropped_ns = 0;
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

static void hear(tpi_sim_host *host) {
    const tpi_sim_driver *driver = host->driver;
    host->deaf = false;
    for (unsigned i = 0; driver != NULL && i < driver->table_room; i++) {
        if (driver->table[i] != NULL) {
            tpi_sim_stream_news(driver->table[i]);
        }
    }
}

static void deafen(tepal_sim *sim, const statement *self, tpi_sim_host *host, tpi_sim_host *same) {
    (void)sim;
    (void)same;
    if (self->words[0][0] == 'd') {
        host->deaf = true;
    } else {
        hear(host);
    }
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

/* Of its sockets, those there are and those to come; 0: by chance again for those to come. */
static void set_buffers(tepal_sim *sim, const statement *self, tpi_sim_host *host, tpi_sim_host *same) {
    (void)sim;
    (void)same;
    const tpi_sim_driver *driver = host->driver;
    host->capacity = self->number < 1e9 ? (size_t)self->number : (size_t)1e9;
    for (unsigned i = 0; driver != NULL && host->capacity > 0 && i < driver->table_room; i++) {
        if (driver->table[i] != NULL) {
            driver->table[i]->capacity = host->capacity;
        }
    }
}

static const char *const rate_names[TPI_RATES] = {
    [TPI_RATE_SPLIT] = "split",     [TPI_RATE_SHORT] = "short",     [TPI_RATE_LATE] = "late",
    [TPI_RATE_DELAY] = "delay",     [TPI_RATE_RESET] = "reset",     [TPI_RATE_REFUSE] = "refuse",
    [TPI_RATE_TIMEOUT] = "timeout", [TPI_RATE_EMFILE] = "emfile",   [TPI_RATE_ENOBUFS] = "enobufs",
    [TPI_RATE_ENOMEM] = "enomem",   [TPI_RATE_RESOLVE] = "resolve", [TPI_RATE_STALL] = "stall",
    [TPI_RATE_JUMP] = "jump",       [TPI_RATE_DROP] = "drop",
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
        host->capacity = 0;
        hear(host);
        host->stalled_ns = 0;
        host->limit = host->limit < 1024 ? 1024 : host->limit;
        disarm(host);
        for (unsigned k = 0; k < sim->host_count; k++) {
            set_bandwidth(sim, &(statement){.number = 0}, host, sim->hosts[k]);
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
    {"buffers", "hn", set_buffers},
    {"drop", "hh", drop},
    {"partition", "hh", partition},
    {"heal", "hh", heal},
    {"reset", "hh?n", reset},
    {"refuse", "h", refuse},
    {"deaf", "h", deafen},
    {"hear", "h", deafen},
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
