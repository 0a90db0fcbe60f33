#define _GNU_SOURCE
#include "options.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../c/mallocd.h"
#include "range.h"

enum { LEAST_LOCAL = 1 << 20, LEAST_THRESHOLD = 4096 };

struct options options = {
    .server = MALLOCD_DEFAULT_SERVER,
    .local = 64 << 20,
    .threshold = CHUNK,
    .timeout = 10000,
    .device = -1,
};

/* --- What is said -------------------------------------------------------------------------------------- */

/* The pager's descriptors are its own: it asks for the program's standard error when it has to say something. */
static void print(const char *format, va_list arguments) {
  char line[512];
  size_t most = sizeof line - 1;
  int length = snprintf(line, most, "mallocd: ");
  length += vsnprintf(line + length, most - length, format, arguments);
  if ((size_t)length > most) length = most;
  line[length++] = '\n';
  int fd = STDERR_FILENO, copy = -1;
  if (gettid() != getpid()) {
    int process = syscall(SYS_pidfd_open, getpid(), 0);
    copy = process < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, process, STDERR_FILENO, 0);
    if (process >= 0) close(process);
    if (copy >= 0) fd = copy;
  }
  if (write(fd, line, length) < 0) { /* then nobody wants to know */
  }
  if (copy >= 0) close(copy);
}

void say(const char *format, ...) {
  int error = errno;
  va_list arguments;
  va_start(arguments, format);
  print(format, arguments);
  va_end(arguments);
  errno = error;
}

_Noreturn void die(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  print(format, arguments);
  va_end(arguments);
  signal(SIGABRT, SIG_DFL);
  abort();
}

/* --- What is asked ------------------------------------------------------------------------------------- */

/* Multiplies the number before one of the units. 0 if it is no number with one of them, or too large. */
static uint64_t parse(const char *text, const char *const *units, const uint64_t *factors) {
  char *end;
  if (*text < '0' || *text > '9') return 0;
  errno = 0;
  unsigned long long number = strtoull(text, &end, 10);
  for (int i = 0; units[i] != NULL; i++) {
    if (strcasecmp(end, units[i]) != 0) continue;
    return errno != 0 || number > (UINT64_C(1) << 40) / factors[i] ? 0 : number * factors[i];
  }
  return 0;
}

static bool read_size(const char *name, size_t least, size_t *size) {
  static const char *const UNITS[] = {"", "K", "KiB", "M", "MiB", "G", "GiB", NULL};
  static const uint64_t FACTORS[] = {1, 1 << 10, 1 << 10, 1 << 20, 1 << 20, 1 << 30, 1 << 30};
  const char *text = getenv(name);
  if (text == NULL || *text == '\0') return true;
  *size = parse(text, UNITS, FACTORS);
  if (*size >= least) return true;
  say("%s cannot be %s: it is a size of at least %zu bytes. Try: %s=%zuKiB", name, text, least, name,
      2 * least >> 10);
  return false;
}

static bool read_text(const char *name, char *into, size_t room) {
  const char *text = getenv(name);
  if (text == NULL || *text == '\0') return true;
  if (strlen(text) < room) return strcpy(into, text), true;
  say("%s is too long: %zu bytes at most", name, room - 1);
  return false;
}

bool read_options(void) {
  static const char *const UNITS[] = {"", "s", "ms", NULL};
  static const uint64_t FACTORS[] = {1000, 1000, 1};
  if (!read_text("MALLOCD_SERVER", options.server, sizeof options.server)) return false;
  if (!read_text("MALLOCD_STATS", options.stats, sizeof options.stats)) return false;
  if (!read_size("MALLOCD_LOCAL", LEAST_LOCAL, &options.local)) return false;
  if (!read_size("MALLOCD_THRESHOLD", LEAST_THRESHOLD, &options.threshold)) return false;
  const char *text = getenv("MALLOCD_TIMEOUT");
  if (text != NULL && *text != '\0') {
    uint64_t timeout = parse(text, UNITS, FACTORS);
    if (timeout == 0 || timeout > MALLOCD_MAX_TIMEOUT) {
      say("MALLOCD_TIMEOUT cannot be %s: it is a time of at most 50s. Try: MALLOCD_TIMEOUT=10s", text);
      return false;
    }
    options.timeout = timeout;
  }
  text = getenv("MALLOCD_FALLBACK");
  options.fallback = text != NULL && *text != '\0' && strcmp(text, "0") != 0;
  text = getenv("MALLOCD_USERFAULTFD");
  if (text != NULL && *text >= '0' && *text <= '9') options.device = atoi(text);
  return true;
}
