/*
 * ring.c - a fixed buffer of bytes between one reader and one writer in the same thread.
 *
 * head counts every byte that was ever put, tail every byte that was ever taken, and neither is reduced to the size of
 * the buffer: head - tail is what is held, and a full ring differs from an empty one without a byte left unused.  The
 * counters are unsigned and the size is a power of two, so it also divides 2^32: subtracting and masking stay right
 * when a counter wraps.
 *
 * A ring that runs empty goes back to its start.  The next read into it then sees the whole buffer as one run, which
 * makes one call to the kernel where a split buffer would need two, and touches the lines that are still in the cache.
 */
#include "proxyd.h"

static uint32_t min(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* The longest run from the counter at, of at most want bytes, that does not pass the end of the memory. */
static uint32_t run(const struct ring *r, uint32_t at, uint32_t want, unsigned char **p)
{
	uint32_t offset = at & (r->size - 1);

	*p = r->memory ? r->memory + offset : NULL;
	return min(want, r->size - offset);
}

void ring_init(struct ring *r, void *memory, uint32_t size)
{
	*r = (struct ring){ .memory = memory, .size = size };
}

uint32_t ring_used(const struct ring *r)
{
	return r->head - r->tail;
}

uint32_t ring_room(const struct ring *r)
{
	return r->size - ring_used(r);
}

uint32_t ring_space(const struct ring *r, unsigned char **p)
{
	return run(r, r->head, ring_room(r), p);
}

uint32_t ring_data(const struct ring *r, unsigned char **p)
{
	return run(r, r->tail, ring_used(r), p);
}

void ring_put(struct ring *r, uint32_t n)
{
	r->head += n;
}

void ring_take(struct ring *r, uint32_t n)
{
	r->tail += n;
	if (r->tail == r->head)
		r->head = r->tail = 0;
}
