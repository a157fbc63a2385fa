/* `tepal cert`: options, and what is said. */
#include "cert.h"
#include "options.h"
#include "tools.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

enum { NAME_MAX_BYTES = 253, LABEL_MAX_BYTES = 63, AUTHORITY_MAX_BYTES = 64, DAYS_MAX = 36500, WHY_MAX = 768 };

static const command_text cert_text = {
    .name = "cert",
    .usage = "[options]",
    .summary = "Makes a certificate and its private key (P-256), to develop and test with: in earnest an authority\n"
               "issues one. It signs itself, so who is to trust it is given the certificate (tepal load --ca FILE);\n"
               "or an authority of your own signs it, which --is-ca makes.",
    .notes = "The key's file is readable to its owner alone. An authority's chain is put into the certificate's file.\n"
             "Exit status: 0 both files were written, 1 something failed, 2 the command line is wrong.",
};

static const char *const local_names[] = {"localhost", "127.0.0.1", "::1"};

typedef struct cert_command {
    cert_request request;
    option_list names;
    const char *certificate_path, *key_path;
    bool force;
} cert_command;

static bool is_address(const char *name) {
    unsigned char bytes[sizeof(struct in6_addr)];
    return inet_pton(AF_INET, name, bytes) == 1 || inet_pton(AF_INET6, name, bytes) == 1;
}

/* What is wrong with the name of a host, as a sentence; NULL if nothing is. */
static const char *host_problem(const char *name) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    const char *label = strncmp(name, "*.", 2) == 0 ? name + 2 : name;
    if (is_address(name))
        return NULL;
    if (strlen(name) > NAME_MAX_BYTES)
        return "it is longer than 253 bytes";
    for (;;) {
        size_t length = strspn(label, letters);
        if (label[length] != '.' && label[length] != '\0')
            return "a name has letters, digits, hyphens and dots (one in another script is written xn--...)";
        if (length == 0)
            return "there is nothing before, between or after its dots";
        if (length > LABEL_MAX_BYTES)
            return "a part between dots is longer than 63 bytes";
        if (label[length] == '\0')
            return NULL;
        label += length + 1;
    }
}

/* The same for what an authority is called. */
static const char *authority_problem(const char *name) {
    if (*name == '\0' || strlen(name) > AUTHORITY_MAX_BYTES)
        return "an authority's name has 1 to 64 bytes";
    for (; *name != '\0'; name++)
        if (*name < ' ' || *name > '~')
            return "an authority's name is of printable ASCII";
    return NULL;
}

/* What is wrong with the options together; the name that a sentence is about is put into *about. */
static const char *find_problem(const cert_command *self, const char **about) {
    const cert_request *request = &self->request;
    if ((request->issuer_certificate == NULL) != (request->issuer_key == NULL))
        return "who signs it is given by both --ca-cert FILE and --ca-key FILE";
    if (strcmp(self->certificate_path, self->key_path) == 0)
        return "the certificate and the key cannot be written to one file";
    if (request->is_authority && self->names.count > 1)
        return "an authority has one --name at most";
    for (size_t index = 0; index < self->names.count; index++) {
        const char *name = self->names.items[index];
        const char *problem = request->is_authority ? authority_problem(name) : host_problem(name);
        if (problem != NULL) {
            *about = name;
            return problem;
        }
    }
    return NULL;
}

static bool parse(cert_command *self, int argument_count, char **arguments, int *status) {
    cert_request *request = &self->request;
    const option options[] = {
        option_text("out-cert", "FILE", &self->certificate_path, "where to write the certificate (cert.pem)"),
        option_text("out-key", "FILE", &self->key_path, "where to write its private key (key.pem)"),
        option_many("name", "NAME", &self->names,
                    "host or IP address it is for; may be repeated (localhost, 127.0.0.1, ::1)"),
        option_number("days", "N", &request->days, 1, DAYS_MAX, "how long it is good (365)"),
        option_text("ca-cert", "FILE", &request->issuer_certificate, "the authority that signs it (it does so itself)"),
        option_text("ca-key", "FILE", &request->issuer_key, "the authority's private key"),
        option_flag("is-ca", &request->is_authority, "make an authority; --name is then what it is called"),
        option_flag("expired", &request->is_expired, "make one that expired a day ago, to test with"),
        option_flag("force", &self->force, "replace files that are there"),
    };
    if (!options_parse(&cert_text, options, sizeof options / sizeof options[0], argument_count, arguments, status))
        return false;
    const char *about = NULL;
    const char *problem = find_problem(self, &about);
    if (problem != NULL && about != NULL)
        *status = usage_error(&cert_text, "cannot make a certificate for '%s': %s", about, problem);
    else if (problem != NULL)
        *status = usage_error(&cert_text, "%s", problem);
    return problem == NULL;
}

static void report(const cert_command *self, const cert_texts *made) {
    const cert_request *request = &self->request;
    printf("wrote %s: ", self->certificate_path);
    if (request->is_authority)
        printf("an authority");
    for (size_t index = 0; !request->is_authority && index < request->name_count; index++)
        printf("%s%s", index == 0 ? "for " : ", ", request->names[index]);
    printf(", good until %s\nwrote %s: its private key\n", made->until, self->key_path);
}

/* Returns the exit status. */
static int make(const cert_command *self) {
    const char *const paths[] = {self->certificate_path, self->key_path};
    char why[WHY_MAX];
    cert_texts made = {.certificate = NULL};
    for (size_t index = 0; index < sizeof paths / sizeof paths[0]; index++) {
        const char *problem = cert_in_the_way(paths[index], self->force);
        if (problem != NULL) {
            fprintf(stderr, "tepal cert: cannot write %s: %s\n", paths[index], problem);
            return STATUS_FAILED;
        }
    }
    bool done = cert_make(&self->request, &made, why, sizeof why) &&
                cert_save(&made, self->certificate_path, self->key_path, self->force, why, sizeof why);
    if (done)
        report(self, &made);
    else
        fprintf(stderr, "tepal cert: %s\n", why);
    cert_texts_end(&made);
    return done ? STATUS_OK : STATUS_FAILED;
}

int cert_main(int argument_count, char **arguments) {
    cert_command self = {.certificate_path = "cert.pem", .key_path = "key.pem", .request.days = 365};
    int status = STATUS_OK;
    if (!parse(&self, argument_count, arguments, &status))
        return status;
    self.request.names = self.names.items;
    self.request.name_count = self.names.count;
    if (self.names.count == 0 && !self.request.is_authority) {
        self.request.names = local_names;
        self.request.name_count = sizeof local_names / sizeof local_names[0];
    }
    return make(&self);
}
