/*
 * Addresses: read from literal text, made from Unix paths, written as text.
 *
 * Texts and lengths come from strangers (a name on a command line, a path from a configuration), so nothing is
 * truncated, nothing is read past the length given, and an address that fails is left untouched. It must never look a
 * name up: that blocks, and is the resolver's.
 */
#include "base/address.h"
#include <tepal/error.h>

#include <arpa/inet.h>
#include <assert.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

enum {
    UNIX_HEAD = offsetof(struct sockaddr_un, sun_path),
    UNIX_SPACE = sizeof(((struct sockaddr_un *)NULL)->sun_path)
};

/* What is after "%": the number of an interface, or its name. */
static int parse_scope(const char *text, uint32_t *scope) {
    const size_t length = strnlen(text, IF_NAMESIZE);
    if (length == 0 || length == IF_NAMESIZE) {
        return TEPAL_EINVAL;
    }
    if (strspn(text, "0123456789") == length) {
        uint64_t number = 0; /* of at most 15 digits */
        for (const char *digit = text; *digit != '\0'; digit++) {
            number = number * 10 + (uint64_t)(*digit - '0');
        }
        *scope = (uint32_t)number;
        return number <= UINT32_MAX ? 0 : TEPAL_EINVAL;
    }
    *scope = if_nametoindex(text);
    if (*scope != 0) {
        return 0;
    }
    /* Short of descriptors or memory, say that: the interface may well be there. */
    return errno == ENODEV || errno == ENXIO || errno == EINVAL ? TEPAL_EINVAL : TEPAL_SYSTEM(errno);
}

static int parse_inet6(struct sockaddr_in6 *inet6, const char *text) {
    char literal[INET6_ADDRSTRLEN];
    const size_t length = strcspn(text, "%");
    if (length >= sizeof literal) {
        return TEPAL_EINVAL;
    }
    memcpy(literal, text, length);
    literal[length] = '\0';
    if (inet_pton(AF_INET6, literal, &inet6->sin6_addr) != 1) {
        return TEPAL_EINVAL;
    }
    return text[length] == '%' ? parse_scope(text + length + 1, &inet6->sin6_scope_id) : 0;
}

int tepal_address_parse(tepal_address *address, const char *text, uint16_t port) {
    if (address == NULL || text == NULL) {
        return TEPAL_EINVAL;
    }
    struct sockaddr_in inet = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, text, &inet.sin_addr) == 1) {
        *address = (tepal_address){.length = sizeof inet};
        memcpy(&address->storage, &inet, sizeof inet);
        return 0;
    }
    struct sockaddr_in6 inet6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    const int code = parse_inet6(&inet6, text);
    if (code < 0) {
        return code;
    }
    *address = (tepal_address){.length = sizeof inet6};
    memcpy(&address->storage, &inet6, sizeof inet6);
    return 0;
}

int tepal_address_unix(tepal_address *address, const char *path, size_t length) {
    if (address == NULL || path == NULL || length == 0 || length > UNIX_SPACE) {
        return TEPAL_EINVAL;
    }
    /* The NUL that ends a path counts in the kernel's length; an abstract name has none. */
    const bool is_abstract = path[0] == '\0';
    const size_t size = is_abstract ? length : length + 1;
    if (size > UNIX_SPACE || (!is_abstract && memchr(path, '\0', length) != NULL)) {
        return TEPAL_EINVAL;
    }
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    memcpy(local.sun_path, path, length);
    *address = (tepal_address){.length = (socklen_t)(UNIX_HEAD + size)};
    memcpy(&address->storage, &local, UNIX_HEAD + size);
    return 0;
}

/* Append bytes as they are if they print, else as \xHH. The text has room for all of them escaped. */
static char *append_escaped(char *text, const char *bytes, size_t length) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < length; i++) {
        const unsigned char byte = (unsigned char)bytes[i];
        if (byte >= ' ' && byte <= '~') {
            *text++ = (char)byte;
        } else {
            *text++ = '\\';
            *text++ = 'x';
            *text++ = digits[byte >> 4];
            *text++ = digits[byte & 15];
        }
    }
    return text;
}

