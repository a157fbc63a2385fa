/*
 * Records from arbitrary bytes into the engine, as a client and as a server: an engine never stands by what a stranger made
 * up, never takes what was changed on its way for what was sent, and says what is wrong with a code of TLS's own.
 *
 * The first byte chooses: the input goes to one engine as it is, in portions; or two engines talk to each other, and the
 * input says what becomes of their words on the way. Randomness comes from a seed, so that an input does the same each time.
 */
#define OPENSSL_SUPPRESS_DEPRECATED /* RAND_METHOD */
#include "conformance/tls_identities.h"
#include "fuzz/support/fuzz.h"
#include "tls/engine.h"

#include <openssl/err.h>
#include <openssl/rand.h>
#include <stdlib.h>

enum { MOST = 1 << 18, ROOM = 2 * TPI_RECORD_ROOM, DATA = 3000 };

/* ---- The engine's randomness ---- */

static uint64_t random_state;

static int random_bytes(unsigned char *bytes, int count) {
    for (int i = 0; i < count; i++) {
        random_state = random_state * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (unsigned char)(random_state >> 56);
    }
    return 1;
}

static int random_status(void) {
    return 1;
}

static const RAND_METHOD random_method = {.bytes = random_bytes, .pseudorand = random_bytes, .status = random_status};

/* ---- Ends ---- */

typedef struct talker {
    tpi_engine engine; /* first */
    uint8_t *said;     /* not yet taken by the other */
    size_t said_length;
    uint8_t room[ROOM];
    bool is_open, is_over;
    uint64_t written, read;
} talker;

static void spill(tpi_engine *engine) {
    talker *self = (talker *)engine;

    CHECK_LE(self->said_length + engine->out_length, MOST);
    self->said = realloc(self->said, self->said_length + engine->out_length + 1);
    CHECK(self->said != NULL);
    memcpy(self->said + self->said_length, engine->out, engine->out_length);
    self->said_length += engine->out_length;
    engine->out_length = 0;
}

static tepal_tls_context *context(bool server, tepal_tls_version version) {
    static tepal_tls_context *made[2][2];
    tepal_tls_context **const kept = &made[server][version == TEPAL_TLS_1_3];

    if (*kept == NULL) {
        const tepal_tls_context_options options = {
            .size = sizeof options,
            .server = server,
            .certificate = server ? identity_server()->certificate : identity_client()->certificate,
            .key = server ? identity_server()->key : identity_client()->key,
            .ca = identity_authority()->certificate,
            .clients = server ? TEPAL_TLS_CLIENTS_MAY : TEPAL_TLS_CLIENTS_ANY,
            .minimum = version,
            .maximum = version,
            .no_resumption = true,
        };
        CHECK_OK(tepal_tls_context_new(kept, &options, NULL, 0));
    }
    return *kept;
}

static void talker_open(talker *self, bool server, tepal_tls_version version) {
    memset(self, 0, sizeof *self);
    CHECK_OK(tpi_engine_open(&self->engine, context(server, version), server ? NULL : "localhost", NULL, 0));
    self->engine.out = self->room;
    self->engine.out_room = sizeof self->room;
    self->engine.spill = spill;
}

static void talker_close(talker *self) {
    tpi_engine_close(&self->engine);
    free(self->said);
}

static void check_code(int64_t code) {
    CHECK_LT(code, 0);
    CHECK_EQ(tepal_error_domain((int)code), TEPAL_DOMAIN_TLS);
    CHECK_NE(code, TEPAL_ETLS_ENGINE);
}

static uint8_t byte_at(bool server, uint64_t offset) {
    return (uint8_t)(offset * 7 + (offset >> 8) + server);
}

static void check_data(talker *self, bool server, const uint8_t *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) {
        CHECK_EQ(bytes[i], byte_at(!server, self->read + i));
    }
    self->read += length;
}

/* Take these bytes, all of them unless it is over. */
static void talker_take(talker *self, bool server, const uint8_t *bytes, size_t length) {
    static uint8_t plain[TPI_RECORD_BYTES];

    self->engine.in = bytes;
    self->engine.in_length = length;
    while (!self->is_over) {
        int64_t code;
        if (!self->is_open) {
            code = tpi_engine_set_up(&self->engine);
            self->is_open = code == 1;
        } else {
            code = tpi_engine_read(&self->engine, plain, sizeof plain);
            if (code > 0) {
                CHECK_LE(code, (int64_t)sizeof plain);
                check_data(self, server, plain, (size_t)code);
            }
        }
        if (code == TPI_ENGINE_DRY) {
            CHECK_EQ(self->engine.in_length, 0);
            break;
        }
        if (code == TPI_ENGINE_ENDED) {
            CHECK(self->engine.has_ended);
            self->is_over = true;
        } else if (code < 0) {
            check_code(code);
            self->is_over = true;
        }
    }
    spill(&self->engine);
    self->engine.in = NULL;
    self->engine.in_length = 0;
    CHECK_EQ(ERR_peek_error(), 0); /* it leaves nothing behind */
}

/* ---- A stranger ---- */

