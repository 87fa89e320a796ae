/*
 * proxyd.h - the whole vocabulary of proxyd: first the types, then the functions in sections headed by the file that
 * keeps them, leaves first.  A function's contract stands here and nowhere else.
 *
 * The way a byte takes:
 *
 *      listener --accept--> end[CLIENT] --flow[CLIENT]--> end[TARGET]
 *                           end[CLIENT] <--flow[TARGET]-- end[TARGET]
 *
 * flow[s] holds what was read from end[s] and is owed to end[!s].
 *
 * Conventions: a span or a time is in milliseconds and a size in bytes unless the name says otherwise; leaves return 0
 * or a negative errno and never log; a descriptor that is not open is -1.
 */
#ifndef PROXYD_H
#define PROXYD_H

#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/* ---- types of the leaves ------------------------------------------------------------------------------------- */

#define SPAN_INFINITY UINT64_MAX

/* A fixed buffer.  head and tail run freely: head - tail bytes are held, and size is a power of two. */
struct ring {
	unsigned char *memory; /* NULL while nothing is lent to it */
	uint32_t size, head, tail;
};

/* A timer is part of the object it belongs to and is in at most one wheel. */
struct timer {
	struct timer *next, **link; /* link is NULL while the timer is not pending */
	uint64_t due;
	void (*fire)(struct timer *);
	uint16_t slot;
};

/* Levels of 64 slots, each slot of a level as long as the whole level below: 11 levels cover all of 64 bits. */
enum { WHEEL_BITS = 6, WHEEL_SLOTS = 1 << WHEEL_BITS, WHEEL_LEVELS = 11 };

struct wheel {
	uint64_t now;
	uint64_t used[WHEEL_LEVELS]; /* one bit a slot: is there a timer in it? */
	struct timer *slot[WHEEL_LEVELS][WHEEL_SLOTS];
};

struct address {
	socklen_t length;
	union {
		struct sockaddr any;
		struct sockaddr_in in4;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
	};
};

enum { ADDR_TEXT_MAX = 160, ADDR_WHY_MAX = 400, ADDR_HOST_MAX = 256, ADDR_SERVICE_MAX = 64 };

/* Where connections go.  Either the address is known from the start, or host and service are to be looked up. */
struct target {
	const char *text; /* as it was written */
	bool is_name;
	struct address address;       /* valid unless is_name */
	char host[ADDR_HOST_MAX];     /* valid if is_name */
	char service[ADDR_SERVICE_MAX]; /* valid if is_name: a decimal port or a service name */
};

/* A circular list; an empty one points to itself. */
struct list {
	struct list *next, *prev;
};

/* ---- types of the daemon ------------------------------------------------------------------------------------- */

enum { LISTENS_MAX = 64 };

enum when_full { WHEN_FULL_REFUSE, WHEN_FULL_WAIT };

/* What was asked for; constant once the loop runs. */
struct config {
	struct target target;
	const char *listens[LISTENS_MAX]; /* --listen=, as written */
	unsigned listen_count;
	bool inetd;                /* the socket is descriptor 0 */
	unsigned connections_max;  /* 1 to 4294967295 */
	enum when_full when_full;
	uint32_t buffer_size;      /* of one ring: a power of two */
	uint64_t exit_idle_time;
	uint64_t connect_timeout;  /* for each address */
	uint64_t connect_retry;    /* for all addresses together; 0: one round */
	uint64_t idle_timeout;
	uint64_t half_close_timeout;
	uint64_t shutdown_timeout;
	unsigned keepalive_idle_s; /* 0: leave keepalive alone */
	unsigned keepalive_interval_s, keepalive_count; /* 0: leave at the kernel's */
};

/* One descriptor in the loop.  handle() may close it, and may free nothing before the batch of events is over. */
struct watch {
	int fd;
	uint32_t events; /* what epoll was told last; WATCH_AWAY: the descriptor is not in epoll */
	void (*handle)(struct watch *, uint32_t events);
};

#define WATCH_AWAY UINT32_MAX

struct loop {
	int epoll;
	int spare;    /* a descriptor held back for the target's socket of a client already accepted */
	uint64_t now; /* CLOCK_MONOTONIC, refreshed once a turn */
	struct wheel wheel;
};

enum { CLIENT, TARGET };

/* One side of a connection. */
struct end {
	struct watch watch;
	int error;  /* the errno that ended this side; 0: it lives.  Before CONN_FORWARD: why the round failed */
	bool hung;  /* epoll reported HUP or ERR: while nothing else is wanted it must be out of epoll, or the loop spins */
	bool is_unix;
};

/*
 * One direction.  OPEN: may read.  ENDED: its source gave end of stream or an error, bytes may still be owed.
 * SHUT: nothing is owed any more, and the end of stream was passed on if there was one.
 */
