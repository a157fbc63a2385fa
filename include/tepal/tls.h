/**
 * TLS 1.2 and 1.3, as a filter for any stream.
 *
 * A context says who one is and whom one trusts; it is made once, shared by any number of connections, loops and
 * threads, and named by the tls option of tepal_loop_create_connection() and of a server, or given to
 * tepal_transport_start_tls() for a connection that is up already. What is not asked for is off: certificates and host
 * names are verified, versions before 1.2, renegotiation, compression and early data are never used.
 *
 * What a connection is told goes through its transport as always. On TLS 1.3 each side may end its own direction:
 * tepal_transport_write_eof() sends close_notify and reading goes on. On 1.2 it is TEPAL_ENOTSUP. The peer's
 * close_notify is eof_received; a stream that ends without one is TEPAL_ETRUNCATED.
 */
#ifndef TEPAL_TLS_H
#define TEPAL_TLS_H

#include <tepal/base.h>
#include <tepal/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A version of the protocol, by its number on the wire. */
typedef enum tepal_tls_version { TEPAL_TLS_1_2 = 0x0303, TEPAL_TLS_1_3 = 0x0304 } tepal_tls_version;

/** Whether a server asks its clients for a certificate. */
typedef enum tepal_tls_clients {
    TEPAL_TLS_CLIENTS_ANY, /**< it does not ask */
    TEPAL_TLS_CLIENTS_MAY, /**< it asks; one that is shown must be good */
    TEPAL_TLS_CLIENTS_MUST /**< it asks, and ends the handshake without a good one */
} tepal_tls_clients;

/** Who one is and whom one trusts; counted, and safe to share between threads. */
typedef struct tepal_tls_context tepal_tls_context;

/**
 * What a context is made of. Every string is copied; PEM is text that ends with a NUL. Names given as files are read
 * once, when the context is made or reloaded.
 */
typedef struct tepal_tls_context_options {
    size_t size;
    bool server;                  /**< the end that accepts: it needs a certificate, or a choose that finds one */
    const char *certificate_file; /**< PEM: one's own certificate, then the chain that leads to the authority */
    const char *certificate;      /**< the same as text, instead */
    const char *key_file;         /**< PEM: its private key; NULL: it is in the certificate's file */
    const char *key;              /**< the same as text, instead; NULL: it is in the certificate's text */
    const char *key_password;     /**< of an encrypted key */
    const char *ca_file;          /**< PEM: authorities to trust, instead of the system's */
    const char *ca;               /**< the same as text, instead */
    bool insecure;                /**< client: verify nothing at all. For tests; who listens in can be the peer */
    tepal_tls_clients clients;    /**< server: whether clients show a certificate; needs ca_file, ca or the system's */
    const char *const *alpn;      /**< application protocols, the preferred first: "h2", "http/1.1" */
    size_t alpn_count;
    bool alpn_optional;        /**< server: go on without one if the client offers others only */
    tepal_tls_version minimum; /**< 0: TLS 1.2 */
    tepal_tls_version maximum; /**< 0: TLS 1.3 */
    const char *ciphers;       /**< of TLS 1.2, in OpenSSL's notation; NULL: forward secret ones with AEAD */
    const char *cipher_suites; /**< of TLS 1.3, likewise; NULL: all */
    bool no_resumption; /**< server: issue no tickets (over Unix sockets TLS 1.3 has none); client: keep no sessions */
    const void *ocsp_response; /**< server: DER, stapled for clients that ask */
    size_t ocsp_response_length;
    bool request_ocsp;       /**< client: ask for one; see tepal_tls_info */
    const char *keylog_file; /**< append the secrets of each connection, for a packet analyser: see NSS key log */
    /**
     * Server: choose a context by the name that the client asked for (NULL: none), before the table of
     * tepal_tls_context_add_name() is looked at. Leave *chosen, which is borrowed, alone to go on with the table.
     * Returns 0, or below 0 to refuse the client (unrecognized_name). May be called by any thread that has a loop.
     */
    int (*choose)(void *argument, const char *server_name, tepal_tls_context **chosen);
    void *choose_argument;
} tepal_tls_context_options;

