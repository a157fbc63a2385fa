/*
 * Addresses from arbitrary bytes: what is accepted is what the headers say, text that was read is written so that it
 * reads again as the same address, a failure leaves the output alone, and no buffer is written past its size.
 */
#include "fuzz/support/fuzz.h"
#include <tepal/base.h>
#include <tepal/error.h>

#include <stdio.h>
#include <stdlib.h>

/* The whole text fits any buffer that is large enough, and nothing is written to one that is not. */
static int format(const tepal_address *address, char text[static TEPAL_ADDRESS_TEXT], size_t small) {
    const int length = tepal_address_format(address, text, TEPAL_ADDRESS_TEXT);
    if (length < 0) {
        CHECK_EQ(length, TEPAL_EINVAL);
        return length;
    }
    CHECK_EQ(strlen(text), length);
    small = small < TEPAL_ADDRESS_TEXT ? small : TEPAL_ADDRESS_TEXT;
    char *exact = malloc(small + 1); /* of its own, so that a byte too many is seen */
    memset(exact, '#', small + 1);
    const int code = tepal_address_format(address, exact, small);
    CHECK_EQ(code, (size_t)length < small ? length : TEPAL_ENOBUFS);
    CHECK_EQ(exact[small], '#');
    if (code >= 0) {
        CHECK_STR(exact, text);
    } else {
        CHECK(small == 0 || exact[0] == '#');
    }
    free(exact);
    return length;
}

static void check_same(const tepal_address *a, const tepal_address *b) {
    CHECK_EQ(a->length, b->length);
    CHECK_MEM(&a->storage, &b->storage, a->length);
}

/* "127.0.0.1:80" or "[::1]:80" without the port and the brackets. */
static void strip(char *text) {
    char *colon = strrchr(text, ':');
    CHECK(colon != NULL);
    *colon = '\0';
    if (text[0] == '[') {
        CHECK_EQ(colon[-1], ']');
        colon[-1] = '\0';
        memmove(text, text + 1, strlen(text));
    }
}

static void literal(fuzz_input *input) {
    const uint16_t port = (uint16_t)fuzz_number(input, 2);
    const size_t small = fuzz_byte(input);
    char *text = malloc(input->left + 1);
    memcpy(text, input->data, input->left);
    text[input->left] = '\0';

    tepal_address address, untouched;
    memset(&untouched, 0xa5, sizeof untouched);
    address = untouched;
    const int code = tepal_address_parse(&address, text, port);
    if (code < 0) {
        CHECK_EQ(code, TEPAL_EINVAL);
        CHECK_MEM(&address, &untouched, sizeof address);
    } else {
        char written[TEPAL_ADDRESS_TEXT];
        CHECK_EQ(code, 0);
        CHECK_EQ(tepal_address_port(&address), port);
        CHECK_GT(format(&address, written, small), 0);
        strip(written);
        tepal_address again;
        CHECK_EQ(tepal_address_parse(&again, written, port), 0);
        check_same(&again, &address);
    }
    free(text);
}

/* What format() must say of a name, worked out the plain way. */
static void expect_unix(char text[static TEPAL_ADDRESS_TEXT], const uint8_t *name, size_t length) {
    const bool is_abstract = name[0] == '\0';
    size_t at = (size_t)snprintf(text, TEPAL_ADDRESS_TEXT, is_abstract ? "unix:@" : "unix:");
    for (size_t i = is_abstract; i < length; i++) {
        const char *const form = name[i] < 0x20 || name[i] > 0x7e ? "\\x%02x" : "%c";
        at += (size_t)snprintf(text + at, TEPAL_ADDRESS_TEXT - at, form, name[i]);
    }
}

static void unix_name(fuzz_input *input) {
    const size_t small = fuzz_byte(input) * 2u;
    const size_t length = input->left;
    char *name = malloc(length + 1);
    memcpy(name, input->data, length);
    const bool is_abstract = length > 0 && name[0] == '\0';
    const bool is_good = length > 0 && (is_abstract ? length <= 108 : length <= 107 && !memchr(name, '\0', length));

    tepal_address address, untouched;
    memset(&untouched, 0xa5, sizeof untouched);
    address = untouched;
    const int code = tepal_address_unix(&address, name, length);
    CHECK_EQ(code, is_good ? 0 : TEPAL_EINVAL);
    if (is_good) {
        char written[TEPAL_ADDRESS_TEXT], expected[TEPAL_ADDRESS_TEXT];
        CHECK_EQ(address.length, sizeof(sa_family_t) + length + !is_abstract);
        CHECK_GT(format(&address, written, small), 0);
        expect_unix(expected, input->data, length);
        CHECK_STR(written, expected);
        CHECK_EQ(tepal_address_port(&address), TEPAL_EINVAL);
    } else {
        CHECK_MEM(&address, &untouched, sizeof address);
    }
    free(name);
}

/* An address as a stranger's program might hand it in: any family, any length, any bytes. */
static void raw(fuzz_input *input) {
    static const sa_family_t families[] = {AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC, AF_NETLINK};
    const size_t small = fuzz_byte(input) * 2u;
    tepal_address address = {.length = (socklen_t)fuzz_number(input, 1 + fuzz_below(input, 4))};
    const sa_family_t family = families[fuzz_below(input, sizeof families / sizeof families[0])];
    memcpy(&address.storage, input->data, input->left < sizeof address.storage ? input->left : sizeof address.storage);
    address.storage.ss_family = family;

    char written[TEPAL_ADDRESS_TEXT];
    const int length = format(&address, written, small);
    const int port = tepal_address_port(&address);
    CHECK(port == TEPAL_EINVAL || (port >= 0 && port <= 65535));
    if (length >= 0 && family != AF_UNIX) {
        tepal_address again;
        strip(written);
        CHECK_EQ(tepal_address_parse(&again, written, (uint16_t)port), 0);
        char twice[TEPAL_ADDRESS_TEXT];
        CHECK_EQ(format(&again, twice, small), length); /* flow labels and padding are lost, the text is not */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input input = {.data = data, .left = size};
    switch (fuzz_below(&input, 3)) {
    case 0:
        literal(&input);
        break;
    case 1:
        unix_name(&input);
        break;
    default:
        raw(&input);
    }
    return 0;
}
