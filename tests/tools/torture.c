/*
 * torture.c - both ends of a running proxy, at random but reproducibly.
 *
 *      torture -s SEED [-n SCRIPTS] [-T SECONDS] [-c CONCURRENCY] [-d DEADLINE] [-f FIRST] [-p FILE] [-k] [-v]
 *              PROXY=BACKEND...
 *
 * One process listens at each BACKEND, prints "ready" and connects to each PROXY in turn, which forwards to its BACKEND
 * (the same address twice: no proxy, which tests the test).  Addresses: 127.0.0.1:PORT, [::1]:PORT, /path, @name; a
 * BACKEND's port may be 0 (-p: the addresses go to FILE); PROXY may be file:PATH, whose first line will be the address.
 *
 * A script is a plan for each side, made from SEED and its number alone: sends, pauses, times without reading, a
 * half-close, a reset or an abrupt close at some point.  Both ends live here, so it can be judged exactly: what arrives
 * is a prefix of what was sent; if nobody breaks off, everything arrives and EOF follows in both directions, without a
 * reset; EOF comes only after the other side ended its stream, and a reset only after the other side broke off; a reset
 * (TCP on both sides, no half-close before) arrives as a reset; nothing outlasts the deadline; no connection comes to a
 * BACKEND without a client.  How much of what was sent before a break arrives is not judged: nobody promises that.
 *
 * Who belongs to whom: a client sends its number first.  A backend that hears nothing for a moment, or EOF at once,
 * says its own number first, and the client tells.  So either side can be the silent one.
 *
 * Exit status: 0; 1 after a line "script N seed S: ..." and the plan (-k: goes on); 2 usage.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { CLIENT, BACKEND, SIDES };
enum { RING = 16384, CHUNK = 65536, INTRO = 16, STEPS_MAX = 12, PAIRS_MAX = 16, ROUNDS = 8, BATCH = 128 };
enum { GREET_MS = 20, BACKLOG_MS = 5 };
enum step_kind { STEP_END, STEP_SEND, STEP_PAUSE, STEP_STALL, STEP_WAIT, STEP_SHUT, STEP_RESET, STEP_DROP };

struct step {
	enum step_kind kind;
	uint32_t n;                 /* bytes of a send, ms of a pause or a stall */
};

struct half {
	struct step steps[STEPS_MAX];
	int count;
	uint64_t total;             /* bytes it sends, without the introduction */
	enum step_kind abort;       /* STEP_RESET, STEP_DROP or STEP_END: it ends in order */
	bool shuts_before_abort;
	uint32_t read_max, write_max, pace; /* ms between two reads */
	int rcvbuf;                 /* 0: as the kernel likes */
};

struct plan {
	uint64_t number;
	int pair;
	bool is_silent;             /* the client sends nothing at all */
	struct half half[SIDES];
};

struct conn {
	struct conn *next, *prev;
	struct conn *peer;          /* the other side, while it is known and alive */
	int fd, side, pair;
	uint64_t id, peer_id;       /* of a backend's connection; what a linked client knows of it */
	struct plan plan;
	bool is_planned;            /* plan holds; always true of a client */
	bool is_linked;
	bool has_intro_in, has_intro_out;
	bool is_connected, readable, writable, is_broken; /* broken: epoll told of an error or a hang-up */
	bool saw_eof, has_shut, is_dead;
	int step;
	bool step_begun;
	uint64_t step_left, pause_until, stall_until;
	uint64_t in_at, out_at;     /* positions in the streams, with the introduction */
	unsigned char intro[INTRO];
	uint64_t started, due;
};

struct address {
	struct sockaddr_storage ss;
	socklen_t length;
	bool is_unix;
};

struct pair {
	struct address proxy, backend;
	const char *proxy_word, *backend_word;
	int listener;
	bool is_tcp;                /* on both sides, so that a reset can be told from an end */
};

struct options {
	uint64_t seed, scripts, first;
	double seconds, deadline;
	int concurrency;
	const char *file;
	bool must_go_on, is_verbose;
};

static const uint64_t HELLO = 0x70726f7879646865u, GREETING = 0x70726f7879646772u;

