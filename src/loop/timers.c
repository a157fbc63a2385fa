/*
 * The timer wheel: 11 levels of 64 slots, with a tick of 1 ns, so that six bits of the deadline a level cover all 64.
 *
 * A timer stands at the level of the highest six-bit group in which its deadline differs from the time elapsed, in the
 * slot of that group's value. So every slot of a level comes after elapsed, and every slot of a level comes before
 * all slots of the levels above: the lowest bit of the lowest level is the earliest slot. When time reaches a slot,
 * its timers are due or move to lower levels.
 *
 * A timer that is moved to a later deadline stays where it is until its slot comes up: re-arming an idle timeout
 * writes to the timer alone. So what stands in a slot is due at the slot's start or after it, not always within it.
 *
 * It must never allocate, run a callback, read a clock, or touch more timers than a call is about: pending timers are
 * cold memory, and each costs a cache miss.
 */
#include "loop/timers.h"

#include <string.h>

enum {
    GROUP_BITS = 6,
    POSITION_PAST = TPI_TIMERS_LEVELS * TPI_TIMERS_SLOTS, /* started for a time that had elapsed, in any order */
    POSITION_DUE,                                         /* in order */

    /* work.state is twice the position plus this: neither 0 (idle) nor odd (posted as work; loop.h). */
    STATE_BIAS = 1,

    /* How many timers of a slot tpi_timers_next() looks at before it makes do with the slot's start. */
    LOOK_AT_MOST = 16,

    /* How many due timers are sorted by merging alone: what the cache nearest but one holds. */
    MERGE_AT_MOST = 2048
};

/* Timers linked by next alone, on their way from one place to another. */
typedef struct chains {
    tepal_timer *due;
    tepal_timer *later;
    int64_t now_ns;
    size_t due_count;
    int64_t earliest_ns; /* of what is due */
    int64_t latest_ns;
} chains;

/* Deadlines as unsigned numbers in the same order. */
static inline uint64_t to_key(int64_t time_ns) {
    return (uint64_t)time_ns ^ UINT64_C(1) << 63;
}

static inline int64_t from_key(uint64_t key) {
    return (int64_t)(key ^ UINT64_C(1) << 63);
}

static inline unsigned lowest_bit(uint64_t bits) {
    return (unsigned)__builtin_ctzll(bits);
}

static inline unsigned highest_bit(uint64_t bits) {
    return 63u - (unsigned)__builtin_clzll(bits);
}

/* The level at which two different keys part. */
static inline unsigned level_between(uint64_t a, uint64_t b) {
    return highest_bit(a ^ b) / GROUP_BITS;
}

static inline unsigned slot_at(uint64_t key, unsigned level) {
    return (unsigned)(key >> (level * GROUP_BITS)) % TPI_TIMERS_SLOTS;
}

static inline tepal_timer *next_of(const tepal_timer *timer) {
    return (tepal_timer *)timer->work.next;
}

static inline void set_next(tepal_timer *timer, tepal_timer *next) {
    timer->work.next = &next->work;
}

static inline tepal_timer *previous_of(const tepal_timer *timer) {
    return (tepal_timer *)(uintptr_t)timer->reserved[0];
}

static inline void set_previous(tepal_timer *timer, tepal_timer *previous) {
    timer->reserved[0] = (uintptr_t)previous;
}

static inline bool comes_before(const tepal_timer *a, const tepal_timer *b) {
    if (a->deadline_ns != b->deadline_ns) {
        return a->deadline_ns < b->deadline_ns;
    }
    return a->reserved[1] < b->reserved[1];
}

/* Newest first: the neighbour written to is then the one most likely to be in the cache. */
static inline void link_at(tpi_timers *timers, tepal_timer *timer, unsigned position) {
    tepal_timer *const first = timers->lists[position];
    timer->work.next = first == NULL ? NULL : &first->work;
    set_previous(timer, NULL);
    timer->work.state = (position + STATE_BIAS) * 2;
    if (first != NULL) {
        set_previous(first, timer);
    } else {
        timers->occupied[position / TPI_TIMERS_SLOTS] |= UINT64_C(1) << position % TPI_TIMERS_SLOTS;
    }
    timers->lists[position] = timer;
}

