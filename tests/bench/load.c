/*
 * load.c - makes work for a proxy, is the server behind it, and reads the bill: CPU, memory, descriptors, latency.
 *
 *      load serve ADDRESS...          the server at each ADDRESS; says "listening ADDRESS..."; ends by a signal
 *      load ping [OPTION...] ADDRESS  messages of -s bytes there and back on -c connections, each a closed loop
 *      load close ...                 connect, a request of 64 bytes, a reply of -s bytes, close; -c at a time
 *      load down|up ...               bulk from or to the server on -c connections
 *      load fair ...                  a ping on one connection beside -c bulk streams down
 *      load start [-n RUNS] COMMAND   execs COMMAND with a passed socket on which a client waits already
 *      load port                      a TCP port that is free now
 *
 * ADDRESS is 127.0.0.1:PORT (port 0 for a server: the kernel's choice) or /path.
 *      -c CONNECTIONS  -s BYTES  -w MS of warm-up  -t MS of measuring
 *      -n COUNT        of operations or bytes, instead of a time
 *      -i N,N,...      (ping) one window for each N, with so many idle connections held beside
 *      -p NAME=PID     whose CPU is read: that of the process and all its descendants
 *
 * Each window prints one line of key=value.  A window opens when the work is under way and closes before it ends, so
 * that no start or end of a connection is in it, unless these are the work.  CPU is read at its two edges from the
 * CPU clock of each process, the sum of utime and stime in nanoseconds where /proc/PID/stat has 10 ms ticks.
 *
 * Every connection begins with a header that tells the server what it is for.  Sizes are checked, contents are not.
 * Bulk has a thread of its own on both sides, so that a ping beside it waits for the proxy and not for us; what comes
 * is thrown away with MSG_TRUNC.  Clients bind to ever new addresses of 127.0.0.0/8, so that ports don't run out.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

struct load load = { .size = 64, .connections = 1, .warm_ms = 250, .time_ms = 1000 };
char scratch[DISCARD];

void die(const char *format, ...)
{
	va_list args;

	fputs("load: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void *allocate(size_t count, size_t size)
{
	void *p = calloc(count ? count : 1, size);

	if (!p)
		die("out of memory");
	return p;
}

/* ---- a window of time ---------------------------------------------------------------------------------------- */

/* What has been done and used until now. */
struct sample {
	uint64_t at, ops, bulk_bytes;
	struct usage self, watched[WATCHED_MAX];
};

/* Latencies by size: 64 steps to each power of two, so a figure is right to 1.6 %. */
enum { STEP_BITS = 6, STEPS = 1 << STEP_BITS };
static uint64_t histogram[(64 - STEP_BITS + 1) * STEPS];

void histogram_add(uint64_t ns)
{
	unsigned top = 63u - (unsigned)__builtin_clzll(ns | STEPS), shift = top - STEP_BITS;

	histogram[shift * STEPS + (ns >> shift)]++;
}

static double histogram_us(double quantile)
{
	uint64_t total = 0, seen = 0;
	size_t i, n = sizeof(histogram) / sizeof(histogram[0]);

	for (i = 0; i < n; i++)
		total += histogram[i];
	for (i = 0; total > 0 && i < n; i++)
		if ((seen += histogram[i]) > 0 && (double)seen >= quantile * (double)total) {
			size_t shift = i < STEPS ? 0 : i / STEPS - 1;

			return ((double)(i - shift * STEPS) + 0.5) * (double)(1ull << shift) / 1000;
		}
	return 0;
}

static void sample_take(struct sample *s)
{
	bool has_memory = load.level_count > 0;

	memset(s, 0, sizeof(*s));
	processes_read();
	for (unsigned i = 0; i < load.watched_count; i++)
		tree_usage(load.watched[i], &s->watched[i], has_memory);
	s->self.cpu_ns = process_cpu(getpid());
	s->at = now_ns();
	s->ops = load.ops;
	s->bulk_bytes = atomic_load(&load.bulk_bytes);
}

bool is_bulk(void)
{
	return !strcmp(load.work, "up") || !strcmp(load.work, "down");
}

static bool has_pings(void)
{
	return !strcmp(load.work, "ping") || !strcmp(load.work, "fair");
}

