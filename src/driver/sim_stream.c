/*
 * Bytes on their way: segments that arrive later, windows, ends and resets. What one end sends is put in the other's
 * buffer at once, and counts as arrived when its segment does; so nothing is copied twice, and order cannot be lost.
 */
#include "driver/sim.h"

#include <errno.h>

#define PROBE_MAX_NS TEPAL_SEC(60)

void tpi_sim_list(tpi_sim_socket *socket) {
    tpi_sim_driver *driver = socket->driver;
    if (socket->listed || socket->object == NULL) {
        return;
    }
    socket->listed = true;
    socket->next = NULL;
    (void)tpi_sim_socket_ref(socket);
    if (driver->first == NULL) {
        driver->first = socket;
    } else {
        driver->last->next = socket;
    }
    driver->last = socket;
    driver->driver.backlog = true;
}

/* The end may arrive before bytes that a link held back and that were sent again; it waits for them. */
bool tpi_sim_stream_has_news(const tpi_sim_socket *socket) {
    bool is_end = socket->fin_arrived && socket->arrived == socket->count;
    bool hears = !socket->host->deaf && (socket->arrived > 0 || is_end);
    return socket->reading && !socket->dead && !socket->at_end && (hears || socket->error != 0);
}

void tpi_sim_stream_news(tpi_sim_socket *socket) {
    if (tpi_sim_stream_has_news(socket)) {
        tpi_sim_list(socket);
    }
}

/* The buffer of what comes in */

static bool make_room(tpi_sim_socket *socket, size_t size) {
    if (socket->start + socket->count + size <= socket->room) {
        return true;
    }
    if (socket->start > socket->room / 2) { /* else moving it would cost more than it gives */
        memmove(socket->bytes, socket->bytes + socket->start, socket->count);
        socket->start = 0;
    }
    size_t needed = socket->start + socket->count + size;
    size_t room = socket->room == 0 ? 4096 : socket->room;
    while (room < needed) {
        room *= 2;
    }
    uint8_t *bytes = room == socket->room ? socket->bytes : socket->host->sim->realloc(socket->bytes, room);
    if (bytes == NULL) {
        return false;
    }
    socket->bytes = bytes;
    socket->room = room;
    return true;
}

static void append(tpi_sim_socket *socket, const struct iovec *pieces, size_t count, size_t size) {
    for (size_t i = 0; i < count && size > 0; i++) {
        size_t some = pieces[i].iov_len < size ? pieces[i].iov_len : size;
        if (some > 0) {
            memcpy(socket->bytes + socket->start + socket->count, pieces[i].iov_base, some);
            socket->count += some;
            size -= some;
        }
    }
}

/* Between the Unix sockets of a loop that is alone in its network nothing travels, as in a kernel. */
static bool is_at_hand(const tpi_sim_socket *socket) {
    const tpi_sim_driver *driver = socket->host->driver;
    return socket->family == AF_UNIX && driver != NULL && driver->alone;
}

static void ack_arrives(tpi_sim_event *event);

void tpi_sim_stream_acknowledge(tpi_sim_socket *socket) {
    tepal_sim *sim = socket->host->sim;
    if (socket->peer == NULL || socket->ack_travels || socket->ack_due == 0) {
        return;
    }
    if (is_at_hand(socket)) {
        tpi_sim_event now = {.from = socket, .to = socket->peer, .length = socket->ack_due};
        socket->ack_due = 0;
        ack_arrives(&now);
        return;
    }
    int64_t at_ns = tpi_sim_travel(sim, socket->host, socket->peer->host, 0);
    tpi_sim_event *event = tpi_sim_at(sim, at_ns, TPI_ACK, socket, socket->peer);
    if (event != NULL) {
        event->length = socket->ack_due;
        socket->ack_due = 0;
        socket->ack_travels = true;
    }
}

size_t tpi_sim_stream_read(tpi_sim_socket *socket, uint8_t *to, size_t size) {
    if (size > socket->arrived) {
        size = socket->arrived;
    }
    if (size == 0) {
        return 0;
    }
    memcpy(to, socket->bytes + socket->start, size);
    socket->start += size;
    socket->count -= size;
    socket->arrived -= size;
    socket->ack_due += size;
    socket->host->sim->stats.bytes += size;
    return size;
}

