/*
 * The driver contract: what moves bytes between the kernel (or a simulator) and the loop.
 *
 * Nothing above this header knows which driver runs. A driver owns sockets from opening to closing, and is the source
 * of everything that is not a pure function: time, randomness, names, blocking work. All functions are for the loop's
 * thread but wake() and what says so. Upcalls come from dispatch() only.
 *
 * The contract is completion-shaped. A driver over readiness (epoll, poll) emulates completions in readiness.c.
 */
#ifndef TPI_DRIVER_H
#define TPI_DRIVER_H

#include <stdatomic.h>
#include <time.h>
#include <tepal/base.h>
#include <tepal/error.h>

typedef struct tpi_driver tpi_driver;
typedef struct tpi_object tpi_object;
typedef struct tpi_upcalls tpi_upcalls;
typedef struct tpi_message tpi_message;
typedef struct tpi_job tpi_job;
typedef struct tpi_resolve tpi_resolve;

typedef void *(*tpi_realloc)(void *, size_t);

/* send() and connect() did not finish in the call; sent() or connected() will tell. No errno has this value. */
#define TPI_PENDING TEPAL_SYSTEM(0xffff)

typedef enum tpi_kind { TPI_STREAM = 1, TPI_LISTENER, TPI_WATCH } tpi_kind;

/*
 * One descriptor's worth of driver state, embedded first in what owns it (a transport, a listener, a watch), which
 * sets `up` and zeroes the rest before open, adopt or watch. Its memory must last until closed() or released().
 */
struct tpi_object {
    const tpi_upcalls *up;
    tpi_object *next;           /* driver: list of objects with something left to deliver */
    const tpi_message *sending; /* driver: the message of a PENDING send; NULL: none */
    union {
        struct {
            uint8_t kind;  /* driver: tpi_kind, 0 while not open */
            bool direct;   /* owner: ask up->get_buffer for a place before reading */
            bool borrowed; /* owner: abandon() must not close the descriptor */
            uint8_t spare;
            uint32_t bits; /* driver */
        };
        uint64_t state; /* all of that, to be compared at once */
    };
    int fd;              /* read only for the owner; -1 once closed or released */
    uint32_t references; /* owner: how many hold it, where that is counted; the driver leaves it alone */
};

/* Output for send(). The pieces and the message itself must stay as they are until sent() or closed(). */
struct tpi_message {
    const struct iovec *pieces;
    size_t count;
    const tepal_address *address; /* datagrams: where to; NULL: the connected peer */
    const void *control;          /* sendmsg(2)'s control data: descriptors to pass, say; NULL: none */
    size_t control_length;
    int flags; /* sendmsg(2)'s; MSG_NOSIGNAL is always added */
};

/* What a driver tells an object's owner, only from dispatch(). After close() or release() only closed() or released(). */
struct tpi_upcalls {
    /*
     * Bytes of a stream, valid during the call. Returns how many were used. Fewer than length only after read_stop();
     * the driver keeps the rest and delivers it first after the next read_start(), from dispatch.
     */
    size_t (*data)(tpi_object *object, const uint8_t *data, size_t length);
    /* With object->direct: a buffer for at most hint bytes. *length 0 declines. filled() follows in the same dispatch, or nothing. */
    void (*get_buffer)(tpi_object *object, size_t hint, void **buffer, size_t *length);
    void (*filled)(tpi_object *object, size_t length);
    void (*eof)(tpi_object *object);                  /* once; reading has stopped */
    void (*error)(tpi_object *object, int code);      /* once, instead of eof: reading failed, and has stopped */
    void (*sent)(tpi_object *object, int64_t result); /* a PENDING send took result bytes (1 or more), or failed */
    /* A connection: its descriptor, non-blocking and close-on-exec, is the callee's. */
    void (*accepted)(tpi_object *object, int fd, const tepal_address *peer);
    void (*accept_failed)(tpi_object *object,
                          int code);                 /* out of descriptors or memory: accept has stopped by itself */
    void (*accept_stopped)(tpi_object *object);      /* accept_stop() is complete: nothing accepted is undelivered */
    void (*connected)(tpi_object *object, int code); /* a PENDING connect: 0 or an error */
    void (*ready)(tpi_object *object,
                  unsigned events); /* a watch: TEPAL_READABLE, TEPAL_WRITABLE; the object may be gone after */
    /* release() is complete: fd is the owner's, and held bytes were read from it and not delivered. Last word. */
    void (*released)(tpi_object *object, int fd, const uint8_t *held, size_t length);
    void (*closed)(tpi_object *object); /* the descriptor is closed and nothing refers to object. Last word. */
    void (*ending)(
        tpi_object
            *object); /* from the loop, not the driver: it is being closed; end what object carries and close() it */
    void (*abandoned)(
        tpi_object *object); /* in a forked child: give object's memory back, and call nobody. Last word. */
};

