/*
 * load.h - what the files of build/load share; load.c tells what it does.
 */
#ifndef LOAD_H
#define LOAD_H

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

enum {
	HEADER = 64,            /* a mode, a size in hex, spaces */
	MESSAGE_MAX = 64 << 10, /* of a ping or a reply */
	CHUNK = 256 << 10,      /* of bulk that is sent */
	DISCARD = 1 << 20,      /* of bulk that is thrown away; unix sockets know no MSG_TRUNC and need a buffer */
	EVENTS = 256,
	LEVELS_MAX = 16,
	WATCHED_MAX = 4,
	PATIENCE_S = 10, /* for an answer, and for a proxy that starts */
};

/* What a connection is for, as its header says it. */
enum { MODE_UNKNOWN = 0, MODE_ECHO = 'E', MODE_REPLY = 'R', MODE_SINK = 'S', MODE_SOURCE = 'G' };

struct place {
	socklen_t length;
	union {
		struct sockaddr any;
		struct sockaddr_in in4;
		struct sockaddr_un un;
	};
};

/* A client's connection that works. */
struct link {
	int fd;
	uint64_t got;   /* of the answer */
	uint64_t since; /* when the question was asked */
};

struct usage {
	uint64_t cpu_ns, rss, descriptors;
};

/* What was asked for, and what has been done. */
struct load {
	const char *work;
	struct place place;
	unsigned connections;
	size_t size;
	uint64_t warm_ms, time_ms, count;
	unsigned levels[LEVELS_MAX], level_count;
	const char *watched_name[WATCHED_MAX];
	pid_t watched[WATCHED_MAX];
	unsigned watched_count;

	int epoll;
	struct link *links;
	int *idle; /* connections that don't work */
	unsigned idle_count;
	unsigned lost; /* connections that ended too soon */
	uint64_t ops;
	_Atomic uint64_t bulk_bytes;
};

extern struct load load;
extern char scratch[DISCARD]; /* nobody looks at what is in it; the threads need not agree about it */

/* ---- load.c -------------------------------------------------------------------------------------------------- */

void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
uint64_t now_ns(void);
void *allocate(size_t count, size_t size);
/* A latency for the histogram of the window that is open. */
void histogram_add(uint64_t ns);
/* Warms up, measures and prints, calling step all the time. */
void window(void (*step)(void));
bool is_bulk(void); /* is all of the work bulk, in one direction? */

/* ---- net.c: addresses and connections ------------------------------------------------------------------------ */

void place_parse(struct place *p, const char *text);
int place_listen(const struct place *p, const char *text);
unsigned place_port(int fd);
/* A connection to load.place; waits for a proxy that is about to start. */
int dial(void);
/* Says what a connection is for, with a first message of so many bytes in the same breath. */
void greet(int fd, int mode, uint64_t size, size_t message);
/* Waits for so many bytes. */
void await(int fd, size_t size);
/* A connection for messages, on which the first is under way. */
int open_echo(void);

/* ---- serve.c, work.c, start.c: what load does ---------------------------------------------------------------- */

void serve(char **addresses);
void run_ping(unsigned connections);
void run_close(void);
/* down, up and fair */
void run_bulk(void);
void run_start(char **command);

/* ---- usage.c: what processes use ----------------------------------------------------------------------------- */

/* Looks which processes there are; tree_usage goes by that. */
void processes_read(void);
/* Adds what a process and all its descendants use; memory and descriptors only if asked for, as they take time. */
void tree_usage(pid_t pid, struct usage *u, bool has_memory);
uint64_t process_cpu(pid_t pid);
uint64_t process_rss(pid_t pid);
bool usage_is_coarse(void); /* some CPU clock could not be read, so that ticks had to do */

#endif
