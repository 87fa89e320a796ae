/*
 * spy.c - tells what the daemon does inside, to be linked into it.
 *
 *      cc ... *.c tests/tools/spy.c -Wl,--wrap=connect,--wrap=setsockopt,--wrap=getaddrinfo,--wrap=freeaddrinfo,\
 *              --wrap=wheel_add,--wrap=wheel_cancel
 *
 * Not a preload, so that it also sees calls between files and goes with any C library and any sanitizer.
 *
 * SPY_LOG=FILE    each call appends one line:
 *                      MS connect ADDRESS ERRNO         MS: CLOCK_MONOTONIC; a unix socket's address is its path
 *                      MS setsockopt FD NAME INT        those that were accepted and whose names it knows
 *                      MS wheel_add, MS wheel_cancel
 * SPY_HOSTS=FILE  its first line holds the IPv4 addresses that every name stands for, in this order; a word with ms at
 *                 its end, such as 500ms, is a pause before the answer.  Without it names are looked up as ever.
 * SPY_SELF=FILE   while FILE exists, a TCP socket is bound to the address that it is to connect to.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "../../proxyd.h"

enum { HOSTS_MAX = 16 };

int __real_connect(int fd, const struct sockaddr *address, socklen_t length);
int __real_setsockopt(int fd, int level, int name, const void *value, socklen_t length);
int __real_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **list);
void __real_freeaddrinfo(struct addrinfo *list);
void __real_wheel_add(struct wheel *w, struct timer *t, uint64_t due);
void __real_wheel_cancel(struct wheel *w, struct timer *t);

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t length);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t length);
int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **list);
void __wrap_freeaddrinfo(struct addrinfo *list);
void __wrap_wheel_add(struct wheel *w, struct timer *t, uint64_t due);
void __wrap_wheel_cancel(struct wheel *w, struct timer *t);

/* ---- the report ---- */

static void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void tell(const char *format, ...)
{
	const char *file = getenv("SPY_LOG");
	int saved = errno;
	struct timespec now;
	char line[256];
	va_list args;

	if (file == NULL)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	int n = snprintf(line, sizeof(line), "%lld ", (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000);
	va_start(args, format);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, args);
	va_end(args);
	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	line[n++] = '\n';

	int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd >= 0) {
		if (write(fd, line, (size_t)n) < 0)
			abort();
		close(fd);
	}
	errno = saved;
}

static const char *text_of(const struct sockaddr *address, char buf[ADDR_TEXT_MAX])
{
	const struct sockaddr_in *v4 = (const void *)address;
	const struct sockaddr_un *un = (const void *)address;
	char host[INET_ADDRSTRLEN];

	if (address->sa_family == AF_INET)
		snprintf(buf, ADDR_TEXT_MAX, "%s:%u", inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host)),
			 (unsigned)ntohs(v4->sin_port));
	else
		snprintf(buf, ADDR_TEXT_MAX, "%s", address->sa_family == AF_UNIX ? un->sun_path : "?");
	return buf;
}

/* ---- what is watched ---- */

static const struct { int level, name; const char *text; } options[] = {
	{SOL_SOCKET, SO_KEEPALIVE, "SO_KEEPALIVE"}, {IPPROTO_TCP, TCP_KEEPIDLE, "TCP_KEEPIDLE"},
	{IPPROTO_TCP, TCP_KEEPINTVL, "TCP_KEEPINTVL"}, {IPPROTO_TCP, TCP_KEEPCNT, "TCP_KEEPCNT"},
	{IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY"},
};

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t length)
{
	char text[ADDR_TEXT_MAX];
	int one = 1;

	if (getenv("SPY_SELF") != NULL && access(getenv("SPY_SELF"), F_OK) == 0) {
		__real_setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		bind(fd, address, length);
	}
	int r = __real_connect(fd, address, length);

	tell("connect %s %d", text_of(address, text), r < 0 ? errno : 0);
	return r;
}

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
	int r = __real_setsockopt(fd, level, name, value, length), n;

	for (size_t i = 0; r == 0 && length == sizeof(n) && i < sizeof(options) / sizeof(*options); i++) {
		if (options[i].level != level || options[i].name != name)
			continue;
		memcpy(&n, value, sizeof(n));
		tell("setsockopt %d %s %d", fd, options[i].text, n);
	}
	return r;
}

void __wrap_wheel_add(struct wheel *w, struct timer *t, uint64_t due)
{
	tell("wheel_add");
	__real_wheel_add(w, t, due);
}

void __wrap_wheel_cancel(struct wheel *w, struct timer *t)
{
	tell("wheel_cancel");
	__real_wheel_cancel(w, t);
}

/* ---- names ---- */

static char own[] = "own"; /* the canonical name of what was made here */

struct entry {
	struct addrinfo info;
	struct sockaddr_in address;
};

static const char *read_line(const char *file, char *buf, size_t size)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, size - 1);

	if (fd >= 0)
		close(fd);
	buf[n < 0 ? 0 : n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return buf;
}

int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **list)
{
	const char *file = getenv("SPY_HOSTS"), *word;
	char words[HOSTS_MAX * INET_ADDRSTRLEN];
	int count = 0;

	if (file == NULL || (hints->ai_flags & AI_NUMERICHOST))
		return __real_getaddrinfo(host, service, hints, list);
	struct entry *all = calloc(HOSTS_MAX, sizeof(*all));
	if (all == NULL)
		return EAI_MEMORY;
	word = read_line(file, words, sizeof(words));
	while (*word != '\0' && count < HOSTS_MAX) {
		char one[INET_ADDRSTRLEN];
		size_t n = strcspn(word, " ");
		struct entry *e = &all[count];

		snprintf(one, sizeof(one), "%.*s", (int)n, word);
		word += n + strspn(word + n, " ");
		if (n > 2 && strcmp(one + n - 2, "ms") == 0) {
			usleep((useconds_t)atoi(one) * 1000);
			continue;
		}
		e->address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(service))};
		if (inet_pton(AF_INET, one, &e->address.sin_addr) != 1)
			abort();
		e->info = (struct addrinfo){.ai_family = AF_INET, .ai_socktype = SOCK_STREAM,
					    .ai_addrlen = sizeof(e->address), .ai_addr = (void *)&e->address,
					    .ai_canonname = own};
		if (count > 0)
			all[count - 1].info.ai_next = &e->info;
		count++;
	}
	if (count == 0) {
		free(all);
		return EAI_NONAME;
	}
	*list = &all->info;
	return 0;
}

/* All came in one piece, of which the first is the beginning. */
void __wrap_freeaddrinfo(struct addrinfo *list)
{
	if (list != NULL && list->ai_canonname == own)
		free(list);
	else
		__real_freeaddrinfo(list);
}
