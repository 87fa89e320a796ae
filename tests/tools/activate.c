/*
 * activate.c - starts a command the way a service manager does: with sockets already open.
 *
 *      activate [OPTION...] SOCKET... -- COMMAND [ARG...]
 *
 * SOCKETs become descriptors 3, 4, ... in the order given; everything above them is closed; there is no fork, so the
 * command has this process's id and LISTEN_PID is right.
 *
 *      tcp4[:PORT] tcp6[:PORT]  listening, loopback, port 0 (the kernel's choice) by default
 *      unix:/path abstract:name seqpacket:/path  listening; a socket file that is in the way is removed
 *      accepted accepted:/path  a connection: waits, once FILE is written, for one client (inetd's "nowait")
 *      connected                a TCP connection whose silent other end is inherited just above the sockets
 *      udp tcp-unbound file closed   a datagram socket, a stream that does not listen, /dev/null, no descriptor at all
 *
 *      -f FILE   the addresses, one line a SOCKET ("-" where there is none); FILE appears whole
 *      -n NAMES  LISTEN_FDNAMES          -p WORD  LISTEN_PID (own id; "none": unset)
 *      -i WORD   LISTEN_PIDFDID ("self": the right one)   -c WORD  LISTEN_FDS (their number; "none": unset)
 *      -0        the one SOCKET becomes descriptor 0, without LISTEN_*
 *      -r LIMIT  RLIMIT_NOFILE           -b BACKLOG  of the sockets that listen
 *
 * Exit status: 2 for a usage error, 1 if a socket could not be made, 127 if the command could not be run.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

enum { FIRST = 3, SOCKETS_MAX = 256, ADDRESS_MAX = 160 };

struct made {
	const char *word;
	int fd;                    /* -1: a hole */
	int other;                 /* the end that nobody uses, or -1 */
	bool must_accept;          /* fd listens for the connection to pass */
	char address[ADDRESS_MAX];
};

struct options {
	const char *file, *names, *pid, *count, *pidfdid;
	bool is_inetd;
	long limit;
	int backlog;
};

static struct made made[SOCKETS_MAX];

static void die(int status, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));
static void die(int status, const char *format, ...)
{
	va_list args;

	fputs("activate: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(status);
}

static const char *after(const char *word, const char *prefix)
{
	size_t n = strlen(prefix);

	return strncmp(word, prefix, n) == 0 ? word + n : NULL;
}

static long number(const char *text, long min, long max)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(text, &end, 10);
	if (errno || end == text || *end || n < min || n > max)
		die(2, "not a number from %ld to %ld: %s", min, max, text);
	return n;
}

static int open_socket(int family, int type, const char *word)
{
	int fd = socket(family, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die(1, "%s: socket: %s", word, strerror(errno));
	return fd;
}

static void bind_socket(int fd, const void *address, socklen_t length, const char *word)
{
	if (bind(fd, address, length) < 0)
		die(1, "%s: bind: %s", word, strerror(errno));
}

static void listen_socket(int fd, int backlog, const char *word)
{
	if (listen(fd, backlog) < 0)
		die(1, "%s: listen: %s", word, strerror(errno));
}

static void bind_inet(struct made *m, int family, const char *port)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	uint16_t n = htons((uint16_t)number(port, 0, 65535));
	socklen_t length;
	int one = 1;

	setsockopt(m->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (family == AF_INET) {
		v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		v4.sin_port = n;
		bind_socket(m->fd, &v4, sizeof(v4), m->word);
		length = sizeof(v4);
		getsockname(m->fd, (struct sockaddr *)&v4, &length);
		snprintf(m->address, sizeof(m->address), "127.0.0.1:%u", (unsigned)ntohs(v4.sin_port));
	} else {
		v6.sin6_port = n;
		bind_socket(m->fd, &v6, sizeof(v6), m->word);
		length = sizeof(v6);
		getsockname(m->fd, (struct sockaddr *)&v6, &length);
		snprintf(m->address, sizeof(m->address), "[::1]:%u", (unsigned)ntohs(v6.sin6_port));
	}
}

static void bind_unix(struct made *m, const char *name, bool is_abstract)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	size_t length = strlen(name), at = is_abstract ? 1 : 0, end = is_abstract ? 0 : 1;

	if (length == 0 || length + at >= sizeof(un.sun_path))
		die(2, "%s: the name is empty or too long", m->word);
	memcpy(un.sun_path + at, name, length);
	if (!is_abstract)
		unlink(name);
	bind_socket(m->fd, &un, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + at + length + end), m->word);
	snprintf(m->address, sizeof(m->address), "%s%s", is_abstract ? "@" : "", name);
}

