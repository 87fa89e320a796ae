/*
 * ring_test.c - the ring against the plainest model: one counter for what was put and one for what was taken.
 *
 * Byte number n of the stream has a value made from n, so the model needs no memory: what is read must be the values
 * of the counters taken .. put.  An 8-byte ring is small enough to try every position, length and count, once with
 * counters near 0 and once with counters that wrap past 2^32 on the way.
 */
#include <stdlib.h>
#include <string.h>

#include "../../proxyd.h"
#include "tap.h"

enum { SIZE = 8 };

static unsigned char memory[SIZE];
static unsigned long bad;

static unsigned char value(uint32_t n)
{
	return (unsigned char)(n * 167 + (n >> 8) * 13 + 5);
}

static void expect(bool condition)
{
	bad += !condition;
}

static uint32_t min(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* Puts bytes number put .. put + n, n at most the space; returns what the next number is. */
static uint32_t fill(struct ring *r, uint32_t put, uint32_t n)
{
	unsigned char *p;
	uint32_t space = ring_space(r, &p);

	expect(n <= space && p >= memory && p + space <= memory + SIZE);
	for (uint32_t i = 0; i < n; i++)
		p[i] = value(put + i);
	ring_put(r, n);
	return put + n;
}

/* Takes n bytes, at most the data, which must be those from number taken on. */
static uint32_t drain(struct ring *r, uint32_t taken, uint32_t n)
{
	unsigned char *p;
	uint32_t data = ring_data(r, &p);

	expect(n <= data && p >= memory && p + data <= memory + SIZE);
	for (uint32_t i = 0; i < n; i++)
		expect(p[i] == value(taken + i));
	ring_take(r, n);
	return taken + n;
}

/* A ring that holds length bytes, numbers 0 .. length, with its tail at the given counter. */
static struct ring make(uint32_t tail, uint32_t length)
{
	struct ring r;

	ring_init(&r, memory, SIZE);
	r.head = r.tail = tail;
	for (uint32_t put = 0; put < length;)
		put = fill(&r, put, min(length - put, SIZE - (tail + put) % SIZE));
	return r;
}

static void check_runs(uint32_t tail, uint32_t length)
{
	struct ring r = make(tail, length);
	unsigned char *p;

	expect(ring_used(&r) == length);
	expect(ring_room(&r) == SIZE - length);
	expect(ring_data(&r, &p) == min(length, SIZE - tail % SIZE));
	expect(p == memory + tail % SIZE);
	expect(ring_space(&r, &p) == min(SIZE - length, SIZE - (tail + length) % SIZE));
	expect(p == memory + (tail + length) % SIZE);
}

/* Puts count bytes, then takes everything. */
static void check_put(uint32_t tail, uint32_t length, uint32_t count)
{
	struct ring r = make(tail, length);
	unsigned char *p;
	uint32_t taken = 0, put;

	if (count > ring_space(&r, &p))
		return;
	put = fill(&r, length, count);
	expect(ring_used(&r) == length + count);
	while (taken < put) {
		uint32_t data = ring_data(&r, &p);

		expect(data > 0);
		if (data == 0)
			return;
		taken = drain(&r, taken, data);
	}
	expect(ring_used(&r) == 0);
	if (put > 0)
		expect(r.head == 0 && r.tail == 0 && ring_space(&r, &p) == SIZE && p == memory);
}

/* Takes count bytes, then puts as much as there is room for, then takes everything. */
static void check_take(uint32_t tail, uint32_t length, uint32_t count)
{
	struct ring r = make(tail, length);
	unsigned char *p;
	uint32_t taken, put = length;

	if (count > ring_data(&r, &p))
		return;
	taken = drain(&r, 0, count);
	expect(ring_used(&r) == length - count);
	if (count > 0 && count == length)
		expect(r.head == 0 && r.tail == 0);
	for (int i = 0; i < 2; i++)
		put = fill(&r, put, ring_space(&r, &p));
	expect(ring_room(&r) == 0 && ring_space(&r, &p) == 0 && ring_used(&r) == SIZE && put - taken == SIZE);
	for (int i = 0; i < 2; i++)
		taken = drain(&r, taken, ring_data(&r, &p));
	expect(taken == put && ring_used(&r) == 0 && ring_data(&r, &p) == 0);
}

static void check_everything(uint32_t base, const char *name)
{
	bad = 0;
	for (uint32_t head = 0; head < 2 * SIZE; head++)
		for (uint32_t length = 0; length <= SIZE; length++) {
			check_runs(base + head, length);
			for (uint32_t count = 0; count <= SIZE; count++) {
				check_put(base + head, length, count);
				check_take(base + head, length, count);
			}
		}
	ok(bad == 0, "every head, length and count of an 8-byte ring, %s", name);
}

/* The ring is never let run empty, so that its counters run through 2^32. */
static void check_stream(void)
{
	struct ring r = make(UINT32_MAX - 1000, 1);
	uint32_t put = 1, taken = 0;
	unsigned char *p;

	bad = 0;
	srand(1);
	for (int i = 0; i < 100000; i++) {
		put = fill(&r, put, (uint32_t)rand() % (ring_space(&r, &p) + 1));
		expect(put - taken == ring_used(&r) && ring_used(&r) + ring_room(&r) == SIZE);
		taken = drain(&r, taken, min((uint32_t)rand() % (ring_data(&r, &p) + 1), ring_used(&r) - 1));
	}
	ok(bad == 0 && put > 50000 && r.head < UINT32_MAX - 1000,
		"a long stream keeps its order while the counters wrap");
}

int main(void)
{
	struct ring r;
	unsigned char *p;

	ring_init(&r, memory, SIZE);
	ok(ring_used(&r) == 0 && ring_room(&r) == SIZE && ring_data(&r, &p) == 0, "a new ring is empty");
	ok(ring_space(&r, &p) == SIZE && p == memory, "a new ring is one run of space");
	ring_init(&r, NULL, 0);
	ok(ring_space(&r, &p) == 0 && ring_data(&r, &p) == 0, "a ring without memory has neither space nor data");
	check_everything(0, "counters from 0");
	check_everything(UINT32_MAX - SIZE - 3, "counters that wrap");
	check_stream();
	return done_testing();
}
