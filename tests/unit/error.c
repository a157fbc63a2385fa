/* Codes, their names and sentences, and copies of errors. */
#include "base/alloc.h"
#include "harness/test.h"

#include <limits.h>
#include <netdb.h>
#include <stdio.h>
#include <tepal/error.h>

TEST(error, a_code_keeps_its_domain_and_value) {
    for (int domain = TEPAL_DOMAIN_SYSTEM; domain <= TEPAL_DOMAIN_USER; domain++) {
        const int values[] = {0, 1, 4095, 16777215};
        for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
            const int code = tepal_error_make((tepal_domain)domain, values[i]);
            CHECK_LT(code, 0);
            CHECK_EQ(tepal_error_domain(code), domain);
            CHECK_EQ(tepal_error_value(code), values[i]);
        }
    }
}

TEST(error, parts_out_of_range_make_no_code) {
    CHECK_EQ(tepal_error_make(TEPAL_DOMAIN_USER, -1), TEPAL_EINVAL);
    CHECK_EQ(tepal_error_make(TEPAL_DOMAIN_USER, 16777216), TEPAL_EINVAL);
    CHECK_EQ(tepal_error_make((tepal_domain)0, 1), TEPAL_EINVAL);
    CHECK_EQ(tepal_error_make((tepal_domain)6, 1), TEPAL_EINVAL);
}

TEST(error, a_system_code_speaks_as_errno_does) {
    CHECK_EQ(TEPAL_SYSTEM(ECONNREFUSED), tepal_error_make(TEPAL_DOMAIN_SYSTEM, ECONNREFUSED));
    CHECK_STR(tepal_strerror(TEPAL_SYSTEM(ECONNREFUSED)), "Connection refused");
    CHECK_STR(tepal_error_name(TEPAL_SYSTEM(ECONNREFUSED)), "ECONNREFUSED");
    CHECK_STR(tepal_error_name(TEPAL_EINVAL), "EINVAL");
    CHECK_EQ(tepal_error_value(TEPAL_ENOTSUP), EOPNOTSUPP);
    CHECK_STR(tepal_strerror(TEPAL_SYSTEM(99999)), "unknown error of the system");
    CHECK_STR(tepal_error_name(TEPAL_SYSTEM(99999)), "unknown");
    CHECK_STR(tepal_strerror(TEPAL_SYSTEM(0)), "unknown error of the system");
    CHECK_STR(tepal_error_name(TEPAL_SYSTEM(0)), "unknown");
}

