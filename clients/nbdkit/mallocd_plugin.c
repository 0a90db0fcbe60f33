/*
 * An nbdkit plugin: a disk in the heap of a mallocd. See README.md.
 *
 * What lies in the heap, all fields of 64 bits and big-endian:
 *
 *     root -> +0   magic          chunk -> 64 KiB of the disk
 *             +8   size, bytes
 *             +16  lease
 *             +64  the table: for each 64 KiB of the disk its chunk, or 0 if it is all zeros
 *
 * A chunk is allocated, then filled and entered in the table, and only then is the write that wanted it
 * answered; it is struck out of the table before it is freed. So whenever nbdkit ends, what was answered is
 * on the disk, and the worst that remains is a chunk that nobody knows.
 *
 * The lease says who writes: a random number in the upper half, and a count that goes on every second in the
 * lower. Who finds a lease that stands still takes it over; who finds that he has lost it, or that the daemon
 * knows nothing of it any more, fails all that comes.
 */
#define NBDKIT_API_VERSION 2
#define _GNU_SOURCE
#include <nbdkit-plugin.h>

#include <endian.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "../c/mallocd.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

enum { FIELD = 8, CHUNK = 64 << 10, HEAD = 64 };
enum { MAGIC_AT = 0, SIZE_AT = 8, LEASE_AT = 16 };
/* Chunks that one step of a request is about: their pieces are in flight together, and their entries in the table
   fit into one datagram of any network. */
enum { STEP = 128 };
enum { PATIENCE = MALLOCD_MAX_TIMEOUT, LEASE_SECONDS = 5 };
/* As many as nbdkit has threads. A window holds 256 KiB, which is what most clients ask for at a time, and the heads:
   if it does not, the last piece waits for a reply. All windows together fit into the daemon's receive buffer, 4 MiB
   of which the kernel makes twice as much: what it has no room for is lost. */
enum { WORKERS = 16, WINDOW = 272 << 10 };
static const uint64_t MAGIC = UINT64_C(0x6d616c6c6f636401); /* "mallocd", 1 */
static const uint64_t LARGEST_DISK = UINT64_C(1) << 40;

/* What one request at a time uses: a socket of its own, and room for the operations of a step. */
struct worker {
  struct worker *next;
  struct mallocd *heap;
  uint64_t entries[STEP];
  struct mallocd_op ops[]; /* for the pieces of STEP chunks, and the table */
};

/* An entry of the table here: 0, a chunk, or a chunk that the table in the heap may not have yet. */
enum { UNPUBLISHED = 1 };

static const char *server = MALLOCD_DEFAULT_SERVER;
static uint64_t root, size, lease;
static uint64_t *table;
static int16_t *users; /* of each chunk: how many requests share it, or -1 if one has it alone */
static struct worker *idle;
static int workers; /* that there are, idle or not */
static bool lost; /* the lease */
static bool stopping;
static bool beating;
static pthread_t heart;
static pthread_mutex_t lock = PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP; /* of users, idle, workers and stopping */
static pthread_cond_t released = PTHREAD_COND_INITIALIZER; /* chunks */
static pthread_cond_t given = PTHREAD_COND_INITIALIZER;    /* a worker */
static pthread_cond_t stopped = PTHREAD_COND_INITIALIZER;
static const uint8_t zeros[CHUNK];

/* --- Errors ------------------------------------------------------------------------------------------ */

/* Says what failed, and with which error. Returns -1, as callbacks do. */
static int fail(const char *what, int error) {
  error = -error;
  if (error == ENOMEM) error = ENOSPC;
  nbdkit_error("%s: %s", what, strerror(error));
  nbdkit_set_error(error == ENOSPC ? ENOSPC : EIO);
  return -1;
}

/* --- Workers ----------------------------------------------------------------------------------------- */

/* Of how many operations a read or write of so many bytes is. */
static size_t pieces_of(const struct mallocd *heap, size_t bytes) {
  size_t largest = mallocd_largest(heap);
  return bytes / largest + (bytes % largest > 0);
}

