/*
 * TLS contexts as the program and the engine see them: counted, reloaded, with names that others serve, ticket keys that
 * change every day, and a client's sessions. What one set of options is made into is credentials.c's.
 */
#include "tls/context.h"
#include "base/options.h"
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <strings.h>
#include <time.h>

#define KEPT_SESSIONS 256  /* in all */
#define SESSIONS_OF_NAME 4 /* of one host: as many connections can take one up at the same time */

const char *tepal_tls_engine(void) {
    return OpenSSL_version(OPENSSL_VERSION);
}

/* Life */

int tepal_tls_context_new(tepal_tls_context **context, const tepal_tls_context_options *given, char *why,
                          size_t why_size) {
    tepal_tls_context_options options;
    int code = context == NULL || given == NULL ? TEPAL_EINVAL : tpi_options_copy(&options, sizeof options, given);
    if (code < 0) {
        return code;
    }
    tepal_tls_context *made = tpi_alloc_zero(tpi_default_realloc, sizeof *made);
    if (made == NULL) {
        return TEPAL_ENOMEM;
    }
    atomic_init(&made->references, 1);
    made->server = options.server;
    code = tpi_credentials_new(made, &options, &made->credentials, why, why_size);
    if (code < 0) {
        tpi_free(tpi_default_realloc, made);
        return code;
    }
    pthread_mutex_init(&made->lock, NULL);
    *context = made;
    return 0;
}

tepal_tls_context *tepal_tls_context_ref(tepal_tls_context *context) {
    atomic_fetch_add_explicit(&context->references, 1, memory_order_relaxed);
    return context;
}

static void free_session(tpi_kept_session *kept) {
    SSL_SESSION_free(kept->session);
    tpi_free(tpi_default_realloc, kept);
}

static void free_sessions(tpi_kept_session *kept) {
    while (kept != NULL) {
        tpi_kept_session *next = kept->next;
        free_session(kept);
        kept = next;
    }
}

void tepal_tls_context_unref(tepal_tls_context *context) {
    if (context == NULL || atomic_fetch_sub_explicit(&context->references, 1, memory_order_acq_rel) > 1) {
        return;
    }
    while (context->names != NULL) {
        tpi_served_name *name = context->names;
        context->names = name->next;
        tepal_tls_context_unref(name->context);
        tpi_free(tpi_default_realloc, name);
    }
    free_sessions(context->sessions);
    tpi_credentials_unref(context->credentials);
    OPENSSL_cleanse(context->keys, sizeof context->keys);
    pthread_mutex_destroy(&context->lock);
    tpi_free(tpi_default_realloc, context);
}

tpi_credentials *tpi_context_credentials(tepal_tls_context *context) {
    pthread_mutex_lock(&context->lock);
    tpi_credentials *credentials = context->credentials;
    atomic_fetch_add_explicit(&credentials->references, 1, memory_order_relaxed);
    pthread_mutex_unlock(&context->lock);
    return credentials;
}

int tepal_tls_context_reload(tepal_tls_context *context, const tepal_tls_context_options *given, char *why,
                             size_t why_size) {
    tpi_credentials *made = NULL;
    tpi_credentials *old = tpi_context_credentials(context);
    tepal_tls_context_options options = old->options;
    int code = given == NULL ? 0 : tpi_options_copy(&options, sizeof options, given);
    if (code == 0 && options.server != context->server) {
        code = TEPAL_EINVAL;
    }
    if (code == 0) {
        code = tpi_credentials_new(context, &options, &made, why, why_size);
    }
    tpi_credentials_unref(old);
    if (code < 0) {
        return code;
    }
    pthread_mutex_lock(&context->lock);
    old = context->credentials;
    context->credentials = made;
    tpi_kept_session *sessions = context->sessions; /* of servers that were judged by the old */
    context->sessions = NULL;
    context->session_count = 0;
    pthread_mutex_unlock(&context->lock);
    tpi_credentials_unref(old);
    free_sessions(sessions);
    return 0;
}

char *tpi_tls_copy_text(const char *text) {
    const size_t size = strlen(text) + 1;
    char *copy = tpi_default_realloc(NULL, size);
    return copy == NULL ? NULL : memcpy(copy, text, size);
}

/* Names */

