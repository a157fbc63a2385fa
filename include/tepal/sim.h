/**
 * The simulator: a network of hosts inside one thread, with virtual time, faults, and one seed behind everything.
 *
 * Each host is a loop like any other: protocols, servers, connections, timers and futures run on it unchanged. What is
 * simulated is what lies below: sockets, names, the network between the hosts, the clock, randomness, and the executor,
 * whose work runs in the loop's thread. Time stands still while code runs and jumps to the next event when every host
 * sleeps, so an hour of waiting costs nothing. The same seed and the same program give the same run to the byte.
 *
 *     tepal_sim *sim;
 *     tepal_loop *server, *client;
 *     tepal_sim_new(&sim, TEPAL_OPTIONS(tepal_sim_options, .seed = 7));
 *     tepal_sim_add_host(sim, "server", NULL, &server);
 *     tepal_sim_add_host(sim, "client", NULL, &client);
 *     ... tepal_loop_listen(server, ...); tepal_loop_create_connection(client, ... .host = "server" ...);
 *     tepal_sim_fault(sim, "random; at 2s partition client server; at 10s calm");
 *     int code = tepal_sim_run(sim, TEPAL_SEC(60));
 *     tepal_sim_free(sim);
 *
 * A loop made with the driver "sim" and without a tepal_sim is alone in a network of its own, with the seed in the
 * environment's TEPAL_SIM_SEED, or 1. It alone may be posted to from other threads and by signals; it sleeps for real
 * where nothing is left that virtual time could bring.
 *
 * What a simulated host has not got is TEPAL_ENOTSUP: watches of descriptors (and readers and writers),
 * tepal_loop_poll_fd(), and descriptors of the kernel. Descriptors that it hands out are its own numbers, above any
 * that the kernel gives: tepal_sim_close_fd() closes them, close(2) does not know them.
 */
#ifndef TEPAL_SIM_H
#define TEPAL_SIM_H

#include <tepal/base.h>
#include <tepal/error.h>
#include <tepal/loop.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A simulated network with its hosts. */
typedef struct tepal_sim tepal_sim;

/** How a network is made. Zero is the default of each member. */
typedef struct tepal_sim_options {
    size_t size;                  /**< sizeof(tepal_sim_options) */
    uint64_t seed;                /**< decides everything that is left to chance; 0: 1 */
    bool unchecked;               /**< leave the hosts' loops without debug, on their quick paths, unless asked for */
    unsigned turn_limit;          /**< turns that a host may take without anything happening; 0: 1,000 */
    int (*check)(void *argument); /**< after every turn of a host; below 0 ends the run with that code */
    /** a line for each event, without a newline: the time, and the host in one of six columns; it may only ask questions */
    void (*trace)(void *argument, const char *line);
    void *argument;                   /**< of check and trace */
    void *(*realloc)(void *, size_t); /**< the network's allocator, not the hosts'; NULL: libc's */
} tepal_sim_options;

/** What has happened in a network since it was made. */
typedef struct tepal_sim_stats {
    size_t size;          /**< sizeof(tepal_sim_stats), set by the caller */
    uint64_t events;      /**< lines of the trace */
    uint64_t turns;       /**< turns of hosts */
    uint64_t connections; /**< established */
    uint64_t bytes;       /**< read by their receivers */
    uint64_t faults;      /**< injected: by chance, or by a script */
    uint64_t hash;        /**< of the trace so far: equal for equal runs, whether or not anybody listens to it */
} tepal_sim_stats;

/**
 * Make a network without hosts, at time 0. options may be NULL.
 *
 * The number in the environment's TEPAL_SIM_SEED takes the place of the seed, so that a run that failed can be had
 * again without a change. Returns 0, TEPAL_EINVAL or TEPAL_ENOMEM.
 */
TEPAL_API int tepal_sim_new(tepal_sim **sim, const tepal_sim_options *options);