static int format_unix(const tepal_address *address, char text[static TEPAL_ADDRESS_TEXT]) {
    static_assert(sizeof "unix:@" + 4 * (size_t)UNIX_SPACE <= TEPAL_ADDRESS_TEXT, "every name must fit");
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    size_t length = address->length < sizeof local ? address->length : sizeof local;
    memcpy(&local, &address->storage, length);
    length = length > UNIX_HEAD ? length - UNIX_HEAD : 0;

    char *end = text;
    const char *name = local.sun_path;
    end = stpcpy(end, "unix:");
    if (length > 0 && name[0] == '\0') {
        *end++ = '@';
        name++;
        length--;
    } else {
        length = strnlen(name, length);
    }
    end = append_escaped(end, name, length);
    *end = '\0';
    return (int)(end - text);
}

static int format_inet(const tepal_address *address, char text[static TEPAL_ADDRESS_TEXT]) {
    struct sockaddr_in inet;
    char literal[INET_ADDRSTRLEN];
    memcpy(&inet, &address->storage, sizeof inet);
    (void)inet_ntop(AF_INET, &inet.sin_addr, literal, sizeof literal);
    return snprintf(text, TEPAL_ADDRESS_TEXT, "%s:%u", literal, (unsigned)ntohs(inet.sin_port));
}

static int format_inet6(const tepal_address *address, char text[static TEPAL_ADDRESS_TEXT]) {
    struct sockaddr_in6 inet6;
    char literal[INET6_ADDRSTRLEN];
    char scope[sizeof "%4294967295"] = "";
    memcpy(&inet6, &address->storage, sizeof inet6);
    (void)inet_ntop(AF_INET6, &inet6.sin6_addr, literal, sizeof literal);
    if (inet6.sin6_scope_id != 0) {
        /* The number, not the name: finding that would take a socket. */
        (void)snprintf(scope, sizeof scope, "%%%u", (unsigned)inet6.sin6_scope_id);
    }
    return snprintf(text, TEPAL_ADDRESS_TEXT, "[%s%s]:%u", literal, scope, (unsigned)ntohs(inet6.sin6_port));
}

/* Whether an address is of this family and whole. */
static bool is_whole(const tepal_address *address, sa_family_t family, size_t length) {
    return address != NULL && address->storage.ss_family == family && address->length >= length &&
           address->length <= sizeof address->storage;
}

int tepal_address_format(const tepal_address *address, char *text, size_t size) {
    char whole[TEPAL_ADDRESS_TEXT];
    int length;
    if (is_whole(address, AF_INET, sizeof(struct sockaddr_in))) {
        length = format_inet(address, whole);
    } else if (is_whole(address, AF_INET6, sizeof(struct sockaddr_in6))) {
        length = format_inet6(address, whole);
    } else if (is_whole(address, AF_UNIX, UNIX_HEAD)) {
        length = format_unix(address, whole);
    } else {
        return TEPAL_EINVAL;
    }
    if (text == NULL || (size_t)length >= size) {
        return TEPAL_ENOBUFS;
    }
    memcpy(text, whole, (size_t)length + 1);
    return length;
}

int tepal_address_port(const tepal_address *address) {
    if (is_whole(address, AF_INET, sizeof(struct sockaddr_in))) {
        struct sockaddr_in inet;
        memcpy(&inet, &address->storage, sizeof inet);
        return ntohs(inet.sin_port);
    }
    if (is_whole(address, AF_INET6, sizeof(struct sockaddr_in6))) {
        struct sockaddr_in6 inet6;
        memcpy(&inet6, &address->storage, sizeof inet6);
        return ntohs(inet6.sin6_port);
    }
    return TEPAL_EINVAL;
}

bool tpi_address_is_same_port(const tepal_address *a, const tepal_address *b) {
    const int family = a->storage.ss_family;
    if (family != b->storage.ss_family || (family != AF_INET && family != AF_INET6) ||
        tepal_address_port(a) != tepal_address_port(b)) {
        return false;
    }
    if (family == AF_INET) {
        return ((const struct sockaddr_in *)&a->storage)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)&b->storage)->sin_addr.s_addr;
    }
    return memcmp(&((const struct sockaddr_in6 *)&a->storage)->sin6_addr,
                  &((const struct sockaddr_in6 *)&b->storage)->sin6_addr, sizeof(struct in6_addr)) == 0;
}
