/*
 * The C client as a program, for the tests: commands of a line each on standard input, what came of them on
 * standard output.
 *
 *     driver SERVER [TIMEOUT [DATAGRAM]]
 *
 * A line is operations with "; " between them, which are submitted together and waited for:
 *
 *     malloc LENGTH          read POINTER LENGTH           cas POINTER EXPECTED DESIRED
 *     free POINTER           write POINTER LENGTH HEX      add POINTER DELTA
 *     hello                  realloc POINTER LENGTH
 *
 * and prints, for each, `ok` and what it gave, or the name of its error. Or it is one of
 *
 *     known                  what mallocd_known says
 *     renew                  mallocd_renew
 *     start OPERATIONS       submits operations, and does not wait for them
 *     collect                waits for what was started, and prints what came of it
 *     block LENGTH SEED      mallocs, writes, reads and frees LENGTH bytes by blocking calls, and compares
 *     count THREADS N        as many threads add 1 to a counter, N times each; prints the counter
 *     flood N SEED           N writes, then as many reads, all submitted at once and collected as they end
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../clients/c/mallocd.h"

enum { MOST_OPS = 1024, LINE = 1 << 20, SLOT = 64 };

static struct mallocd *heap;

static void say(int result) {
  if (result == 0) {
    fputs("ok", stdout);
  } else {
    const char *name = strerrorname_np(-result);
    printf("%s", name != NULL ? name : "?");
  }
}

static void say_hello(const struct mallocd_hello *hello) {
  printf(" %016jx %016jx %016jx %016jx %016jx", (uintmax_t)hello->epoch, (uintmax_t)hello->base,
         (uintmax_t)hello->size, (uintmax_t)hello->largest_datagram, (uintmax_t)hello->version);
  if (hello->share != 0) printf(" %016jx", (uintmax_t)hello->share);
}

/* Bytes that look random, the same for the same seed (xorshift, Marsaglia 2003). */
static void fill(unsigned char *data, size_t length, uint32_t seed) {
  uint32_t state = seed * 0x9e3779b1u;
  if (state == 0) state = 1;
  for (size_t i = 0; i < length; i++) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    data[i] = state;
  }
}

static struct mallocd_op parse(char *text) {
  static const char *const NAMES[] = {"malloc", "free", "read", "write", "realloc", "cas", "add", "hello"};
  char *rest, *name = strtok_r(text, " ", &rest), *word;
  struct mallocd_op op = {.method = 0xff};
  for (int i = 0; i < 8; i++) {
    if (strcmp(name, NAMES[i]) == 0) op.method = i;
  }
  for (int i = 0; i < 3 && (word = strtok_r(NULL, " ", &rest)) != NULL; i++) {
    if (op.method == MALLOCD_WRITE && i == 2) {
      unsigned char *bytes = malloc(strlen(word) / 2 + 1);
      for (size_t at = 0; at < strlen(word) / 2; at++) sscanf(word + 2 * at, "%2hhx", &bytes[at]);
      op.data.from = bytes;
    } else {
      op.fields[i] = strtoull(word, NULL, 0);
    }
  }
  if (op.method == MALLOCD_READ) op.data.into = malloc(op.fields[1] <= 65507 ? op.fields[1] + 1 : 1);
  if (op.method == MALLOCD_HELLO) op.data.into = malloc(sizeof(struct mallocd_hello));
  return op;
}

static struct mallocd_op begun[MOST_OPS];
static size_t started;

static void start_ops(char *line) {
  size_t first = started;
  char *rest;
  for (char *text = strtok_r(line, ";", &rest); text != NULL && started < MOST_OPS;
       text = strtok_r(NULL, ";", &rest)) {
    begun[started++] = parse(text);
  }
  mallocd_submit(heap, begun + first, started - first);
}

static void collect_ops(void) {
  mallocd_wait(heap, begun, started);
  for (size_t i = 0; i < started; i++) {
    struct mallocd_op *op = &begun[i];
    if (i > 0) fputs("; ", stdout);
    say(op->result);
    if (op->result == 0) {
      const unsigned char *bytes = op->data.into;
      if (op->method == MALLOCD_HELLO) say_hello(op->data.into);
      if (op->method == MALLOCD_MALLOC || op->method >= MALLOCD_REALLOC) {
        if (op->method != MALLOCD_HELLO) printf(" %016jx", (uintmax_t)op->value);
      }
      if (op->method == MALLOCD_READ) {
        putchar(' ');
        for (size_t at = 0; at < op->fields[1]; at++) printf("%02x", bytes[at]);
      }
    }
    free(op->data.into);
  }
  started = 0;
}