/**
 * Close the loops of all hosts that are not closed yet, and give everything back. NULL is allowed.
 *
 * Inside a run it does nothing. The memory of a loop that the caller holds by tepal_loop_ref() stays until it is given back.
 */
TEPAL_API void tepal_sim_free(tepal_sim *sim);

/**
 * Add a host. Its name (1 to 24 letters, digits, '-', '_' and '.') resolves to its two addresses on every host; by
 * "localhost" and the loopback addresses it reaches itself.
 *
 * options may be NULL; its driver must be. The loop is the network's: tepal_sim_free() closes it, and the caller may
 * do so before. After a crash of a host, or once its loop is closed, its name may be given again: to the host started
 * anew, with the same addresses. The loop of a crashed host can only be closed, which ends its transports; run, it
 * returns EHOSTDOWN as a system error. Returns 0; TEPAL_EINVAL, also for a name that is an address; TEPAL_EBUSY if the
 * name is taken; TEPAL_ENOMEM.
 */
TEPAL_API int tepal_sim_add_host(tepal_sim *sim, const char *name, const tepal_loop_options *options,
                                 tepal_loop **loop);

/**
 * Write the address of a host, 10.0.0.n or fd00::n, with this port. family is AF_INET or AF_INET6.
 *
 * Returns 0; TEPAL_ENOENT if there is no such host; TEPAL_EINVAL.
 */
TEPAL_API int tepal_sim_address(const tepal_sim *sim, const char *host, int family, uint16_t port,
                                tepal_address *address);

/**
 * Run all hosts for limit_ns of virtual time, all of which passes; negative: until nothing is left to happen.
 *
 * Returns 1 when the time was up. 0, without a limit, when nothing is left to happen, which is not an error: every host
 * sleeps without a timer, and nothing is on its way. Below 0: the code of check, of a tepal_loop_interrupt(), or of an
 * error of a host's turn; TEPAL_EINVARIANT once an invariant is broken, in the library or (a host that spins, say) in
 * the program; TEPAL_ERECURSION from inside a run; TEPAL_ENOMEM for good if memory for the network ran out.
 * tepal_sim_failure() says more. Running one host's loop instead, by tepal_loop_run_forever() or any other call, runs
 * the whole network too, for as long as that call lasts; where nothing is left to happen it returns EDEADLK as a system
 * error. tepal_loop_stop() ends the run of its loop, not this one: an interrupt, or check, does.
 */
TEPAL_API int tepal_sim_run(tepal_sim *sim, int64_t limit_ns);

/**
 * Inject faults, now or later. A script is a list of statements, divided by ';' or line ends; what follows '#' is a
 * comment. HOST is a name, or '*' for all; of two hosts the second '*' is all but the first one itself. TIME is a number
 * with ns, us, ms or s, at most 1e9s. Statements are about hosts that are there when they are carried out.
 *
 *   at TIME STATEMENT          later, at this time of the network
 *   latency HOST HOST MIN MAX  how long what the first sends takes to the second: between two times
 *   bandwidth HOST HOST BYTES  at most so many bytes a second that way; 0: no limit
 *   buffers HOST BYTES         the size of its sockets' buffers, which are full sooner; 0: by chance again
 *   drop HOST HOST             what the first sends to the second vanishes silently, and is sent again until it is healed
 *   partition HOST HOST        the same both ways
 *   heal HOST HOST             the end of that, both ways
 *   reset HOST HOST [BYTES]    reset the connections between the two; with BYTES each one after so many more bytes of the
 *                              first, which arrive
 *   refuse HOST                its listeners refuse, until "serve HOST"
 *   deaf HOST                  its sockets are not read, so that those who write to it wait, until "hear HOST"
 *   stall HOST TIME            it takes no turn for so long
 *   jump HOST TIME             its clock jumps ahead
 *   crash HOST                 it vanishes without a word; it takes no turn any more, and may be added again
 *   descriptors HOST NUMBER    how many it may have open (1,024 unless told)
 *   rate WHAT CHANCE           how often something happens by chance, from 0 to 1:
 *        split     a read delivers fewer bytes than have come
 *        short     a send takes fewer bytes than there is room for
 *        late      a send, a connect, a close that could complete at once completes later
 *        delay     what is sent waits for a while, and what was sent elsewhere after it arrives first
 *        reset     a connection is reset when something is sent on it
 *        refuse    a connect is refused
 *        timeout   a connect is never answered
 *        emfile    there is no descriptor left for a socket, an accept
 *        enobufs   a connect or a send fails for lack of buffers, which ends the connection
 *        enomem    a socket, an accept, an adoption fails for lack of memory
 *        resolve   a name does not resolve this time
 *        stall     a host stands still for a while after a turn
 *        jump      a host's clock jumps ahead after a turn
 *        drop      what a host sends to another vanishes for a while
 *   random                     every rate, the latencies and the sizes of socket buffers, as the seed has them
 *   calm                       no more faults: rates 0, everything healed, served and at full speed, nobody stalled, 1,024
 *                              descriptors at least, everybody heard; what "at" has put off still comes, crashed hosts
 *                              stay so, and so do latencies and the buffers of sockets that are there
 *
 * Unless told, nothing is faulty; latencies are 50 to 500 us, 5 to 50 within a host. Returns 0; TEPAL_EINVAL, and none
 * of it is done, for what is no statement or names a host that is not there: tepal_sim_failure() says where;
 * TEPAL_ENOMEM.
 */
