/*
 * libmallocd.so: malloc(3) for programs that don't know. See README.md.
 *
 * Blocks of at least a threshold have addresses in the range, and the pager sees to their contents; all others are
 * glibc's, by its other names, which need no look-up.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "options.h"
#include "pager.h"
#include "range.h"

#define EXPORT __attribute__((visibility("default")))

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *pointer, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *pointer);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the range, and of who asks the pager */
static size_t threshold = SIZE_MAX;                      /* until options have been read */
static enum { NOT_YET, STARTED, NEVER } pager;
/* This thread starts the pager: what that takes is glibc's. */
static __thread bool is_starting __attribute__((tls_model("initial-exec")));

/* --- Start, and fork ----------------------------------------------------------------------------------- */

static void before_fork(void) {
  pthread_mutex_lock(&lock);
  pager_before_fork();
}

static void after_fork(void) {
  pager_after_fork();
  pthread_mutex_unlock(&lock);
}

static void in_child(void) {
  is_starting = true;
  pager_in_child();
  is_starting = false;
  pthread_mutex_unlock(&lock);
}

__attribute__((constructor)) static void start(void) {
  const char *hint = NULL, *why;
  if (!read_options()) _exit(2);
  why = pager_probe(&hint);
  if (why != NULL && options.fallback) return say("%s: this is plain malloc", why);
  if (why != NULL) {
    say("%s", why);
    say("Try: %s", hint);
    _exit(1);
  }
  pthread_atfork(before_fork, after_fork, in_child);
  threshold = options.threshold;
}

/* --- Blocks in the range ------------------------------------------------------------------------------- */

static bool wants_range(size_t size, size_t alignment) {
  return size >= threshold && alignment <= CHUNK && pager != NEVER && !is_starting;
}

/* NULL if it has to be a block of glibc's. */
static void *take(size_t size, size_t alignment) {
  if (!wants_range(size, alignment)) return NULL;
  int error = errno;
  void *pointer = NULL;
  pthread_mutex_lock(&lock);
  if (pager == NOT_YET) {
    is_starting = true;
    pager = pager_start() ? STARTED : NEVER;
    is_starting = false;
  }
  if (pager == STARTED && pager_accepts()) pointer = range_take(size, alignment);
  if (pointer != NULL) counts.blocks++;
  pthread_mutex_unlock(&lock);
  errno = error;
  return pointer;
}

static void give(void *pointer) {
  int error = errno;
  pthread_mutex_lock(&lock);
  struct span freed = {pointer, (char *)pointer + range_length(pointer)};
  pager_discard(range_free(pointer), freed);
  pthread_mutex_unlock(&lock);
  errno = error;
}

static size_t length_of(void *pointer) {
  pthread_mutex_lock(&lock);
  size_t length = range_length(pointer);
  pthread_mutex_unlock(&lock);
  return length;
}

static bool resize(void *pointer, size_t size) {
  int error = errno;
  pthread_mutex_lock(&lock);
  struct span rest, freed = {pointer, (char *)pointer + range_length(pointer)};
  bool done = range_resize(pointer, size, &rest);
  freed.start = rest.start;
  if (done && freed.start < freed.end) pager_discard(rest, freed);
  pthread_mutex_unlock(&lock);
  errno = error;
  return done;
}

/* Chunks that nobody has touched are zeros: they are not touched for that. */
static void clear(char *start, size_t length) {
  for (size_t done = 0, step; done < length; done += step) {
    step = CHUNK - (uintptr_t)(start + done) % CHUNK;
    if (step > length - done) step = length - done;
    if (!pager_is_untouched(start + done)) memset(start + done, 0, step);
  }
}

/* --- malloc(3) ----------------------------------------------------------------------------------------- */

EXPORT void *malloc(size_t size) {
  void *pointer = take(size, 1);
  return pointer != NULL ? pointer : __libc_malloc(size);
}

EXPORT void free(void *pointer) {
  if (range_has(pointer)) return give(pointer);
  __libc_free(pointer);
}

EXPORT void *calloc(size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) return __libc_calloc(count, size);
  void *pointer = take(bytes, 1);
  if (pointer == NULL) return __libc_calloc(count, size);
  clear(pointer, bytes);
  return pointer;
}

EXPORT size_t malloc_usable_size(void *pointer) {
  static size_t (*theirs)(void *);
  if (range_has(pointer)) return length_of(pointer);
  if (theirs == NULL) theirs = (size_t (*)(void *))dlsym(RTLD_NEXT, "malloc_usable_size");
  return theirs(pointer);
}

EXPORT void *realloc(void *pointer, size_t size) {
  bool is_ours = range_has(pointer);
  if (pointer == NULL) return malloc(size);
  if (!is_ours && !wants_range(size, 1)) return __libc_realloc(pointer, size);
  if (size == 0) return free(pointer), NULL;
  if (is_ours && resize(pointer, size)) return pointer;
  void *moved = malloc(size);
  if (moved == NULL) return NULL;
  size_t length = is_ours ? length_of(pointer) : malloc_usable_size(pointer);
  memcpy(moved, pointer, length < size ? length : size);
  free(pointer);
  return moved;
}

EXPORT void *reallocarray(void *pointer, size_t count, size_t size) {
  size_t bytes;
  if (!__builtin_mul_overflow(count, size, &bytes)) return realloc(pointer, bytes);
  errno = ENOMEM;
  return NULL;
}

EXPORT void *memalign(size_t alignment, size_t size) {
  void *pointer = take(size, alignment);
  return pointer != NULL ? pointer : __libc_memalign(alignment, size);
}

EXPORT void *aligned_alloc(size_t alignment, size_t size) {
  return memalign(alignment, size);
}

EXPORT int posix_memalign(void **result, size_t alignment, size_t size) {
  if (alignment % sizeof(void *) != 0 || (alignment & (alignment - 1)) != 0 || alignment == 0) return EINVAL;
  int error = errno;
  void *pointer = memalign(alignment, size);
  errno = error;
  if (pointer == NULL) return ENOMEM;
  *result = pointer;
  return 0;
}

EXPORT void *valloc(size_t size) {
  return memalign(sysconf(_SC_PAGESIZE), size);
}

EXPORT void *pvalloc(size_t size) {
  size_t page = sysconf(_SC_PAGESIZE), rest = -size % page;
  return memalign(page, size > SIZE_MAX - rest ? size : size + rest);
}
