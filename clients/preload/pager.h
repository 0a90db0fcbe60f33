/*
 * The pager: a thread that has the chunks of the range in memory or at the daemon, as they are touched.
 *
 * It has the only say about chunks. Other threads ask it with the calls below, one at a time: malloc.c has a lock
 * for that, which the pager never waits for; nor does it ever touch a chunk that might be absent.
 */
#ifndef PAGER_H
#define PAGER_H

#include <stdbool.h>

#include "range.h"

/* Whether a pager could be started now: NULL, or what is in the way; *hint says what to do about it. */
const char *pager_probe(const char **hint);

/* Takes the range, and starts the pager. False if it has said why there is none. */
bool pager_start(void);

/* False as long as the daemon refuses: new blocks had better be elsewhere. */
bool pager_accepts(void);

/* True if nobody has touched a chunk of a block since it was taken: it is all zeros. */
bool pager_is_untouched(const char *address);

/* Forgets the contents of those chunks that lie in the free span as a whole, as far as they overlap `freed`. */
void pager_discard(struct span free, struct span freed);

/* Around fork(2), with the lock. */
void pager_before_fork(void);
void pager_after_fork(void);
void pager_in_child(void);

/* What a process has done, for MALLOCD_STATS. */
struct counts {
  unsigned long blocks, refused; /* allocated in the range, and not, as the daemon refused */
  unsigned long faults, zeroed;  /* touches that the pager saw to; and of these, of chunks that were all zeros */
  unsigned long rescued, fetched, ahead; /* chunks that came back, from the buffers, the daemon, before they were asked for */
  unsigned long evicted, written;        /* chunks that are no longer here; those that were sent to the daemon */
};
extern struct counts counts;

#endif
