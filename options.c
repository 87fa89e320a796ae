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

enum option_id {
	OPTION_EXIT_IDLE_TIME = 256, OPTION_WHEN_FULL, OPTION_CONNECT_TIMEOUT, OPTION_CONNECT_RETRY, OPTION_IDLE_TIMEOUT,
	OPTION_HALF_CLOSE_TIMEOUT, OPTION_KEEPALIVE, OPTION_SHUTDOWN_TIMEOUT, OPTION_BUFFER_SIZE, OPTION_INETD,
	OPTION_VERSION,
};

static const struct option options[] = {
	{"connections-max", required_argument, NULL, 'c'},
	{"listen", required_argument, NULL, 'l'},
	{"exit-idle-time", required_argument, NULL, OPTION_EXIT_IDLE_TIME},
	{"when-full", required_argument, NULL, OPTION_WHEN_FULL},
	{"connect-timeout", required_argument, NULL, OPTION_CONNECT_TIMEOUT},
	{"connect-retry", required_argument, NULL, OPTION_CONNECT_RETRY},
	{"idle-timeout", required_argument, NULL, OPTION_IDLE_TIMEOUT},
	{"half-close-timeout", required_argument, NULL, OPTION_HALF_CLOSE_TIMEOUT},
	{"keepalive", required_argument, NULL, OPTION_KEEPALIVE},
	{"shutdown-timeout", required_argument, NULL, OPTION_SHUTDOWN_TIMEOUT},
	{"buffer-size", required_argument, NULL, OPTION_BUFFER_SIZE},
	{"inetd", no_argument, NULL, OPTION_INETD},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, OPTION_VERSION},
	/* Abbreviations that were clear while the original's four options were all; whoever wrote them shall not notice. */
	{"c", required_argument, NULL, 'c'},
	{"co", required_argument, NULL, 'c'},
	{"con", required_argument, NULL, 'c'},
	{"conn", required_argument, NULL, 'c'},
	{"conne", required_argument, NULL, 'c'},
	{"connec", required_argument, NULL, 'c'},
	{"connect", required_argument, NULL, 'c'},
	{"h", no_argument, NULL, 'h'},
	{NULL, 0, NULL, 0},
};

static void help(void)
{
	fputs("proxyd [OPTION...] HOST:PORT | [IPV6]:PORT | /PATH/OF/SOCKET | @ABSTRACT-SOCKET\n"
	      "\n"
	      "Forward connections from sockets passed in, or listened on, to another socket.\n"
	      "\n"
	      "  -c --connections-max=N        Serve so many connections at once (256)\n"
	      "     --when-full=refuse|wait    What happens to further clients (refuse)\n"
	      "     --exit-idle-time=SPAN      Exit after so long without client (infinity)\n"
	      "  -l --listen=ADDRESS           Listen at PORT, HOST:PORT, [IPV6]:PORT, /PATH...\n"
	      "     --inetd                    Serve the socket on descriptor 0\n"
	      "     --connect-timeout=SPAN     Give up on an address of the target (infinity)\n"
	      "     --connect-retry=SPAN       Keep trying a target that is not there yet (0)\n"
	      "     --idle-timeout=SPAN        End a connection without traffic (infinity)\n"
	      "     --half-close-timeout=SPAN  The same once one direction ended (infinity)\n"
	      "     --keepalive=IDLE[:INTERVAL[:COUNT]]  Probe silent TCP peers (off)\n"
	      "     --shutdown-timeout=SPAN    Let connections finish after SIGTERM (0)\n"
	      "     --buffer-size=BYTES        Buffer of each direction, a power of two (16K)\n"
	      "  -h --help                     Show this help\n"
	      "     --version                  Show the version\n"
	      "\n"
	      "A SPAN is written as in systemd.time(7): 500ms, 90, 1min 30s, infinity.\n"
	      "See proxyd(8) for details.\n",
	      stdout);
}

/* What follows reads optarg, getopt_long's argument of the option at hand, and returns what options_parse does. */

static int reject(int id, const char *remedy)
{
	const struct option *o = options;

	while (o->val != id)
		o++;
	log_error("Failed to parse --%s= argument: %s (%s)", o->name, optarg, remedy);
	return 1;
}

static int parse_span(int id, uint64_t *span)
{
	if (span_parse(optarg, span) < 0)
		return reject(id, "a time span is wanted, such as 500ms, 30s, 1min 30s or infinity");
	return -1;
}

/* Silence of no length would end every connection as it begins. */
static int parse_timeout(int id, uint64_t *span)
{
	int status = parse_span(id, span);

	return status < 0 && *span == 0 ? reject(id, "a time span above 0 is wanted") : status;
}

static int parse_when_full(struct config *c)
{
	if (strcmp(optarg, "wait") == 0)
		c->when_full = WHEN_FULL_WAIT;
	else if (strcmp(optarg, "refuse") == 0)
		c->when_full = WHEN_FULL_REFUSE;
	else
		return reject(OPTION_WHEN_FULL, "refuse or wait is wanted");
	return -1;
}

