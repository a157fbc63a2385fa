/* One connection of tls-peer: the steps that it does, and what it prints of its upcalls (peer.c has the list). */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "peer.h"

enum {
    PIECE = 50000, /* of a pattern that is written at a time */
    GOES_ON = 1,
    WAITS = 0
};

typedef struct end end;

/* What a word of the command line is. A step returns GOES_ON, WAITS, or what the library said. */
typedef struct step_kind {
    const char *name;
    int (*run)(end *self, const char *value);
    bool reads; /* it waits for bytes, of which there are no more after the peer's end */
} step_kind;

/* One connection. */
struct end {
    tepal_protocol protocol; /* first */
    peer *peer;
    tepal_transport *transport;
    size_t at;      /* of the steps: the one under way */
    uint64_t done;  /* bytes of it, where it is a pattern */
    bool is_paused; /* writing is */
    bool has_ended; /* the peer has */
    tepal_future *upgrade;
    bool is_upgraded;
    tepal_handle later; /* a callback that goes on */
    uint64_t received;
    uint32_t sum;
    char *held; /* bytes that no step has used yet */
    size_t held_length;
};

void say(const char *format, ...) {
    va_list values;
    va_start(values, format);
    vprintf(format, values);
    va_end(values);
    putchar('\n');
}

void fill_tables(peer *self) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t sum = byte;
        for (int bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ ((sum & 1) != 0 ? 0xedb88320u : 0);
        self->sums[byte] = sum;
    }
    for (uint64_t index = 0; index < PERIOD; index++)
        self->pattern[index] = index % 64 == 63 ? '\n' : (char)('a' + (index * index + index / 64) % 26);
}

/* What came: counted, summed up, and held for the steps. */
static int keep(end *self, const unsigned char *data, size_t length) {
    char *larger = realloc(self->held, self->held_length + length);
    if (larger == NULL)
        return TEPAL_ENOMEM;
    memcpy(larger + self->held_length, data, length);
    self->held = larger;
    self->held_length += length;
    self->received += length;
    for (size_t index = 0; index < length; index++)
        self->sum = self->peer->sums[(self->sum ^ data[index]) & 0xff] ^ self->sum >> 8;
    return 0;
}

static void use_up(end *self, size_t length) {
    self->held_length -= length;
    if (self->held_length > 0)
        memmove(self->held, self->held + length, self->held_length);
}

static void say_received(const end *self, const char *what) {
    say("%s %llu %08x", what, (unsigned long long)self->received, self->sum ^ 0xffffffffu);
}

static void say_made(const end *self) {
    tepal_tls_info info = {.size = sizeof info};
    char subject[512] = "-";
    int code = tepal_transport_tls_info(self->transport, &info);
    if (code == TEPAL_ENOENT) {
        say("made plain");
        return;
    }
    if (code < 0) {
        say("made badly: %s", tepal_error_name(code));
        return;
    }
    int64_t length = tepal_transport_tls_certificate(self->transport, TEPAL_TLS_SUBJECT, subject, sizeof subject);
    if (length < 0)
        snprintf(subject, sizeof subject, "%s", length == TEPAL_ENOENT ? "-" : tepal_error_name((int)length));
    say("made %s %s alpn=%s resumed=%d verified=%d name=%s ocsp=%zu half_close=%d peer=%s", info.version_name,
        info.cipher, info.alpn == NULL ? "-" : info.alpn, info.resumed, info.verified,
        info.server_name == NULL ? "-" : info.server_name, info.ocsp_response_length,
        tepal_transport_can_write_eof(self->transport), subject);
}

/* The steps. */

static int step_send(end *self, const char *value) {
    int code = tepal_transport_write(self->transport, value, strlen(value));
    return code < 0 ? code : GOES_ON;
}

static int step_pattern(end *self, const char *value) {
    uint64_t wanted = strtoull(value, NULL, 10);
    while (self->done < wanted) {
        if (self->is_paused)
            return WAITS;
        size_t from = self->done % PERIOD;
        uint64_t length = wanted - self->done;
        length = length < PIECE ? length : PIECE;
        length = length < PERIOD - from ? length : PERIOD - from;
        int code = tepal_transport_write(self->transport, self->peer->pattern + from, (size_t)length);
        if (code < 0)
            return code;
        self->done += length;
    }
    return GOES_ON;
}

