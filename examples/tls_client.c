/* A client with TLS: connects, verifies that the server is who it should be, sends a text and prints what comes back,
 * until as much has come as was sent.
 *
 *     tls_client HOST PORT AUTHORITIES TEXT
 *
 * AUTHORITIES is a file of certificates to trust; "" means those that the system trusts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tepal.h>

typedef struct client {
    tepal_protocol protocol;
    tepal_transport *transport;
    tepal_loop *loop;
    const char *text;
    size_t missing; /* bytes that have not come back */
    int status;     /* of the program */
} client;

/* The handshake is done, and the server's certificate was found good: otherwise the connection's future has an error,
 * and there is no protocol at all. */
static int client_connection_made(tepal_protocol *protocol, tepal_transport *transport) {
    client *self = (client *)protocol;
    tepal_tls_info tls = {.size = sizeof tls};
    if (tepal_transport_tls_info(transport, &tls) == 0)
        fprintf(stderr, "%s, %s\n", tls.version_name, tls.cipher);
    self->transport = transport;
    self->missing = strlen(self->text);
    return tepal_transport_write(transport, self->text, self->missing);
}

static int client_data_received(tepal_protocol *protocol, const void *data, size_t length) {
    client *self = (client *)protocol;
    fwrite(data, 1, length, stdout);
    self->missing -= length < self->missing ? length : self->missing;
    if (self->missing == 0)
        tepal_transport_close(self->transport);
    return 0;
}

static void client_connection_lost(tepal_protocol *protocol, const tepal_error *error) {
    client *self = (client *)protocol;
    if (error != NULL)
        fprintf(stderr, "connection lost: %s\n", error->text);
    self->status = error != NULL || self->missing > 0;
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

static int run(client *self, tepal_tls_context *context, const char *host, uint16_t port) {
    tepal_future *connected;
    const tepal_tls_options tls = {.size = sizeof tls, .context = context}; /* verifies the certificate for host */
    int code = tepal_loop_create_connection(
        self->loop, client_factory, self,
        TEPAL_OPTIONS(tepal_connect_options, .host = host, .port = port, .limit_ns = TEPAL_SEC(10), .tls = &tls),
        &connected);
    if (code == 0) {
        code = tepal_loop_run_until_complete(self->loop, connected);
        const tepal_error *error = code == 0 ? tepal_future_error(connected) : NULL;
        if (error != NULL)
            fprintf(stderr, "no connection: %s\n", error->text);
        self->status = error != NULL;
        tepal_future_unref(connected);
    }
    if (code == 0 && self->status == 0)
        code = tepal_loop_run_forever(self->loop); /* until connection_lost */
    if (code < 0)
        fprintf(stderr, "%s\n", tepal_strerror(code));
    return code < 0 ? 1 : self->status;
}

int main(int argc, char **argv) {
    tepal_tls_context *context;
    char why[256] = "";
    if (argc != 5) {
        fprintf(stderr, "usage: tls_client HOST PORT AUTHORITIES TEXT\n");
        return 2;
    }
    const char *authorities = *argv[3] == '\0' ? NULL : argv[3];
    int code = tepal_tls_context_new(&context, TEPAL_OPTIONS(tepal_tls_context_options, .ca_file = authorities), why,
                                     sizeof why);
    if (code < 0) {
        fprintf(stderr, "no TLS: %s\n", why);
        return 1;
    }
    client self = {.protocol.type = &client_type, .text = argv[4], .status = 1};
    code = tepal_loop_new(&self.loop, NULL);
    if (code == 0) {
        self.status = run(&self, context, argv[1], (uint16_t)atoi(argv[2]));
        tepal_loop_close(self.loop);
        tepal_loop_unref(self.loop);
    } else {
        fprintf(stderr, "no loop: %s\n", tepal_strerror(code));
    }
    tepal_tls_context_unref(context);
    return self.status;
}
