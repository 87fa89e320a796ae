/*
 * options.c - the command line.
 *
 * Spellings, order and texts are those of systemd-socket-proxyd(8) where it has the option; scripts look for them.
 * Options act one after the other, as they come.  What is wrong gets one line that begins with the known text and goes
 * on with what would be right.
 */
#include "proxyd.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

enum {
	BUFFER_SIZE = 16 * 1024,
	BUFFER_SIZE_MIN = 4 * 1024,
	BUFFER_SIZE_MAX = 16 * 1024 * 1024,
	CONNECTIONS_MAX = 256,
};

enum option_id { OPTION_EXIT_IDLE = 256, OPTION_BUFFER_SIZE, OPTION_INETD, OPTION_VERSION };

static const struct option options[] = {
	{"connections-max", required_argument, NULL, 'c'},
	{"listen", required_argument, NULL, 'l'},
	{"exit-idle-time", required_argument, NULL, OPTION_EXIT_IDLE},
	{"buffer-size", required_argument, NULL, OPTION_BUFFER_SIZE},
	{"inetd", no_argument, NULL, OPTION_INETD},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, OPTION_VERSION},
	{NULL, 0, NULL, 0},
};

static void help(void)
{
	fputs("proxyd [OPTION...] HOST:PORT\n"
	      "proxyd [OPTION...] [IPV6]:PORT\n"
	      "proxyd [OPTION...] /PATH/OF/SOCKET\n"
	      "proxyd [OPTION...] @ABSTRACT-SOCKET\n"
	      "\n"
	      "Forward connections from sockets passed in, or listened on, to another socket.\n"
	      "\n"
	      "  -c --connections-max=N   Serve so many connections at once (256)\n"
	      "     --exit-idle-time=SPAN Exit after so long without a connection (infinity)\n"
	      "  -l --listen=ADDRESS      Listen by itself: PORT, HOST:PORT, [IPV6]:PORT, /PATH\n"
	      "                           or @NAME; may be given several times\n"
	      "     --buffer-size=BYTES   Buffer of each direction, a power of two (16K)\n"
	      "     --inetd               Serve the socket on descriptor 0\n"
	      "  -h --help                Show this help\n"
	      "     --version             Show the version\n"
	      "\n"
	      "A SPAN is written as in systemd.time(7): 500ms, 90, 1min 30s, infinity.\n"
	      "See proxyd(8) for details.\n",
	      stdout);
}

/* All of these return what options_parse does. */

static int reject(const char *option, const char *argument, const char *remedy)
{
	log_error("Failed to parse --%s= argument: %s%s", option, argument, remedy);
	return 1;
}

static int parse_span(const char *option, const char *argument, uint64_t *span)
{
	if (span_parse(argument, span) < 0)
		return reject(option, argument, " (a time span is wanted, such as 500ms, 30s, 1min 30s or infinity)");
	return -1;
}

static int parse_connections_max(struct config *c, const char *argument)
{
	if (span_count(argument, &c->connections_max) < 0)
		return reject("connections-max", argument, " (a number from 1 to 4294967295 is wanted)");
	if (c->connections_max == 0) {
		log_error("Connection limit is too low. It must be at least 1.");
		return 1;
	}
	return -1;
}

static int parse_buffer_size(struct config *c, const char *argument)
{
	uint32_t n;

	if (span_size(argument, &n) < 0 || n < BUFFER_SIZE_MIN || n > BUFFER_SIZE_MAX || (n & (n - 1)) != 0)
		return reject("buffer-size", argument, " (a power of two from 4K to 16M is wanted)");
	c->buffer_size = n;
	return -1;
}

static int parse_listen(struct config *c, const char *argument)
{
	struct address a;
	char why[ADDR_WHY_MAX];

	if (addr_listen(&a, argument, why) < 0) {
		log_error("Failed to parse --listen= argument: %s", why);
		return 1;
	}
	if (c->listen_count == LISTENS_MAX) {
		log_error("Too many --listen= options: %d are the most.", LISTENS_MAX);
		return 1;
	}
	c->listens[c->listen_count++] = argument;
	return -1;
}

static int parse_option(struct config *c, int id)
{
	switch (id) {
	case 'c':
		return parse_connections_max(c, optarg);
	case 'l':
		return parse_listen(c, optarg);
	case OPTION_EXIT_IDLE:
		return parse_span("exit-idle-time", optarg, &c->exit_idle_time);
	case OPTION_BUFFER_SIZE:
		return parse_buffer_size(c, optarg);
	case OPTION_INETD:
		c->inetd = true;
		return -1;
	case 'h':
		help();
		return 0;
	case OPTION_VERSION:
		puts("proxyd " PROXYD_VERSION);
		return 0;
	default: /* getopt_long has said what is wrong. */
		return 1;
	}
}

static int parse_target(struct config *c, int count, char **words)
{
	char why[ADDR_WHY_MAX];

	if (count == 0) {
		log_error("Not enough parameters. Name the target: HOST:PORT, [IPV6]:PORT, /path or @name.");
		return 1;
	}
	if (count > 1) {
		log_error("Too many parameters. One target is wanted, and after %s comes %s.", words[0], words[1]);
		return 1;
	}
	if (addr_target(&c->target, words[0], why) < 0) {
		log_error("Failed to parse target: %s", why);
		return 1;
	}
	return -1;
}

int options_parse(struct config *c, int argc, char **argv)
{
	*c = (struct config){
		.connections_max = CONNECTIONS_MAX,
		.buffer_size = BUFFER_SIZE,
		.exit_idle_time = SPAN_INFINITY,
		.connect_timeout = SPAN_INFINITY,
		.idle_timeout = SPAN_INFINITY,
		.half_close_timeout = SPAN_INFINITY,
	};
	for (int id; (id = getopt_long(argc, argv, "c:l:h", options, NULL)) != -1;) {
		int status = parse_option(c, id);
		if (status >= 0)
			return status;
	}
	return parse_target(c, argc - optind, argv + optind);
}
