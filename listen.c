/*
 * listen.c - sockets of our own, for --listen=.
 *
 * A unix socket file outlives the process that made it, and bind(2) refuses the name for as long as the file is there.
 * Whether somebody serves it is asked by connecting: a refusal means that the file is left over and may go.  A socket
 * that answers is never touched, and neither is anything that is no socket.
 *
 * The kernel cuts the backlog to net.core.somaxconn by itself.
 */
#include "proxyd.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BACKLOG = 4096 };

/* 0: the name is free now.  -EADDRINUSE: somebody serves it.  -EEXIST: it is no socket. */
static int remove_stale(const struct address *a)
{
	struct stat st;

	if (lstat(a->un.sun_path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;

	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	int r = connect(fd, &a->any, a->length) == 0 ? 0 : -errno;
	close(fd);
	if (r != -ECONNREFUSED)
		return r == 0 || r == -EAGAIN ? -EADDRINUSE : r;
	return unlink(a->un.sun_path) == 0 ? 0 : -errno;
}

/* is_both: the address of all addresses means those of IPv4 too, whatever net.ipv6.bindv6only says. */
static int open_at(const struct address *a, bool is_both)
{
	int fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;

	int one = 1, zero = 0, r;
	if (a->any.sa_family != AF_UNIX)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (is_both)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(fd, &a->any, a->length) < 0) {
		r = -errno;
		/* A directory entry that is already there reads EADDRINUSE, for any kind of file. */
		if (r == -EADDRINUSE && a->any.sa_family == AF_UNIX && a->un.sun_path[0] == '/') {
			r = remove_stale(a);
			if (r == 0 && bind(fd, &a->any, a->length) < 0)
				r = -errno;
		}
		if (r < 0)
			goto fail;
	}
	if (listen(fd, BACKLOG) < 0) {
		r = -errno;
		goto fail;
	}
	return fd;
fail:
	close(fd);
	return r;
}

static const char *remedy(int error, bool is_unix)
{
	switch (error) {
	case EADDRINUSE:
		return "; stop the one who serves it, or choose another address";
	case EEXIST:
		return "; it is not a socket, so it is left alone: choose another path";
	case EADDRNOTAVAIL:
		return "; this machine has no such address";
	case EACCES:
		return is_unix ? "; it takes other rights, or another directory"
			       : "; it takes other rights, or a port from 1024 on";
	case ENOENT:
		return "; make the directory first";
	default:
		return "";
	}
}

int listen_open(struct listener *l, const char *text, char why[ADDR_WHY_MAX])
{
	struct address a;
	int r = addr_listen(&a, text, why);
	if (r < 0)
		return r;

	bool is_port = a.any.sa_family == AF_INET6 && strchr(text, ':') == NULL;
	int fd = open_at(&a, is_port);
	/* A port alone means every address; where the kernel has no IPv6 those are the IPv4 ones. */
	if (fd == -EAFNOSUPPORT && is_port) {
		in_port_t port = a.in6.sin6_port;
		a = (struct address){.length = sizeof(a.in4), .in4 = {.sin_family = AF_INET, .sin_port = port}};
		fd = open_at(&a, false);
	}
	if (fd < 0) {
		snprintf(why, ADDR_WHY_MAX, "Failed to listen on %.100s: %s%s", text, strerror(-fd),
			 remedy(-fd, a.any.sa_family == AF_UNIX));
		return fd;
	}

	l->watch.fd = fd;
	l->is_unix = a.any.sa_family == AF_UNIX;
	l->name = text;
	l->is_own = true;
	struct stat st;
	if (l->is_unix && a.un.sun_path[0] == '/' && lstat(text, &st) == 0) {
		l->has_file = true;
		l->device = st.st_dev;
		l->inode = st.st_ino;
	}
	return 0;
}

void listen_close(struct listener *l)
{
	struct stat st;

	loop_close(&l->watch);
	/* Somebody else may have taken the path over meanwhile. */
	if (l->has_file && lstat(l->name, &st) == 0 && st.st_dev == l->device && st.st_ino == l->inode)
		unlink(l->name);
	l->has_file = false;
}