static struct worker *open_worker(void) {
  struct mallocd_options options = {.timeout = PATIENCE, .window = WINDOW};
  struct mallocd *heap;
  int error = mallocd_open(&heap, server, &options);
  if (error != 0) {
    nbdkit_error("Cannot reach a mallocd at %s: %s", server, strerror(-error));
    return NULL;
  }
  size_t ops = STEP * pieces_of(heap, CHUNK) + 1;
  struct worker *worker = calloc(1, sizeof *worker + ops * sizeof *worker->ops);
  if (worker == NULL) {
    nbdkit_error("calloc: %m");
    mallocd_close(heap);
    return NULL;
  }
  worker->heap = heap;
  return worker;
}

/* An idle worker, or a new one; if there are as many as may be, the next that is given back. */
static struct worker *take_worker(void) {
  pthread_mutex_lock(&lock);
  while (idle == NULL && workers == WORKERS) pthread_cond_wait(&given, &lock);
  struct worker *worker = idle;
  if (worker != NULL) {
    idle = worker->next;
  } else {
    workers++;
  }
  pthread_mutex_unlock(&lock);
  if (worker != NULL || (worker = open_worker()) != NULL) return worker;
  pthread_mutex_lock(&lock);
  workers--;
  pthread_cond_signal(&given);
  pthread_mutex_unlock(&lock);
  return NULL;
}

static void give_worker(struct worker *worker) {
  pthread_mutex_lock(&lock);
  worker->next = idle;
  idle = worker;
  pthread_cond_signal(&given);
  pthread_mutex_unlock(&lock);
}

static int run(struct worker *worker, size_t count) {
  mallocd_submit(worker->heap, worker->ops, count);
  return mallocd_wait(worker->heap, worker->ops, count);
}

/* --- Chunks ------------------------------------------------------------------------------------------ */

/* What a step is about: bytes of the disk within STEP chunks. */
struct step {
  uint64_t first, chunks; /* of the table */
  uint64_t offset;        /* in the first chunk */
  uint32_t length;
};

/* The first step of a request for `count` bytes at `offset`. */
static struct step next_step(uint64_t offset, uint32_t count) {
  struct step step = {.first = offset / CHUNK, .offset = offset % CHUNK};
  uint64_t most = (uint64_t)STEP * CHUNK - step.offset;
  step.length = count < most ? count : most;
  step.chunks = (step.offset + step.length + CHUNK - 1) / CHUNK;
  return step;
}

/* Without the mark of UNPUBLISHED. */
static uint64_t chunk_at(uint64_t index) {
  return table[index] & ~(uint64_t)UNPUBLISHED;
}

static bool is_published(uint64_t entry) {
  return entry != 0 && !(entry & UNPUBLISHED);
}

/*
 * Waits until the chunks of a step may be used: shared with others, or alone, by who lets chunks come or go.
 * A write does if some chunk is not in the table yet. Returns whether it has them alone.
 */
static bool acquire(const struct step *step, bool frees, bool writes) {
  pthread_mutex_lock(&lock);
  for (;;) {
    bool alone = frees, busy = false;
    for (uint64_t i = 0; i < step->chunks && writes && !alone; i++) {
      alone = !is_published(table[step->first + i]);
    }
    for (uint64_t i = 0; i < step->chunks && !busy; i++) {
      busy = alone ? users[step->first + i] != 0 : users[step->first + i] < 0;
    }
    if (!busy) {
      for (uint64_t i = 0; i < step->chunks; i++) users[step->first + i] += alone ? -1 : 1;
      pthread_mutex_unlock(&lock);
      return alone;
    }
    pthread_cond_wait(&released, &lock);
  }
}

static void release(const struct step *step, bool alone) {
  pthread_mutex_lock(&lock);
  for (uint64_t i = 0; i < step->chunks; i++) users[step->first + i] += alone ? 1 : -1;
  pthread_cond_broadcast(&released);
  pthread_mutex_unlock(&lock);
}

/* Frees what has been made for a step whose write cannot go on. */
static void unmake(struct worker *worker, const struct step *step) {
  size_t count = 0;
  for (uint64_t i = 0; i < step->chunks; i++) {
    uint64_t *entry = &table[step->first + i];
    if (!(*entry & UNPUBLISHED)) continue;
    worker->ops[count++] = mallocd_free_op(*entry & ~(uint64_t)UNPUBLISHED);
    *entry = 0;
  }
  run(worker, count); /* what cannot be freed is lost, and known to nobody */
}

