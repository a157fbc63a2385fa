/**
 * What every other header needs: linkage, version, time units, option structs, addresses.
 */
#ifndef TEPAL_BASE_H
#define TEPAL_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

/** The version of these headers. tepal_version() gives the library's; within one major number both may differ. */
#define TEPAL_VERSION_MAJOR 0
#define TEPAL_VERSION_MINOR 1
#define TEPAL_VERSION_PATCH 0

#if defined(__GNUC__) || defined(__clang__)
#define TEPAL_API __attribute__((visibility("default")))
#else
#define TEPAL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** Seconds and milliseconds in nanoseconds, the unit of every time in Tepal. */
#define TEPAL_SEC(n) ((int64_t)(n)*1000000000)
#define TEPAL_MS(n) ((int64_t)(n)*1000000)

/**
 * A pointer to an option struct, filled in place: TEPAL_OPTIONS(tepal_connect_options, .host = "::1", .port = 80).
 *
 * What is not named is zero, which is the default of every option. In C++, where a compound literal has no address,
 * declare a variable instead:  tepal_connect_options o = {}; o.size = sizeof o;
 */
#define TEPAL_OPTIONS(type, ...) (&(type){.size = sizeof(type), __VA_ARGS__})

typedef struct tepal_loop tepal_loop;
typedef struct tepal_future tepal_future;
typedef struct tepal_transport tepal_transport;
typedef struct tepal_server tepal_server;

/** A socket address with its length: IPv4, IPv6 or Unix (path, abstract or unnamed). */
typedef struct tepal_address {
    socklen_t length; /**< bytes of storage that count */
    struct sockaddr_storage storage;
} tepal_address;

/** Enough for any text of tepal_address_format, with its NUL: a Unix name of 108 bytes may take four for each. */
#define TEPAL_ADDRESS_TEXT 448

/**
 * Read a literal address: "127.0.0.1", "::1", "fe80::1%eth0" or "fe80::1%2" with port (0 to 65,535) beside it.
 *
 * No name is looked up. Returns 0; TEPAL_EINVAL if text is no literal address or names an interface that is not
 * there (a number is not checked); EMFILE or ENFILE as system errors where an interface is named. Any thread.
 */
TEPAL_API int tepal_address_parse(tepal_address *address, const char *text, uint16_t port);

/**
 * Make a Unix address. A path begins with any byte but NUL; length counts its bytes without a terminating NUL.
 *
 * A path whose first byte is NUL is an abstract name (Linux, unix(7)) and may hold any bytes. An ordinary path with
 * a NUL inside is refused. Returns 0, or TEPAL_EINVAL: empty, too long (107 bytes for a path, 108 for an abstract
 * name with its leading NUL) or a NUL inside. Any thread.
 */
TEPAL_API int tepal_address_unix(tepal_address *address, const char *path, size_t length);

/**
 * Write an address as text: "127.0.0.1:80", "[::1]:80", "unix:/run/x", "unix:@abstract", "unix:" for an unnamed one.
 *
 * At most size bytes with the NUL are written (TEPAL_ADDRESS_TEXT always suffice); bytes that do not print are
 * written as \xHH, an IPv6 scope as the interface's number: "[fe80::1%2]:80". Returns the length without the NUL;
 * TEPAL_ENOBUFS if it does not fit; TEPAL_EINVAL for a family that is not known. Any thread.
 */
TEPAL_API int tepal_address_format(const tepal_address *address, char *text, size_t size);

/** The port of an IPv4 or IPv6 address, 0 to 65,535; TEPAL_EINVAL for another family. Any thread. */
TEPAL_API int tepal_address_port(const tepal_address *address);

/** The library's version as text, "0.1.0". Static; any thread. */
TEPAL_API const char *tepal_version(void);

#ifdef __cplusplus
}
#endif
#endif