static void run_block(size_t length, uint32_t seed) {
  unsigned char *data = malloc(length + 1), *copy = calloc(length + 1, 1);
  uint64_t pointer = 0;
  fill(data, length, seed);
  int error = mallocd_malloc(heap, length, &pointer);
  if (error == 0) error = mallocd_write(heap, pointer, data, length);
  if (error == 0) error = mallocd_read(heap, pointer, copy, length);
  if (error == 0) error = mallocd_free(heap, pointer);
  say(error);
  if (error == 0) fputs(memcmp(data, copy, length) == 0 ? " same" : " different", stdout);
  free(data);
  free(copy);
}

struct counting {
  uint64_t pointer;
  int times, error;
};

static void *count(void *argument) {
  struct counting *counting = argument;
  for (int i = 0; i < counting->times && counting->error == 0; i++) {
    uint64_t old;
    counting->error = mallocd_add(heap, counting->pointer, 1, &old);
  }
  return NULL;
}

static void run_count(int threads, int times) {
  pthread_t ids[64];
  struct counting each[64];
  uint64_t pointer, value = 0;
  int error = mallocd_malloc(heap, 8, &pointer);
  for (int i = 0; i < threads; i++) {
    each[i] = (struct counting){pointer, times, error};
    pthread_create(&ids[i], NULL, count, &each[i]);
  }
  for (int i = 0; i < threads; i++) {
    pthread_join(ids[i], NULL);
    if (error == 0) error = each[i].error;
  }
  if (error == 0) error = mallocd_add(heap, pointer, 0, &value);
  if (error == 0) error = mallocd_free(heap, pointer);
  say(error);
  printf(" %ju", (uintmax_t)value);
}

/* Collects `count` operations; the first error, or -EPROTO if one comes twice or more come than were sent. */
static int collect(size_t count) {
  int error = 0;
  for (size_t i = 0; i < count; i++) {
    struct mallocd_op *op = mallocd_complete(heap, -1);
    if (op == NULL || op->user != NULL) return -EPROTO;
    op->user = op;
    if (error == 0) error = op->result;
  }
  return error == 0 && mallocd_complete(heap, 0) != NULL ? -EPROTO : error;
}

static void run_flood(size_t count, uint32_t seed) {
  struct mallocd_op *ops = calloc(count, sizeof *ops);
  unsigned char *data = malloc(count * SLOT), *copy = calloc(count, SLOT);
  uint64_t pointer = 0;
  fill(data, count * SLOT, seed);
  int error = mallocd_malloc(heap, count * SLOT, &pointer);
  for (size_t i = 0; i < count; i++) {
    ops[i] = mallocd_write_op(pointer + i * SLOT, data + i * SLOT, SLOT);
  }
  if (error == 0) mallocd_submit(heap, ops, count), error = collect(count);
  for (size_t i = 0; i < count; i++) {
    ops[i] = mallocd_read_op(pointer + i * SLOT, copy + i * SLOT, SLOT);
  }
  if (error == 0) mallocd_submit(heap, ops, count), error = collect(count);
  if (error == 0) error = mallocd_free(heap, pointer);
  say(error);
  if (error == 0) fputs(memcmp(data, copy, count * SLOT) == 0 ? " same" : " different", stdout);
  free(ops);
  free(data);
  free(copy);
}

int main(int argc, char **argv) {
  struct mallocd_options options = {
      .timeout = argc > 2 ? atoi(argv[2]) : 0,
      .datagram = argc > 3 ? strtoul(argv[3], NULL, 10) : 0,
  };
  int error = mallocd_open(&heap, argc > 1 ? argv[1] : NULL, &options);
  say(error);
  putchar('\n');
  fflush(stdout);
  if (error != 0) return 1;
  static char line[LINE];
  while (fgets(line, sizeof line, stdin) != NULL) {
    unsigned a = 0, b = 0;
    line[strcspn(line, "\n")] = '\0';
    if (strcmp(line, "known") == 0) {
      struct mallocd_hello hello = mallocd_known(heap);
      say(0);
      say_hello(&hello);
    } else if (strcmp(line, "renew") == 0) {
      say(mallocd_renew(heap));
    } else if (strncmp(line, "start ", 6) == 0) {
      start_ops(line + 6);
      say(0);
    } else if (strcmp(line, "collect") == 0) {
      collect_ops();
    } else if (sscanf(line, "block %u %u", &a, &b) == 2) {
      run_block(a, b);
    } else if (sscanf(line, "count %u %u", &a, &b) == 2) {
      run_count(a, b);
    } else if (sscanf(line, "flood %u %u", &a, &b) == 2) {
      run_flood(a, b);
    } else {
      start_ops(line);
      collect_ops();
    }
    putchar('\n');
    fflush(stdout);
  }
  mallocd_close(heap);
}