/* Allocates the chunks that a step lacks. They are all 0, as the disk is there. */
static int make_chunks(struct worker *worker, const struct step *step) {
  size_t count = 0;
  for (uint64_t i = 0; i < step->chunks; i++) {
    if (table[step->first + i] != 0) continue;
    worker->ops[count] = mallocd_malloc_op(CHUNK);
    worker->ops[count++].user = &table[step->first + i];
  }
  int error = run(worker, count);
  for (size_t i = 0; i < count; i++) {
    if (worker->ops[i].result == 0) {
      *(uint64_t *)worker->ops[i].user = worker->ops[i].value | UNPUBLISHED;
    }
  }
  if (error != 0) unmake(worker, step);
  return error;
}

/* The operation that makes the table in the heap what it is here, or 0, for the chunks of a step. */
static struct mallocd_op table_op(struct worker *worker, const struct step *step, bool clear) {
  for (uint64_t i = 0; i < step->chunks; i++) {
    worker->entries[i] = clear ? 0 : htobe64(chunk_at(step->first + i));
  }
  uint64_t at = root + HEAD + step->first * FIELD;
  return mallocd_write_op(at, worker->entries, step->chunks * FIELD);
}

/*
 * Where in the heap the bytes of a step from `at` on are, or 0 if they are zeros and nowhere. *length is how many
 * of them lie there in a row: chunks that were allocated one after the other often are neighbours.
 */
static uint64_t find_run(const struct step *step, uint32_t at, uint32_t *length) {
  uint64_t place = step->offset + at, inside = place % CHUNK;
  uint64_t index = step->first + place / CHUNK, end = step->first + step->chunks;
  uint64_t chunk = chunk_at(index), gap = chunk == 0 ? 0 : CHUNK, next = chunk;
  *length = CHUNK - inside;
  while (++index < end && chunk_at(index) == (next += gap)) *length += CHUNK;
  if (*length > step->length - at) *length = step->length - at;
  return chunk == 0 ? 0 : chunk + inside;
}

/*
 * Reads or writes the bytes of a step, which is acquired: those of `from` if there are, else into `into`. Where
 * there is no chunk, nothing is written, and zeros are read. Each run goes in as few datagrams as can be, of one
 * size: they cost more than what is in them.
 */
static int move(struct worker *worker, const struct step *step, bool alone, const uint8_t *from,
                uint8_t *into) {
  size_t count = 0;
  if (alone) worker->ops[count++] = table_op(worker, step, false);
  for (uint32_t start = 0, length; start < step->length; start += length) {
    uint64_t run_at = find_run(step, start, &length);
    if (run_at == 0) {
      if (into != NULL) memset(into + start, 0, length);
      continue;
    }
    uint32_t pieces = pieces_of(worker->heap, length), piece = (length + pieces - 1) / pieces;
    for (uint32_t at = start, end = start + length; at < end; at += piece) {
      uint64_t pointer = run_at + at - start;
      if (piece > end - at) piece = end - at;
      worker->ops[count++] = from != NULL ? mallocd_write_op(pointer, from + at, piece)
                                          : mallocd_read_op(pointer, into + at, piece);
    }
  }
  int error = run(worker, count);
  if (error == 0 && alone) {
    for (uint64_t i = 0; i < step->chunks; i++) table[step->first + i] = chunk_at(step->first + i);
  }
  return error;
}

/* Frees the chunks of a step, which is acquired alone. The table forgets them first. */
static int free_chunks(struct worker *worker, const struct step *step) {
  size_t count = 0;
  bool any = false;
  for (uint64_t i = 0; i < step->chunks; i++) any = any || table[step->first + i] != 0;
  if (!any) return 0;
  worker->ops[0] = table_op(worker, step, true);
  int error = run(worker, 1);
  if (error != 0) return error;
  for (uint64_t i = 0; i < step->chunks; i++) {
    uint64_t *entry = &table[step->first + i];
    if (*entry != 0) worker->ops[count++] = mallocd_free_op(*entry & ~(uint64_t)UNPUBLISHED);
    *entry = 0;
  }
  return run(worker, count);
}