bool tpi_tls_copy_name(char copy[TPI_TLS_NAME_BYTES], const char *name, size_t length) {
    if (length > 0 && name[length - 1] == '.') {
        length--;
    }
    if (length == 0 || length >= TPI_TLS_NAME_BYTES || name[0] == '.' || memchr(name, '\0', length) != NULL) {
        return false;
    }
    memcpy(copy, name, length);
    copy[length] = '\0';
    return true;
}

int tepal_tls_context_add_name(tepal_tls_context *context, const char *name, tepal_tls_context *other) {
    char copy[TPI_TLS_NAME_BYTES];
    if (!context->server || name == NULL || !tpi_tls_copy_name(copy, name, strnlen(name, TPI_TLS_NAME_BYTES + 1)) ||
        (other != NULL && (!other->server || other == context))) {
        return TEPAL_EINVAL;
    }
    tpi_served_name *added = other == NULL ? NULL : tpi_default_realloc(NULL, sizeof *added);
    if (other != NULL && added == NULL) {
        return TEPAL_ENOMEM;
    }
    pthread_mutex_lock(&context->lock);
    tpi_served_name **link = &context->names;
    while (*link != NULL && strcasecmp((*link)->name, copy) != 0) {
        link = &(*link)->next;
    }
    tpi_served_name *gone = *link;
    if (gone != NULL) {
        *link = gone->next;
    }
    if (added != NULL) {
        added->context = tepal_tls_context_ref(other);
        memcpy(added->name, copy, sizeof copy);
        added->next = context->names;
        context->names = added;
    }
    pthread_mutex_unlock(&context->lock);
    if (gone != NULL) {
        tepal_tls_context_unref(gone->context);
        tpi_free(tpi_default_realloc, gone);
    }
    return 0;
}

/* Who serves a name: itself, or else a wildcard for all but its first label. */
static tepal_tls_context *find_name(const tepal_tls_context *context, const char *name) {
    const char *parent = strchr(name, '.');
    tepal_tls_context *wild = NULL;
    for (const tpi_served_name *at = context->names; at != NULL; at = at->next) {
        if (strcasecmp(at->name, name) == 0) {
            return at->context;
        }
        if (parent != NULL && parent != name && at->name[0] == '*' && strcasecmp(at->name + 1, parent) == 0) {
            wild = at->context;
        }
    }
    return wild;
}

int tpi_context_choose(tepal_tls_context *context, const tpi_credentials *credentials, const char *name,
                       tepal_tls_context **chosen) {
    if (credentials->options.choose != NULL) {
        tepal_tls_context *own = NULL;
        const int code = credentials->options.choose(credentials->options.choose_argument, name, &own);
        if (code < 0 || (own != NULL && !own->server)) {
            return code < 0 ? code : TEPAL_EINVAL;
        }
        if (own != NULL) {
            *chosen = tepal_tls_context_ref(own);
            return 0;
        }
    }
    int code = 0;
    pthread_mutex_lock(&context->lock);
    tepal_tls_context *found = context->names == NULL || name == NULL ? context : find_name(context, name);
    if (found == NULL) {
        code = TEPAL_ETLS_UNKNOWN_NAME;
    } else {
        *chosen = tepal_tls_context_ref(found);
    }
    pthread_mutex_unlock(&context->lock);
    return code;
}

/* A client's sessions */

void tpi_context_keep_session(tepal_tls_context *context, const tpi_credentials *credentials, const char *name,
                              SSL_SESSION *session) {
    tpi_kept_session *kept = tpi_default_realloc(NULL, sizeof *kept);
    tpi_kept_session *gone = NULL;
    if (kept == NULL) {
        SSL_SESSION_free(session);
        return;
    }
    kept->session = session;
    memcpy(kept->name, name, strlen(name) + 1);
    pthread_mutex_lock(&context->lock);
    if (context->credentials != credentials) {
        pthread_mutex_unlock(&context->lock);
        free_session(kept);
        return;
    }
    kept->next = context->sessions;
    context->sessions = kept;
    context->session_count++;
    unsigned same = 1;
    for (tpi_kept_session **link = &kept->next; *link != NULL; link = &(*link)->next) {
        const bool is_same = strcmp((*link)->name, name) == 0;
        const bool is_last = (*link)->next == NULL;
        same += is_same;
        if ((is_same && same > SESSIONS_OF_NAME) || (is_last && context->session_count > KEPT_SESSIONS)) {
            gone = *link;
            *link = gone->next;
            context->session_count--;
            break;
        }
    }
    pthread_mutex_unlock(&context->lock);
    if (gone != NULL) {
        free_session(gone);
    }
}