TEPAL_API int tepal_sim_fault(tepal_sim *sim, const char *script);

/** The virtual time since the network was made, in nanoseconds; it ends after 146 years. A host's tepal_loop_time() is another clock. */
TEPAL_API int64_t tepal_sim_time(const tepal_sim *sim);

/** The seed that is in force: print it where a test fails. */
TEPAL_API uint64_t tepal_sim_seed(const tepal_sim *sim);

/** A random number from the seed, for the program's own choices; what the network does is not changed by asking. */
TEPAL_API uint64_t tepal_sim_random(tepal_sim *sim);

/**
 * What went wrong first, in a sentence with the seed, the time and the host; or why the last script was refused. NULL
 * if nothing did. It is valid until the next call.
 */
TEPAL_API const char *tepal_sim_failure(const tepal_sim *sim);

/** Copy the counters, up to stats->size. Returns 0 or TEPAL_EINVAL. */
TEPAL_API int tepal_sim_get_stats(const tepal_sim *sim, tepal_sim_stats *stats);

/**
 * Close a descriptor of a simulated host that no transport or server has. Returns 0, TEPAL_EBADF, TEPAL_EBUSY,
 * TEPAL_ECLOSED, or TEPAL_ENOTSUP for another driver.
 */
TEPAL_API int tepal_sim_close_fd(tepal_loop *loop, int fd);

/**
 * Two connected stream sockets of a simulated host, to be adopted: a Unix pair, or over its loopback with AF_INET or
 * AF_INET6. Returns 0; TEPAL_ENOTSUP for another driver or family; TEPAL_ECLOSED; ENETDOWN once it has crashed; EMFILE as a system error; TEPAL_ENOMEM.
 */
TEPAL_API int tepal_sim_socketpair(tepal_loop *loop, int family, int fds[2]);

/**
 * Try count seeds from first on, a network for each: run gets it without hosts, and returns below 0 if its program
 * fails. With TEPAL_SIM_SEED in the environment that one seed is tried, whatever count says.
 *
 * options may be NULL; its seed is not looked at. Returns 0 when all have passed; else the code of the first that
 * failed, with its seed in *failed, which may be NULL. TEPAL_EINVAL, TEPAL_ENOMEM as tepal_sim_new().
 */
TEPAL_API int tepal_sim_search(const tepal_sim_options *options, uint64_t first, uint64_t count,
                               int (*run)(tepal_sim *sim, void *argument), void *argument, uint64_t *failed);

#ifdef __cplusplus
}
#endif
#endif
