/*
 * forward.c - bytes, one direction at a time.
 *
 * An event moves bytes for a few rounds, then settle() brings the connection in order: the only place that looks at
 * both directions together, passes ends of stream on, decides that it is over, and tells the loop what each end
 * waits for.
 *
 * How a direction ends.  End of stream is read() == 0: the flow is ENDED, and when nothing is owed any more the other
 * side's writing half is shut.  An error on one side is kept in end.error and has two consequences: what is owed to
 * that side is lost, so the flow towards it is SHUT at once and the other side is read no longer; and what that side had
 * sent before is still delivered, and only then the other side is reset.  Two errors are kept apart: EPIPE comes
 * after a regular end of stream, which is passed on as such; any other error stands in for the end of stream.
 *
 * A reset destroys what is still in the kernel's send queue, so it waits until that is empty (SIOCOUTQ); no event tells,
 * so a timer asks, ever more slowly.  A unix socket has no such queue: what was written is in the peer's hands.
 *
 * Rings are borrowed.  An idle direction has none, and the one that was used last is used next, while it is warm.
 */
#include "proxyd.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

enum { ROUNDS = 4, FREE_BYTES_MAX = 1024 * 1024, DRAIN_POLL = 5, DRAIN_POLL_MAX = 1000 };

/* ---- rings on loan ---- */

static bool borrow(struct worker *w, struct ring *r)
{
	void *memory = w->free_rings;

	if (memory != NULL) {
		w->free_rings = *(void **)memory;
		w->free_ring_count--;
	} else {
		memory = malloc(w->config->buffer_size);
	}
	ring_init(r, memory, w->config->buffer_size);
	return memory != NULL;
}

static void give_back(struct worker *w, struct ring *r)
{
	if (r->memory == NULL)
		return;
	if (w->free_ring_count < FREE_BYTES_MAX / w->config->buffer_size) {
		*(void **)(void *)r->memory = w->free_rings;
		w->free_rings = r->memory;
		w->free_ring_count++;
	} else {
		free(r->memory);
	}
	ring_init(r, NULL, 0);
}

void forward_stop(struct conn *c)
{
	give_back(c->worker, &c->flow[CLIENT].ring);
	give_back(c->worker, &c->flow[TARGET].ring);
}

/* ---- one direction ---- */

static void restart_silence(struct conn *c);

/*
 * Keeps the error that tells most: EPIPE only says that there was one before, or a regular end.  After an end of stream
 * any error says no more than that.
 */
static void note(struct conn *c, int s, int error)
{
	struct end *e = &c->end[s];

	if (e->error == 0 || e->error == EPIPE)
		e->error = c->flow[s].state == FLOW_OPEN ? error : EPIPE;
}

static uint32_t room(const struct flow *f)
{
	return f->ring.memory == NULL ? UINT32_MAX : ring_room(&f->ring);
}

/* Reads once from end[s].  True if more may be there at once. */
static bool fill(struct conn *c, int s)
{
	struct flow *f = &c->flow[s];
	unsigned char *p;
	uint32_t space = ring_space(&f->ring, &p);
	ssize_t n;

	do
		n = recv(c->end[s].watch.fd, p, space, 0);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		ring_put(&f->ring, (uint32_t)n);
		c->since = c->worker->loop.now;
		return (uint32_t)n == space;
	}
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n < 0)
		note(c, s, errno);
	f->state = FLOW_ENDED;
	restart_silence(c);
	return false;
}

/* Writes what is owed to end[!s].  False if something is left. */
static bool drain(struct conn *c, int s)
{
	struct flow *f = &c->flow[s];
	unsigned char *p;
	uint32_t data;

	while ((data = ring_data(&f->ring, &p)) > 0) {
		ssize_t n = send(c->end[!s].watch.fd, p, data, MSG_NOSIGNAL);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			if (errno != EAGAIN)
				note(c, !s, errno);
			return false;
		}
		ring_take(&f->ring, (uint32_t)n);
		f->bytes += (uint64_t)n;
		c->since = c->worker->loop.now;
		if ((uint32_t)n < data)
			return false;
	}
	return true;
}

