/*
 * proxyd - forwards connections from sockets it was handed, or listens on, to another socket.
 *
 * main reads like a table of contents: the command line, the sockets, the limits, the loop, the exit status.  Only main
 * ends the process.  What happens on the way is told in the head of each file; start with conn.c for the life of a
 * connection and forward.c for the way of a byte.
 */
#include "proxyd.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* The process around the worker. */
struct service {
	struct config config;
	struct worker worker;
	struct watch signals;
	struct timer watchdog, deadline;
	uint64_t watchdog_period;
	unsigned left; /* connections at the first SIGTERM */
};

/* ---- sockets ---- */

static int not_received(int error)
{
	log_error("Failed to receive sockets from parent. %s", strerror(error));
	return -error;
}

static int adopt(struct worker *w, int fd, const char *name, bool may_be_client)
{
	struct listener *l = &w->listeners[w->listener_count];
	enum socket_kind kind = listenfds_kind(fd, &l->is_unix);

	if (kind == SOCKET_OTHER || (kind == SOCKET_CONNECTED && !may_be_client)) {
		log_error("Passed in socket is not a stream socket. %s must be a listening stream socket.",
			  may_be_client ? "Descriptor 0 must be connected, or" : "Every descriptor");
		return -EPROTOTYPE;
	}
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return not_received(errno);
	l->watch.fd = fd;
	l->name = name;
	l->is_connected = kind == SOCKET_CONNECTED;
	w->listener_count++;
	return 0;
}

/* inetd hands the socket over as 0, 1 and 2; it must be closed when its connection ends, and nothing else go there. */
static int adopt_stdin(struct worker *w)
{
	bool is_shared = log_is_client();
	int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (fd < 0 || null < 0)
		return not_received(errno);
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	if (is_shared)
		dup2(null, STDERR_FILENO);
	close(null);
	return adopt(w, fd, "stdin", true);
}

/* Those passed in first, then those of --listen=, or the one on descriptor 0. */
static int take_sockets(struct worker *w, bool is_stdin_socket)
{
	const struct config *c = w->config;
	struct passed passed;
	char why[ADDR_WHY_MAX];

	int r = listenfds_take(&passed);
	if (r < 0) {
		log_error("Failed to receive sockets from parent. LISTEN_PID and LISTEN_FDS must be numbers, and every "
			  "descriptor from 3 on must be open.");
		return r;
	}
	w->listeners = calloc((size_t)passed.count + c->listen_count + 1, sizeof(*w->listeners));
	if (w->listeners == NULL)
		return not_received(ENOMEM);
	for (unsigned i = 0; i < (unsigned)passed.count + c->listen_count + 1; i++) {
		w->listeners[i].worker = w;
		w->listeners[i].watch = (struct watch){.fd = -1, .events = WATCH_AWAY};
	}
	for (int i = 0; i < passed.count; i++) {
		r = adopt(w, 3 + i, passed.names != NULL ? passed.names[i] : "", false);
		if (r < 0)
			return r;
	}
	for (unsigned i = 0; i < c->listen_count; i++) {
		r = listen_open(&w->listeners[w->listener_count], c->listens[i], why);
		if (r < 0) {
			log_error("%s", why);
			return r;
		}
		w->listener_count++;
	}
	if (c->inetd || (w->listener_count == 0 && is_stdin_socket))
		return adopt_stdin(w);
	if (w->listener_count > 0)
		return 0;
	log_error("Didn't get any sockets passed in. Start it from a socket unit or another super-server, or name a place "
		  "to listen at: proxyd --listen=8080 %s", c->target.text);
	return -ENOENT;
}

/* ---- limits ---- */

/* Each connection takes two descriptors; a few more are the loop's, the resolver's and the log's. */
static void raise_descriptor_limit(const struct worker *w)
{
	enum { OTHERS = 24 };
	uint64_t others = OTHERS + w->listener_count, max = w->config->connections_max;
	uint64_t needed = others + 2 * max;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= needed)
		return;
	limit.rlim_cur = limit.rlim_max == RLIM_INFINITY || limit.rlim_max > needed ? (rlim_t)needed : limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < needed)
		log_warning("The limit of %llu descriptors (RLIMIT_NOFILE, LimitNOFILE=) is in force: it has room for "
			    "about %llu of --connections-max=%llu connections, further clients wait.",
			    (unsigned long long)limit.rlim_cur,
			    (unsigned long long)(limit.rlim_cur > others ? (limit.rlim_cur - others) / 2 : 0),
			    (unsigned long long)max);
}

/* ---- signals and the end ---- */

static void log_status(const struct worker *w)
{
	uint64_t bytes[2] = {w->count.bytes[CLIENT], w->count.bytes[TARGET]};

	for (const struct list *l = w->live.next; l != &w->live; l = l->next) {
		const struct conn *c = container_of(l, struct conn, link);
		bytes[CLIENT] += c->flow[CLIENT].bytes;
		bytes[TARGET] += c->flow[TARGET].bytes;
	}
	log_info("Status: %u connections now, %u at the peak, %llu in total; %llu bytes from clients, %llu from the "
		 "target; %llu refused, %llu failed.", w->count.now, w->count.peak, (unsigned long long)w->count.total,
		 (unsigned long long)bytes[CLIENT], (unsigned long long)bytes[TARGET],
		 (unsigned long long)w->count.refused, (unsigned long long)w->count.failed);
}

