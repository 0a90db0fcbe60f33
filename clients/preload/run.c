/*
 * mallocd-run: runs a program with libmallocd.so. See README.md.
 *
 * It is also the third way to userfaultfd(2): installed setuid root, it opens the device, becomes the user again, and
 * hands the device down. Whoever may run it can have the kernel wait for him on a page of his own, as under
 * `sysctl vm.unprivileged_userfaultfd=1`.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const char USAGE[] =
    "usage: mallocd-run [OPTION]... PROGRAM [ARGUMENT]...\n"
    "Runs a program whose large blocks of memory are at a mallocd.\n"
    "\n"
    "  --server HOST:PORT  where it is (MALLOCD_SERVER; 127.0.0.1:8081)\n"
    "  --local SIZE        of these blocks, what may be in memory here (MALLOCD_LOCAL; 64MiB)\n"
    "  --threshold SIZE    from which on a block is large, 4KiB or more (MALLOCD_THRESHOLD; 64KiB)\n"
    "  --timeout TIME      how long a request is tried, 50s at most (MALLOCD_TIMEOUT; 10s)\n"
    "  --stats FILE        add a line for each process that had such blocks (MALLOCD_STATS)\n"
    "  --fallback          run with plain malloc if it cannot be done (MALLOCD_FALLBACK=1)\n"
    "  --help              print this\n";

static int fail(const char *what, const char *value) {
  fprintf(stderr, "mallocd-run: %s%s: %s\n", what, value, strerror(errno));
  return 1;
}

/* Opens the device for the program, if only this one may. As the user again, whatever comes of it. */
static int hand_down_device(void) {
  int device = access("/dev/userfaultfd", R_OK | W_OK) == 0 ? -1 : open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (setresgid(getgid(), getgid(), getgid()) < 0 || setresuid(getuid(), getuid(), getuid()) < 0) return -1;
  if (device < 0) return 0;
  /* As high as it may be, out of the way of programs that count their descriptors. */
  struct rlimit limit;
  int highest = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < 1024 ? (int)limit.rlim_cur : 1024;
  int copy = -1;
  while (copy < 0 && highest > 3) copy = fcntl(device, F_DUPFD, --highest);
  char number[16];
  snprintf(number, sizeof number, "%d", copy);
  return copy < 0 ? -1 : setenv("MALLOCD_USERFAULTFD", number, 1);
}

/* The library beside this program, or in the folder where `make install` has put it. */
static int find_library(char *path) {
  static const char *const PLACES[] = {"libmallocd.so", "../lib/mallocd/libmallocd.so"};
  char own[PATH_MAX] = "", there[2 * PATH_MAX];
  if (readlink("/proc/self/exe", own, sizeof own - 1) < 0) return -1;
  char *folder = dirname(own);
  for (size_t i = 0; i < sizeof PLACES / sizeof *PLACES; i++) {
    snprintf(there, sizeof there, "%s/%s", folder, PLACES[i]);
    if (realpath(there, path) != NULL) return 0;
  }
  return -1;
}

static int preload(const char *library) {
  const char *others = getenv("LD_PRELOAD");
  char all[2 * PATH_MAX];
  if (others == NULL || *others == '\0') return setenv("LD_PRELOAD", library, 1);
  if (snprintf(all, sizeof all, "%s:%s", library, others) >= (int)sizeof all) return errno = E2BIG, -1;
  return setenv("LD_PRELOAD", all, 1);
}

int main(int argc, char **argv) {
  static const struct option OPTIONS[] = {
      {"server", required_argument, NULL, 's'},    {"local", required_argument, NULL, 'l'},
      {"threshold", required_argument, NULL, 't'}, {"timeout", required_argument, NULL, 'w'},
      {"stats", required_argument, NULL, 'c'},     {"fallback", no_argument, NULL, 'f'},
      {"help", no_argument, NULL, 'h'},            {NULL, 0, NULL, 0},
  };
  static const char *const NAMES[] = {
      ['s'] = "MALLOCD_SERVER",  ['l'] = "MALLOCD_LOCAL", ['t'] = "MALLOCD_THRESHOLD",
      ['w'] = "MALLOCD_TIMEOUT", ['c'] = "MALLOCD_STATS", ['f'] = "MALLOCD_FALLBACK",
  };
  if (hand_down_device() < 0) return fail("cannot hand down ", "/dev/userfaultfd");
  int option;
  while ((option = getopt_long(argc, argv, "+h", OPTIONS, NULL)) != -1) {
    if (option == 'h') return fputs(USAGE, stdout) < 0;
    if (option == '?') return fputs("Try: mallocd-run --help\n", stderr), 2;
    if (setenv(NAMES[option], option == 'f' ? "1" : optarg, 1) < 0) return fail("cannot set ", NAMES[option]);
  }
  if (optind == argc) return fputs("mallocd-run: there is no PROGRAM\nTry: mallocd-run --help\n", stderr), 2;
  char library[PATH_MAX];
  if (find_library(library) < 0) return fail("cannot find ", "libmallocd.so");
  if (preload(library) < 0) return fail("cannot set ", "LD_PRELOAD");
  execvp(argv[optind], argv + optind);
  return fail("", argv[optind]);
}
