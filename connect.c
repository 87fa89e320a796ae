/*
 * connect.c - reaching the target.
 *
 * A round tries every address in order, each for --connect-timeout= at the most.  When all failed, the round may be
 * repeated after a wait that doubles from 10 ms to 1 s; the client is held meanwhile and its bytes stay in the kernel.
 * For how long depends on what went wrong:
 *
 *      the target is not there yet (refused, no such socket, timed out)    --connect-retry=
 *      somebody is busy (a full unix backlog, no free port)                at least 5 s: no client is dropped for that
 *      no descriptor is left, and the spare one is lent already            until there is one: the client was accepted
 *
 * A unix connect(2) to a full backlog says EAGAIN and no event will tell when to try again, hence the timer.
 *
 * The client is in epoll with an empty mask, which tells when it is gone; that it merely finished sending is no reason
 * to leave it alone.
 */
#include "proxyd.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { BACKOFF_MIN = 10, BACKOFF_MAX = 1000, BUSY_RETRY = 5000 };

static void next_address(struct conn *c);

/* How long a round that failed so may be repeated, counted from the first attempt. */
static uint64_t patience(const struct conn *c, int error)
{
	uint64_t asked = c->worker->config->connect_retry;

	switch (error) {
	case ECONNREFUSED:
	case ENOENT:
	case ETIMEDOUT:
		return asked;
	case EAGAIN:
	case EADDRNOTAVAIL:
		return asked > BUSY_RETRY ? asked : BUSY_RETRY;
	case EMFILE:
	case ENFILE:
		return SPAN_INFINITY;
	default:
		return 0;
	}
}

static void retry(struct timer *t)
{
	struct conn *c = container_of(t, struct conn, timer);

	if (!list_is_empty(&c->waiting)) {
		/* It was starved: nothing is wrong with the addresses. */
		list_remove(&c->waiting);
		c->attempt = 0;
		c->end[TARGET].error = 0;
		next_address(c);
		return;
	}
	answer_unref(c->answer);
	c->answer = NULL;
	connect_start(c);
}

static void fail(struct conn *c, const char *what, const char *error)
{
	log_error("Failed to %s: %s (%s)", what, error, c->worker->config->target.text);
	conn_close(c, CONN_WHY_UNREACHED);
}

/* Those are errors of socket(2), not of connect(2). */
static bool is_of_socket(int error)
{
	return error == EMFILE || error == ENFILE || error == EAFNOSUPPORT || error == ENOBUFS || error == ENOMEM;
}

static void end_round(struct conn *c)
{
	struct loop *l = &c->worker->loop;
	int error = c->end[TARGET].error;
	uint64_t limit = patience(c, error), spent = l->now - c->since;

	if (spent >= limit) {
		fail(c, is_of_socket(error) ? "get remote socket" : "connect to remote host", strerror(error));
		return;
	}
	c->backoff = c->backoff == 0 ? BACKOFF_MIN : c->backoff * 2 > BACKOFF_MAX ? BACKOFF_MAX : c->backoff * 2;
	/* A quarter more or less, so that clients that came together do not come back together. */
	uint32_t dice = (uint32_t)(l->now + (unsigned)c->end[CLIENT].watch.fd) * 2654435761U >> 16;
	uint64_t wait = c->backoff * 3 / 4 + dice % (c->backoff / 2 + 1);
	c->state = CONN_BACKOFF;
	if (error == EMFILE || error == ENFILE)
		list_add(&c->worker->starved, &c->waiting);
	c->timer.fire = retry;
	loop_after(l, &c->timer, wait < limit - spent ? wait : limit - spent);
}

/* The address being tried failed; of several errors the one that gives most hope decides about another round. */
static void fail_address(struct conn *c, int error)
{
	int *worst = &c->end[TARGET].error;

	loop_close(&c->end[TARGET].watch);
	if (*worst == 0 || patience(c, error) >= patience(c, *worst))
		*worst = error;
}

static void reached(struct conn *c)
{
	wheel_cancel(&c->worker->loop.wheel, &c->timer);
	answer_unref(c->answer);
	c->answer = NULL;
	c->end[TARGET].error = 0;
	forward_start(c);
}

/*
 * A port that nobody listens on may be the very one that the kernel gives to our own socket, and then TCP connects it to
 * itself: that is a refusal, too.
 */
