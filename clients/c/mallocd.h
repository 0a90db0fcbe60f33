/*
 * mallocd.h: a client of mallocd in C11, for glibc. It speaks the tagged protocol of docs/protocol.md.
 *
 *     struct mallocd *heap;
 *     uint64_t pointer;
 *     int error = mallocd_open(&heap, "127.0.0.1:8081", NULL);
 *     if (error == 0) error = mallocd_malloc(heap, 6, &pointer);
 *     if (error == 0) error = mallocd_write(heap, pointer, "hello", 6);
 *     if (error != 0) fprintf(stderr, "mallocd: %s\n", strerror(-error));
 *
 * Functions return 0, or an error number of errno.h, negated; errno itself may change and means nothing.
 * A refusal of the daemon is its status, negated: -ENOMEM, -EFAULT, -EINVAL, -EACCES and so on. No reply
 * within the timeout is -ETIMEDOUT, or -ECONNREFUSED if the host says that nobody listens there; then
 * nobody knows whether the request was carried out.
 *
 * -ESTALE means that the daemon was restarted, and its heap is another one: nothing was done. All pointers are
 * of no use any more, whichever operation it was that found out. Forget them, then call mallocd_renew(); until
 * then whatever has a pointer, or is to give one, is refused with -ESTALE. A daemon of version 1 of the protocol
 * can't tell: compare the epochs of mallocd_hello() and mallocd_known() after requests went unanswered.
 *
 * Every request that gets no reply is sent again, with the same tag, first after 50 to 75 ms and then
 * after twice as long each time, up to 1 to 1.5 s: however often it was sent, it is carried out at most once.
 * What is refused for now, as being too much work at once or for want of a token, is sent again by itself.
 *
 * Any number of threads may use one client. It has one socket and one lock, and whichever of its threads
 * waits receives for all; threads that have much to do are better off with a client each.
 *
 * No function calls malloc(3) or uses stdio, and none but mallocd_open maps memory: a malloc may be made
 * of this, or a pager. None is async-signal-safe. After fork(2) a child must not use the client of its
 * parent, but close it and open one of its own: the socket is shared, and a reply goes to either.
 */
#ifndef MALLOCD_H
#define MALLOCD_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#define MALLOCD_DEFAULT_SERVER "127.0.0.1:8081"

/* A later repeat of a request might be carried out again: the daemon has forgotten the first one. */
#define MALLOCD_MAX_TIMEOUT 50000

/* A client: a socket, and what is on its way. */
struct mallocd;

/* What may be left 0, which stands for the default. */
struct mallocd_options {
  int timeout;     /* ms that a request may take from when it is first sent; default 10,000 */
  size_t datagram; /* bytes of the longest datagram; default 65,507 to loopback addresses, else 1,400 */
  size_t window;   /* bytes on their way at most, of requests and replies; default 1 MiB */
};

/* What a daemon says about itself. */
struct mallocd_hello {
  uint64_t epoch; /* random at the daemon's start: when it changes, all pointers are gone */
  uint64_t base;  /* the first address of the heap */
  uint64_t size;  /* bytes of the heap */
  uint64_t largest_datagram;
  uint64_t version; /* of the tagged protocol: 1, or 2, which has sessions */
  uint64_t share;   /* requests that it can remember for this client; 0 if it did not say */
};

/*
 * Opens a client of the daemon at `server`, HOST:PORT, where HOST is an IPv4 address, an IPv6 address in
 * brackets or `localhost`; NULL is MALLOCD_DEFAULT_SERVER. Other names are not looked up, as that would
 * allocate. The daemon is asked for its hello, which needs it to be there.
 *
 * -EINVAL for a server or an option that makes no sense, -ETIMEDOUT or -ECONNREFUSED if no reply came
 * within the timeout, -EPROTO if the reply is none of version 1 or 2, and what mmap(2), socket(2) and
 * connect(2) say. *client is set if 0 is returned, else it is NULL.
 */
int mallocd_open(struct mallocd **client, const char *server, const struct mallocd_options *options);

/* Closes a client that no thread uses any more, and nothing is under way of. What was allocated stays. */
void mallocd_close(struct mallocd *client);

/* What the daemon said about itself when the client was opened, or renewed. Nothing is asked. */
struct mallocd_hello mallocd_known(struct mallocd *client);

/*
 * Takes the daemon for what it is now: asks for its hello, and keeps it. To be called by who was told -ESTALE,
 * and has forgotten all pointers of the daemon's earlier life. If the epoch is another one, what is under way in
 * any thread completes with -ESTALE: none of it is sent in the new epoch.
 */
int mallocd_renew(struct mallocd *client);

/* Bytes that any one operation can read or write; some can a few more. */
size_t mallocd_largest(const struct mallocd *client);

/*
 * --- Blocking calls ---------------------------------------------------------------------------------
 */

/* Asks the daemon for its hello, now; nothing else changes. A round trip that needs no pointer. */
int mallocd_hello(struct mallocd *client, struct mallocd_hello *hello);

/* Allocates at least `length` bytes, all 0. -ENOMEM if there is no free block of that length. */
int mallocd_malloc(struct mallocd *client, uint64_t length, uint64_t *pointer);

/* Ends an allocation. NULL, 0, is welcome. -EINVAL or -EFAULT if there is none at `pointer`. */
int mallocd_free(struct mallocd *client, uint64_t pointer);

/*
 * Makes the allocation at `pointer` one of at least `length` bytes, as realloc(3) does; its address may
 * change, and *moved is the new one. With pointer 0 it allocates; with length 0 it frees, and *moved is 0.
 */
int mallocd_realloc(struct mallocd *client, uint64_t pointer, uint64_t length, uint64_t *moved);

