/*
 * notify.c - telling the service manager how we are, without its library.
 *
 * The protocol is that of sd_notify(3): a datagram of NAME=VALUE lines to the unix socket named by NOTIFY_SOCKET, a path
 * or, after an @, an abstract name.  It is a courtesy: a manager that cannot be reached is no reason to stop.
 */
#include "proxyd.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void notify_datagram(const char *path, const char *text, size_t size)
{
	static int fd = -1; /* kept: when it is needed most there may be no descriptor left */
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	size_t length = strlen(path);

	if ((path[0] != '/' && path[0] != '@') || length < 2 || length > sizeof(un.sun_path) - (path[0] == '/'))
		return;
	memcpy(un.sun_path, path, length);
	if (path[0] == '@')
		un.sun_path[0] = '\0';
	if (fd < 0)
		fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	sendto(fd, text, size, MSG_NOSIGNAL, (struct sockaddr *)&un,
	       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
}

void notify_send(const char *format, ...)
{
	const char *path = getenv("NOTIFY_SOCKET");
	char text[512];

	if (path == NULL)
		return;
	va_list args;
	va_start(args, format);
	int n = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	notify_datagram(path, text, n < 0 ? 0 : (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
}

uint64_t notify_watchdog(void)
{
	const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	char *end;

	if (usec == NULL || usec[0] < '0' || usec[0] > '9')
		return SPAN_INFINITY;
	unsigned long long period_us = strtoull(usec, &end, 10);
	if (*end != '\0' || period_us == 0 || period_us == SPAN_INFINITY)
		return SPAN_INFINITY;
	if (pid != NULL && (strtoll(pid, &end, 10) != getpid() || *end != '\0'))
		return SPAN_INFINITY;
	return period_us < 4000 ? 1 : period_us / 2000;
}