/* --- Requests ---------------------------------------------------------------------------------------- */

enum kind { READ, WRITE, ZERO, TRIM };

/* Does one step of a request; `data` is read into, or written from. */
static int do_step(struct worker *worker, enum kind kind, const struct step *step, void *data) {
  bool whole = step->offset == 0 && step->length % CHUNK == 0;
  bool frees = (kind == ZERO || kind == TRIM) && whole;
  bool alone = acquire(step, frees, kind == WRITE);
  int error = 0;
  if (frees) {
    error = free_chunks(worker, step);
  } else if (kind == WRITE) {
    if (alone) error = make_chunks(worker, step);
    if (error == 0) error = move(worker, step, alone, data, NULL);
  } else if (kind == ZERO) {
    error = move(worker, step, false, zeros, NULL);
  } else if (kind == READ) {
    error = move(worker, step, false, NULL, data);
  }
  release(step, alone);
  return error;
}

/* Does a request step by step. Those that free take whole chunks, and what is left on either side. */
static int do_request(enum kind kind, void *data, uint32_t count, uint64_t offset) {
  static const char *const NAMES[] = {"read", "write", "zero", "trim"};
  if (__atomic_load_n(&lost, __ATOMIC_ACQUIRE)) return fail("the disk is another's now", -EIO);
  struct worker *worker = take_worker();
  if (worker == NULL) return nbdkit_set_error(EIO), -1;
  int error = 0;
  while (count > 0 && error == 0) {
    struct step step = next_step(offset, count);
    if (kind == ZERO || kind == TRIM) {
      uint32_t rest = CHUNK - step.offset;
      if (step.offset != 0 || count < CHUNK) {
        step.length = count < rest ? count : rest;
        step.chunks = 1;
      } else {
        step.length -= step.length % CHUNK;
        step.chunks = step.length / CHUNK;
      }
    }
    error = do_step(worker, kind, &step, data);
    if (data != NULL) data = (uint8_t *)data + step.length;
    offset += step.length;
    count -= step.length;
  }
  give_worker(worker);
  return error == 0 ? 0 : fail(NAMES[kind], error);
}

static int plugin_pread(void *handle, void *data, uint32_t count, uint64_t offset, uint32_t flags) {
  (void)handle, (void)flags;
  return do_request(READ, data, count, offset);
}

static int plugin_pwrite(void *handle, const void *data, uint32_t count, uint64_t offset,
                         uint32_t flags) {
  (void)handle, (void)flags;
  return do_request(WRITE, (void *)data, count, offset);
}

static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags) {
  (void)handle, (void)flags;
  return do_request(ZERO, NULL, count, offset);
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags) {
  (void)handle, (void)flags;
  return do_request(TRIM, NULL, count, offset);
}

/* What was answered has been carried out: there is nothing left to flush. */
static int plugin_flush(void *handle, uint32_t flags) {
  (void)handle, (void)flags;
  return 0;
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                          struct nbdkit_extents *extents) {
  (void)handle;
  uint64_t end = offset + count;
  for (uint64_t at = offset; at < end;) {
    uint64_t chunk = at / CHUNK;
    bool hole = __atomic_load_n(&table[chunk], __ATOMIC_RELAXED) == 0;
    do chunk++;
    while (chunk * CHUNK < end && (__atomic_load_n(&table[chunk], __ATOMIC_RELAXED) == 0) == hole);
    uint64_t next = chunk * CHUNK < size ? chunk * CHUNK : size;
    uint32_t type = hole ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0;
    if (nbdkit_add_extent(extents, at, next - at, type) < 0) return -1;
    if (flags & NBDKIT_FLAG_REQ_ONE) break;
    at = next;
  }
  return 0;
}

/* --- The lease --------------------------------------------------------------------------------------- */

static void lose(const char *why) {
  nbdkit_error("%s: nothing more is written to the disk at 0x%" PRIx64, why, root);
  __atomic_store_n(&lost, true, __ATOMIC_RELEASE);
}

