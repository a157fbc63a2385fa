/* Addresses, from and to text. */
#include "harness/test.h"

#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>
#include <tepal/base.h>
#include <tepal/error.h>

static void check_text(const tepal_address *address, const char *expected) {
    char text[TEPAL_ADDRESS_TEXT];
    CHECK_EQ(tepal_address_format(address, text, sizeof text), strlen(expected));
    CHECK_STR(text, expected);
}

static void check_literal(const char *literal, uint16_t port, const char *expected) {
    tepal_address address;
    CHECK_OK(tepal_address_parse(&address, literal, port));
    CHECK_EQ(tepal_address_port(&address), port);
    check_text(&address, expected);
}

TEST(address, literals_are_read_and_written) {
    check_literal("127.0.0.1", 80, "127.0.0.1:80");
    check_literal("0.0.0.0", 0, "0.0.0.0:0");
    check_literal("255.255.255.255", 65535, "255.255.255.255:65535");
    check_literal("::1", 80, "[::1]:80");
    check_literal("::", 0, "[::]:0");
    check_literal("2001:0DB8:0:0:0:0:0:1", 443, "[2001:db8::1]:443");
    check_literal("::ffff:192.0.2.1", 1, "[::ffff:192.0.2.1]:1");
    check_literal("fe80::1%7", 80, "[fe80::1%7]:80");
    check_literal("fe80::1%4294967295", 65535, "[fe80::1%4294967295]:65535");
    check_literal("fe80::1%0", 80, "[fe80::1]:80");
}

TEST(address, a_scope_may_name_an_interface) {
    struct if_nameindex *const interfaces = if_nameindex();
    if (interfaces == NULL || interfaces[0].if_name == NULL) {
        SKIP("no interface");
    }
    char literal[64];
    char expected[64];
    (void)snprintf(literal, sizeof literal, "fe80::1%%%s", interfaces[0].if_name);
    (void)snprintf(expected, sizeof expected, "[fe80::1%%%u]:9", interfaces[0].if_index);
    check_literal(literal, 9, expected);
    if_freenameindex(interfaces);
}

TEST(address, what_is_no_literal_is_refused_and_changes_nothing) {
    static const char *const wrong[] = {
        "",
        " ",
        "localhost",
        "127.0.0",
        "127.0.0.1.",
        "127.0.0.256",
        "127.1",
        "0x7f.0.0.1",
        "127.0.0.1 ",
        " 127.0.0.1",
        "127.0.0.1:80",
        "127.0.0.1%lo",
        "[::1]",
        ":",
        ":::",
        "1::2::3",
        "12345::",
        "::1%",
        "::1%nosuchinterface0",
        "::1%no such",
        "::1%-1",
        "::1%4294967296",
        "::1%999999999999999",
        "::1%99999999999999999999",
        "fe80::1%lo%lo",
        "%lo",
        "1:2:3:4:5:6:7:8:9",
        "::ffff:1.2.3.4.5",
    };
    tepal_address before;
    memset(&before, 0x5a, sizeof before);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        tepal_address address = before;
        CHECK_EQ(tepal_address_parse(&address, wrong[i], 80), TEPAL_EINVAL);
        CHECK_MEM(&address, &before, sizeof before);
    }
    CHECK_EQ(tepal_address_parse(&before, NULL, 80), TEPAL_EINVAL);
    CHECK_EQ(tepal_address_parse(NULL, "::1", 80), TEPAL_EINVAL);
}

TEST(address, literals_of_every_length_are_safe) {
    static const char *const heads[] = {"", "::", "1", "1.", "::1%", "fe80::1%1"};
    static const char fills[] = "01:.%aZ";
    for (size_t head = 0; head < sizeof heads / sizeof heads[0]; head++) {
        const size_t start = strlen(heads[head]);
        for (size_t fill = 0; fill + 1 < sizeof fills; fill++) {
            for (size_t length = start; length <= 65536; length = length < 300 ? length + 1 : length * 2 - 1) {
                char *const text = malloc(length + 1); /* exact, so that a sanitizer sees a byte too many */
                memcpy(text, heads[head], start);
                memset(text + start, fills[fill], length - start);
                text[length] = '\0';
                tepal_address address;
                const int code = tepal_address_parse(&address, text, 1);
                CHECK(code == 0 || code == TEPAL_EINVAL);
                CHECK(length < 64 || code == TEPAL_EINVAL);
                free(text);
            }
        }
    }
}

TEST(address, unix_paths_and_abstract_names_are_told_apart) {
    tepal_address address;
    CHECK_OK(tepal_address_unix(&address, "/run/x", 6));
    CHECK_EQ(address.length, offsetof(struct sockaddr_un, sun_path) + 7);
    check_text(&address, "unix:/run/x");
    CHECK_EQ(tepal_address_port(&address), TEPAL_EINVAL);
    CHECK_OK(tepal_address_unix(&address, "\0name", 5));
    CHECK_EQ(address.length, offsetof(struct sockaddr_un, sun_path) + 5);
    check_text(&address, "unix:@name");
    CHECK_OK(tepal_address_unix(&address, "\0a\0b\xff", 5));
    check_text(&address, "unix:@a\\x00b\\xff");
    CHECK_OK(tepal_address_unix(&address, "new\nline\x7f", 9));
    check_text(&address, "unix:new\\x0aline\\x7f");

    address = (tepal_address){.length = sizeof(sa_family_t), .storage.ss_family = AF_UNIX};
    check_text(&address, "unix:");
}

