/*
 * log.c - one line an event, to whom it concerns.
 *
 * The line goes to stderr as it is.  Where stderr is the journal, which says so by JOURNAL_STREAM holding the device and
 * inode of descriptor 2, each line begins with its priority as <N>.  Where stderr and stdin are the same socket it is the
 * one to be served, because inetd hands it out as descriptors 0, 1 and 2: a line written there would end up in the
 * client's data, so it goes to /dev/log, as a datagram of the old format of RFC 3164, which leaves the time to the receiver.
 *
 * Level and outlet are globals of the whole program, set once at start, before any thread.
 */
#include "proxyd.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FACILITY_DAEMON = 3 << 3 };

enum outlet { OUTLET_STDERR, OUTLET_JOURNAL, OUTLET_SYSLOG };

static int max_level = LOG_LEVEL_INFO;
static enum outlet outlet = OUTLET_STDERR;

static bool is_journal(const struct stat *st)
{
	const char *stream = getenv("JOURNAL_STREAM");
	char *end;

	if (stream == NULL)
		return false;
	errno = 0;
	unsigned long long device = strtoull(stream, &end, 10);
	if (errno != 0 || end == stream || *end != ':')
		return false;
	const char *text = end + 1;
	unsigned long long inode = strtoull(text, &end, 10);
	return errno == 0 && end != text && *end == '\0' && device == st->st_dev && inode == st->st_ino;
}

/* -1: no such level. */
static int level_named(const char *name)
{
	static const char *const names[] = {"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"};

	for (int i = 0; i < 8; i++)
		if (strcmp(name, names[i]) == 0 || (name[0] == '0' + i && name[1] == '\0'))
			return i;
	return -1;
}

void log_open(void)
{
	struct stat in, err;

	if (fstat(STDERR_FILENO, &err) == 0) {
		if (is_journal(&err)) {
			outlet = OUTLET_JOURNAL;
		} else if (S_ISSOCK(err.st_mode) && fstat(STDIN_FILENO, &in) == 0 && in.st_ino == err.st_ino &&
			   in.st_dev == err.st_dev) {
			outlet = OUTLET_SYSLOG;
		}
	}

	const char *name = getenv("SYSTEMD_LOG_LEVEL");
	if (name != NULL) {
		int level = level_named(name);
		if (level >= 0)
			max_level = level;
		else
			log_warning("SYSTEMD_LOG_LEVEL=%s is not a level (emerg, alert, crit, err, warning, notice, info, "
				    "debug or 0 to 7), ignoring.", name);
	}
}

bool log_is_debug(void)
{
	return max_level >= LOG_LEVEL_DEBUG;
}

bool log_is_client(void)
{
	return outlet == OUTLET_SYSLOG;
}

void log_line(int level, const char *format, ...)
{
	if (level > max_level)
		return;

	int saved = errno;
	char line[1024];
	int prefix = 0;
	if (outlet == OUTLET_JOURNAL)
		prefix = snprintf(line, sizeof(line), "<%d>", level);
	else if (outlet == OUTLET_SYSLOG)
		prefix = snprintf(line, sizeof(line), "<%d>proxyd[%d]: ", FACILITY_DAEMON | level, (int)getpid());

	va_list args;
	va_start(args, format);
	int n = vsnprintf(line + prefix, sizeof(line) - (size_t)prefix - 1, format, args);
	va_end(args);

	size_t length = (size_t)prefix + (n < 0 ? 0 : (size_t)n);
	if (length > sizeof(line) - 2)
		length = sizeof(line) - 2;
	if (outlet == OUTLET_SYSLOG) {
		notify_datagram("/dev/log", line, length);
	} else {
		/* One write, so that lines of several processes do not mix.  Nobody is left to tell if it fails. */
		line[length] = '\n';
		ssize_t written = write(STDERR_FILENO, line, length + 1);
		(void)written;
	}
	errno = saved;
}
