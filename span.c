/*
 * span.c - numbers in words: time spans, counts, sizes.
 *
 * Time spans and counts are read as systemd reads them, oddities included, because people move command lines here that
 * worked there; tests/spans.tsv is the table of what that means.  A span is a row of terms that add up, each a
 * number, perhaps a fraction, perhaps blanks and a unit; without a unit it means seconds.  A term without a unit must
 * be followed by a blank or the end, or "12.34.56" would pass.
 *
 * The number of a term or a count is what strtoull(3) would take: white space and a sign may precede it, and -0 is 0.
 * It is read by hand all the same, because a C23 strtoull knows 0b where an older one does not.  The result of any
 * locale and of 32 bits is the same.
 */
#include <errno.h>
#include <string.h>

#include "proxyd.h"

#define BLANKS " \t\n\r"
#define C_BLANKS BLANKS "\v\f"
#define DIGITS "0123456789"

#define SECOND UINT64_C(1000000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
#define WEEK (7 * DAY)
#define MONTH (2629800 * SECOND)
#define YEAR (31557600 * SECOND)

/* The first word that fits is taken, so a word comes after those that it begins. */
static const struct {
	const char *word;
	uint64_t us;
} units[] = {
	{ "usec", 1 }, { "us", 1 }, { "\xce\xbcs", 1 }, { "\xc2\xb5s", 1 }, /* U+03BC and U+00B5 */
	{ "msec", 1000 }, { "ms", 1000 },
	{ "seconds", SECOND }, { "second", SECOND }, { "sec", SECOND }, { "s", SECOND },
	{ "months", MONTH }, { "month", MONTH }, { "M", MONTH },
	{ "minutes", MINUTE }, { "minute", MINUTE }, { "min", MINUTE }, { "m", MINUTE },
	{ "hours", HOUR }, { "hour", HOUR }, { "hr", HOUR }, { "h", HOUR },
	{ "days", DAY }, { "day", DAY }, { "d", DAY },
	{ "weeks", WEEK }, { "week", WEEK }, { "w", WEEK },
	{ "years", YEAR }, { "year", YEAR }, { "y", YEAR },
};

static unsigned digit(char c)
{
	if (c >= '0' && c <= '9')
		return (unsigned)(c - '0');
	if (c >= 'a' && c <= 'f')
		return (unsigned)(c - 'a' + 10);
	if (c >= 'A' && c <= 'F')
		return (unsigned)(c - 'A' + 10);
	return UINT32_MAX;
}

/* Reads digits at *p up to the first that is none. */
static int digits(const char **p, unsigned base, uint64_t max, uint64_t *n)
{
	const char *start = *p;

	for (*n = 0; digit(**p) < base; ++*p) {
		unsigned d = digit(**p);

		if (d > max || *n > (max - d) / base)
			return -ERANGE;
		*n = *n * base + d;
	}
	return *p == start ? -EINVAL : 0;
}

/* The base that C gives a number; *p is moved past 0x. */
static unsigned base_of(const char **p)
{
	if (**p != '0')
		return 10;
	if (((*p)[1] == 'x' || (*p)[1] == 'X') && digit((*p)[2]) < 16) {
		*p += 2;
		return 16;
	}
	return 8;
}

/* Reads an integer as strtoull(3) does; base 0 is C's choice.  Below 0 is out of range. */
static int number(const char **p, unsigned base, uint64_t max, uint64_t *n)
{
	bool is_negative;
	int r;

	*p += strspn(*p, C_BLANKS);
	is_negative = **p == '-';
	if (is_negative || **p == '+')
		++*p;
	if (base == 0)
		base = base_of(p);
	r = digits(p, base, max, n);
	return r == 0 && is_negative && *n > 0 ? -ERANGE : r;
}

