/*
 * addr.c - addresses in words: what a target or a place to listen at is called, and back again.
 *
 * A text is one of three things by its first character: a unix path, an abstract unix name, or a host and a port, which
 * are split at the closing bracket or else at the last colon.  Then the host is looked at before the port.  Whether
 * a host is numeric is not decided here: getaddrinfo(3) with AI_NUMERICHOST never asks anybody, and takes whatever
 * the libc takes elsewhere (127.1, an IPv6 scope).
 *
 * A text that could only fail later is refused now.  Each refusal is a line that begins with the text, shortened if
 * it is long, and ends with what to write instead.  Control characters never get into such a line, nor into a text
 * made from an address: an abstract name is whatever bytes a peer likes.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "proxyd.h"

enum { WORD_MAX = 64, HOST_MAX = 253, PORT_MAX = 65535 };

/* A host and a port as they were written; port is NULL if there was none. */
struct parts {
	char host[ADDR_HOST_MAX];
	const char *port;
	bool is_bracketed;
};

static void clean(char *s)
{
	for (; *s; s++)
		if (*s < ' ' || *s > '~')
			*s = '?';
}

__attribute__((format(printf, 3, 4)))
static int refuse(char *why, const char *word, const char *format, ...)
{
	va_list ap;
	int n;

	n = snprintf(why, ADDR_WHY_MAX, "%.*s%s ", WORD_MAX, word, strlen(word) > WORD_MAX ? "..." : "");
	va_start(ap, format);
	vsnprintf(why + n, (size_t)(ADDR_WHY_MAX - n), format, ap);
	va_end(ap);
	clean(why);
	return -EINVAL;
}

static bool is_unix(const char *text)
{
	return text[0] == '/' || text[0] == '@';
}

static int read_unix(struct address *a, const char *text, char *why)
{
	bool is_abstract = text[0] == '@';
	size_t length = strlen(text), max = sizeof a->un.sun_path - !is_abstract;

	if (is_abstract && length == 1)
		return refuse(why, text, "has no name; write one after the @, such as @proxy");
	if (length > max)
		return refuse(why, text,
			"is %zu bytes long; shorten it to the %zu that fit into a unix address", length, max);
	*a = (struct address){ .un.sun_family = AF_UNIX };
	memcpy(a->un.sun_path, text, length);
	if (is_abstract)
		a->un.sun_path[0] = '\0';
	/* A path is counted with its NUL; an abstract name ends where the length says. */
	a->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + !is_abstract);
	return 0;
}

/* Reads a numeric address of a family, or of any (AF_UNSPEC); the port stays 0. */
static bool read_numeric(struct address *a, const char *host, int family)
{
	struct addrinfo hints = {
		.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_family = family, .ai_socktype = SOCK_STREAM,
	};
	struct addrinfo *list;

	if (getaddrinfo(host, NULL, &hints, &list) != 0)
		return false;
	*a = (struct address){ .length = list->ai_addrlen };
	memcpy(&a->any, list->ai_addr, list->ai_addrlen);
	freeaddrinfo(list);
	return true;
}

static void set_port(struct address *a, unsigned port)
{
	if (a->any.sa_family == AF_INET6)
		a->in6.sin6_port = htons((uint16_t)port);
	else
		a->in4.sin_port = htons((uint16_t)port);
}

/* A decimal number up to 65536, which stands for all that is greater; -1: no number. */
static int decimal(const char *s)
{
	int n = 0;

	if (!*s)
		return -1;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return -1;
		n = n * 10 + (*s - '0');
		if (n > PORT_MAX)
			n = PORT_MAX + 1;
	}
	return n;
}

/* A musl takes the "80/tcp" of a line in /etc/services for a name of that service: no name has such characters. */
static struct servent *find_service(const char *name)
{
	return *name && !strpbrk(name, "/ \t") ? getservbyname(name, "tcp") : NULL;
}

