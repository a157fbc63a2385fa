/*
 * Names of Unix sockets, and the files that binding one leaves behind. Shared by servers and connecting.
 */
#ifndef TPI_UNIX_H
#define TPI_UNIX_H

#include <sys/types.h>
#include <tepal/base.h>

/* The file that binding to a path made. */
typedef struct tpi_unix_file {
    bool ours;
    dev_t device;
    ino_t inode;
} tpi_unix_file;

/* The address of a path, or of an abstract name written with "@" for its leading NUL. 0 or TEPAL_EINVAL. */
int tpi_unix_address(tepal_address *address, const char *path);

/* Whether the path of this address is a stream socket's file at which nobody listens any more. */
bool tpi_unix_is_dead(const tepal_address *address);

/* Remove the file of this address, whatever it is. 0 or the system's error. */
int tpi_unix_remove(const tepal_address *address);

/* Just bound to this address: note which file that made. Nothing for an abstract name. */
void tpi_unix_file_note(tpi_unix_file *file, const tepal_address *address);

/* Remove the file if the path still leads to it. Call before the socket is closed. */
void tpi_unix_file_remove(tpi_unix_file *file, const tepal_address *address);

#endif