static int step_echo(end *self, const char *value) {
    (void)value;
    if (self->is_paused) {
        int code = tepal_transport_pause_reading(self->transport);
        return code < 0 ? code : WAITS;
    }
    int code = tepal_transport_write(self->transport, self->held, self->held_length);
    if (code < 0)
        return code;
    use_up(self, self->held_length);
    if (self->has_ended)
        return GOES_ON;
    code = tepal_transport_resume_reading(self->transport);
    return code < 0 ? code : WAITS;
}

static int step_until(end *self, const char *value) {
    size_t length = strlen(value);
    const char *found = self->held_length < length ? NULL : memmem(self->held, self->held_length, value, length);
    if (found == NULL)
        return WAITS;
    say_received(self, "received");
    use_up(self, (size_t)(found - self->held) + length);
    return GOES_ON;
}

static int step_bytes(end *self, const char *value) {
    if (self->received < strtoull(value, NULL, 10))
        return WAITS;
    say_received(self, "received");
    use_up(self, self->held_length);
    return GOES_ON;
}

static int step_peer_eof(end *self, const char *value) {
    (void)value;
    return self->has_ended ? GOES_ON : WAITS;
}

static int step_eof(end *self, const char *value) {
    (void)value;
    int code = tepal_transport_write_eof(self->transport);
    return code < 0 ? code : GOES_ON;
}

static int step_close(end *self, const char *value) {
    (void)value;
    tepal_transport_close(self->transport);
    return GOES_ON;
}

static int step_abort(end *self, const char *value) {
    (void)value;
    tepal_transport_abort(self->transport, TEPAL_ECANCELED);
    return GOES_ON;
}

static int step_update(end *self, const char *value) {
    (void)value;
    int code = tepal_transport_tls_update_keys(self->transport);
    return code < 0 ? code : GOES_ON;
}

static int step_session(end *self, const char *value) {
    int64_t length = tepal_transport_tls_session(self->transport, NULL, 0);
    if (length < 0)
        return (int)length;
    char *bytes = malloc((size_t)length + 1);
    if (bytes == NULL)
        return TEPAL_ENOMEM;
    length = tepal_transport_tls_session(self->transport, bytes, (size_t)length);
    FILE *file = fopen(value, "wb");
    bool is_written = length >= 0 && file != NULL && fwrite(bytes, 1, (size_t)length, file) == (size_t)length;
    if (file != NULL && fclose(file) != 0)
        is_written = false;
    free(bytes);
    if (!is_written)
        return length < 0 ? (int)length : TEPAL_SYSTEM(EIO);
    say("session %lld", (long long)length);
    return GOES_ON;
}

static int step_binding(end *self, const char *value) {
    unsigned char bytes[64];
    char text[2 * sizeof bytes + 1] = "";
    int64_t length = tepal_transport_tls_binding(self->transport, value, bytes, sizeof bytes);
    if (length < 0)
        return (int)length;
    for (size_t index = 0; index < (size_t)length; index++)
        snprintf(text + 2 * index, 3, "%02x", bytes[index]);
    say("binding %s %s", value, text);
    return GOES_ON;
}

static void go_on(end *self);

static void upgraded(tepal_future *future, void *argument) {
    end *self = argument;
    if (tepal_future_error(future) != NULL)
        return; /* connection_lost says so */
    self->is_upgraded = true;
    say_made(self);
    go_on(self);
}

/* What was held when the peer's consent had been used up belongs to TLS. */
static int step_starttls(end *self, const char *value) {
    (void)value;
    if (self->upgrade != NULL)
        return self->is_upgraded ? GOES_ON : WAITS;
    tepal_tls_options options = tls_options(self->peer);
    options.unread = self->held;
    options.unread_length = self->held_length;
    int code = tepal_transport_start_tls(self->transport, &options, &self->upgrade);
    if (code < 0)
        return code;
    use_up(self, self->held_length);
    code = tepal_future_add_done_callback(self->upgrade, upgraded, self);
    return code < 0 ? code : WAITS;
}