/* Reads a port that is part of text, or all of it. */
static int read_port(unsigned *port, const char *text, const char *s, unsigned min, char *why)
{
	int n = decimal(s);

	if (!*s)
		return refuse(why, text, "has an empty port; write a number after the last colon");
	if (n < 0) {
		struct servent *service = find_service(s);

		if (!service)
			return refuse(why, text,
				"has a port that is no number and no known service; write one from %u to 65535", min);
		n = ntohs((uint16_t)service->s_port);
	}
	if (n > PORT_MAX)
		return refuse(why, text, "has a port past the last; write one from %u to 65535", min);
	if ((unsigned)n < min)
		return refuse(why, text, "has port 0, to which nobody can connect; write one from 1 to 65535");
	*port = (unsigned)n;
	return 0;
}

static int refuse_ipv6(const char *text, char *why)
{
	if (strchr(text, '%'))
		return refuse(why, text,
			"has an IPv6 address or an interface that does not exist; write [IPv6%%INTERFACE]:PORT");
	return refuse(why, text,
		"has brackets or colons around what is no IPv6 address; write HOST:PORT or [IPv6]:PORT");
}

static int split_brackets(struct parts *parts, const char *text, char *why)
{
	size_t length = strcspn(text, "]");
	struct address a;

	if (!text[length])
		return refuse(why, text, "has a [ but no ]; write [IPv6]:PORT");
	if (text[length + 1] != '\0' && text[length + 1] != ':')
		return refuse(why, text, "goes on after the ]; write [IPv6]:PORT");
	parts->is_bracketed = true;
	parts->port = text[length + 1] ? text + length + 2 : NULL;
	if (--length < sizeof parts->host) {
		memcpy(parts->host, text + 1, length);
		if (read_numeric(&a, parts->host, AF_INET6))
			return 0;
	}
	return refuse_ipv6(text, why);
}

/* Does the host hold only what a name or a numeric address can? */
static int check_host(const char *text, const char *host, size_t length, char *why)
{
	if (length == 0)
		return refuse(why, text,
			"has no host before the colon; write one, such as 127.0.0.1%.*s", WORD_MAX, text);
	if (length > HOST_MAX)
		return refuse(why, text, "has a host longer than %d bytes; write a shorter one", HOST_MAX);
	for (size_t i = 0; i < length; i++)
		if ((host[i] > 0 && host[i] <= ' ') || host[i] == 127 || strchr("/[]", host[i]))
			return refuse(why, text,
				"has a character in its host that no host has; write HOST:PORT and nothing else");
	return 0;
}

/* Takes a host and a port apart.  What comes out has a host that is a name or numeric, with or without brackets. */
static int split(struct parts *parts, const char *text, const char *port_hint, char *why)
{
	const char *colon = strrchr(text, ':');
	size_t length = colon ? (size_t)(colon - text) : strlen(text);
	struct address a;
	int r;

	*parts = (struct parts){ .port = colon ? colon + 1 : NULL };
	if (text[0] == '[')
		return split_brackets(parts, text, why);
	if ((r = check_host(text, text, length, why)) < 0)
		return r;
	memcpy(parts->host, text, length);
	if (!strchr(parts->host, ':') || read_numeric(&a, parts->host, AF_INET6))
		return 0;
	if (read_numeric(&a, text, AF_INET6))
		return refuse(why, text,
			"has no port, and its colons need brackets; write [%.*s]:%s", WORD_MAX, text, port_hint);
	return refuse_ipv6(text, why);
}

int addr_target(struct target *t, const char *text, char why[ADDR_WHY_MAX])
{
	struct parts parts;
	unsigned port = 80;
	int r;

	*t = (struct target){ .text = text };
	if (!*text)
		return refuse(why, "the target", "is empty; write HOST:PORT, [IPv6]:PORT, /path or @name");
	if (is_unix(text))
		return read_unix(&t->address, text, why);
	if ((r = split(&parts, text, "80", why)) < 0)
		return r;
	if (!parts.port && decimal(text) >= 0) {
		r = read_port(&port, text, text, 1, why);
		return r < 0 ? r : refuse(why, text, "has no host, only a port; write 127.0.0.1:%u", port);
	}
	if (parts.port && (r = read_port(&port, text, parts.port, 1, why)) < 0)
		return r;
	if (read_numeric(&t->address, parts.host, AF_UNSPEC)) {
		set_port(&t->address, port);
		return 0;
	}
	t->is_name = true;
	memcpy(t->host, parts.host, sizeof t->host);
	snprintf(t->service, sizeof t->service, "%u", port);
	return 0;
}

