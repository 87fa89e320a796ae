/*
 * addr_test.c - addresses in words, as tables: what a text becomes when it is written back, or why it is refused.
 *
 * Needs "http" and "domain" in the services of the machine, and the interface lo.
 */
#include <errno.h>
#include <string.h>

#include "../../proxyd.h"
#include "tap.h"

struct row {
	const char *text;
	const char *is;    /* as written back; "host service" for a name; NULL: refused */
	const char *has;   /* part of why, if refused */
};

#define TEN "0123456789"
#define FIFTY TEN TEN TEN TEN TEN
#define HUNDRED FIFTY FIFTY

static const struct row targets[] = {
	{ "127.0.0.1:80", "127.0.0.1:80", NULL },
	{ "127.0.0.1", "127.0.0.1:80", NULL },
	{ "127.0.0.1:1", "127.0.0.1:1", NULL },
	{ "127.0.0.1:65535", "127.0.0.1:65535", NULL },
	{ "127.0.0.1:0080", "127.0.0.1:80", NULL },
	{ "127.1:8080", "127.0.0.1:8080", NULL },
	{ "0x7f000001:80", "127.0.0.1:80", NULL },
	{ "0.0.0.0:80", "0.0.0.0:80", NULL },
	{ "127.0.0.1:http", "127.0.0.1:80", NULL },
	{ "[::1]:http", "[::1]:80", NULL },
	{ "[::1]:8080", "[::1]:8080", NULL },
	{ "[::1]", "[::1]:80", NULL },
	{ "[::]:1", "[::]:1", NULL },
	{ "::1:8080", "[::1]:8080", NULL },
	{ "2001:db8::1:80", "[2001:db8::1]:80", NULL },
	{ "1:2:3:4:5:6:7:8:9", "[1:2:3:4:5:6:7:8]:9", NULL },
	{ "fe80::1%lo:80", "[fe80::1%lo]:80", NULL },
	{ "[fe80::1%lo]:80", "[fe80::1%lo]:80", NULL },
	{ "[fe80::1%1]", "[fe80::1%lo]:80", NULL },
	{ "[::ffff:127.0.0.1]:80", "127.0.0.1:80", NULL },
	{ "localhost", "localhost 80", NULL },
	{ "localhost:8080", "localhost 8080", NULL },
	{ "localhost:http", "localhost 80", NULL },
	{ "localhost:domain", "localhost 53", NULL },
	{ "example.com.:443", "example.com. 443", NULL },
	{ "1.2.3.4.5:80", "1.2.3.4.5 80", NULL },
	{ "8080x", "8080x 80", NULL },
	{ "a_b-c:80", "a_b-c 80", NULL },
	{ HUNDRED HUNDRED FIFTY "abc:80", HUNDRED HUNDRED FIFTY "abc 80", NULL },
	{ "/run/x", "/run/x", NULL },
	{ "/run/a:80", "/run/a:80", NULL },
	{ "/run/x y", "/run/x y", NULL },
	{ "/run/\nx", "/run/?x", NULL },
	{ "/" HUNDRED "123456", "/" HUNDRED "123456", NULL },
	{ "@proxy", "@proxy", NULL },
	{ "@a/b:80", "@a/b:80", NULL },
	{ "@a\001b", "@a?b", NULL },
	{ "@" HUNDRED "1234567", "@" HUNDRED "1234567", NULL },

	{ "", NULL, "is empty" },
	{ "8080", NULL, "8080 has no host, only a port; write 127.0.0.1:8080" },
	{ "0", NULL, "0 has port 0" },
	{ "70000", NULL, "70000 has a port past the last" },
	{ ":8080", NULL, ":8080 has no host before the colon; write one, such as 127.0.0.1:8080" },
	{ ":", NULL, ": has no host" },
	{ "a:", NULL, "a: has an empty port" },
	{ "[::1]:", NULL, "[::1]: has an empty port" },
	{ "a:0", NULL, "a:0 has port 0" },
	{ "127.0.0.1:00", NULL, "has port 0" },
	{ "a:65536", NULL, "a:65536 has a port past the last" },
	{ "127.0.0.1:99999999999999999999", NULL, "has a port past the last" },
	{ "127.0.0.1:80x", NULL, "no number and no known service" },
	{ "127.0.0.1:+80", NULL, "no number and no known service" },
	{ "127.0.0.1:-1", NULL, "no number and no known service" },
	{ "127.0.0.1: 80", NULL, "no number and no known service" },
	{ "127.0.0.1:80 ", NULL, "no number and no known service" },
	{ "127.0.0.1:0x50", NULL, "no number and no known service" },
	{ "127.0.0.1:80/tcp", NULL, "no number and no known service" },
	{ "127.0.0.1:no-such-service", NULL, "no number and no known service" },
	{ "localhost:no-such-service", NULL, "no number and no known service" },
	{ "::1", NULL, "::1 has no port, and its colons need brackets; write [::1]:80" },
	{ "::", NULL, "write [::]:80" },
	{ "fe80::1%lo", NULL, "write [fe80::1%lo]:80" },
	{ "::1.2.3.4", NULL, "write [::1.2.3.4]:80" },
	{ "a:b:80", NULL, "no IPv6 address" },
	{ "1::2::3:80", NULL, "no IPv6 address" },
	{ "127.0.0.1:80:80", NULL, "no IPv6 address" },
	{ "tcp:127.0.0.1:80", NULL, "no IPv6 address" },
	{ "fe80::1%no-such-if:80", NULL, "an interface that does not exist" },
	{ "[fe80::1%no-such-if]:80", NULL, "an interface that does not exist" },
	{ "[", NULL, "has a [ but no ]" },
	{ "[::1", NULL, "has a [ but no ]" },
	{ "[::1:80", NULL, "has a [ but no ]" },
	{ "[]", NULL, "no IPv6 address" },
	{ "[]:80", NULL, "no IPv6 address" },
	{ "[localhost]:80", NULL, "no IPv6 address" },
	{ "[127.0.0.1]:80", NULL, "no IPv6 address" },
	{ "[ ::1]:80", NULL, "no IPv6 address" },
	{ "[" HUNDRED HUNDRED HUNDRED "]:80", NULL, "no IPv6 address" },
	{ "[::1]x", NULL, "goes on after the ]" },
	{ "[::1]80", NULL, "goes on after the ]" },
	{ "[::1] :80", NULL, "goes on after the ]" },
	{ "[::1]]:80", NULL, "goes on after the ]" },
	{ "[::1]:80:80", NULL, "no number and no known service" },
	{ " localhost:80", NULL, "a character in its host" },
	{ "local host:80", NULL, "a character in its host" },
	{ "localhost\t:80", NULL, "localhost?:80 has a character in its host" },
	{ "localhost\n", NULL, "localhost? has a character in its host" },
	{ "localhost\177:80", NULL, "a character in its host" },
	{ "http://localhost:80", NULL, "a character in its host" },
	{ "localhost/x:80", NULL, "a character in its host" },
	{ "host]:80", NULL, "a character in its host" },
	{ HUNDRED HUNDRED FIFTY "abcd:80", NULL, "longer than 253 bytes" },
	{ "/" HUNDRED "1234567", NULL, "shorten it to the 107 that fit" },
	{ "@", NULL, "@ has no name" },
	{ "@" HUNDRED "12345678", NULL, "shorten it to the 108 that fit" },
};

