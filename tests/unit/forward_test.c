/*
 * forward_test.c - what an end waits for, over every state of both flows, every filling of both rings, and both answers
 * to whether epoll has reported a hang-up: compared with the rule written down the long way.
 */
#include <stdio.h>
#include <sys/epoll.h>

#include "proxyd.h"
#include "tap.h"

enum filling { NO_RING, ONE_BYTE, FULL, FILLINGS };

static unsigned char memory[2][8];

static void fill(struct ring *r, int which, enum filling filling)
{
	ring_init(r, filling == NO_RING ? NULL : memory[which], filling == NO_RING ? 0 : sizeof(memory[which]));
	if (filling != NO_RING)
		ring_put(r, filling == FULL ? sizeof(memory[which]) : 1);
}

static uint32_t expected(enum flow_state own, enum filling own_ring, enum flow_state other, enum filling owed, bool hung)
{
	bool may_read = own == FLOW_OPEN && own_ring != FULL;
	bool owes = other != FLOW_SHUT && owed != NO_RING;

	if (!may_read && !owes)
		return hung ? WATCH_AWAY : 0;
	return (may_read ? EPOLLIN : 0U) | (owes ? EPOLLOUT : 0U);
}

static bool is_possible(enum flow_state state, enum filling filling)
{
	return state != FLOW_SHUT || filling == NO_RING;
}

int main(void)
{
	unsigned tried = 0, wrong = 0;

	for (unsigned i = 0; i < 2 * 3 * FILLINGS * 3 * FILLINGS * 2; i++) {
		int s = (int)(i % 2);
		enum flow_state own = i / 2 % 3, other = i / 6 % 3;
		enum filling own_ring = i / 18 % FILLINGS, owed = i / 54 % FILLINGS;
		bool hung = i / 162 % 2;
		if (!is_possible(own, own_ring) || !is_possible(other, owed))
			continue;

		struct conn c = {.state = CONN_FORWARD};
		c.flow[s].state = own;
		c.flow[!s].state = other;
		c.end[s].hung = hung;
		fill(&c.flow[s].ring, 0, own_ring);
		fill(&c.flow[!s].ring, 1, owed);
		tried++;
		if (forward_mask(&c, s) != expected(own, own_ring, other, owed, hung)) {
			printf("# side %d own %d/%d other %d/%d hung %d: %x\n", s, own, own_ring, other, owed, hung,
			       forward_mask(&c, s));
			wrong++;
		}
	}
	ok(tried == 2 * 7 * 7 * 2, "every state was tried, %u of them", tried);
	ok(wrong == 0, "an end waits for what its state says");
	return done_testing();
}
