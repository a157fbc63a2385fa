/*
 * Names of Unix sockets, and the files that binding one leaves behind. It must never remove a file that somebody else
 * made, unless it is the socket of a server that is dead.
 */
#include "net/unix.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <tepal/error.h>
#include <unistd.h>

/* Whether the address leads to a file; its path then, with a NUL at the end. */
static bool unix_path(const tepal_address *address, char path[sizeof(struct sockaddr_un)]) {
    const size_t start = offsetof(struct sockaddr_un, sun_path);
    const struct sockaddr_un *name = (const struct sockaddr_un *)&address->storage;

    if (address->storage.ss_family != AF_UNIX || address->length <= start || name->sun_path[0] == '\0') {
        return false;
    }
    const size_t length = address->length - start;
    memcpy(path, name->sun_path, length);
    path[length] = '\0';
    return true;
}

int tpi_unix_address(tepal_address *address, const char *path) {
    char name[sizeof(((struct sockaddr_un *)NULL)->sun_path) + 1];
    const size_t length = strlen(path);

    if (path[0] != '@') {
        return tepal_address_unix(address, path, length);
    }
    if (length == 1 || length >= sizeof name) {
        return TEPAL_EINVAL;
    }
    memcpy(name, path, length);
    name[0] = '\0';
    return tepal_address_unix(address, name, length);
}

bool tpi_unix_is_dead(const tepal_address *address) {
    char path[sizeof(struct sockaddr_un)];
    struct stat status;

    if (!unix_path(address, path) || lstat(path, &status) != 0 || !S_ISSOCK(status.st_mode)) {
        return false;
    }
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return false;
    }
    /* Anything but a refusal (a full backlog, another type of socket, no permission) means that it may well live. */
    const int result = connect(fd, (const struct sockaddr *)&address->storage, address->length);
    const bool dead = result != 0 && errno == ECONNREFUSED;
    (void)close(fd);
    return dead;
}

int tpi_unix_remove(const tepal_address *address) {
    char path[sizeof(struct sockaddr_un)];

    if (!unix_path(address, path)) {
        return TEPAL_EINVAL;
    }
    return unlink(path) == 0 ? 0 : TEPAL_SYSTEM(errno);
}

void tpi_unix_file_note(tpi_unix_file *file, const tepal_address *address) {
    char path[sizeof(struct sockaddr_un)];
    struct stat status;

    file->ours = unix_path(address, path) && lstat(path, &status) == 0 && S_ISSOCK(status.st_mode);
    if (file->ours) {
        file->device = status.st_dev;
        file->inode = status.st_ino;
    }
}

void tpi_unix_file_remove(tpi_unix_file *file, const tepal_address *address) {
    char path[sizeof(struct sockaddr_un)];
    struct stat status;

    /* While the socket is open its inode's number cannot be that of another file, so equal means the same file. */
    if (file->ours && unix_path(address, path) && lstat(path, &status) == 0 && status.st_dev == file->device &&
        status.st_ino == file->inode) {
        (void)unlink(path);
    }
    file->ours = false;
}