static void close_listeners(struct worker *w, bool only_own)
{
	for (unsigned i = 0; i < w->listener_count; i++)
		if (w->listeners[i].is_own || !only_own)
			listen_close(&w->listeners[i]);
}

/* Nobody new: our own sockets are closed, so that clients are told at once; passed ones are left to who passed them. */
static void end_in_order(struct service *s)
{
	struct worker *w = &s->worker;

	if (w->is_stopping) {
		w->is_finished = true;
		return;
	}
	s->left = w->count.now;
	notify_send("STOPPING=1\nSTATUS=Stopping, %u connections left.", s->left);
	accept_stop(w);
	close_listeners(w, true);
	loop_after(&w->loop, &s->deadline, s->config.shutdown_timeout);
}

static void past_deadline(struct timer *t)
{
	container_of(t, struct service, deadline)->worker.is_finished = true;
}

static void handle_signal(struct watch *w, uint32_t events)
{
	struct service *s = container_of(w, struct service, signals);
	struct signalfd_siginfo info;

	(void)events;
	while (read(w->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGUSR1)
			log_status(&s->worker);
		else
			end_in_order(s);
	}
}

static int watch_signals(struct service *s)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	/* As the first process of a container we inherit orphans; this reaps them. */
	signal(SIGCHLD, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	s->deadline.fire = past_deadline;
	s->signals = (struct watch){.events = WATCH_AWAY, .handle = handle_signal};
	s->signals.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	return s->signals.fd < 0 ? -errno : loop_watch(&s->worker.loop, &s->signals, EPOLLIN);
}

static void feed_watchdog(struct timer *t)
{
	struct service *s = container_of(t, struct service, watchdog);

	notify_send("WATCHDOG=1");
	loop_after(&s->worker.loop, t, s->watchdog_period);
}

/* ---- start, loop, exit status ---- */

static int init_worker(struct worker *w)
{
	const struct config *c = w->config;

	list_init(&w->live);
	list_init(&w->dead);
	list_init(&w->starved);
	w->lookup = (struct lookup){.host = c->target.host, .service = c->target.service, .resolver = &w->resolver};
	list_init(&w->lookup.waiting);
	if (!c->target.is_name) {
		w->fixed = answer_new(1);
		if (w->fixed == NULL)
			return -ENOMEM;
		w->fixed->address[0] = c->target.address;
	}
	int r = loop_init(&w->loop);
	return r < 0 ? r : resolve_init(&w->resolver, &w->loop, c->target.is_name);
}

static void announce(const struct worker *w)
{
	struct address a;
	char text[ADDR_TEXT_MAX];

	/* Only our own are said aloud: whoever passed the others knows them. */
	for (unsigned i = 0; i < w->listener_count; i++) {
		a.length = sizeof(a.un);
		if (w->listeners[i].is_own && getsockname(w->listeners[i].watch.fd, &a.any, &a.length) == 0)
			log_info("Listening on %s, forwarding to %s.", addr_text(&a, text), w->config->target.text);
	}
	notify_send("READY=1\nSTATUS=Serving %u socket%s, forwarding to %s.", w->listener_count,
		    w->listener_count == 1 ? "" : "s", w->config->target.text);
}

static int start(struct service *s, bool is_stdin_socket)
{
	struct worker *w = &s->worker;

	/* Before anything else is opened: it could stand where a socket should have been passed. */
	w->config = &s->config;
	int r = take_sockets(w, is_stdin_socket);
	if (r < 0)
		return r;
	raise_descriptor_limit(w);
	r = init_worker(w);
	if (r == 0)
		r = watch_signals(s);
	if (r == 0)
		r = accept_start(w);
	if (r < 0) {
		log_error("Failed to set up the event loop: %s", strerror(-r));
		return r;
	}
	s->watchdog.fire = feed_watchdog;
	s->watchdog_period = notify_watchdog();
	loop_after(&w->loop, &s->watchdog, s->watchdog_period);
	announce(w);
	return 0;
}

/* Who gave connections time to finish wants to know if it was too short; who gave none has asked for the cut. */
static int finish(struct service *s)
{
	struct worker *w = &s->worker;
	unsigned cuts = conn_close_all(w);

	conn_reap(w);
	close_listeners(w, false);
	if (w->is_stopping)
		log_info("Stopped: %u connections finished, %u were cut.", s->left - cuts, cuts);
	else
		notify_send("STOPPING=1\nSTATUS=Idle, exiting.");
	return cuts > 0 && s->config.shutdown_timeout > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	static struct service service; /* static: its timers and lists are pointed at until the process ends */
	struct worker *w = &service.worker;
	bool is_unix, is_stdin_socket = listenfds_kind(STDIN_FILENO, &is_unix) != SOCKET_OTHER;

	/* Where the log goes nothing else may be opened; open(2) gives the lowest number that is free. */
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			return EXIT_FAILURE;
	log_open();
	int status = options_parse(&service.config, argc, argv);
	if (status == 0)
		return EXIT_SUCCESS;
	int r = status < 0 ? start(&service, is_stdin_socket) : -EINVAL;
	if (r < 0) {
		close_listeners(w, false);
		notify_send("ERRNO=%d", -r);
		return EXIT_FAILURE;
	}
	for (;;) {
		unsigned ended = conn_reap(w);
		if (ended > 0)
			accept_freed(w, ended);
		if (w->is_finished)
			break;
		loop_turn(&w->loop);
	}
	return finish(&service);
}
