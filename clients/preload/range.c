#define _GNU_SOURCE
#include "range.h"

#include <sys/mman.h>

#include "options.h"

enum { UNITS = RANGE / UNIT, FREE = 1 << 31, LISTS = 32, TRIES = 32 };

struct tag {
  uint32_t length;         /* units of the run that begins or ends here, and FREE */
  uint32_t next, previous; /* of a free run's first unit: others of about the same length; 0 is none */
};

char *range_start;
static struct tag *tags;     /* UNITS, and one that is always taken */
static uint32_t lists[LISTS]; /* of free runs, by the logarithm of their length */

static uint32_t unit_of(const void *pointer) {
  return ((const char *)pointer - range_start) / UNIT;
}

static char *address_of(uint32_t unit) {
  return range_start + (uint64_t)unit * UNIT;
}

static int list_of(uint32_t length) {
  return 31 - __builtin_clz(length);
}

static void mark(uint32_t first, uint32_t length, uint32_t flag) {
  tags[first].length = tags[first + length - 1].length = length | flag;
}

static void put_free(uint32_t first, uint32_t length) {
  if (length == 0) return;
  uint32_t *list = &lists[list_of(length)];
  mark(first, length, FREE);
  tags[first].previous = 0;
  tags[first].next = *list;
  if (*list != 0) tags[*list].previous = first;
  *list = first;
}

/* Takes a free run out of its list. Its length. */
static uint32_t take_free(uint32_t first) {
  struct tag *tag = &tags[first];
  uint32_t length = tag->length & ~FREE;
  *(tag->previous != 0 ? &tags[tag->previous].next : &lists[list_of(length)]) = tag->next;
  if (tag->next != 0) tags[tag->next].previous = tag->previous;
  return length;
}

/* A free run of at least `length` units: one that fits well if it is found soon, else any; 0 if there is none. */
static uint32_t find_free(uint32_t length) {
  int list = list_of(length);
  uint32_t first = lists[list];
  for (int i = 0; first != 0 && i < TRIES; i++, first = tags[first].next) {
    if ((tags[first].length & ~FREE) >= length) return first;
  }
  while (++list < LISTS) {
    if (lists[list] != 0) return lists[list];
  }
  return 0;
}

static uint32_t units_for(size_t size) {
  return size == 0 ? 1 : (size + UNIT - 1) / UNIT;
}

bool range_make(void) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  char *range = mmap(NULL, RANGE + CHUNK, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (range == MAP_FAILED) return false;
  tags = mmap(NULL, (UNITS + 1) * sizeof *tags, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (tags == MAP_FAILED) return munmap(range, RANGE + CHUNK), false;
  size_t before = -(uintptr_t)range % CHUNK;
  if (before > 0) munmap(range, before);
  munmap(range + before + RANGE, CHUNK - before);
  range_start = range + before;
  mark(0, UNITS_PER_CHUNK, 0);
  mark(UNITS, 1, 0);
  put_free(UNITS_PER_CHUNK, UNITS - UNITS_PER_CHUNK);
  return true;
}

void *range_take(size_t size, size_t alignment) {
  if (size > RANGE / 2) return NULL;
  uint32_t length = units_for(size), step = alignment > UNIT ? alignment / UNIT : 1;
  uint32_t run = find_free(length + step - 1);
  if (run == 0) return NULL;
  uint32_t end = run + take_free(run), first = (run + step - 1) / step * step;
  put_free(run, first - run);
  put_free(first + length, end - first - length);
  mark(first, length, 0);
  return address_of(first);
}

size_t range_length(const void *pointer) {
  uint32_t unit = unit_of(pointer), length = tags[unit].length;
  bool begins = (const char *)pointer == address_of(unit) && length != 0 && !(length & FREE) &&
                length <= UNITS - unit && tags[unit + length - 1].length == length && unit != 0;
  if (!begins) die("%p is not the address of a block: it was freed, or never one", pointer);
  return (size_t)length * UNIT;
}

bool range_resize(void *pointer, size_t size, struct span *rest) {
  if (size > RANGE / 2) return false;
  uint32_t first = unit_of(pointer), length = range_length(pointer) / UNIT, wanted = units_for(size);
  uint32_t next = first + length, end = next;
  if (tags[next].length & FREE) end += tags[next].length & ~FREE;
  if (wanted > end - first) return false;
  if (end > next) take_free(next);
  mark(first, wanted, 0);
  put_free(first + wanted, end - first - wanted);
  *rest = (struct span){address_of(first + wanted), address_of(end)};
  return true;
}

struct span range_free(void *pointer) {
  uint32_t first = unit_of(pointer), end = first + range_length(pointer) / UNIT;
  tags[first].length = tags[end - 1].length = 0; /* a second free is found out */
  if (tags[end].length & FREE) end += take_free(end);
  if (tags[first - 1].length & FREE) {
    first -= tags[first - 1].length & ~FREE;
    take_free(first);
  }
  put_free(first, end - first);
  return (struct span){address_of(first), address_of(end)};
}