/* Blocking work for a thread. Embedded by its owner, who sets work and done; free again inside done. */
struct tpi_job {
    void (*work)(tpi_job *job); /* on a thread */
    void (*done)(tpi_job *job,
                 int status); /* from dispatch: 0, or TEPAL_ECANCELED if work never began or was lost in a fork */
    tpi_driver *driver;       /* the driver's; NULL while not offloaded */
    tpi_job *next, **link;    /* the driver's: in its queues; link is NULL once work has begun */
    tpi_job *known_next, **known_link; /* the driver's: among all jobs that are not delivered */
};

/* A name to resolve; embedded by its owner, who sets the first part. Free again inside done. */
struct tpi_resolve {
    tpi_job job;    /* the driver's; first */
    char host[256]; /* empty: loopback or, with passive, wildcard addresses */
    uint16_t port;
    int family; /* AF_INET, AF_INET6 or 0 */
    bool passive;
    void (*done)(tpi_resolve *request); /* from dispatch */
    bool canceled;                      /* the driver's, as what follows it */
    void *resolved;
    tpi_realloc realloc;
    int code;                 /* result: 0 or an error; TEPAL_ECANCELED after cancel */
    size_t count;             /* result */
    tepal_address *addresses; /* result: the owner's, freed with the driver's realloc(p, 0) */
};

typedef enum tpi_query {
    TPI_QUERY_LOCAL,     /* tepal_address */
    TPI_QUERY_PEER,      /* tepal_address */
    TPI_QUERY_UNREAD,    /* size_t: bytes received and not delivered, held ones too */
    TPI_QUERY_LISTENING, /* bool: of a listener */
    TPI_QUERY_SENT       /* int64_t: what sent() is going to say of a PENDING send that has completed; TEPAL_ENOENT */
} tpi_query;

typedef enum tpi_option {
    TPI_OPTION_NO_DELAY,
    TPI_OPTION_KEEP_ALIVE,          /* 0, 1 */
    TPI_OPTION_KEEP_ALIVE_IDLE,     /* seconds */
    TPI_OPTION_KEEP_ALIVE_INTERVAL, /* seconds */
    TPI_OPTION_KEEP_ALIVE_COUNT,
    TPI_OPTION_REUSE_ADDRESS,
    TPI_OPTION_REUSE_PORT,
    TPI_OPTION_IPV6_ONLY,
    TPI_OPTION_RESET_ON_CLOSE /* 1: close() discards and resets (SO_LINGER 0) */
} tpi_option;

typedef struct tpi_driver_options {
    tpi_realloc realloc;
    unsigned read_budget;          /* reads of one object in one dispatch */
    unsigned read_bytes;           /* bytes of one read */
    unsigned threads;              /* for offload, at most */
    unsigned ring_entries;         /* io_uring: of the submission queue; a power of two; 0: its own choice, as below */
    unsigned ring_buffers;         /* io_uring: lent to the kernel for receiving; a power of two */
    unsigned ring_buffer_bytes;    /* io_uring: of each */
    struct tpi_sim_host *sim_host; /* the simulator's: whose driver it is to be; NULL: alone in a network of its own */
} tpi_driver_options;

