/*
 * accept.c - clients come in: listeners, the limit, the shortage of descriptors, the idle exit.
 *
 * Whether the listeners are in epoll is a function of the worker's state, wanted(), applied by update() whenever that
 * changes.  They leave it when descriptors ran out, when --when-full=wait and all places are taken, and at the end;
 * clients then wait in the kernel's backlog.  Under --when-full=refuse a client past the limit is accepted and closed.
 *
 * Before each accept the spare descriptor must be in hand, so that a client that was let in can get its second
 * descriptor too (see loop.c).  A shortage ends when a connection does, or is looked at again after a second, because
 * it may be the whole system's.  What becomes free is for the starved first, who are in but lack their second one.
 *
 * The idle exit looks into the backlog once more before it says yes.
 */
#include "proxyd.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { ACCEPTS = 16, SECOND = 1000 };

static bool is_full(const struct worker *w)
{
	return w->count.now >= w->config->connections_max;
}

static uint32_t wanted(const struct worker *w)
{
	bool is_waiting = w->config->when_full == WHEN_FULL_WAIT && is_full(w);

	return w->is_stopping || w->is_short || is_waiting ? WATCH_AWAY : EPOLLIN;
}

/* A listener that the kernel has no memory to watch is tried again later. */
static int update(struct worker *w)
{
	int r = 0;

	for (unsigned i = 0; i < w->listener_count && r == 0; i++)
		if (w->listeners[i].watch.fd >= 0)
			r = loop_watch(&w->loop, &w->listeners[i].watch, wanted(w));
	if (r < 0)
		loop_after(&w->loop, &w->short_timer, SECOND);
	return r;
}

/* True at most once a second for each place that keeps its own next. */
static bool may_log(const struct worker *w, uint64_t *next)
{
	if (w->loop.now < *next)
		return false;
	*next = w->loop.now + SECOND;
	return true;
}

static void pause_accepting(struct worker *w, int error)
{
	if (may_log(w, &w->short_logged))
		log_error("Failed to accept() socket: %s; further clients wait.", strerror(error));
	w->is_short = true;
	loop_after(&w->loop, &w->short_timer, SECOND);
}

static void end_pause(struct timer *t)
{
	struct worker *w = container_of(t, struct worker, short_timer);

	w->is_short = false;
	update(w);
}

static void refuse(struct worker *w, int fd)
{
	close(fd);
	w->count.refused++;
	if (may_log(w, &w->refused_logged))
		log_warning("Hit connection limit, refusing connection.");
}

static void log_client(int fd, const struct sockaddr_storage *from, socklen_t length, bool is_unix)
{
	struct ucred who;
	socklen_t size = sizeof(who);
	char text[ADDR_TEXT_MAX];

	if (is_unix && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0) {
		log_debug("New connection from PID %ld/UID %lu", (long)who.pid, (unsigned long)who.uid);
	} else {
		struct address a = {.length = length};
		memcpy(&a.any, from, length < sizeof(a.un) ? length : sizeof(a.un));
		log_debug("New connection from %s", addr_text(&a, text));
	}
}

static int next_client(const struct listener *l)
{
	struct sockaddr_storage from;
	socklen_t length = sizeof(from);
	bool is_told = log_is_debug();
	int fd = accept4(l->watch.fd, is_told ? (struct sockaddr *)&from : NULL, is_told ? &length : NULL,
			 SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return -errno;
	if (is_told)
		log_client(fd, &from, length, l->is_unix);
	return fd;
}

static void welcome(struct listener *l, int fd)
{
	struct worker *w = l->worker;

	if (conn_new(w, fd, l->is_unix) == 0)
		wheel_cancel(&w->loop.wheel, &w->idle_timer);
	else
		log_error("Failed to allocate a connection, closing it.");
}

/* True if another client may be waiting and may come in. */
static bool take(struct listener *l)
{
	struct worker *w = l->worker;

	if (wanted(w) == WATCH_AWAY)
		return false;
	if (!list_is_empty(&w->starved) || !loop_keep_spare(&w->loop)) {
		pause_accepting(w, EMFILE);
		return false;
	}
	int fd = next_client(l);
	if (fd >= 0) {
		if (is_full(w))
			refuse(w, fd);
		else
			welcome(l, fd);
		return true;
	}
	switch (-fd) {
	case EAGAIN:
		return false;
	/* The client left while it waited, or the network said something meant for it: accept(2). */
	case EINTR: case ECONNABORTED: case EPROTO: case ENETDOWN: case ENOPROTOOPT: case EHOSTDOWN: case ENONET:
	case EHOSTUNREACH: case EOPNOTSUPP: case ENETUNREACH: case EPERM: case ETIMEDOUT:
		return true;
	default:
		pause_accepting(w, -fd);
		return false;
	}
}

static void handle(struct watch *watch, uint32_t events)
{
	struct listener *l = container_of(watch, struct listener, watch);

	(void)events;
	for (int i = 0; i < ACCEPTS && take(l); i++)
		;
	update(l->worker);
}

/* Nobody was here for long enough, if nobody waits at the door either. */
static void idle(struct timer *t)
{
	struct worker *w = container_of(t, struct worker, idle_timer);

	for (unsigned i = 0; i < w->listener_count; i++)
		if (w->listeners[i].watch.fd >= 0)
			handle(&w->listeners[i].watch, EPOLLIN);
	/* One that came and has died already is still to be reaped, and then the wait starts anew. */
	if (w->count.now > 0 || !list_is_empty(&w->dead))
		return;
	if (w->is_short)
		loop_after(&w->loop, t, SECOND);
	else
		w->is_finished = true;
}

/* Nobody is here: from now on it is idle, unless nobody can come any more. */
static void rest(struct worker *w)
{
	bool is_open = false;

	for (unsigned i = 0; i < w->listener_count; i++)
		is_open = is_open || w->listeners[i].watch.fd >= 0;
	if (w->is_stopping || !is_open)
		w->is_finished = true;
	else
		loop_after(&w->loop, &w->idle_timer, w->config->exit_idle_time);
}

int accept_start(struct worker *w)
{
	int one = 1;

	w->short_timer.fire = end_pause;
	w->idle_timer.fire = idle;
	for (unsigned i = 0; i < w->listener_count; i++) {
		struct listener *l = &w->listeners[i];
		l->watch.handle = handle;
		/* Accepted sockets inherit it. */
		if (!l->is_unix)
			setsockopt(l->watch.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		if (l->is_connected) {
			int fd = l->watch.fd;
			l->watch.fd = -1;
			welcome(l, fd);
		}
	}
	loop_keep_spare(&w->loop);
	if (w->count.now == 0)
		rest(w);
	return update(w);
}

/* Each that ended left two descriptors: for those first who are in already. */
static void feed_starved(struct worker *w, unsigned ended)
{
	unsigned n = 2 * ended;

	for (struct list *l = w->starved.next; l != &w->starved && n > 0; l = l->next, n--)
		loop_after(&w->loop, &container_of(l, struct conn, waiting)->timer, 0);
}

void accept_freed(struct worker *w, unsigned ended)
{
	feed_starved(w, ended);
	if (w->is_short)
		loop_after(&w->loop, &w->short_timer, 0);
	update(w);
	if (w->count.now == 0)
		rest(w);
}

void accept_stop(struct worker *w)
{
	w->is_stopping = true;
	update(w);
	if (w->count.now == 0)
		w->is_finished = true;
}
