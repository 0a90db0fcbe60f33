/*
 * A program that does not know of mallocd, and does to its memory what programs do. What it prints is the same with
 * and without libmallocd.so.
 *
 *     preload_driver calls             every function of malloc(3), at all sizes and alignments
 *     preload_driver threads N         N threads count in the same 24 MiB
 *     preload_driver fork              parent, children and a grandchild, which all write
 *     preload_driver system            system calls, signal handlers and stacks in such memory; closes all it can
 *     preload_driver random SEED       blocks come, go, grow and shrink at random
 *     preload_driver hold MIB          fills so much, prints "ready", waits for a line, looks whether it is there
 *     preload_driver exec MIB PROGRAM  fills so much, and runs another program instead of itself
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

static uint32_t next_random(uint32_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 17;
  return *state ^= *state << 5;
}

/* Numbers that differ at every place and for every seed. */
static void fill(void *block, size_t length, uint32_t seed) {
  uint32_t *words = block;
  for (size_t i = 0; i < length / 4; i++) words[i] = (uint32_t)i * 2654435761u + seed;
}

static size_t differences(const void *block, size_t length, uint32_t seed) {
  const uint32_t *words = block;
  size_t count = 0;
  for (size_t i = 0; i < length / 4; i++) count += words[i] != (uint32_t)i * 2654435761u + seed;
  return count;
}

static void say(const char *what, size_t wrong) {
  printf("%s: %zu wrong\n", what, wrong);
  fflush(stdout);
}

/* --- calls ------------------------------------------------------------------------------------------------ */

static void run_calls(void) {
  size_t wrong = 0;
  for (size_t size = 1; size <= 4 * MIB; size = size * 3 / 2 + 1) {
    char *block = malloc(size), *cleared = calloc(size, 1), *aligned = NULL;
    wrong += malloc_usable_size(block) < size || (uintptr_t)block % 16 != 0;
    memset(block, 1, malloc_usable_size(block));
    for (size_t i = 0; i < size; i++) wrong += cleared[i] != 0;
    fill(block, size, 1);
    block = realloc(block, 2 * size);
    wrong += differences(block, size, 1);
    block = reallocarray(block, size / 2 + 1, 1);
    wrong += differences(block, size / 2, 1);
    for (size_t alignment = 8; alignment <= MIB; alignment *= 2) {
      wrong += posix_memalign((void **)&aligned, alignment, size) != 0 || (uintptr_t)aligned % alignment != 0;
      memset(aligned, 2, size);
      free(aligned);
      aligned = aligned_alloc(alignment, size);
      wrong += (uintptr_t)aligned % alignment != 0;
      memset(aligned, 3, size);
      free(aligned);
      aligned = memalign(alignment, size);
      wrong += (uintptr_t)aligned % alignment != 0;
      free(aligned);
    }
    free(block);
    free(cleared);
    cleared = calloc(size, 1); /* where something was */
    for (size_t i = 0; i < size; i++) wrong += cleared[i] != 0;
    free(cleared);
    aligned = valloc(size);
    wrong += (uintptr_t)aligned % 4096 != 0;
    free(aligned);
  }
  void *none = NULL;
  volatile size_t most = SIZE_MAX;
  wrong += pvalloc(most) != NULL || errno != ENOMEM;
  wrong += malloc(most) != NULL || errno != ENOMEM || calloc(most, 2) != NULL || reallocarray(NULL, most, 2) != NULL;
  wrong += posix_memalign(&none, 24, 100000) != EINVAL || none != NULL;
  free(NULL);
  say("calls", wrong);
}

/* --- threads ---------------------------------------------------------------------------------------------- */

enum { COUNTERS = 24 * MIB / 8, TIMES = 3000, THREADS = 16 };
static uint64_t *counters;

static void *count(void *argument) {
  uint32_t state = (uintptr_t)argument + 1;
  for (int i = 0; i < TIMES; i++) {
    /* A place of which every thread wants its share, and one that is far away from the last. */
    size_t place = next_random(&state) % 384 * (COUNTERS / 384);
    __atomic_add_fetch(&counters[place], 1, __ATOMIC_RELAXED);
    char *own = malloc(100000);
    memset(own, i, 100000);
    free(own);
  }
  return NULL;
}

static void run_threads(int number) {
  pthread_t threads[THREADS];
  uint64_t sum = 0;
  counters = calloc(COUNTERS, 8);
  for (int i = 0; i < number; i++) pthread_create(&threads[i], NULL, count, (void *)(uintptr_t)i);
  for (int i = 0; i < number; i++) pthread_join(threads[i], NULL);
  for (size_t i = 0; i < COUNTERS; i++) sum += counters[i];
  say("threads", (size_t)number * TIMES - sum);
}

/* --- fork ------------------------------------------------------------------------------------------------- */

static void join(pid_t child, const char *what) {
  int status;
  waitpid(child, &status, 0);
  say(what, status);
}

static void run_fork(void) {
  size_t length = 20 * MIB;
  char *block = malloc(length);
  fill(block, length, 1);
  pid_t children[3];
  for (int i = 0; i < 3; i++) {
    children[i] = fork();
    if (children[i] > 0) continue;
    size_t wrong = differences(block, length, 1);
    fill(block, length, 10 + i);
    if (i == 1) {
      pid_t grandchild = fork();
      if (grandchild == 0) {
        wrong = differences(block, length, 11);
        fill(block, length, 100);
        _exit(wrong + differences(block, length, 100) != 0);
      }
      fill(block, length, 12);
      int status;
      waitpid(grandchild, &status, 0);
      _exit(wrong + differences(block, length, 12) != 0 || status != 0);
    }
    if (i == 2) execlp("true", "true", NULL);
    _exit(wrong + differences(block, length, 10) != 0);
  }
  fill(block, length, 2);
  for (int i = 0; i < 3; i++) join(children[i], "child");
  say("parent", differences(block, length, 2));
  free(block);
  say("children that are left", wait(NULL) != -1);
}

