/*
 * alone.c - runs a command in surroundings of its own, for tests of what /etc or port 80 decides.
 *
 *      alone [-n] [-m FILE=PATH]... COMMAND [ARG...]
 *
 *      -n             a network with nothing in it but a loopback, which is up
 *      -m FILE=PATH   PATH shows what is in FILE
 *
 * It takes no rights, because it begins with a user namespace in which the user is root; where that is not to be had,
 * root goes on without one.  There is no fork: the command has this process's id, and its descriptors stay open.
 *
 * Exit status: 2 for a usage error, 1 if the kernel refuses, 127 if the command could not be run.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

static void die(int status, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));
static void die(int status, const char *format, ...)
{
	va_list args;

	fputs("alone: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(status);
}

static void write_file(const char *file, const char *text)
{
	int fd = open(file, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die(1, "%s: %s", file, strerror(errno));
	close(fd);
}

static void become_root(void)
{
	unsigned uid = (unsigned)getuid(), gid = (unsigned)getgid();
	char map[32];

	if (unshare(CLONE_NEWUSER) < 0) {
		if (uid != 0)
			die(1, "no user namespace: %s", strerror(errno));
		return;
	}
	write_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "0 %u 1\n", gid);
	write_file("/proc/self/gid_map", map);
	snprintf(map, sizeof(map), "0 %u 1\n", uid);
	write_file("/proc/self/uid_map", map);
}

static void leave(int flags)
{
	if (unshare(flags) < 0)
		die(1, "unshare: %s", strerror(errno));
}

static void raise_loopback(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		die(1, "lo: %s", strerror(errno));
	close(fd);
}

/* The first mount makes the file system's changes ours alone. */
static void show(char *pair, bool is_first)
{
	char *path = strchr(pair, '=');

	if (!path)
		die(2, "not FILE=PATH: %s", pair);
	*path++ = '\0';
	if (is_first && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		die(1, "/: %s", strerror(errno));
	if (mount(pair, path, NULL, MS_BIND, NULL) < 0)
		die(1, "%s on %s: %s", pair, path, strerror(errno));
}

int main(int argc, char **argv)
{
	bool is_network = false;
	char *pairs[8];
	int count = 0, c;

	while ((c = getopt(argc, argv, "+nm:")) != -1) {
		if (c == 'n')
			is_network = true;
		else if (c == 'm' && count < 8)
			pairs[count++] = optarg;
		else
			die(2, "usage: alone [-n] [-m FILE=PATH]... COMMAND [ARG...]");
	}
	if (optind == argc)
		die(2, "no command");

	become_root();
	if (is_network) {
		leave(CLONE_NEWNET);
		raise_loopback();
	}
	if (count > 0)
		leave(CLONE_NEWNS);
	for (int i = 0; i < count; i++)
		show(pairs[i], i == 0);
	execvp(argv[optind], argv + optind);
	die(127, "%s: %s", argv[optind], strerror(errno));
}