static struct options opt = { .scripts = 10000, .deadline = 20, .concurrency = 64 };
static struct pair pairs[PAIRS_MAX];
static int pair_count, epoll_fd, live_clients;
static struct conn *conns, *dead;
static unsigned char chunk[CHUNK], wanted[CHUNK + 8];
static uint64_t now, next_id = 1, scripts_begun, scripts_done, bytes_up, bytes_down, resets, failures;
static uint64_t clients_lost, backends_lost; /* broken off before anyone knew whose they were */

static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void die(const char *format, ...)
{
	va_list args;

	fflush(stdout);
	fputs("torture: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(2);
}

static uint64_t clock_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- numbers at random, and the pattern ---- */

static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9u;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static uint64_t draw(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15u;
	return mix(*state);
}

static uint32_t below(uint64_t *state, uint32_t n)
{
	return (uint32_t)(draw(state) % n);
}

static bool chance(uint64_t *state, uint32_t percent)
{
	return below(state, 100) < percent;
}

/* Any 8 bytes tell their place in the stream.  Returns where in wanted the n bytes from position at on begin. */
static unsigned char *generate(const struct plan *p, int side, uint64_t at, size_t n)
{
	uint64_t base = mix(mix(opt.seed + 1) + p->number * SIDES + (uint64_t)side), word = at / 8;
	size_t skip = at % 8;

	for (size_t i = 0; i < n + skip; i += 8, word++) {
		uint64_t x = mix(base + word * 0x9e3779b97f4a7c15u);

		memcpy(wanted + i, &x, sizeof(x));
	}
	return wanted + skip;
}

/* ---- plans ---- */

static uint32_t draw_size(uint64_t *r)
{
	static const uint32_t edges[] = { RING, RING + 1, RING - 1, RING - INTRO, 2 * RING, 4096 };
	uint32_t kind = below(r, 100);

	if (kind < 18)
		return kind % 2;
	if (kind < 68)
		return 2 + below(r, 2000);
	if (kind < 85)
		return edges[below(r, sizeof(edges) / sizeof(*edges))];
	if (kind < 97)
		return 2 + below(r, 60000);
	return 2 + below(r, 1024 * 1024);
}

static void add(struct half *h, enum step_kind kind, uint32_t n)
{
	h->steps[h->count++] = (struct step){ kind, n };
	if (kind == STEP_SEND)
		h->total += n;
}

static void draw_body(struct half *h, uint64_t *r, bool may_send)
{
	for (uint32_t n = below(r, 5); n > 0; n--) {
		uint32_t kind = below(r, 100);

		if (kind < 60 && may_send)
			add(h, STEP_SEND, draw_size(r));
		else if (kind < 85)
			add(h, STEP_PAUSE, below(r, 6));
		else
			add(h, STEP_STALL, below(r, 30));
	}
}

static void draw_abort(struct half *h, uint64_t *r)
{
	h->abort = chance(r, 65) ? STEP_RESET : STEP_DROP;
	h->shuts_before_abort = chance(r, 15);
	if (h->shuts_before_abort) {
		add(h, STEP_SHUT, 0);
		if (chance(r, 70))
			add(h, STEP_PAUSE, below(r, 6));
	}
	add(h, h->abort, 0);
}

static void draw_speed(struct half *h, uint64_t *r, uint64_t coming)
{
	static const uint32_t sizes[] = { CHUNK, CHUNK, CHUNK, CHUNK, 16384, 1460, 100 };

	h->read_max = sizes[h->pace ? 0 : below(r, coming > 20000 ? 5 : 7)];
	h->write_max = sizes[below(r, h->total > 20000 ? 5 : 7)];
	if (!h->rcvbuf && chance(r, 10))
		h->rcvbuf = coming > 50000 ? 65536 : 8192;
}

/*
 * More than all the kernel's buffers on the way can hold, while the other side reads nothing for a while (and then
 * perhaps never will, or slowly): the only way to make a proxy stand there with bytes that it can't get rid of.
 */
static void draw_glut(struct plan *p, int side, uint64_t *r)
{
	struct half *h = &p->half[side], *other = &p->half[!side];
	uint32_t ms = 10 + below(r, 50);

	add(h, STEP_SEND, 3000000 + below(r, 6000000));
	other->rcvbuf = 65536;
	other->pace = chance(r, 50);
	add(other, STEP_STALL, ms);
	add(other, STEP_PAUSE, ms);
}

/* At most one side waits for the other's end before it sends or closes, or nobody would ever end. */
static void draw_plan(struct plan *p, uint64_t number)
{
	uint64_t r = mix(opt.seed) ^ mix(number + 0x5851f42d4c957f2du);
	int patient = chance(&r, 50) ? CLIENT : BACKEND;
	bool waits_first = chance(&r, 20), closes_last = chance(&r, 35), is_glut = chance(&r, 1);

	memset(p, 0, sizeof(*p));
	p->number = number;
	p->pair = (int)(number % (uint64_t)pair_count);
	p->is_silent = !is_glut && chance(&r, 10);
	for (int s = 0; s < SIDES; s++)
		p->half[s].abort = STEP_END;
	if (is_glut && chance(&r, 75))
		draw_glut(p, CLIENT, &r);
	if (is_glut && chance(&r, 75))
		draw_glut(p, BACKEND, &r);
	for (int s = 0; s < SIDES; s++) {
		struct half *h = &p->half[s];

		if (waits_first && !is_glut && s == patient)
			add(h, STEP_WAIT, 0);
		draw_body(h, &r, s == BACKEND || !p->is_silent);
		if (chance(&r, is_glut ? 40 : 14))
			draw_abort(h, &r);
		else if (!closes_last || s != patient)
			add(h, STEP_SHUT, 0);
	}
	for (int s = 0; s < SIDES; s++)
		draw_speed(&p->half[s], &r, p->half[!s].total);
}

static void print_half(const struct half *h, const char *who)
{
	static const char *const names[] = { "end", "send", "pause", "stall", "wait-for-eof", "shut", "reset", "drop" };

	printf("  %s:", who);
	for (int i = 0; i < h->count; i++) {
		printf(" %s", names[h->steps[i].kind]);
		if (h->steps[i].kind >= STEP_SEND && h->steps[i].kind <= STEP_STALL)
			printf(":%u", h->steps[i].n);
	}
	printf(" (reads %u, pace %u, writes %u, rcvbuf %d)\n", h->read_max, h->pace, h->write_max, h->rcvbuf);
}

static void print_plan(const struct plan *p)
{
	printf("  pair %s=%s%s\n", pairs[p->pair].proxy_word, pairs[p->pair].backend_word,
	       p->is_silent ? ", the client is silent" : "");
	print_half(&p->half[CLIENT], "client");
	print_half(&p->half[BACKEND], "backend");
}

/* ---- connections ---- */

static struct conn *conn_new(int fd, int side, int pair)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET };
	struct conn *c = calloc(1, sizeof(*c));
	int one = 1;

	if (!c)
		die("no memory");
	c->fd = fd;
	c->side = side;
	c->pair = pair;
	c->started = now;
	c->next = conns;
	if (conns)
		conns->prev = c;
	conns = c;
	event.data.ptr = c;
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		die("epoll_ctl: %s", strerror(errno));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return c;
}

