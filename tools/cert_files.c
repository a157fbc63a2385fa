/* Writing a certificate and its key (cert.h). Each is written beside its place and then renamed, so that a server that
 * reads its files again meets a whole one, and what was there stays if anything fails. */
#include "cert.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void cert_texts_end(cert_texts *self) {
    free(self->certificate);
    if (self->key != NULL)
        explicit_bzero(self->key, strlen(self->key));
    free(self->key);
}

const char *cert_in_the_way(const char *path, bool replace) {
    struct stat found;
    if (lstat(path, &found) < 0)
        return errno == ENOENT ? NULL : strerror(errno);
    if (!S_ISREG(found.st_mode))
        return "what is there is no regular file";
    return replace ? NULL : "it is there already; --force replaces it";
}

/* A file with this text, which must not be there. Returns 0 or an errno; the file is then not there. */
static int write_new(const char *path, const char *text, mode_t mode) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return errno;
    int error = 0;
    for (size_t left = strlen(text); left > 0 && error == 0;) {
        ssize_t count = write(fd, text, left);
        if (count < 0) {
            error = errno == EINTR ? 0 : errno;
            continue;
        }
        text += count;
        left -= (size_t)count;
    }
    if (close(fd) < 0 && error == 0)
        error = errno;
    if (error != 0)
        unlink(path);
    return error;
}

/* Give a file its name. Returns 0 or an errno. */
static int put(const char *from, const char *to, bool replace) {
    if (!replace) {
        if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
            return 0;
        if (errno != EINVAL && errno != ENOSYS)
            return errno;
        if (access(to, F_OK) == 0) /* a file system that cannot do both at once */
            return EEXIST;
    }
    return rename(from, to) < 0 ? errno : 0;
}

static bool failed(const char *path, int error, char *why, size_t why_size) {
    snprintf(why, why_size, "cannot write %s: %s", path, strerror(error));
    return false;
}

/* Give both their names, or neither one that was free before. */
static bool put_both(char *const from[2], const char *const to[2], bool replace, char *why, size_t why_size) {
    int error = put(from[0], to[0], replace);
    if (error != 0)
        return failed(to[0], error, why, why_size);
    error = put(from[1], to[1], replace);
    if (error == 0)
        return true;
    if (!replace)
        unlink(to[0]);
    return failed(to[1], error, why, why_size);
}

bool cert_save(const cert_texts *texts, const char *certificate_path, const char *key_path, bool replace, char *why,
               size_t why_size) {
    const char *const to[2] = {key_path, certificate_path};
    const char *const text[2] = {texts->key, texts->certificate};
    const mode_t mode[2] = {0600, 0644};
    char *from[2] = {NULL, NULL};
    bool is_written[2] = {false, false};
    bool done = true;
    for (size_t index = 0; index < 2 && done; index++) {
        int error = asprintf(&from[index], "%s.%ld.new", to[index], (long)getpid()) < 0 ? ENOMEM : 0;
        if (error != 0)
            from[index] = NULL; /* asprintf leaves it undefined */
        else
            error = write_new(from[index], text[index], mode[index]);
        is_written[index] = error == 0;
        if (error != 0)
            done = failed(to[index], error, why, why_size);
    }
    done = done && put_both(from, to, replace, why, why_size);
    for (size_t index = 0; index < 2; index++) {
        if (!done && is_written[index])
            unlink(from[index]); /* not there any more if it was renamed */
        free(from[index]);
    }
    return done;
}