static inline void unlink_timer(tpi_timers *timers, const tepal_timer *timer) {
    const unsigned position = (unsigned)(timer->work.state / 2 - STATE_BIAS);
    tepal_timer *const next = next_of(timer);
    tepal_timer *const previous = previous_of(timer);
    if (next != NULL) {
        set_previous(next, previous);
    } else if (position == POSITION_DUE) {
        timers->due_last = previous;
    }
    if (previous != NULL) {
        previous->work.next = timer->work.next;
        return;
    }
    timers->lists[position] = next;
    if (next == NULL) {
        timers->occupied[position / TPI_TIMERS_SLOTS] &= ~(UINT64_C(1) << position % TPI_TIMERS_SLOTS);
    }
}

static inline void place(tpi_timers *timers, tepal_timer *timer) {
    if (timer->deadline_ns <= timers->elapsed_ns) {
        link_at(timers, timer, POSITION_PAST);
        return;
    }
    const uint64_t key = to_key(timer->deadline_ns);
    const unsigned level = level_between(key, to_key(timers->elapsed_ns));
    link_at(timers, timer, level * TPI_TIMERS_SLOTS + slot_at(key, level));
}

static inline void take_out(tpi_timers *timers, tepal_timer *timer) {
    unlink_timer(timers, timer);
    timer->work.next = NULL;
    timer->work.state = 0;
    timers->count--;
    if (timers->count == 0) {
        timers->bound_ns = INT64_MAX;
        timers->bound_is_slack = false;
    }
}

void tpi_timers_init(tpi_timers *timers, int64_t now_ns) {
    memset(timers, 0, sizeof *timers);
    timers->elapsed_ns = now_ns;
    timers->bound_ns = INT64_MAX;
}

void tpi_timers_start(tpi_timers *timers, tepal_timer *timer, int64_t deadline_ns) {
    const uintptr_t state = timer->work.state;
    const bool stays = state != 0 && state < (POSITION_PAST + STATE_BIAS) * 2 && deadline_ns >= timer->deadline_ns;
    timer->reserved[1] = ++timers->sequence;
    if (stays) {
        /* The bound is left as it is: one early look in a whole time limit is cheaper than a search for each move. */
        timer->deadline_ns = deadline_ns;
        return;
    }
    if (state == 0) {
        timers->count++;
    } else {
        unlink_timer(timers, timer);
    }
    timer->deadline_ns = deadline_ns;
    place(timers, timer);
    if (deadline_ns <= timers->bound_ns && deadline_ns > timers->elapsed_ns) {
        timers->bound_ns = deadline_ns;
        timers->bound_is_slack = false;
    }
}

/* The first key that belongs to a slot of the wheel. */
static uint64_t slot_start(const tpi_timers *timers, unsigned level, unsigned slot) {
    const unsigned shift = level * GROUP_BITS;
    const uint64_t within_level = shift + GROUP_BITS >= 64 ? UINT64_MAX : (UINT64_C(1) << (shift + GROUP_BITS)) - 1;
    return (to_key(timers->elapsed_ns) & ~within_level) | (uint64_t)slot << shift;
}

/* Whether the bound lies in the time of this slot, so that what stood there may have been its reason. */
static bool holds_bound(const tpi_timers *timers, unsigned position) {
    if (position >= POSITION_PAST) {
        return false;
    }
    const unsigned level = position / TPI_TIMERS_SLOTS;
    const uint64_t start = slot_start(timers, level, position % TPI_TIMERS_SLOTS);
    return (to_key(timers->bound_ns) - start) >> (level * GROUP_BITS) == 0;
}

bool tpi_timers_stop(tpi_timers *timers, tepal_timer *timer) {
    if (timer->work.state == 0 || timer->work.state % 2 == 1) {
        return false;
    }
    const unsigned position = (unsigned)(timer->work.state / 2 - STATE_BIAS);
    const int64_t deadline_ns = timer->deadline_ns;
    take_out(timers, timer);
    if (deadline_ns == timers->bound_ns || (timers->lists[position] == NULL && holds_bound(timers, position))) {
        timers->bound_is_slack = timers->count != 0;
    }
    return true;
}

/*
 * Find the earliest deadline, or the start of the earliest slot if many timers stand there. Timers met that were moved
 * to a later slot go there, so each move is paid for once.
 */
