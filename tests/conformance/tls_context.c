/* Contexts: what they are made of, what is wrong with it, and how it changes while connections are up. */
#include "conformance/tls_pair.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Making one of these options fails with this code, and a sentence that has these words. */
static void refused(const tepal_tls_context_options *options, int code, const char *words) {
    tepal_tls_context *untouched = (tepal_tls_context *)&code, *made = untouched;
    char why[200] = "", small[12];

    CHECK_EQ(tepal_tls_context_new(&made, options, why, sizeof why), code);
    CHECK(made == untouched);
    if (strstr(why, words) == NULL) {
        test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", why, words);
    }
    memset(small, '#', sizeof small);
    CHECK_EQ(tepal_tls_context_new(&made, options, small, sizeof small - 1), code);
    CHECK_EQ(small[sizeof small - 1], '#');
    CHECK_MEM(small, why, strlen(small));
    CHECK_EQ(tepal_tls_context_new(&made, options, NULL, 0), code);
}

TEST(tls_context, options_that_contradict_each_other_are_refused) {
    static const char *const long_name[] = {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    static const char *const no_name[] = {""};
    const tepal_tls_context_options usual = tls_usual_options(true, 0), client = tls_usual_options(false, 0);
    tepal_tls_context_options options = {.size = sizeof options, .server = true};

    refused(&options, TEPAL_EINVAL, "certificate");
    options = usual;
    options.certificate_file = "a";
    refused(&options, TEPAL_EINVAL, "not both");
    options = usual;
    options.insecure = true;
    refused(&options, TEPAL_EINVAL, "other end");
    options = client;
    options.clients = TEPAL_TLS_CLIENTS_MAY;
    refused(&options, TEPAL_EINVAL, "other end");
    options = client;
    options.key = usual.key;
    refused(&options, TEPAL_EINVAL, "without a certificate");
    options = usual;
    options.minimum = TEPAL_TLS_1_3;
    options.maximum = TEPAL_TLS_1_2;
    refused(&options, TEPAL_EINVAL, "versions");
    options = usual;
    options.minimum = (tepal_tls_version)0x0301;
    refused(&options, TEPAL_EINVAL, "versions");
    options = usual;
    options.alpn = long_name;
    options.alpn_count = 1;
    refused(&options, TEPAL_EINVAL, "");
    options.alpn = no_name;
    refused(&options, TEPAL_EINVAL, "");
    options.alpn = NULL;
    refused(&options, TEPAL_EINVAL, "alpn");
    options = usual;
    options.ocsp_response_length = 3;
    refused(&options, TEPAL_EINVAL, "");
    CHECK_EQ(tepal_tls_context_new(NULL, &usual, NULL, 0), TEPAL_EINVAL);
    tepal_tls_context *made;
    CHECK_EQ(tepal_tls_context_new(&made, NULL, NULL, 0), TEPAL_EINVAL);
    tepal_tls_context_unref(NULL);
}

TEST(tls_context, what_cannot_be_read_is_told_by_code_and_sentence) {
    const tepal_tls_context_options usual = tls_usual_options(true, 0);
    tepal_tls_context_options options = usual;
    char damaged[4096];

    options.certificate = "no certificate\n";
    refused(&options, TEPAL_ETLS_PEM, "no certificate in PEM");
    options = usual;
    options.key = "no key\n";
    refused(&options, TEPAL_ETLS_PEM, "private key");
    options.key = NULL;
    refused(&options, TEPAL_ETLS_PEM, "private key");
    options = usual;
    options.key = identity_client()->key;
    refused(&options, TEPAL_ETLS_KEY, "does not belong");
    options = usual;
    options.clients = TEPAL_TLS_CLIENTS_MAY;
    options.ca = "nobody\n";
    refused(&options, TEPAL_ETLS_PEM, "no certificate of an authority");
    options = usual;
    options.ciphers = "NO-SUCH-CIPHER";
    refused(&options, TEPAL_ETLS_NO_CIPHER, "NO-SUCH-CIPHER");
    options = usual;
    options.cipher_suites = "NO_SUCH_SUITE";
    refused(&options, TEPAL_ETLS_NO_CIPHER, "NO_SUCH_SUITE");
    options = usual;
    snprintf(damaged, sizeof damaged, "%s", usual.certificate);
    damaged[200] = damaged[200] == 'A' ? 'B' : 'A';
    memcpy(strstr(damaged, "-----END"), "-----BAD", 8);
    options.certificate = damaged;
    refused(&options, TEPAL_ETLS_PEM, "");
    options.certificate = identity_join(usual.certificate, damaged);
    refused(&options, TEPAL_ETLS_PEM, "chain");
}

TEST(tls_context, an_encrypted_key_needs_its_password) {
    const tepal_tls_context_options usual = tls_usual_options(true, 0);
    tepal_tls_context_options options = usual;

    options.key = identity_encrypt_key(identity_server(), "secret");
    refused(&options, TEPAL_ETLS_PASSWORD, "no password");
    options.key_password = "wrong";
    refused(&options, TEPAL_ETLS_PASSWORD, "wrong");
    options.key_password = "secret";
    tepal_tls_context_unref(tls_context(&options));
}

TEST(tls_context, files_are_read_when_it_is_made_and_named_when_they_cannot_be) {
    const tepal_tls_context_options usual = tls_usual_options(true, 0);
    const char *both = identity_join(usual.certificate, usual.key);
    tepal_tls_context_options options = {.size = sizeof options, .server = true};

    options.certificate_file = tls_file("certificate.pem", usual.certificate);
    options.key_file = "/nonexistent/key.pem";
    refused(&options, TEPAL_ENOENT, "/nonexistent/key.pem");
    options.key_file = test_directory();
    refused(&options, TEPAL_ETLS_PEM, options.key_file);
    options.key_file = tls_file("key.pem", usual.key);
    tepal_tls_context_unref(tls_context(&options));
    options.key_file = NULL;
    options.certificate_file = tls_file("both.pem", both);
    options.ca_file = "/nonexistent/ca.pem";
    tepal_tls_context_unref(tls_context(&options)); /* which nobody needs, as clients are not asked */
    options.clients = TEPAL_TLS_CLIENTS_MAY;
    refused(&options, TEPAL_ENOENT, "/nonexistent/ca.pem");
    options.ca_file = tls_file("ca.pem", identity_authority()->certificate);
    tepal_tls_context_unref(tls_context(&options));
    options.keylog_file = "/nonexistent/log";
    refused(&options, TEPAL_ENOENT, "/nonexistent/log");
    const int descriptors = test_fd_count();
    options.keylog_file = tls_file("log", "");
    tepal_tls_context *made = tls_context(&options);
    tepal_tls_context_unref(made);
    CHECK_EQ(test_fd_count(), descriptors);
}

TEST(tls_context, its_options_are_copied) {
    char *names[] = {strdup("h2"), strdup("x")};
    tepal_tls_context_options options = tls_usual_options(true, 0);
    char *certificate = strdup(options.certificate);

    options.certificate = certificate;
    options.alpn = (const char *const *)names;
    options.alpn_count = 2;
    tepal_tls_context *made = tls_context(&options);
    memset(certificate, 'x', strlen(certificate));
    memset(names[0], 'x', 2);
    free(certificate);
    free(names[0]);
    free(names[1]);
    CHECK_OK(tepal_tls_context_reload(made, NULL, NULL, 0));
    tepal_tls_context_unref(made);
}

TEST(tls_context, the_engine_is_named) {
    CHECK(tepal_tls_engine() != NULL);
    CHECK_MEM(tepal_tls_engine(), "OpenSSL 3", 9);
}

/* ---- Reloading ---- */

/* The subject that the server shows now. */
static void check_subject(tls_pair *self, const char *subject) {
    char text[200];

    tls_open(self);
    CHECK_GT(tepal_transport_tls_certificate(self->client.transport, TEPAL_TLS_SUBJECT, text, sizeof text), 0);
    CHECK_STR(text, subject);
    tls_part(self);
}

SCRIPT_TEST(tls_context, a_reload_concerns_new_connections_and_leaves_the_others_alone) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version}, later = {.version = version};
        tepal_tls_context_options options = tls_usual_options(true, version);
        char text[200];

        tls_open(&self);
        options.certificate = identity_other()->certificate;
        options.key = identity_other()->key;
        CHECK_OK(tepal_tls_context_reload(self.server_context, &options, NULL, 0));
        tls_exchange(&self, 200000);
        CHECK_GT(tepal_transport_tls_certificate(self.client.transport, TEPAL_TLS_SUBJECT, text, sizeof text), 0);
        CHECK_STR(text, "CN=server,O=Tepal");
        later.loop = self.loop;
        later.server_context = tepal_tls_context_ref(self.server_context);
        later.client_context = tls_usual_context(false, version); /* no session of before */
        check_subject(&later, "CN=other server,O=Tepal");
        tls_exchange(&self, 1000);
        tepal_tls_context_unref(later.server_context);
        tepal_tls_context_unref(later.client_context);
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_context, a_reload_that_fails_leaves_everything_as_it_was) {
    tls_pair self = {0};
    tepal_tls_context_options options = tls_usual_options(true, 0), client = tls_usual_options(false, 0);
    char why[100] = "";

    self.server_context = tls_context(&options);
    options.key = identity_client()->key;
    CHECK_EQ(tepal_tls_context_reload(self.server_context, &options, why, sizeof why), TEPAL_ETLS_KEY);
    CHECK(strstr(why, "does not belong") != NULL);
    CHECK_EQ(tepal_tls_context_reload(self.server_context, &client, NULL, 0), TEPAL_EINVAL); /* another role */
    check_subject(&self, "CN=server,O=Tepal");
    CHECK_OK(tepal_tls_context_reload(self.server_context, NULL, NULL, 0)); /* what it was made with */
    self.client_options.session = NULL;
    check_subject(&self, "CN=server,O=Tepal");
    tls_start(&self);
    tls_close(&self);
}

