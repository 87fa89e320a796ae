/*
 * peer.c - a scripted end of a connection, for tests.
 *
 *      peer [-v] [-w] [-j] [-n COUNT] [-t SECONDS] connect ADDR OP...
 *      peer [-v] [-a FILE] [-b BACKLOG] [-j] [-n COUNT] [-t SECONDS] listen ADDR OP...
 *
 * ADDR is 127.0.0.1:PORT, [::1]:PORT, /path or @name.  COUNT connections (1) run the OPs, one after the other or, with
 * -j, each in its own process.  listen prints "listening ADDR" on stdout (port 0: the kernel's choice); with -a it
 * accepts nothing until FILE exists.  -w tries a refused connect again.  -v tells each OP on stderr.
 *
 *      send:SEED:BYTES expect:SEED:BYTES   bytes of a pattern (suffix K, M, G)
 *      both:SEED:BYTES:SEED2:BYTES2        send the one, expect the other, at once
 *      fill:SEED                           send until 200 ms pass without room
 *      expectall:SEED expectreset:SEED expectclosed:SEED   check all that comes until EOF, a reset, either
 *      eof reset closed wreset   the next read gives EOF, ECONNRESET, either; a write fails with ECONNRESET or EPIPE
 *      quiet:MS echo sink        nothing comes, no end either; until EOF
 *      shut rst close pause:MS until:FILE touch:FILE
 *      rcvbuf:BYTES sndbuf:BYTES (the leading ones: before connect or listen)
 *
 * Each seed is a stream without end, and a connection has one position in it for sending and one for receiving: what a
 * later OP sends of the same seed goes on where the last one stopped.  Any 8 bytes tell their place, so that a lost, a
 * doubled or a moved byte is found.  fill, sink and the expects to an end print "filled N" or "got N".
 *
 * Exit status: 0 as scripted; 1 with one line that tells what was expected and what came; 2 usage; 3 out of time.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 128 * 1024, STREAMS_MAX = 64, FILL_MS = 200, EXIT_LATE = 3 };
enum end { END_EOF = 1, END_RESET = 2 };

struct options {
	const char *accept_file;
	double seconds;
	int count, backlog;
	bool is_parallel, is_verbose, must_wait;
};

struct stream {
	uint64_t seed, at;
};

static struct options opt = { .seconds = 30, .count = 1, .backlog = SOMAXCONN };
static struct stream sent[STREAMS_MAX], received[STREAMS_MAX];
static unsigned char chunk[CHUNK], wanted[CHUNK + 8];
static const char *volatile op_now = "start";
static volatile uint64_t op_bytes;
static uint64_t started_us;
static int sock = -1;

/* ---- words ---- */

static const char *error_name(int e)
{
	switch (e) {
	case ECONNRESET: return "ECONNRESET";
	case EPIPE: return "EPIPE";
	case ECONNREFUSED: return "ECONNREFUSED";
	case ETIMEDOUT: return "ETIMEDOUT";
	case ENOENT: return "ENOENT";
	case EAGAIN: return "EAGAIN";
	default: return strerror(e);
	}
}

static void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void fail(const char *format, ...)
{
	char line[512];
	va_list args;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	dprintf(STDERR_FILENO, "peer: %s: %s\n", op_now, line);
	exit(1);
}

static void usage(const char *what, const char *word) __attribute__((noreturn));
static void usage(const char *what, const char *word)
{
	dprintf(STDERR_FILENO, "peer: %s%s\n", what, word);
	exit(2);
}

