/*
 * pager.c: see pager.h.
 *
 * A chunk is in one of these states:
 *
 *               touched             oldest             needed
 *     EMPTY ------------> ACTIVE ----------> IDLE ---------------> REMOTE
 *                           ^    <----------      <-- ahead ---       |
 *                           |     touched                             |
 *                           +---------------- FETCHING <--------------+
 *                                                        touched
 *
 * ACTIVE chunks are mapped. When there are too many, the one that was mapped first is moved to a buffer, where it
 * has a second chance: whoever touches it gets it back from there (the modified and free page lists of VAX/VMS did
 * so, as no bit told what is used, and none tells us). A buffer's contents do not change, so they are sent to the
 * daemon meanwhile; when the buffer is needed, the chunk is only there.
 *
 * A chunk's place at the daemon is its home, an allocation of CHUNK bytes. Homes are shared between a process and
 * those that it has forked, as long as nobody writes: `owners` counts, in memory that they share, by the home's
 * number. A home with more than one owner is never written to.
 *
 * The thread has file descriptors of its own (close_range(2) with CLOSE_RANGE_UNSHARE): whatever the program closes,
 * and whatever it expects its next descriptor to be, it neither meets nor inherits ours.
 */
#define _GNU_SOURCE
#include "pager.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "../c/mallocd.h"
#include "options.h"
#include "reaper.h"
#include "userfault.h"

enum { EMPTY, ACTIVE, IDLE, FETCHING, REMOTE };

struct chunk {
  uint64_t home;           /* its address at the daemon, or 0 */
  uint32_t next, previous; /* ACTIVE: in the order in which they were mapped */
  struct buffer *buffer;   /* IDLE, FETCHING */
  uint8_t state;
  bool dirty;  /* differs from its home, or has none. ACTIVE: if not, it is protected from writes */
  bool wanted; /* FETCHING: somebody waits for it, to write if `dirty` */
  uint8_t trust; /* how often it is still mapped for writing when it is only read: it was written before */
};

enum { UNUSED, KEPT, HOMING, WRITING, READING };

struct buffer {
  struct buffer *next, *previous;
  uint8_t *data;
  struct mallocd_op *ops; /* as many as a chunk has pieces */
  struct chunk *chunk;    /* NULL: nobody needs the contents, or what is under way, any more */
  uint64_t home;          /* without chunk: to be given up when what is under way has ended */
  uint8_t state;
  uint32_t pending; /* ops */
  int error;
};

struct list {
  struct buffer *first, *last;
  size_t length;
};

/*
 * Of the local memory, one part in so many is buffers, but not too few. More of them would make a better choice of
 * what to evict, but then more of what is used has to be got back from them. Some are kept for chunks that somebody
 * waits for.
 */
enum { BUFFERS = 12, LEAST_BUFFERS = 8, RESERVED = 2 };
/* Chunks that are fetched before they are asked for, when their neighbour was. */
enum { AHEAD = 6 };
/*
 * Who reads what was written before mostly writes it then, and would fault once more. If not, it is sent to the
 * daemon in vain: so many times, until it is written again.
 */
enum { TRUST = 3 };
enum { KEPT_HOMES = 32, FREES = 128, EVENTS = 16, SLICE = 50 };
enum { STACK = 256 << 10, STACK_PAGES = 4, PROBE = 500 };

struct counts counts;
static pid_t process;
static size_t page_size;
static struct chunk *chunks, *beyond; /* beyond: no chunk from here on was ever touched */
static uint32_t oldest, newest; /* ACTIVE chunks; 0, the bell, is none */
static size_t active, most_active; /* most_active: all that may be here, until a buffer is needed */
static struct buffer *buffers;
static struct list unused, idle;
static size_t chunks_here, buffer_count, pieces, piece, in_flight;
/*
 * Homes that have no owner, and how many of them, from the last one on, are being freed: one word, so that the
 * reaper finds a home in one place, whenever the process ends.
 */
static uint64_t *spares;
static struct {
  uint32_t count, freeing;
} spare;
static struct mallocd_op frees[FREES];

static uint32_t *owners; /* of each home, in memory that is shared with forked processes */
static struct mallocd_hello daemon_known;
static struct mallocd *heap;
static int userfault = -1;

static bool running;
static bool is_stale;            /* the daemon was restarted: what is there is lost */
static int64_t refused_until;    /* ns */
static const uint8_t zeros[CHUNK];

