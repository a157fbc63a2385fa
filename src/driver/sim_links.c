/*
 * The links between simulated hosts: how long what is sent takes, and what they hold back while they are down. What is
 * held back goes on its way in its order, as a sender that sends again would have it.
 */
#include "driver/sim.h"

#define LATENCY_MIN_NS 50000
#define LATENCY_MAX_NS 500000
#define INSIDE_MIN_NS 5000
#define INSIDE_MAX_NS 50000
#define DELAY_MAX_NS TEPAL_MS(200)
#define GIVE_UP_NS TEPAL_MS(924600) /* tcp(7), tcp_retries2 */
#define AGAIN_MAX_NS TEPAL_SEC(1)   /* until what was lost is sent again, once a link is healed */
#define DROPPED_MAX_NS TEPAL_SEC(3)

void tpi_sim_link_init(tpi_sim_link *link, bool within_host) {
    *link = (tpi_sim_link){.min_ns = within_host ? INSIDE_MIN_NS : LATENCY_MIN_NS,
                           .max_ns = within_host ? INSIDE_MAX_NS : LATENCY_MAX_NS};
    link->held_end = &link->held;
}

bool tpi_sim_link_is_down(const tepal_sim *sim, const tpi_sim_link *link) {
    return link->down || link->dropped_ns > sim->now_ns;
}

/* A link that loses everything for a while. */
static void drop_by_chance(tepal_sim *sim, tpi_sim_host *from, const tpi_sim_host *to, tpi_sim_link *link) {
    int64_t until_ns = sim->now_ns + tpi_sim_between(sim, TEPAL_MS(1), DROPPED_MAX_NS);
    tpi_sim_event *event = tpi_sim_at(sim, until_ns, TPI_HEAL, NULL, NULL);
    if (event != NULL) {
        event->host = from;
        event->length = to->id - 1;
        link->dropped_ns = until_ns;
        sim->stats.faults++;
        tpi_sim_trace(sim, from, "is not heard by %s for %lld us", to->name,
                      (long long)((until_ns - sim->now_ns) / 1000));
    }
}

int64_t tpi_sim_travel(tepal_sim *sim, tpi_sim_host *from, const tpi_sim_host *to, size_t length) {
    tpi_sim_link *link = tpi_sim_link_of(from, to);
    int64_t at_ns = sim->now_ns + tpi_sim_between(sim, link->min_ns, link->max_ns);
    if (link->bandwidth > 0 && length > 0) {
        int64_t begin_ns = link->busy_ns > sim->now_ns ? link->busy_ns : sim->now_ns;
        double takes_ns = (double)length * 1e9 / (double)link->bandwidth;
        link->busy_ns = begin_ns < TPI_SIM_END ? begin_ns + (int64_t)takes_ns : begin_ns;
        at_ns += link->busy_ns - sim->now_ns;
    }
    if (from != to && !tpi_sim_link_is_down(sim, link) && tpi_sim_chance(sim, TPI_RATE_DROP)) {
        drop_by_chance(sim, from, to, link);
    }
    if (tpi_sim_chance(sim, TPI_RATE_DELAY)) {
        at_ns += tpi_sim_between(sim, 1, DELAY_MAX_NS);
    }
    return at_ns;
}

/* Over which link an event travels; NULL: over none. *there is where it leads. */
static tpi_sim_link *link_under(const tpi_sim_event *event, const tpi_sim_host **there) {
    tpi_sim_host *from = event->host != NULL ? event->host : event->from == NULL ? NULL : event->from->host;
    if (event->what >= TPI_TRAVELS || from == NULL) {
        return NULL;
    }
    *there = event->to != NULL ? event->to->host : tpi_sim_route(from, &event->from->remote);
    return *there == NULL ? NULL : tpi_sim_link_of(from, *there);
}

bool tpi_sim_hold(tepal_sim *sim, tpi_sim_event *event) {
    const tpi_sim_host *to;
    tpi_sim_link *link = link_under(event, &to);
    if (link == NULL) {
        return false;
    }
    if (!tpi_sim_link_is_down(sim, link) && !to->crashed) {
        return false;
    }
    event->next = NULL;
    *link->held_end = event;
    link->held_end = &event->next;
    tpi_sim_socket *sender = event->from;
    if ((event->what == TPI_SEGMENT || event->what == TPI_FIN) && sender->held++ == 0) {
        tpi_sim_waits(sender, &sender->is_held, true);
        tpi_sim_event *limit = tpi_sim_at(sim, sim->now_ns + GIVE_UP_NS, TPI_GIVE_UP, NULL, sender);
        if (limit != NULL) {
            limit->epoch = ++sender->epoch;
        }
    }
    return true;
}

/* In their order: what belongs to one stream must not overtake itself, nor be overtaken by what is sent from now on. */
void tpi_sim_let_go(tepal_sim *sim, tpi_sim_link *link) {
    tpi_sim_event *event = link->held;
    int64_t at_ns = sim->now_ns;
    link->held = NULL;
    link->held_end = &link->held;
    while (event != NULL) {
        tpi_sim_event *next = event->next;
        at_ns += tpi_sim_between(sim, 1, at_ns == sim->now_ns ? AGAIN_MAX_NS : 1000);
        if (event->what == TPI_SEGMENT || event->what == TPI_FIN) {
            if (--event->from->held == 0) {
                tpi_sim_waits(event->from, &event->from->is_held, false);
            }
        }
        if (event->to != NULL && event->to->last_arrival_ns < at_ns) {
            event->to->last_arrival_ns = at_ns + 1;
        }
        tpi_sim_event_again(sim, event, at_ns);
        event = next;
    }
}

static bool travels_over(const tpi_sim_event *event, const void *link) {
    const tpi_sim_host *there;
    return link_under(event, &there) == link;
}

void tpi_sim_hurry(tepal_sim *sim, const tpi_sim_host *from, const tpi_sim_host *to) {
    const tpi_sim_link *link = tpi_sim_link_of(from, to);
    int64_t at_ns = sim->now_ns + link->min_ns;
    for (tpi_sim_event *next, *event = tpi_sim_take_events(sim, travels_over, link); event != NULL; event = next) {
        next = event->next;
        at_ns = event->time_ns < at_ns ? event->time_ns : at_ns;
        if (event->to != NULL) {
            event->to->last_arrival_ns = at_ns + 1;
        }
        tpi_sim_event_again(sim, event, at_ns);
        at_ns = (event->time_ns > sim->now_ns + link->min_ns ? event->time_ns : sim->now_ns + link->min_ns) + 1;
    }
}

void tpi_sim_heal_event(tepal_sim *sim, const tpi_sim_event *event) {
    tpi_sim_link *link = &event->host->links[event->length];
    if (!tpi_sim_link_is_down(sim, link) && !sim->hosts[event->length]->crashed) {
        tpi_sim_let_go(sim, link);
    }
}
