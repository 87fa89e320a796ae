/*
 * wheel.c - timers in O(1).
 *
 * Time is read as a number of eleven digits to the base 64, the lowest digit first.  A timer lies on the level of the
 * highest digit in which its due time differs from now, in the slot which that digit names.  All digits above agree
 * with now's, and this one is greater, so on every level the slots in use lie ahead of now's position: nothing wraps
 * around, and whatever is on a level is due before everything on the levels above.  The earliest slot of all is
 * therefore the lowest bit of the first bitmap that is not 0.
 *
 * Time moves from the beginning of one used slot to the next.  Where that is a slot of level 0 its timers are due: they
 * agree with now in all digits.  Any other slot is emptied onto the levels below, to which its timers belong now that
 * one digit more agrees.  So a timer moves ten times in its life at most, however far off it was, and nearly all are
 * cancelled before they moved once.  Between two used slots time may jump: no timer's highest differing digit changes.
 *
 * Nothing is kept between two calls of wheel_pop but the wheel itself; whatever is added or cancelled in between
 * finds it, and leaves it, in order.
 */
#include "proxyd.h"

enum { SLOT_MASK = WHEEL_SLOTS - 1 };

static unsigned lowest(uint64_t bits)
{
	return (unsigned)__builtin_ctzll(bits);
}

static unsigned highest(uint64_t bits)
{
	return 63 - (unsigned)__builtin_clzll(bits);
}

/* The first level with a timer, or WHEEL_LEVELS. */
static unsigned first_level(const struct wheel *w)
{
	unsigned level = 0;

	while (level < WHEEL_LEVELS && !w->used[level])
		level++;
	return level;
}

/* When the earliest used slot of a level begins. */
static uint64_t beginning(const struct wheel *w, unsigned level)
{
	unsigned shift = level * WHEEL_BITS;
	uint64_t digits = w->now >> shift & ~(uint64_t)SLOT_MASK;

	return (digits | lowest(w->used[level])) << shift;
}

static void insert(struct wheel *w, struct timer *t)
{
	unsigned level = t->due == w->now ? 0 : highest(t->due ^ w->now) / WHEEL_BITS;
	unsigned index = (unsigned)(t->due >> level * WHEEL_BITS & SLOT_MASK);
	struct timer **head = &w->slot[level][index];

	t->slot = (uint16_t)(level * WHEEL_SLOTS + index);
	t->next = *head;
	t->link = head;
	if (t->next)
		t->next->link = &t->next;
	*head = t;
	w->used[level] |= UINT64_C(1) << index;
}

/* Moves the timers of the slot that begins now to the levels they belong to. */
static void spread(struct wheel *w, unsigned level)
{
	struct timer **head = &w->slot[level][lowest(w->used[level])];

	while (*head)
		wheel_add(w, *head, (*head)->due);
}

void wheel_init(struct wheel *w, uint64_t now)
{
	*w = (struct wheel){ .now = now };
}

void wheel_add(struct wheel *w, struct timer *t, uint64_t due)
{
	wheel_cancel(w, t);
	t->due = due > w->now ? due : w->now;
	insert(w, t);
}

void wheel_cancel(struct wheel *w, struct timer *t)
{
	unsigned level = t->slot / WHEEL_SLOTS, index = t->slot % WHEEL_SLOTS;

	if (!t->link)
		return;
	*t->link = t->next;
	if (t->next)
		t->next->link = t->link;
	t->next = NULL;
	t->link = NULL;
	if (!w->slot[level][index])
		w->used[level] &= ~(UINT64_C(1) << index);
}

bool wheel_is_pending(const struct timer *t)
{
	return t->link != NULL;
}

uint64_t wheel_next(const struct wheel *w)
{
	unsigned level = first_level(w);

	return level < WHEEL_LEVELS ? beginning(w, level) : UINT64_MAX;
}

struct timer *wheel_pop(struct wheel *w, uint64_t now)
{
	unsigned level;

	while ((level = first_level(w)) < WHEEL_LEVELS && beginning(w, level) <= now) {
		w->now = beginning(w, level);
		if (level == 0) {
			struct timer *t = w->slot[0][w->now & SLOT_MASK];

			wheel_cancel(w, t);
			return t;
		}
		spread(w, level);
	}
	if (now > w->now)
		w->now = now;
	return NULL;
}