typedef struct tpi_driver_ops {
    const char *name;
    bool simulated; /* its descriptors and paths are not the kernel's */

    int (*create)(tpi_driver **driver, const tpi_driver_options *options);
    /* Every object must be closed or released. Waits for jobs that run; jobs not begun get done(TEPAL_ECANCELED). */
    void (*destroy)(tpi_driver *driver);
    /*
     * In a forked child, instead of destroy: unmap and close what is the driver's own and every object's descriptor,
     * with no word to the kernel about them, and tell each object abandoned() and nothing else.
     */
    void (*abandon)(tpi_driver *driver);
    /* In a forked child: make the kernel side anew and register every object again. Jobs under way end with TEPAL_ECANCELED. */
    int (*after_fork)(tpi_driver *driver);

    int64_t (*now)(tpi_driver *driver); /* nanoseconds; also while another call of the driver runs */
    uint64_t (*random)(tpi_driver *driver);
    int (*offload)(tpi_driver *driver, tpi_job *job);
    void (*offload_cancel)(
        tpi_driver *driver,
        tpi_job *job); /* if it has not begun, done(TEPAL_ECANCELED) comes soon; else nothing changes */
    int (*resolve)(tpi_driver *driver, tpi_resolve *request);
    void (*resolve_cancel)(tpi_driver *driver,
                           tpi_resolve *request); /* done() comes with TEPAL_ECANCELED, once nothing uses the request */

    /* A new socket for connecting or listening: a tpi_kind, a family. protocol 0. */
    int (*open)(tpi_driver *driver, tpi_object *object, tpi_kind kind, int family);
    /*
     * An open descriptor, from success on the driver's (until release). It is made non-blocking and close-on-exec.
     * Stream or listener. accepted: the family of one that came from accepted(), whose flags are right; 0: it came from
     * elsewhere, and then the first bytes come no earlier than the second dispatch after read_start(), so that they never come in the turn that adopted it. TEPAL_EBUSY: it has an object.
     */
    int (*adopt)(tpi_driver *driver, tpi_object *object, int fd, tpi_kind kind, int accepted);
    void (*release)(tpi_driver *driver, tpi_object *object); /* ends in released() */
    void (*close)(tpi_driver *driver, tpi_object *object);   /* ends in closed(); also cancels a connect. Once. */

    void (*discard)(tpi_driver *driver, int fd); /* close a descriptor that accepted() gave and nobody wants */

    int (*bind)(tpi_driver *driver, tpi_object *object, const tepal_address *address);
    int (*listen)(tpi_driver *driver, tpi_object *object, int backlog);
    void (*refuse)(tpi_driver *driver,
                   tpi_object *object); /* from its return the kernel refuses connections; close() follows */
    void (*accept_start)(tpi_driver *driver, tpi_object *object);
    void (*accept_stop)(tpi_driver *driver, tpi_object *object);                          /* ends in accept_stopped() */
    int (*connect)(tpi_driver *driver, tpi_object *object, const tepal_address *address); /* 0, PENDING or an error */

    void (*read_start)(tpi_driver *driver, tpi_object *object); /* idempotent; never calls up inside */
    void (*read_stop)(tpi_driver *driver, tpi_object *object);  /* idempotent; from its return no data, eof or error */
    /*
     * All three answer with the bytes taken now (1 or more, perhaps fewer than all), PENDING, or an error, and never come while
     * a send is PENDING. The offers look at the caller's memory during the call alone: PENDING means that nothing was
     * taken, and no sent() follows. With send() it means that the driver holds the message, and sent() will tell.
     */
    int64_t (*offer)(tpi_driver *driver, tpi_object *object, const void *data, size_t length);
    int64_t (*offer_pieces)(tpi_driver *driver, tpi_object *object, const struct iovec *pieces, size_t count);
    int64_t (*send)(tpi_driver *driver, tpi_object *object, const tpi_message *message);
    void (*flush)(tpi_driver *driver); /* submit what is queued, without waiting; wait() does it, too */
    void (*leave)(tpi_driver *driver); /* a run has ended: another thread may run the next one; NULL: all the same */
    int (*shutdown)(tpi_driver *driver, tpi_object *object); /* FIN; no send may be PENDING */

    /* A foreign descriptor, level-triggered. Again with other events: changes them. TEPAL_EPERM, TEPAL_EBUSY, TEPAL_EBADF. */
    int (*watch)(tpi_driver *driver, tpi_object *object, int fd, unsigned events);
    void (*unwatch)(tpi_driver *driver,
                    tpi_object *object); /* synchronous: at its return the object may go; no closed() */

    int (*query)(tpi_driver *driver, const tpi_object *object, tpi_query what, void *answer);
    int (*set)(tpi_driver *driver, tpi_object *object, tpi_option option, int value);

    int (*wait)(tpi_driver *driver,
                int64_t timeout_ns);      /* the only call that blocks; negative: no limit. 0, or an error */
    bool (*dispatch)(tpi_driver *driver); /* deliver what has completed; true: more is left for another turn */
    void (*wake)(tpi_driver *driver);     /* any thread, any signal handler: end a wait, now or the next */
    int (*poll_fd)(tpi_driver *driver);   /* readable when dispatch would deliver; TEPAL_ENOTSUP */

    /* Call visit on every object but watches; it may close them. For the end of a loop. */
    void (*each)(tpi_driver *driver, void (*visit)(tpi_object *object, void *argument), void *argument);
} tpi_driver_ops;