/* Reads one number and, where given, moves past the ':' that follows. */
static uint64_t number(const char **text)
{
	static const char suffixes[] = "KMG";
	const char *suffix;
	char *end;
	uint64_t n = strtoull(*text, &end, 0);

	if (end == *text || **text == '-')
		usage("not a number: ", *text);
	if (*end && (suffix = strchr(suffixes, *end))) {
		n <<= 10 * (suffix - suffixes + 1);
		end++;
	}
	if (*end && *end != ':')
		usage("not a number: ", *text);
	*text = *end ? end + 1 : end;
	return n;
}

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void sleep_ms(uint64_t ms)
{
	struct timespec ts = { (time_t)(ms / 1000), (long)(ms % 1000) * 1000000 };

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

/* ---- the deadline ---- */

static void say(const char *text)
{
	if (write(STDERR_FILENO, text, strlen(text)) < 0)
		_exit(EXIT_LATE);
}

static void late(int sig)
{
	char digits[24], *p = digits + sizeof(digits) - 1;
	uint64_t n = op_bytes;

	(void)sig;
	*p = '\0';
	do
		*--p = (char)('0' + n % 10);
	while (n /= 10);
	say("peer: ");
	say(op_now);
	say(": out of time after ");
	say(p);
	say(" bytes\n");
	_exit(EXIT_LATE);
}

/* An alarm is not inherited, so each process sets its own for what is left. */
static void arm(void)
{
	struct sigaction action = { .sa_handler = late };
	uint64_t limit = (uint64_t)(opt.seconds * 1e6), gone = now_us() - started_us;
	uint64_t left = gone < limit ? limit - gone : 1;
	struct itimerval timer = { .it_value = { (time_t)(left / 1000000), (suseconds_t)(left % 1000000) } };

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
}

/* ---- the pattern ---- */

static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9u;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

/* Returns where in buf, which has room for n + 8 bytes, the n bytes from position at on begin. */
static unsigned char *generate(unsigned char *buf, uint64_t seed, uint64_t at, size_t n)
{
	uint64_t base = mix(seed + 0x9e3779b97f4a7c15u), word = at / 8;
	size_t skip = at % 8;

	for (size_t i = 0; i < n + skip; i += 8, word++) {
		uint64_t x = mix(base + word * 0x9e3779b97f4a7c15u);

		/* The buffer ends on a multiple of 8 because skip + n <= CHUNK + 7. */
		memcpy(buf + i, &x, sizeof(x));
	}
	return buf + skip;
}

static void check(struct stream *s, const unsigned char *data, size_t n)
{
	const unsigned char *right = generate(wanted, s->seed, s->at, n);
	size_t i = 0;

	if (memcmp(data, right, n) != 0) {
		while (data[i] == right[i])
			i++;
		fail("expected seed %llu, came a wrong byte at offset %llu: 0x%02x, not 0x%02x",
		     (unsigned long long)s->seed, (unsigned long long)s->at + i, data[i], right[i]);
	}
	s->at += n;
}

static struct stream *stream(struct stream *list, uint64_t seed)
{
	int i = 0;

	while (list[i].at && list[i].seed != seed)
		if (++i == STREAMS_MAX)
			usage("too many seeds", "");
	list[i].seed = seed;
	return &list[i];
}

/* ---- bytes ---- */

static size_t at_most(uint64_t n)
{
	return n < CHUNK ? (size_t)n : CHUNK;
}

/* Sends what fits, at most n; 0 if nothing fits now. */
static size_t send_some(struct stream *s, uint64_t n, int flags)
{
	const unsigned char *data = generate(wanted, s->seed, s->at, at_most(n));
	ssize_t done = send(sock, data, at_most(n), flags | MSG_NOSIGNAL);

	if (done < 0 && errno != EAGAIN)
		fail("expected to send, came %s after %llu bytes", error_name(errno), (unsigned long long)op_bytes);
	if (done <= 0)
		return 0;
	s->at += (size_t)done;
	op_bytes += (uint64_t)done;
	return (size_t)done;
}

/* Reads what is there, at most n, and checks it: how much, or which end came (END_EOF, END_RESET in *end). */
static size_t read_some(struct stream *s, uint64_t n, enum end *end)
{
	ssize_t done = recv(sock, chunk, at_most(n), 0);

	*end = 0;
	if (done < 0 && errno != ECONNRESET)
		fail("expected to read, came %s after %llu bytes", error_name(errno), (unsigned long long)op_bytes);
	if (done <= 0) {
		*end = done ? END_RESET : END_EOF;
		return 0;
	}
	if (s)
		check(s, chunk, (size_t)done);
	op_bytes += (uint64_t)done;
	return (size_t)done;
}

static const char *end_name(unsigned end)
{
	return end == END_EOF ? "EOF" : end == END_RESET ? "ECONNRESET" : "EOF or ECONNRESET";
}

static void send_bytes(uint64_t seed, uint64_t n)
{
	struct stream *s = stream(sent, seed);

	while (n)
		n -= send_some(s, n, 0);
}

static void expect_bytes(uint64_t seed, uint64_t n)
{
	struct stream *s = stream(received, seed);
	enum end end;

	while (n) {
		n -= read_some(s, n, &end);
		if (end)
			fail("expected %llu more bytes, came %s after %llu", (unsigned long long)n, end_name(end),
			     (unsigned long long)op_bytes);
	}
}

static void expect_until(struct stream *s, unsigned ends)
{
	enum end end;

	do
		read_some(s, CHUNK, &end);
	while (!end);
	if (!(end & ends))
		fail("expected %s, came %s after %llu bytes", end_name(ends), end_name(end),
		     (unsigned long long)op_bytes);
	dprintf(STDOUT_FILENO, "got %llu\n", (unsigned long long)op_bytes);
}

static void expect_end(unsigned ends)
{
	ssize_t done = recv(sock, chunk, sizeof(chunk), 0);

	if (done > 0)
		fail("expected %s, came %zd bytes", end_name(ends), done);
	if (done < 0 && errno != ECONNRESET)
		fail("expected %s, came %s", end_name(ends), error_name(errno));
	if (!((done ? END_RESET : END_EOF) & ends))
		fail("expected %s, came %s", end_name(ends), end_name(done ? END_RESET : END_EOF));
}

static void expect_write_reset(void)
{
	memset(chunk, 'w', sizeof(chunk));
	while (send(sock, chunk, 1, MSG_NOSIGNAL) >= 0)
		sleep_ms(5);
	if (errno != ECONNRESET && errno != EPIPE)
		fail("expected ECONNRESET or EPIPE, came %s", error_name(errno));
}

static void expect_quiet(uint64_t ms)
{
	struct pollfd p = { .fd = sock, .events = POLLIN };
	ssize_t done;

	if (poll(&p, 1, (int)ms) == 0)
		return;
	done = recv(sock, chunk, sizeof(chunk), MSG_DONTWAIT);
	if (done > 0)
		fail("expected nothing, came %zd bytes", done);
	fail("expected nothing, came %s", done ? error_name(errno) : "EOF");
}

static void fill(uint64_t seed)
{
	struct pollfd p = { .fd = sock, .events = POLLOUT };
	struct stream *s = stream(sent, seed);

	do
		while (send_some(s, CHUNK, MSG_DONTWAIT))
			;
	while (poll(&p, 1, FILL_MS) > 0);
	dprintf(STDOUT_FILENO, "filled %llu\n", (unsigned long long)op_bytes);
}

static void both(uint64_t seed, uint64_t n, uint64_t seed2, uint64_t n2)
{
	struct stream *out = stream(sent, seed), *in = stream(received, seed2);
	enum end end;

	while (n || n2) {
		struct pollfd p = { .fd = sock, .events = (short)((n ? POLLOUT : 0) | (n2 ? POLLIN : 0)) };

		if (poll(&p, 1, -1) < 0)
			fail("poll: %s", error_name(errno));
		if (n && p.revents & (POLLOUT | POLLERR | POLLHUP))
			n -= send_some(out, n, MSG_DONTWAIT);
		if (!n2 || !(p.revents & (POLLIN | POLLERR | POLLHUP)))
			continue;
		n2 -= read_some(in, n2, &end);
		if (end)
			fail("expected %llu more bytes, came %s", (unsigned long long)n2, end_name(end));
	}
}

static void echo(void)
{
	enum end end;
	size_t n;

	while ((n = read_some(NULL, CHUNK, &end)))
		for (size_t i = 0; i < n;) {
			ssize_t done = send(sock, chunk + i, n - i, MSG_NOSIGNAL);

			if (done < 0)
				fail("expected to send, came %s", error_name(errno));
			i += (size_t)done;
		}
	if (end != END_EOF)
		fail("expected EOF, came %s", end_name(end));
}

/* ---- the script ---- */

static void hang_up(bool is_reset)
{
	struct linger linger = { 1, 0 };

	if (is_reset && setsockopt(sock, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) < 0)
		fail("SO_LINGER: %s", error_name(errno));
	close(sock);
	sock = -1;
}

static void set_buffer(int option, uint64_t n)
{
	int bytes = (int)n;

	if (setsockopt(sock, SOL_SOCKET, option, &bytes, sizeof(bytes)) < 0)
		fail("setsockopt: %s", error_name(errno));
}

static void wait_for(const char *file)
{
	while (access(file, F_OK) < 0)
		sleep_ms(5);
}

static void touch(const char *file)
{
	int fd = open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	if (fd < 0)
		fail("%s: %s", file, error_name(errno));
	close(fd);
}

static const char *named(const char *op, const char *name)
{
	size_t n = strlen(name);

	if (strncmp(op, name, n) != 0 || (op[n] && op[n] != ':'))
		return NULL;
	return op[n] ? op + n + 1 : op + n;
}

static void shut(void)
{
	if (shutdown(sock, SHUT_WR) < 0)
		fail("shutdown: %s", error_name(errno));
}

/* Checks everything before the first byte moves: n numbers after the name, no more and no fewer. */
static const char *args(const char *op, const char *name, int n, uint64_t *a)
{
	const char *rest = named(op, name);

	if (!rest)
		return NULL;
	for (int i = 0; i < n; i++)
		a[i] = number(&rest);
	if (*rest)
		usage("too many words: ", op);
	return op;
}

static void run_op(const char *op, bool is_dry)
{
	const char *file;
	uint64_t a[4];
	bool go = !is_dry;

	if (args(op, "send", 2, a)) { if (go) send_bytes(a[0], a[1]); }
	else if (args(op, "expect", 2, a)) { if (go) expect_bytes(a[0], a[1]); }
	else if (args(op, "both", 4, a)) { if (go) both(a[0], a[1], a[2], a[3]); }
	else if (args(op, "fill", 1, a)) { if (go) fill(a[0]); }
	else if (args(op, "expectall", 1, a)) { if (go) expect_until(stream(received, a[0]), END_EOF); }
	else if (args(op, "expectreset", 1, a)) { if (go) expect_until(stream(received, a[0]), END_RESET); }
	else if (args(op, "expectclosed", 1, a)) { if (go) expect_until(stream(received, a[0]), END_EOF | END_RESET); }
	else if (args(op, "sink", 0, a)) { if (go) expect_until(NULL, END_EOF); }
	else if (args(op, "echo", 0, a)) { if (go) echo(); }
	else if (args(op, "eof", 0, a)) { if (go) expect_end(END_EOF); }
	else if (args(op, "reset", 0, a)) { if (go) expect_end(END_RESET); }
	else if (args(op, "closed", 0, a)) { if (go) expect_end(END_EOF | END_RESET); }
	else if (args(op, "wreset", 0, a)) { if (go) expect_write_reset(); }
	else if (args(op, "quiet", 1, a)) { if (go) expect_quiet(a[0]); }
	else if (args(op, "shut", 0, a)) { if (go) shut(); }
	else if (args(op, "rst", 0, a)) { if (go) hang_up(true); }
	else if (args(op, "close", 0, a)) { if (go) hang_up(false); }
	else if (args(op, "pause", 1, a)) { if (go) sleep_ms(a[0]); }
	else if (args(op, "rcvbuf", 1, a)) { if (go) set_buffer(SO_RCVBUF, a[0]); }
	else if (args(op, "sndbuf", 1, a)) { if (go) set_buffer(SO_SNDBUF, a[0]); }
	else if ((file = named(op, "until")) && *file) { if (go) wait_for(file); }
	else if ((file = named(op, "touch")) && *file) { if (go) touch(file); }
	else usage("no such op: ", op);
}

static void run(char **ops, const char *who)
{
	for (; *ops; ops++) {
		op_now = *ops;
		op_bytes = 0;
		if (opt.is_verbose)
			dprintf(STDERR_FILENO, "peer %s: %s\n", who, *ops);
		run_op(*ops, false);
	}
	op_now = "end";
	if (sock >= 0)
		hang_up(false);
}

/* ---- connections ---- */

static socklen_t parse_unix(const char *word, struct sockaddr_un *un)
{
	size_t n = strlen(word);

	if (n >= sizeof(un->sun_path))
		usage("too long a path: ", word);
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, word, n + 1);
	if (*word == '@')
		un->sun_path[0] = '\0';
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (*word == '/' ? 1 : 0));
}