/* The memory stays until the batch of events is over. */
static void conn_end(struct conn *c)
{
	if (c->is_dead)
		return;
	c->is_dead = true;
	close(c->fd);
	if (c->peer)
		c->peer->peer = NULL;
	c->peer = NULL;
	if (c->next)
		c->next->prev = c->prev;
	if (c->prev)
		c->prev->next = c->next;
	else
		conns = c->next;
	c->next = dead;
	dead = c;
	if (c->side == CLIENT) {
		live_clients--;
		scripts_done++;
		clients_lost += !c->is_linked;
	} else
		backends_lost += !c->is_linked;
}

static void fail(struct conn *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void fail(struct conn *c, const char *format, ...)
{
	struct conn *peer = c->peer;
	va_list args;

	if (c->is_planned)
		printf("script %llu seed %llu: ", (unsigned long long)c->plan.number, (unsigned long long)opt.seed);
	else
		printf("script ? seed %llu: ", (unsigned long long)opt.seed);
	printf("%s: ", c->side == CLIENT ? "client" : "backend");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("; got %llu bytes, sent %llu, in step %d, eof %d, shut %d, %llu ms\n", (unsigned long long)c->in_at,
	       (unsigned long long)c->out_at, c->step, c->saw_eof, c->has_shut,
	       (unsigned long long)(clock_ms() - c->started));
	if (c->is_planned)
		print_plan(&c->plan);
	fflush(stdout);
	if (!opt.must_go_on)
		exit(1);
	failures++;
	conn_end(c);
	if (peer)
		conn_end(peer);
}

static void set_rcvbuf(const struct conn *c)
{
	int bytes = c->plan.half[c->side].rcvbuf;

	if (bytes)
		setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
}

static void link_conns(struct conn *client, struct conn *backend)
{
	client->peer = backend;
	client->peer_id = backend->id;
	client->is_linked = true;
	client->has_intro_in = backend->has_intro_out;
	backend->peer = client;
	backend->is_linked = true;
	backend->plan = client->plan;
	backend->is_planned = true;
	backend->has_intro_in = !client->plan.is_silent;
	set_rcvbuf(backend);
}

/* ---- who belongs to whom ---- */

static void write_intro(unsigned char *buf, uint64_t magic, uint64_t number)
{
	memcpy(buf, &magic, sizeof(magic));
	memcpy(buf + sizeof(magic), &number, sizeof(number));
}

static struct conn *find(int side, uint64_t number)
{
	struct conn *c = conns;

	while (c && (c->side != side || (side == CLIENT ? c->plan.number : c->id) != number))
		c = c->next;
	return c;
}

/* The client is over already, which is right if it broke off. */
static void link_alone(struct conn *c, uint64_t number)
{
	c->plan.number = number;
	draw_plan(&c->plan, number);
	c->is_planned = c->has_intro_in = true;
	if (number < opt.first || number >= opt.first + scripts_begun || c->plan.half[CLIENT].abort == STEP_END)
		fail(c, "a connection of a client that is over or never was");
}

static void meet(struct conn *c)
{
	uint64_t magic, number;
	struct conn *other;

	memcpy(&magic, c->intro, sizeof(magic));
	memcpy(&number, c->intro + sizeof(magic), sizeof(number));
	if (magic != (c->side == CLIENT ? GREETING : HELLO)) {
		fail(c, "the first bytes are wrong");
		return;
	}
	other = find(!c->side, number);
	if (c->is_linked) {
		if (number != (c->side == CLIENT ? c->peer_id : c->plan.number))
			fail(c, "bytes of another connection");
	} else if (c->side == BACKEND && !other)
		link_alone(c, number);
	else if (!other || other->is_linked || other->pair != c->pair)
		fail(c, "bytes of a connection that is over or another's");
	else
		link_conns(c->side == CLIENT ? c : other, c->side == CLIENT ? other : c);
}

/* May some living client of whom nothing was heard be the one of this backend's connection? */
static bool may_have_client(const struct conn *c)
{
	for (const struct conn *o = conns; o; o = o->next)
		if (o->side == CLIENT && o->pair == c->pair && !o->is_linked && o->started <= c->started)
			return true;
	return false;
}

/* ---- endings ---- */

static enum step_kind abort_of_other(const struct conn *c)
{
	return c->plan.half[!c->side].abort;
}

static void judge_eof(struct conn *c)
{
	const struct half *other = &c->plan.half[!c->side];
	uint64_t whole = other->total + (c->has_intro_in ? INTRO : 0);

	c->saw_eof = true;
	if (c->in_at < INTRO && c->in_at > 0 && !c->is_linked)
		fail(c, "EOF within the first bytes");
	else if (!c->is_linked && c->side == CLIENT)
		fail(c, "EOF without a backend");
	else if (!c->is_planned)
		return;
	else if (c->peer && !c->peer->has_shut)
		fail(c, "EOF while the other side's stream is open");
	else if (other->abort == STEP_END && c->in_at != whole)
		fail(c, "EOF too early: %llu bytes were sent", (unsigned long long)whole);
	else if (other->abort == STEP_RESET && pairs[c->pair].is_tcp && !other->shuts_before_abort)
		fail(c, "EOF where the other side sent a reset");
}

static void judge_reset(struct conn *c, const char *where, int error)
{
	if (error != ECONNRESET && error != EPIPE)
		fail(c, "%s: %s", where, strerror(error));
	else if (!c->is_linked && c->side == CLIENT)
		fail(c, "%s: %s without a backend", where, strerror(error));
	else if (c->peer)
		fail(c, "%s: %s, though the other side has not broken off", where, strerror(error));
	else if (c->is_planned && abort_of_other(c) == STEP_END)
		fail(c, "%s: %s, though the other side ended in order", where, strerror(error));
	else
		conn_end(c);
}

static void break_off(struct conn *c, bool is_reset)
{
	struct linger linger = { 1, 0 };

	if (is_reset)
		setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
	resets += is_reset;
	conn_end(c);
}

/* ---- reading ---- */

/* Takes what belongs to the introduction; returns how much that was. */
static size_t take_intro(struct conn *c, const unsigned char *data, size_t n)
{
	size_t part = INTRO - (size_t)c->in_at;

	if (part > n)
		part = n;
	memcpy(c->intro + c->in_at, data, part);
	c->in_at += part;
	if (c->in_at == INTRO)
		meet(c);
	return part;
}

static void take(struct conn *c, const unsigned char *data, size_t n)
{
	const unsigned char *right;
	size_t i = 0;
	uint64_t at;

	*(c->side == CLIENT ? &bytes_down : &bytes_up) += n;
	/* As long as nobody knows whose this is, only an introduction can come. */
	if (!c->is_linked && !(c->side == BACKEND && c->is_planned))
		c->has_intro_in = true;
	if (c->has_intro_in && c->in_at < INTRO) {
		i = take_intro(c, data, n);
		data += i;
		n -= i;
	}
	if (c->is_dead || n == 0)
		return;
	at = c->in_at - (c->has_intro_in ? INTRO : 0);
	right = generate(&c->plan, !c->side, at, n);
	if (memcmp(data, right, n) != 0) {
		for (i = 0; data[i] == right[i]; i++)
			;
		fail(c, "a wrong byte at offset %llu: 0x%02x, not 0x%02x", (unsigned long long)(at + i), data[i],
		     right[i]);
	} else if ((c->in_at += n) && at + n > c->plan.half[!c->side].total)
		fail(c, "more bytes than were sent");
}

static bool may_read(const struct conn *c)
{
	return c->is_connected && c->readable && !c->saw_eof && now >= c->stall_until;
}

static void read_some(struct conn *c)
{
	ssize_t n = recv(c->fd, chunk, c->is_planned ? c->plan.half[c->side].read_max : CHUNK, 0);

	if (n > 0) {
		take(c, chunk, (size_t)n);
		if (c->is_planned && c->plan.half[c->side].pace)
			c->stall_until = now + c->plan.half[c->side].pace;
	} else if (n == 0)
		judge_eof(c);
	else if (errno == EAGAIN)
		c->readable = false;
	else
		judge_reset(c, "read", errno);
}

/* ---- writing ---- */

/* How much of it went. */
static size_t send_some(struct conn *c, const unsigned char *data, size_t n, int flags)
{
	ssize_t done = send(c->fd, data, n, MSG_NOSIGNAL | flags);

	if (done >= 0) {
		c->out_at += (size_t)done;
		return (size_t)done;
	}
	if (errno == EAGAIN)
		c->writable = false;
	else
		judge_reset(c, "write", errno);
	return 0;
}

static bool owes_intro(const struct conn *c)
{
	return c->has_intro_out && c->out_at < INTRO;
}

static bool send_intro(struct conn *c)
{
	unsigned char intro[INTRO];

	if (!c->writable)
		return false;
	write_intro(intro, c->side == CLIENT ? HELLO : GREETING, c->side == CLIENT ? c->plan.number : c->id);
	return send_some(c, intro + c->out_at, INTRO - (size_t)c->out_at, 0) > 0;
}

static bool send_step(struct conn *c, const struct step *step)
{
	const struct half *h = &c->plan.half[c->side];
	size_t n = c->step_left < h->write_max ? (size_t)c->step_left : h->write_max, done;
	/* The last bytes and the FIN in one segment. */
	int flags = n == c->step_left && step + 1 < h->steps + h->count && step[1].kind == STEP_SHUT ? MSG_MORE : 0;

	if (n == 0) {
		c->step++;
		return true;
	}
	if (!c->writable)
		return false;
	done = send_some(c, generate(&c->plan, c->side, c->out_at - (c->has_intro_out ? INTRO : 0), n), n, flags);
	c->step_left -= done;
	return done > 0;
}

static void shut(struct conn *c)
{
	c->has_shut = true;
	/* ENOTCONN: a reset came; the next read or write tells. */
	if (shutdown(c->fd, SHUT_WR) < 0 && errno != ENOTCONN)
		fail(c, "shutdown: %s", strerror(errno));
}

static void begin_step(struct conn *c, const struct step *step)
{
	c->step_begun = true;
	c->step_left = step->n;
	if (step->kind == STEP_PAUSE)
		c->pause_until = now + step->n;
	if (step->kind == STEP_STALL)
		c->stall_until = now + step->n;
}

/* Goes on with the plan; false if it has to wait. */
static bool act(struct conn *c)
{
	const struct half *h = &c->plan.half[c->side];
	const struct step *step = &h->steps[c->step];
	int before = c->step;
	bool went = true;

	if (owes_intro(c))
		return send_intro(c);
	if (c->step == h->count) {
		if (c->saw_eof)
			conn_end(c);
		return false;
	}
	if (!c->step_begun)
		begin_step(c, step);
	switch (step->kind) {
	case STEP_SEND: went = send_step(c, step); break;
	case STEP_PAUSE: c->step += went = now >= c->pause_until; break;
	case STEP_STALL: c->step++; break;
	case STEP_WAIT: c->step += went = c->saw_eof; break;
	case STEP_SHUT: c->step++; shut(c); break;
	case STEP_RESET: break_off(c, true); break;
	case STEP_DROP: break_off(c, false); break;
	case STEP_END: break;
	}
	if (c->step != before)
		c->step_begun = false;
	return went;
}

/* A backend's connection of which nobody knows yet whose it is. */
static bool act_unknown(struct conn *c)
{
	if (!c->has_intro_out && c->in_at == 0 && (c->saw_eof || now >= c->started + GREET_MS))
		c->has_intro_out = true;
	if (owes_intro(c))
		return send_intro(c);
	if (c->saw_eof && (c->is_broken || !may_have_client(c)))
		conn_end(c);
	return false;
}

/* ---- the loop ---- */

static uint64_t deadline_of(const struct conn *c)
{
	return c->started + (uint64_t)(opt.deadline * 1000);
}

static void advance(struct conn *c)
{
	bool went = true;

	for (int i = 0; i < ROUNDS && went && !c->is_dead; i++) {
		went = false;
		if (may_read(c)) {
			read_some(c);
			went = true;
		}
		if (!c->is_dead && c->is_connected)
			went |= c->is_planned ? act(c) : act_unknown(c);
	}
	if (c->is_dead)
		return;
	c->due = went ? now : deadline_of(c);
	if (!c->is_planned && c->due > now + BACKLOG_MS)
		c->due = now + BACKLOG_MS;
	if (c->pause_until > now && c->pause_until < c->due)
		c->due = c->pause_until;
	if (c->stall_until > now && c->stall_until < c->due)
		c->due = c->stall_until;
	if (now >= deadline_of(c))
		fail(c, "hangs");
}

/* False: no room in the backlog of a unix socket, try later. */
static bool start_script(uint64_t number)
{
	struct plan plan;
	struct conn *c;
	struct pair *pair;
	int fd;

	draw_plan(&plan, number);
	pair = &pairs[plan.pair];
	fd = socket(pair->proxy.ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		die("socket: %s", strerror(errno));
	c = conn_new(fd, CLIENT, plan.pair);
	c->plan = plan;
	c->is_planned = true;
	c->has_intro_out = !plan.is_silent;
	set_rcvbuf(c);
	live_clients++;
	if (connect(fd, (struct sockaddr *)&pair->proxy.ss, pair->proxy.length) == 0)
		c->is_connected = true;
	else if (errno == EAGAIN) {
		c->is_linked = true; /* never was: not counted as lost */
		conn_end(c);
		scripts_done--;
		return false;
	} else if (errno != EINPROGRESS)
		fail(c, "connect: %s", strerror(errno));
	if (opt.is_verbose) {
		printf("script %llu\n", (unsigned long long)number);
		print_plan(&plan);
	}
	return true;
}

static void accept_all(int index)
{
	for (;;) {
		int fd = accept4(pairs[index].listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct conn *c;

		if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED))
			return;
		if (fd < 0)
			die("accept: %s", strerror(errno));
		c = conn_new(fd, BACKEND, index);
		c->id = next_id++;
		c->is_connected = c->readable = c->writable = true;
	}
}

static void notice(struct conn *c, uint32_t events)
{
	int error = 0;
	socklen_t length = sizeof(error);

	c->is_broken |= (events & (EPOLLERR | EPOLLHUP)) != 0;
	c->readable |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP)) != 0;
	c->writable |= (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0;
	c->due = now;
	/* A unix socket says EPOLLHUP before it is connected. */
	if (c->is_dead || c->is_connected || !(events & EPOLLOUT))
		return;
	c->is_connected = true;
	/* An error of a connection that stood already is for the first read or write to tell. */
	if (events & EPOLLERR && !(events & EPOLLIN) && getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 &&
	    error)
		fail(c, "connect: %s", strerror(error));
}