/* What every driver begins with. */
struct tpi_driver {
    const tpi_driver_ops *ops;
    tpi_realloc realloc;
    bool backlog;         /* something is left to deliver without waiting: wait with 0 */
    bool ending;          /* set by the loop: it is being closed, and only last words are waited for */
    bool interrupted;     /* by tpi_driver_interrupt(); taken back before the next dispatch */
    atomic_bool sleeping; /* set by the loop around a wait; who adds work from elsewhere wakes only then */
    bool completes; /* every send completes later: hand memory over with send() rather than have an offer() copied */
    uint64_t queued_since;    /* tpi_ticks() when the oldest of what flush() would submit was queued; 0: nothing is */
    tpi_driver *inner;        /* a driver that this one runs for some of its objects; NULL: none */
    struct tpi_offload *pool; /* threads for blocking work, of a driver that has them */
    _Atomic(tpi_job *) done_jobs; /* finished on a thread, newest first; delivered by dispatch */
    size_t objects;               /* open ones, watches not counted; 0 before destroy */
};

/* From an upcall: dispatch returns right after it, and keeps the rest. */
static inline void tpi_driver_interrupt(tpi_driver *driver) {
    driver->interrupted = true;
    if (driver->inner != NULL) {
        driver->inner->interrupted = true;
    }
}

/* A cheap clock of some unit, and how many of them are about 100 microseconds. */
static inline uint64_t tpi_ticks(void) {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
#endif
}

#if defined(__x86_64__)
#define TPI_OLD_TICKS 300000 /* of 2 to 4 GHz */
#elif defined(__aarch64__)
#define TPI_OLD_TICKS 2400 /* of 24 MHz; where it is 1 GHz, output leaves sooner */
#else
#define TPI_OLD_TICKS 100000
#endif

/* Between two callbacks: output that waits for the end of the turn leaves once it is old. */
static inline void tpi_driver_flush_old(tpi_driver *driver) {
    if (driver->queued_since != 0 && tpi_ticks() - driver->queued_since > TPI_OLD_TICKS) {
        driver->ops->flush(driver);
    }
}

/* Wake the driver if it sleeps or is about to: after adding work where the loop will look. Any thread, not signal handlers. */
static inline void tpi_driver_notify(tpi_driver *driver) {
    if (atomic_load(&driver->sleeping)) {
        driver->ops->wake(driver);
    }
}

/* The drivers built in, best first, ended by NULL (probe.c). */
extern const tpi_driver_ops *const tpi_drivers[];

/* One more, chosen by its name alone, for tests. NULL: none. */
extern const tpi_driver_ops *tpi_extra_driver;

/*
 * Make the driver with this name, or with NULL the one that TEPAL_DRIVER names, or the best that works here. Returns 0,
 * TEPAL_EINVAL for a name that is not known, TEPAL_ENOTSUP for a driver that this build or kernel has not got, or the
 * error of the driver that was named.
 */
int tpi_driver_new(tpi_driver **driver, const char *name, const tpi_driver_options *options);

#endif
