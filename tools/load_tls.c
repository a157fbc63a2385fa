/* TLS of the load generator (load_tls.h). */
#include "load_tls.h"

#include <stdio.h>
#include <string.h>

const char *load_tls_check(load_tls *self, const endpoint *server) {
    const bool has_more = self->insecure || self->authorities != NULL || self->server_name != NULL ||
                          self->certificate != NULL || self->key != NULL || self->protocols != NULL ||
                          self->version != NULL;
    if (!self->wanted)
        return has_more ? "there is an option for TLS, but no --tls" : NULL;
    if (self->insecure && self->authorities != NULL)
        return "--insecure verifies nothing, so --ca means nothing beside it";
    if (!self->insecure && self->server_name == NULL && server->host == NULL)
        return "the address has no name to verify: say whom the certificate is for with --server-name NAME";
    if (self->key != NULL && self->certificate == NULL)
        return "--key needs the certificate that it belongs to: --cert FILE";
    if (self->version != NULL && strcmp(self->version, "1.2") == 0)
        self->only = TEPAL_TLS_1_2;
    else if (self->version != NULL && strcmp(self->version, "1.3") == 0)
        self->only = TEPAL_TLS_1_3;
    else if (self->version != NULL)
        return "--tls-version takes 1.2 or 1.3";
    return self->protocols == NULL ? NULL : alpn_parse(&self->alpn, self->protocols);
}

bool load_tls_begin(load_tls *self) {
    if (!self->wanted)
        return true;
    tepal_tls_context *context = tls_context(
        "load", TEPAL_OPTIONS(tepal_tls_context_options, .certificate_file = self->certificate, .key_file = self->key,
                              .ca_file = self->authorities, .insecure = self->insecure, .alpn = self->alpn.items,
                              .alpn_count = self->alpn.count, .minimum = self->only, .maximum = self->only));
    self->options = (tepal_tls_options){
        .size = sizeof self->options,
        .context = context,
        .server_name = self->server_name,
    };
    return context != NULL;
}

void load_tls_end(load_tls *self) {
    tepal_tls_context_unref(self->options.context);
}

void load_tls_note(load_tls *self, const tepal_transport *transport) {
    tepal_tls_info info = {.size = sizeof info};
    if (!self->wanted || tepal_transport_tls_info(transport, &info) < 0)
        return;
    if (self->handshakes++ == 0) {
        snprintf(self->agreed_version, sizeof self->agreed_version, "%s", info.version_name);
        snprintf(self->agreed_cipher, sizeof self->agreed_cipher, "%s", info.cipher);
        snprintf(self->agreed_protocol, sizeof self->agreed_protocol, "%s", info.alpn == NULL ? "" : info.alpn);
    }
    self->resumed += info.resumed;
}

const char *load_tls_hint(int code) {
    static const struct {
        int code;
        const char *text;
    } hints[] = {
        {TEPAL_ETLS_UNKNOWN_AUTHORITY,
         "If you know who issued it, trust them: --ca FILE. To verify nothing: --insecure."},
        {TEPAL_ETLS_SELF_SIGNED, "If it is yours, trust it: --ca FILE. To verify nothing: --insecure."},
        {TEPAL_ETLS_WRONG_HOST, "If it is the right server, say whom its certificate is for: --server-name NAME."},
        {TEPAL_ETLS_HTTP, "A server without TLS is reached without --tls."},
        {TEPAL_ETLS_NOT_TLS, "A server without TLS is reached without --tls."},
        {TEPAL_ETLS_CERTIFICATE_REQUIRED, "Show one: --cert FILE --key FILE."},
    };
    for (size_t index = 0; index < sizeof hints / sizeof hints[0]; index++)
        if (hints[index].code == code)
            return hints[index].text;
    return NULL;
}