/* Moves bytes of flow[s], at most ROUNDS rings, so that one busy stream cannot starve the rest. */
static void move(struct conn *c, int s, bool readable)
{
	struct flow *f = &c->flow[s];

	if (f->ring.memory == NULL && (f->state != FLOW_OPEN || !readable))
		return;
	if (f->ring.memory == NULL && !borrow(c->worker, &f->ring)) {
		log_error("Failed to allocate a buffer, closing the connection.");
		conn_close(c, CONN_WHY_MEMORY);
		return;
	}
	for (int round = 0; round < ROUNDS; round++) {
		if (readable && f->state == FLOW_OPEN && ring_room(&f->ring) > 0)
			readable = fill(c, s);
		if (!drain(c, s) || !readable || f->state != FLOW_OPEN)
			break;
	}
	if (ring_used(&f->ring) == 0)
		give_back(c->worker, &f->ring);
}

/* ---- both directions ---- */

uint32_t forward_mask(const struct conn *c, int s)
{
	const struct end *e = &c->end[s];
	uint32_t mask = 0;

	if (c->flow[s].state == FLOW_OPEN && room(&c->flow[s]) > 0)
		mask |= EPOLLIN;
	if (c->flow[!s].ring.memory != NULL && c->flow[!s].state != FLOW_SHUT)
		mask |= EPOLLOUT;
	/* Without a mask HUP and ERR would still be reported, over and over. */
	return mask == 0 && e->hung ? WATCH_AWAY : mask;
}

