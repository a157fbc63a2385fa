/* The parts of `tepal cert`: what is asked for, who makes it (cert_make.c, with OpenSSL), and its files. */
#ifndef TOOLS_CERT_H
#define TOOLS_CERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CERT_DATE_MAX = 16 };

/** A certificate to be made. */
typedef struct cert_request {
    const char *const *names; /* host names and literal addresses; of an authority: what it is called, if anything */
    size_t name_count;
    uint64_t days;
    bool is_authority;
    bool is_expired;
    const char *issuer_certificate, *issuer_key; /* files of who signs it; NULL: it signs itself */
} cert_request;

/** One that was made. */
typedef struct cert_texts {
    char *certificate;         /* PEM, followed by what leads to a root */
    char *key;                 /* PEM */
    char until[CERT_DATE_MAX]; /* "2027-11-25", by Greenwich */
} cert_texts;

/** cert_make.c: make a certificate and its key. Returns whether it could be done; if not, why gets a sentence. */
bool cert_make(const cert_request *request, cert_texts *made, char *why, size_t why_size);

/** cert_files.c: wipe and free the texts. */
void cert_texts_end(cert_texts *self);

/** What stands in the way of writing a file there, as a sentence; NULL if nothing does. */
const char *cert_in_the_way(const char *path, bool replace);

/**
 * Write both files: the key for its owner alone, whatever was there before. Neither is touched unless both could be
 * written. Returns whether it could be done; if not, why gets a sentence.
 */
bool cert_save(const cert_texts *texts, const char *certificate_path, const char *key_path, bool replace, char *why,
               size_t why_size);

#endif