/**
 * Make a context with one reference.
 *
 * Returns 0, or what is wrong: TEPAL_ETLS_PEM, TEPAL_ETLS_KEY and so on, the system's error of a file that cannot be
 * read, TEPAL_EINVAL for options that contradict each other, TEPAL_ENOMEM, TEPAL_ENOTSUP in a library built without TLS. why
 * (NULL: not wanted) then gets a sentence with the file's name, cut to why_size with its NUL. Any thread.
 */
TEPAL_API int tepal_tls_context_new(tepal_tls_context **context, const tepal_tls_context_options *options, char *why,
                                    size_t why_size);

/** One more reference. Returns context. Any thread. */
TEPAL_API tepal_tls_context *tepal_tls_context_ref(tepal_tls_context *context);

/** Give back a reference; NULL is allowed. Connections hold what they need of it. Any thread. */
TEPAL_API void tepal_tls_context_unref(tepal_tls_context *context);

/**
 * Read certificates, keys and authorities again, or take other options (NULL: those it was made with; files are read
 * anew). Connections go on as they are; new ones use the new. On an error, as of tepal_tls_context_new(), the old stay.
 * The role cannot change, and names added stay. Any thread.
 */
TEPAL_API int tepal_tls_context_reload(tepal_tls_context *context, const tepal_tls_context_options *options, char *why,
                                       size_t why_size);

/**
 * Server: have another context, which gains a reference, serve a name: "example.org", or "*.example.org" for exactly
 * one more label. Once there is one name, clients that ask for an unknown one are refused, and those that ask for none
 * get the context itself. Replaces what served that name; other NULL removes it.
 *
 * Returns 0; TEPAL_EINVAL: no such name (253 bytes at most, no NUL), a client's context, or itself; TEPAL_ENOMEM. Any thread.
 */
TEPAL_API int tepal_tls_context_add_name(tepal_tls_context *context, const char *name, tepal_tls_context *other);

/** How one connection uses TLS; copied where it is given. A time of 0 means the default, a negative one none. */
typedef struct tepal_tls_options {
    size_t size;
    tepal_tls_context *context; /**< its role is this end's. NULL: a client's that trusts the system's authorities */
    /**
     * Client: the name or literal address that the certificate must be for; a name is also sent (SNI). NULL: the host
     * connected to. One or the other is needed unless the context is insecure, else TEPAL_EINVAL.
     */
    const char *server_name;
    int64_t handshake_limit_ns; /**< 10 s; then TEPAL_ETIMEDOUT */
    int64_t shutdown_limit_ns;  /**< 5 s: how long close() waits for a peer that takes nothing of what is left */
    const void *session;        /**< client: of an earlier connection, from tepal_tls_session(): offer it */
    size_t session_length;
    const void *unread; /**< tepal_transport_start_tls() only: bytes of the current upcall that belong to TLS */
    size_t unread_length;
} tepal_tls_options;

/**
 * Begin TLS on a live connection, after what was written: what is called STARTTLS. A connection that has TLS gets
 * another layer of it inside.
 *
 * From now on nothing that comes is the protocol's until the handshake is done. Where the bytes of the current
 * data_received hold more than the peer's consent, name the rest as unread: it is decrypted, and never the protocol's.
 * What is written meanwhile waits (and counts as buffered) for the end of the handshake, when the future is done; it
 * fails with the connection. Returns 0; TEPAL_EINVAL; TEPAL_ENOMEM; TEPAL_ENOTSUP; TEPAL_ECLOSED. future may be NULL. Loop thread.
 */
TEPAL_API int tepal_transport_start_tls(tepal_transport *transport, const tepal_tls_options *options,
                                        tepal_future **future);