static bool is_own_mirror(const struct conn *c)
{
	const struct address *target = &c->answer->address[c->attempt - 1];
	struct address own = {.length = sizeof(own.un)}, peer = own;
	int fd = c->end[TARGET].watch.fd;

	/* Both families have the port in the same place.  It differs but in the rarest case, and that needs a look. */
	if (c->end[TARGET].is_unix || getsockname(fd, &own.any, &own.length) < 0 ||
	    own.in4.sin_port != target->in4.sin_port || getpeername(fd, &peer.any, &peer.length) < 0)
		return false;
	if (own.any.sa_family == AF_INET)
		return own.in4.sin_addr.s_addr == peer.in4.sin_addr.s_addr;
	return memcmp(&own.in6.sin6_addr, &peer.in6.sin6_addr, sizeof(own.in6.sin6_addr)) == 0;
}

static void connected(struct watch *w, uint32_t events)
{
	struct conn *c = container_of(w, struct conn, end[TARGET].watch);
	int error = 0;
	socklen_t length = sizeof(error);

	(void)events;
	if (getsockopt(w->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
		error = errno;
	if (error == 0 && is_own_mirror(c))
		error = ECONNREFUSED;
	if (error == 0) {
		reached(c);
		return;
	}
	fail_address(c, error);
	next_address(c);
}

static void late(struct timer *t)
{
	struct conn *c = container_of(t, struct conn, timer);

	fail_address(c, ETIMEDOUT);
	next_address(c);
}

static int open_socket(struct conn *c, int family)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE) && loop_lend_spare(&c->worker->loop))
		fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return fd;
}

/* 0: connected, -EINPROGRESS: the loop will tell, else this address failed. */
static int try_address(struct conn *c, const struct address *a)
{
	struct end *e = &c->end[TARGET];
	int one = 1;

	e->watch.fd = open_socket(c, a->any.sa_family);
	if (e->watch.fd < 0)
		return -errno;
	e->is_unix = a->any.sa_family == AF_UNIX;
	e->watch.handle = connected;
	if (!e->is_unix)
		setsockopt(e->watch.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(e->watch.fd, &a->any, a->length) == 0)
		return 0;
	if (errno != EINPROGRESS && errno != EINTR)
		return -errno;
	int r = loop_watch(&c->worker->loop, &e->watch, EPOLLOUT);
	return r < 0 ? r : -EINPROGRESS;
}

static void next_address(struct conn *c)
{
	while (c->attempt < c->answer->count) {
		int r = try_address(c, &c->answer->address[c->attempt++]);
		if (r == 0) {
			reached(c);
			return;
		}
		if (r == -EINPROGRESS) {
			c->state = CONN_CONNECT;
			c->timer.fire = late;
			loop_after(&c->worker->loop, &c->timer, c->worker->config->connect_timeout);
			return;
		}
		fail_address(c, -r);
	}
	end_round(c);
}

static void resolved(struct conn *c, struct answer *a, const char *error)
{
	if (a == NULL) {
		fail(c, "resolve host", error);
		return;
	}
	c->answer = answer_ref(a);
	next_address(c);
}

/* The client while it waits.  A unix client may have written all it had to say and closed: its bytes are still owed. */
static void handle_waiting(struct watch *w, uint32_t events)
{
	struct conn *c = container_of(w, struct conn, end[CLIENT].watch);
	int unread = 0;

	if (!(events & EPOLLERR) && ioctl(w->fd, FIONREAD, &unread) == 0 && unread > 0) {
		c->end[CLIENT].hung = true;
		loop_watch(&c->worker->loop, w, WATCH_AWAY);
		return;
	}
	conn_close(c, CONN_WHY_LEFT);
}

void connect_start(struct conn *c)
{
	struct worker *w = c->worker;
	struct end *client = &c->end[CLIENT];

	client->watch.handle = handle_waiting;
	c->attempt = 0;
	c->end[TARGET].error = 0;
	if (!client->hung && loop_watch(&w->loop, &client->watch, 0) < 0) {
		fail(c, "watch a client", strerror(errno));
		return;
	}
	if (w->fixed != NULL) {
		c->answer = answer_ref(w->fixed);
		next_address(c);
		return;
	}
	c->state = CONN_RESOLVE;
	w->lookup.done = resolved;
	int r = resolve_ask(&w->lookup, c);
	if (r < 0)
		fail(c, "resolve host", strerror(-r));
}
