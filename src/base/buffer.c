/*
 * The output chain: a list of pieces in the order in which they were written.
 *
 * A piece never moves and its bytes never change once they are in the chain, because a driver may hold addresses from
 * gather() while a send is under way. So small copies are joined by filling the room behind the last piece, never by
 * growing it in place; and nothing here may free a byte before consume() or discard() says that it is done with.
 */
#include "base/buffer.h"

/* The room of the first piece of a chain; each further one doubles it, up to TPI_JOIN_BYTES. */
#define LEAST_ROOM 256

typedef struct owner owner;

struct tpi_piece {
    tpi_piece *next;
    const uint8_t *data; /* the first byte that has not left */
    size_t length;       /* 1 or more */
    size_t room;         /* copied: free bytes behind data + length */
    owner *owner;        /* NULL: copied, and the bytes follow this struct */
};

/* One owned write: its descriptors are one block, freed with the last of them. */
struct owner {
    tepal_release release;
    void *argument;
    size_t left; /* pieces still in the chain */
    tpi_piece pieces[];
};

uint64_t tpi_pieces_bytes(const struct iovec *pieces, size_t count) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        if (__builtin_add_overflow(bytes, pieces[i].iov_len, &bytes)) {
            return UINT64_MAX;
        }
    }
    return bytes;
}

/* Copy length bytes out of the pieces, from offset skip on. */
static void copy_out(uint8_t *to, const struct iovec *pieces, size_t skip, size_t length) {
    for (; length > 0; pieces++) {
        if (skip >= pieces->iov_len) {
            skip -= pieces->iov_len;
            continue;
        }
        size_t part = pieces->iov_len - skip;
        part = part < length ? part : length;
        memcpy(to, (const uint8_t *)pieces->iov_base + skip, part);
        to += part;
        length -= part;
        skip = 0;
    }
}

static uint8_t *copied_bytes(tpi_piece *piece) {
    return (uint8_t *)(piece + 1);
}

static void append(tpi_output *output, tpi_piece *piece) {
    piece->next = NULL;
    if (output->last == NULL) {
        output->first = piece;
    } else {
        output->last->next = piece;
    }
    output->last = piece;
    output->bytes += piece->length;
}

/* How large to make the copied piece that follows last (NULL: none does), to hold length bytes. */
static size_t next_capacity(tpi_piece *last, size_t length) {
    size_t capacity = LEAST_ROOM;
    if (last != NULL && last->owner == NULL) {
        capacity = 2 * ((size_t)(last->data - copied_bytes(last)) + last->length + last->room);
    }
    if (capacity > TPI_JOIN_BYTES) {
        capacity = TPI_JOIN_BYTES;
    }
    return length < capacity ? capacity : length;
}

int tpi_output_copy(tpi_output *output, tpi_realloc allocate, const struct iovec *pieces, size_t count, size_t skip) {
    uint64_t bytes = tpi_pieces_bytes(pieces, count);
    if (bytes <= skip) {
        return 0;
    }
    bytes -= skip;
    if (bytes > SIZE_MAX - sizeof(tpi_piece)) {
        return TEPAL_ENOMEM;
    }

    tpi_piece *last = output->last;
    size_t rest = (size_t)bytes;
    size_t joined = 0;
    if (last != NULL) {
        joined = rest < last->room ? rest : last->room;
        rest -= joined;
    }
    if (rest > 0) { /* before anything changes, since this may fail */
        size_t capacity = next_capacity(last, rest);
        tpi_piece *piece = allocate(NULL, sizeof *piece + capacity);
        if (piece == NULL) {
            return TEPAL_ENOMEM;
        }
        *piece = (tpi_piece){.data = copied_bytes(piece), .length = rest, .room = capacity - rest};
        copy_out(copied_bytes(piece), pieces, skip + joined, rest);
        append(output, piece);
    }
    if (joined > 0) {
        copy_out(copied_bytes(last) + (last->data - copied_bytes(last)) + last->length, pieces, skip, joined);
        last->length += joined;
        last->room -= joined;
        output->bytes += joined;
    }
    return 0;
}