void tpi_sim_stream_put_back(tpi_sim_socket *socket, const uint8_t *from, size_t size) {
    if (socket->start < size) {
        if (!make_room(socket, size)) {
            (void)tpi_sim_fail(socket->host->sim, socket->host, TEPAL_ENOMEM, "no memory for what was not used");
            return;
        }
        memmove(socket->bytes + size, socket->bytes + socket->start, socket->count);
        socket->start = size;
    }
    socket->start -= size;
    memcpy(socket->bytes + socket->start, from, size);
    socket->count += size;
    socket->arrived += size;
    socket->host->sim->stats.bytes -= size;
    socket->ack_due -= size;
}

/* Sending */

/* Something for the peer, in the order of what was sent to it before. */
static bool travel(tpi_sim_socket *socket, tpi_sim_happening what, size_t length) {
    tepal_sim *sim = socket->host->sim;
    tpi_sim_socket *peer = socket->peer;
    if (is_at_hand(socket) && peer->last_arrival_ns <= sim->now_ns) {
        tpi_sim_stream_event(sim, &(tpi_sim_event){.what = what, .from = socket, .to = peer, .length = length});
        return true;
    }
    int64_t at_ns = tpi_sim_travel(sim, socket->host, peer->host, length);
    if (at_ns < peer->last_arrival_ns) {
        at_ns = peer->last_arrival_ns;
    }
    tpi_sim_event *event = tpi_sim_at(sim, at_ns, what, socket, peer);
    if (event == NULL) {
        return false;
    }
    /* Whatever comes at the same time comes in any order; what is of one stream must not. */
    peer->last_arrival_ns = at_ns + 1;
    event->length = length;
    return true;
}

static int64_t failed_send(tpi_sim_socket *socket) {
    int error = socket->error_told || socket->error == 0 ? EPIPE : socket->error;
    socket->error_told = true;
    return TEPAL_SYSTEM(error);
}

static size_t size_of(const struct iovec *pieces, size_t count) {
    size_t size = 0;
    for (size_t i = 0; i < count; i++) {
        size += pieces[i].iov_len;
    }
    return size;
}

/* This end is over; what the other hears is the caller's. */
static void fail_here(tpi_sim_socket *socket) {
    socket->error = ECONNRESET;
    tpi_sim_stream_news(socket);
    if (socket->object != NULL && socket->object->sending != NULL) {
        tpi_sim_list(socket);
    }
}

static void reset_both(tpi_sim_socket *socket) {
    fail_here(socket);
    tpi_sim_stream_reset(socket);
}

/* A script has set a reset to this very byte. */
static bool is_reset_due(const tpi_sim_socket *socket) {
    return socket->reset_after > 0 && socket->sent_total + 1 == socket->reset_after;
}

int64_t tpi_sim_stream_send(tpi_sim_socket *socket, const struct iovec *pieces, size_t count) {
    tepal_sim *sim = socket->host->sim;
    size_t size = size_of(pieces, count);
    tpi_sim_socket *peer = socket->peer;
    if (socket->closed || socket->error != 0 || socket->fin_sent || peer == NULL) {
        return failed_send(socket);
    }
    if (socket->family == AF_UNIX && peer->closed) {
        return TEPAL_EPIPE; /* unix(7): nothing travels, so it shows at once */
    }
    if (tpi_sim_chance(sim, TPI_RATE_ENOBUFS)) {
        sim->stats.faults++;
        tpi_sim_trace(sim, socket->host, "fd %d has no buffers to send", tpi_sim_number(socket));
        return TEPAL_SYSTEM(ENOBUFS);
    }
    if (tpi_sim_chance(sim, TPI_RATE_RESET) || is_reset_due(socket)) {
        sim->stats.faults++;
        reset_both(socket);
        return failed_send(socket);
    }
    size_t room = socket->capacity > socket->unread ? socket->capacity - socket->unread : 0;
    if (room == 0) {
        return TPI_PENDING;
    }
    size_t taken = size < room ? size : room;
    if (taken > 1 && tpi_sim_chance(sim, TPI_RATE_SHORT)) {
        sim->stats.faults++;
        taken = 1 + (size_t)tpi_sim_below(&sim->network, taken - 1);
    }
    if (socket->reset_after > 0 && taken > socket->reset_after - 1 - socket->sent_total) {
        taken = (size_t)(socket->reset_after - 1 - socket->sent_total);
    }
    if (!peer->closed) {
        if (!make_room(peer, taken)) {
            return TEPAL_ENOMEM;
        }
        append(peer, pieces, count, taken);
    }
    socket->unread += taken; /* first: a Unix socket's reader may have read it when this is back */
    if (!travel(socket, TPI_SEGMENT, taken)) {
        return TEPAL_ENOMEM;
    }
    socket->sent_total += taken;
    tpi_sim_trace(sim, socket->host, "fd %d sends %zu of %zu", tpi_sim_number(socket), taken, size);
    if (is_reset_due(socket)) {
        sim->stats.faults++;
        (void)travel(socket, TPI_RST, 0); /* behind these bytes, which arrive */
        fail_here(socket);
    }
    return (int64_t)taken;
}

