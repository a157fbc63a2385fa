/*
 * Acts on a host: servers of every kind, connecting to them and to nowhere, pairs of sockets; faults of the network; and
 * the end of hosts, orderly or not.
 */
#include "torture/program.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const names[MOST_NAMES] = {"a", "b", "c", "d"};

/* Of a transport, by chance; mostly the defaults. */
static tepal_transport_options options_by_chance(random_program *program) {
    tepal_transport_options options = {.size = sizeof options};

    if (chance(program, 2)) {
        return options;
    }
    options.nagle = chance(program, 2);
    options.keep_alive = chance(program, 4);
    options.abort_without_reset = chance(program, 4);
    options.linger_ns = chance(program, 4) ? -1 : (int64_t)below(program, 3000000000u);
    if (chance(program, 2)) {
        options.write_high = 1 + below(program, 2 * program->most_bytes);
        options.write_low = 1 + below(program, options.write_high);
    }
    if (chance(program, 4)) {
        options.write_cap = options.write_high + 100 + below(program, 4 * program->most_bytes);
    }
    return options;
}

/* A socket that is connected already; it is closed if it cannot be had. */
static void adopt(program_node *node, int fd) {
    random_program *program = node->program;
    const tepal_transport_options options = options_by_chance(program);
    tepal_transport *transport;
    program_end *made = end_new(node, NULL);

    if (opened(program, CALL(program, tepal_loop_adopt(node->loop, fd, &made->faces[made->current].protocol, &options,
                                                       &transport)))) {
        made->transport = tepal_transport_ref(transport);
    } else {
        EXPECT_EQ(program, tepal_sim_close_fd(node->loop, fd), 0);
    }
}

/* ---- Servers ---- */

static void accept_failed(void *argument, const tepal_error *error) {
    program_place *self = argument;
    const program_node *before = upcall_begins(self->node, false);

    EXPECT(self->node->program, error->code < 0 && !self->node->is_closing);
    upcall_ends(self->node, before);
}

/* Some connections are closed at once, some are taken over and adopted by hand. */
static int accepted(void *argument, int fd, const tepal_address *peer) {
    program_place *self = argument;
    random_program *program = self->node->program;
    const program_node *before = upcall_begins(self->node, false);
    int answer = 0;

    EXPECT(program, peer->length > 0 || self->family == AF_UNIX);
    if (!program->is_calm && chance(program, 4)) {
        if (chance(program, 3)) {
            answer = TEPAL_ERROR(TEPAL_DOMAIN_USER, 79);
        } else {
            answer = 1;
            adopt(self->node, fd);
        }
    }
    upcall_ends(self->node, before);
    return answer;
}

static program_place *new_place(program_node *node) {
    random_program *program = node->program;
    program_place *made = calloc(1, sizeof *made);

    EXPECT(program, made != NULL);
    made->next = program->places;
    made->node = node;
    made->options = options_by_chance(program);
    program->places = made;
    return made;
}

void place_free(program_place *self) {
    tepal_server_unref(self->server);
    free(self);
}

void act_listen(program_node *node, program_end *end) {
    (void)end;
    random_program *program = node->program;
    static const char *const literals[] = {"0.0.0.0", "::", "127.0.0.1", "::1", "localhost"};
    const uint64_t kind = below(program, 8);
    const char *host = kind < 5 ? literals[kind] : names[node->name];
    program_place *made = new_place(node);
    tepal_server_options options = {.size = sizeof options,
                                    .backlog = (int)below(program, 4),
                                    .ipv4_mapped = chance(program, 2),
                                    .do_not_start = chance(program, 8),
                                    .transport = &made->options,
                                    .accept_failed = accept_failed,
                                    .accepted = chance(program, 4) ? accepted : NULL};

    if (kind == 7) {
        made->family = AF_UNIX;
        (void)snprintf(made->path, sizeof made->path, "%s/%llu", chance(program, 2) ? "@" : "/run",
                       (unsigned long long)below(program, 4));
        options.unix_path = made->path;
    } else {
        made->port = (uint16_t)(chance(program, 3) ? 0 : 80 + below(program, 4));
        options.port = made->port;
        options.hosts = &host;
        options.host_count = kind == 6 ? 0 : 1;
    }
    if (kind == 4 || kind == 5 || chance(program, 2)) {
        tepal_future *future;
        if (opened(program,
                   CALL(program, tepal_loop_create_server(node->loop, end_accepts, made, &options, &future)))) {
            track(node, future, IS_SERVER)->place = made;
        } else {
            made->is_closed = true;
        }
        return;
    }
    const int code = CALL(program, tepal_loop_listen(node->loop, end_accepts, made, &options, &made->server));
    if (code < 0) {
        EXPECT(program, code == TEPAL_SYSTEM(EADDRINUSE) || !opened(program, code));
        made->is_closed = true;
    }
}

