/*
 * usage.c - what processes use, from /proc and from their CPU clocks.
 *
 * The CPU clock of a process is the sum of utime and stime of all its threads, those that have ended too, but in
 * nanoseconds, where /proc/PID/stat has ticks of 10 ms.  Only what its children used that have ended is in ticks alone.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

enum { PROCESSES_MAX = 32768 };

struct process {
	pid_t pid, parent;
};

static struct process processes[PROCESSES_MAX];
static size_t process_count;
static bool used_ticks; /* a CPU clock could not be read */

/* The fields of /proc/PID/stat from the state on, which is number 3 there. */
static bool stat_read(pid_t pid, char *buf, size_t size, char **fields)
{
	char path[64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return false;
	n = read(fd, buf, size - 1);
	close(fd);
	if (n <= 0)
		return false;
	buf[n] = '\0';
	*fields = strrchr(buf, ')');
	return *fields && (*fields += 2);
}

void processes_read(void)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	char buf[1024], *fields;

	process_count = 0;
	while (dir && (entry = readdir(dir)) && process_count < PROCESSES_MAX) {
		pid_t pid = atoi(entry->d_name);
		int parent;

		if (pid > 0 && stat_read(pid, buf, sizeof(buf), &fields) && sscanf(fields, "%*c %d", &parent) == 1)
			processes[process_count++] = (struct process){ pid, parent };
	}
	if (dir)
		closedir(dir);
}

/* The process's own CPU by its clock, and that of the children it has waited for in ticks, as there is no finer. */
uint64_t process_cpu(pid_t pid)
{
	uint64_t tick_ns = 1000000000u / (uint64_t)sysconf(_SC_CLK_TCK);
	unsigned long user, system;
	long children_user, children_system;
	struct timespec ts;
	clockid_t clock;
	char buf[1024], *fields;

	if (!stat_read(pid, buf, sizeof(buf), &fields) || sscanf(fields, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u"
		" %lu %lu %ld %ld", &user, &system, &children_user, &children_system) != 4)
		return 0;
	if (clock_getcpuclockid(pid, &clock) == 0 && clock_gettime(clock, &ts) == 0)
		return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec +
			(uint64_t)(children_user + children_system) * tick_ns;
	used_ticks = true;
	return ((uint64_t)user + system + (uint64_t)children_user + (uint64_t)children_system) * tick_ns;
}

/* A line "NAME: N kB" of a file in /proc/PID. */
static uint64_t process_kb(pid_t pid, const char *file, const char *format)
{
	char path[64], line[256];
	unsigned long kb = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	if (!(f = fopen(path, "re")))
		return 0;
	while (kb == 0 && fgets(line, sizeof(line), f))
		if (strncmp(line, format, strlen(format)) == 0)
			kb = strtoul(line + strlen(format), NULL, 10);
	fclose(f);
	return kb;
}

/* VmRSS lags by some pages a core on Linux 6.2 and later; the roll-up counts them. */
uint64_t process_rss(pid_t pid)
{
	uint64_t kb = process_kb(pid, "smaps_rollup", "Rss:");

	return 1024 * (kb ? kb : process_kb(pid, "status", "VmRSS:"));
}

static uint64_t process_descriptors(pid_t pid)
{
	struct dirent *entry;
	uint64_t count = 0;
	char path[64];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	if (!(dir = opendir(path)))
		return 0;
	while ((entry = readdir(dir)))
		count += entry->d_name[0] != '.';
	closedir(dir);
	return count;
}

void tree_usage(pid_t pid, struct usage *u, bool has_memory)
{
	u->cpu_ns += process_cpu(pid);
	if (has_memory) {
		u->rss += process_rss(pid);
		u->descriptors += process_descriptors(pid);
	}
	for (size_t i = 0; i < process_count; i++)
		if (processes[i].parent == pid)
			tree_usage(processes[i].pid, u, has_memory);
}

bool usage_is_coarse(void)
{
	return used_ticks;
}
