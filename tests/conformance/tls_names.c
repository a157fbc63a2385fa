/* Servers of several names: the table, wildcards, the program's own choice; whoever is unknown is refused. */
#include "conformance/tls_pair.h"

/* A context that shows a certificate for these names. */
static tepal_tls_context *serving(const char *names, tepal_tls_version version) {
    tepal_tls_context_options options = tls_usual_options(true, version);
    const identity *self = identity_for(names);

    options.certificate = self->certificate;
    options.key = self->key;
    return tls_context(&options);
}

/* Connect with this name (NULL: insecurely, and without one); what the certificate that is shown is for. */
static void check_served(tls_pair *self, const char *name, const char *names) {
    char text[200];

    self->client_options.server_name = name;
    tls_open(self);
    CHECK_GT(tepal_transport_tls_certificate(self->client.transport, TEPAL_TLS_NAMES, text, sizeof text), 0);
    CHECK_STR(text, names);
    CHECK_STR(tls_info(&self->client).server_name, name);
    const bool is_literal = strcmp(name, "127.0.0.1") == 0;
    CHECK_STR(tls_info(&self->server).server_name, is_literal ? NULL : name);
    tls_exchange(self, 100);
    tls_part(self);
}

static void check_unknown(tls_pair *self, const char *name) {
    self->client_options.server_name = name;
    tls_start(self);
    tls_shake(self);
    CHECK_EQ(tepal_future_result(self->server.future, NULL), TEPAL_ETLS_UNKNOWN_NAME);
    CHECK(tls_is_told(tepal_future_result(self->client.future, NULL), TEPAL_ETLS_UNKNOWN_NAME));
    CHECK_EQ(self->client.built + self->server.built, 0);
    tls_part(self);
}

SCRIPT_TEST(tls_names, each_is_served_by_its_own_context) {
    EACH_VERSION(version) {
        tls_pair self = {.version = version, .server_context = tls_usual_context(true, version)};
        tepal_tls_context *one = serving("DNS:one.example.org", version), *wild = serving("DNS:*.example.org", version);
        tepal_tls_context *two = serving("DNS:two.example.org", version);

        CHECK_OK(tepal_tls_context_add_name(self.server_context, "one.example.org", one));
        CHECK_OK(tepal_tls_context_add_name(self.server_context, "*.example.org", wild));
        CHECK_OK(tepal_tls_context_add_name(self.server_context, "TWO.example.org.", two));
        tepal_tls_context_unref(one);
        tepal_tls_context_unref(wild);
        tepal_tls_context_unref(two);
        check_served(&self, "one.example.org", "DNS:one.example.org");
        check_served(&self, "two.example.org", "DNS:two.example.org");
        check_served(&self, "three.example.org", "DNS:*.example.org");
        check_served(&self, "127.0.0.1", "DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1");
        check_unknown(&self, "a.three.example.org");
        check_unknown(&self, "example.org");
        check_unknown(&self,
                      "localhost"); /* once there is a name, one's own certificate is for those who ask for none */
        CHECK_OK(tepal_tls_context_add_name(self.server_context, "two.example.org", NULL));
        check_served(&self, "one.example.org", "DNS:one.example.org");
        self.client_options.server_name = "two.example.org"; /* the wildcard's now, whose certificate is as good */
        check_served(&self, "two.example.org", "DNS:*.example.org");
        tls_start(&self);
        tls_close(&self);
    }
}

SCRIPT_TEST(tls_names, a_name_that_nobody_could_have_is_refused) {
    tepal_tls_context *server = tls_usual_context(true, 0), *other = tls_usual_context(true, 0);
    tepal_tls_context *client = tls_usual_context(false, 0);
    char name[300];

    memset(name, 'a', sizeof name);
    name[254] = '\0';
    CHECK_EQ(tepal_tls_context_add_name(server, name, other), TEPAL_EINVAL);
    name[253] = '\0';
    CHECK_OK(tepal_tls_context_add_name(server, name, other));
    CHECK_OK(tepal_tls_context_add_name(server, name, other)); /* in the place of what was there */
    CHECK_EQ(tepal_tls_context_add_name(server, "", other), TEPAL_EINVAL);
    CHECK_EQ(tepal_tls_context_add_name(server, ".", other), TEPAL_EINVAL);
    CHECK_EQ(tepal_tls_context_add_name(server, NULL, other), TEPAL_EINVAL);
    CHECK_EQ(tepal_tls_context_add_name(server, "a", client), TEPAL_EINVAL);
    CHECK_EQ(tepal_tls_context_add_name(server, "a", server), TEPAL_EINVAL);
    CHECK_EQ(tepal_tls_context_add_name(client, "a", other), TEPAL_EINVAL);
    tepal_tls_context_unref(server);
    tepal_tls_context_unref(other);
    tepal_tls_context_unref(client);
}

