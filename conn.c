/*
 * conn.c - the birth and the death of a connection.
 *
 *      RESOLVE --> CONNECT --> FORWARD --> (DRAIN) --> DEAD
 *                  ^     |
 *                  BACKOFF
 *
 * Everything that can end a connection calls conn_close, which closes its descriptors and takes it out of the loop at
 * once, but only moves the memory to the list of the dead: an event of the running batch may still point there.  The
 * main loop reaps after each turn.  The memory itself is kept for the next connection.
 */
#include "proxyd.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

int conn_new(struct worker *w, int fd, bool is_unix)
{
	struct conn *c = w->free_conns;

	if (c != NULL)
		w->free_conns = *(void **)c;
	else
		c = malloc(sizeof(*c));
	if (c == NULL) {
		close(fd);
		return -ENOMEM;
	}
	*c = (struct conn){
		.worker = w,
		.end = {[CLIENT] = {.watch = {.fd = fd, .events = WATCH_AWAY}, .is_unix = is_unix},
			[TARGET] = {.watch = {.fd = -1, .events = WATCH_AWAY}}},
		.since = w->loop.now,
	};
	list_init(&c->waiting);
	list_add(&w->live, &c->link);
	w->count.total++;
	if (++w->count.now > w->count.peak)
		w->count.peak = w->count.now;
	connect_start(c);
	return 0;
}

static void close_end(struct end *e, bool is_reset)
{
	const struct linger now = {.l_onoff = 1, .l_linger = 0};

	if (is_reset && e->watch.fd >= 0 && !e->is_unix)
		setsockopt(e->watch.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	loop_close(&e->watch);
}

void conn_close(struct conn *c, enum conn_why why)
{
	struct worker *w = c->worker;

	if (c->state == CONN_DEAD)
		return;
	/* Only what both sides finished may look finished: everything else must not pass for an end of stream. */
	close_end(&c->end[CLIENT], why != CONN_WHY_DONE);
	close_end(&c->end[TARGET], why != CONN_WHY_DONE);
	wheel_cancel(&w->loop.wheel, &c->timer);
	forward_stop(c);
	answer_unref(c->answer);
	list_remove(&c->waiting);
	list_remove(&c->link);
	list_add(&w->dead, &c->link);
	c->state = CONN_DEAD;

	w->count.now--;
	w->count.failed += why == CONN_WHY_UNREACHED || why == CONN_WHY_MEMORY;
	w->count.bytes[CLIENT] += c->flow[CLIENT].bytes;
	w->count.bytes[TARGET] += c->flow[TARGET].bytes;
}

unsigned conn_reap(struct worker *w)
{
	unsigned n = 0;

	for (; !list_is_empty(&w->dead); n++) {
		struct conn *c = container_of(w->dead.next, struct conn, link);
		list_remove(&c->link);
		*(void **)c = w->free_conns;
		w->free_conns = c;
	}
	return n;
}

unsigned conn_close_all(struct worker *w)
{
	unsigned n = 0;

	for (; !list_is_empty(&w->live); n++)
		conn_close(container_of(w->live.next, struct conn, link), CONN_WHY_SHUTDOWN);
	return n;
}
