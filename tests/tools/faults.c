/*
 * faults.c - makes chosen calls of a program fail, to be preloaded.
 *
 *      cc -std=c11 -D_GNU_SOURCE -shared -fPIC -o faults.so faults.c -ldl
 *      activate ... -- env LD_PRELOAD=.../faults.so FAULTS=CALL:WHAT:N,... COMMAND...
 *
 * (env, because it is the command's calls that should be counted and not the activator's.)
 *
 *      CALL  one of the names below; malloc stands for the whole family, send for sendto as well
 *      WHAT  an errno by name or number; for getaddrinfo also EAI_AGAIN, EAI_NONAME, EAI_FAIL;
 *            short: a read or write of one byte only; sleepMS: the call goes on, but later
 *      N     which calls, counted from 1 for each CALL: 3, 3-7, 3+ (from then on), %3 (every third)
 *
 * What getaddrinfo calls itself is left alone: glibc 2.36 crashes there when memory is short, which is its own affair.
 *
 * FAULTS_ARM=FILE  nothing is counted before FILE exists.  Until then each call of a CALL looks for it, with a system
 *                  call of its own: that is slow, but exact, and it takes no signal, thread or descriptor.
 * FAULTS_LOG=FILE  each hit appends "call what n"; a hit is lost here if no descriptor is free.
 * FAULTS_COUNT=FILE  at exit(3) appends "call n" for each CALL: how far a sweep over N has to go.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum call {
	MALLOC, SOCKET, CONNECT, BIND, LISTEN, ACCEPT4, RECV, SEND, READ, WRITE, EPOLL_CTL, EPOLL_WAIT, SHUTDOWN,
	SETSOCKOPT, GETSOCKOPT, PTHREAD_CREATE, EVENTFD, FCNTL, SPLICE, PIPE2, GETADDRINFO,
	CALLOC, REALLOC, ALIGNED_ALLOC, POSIX_MEMALIGN, FREE, SENDTO, CALLS, COUNTED = CALLOC
};

enum { RULES_MAX = 64, ARENA = 65536 };
enum what { WHAT_ERROR, WHAT_SHORT, WHAT_SLEEP };

struct rule {
	enum call call;
	enum what what;
	const char *word;           /* WHAT as it was written, up to a ':' */
	int n;                      /* errno, EAI code or ms */
	uint64_t from, to, every;   /* every 0: from to to */
};

static const char *const names[CALLS] = {
	"malloc", "socket", "connect", "bind", "listen", "accept4", "recv", "send", "read", "write", "epoll_ctl",
	"epoll_wait", "shutdown", "setsockopt", "getsockopt", "pthread_create", "eventfd", "fcntl", "splice", "pipe2",
	"getaddrinfo", "calloc", "realloc", "aligned_alloc", "posix_memalign", "free", "sendto",
};

static const struct { const char *name; int n; } errors[] = {
	{ "EPERM", EPERM }, { "ENOENT", ENOENT }, { "EINTR", EINTR }, { "EIO", EIO }, { "EBADF", EBADF },
	{ "EAGAIN", EAGAIN }, { "ENOMEM", ENOMEM }, { "EACCES", EACCES }, { "EFAULT", EFAULT }, { "EEXIST", EEXIST },
	{ "EINVAL", EINVAL }, { "ENFILE", ENFILE }, { "EMFILE", EMFILE }, { "ENOSPC", ENOSPC }, { "EPIPE", EPIPE },
	{ "ENOSYS", ENOSYS }, { "ENOTSOCK", ENOTSOCK }, { "ENOPROTOOPT", ENOPROTOOPT }, { "EOPNOTSUPP", EOPNOTSUPP },
	{ "EAFNOSUPPORT", EAFNOSUPPORT }, { "EADDRINUSE", EADDRINUSE }, { "EADDRNOTAVAIL", EADDRNOTAVAIL },
	{ "ENETDOWN", ENETDOWN }, { "ENETUNREACH", ENETUNREACH }, { "ECONNABORTED", ECONNABORTED },
	{ "ECONNRESET", ECONNRESET }, { "ENOBUFS", ENOBUFS }, { "ENOTCONN", ENOTCONN }, { "ETIMEDOUT", ETIMEDOUT },
	{ "ECONNREFUSED", ECONNREFUSED }, { "EHOSTUNREACH", EHOSTUNREACH }, { "EINPROGRESS", EINPROGRESS },
	{ "EPROTO", EPROTO }, { "EAI_AGAIN", EAI_AGAIN }, { "EAI_NONAME", EAI_NONAME }, { "EAI_FAIL", EAI_FAIL },
};