enum flow_state { FLOW_OPEN, FLOW_ENDED, FLOW_SHUT };

struct flow {
	struct ring ring;
	enum flow_state state;
	uint64_t bytes; /* delivered */
};

/* CONN_DRAIN: both directions are over, but the reset waits until the kernel has delivered what was written. */
enum conn_state { CONN_RESOLVE, CONN_BACKOFF, CONN_CONNECT, CONN_FORWARD, CONN_DRAIN, CONN_DEAD };

/* Why a connection ends: only DONE is an end of stream for both sides, all others are a reset. */
enum conn_why { CONN_WHY_DONE, CONN_WHY_RESET, CONN_WHY_UNREACHED, CONN_WHY_LEFT, CONN_WHY_TIMEOUT, CONN_WHY_SHUTDOWN,
	CONN_WHY_MEMORY };

/* What a name stands for; shared by the connections that use it. */
struct answer {
	unsigned refs;
	unsigned count;
	struct address address[];
};

struct conn {
	struct worker *worker;
	struct list link;    /* in worker->live, or ->dead */
	struct list waiting; /* in lookup->waiting while CONN_RESOLVE, in worker->starved while it lacks a descriptor */
	struct end end[2];
	struct flow flow[2];
	struct timer timer; /* the only one: what it means is told by state */
	enum conn_state state;
	unsigned attempt;       /* index of the next address to try */
	unsigned backoff;       /* the last wait between two rounds, or between two looks in CONN_DRAIN; 0: none yet */
	struct answer *answer;  /* addresses to try; NULL while none are wanted */
	uint64_t since;         /* when the first attempt began; from CONN_FORWARD on when a byte last moved */
};

/* A name and the connections that wait for its addresses. */
struct lookup {
	const char *host, *service;
	struct resolver *resolver;
	struct list waiting; /* of struct conn.waiting */
	struct answer *good; /* the last answer that was one; NULL: none yet */
	bool busy;           /* the helper thread has it */
	void (*done)(struct conn *, struct answer *, const char *error); /* for each that waited; answer NULL: failed */
	struct lookup *next; /* in the resolver's queue; the helper's, like the two below, while busy */
	struct answer *fresh;
	int error; /* of getaddrinfo(3) */
};

/* The helper thread and what passes between it and the loop. */
struct resolver {
	struct loop *loop;
	struct watch watch; /* an eventfd: answers are ready */
	int asked_fd;       /* an eventfd: the thread has work */
	bool is_started;
	pthread_mutex_t mutex;
	struct lookup *asked, *answered; /* under the mutex */
};

struct listener {
	struct watch watch;
	struct worker *worker;
	const char *name;   /* FileDescriptorName=, or as written in --listen=; never NULL */
	bool is_own;        /* opened for --listen= */
	bool has_file;      /* name is a unix socket file of our own making, to be removed at the end */
	dev_t device;       /* of that file */
	ino_t inode;
	bool is_connected;  /* not a listening socket but one client (inetd nowait) */
	bool is_unix;
};

struct counters {
	unsigned now, peak;
	uint64_t total, refused, failed, bytes[2];
};

/* All that one thread of the daemon needs; several could stand side by side. */
struct worker {
	const struct config *config;
	struct loop loop;
	struct listener *listeners;
	unsigned listener_count;
	struct list live, dead;
	struct list starved; /* of conn.waiting: in CONN_BACKOFF because there was no descriptor, first come first served */
	void *free_conns, *free_rings; /* stacks: the first word of each links to the next */
	unsigned free_ring_count;
	struct resolver resolver;
	struct lookup lookup;
	struct answer *fixed; /* the addresses of a target that is no name */
	struct counters count;

	bool is_short;              /* descriptors ran out: accepting pauses until the timer or an ended connection */
	bool is_stopping;           /* no more clients */
	bool is_finished;           /* the loop may end */
	struct timer short_timer;   /* ends the pause, or tries to watch a listener again */
	struct timer idle_timer;    /* --exit-idle-time= */
	uint64_t refused_logged, short_logged; /* when the next such line may be written */
};

/* ---- ring.c: a fixed buffer of bytes ------------------------------------------------------------------------- */

/* Makes r an empty ring over size bytes at memory, which stay the caller's.  size is a power of two up to 2^31. */
void ring_init(struct ring *r, void *memory, uint32_t size);
/* Bytes held, and bytes there is room for. */
uint32_t ring_used(const struct ring *r);
uint32_t ring_room(const struct ring *r);
/* The longest run that can be written, or read, without wrapping: its length, 0 if there is none; *p is its start. */
uint32_t ring_space(const struct ring *r, unsigned char **p);
uint32_t ring_data(const struct ring *r, unsigned char **p);
/* n bytes were written to the space, or read from the data.  n is at most what ring_space or ring_data gave. */
void ring_put(struct ring *r, uint32_t n);
void ring_take(struct ring *r, uint32_t n);