static void feed_one(fuzz_input *input, bool server, tepal_tls_version version) {
    talker self;

    talker_open(&self, server, version);
    talker_take(&self, server, NULL, 0);
    while (input->left > 0 && !self.is_over) {
        size_t length = fuzz_length(input, 2000) + 1;
        length = length < input->left ? length : input->left;
        talker_take(&self, server, input->data, length);
        input->data += length;
        input->left -= length;
        CHECK(!self.is_open); /* nobody who has no key can complete a handshake */
    }
    talker_close(&self);
}

/* ---- Two that know each other, and somebody between them ---- */

/* Do something to what was said. True if it is not what it was. */
static bool tamper(fuzz_input *input, talker *from) {
    const size_t at = from->said_length == 0 ? 0 : (size_t)fuzz_number(input, 2) % from->said_length;

    switch (fuzz_below(input, 8)) {
    case 1: /* another byte */
        if (from->said_length > 0) {
            const uint8_t change = fuzz_byte(input);
            from->said[at] ^= change;
            return change != 0;
        }
        return false;
    case 2: { /* cut out */
        const size_t length = fuzz_length(input, from->said_length - at);
        if (length == 0) {
            return false;
        }
        memmove(from->said + at, from->said + at + length, from->said_length - at - length);
        from->said_length -= length;
        return true;
    }
    case 3: { /* put in */
        uint8_t more[300];
        const size_t length = fuzz_length(input, sizeof more);
        for (size_t i = 0; i < length; i++) {
            more[i] = fuzz_byte(input);
        }
        from->said = realloc(from->said, from->said_length + length + 1);
        CHECK(from->said != NULL);
        memmove(from->said + at + length, from->said + at, from->said_length - at);
        memcpy(from->said + at, more, length);
        from->said_length += length;
        return length > 0;
    }
    case 4: { /* said twice */
        const size_t length = from->said_length;
        if (length == 0 || 2 * length > MOST / 4) {
            return false;
        }
        from->said = realloc(from->said, 2 * length + 1);
        CHECK(from->said != NULL);
        memcpy(from->said + length, from->said, length);
        from->said_length = 2 * length;
        return true;
    }
    default:
        return false;
    }
}

static void hand_over(fuzz_input *input, talker *from, talker *to, bool to_server) {
    uint8_t *said = from->said;
    size_t left = from->said_length, at = 0;

    from->said = NULL;
    from->said_length = 0;
    while (left > 0) {
        const uint8_t portion = fuzz_byte(input);
        const size_t length = portion == 0 || portion > left ? left : portion;
        talker_take(to, to_server, said + at, length);
        at += length;
        left -= length;
    }
    free(said);
}

/* Say something, if it may. */
static void speak(fuzz_input *input, talker *self, bool server) {
    uint8_t data[DATA];
    const size_t length = fuzz_length(input, sizeof data);
    int code = 0;

    if (!self->is_open || self->is_over || tpi_engine_is_busy(&self->engine)) {
        return;
    }
    switch (fuzz_below(input, 4)) {
    case 1:
        code = tpi_engine_update_keys(&self->engine);
        CHECK(code == 0 || code == TEPAL_ENOTSUP);
        break;
    case 2:
        code = tpi_engine_end(&self->engine);
        CHECK_EQ(code, 0);
        self->is_over = true; /* it says no more, and this test lets it hear no more */
        break;
    default:
        for (size_t i = 0; i < length; i++) {
            data[i] = byte_at(server, self->written + i);
        }
        if (length > 0) {
            CHECK_EQ(tpi_engine_write(&self->engine, data, length), 0);
        }
        self->written += length;
        break;
    }
    spill(&self->engine);
}

static void converse(fuzz_input *input, tepal_tls_version version) {
    talker ends[2]; /* the client, the server */
    bool was_tampered_with = false;

    for (int i = 0; i < 2; i++) {
        talker_open(&ends[i], i == 1, version);
    }
    talker_take(&ends[0], false, NULL, 0);
    for (int round = 0; round < 40 && (round < 8 || input->left > 0); round++) {
        for (int i = 0; i < 2; i++) {
            was_tampered_with = tamper(input, &ends[i]) || was_tampered_with;
            hand_over(input, &ends[i], &ends[1 - i], i == 0);
            speak(input, &ends[1 - i], i == 0);
        }
        for (int i = 0; i < 2; i++) {
            CHECK_LE(ends[i].read, ends[1 - i].written);
        }
    }
    if (!was_tampered_with) { /* then there was nothing to complain about */
        CHECK(ends[0].is_open && ends[1].is_open);
    }
    for (int i = 0; i < 2; i++) {
        talker_close(&ends[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input input = {.data = data, .left = size};
    const uint8_t choice = fuzz_byte(&input);
    const tepal_tls_version version = choice & 1 ? TEPAL_TLS_1_2 : TEPAL_TLS_1_3;

    random_state = 20121220;
    CHECK_EQ(RAND_set_rand_method(&random_method), 1);
    (void)context(true, version);
    (void)context(false, version);
    random_state = 20121221;
    if (choice & 2) {
        feed_one(&input, (choice & 4) != 0, version);
    } else {
        converse(&input, version);
    }
    return 0;
}