static program_place *choose_place(const program_node *node, bool on_it) {
    random_program *program = node->program;
    program_place *chosen = NULL;
    uint64_t seen = 0;

    for (program_place *one = program->places; one != NULL; one = one->next) {
        if (one->server != NULL && (!on_it || one->node == node) && (!one->is_closed || chance(program, 4)) &&
            below(program, ++seen) == 0) {
            chosen = one;
        }
    }
    return chosen;
}

void place_close(program_place *self) {
    random_program *program = self->node->program;
    self->is_closed = true;
    CALL_VOID(program, tepal_server_close(self->server));
    EXPECT_EQ(program, tepal_server_socket_count(self->server), 0);
    EXPECT(program, !tepal_server_is_serving(self->server));
}

static void note_may_end(const program_place *self) {
    for (program_end *one = self->node->program->ends; one != NULL; one = one->next) {
        one->may_end = one->may_end || (one->place == self && !one->lost);
    }
}

void act_server(program_node *node, program_end *end) {
    (void)end;
    random_program *program = node->program;
    program_place *self = choose_place(node, true);
    tepal_future *future;

    if (self == NULL || self->node->has_crashed) {
        return;
    }
    switch (below(program, 5)) {
    case 0:
        place_close(self);
        break;
    case 1:
        note_may_end(self);
        CALL_VOID(program, tepal_server_close_clients(self->server));
        break;
    case 2:
        note_may_end(self);
        CALL_VOID(program, tepal_server_abort_clients(self->server));
        break;
    case 3:
        if (worked(program, CALL(program, tepal_server_wait_closed(self->server, &future)))) {
            track(node, future, IS_WAIT_CLOSED)->place = self;
        }
        break;
    default: {
        const int code = CALL(program, tepal_server_start_serving(self->server));
        EXPECT(program, self->is_closed ? code == TEPAL_ECLOSED : code <= 0);
        break;
    }
    }
}

/* ---- Connecting ---- */

/* A server's address, in one of the ways to name it. Whether there is one. */
static bool aim(program_node *node, tepal_connect_options *options, char *text, size_t size) {
    random_program *program = node->program;
    const program_place *goal = choose_place(node, false);
    tepal_address address;

    if (goal == NULL || chance(program, 20)) {
        options->host = chance(program, 2) ? names[below(program, MOST_NAMES)] : "nowhere";
        options->port = (uint16_t)(79 + below(program, 5));
        return true;
    }
    if (goal->family == AF_UNIX) {
        options->unix_path = goal->path;
        return goal->node->name == node->name;
    }
    options->port = goal->port;
    if (goal->port == 0) {
        if (tepal_server_local(goal->server, 0, &address) < 0) {
            return false;
        }
        options->port = (uint16_t)tepal_address_port(&address);
    }
    options->host = goal->node->name == node->name && chance(program, 2) ? "localhost" : names[goal->node->name];
    const int family = chance(program, 2) ? AF_INET : AF_INET6;
    if (chance(program, 3) && tepal_sim_address(program->sim, options->host, family, 0, &address) == 0) {
        char *colon;
        (void)tepal_address_format(&address, text, size);
        colon = strrchr(text, ':');
        *colon = '\0';
        options->host = text;
        if (*text == '[') {
            text[strlen(text) - 1] = '\0';
            options->host = text + 1;
        }
    } else if (chance(program, 3)) {
        options->family = family;
    }
    return true;
}

void act_connect(program_node *node, program_end *end) {
    (void)end;
    random_program *program = node->program;
    tepal_transport_options transport = options_by_chance(program);
    tepal_connect_options options = {.size = sizeof options, .transport = &transport};
    char text[TEPAL_ADDRESS_TEXT];
    tepal_future *future;

    if (!aim(node, &options, text, sizeof text)) {
        return;
    }
    if (chance(program, 3)) {
        options.limit_ns = 1 + (int64_t)below(program, chance(program, 2) ? 1000000 : 5000000000u);
    }
    program_end *made = end_new(node, NULL);
    if (worked(program,
               CALL(program, tepal_loop_create_connection(node->loop, end_connects, made, &options, &future)))) {
        track(node, future, IS_CONNECT)->end = made;
    }
}

