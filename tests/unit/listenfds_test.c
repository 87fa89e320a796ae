/*
 * listenfds_test.c - the protocol of sd_listen_fds(3), as a table: what the environment holds, and what comes of it.
 *
 * Descriptors 3 to 5 are open, 6 and all above are not.  Whatever came out, no LISTEN_ variable is left afterwards.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "../../proxyd.h"
#include "tap.h"

enum { FIRST = 3, OPEN = 3 };

#define PIDFS 0x50494446

struct row {
	const char *pid; /* "%d" stands for our own */
	const char *fds, *names, *id;
	int is;          /* a count, or -errno */
	const char *joined; /* the names, each ended by a comma; NULL: none */
};

static const struct row rows[] = {
	{ NULL, NULL, NULL, NULL, 0, NULL },
	{ NULL, "1", "a", NULL, 0, NULL },
	{ NULL, "x", NULL, "x", 0, NULL },
	{ "1", "1", NULL, NULL, 0, NULL },
	{ "1", "x", NULL, "x", 0, NULL },
	{ "2147483647", "1", NULL, NULL, 0, NULL },
	{ "%d", NULL, NULL, NULL, 0, NULL },
	{ "%d", NULL, "a", NULL, 0, NULL },
	{ "%d", "1", NULL, NULL, 1, NULL },
	{ "%d", "2", NULL, NULL, 2, NULL },
	{ "%d", "3", NULL, NULL, 3, NULL },
	{ " %d", "1", NULL, NULL, 1, NULL },
	{ "+%d", "1", NULL, NULL, 1, NULL },

	{ "", "1", NULL, NULL, -EINVAL, NULL },
	{ "x", "1", NULL, NULL, -EINVAL, NULL },
	{ "0", "1", NULL, NULL, -EINVAL, NULL },
	{ "-1", "1", NULL, NULL, -EINVAL, NULL },
	{ "-%d", "1", NULL, NULL, -EINVAL, NULL },
	{ "%d ", "1", NULL, NULL, -EINVAL, NULL },
	{ "%dx", "1", NULL, NULL, -EINVAL, NULL },
	{ "2147483648", "1", NULL, NULL, -EINVAL, NULL },
	{ "4294967297", "1", NULL, NULL, -EINVAL, NULL },

	{ "%d", "", NULL, NULL, -EINVAL, NULL },
	{ "%d", "0", NULL, NULL, -EINVAL, NULL },
	{ "%d", "-1", NULL, NULL, -EINVAL, NULL },
	{ "%d", "abc", NULL, NULL, -EINVAL, NULL },
	{ "%d", "1 ", NULL, NULL, -EINVAL, NULL },
	{ "%d", "1x", NULL, NULL, -EINVAL, NULL },
	{ "%d", "2147483644", NULL, NULL, -EBADF, NULL },
	{ "%d", "2147483645", NULL, NULL, -EINVAL, NULL },
	{ "%d", "2147483647", NULL, NULL, -EINVAL, NULL },
	{ "%d", "4294967297", NULL, NULL, -EINVAL, NULL },
	{ "%d", "4", NULL, NULL, -EBADF, NULL },
	{ "%d", "1000", NULL, NULL, -EBADF, NULL },
	{ "%d", " 1", NULL, NULL, 1, NULL },
	{ "%d", "0x1", NULL, NULL, 1, NULL },
	{ "%d", "+1", NULL, NULL, 1, NULL },
	{ "%d", "02", NULL, NULL, 2, NULL },

	{ "%d", "1", "web", NULL, 1, "web," },
	{ "%d", "1", "", NULL, 1, "," },
	{ "%d", "3", "web:admin:web", NULL, 3, "web,admin,web," },
	{ "%d", "3", "a::c", NULL, 3, "a,,c," },
	{ "%d", "3", "::", NULL, 3, ",,," },
	{ "%d", "3", "a:b", NULL, 3, NULL },
	{ "%d", "3", "a:b:c:", NULL, 3, NULL },
	{ "%d", "3", "", NULL, 3, NULL },
	{ "%d", "1", ":", NULL, 1, NULL },

	{ "%d", "1", NULL, "self", 1, NULL },
	{ "%d", "2", "a:b", "self", 2, "a,b," },
	{ "%d", NULL, NULL, "self", 0, NULL },
	{ "%d", "0", NULL, "self", -EINVAL, NULL },
	{ "%d", "1", NULL, "", -EINVAL, NULL },
	{ "%d", "1", NULL, "x", -EINVAL, NULL },
	{ "%d", "1", NULL, "1x", -EINVAL, NULL },
	{ "%d", "1", NULL, "1 ", -EINVAL, NULL },
	{ "%d", "1", NULL, " 1", -EINVAL, NULL },
	{ "%d", "1", NULL, "+1", -EINVAL, NULL },
	{ "%d", "1", NULL, "-1", -EINVAL, NULL },
	{ "%d", "1", NULL, "18446744073709551616", -EINVAL, NULL },
};

/* The inode number of a pidfd of ourselves; false if this kernel's pidfds have none of their own. */
static bool own_id(unsigned long long *id)
{
	struct statfs fs;
	struct stat st;
	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	*id = 0;
	if (fd < 0)
		return false;
	bool is_pidfs = fstatfs(fd, &fs) == 0 && fs.f_type == PIDFS && fstat(fd, &st) == 0;
	if (is_pidfs)
		*id = st.st_ino;
	close(fd);
	return is_pidfs;
}

static void set(const char *name, const char *value)
{
	if (value != NULL)
		setenv(name, value, 1);
	else
		unsetenv(name);
}