static socklen_t parse(const char *word, struct sockaddr_storage *ss)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)ss;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ss;
	char host[64];
	const char *colon = strrchr(word, ':'), *port = colon ? colon + 1 : word;
	size_t bracket = *word == '[' ? 1 : 0;

	memset(ss, 0, sizeof(*ss));
	if (*word == '/' || *word == '@')
		return parse_unix(word, (struct sockaddr_un *)ss);
	if (!colon || (size_t)(colon - word) >= sizeof(host) || colon - word < 3)
		usage("not an address: ", word);
	snprintf(host, sizeof(host), "%.*s", (int)((size_t)(colon - word) - 2 * bracket), word + bracket);
	v4->sin_port = htons((uint16_t)number(&port)); /* in the same place in both */
	ss->ss_family = bracket ? AF_INET6 : AF_INET;
	if (inet_pton(ss->ss_family, host, bracket ? (void *)&v6->sin6_addr : (void *)&v4->sin_addr) != 1)
		usage("not an address: ", word);
	return bracket ? sizeof(*v6) : sizeof(*v4);
}

static void open_socket(int family, char **ops)
{
	sock = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		fail("socket: %s", error_name(errno));
	for (; *ops && (named(*ops, "rcvbuf") || named(*ops, "sndbuf")); ops++)
		run_op(*ops, false);
}

