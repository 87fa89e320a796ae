/*
 * demo.c - make demo: shows proxyd's main job on loopback, in two seconds.
 *
 *      demo PROXYD
 *
 * This program plays three parts.  The backend is a process of its own that answers one request a connection.  The
 * service manager holds the socket that clients connect to, and starts PROXYD only when a client waits there, with the
 * socket as descriptor 3 and LISTEN_PID and LISTEN_FDS in its environment.  The client sends a request and reads the
 * reply until it ends.
 *
 * Client and backend count their bytes independently; the demo fails unless both counts agree.  The exit status is 0
 * if all went as told, else 1, with one line that says what did not.  It ends within 10 s in any case, and takes the
 * processes it started with it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FIRST_FD = 3, TIME_MAX_S = 9, MESSAGE_MAX = 1024 };

/* What passed an endpoint so far. */
struct count {
	_Atomic unsigned long received, sent;
};

struct demo {
	const char *proxyd;
	int listener;          /* the clients' socket, held by the service manager */
	unsigned port, backend_port;
	pid_t pid, backend_pid; /* pid is proxyd's */
	struct count client;
	struct count *backend; /* shared with its process */
};

static _Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

static _Noreturn void fail(const char *format, ...)
{
	va_list args;

	fflush(stdout);
	fputs("demo: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

static void take_too_long(int signal)
{
	static const char text[] = "demo: it took too long\n";
	ssize_t n = write(STDERR_FILENO, text, sizeof(text) - 1);

	(void)signal;
	(void)n;
	_exit(1);
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* A process that is killed when this one ends, however that happens.  0: in the child. */
static pid_t start_child(void)
{
	pid_t parent = getpid();

	fflush(stdout);
	pid_t pid = fork();
	if (pid < 0)
		fail("cannot start a process: %s", strerror(errno));
	if (pid == 0) {
		alarm(0);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
	}
	return pid;
}

/* ---- sockets ---- */

static int listen_somewhere(unsigned *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 16) < 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &length) < 0)
		fail("cannot listen on 127.0.0.1: %s", strerror(errno));
	*port = ntohs(a.sin_port);
	return fd;
}

static int connect_to(unsigned port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	a.sin_port = htons((uint16_t)port);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		fail("cannot connect to 127.0.0.1:%u: %s", port, strerror(errno));
	return fd;
}

static bool send_all(int fd, const char *text, struct count *count)
{
	size_t left = strlen(text);

	while (left > 0) {
		ssize_t n = send(fd, text, left, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return false;
		text += n;
		left -= (size_t)n;
		count->sent += (unsigned long)n;
	}
	return true;
}

/* Adds what comes next to text, which stays a string.  0: the end of the stream, -1: an error. */
static ssize_t receive_more(int fd, char text[MESSAGE_MAX], struct count *count)
{
	size_t length = strlen(text);
	ssize_t n;

	do
		n = recv(fd, text + length, MESSAGE_MAX - 1 - length, 0);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		text[length + (size_t)n] = '\0';
		count->received += (unsigned long)n;
	}
	return n;
}

/* ---- the backend ---- */

static void answer(int fd, struct count *count)
{
	char request[MESSAGE_MAX] = "", path[64] = "", reply[MESSAGE_MAX];

	while (strstr(request, "\r\n\r\n") == NULL)
		if (receive_more(fd, request, count) <= 0)
			return;
	if (sscanf(request, "GET %63s ", path) != 1)
		return;
	snprintf(reply, sizeof(reply), "HTTP/1.0 200 OK\r\n\r\nThis is the backend, and you asked for %s.\r\n", path);
	send_all(fd, reply, count);
}