/* ---- The program's choice ---- */

typedef struct chooser {
    tepal_tls_context *answer; /* NULL: left alone */
    int code, calls;
    char asked[300];
    bool had_name;
} chooser;

static int choose(void *argument, const char *server_name, tepal_tls_context **chosen) {
    chooser *self = argument;

    self->calls++;
    self->had_name = server_name != NULL;
    if (server_name != NULL) {
        CHECK_LT(strlen(server_name), sizeof self->asked);
        memcpy(self->asked, server_name, strlen(server_name) + 1);
    }
    if (self->answer != NULL) {
        *chosen = self->answer;
    }
    return self->code;
}

SCRIPT_TEST(tls_names, the_program_chooses_before_the_table_is_looked_at) {
    EACH_VERSION(version) {
        chooser chosen = {.answer = serving("DNS:one.example.org", version)};
        tepal_tls_context *two = serving("DNS:two.example.org", version);
        tepal_tls_context *const client = tls_usual_context(false, version);
        tepal_tls_context_options options = {
            .size = sizeof options, .server = true, .choose = choose, .choose_argument = &chosen};
        tls_pair self = {.version = version, .server_context = tls_context(&options), .client_context = client};

        CHECK_OK(tepal_tls_context_add_name(self.server_context, "one.example.org", two));
        CHECK_OK(tepal_tls_context_add_name(self.server_context, "two.example.org", two));
        check_served(&self, "one.example.org", "DNS:one.example.org");
        CHECK_EQ(chosen.calls, 1);
        CHECK(chosen.had_name);
        CHECK_STR(chosen.asked, "one.example.org");
        tepal_tls_context *const one = chosen.answer;
        chosen.answer = NULL;
        check_served(&self, "two.example.org", "DNS:two.example.org");
        check_unknown(&self, "three.example.org");
        chosen.answer = one;
        chosen.code = TEPAL_ERROR(TEPAL_DOMAIN_USER, 1);
        check_unknown(&self, "two.example.org"); /* it refuses: nothing else is tried (FIELD row 29) */
        chosen.code = 0;
        chosen.answer = client; /* a mistake must not let anybody in */
        check_unknown(&self, "two.example.org");
        CHECK_EQ(chosen.calls, 5);
        tepal_tls_context_unref(one);
        tepal_tls_context_unref(two);
        self.client_options.server_name = "127.0.0.1";
        chosen.answer = NULL;
        tls_start(&self);
        tls_shake(&self);
        CHECK(!chosen.had_name);
        CHECK_NE(tls_failure(&self.server), 0); /* there is no certificate for who asks for none */
        CHECK_NE(tls_failure(&self.client), 0);
        CHECK_EQ(self.client.built + self.server.built, 0);
        tls_close(&self);
    }
}

/* Everything that a context says holds for the names it serves, not what the first one says. */
SCRIPT_TEST(tls_names, the_chosen_context_decides_about_clients_versions_and_protocols) {
    static const char *const spoken[] = {"two"};
    tls_pair self = {.server_context = tls_usual_context(true, 0)};
    tepal_tls_context_options options = tls_usual_options(true, TEPAL_TLS_1_2);
    tepal_tls_context_options client = tls_usual_options(false, 0);
    const identity *name = identity_for("DNS:strict.example");

    options.clients = TEPAL_TLS_CLIENTS_MUST;
    options.alpn = spoken;
    options.alpn_count = 1;
    options.certificate = name->certificate;
    options.key = name->key;
    client.alpn = spoken;
    client.alpn_count = 1;
    tepal_tls_context *strict = tls_context(&options);
    CHECK_OK(tepal_tls_context_add_name(self.server_context, "strict.example", strict));
    tepal_tls_context_unref(strict);
    self.client_context = tls_context(&client);
    self.client_options.server_name = "strict.example";
    tls_start(&self);
    tls_shake(&self);
    CHECK_EQ(tls_failure(&self.server), TEPAL_ETLS_NO_CERTIFICATE);
    CHECK_NE(tls_failure(&self.client), 0);
    tls_part(&self);
    client.certificate = identity_client()->certificate;
    client.key = identity_client()->key;
    CHECK_OK(tepal_tls_context_reload(self.client_context, &client, NULL, 0));
    self.client_options.server_name = "strict.example";
    tls_open(&self);
    CHECK_EQ(tls_info(&self.client).version, TEPAL_TLS_1_2);
    CHECK_STR(tls_info(&self.server).alpn, "two");
    CHECK(tls_info(&self.server).verified);
    tls_exchange(&self, 1000);
    tls_close(&self);
}