/* A write of the script is a segment of its own, so that the timing is the script's and not Nagle's. */
static void set_nodelay(int family)
{
	int one = 1;

	if (family != AF_UNIX)
		setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void connect_once(const char *word, char **ops)
{
	struct sockaddr_storage ss;
	socklen_t length = parse(word, &ss);

	op_now = "connect";
	open_socket(ss.ss_family, ops);
	while (connect(sock, (struct sockaddr *)&ss, length) < 0) {
		if (!opt.must_wait || (errno != ECONNREFUSED && errno != ENOENT))
			fail("expected a connection, came %s", error_name(errno));
		close(sock);
		sleep_ms(10);
		open_socket(ss.ss_family, ops);
	}
	set_nodelay(ss.ss_family);
}

static int listen_at(const char *word, char **ops)
{
	struct sockaddr_storage ss;
	socklen_t length = parse(word, &ss);
	int one = 1;

	op_now = "listen";
	open_socket(ss.ss_family, ops);
	setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (*word == '/')
		unlink(word);
	if (bind(sock, (struct sockaddr *)&ss, length) < 0 || listen(sock, opt.backlog) < 0)
		fail("%s: %s", word, error_name(errno));
	getsockname(sock, (struct sockaddr *)&ss, &length);
	if (ss.ss_family == AF_UNIX)
		dprintf(STDOUT_FILENO, "listening %s\n", word);
	else
		dprintf(STDOUT_FILENO, "listening %s:%u\n", ss.ss_family == AF_INET ? "127.0.0.1" : "[::1]",
			(unsigned)ntohs(((struct sockaddr_in *)&ss)->sin_port));
	return sock;
}

static void accept_once(int listener)
{
	struct sockaddr_storage ss;
	socklen_t length = sizeof(ss);

	op_now = "accept";
	if (opt.accept_file)
		wait_for(opt.accept_file);
	sock = accept4(listener, (struct sockaddr *)&ss, &length, SOCK_CLOEXEC);
	if (sock < 0)
		fail("expected a connection, came %s", error_name(errno));
	set_nodelay(ss.ss_family);
}

static void one(int listener, const char *word, char **ops)
{
	memset(sent, 0, sizeof(sent));
	memset(received, 0, sizeof(received));
	if (listener < 0)
		connect_once(word, ops);
	run(ops, listener < 0 ? "connect" : "listen");
}

/* A child's connection is accepted by the parent, so that connections are served in their order. */
static void each_in_a_process(int listener, const char *word, char **ops)
{
	for (int i = 0; i < opt.count; i++) {
		pid_t pid;

		if (listener >= 0)
			accept_once(listener);
		pid = fork();
		if (pid < 0)
			fail("fork: %s", error_name(errno));
		if (pid == 0) {
			if (listener >= 0)
				close(listener);
			arm();
			one(listener, word, ops);
			exit(0);
		}
		if (sock >= 0)
			close(sock);
		sock = -1;
	}
}

/* The parent's own deadline leaves the children a moment to tell theirs. */
static int wait_for_all(void)
{
	int status, worst = 0;

	op_now = "wait";
	while (wait(&status) > 0) {
		int code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;

		if (code > worst)
			worst = code;
	}
	return worst;
}

static void read_options(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "+vwja:n:t:b:")) != -1) {
		switch (c) {
		case 'v': opt.is_verbose = true; break;
		case 'w': opt.must_wait = true; break;
		case 'j': opt.is_parallel = true; break;
		case 'a': opt.accept_file = optarg; break;
		case 'n': opt.count = atoi(optarg); break;
		case 't': opt.seconds = atof(optarg); break;
		case 'b': opt.backlog = atoi(optarg); break;
		default: usage("usage: peer [OPTION...] connect|listen ADDR OP...", "");
		}
	}
	if (argc - optind < 2 || (strcmp(argv[optind], "connect") && strcmp(argv[optind], "listen")))
		usage("usage: peer [OPTION...] connect|listen ADDR OP...", "");
	if (opt.seconds <= 0 || opt.count < 1)
		usage("not a sensible -t or -n", "");
}

int main(int argc, char **argv)
{
	const char *word;
	char **ops;
	int listener = -1;

	read_options(argc, argv);
	word = argv[optind + 1];
	ops = argv + optind + 2;
	for (char **op = ops; *op; op++)
		run_op(*op, true);
	started_us = now_us();
	arm();
	if (argv[optind][0] == 'l') {
		listener = listen_at(word, ops);
		sock = -1;
	}
	if (opt.is_parallel) {
		each_in_a_process(listener, word, ops);
		opt.seconds += 1;
		arm();
		return wait_for_all();
	}
	for (int i = 0; i < opt.count; i++) {
		if (listener >= 0)
			accept_once(listener);
		one(listener, word, ops);
	}
	return 0;
}
