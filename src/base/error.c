/*
 * What codes mean: their domains, names and sentences; and copies of errors with their circumstances.
 *
 * Everything here but the copy is static or the C library's own, so it may be called anywhere, short of memory or
 * not. It must never format into a shared buffer or trust a code to be valid.
 */
#include "base/alloc.h"

#include <assert.h>
#include <netdb.h>
#include <stdalign.h>

enum { VALUE_BITS = 24, VALUE_MASK = (1 << VALUE_BITS) - 1 };

/* getaddrinfo's errors that POSIX or glibc know; the others have no name. */
#define RESOLVER_TABLE(X)                                                                                              \
    X(EAI_BADFLAGS)                                                                                                    \
    X(EAI_NONAME)                                                                                                      \
    X(EAI_AGAIN)                                                                                                       \
    X(EAI_FAIL)                                                                                                        \
    X(EAI_NODATA)                                                                                                      \
    X(EAI_FAMILY)                                                                                                      \
    X(EAI_SOCKTYPE)                                                                                                    \
    X(EAI_SERVICE)                                                                                                     \
    X(EAI_ADDRFAMILY)                                                                                                  \
    X(EAI_MEMORY)                                                                                                      \
    X(EAI_SYSTEM)                                                                                                      \
    X(EAI_OVERFLOW)                                                                                                    \
    X(EAI_CANCELED)                                                                                                    \
    X(EAI_IDN_ENCODE)

/* The size of a negative code, which for INT_MIN is no int. */
static unsigned magnitude(int code) {
    return 0u - (unsigned)code;
}

int tepal_error_make(tepal_domain domain, int value) {
    if (domain < TEPAL_DOMAIN_SYSTEM || domain > TEPAL_DOMAIN_USER || value < 0 || value > VALUE_MASK) {
        return TEPAL_EINVAL;
    }
    return TEPAL_ERROR(domain, value);
}

tepal_domain tepal_error_domain(int code) {
    return code < 0 ? (tepal_domain)(magnitude(code) >> VALUE_BITS) : (tepal_domain)0;
}

int tepal_error_value(int code) {
    return code < 0 ? (int)(magnitude(code) & VALUE_MASK) : 0;
}

static const char *tepal_sentence(int code) {
    switch (code) {
#define SENTENCE(name, value, text)                                                                                    \
    case TEPAL_##name:                                                                                                 \
        return text;
        TEPAL_ERROR_TABLE(SENTENCE)
#undef SENTENCE
    default:
        return "unknown error of Tepal";
    }
}

static const char *tepal_name(int code) {
    switch (code) {
#define NAME(name, value, text)                                                                                        \
    case TEPAL_##name:                                                                                                 \
        return "TEPAL_" #name;
        TEPAL_ERROR_TABLE(NAME)
#undef NAME
    default:
        return NULL;
    }
}

static const char *tls_sentence(int code) {
    switch (code) {
#define SENTENCE(name, value, text)                                                                                    \
    case TEPAL_ETLS_##name:                                                                                            \
        return text;
        TEPAL_TLS_ERROR_TABLE(SENTENCE)
#undef SENTENCE
    default:
        return "unknown error of TLS";
    }
}

static const char *tls_name(int code) {
    switch (code) {
#define NAME(name, value, text)                                                                                        \
    case TEPAL_ETLS_##name:                                                                                            \
        return "TEPAL_ETLS_" #name;
        TEPAL_TLS_ERROR_TABLE(NAME)
#undef NAME
    default:
        return NULL;
    }
}

static const char *resolver_name(int value) {
    switch (-value) {
#define NAME(name)                                                                                                     \
    case name:                                                                                                         \
        return #name;
        RESOLVER_TABLE(NAME)
#undef NAME
    default:
        return NULL;
    }
}

static const char *system_sentence(int value) {
    const char *const sentence = value == 0 ? NULL : strerrordesc_np(value);
    return sentence != NULL ? sentence : "unknown error of the system";
}

const char *tepal_strerror(int code) {
    if (code >= 0) {
        return "success";
    }
    switch (tepal_error_domain(code)) {
    case TEPAL_DOMAIN_SYSTEM:
        return system_sentence(tepal_error_value(code));
    case TEPAL_DOMAIN_TEPAL:
        return tepal_sentence(code);
    case TEPAL_DOMAIN_RESOLVER:
        /* gai_strerror(0) would be a success. */
        return tepal_error_value(code) == 0 ? "unknown error of the resolver" : gai_strerror(-tepal_error_value(code));
    case TEPAL_DOMAIN_TLS:
        return tls_sentence(code);
    case TEPAL_DOMAIN_USER:
        return "error of the program's own";
    default:
        return "unknown error";
    }
}

const char *tepal_error_name(int code) {
    const int value = tepal_error_value(code);
    const char *name = NULL;
    switch (tepal_error_domain(code)) {
    case TEPAL_DOMAIN_SYSTEM:
        name = value == 0 ? NULL : strerrorname_np(value);
        break;
    case TEPAL_DOMAIN_TEPAL:
        name = tepal_name(code);
        break;
    case TEPAL_DOMAIN_RESOLVER:
        name = resolver_name(value);
        break;
    case TEPAL_DOMAIN_TLS:
        name = tls_name(code);
        break;
    case TEPAL_DOMAIN_USER:
    default:
        break;
    }
    return name != NULL ? name : "unknown";
}

tepal_error *tpi_error_copy(tpi_realloc allocate, const tepal_error *error) {
    /* One block: the errors, then their addresses, then their texts, so that each part is aligned. */
    static_assert(sizeof(tepal_error) % alignof(tepal_address) == 0, "addresses follow errors");
    size_t errors = 0;
    size_t addresses = 0;
    size_t text_bytes = 0;
    for (const tepal_error *from = error; from != NULL; from = from->next) {
        errors++;
        addresses += from->address != NULL;
        text_bytes += from->text != NULL ? strlen(from->text) + 1 : 0;
    }
    tepal_error *const copies =
        allocate(NULL, errors * sizeof(tepal_error) + addresses * sizeof(tepal_address) + text_bytes);
    if (copies == NULL) {
        return NULL;
    }

    tepal_error *copy = copies;
    tepal_address *address = (tepal_address *)(copies + errors);
    char *text = (char *)(address + addresses);
    for (const tepal_error *from = error; from != NULL; from = from->next, copy++) {
        *copy = (tepal_error){.code = from->code, .text = tepal_strerror(from->code)};
        if (from->text != NULL) {
            const size_t size = strlen(from->text) + 1;
            copy->text = memcpy(text, from->text, size);
            text += size;
        }
        if (from->address != NULL) {
            *address = *from->address;
            copy->address = address++;
        }
        copy->next = from->next != NULL ? copy + 1 : NULL;
    }
    return copies;
}