TEST(address, a_unix_name_holds_what_the_kernel_takes_and_no_more) {
    for (size_t length = 0; length <= 65536; length++) {
        if (length > 200 && length != 65535 && length != 65536) {
            continue;
        }
        char *const name = malloc(length + 1);
        memset(name, 'x', length);
        tepal_address address;
        CHECK_EQ(tepal_address_unix(&address, name, length), length >= 1 && length <= 107 ? 0 : TEPAL_EINVAL);
        if (length > 0) {
            name[0] = '\0';
            CHECK_EQ(tepal_address_unix(&address, name, length), length <= 108 ? 0 : TEPAL_EINVAL);
        }
        free(name);
    }
}

TEST(address, a_nul_inside_a_path_is_refused_wherever_it_is) {
    tepal_address before;
    memset(&before, 0x5a, sizeof before);
    for (size_t length = 2; length <= 107; length++) {
        for (size_t at = 1; at < length; at++) {
            char path[107];
            memset(path, 'x', sizeof path);
            path[at] = '\0';
            tepal_address address = before;
            CHECK_EQ(tepal_address_unix(&address, path, length), TEPAL_EINVAL);
            CHECK_MEM(&address, &before, sizeof before);
        }
    }
    CHECK_EQ(tepal_address_unix(&before, NULL, 1), TEPAL_EINVAL);
    CHECK_EQ(tepal_address_unix(NULL, "x", 1), TEPAL_EINVAL);
}

TEST(address, the_longest_text_fits_the_documented_size) {
    tepal_address address = {.length = sizeof(struct sockaddr_un), .storage.ss_family = AF_UNIX};
    char *const path = (char *)&address.storage + offsetof(struct sockaddr_un, sun_path);
    memset(path, '\xff', 108);
    char text[TEPAL_ADDRESS_TEXT];
    CHECK_EQ(tepal_address_format(&address, text, sizeof text), 5 + 4 * 108);
    path[0] = '\0';
    CHECK_EQ(tepal_address_format(&address, text, sizeof text), 6 + 4 * 107);
}

TEST(address, a_text_that_does_not_fit_is_not_begun) {
    tepal_address address;
    CHECK_OK(tepal_address_parse(&address, "127.0.0.1", 80));
    const int length = (int)strlen("127.0.0.1:80");
    for (int size = 0; size <= length; size++) {
        char text[16];
        char before[16];
        memset(text, 0x5a, sizeof text);
        memset(before, 0x5a, sizeof before);
        CHECK_EQ(tepal_address_format(&address, text, (size_t)size), TEPAL_ENOBUFS);
        CHECK_MEM(text, before, sizeof text);
    }
    char text[16];
    CHECK_EQ(tepal_address_format(&address, text, (size_t)length + 1), length);
    CHECK_EQ(tepal_address_format(&address, NULL, 0), TEPAL_ENOBUFS);
}

TEST(address, an_address_cut_short_or_unknown_is_refused) {
    tepal_address address;
    char text[TEPAL_ADDRESS_TEXT];
    CHECK_OK(tepal_address_parse(&address, "::1", 80));
    for (socklen_t length = 0; length < sizeof(struct sockaddr_in6); length++) {
        address.length = length;
        CHECK_EQ(tepal_address_format(&address, text, sizeof text), TEPAL_EINVAL);
        CHECK_EQ(tepal_address_port(&address), TEPAL_EINVAL);
    }
    address.length = sizeof address.storage + 1;
    CHECK_EQ(tepal_address_format(&address, text, sizeof text), TEPAL_EINVAL);
    address = (tepal_address){.length = sizeof address.storage, .storage.ss_family = AF_PACKET};
    CHECK_EQ(tepal_address_format(&address, text, sizeof text), TEPAL_EINVAL);
    CHECK_EQ(tepal_address_port(&address), TEPAL_EINVAL);
    CHECK_EQ(tepal_address_format(NULL, text, sizeof text), TEPAL_EINVAL);
    CHECK_EQ(tepal_address_port(NULL), TEPAL_EINVAL);
}

TEST(address, what_is_written_reads_back_the_same) {
    test_prng prng = test_prng_start(1);
    for (int i = 0; i < 20000; i++) {
        struct sockaddr_in6 inet6 = {.sin6_family = AF_INET6, .sin6_port = (in_port_t)test_prng_next(&prng)};
        test_prng_fill(&prng, &inet6.sin6_addr, sizeof inet6.sin6_addr);
        inet6.sin6_scope_id = i % 2 == 0 ? 0 : (uint32_t)test_prng_next(&prng);
        memset(&inet6.sin6_addr, 0, test_prng_below(&prng, 17));
        tepal_address address = {.length = sizeof inet6};
        memcpy(&address.storage, &inet6, sizeof inet6);

        char text[TEPAL_ADDRESS_TEXT];
        CHECK_OK(tepal_address_format(&address, text, sizeof text));
        char *const bracket = strchr(text, ']');
        *bracket = '\0';
        tepal_address again;
        CHECK_OK(tepal_address_parse(&again, text + 1, (uint16_t)strtoul(bracket + 2, NULL, 10)));
        CHECK_EQ(again.length, address.length);
        CHECK_MEM(&again.storage, &address.storage, address.length);
    }
}