static void set_all(const struct row *r)
{
	unsigned long long id;
	const char *digits = r->pid != NULL ? strstr(r->pid, "%d") : NULL;
	char pid[64], self[64];

	own_id(&id);
	snprintf(self, sizeof(self), "%llu", id);
	if (digits != NULL)
		snprintf(pid, sizeof(pid), "%.*s%ld%s", (int)(digits - r->pid), r->pid, (long)getpid(), digits + 2);
	set("LISTEN_PID", digits != NULL ? pid : r->pid);
	set("LISTEN_FDS", r->fds);
	set("LISTEN_FDNAMES", r->names);
	set("LISTEN_PIDFDID", r->id != NULL && strcmp(r->id, "self") == 0 ? self : r->id);
}

static bool is_close_on_exec(int fd)
{
	return (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0;
}

static void open_descriptors(void)
{
	for (int i = 0; i < OPEN; i++)
		fcntl(FIRST + i, F_SETFD, 0);
}

static bool have_names(const struct passed *p, const char *joined)
{
	char all[128] = "";

	if (p->names == NULL || joined == NULL)
		return (p->names == NULL) == (joined == NULL);
	for (int i = 0; i < p->count; i++) {
		strcat(all, p->names[i]);
		strcat(all, ",");
	}
	return strcmp(all, joined) == 0;
}

static void free_names(struct passed *p)
{
	if (p->names != NULL)
		free(p->names[0]);
	free(p->names);
}

static bool is_env_clean(void)
{
	return !getenv("LISTEN_PID") && !getenv("LISTEN_FDS") && !getenv("LISTEN_FDNAMES") && !getenv("LISTEN_PIDFDID");
}

static const char *shown(const char *text)
{
	return text != NULL ? text : "(unset)";
}

static void test_row(const struct row *r)
{
	struct passed p = { .count = -1, .names = NULL };
	int want = r->is < 0 ? 0 : r->is, marked = 0;

	open_descriptors();
	set_all(r);
	int result = listenfds_take(&p);
	while (marked < OPEN && is_close_on_exec(FIRST + marked))
		marked++;
	bool is_right = result == (r->is < 0 ? r->is : 0) && p.count == want && have_names(&p, r->joined);
	ok(is_right, "LISTEN_PID=%s LISTEN_FDS=%s LISTEN_FDNAMES=%s LISTEN_PIDFDID=%s: result %d, count %d, right names",
	   shown(r->pid), shown(r->fds), shown(r->names), shown(r->id), result, p.count);
	if (r->is >= 0)
		ok(marked == want, "of its descriptors and no others %d are close-on-exec", marked);
	ok(is_env_clean(), "nothing of it is left in the environment");
	free_names(&p);
}

/* The id of another process, which this kernel can tell from ours or cannot. */
static void test_foreign_id(void)
{
	unsigned long long id;
	bool can_tell = own_id(&id);
	char other[32];
	struct row r = { "%d", "1", NULL, other, can_tell ? 0 : 1, NULL };

	snprintf(other, sizeof(other), "%llu", id + 1);
	test_row(&r);
	r.fds = "x";
	r.is = can_tell ? 0 : -EINVAL;
	test_row(&r);
}

static enum socket_kind kind_of(int fd, bool *is_unix)
{
	enum socket_kind kind = listenfds_kind(fd, is_unix);

	close(fd);
	return kind;
}

static int listening(int domain, int type)
{
	int fd = socket(domain, type, 0);
	struct sockaddr_un un = { .sun_family = AF_UNIX };

	/* Without a name the kernel chooses one. */
	if (domain == AF_UNIX && bind(fd, (struct sockaddr *)&un, sizeof(sa_family_t)) < 0)
		return -1;
	return listen(fd, 1) == 0 ? fd : -1;
}

static void test_kinds(void)
{
	bool is_unix;
	int pair[2];

	ok(kind_of(listening(AF_INET, SOCK_STREAM), &is_unix) == SOCKET_LISTENING && !is_unix, "a TCP socket that listens");
	ok(kind_of(listening(AF_INET6, SOCK_STREAM), &is_unix) == SOCKET_LISTENING && !is_unix, "the same with IPv6");
	ok(kind_of(listening(AF_UNIX, SOCK_STREAM), &is_unix) == SOCKET_LISTENING && is_unix, "a unix socket that listens");
	ok(kind_of(listening(AF_UNIX, SOCK_SEQPACKET), &is_unix) == SOCKET_OTHER, "SOCK_SEQPACKET is no stream");
	ok(kind_of(socket(AF_INET, SOCK_DGRAM, 0), &is_unix) == SOCKET_OTHER, "a datagram socket");
	ok(kind_of(socket(AF_INET, SOCK_STREAM, 0), &is_unix) == SOCKET_OTHER, "a stream that is nothing yet");
	ok(kind_of(open("/dev/null", O_RDWR), &is_unix) == SOCKET_OTHER, "a file");
	ok(listenfds_kind(1000, &is_unix) == SOCKET_OTHER, "a descriptor that is not open");
	ok(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "a pair");
	ok(kind_of(pair[0], &is_unix) == SOCKET_CONNECTED && is_unix, "a connection whose other end is open");
	close(pair[1]);
}

int main(void)
{
	for (int i = 0; i < OPEN; i++)
		if (dup2(STDERR_FILENO, FIRST + i) < 0)
			return 1;
	/* Whoever started this may have left more open. */
	for (int fd = FIRST + OPEN; fd < 256; fd++)
		close(fd);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		test_row(&rows[i]);
	test_foreign_id();
	test_kinds();
	return done_testing();
}