static bool wants_more(uint64_t ends)
{
	return opt.seconds > 0 ? now < ends : scripts_begun < opt.scripts;
}

static void turn(void)
{
	struct epoll_event events[BATCH];
	uint64_t due = now + 1000;
	int n;

	for (const struct conn *c = conns; c; c = c->next)
		if (c->due < due)
			due = c->due;
	n = epoll_wait(epoll_fd, events, BATCH, due > now ? (int)(due - now) : 0);
	now = clock_ms();
	for (int i = 0; i < n; i++) {
		struct conn *c = events[i].data.ptr;

		if (events[i].data.u64 < PAIRS_MAX)
			accept_all((int)events[i].data.u64);
		else
			notice(c, events[i].events);
	}
	for (struct conn *c = conns, *next; c; c = next) {
		uint64_t before = failures;

		next = c->next;
		if (c->due <= now)
			advance(c);
		/* A failure ends the peer too, which may be next. */
		if (failures != before)
			break;
	}
	while (dead) {
		struct conn *c = dead;

		dead = c->next;
		free(c);
	}
}

static void run(void)
{
	uint64_t begun = clock_ms(), ends = begun + (uint64_t)(opt.seconds * 1000);

	now = begun;
	while (wants_more(ends) || conns) {
		while (live_clients < opt.concurrency && wants_more(ends)) {
			if (!start_script(opt.first + scripts_begun))
				break;
			scripts_begun++;
		}
		turn();
	}
	printf("%llu scripts, %llu bytes up, %llu bytes down, %llu resets, %.2f seconds\n",
	       (unsigned long long)scripts_done, (unsigned long long)bytes_up, (unsigned long long)bytes_down,
	       (unsigned long long)resets, (double)(clock_ms() - begun) / 1000);
	if (backends_lost > clients_lost) {
		printf("%llu connections came to the backend that no client made\n",
		       (unsigned long long)(backends_lost - clients_lost));
		failures++;
	}
}

