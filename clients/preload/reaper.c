#define _GNU_SOURCE
#include "reaper.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "options.h"

enum { STACK = 256 << 10 };
enum { WATCHED, SOCKET, STATS, OTHERS }; /* its descriptors */

static int ends[2], stats, socket_kept;
static void (*task)(int, int);

/*
 * It has the thread local storage of the thread that started it: until that one is gone, it makes system calls, and
 * none that fails.
 */
static int reap(void *unused) {
  (void)unused;
  char byte;
  prctl(PR_SET_NAME, "mallocd-reaper");
  setsid(); /* what is sent to the program's process group is not for us */
  syscall(SYS_dup3, ends[0], WATCHED, O_CLOEXEC);
  syscall(SYS_dup3, socket_kept, SOCKET, O_CLOEXEC);
  if (stats >= 0) syscall(SYS_dup3, stats, STATS, O_CLOEXEC);
  syscall(SYS_close_range, OTHERS, ~0u, 0);
  syscall(SYS_chdir, "/");
  if (syscall(SYS_read, WATCHED, &byte, 1) == 0) task(stats >= 0 ? STATS : -1, SOCKET);
  syscall(SYS_exit_group, 0);
  return 0;
}

bool reaper_start(void (*at_end)(int, int), int socket) {
  static char *stack;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK;
  if (stack == NULL) stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (stack == MAP_FAILED || pipe2(ends, O_CLOEXEC) < 0) return false;
  task = at_end;
  socket_kept = socket;
  stats = *options.stats == '\0' ? -1 : open(options.stats, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (clone(reap, stack + STACK, CLONE_VM, NULL) < 0) return false;
  /* The other process may not have come to it yet: its descriptors are copies. */
  close(ends[0]);
  if (stats >= 0) close(stats);
  return true;
}
