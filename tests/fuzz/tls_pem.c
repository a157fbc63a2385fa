/*
 * Contexts from arbitrary text: certificates, keys and authorities that are damaged, cut, mixed up. One is made, or nothing
 * is left and a sentence says why; what was made can be reloaded and given back.
 */
#include "fuzz/support/fuzz.h"
#include <tepal.h>

#include <openssl/err.h>
#include <stdlib.h>

/* The next part of the input, which ends with a byte of 1 or with it, as a text of its own; NULL: it is empty. */
static char *text(fuzz_input *input) {
    const uint8_t *end = memchr(input->data, 1, input->left);
    const size_t length = end == NULL ? input->left : (size_t)(end - input->data);
    char *copy = length == 0 ? NULL : malloc(length + 1);

    if (copy != NULL) {
        memcpy(copy, input->data, length);
        copy[length] = '\0';
    }
    input->data += length;
    input->left -= length;
    (void)fuzz_byte(input);
    return copy;
}

static void check_refused(int code, const char *why) {
    CHECK_LT(code, 0);
    CHECK(code == TEPAL_EINVAL || tepal_error_domain(code) == TEPAL_DOMAIN_TLS);
    CHECK(why[0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input input = {.data = data, .left = size};
    const uint8_t choice = fuzz_byte(&input);
    tepal_tls_context *const untouched = (tepal_tls_context *)(uintptr_t)&choice;
    tepal_tls_context *made = untouched;
    char why[64] = "", other[64] = "";

    if (size == 0) {
        return 0;
    }
    char *const texts[] = {text(&input), text(&input), text(&input), text(&input), text(&input)};
    const tepal_tls_context_options options = {
        .size = sizeof options,
        .server = (choice & 1) != 0,
        .clients = choice & 1 ? (tepal_tls_clients)(choice >> 1 & 1) : TEPAL_TLS_CLIENTS_ANY,
        .minimum = choice & 8 ? TEPAL_TLS_1_3 : 0,
        .key_password = choice & 4 ? "secret" : NULL,
        .certificate = texts[0],
        .key = texts[1],
        .ca = texts[2] == NULL ? "" : texts[2],
        .ciphers = texts[3],
        .cipher_suites = texts[4],
    };
    const int code = tepal_tls_context_new(&made, &options, why, sizeof why);
    CHECK_LT(strnlen(why, sizeof why), sizeof why);
    if (code < 0) {
        CHECK(made == untouched);
        check_refused(code, why);
    } else {
        CHECK_EQ(code, 0);
        const int again = tepal_tls_context_reload(made, NULL, other, sizeof other);
        CHECK_EQ(again, 0);
        tepal_tls_context_unref(made);
    }
    CHECK_EQ(ERR_peek_error(), 0);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        free(texts[i]);
    }
    return 0;
}