/* Makes the lease go on. */
static void *beat(void *argument) {
  struct worker *worker = argument;
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  pthread_mutex_lock(&lock);
  while (!stopping && !lost) {
    until.tv_sec++;
    if (pthread_cond_timedwait(&stopped, &lock, &until) != ETIMEDOUT) continue;
    pthread_mutex_unlock(&lock);
    uint64_t next = (lease & ~(uint64_t)UINT32_MAX) | (uint32_t)(lease + 1), old;
    int error = mallocd_cas(worker->heap, root + LEASE_AT, lease, next, &old);
    if (error == 0 && old == lease) {
      lease = next;
    } else if (error == 0) {
      lose("the lease has another owner");
    } else if (error != -ETIMEDOUT && error != -ECONNREFUSED) {
      lose(strerror(-error));
    } else if (mallocd_add(worker->heap, root + LEASE_AT, 0, &old) == 0 && old == next) {
      lease = next; /* it was carried out, and only the reply was lost */
    }
    clock_gettime(CLOCK_REALTIME, &until);
    pthread_mutex_lock(&lock);
  }
  pthread_mutex_unlock(&lock);
  give_worker(worker);
  return NULL;
}

/* Takes the lease of the disk at root, unless it goes on. */
static int take_lease(struct worker *worker) {
  uint64_t old, seen;
  uint32_t name;
  if (getrandom(&name, sizeof name, 0) != sizeof name) return nbdkit_error("getrandom: %m"), -1;
  lease = (uint64_t)(name | 1) << 32;
  int error = mallocd_add(worker->heap, root + LEASE_AT, 0, &seen);
  if (error == 0 && seen != 0) {
    nbdkit_debug("the disk has a writer, or had one that was killed: wait and see");
    sleep(LEASE_SECONDS);
  }
  if (error == 0) error = mallocd_cas(worker->heap, root + LEASE_AT, seen, lease, &old);
  if (error != 0) return fail("Cannot take the lease of the disk", error);
  if (old == seen) return 0;
  nbdkit_error("the disk at 0x%" PRIx64 " has another writer: stop that one first", root);
  return -1;
}

/* --- Life of the disk -------------------------------------------------------------------------------- */

static uint64_t chunks_of(uint64_t bytes) {
  return (bytes + CHUNK - 1) / CHUNK;
}

static int create(struct worker *worker) {
  int error = mallocd_malloc(worker->heap, HEAD + chunks_of(size) * FIELD, &root);
  if (error != 0) return fail("Cannot allocate the table of the disk", error);
  uint64_t head[] = {htobe64(MAGIC), htobe64(size)};
  error = mallocd_write(worker->heap, root, head, sizeof head);
  return error == 0 ? 0 : fail("Cannot write the head of the disk", error);
}

static int attach(struct worker *worker) {
  uint64_t head[2];
  int error = mallocd_read(worker->heap, root, head, sizeof head);
  if (error != 0) return fail("Cannot read the head of the disk", error);
  uint64_t found = be64toh(head[1]);
  if (be64toh(head[0]) != MAGIC || found == 0 || found > LARGEST_DISK) {
    nbdkit_error("there is no disk at 0x%" PRIx64 ": leave out root=, to make a new one", root);
    return -1;
  }
  if (size != 0 && size != found) {
    nbdkit_error("the disk at 0x%" PRIx64 " has %" PRIu64 " bytes: leave out size=", root, found);
    return -1;
  }
  size = found;
  return 0;
}

static int read_table(struct worker *worker) {
  int error = mallocd_read(worker->heap, root + HEAD, table, chunks_of(size) * FIELD);
  if (error != 0) return fail("Cannot read the table of the disk", error);
  for (uint64_t i = 0; i < chunks_of(size); i++) table[i] = be64toh(table[i]);
  return 0;
}

