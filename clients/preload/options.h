/* What the environment asks of the library, and how it speaks to who set it. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

struct options {
  char server[128];
  size_t local;     /* bytes of blocks that may be in memory here */
  size_t threshold; /* bytes from which on a block is one for the daemon */
  int timeout;      /* ms that a request may take */
  char stats[4096]; /* a file that every process adds a line to at its end, or empty */
  bool fallback;    /* plain malloc if there is no userfaultfd, or no daemon, at the start */
  int device;       /* an open /dev/userfaultfd that was handed down, or -1 */
};

extern struct options options;

/* Reads MALLOCD_*; later changes of the environment change nothing. False if it has said what is wrong. */
bool read_options(void);

/* Prints a line on the program's standard error, from whichever thread. Allocates nothing. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Says it, and aborts: no handler of the program's runs. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
