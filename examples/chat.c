/* A chat room: each line that one member sends goes to all the others. A member who does not read in time misses
 * lines instead of making the server hold them: that is this room's answer to back-pressure.
 *
 *     chat [PORT]
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tepal.h>

enum { LINE_BYTES = 512 };

typedef struct chat_room {
    tepal_loop *loop;
    struct member *members;
} chat_room;

typedef struct member {
    tepal_protocol protocol;
    tepal_transport *transport;
    chat_room *room;
    struct member *next;
    bool paused;     /* does not read: lines for it are dropped */
    unsigned missed; /* lines, since it stopped reading */
    size_t length;   /* of the line so far */
    char line[LINE_BYTES];
} member;

static void broadcast(chat_room *room, const member *from, const char *line, size_t length) {
    for (member *to = room->members; to != NULL; to = to->next) {
        if (to == from)
            continue;
        if (to->paused)
            to->missed++;
        else
            tepal_transport_write(to->transport, line, length); /* fails on a member who is leaving: no matter */
    }
}

static int member_connection_made(tepal_protocol *protocol, tepal_transport *transport) {
    member *self = (member *)protocol;
    self->transport = transport;
    self->next = self->room->members;
    self->room->members = self;
    return tepal_transport_write(transport, "welcome\n", 8);
}

/* Bytes come in any portions: a line may be split over several calls, or several may come in one. */
static int member_data_received(tepal_protocol *protocol, const void *data, size_t length) {
    member *self = (member *)protocol;
    for (const char *at = data, *end = at + length; at < end; at++) {
        self->line[self->length++] = *at;
        if (*at == '\n') {
            broadcast(self->room, self, self->line, self->length);
            self->length = 0;
        } else if (self->length == LINE_BYTES) {
            return TEPAL_EMSGSIZE; /* ends the connection with this error */
        }
    }
    return 0;
}

static void member_pause_writing(tepal_protocol *protocol) {
    ((member *)protocol)->paused = true;
}

static void member_resume_writing(tepal_protocol *protocol) {
    member *self = (member *)protocol;
    char text[64];
    int length = snprintf(text, sizeof text, "(you missed %u lines)\n", self->missed);
    self->paused = false;
    self->missed = 0;
    tepal_transport_write(self->transport, text, (size_t)length);
}

static void member_connection_lost(tepal_protocol *protocol, const tepal_error *error) {
    member *self = (member *)protocol;
    for (member **link = &self->room->members; *link != NULL; link = &(*link)->next) {
        if (*link == self) {
            *link = self->next;
            break;
        }
    }
    if (error != NULL)
        fprintf(stderr, "a member was lost: %s\n", error->text);
    free(self);
}

static const tepal_protocol_type member_type = {
    .size = sizeof member_type,
    .connection_made = member_connection_made,
    .data_received = member_data_received,
    .pause_writing = member_pause_writing,
    .resume_writing = member_resume_writing,
    .connection_lost = member_connection_lost,
};

static int member_factory(void *argument, tepal_protocol **protocol) {
    member *self = calloc(1, sizeof *self);
    if (self == NULL)
        return TEPAL_ENOMEM;
    self->protocol.type = &member_type;
    self->room = argument;
    *protocol = &self->protocol;
    return 0;
}

static void stop(int signal, void *loop) {
    (void)signal;
    tepal_loop_stop(loop);
}

int main(int argc, char **argv) {
    chat_room room = {.members = NULL};
    tepal_server *server = NULL;
    tepal_address address;
    const char *host = "127.0.0.1";
    uint16_t port = argc > 1 ? (uint16_t)atoi(argv[1]) : 0;

    int code = tepal_loop_new(&room.loop, NULL);
    if (code == 0)
        code = tepal_loop_listen(room.loop, member_factory, &room,
                                 TEPAL_OPTIONS(tepal_server_options, .hosts = &host, .host_count = 1, .port = port),
                                 &server);
    if (code == 0)
        code = tepal_server_local(server, 0, &address);
    if (code == 0) {
        printf("listening on port %d\n", tepal_address_port(&address));
        fflush(stdout);
        tepal_loop_add_signal(room.loop, SIGINT, stop, room.loop);
        tepal_loop_add_signal(room.loop, SIGTERM, stop, room.loop);
        code = tepal_loop_run_forever(room.loop);
    }
    if (code < 0)
        fprintf(stderr, "%s\n", tepal_strerror(code));
    tepal_server_unref(server);
    tepal_loop_unref(room.loop);
    return code < 0;
}
