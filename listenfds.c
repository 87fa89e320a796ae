/*
 * listenfds.c - sockets from whoever started us.
 *
 * The protocol of sd_listen_fds(3): LISTEN_PID names the process the sockets are meant for, LISTEN_FDS counts them, and
 * they are the descriptors from 3 on.  LISTEN_FDNAMES may name them, separated by colons.  A pid can be reused, so newer
 * managers add LISTEN_PIDFDID, the inode number of a pidfd of the process, which is unique until the next boot; before
 * Linux 6.9 all pidfds share one inode and the check is passed over.
 *
 * All four variables leave the environment, whatever they held, and every descriptor becomes close-on-exec.
 */
#include "proxyd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { FIRST_FD = 3 };

/* From linux/magic.h, where older headers lack it. */
#define PIDFS_MAGIC 0x50494446

/* 1: the id is ours or cannot be checked, 0: it is another process's, -EINVAL: it is no id. */
static int is_our_pidfd(const char *text)
{
	char *end;
	errno = 0;
	unsigned long long id = strtoull(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0)
		return -EINVAL;

	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (fd < 0)
		return 1;
	struct statfs fs;
	struct stat st;
	bool is_checkable = fstatfs(fd, &fs) == 0 && fs.f_type == PIDFS_MAGIC && fstat(fd, &st) == 0;
	close(fd);
	return !is_checkable || st.st_ino == id;
}

/* The names, if there are exactly as many as descriptors. */
static char **split_names(const char *text, unsigned count)
{
	unsigned parts = 1;

	if (text == NULL)
		return NULL;
	for (const char *p = text; *p != '\0'; p++)
		parts += *p == ':';
	if (parts != count)
		return NULL;

	char **names = malloc(count * sizeof(*names));
	char *copy = strdup(text);
	if (names == NULL || copy == NULL) {
		free(names);
		free(copy);
		return NULL;
	}
	for (unsigned i = 0; i < count; i++) {
		names[i] = copy;
		copy += strcspn(copy, ":");
		*copy++ = '\0';
	}
	return names;
}

static int take(struct passed *p)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS"), *id = getenv("LISTEN_PIDFDID");
	unsigned n;

	if (pid == NULL)
		return 0;
	if (span_count(pid, &n) < 0 || n == 0 || n > INT_MAX)
		return -EINVAL;
	if ((pid_t)n != getpid())
		return 0;
	if (id != NULL) {
		int r = is_our_pidfd(id);
		if (r <= 0)
			return r;
	}
	if (fds == NULL)
		return 0;
	if (span_count(fds, &n) < 0 || n == 0 || n > INT_MAX - FIRST_FD)
		return -EINVAL;
	for (unsigned i = 0; i < n; i++)
		if (fcntl(FIRST_FD + (int)i, F_SETFD, FD_CLOEXEC) < 0)
			return -errno;
	p->names = split_names(getenv("LISTEN_FDNAMES"), n);
	p->count = (int)n;
	return 0;
}

int listenfds_take(struct passed *p)
{
	p->count = 0;
	p->names = NULL;
	int r = take(p);
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	unsetenv("LISTEN_PIDFDID");
	return r;
}

enum socket_kind listenfds_kind(int fd, bool *is_unix)
{
	int type, listening, family;
	socklen_t length = sizeof(int);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0 || type != SOCK_STREAM ||
	    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) < 0)
		return SOCKET_OTHER;
	*is_unix = family == AF_UNIX;
	if (listening)
		return SOCKET_LISTENING;

	struct sockaddr_storage peer;
	length = sizeof(peer);
	return getpeername(fd, (struct sockaddr *)&peer, &length) == 0 ? SOCKET_CONNECTED : SOCKET_OTHER;
}