static struct rule rules[RULES_MAX];
static int rule_count;
static _Atomic uint64_t counts[COUNTED];
static _Atomic bool is_armed;
static _Thread_local bool is_inside __attribute__((tls_model("initial-exec"))); /* getaddrinfo */
static const char *arm_file, *log_file, *count_file;

/* dlsym(3) itself may allocate: until the real functions are known, memory comes from here and is never given back. */
static void (*real[CALLS])(void);
static bool is_resolving;
static _Alignas(max_align_t) unsigned char arena[ARENA];
static size_t arena_used;

/* ---- set up ---- */

static void stop(const char *what) __attribute__((noreturn));
static void stop(const char *what)
{
	static const char head[] = "faults: bad FAULTS at: ";

	syscall(SYS_write, 2, head, sizeof(head) - 1);
	syscall(SYS_write, 2, what, strlen(what));
	syscall(SYS_write, 2, "\n", (size_t)1);
	_exit(99);
}

static void resolve(void)
{
	is_resolving = true;
	for (int i = 0; i < CALLS; i++) {
		void *symbol = dlsym(RTLD_NEXT, names[i]);

		memcpy(&real[i], &symbol, sizeof(symbol));
	}
	is_resolving = false;
}

static void (*original(enum call call))(void)
{
	if (!real[FREE])
		resolve();
	return real[call];
}

static void parse_what(struct rule *r, const char *word, size_t n)
{
	r->word = word;
	if (n == 5 && !strncmp(word, "short", n)) {
		r->what = WHAT_SHORT;
		return;
	}
	if (n > 5 && !strncmp(word, "sleep", 5)) {
		r->what = WHAT_SLEEP;
		r->n = atoi(word + 5);
		return;
	}
	r->n = atoi(word);
	for (size_t i = 0; r->n == 0 && i < sizeof(errors) / sizeof(*errors); i++)
		if (strlen(errors[i].name) == n && !strncmp(word, errors[i].name, n))
			r->n = errors[i].n;
	if (r->n == 0)
		stop(word);
}

/* N, A-B, A+, %K, up to a ',' or the end, which it returns. */
static const char *parse_which(struct rule *r, const char *word)
{
	bool is_every = *word == '%';
	char *end;
	uint64_t n = strtoull(word + is_every, &end, 10);

	if (end == word + is_every || n == 0)
		stop(word);
	r->from = r->to = n;
	r->every = is_every ? n : 0;
	if (*end == '-')
		r->to = strtoull(end + 1, &end, 10);
	else if (*end == '+') {
		r->to = UINT64_MAX;
		end++;
	}
	if (*end && *end != ',')
		stop(word);
	return end;
}

static const char *parse_rule(const char *word)
{
	struct rule *r = &rules[rule_count];
	size_t n = strcspn(word, ":"), call = 0;
	const char *what = word + n + 1;

	while (call < COUNTED && (strlen(names[call]) != n || strncmp(word, names[call], n) != 0))
		call++;
	if (call == COUNTED || !word[n] || rule_count == RULES_MAX)
		stop(word);
	r->call = (enum call)call;
	n = strcspn(what, ":");
	if (!what[n])
		stop(word);
	parse_what(r, what, n);
	rule_count++;
	return parse_which(r, what + n + 1);
}

