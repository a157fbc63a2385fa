/**
 * Errors: what a negative return value means, and the richer error that futures and connection_lost carry.
 *
 * A negative code is -(domain << 24 | value). The domain says whose number it is, so one int is enough to know what
 * happened and to choose, in a binding, the right class of exception.
 *
 * What goes wrong most often, and how it is told:
 *
 *   address in use, permission denied     the system's code from tepal_loop_listen() or the future, with the address
 *   malformed address or name             TEPAL_EINVAL, at once
 *   name that does not resolve            a code of TEPAL_DOMAIN_RESOLVER through the future
 *   Unix path too long                    TEPAL_EINVAL, at once
 *   Unix path of a dead server            replaced; of a living one: EADDRINUSE
 *   no descriptors left                   EMFILE or ENFILE; a server tells accept_failed, waits and goes on
 *   no memory                             TEPAL_ENOMEM, and nothing was changed
 *   write after close or abort            TEPAL_ECLOSED; after write_eof TEPAL_EPIPE; past the cap TEPAL_ENOBUFS
 *   close or abort again                  nothing happens
 *   cancel of a callback that has run     false
 *   callback queued on a closed loop      TEPAL_ECLOSED, and it never runs
 *   anything on a closed loop             TEPAL_ECLOSED
 *   a call from a wrong thread            debug mode: TEPAL_ETHREAD, and the exception handler hears of it
 */
#ifndef TEPAL_ERROR_H
#define TEPAL_ERROR_H

#include <errno.h>
#include <tepal/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Whose number an error's value is. */
typedef enum tepal_domain {
    TEPAL_DOMAIN_SYSTEM = 1, /**< errno(3) */
    TEPAL_DOMAIN_TEPAL,      /**< the first table below */
    TEPAL_DOMAIN_RESOLVER,   /**< getaddrinfo(3)'s EAI_ values, made positive */
    TEPAL_DOMAIN_TLS,        /**< the second table below */
    TEPAL_DOMAIN_USER        /**< yours: Tepal only carries it */
} tepal_domain;

/** A code from its parts, as a constant expression. */
#define TEPAL_ERROR(domain, value) (-(((int)(domain) << 24) | (int)(value)))
/** The code of an errno value. */
#define TEPAL_SYSTEM(number) TEPAL_ERROR(TEPAL_DOMAIN_SYSTEM, number)

/** Tepal's own errors: name, value, sentence. The one table behind the enum, the names and the sentences. */
#define TEPAL_ERROR_TABLE(X)                                                                                           \
    X(ECLOSED, 1, "the loop, transport or server is closed or closing")                                                \
    X(ECANCELED, 2, "the operation was cancelled")                                                                     \
    X(EPENDING, 3, "the future has no result yet")                                                                     \
    X(EDONE, 4, "the future already has a result")                                                                     \
    X(ERECURSION, 5, "the loop cannot be run or closed from one of its own callbacks")                                 \
    X(ETHREAD, 6, "called from a thread that does not run this loop")                                                  \
    X(EINVARIANT, 7, "an invariant of the library does not hold")                                                      \
    X(ETRUNCATED, 8, "the peer ended the stream without saying that it was complete")                                  \
    X(ESLOW, 9, "a callback ran longer than the debug limit")                                                          \
    X(ESTOPPED, 10, "the loop was stopped before the future was done")                                                 \
    X(EREFUSED, 11, "the address was refused by the program's own check")

#define TEPAL_ERROR_ENUM(name, value, text) TEPAL_##name = TEPAL_ERROR(TEPAL_DOMAIN_TEPAL, value),
enum { TEPAL_ERROR_TABLE(TEPAL_ERROR_ENUM) TEPAL_ERROR_TABLE_END = 0 };
#undef TEPAL_ERROR_ENUM

/**
 * What can be wrong with TLS: name, value, sentence. Which end is meant by "the peer" depends on who is told.
 *
 * The peer's alerts are told by the same codes as one's own findings where they mean the same.
 */
