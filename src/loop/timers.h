/*
 * Timers: a hierarchical wheel of intrusive timers. Start, move and stop are O(1) and allocate nothing; timers come
 * out exactly in the order of their deadlines and, for equal ones, of their (last) start. Never early.
 */
#ifndef TPI_TIMERS_H
#define TPI_TIMERS_H

#include <tepal/loop.h>

#define TPI_TIMERS_LEVELS 11
#define TPI_TIMERS_SLOTS 64

typedef struct tpi_timers {
    int64_t elapsed_ns;    /* of the last advance: every timer due by then has been moved to the due list */
    int64_t bound_ns;      /* nothing in the wheel is due before this */
    bool bound_is_slack;   /* it may be worth looking for a later bound */
    uint64_t sequence;     /* of the last start */
    size_t count;          /* started, due ones too */
    tepal_timer *due_last; /* undefined while the due list is empty */

    /* The slots of the wheel level by level, then two more: started for the past, and due (to be popped). */
    uint64_t occupied[TPI_TIMERS_LEVELS + 1]; /* a bit per list that is not empty */
    tepal_timer *lists[TPI_TIMERS_LEVELS * TPI_TIMERS_SLOTS + 2];
} tpi_timers;

void tpi_timers_init(tpi_timers *timers, int64_t now_ns);

/* Start, or move if started. Any deadline; the past counts as due with the next advance. */
void tpi_timers_start(tpi_timers *timers, tepal_timer *timer, int64_t deadline_ns);

/* Whether it was started. At its return nothing refers to timer, and its state is 0. */
bool tpi_timers_stop(tpi_timers *timers, tepal_timer *timer);

/*
 * Not before this will anything be due: the exact earliest deadline where that is cheap, else a time before it.
 * INT64_MAX: none. At most the time of the last advance: something can be popped now or after an advance.
 */
int64_t tpi_timers_next(tpi_timers *timers);

/*
 * Let time pass: what is due at now_ns becomes poppable, after what an earlier advance left. Timers started after
 * this, even for the past, wait for the next advance, so a timer that restarts itself at 0 cannot keep pop from
 * ending. Time never goes back: an earlier now_ns counts as that of the last advance.
 */
void tpi_timers_advance(tpi_timers *timers, int64_t now_ns);

/* The next timer that is due, unstarted again; NULL: none is left. */
tepal_timer *tpi_timers_pop(tpi_timers *timers);

/* The number of a timer's last start. */
static inline uint64_t tpi_timers_started(const tepal_timer *timer) {
    return timer->reserved[1];
}

/* Any started timer, unstarted again; NULL: none is left. For the end of a loop. */
tepal_timer *tpi_timers_take(tpi_timers *timers);

#endif
