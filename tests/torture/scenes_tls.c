/* Scenes of TLS, for system_calls.c. Who is whom is made once for all of them; the engine makes no calls that could fail. */
#include "conformance/tls_pair.h"
#include "torture/stage.h"

#include <stdio.h>

static const size_t questions[] = {1, 3000, 30000};

static tepal_tls_context *context(bool server, tepal_tls_version version) {
    static tepal_tls_context *made[2][2]; /* for all scenes of the test */
    tepal_tls_context **const kept = &made[server][version == TEPAL_TLS_1_3];

    if (*kept == NULL) {
        tepal_tls_context_options options = tls_usual_options(server, version);
        options.no_resumption = true; /* each run is like the one before */
        faults_own_begin();
        *kept = tls_context(&options);
        faults_own_end();
    }
    return *kept;
}

static void ask(node *self) {
    if (self->number == 2) {
        node_narrow(self);
    }
    node_write(self, questions[self->number]);
}

static void hang_up_when_answered(node *self) {
    if (self->received == questions[self->number]) {
        node_hang_up(self);
    }
}

static void listen_for_tls(stage *self, stage_kind kind, tepal_tls_version version) {
    char text[STAGE_HOST];
    const char *hosts[] = {text};
    const tepal_tls_options tls = {.size = sizeof tls, .context = context(true, version)};

    if (kind == STAGE_UNIX) {
        snprintf(self->path, sizeof self->path, "%s/socket", test_directory());
        (void)stage_listen_with(self, TEPAL_OPTIONS(tepal_server_options, .unix_path = self->path, .tls = &tls));
    } else {
        stage_host(text);
        (void)stage_listen_with(self,
                                TEPAL_OPTIONS(tepal_server_options, .hosts = hosts, .host_count = 1, .tls = &tls));
    }
}

static void dial_for_tls(stage *self, stage_kind kind, tepal_tls_version version) {
    const tepal_tls_options tls = {.size = sizeof tls, .context = context(false, version), .server_name = "localhost"};
    tepal_address address;
    char text[TEPAL_ADDRESS_TEXT];

    if (kind == STAGE_UNIX) {
        (void)stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .unix_path = self->path, .tls = &tls));
        return;
    }
    if (!stage_ok(self, tepal_server_local(self->servers[0], 0, &address)) ||
        !stage_ok(self, tepal_address_format(&address, text, sizeof text))) {
        return;
    }
    *strrchr(text, ':') = '\0'; /* the port */
    (void)stage_dial_with(self, TEPAL_OPTIONS(tepal_connect_options, .host = text,
                                              .port = (uint16_t)tepal_address_port(&address), .tls = &tls));
}

/* Three clients ask, a server sends back what comes. */
static void echo(stage *self, stage_kind kind, tepal_tls_version version) {
    self->client.seed_in = STREAM_OF_CLIENT;
    self->client.on_made = ask;
    self->client.on_data = hang_up_when_answered;
    self->server.echo = true;
    self->server.on_lost = node_reset_when_over;
    (void)context(false, version);
    listen_for_tls(self, kind, version);
    if (self->server_count == 0) {
        return;
    }
    for (int i = 0; i < 3; i++) {
        dial_for_tls(self, kind, version);
    }
    STAGE_UNTIL(self, stage_all_done(self));
    STAGE_UNTIL(self, stage_all_closed(self));
    for (int i = 0; i < 3; i++) {
        const node *client = stage_client(self, i);
        STAGE_WANT(self, client != NULL && client->received == questions[i] && client->lost_code == 0);
    }
    stage_close_servers(self);
}

static void echo_tcp(stage *self) {
    echo(self, STAGE_TCP, TEPAL_TLS_1_3);
}

static void echo_old(stage *self) {
    echo(self, STAGE_TCP, TEPAL_TLS_1_2);
}

static void echo_unix(stage *self) {
    echo(self, STAGE_UNIX, TEPAL_TLS_1_3);
}

/* Two ends that stand change to TLS, and end it one after the other. */
static void change(stage *self) {
    int fds[2];
    node *ends[2];

    stage_pair(self, STAGE_TCP, fds);
    self->client.keep_open = self->server.keep_open = true;
    ends[0] = stage_adopt(self, &self->client, fds[0], NULL);
    ends[1] = stage_adopt(self, &self->server, fds[1], NULL);
    if (ends[0] == NULL || ends[1] == NULL) {
        return;
    }
    STAGE_UNTIL(self, ends[0]->made == 1 && ends[1]->made == 1);
    for (int i = 0; i < 2 && node_is_open(ends[i]); i++) {
        const tepal_tls_options tls = {
            .size = sizeof tls, .context = context(i == 1, TEPAL_TLS_1_3), .server_name = i == 1 ? NULL : "localhost"};
        tepal_future *future;
        node_write(ends[i], 500);
        if (stage_ok(self, tepal_transport_start_tls(ends[i]->transport, &tls, &future))) {
            stage_keep(self, future);
        }
        node_write(ends[i], 20000);
    }
    STAGE_UNTIL(self, stage_all_done(self) || !node_is_open(ends[0]) || !node_is_open(ends[1]));
    STAGE_UNTIL(self, ends[0]->received == ends[1]->sent || ends[0]->lost == 1);
    STAGE_UNTIL(self, ends[1]->received == ends[0]->sent || ends[1]->lost == 1);
    for (int i = 0; i < 2; i++) {
        if (node_is_open(ends[i]) && tepal_transport_can_write_eof(ends[i]->transport)) {
            node_end(ends[i]);
        } else {
            node_hang_up(ends[i]);
        }
    }
    STAGE_UNTIL(self, stage_all_closed(self));
}

const scene scenes_of_tls[] = {
    {"tls tcp", echo_tcp, true},   {"tls 1.2 tcp", echo_old, true},
    {"tls unix", echo_unix, true}, {"tls change", change, true},
    {NULL, NULL, false},
};
