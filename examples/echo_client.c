/* A half-close client: sends its text, ends its side, and prints everything that comes back until the server has
 * ended, too. The whole answer arrives although nothing more can be sent.
 *
 *     echo_client HOST PORT TEXT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tepal.h>

typedef struct client {
    tepal_protocol protocol;
    tepal_loop *loop;
    const char *text;
    int status; /* of the program */
} client;

static int client_connection_made(tepal_protocol *protocol, tepal_transport *transport) {
    client *self = (client *)protocol;
    int code = tepal_transport_write(transport, self->text, strlen(self->text));
    if (code == 0 && tepal_transport_can_write_eof(transport))
        code = tepal_transport_write_eof(transport); /* leaves after the text; reading goes on */
    return code;
}

static int client_data_received(tepal_protocol *protocol, const void *data, size_t length) {
    (void)protocol;
    fwrite(data, 1, length, stdout);
    return 0;
}

static void client_connection_lost(tepal_protocol *protocol, const tepal_error *error) {
    client *self = (client *)protocol;
    if (error != NULL)
        fprintf(stderr, "connection lost: %s\n", error->text);
    self->status = error != NULL;
    tepal_loop_stop(self->loop);
}

static const tepal_protocol_type client_type = {
    .size = sizeof client_type,
    .connection_made = client_connection_made,
    .data_received = client_data_received,
    .connection_lost = client_connection_lost,
};

/* There is one connection, so its protocol need not be allocated. */
static int client_factory(void *argument, tepal_protocol **protocol) {
    client *self = argument;
    *protocol = &self->protocol;
    return 0;
}

/* Tell what went wrong: one line for each address that was tried, the last one first. */
static void print_errors(const tepal_error *error) {
    for (; error != NULL; error = error->next) {
        char text[TEPAL_ADDRESS_TEXT] = "connecting";
        if (error->address != NULL)
            tepal_address_format(error->address, text, sizeof text);
        fprintf(stderr, "%s: %s\n", text, error->text);
    }
}

static int run(client *self, const char *host, uint16_t port) {
    tepal_future *connected;
    int code = tepal_loop_create_connection(
        self->loop, client_factory, self,
        TEPAL_OPTIONS(tepal_connect_options, .host = host, .port = port, .limit_ns = TEPAL_SEC(10)), &connected);
    if (code == 0) {
        code = tepal_loop_run_until_complete(self->loop, connected);
        if (code == 0 && tepal_future_error(connected) != NULL) {
            print_errors(tepal_future_error(connected));
            tepal_future_unref(connected);
            return 1;
        }
        tepal_future_unref(connected);
    }
    if (code == 0)
        code = tepal_loop_run_forever(self->loop); /* until connection_lost */
    if (code < 0)
        fprintf(stderr, "%s\n", tepal_strerror(code));
    return code < 0 ? 1 : self->status;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: echo_client HOST PORT TEXT\n");
        return 2;
    }
    client self = {.protocol.type = &client_type, .text = argv[3]};
    int code = tepal_loop_new(&self.loop, NULL);
    if (code < 0) {
        fprintf(stderr, "no loop: %s\n", tepal_strerror(code));
        return 1;
    }
    int status = run(&self, argv[1], (uint16_t)atoi(argv[2]));
    tepal_loop_close(self.loop);
    tepal_loop_unref(self.loop);
    return status;
}
