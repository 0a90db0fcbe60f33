/*
 * The range of addresses that all blocks of the daemon's have, and which of them are taken.
 *
 * Taken and free runs of units lie next to each other without a gap. What is known of them lies outside of the
 * range: a tag for each unit, of which the first and the last of a run hold its length.
 *
 *     range_start
 *     |  bell  |    run     |  run  |            run             |
 *     |  chunk 0  |  chunk 1  |  chunk 2  |  chunk 3  |
 *
 * Nothing here is thread-safe: malloc.c has a lock.
 */
#ifndef RANGE_H
#define RANGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RANGE (UINT64_C(32) << 30) /* bytes, of addresses; memory is taken as it is touched */

enum { UNIT = 1024, CHUNK = 64 << 10, UNITS_PER_CHUNK = CHUNK / UNIT };
enum { CHUNKS = RANGE / CHUNK };

/* NULL until range_make(). A multiple of CHUNK. */
extern char *range_start;

static inline bool range_has(const void *pointer) {
  return range_start != NULL && (uintptr_t)pointer - (uintptr_t)range_start < RANGE;
}

/* Takes the addresses; chunk 0 is not for blocks. False, with errno, if they cannot be had. */
bool range_make(void);

/* A run of at least `size` bytes; its address is a multiple of `alignment`, CHUNK at most. NULL if none is left. */
void *range_take(size_t size, size_t alignment);

/* The bytes of a taken run. `pointer` is what range_take() has given, or the program has a fault. */
size_t range_length(const void *pointer);

/* What lies between two addresses. */
struct span {
  char *start, *end;
};

/*
 * Makes a taken run one of at least `size` bytes where it is; `rest` is the free run behind it, if any. False if
 * what follows is taken.
 */
bool range_resize(void *pointer, size_t size, struct span *rest);

/* Frees a run. Returns the free run that it is now part of. */
struct span range_free(void *pointer);

#endif
