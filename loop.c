/*
 * loop.c - the one place that waits.
 *
 * A turn waits in epoll for as long as the wheel allows, handles one batch of events, then fires the timers that are
 * due.  Everything is level triggered, so work that is left undone comes back by itself and handlers may stop early.
 *
 * A handler may close any watch, also one whose event is still in the batch: loop_close sets its descriptor to -1 and
 * the batch passes it over.  That is why a watch's memory must outlive the batch.  Timers fire after the batch, so
 * what they open cannot be mistaken for the owner of an event that is older than it.
 *
 * The spare descriptor is a place held free in the descriptor table: a client that was accepted with the last
 * descriptor can still get one for its target.
 */
#include "proxyd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64 };

static uint64_t clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

int loop_init(struct loop *l)
{
	l->spare = -1;
	l->now = clock_ms();
	wheel_init(&l->wheel, l->now);
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	return l->epoll < 0 ? -errno : 0;
}

int loop_watch(struct loop *l, struct watch *w, uint32_t events)
{
	if (w->events == events)
		return 0;

	struct epoll_event e = {.events = events, .data.ptr = w};
	int op = w->events == WATCH_AWAY ? EPOLL_CTL_ADD : events == WATCH_AWAY ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
	if (epoll_ctl(l->epoll, op, w->fd, &e) < 0)
		return -errno;
	w->events = events;
	return 0;
}

void loop_close(struct watch *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
	w->events = WATCH_AWAY;
}

void loop_after(struct loop *l, struct timer *t, uint64_t span)
{
	if (span == SPAN_INFINITY)
		wheel_cancel(&l->wheel, t);
	else
		wheel_add(&l->wheel, t, span > UINT64_MAX - l->now ? UINT64_MAX : l->now + span);
}

static int timeout(const struct loop *l)
{
	uint64_t next = wheel_next(&l->wheel);

	if (next == UINT64_MAX)
		return -1;
	if (next <= l->now)
		return 0;
	return next - l->now > INT_MAX ? INT_MAX : (int)(next - l->now);
}

void loop_turn(struct loop *l)
{
	struct epoll_event batch[BATCH];
	int n = epoll_wait(l->epoll, batch, BATCH, timeout(l));

	l->now = clock_ms();
	for (int i = 0; i < n; i++) {
		struct watch *w = batch[i].data.ptr;
		if (w->fd >= 0)
			w->handle(w, batch[i].events);
	}
	for (struct timer *t; (t = wheel_pop(&l->wheel, l->now)) != NULL;)
		t->fire(t);
}

bool loop_keep_spare(struct loop *l)
{
	if (l->spare < 0)
		l->spare = fcntl(l->epoll, F_DUPFD_CLOEXEC, 0);
	return l->spare >= 0;
}

bool loop_lend_spare(struct loop *l)
{
	if (l->spare < 0)
		return false;
	close(l->spare);
	l->spare = -1;
	return true;
}