TEST(error, every_code_of_the_table_has_its_name_and_sentence) {
#define CHECK_ENTRY(name, value, text)                                                                                 \
    CHECK_EQ(tepal_error_domain(TEPAL_##name), TEPAL_DOMAIN_TEPAL);                                                    \
    CHECK_EQ(tepal_error_value(TEPAL_##name), value);                                                                  \
    CHECK_STR(tepal_error_name(TEPAL_##name), "TEPAL_" #name);                                                         \
    CHECK_STR(tepal_strerror(TEPAL_##name), text);
    TEPAL_ERROR_TABLE(CHECK_ENTRY)
    CHECK_STR(tepal_error_name(TEPAL_ERROR(TEPAL_DOMAIN_TEPAL, 4000)), "unknown");
    CHECK_STR(tepal_strerror(TEPAL_ERROR(TEPAL_DOMAIN_TEPAL, 4000)), "unknown error of Tepal");
}

TEST(error, a_resolver_code_speaks_as_getaddrinfo_does) {
    const int code = tepal_error_make(TEPAL_DOMAIN_RESOLVER, -EAI_NONAME);
    CHECK_STR(tepal_error_name(code), "EAI_NONAME");
    CHECK_STR(tepal_strerror(code), gai_strerror(EAI_NONAME));
    CHECK_STR(tepal_error_name(tepal_error_make(TEPAL_DOMAIN_RESOLVER, -EAI_IDN_ENCODE)), "EAI_IDN_ENCODE");
    CHECK_STR(tepal_error_name(tepal_error_make(TEPAL_DOMAIN_RESOLVER, 5000)), "unknown");
    CHECK_STR(tepal_strerror(tepal_error_make(TEPAL_DOMAIN_RESOLVER, 0)), "unknown error of the resolver");
}

TEST(error, zero_and_counts_are_success) {
    CHECK_STR(tepal_strerror(0), "success");
    CHECK_STR(tepal_strerror(1), "success");
    CHECK_STR(tepal_strerror(INT_MAX), "success");
    CHECK_STR(tepal_error_name(0), "unknown");
    CHECK_EQ(tepal_error_domain(5), 0);
    CHECK_EQ(tepal_error_value(5), 0);
}

TEST(error, any_int_has_a_name_and_a_sentence) {
    test_prng prng = test_prng_start(0);
    for (int i = 0; i < 100000; i++) {
        const int code = i == 0 ? INT_MIN : i == 1 ? -1 : (int)test_prng_next(&prng);
        CHECK(tepal_strerror(code)[0] != '\0');
        CHECK(tepal_error_name(code)[0] != '\0');
    }
    CHECK_STR(tepal_strerror(INT_MIN), "unknown error");
    CHECK_STR(tepal_strerror(TEPAL_ETLS_HTTP), "the peer speaks plain HTTP, not TLS");
    CHECK_STR(tepal_error_name(TEPAL_ETLS_HTTP), "TEPAL_ETLS_HTTP");
    CHECK_STR(tepal_strerror(tepal_error_make(TEPAL_DOMAIN_TLS, 999)), "unknown error of TLS");
    CHECK_STR(tepal_error_name(tepal_error_make(TEPAL_DOMAIN_TLS, 999)), "unknown");
    CHECK_STR(tepal_strerror(tepal_error_make(TEPAL_DOMAIN_USER, 7)), "error of the program's own");
}

TEST(error, a_copy_outlives_its_original) {
    tepal_address address;
    CHECK_OK(tepal_address_parse(&address, "192.0.2.1", 80));
    char text[] = "no answer from the first";
    tepal_error first = {.code = TEPAL_ETIMEDOUT, .text = text, .address = &address};
    tepal_error second = {.code = TEPAL_EPIPE, .text = NULL, .next = &first};
    tepal_error third = {.code = TEPAL_ECLOSED, .text = "", .address = &address, .next = &second};

    tepal_error *const copy = tpi_error_copy(test_counting_alloc, &third);
    CHECK_EQ(test_alloc_live(), 1);
    const tepal_address same = address;
    memset(&address, 0xee, sizeof address);
    memset(text, 'x', sizeof text - 1);
    memset(&first, 0xee, sizeof first);
    memset(&second, 0xee, sizeof second);
    memset(&third, 0xee, sizeof third);

    CHECK_EQ(copy->code, TEPAL_ECLOSED);
    CHECK_STR(copy->text, "");
    CHECK_MEM(copy->address, &same, sizeof same);
    CHECK_EQ(copy->next->code, TEPAL_EPIPE);
    CHECK_STR(copy->next->text, tepal_strerror(TEPAL_EPIPE));
    CHECK(copy->next->address == NULL);
    CHECK_EQ(copy->next->next->code, TEPAL_ETIMEDOUT);
    CHECK_STR(copy->next->next->text, "no answer from the first");
    CHECK_MEM(copy->next->next->address, &same, sizeof same);
    CHECK(copy->next->next->next == NULL);
    tpi_free(test_counting_alloc, copy);
}

TEST(error, a_copy_without_memory_is_null) {
    const tepal_error error = {.code = TEPAL_ECLOSED, .text = "gone"};
    test_alloc_fail_at(1, false);
    CHECK(tpi_error_copy(test_counting_alloc, &error) == NULL);
}

TEST(error, the_default_allocator_frees_at_size_zero) {
    char *memory = tpi_default_realloc(NULL, 3);
    CHECK(memory != NULL);
    memcpy(memory, "abc", 3);
    memory = tpi_default_realloc(memory, 100000);
    CHECK_MEM(memory, "abc", 3);
    CHECK(tpi_default_realloc(memory, 0) == NULL);
    CHECK(tpi_default_realloc(NULL, 0) == NULL);
}

TEST(error, the_version_is_that_of_the_headers) {
    char text[32];
    (void)snprintf(text, sizeof text, "%d.%d.%d", TEPAL_VERSION_MAJOR, TEPAL_VERSION_MINOR, TEPAL_VERSION_PATCH);
    CHECK_STR(tepal_version(), text);
}