static const step_kind step_kinds[] = {
    {"send", step_send, false},         {"pattern", step_pattern, false}, {"echo", step_echo, false},
    {"until", step_until, true},        {"bytes", step_bytes, true},      {"peer-eof", step_peer_eof, false},
    {"eof", step_eof, false},           {"close", step_close, false},     {"abort", step_abort, false},
    {"update", step_update, false},     {"session", step_session, false}, {"binding", step_binding, false},
    {"starttls", step_starttls, false},
};

static bool has_steps_left(const end *self) {
    return self->at < self->peer->step_count;
}

static void go_on(end *self) {
    while (has_steps_left(self)) {
        const step *now = &self->peer->steps[self->at];
        int code = now->kind->run(self, now->value);
        if (code == WAITS)
            return;
        if (code < 0)
            say("refused %s %s", now->kind->name, tepal_error_name(code));
        self->at++;
        self->done = 0;
    }
}

bool read_step(peer *self, const char *word) {
    size_t length = strcspn(word, "=");
    for (size_t index = 0; index < sizeof step_kinds / sizeof *step_kinds && self->step_count < STEPS_MAX; index++) {
        if (strlen(step_kinds[index].name) != length || strncmp(step_kinds[index].name, word, length) != 0)
            continue;
        self->steps[self->step_count++] =
            (step){.kind = &step_kinds[index], .value = word[length] == '=' ? word + length + 1 : ""};
        return true;
    }
    return false;
}

/* The upcalls. */

static int end_made(tepal_protocol *protocol, tepal_transport *transport) {
    end *self = (end *)protocol;
    self->transport = transport;
    say_made(self);
    go_on(self);
    return 0;
}

static int end_received(tepal_protocol *protocol, const void *data, size_t length) {
    end *self = (end *)protocol;
    int code = keep(self, data, length);
    if (code == 0)
        go_on(self);
    return code;
}

static int end_eof(tepal_protocol *protocol) {
    end *self = (end *)protocol;
    self->has_ended = true;
    say_received(self, "eof");
    go_on(self);
    return has_steps_left(self) && !self->peer->steps[self->at].kind->reads ? TEPAL_KEEP_OPEN : 0;
}

static void end_pause(tepal_protocol *protocol) {
    ((end *)protocol)->is_paused = true;
}

static void go_on_later(void *argument) {
    go_on(argument);
}

static void end_resume(tepal_protocol *protocol) {
    end *self = (end *)protocol;
    self->is_paused = false;
    tepal_loop_cancel(self->peer->loop, self->later);
    if (tepal_loop_call_soon(self->peer->loop, go_on_later, self, &self->later) < 0)
        tepal_transport_abort(self->transport, TEPAL_ENOMEM);
}

static void end_lost(tepal_protocol *protocol, const tepal_error *error) {
    end *self = (end *)protocol;
    char what[128];
    snprintf(what, sizeof what, "lost %s", error == NULL ? "clean" : tepal_error_name(error->code));
    say("%s %llu %08x%s%s", what, (unsigned long long)self->received, self->sum ^ 0xffffffffu, error == NULL ? "" : " ",
        error == NULL ? "" : error->text);
    tepal_loop_cancel(self->peer->loop, self->later);
    if (self->upgrade != NULL) {
        tepal_future_remove_done_callback(self->upgrade, upgraded, self);
        tepal_future_error(self->upgrade); /* said already */
        tepal_future_unref(self->upgrade);
    }
    one_has_ended(self->peer);
    free(self->held);
    free(self);
}

static const tepal_protocol_type end_type = {
    .size = sizeof end_type,
    .connection_made = end_made,
    .data_received = end_received,
    .eof_received = end_eof,
    .pause_writing = end_pause,
    .resume_writing = end_resume,
    .connection_lost = end_lost,
};

int make_end(void *argument, tepal_protocol **protocol) {
    end *self = calloc(1, sizeof *self);
    if (self == NULL)
        return TEPAL_ENOMEM;
    self->protocol.type = &end_type;
    self->peer = argument;
    self->sum = 0xffffffffu;
    *protocol = &self->protocol;
    return 0;
}