/* --- system ----------------------------------------------------------------------------------------------- */

static char *far; /* is not there when it is asked for */
static size_t far_wrong;

static void push_out(void) {
  char *other = malloc(32 * MIB);
  fill(other, 32 * MIB, 3);
  free(other);
}

static void handle(int signal) {
  (void)signal;
  far_wrong += differences(far, MIB, 7);
}

static ucontext_t back, there;

static void on_own_stack(void) {
  volatile char deep[200000];
  deep[0] = deep[sizeof deep - 1] = 1;
  push_out();
  pid_t child = fork();
  if (child == 0) _exit(deep[0] != 1 || differences(far, MIB, 7) != 0);
  join(child, "child on a stack of the program's");
  say("a stack of the program's", deep[0] != 1 || deep[sizeof deep - 1] != 1);
}

static void run_system(void) {
  int ends[2], file = memfd_create("file", 0);
  far = malloc(MIB);
  fill(far, MIB, 7);
  push_out();
  say("write(2)", write(file, far, MIB) != MIB);
  push_out();
  say("pread(2)", pread(file, far, MIB, 0) != MIB);
  say("what was read", differences(far, MIB, 7));
  push_out();
  if (pipe(ends) < 0) return;
  say("the next descriptor", ends[0] - file != 1);
  if (fork() == 0) _exit(write(ends[1], far, MIB) != MIB);
  char *copy = malloc(MIB);
  for (size_t at = 0; at < MIB;) at += read(ends[0], copy + at, MIB - at);
  wait(NULL);
  say("a pipe", differences(copy, MIB, 7));

  struct sigaction action = {.sa_handler = handle, .sa_flags = SA_ONSTACK};
  stack_t stack = {.ss_sp = malloc(MIB), .ss_size = MIB};
  sigaltstack(&stack, NULL);
  sigaction(SIGUSR1, &action, NULL);
  push_out();
  raise(SIGUSR1);
  say("a signal handler", far_wrong);

  getcontext(&there);
  there.uc_stack.ss_sp = malloc(MIB);
  there.uc_stack.ss_size = MIB;
  there.uc_link = &back;
  makecontext(&there, on_own_stack, 0);
  swapcontext(&back, &there);

  /* Pages that the program does away with are zeros. */
  char *pages = aligned_alloc(65536, 4 * MIB);
  fill(pages, 4 * MIB, 9);
  madvise(pages + 2 * MIB, MIB, MADV_DONTNEED);
  size_t wrong = 0;
  for (size_t i = 0; i < MIB; i += 512) wrong += pages[2 * MIB + i] != 0;
  say("MADV_DONTNEED", wrong + differences(pages, 2 * MIB, 9));
  madvise(pages, 65536, MADV_DONTNEED);
  push_out();
  say("MADV_DONTNEED, then moved", pages[0] != 0 || differences(pages + 65536, 65536, 9 + 16384 * 2654435761u));

  fflush(stdout);
  closefrom(3);
  push_out();
  say("closefrom(3)", differences(far, MIB, 7));
  setvbuf(stdout, malloc(MIB), _IOFBF, MIB);
  puts("printed at the end");
  push_out();
}

/* --- random ----------------------------------------------------------------------------------------------- */

static void run_random(uint32_t seed) {
  enum { SLOTS = 64, STEPS = 4000 };
  static struct {
    char *block;
    size_t length;
    uint32_t seed;
  } slots[SLOTS];
  uint32_t state = seed | 1;
  size_t wrong = 0;
  for (uint32_t step = 0; step < STEPS; step++) {
    uint32_t slot = next_random(&state) % SLOTS, kind = next_random(&state) % 4;
    size_t length = (size_t)1 << next_random(&state) % 20;
    length = (length + next_random(&state) % length) & ~(size_t)3;
    size_t kept = slots[slot].length < length ? slots[slot].length : length;
    if (kind == 0 || slots[slot].block == NULL) {
      wrong += differences(slots[slot].block, slots[slot].length, slots[slot].seed);
      free(slots[slot].block);
      slots[slot].block = calloc(length, 1);
      for (size_t i = 0; i < length; i += 64) wrong += slots[slot].block[i] != 0;
    } else {
      slots[slot].block = realloc(slots[slot].block, length);
      wrong += differences(slots[slot].block, kept, slots[slot].seed);
    }
    slots[slot].length = slots[slot].block == NULL ? 0 : length;
    slots[slot].seed = step;
    fill(slots[slot].block, slots[slot].length, step);
  }
  for (int i = 0; i < SLOTS; i++) wrong += differences(slots[i].block, slots[i].length, slots[i].seed);
  say("random", wrong);
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  size_t number = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
  if (strcmp(what, "calls") == 0) run_calls();
  if (strcmp(what, "threads") == 0) run_threads(number);
  if (strcmp(what, "fork") == 0) run_fork();
  if (strcmp(what, "system") == 0) run_system();
  if (strcmp(what, "random") == 0) run_random(number);
  if (strcmp(what, "hold") == 0 || strcmp(what, "exec") == 0) {
    char *block = malloc(number * MIB);
    fill(block, number * MIB, 5);
    puts("ready");
    fflush(stdout);
    if (strcmp(what, "exec") == 0) execvp(argv[3], argv + 3);
    getchar();
    char *later = malloc(MIB); /* is to be had in any case */
    fill(later, MIB, 6);
    say("later", differences(later, MIB, 6));
    say("held", differences(block, number * MIB, 5));
  }
}