static void start_backend(struct demo *d)
{
	int listener = listen_somewhere(&d->backend_port);

	d->backend = mmap(NULL, sizeof(*d->backend), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (d->backend == MAP_FAILED)
		fail("cannot share memory: %s", strerror(errno));
	d->backend_pid = start_child();
	if (d->backend_pid == 0) {
		/* The client's socket is not its business: were it held here too, clients could not see it close. */
		close(d->listener);
		for (;;) {
			int fd = accept(listener, NULL, NULL);
			if (fd < 0)
				_exit(1);
			answer(fd, d->backend);
			close(fd);
		}
	}
	close(listener);
}

/* ---- the service manager ---- */

/* The form of what status says about a process that ended. */
static const char *tell(int status, char text[64])
{
	if (WIFEXITED(status))
		snprintf(text, 64, "exited with status %d", WEXITSTATUS(status));
	else
		snprintf(text, 64, "was ended by signal %d", WTERMSIG(status));
	return text;
}

static _Noreturn void run_proxyd(const struct demo *d, const char *target)
{
	char pid[16];

	/* dup2 clears the close-on-exec flag, unless the descriptor is in its place already. */
	int fd = d->listener == FIRST_FD ? dup(d->listener) : d->listener;
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	if (dup2(fd, FIRST_FD) < 0 || setenv("LISTEN_PID", pid, 1) < 0 || setenv("LISTEN_FDS", "1", 1) < 0)
		_exit(126);
	if (fd != FIRST_FD && fd != d->listener)
		close(fd);
	unsetenv("LISTEN_FDNAMES");
	unsetenv("LISTEN_PIDFDID");
	unsetenv("NOTIFY_SOCKET");
	execl(d->proxyd, d->proxyd, "--exit-idle-time=1s", target, (char *)NULL);
	fprintf(stderr, "demo: cannot run %s: %s\n", d->proxyd, strerror(errno));
	_exit(127);
}

/* Starts proxyd once a client waits at the socket, not before. */
static void activate(struct demo *d)
{
	struct pollfd p = {.fd = d->listener, .events = POLLIN};
	char target[32];

	while (poll(&p, 1, -1) < 0)
		if (errno != EINTR)
			fail("cannot wait for a client: %s", strerror(errno));
	snprintf(target, sizeof(target), "127.0.0.1:%u", d->backend_port);
	d->pid = start_child();
	if (d->pid == 0)
		run_proxyd(d, target);
	printf("   This starts proxyd, as process %d, with the socket as descriptor 3:\n", (int)d->pid);
	printf("     LISTEN_FDS=1 %s --exit-idle-time=1s %s\n", d->proxyd, target);
}

static void expect_idle_exit(struct demo *d)
{
	char text[64];
	int status;
	double start = seconds();

	while (waitpid(d->pid, &status, 0) < 0)
		if (errno != EINTR)
			fail("cannot wait for proxyd: %s", strerror(errno));
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail("proxyd %s", tell(status, text));
	printf("   Nobody is connected any more: %.1f s later proxyd exited with status 0.\n", seconds() - start);
}

/* ---- the client ---- */

/* Fails if proxyd ends before anything can be read. */
static void wait_for_reply(const struct demo *d, int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char text[64];
	int status;

	while (poll(&p, 1, 50) <= 0)
		if (waitpid(d->pid, &status, WNOHANG) == d->pid)
			fail("proxyd %s before there was a reply", tell(status, text));
}

static void show(const char *mark, char *text)
{
	for (char *line = strtok(text, "\r\n"); line != NULL; line = strtok(NULL, "\r\n"))
		printf("     %s %s\n", mark, line);
}

static void request(struct demo *d, int number, const char *path)
{
	char text[MESSAGE_MAX], reply[MESSAGE_MAX] = "";
	ssize_t n;

	int fd = connect_to(d->port);
	snprintf(text, sizeof(text), "GET %s HTTP/1.0\r\nHost: 127.0.0.1:%u\r\n\r\n", path, d->port);
	if (!send_all(fd, text, &d->client))
		fail("cannot send a request: %s", strerror(errno));
	printf("%d. A client connects to 127.0.0.1:%u and asks for %s.\n", number, d->port, path);
	activate(d);
	do {
		wait_for_reply(d, fd);
		n = receive_more(fd, reply, &d->client);
	} while (n > 0);
	if (n < 0)
		fail("cannot read the reply: %s", strerror(errno));
	close(fd);
	if (strncmp(reply, "HTTP/1.0 200 ", 13) != 0 || strstr(reply, path) == NULL)
		fail("the reply to %s is not the backend's", path);
	show(">", text);
	show("<", reply);
}

/* ---- what all this amounts to ---- */

static void sum_up(const struct demo *d)
{
	printf("Forwarded, as counted at both ends:\n");
	printf("   to the backend  %4lu bytes sent, %4lu received\n", d->client.sent, d->backend->received);
	printf("   to the client   %4lu bytes sent, %4lu received\n", d->backend->sent, d->client.received);
	if (d->client.sent != d->backend->received || d->backend->sent != d->client.received)
		fail("the counts differ");
}

int main(int argc, char **argv)
{
	struct demo d = {.proxyd = argc == 2 ? argv[1] : ""};

	if (argc != 2)
		fail("usage: demo PROXYD");
	signal(SIGALRM, take_too_long);
	signal(SIGCHLD, SIG_DFL);
	alarm(TIME_MAX_S);
	d.listener = listen_somewhere(&d.port);
	start_backend(&d);
	printf("A backend listens on 127.0.0.1:%u.  Clients use 127.0.0.1:%u, a socket\n", d.backend_port, d.port);
	printf("that this program holds, as systemd would.  proxyd does not run yet.\n");
	request(&d, 1, "/first");
	expect_idle_exit(&d);
	request(&d, 2, "/second");
	expect_idle_exit(&d);
	sum_up(&d);
	kill(d.backend_pid, SIGKILL);
	waitpid(d.backend_pid, NULL, 0);
	return 0;
}