static const struct row listens[] = {
	{ "8080", "[::]:8080", NULL },
	{ "0", "[::]:0", NULL },
	{ "65535", "[::]:65535", NULL },
	{ "http", "[::]:80", NULL },
	{ "127.0.0.1:0", "127.0.0.1:0", NULL },
	{ "127.0.0.1:8080", "127.0.0.1:8080", NULL },
	{ "127.1:http", "127.0.0.1:80", NULL },
	{ "0.0.0.0:80", "0.0.0.0:80", NULL },
	{ "[::1]:8080", "[::1]:8080", NULL },
	{ "[::]:0", "[::]:0", NULL },
	{ "[fe80::1%lo]:80", "[fe80::1%lo]:80", NULL },
	{ "::1:8080", "[::1]:8080", NULL },
	{ ":::80", "[::]:80", NULL },
	{ "/run/proxyd.sock", "/run/proxyd.sock", NULL },
	{ "@proxyd", "@proxyd", NULL },

	{ "", NULL, "is empty" },
	{ "65536", NULL, "write one from 0 to 65535" },
	{ "127.0.0.1:65536", NULL, "write one from 0 to 65535" },
	{ "no-such-service", NULL, "is no port and no known service" },
	{ "8080x", NULL, "is no port and no known service" },
	{ "-1", NULL, "is no port and no known service" },
	{ " 80", NULL, "is no port and no known service" },
	{ "localhost", NULL, "is no port and no known service" },
	{ "localhost:80", NULL, "localhost:80 has a host that is no numeric address; write one, or the port alone" },
	{ "*:80", NULL, "no numeric address" },
	{ ":80", NULL, ":80 has no address before the colon; write the port alone" },
	{ ":", NULL, "has no address before the colon" },
	{ "127.0.0.1", NULL, "127.0.0.1 has no port; write 127.0.0.1:PORT" },
	{ "127.0.0.1:", NULL, "has an empty port" },
	{ "[::1]", NULL, "[::1] has no port; write [::1]:PORT" },
	{ "::1", NULL, "write [::1]:PORT" },
	{ "[::1", NULL, "has a [ but no ]" },
	{ "127.0.0.1:80x", NULL, "no number and no known service" },
	{ "@", NULL, "has no name" },
	{ "/" HUNDRED "1234567", NULL, "shorten it" },
};

