/* What is to be done when a process has ended, or runs another program, however that came about. */
#ifndef REAPER_H
#define REAPER_H

#include <stdbool.h>

/*
 * Starts a process that shares this one's memory, waits until the calling thread is no more, and then calls
 * `at_end`, with descriptors of the file MALLOCD_STATS, or -1, and of `socket`. It is no child that wait(2) knows of. Neither exit
 * handlers nor kill -9 nor exec can keep it from that; a core dump does, as it ends all that share the memory.
 * False, with errno, if it cannot be started. The calling thread has descriptors of its own.
 */
bool reaper_start(void (*at_end)(int stats, int socket), int socket);

#endif
