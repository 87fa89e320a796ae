/*
 * start.c - how long a program takes from exec to the first byte through a socket that was passed to it.
 *
 * The client has connected and sent before the program starts: it waits in the backlog, as with socket activation.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "load.h"

/* The child's last act before exec is to look at the clock. */
static pid_t exec_with_socket(int fd, char **command, uint64_t *began)
{
	char pid[16];
	pid_t child = fork();

	if (child < 0)
		die("fork: %s", strerror(errno));
	if (child > 0)
		return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (fd == 3)
		fcntl(fd, F_SETFD, 0);
	else
		dup2(fd, 3);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
	*began = now_ns();
	execvp(command[0], command);
	_exit(127);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

void run_start(char **command)
{
	uint64_t *began = mmap(NULL, sizeof(*began), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	size_t runs = load.count ? load.count : 20, i;
	uint64_t *took = allocate(runs, sizeof(*took)), *rss = allocate(runs, sizeof(*rss));

	if (began == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	for (i = 0; i < runs; i++) {
		int listener, client;
		pid_t child;

		place_parse(&load.place, "127.0.0.1:0");
		listener = place_listen(&load.place, "127.0.0.1:0");
		load.place.in4.sin_port = htons((uint16_t)place_port(listener));
		client = open_echo();
		child = exec_with_socket(listener, command, began);
		await(client, 1);
		took[i] = now_ns() - *began;
		rss[i] = process_rss(child);
		close(listener);
		close(client);
		kill(child, SIGTERM);
		if (waitpid(child, NULL, 0) != child)
			die("waitpid: %s", strerror(errno));
	}
	qsort(took, runs, sizeof(*took), compare);
	qsort(rss, runs, sizeof(*rss), compare);
	printf("work=start ops=%zu p50_us=%.1f p99_us=%.1f rss=%" PRIu64 "\n", runs, (double)took[runs / 2] / 1000,
		(double)took[(runs * 99) / 100] / 1000, rss[runs / 2]);
}