__attribute__((constructor)) static void begin(void)
{
	const char *word = getenv("FAULTS");

	original(MALLOC);
	arm_file = getenv("FAULTS_ARM");
	log_file = getenv("FAULTS_LOG");
	count_file = getenv("FAULTS_COUNT");
	while (word && *word) {
		word = parse_rule(word);
		word += *word == ',';
	}
	is_armed = !arm_file;
}

/* ---- hits ---- */

/* Past the functions of this file, which would count. */
static void append(const char *file, const char *line, int n)
{
	int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (fd < 0)
		return;
	syscall(SYS_write, fd, line, (size_t)n);
	syscall(SYS_close, fd);
}

static void tell(const struct rule *r, uint64_t n)
{
	char line[128];

	if (log_file)
		append(log_file, line, snprintf(line, sizeof(line), "%s %.*s %llu\n", names[r->call],
						(int)strcspn(r->word, ":"), r->word, (unsigned long long)n));
}

__attribute__((destructor)) static void end(void)
{
	char line[128];

	for (int i = 0; count_file && i < COUNTED; i++)
		append(count_file, line, snprintf(line, sizeof(line), "%s %llu\n", names[i],
						  (unsigned long long)counts[i]));
}

static bool may_count(void)
{
	if (!is_armed && arm_file && syscall(SYS_faccessat, AT_FDCWD, arm_file, F_OK) == 0)
		is_armed = true;
	return is_armed;
}

static const struct rule *match(enum call call)
{
	uint64_t n = ++counts[call];

	for (int i = 0; i < rule_count; i++) {
		const struct rule *r = &rules[i];

		if (r->call == call && (r->every ? n % r->every == 0 : n >= r->from && n <= r->to)) {
			tell(r, n);
			return r;
		}
	}
	return NULL;
}

/* The error to fail with, 0 for none.  *size, where there is one, becomes 1 for a short count. */
static int fault(enum call call, size_t *size)
{
	int before = errno;
	const struct rule *r = !is_inside && may_count() ? match(call) : NULL;

	errno = before;
	if (r && r->what == WHAT_ERROR)
		return r->n;
	if (r && r->what == WHAT_SHORT && size && *size > 1)
		*size = 1;
	if (r && r->what == WHAT_SLEEP) {
		struct timespec ts = { r->n / 1000, (long)(r->n % 1000) * 1000000 };

		nanosleep(&ts, NULL);
		errno = before;
	}
	return 0;
}

static bool fails(enum call call, size_t *size)
{
	int error = fault(call, size);

	if (error)
		errno = error;
	return error != 0;
}

/* ---- memory ---- */

/*
 * The functions that follow have names of their own here and the C library's for the linker, because its headers
 * rename some (fcntl64) and know too much about others.
 */
#define REPLACE(type, name, symbol, ...) \
	type name(__VA_ARGS__) __asm__(symbol); \
	type name(__VA_ARGS__)

static void *from_arena(size_t n)
{
	size_t at = arena_used;

	n = (n + _Alignof(max_align_t) - 1) & ~(_Alignof(max_align_t) - 1);
	if (n > ARENA - at)
		return NULL;
	arena_used += n;
	return arena + at;
}

static bool is_from_arena(const void *p)
{
	return (uintptr_t)p >= (uintptr_t)arena && (uintptr_t)p < (uintptr_t)arena + ARENA;
}

REPLACE(void *, fault_malloc, "malloc", size_t n)
{
	if (is_resolving)
		return from_arena(n);
	return fails(MALLOC, NULL) ? NULL : ((void *(*)(size_t))original(MALLOC))(n);
}

REPLACE(void *, fault_calloc, "calloc", size_t count, size_t n)
{
	if (is_resolving)
		return n && count > ARENA / n ? NULL : from_arena(count * n);
	return fails(MALLOC, NULL) ? NULL : ((void *(*)(size_t, size_t))original(CALLOC))(count, n);
}