/* A text without a colon is a port at all addresses. */
static int read_bare_port(struct address *a, const char *text, char *why)
{
	unsigned port;

	if (decimal(text) < 0 && read_numeric(a, text, AF_UNSPEC))
		return refuse(why, text, "has no port; write %.*s:PORT", WORD_MAX, text);
	if (decimal(text) < 0 && !find_service(text))
		return refuse(why, text,
			"is no port and no known service; write PORT, IPv4:PORT, [IPv6]:PORT, /path or @name");
	if (read_port(&port, text, text, 0, why) < 0)
		return -EINVAL;
	*a = (struct address){ .length = sizeof a->in6, .in6.sin6_family = AF_INET6, .in6.sin6_addr = in6addr_any };
	set_port(a, port);
	return 0;
}

int addr_listen(struct address *a, const char *text, char why[ADDR_WHY_MAX])
{
	struct parts parts;
	unsigned port;
	int r;

	if (!*text)
		return refuse(why, "the address to listen at",
			"is empty; write PORT, IPv4:PORT, [IPv6]:PORT, /path or @name");
	if (is_unix(text))
		return read_unix(a, text, why);
	if (text[0] == ':' && text[1] != ':')
		return refuse(why, text, "has no address before the colon; write the port alone for all addresses");
	if (!strpbrk(text, "[:"))
		return read_bare_port(a, text, why);
	if ((r = split(&parts, text, "PORT", why)) < 0)
		return r;
	if (!parts.port)
		return refuse(why, text, "has no port; write %.*s:PORT", WORD_MAX, text);
	if ((r = read_port(&port, text, parts.port, 0, why)) < 0)
		return r;
	if (!read_numeric(a, parts.host, AF_UNSPEC))
		return refuse(why, text, "has a host that is no numeric address; write one, or the port alone");
	set_port(a, port);
	return 0;
}

/* What a socket of both families says of an IPv4 peer is written as the IPv4 address it is. */
static struct address unmap(const struct address *a)
{
	struct address v4 = { .length = sizeof v4.in4, .in4.sin_family = AF_INET, .in4.sin_port = a->in6.sin6_port };

	memcpy(&v4.in4.sin_addr, a->in6.sin6_addr.s6_addr + 12, 4);
	return v4;
}

static const char *write_inet(const struct address *a, char *buf)
{
	char host[INET6_ADDRSTRLEN], scope[IF_NAMESIZE + 1] = "";

	if (a->any.sa_family == AF_INET) {
		inet_ntop(AF_INET, &a->in4.sin_addr, host, sizeof host);
		snprintf(buf, ADDR_TEXT_MAX, "%s:%u", host, ntohs(a->in4.sin_port));
		return buf;
	}
	inet_ntop(AF_INET6, &a->in6.sin6_addr, host, sizeof host);
	if (a->in6.sin6_scope_id != 0 && if_indextoname(a->in6.sin6_scope_id, scope + 1))
		scope[0] = '%';
	snprintf(buf, ADDR_TEXT_MAX, "[%s%s]:%u", host, scope, ntohs(a->in6.sin6_port));
	clean(buf);
	return buf;
}

static const char *write_unix(const struct address *a, char *buf)
{
	size_t length = a->length - offsetof(struct sockaddr_un, sun_path);
	bool is_abstract = !a->un.sun_path[0];

	memcpy(buf, a->un.sun_path, length);
	buf[length] = '\0'; /* the kernel fills all 108 bytes with a path if it has that many */
	if (is_abstract)
		for (size_t i = 0; i < length; i++)
			if (!buf[i])
				buf[i] = i ? '?' : '@';
	clean(buf);
	return buf;
}

const char *addr_text(const struct address *a, char buf[ADDR_TEXT_MAX])
{
	size_t header = offsetof(struct sockaddr_un, sun_path);
	struct address v4;

	if (a->any.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr)) {
		v4 = unmap(a);
		return write_inet(&v4, buf);
	}
	if (a->any.sa_family == AF_INET || a->any.sa_family == AF_INET6)
		return write_inet(a, buf);
	if (a->any.sa_family == AF_UNIX && a->length > header && a->length <= sizeof a->un)
		return write_unix(a, buf);
	return strcpy(buf, a->any.sa_family == AF_UNIX ? "unix" : "?");
}
