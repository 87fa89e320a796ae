/*
 * net.c - addresses, and a client's connections.
 *
 * Every connection of a client over TCP is bound to the next of four million addresses of 127.0.0.0/8, without a port:
 * the kernel then chooses the port at connect, where it only has to be new for this pair of addresses, so that ports
 * don't run out however many connections a benchmark makes.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum { BACKLOG = 4096 };

void place_parse(struct place *p, const char *text)
{
	const char *colon = strrchr(text, ':');
	char host[INET_ADDRSTRLEN] = "";

	memset(p, 0, sizeof(*p));
	if (*text == '/') {
		if (strlen(text) >= sizeof(p->un.sun_path))
			die("%s: too long a path", text);
		p->un.sun_family = AF_UNIX;
		strcpy(p->un.sun_path, text);
		p->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(text) + 1);
		return;
	}
	if (colon && (size_t)(colon - text) < sizeof(host))
		memcpy(host, text, (size_t)(colon - text));
	p->in4.sin_family = AF_INET;
	if (!colon || inet_pton(AF_INET, host, &p->in4.sin_addr) != 1)
		die("%s: not IPV4:PORT or /path", text);
	p->in4.sin_port = htons((uint16_t)atoi(colon + 1));
	p->length = sizeof(p->in4);
}

int place_listen(const struct place *p, const char *text)
{
	int fd = socket(p->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0)
		die("socket: %s", strerror(errno));
	if (p->any.sa_family == AF_INET) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* accepted sockets inherit it */
	} else
		unlink(p->un.sun_path);
	if (bind(fd, &p->any, p->length) < 0 || listen(fd, BACKLOG) < 0)
		die("%s: %s", text, strerror(errno));
	return fd;
}

unsigned place_port(int fd)
{
	struct sockaddr_in in4;
	socklen_t length = sizeof(in4);

	if (getsockname(fd, (struct sockaddr *)&in4, &length) < 0)
		die("getsockname: %s", strerror(errno));
	return ntohs(in4.sin_port);
}

/* 127.1.0.1 and so on: over four million addresses, begun at a place of this process's own. */
static struct sockaddr_in next_source(void)
{
	static atomic_uint count;
	unsigned i = (unsigned)getpid() * 1009u + atomic_fetch_add(&count, 1);

	return (struct sockaddr_in){ .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(0x7f010000u + (i / 250 % 16384u) * 256 + i % 250 + 1) };
}

/* A connected socket, or -1 and errno. */
static int dial_once(void)
{
	struct timeval patience = { PATIENCE_S, 0 };
	int fd = socket(load.place.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, error;
	struct sockaddr_in source;

	if (fd < 0)
		die("socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (load.place.any.sa_family == AF_INET) {
		source = next_source();
		setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		if (bind(fd, (struct sockaddr *)&source, sizeof(source)) < 0)
			die("bind: %s", strerror(errno));
	}
	if (connect(fd, &load.place.any, load.place.length) == 0)
		return fd;
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

/* The proxy may be about to start. */
int dial(void)
{
	struct timespec pause = { 0, 10000000 };
	uint64_t end = now_ns() + PATIENCE_S * 1000000000ull;
	int fd;

	while ((fd = dial_once()) < 0) {
		if ((errno != ECONNREFUSED && errno != ENOENT) || now_ns() > end)
			die("connect: %s", strerror(errno));
		nanosleep(&pause, NULL);
	}
	return fd;
}

void greet(int fd, int mode, uint64_t size, size_t message)
{
	static _Thread_local char buf[HEADER + MESSAGE_MAX];

	snprintf(buf, sizeof(buf), "%c%015" PRIx64 "%*s", mode, size, HEADER - 16, "");
	if (send(fd, buf, HEADER + message, MSG_NOSIGNAL) != (ssize_t)(HEADER + message))
		die("send: %s", strerror(errno));
}

/* The first answer shows that the whole way is open, and that the proxy has used its buffers once. */
void await(int fd, size_t size)
{
	char buf[MESSAGE_MAX];
	ssize_t n = recv(fd, buf, size, MSG_WAITALL);

	if (n != (ssize_t)size)
		die("no first answer: %s", n < 0 ? strerror(errno) : "end of stream");
}

int open_echo(void)
{
	int fd = dial();

	greet(fd, MODE_ECHO, load.size, load.size);
	return fd;
}