REPLACE(void *, fault_realloc, "realloc", void *p, size_t n)
{
	void *copy;

	if (!is_resolving && !is_from_arena(p))
		return fails(MALLOC, NULL) ? NULL : ((void *(*)(void *, size_t))original(REALLOC))(p, n);
	copy = fault_malloc(n);
	if (copy && p)
		memcpy(copy, p, n < (size_t)(arena + ARENA - (unsigned char *)p) ?
			n : (size_t)(arena + ARENA - (unsigned char *)p));
	return copy;
}

REPLACE(void *, fault_aligned_alloc, "aligned_alloc", size_t alignment, size_t n)
{
	return fails(MALLOC, NULL) ? NULL : ((void *(*)(size_t, size_t))original(ALIGNED_ALLOC))(alignment, n);
}

REPLACE(int, fault_posix_memalign, "posix_memalign", void **p, size_t alignment, size_t n)
{
	int error = fault(MALLOC, NULL);

	return error ? error : ((int (*)(void **, size_t, size_t))original(POSIX_MEMALIGN))(p, alignment, n);
}

REPLACE(void, fault_free, "free", void *p)
{
	if (p && !is_from_arena(p))
		((void (*)(void *))original(FREE))(p);
}

/* ---- sockets ---- */

REPLACE(int, fault_socket, "socket", int family, int type, int protocol)
{
	return fails(SOCKET, NULL) ? -1 : ((int (*)(int, int, int))original(SOCKET))(family, type, protocol);
}

REPLACE(int, fault_connect, "connect", int fd, const void *address, socklen_t n)
{
	return fails(CONNECT, NULL) ? -1 : ((int (*)(int, const void *, socklen_t))original(CONNECT))(fd, address, n);
}

REPLACE(int, fault_bind, "bind", int fd, const void *address, socklen_t n)
{
	return fails(BIND, NULL) ? -1 : ((int (*)(int, const void *, socklen_t))original(BIND))(fd, address, n);
}

REPLACE(int, fault_listen, "listen", int fd, int backlog)
{
	return fails(LISTEN, NULL) ? -1 : ((int (*)(int, int))original(LISTEN))(fd, backlog);
}

REPLACE(int, fault_accept4, "accept4", int fd, void *address, socklen_t *n, int flags)
{
	if (fails(ACCEPT4, NULL))
		return -1;
	return ((int (*)(int, void *, socklen_t *, int))original(ACCEPT4))(fd, address, n, flags);
}

REPLACE(int, fault_shutdown, "shutdown", int fd, int how)
{
	return fails(SHUTDOWN, NULL) ? -1 : ((int (*)(int, int))original(SHUTDOWN))(fd, how);
}

REPLACE(int, fault_setsockopt, "setsockopt", int fd, int level, int name, const void *p, socklen_t n)
{
	if (fails(SETSOCKOPT, NULL))
		return -1;
	return ((int (*)(int, int, int, const void *, socklen_t))original(SETSOCKOPT))(fd, level, name, p, n);
}

REPLACE(int, fault_getsockopt, "getsockopt", int fd, int level, int name, void *p, socklen_t *n)
{
	if (fails(GETSOCKOPT, NULL))
		return -1;
	return ((int (*)(int, int, int, void *, socklen_t *))original(GETSOCKOPT))(fd, level, name, p, n);
}

/* ---- bytes ---- */

REPLACE(ssize_t, fault_recv, "recv", int fd, void *p, size_t n, int flags)
{
	return fails(RECV, &n) ? -1 : ((ssize_t (*)(int, void *, size_t, int))original(RECV))(fd, p, n, flags);
}

REPLACE(ssize_t, fault_send, "send", int fd, const void *p, size_t n, int flags)
{
	return fails(SEND, &n) ? -1 : ((ssize_t (*)(int, const void *, size_t, int))original(SEND))(fd, p, n, flags);
}

