/* A library for LD_PRELOAD that counts the bytes a server copies by memcpy and memmove, for each object that calls them:
 * the program, OpenSSL's libraries, libevent and so on. As count.c does, it writes a JSON line at exit and on SIGUSR2.
 *
 * It sees calls that go from one object to another. What it cannot see is what the compiler made of copies of a fixed
 * length (moves in place), libc's own copies, what OpenSSL's assembly moves while it encrypts, and the kernel's. */
#include <dlfcn.h>
#include <link.h>
#include <stdint.h>
#include <unistd.h>

#include "preload.h"

enum { OBJECTS_MOST = 32, SEGMENTS_MOST = 64 };

typedef struct object {
    const char *name;
    unsigned long long bytes, calls;
} object;

typedef struct segment {
    uintptr_t begin, end;
    object *owner;
} segment;

/* The first is for callers that were not there at the start. A server has one thread, so nothing here is atomic. */
static object objects[OBJECTS_MOST] = {{.name = "others"}};
static segment segments[SEGMENTS_MOST];
static unsigned object_count = 1, segment_count;
static void *(*next_memmove)(void *, const void *, size_t);

static object *caller(uintptr_t address) {
    for (const segment *each = segments; each < segments + segment_count; each++) {
        if (address >= each->begin && address < each->end)
            return each->owner;
    }
    return &objects[0];
}

static void *copy(void *to, const void *from, size_t length, void *return_address) {
    object *by = caller((uintptr_t)return_address);
    by->bytes += length;
    by->calls++;
    if (next_memmove != NULL)
        return next_memmove(to, from, length);
    /* The linker, before this library is ready: nothing overlaps. volatile, or this loop would become a call. */
    volatile unsigned char *target = to;
    for (size_t index = 0; index < length; index++)
        target[index] = ((const unsigned char *)from)[index];
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t length) {
    return copy(to, from, length, __builtin_return_address(0));
}

void *memmove(void *to, const void *from, size_t length) {
    return copy(to, from, length, __builtin_return_address(0));
}

void *mempcpy(void *restrict to, const void *restrict from, size_t length) {
    return (char *)copy(to, from, length, __builtin_return_address(0)) + length;
}

/* What _FORTIFY_SOURCE makes of them, with which Debian builds its libraries. */
void *__memcpy_chk(void *restrict to, const void *restrict from, size_t length, size_t room);
void *__memmove_chk(void *to, const void *from, size_t length, size_t room);

void *__memcpy_chk(void *restrict to, const void *restrict from, size_t length, size_t room) {
    if (length > room)
        abort();
    return copy(to, from, length, __builtin_return_address(0));
}

void *__memmove_chk(void *to, const void *from, size_t length, size_t room) {
    if (length > room)
        abort();
    return copy(to, from, length, __builtin_return_address(0));
}

/* Where an object's code is. The program itself has no name there. */
static int add_object(struct dl_phdr_info *info, size_t size, void *unused) {
    (void)size;
    (void)unused;
    if (object_count == OBJECTS_MOST)
        return 1;
    const char *slash = strrchr(info->dlpi_name, '/');
    const char *name = slash == NULL ? info->dlpi_name : slash + 1;
    object *owner = &objects[object_count++];
    owner->name = *name == '\0' ? "program" : name;
    for (const ElfW(Phdr) *header = info->dlpi_phdr; header < info->dlpi_phdr + info->dlpi_phnum; header++) {
        if (header->p_type != PT_LOAD || (header->p_flags & PF_X) == 0 || segment_count == SEGMENTS_MOST)
            continue;
        uintptr_t begin = info->dlpi_addr + header->p_vaddr;
        segments[segment_count++] = (segment){.begin = begin, .end = begin + header->p_memsz, .owner = owner};
    }
    return 0;
}

static void write_report(void) {
    char line[OBJECTS_MOST * 192];
    size_t at = preload_put_text(line, 0, "{");
    for (const object *each = objects; each < objects + object_count; each++) {
        if (strlen(each->name) > 64)
            continue;
        at = preload_put_text(line, at, each == objects ? "\"" : ", \"");
        at = preload_put_text(line, at, each->name);
        at = preload_put_text(line, at, "\": {\"bytes\": ");
        at = preload_put_number(line, at, each->bytes);
        at = preload_put_text(line, at, ", \"calls\": ");
        at = preload_put_number(line, at, each->calls);
        at = preload_put_text(line, at, "}");
    }
    at = preload_put_text(line, at, "}\n");
    int error = errno;
    int fd = preload_open();
    if (fd >= 0) {
        ssize_t written = write(fd, line, at);
        (void)written; /* a report that is missing is noticed by who waits for it */
        close(fd);
    }
    errno = error;
}

static void on_signal(int number) {
    if (number == SIGUSR2)
        write_report();
}

__attribute__((constructor)) static void begin(void) {
    dl_iterate_phdr(add_object, NULL);
    next_memmove = (void *(*)(void *, const void *, size_t))dlsym(RTLD_NEXT, "memmove");
    preload_on_signals(on_signal);
}

__attribute__((destructor)) static void end(void) {
    write_report();
}