/* ---- the beginning ---- */

static void parse_unix(const char *word, struct address *a)
{
	struct sockaddr_un *un = (struct sockaddr_un *)&a->ss;
	size_t n = strlen(word);

	if (n >= sizeof(un->sun_path))
		die("too long a path: %s", word);
	un->sun_family = AF_UNIX;
	memcpy(un->sun_path, word, n + 1);
	if (*word == '@')
		un->sun_path[0] = '\0';
	a->is_unix = true;
	a->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (*word == '/' ? 1 : 0));
}

static void parse(const char *word, struct address *a)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&a->ss;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a->ss;
	const char *colon = strrchr(word, ':');
	size_t bracket = *word == '[' ? 1 : 0;
	char host[64];

	memset(a, 0, sizeof(*a));
	if (*word == '/' || *word == '@') {
		parse_unix(word, a);
		return;
	}
	if (!colon || colon - word < 3 || (size_t)(colon - word) >= sizeof(host))
		die("not an address: %s", word);
	snprintf(host, sizeof(host), "%.*s", (int)((size_t)(colon - word) - 2 * bracket), word + bracket);
	v4->sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10)); /* in the same place in both */
	a->ss.ss_family = bracket ? AF_INET6 : AF_INET;
	a->length = bracket ? sizeof(*v6) : sizeof(*v4);
	if (inet_pton(a->ss.ss_family, host, bracket ? (void *)&v6->sin6_addr : (void *)&v4->sin_addr) != 1)
		die("not an address: %s", word);
}

