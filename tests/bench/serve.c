/*
 * serve.c - the server: what a connection gets is told by its header.
 *
 * Two threads, each with its epoll: all connections begin in the first, and those for bulk move to the second, so that
 * a message beside bulk waits for the proxy and not for us.  An echo costs two calls and its share of an epoll_wait,
 * without a probe for EAGAIN, so that its CPU is a fair floor for what a proxy needs.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "load.h"

enum { MODE_LISTEN = 'L' }; /* of a peer that is a listening socket */

struct peer {
	int fd;
	int mode;
	unsigned got; /* of the header or of the message that is coming in */
	uint64_t size;
	char header[HEADER + 1];
};

static int epoll_small, epoll_bulk;

static void peer_close(struct peer *p)
{
	close(p->fd);
	free(p);
}

static void peer_watch(struct peer *p, int epoll, int operation, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = p };

	if (epoll_ctl(epoll, operation, p->fd, &e) < 0)
		die("epoll_ctl: %s", strerror(errno));
}

static void peer_accept(const struct peer *listener)
{
	struct peer *p;
	int fd;

	while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		p = allocate(1, sizeof(*p));
		p->fd = fd;
		peer_watch(p, epoll_small, EPOLL_CTL_ADD, EPOLLIN);
	}
	if (errno != EAGAIN && errno != ECONNABORTED)
		die("accept: %s", strerror(errno));
}

/* True while there is more to wait for. */
static bool peer_send(const struct peer *p)
{
	ssize_t n = send(p->fd, scratch, p->size, MSG_NOSIGNAL);

	if (n >= 0 && (uint64_t)n != p->size)
		die("a message of %" PRIu64 " bytes did not fit an empty send buffer", p->size);
	return n >= 0;
}

static void peer_greet(struct peer *p)
{
	ssize_t n = recv(p->fd, p->header + p->got, HEADER - p->got, 0);

	if (n <= 0) {
		peer_close(p);
		return;
	}
	p->got += (unsigned)n;
	if (p->got < HEADER)
		return;
	p->got = 0;
	p->mode = p->header[0];
	p->size = strtoull(p->header + 1, NULL, 16);
	if (p->mode == MODE_REPLY) {
		peer_send(p);
		peer_close(p);
	} else if (p->mode == MODE_SINK || p->mode == MODE_SOURCE) {
		peer_watch(p, epoll_small, EPOLL_CTL_DEL, 0);
		peer_watch(p, epoll_bulk, EPOLL_CTL_ADD, p->mode == MODE_SINK ? EPOLLIN : EPOLLOUT);
	} else if (p->mode != MODE_ECHO || p->size == 0 || p->size > MESSAGE_MAX)
		die("not a header: %s", p->header);
}

static void peer_echo(struct peer *p)
{
	ssize_t n = recv(p->fd, scratch, p->size - p->got, 0);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n > 0 && (p->got += (unsigned)n) < p->size)
		return;
	p->got = 0;
	if (n <= 0 || !peer_send(p))
		peer_close(p);
}

static void peer_bulk(struct peer *p)
{
	ssize_t n = p->mode == MODE_SINK ? recv(p->fd, scratch, DISCARD, MSG_TRUNC) :
		send(p->fd, scratch, CHUNK, MSG_NOSIGNAL);

	if (n == 0 || (n < 0 && errno != EAGAIN))
		peer_close(p);
}

static void *serve_loop(void *epoll)
{
	struct epoll_event events[EVENTS];

	for (;;) {
		int count = epoll_wait(*(int *)epoll, events, EVENTS, -1);

		for (int i = 0; i < count; i++) {
			struct peer *p = events[i].data.ptr;

			switch (p->mode) {
			case MODE_LISTEN: peer_accept(p); break;
			case MODE_UNKNOWN: peer_greet(p); break;
			case MODE_ECHO: peer_echo(p); break;
			default: peer_bulk(p);
			}
		}
	}
	return NULL;
}

void serve(char **texts)
{
	pthread_t thread;
	struct place place;

	prctl(PR_SET_PDEATHSIG, SIGTERM); /* nothing is left of a benchmark that was killed */
	epoll_small = epoll_create1(EPOLL_CLOEXEC);
	epoll_bulk = epoll_create1(EPOLL_CLOEXEC);
	printf("listening");
	for (; *texts; texts++) {
		struct peer *listener = allocate(1, sizeof(*listener));

		place_parse(&place, *texts);
		*listener = (struct peer){ .fd = place_listen(&place, *texts), .mode = MODE_LISTEN };
		peer_watch(listener, epoll_small, EPOLL_CTL_ADD, EPOLLIN);
		if (place.any.sa_family == AF_INET)
			printf(" 127.0.0.1:%u", place_port(listener->fd));
		else
			printf(" %s", *texts);
	}
	printf("\n");
	fflush(stdout);
	if (pthread_create(&thread, NULL, serve_loop, &epoll_bulk) != 0)
		die("no second thread");
	serve_loop(&epoll_small);
}