static void report(const struct sample *a, const struct sample *b)
{
	double seconds = (double)(b->at - a->at) / 1e9;
	uint64_t ops = b->ops - a->ops, bulk_bytes = b->bulk_bytes - a->bulk_bytes;
	uint64_t bytes = is_bulk() ? bulk_bytes : ops * load.size * (has_pings() ? 2 : 1);

	printf("work=%s connections=%u size=%zu", load.work, load.connections, load.size);
	printf(" idle=%u lost=%u", load.idle_count, load.lost);
	printf(" ops=%" PRIu64 " bytes=%" PRIu64 " bulk_bytes=%" PRIu64, ops, bytes, bulk_bytes);
	printf(" seconds=%.6f", seconds);
	printf(" rate=%.1f bulk_rate=%.1f", (double)ops / seconds, (double)bulk_bytes / seconds);
	printf(" p50_us=%.2f p99_us=%.2f", histogram_us(0.5), histogram_us(0.99));
	printf(" cpu_client=%.6f", (double)(b->self.cpu_ns - a->self.cpu_ns) / 1e9);
	for (unsigned i = 0; i < load.watched_count; i++) {
		const struct usage *u = &b->watched[i];
		const char *name = load.watched_name[i];

		printf(" cpu_%s=%.6f", name, (double)(u->cpu_ns - a->watched[i].cpu_ns) / 1e9);
		if (load.level_count > 0)
			printf(" rss_%s=%" PRIu64 " descriptors_%s=%" PRIu64, name, u->rss, name, u->descriptors);
	}
	printf(" cpu_from=%s\n", usage_is_coarse() ? "ticks" : "clock");
	fflush(stdout);
}

void window(void (*step)(void))
{
	struct sample a, b;
	uint64_t end = now_ns() + load.warm_ms * 1000000;

	while (!load.count && now_ns() < end)
		step();
	memset(histogram, 0, sizeof(histogram));
	sample_take(&a);
	end = a.at + load.time_ms * 1000000;
	if (load.count)
		while ((is_bulk() ? atomic_load(&load.bulk_bytes) - a.bulk_bytes : load.ops - a.ops) < load.count)
			step();
	else
		while (now_ns() < end)
			step();
	sample_take(&b);
	report(&a, &b);
}

/* ---- main ---------------------------------------------------------------------------------------------------- */

static uint64_t number(const char *text, uint64_t max)
{
	char *end;
	uint64_t n;

	errno = 0;
	n = strtoull(text, &end, 10);
	if (errno || end == text || *end || n > max)
		die("not a number up to %" PRIu64 ": %s", max, text);
	return n;
}

static void read_levels(char *text)
{
	char *save = NULL;

	for (char *t = strtok_r(text, ",", &save); t; t = strtok_r(NULL, ",", &save)) {
		if (load.level_count == LEVELS_MAX)
			die("at most %d levels", LEVELS_MAX);
		load.levels[load.level_count++] = (unsigned)number(t, 1000000);
	}
}

static void read_watched(char *text)
{
	char *equals = strchr(text, '=');

	if (!equals || load.watched_count == WATCHED_MAX)
		die("-p NAME=PID, at most %d times", WATCHED_MAX);
	*equals = '\0';
	load.watched_name[load.watched_count] = text;
	load.watched[load.watched_count++] = (pid_t)number(equals + 1, INT32_MAX);
}

static void read_options(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "+c:s:w:t:n:i:p:")) != -1) {
		switch (c) {
		case 'c': load.connections = (unsigned)number(optarg, 1000000); break;
		case 's': load.size = (size_t)number(optarg, MESSAGE_MAX); break;
		case 'w': load.warm_ms = number(optarg, 3600000); break;
		case 't': load.time_ms = number(optarg, 3600000); break;
		case 'n': load.count = number(optarg, UINT64_MAX / 2); break;
		case 'i': read_levels(optarg); break;
		case 'p': read_watched(optarg); break;
		default: die("usage: load WORK [OPTION...] ADDRESS");
		}
	}
}

static void prepare(void)
{
	struct rlimit limit;
	unsigned most = 0;

	signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	for (unsigned i = 0; i < load.level_count; i++)
		most = load.levels[i] > most ? load.levels[i] : most;
	load.epoll = epoll_create1(EPOLL_CLOEXEC);
	load.links = allocate(load.connections, sizeof(*load.links));
	load.idle = allocate(most, sizeof(*load.idle));
}

int main(int argc, char **argv)
{
	if (argc < 2)
		die("usage: load serve|ping|close|down|up|fair|start|port ...; see the head of tests/bench/load.c");
	load.work = argv[1];
	read_options(argc - 1, argv + 1);
	argv += 1 + optind;
	prepare();
	if (!strcmp(load.work, "port")) {
		place_parse(&load.place, "127.0.0.1:0");
		printf("%u\n", place_port(place_listen(&load.place, "port 0")));
		return 0;
	}
	if (!*argv)
		die("no address");
	if (!strcmp(load.work, "serve"))
		serve(argv);
	if (!strcmp(load.work, "start")) {
		run_start(argv);
		return 0;
	}
	place_parse(&load.place, *argv);
	if (!strcmp(load.work, "ping"))
		run_ping(load.connections);
	else if (!strcmp(load.work, "close"))
		run_close();
	else if (is_bulk() || !strcmp(load.work, "fair"))
		run_bulk();
	else
		die("no such work: %s", load.work);
	return 0;
}
