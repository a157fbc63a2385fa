/*
 * What the files of the readiness emulation share among themselves: the table of descriptors, the list of objects with
 * something left, bytes held for a paused reader, and one entry for each kind of object.
 */
#ifndef TPI_READINESS_INSIDE_H
#define TPI_READINESS_INSIDE_H

#include <errno.h>
#include <fcntl.h>
#include "driver/readiness.h"
#include <tepal/loop.h>

/* readiness.c */

int tpi_slot_reserve(tpi_readiness *readiness, int fd);
/* Let fd stand for object, whose kind is set. TEPAL_EBUSY if it stands for another one that lives. */
int tpi_slot_take(tpi_readiness *readiness, tpi_object *object, int fd);
void tpi_slot_leave(tpi_readiness *readiness, const tpi_object *object);
int tpi_readiness_register(tpi_readiness *readiness, tpi_object *object);
void tpi_readiness_unregister(tpi_readiness *readiness, tpi_object *object);
/* Interest may have changed: tell a poller of levels. */
void tpi_readiness_update(tpi_readiness *readiness, const tpi_object *object);
void tpi_readiness_list(tpi_readiness *readiness, tpi_object *object);

/* readiness_stream.c */

void tpi_stream_event(tpi_readiness *readiness, tpi_object *object, uint32_t events);
/* Reading goes on: bytes held, then the socket. */
void tpi_stream_go_on(tpi_readiness *readiness, tpi_object *object);
tpi_held *tpi_held_take(tpi_readiness *readiness, const tpi_object *object);
const uint8_t *tpi_held_bytes(const tpi_held *held, size_t *length);
void tpi_held_free(tpi_readiness *readiness, tpi_held *held);
void tpi_held_free_all(tpi_readiness *readiness);
size_t tpi_held_count(const tpi_readiness *readiness, const tpi_object *object);

/* readiness_watch.c */

/* The descriptor of a watch is gone: take the watch out of the table and the poller, silently. */
void tpi_watch_forget(tpi_readiness *readiness, tpi_object *object);

#endif