/** What is known of a connection's TLS. Strings and bytes are the transport's, valid until its connection_lost. */
typedef struct tepal_tls_info {
    size_t size;               /**< sizeof(tepal_tls_info), set by the caller */
    int version;               /**< a tepal_tls_version; 0: the handshake is not done, and nothing below is known */
    const char *version_name;  /**< "TLSv1.3" */
    const char *cipher;        /**< "TLS_AES_256_GCM_SHA384" */
    const char *alpn;          /**< the application protocol agreed upon; NULL: none */
    const char *server_name;   /**< what the client asked for, or asks for; NULL: none */
    bool resumed;              /**< an earlier session was taken up: no certificate was shown in this handshake */
    bool verified;             /**< the peer showed a certificate and it was found good */
    const void *ocsp_response; /**< DER, what the server stapled; NULL: none. It is not checked here */
    size_t ocsp_response_length;
} tepal_tls_info;

/** Ask about the topmost TLS of a transport. Returns 0; TEPAL_ENOENT: it has none; TEPAL_ECLOSED. Loop thread. */
TEPAL_API int tepal_transport_tls_info(const tepal_transport *transport, tepal_tls_info *info);

/** What can be had of the peer's certificate; each answer is text. */
typedef enum tepal_tls_certificate_part {
    TEPAL_TLS_SUBJECT, /**< "CN=example.org,O=Example" (RFC 2253) */
    TEPAL_TLS_ISSUER,
    TEPAL_TLS_NAMES, /**< "DNS:example.org, DNS:*.example.org, IP Address:127.0.0.1": the subject's alternative names */
    TEPAL_TLS_SERIAL, /**< in hexadecimal digits */
    TEPAL_TLS_PEM,    /**< the certificate itself */
    TEPAL_TLS_CHAIN   /**< PEM: it and what led to an authority when it was verified; else what the peer showed */
} tepal_tls_certificate_part;

/**
 * Write a part of the peer's certificate as text of at most size bytes with its NUL.
 *
 * Returns the length without the NUL; TEPAL_ENOBUFS if it does not fit (text NULL and size 0: its length, nothing is
 * written); TEPAL_ENOENT: there is no TLS or no certificate; TEPAL_EINVAL; TEPAL_ENOMEM; TEPAL_ECLOSED. Loop thread.
 */
TEPAL_API int64_t tepal_transport_tls_certificate(const tepal_transport *transport, tepal_tls_certificate_part part,
                                                  char *text, size_t size);

/**
 * Channel binding: bytes that both ends of this connection, and nobody between them, can compute.
 *
 * type is "tls-exporter" (RFC 9266, 32 bytes), or "tls-server-end-point" (RFC 5929: the hash of the server's
 * certificate). Returns the count, 64 at most; TEPAL_EINVAL: no such type; TEPAL_ENOENT: no TLS, or no certificate;
 * TEPAL_ENOBUFS if it does not fit; TEPAL_EPENDING before the handshake is done; TEPAL_ECLOSED. Loop thread.
 */
TEPAL_API int64_t tepal_transport_tls_binding(const tepal_transport *transport, const char *type, void *bytes,
                                              size_t size);

/**
 * Client: the session of a connection, to be kept as long as one likes and offered to the same server later on.
 *
 * A context keeps the last sessions of each host by itself; this is for other processes. On TLS 1.3 there is one once the
 * server has sent a ticket, some time after the handshake. Secret: who has it can pose as either end. Returns its length;
 * TEPAL_ENOENT: none yet, or not resumable; TEPAL_ENOBUFS if it does not fit (bytes NULL: its length); TEPAL_ECLOSED. Loop thread.
 */
TEPAL_API int64_t tepal_transport_tls_session(const tepal_transport *transport, void *bytes, size_t size);

/**
 * TLS 1.3: use new keys from now on, and ask the peer for the same. TLS does so by itself long before it must.
 *
 * Returns 0; TEPAL_ENOTSUP on TLS 1.2; TEPAL_EPENDING before the handshake is done; TEPAL_ENOENT; TEPAL_ECLOSED. Loop thread.
 */
TEPAL_API int tepal_transport_tls_update_keys(tepal_transport *transport);

/** The engine's name and version, "OpenSSL 3.0.19 27 Jan 2026"; NULL: this library was built without TLS. Static; any thread. */
TEPAL_API const char *tepal_tls_engine(void);

#ifdef __cplusplus
}
#endif
#endif