static int64_t find_bound(tpi_timers *timers) {
    unsigned looked_at = 0;
    for (unsigned level = 0; level < TPI_TIMERS_LEVELS;) {
        if (timers->occupied[level] == 0) {
            level++;
            continue;
        }
        const unsigned slot = lowest_bit(timers->occupied[level]);
        const uint64_t start = slot_start(timers, level, slot);
        const uint64_t end = start + ((UINT64_C(1) << (level * GROUP_BITS)) - 1);
        tepal_timer *timer = timers->lists[level * TPI_TIMERS_SLOTS + slot];
        int64_t earliest_ns = INT64_MAX;
        bool some_stay = false;
        while (timer != NULL) {
            tepal_timer *const next = next_of(timer);
            if (looked_at++ == LOOK_AT_MOST) {
                return from_key(start);
            }
            if (to_key(timer->deadline_ns) > end) {
                unlink_timer(timers, timer);
                place(timers, timer);
            } else {
                some_stay = true;
                earliest_ns = timer->deadline_ns < earliest_ns ? timer->deadline_ns : earliest_ns;
            }
            timer = next;
        }
        if (some_stay) {
            return earliest_ns;
        }
    }
    return INT64_MAX;
}

int64_t tpi_timers_next(tpi_timers *timers) {
    if (timers->occupied[TPI_TIMERS_LEVELS] != 0) {
        return timers->elapsed_ns;
    }
    if (timers->bound_is_slack) {
        const int64_t found_ns = find_bound(timers);
        timers->bound_ns = found_ns > timers->bound_ns ? found_ns : timers->bound_ns;
        timers->bound_is_slack = false;
    }
    return timers->bound_ns;
}

/* Take a list apart, in front of the chains: lists are newest first, so each comes out oldest first. */
static void collect_list(tpi_timers *timers, chains *into, unsigned position) {
    tepal_timer *timer = timers->lists[position];
    timers->lists[position] = NULL;
    while (timer != NULL) {
        tepal_timer *const next = next_of(timer);
        tepal_timer **chain = &into->later;
        if (timer->deadline_ns <= into->now_ns) {
            chain = &into->due;
            into->due_count++;
            into->earliest_ns = timer->deadline_ns < into->earliest_ns ? timer->deadline_ns : into->earliest_ns;
            into->latest_ns = timer->deadline_ns > into->latest_ns ? timer->deadline_ns : into->latest_ns;
        }
        timer->work.next = (tepal_work *)*chain;
        *chain = timer;
        timer = next;
    }
}

static void collect_level(tpi_timers *timers, chains *into, unsigned level, uint64_t slots) {
    slots &= timers->occupied[level];
    timers->occupied[level] &= ~slots;
    while (slots != 0) {
        const unsigned slot = highest_bit(slots);
        slots ^= UINT64_C(1) << slot;
        collect_list(timers, into, level * TPI_TIMERS_SLOTS + slot);
    }
}

static tepal_timer *merge(tepal_timer *a, tepal_timer *b) {
    tepal_work *first = NULL;
    tepal_work **end = &first;
    while (a != NULL && b != NULL) {
        tepal_timer **const earlier = comes_before(a, b) ? &a : &b;
        *end = &(*earlier)->work;
        end = &(*earlier)->work.next;
        *earlier = next_of(*earlier);
    }
    *end = a != NULL ? &a->work : &b->work;
    return (tepal_timer *)first;
}

/* Cut the longest sorted beginning off a chain. */
static tepal_timer *cut_run(tepal_timer **chain) {
    tepal_timer *const first = *chain;
    tepal_timer *last = first;
    while (next_of(last) != NULL && comes_before(last, next_of(last))) {
        last = next_of(last);
    }
    *chain = next_of(last);
    last->work.next = NULL;
    return first;
}

/*
 * Merge sort of the runs that are there; mostly it is one. Runs are merged as soon as there are two of a size, while
 * they are still in the cache: runs[i] is empty or made of 2^i of them.
 */
static tepal_timer *sort_by_merging(tepal_timer *chain) {
    tepal_timer *runs[64];
    unsigned sizes = 0;
    tepal_timer *sorted = NULL;
    while (chain != NULL) {
        tepal_timer *run = cut_run(&chain);
        unsigned size = 0;
        while (size < sizes && runs[size] != NULL) {
            run = merge(runs[size], run);
            runs[size++] = NULL;
        }
        runs[size] = run;
        sizes = size == sizes ? sizes + 1 : sizes;
    }
    for (unsigned size = 0; size < sizes; size++) {
        if (runs[size] != NULL) {
            sorted = sorted == NULL ? runs[size] : merge(runs[size], sorted);
        }
    }
    return sorted;
}

/*
 * Sort `count` timers whose keys lie from `least` on, all within `bits` bits of it, and put them at *end; returns the
 * new end. Merging what is larger than the cache costs a miss for each timer and merge, so many timers are first dealt
 * to 64 parts: a miss for each timer and six bits, until the parts are small.
 */