void tpi_sim_stream_fin(tpi_sim_socket *socket) {
    if (!socket->closed && !socket->fin_sent && socket->peer != NULL) {
        socket->fin_sent = true;
        (void)travel(socket, TPI_FIN, 0);
        tpi_sim_trace(socket->host->sim, socket->host, "fd %d sends its end", tpi_sim_number(socket));
    }
}

void tpi_sim_stream_reset(tpi_sim_socket *socket) {
    tepal_sim *sim = socket->host->sim;
    if (socket->peer != NULL) {
        tpi_sim_trace(sim, socket->host, "sends a reset");
        if (is_at_hand(socket)) {
            (void)travel(socket, TPI_RST, 0);
            return;
        }
        /* It may overtake what was sent before, which is lost then. */
        int64_t at_ns = tpi_sim_travel(sim, socket->host, socket->peer->host, 0);
        (void)tpi_sim_at(sim, at_ns, TPI_RST, socket, socket->peer);
    }
}

void tpi_sim_sever(tpi_sim_socket *socket) {
    tpi_sim_socket *peer = socket->peer;
    if (peer != NULL) {
        socket->peer = NULL;
        if (peer->peer == socket) {
            peer->peer = NULL;
            tpi_sim_socket_unref(socket);
        }
        tpi_sim_socket_unref(peer);
    }
}

/* Arriving */

/* What has come for a socket that is not there any more: tell the sender so. */
static void refuse(tepal_sim *sim, tpi_sim_event *event) {
    tpi_sim_socket *sender = event->from;
    if (sender->closed || sender->error != 0) {
        return;
    }
    int64_t at_ns = tpi_sim_travel(sim, event->to->host, sender->host, 0);
    tpi_sim_trace(sim, event->to->host, "answers with a reset");
    (void)tpi_sim_at(sim, at_ns, TPI_RST, event->to, sender);
}

/* A peer that waits for room asks from time to time, as TCP does, and so finds that nobody is there any more. */
void tpi_sim_stream_probe(tpi_sim_socket *socket) {
    tepal_sim *sim = socket->host->sim;
    tpi_sim_socket *peer = socket->peer;
    if (peer != NULL && peer->object != NULL && peer->object->sending != NULL) {
        int64_t at_ns = sim->now_ns + tpi_sim_between(sim, 1, PROBE_MAX_NS);
        (void)tpi_sim_at(sim, at_ns, TPI_SEGMENT, peer, socket); /* without a byte */
    }
}

static void connection_fails(tpi_sim_socket *socket, int error) {
    tepal_sim *sim = socket->host->sim;
    if (socket->connecting) {
        tpi_sim_connect_ends(socket, error == ECONNRESET ? ECONNREFUSED : error);
        return;
    }
    if (socket->error != 0) {
        return;
    }
    socket->error = error;
    socket->count = socket->arrived; /* what was on its way is lost */
    tpi_sim_trace(sim, socket->host, "fd %d: %s", tpi_sim_number(socket), tepal_strerror(TEPAL_SYSTEM(error)));
    socket->dead = socket->closed;
    tpi_sim_stream_news(socket);
    if (socket->object != NULL && socket->object->sending != NULL) {
        tpi_sim_list(socket);
    }
    if (error == ETIMEDOUT) {
        tpi_sim_stream_probe(socket);
    }
    tpi_sim_sever(socket);
}