SCRIPT_TEST(tls_context, a_reload_without_options_reads_its_files_anew) {
    tls_pair self = {0};
    tepal_tls_context_options options = {.size = sizeof options, .server = true};

    options.certificate_file = tls_file("own.pem", identity_server()->certificate);
    options.key_file = tls_file("own.key", identity_server()->key);
    self.server_context = tls_context(&options);
    check_subject(&self, "CN=server,O=Tepal");
    tls_file("own.pem", identity_other()->certificate);
    CHECK_EQ(tepal_tls_context_reload(self.server_context, NULL, NULL, 0),
             TEPAL_ETLS_KEY); /* the key is not there yet */
    check_subject(&self, "CN=server,O=Tepal");
    tls_file("own.key", identity_other()->key);
    CHECK_OK(tepal_tls_context_reload(self.server_context, NULL, NULL, 0));
    check_subject(&self, "CN=other server,O=Tepal");
    tls_start(&self);
    tls_close(&self);
}

SCRIPT_TEST(tls_context, the_secrets_of_each_connection_are_logged_if_that_is_asked_for) {
    tls_pair self = {0};
    tepal_tls_context_options options = tls_usual_options(false, 0);
    char text[2000] = "";

    options.keylog_file = tls_file("keys", "");
    self.client_context = tls_context(&options);
    tls_open(&self);
    tls_close(&self);
    const int fd = open(options.keylog_file, O_RDONLY | O_CLOEXEC);
    CHECK_GT(read(fd, text, sizeof text - 1), 0);
    close(fd);
    CHECK(strstr(text, "CLIENT_TRAFFIC_SECRET_0 ") != NULL);
    CHECK(strstr(text, "SERVER_HANDSHAKE_TRAFFIC_SECRET ") != NULL);
    CHECK_EQ(text[strlen(text) - 1], '\n');
}