/* One line, that begins with the text or its beginning and holds what it must. */
static bool is_clear(const char *why, const struct row *row)
{
	size_t length = strcspn(row->text, "\t\n\177");

	if (length > 64)
		length = 64;
	for (const char *c = why; *c; c++)
		if (*c < ' ' || *c > '~')
			return false;
	return (length == 0 || strncmp(why, row->text, length) == 0) && strstr(why, row->has) && strlen(why) < 250;
}

/* is: what the text became, NULL if it was refused. */
static void check(const char *what, const struct row *row, int r, const char *is, const char *why)
{
	bool is_good = r == 0 ? row->is && strcmp(is, row->is) == 0
		: r == -EINVAL && !row->is && is_clear(why, row);

	if (!ok(is_good, "%s %zu is %s", what, strlen(row->text), row->is ? row->is : row->has))
		printf("# %s gives %s\n", row->text, r == 0 ? is : why);
}

static void check_target(const struct row *row)
{
	char why[ADDR_WHY_MAX] = "", text[ADDR_TEXT_MAX], name[ADDR_HOST_MAX + ADDR_SERVICE_MAX];
	struct target t;
	int r = addr_target(&t, row->text, why);

	snprintf(name, sizeof name, "%s %s", t.host, t.service);
	check("target", row, r, r < 0 ? NULL : t.is_name ? name : addr_text(&t.address, text), why);
	if (r == 0 && t.text != row->text)
		ok(false, "the text is kept");
}

static void check_listen(const struct row *row)
{
	char why[ADDR_WHY_MAX] = "", text[ADDR_TEXT_MAX];
	struct address a;
	int r = addr_listen(&a, row->text, why);

	check("listen", row, r, r < 0 ? NULL : addr_text(&a, text), why);
}

static void check_lengths(void)
{
	size_t header = offsetof(struct sockaddr_un, sun_path);
	char why[ADDR_WHY_MAX];
	struct target t;
	struct address a;

	addr_target(&t, "/run/x", why);
	ok(t.address.length == header + 7 && strcmp(t.address.un.sun_path, "/run/x") == 0,
		"a path is counted with its NUL");
	addr_target(&t, "@name", why);
	ok(t.address.length == header + 5 && memcmp(t.address.un.sun_path, "\0name", 5) == 0,
		"an abstract name's length ends with the name");
	addr_target(&t, "127.0.0.1:80", why);
	ok(t.address.length == sizeof(struct sockaddr_in) && t.address.in4.sin_port == htons(80), "an IPv4 address");
	addr_target(&t, "[::1]:80", why);
	ok(t.address.length == sizeof(struct sockaddr_in6) && t.address.in6.sin6_port == htons(80), "an IPv6 address");
	addr_listen(&a, "80", why);
	ok(a.length == sizeof(struct sockaddr_in6) && IN6_IS_ADDR_UNSPECIFIED(&a.in6.sin6_addr),
		"a port at any address");
}

/* What the kernel says of unix sockets. */
static void check_unix_text(void)
{
	struct address a = { .un.sun_family = AF_UNIX };
	socklen_t header = (socklen_t)offsetof(struct sockaddr_un, sun_path);
	char text[ADDR_TEXT_MAX];

	a.length = header;
	ok(strcmp(addr_text(&a, text), "unix") == 0, "an unnamed socket is unix");
	memset(a.un.sun_path, 'x', sizeof a.un.sun_path);
	a.un.sun_path[0] = '/';
	a.length = sizeof a.un;
	ok(strlen(addr_text(&a, text)) == sizeof a.un.sun_path, "a path of 108 bytes has no NUL");
	memcpy(a.un.sun_path, "\0a\0\xff\nb\0", 7);
	a.length = header + 7;
	ok(strcmp(addr_text(&a, text), "@a???b?") == 0, "an abstract name may hold any byte");
	a = (struct address){ .length = 0 };
	ok(strcmp(addr_text(&a, text), "?") == 0, "no address is a question mark");
}

int main(void)
{
	for (size_t i = 0; i < sizeof targets / sizeof targets[0]; i++)
		check_target(&targets[i]);
	for (size_t i = 0; i < sizeof listens / sizeof listens[0]; i++)
		check_listen(&listens[i]);
	check_lengths();
	check_unix_text();
	return done_testing();
}