static void listen_at(struct pair *p, int index)
{
	struct epoll_event event = { .events = EPOLLIN, .data = { .u64 = (uint64_t)index } };
	int one = 1;

	parse(p->backend_word, &p->backend);
	if (*p->backend_word == '/')
		unlink(p->backend_word);
	p->listener = socket(p->backend.ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(p->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (p->listener < 0 || bind(p->listener, (struct sockaddr *)&p->backend.ss, p->backend.length) < 0 ||
	    listen(p->listener, SOMAXCONN) < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, p->listener, &event) < 0)
		die("%s: %s", p->backend_word, strerror(errno));
	getsockname(p->listener, (struct sockaddr *)&p->backend.ss, &p->backend.length);
}

static void write_backends(const char *file)
{
	char temporary[4096];
	FILE *f;

	if ((size_t)snprintf(temporary, sizeof(temporary), "%s.new", file) >= sizeof(temporary))
		die("too long a file name");
	f = fopen(temporary, "we");
	if (!f)
		die("%s: %s", temporary, strerror(errno));
	for (int i = 0; i < pair_count; i++) {
		const struct pair *p = &pairs[i];

		if (p->backend.is_unix)
			fprintf(f, "%s\n", p->backend_word);
		else
			fprintf(f, "%s:%u\n", p->backend.ss.ss_family == AF_INET ? "127.0.0.1" : "[::1]",
				(unsigned)ntohs(((const struct sockaddr_in *)&p->backend.ss)->sin_port));
	}
	if (fclose(f) != 0 || rename(temporary, file) < 0)
		die("%s: %s", file, strerror(errno));
}

static void find_proxy(struct pair *p)
{
	struct timespec moment = { 0, 10000000 };
	char line[200];
	FILE *f = NULL;

	if (!strcmp(p->proxy_word, p->backend_word))
		p->proxy = p->backend;
	else if (strncmp(p->proxy_word, "file:", 5) != 0)
		parse(p->proxy_word, &p->proxy);
	else {
		for (int i = 0; i < 1000 && !(f = fopen(p->proxy_word + 5, "re")); i++)
			nanosleep(&moment, NULL);
		if (!f || !fgets(line, sizeof(line), f))
			die("%s: no address", p->proxy_word);
		fclose(f);
		line[strcspn(line, "\n")] = '\0';
		parse(line, &p->proxy);
	}
	p->is_tcp = !p->proxy.is_unix && !p->backend.is_unix;
}

static void add_pair(char *word)
{
	char *equals = strchr(word, '=');

	if (!equals || pair_count == PAIRS_MAX)
		die("not PROXY=BACKEND, or too many: %s", word);
	*equals = '\0';
	pairs[pair_count].proxy_word = word;
	pairs[pair_count++].backend_word = equals + 1;
}

static void read_options(int argc, char **argv)
{
	bool has_seed = false;
	int c;

	while ((c = getopt(argc, argv, "s:n:T:c:d:f:p:kv")) != -1) {
		switch (c) {
		case 's': opt.seed = strtoull(optarg, NULL, 0); has_seed = true; break;
		case 'n': opt.scripts = strtoull(optarg, NULL, 0); break;
		case 'f': opt.first = strtoull(optarg, NULL, 0); break;
		case 'T': opt.seconds = atof(optarg); break;
		case 'd': opt.deadline = atof(optarg); break;
		case 'c': opt.concurrency = atoi(optarg); break;
		case 'p': opt.file = optarg; break;
		case 'k': opt.must_go_on = true; break;
		case 'v': opt.is_verbose = true; break;
		default: die("usage: torture -s SEED [OPTION...] PROXY=BACKEND...");
		}
	}
	if (!has_seed || optind == argc || opt.concurrency < 1 || opt.deadline <= 0)
		die("usage: torture -s SEED [OPTION...] PROXY=BACKEND...");
	for (int i = optind; i < argc; i++)
		add_pair(argv[i]);
}

int main(int argc, char **argv)
{
	struct rlimit limit;

	read_options(argc, argv);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd < 0)
		die("epoll_create1: %s", strerror(errno));
	for (int i = 0; i < pair_count; i++)
		listen_at(&pairs[i], i);
	if (opt.file)
		write_backends(opt.file);
	puts("ready");
	fflush(stdout);
	for (int i = 0; i < pair_count; i++)
		find_proxy(&pairs[i]);
	run();
	return failures ? 1 : 0;
}
