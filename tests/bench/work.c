/*
 * work.c - the client's work: pings, connections that are closed, bulk.
 *
 * All but bulk is a closed loop in the main thread: each answer brings the next question on its connection.  Bulk runs
 * in a thread of its own, as fast as it can, and only counts bytes.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

enum { BATCH = 128 }; /* connections opened before their first answers are waited for */

static void open_idle(unsigned wanted)
{
	while (load.idle_count < wanted) {
		unsigned first = load.idle_count, last = wanted - first < BATCH ? wanted : first + BATCH;

		for (unsigned i = first; i < last; i++)
			load.idle[i] = open_echo();
		for (unsigned i = first; i < last; i++)
			await(load.idle[i], load.size);
		load.idle_count = last;
	}
}

static void watch(int epoll, int fd, uint32_t events, void *what)
{
	struct epoll_event e = { .events = events, .data.ptr = what };

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) < 0)
		die("epoll_ctl: %s", strerror(errno));
}

static void ping_ask(struct link *l, uint64_t now)
{
	l->since = now;
	l->got = 0;
	if (send(l->fd, scratch, load.size, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)load.size)
		die("send: %s", strerror(errno));
}

static void ping_handle(struct link *l)
{
	ssize_t n = recv(l->fd, scratch, load.size - l->got, MSG_DONTWAIT);
	uint64_t now;

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0)
		die("a connection ended: %s", n < 0 ? strerror(errno) : "end of stream");
	l->got += (uint64_t)n;
	if (l->got < load.size)
		return;
	now = now_ns();
	histogram_add(now - l->since);
	load.ops++;
	ping_ask(l, now);
}

/* connect is quick on loopback, where the handshake is over when it returns, so it need not be asynchronous. */
static void close_ask(struct link *l)
{
	l->since = now_ns();
	l->got = 0;
	l->fd = dial();
	greet(l->fd, MODE_REPLY, load.size, 0);
	watch(load.epoll, l->fd, EPOLLIN, l);
}

static void close_handle(struct link *l)
{
	ssize_t n = recv(l->fd, scratch, sizeof(scratch), MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n > 0) {
		l->got += (uint64_t)n;
		return;
	}
	if (n < 0 || l->got != load.size)
		load.lost++;
	close(l->fd);
	histogram_add(now_ns() - l->since);
	load.ops++;
	close_ask(l);
}

/* One turn of the loop, after which the clock is looked at. */
static void turn(void)
{
	struct epoll_event events[EVENTS];
	bool is_close = !strcmp(load.work, "close");
	static uint64_t heard;
	int count = epoll_wait(load.epoll, events, EVENTS, load.connections ? 100 : 1);

	for (int i = 0; i < count; i++) {
		if (is_close)
			close_handle(events[i].data.ptr);
		else
			ping_handle(events[i].data.ptr);
	}
	if (count > 0 || heard == 0 || load.connections == 0)
		heard = now_ns();
	else if (now_ns() - heard > PATIENCE_S * 1000000000ull)
		die("no answer for %d s", PATIENCE_S);
}

static void *bulk_loop(void *links)
{
	bool is_up = !strcmp(load.work, "up");
	struct epoll_event events[EVENTS];
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	for (unsigned i = 0; i < load.connections; i++) {
		struct link *l = (struct link *)links + i;

		l->fd = dial();
		greet(l->fd, is_up ? MODE_SINK : MODE_SOURCE, 0, 0);
		watch(epoll, l->fd, is_up ? EPOLLOUT : EPOLLIN, l);
	}
	for (;;) {
		int count = epoll_wait(epoll, events, EVENTS, PATIENCE_S * 1000);

		if (count == 0)
			die("no byte for %d s", PATIENCE_S);
		for (int i = 0; i < count; i++) {
			struct link *l = events[i].data.ptr;
			ssize_t n = is_up ? send(l->fd, scratch, CHUNK, MSG_DONTWAIT | MSG_NOSIGNAL) :
				recv(l->fd, scratch, DISCARD, MSG_DONTWAIT | MSG_TRUNC);

			if (n == 0 || (n < 0 && errno != EAGAIN))
				die("a bulk connection ended: %s", n < 0 ? strerror(errno) : "end of stream");
			if (n > 0)
				atomic_fetch_add_explicit(&load.bulk_bytes, (uint64_t)n, memory_order_relaxed);
		}
	}
	return NULL;
}

static void bulk_turn(void)
{
	struct timespec pause = { 0, 2000000 };

	nanosleep(&pause, NULL);
}

void run_ping(unsigned connections)
{
	for (unsigned i = 0; i < connections; i++) {
		struct link *l = &load.links[i];

		l->fd = open_echo();
		await(l->fd, load.size);
		watch(load.epoll, l->fd, EPOLLIN, l);
	}
	for (unsigned i = 0; i < connections; i++)
		ping_ask(&load.links[i], now_ns());
	if (load.level_count == 0)
		window(turn);
	for (unsigned i = 0; i < load.level_count; i++) {
		open_idle(load.levels[i]);
		window(turn);
	}
	for (unsigned i = 0; i < load.idle_count; i++)
		if (recv(load.idle[i], scratch, 1, MSG_DONTWAIT) >= 0 || errno != EAGAIN)
			load.lost++;
	if (load.idle_count > 0 && load.lost > 0)
		die("%u of %u idle connections were lost", load.lost, load.idle_count);
}

void run_close(void)
{
	for (unsigned i = 0; i < load.connections; i++)
		close_ask(&load.links[i]);
	window(turn);
}

void run_bulk(void)
{
	static struct link links[EVENTS];
	pthread_t thread;

	if (load.connections > EVENTS)
		die("bulk on at most %d connections", EVENTS);
	if (pthread_create(&thread, NULL, bulk_loop, links) != 0)
		die("no second thread");
	if (is_bulk())
		window(bulk_turn);
	else
		run_ping(1);
}