/* A span in whole seconds within the kernel's bounds for a keepalive time, see tcp(7). */
static bool read_seconds(const char *text, unsigned *seconds)
{
	enum { MAX_S = 32767 };
	uint64_t ms;

	if (span_parse(text, &ms) < 0 || ms == 0 || ms > MAX_S * 1000)
		return false;
	*seconds = (unsigned)((ms + 999) / 1000);
	return true;
}

static int parse_keepalive(struct config *c)
{
	enum { MAX_COUNT = 127 };
	char words[100], *interval, *count = NULL;

	c->keepalive_interval_s = c->keepalive_count = 0;
	snprintf(words, sizeof(words), "%s", optarg);
	interval = strchr(words, ':');
	if (interval != NULL) {
		*interval++ = '\0';
		count = strchr(interval, ':');
	}
	if (count != NULL)
		*count++ = '\0';
	if (strlen(optarg) >= sizeof(words) || !read_seconds(words, &c->keepalive_idle_s) ||
	    (interval != NULL && !read_seconds(interval, &c->keepalive_interval_s)) ||
	    (count != NULL && (span_count(count, &c->keepalive_count) < 0 || c->keepalive_count == 0 ||
			       c->keepalive_count > MAX_COUNT)))
		return reject(OPTION_KEEPALIVE, "IDLE[:INTERVAL[:COUNT]] is wanted, such as 2min:10s:6, with spans from "
						"1s to 32767s and a count from 1 to 127");
	return -1;
}

static int parse_connections_max(struct config *c)
{
	if (span_count(optarg, &c->connections_max) < 0)
		return reject('c', "a number from 1 to 4294967295 is wanted");
	if (c->connections_max == 0) {
		log_error("Connection limit is too low. It must be at least 1.");
		return 1;
	}
	return -1;
}

static int parse_buffer_size(struct config *c)
{
	uint32_t n;

	if (span_size(optarg, &n) < 0 || n < BUFFER_SIZE_MIN || n > BUFFER_SIZE_MAX || (n & (n - 1)) != 0)
		return reject(OPTION_BUFFER_SIZE, "a power of two from 4K to 16M is wanted");
	c->buffer_size = n;
	return -1;
}

static int parse_listen(struct config *c)
{
	struct address a;
	char why[ADDR_WHY_MAX];

	if (addr_listen(&a, optarg, why) < 0) {
		log_error("Failed to parse --listen= argument: %s", why);
		return 1;
	}
	if (c->listen_count == LISTENS_MAX) {
		log_error("Too many --listen= options: %d are the most.", LISTENS_MAX);
		return 1;
	}
	c->listens[c->listen_count++] = optarg;
	return -1;
}

static int parse_option(struct config *c, int id)
{
	switch (id) {
	case 'c':
		return parse_connections_max(c);
	case 'l':
		return parse_listen(c);
	case OPTION_EXIT_IDLE_TIME:
		return parse_span(id, &c->exit_idle_time);
	case OPTION_WHEN_FULL:
		return parse_when_full(c);
	case OPTION_CONNECT_TIMEOUT:
		return parse_timeout(id, &c->connect_timeout);
	case OPTION_CONNECT_RETRY:
		return parse_span(id, &c->connect_retry);
	case OPTION_IDLE_TIMEOUT:
		return parse_timeout(id, &c->idle_timeout);
	case OPTION_HALF_CLOSE_TIMEOUT:
		return parse_timeout(id, &c->half_close_timeout);
	case OPTION_KEEPALIVE:
		return parse_keepalive(c);
	case OPTION_SHUTDOWN_TIMEOUT:
		return parse_span(id, &c->shutdown_timeout);
	case OPTION_BUFFER_SIZE:
		return parse_buffer_size(c);
	case OPTION_INETD:
		c->inetd = true;
		return -1;
	case 'h':
		help();
		return 0;
	default: /* OPTION_VERSION */
		puts("proxyd " PROXYD_VERSION);
		return 0;
	}
}

/* In our own words, because getopt_long's go to stderr in any case, and that may be the client. */
static int reject_option(int id, const char *word)
{
	if (word[0] != '-' || word[1] != '-')
		log_error("%s -- '%c'; see proxyd --help.", id == ':' ? "option requires an argument" : "invalid option",
			  optopt);
	else if (id == ':')
		log_error("option '%s' requires an argument; see proxyd --help.", word);
	else if (optopt != 0)
		log_error("option '%s' doesn't allow an argument; see proxyd --help.", word);
	else
		log_error("unrecognized option '%s', or short for several; see proxyd --help.", word);
	return 1;
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
	for (int id; (id = getopt_long(argc, argv, ":c:l:h", options, NULL)) != -1;) {
		/* A missing argument leaves optind past the end under musl. */
		const char *word = argv[(optind < argc ? optind : argc) - 1];
		int status = id == '?' || id == ':' ? reject_option(id, word) : parse_option(c, id);
		if (status >= 0)
			return status;
	}
	return parse_target(c, argc - optind, argv + optind);
}