/* A datagram cannot be sent in parts, so there is no short count here. */
REPLACE(ssize_t, fault_sendto, "sendto", int fd, const void *p, size_t n, int flags, const void *to, socklen_t length)
{
	if (fails(SEND, NULL))
		return -1;
	return ((ssize_t (*)(int, const void *, size_t, int, const void *, socklen_t))original(SENDTO))
		(fd, p, n, flags, to, length);
}

REPLACE(ssize_t, fault_read, "read", int fd, void *p, size_t n)
{
	return fails(READ, &n) ? -1 : ((ssize_t (*)(int, void *, size_t))original(READ))(fd, p, n);
}

REPLACE(ssize_t, fault_write, "write", int fd, const void *p, size_t n)
{
	return fails(WRITE, &n) ? -1 : ((ssize_t (*)(int, const void *, size_t))original(WRITE))(fd, p, n);
}

REPLACE(ssize_t, fault_splice, "splice", int in, void *at, int out, void *to, size_t n, unsigned flags)
{
	if (fails(SPLICE, &n))
		return -1;
	return ((ssize_t (*)(int, void *, int, void *, size_t, unsigned))original(SPLICE))
		(in, at, out, to, n, flags);
}

REPLACE(int, fault_pipe2, "pipe2", int *fds, int flags)
{
	return fails(PIPE2, NULL) ? -1 : ((int (*)(int *, int))original(PIPE2))(fds, flags);
}

/* ---- the rest ---- */

REPLACE(int, fault_epoll_ctl, "epoll_ctl", int fd, int op, int which, struct epoll_event *event)
{
	if (fails(EPOLL_CTL, NULL))
		return -1;
	return ((int (*)(int, int, int, struct epoll_event *))original(EPOLL_CTL))(fd, op, which, event);
}

REPLACE(int, fault_epoll_wait, "epoll_wait", int fd, struct epoll_event *events, int max, int timeout)
{
	if (fails(EPOLL_WAIT, NULL))
		return -1;
	return ((int (*)(int, struct epoll_event *, int, int))original(EPOLL_WAIT))(fd, events, max, timeout);
}

REPLACE(int, fault_pthread_create, "pthread_create", pthread_t *thread, const pthread_attr_t *attributes,
	void *(*routine)(void *), void *argument)
{
	int error = fault(PTHREAD_CREATE, NULL);

	if (error)
		return error;
	return ((int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))original(PTHREAD_CREATE))
		(thread, attributes, routine, argument);
}

REPLACE(int, fault_eventfd, "eventfd", unsigned value, int flags)
{
	return fails(EVENTFD, NULL) ? -1 : ((int (*)(unsigned, int))original(EVENTFD))(value, flags);
}

static int control(int fd, int command, void *argument)
{
	return fails(FCNTL, NULL) ? -1 : ((int (*)(int, int, ...))original(FCNTL))(fd, command, argument);
}

/* An int passed for the ... arrives in the low half, which is all that fcntl will look at. */
int fault_fcntl(int fd, int command, ...) __asm__("fcntl");
int fault_fcntl(int fd, int command, ...)
{
	void *argument;
	va_list args;

	va_start(args, command);
	argument = va_arg(args, void *);
	va_end(args);
	return control(fd, command, argument);
}

int fault_fcntl64(int fd, int command, ...) __asm__("fcntl64");
int fault_fcntl64(int fd, int command, ...)
{
	void *argument;
	va_list args;

	va_start(args, command);
	argument = va_arg(args, void *);
	va_end(args);
	return control(fd, command, argument);
}

REPLACE(int, fault_getaddrinfo, "getaddrinfo", const char *host, const char *service, const struct addrinfo *hints,
	struct addrinfo **list)
{
	int error = fault(GETADDRINFO, NULL);

	if (error < 0)
		return error;
	if (error) {
		errno = error;
		return EAI_SYSTEM;
	}
	is_inside = true;
	error = ((int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))
		original(GETADDRINFO))(host, service, hints, list);
	is_inside = false;
	return error;
}
