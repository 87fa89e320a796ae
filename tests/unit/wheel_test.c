/*
 * wheel_test.c - the wheel at random, in virtual time, against an array that is searched from end to end.
 *
 * The model of a timer is the time it is due and whether it is pending; the wheel must give back, at each step, a timer
 * whose time is the least of the model's.  Between two pops any timer may be added, moved or cancelled, as a handler
 * would.  The invariants of wheel.c's head are checked from outside: the bitmaps are exact, every timer is in the slot
 * that its time and now call for, and links point where they should.
 */
#include "../../proxyd.h"
#include "tap.h"

enum { TIMERS = 64, OPERATIONS = 1000000, RUN = 5000, CHECK_EVERY = 64 };

static struct wheel wheel;
static struct timer timers[TIMERS];
static struct { bool is_pending; uint64_t due; } model[TIMERS];
static unsigned long bad;
static uint64_t seed = 88172645463325252;

static uint64_t draw(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static bool expect(bool condition, const char *what)
{
	if (!condition && bad++ < 10)
		printf("# %s, now %llu\n", what, (unsigned long long)wheel.now);
	return condition;
}

static uint64_t plus(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* A span of any size: what people ask for, and what breaks. */
static uint64_t draw_span(void)
{
	static const uint64_t usual[] = { 0, 1, 63, 64, 65, 1000, 4095, 4096, 30000, 3600000, 86400000,
		UINT64_C(3155760000000), UINT64_MAX / 2, UINT64_MAX - 1, UINT64_MAX };
	uint64_t r = draw();

	switch (r % 4) {
	case 0:
		return usual[r / 4 % (sizeof usual / sizeof usual[0])];
	case 1:
		return draw() % 200;
	default:
		return draw() >> (r / 4 % 64);
	}
}

/* The earliest time pending in the model; UINT64_MAX if none is. */
static uint64_t earliest(bool *is_any)
{
	uint64_t due = UINT64_MAX;

	*is_any = false;
	for (int i = 0; i < TIMERS; i++)
		if (model[i].is_pending) {
			*is_any = true;
			if (model[i].due < due)
				due = model[i].due;
		}
	return due;
}

static int check_slot(unsigned level, unsigned index)
{
	struct timer **link = &wheel.slot[level][index];
	int count = 0;

	expect((wheel.used[level] >> index & 1) == (*link != NULL), "a bitmap is not exact");
	for (struct timer *t = *link; t; link = &t->next, t = t->next, count++) {
		unsigned digit = (unsigned)(t->due >> 6 * level & 63), now = (unsigned)(wheel.now >> 6 * level & 63);

		expect(t->link == link, "a link points elsewhere");
		expect(t->slot == level * 64 + index, "a slot number is wrong");
		expect(digit == index, "a timer is in a slot of another time");
		expect(level == 0 ? digit >= now : digit > now, "a timer is behind");
		expect(level == 10 || (t->due ^ wheel.now) >> 6 * (level + 1) == 0, "a timer is too low");
		expect(t->due >= wheel.now, "a timer was left behind");
	}
	return count;
}

static void check_invariants(void)
{
	int count = 0, pending = 0;

	for (unsigned level = 0; level < WHEEL_LEVELS; level++)
		for (unsigned index = 0; index < WHEEL_SLOTS; index++)
			count += check_slot(level, index);
	for (int i = 0; i < TIMERS; i++) {
		pending += model[i].is_pending;
		expect(wheel_is_pending(&timers[i]) == model[i].is_pending, "pending in one, not in the other");
		expect(!model[i].is_pending || timers[i].due == model[i].due, "the time is another");
	}
	expect(count == pending, "a timer is lost");
}

static void check_next(void)
{
	bool is_any;
	uint64_t due = earliest(&is_any), next = wheel_next(&wheel);

	expect(next <= due, "the next time is late");
	expect(next >= wheel.now, "the next time is past");
	if (due >> 6 == wheel.now >> 6)
		expect(next == due, "the next time is not exact within the running 64 ms");
	if (!is_any)
		expect(next == UINT64_MAX, "nothing is pending, and yet there is a next time");
}

static void add(unsigned i, uint64_t due)
{
	wheel_add(&wheel, &timers[i], due);
	model[i].is_pending = true;
	model[i].due = due > wheel.now ? due : wheel.now;
}

static void change(void)
{
	uint64_t r = draw();
	unsigned i = (unsigned)(r >> 8) % TIMERS;

	if (r % 8 == 0)
		add(i, wheel.now - draw_span() % (wheel.now | 1)); /* due long ago */
	else if (r % 8 < 5)
		add(i, plus(wheel.now, draw_span()));
	else {
		wheel_cancel(&wheel, &timers[i]);
		model[i].is_pending = false;
	}
}

static void advance(uint64_t now)
{
	for (;;) {
		bool is_any;
		uint64_t due = earliest(&is_any);
		struct timer *t = wheel_pop(&wheel, now);

		if (!t) {
			expect(!is_any || due > now, "a timer that is due stays in");
			expect(wheel.now == now, "time stands still");
			return;
		}
		if (!expect(is_any && t->due == due && due <= now, "not the earliest, or too early"))
			return;
		expect(!wheel_is_pending(t) && model[t - timers].is_pending, "popped but pending, or never added");
		model[t - timers].is_pending = false;
		if (draw() % 3 == 0)
			change();
	}
}

static void start(uint64_t now)
{
	wheel_init(&wheel, now);
	for (int i = 0; i < TIMERS; i++) {
		timers[i] = (struct timer){ .next = NULL };
		model[i].is_pending = false;
	}
}

static void check_at_random(void)
{
	uint64_t now = 0;

	bad = 0;
	for (int i = 0; i < OPERATIONS && bad == 0; i++) {
		if (i % RUN == 0) {
			now = i % (2 * RUN) ? draw() >> draw() % 64 : UINT64_MAX - (draw() >> draw() % 64);
			start(now);
		}
		switch (draw() % 4) {
		case 0: /* a small step */
			now = plus(now, draw() % 100);
			advance(now);
			break;
		case 1: /* as the loop does: to the next time, or a huge step, but rarely, or time is soon over */
			now = draw() % 64 ? wheel_next(&wheel) : plus(now, draw_span());
			if (now - wheel.now > UINT64_MAX / 8 && draw() % 64)
				now = wheel.now;
			advance(now);
			break;
		default:
			change();
		}
		check_next();
		if (i % CHECK_EVERY == 0)
			check_invariants();
	}
	ok(bad == 0, "%d random operations agree with the model", OPERATIONS);
}

/* A loop that sleeps until wheel_next wakes up a few times for one timer, and never after it is due. */
static void check_wakeups(uint64_t now, uint64_t span)
{
	struct timer *t = NULL;
	int wakeups = 0;

	start(now);
	wheel_add(&wheel, &timers[0], now + span);
	while (!t && wakeups < 20) {
		uint64_t next = wheel_next(&wheel);

		t = wheel_pop(&wheel, next);
		wakeups++;
	}
	ok(t == &timers[0] && wheel.now == now + span && wakeups <= WHEEL_LEVELS,
		"a span of %llu at %llu fires on time", (unsigned long long)span, (unsigned long long)now);
}

static void check_edges(void)
{
	start(1000);
	ok(wheel_next(&wheel) == UINT64_MAX && !wheel_pop(&wheel, 1000), "a new wheel is empty");
	ok(!wheel_pop(&wheel, 900) && wheel.now == 1000, "time does not go back");
	wheel_cancel(&wheel, &timers[0]);
	ok(!wheel_is_pending(&timers[0]), "cancelling what is not pending is harmless");
	wheel_add(&wheel, &timers[0], 10);
	ok(wheel_next(&wheel) == 1000, "a time in the past is due at once");
	wheel_add(&wheel, &timers[0], 2000);
	ok(!wheel_pop(&wheel, 1999), "adding again moves a timer");
	ok(wheel_pop(&wheel, 2000) == &timers[0] && !wheel_pop(&wheel, 2000), "and it comes out once");
	start(UINT64_MAX - 5);
	wheel_add(&wheel, &timers[0], UINT64_MAX);
	ok(!wheel_pop(&wheel, UINT64_MAX - 1) && wheel_pop(&wheel, UINT64_MAX) == &timers[0], "the end of time comes");
	ok(!wheel_pop(&wheel, UINT64_MAX) && wheel_next(&wheel) == UINT64_MAX, "and nothing after it");
}

int main(void)
{
	static const uint64_t spans[] = { 0, 1, 63, 64, 4095, 4096, 30000, 86400000, UINT64_C(3155760000000) };

	check_edges();
	for (unsigned i = 0; i < sizeof spans / sizeof spans[0]; i++)
		check_wakeups(UINT64_C(0x123456789abc), spans[i]);
	check_wakeups(0, UINT64_MAX);
	check_at_random();
	return done_testing();
}