SSL_SESSION *tpi_context_take_session(tepal_tls_context *context, const char *name) {
    SSL_SESSION *session = NULL;
    tpi_kept_session *gone = NULL;
    pthread_mutex_lock(&context->lock);
    tpi_kept_session **link = &context->sessions;
    while (*link != NULL && strcmp((*link)->name, name) != 0) {
        link = &(*link)->next;
    }
    if (*link != NULL) {
        session = (*link)->session;
        SSL_SESSION_up_ref(session);
        if (SSL_SESSION_get_protocol_version(session) >= TLS1_3_VERSION) {
            gone = *link; /* a ticket is for once: who sees it twice can tell that both are the same client */
            *link = gone->next;
            context->session_count--;
        }
    }
    pthread_mutex_unlock(&context->lock);
    if (gone != NULL) {
        free_session(gone);
    }
    return session;
}

/* Tickets */

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return TEPAL_SEC(now.tv_sec) + now.tv_nsec;
}

void tpi_context_age_keys(tepal_tls_context *context, int64_t by_ns) {
    pthread_mutex_lock(&context->lock);
    context->keys[0].born_ns -= by_ns;
    context->keys[1].born_ns -= by_ns;
    pthread_mutex_unlock(&context->lock);
}

/* See that the first key is good to seal with: a new one once the last is a day old. False: none can be had. Under the lock. */
static bool renew_key(tepal_tls_context *context) {
    const int64_t now = now_ns();
    tpi_ticket_key *keys = context->keys;
    if (!keys[0].exists || now - keys[0].born_ns >= TPI_TICKET_KEY_NS) {
        tpi_ticket_key made = {.born_ns = now, .exists = true};
        if (RAND_bytes(made.name, sizeof made.name) <= 0 || RAND_priv_bytes(made.cipher, sizeof made.cipher) <= 0 ||
            RAND_priv_bytes(made.mac, sizeof made.mac) <= 0) {
            return false;
        }
        keys[1] = keys[0];
        keys[0] = made;
        OPENSSL_cleanse(&made, sizeof made);
    }
    return true;
}

/* Which of the keys has this name; -1: none that is still good. Under the lock. */
static int find_key(tepal_tls_context *context, const unsigned char name[16]) {
    const int64_t now = now_ns();
    for (int i = 0; i < 2; i++) {
        const tpi_ticket_key *key = &context->keys[i];
        if (key->exists && now - key->born_ns < 2 * TPI_TICKET_KEY_NS && memcmp(key->name, name, 16) == 0) {
            return i;
        }
    }
    return -1;
}

static bool use_key(const tpi_ticket_key *key, const unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                    int encrypt) {
    char digest[] = "SHA256";
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, (void *)(uintptr_t)key->mac, sizeof key->mac),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0), OSSL_PARAM_construct_end()};
    return EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, key->cipher, iv, encrypt) > 0 &&
           EVP_MAC_CTX_set_params(mac, parameters) > 0;
}

int tpi_context_seal_ticket(SSL *ssl, unsigned char name[16], unsigned char *iv, EVP_CIPHER_CTX *cipher,
                            EVP_MAC_CTX *mac, int encrypt) {
    const tpi_credentials *credentials = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    tepal_tls_context *context = credentials->context;
    tpi_ticket_key key = {.exists = false};
    int answer = encrypt ? -1 : 0;
    pthread_mutex_lock(&context->lock);
    const int which = !encrypt ? find_key(context, name) : renew_key(context) ? 0 : -1;
    if (which >= 0) {
        key = context->keys[which];
        /* 2: good, and to be renewed. On 1.3 a ticket is for once, so that there has to be another. */
        answer = which == 0 && (encrypt || SSL_version(ssl) < TLS1_3_VERSION) ? 1 : 2;
    }
    pthread_mutex_unlock(&context->lock);
    if (answer > 0 && encrypt) {
        memcpy(name, key.name, sizeof key.name);
        answer = RAND_bytes(iv, EVP_CIPHER_get_iv_length(EVP_aes_256_cbc())) > 0 ? 1 : -1;
    }
    if (answer > 0 && !use_key(&key, iv, cipher, mac, encrypt)) {
        answer = -1;
    }
    OPENSSL_cleanse(&key, sizeof key);
    return answer;
}