static int plugin_config(const char *key, const char *value) {
  if (strcmp(key, "server") == 0) {
    server = value;
  } else if (strcmp(key, "size") == 0) {
    int64_t bytes = nbdkit_parse_size(value);
    if (bytes < 0) return -1;
    if (bytes == 0 || (uint64_t)bytes > LARGEST_DISK) {
      nbdkit_error("size=%s: a disk has 1 byte to 1 TiB", value);
      return -1;
    }
    size = bytes;
  } else if (strcmp(key, "root") == 0) {
    if (nbdkit_parse_uint64_t("root", value, &root) < 0) return -1;
    if (root == 0 || root % FIELD != 0) {
      nbdkit_error("root=%s is no address of a disk", value);
      return -1;
    }
  } else {
    nbdkit_error("unknown parameter %s: there are server, size and root", key);
    return -1;
  }
  return 0;
}

static int plugin_config_complete(void) {
  if (size != 0 || root != 0) return 0;
  nbdkit_error("neither a size nor a root: size=1G makes a disk, root=ADDRESS attaches one");
  return -1;
}

static int plugin_get_ready(void) {
  bool is_new = root == 0;
  struct worker *worker = take_worker();
  if (worker == NULL) return -1;
  if ((is_new ? create(worker) : attach(worker)) < 0 || take_lease(worker) < 0) return -1;
  table = calloc(chunks_of(size), sizeof *table);
  users = calloc(chunks_of(size), sizeof *users);
  if (table == NULL || users == NULL) return nbdkit_error("calloc: %m"), -1;
  if (!is_new && read_table(worker) < 0) return -1;
  if (is_new) fprintf(stderr, "mallocd: root=0x%" PRIx64 "\n", root);
  give_worker(worker);
  return 0;
}

/* Threads do not survive nbdkit's going to the background. */
static int plugin_after_fork(void) {
  struct worker *worker = take_worker();
  if (worker == NULL) return -1;
  int error = pthread_create(&heart, NULL, beat, worker);
  if (error != 0) return nbdkit_error("pthread_create: %s", strerror(error)), -1;
  beating = true;
  return 0;
}

/* Gives the lease back, so that the next one need not wait and see. */
static void plugin_cleanup(void) {
  if (!beating) return;
  pthread_mutex_lock(&lock);
  stopping = true;
  pthread_cond_signal(&stopped);
  pthread_mutex_unlock(&lock);
  pthread_join(heart, NULL);
  uint64_t old;
  struct worker *worker = lost ? NULL : take_worker();
  if (worker == NULL) return;
  int error = mallocd_cas(worker->heap, root + LEASE_AT, lease, 0, &old);
  if (error != 0) nbdkit_error("Cannot give the lease back: %s", strerror(-error));
  give_worker(worker);
}

static void plugin_unload(void) {
  for (struct worker *worker; (worker = idle) != NULL;) {
    idle = worker->next;
    mallocd_close(worker->heap);
    free(worker);
  }
  free(table);
  free(users);
}

static void *plugin_open(int readonly) {
  (void)readonly;
  return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t plugin_get_size(void *handle) {
  (void)handle;
  return size;
}

static int yes(void *handle) {
  (void)handle;
  return 1;
}

static int fua_is_native(void *handle) {
  (void)handle;
  return NBDKIT_FUA_NATIVE;
}

static struct nbdkit_plugin plugin = {
    .name = "mallocd",
    .longname = "a disk in the heap of a mallocd",
    .description = "A thin disk: 64 KiB are allocated when they are first written, and freed by trim.",
    .magic_config_key = "size",
    .config = plugin_config,
    .config_complete = plugin_config_complete,
    .config_help = "size=SIZE          make a disk, and print its root\n"
                   "root=ADDRESS       attach the one that is there\n"
                   "server=HOST:PORT   the mallocd (default " MALLOCD_DEFAULT_SERVER ")",
    .get_ready = plugin_get_ready,
    .after_fork = plugin_after_fork,
    .cleanup = plugin_cleanup,
    .unload = plugin_unload,
    .open = plugin_open,
    .get_size = plugin_get_size,
    .can_multi_conn = yes, /* what one connection has written the others see */
    .can_fast_zero = yes,
    .can_fua = fua_is_native,
    .pread = plugin_pread,
    .pwrite = plugin_pwrite,
    .zero = plugin_zero,
    .trim = plugin_trim,
    .flush = plugin_flush,
    .extents = plugin_extents,
};

NBDKIT_REGISTER_PLUGIN(plugin)
