/*
 * One end of a connection, for the tests in this folder: a server or a client, on the public headers alone, that does
 * what its command line says, step by step, and prints every event as one line. The other end is somebody else's program.
 *
 *     tls-peer --listen ADDRESS | --connect ADDRESS [OPTION...] [STEP...]     ADDRESS: HOST:PORT or unix:PATH
 *
 * Steps are done in order, on each connection anew; those that wait go on as soon as what they wait for has happened:
 *
 *     send=TEXT  pattern=COUNT (bytes that both ends can make)  eof  close  abort  update (keys)  starttls  echo
 *     until=TEXT  bytes=COUNT (received in all)  peer-eof  session=FILE  binding=TYPE
 *
 * What it prints:
 *
 *     driver NAME, ENGINE          first of all; ENGINE: of TLS
 *     listening ADDRESS
 *     made VERSION CIPHER alpn= resumed= verified= name= ocsp= half_close= peer=SUBJECT    or: made plain
 *     received COUNT SUM           a step that waited for bytes has got them; SUM is the CRC-32 of all bytes so far
 *     eof COUNT SUM
 *     refused STEP CODE            a step that the library refused; the next one follows
 *     session COUNT, binding TYPE HEX
 *     lost CODE COUNT SUM SENTENCE, or: lost clean COUNT SUM
 *     failed CODE SENTENCE         a connection that was never made
 *     reported WHAT CODE SENTENCE  what the exception handler hears
 *     ended                        last of all, when everything is closed
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "peer.h"

tepal_tls_options tls_options(const peer *self) {
    return (tepal_tls_options){
        .size = sizeof(tepal_tls_options),
        .context = self->context,
        .server_name = self->server_name,
        .handshake_limit_ns = self->handshake_ms == NULL ? 0 : TEPAL_MS(strtoll(self->handshake_ms, NULL, 10)),
        .session = self->offered,
        .session_length = self->offered_length,
    };
}

/* Connecting and listening. */

static void say_failed(const tepal_error *error) {
    say("failed %s %s", tepal_error_name(error->code), error->text);
}

static void connected(tepal_future *future, void *argument) {
    peer *self = argument;
    const tepal_error *error = tepal_future_error(future);
    if (error == NULL)
        return; /* connection_made was told */
    say_failed(error);
    one_has_ended(self);
}

static void accept_failed(void *argument, const tepal_error *error) {
    say_failed(error);
    one_has_ended(argument);
}

/* Cuts "[::1]:80" into "::1" and 80. */
static bool split_address(const char *text, char *host, size_t size, uint16_t *port) {
    const char *colon = strrchr(text, ':');
    if (colon == NULL || (size_t)(colon - text) >= size)
        return false;
    bool has_brackets = text[0] == '[' && colon[-1] == ']';
    snprintf(host, size, "%.*s", (int)(colon - text) - 2 * has_brackets, text + has_brackets);
    *port = (uint16_t)strtoul(colon + 1, NULL, 10);
    return true;
}

static const char *unix_path(const char *address) {
    return strncmp(address, "unix:", 5) == 0 ? address + 5 : NULL;
}

static int begin_connecting(peer *self) {
    char host[256] = "";
    tepal_tls_options tls = tls_options(self);
    tepal_connect_options options = {.size = sizeof options, .tls = self->starttls ? NULL : &tls};
    options.unix_path = unix_path(self->connect);
    if (options.unix_path == NULL) {
        if (!split_address(self->connect, host, sizeof host, &options.port))
            return TEPAL_EINVAL;
        options.host = host;
    }
    tepal_future *future;
    int code = tepal_loop_create_connection(self->loop, make_end, self, &options, &future);
    if (code < 0)
        return code;
    code = tepal_future_add_done_callback(future, connected, self);
    tepal_future_unref(future);
    return code;
}

static void connect_again(void *argument) {
    peer *self = argument;
    int code = begin_connecting(self);
    if (code < 0)
        tepal_loop_interrupt(self->loop, code);
}

static int begin_listening(peer *self) {
    char host[256] = "", text[TEPAL_ADDRESS_TEXT];
    const char *hosts[] = {host};
    tepal_tls_options tls = tls_options(self);
    tepal_server_options options = {
        .size = sizeof options, .accept_failed = accept_failed, .tls = self->starttls ? NULL : &tls};
    options.unix_path = unix_path(self->listen);
    if (options.unix_path == NULL) {
        if (!split_address(self->listen, host, sizeof host, &options.port))
            return TEPAL_EINVAL;
        options.hosts = hosts;
        options.host_count = 1;
    }
    int code = tepal_loop_listen(self->loop, make_end, self, &options, &self->server);
    tepal_address address;
    if (code == 0)
        code = tepal_server_local(self->server, 0, &address);
    if (code == 0)
        code = tepal_address_format(&address, text, sizeof text);
    if (code >= 0)
        say("listening %s", text);
    return code < 0 ? code : 0;
}