/* Reads blanks and a unit; both may be missing, but one of them must be there if the text goes on. */
static int unit(const char **p, uint64_t *us)
{
	size_t blanks = strspn(*p, BLANKS);

	*p += blanks;
	for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
		size_t length = strlen(units[i].word);

		if (strncmp(*p, units[i].word, length) == 0) {
			*p += length;
			*us = units[i].us;
			return 0;
		}
	}
	*us = SECOND;
	return blanks > 0 || **p == '\0' ? 0 : -EINVAL;
}

/* Adds what stays below SPAN_INFINITY. */
static int add(uint64_t *total, uint64_t us)
{
	if (us >= SPAN_INFINITY - *total)
		return -ERANGE;
	*total += us;
	return 0;
}

/* Each digit is worth a tenth of the one before, in whole microseconds: past a microsecond it is worth nothing. */
static int add_fraction(uint64_t *total, const char *fraction, uint64_t us)
{
	int r = 0;

	for (us /= 10; r == 0 && digit(*fraction) < 10; fraction++, us /= 10)
		r = add(total, digit(*fraction) * us);
	return r;
}

static int add_term(uint64_t *total, const char **p)
{
	const char *fraction = "";
	uint64_t n = 0, us;
	int r;

	if (**p == '-')
		return -ERANGE;
	if (**p != '.' && (r = number(p, 10, INT64_MAX, &n)) < 0)
		return r;
	if (**p == '.') {
		fraction = ++*p;
		*p += strspn(*p, DIGITS);
		if (*p == fraction)
			return -EINVAL;
	}
	if ((r = unit(p, &us)) < 0)
		return r;
	if (n >= SPAN_INFINITY / us)
		return -ERANGE;
	if ((r = add(total, n * us)) < 0)
		return r;
	return add_fraction(total, fraction, us);
}

static bool is_infinity(const char *text)
{
	static const char word[] = "infinity";

	if (strncmp(text, word, sizeof word - 1) != 0)
		return false;
	text += sizeof word - 1;
	return text[strspn(text, BLANKS)] == '\0';
}

int span_parse_us(const char *text, uint64_t *us)
{
	const char *p = text + strspn(text, BLANKS);
	uint64_t total = 0;

	if (is_infinity(p)) {
		*us = SPAN_INFINITY;
		return 0;
	}
	if (*p == '\0')
		return -EINVAL;
	while (*p) {
		int r = add_term(&total, &p);

		if (r < 0)
			return r;
		p += strspn(p, BLANKS);
	}
	*us = total;
	return 0;
}

int span_parse(const char *text, uint64_t *ms)
{
	uint64_t us;
	int r = span_parse_us(text, &us);

	if (r < 0)
		return r;
	*ms = us == SPAN_INFINITY ? SPAN_INFINITY : us / 1000 + (us % 1000 != 0);
	return 0;
}

int span_count(const char *text, unsigned *n)
{
	unsigned base = 0;
	uint64_t count;
	int r;

	text += strspn(text, BLANKS);
	if (text[0] == '0' && (text[1] == 'b' || text[1] == 'B'))
		base = 2;
	if (text[0] == '0' && (text[1] == 'o' || text[1] == 'O'))
		base = 8;
	if (base)
		text += 2; /* what follows may begin with blanks and a sign once more: 0b+1 is 1 */
	r = number(&text, base, UINT32_MAX, &count);
	if (r < 0)
		return r;
	if (*text)
		return -EINVAL;
	*n = (unsigned)count;
	return 0;
}

int span_size(const char *text, uint32_t *n)
{
	uint64_t size;
	unsigned shift = 0;
	int r = digits(&text, 10, UINT32_MAX, &size);

	if (r < 0)
		return r;
	if (*text == 'k' || *text == 'K')
		shift = 10;
	if (*text == 'm' || *text == 'M')
		shift = 20;
	if (text[shift > 0])
		return -EINVAL;
	if (size > UINT32_MAX >> shift)
		return -ERANGE;
	*n = (uint32_t)(size << shift);
	return 0;
}