/* ---- wheel.c: timers in O(1) --------------------------------------------------------------------------------- */

void wheel_init(struct wheel *w, uint64_t now);
/* Makes t pending, due at the given time (at once if that is past), whether or not it was pending before. */
void wheel_add(struct wheel *w, struct timer *t, uint64_t due);
/* Makes t not pending; harmless if it was not. */
void wheel_cancel(struct wheel *w, struct timer *t);
bool wheel_is_pending(const struct timer *t);
/*
 * No timer is due before the time this gives; UINT64_MAX if none is pending.  It is exact for a timer due within the
 * running 64 ms and may be early for later ones: then wheel_pop sorts them and the next answer is closer.
 */
uint64_t wheel_next(const struct wheel *w);
/* Takes out one timer that is due at now or before, the earliest first; NULL if there is none.  now never goes back. */
struct timer *wheel_pop(struct wheel *w, uint64_t now);

/* ---- span.c: numbers in words -------------------------------------------------------------------------------- */

/* A time span as in systemd.time(7), in microseconds; "infinity" is SPAN_INFINITY.  -EINVAL, -ERANGE. */
int span_parse_us(const char *text, uint64_t *us);
/* The same in milliseconds, rounded up, so that only 0 is 0. */
int span_parse(const char *text, uint64_t *ms);
/* A count from 0 to 4294967295: decimal, 0x, 0o, 0b or C octal.  -EINVAL, -ERANGE. */
int span_count(const char *text, unsigned *n);
/* A size in bytes, with an optional K or M (1024, 1024^2).  -EINVAL, -ERANGE past 2^32-1. */
int span_size(const char *text, uint32_t *n);

/* ---- addr.c: addresses in words ------------------------------------------------------------------------------ */

/*
 * Reads a target: HOST:PORT, [V6]:PORT, HOST (port 80), /path, @abstract; PORT may be a service name.  A numeric host
 * with a numeric or known service is settled here, without any look-up of the host; everything else becomes a name.
 * text is kept.  -EINVAL: why holds one line that says what is wrong and what would be right.
 */
int addr_target(struct target *t, const char *text, char why[ADDR_WHY_MAX]);
/* Reads a place to listen at: PORT (all addresses), V4:PORT, [V6]:PORT, /path, @abstract.  Port 0: the kernel's choice. */
int addr_listen(struct address *a, const char *text, char why[ADDR_WHY_MAX]);
/* Writes an address as one would type it; an unnamed unix socket is "unix".  Returns buf. */
const char *addr_text(const struct address *a, char buf[ADDR_TEXT_MAX]);

/* ---- list: in proxyd.h, because it is so small --------------------------------------------------------------- */

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}

static inline bool list_is_empty(const struct list *l)
{
	return l->next == l;
}

/* Appends, so that a list read from head->next is first come, first served. */
static inline void list_add(struct list *head, struct list *l)
{
	l->next = head;
	l->prev = head->prev;
	head->prev->next = l;
	head->prev = l;
}

/* Harmless for a list that is initialized but in no other. */
static inline void list_remove(struct list *l)
{
	l->next->prev = l->prev;
	l->prev->next = l->next;
	list_init(l);
}

/* ---- log.c: one line an event -------------------------------------------------------------------------------- */

/* The levels of syslog(3). */
enum { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARNING = 4, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };

/* Reads SYSTEMD_LOG_LEVEL and JOURNAL_STREAM; a bad level warns. */
void log_open(void);
/* True if stderr is the socket on descriptor 0, which is to be served, so that the log goes to syslog. */
bool log_is_client(void);
bool log_is_debug(void);
void log_line(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* ---- notify.c: sd_notify(3) and sd_watchdog_enabled(3) ------------------------------------------------------- */

/* Sends a datagram to a unix socket, a path or @abstract; nothing happens where nobody listens. */
void notify_datagram(const char *path, const char *text, size_t size);
/* Sends assignments, one a line, to NOTIFY_SOCKET; does nothing where there is none or nobody listens. */
void notify_send(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Half of the watchdog's period, at least 1; SPAN_INFINITY if no watchdog waits for this process. */
uint64_t notify_watchdog(void);

/* ---- options.c: the command line ----------------------------------------------------------------------------- */

/*
 * Reads the command line into c.  -1: the program goes on.  Otherwise it is over with this exit status: help or the
 * version was printed, or an error was logged.
 */
int options_parse(struct config *c, int argc, char **argv);

/* ---- listenfds.c: sockets from whoever started us ------------------------------------------------------------ */

struct passed {
	int count;          /* descriptors 3 to 3 + count - 1 */
	char **names;       /* LISTEN_FDNAMES, count of them, or NULL */
};

/*
 * The protocol of sd_listen_fds(3), with LISTEN_PIDFDID.  Takes the four variables out of the environment and sets
 * FD_CLOEXEC.  count 0: nothing was passed to this process.  -errno: what was passed is malformed.  names: malloc'd in
 * one piece each, kept for the life of the process.
 */
int listenfds_take(struct passed *p);
/* What kind of socket a descriptor is. */
enum socket_kind { SOCKET_OTHER, SOCKET_LISTENING, SOCKET_CONNECTED }; /* stream sockets, except OTHER */
enum socket_kind listenfds_kind(int fd, bool *is_unix);

/* ---- listen.c: sockets of our own ---------------------------------------------------------------------------- */

/*
 * Opens what --listen=text asks for as l: bound, listening, non-blocking, close-on-exec.  A unix socket file that
 * nobody serves is replaced.  -errno, with one line in why.
 */
int listen_open(struct listener *l, const char *text, char why[ADDR_WHY_MAX]);
/* Closes the listener and removes the socket file it made, if that is still the one.  A second call is harmless. */
void listen_close(struct listener *l);

/* ---- loop.c: epoll, the clock, the wheel's tick -------------------------------------------------------------- */

/* -errno of epoll_create1(2). */
int loop_init(struct loop *l);
/*
 * Tells epoll what w waits for; the only caller of epoll_ctl(2).  An unchanged mask costs nothing.  WATCH_AWAY takes
 * the descriptor out.  -errno of epoll_ctl(2).
 */
int loop_watch(struct loop *l, struct watch *w, uint32_t events);
/* Closes the descriptor, which takes it out of epoll; events of the running batch no longer reach w. */
void loop_close(struct watch *w);
/* (Re-)starts t to fire after span; SPAN_INFINITY cancels it. */
void loop_after(struct loop *l, struct timer *t, uint64_t span);
/* Waits, handles one batch of events, fires the timers that are due. */
void loop_turn(struct loop *l);
/* Makes sure that the spare descriptor is held; false if the kernel has none left. */
bool loop_keep_spare(struct loop *l);
/* Gives the spare descriptor up, so that the next socket(2) succeeds; false if it was not held. */
bool loop_lend_spare(struct loop *l);

/* ---- resolve.c: names to addresses, off the loop ------------------------------------------------------------- */

/* is_needed: there will be names, so what takes descriptors is opened now, while there are some.  -errno. */
int resolve_init(struct resolver *r, struct loop *l, bool is_needed);
/*
 * Puts c->waiting on the list of lk; a lookup that is not running starts.  done() is called from the loop, never from
 * here.  -errno: no thread, or no memory to watch it.  A connection that leaves takes itself off by list_remove(&c->waiting).
 */
int resolve_ask(struct lookup *lk, struct conn *c);
/* count addresses, all 0, with one reference; NULL: no memory. */
struct answer *answer_new(unsigned count);
struct answer *answer_ref(struct answer *a);
void answer_unref(struct answer *a); /* NULL is harmless */

/* ---- forward.c: bytes ---------------------------------------------------------------------------------------- */

/* The target's socket is connected: bytes begin to flow. */
void forward_start(struct conn *c);
/*
 * What an end waits for, as a pure function of the connection's state: EPOLLIN if its flow is open and has room,
 * EPOLLOUT if the other flow owes it bytes, WATCH_AWAY if it must leave epoll.
 */
uint32_t forward_mask(const struct conn *c, int s);
/* Gives back what the connection borrowed; what it held is lost. */
void forward_stop(struct conn *c);

/* ---- connect.c: reaching the target -------------------------------------------------------------------------- */

/* Begins to reach the target; later forward_start or conn_close follows. */
void connect_start(struct conn *c);

/* ---- conn.c: birth and death --------------------------------------------------------------------------------- */

/* A connection for a client's socket, which it owns from now on, even on failure.  -ENOMEM. */
int conn_new(struct worker *w, int fd, bool is_unix);
/* The one end of every connection: descriptors are closed, memory goes back in conn_reap.  A second call is harmless. */
void conn_close(struct conn *c, enum conn_why why);
/* Frees what died in this batch; returns how many. */
unsigned conn_reap(struct worker *w);
/* Ends every connection that is left; returns how many. */
unsigned conn_close_all(struct worker *w);

/* ---- accept.c: listeners, the limit, the idle exit ----------------------------------------------------------- */

/* Puts the listeners into the loop and arms the idle exit. */
int accept_start(struct worker *w);
/* So many connections ended: who waits for a place goes on, and the idle exit is armed if nobody is left. */
void accept_freed(struct worker *w, unsigned ended);
/* No more clients. */
void accept_stop(struct worker *w);

#endif