void one_has_ended(peer *self) {
    self->left -= self->left > 0;
    if (self->left == 0) {
        if (self->server != NULL)
            tepal_server_close(self->server);
        tepal_loop_stop(self->loop);
    } else if (self->connect != NULL && tepal_loop_call_soon(self->loop, connect_again, self, NULL) < 0) {
        tepal_loop_stop(self->loop);
    }
}

/* The command line. */

static bool read_option(peer *self, const char *name, const char *value, bool *took_value) {
    const struct {
        const char *name;
        const char **text;
        bool *flag;
    } options[] = {
        {"listen", &self->listen, NULL},
        {"connect", &self->connect, NULL},
        {"certificate", &self->certificate, NULL},
        {"key", &self->key, NULL},
        {"ca", &self->ca, NULL},
        {"clients", &self->clients, NULL},
        {"alpn", &self->alpn, NULL},
        {"alpn-optional", NULL, &self->alpn_optional},
        {"minimum", &self->minimum, NULL},
        {"maximum", &self->maximum, NULL},
        {"ciphers", &self->ciphers, NULL},
        {"cipher-suites", &self->cipher_suites, NULL},
        {"server-name", &self->server_name, NULL},
        {"insecure", NULL, &self->insecure},
        {"session", &self->session, NULL},
        {"no-resumption", NULL, &self->no_resumption},
        {"keylog", &self->keylog, NULL},
        {"ocsp", &self->ocsp, NULL},
        {"request-ocsp", NULL, &self->request_ocsp},
        {"handshake-ms", &self->handshake_ms, NULL},
        {"count", &self->count, NULL},
        {"starttls", NULL, &self->starttls},
        {"name", &self->names[self->name_count < NAMES_MAX ? self->name_count : 0], NULL},
    };
    for (size_t index = 0; index < sizeof options / sizeof *options; index++) {
        if (strcmp(options[index].name, name) != 0)
            continue;
        if (options[index].flag != NULL) {
            *options[index].flag = true;
            return true;
        }
        *took_value = true;
        *options[index].text = value;
        self->name_count += strcmp(name, "name") == 0 && self->name_count < NAMES_MAX;
        return value != NULL;
    }
    return false;
}

static bool read_words(peer *self, int count, char **words) {
    for (int at = 1; at < count; at++) {
        bool took_value = false, is_option = strncmp(words[at], "--", 2) == 0;
        if (is_option ? !read_option(self, words[at] + 2, at + 1 < count ? words[at + 1] : NULL, &took_value)
                      : !read_step(self, words[at])) {
            fprintf(stderr, "tls-peer: what is '%s'?\n", words[at]);
            return false;
        }
        at += took_value;
    }
    self->left = self->count == NULL ? 1 : strtoul(self->count, NULL, 10);
    return true;
}

/* A file's bytes, for free(3); NULL if it cannot be read. */
static char *read_file(const char *name, size_t *length) {
    FILE *file = fopen(name, "rb");
    char *bytes = NULL;
    if (file == NULL)
        return NULL;
    if (fseek(file, 0, SEEK_END) == 0) {
        long size = ftell(file);
        rewind(file);
        bytes = size < 0 ? NULL : malloc((size_t)size + 1);
        *length = bytes == NULL ? 0 : fread(bytes, 1, (size_t)size, file);
    }
    fclose(file);
    return bytes;
}

static tepal_tls_version version(const char *text) {
    return text == NULL ? 0 : strcmp(text, "1.2") == 0 ? TEPAL_TLS_1_2 : TEPAL_TLS_1_3;
}

static tepal_tls_clients clients(const char *text) {
    return text == NULL || strcmp(text, "any") == 0 ? TEPAL_TLS_CLIENTS_ANY
           : strcmp(text, "may") == 0               ? TEPAL_TLS_CLIENTS_MAY
                                                    : TEPAL_TLS_CLIENTS_MUST;
}

/* Splits a copy of "h2,http/1.1" in place. Returns how many there are. */
static size_t split_list(char *copy, const char **items, size_t most) {
    size_t count = 0;
    char *rest = NULL;
    for (char *item = strtok_r(copy, ",", &rest); item != NULL && count < most; item = strtok_r(NULL, ",", &rest))
        items[count++] = item;
    return count;
}

