/*
 * span_test.c - numbers in words, as tables.  The time spans stand in tests/spans.tsv (the first argument), which the
 * black-box tests read too: "accept TEXT MICROSECONDS" or "refuse TEXT", separated by tabs.  Its rows were checked
 * against systemd 252.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "../../proxyd.h"
#include "tap.h"

enum { REFUSED = -1 };

struct row {
	const char *text;
	int64_t value; /* or REFUSED */
};

/* As `socket-proxyd -c` of systemd 252 takes them. */
static const struct row counts[] = {
	{ "5", 5 }, { "256", 256 }, { "+5", 5 }, { " 5", 5 }, { "\t5", 5 }, { "\n5", 5 }, { "\v5", 5 }, { " \f5", 5 },
	{ "0", 0 }, { "00", 0 }, { "+0", 0 }, { "-0", 0 }, { " -0", 0 }, { "-0x0", 0 }, { "-00000", 0 },
	{ "0x10", 16 }, { "0X10", 16 }, { "+0x5", 5 }, { "0xffffffff", UINT32_MAX }, { "0xFfFfFfFf", UINT32_MAX },
	{ "0o17", 15 }, { "0O17", 15 }, { "0o07", 7 }, { "0o 7", 7 }, { "017", 15 }, { "037777777777", UINT32_MAX },
	{ "0b101", 5 }, { "0B101", 5 }, { " 0b1", 1 }, { "0b 1", 1 }, { "0b+1", 1 }, { "0b\v1", 1 }, { "0b-0", 0 },
	{ "0b11111111111111111111111111111111", UINT32_MAX }, { "0o37777777777", UINT32_MAX },
	{ "4294967295", UINT32_MAX },
	{ "", REFUSED }, { " ", REFUSED }, { "-", REFUSED }, { "+", REFUSED }, { "++5", REFUSED }, { "+ 5", REFUSED },
	{ "-5", REFUSED }, { "- 0", REFUSED }, { "-4294967295", REFUSED }, { "-18446744073709551615", REFUSED },
	{ "08", REFUSED }, { "5 ", REFUSED }, { "5\n", REFUSED }, { "5x", REFUSED }, { "x", REFUSED },
	{ "1_0", REFUSED },
	{ "0b", REFUSED }, { "0o", REFUSED }, { "0x", REFUSED }, { "0xg", REFUSED }, { "0x 5", REFUSED },
	{ "0x+5", REFUSED }, { "0b2", REFUSED }, { "0o8", REFUSED }, { "+0b1", REFUSED }, { "+0o7", REFUSED },
	{ "\v0b1", REFUSED }, { "0b-1", REFUSED }, { "0b0b1", REFUSED }, { "0b 0x1", REFUSED }, { "0o0x1", REFUSED },
	{ "0o0o7", REFUSED }, { "0x0x5", REFUSED }, { "abc", REFUSED }, { "1.5", REFUSED }, { "5k", REFUSED },
	{ "4294967296", REFUSED }, { "0x100000000", REFUSED }, { "040000000000", REFUSED },
	{ "0o40000000000", REFUSED }, { "0b111111111111111111111111111111111", REFUSED },
	{ "18446744073709551616", REFUSED }, { "18446744073709551617", REFUSED }, { "99999999999999999999", REFUSED },
};

static const struct row sizes[] = {
	{ "0", 0 }, { "1", 1 }, { "16384", 16384 }, { "0016", 16 }, { "16K", 16384 }, { "16k", 16384 }, { "0K", 0 },
	{ "1M", 1048576 }, { "1m", 1048576 }, { "4095M", INT64_C(4095) << 20 }, { "4194303K", INT64_C(4194303) << 10 },
	{ "4294967295", UINT32_MAX },
	{ "4294967296", REFUSED }, { "4194304K", REFUSED }, { "4096M", REFUSED }, { "99999999999999999999", REFUSED },
	{ "18446744073709551617", REFUSED }, { "", REFUSED }, { "K", REFUSED }, { "M", REFUSED }, { "+1", REFUSED },
	{ "-1", REFUSED }, { " 1", REFUSED }, { "1 ", REFUSED }, { "1 K", REFUSED }, { "1KB", REFUSED },
	{ "1Ki", REFUSED }, { "1KK", REFUSED }, { "1MK", REFUSED }, { "1kx", REFUSED }, { "1G", REFUSED }, { "1B", REFUSED },
	{ "0x10", REFUSED }, { "1.5K", REFUSED },
};

