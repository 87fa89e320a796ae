/*
 * resolve.c - names to addresses, off the loop.
 *
 * getaddrinfo(3) may take many seconds and cannot be interrupted, so a helper thread calls it; the thread starts with
 * the first name that is needed and stays.  A lookup is either idle or busy.  Busy, it belongs to the thread, all but
 * its list of waiting connections, which only the loop touches: so a connection that asks for a name that is being
 * looked up just joins the list, and one that leaves takes itself off.
 *
 *      loop: ask --(asked, eventfd)--> thread: getaddrinfo --(answered, eventfd)--> loop: done() for each that waits
 *
 * Looking up takes descriptors.  The thread has a descriptor table of its own, so that it finds some when the loop's are
 * all in use by clients that wait for just this name.
 *
 * A good answer is kept.  It serves again, with a warning, when a later lookup fails: a name server that is down should
 * not take the service with it.
 */
#include "proxyd.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436 /* on every architecture */
#endif

/* Name service modules of glibc take more stack than our own code would; musl's default is 128 KiB. */
enum { UNSHARE_RANGE = 2 /* CLOSE_RANGE_UNSHARE of close_range(2) */, STACK_SIZE = 256 * 1024, ADDRESSES_MAX = 64 };

struct answer *answer_new(unsigned count)
{
	struct answer *a = calloc(1, sizeof(*a) + count * sizeof(a->address[0]));

	if (a != NULL) {
		a->refs = 1;
		a->count = count;
	}
	return a;
}

struct answer *answer_ref(struct answer *a)
{
	a->refs++;
	return a;
}

void answer_unref(struct answer *a)
{
	if (a != NULL && --a->refs == 0)
		free(a);
}

static void look_up(struct lookup *lk)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list = NULL;
	unsigned count = 0;

	lk->fresh = NULL;
	lk->error = getaddrinfo(lk->host, lk->service, &hints, &list);
	if (lk->error != 0)
		return;
	for (struct addrinfo *i = list; i != NULL && count < ADDRESSES_MAX; i = i->ai_next)
		count += i->ai_addrlen <= sizeof(struct sockaddr_in6);
	lk->fresh = answer_new(count);
	if (lk->fresh == NULL || count == 0)
		lk->error = count == 0 ? EAI_NONAME : EAI_MEMORY;
	unsigned n = 0;
	for (struct addrinfo *i = list; lk->fresh != NULL && i != NULL && n < count; i = i->ai_next) {
		if (i->ai_addrlen > sizeof(struct sockaddr_in6))
			continue;
		memcpy(&lk->fresh->address[n].any, i->ai_addr, i->ai_addrlen);
		lk->fresh->address[n++].length = i->ai_addrlen;
	}
	freeaddrinfo(list);
}

static void put(struct resolver *r, struct lookup **queue, struct lookup *lk, int fd)
{
	pthread_mutex_lock(&r->mutex);
	lk->next = *queue;
	*queue = lk;
	pthread_mutex_unlock(&r->mutex);
	eventfd_write(fd, 1);
}

static struct lookup *take_all(struct resolver *r, struct lookup **queue)
{
	pthread_mutex_lock(&r->mutex);
	struct lookup *first = *queue;
	*queue = NULL;
	pthread_mutex_unlock(&r->mutex);
	return first;
}

/* From Linux 5.9 on one call does it; before, a million is more than a process has. */
static void close_all(int first, int last)
{
	enum { MAX = 1 << 20 };

	if (first > last || syscall(SYS_close_range, first, last, 0) == 0)
		return;
	for (int fd = first; fd <= last && fd < MAX; fd++)
		close(fd);
}

/* A table of its own, which holds only what the thread needs: no copies of clients' sockets, which would stay open. */
static void own_descriptors(const struct resolver *r)
{
	int low = r->asked_fd < r->watch.fd ? r->asked_fd : r->watch.fd;
	int high = r->asked_fd + r->watch.fd - low;

	/* In one step if the kernel can, so that the sockets above are not copied even for a moment. */
	if (syscall(SYS_close_range, high + 1, UINT_MAX, UNSHARE_RANGE) < 0) {
		if (unshare(CLONE_FILES) < 0)
			return;
		close_all(high + 1, INT_MAX);
	}
	close_all(STDERR_FILENO + 1, low - 1);
	close_all(low + 1, high - 1);
}

static void *helper(void *arg)
{
	struct resolver *r = arg;
	eventfd_t count;

	own_descriptors(r);
	while (eventfd_read(r->asked_fd, &count) == 0 || errno == EINTR) {
		for (struct lookup *lk = take_all(r, &r->asked), *next; lk != NULL; lk = next) {
			next = lk->next;
			look_up(lk);
			put(r, &r->answered, lk, r->watch.fd);
		}
	}
	return NULL;
}

/* Keeps what is good, and tells everybody who waits. */
static void deliver(struct lookup *lk)
{
	const char *error = NULL;

	lk->busy = false;
	if (lk->error == 0) {
		answer_unref(lk->good);
		lk->good = lk->fresh;
	} else {
		answer_unref(lk->fresh);
		error = gai_strerror(lk->error);
		if (lk->good != NULL)
			log_warning("Failed to resolve host: %s (%s), using its last addresses.", error, lk->host);
	}
	lk->fresh = NULL;

	/* done() may ask again: that starts the next lookup, whose waiting list must not be this one. */
	struct list waiting;
	list_init(&waiting);
	while (!list_is_empty(&lk->waiting)) {
		struct list *first = lk->waiting.next;
		list_remove(first);
		list_add(&waiting, first);
	}
	while (!list_is_empty(&waiting)) {
		struct conn *c = container_of(waiting.next, struct conn, waiting);
		list_remove(&c->waiting);
		lk->done(c, lk->good, error);
	}
}

static void answered(struct watch *w, uint32_t events)
{
	struct resolver *r = container_of(w, struct resolver, watch);
	eventfd_t count;

	(void)events;
	eventfd_read(w->fd, &count);
	for (struct lookup *lk = take_all(r, &r->answered), *next; lk != NULL; lk = next) {
		next = lk->next; /* deliver() may ask again */
		deliver(lk);
	}
}

int resolve_init(struct resolver *r, struct loop *l, bool is_needed)
{
	r->loop = l;
	r->is_started = false;
	r->asked_fd = is_needed ? eventfd(0, EFD_CLOEXEC) : -1;
	r->asked = r->answered = NULL;
	r->watch = (struct watch){.fd = -1, .events = WATCH_AWAY, .handle = answered};
	if (is_needed) {
		r->watch.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (r->asked_fd < 0 || r->watch.fd < 0)
			return -errno;
	}
	return -pthread_mutex_init(&r->mutex, NULL);
}

static int start(struct resolver *r)
{
	pthread_attr_t attr;
	pthread_t thread;

	int e = -loop_watch(r->loop, &r->watch, EPOLLIN);
	if (e == 0)
		e = pthread_attr_init(&attr);
	if (e != 0)
		return -e;
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	e = pthread_create(&thread, &attr, helper, r);
	pthread_attr_destroy(&attr);
	r->is_started = e == 0;
	return -e;
}

int resolve_ask(struct lookup *lk, struct conn *c)
{
	struct resolver *r = lk->resolver;

	if (!r->is_started) {
		int e = start(r);
		if (e < 0)
			return e;
	}
	list_add(&lk->waiting, &c->waiting);
	if (lk->busy)
		return 0;
	lk->busy = true;
	put(r, &r->asked, lk, r->asked_fd);
	return 0;
}