static tepal_work **sort(tepal_work **end, tepal_timer *chain, size_t count, uint64_t least, unsigned bits) {
    struct {
        tepal_timer *first;
        tepal_work **end;
        size_t count;
    } parts[TPI_TIMERS_SLOTS];

    if (count <= MERGE_AT_MOST || bits == 0) {
        for (*end = (tepal_work *)sort_by_merging(chain); *end != NULL;) {
            end = &(*end)->next;
        }
        return end;
    }
    for (unsigned i = 0; i < TPI_TIMERS_SLOTS; i++) {
        parts[i].first = NULL;
        parts[i].count = 0;
    }
    const unsigned shift = bits > GROUP_BITS ? bits - GROUP_BITS : 0;
    for (; chain != NULL; chain = next_of(chain)) {
        const unsigned i = (unsigned)((to_key(chain->deadline_ns) - least) >> shift);
        if (parts[i].count++ == 0) {
            parts[i].first = chain;
        } else {
            *parts[i].end = &chain->work;
        }
        parts[i].end = &chain->work.next;
    }
    for (unsigned i = 0; i < TPI_TIMERS_SLOTS; i++) {
        if (parts[i].count > 0) {
            *parts[i].end = NULL;
            end = sort(end, parts[i].first, parts[i].count, least + ((uint64_t)i << shift), shift);
        }
    }
    return end;
}

static tepal_timer *sort_due(const chains *collected) {
    if (collected->due_count == 1) {
        return collected->due;
    }
    tepal_work *sorted = NULL;
    const uint64_t least = to_key(collected->earliest_ns);
    const uint64_t range = to_key(collected->latest_ns) - least;
    (void)sort(&sorted, collected->due, collected->due_count, least, range == 0 ? 0 : highest_bit(range) + 1);
    return (tepal_timer *)sorted;
}

static void append_due(tpi_timers *timers, tepal_timer *chain) {
    const uint64_t due_bit = UINT64_C(1) << POSITION_DUE % TPI_TIMERS_SLOTS;
    tepal_timer *previous = NULL;
    if ((timers->occupied[TPI_TIMERS_LEVELS] & due_bit) != 0) {
        previous = timers->due_last;
        set_next(previous, chain);
    } else {
        timers->lists[POSITION_DUE] = chain;
        timers->occupied[TPI_TIMERS_LEVELS] |= due_bit;
    }
    for (; chain != NULL; chain = next_of(chain)) {
        chain->work.state = (POSITION_DUE + STATE_BIAS) * 2;
        set_previous(chain, previous);
        previous = chain;
    }
    timers->due_last = previous;
}

void tpi_timers_advance(tpi_timers *timers, int64_t now_ns) {
    const uint64_t past_bit = UINT64_C(1) << POSITION_PAST % TPI_TIMERS_SLOTS;
    chains collected = {.now_ns = now_ns > timers->elapsed_ns ? now_ns : timers->elapsed_ns,
                        .earliest_ns = INT64_MAX,
                        .latest_ns = INT64_MIN};
    if (timers->count == 0) {
        timers->elapsed_ns = collected.now_ns;
        return;
    }

    /* From the latest slot to the earliest, since each list goes in front of what is collected. */
    const uint64_t from = to_key(timers->elapsed_ns);
    const uint64_t to = to_key(collected.now_ns);
    if (from != to) {
        unsigned level = level_between(from, to);
        collect_level(timers, &collected, level, (UINT64_C(2) << slot_at(to, level)) - 1);
        while (level-- > 0) {
            collect_level(timers, &collected, level, UINT64_MAX);
        }
    }
    collect_level(timers, &collected, TPI_TIMERS_LEVELS, past_bit);

    timers->elapsed_ns = collected.now_ns;
    while (collected.later != NULL) {
        tepal_timer *const timer = collected.later;
        collected.later = next_of(timer);
        place(timers, timer);
    }
    if (collected.due != NULL) {
        append_due(timers, sort_due(&collected));
    }
    if (timers->bound_ns <= timers->elapsed_ns) {
        timers->bound_is_slack = true;
    }
}

tepal_timer *tpi_timers_pop(tpi_timers *timers) {
    tepal_timer *const timer = timers->lists[POSITION_DUE];
    if (timer != NULL) {
        take_out(timers, timer);
    }
    return timer;
}

tepal_timer *tpi_timers_take(tpi_timers *timers) {
    for (unsigned level = 0; level <= TPI_TIMERS_LEVELS; level++) {
        if (timers->occupied[level] != 0) {
            tepal_timer *const timer = timers->lists[level * TPI_TIMERS_SLOTS + lowest_bit(timers->occupied[level])];
            take_out(timers, timer);
            return timer;
        }
    }
    return NULL;
}