/* The error that waits in a socket, which takes it away from the next read; 0: none. */
static int take_error(const struct end *e)
{
	int error = 0;
	socklen_t length = sizeof(error);

	return getsockopt(e->watch.fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : 0;
}

/*
 * Bytes written to an end that its peer's kernel has not taken yet: SIOCOUTQ of tcp(7), by the name that libc has.  The
 * queue stays as it is after a reset, and an end that has left epoll learns of that only here.
 */
static bool is_unsent(struct end *e)
{
	int queued = 0;

	if (e->is_unix || e->error != 0)
		return false;
	e->error = take_error(e);
	return e->error == 0 && ioctl(e->watch.fd, TIOCOUTQ, &queued) == 0 && queued > 0;
}

/* How long no byte may move. */
static uint64_t silence_limit(const struct conn *c)
{
	const struct config *k = c->worker->config;
	bool is_half = c->flow[CLIENT].state != FLOW_OPEN || c->flow[TARGET].state != FLOW_OPEN;

	return is_half && k->half_close_timeout < k->idle_timeout ? k->half_close_timeout : k->idle_timeout;
}

static void poll_drain(struct timer *t)
{
	struct conn *c = container_of(t, struct conn, timer);
	struct loop *l = &c->worker->loop;
	uint64_t limit = silence_limit(c);

	if (!is_unsent(&c->end[CLIENT]) && !is_unsent(&c->end[TARGET])) {
		conn_close(c, CONN_WHY_RESET);
	} else if (limit != SPAN_INFINITY && l->now - c->since >= limit) {
		conn_close(c, CONN_WHY_TIMEOUT);
	} else {
		c->backoff = c->backoff * 2 > DRAIN_POLL_MAX ? DRAIN_POLL_MAX : c->backoff * 2;
		loop_after(l, t, c->backoff);
	}
}

static void finish(struct conn *c)
{
	if (c->end[CLIENT].error == 0 && c->end[TARGET].error == 0) {
		conn_close(c, CONN_WHY_DONE);
		return;
	}
	c->state = CONN_DRAIN;
	c->backoff = DRAIN_POLL;
	c->timer.fire = poll_drain;
	poll_drain(&c->timer);
}

static void settle_flow(struct conn *c, int s)
{
	struct flow *f = &c->flow[s];
	const struct end *from = &c->end[s], *to = &c->end[!s];

	if (to->error != 0 && f->state != FLOW_SHUT) {
		give_back(c->worker, &f->ring);
		f->state = FLOW_SHUT;
		restart_silence(c);
	}
	if (f->state != FLOW_ENDED || f->ring.memory != NULL)
		return;
	f->state = FLOW_SHUT;
	/* Closing passes the end of stream on as well, so where that comes next nothing needs to be shut. */
	bool is_last = c->flow[!s].state == FLOW_SHUT && from->error == 0;
	if (!is_last && (from->error == 0 || from->error == EPIPE))
		shutdown(to->watch.fd, SHUT_WR);
}

static void settle(struct conn *c)
{
	if (c->state == CONN_FORWARD) {
		settle_flow(c, CLIENT);
		settle_flow(c, TARGET);
		if (c->flow[CLIENT].state == FLOW_SHUT && c->flow[TARGET].state == FLOW_SHUT)
			finish(c);
	}
	for (int s = CLIENT; s <= TARGET && c->state != CONN_DEAD; s++) {
		if (loop_watch(&c->worker->loop, &c->end[s].watch, forward_mask(c, s)) < 0) {
			log_error("Failed to watch a connection: %s", strerror(errno));
			conn_close(c, CONN_WHY_MEMORY);
		}
	}
}

static void handle(struct conn *c, int s, uint32_t events)
{
	struct end *e = &c->end[s];

	if (events & (EPOLLERR | EPOLLHUP)) {
		e->hung = true;
		/* The next read then gives what is left, and after it 0. */
		int error = take_error(e);
		if (error != 0)
			note(c, s, error);
	}
	if (c->state == CONN_DRAIN) {
		poll_drain(&c->timer);
	} else {
		if (events & ~(uint32_t)EPOLLOUT)
			move(c, s, true);
		if (events & ~(uint32_t)EPOLLIN && c->state == CONN_FORWARD)
			move(c, !s, room(&c->flow[!s]) == 0);
	}
	settle(c);
}

static void handle_client(struct watch *w, uint32_t events)
{
	handle(container_of(w, struct conn, end[CLIENT].watch), CLIENT, events);
}

static void handle_target(struct watch *w, uint32_t events)
{
	handle(container_of(w, struct conn, end[TARGET].watch), TARGET, events);
}

/* ---- silence ---- */

/* One timer for both kinds of silence: when it fires it looks how long that has lasted, so bytes never touch it. */
static void watch_silence(struct conn *c)
{
	uint64_t limit = silence_limit(c), silent = c->worker->loop.now - c->since;

	if (limit != SPAN_INFINITY && silent >= limit)
		conn_close(c, CONN_WHY_TIMEOUT);
	else
		loop_after(&c->worker->loop, &c->timer, limit == SPAN_INFINITY ? limit : limit - silent);
}

/* Now that a direction has ended the limit may be shorter; it counts from here. */
static void restart_silence(struct conn *c)
{
	c->since = c->worker->loop.now;
	watch_silence(c);
}

static void silence(struct timer *t)
{
	watch_silence(container_of(t, struct conn, timer));
}

/* ---- the beginning ---- */

static void keep_alive(const struct config *k, const struct end *e)
{
	int one = 1, idle = (int)k->keepalive_idle_s, interval = (int)k->keepalive_interval_s;
	int count = (int)k->keepalive_count;

	if (idle == 0 || e->is_unix)
		return;
	setsockopt(e->watch.fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(e->watch.fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	if (interval != 0)
		setsockopt(e->watch.fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	if (count != 0)
		setsockopt(e->watch.fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

void forward_start(struct conn *c)
{
	c->state = CONN_FORWARD;
	c->since = c->worker->loop.now;
	c->timer.fire = silence;
	c->end[CLIENT].watch.handle = handle_client;
	c->end[TARGET].watch.handle = handle_target;
	keep_alive(c->worker->config, &c->end[CLIENT]);
	keep_alive(c->worker->config, &c->end[TARGET]);
	watch_silence(c);
	/* The client has often spoken by now. */
	move(c, CLIENT, true);
	settle(c);
}