static void segment_arrives(tepal_sim *sim, tpi_sim_event *event) {
    tpi_sim_socket *to = event->to;
    if (to->closed || to->error != 0) {
        refuse(sim, event);
        return;
    }
    to->arrived += event->length;
    tpi_sim_trace(sim, to->host, "fd %d has %zu more", tpi_sim_number(to), event->length);
    tpi_sim_stream_news(to);
}

static void fin_arrives(tepal_sim *sim, tpi_sim_event *event) {
    tpi_sim_socket *to = event->to;
    if (to->dead) {
        refuse(sim, event);
        return;
    }
    to->fin_arrived = true;
    if (to->error == 0 && !to->closed) {
        tpi_sim_trace(sim, to->host, "fd %d: the peer has ended", tpi_sim_number(to));
        tpi_sim_stream_news(to);
    }
}

static void ack_arrives(tpi_sim_event *event) {
    tpi_sim_socket *to = event->to;
    event->from->ack_travels = false;
    to->unread -= to->unread < event->length ? to->unread : event->length;
    if (to->object != NULL && to->object->sending != NULL) {
        tpi_sim_list(to);
    }
    tpi_sim_stream_acknowledge(event->from);
}

static void established(tepal_sim *sim, tpi_sim_event *event) {
    tpi_sim_socket *to = event->to;
    if (!to->connecting) {
        refuse(sim, event); /* given up meanwhile */
        return;
    }
    tpi_sim_connect_ends(to, 0);
}

static void probe_later(tepal_sim *sim, tpi_sim_socket *socket, int seconds, size_t count) {
    tpi_sim_event *event = tpi_sim_at(sim, sim->now_ns + TEPAL_SEC(seconds), TPI_KEEP_ALIVE, NULL, socket);
    if (event != NULL) {
        event->length = count;
        event->epoch = socket->keep_epoch;
    }
}

/* Keep-alive probes are answered unheard, as long as both ways are open. */
void tpi_sim_keep_alive(tpi_sim_socket *socket) {
    tepal_sim *sim = socket->host->sim;
    socket->keep_epoch++; /* what was set before is forgotten */
    if (socket->keep_alive && socket->peer != NULL) {
        probe_later(sim, socket, socket->keep_idle_s, 0);
    }
}

static void keep_alive_is_due(tepal_sim *sim, tpi_sim_event *event) {
    tpi_sim_socket *to = event->to;
    if (to->closed || to->error != 0 || to->peer == NULL || event->epoch != to->keep_epoch) {
        return;
    }
    const tpi_sim_host *there = to->peer->host;
    if (!there->crashed && !tpi_sim_link_is_down(sim, tpi_sim_link_of(to->host, there)) &&
        !tpi_sim_link_is_down(sim, tpi_sim_link_of(there, to->host))) {
        if (to->peer->dead) {
            connection_fails(to, ECONNRESET);
        } else {
            tpi_sim_keep_alive(to);
        }
        return;
    }
    if ((int)event->length >= to->keep_count) {
        connection_fails(to, ETIMEDOUT);
        return;
    }
    probe_later(sim, to, to->keep_interval_s, event->length + 1);
}

void tpi_sim_stream_event(tepal_sim *sim, tpi_sim_event *event) {
    tpi_sim_socket *to = event->to;
    switch (event->what) {
    case TPI_SEGMENT:
        segment_arrives(sim, event);
        break;
    case TPI_FIN:
        fin_arrives(sim, event);
        break;
    case TPI_RST:
        connection_fails(to, ECONNRESET);
        break;
    case TPI_ACK:
        ack_arrives(event);
        break;
    case TPI_ESTABLISHED:
        established(sim, event);
        break;
    case TPI_REFUSED:
        tpi_sim_connect_ends(to, (int)event->length);
        break;
    case TPI_GIVE_UP:
        if (to->epoch == event->epoch) {
            tpi_sim_waits(to, &to->is_held, false);
        }
        if (to->held > 0 && to->epoch == event->epoch) {
            connection_fails(to, ETIMEDOUT);
        }
        break;
    default:
        keep_alive_is_due(sim, event);
        break;
    }
}