/* What a thread asks of the pager, by touching the bell, and a word for those who wait to be awoken. */
enum { NOTHING, DISCARD, PARK };
static int request;
static struct span requested;
enum { STARTING, READY, FAILED, PARKED };
static uint32_t state;

/* --- Small things -------------------------------------------------------------------------------------- */

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static char *address_of(const struct chunk *chunk) {
  return range_start + (uint64_t)(chunk - chunks) * CHUNK;
}

static uint32_t number_of(const struct chunk *chunk) {
  return chunk - chunks;
}

static void wait_while(uint32_t value) {
  while (__atomic_load_n(&state, __ATOMIC_ACQUIRE) == value) {
    syscall(SYS_futex, &state, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
  }
}

static void change_to(uint32_t value) {
  __atomic_store_n(&state, value, __ATOMIC_RELEASE);
  syscall(SYS_futex, &state, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *map(size_t size, int flags) {
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

static void append(struct list *list, struct buffer *buffer) {
  buffer->next = NULL;
  buffer->previous = list->last;
  *(list->last != NULL ? &list->last->next : &list->first) = buffer;
  list->last = buffer;
  list->length++;
}

static void take_out(struct list *list, struct buffer *buffer) {
  *(buffer->previous != NULL ? &buffer->previous->next : &list->first) = buffer->next;
  *(buffer->next != NULL ? &buffer->next->previous : &list->last) = buffer->previous;
  list->length--;
}

static void link_active(struct chunk *chunk) {
  uint32_t number = number_of(chunk);
  chunk->state = ACTIVE;
  chunk->next = 0;
  chunk->previous = newest;
  *(newest != 0 ? &chunks[newest].next : &oldest) = number;
  newest = number;
  active++;
}

static void unlink_active(struct chunk *chunk) {
  *(chunk->previous != 0 ? &chunks[chunk->previous].next : &oldest) = chunk->next;
  *(chunk->next != 0 ? &chunks[chunk->next].previous : &newest) = chunk->previous;
  active--;
}

/* --- Homes --------------------------------------------------------------------------------------------- */

/* Homes do not overlap, so no two have the same number, wherever they are. */
static uint32_t *owners_of(uint64_t home) {
  return &owners[(home - daemon_known.base) / CHUNK];
}

/* Another process needs what is at the home, which stays as it is. */
static bool is_shared(const struct chunk *chunk) {
  return chunk->home != 0 && __atomic_load_n(owners_of(chunk->home), __ATOMIC_ACQUIRE) > 1;
}

static void give_up(uint64_t home) {
  if (home != 0 && __atomic_sub_fetch(owners_of(home), 1, __ATOMIC_ACQ_REL) == 0) {
    spares[spare.count] = home;
    spare.count++;
  }
}

/* Nothing more is sent to the daemon for a while. What is here stays here. */
static void be_refused(int error) {
  bool was = is_stale || now_ns() < refused_until;
  if (error == -ESTALE) is_stale = true;
  int64_t seconds = error == -ENOMEM ? 1 : 5;
  __atomic_store_n(&refused_until, now_ns() + seconds * 1000000000, __ATOMIC_RELAXED);
  if (was || error == -ENOMEM) return;
  say("%s takes no more blocks: %s. Those that are still here stay here", options.server, strerror(-error));
}

/* --- What is under way --------------------------------------------------------------------------------- */

static void submit(struct buffer *buffer, size_t count) {
  buffer->pending = count;
  buffer->error = 0;
  in_flight += count;
  mallocd_submit(heap, buffer->ops, count);
}

/* Sets off the pieces of a chunk. */
static void move(struct buffer *buffer, uint8_t direction) {
  buffer->state = direction;
  size_t count = 0;
  for (size_t at = 0; at < CHUNK; at += piece) {
    size_t length = CHUNK - at < piece ? CHUNK - at : piece;
    uint64_t home = buffer->chunk->home + at;
    struct mallocd_op *op = &buffer->ops[count++];
    *op = direction == READING ? mallocd_read_op(home, buffer->data + at, length)
                               : mallocd_write_op(home, buffer->data + at, length);
    op->user = buffer;
  }
  submit(buffer, count);
}

static void ask_for_home(struct buffer *buffer) {
  buffer->state = HOMING;
  buffer->ops[0] = mallocd_malloc_op(CHUNK);
  buffer->ops[0].user = buffer;
  submit(buffer, 1);
}

/* Sets off what makes an idle chunk clean. */
static void start_write(struct buffer *buffer) {
  struct chunk *chunk = buffer->chunk;
  if (is_shared(chunk)) {
    give_up(chunk->home);
    chunk->home = 0;
  }
  if (chunk->home == 0 && spare.count > 0) {
    uint64_t home = spares[--spare.count];
    *owners_of(home) = 1;
    chunk->home = home;
  }
  if (chunk->home == 0) return ask_for_home(buffer);
  move(buffer, WRITING);
}

static void make_unused(struct buffer *buffer) {
  buffer->state = UNUSED;
  buffer->chunk = NULL;
  append(&unused, buffer);
}

/* An idle chunk's buffer is for others. What is being sent goes on, to a home that is the chunk's no more. */
static void detach(struct chunk *chunk) {
  struct buffer *buffer = chunk->buffer;
  if (buffer->state != READING) take_out(&idle, buffer);
  chunk->buffer = NULL;
  buffer->chunk = NULL;
  if (buffer->state == KEPT) return make_unused(buffer);
  buffer->home = chunk->home;
  chunk->home = 0;
}

/* `differs` from its home whether it is written now or not. */
static void map_from_buffer(struct chunk *chunk, bool is_write, bool differs) {
  struct buffer *buffer = chunk->buffer;
  link_active(chunk);
  chunk->dirty = is_write || differs;
  if (is_write) {
    chunk->trust = TRUST;
  } else if (!differs && chunk->trust > 0 && !is_shared(chunk)) {
    chunk->trust--;
    chunk->dirty = true;
  }
  userfault_copy(userfault, address_of(chunk), buffer->data, CHUNK, !chunk->dirty);
}

static void complete(struct mallocd_op *op) {
  struct buffer *buffer = op->user;
  struct chunk *chunk = buffer->chunk;
  in_flight--;
  if (op->result != 0 && buffer->error == 0) buffer->error = op->result;
  int error = buffer->error;
  if (buffer->state == HOMING && error == 0) {
    if (chunk != NULL) chunk->home = op->value;
    *owners_of(op->value) = 1; /* from here on the reaper looks for it with the chunk */
    buffer->pending = 0;
    if (chunk != NULL) return move(buffer, WRITING);
    give_up(op->value);
  } else if (--buffer->pending > 0) {
    return;
  }
  if (chunk == NULL) {
    /* After an error, a late datagram may still write there: then it is nobody's. */
    if (error == 0) give_up(buffer->home);
    buffer->home = 0;
    return make_unused(buffer);
  }
  if (buffer->state == READING) {
    if (error != 0 && !chunk->wanted) {
      chunk->state = REMOTE;
      chunk->buffer = NULL;
      return make_unused(buffer);
    }
    if (error != 0) {
      die("cannot fetch %d bytes at %p from %s: %s. The program cannot go on", CHUNK, address_of(chunk),
          options.server, strerror(-error));
    }
    if (!chunk->wanted) {
      chunk->state = IDLE;
      buffer->state = KEPT;
      return append(&idle, buffer);
    }
    map_from_buffer(chunk, chunk->dirty, false);
    chunk->buffer = NULL;
    return make_unused(buffer);
  }
  buffer->state = KEPT;
  if (error != 0) {
    chunk->home = 0; /* for the same reason */
    return be_refused(error);
  }
  chunk->dirty = false;
  counts.written++;
}

static bool can_write(void) {
  return !is_stale && now_ns() >= refused_until;
}

/* --- Buffers ------------------------------------------------------------------------------------------- */

/* The chunk that has been idle for the longest, and is clean, is at the daemon only. False if there is none. */
static bool evict(void) {
  for (struct buffer *buffer = idle.first; buffer != NULL; buffer = buffer->next) {
    struct chunk *chunk = buffer->chunk;
    if (buffer->state != KEPT || chunk->dirty) continue;
    detach(chunk);
    chunk->state = REMOTE;
    counts.evicted++;
    return true;
  }
  return false;
}

/* Sends what is idle and dirty, the oldest first, until so many buffers are, or will be, to be had. */
static void clean(size_t wanted) {
  if (!can_write()) return;
  size_t dirty = 0;
  for (struct buffer *buffer = idle.first; buffer != NULL; buffer = buffer->next) {
    dirty += buffer->state == KEPT && buffer->chunk->dirty;
  }
  for (struct buffer *buffer = idle.first; buffer != NULL && buffer_count - dirty < wanted;
       buffer = buffer->next) {
    if (buffer->state != KEPT || !buffer->chunk->dirty) continue;
    start_write(buffer);
    dirty--;
  }
}

/* A buffer that is not used, while at least `reserved` more are left. NULL if the daemon takes nothing more. */
static struct buffer *take_buffer(size_t reserved) {
  while (unused.length <= reserved) {
    if (evict()) continue;
    if (in_flight == 0) clean(buffer_count);
    if (in_flight == 0) return NULL;
    complete(mallocd_complete(heap, -1));
  }
  struct buffer *buffer = unused.first;
  take_out(&unused, buffer);
  return buffer;
}

/* --- Chunks -------------------------------------------------------------------------------------------- */

/* Pages of an active chunk that the program itself has done away with (MADV_DONTNEED) are zeros. */
static void fill_holes(struct chunk *chunk) {
  unsigned char present[CHUNK / 4096];
  char *address = address_of(chunk);
  if (mincore(address, CHUNK, present) < 0) return;
  for (size_t i = 0; i < CHUNK / page_size; i++) {
    if (!(present[i] & 1) && userfault_zero(userfault, address + i * page_size, page_size) && !chunk->dirty) {
      chunk->dirty = true;
      userfault_protect(userfault, address, CHUNK, true);
    }
  }
}

static bool is_zero(const uint8_t *data) {
  return data[0] == 0 && memcmp(data, data + 1, CHUNK - 1) == 0;
}

/* The chunk that was mapped first becomes idle. False if there is no buffer for it. */
static bool make_idle(void) {
  struct buffer *buffer = take_buffer(RESERVED);
  if (buffer == NULL) return false;
  struct chunk *chunk = &chunks[oldest];
  char *address = address_of(chunk);
  unlink_active(chunk);
  if (chunk->dirty) userfault_protect(userfault, address, CHUNK, true);
  fill_holes(chunk);
  memcpy(buffer->data, address, CHUNK);
  madvise(address, CHUNK, MADV_DONTNEED);
  if (chunk->dirty && is_zero(buffer->data)) {
    give_up(chunk->home);
    *chunk = (struct chunk){.state = EMPTY};
    make_unused(buffer);
    return true;
  }
  chunk->state = IDLE;
  chunk->buffer = buffer;
  buffer->chunk = chunk;
  buffer->state = KEPT;
  append(&idle, buffer);
  return true;
}

static void fetch(struct chunk *chunk, struct buffer *buffer, bool is_wanted, bool writes) {
  chunk->state = FETCHING;
  chunk->buffer = buffer;
  chunk->wanted = is_wanted;
  chunk->dirty = writes;
  buffer->chunk = chunk;
  move(buffer, READING);
}

/* Whoever goes through memory in one direction needs what comes next. */
static void fetch_ahead(uint32_t number) {
  int step = 0;
  if (is_stale) return;
  if (chunks[number - 1].state == ACTIVE) step = 1;
  if (number + 1 < CHUNKS && chunks[number + 1].state == ACTIVE) step = step == 0 ? -1 : 0;
  if (step == 0) return;
  for (uint32_t i = 1; i <= AHEAD; i++) {
    uint32_t next = number + step * i;
    if (next == 0 || next >= CHUNKS || chunks[next].state != REMOTE) return;
    if (unused.length <= RESERVED && !evict()) return;
    struct buffer *buffer = unused.first;
    take_out(&unused, buffer);
    fetch(&chunks[next], buffer, false, false);
    counts.ahead++;
  }
}

static void handle_fault(struct chunk *chunk, char *page, bool is_write, bool is_protection) {
  char *address = address_of(chunk);
  counts.faults++;
  if (chunk->state == EMPTY) {
    counts.zeroed++;
    chunk->dirty = true;
    link_active(chunk);
    if (chunk >= beyond) beyond = chunk + 1;
    /* Who writes gets pages, and who reads all there is of one page of zeros. */
    if (is_write) {
      userfault_copy(userfault, address, zeros, CHUNK, false);
    } else {
      userfault_zero(userfault, address, CHUNK);
    }
  } else if (chunk->state == IDLE) {
    counts.rescued++;
    bool is_sent = chunk->buffer->state != KEPT;
    map_from_buffer(chunk, is_write, chunk->dirty || is_sent);
    detach(chunk);
  } else if (chunk->state == REMOTE) {
    if (is_stale) die("%s was restarted, and has lost what this program had there", options.server);
    counts.fetched++;
    struct buffer *buffer = take_buffer(0);
    if (buffer == NULL) die("no buffer is left for a chunk"); /* they were reserved */
    fetch(chunk, buffer, true, is_write);
    fetch_ahead(number_of(chunk));
  } else if (chunk->state == FETCHING) {
    chunk->wanted = true;
    chunk->dirty |= is_write;
  } else if (is_protection) {
    chunk->dirty = true;
    chunk->trust = TRUST;
    userfault_protect(userfault, address, CHUNK, false);
  } else {
    /* It has come since, unless the program has done away with it: then it is zeros. */
    if (userfault_zero(userfault, page, page_size)) {
      chunk->dirty = true;
      userfault_protect(userfault, address, CHUNK, false);
    }
    userfault_wake(userfault, address, CHUNK);
  }
}

static void discard(struct span span) {
  if (span.start >= span.end) return;
  struct chunk *chunk = &chunks[(span.start - range_start) / CHUNK];
  for (; address_of(chunk) < span.end; chunk++) {
    if (chunk->state == EMPTY) continue;
    if (chunk->state == ACTIVE) unlink_active(chunk);
    if (chunk->buffer != NULL) detach(chunk);
    give_up(chunk->home);
    *chunk = (struct chunk){.state = EMPTY};
  }
  madvise(span.start, span.end - span.start, MADV_DONTNEED);
}

/* --- The thread ---------------------------------------------------------------------------------------- */

/* Lets everything that is under way end, and gives every home one owner more. */
static void share(void) {
  while (in_flight > 0) complete(mallocd_complete(heap, -1));
  for (struct chunk *chunk = chunks; chunk < beyond; chunk++) {
    if (chunk->home != 0) __atomic_add_fetch(owners_of(chunk->home), 1, __ATOMIC_ACQ_REL);
  }
}

/* Somebody touches the bell. Whom a signal has interrupted does so twice: the second time nothing is asked. */
static void answer(void) {
  int what = __atomic_load_n(&request, __ATOMIC_ACQUIRE);
  if (what == DISCARD) discard(requested);
  if (what == PARK) {
    share();
    __atomic_store_n(&state, PARKED, __ATOMIC_RELEASE);
  }
  __atomic_store_n(&request, NOTHING, __ATOMIC_RELEASE);
  if (!userfault_zero(userfault, range_start, page_size)) userfault_wake(userfault, range_start, page_size);
  if (what == PARK) wait_while(PARKED);
}

static void handle_event(const struct uffd_msg *event) {
  if (event->event != UFFD_EVENT_PAGEFAULT) return;
  char *page = (char *)(uintptr_t)(event->arg.pagefault.address & -page_size);
  struct chunk *chunk = &chunks[(page - range_start) / CHUNK];
  uint64_t flags = event->arg.pagefault.flags;
  if (chunk == chunks) return answer();
  handle_fault(chunk, page, flags & UFFD_PAGEFAULT_FLAG_WRITE, flags & UFFD_PAGEFAULT_FLAG_WP);
}

/* Frees homes that nobody has owned for a while; a few are kept for chunks to come. True if there are more. */
static bool give_back(void) {
  if (spare.count <= KEPT_HOMES || !can_write()) return false;
  uint32_t count = 0;
  for (; count < FREES && spare.count - count > KEPT_HOMES; count++) {
    frees[count] = mallocd_free_op(spares[spare.count - 1 - count]);
  }
  __atomic_store_n(&spare.freeing, count, __ATOMIC_RELEASE);
  mallocd_submit(heap, frees, count);
  int error = mallocd_wait(heap, frees, count);
  typeof(spare) rest = {.count = spare.count - count};
  __atomic_store(&spare, &rest, __ATOMIC_RELEASE);
  if (error != 0) be_refused(error);
  return spare.count > KEPT_HOMES;
}

_Noreturn static void serve(void) {
  for (;;) {
    struct uffd_msg events[EVENTS];
    struct mallocd_op *op;
    while (in_flight > 0 && (op = mallocd_complete(heap, 0)) != NULL) complete(op);
    ssize_t got = read(userfault, events, sizeof events);
    if (got < 0 && errno != EAGAIN && errno != EINTR) die("cannot read faults: %s", strerror(errno));
    for (ssize_t i = 0; i < got / (ssize_t)sizeof *events; i++) handle_event(&events[i]);
    if (active > most_active) most_active = chunks_here - buffer_count; /* the rest is buffers from now on */
    while (active > most_active && make_idle()) continue;
    clean(buffer_count / 2);
    if (give_back() || got > 0) continue;
    struct pollfd polls[] = {{.fd = userfault, .events = POLLIN}, {.fd = mallocd_fd(heap), .events = POLLIN}};
    poll(polls, 2, in_flight > 0 ? SLICE : -1);
  }
}

/* Gives this thread descriptors of its own, and closes what it has of the program's, but for the device. */
static bool have_own_descriptors(void) {
  if (syscall(SYS_unshare, CLONE_FILES) < 0) return false;
  unsigned first = 0;
  if (userfault_is_device(options.device)) {
    if (options.device > 0) syscall(SYS_close_range, 0, options.device - 1, 0);
    first = options.device + 1;
  }
  if (syscall(SYS_close_range, first, ~0u, 0) < 0) return false;
  /* Nothing of ours is where libraries print. */
  int fd;
  while ((fd = open("/dev/null", O_RDWR)) >= 0 && fd < STDERR_FILENO) continue;
  return fd >= STDERR_FILENO;
}

static bool make_tables(void) {
  if (!range_make()) return false;
  chunks_here = options.local / CHUNK;
  buffer_count = chunks_here / BUFFERS > LEAST_BUFFERS ? chunks_here / BUFFERS : LEAST_BUFFERS;
  most_active = chunks_here;
  chunks = map(CHUNKS * sizeof *chunks, MAP_PRIVATE);
  spares = map(CHUNKS * sizeof *spares, MAP_PRIVATE);
  buffers = map(buffer_count * sizeof *buffers, MAP_PRIVATE);
  uint8_t *data = map(buffer_count * CHUNK, MAP_PRIVATE);
  owners = map(daemon_known.size / CHUNK * sizeof *owners + sizeof *owners, MAP_SHARED);
  if (chunks == NULL || spares == NULL || buffers == NULL || data == NULL || owners == NULL) return false;
  for (size_t i = 0; i < buffer_count; i++) {
    buffers[i].data = data + i * CHUNK;
    make_unused(&buffers[i]);
  }
  beyond = chunks;
  madvise(range_start, RANGE, MADV_NOHUGEPAGE);
  return true;
}

/* Datagrams may be shorter than those of the parent's client, and so a chunk have more pieces. */
static bool make_ops(void) {
  piece = mallocd_largest(heap);
  pieces = (CHUNK + piece - 1) / piece;
  piece = (CHUNK + pieces - 1) / pieces;
  struct mallocd_op *ops = map(buffer_count * pieces * sizeof *ops, MAP_PRIVATE);
  for (size_t i = 0; ops != NULL && i < buffer_count; i++) buffers[i].ops = ops + i * pieces;
  return ops != NULL;
}

/* --- The end ------------------------------------------------------------------------------------------- */

static void write_counts(int stats) {
  char line[512];
  int length = snprintf(
      line, sizeof line,
      "pid=%d program=%s blocks=%lu refused=%lu faults=%lu zeroed=%lu rescued=%lu fetched=%lu ahead=%lu "
      "evicted=%lu written=%lu\n",
      process, program_invocation_short_name, counts.blocks, counts.refused, counts.faults, counts.zeroed,
      counts.rescued, counts.fetched, counts.ahead, counts.evicted, counts.written);
  if (write(stats, line, length) < 0) { /* nobody is left to be told */
  }
}

/*
 * A malloc or a free that was under way when the process ended may have been carried out or not. It is sent again as
 * it was, from the same socket and with the same tag: then it is carried out once, and answered as it was, or now.
 * The pointer that a malloc has given, or 0.
 */
static uint64_t settle(int socket, const struct mallocd_op *op) {
  if (op->tries == 0) return 0; /* it was not sent */
  if (op->result != -EINPROGRESS) return op->result == 0 ? op->value : 0;
  enum { TAGGED = 0x01, SESSION = 0x02, REPLY = 0x80, TRIES = 8, FIRST_WAIT = 50 };
  uint64_t asked[] = {
      htobe64((uint64_t)op->tag << 32 | (TAGGED | SESSION) << 8 | op->method),
      htobe64(daemon_known.epoch),
      0, /* no token: the reply is short */
      htobe64(op->fields[0]),
  };
  for (int i = 0; i < TRIES; i++) {
    struct pollfd poller = {.fd = socket, .events = POLLIN};
    send(socket, asked, sizeof asked, MSG_NOSIGNAL);
    while (poll(&poller, 1, FIRST_WAIT << i / 2) > 0) {
      uint64_t said[8];
      ssize_t length = recv(socket, said, sizeof said, MSG_DONTWAIT);
      if (length < 16 || be64toh(said[0]) >> 32 != op->tag) continue;
      return length >= 24 && (be64toh(said[0]) >> 16 & 0xffff) == 0 ? be64toh(said[2]) : 0;
    }
  }
  return 0;
}

/* A home that only the ended process knows of, or its relatives, too. True if it has no other owner: it is to be freed. */
static bool was_last(uint64_t home) {
  return home != 0 && __atomic_sub_fetch(owners_of(home), 1, __ATOMIC_ACQ_REL) == 0;
}

/* What is done at the process's end, by the reaper, in what was its memory: at whatever point the pager was. */
static void bequeath(int stats, int socket) {
  if (stats >= 0) write_counts(stats);
  struct mallocd *own;
  struct mallocd_options patient = {.timeout = options.timeout};
  if (is_stale || mallocd_open(&own, options.server, &patient) != 0) return;
  if (mallocd_known(own).epoch != daemon_known.epoch) return;
  static struct mallocd_op last[FREES];
  uint32_t count = 0, number = spare.count;
  for (uint32_t i = 0; i < spare.freeing; i++) {
    if (frees[i].tries == 0) break;
    settle(socket, &frees[i]);
    number--;
  }
  struct chunk *chunk = chunks;
  struct buffer *buffer = buffers;
  for (;;) {
    uint64_t home = 0;
    if (number > 0) {
      home = spares[--number];
      __atomic_store_n(owners_of(home), 0, __ATOMIC_RELAXED);
    } else if (buffer < buffers + buffer_count) {
      if (buffer->state == HOMING && buffer->pending > 0) home = settle(socket, &buffer->ops[0]);
      /* The pager may have come to give it to a chunk. */
      if (home != 0 && __atomic_load_n(owners_of(home), __ATOMIC_ACQUIRE) != 0) home = 0;
      if (home == 0 && !was_last(home = buffer->home)) home = 0;
      buffer++;
    } else if (chunk < beyond) {
      if (!was_last(home = chunk->home)) home = 0;
      chunk++;
    }
    if (home != 0) last[count++] = mallocd_free_op(home);
    bool done = chunk == beyond && buffer == buffers + buffer_count && number == 0;
    if (count == FREES || done) {
      mallocd_submit(own, last, count);
      mallocd_wait(own, last, count);
      count = 0;
    }
    if (done) return;
  }
}

/* --- The thread's start -------------------------------------------------------------------------------- */

/* The daemon must be what it was when it was asked first: else what a forked process has there is lost. */
static void recognize(void) {
  struct mallocd_hello hello = mallocd_known(heap);
  if (hello.epoch != daemon_known.epoch) is_stale = true;
}

static void *be_pager(void *unused_argument) {
  (void)unused_argument;
  const char *why = NULL, *hint = NULL;
  prctl(PR_SET_NAME, "mallocd-pager");
  process = getpid();
  if (!have_own_descriptors()) why = strerror(errno);
  if (heap != NULL) mallocd_close(heap); /* the parent's, whose socket is not here */
  heap = NULL;
  if (why == NULL && (userfault = userfault_open(options.device, &why, &hint)) >= 0) {
    int error = mallocd_open(&heap, options.server, &(struct mallocd_options){.timeout = options.timeout});
    if (error != 0) {
      why = strerror(-error);
    } else if (!make_ops() || !userfault_register(userfault, range_start, RANGE) || !reaper_start(bequeath, mallocd_fd(heap))) {
      why = strerror(errno);
    }
  }
  if (why != NULL) {
    say("there is no pager for %s: %s", program_invocation_short_name, why);
    change_to(FAILED);
    return NULL;
  }
  recognize();
  /* Registering has lifted the protection that the parent had. */
  for (uint32_t i = oldest; i != 0; i = chunks[i].next) {
    if (!chunks[i].dirty) userfault_protect(userfault, address_of(&chunks[i]), CHUNK, true);
  }
  madvise(range_start, RANGE, MADV_DONTFORK);
  change_to(READY);
  serve();
}

static bool start_thread(void) {
  pthread_attr_t attributes;
  pthread_t thread;
  sigset_t all, before;
  sigfillset(&all);
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, STACK);
  __atomic_store_n(&state, STARTING, __ATOMIC_RELEASE);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  int error = pthread_create(&thread, &attributes, be_pager, NULL);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (error != 0) {
    say("there is no thread for the pager: %s", strerror(error));
    return false;
  }
  wait_while(STARTING);
  return __atomic_load_n(&state, __ATOMIC_ACQUIRE) == READY;
}

/* --- For other threads --------------------------------------------------------------------------------- */

/* Touches the bell, a page of the range that is not there until the pager has done what it is asked. */
static void ask(int what, struct span span) {
  requested = span;
  __atomic_store_n(&request, what, __ATOMIC_RELEASE);
  do {
    madvise(range_start, page_size, MADV_DONTNEED);
    (void)*(volatile char *)range_start;
  } while (__atomic_load_n(&request, __ATOMIC_ACQUIRE) != NOTHING);
}

const char *pager_probe(const char **hint) {
  const char *why;
  int fd = userfault_open(options.device, &why, hint);
  if (fd < 0) return why;
  close(fd);
  /* A daemon that is not there is known at once on loopback; else it has as long as any request. */
  *hint = "start it, or name another: MALLOCD_SERVER=HOST:PORT; MALLOCD_FALLBACK=1 runs the program with plain malloc";
  static char message[256];
  struct mallocd *client;
  int error = 0;
  for (int waited = 0; waited < options.timeout; waited += PROBE) {
    int timeout = options.timeout - waited < PROBE ? options.timeout - waited : PROBE;
    error = mallocd_open(&client, options.server, &(struct mallocd_options){.timeout = timeout});
    if (error != -ETIMEDOUT) break;
  }
  if (error == 0) {
    daemon_known = mallocd_known(client);
    mallocd_close(client);
    if (daemon_known.version > 1) return NULL;
    *hint = "start a newer one; MALLOCD_FALLBACK=1 runs the program with plain malloc";
    return "the mallocd there is too old: nobody could tell if it was restarted";
  }
  snprintf(message, sizeof message, "no mallocd at %s: %s", options.server, strerror(-error));
  return message;
}

bool pager_start(void) {
  page_size = sysconf(_SC_PAGESIZE);
  if (!make_tables()) {
    say("there are no addresses for blocks of the daemon's: %s", strerror(errno));
    return false;
  }
  return running = start_thread();
}

bool pager_accepts(void) {
  bool accepts = running && !is_stale && now_ns() >= __atomic_load_n(&refused_until, __ATOMIC_RELAXED);
  if (!accepts) counts.refused++;
  return accepts;
}

bool pager_is_untouched(const char *address) {
  return __atomic_load_n(&chunks[(address - range_start) / CHUNK].state, __ATOMIC_ACQUIRE) == EMPTY;
}

void pager_discard(struct span free, struct span freed) {
  uint64_t start = freed.start - range_start, end = freed.end - range_start;
  uint64_t first = free.start - range_start, last = free.end - range_start;
  start = start / CHUNK * CHUNK;
  end = (end + CHUNK - 1) / CHUNK * CHUNK;
  first = (first + CHUNK - 1) / CHUNK * CHUNK;
  last = last / CHUNK * CHUNK;
  struct span span = {range_start + (start > first ? start : first), range_start + (end < last ? end : last)};
  while (span.start < span.end && pager_is_untouched(span.start)) span.start += CHUNK;
  if (span.start >= span.end) return;
  if (running) return ask(DISCARD, span);
  discard(span);
}

/*
 * The program may be on a stack of its own making, in the range: what fork(2) needs of it has to be there while the
 * pager is parked.
 */
static void touch_stack(void) {
  char here;
  for (int i = 0; i < STACK_PAGES; i++) {
    char *page = &here - i * page_size;
    if (range_has(page)) (void)*(volatile char *)page;
  }
}

void pager_before_fork(void) {
  if (!running) return;
  touch_stack();
  ask(PARK, (struct span){0});
  madvise(range_start, RANGE, MADV_DOFORK);
}

void pager_after_fork(void) {
  if (!running) return;
  madvise(range_start, RANGE, MADV_DONTFORK);
  change_to(READY);
}

void pager_in_child(void) {
  if (!running) return;
  counts = (struct counts){0};
  spare = (typeof(spare)){0};
  userfault = -1;
  running = start_thread();
  if (running) return;
  /* All that is here is here without a pager, too. */
  for (struct chunk *chunk = chunks; chunk < beyond; chunk++) {
    if (chunk->state == REMOTE) die("a forked process cannot go on without a pager");
    if (chunk->state == IDLE) memcpy(address_of(chunk), chunk->buffer->data, CHUNK);
    if (chunk->state == IDLE) detach(chunk), link_active(chunk);
    chunk->home = 0;
  }
}