/* NAME=FILE: another context, for that name. */
static int add_name(peer *self, const tepal_tls_context_options *like, const char *text, char *why, size_t why_size) {
    tepal_tls_context_options options = *like;
    const char *equals = strchr(text, '=');
    char name[256];
    if (equals == NULL)
        return TEPAL_EINVAL;
    snprintf(name, sizeof name, "%.*s", (int)(equals - text), text);
    options.certificate_file = equals + 1;
    options.key_file = NULL;
    tepal_tls_context *other;
    int code = tepal_tls_context_new(&other, &options, why, why_size);
    if (code < 0)
        return code;
    code = tepal_tls_context_add_name(self->context, name, other);
    tepal_tls_context_unref(other);
    return code;
}

static int make_context(peer *self, char *why, size_t why_size) {
    char alpn[256] = "";
    const char *protocols[8];
    snprintf(alpn, sizeof alpn, "%s", self->alpn == NULL ? "" : self->alpn);
    if (self->session != NULL && (self->offered = read_file(self->session, &self->offered_length)) == NULL)
        return TEPAL_ENOENT;
    if (self->ocsp != NULL && (self->stapled = read_file(self->ocsp, &self->stapled_length)) == NULL)
        return TEPAL_ENOENT;
    tepal_tls_context_options options = {
        .size = sizeof options,
        .server = self->listen != NULL,
        .certificate_file = self->certificate,
        .key_file = self->key,
        .ca_file = self->ca,
        .insecure = self->insecure,
        .clients = clients(self->clients),
        .alpn = protocols,
        .alpn_count = split_list(alpn, protocols, sizeof protocols / sizeof *protocols),
        .alpn_optional = self->alpn_optional,
        .minimum = version(self->minimum),
        .maximum = version(self->maximum),
        .ciphers = self->ciphers,
        .cipher_suites = self->cipher_suites,
        .no_resumption = self->no_resumption,
        .ocsp_response = self->stapled,
        .ocsp_response_length = self->stapled_length,
        .request_ocsp = self->request_ocsp,
        .keylog_file = self->keylog,
    };
    int code = tepal_tls_context_new(&self->context, &options, why, why_size);
    for (size_t index = 0; index < self->name_count && code == 0; index++)
        code = add_name(self, &options, self->names[index], why, why_size);
    return code;
}

/* A broken invariant ends the program at once, and badly. */
static void report(tepal_loop *loop, const char *what, const tepal_error *error, void *argument) {
    (void)loop;
    (void)argument;
    say("reported %s: %s %s", what, tepal_error_name(error->code), error->text);
    if (error->code == TEPAL_EINVARIANT || error->code == TEPAL_ETHREAD)
        abort();
}

static unsigned long transports_alive(const tepal_loop *loop) {
    tepal_loop_stats stats = {.size = sizeof stats};
    return tepal_loop_get_stats(loop, &stats) < 0 ? 0 : stats.transports;
}

/* Until everything has ended, the descriptors that linger too. */
static int run(peer *self) {
    int code = self->listen != NULL ? begin_listening(self) : begin_connecting(self);
    if (code == 0)
        code = tepal_loop_run_forever(self->loop);
    while (code == 0 && transports_alive(self->loop) > 0) {
        int stepped = tepal_loop_step(self->loop, -1);
        code = stepped < 0 ? stepped : 0;
    }
    return code;
}

int main(int argc, char **argv) {
    static peer self;
    char why[256] = "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_DFL); /* the library must see to it that none comes */
    if (!read_words(&self, argc, argv))
        return 2;
    fill_tables(&self);
    int code = tepal_loop_new(
        &self.loop, &(tepal_loop_options){.size = sizeof(tepal_loop_options), .debug = true, .slow_callback_ns = -1});
    if (code < 0) {
        say("unusable %s", tepal_strerror(code));
        return 3;
    }
    say("driver %s, %s", tepal_loop_driver_name(self.loop), tepal_tls_engine() == NULL ? "-" : tepal_tls_engine());
    tepal_loop_set_exception_handler(self.loop, report, NULL);
    if (self.listen != NULL || self.connect != NULL) {
        code = make_context(&self, why, sizeof why);
        if (code == 0)
            code = run(&self);
        if (code < 0)
            say("failed %s %s", tepal_error_name(code), why[0] == '\0' ? tepal_strerror(code) : why);
    }
    tepal_server_unref(self.server);
    tepal_loop_close(self.loop);
    tepal_loop_unref(self.loop);
    tepal_tls_context_unref(self.context);
    free(self.offered);
    free(self.stapled);
    if (code == 0)
        say("ended");
    return code < 0;
}