static void make_inet(struct made *m, int family, const char *port, int backlog)
{
	m->fd = open_socket(family, SOCK_STREAM, m->word);
	bind_inet(m, family, *port == ':' ? port + 1 : "0");
	listen_socket(m->fd, backlog, m->word);
}

static void make_unix(struct made *m, int type, const char *name, bool is_abstract, int backlog)
{
	m->fd = open_socket(AF_UNIX, type, m->word);
	bind_unix(m, name, is_abstract);
	listen_socket(m->fd, backlog, m->word);
}

static void make_connected(struct made *m)
{
	struct sockaddr_in v4;
	socklen_t length = sizeof(v4);
	int listener;

	make_inet(m, AF_INET, "", 1);
	listener = m->fd;
	getsockname(listener, (struct sockaddr *)&v4, &length);
	m->other = open_socket(AF_INET, SOCK_STREAM, m->word);
	if (connect(m->other, (struct sockaddr *)&v4, length) < 0)
		die(1, "%s: connect: %s", m->word, strerror(errno));
	m->fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (m->fd < 0)
		die(1, "%s: accept: %s", m->word, strerror(errno));
	close(listener);
}

static void make(struct made *m, const char *word, int backlog)
{
	const char *rest;

	*m = (struct made){ .word = word, .fd = -1, .other = -1, .address = "-" };
	if ((rest = after(word, "tcp4")) && (!*rest || *rest == ':'))
		make_inet(m, AF_INET, rest, backlog);
	else if ((rest = after(word, "tcp6")) && (!*rest || *rest == ':'))
		make_inet(m, AF_INET6, rest, backlog);
	else if ((rest = after(word, "unix:")))
		make_unix(m, SOCK_STREAM, rest, false, backlog);
	else if ((rest = after(word, "abstract:")))
		make_unix(m, SOCK_STREAM, rest, true, backlog);
	else if ((rest = after(word, "seqpacket:")))
		make_unix(m, SOCK_SEQPACKET, rest, false, backlog);
	else if ((rest = after(word, "accepted:")))
		make_unix(m, SOCK_STREAM, rest, false, 1);
	else if (!strcmp(word, "accepted"))
		make_inet(m, AF_INET, "", 1);
	else if (!strcmp(word, "connected"))
		make_connected(m);
	else if (!strcmp(word, "udp")) {
		m->fd = open_socket(AF_INET, SOCK_DGRAM, word);
		bind_inet(m, AF_INET, "0");
	} else if (!strcmp(word, "tcp-unbound"))
		m->fd = open_socket(AF_INET, SOCK_STREAM, word);
	else if (!strcmp(word, "file")) {
		if ((m->fd = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0)
			die(1, "/dev/null: %s", strerror(errno));
	} else if (strcmp(word, "closed") != 0)
		die(2, "no such kind of socket: %s", word);
	m->must_accept = after(word, "accepted") != NULL;
}

static void write_addresses(const char *file, int count)
{
	char temporary[4096];
	FILE *f;

	if ((size_t)snprintf(temporary, sizeof(temporary), "%s.new", file) >= sizeof(temporary))
		die(2, "too long a file name");
	f = fopen(temporary, "we");
	if (!f)
		die(1, "%s: %s", temporary, strerror(errno));
	for (int i = 0; i < count; i++)
		fprintf(f, "%s\n", made[i].address);
	if (fclose(f) != 0 || rename(temporary, file) < 0)
		die(1, "%s: %s", file, strerror(errno));
}

static void accept_client(struct made *m)
{
	int fd = accept4(m->fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		die(1, "%s: accept: %s", m->word, strerror(errno));
	close(m->fd);
	m->fd = fd;
}

static int above(int fd, int floor_fd)
{
	int high = fcntl(fd, F_DUPFD_CLOEXEC, floor_fd);

	if (high < 0)
		die(1, "F_DUPFD_CLOEXEC: %s", strerror(errno));
	close(fd);
	return high;
}

/* First out of the way, then into place, or one socket's place could be another's present descriptor. */
static int place(int count, int first)
{
	int next = first ? first + count : FIRST, floor_fd = next + count;

	for (int i = 0; i < count; i++) {
		if (made[i].fd >= 0)
			made[i].fd = above(made[i].fd, floor_fd);
		if (made[i].other >= 0)
			made[i].other = above(made[i].other, floor_fd);
	}
	for (int i = 0; i < count; i++) {
		if (made[i].fd < 0)
			close(first + i);
		else if (dup2(made[i].fd, first + i) < 0)
			die(1, "dup2: %s", strerror(errno));
	}
	for (int i = 0; i < count; i++)
		if (made[i].other >= 0 && dup2(made[i].other, next++) < 0)
			die(1, "dup2: %s", strerror(errno));
	return next;
}

/* Whoever started this (bats, say) may have left descriptors open. */
static void close_from(int first)
{
	struct dirent *entry;
	DIR *dir = opendir("/proc/self/fd");

	if (!dir)
		die(1, "/proc/self/fd: %s", strerror(errno));
	while ((entry = readdir(dir))) {
		int fd = atoi(entry->d_name);

		if (fd >= first && fd != dirfd(dir))
			close(fd);
	}
	closedir(dir);
}

static void set(const char *name, const char *word)
{
	if (strcmp(word, "none") != 0 && setenv(name, word, 1) < 0)
		die(1, "setenv: %s", strerror(errno));
}

static void own_pidfdid(char *buf, size_t size)
{
	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		die(1, "pidfd_open: %s", strerror(errno));
	close(fd);
	snprintf(buf, size, "%llu", (unsigned long long)st.st_ino);
}

static void set_environment(const struct options *o, int count)
{
	char buf[32];

	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	unsetenv("LISTEN_PIDFDID");
	if (o->is_inetd)
		return;
	snprintf(buf, sizeof(buf), "%ld", (long)getpid());
	set("LISTEN_PID", o->pid ? o->pid : buf);
	snprintf(buf, sizeof(buf), "%d", count);
	set("LISTEN_FDS", o->count ? o->count : buf);
	if (o->names)
		set("LISTEN_FDNAMES", o->names);
	if (o->pidfdid && !strcmp(o->pidfdid, "self"))
		own_pidfdid(buf, sizeof(buf));
	if (o->pidfdid)
		set("LISTEN_PIDFDID", strcmp(o->pidfdid, "self") ? o->pidfdid : buf);
}

static void read_options(struct options *o, int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "+f:n:p:c:i:0r:b:")) != -1) {
		switch (c) {
		case 'f': o->file = optarg; break;
		case 'n': o->names = optarg; break;
		case 'p': o->pid = optarg; break;
		case 'c': o->count = optarg; break;
		case 'i': o->pidfdid = optarg; break;
		case '0': o->is_inetd = true; break;
		case 'r': o->limit = number(optarg, 1, INT32_MAX); break;
		case 'b': o->backlog = (int)number(optarg, 0, INT32_MAX); break;
		default: die(2, "usage: activate [OPTION...] SOCKET... -- COMMAND [ARG...]");
		}
	}
}

int main(int argc, char **argv)
{
	struct options o = { .backlog = SOMAXCONN };
	int count = 0, i;

	read_options(&o, argc, argv);
	/* With no SOCKET at all getopt has eaten the "--". */
	if (optind > 1 && !strcmp(argv[optind - 1], "--"))
		optind--;
	for (i = optind; i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (count == SOCKETS_MAX)
			die(2, "too many sockets");
		make(&made[count++], argv[i], o.backlog);
	}
	if (i + 1 >= argc)
		die(2, "no command");
	if (o.is_inetd && count != 1)
		die(2, "-0 takes one socket");
	if (o.file)
		write_addresses(o.file, count);
	for (int k = 0; k < count; k++)
		if (made[k].must_accept)
			accept_client(&made[k]);
	close_from(place(count, o.is_inetd ? 0 : FIRST));
	set_environment(&o, count);
	if (o.limit) {
		struct rlimit limit = { (rlim_t)o.limit, (rlim_t)o.limit };

		if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
			die(1, "setrlimit: %s", strerror(errno));
	}
	execvp(argv[i + 1], argv + i + 1);
	die(127, "%s: %s", argv[i + 1], strerror(errno));
}
