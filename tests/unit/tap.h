/*
 * tap.h - what a test needs to speak TAP: ok() for each thing that should be so, done_testing() as main's last word.
 */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int tap_count, tap_failed;

__attribute__((format(printf, 2, 3)))
static inline bool ok(bool condition, const char *format, ...)
{
	va_list ap;

	printf("%sok %d - ", condition ? "" : "not ", ++tap_count);
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	putchar('\n');
	tap_failed += !condition;
	return condition;
}

/* Prints the plan; returns main's exit status. */
static inline int done_testing(void)
{
	printf("1..%d\n", tap_count);
	if (tap_failed)
		printf("# %d of %d failed\n", tap_failed, tap_count);
	return tap_failed != 0;
}

#endif