int tpi_output_own(tpi_output *output, tpi_realloc allocate, const struct iovec *pieces, size_t count, size_t skip,
                   tepal_release release, void *argument) {
    while (count > 0 && skip >= pieces->iov_len) {
        skip -= pieces->iov_len;
        pieces++;
        count--;
    }
    size_t used = 0; /* pieces with bytes: for the others there is nothing to send */
    for (size_t i = 0; i < count; i++) {
        used += pieces[i].iov_len > 0;
    }

    size_t size;
    if (__builtin_mul_overflow(used, sizeof(tpi_piece), &size) || __builtin_add_overflow(size, sizeof(owner), &size)) {
        return TEPAL_ENOMEM;
    }
    owner *write = allocate(NULL, size);
    if (write == NULL) {
        return TEPAL_ENOMEM;
    }
    *write = (owner){.release = release, .argument = argument, .left = used};
    tpi_piece *piece = write->pieces;
    for (size_t i = 0; i < count; i++) {
        if (pieces[i].iov_len == 0) {
            continue;
        }
        *piece = (tpi_piece){
            .data = (const uint8_t *)pieces[i].iov_base + skip, .length = pieces[i].iov_len - skip, .owner = write};
        append(output, piece);
        piece++;
        skip = 0;
    }
    return 0;
}

size_t tpi_output_gather(const tpi_output *output, struct iovec *pieces, size_t limit) {
    size_t count = 0;
    for (const tpi_piece *piece = output->first; piece != NULL && count < limit; piece = piece->next) {
        /* iovec has no const, and senders only read. */
        pieces[count++] = (struct iovec){.iov_base = (void *)(uintptr_t)piece->data, .iov_len = piece->length};
    }
    return count;
}

/* A piece has left the chain: free it. The owner to be told, if it was the last piece of an owned write. */
static bool drop_silently(tpi_realloc allocate, tpi_piece *piece, tepal_release *release, void **argument) {
    owner *write = piece->owner;
    if (write == NULL) {
        tpi_free(allocate, piece);
        return false;
    }
    write->left--;
    if (write->left > 0) {
        return false;
    }
    *release = write->release;
    *argument = write->argument;
    tpi_free(allocate, write);
    return true;
}

static void drop(tpi_realloc allocate, tpi_piece *piece, int status) {
    tepal_release release;
    void *argument;
    if (drop_silently(allocate, piece, &release, &argument)) {
        release(argument, status); /* after the chain's own memory, so that what it frees does not add up with that */
    }
}

void tpi_output_consume(tpi_output *output, tpi_realloc allocate, uint64_t count) {
    while (count > 0 && output->first != NULL) {
        tpi_piece *piece = output->first;
        if (count < piece->length) {
            piece->data += count;
            piece->length -= (size_t)count;
            output->bytes -= count;
            return;
        }
        count -= piece->length;
        output->bytes -= piece->length;
        output->first = piece->next;
        if (output->first == NULL) {
            output->last = NULL;
        }
        drop(allocate, piece, 0);
    }
}

void tpi_output_discard(tpi_output *output, tpi_realloc allocate, int status) {
    tpi_piece *piece = output->first;
    *output = (tpi_output){.first = NULL};
    while (piece != NULL) {
        tpi_piece *next = piece->next;
        drop(allocate, piece, status);
        piece = next;
    }
}

void tpi_output_forget(tpi_output *output, tpi_realloc allocate) {
    tpi_piece *piece = output->first;
    *output = (tpi_output){.first = NULL};
    while (piece != NULL) {
        tpi_piece *next = piece->next;
        tepal_release release;
        void *argument;
        (void)drop_silently(allocate, piece, &release, &argument);
        piece = next;
    }
}