void place_probe(program_place *self) {
    random_program *program = self->node->program;
    tepal_connect_options options = {.size = sizeof options};
    char text[TEPAL_ADDRESS_TEXT];
    tepal_address address;
    tepal_future *future;

    if (!tepal_server_is_serving(self->server)) {
        return;
    }
    if (self->family == AF_UNIX) {
        options.unix_path = self->path;
    } else {
        EXPECT_EQ(program, tepal_server_local(self->server, 0, &address), 0);
        (void)tepal_address_format(&address, text, sizeof text);
        options.port = (uint16_t)tepal_address_port(&address);
        *strrchr(text, ':') = '\0';
        options.host = text;
        if (*text == '[') {
            text[strlen(text) - 1] = '\0';
            options.host = text + 1;
        }
    }
    self->probe = end_new(self->node, NULL);
    EXPECT_EQ(
        program,
        CALL(program, tepal_loop_create_connection(self->node->loop, end_connects, self->probe, &options, &future)), 0);
    track(self->node, future, IS_CONNECT)->end = self->probe;
}

/* Two ends on one host, of sockets that are connected already. */
void act_adopt(program_node *node, program_end *end) {
    (void)end;
    static const int families[] = {AF_UNIX, AF_INET, AF_INET6};
    random_program *program = node->program;
    const int family = families[below(program, 3)];
    int fds[2];

    const int code = CALL(program, tepal_sim_socketpair(node->loop, family, fds));
    if (code < 0) {
        EXPECT(program, code == TEPAL_SYSTEM(EMFILE) || !opened(program, code));
        return;
    }
    adopt(node, fds[0]);
    adopt(node, fds[1]);
}

/* ---- Faults ---- */

void act_fault(program_node *node, program_end *end) {
    (void)end;
    static const char *const scripts[] = {
        "partition %s %s",
        "heal %s %s",
        "drop %s %s",
        "heal * *",
        "reset %s %s",
        "reset %s %s 100",
        "stall %s 20ms",
        "jump %s 3s",
        "refuse %s",
        "serve %s",
        "descriptors %s 6",
        "descriptors %s 1024",
        "latency %s %s 1us 90ms",
        "bandwidth %s %s 20000",
        "rate split 0.3",
        "rate short 0.3",
        "rate late 0.5",
        "rate delay 0.1",
        "rate reset 0.01",
        "rate emfile 0.02",
        "rate enomem 0.01",
        "rate enobufs 0.003",
        "rate resolve 0.2",
        "calm",
        "at 2s calm",
        "random",
    };
    random_program *program = node->program;
    const size_t which = (size_t)below(program, sizeof scripts / sizeof *scripts);
    char script[128];

    if (!program->has_faults || (program->enabled >> which & 1) == 0) {
        return;
    }
    const char *one = names[below(program, (uint64_t)program->names)];
    const char *other = names[below(program, (uint64_t)program->names)];
    _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wformat-nonliteral\"");
    (void)snprintf(script, sizeof script, scripts[which], one, other);
    _Pragma("GCC diagnostic pop");
    EXPECT_EQ(program, CALL(program, tepal_sim_fault(program->sim, script)), 0);
}

/* ---- The end of hosts ---- */

static program_node *another(const program_node *node) {
    random_program *program = node->program;
    program_node *chosen = program->by_name[below(program, (uint64_t)program->names)];
    return chosen == NULL || chosen == program->running || !node_is_up(chosen) ? NULL : chosen;
}

void act_close_loop(program_node *node, program_end *end) {
    (void)end;
    program_node *victim = another(node);

    if (victim != NULL && chance(node->program, 4) && !tepal_loop_is_running(victim->loop)) {
        program_node_close(victim);
    }
}

void act_crash(program_node *node, program_end *end) {
    (void)end;
    random_program *program = node->program;
    program_node *victim = another(node);

    if (victim != NULL && program->has_faults && chance(program, 3)) {
        node_crash(victim);
        if (chance(program, 2)) {
            node_add(program, victim->name);
        }
    }
}
