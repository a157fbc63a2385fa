/* TLS of the echo server (echo_tls.h). */
#include "echo_tls.h"

#include <stdio.h>
#include <string.h>

enum { WHY_MAX = 512 };

const char *echo_tls_check(echo_tls *self) {
    const bool has_more = self->key != NULL || self->authorities != NULL || self->clients != NULL;
    if (self->certificate == NULL)
        return has_more || self->protocols != NULL ? "TLS needs a certificate: --tls-cert FILE; 'tepal cert' makes one"
                                                   : NULL;
    if (self->clients == NULL && self->authorities != NULL)
        return "--tls-ca is for the certificates of clients: say --tls-clients may or --tls-clients must";
    if (self->clients != NULL && strcmp(self->clients, "may") == 0)
        self->asked = TEPAL_TLS_CLIENTS_MAY;
    else if (self->clients != NULL && strcmp(self->clients, "must") == 0)
        self->asked = TEPAL_TLS_CLIENTS_MUST;
    else if (self->clients != NULL)
        return "--tls-clients takes 'may' or 'must'";
    return self->protocols == NULL ? NULL : alpn_parse(&self->alpn, self->protocols);
}

bool echo_tls_begin(echo_tls *self) {
    if (self->certificate == NULL)
        return true;
    self->context = tls_context("echo", TEPAL_OPTIONS(tepal_tls_context_options, .server = true,
                                                      .certificate_file = self->certificate, .key_file = self->key,
                                                      .ca_file = self->authorities, .clients = self->asked,
                                                      .alpn = self->alpn.items, .alpn_count = self->alpn.count));
    return self->context != NULL;
}

void echo_tls_reload(echo_tls *self) {
    char why[WHY_MAX] = "";
    int code = tepal_tls_context_reload(self->context, NULL, why, sizeof why);
    if (code == 0)
        fprintf(stderr, "tepal echo: read %s again; new connections get it\n", self->certificate);
    else
        fprintf(stderr, "tepal echo: %s; the old certificate stays\n", *why != '\0' ? why : tepal_strerror(code));
}