#define TEPAL_TLS_ERROR_TABLE(X)                                                                                       \
    X(PROTOCOL, 1, "the peer broke the rules of TLS")                                                                  \
    X(NOT_TLS, 2, "the peer does not speak TLS")                                                                       \
    X(HTTP, 3, "the peer speaks plain HTTP, not TLS")                                                                  \
    X(VERSION, 4, "there is no version of TLS that both ends allow")                                                   \
    X(CIPHER, 5, "there is no cipher or key exchange that both ends allow")                                            \
    X(ALPN, 6, "there is no application protocol that both ends speak")                                                \
    X(ENDED, 7, "the peer closed the connection during the TLS handshake")                                             \
    X(DAMAGED, 8, "a TLS record was damaged or forged on its way")                                                     \
    X(EXPIRED, 9, "the peer's certificate has expired")                                                                \
    X(NOT_YET_VALID, 10, "the peer's certificate is not valid yet")                                                    \
    X(WRONG_HOST, 11, "the peer's certificate is for another host")                                                    \
    X(UNKNOWN_AUTHORITY, 12, "the peer's certificate was issued by an authority that is not trusted")                  \
    X(SELF_SIGNED, 13, "the peer's certificate is signed by itself, and is not trusted")                               \
    X(REVOKED, 14, "the peer's certificate was revoked")                                                               \
    X(UNFIT, 15, "the peer's certificate is malformed, too weak, or not meant for this use")                           \
    X(NO_CERTIFICATE, 16, "the peer showed no certificate")                                                            \
    X(UNKNOWN_NAME, 17, "the server has no certificate for the name that was asked for")                               \
    X(REFUSED, 18, "the peer does not accept our certificate")                                                         \
    X(CERTIFICATE_REQUIRED, 19, "the peer asks for a certificate, and none was shown")                                 \
    X(NOTHING_IN_COMMON, 20, "the peer found nothing in common to go on with")                                         \
    X(ALERT, 21, "the peer ended the connection with a TLS alert")                                                     \
    X(PEM, 22, "no certificate, key or authority could be read from the PEM text")                                     \
    X(KEY, 23, "the private key does not belong to the certificate")                                                   \
    X(PASSWORD, 24, "the private key is encrypted, and its password is missing or wrong")                              \
    X(NO_CIPHER, 25, "the list of ciphers names none that is known")                                                   \
    X(SESSION, 26, "the session that was to be offered cannot be read")                                                \
    X(ENGINE, 27, "the TLS engine failed")

#define TEPAL_TLS_ERROR_ENUM(name, value, text) TEPAL_ETLS_##name = TEPAL_ERROR(TEPAL_DOMAIN_TLS, value),
enum { TEPAL_TLS_ERROR_TABLE(TEPAL_TLS_ERROR_ENUM) TEPAL_TLS_ERROR_TABLE_END = 0 };
#undef TEPAL_TLS_ERROR_ENUM

/** Errors of the system that Tepal itself returns; each is TEPAL_SYSTEM of the errno of that name. */
enum {
    TEPAL_EPERM = TEPAL_SYSTEM(EPERM),         /**< regular files and directories cannot be watched */
    TEPAL_ENOENT = TEPAL_SYSTEM(ENOENT),       /**< not registered */
    TEPAL_EBADF = TEPAL_SYSTEM(EBADF),         /**< not an open descriptor */
    TEPAL_ENOMEM = TEPAL_SYSTEM(ENOMEM),       /**< the allocator returned NULL */
    TEPAL_EBUSY = TEPAL_SYSTEM(EBUSY),         /**< already queued, registered or owned by a transport */
    TEPAL_EINVAL = TEPAL_SYSTEM(EINVAL),       /**< an argument or option is wrong */
    TEPAL_EPIPE = TEPAL_SYSTEM(EPIPE),         /**< written after write_eof */
    TEPAL_ENOTSUP = TEPAL_SYSTEM(EOPNOTSUPP),  /**< this driver, transport or system cannot do it */
    TEPAL_ENOBUFS = TEPAL_SYSTEM(ENOBUFS),     /**< past the write cap: nothing was queued */
    TEPAL_ETIMEDOUT = TEPAL_SYSTEM(ETIMEDOUT), /**< a time limit passed */
    TEPAL_EMSGSIZE = TEPAL_SYSTEM(EMSGSIZE)    /**< too long */
};

/**
 * An error with its circumstances, as futures and connection_lost carry it.
 *
 * Owned by what hands it to you and valid as long as that says; copy what you want to keep.
 */
typedef struct tepal_error {
    int code;                       /**< negative */
    const char *text;               /**< a sentence; never NULL */
    const tepal_address *address;   /**< the address concerned, or NULL */
    const struct tepal_error *next; /**< the attempt that failed before this one, or NULL */
} tepal_error;

/** A negative code from a domain and its value (0 to 16,777,215); TEPAL_EINVAL if either is out of range. Any thread. */
TEPAL_API int tepal_error_make(tepal_domain domain, int value);

/** The domain of a negative code. Any thread. */
TEPAL_API tepal_domain tepal_error_domain(int code);

/** The value of a negative code within its domain: an errno, say. Any thread. */
TEPAL_API int tepal_error_value(int code);

/** A sentence for any code, "Connection refused"; "success" for 0 and counts. Static; any thread. */
TEPAL_API const char *tepal_strerror(int code);

/** A code's symbol, "ECONNREFUSED" or "TEPAL_ECLOSED"; "unknown" if it has none. Static; any thread. */
TEPAL_API const char *tepal_error_name(int code);

#ifdef __cplusplus
}
#endif
#endif