/*
 * Read and write `length` bytes at `pointer`. What is longer than mallocd_largest() goes in pieces, several
 * at a time and in no order: other clients may see some before others, and if an error is returned, some
 * may have been read or written.
 */
int mallocd_read(struct mallocd *client, uint64_t pointer, void *data, size_t length);
int mallocd_write(struct mallocd *client, uint64_t pointer, const void *data, size_t length);

/*
 * If the 8 bytes at `pointer`, big-endian, are `expected`, makes them `desired`. *old is what they were:
 * they were replaced if, and only if, that equals `expected`. `pointer` is a multiple of 8.
 */
int mallocd_cas(struct mallocd *client, uint64_t pointer, uint64_t expected, uint64_t desired,
                uint64_t *old);

/* Adds `delta`, modulo 2^64, to the 8 bytes at `pointer`; *old is what they were before. */
int mallocd_add(struct mallocd *client, uint64_t pointer, uint64_t delta, uint64_t *old);

/*
 * --- Asynchronous calls -----------------------------------------------------------------------------
 *
 * An operation belongs to the caller, who keeps it and its data in place, and unchanged, until it has
 * completed; it needs no clean-up, and may then be used again. As many as one likes can be submitted at
 * once: what the window has no room for waits its turn.
 *
 *     struct mallocd_op ops[2] = {mallocd_write_op(pointer, data, 512), mallocd_read_op(other, block, 512)};
 *     mallocd_submit(heap, ops, 2);
 *     ...
 *     int error = mallocd_wait(heap, ops, 2);
 *
 * Operations that are under way at the same time take effect in any order, in one submit, too.
 */

/* The opcodes of the protocol. */
enum mallocd_method {
  MALLOCD_MALLOC = 0,
  MALLOCD_FREE = 1,
  MALLOCD_READ = 2,
  MALLOCD_WRITE = 3,
  MALLOCD_REALLOC = 4,
  MALLOCD_CAS = 5,
  MALLOCD_ADD = 6,
  MALLOCD_HELLO = 7,
};

struct mallocd_op {
  enum mallocd_method method;
  int result;         /* -EINPROGRESS until it has completed, then 0 or an error, negated */
  uint64_t fields[3]; /* of the request, as the protocol has them */
  union {
    void *into;       /* of a read: `fields[1]` bytes; of a hello: a struct mallocd_hello */
    const void *from; /* of a write */
  } data;
  uint64_t value; /* the pointer of a malloc or realloc, the old value of a cas or add */
  void *user;     /* the caller's */

  /* The rest is the client's own. */
  struct mallocd_op *next, *previous;
  int64_t sent, due;
  size_t cost;
  uint32_t tag;
  uint8_t place, tries, claimed, refused, begins;
};

static inline struct mallocd_op mallocd_malloc_op(uint64_t length) {
  return (struct mallocd_op){.method = MALLOCD_MALLOC, .fields = {length}};
}
static inline struct mallocd_op mallocd_free_op(uint64_t pointer) {
  return (struct mallocd_op){.method = MALLOCD_FREE, .fields = {pointer}};
}
static inline struct mallocd_op mallocd_read_op(uint64_t pointer, void *into, size_t length) {
  return (struct mallocd_op){
      .method = MALLOCD_READ, .fields = {pointer, length}, .data = {.into = into}};
}
static inline struct mallocd_op mallocd_write_op(uint64_t pointer, const void *from, size_t length) {
  return (struct mallocd_op){
      .method = MALLOCD_WRITE, .fields = {pointer, length}, .data = {.from = from}};
}
static inline struct mallocd_op mallocd_realloc_op(uint64_t pointer, uint64_t length) {
  return (struct mallocd_op){.method = MALLOCD_REALLOC, .fields = {pointer, length}};
}
static inline struct mallocd_op mallocd_cas_op(uint64_t pointer, uint64_t expected,
                                               uint64_t desired) {
  return (struct mallocd_op){.method = MALLOCD_CAS, .fields = {pointer, expected, desired}};
}
static inline struct mallocd_op mallocd_add_op(uint64_t pointer, uint64_t delta) {
  return (struct mallocd_op){.method = MALLOCD_ADD, .fields = {pointer, delta}};
}
static inline struct mallocd_op mallocd_hello_op(struct mallocd_hello *hello) {
  return (struct mallocd_op){.method = MALLOCD_HELLO, .data = {.into = hello}};
}

/*
 * Sets off `count` operations, and sends what the window has room for: what is submitted together goes
 * in one datagram, as far as it fits. Does not wait. A read or a write that fits into no datagram completes
 * with -EMSGSIZE.
 */
void mallocd_submit(struct mallocd *client, struct mallocd_op *ops, size_t count);

/*
 * True once an operation has completed, in whichever thread; nothing is received for its sake. It may be
 * used again when mallocd_wait() or mallocd_complete() has returned it, too.
 */
static inline int mallocd_done(const struct mallocd_op *op) {
  return __atomic_load_n(&op->result, __ATOMIC_ACQUIRE) != -EINPROGRESS;
}

/* Waits until `count` operations have completed. 0, or the result of the first that is not 0. */
int mallocd_wait(struct mallocd *client, struct mallocd_op *ops, size_t count);

/*
 * An operation that has completed and that nobody waits for, once for each; NULL if none does within
 * `timeout` ms, or none is under way. A timeout of 0 does what can be done without waiting, -1 waits as
 * long as it takes. Replies are received and requests sent again in this function and in mallocd_wait()
 * only: with operations under way, call one of them when mallocd_fd() is readable, and every 50 ms.
 */
struct mallocd_op *mallocd_complete(struct mallocd *client, int timeout);

/* The socket, to poll(2) for POLLIN; for nothing else. */
int mallocd_fd(const struct mallocd *client);

#endif