/* Time spans with blanks that a table of lines cannot hold; in microseconds. */
static const struct row blanks[] = {
	{ "\t1\n", 1000000 }, { "\r1\r", 1000000 }, { "1\t2", 3000000 }, { "1\nmin", 60000000 }, { "\v5", 5000000 },
	{ "\f5", 5000000 }, { "1 \v5", 6000000 }, { "\v-0", 0 },
	{ "5\v", REFUSED }, { "5s\v", REFUSED }, { "\v-5", REFUSED }, { "infinity\v", REFUSED }, { "\n", REFUSED },
};

/* Rounding to milliseconds. */
static const struct row spans[] = {
	{ "0", 0 }, { "0.0000001s", 0 }, { "1us", 1 }, { "999us", 1 }, { "1ms", 1 }, { "1001us", 2 }, { "1.5s", 1500 },
	{ "1min", 60000 }, { "1y", INT64_C(31557600000) }, { "-1", REFUSED }, { "", REFUSED },
};

static void check(const char *what, const char *text, bool is_refused, uint64_t want, int r, uint64_t got)
{
	if (is_refused)
		ok(r == -EINVAL || r == -ERANGE, "%s '%s' is refused", what, text);
	else if (!ok(r == 0 && got == want, "%s '%s' is %" PRIu64, what, text, want))
		printf("# gives %d, %" PRIu64 "\n", r, got);
}

/* Splits a line of the table at its tabs and checks it; false if it is no such line. */
static bool check_line(char *line)
{
	char *text = strchr(line, '\t'), *value;
	uint64_t us = 0;
	int r;

	line[strcspn(line, "\n")] = '\0';
	if (!text)
		return false;
	*text++ = '\0';
	value = strchr(text, '\t');
	if (value)
		*value++ = '\0';
	if (strcmp(line, value ? "accept" : "refuse") != 0)
		return false;
	r = span_parse_us(text, &us);
	check("span", text, !value, value ? strtoull(value, NULL, 10) : 0, r, us);
	return true;
}

static void check_file(const char *path)
{
	FILE *file = path ? fopen(path, "r") : NULL;
	char line[256];
	int rows = 0;

	while (file && fgets(line, sizeof line, file) && check_line(line))
		rows++;
	ok(file && feof(file) && rows >= 80, "the table of time spans is read to its end");
	if (file)
		fclose(file);
}

/* A line break would break TAP. */
static const char *visible(const char *text)
{
	static char copy[64];
	size_t i;

	for (i = 0; text[i] && i < sizeof copy - 1; i++)
		copy[i] = (char)(text[i] >= ' ' ? text[i] : '~');
	copy[i] = '\0';
	return copy;
}

#define CHECK_TABLE(table, type, parse) \
	for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) { \
		const struct row *row = &table[i]; \
		type got = 0; \
		int result = parse(row->text, &got); \
		check(#parse, visible(row->text), row->value < 0, (uint64_t)row->value, result, got); \
	}

int main(int argc, char **argv)
{
	uint64_t ms = 0;
	int r;

	check_file(argc > 1 ? argv[1] : NULL);
	CHECK_TABLE(blanks, uint64_t, span_parse_us)
	CHECK_TABLE(spans, uint64_t, span_parse)
	r = span_parse(" infinity ", &ms);
	ok(r == 0 && ms == SPAN_INFINITY, "infinity is SPAN_INFINITY in milliseconds too");
	r = span_parse("18446744073709ms 18428297329635us", &ms);
	ok(r == 0 && ms == UINT64_C(18465172371039), "a span in thousands of millions of milliseconds is exact");
	CHECK_TABLE(counts, unsigned, span_count)
	CHECK_TABLE(sizes, uint32_t, span_size)
	return done_testing();
}
