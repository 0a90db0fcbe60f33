/*
 * mallocd.c: see mallocd.h.
 *
 * Operations are the callers' own, and stand in one of three lists: queued, until the window has room;
 * flying, until a reply comes or is overdue, which queues them again; done, until somebody collects them.
 * Of the threads that wait, one at a time receives, without the lock, and carries in what came, with it.
 * A datagram is no more than what was queued when it was sent: each request has its tag and its patience.
 *
 * What the first request of a datagram says of the session (docs/protocol.md, section 6.14) holds for all of
 * them: the epoch is that of the pointers, and changes in mallocd_renew() only, which gives up what is pending.
 */
#define _GNU_SOURCE
#include "mallocd.h"

#include <arpa/inet.h>
#include <endian.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { FIELD = 8, REPLY_HEAD = 2 * FIELD, SESSION_FIELDS = 2 * FIELD };
enum { TAGGED = 0x01, SESSION = 0x02, REPLY = 0x80 }; /* flags */
enum { VERSION = 2, PLAIN_HELLO = 5 * FIELD, SESSION_HELLO = 7 * FIELD, LONGEST_HELLO = 16 * FIELD };
enum { MAX_DATAGRAM = 65507, MIN_DATAGRAM = 512, OFF_LOOPBACK = 1400 };
/* Of a datagram, what the head of a request or a reply may take: more than it does now. */
enum { MARGIN = 64 };
/* Bytes that the kernel counts a datagram as, beside its own. */
enum { DATAGRAM_COST = 1024 };
enum { DEFAULT_TIMEOUT = 10000 };
enum { DEFAULT_WINDOW = 1 << 20, FIRST_WINDOW = 160 << 10, LEAST_WINDOW = 32 << 10 };
/* Requests that have a tag at a time, at most; the table is larger, so that a free place is found soon. */
enum { TAGS = 2048, TABLE = 2 * TAGS };
/* Parts into which a share of the duplicate request cache may fall: all who have proven nothing have 64 of them. */
enum { WORST_SPLIT = 65, MOST_LEAD = 1 << 30 };
enum { OPS_PER_DATAGRAM = 512, SEGMENTS = 128, BATCH = 8, PIECES = 16 };
/* Datagrams that the kernel may cut a message into: fewer than it can. */
enum { RUN = 16 };
/* Data of a write that is copied to its head; more is sent from where it lies. */
enum { SHORT_DATA = 512 };
/* A read of so much that is alone in its datagram is received where it is to go. */
enum { LONG_READ = 4096 };

#define MS INT64_C(1000000)
#define NEVER INT64_MAX
static const int64_t FIRST_WAIT = 50 * MS, LONGEST_WAIT = 1000 * MS;

enum { NOWHERE, QUEUED, FLYING, DONE, PLACES };

struct list {
  struct mallocd_op *first, *last;
};

struct mallocd {
  pthread_mutex_t lock;
  pthread_cond_t turned; /* the receiver has carried in what came, and may have gone */
  bool receiving;        /* one thread is in receive(), and owns `received` and where the reads in `landing` go */
  bool renewing;         /* no thread is to begin to */
  int fd, refusal;       /* refusal: -ECONNREFUSED since the host said so, else -ETIMEDOUT */
  int64_t timeout, next_due; /* no flying operation is due before */
  size_t datagram, window, largest_window, on_way;
  size_t tagged; /* operations in `table` */
  /* Tags before oldest_tag are answered, or given up. No tag is `lead` or more after the oldest one that
     is not: the daemon remembers twice as many replies, and then forgets one that may still be wanted. */
  uint32_t next_tag, oldest_tag, lead;
  uint64_t random;
  struct mallocd_hello hello;
  bool in_session; /* false with a daemon of version 1 */
  bool is_local;
  bool cuts; /* the kernel cuts messages into datagrams (UDP_SEGMENT) */
  uint64_t token;
  struct mallocd_op proof; /* a hello of our own, for a new token; all else waits for it */
  struct mallocd_hello proven;
  struct list lists[PLACES];
  struct mallocd_op *table[TABLE]; /* by tag: those that are flying, or queued again */
  uint8_t heads[MAX_DATAGRAM];     /* of the datagram that is made */
  struct mmsghdr messages[BATCH];
  struct iovec buffers[BATCH][3];
  struct mallocd_op *landing[BATCH]; /* the reads whose data the receiver expects there, and has the kernel put in place */
  uint8_t received[BATCH][MAX_DATAGRAM + 1];
};

/* --- Small things ------------------------------------------------------------------------------------ */

static const uint8_t FIELDS[] = {1, 1, 2, 2, 2, 3, 2, 0}; /* of a request, by method */
/* Bytes of a reply's body; a read's is its data, and a hello's may be less. */
static const uint8_t BODY[] = {FIELD, 0, 0, 0, FIELD, FIELD, FIELD, LONGEST_HELLO};
enum { METHODS = sizeof FIELDS };

static int64_t now_ns(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void put_field(uint8_t *at, uint64_t value) {
  value = htobe64(value);
  memcpy(at, &value, FIELD);
}

static uint64_t get_field(const uint8_t *at) {
  uint64_t value;
  memcpy(&value, at, FIELD);
  return be64toh(value);
}

static size_t request_length(const struct mallocd_op *op) {
  return FIELD * (1 + FIELDS[op->method]) + (op->method == MALLOCD_WRITE ? op->fields[1] : 0);
}

static size_t body_length(const struct mallocd_op *op) {
  return op->method == MALLOCD_READ ? op->fields[1] : BODY[op->method];
}

/* True if there is no datagram for the request, or for its reply. */
static bool is_too_long(const struct mallocd *client, const struct mallocd_op *op) {
  bool moves = op->method == MALLOCD_READ || op->method == MALLOCD_WRITE;
  size_t most = client->datagram - (client->in_session ? SESSION_FIELDS : 0);
  return moves && (op->fields[1] > most || request_length(op) > most ||
                   REPLY_HEAD + body_length(op) > client->datagram);
}

static void link_last(struct mallocd *client, struct mallocd_op *op, int place) {
  struct list *list = &client->lists[place];
  op->place = place;
  op->next = NULL;
  op->previous = list->last;
  *(list->last != NULL ? &list->last->next : &list->first) = op;
  list->last = op;
}

static void link_first(struct mallocd *client, struct mallocd_op *op, int place) {
  struct list *list = &client->lists[place];
  op->place = place;
  op->previous = NULL;
  op->next = list->first;
  *(list->first != NULL ? &list->first->previous : &list->last) = op;
  list->first = op;
}

static void unlink_op(struct mallocd *client, struct mallocd_op *op) {
  struct list *list = &client->lists[op->place];
  *(op->previous != NULL ? &op->previous->next : &list->first) = op->next;
  *(op->next != NULL ? &op->next->previous : &list->last) = op->previous;
  if (op->place == FLYING) client->on_way -= op->cost;
  if (client->lists[FLYING].first == NULL) client->next_due = NEVER;
  op->place = NOWHERE;
}

/* --- Life of an operation ---------------------------------------------------------------------------- */

/* Nothing of an operation that is waited for is touched after its result is set. */
static void finish(struct mallocd *client, struct mallocd_op *op, int result) {
  if (op->place != NOWHERE) unlink_op(client, op);
  if (op->tries > 0) {
    client->table[op->tag % TABLE] = NULL;
    client->tagged--;
  }
  if (!op->claimed) link_last(client, op, DONE);
  __atomic_store_n(&op->result, result, __ATOMIC_RELEASE);
}

/* Tags count up from a random number, and leave out those whose place in the table is taken. */
static void give_tag(struct mallocd *client, struct mallocd_op *op) {
  while (client->table[client->next_tag % TABLE] != NULL) client->next_tag++;
  op->tag = client->next_tag++;
  client->table[op->tag % TABLE] = op;
  client->tagged++;
}

/* False if a request more would make the daemon forget the oldest, which may have to be sent again. */
static bool may_tag(struct mallocd *client) {
  for (; client->oldest_tag != client->next_tag; client->oldest_tag++) {
    const struct mallocd_op *op = client->table[client->oldest_tag % TABLE];
    if (op != NULL && op->tag == client->oldest_tag) break;
  }
  return client->tagged < TAGS && client->next_tag - client->oldest_tag < client->lead;
}

/* True if its time is up; but what the kernel may be writing to stays the client's. */
static bool is_over(const struct mallocd *client, const struct mallocd_op *op, int64_t now) {
  for (int i = 0; i < BATCH && client->receiving; i++) {
    if (client->landing[i] == op) return false;
  }
  return now - op->sent >= client->timeout;
}

/* The result of an operation that is given up. */
static int reason(const struct mallocd *client, const struct mallocd_op *op) {
  return op->refused != 0 ? -op->refused : client->refusal;
}

/* Queues again what was refused for now: with EAGAIN, or, once, with EPERM, for want of a token. */
static bool try_again(struct mallocd *client, struct mallocd_op *op, int status) {
  bool unproven = status == EPERM && op->refused != EPERM && client->in_session;
  if (op->place != FLYING || op->method == MALLOCD_HELLO) return false;
  if (status != EAGAIN && !unproven) return false;
  unlink_op(client, op);
  link_first(client, op, QUEUED);
  op->refused = status;
  op->tries = 1;
  if (unproven && client->proof.place == NOWHERE) {
    client->proof = mallocd_hello_op(&client->proven);
    client->proof.claimed = true;
    link_first(client, &client->proof, QUEUED);
  }
  return true;
}

/* How long a reply is waited for: twice as long each time, and up to half as long again by chance. */
static int64_t patience(struct mallocd *client, int tries) {
  int64_t wait = tries < 5 ? FIRST_WAIT << tries : LONGEST_WAIT;
  if (wait > LONGEST_WAIT) wait = LONGEST_WAIT;
  client->random ^= client->random << 13; /* xorshift64 (Marsaglia 2003) */
  client->random ^= client->random >> 7;
  client->random ^= client->random << 17;
  return wait + client->random % (wait / 2);
}

/* Sends datagrams of one length. What cannot be sent, for whatever reason, is as good as lost, and sent again. */
static void send_message(struct mallocd *client, struct msghdr *message, size_t datagrams) {
  union {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(uint16_t))];
  } control;
  if (datagrams > 1) {
    uint16_t length = message->msg_iov->iov_len / datagrams;
    control.head = (struct cmsghdr){
        .cmsg_len = CMSG_LEN(sizeof length), .cmsg_level = SOL_UDP, .cmsg_type = UDP_SEGMENT};
    memcpy(CMSG_DATA(&control.head), &length, sizeof length);
    message->msg_control = &control;
    message->msg_controllen = sizeof control;
  }
  if (sendmsg(client->fd, message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return;
  if (errno == ECONNREFUSED) client->refusal = -ECONNREFUSED;
  if (errno == EIO || errno == EINVAL) client->cuts = false;
}

/*
 * Makes a datagram of what is queued, as far as it and the window have room; or several, if each is the request of
 * one long read: then all of them are of one length. False if nothing goes.
 */
static bool send_datagrams(struct mallocd *client, int64_t now) {
  struct iovec segments[SEGMENTS];
  size_t count = 0, used = 0, heads = 0, requests = 0, replies = 0, datagrams = 0;
  struct mallocd_op *op;
  while ((op = client->lists[QUEUED].first) != NULL) {
    if (op->tries > 0 && is_over(client, op, now)) {
      finish(client, op, reason(client, op));
      continue;
    }
    if (client->proof.place != NOWHERE && op != &client->proof) break;
    /* A hello tells all when it comes first. */
    if (count > 0 && client->in_session && op->method == MALLOCD_HELLO) break;
    size_t request = request_length(op), reply = REPLY_HEAD + body_length(op);
    size_t session = client->in_session ? SESSION_FIELDS : 0; /* in the first request of a datagram */
    bool goes_on = count > 0 && datagrams == 1 && requests + request <= client->datagram &&
                   replies + reply <= client->datagram;
    if (count > 0 && !goes_on) {
      bool is_like_all = used == 1 && count == 1 && session + request == requests && reply > LONG_READ;
      if (!is_like_all || !client->cuts || datagrams == RUN) break;
    }
    if (!goes_on) request += session;
    size_t cost = (request > reply ? request : reply) + (goes_on ? 0 : DATAGRAM_COST);
    if (client->on_way > 0 && client->on_way + cost > client->window) break;
    if (count == OPS_PER_DATAGRAM || used + 2 > SEGMENTS) break;
    if (op->tries == 0) {
      if (!may_tag(client)) break;
      give_tag(client, op);
      op->sent = now;
    }
    unlink_op(client, op);
    link_last(client, op, FLYING);
    op->due = now + patience(client, op->tries);
    if (op->tries < UINT8_MAX) op->tries++;
    op->cost = cost;
    op->begins = !goes_on;
    if (!goes_on) {
      count = requests = replies = 0;
      datagrams++;
    }
    client->on_way += cost;
    if (op->due < client->next_due) client->next_due = op->due;

    uint8_t *head = client->heads + heads;
    size_t length = FIELD, flags = TAGGED | (goes_on || !client->in_session ? 0 : SESSION);
    put_field(head, (uint64_t)op->tag << 32 | flags << 8 | op->method);
    if (flags & SESSION) {
      put_field(head + FIELD, client->hello.epoch);
      put_field(head + 2 * FIELD, client->token);
      length += session;
    }
    for (int i = 0; i < FIELDS[op->method]; i++, length += FIELD) put_field(head + length, op->fields[i]);
    size_t data = request - length;
    if (data > 0 && data <= SHORT_DATA) {
      memcpy(head + length, op->data.from, data);
      length += data;
      data = 0;
    }
    heads += length;
    bool is_next = used > 0 && (uint8_t *)segments[used - 1].iov_base + segments[used - 1].iov_len == head;
    if (is_next) {
      segments[used - 1].iov_len += length;
    } else {
      segments[used++] = (struct iovec){head, length};
    }
    if (data > 0) segments[used++] = (struct iovec){(void *)op->data.from, data};
    requests += request;
    replies += reply;
    count++;
  }
  if (count == 0) return false;
  struct msghdr message = {.msg_iov = segments, .msg_iovlen = used};
  send_message(client, &message, datagrams);
  return true;
}

/* Queues again what is overdue, before what was never sent, or gives it up. */
static void resend(struct mallocd *client, int64_t now) {
  bool lost = false;
  client->next_due = NEVER;
  for (struct mallocd_op *op = client->lists[FLYING].first, *next; op != NULL; op = next) {
    next = op->next;
    if (is_over(client, op, now)) {
      finish(client, op, reason(client, op));
    } else if (op->due <= now) {
      unlink_op(client, op);
      link_first(client, op, QUEUED);
      lost = true;
    } else if (op->due < client->next_due) {
      client->next_due = op->due;
    }
  }
  /* Where datagrams are lost, there were too many, as in TCP (RFC 5681): half as much will do. */
  if (lost && client->window / 2 >= LEAST_WINDOW) client->window /= 2;
}

static void carry_out(struct mallocd *client, int64_t now) {
  if (now >= client->next_due) resend(client, now);
  while (send_datagrams(client, now)) continue;
}

static void accept_hello(struct mallocd *client, struct mallocd_hello *hello, const uint8_t *body,
                         size_t length) {
  uint64_t *fields[] = {&hello->epoch, &hello->base, &hello->size, &hello->largest_datagram,
                        &hello->version};
  for (int i = 0; i < 5; i++) *fields[i] = get_field(body + FIELD * i);
  hello->share = 0;
  if (length < SESSION_HELLO || !client->in_session) return;
  client->token = get_field(body + PLAIN_HELLO);
  hello->share = get_field(body + PLAIN_HELLO + FIELD);
  /* On a network strangers may come, and then it is less. */
  uint64_t lead = client->is_local ? hello->share : hello->share / WORST_SPLIT;
  /* Half of them: what is done after a request are as many before it, which were lost at first, as behind it. */
  lead = (lead + 1) / 2;
  client->lead = lead < 1 ? 1 : lead < MOST_LEAD ? lead : MOST_LEAD;
}

/*
 * Completes the operations that a datagram answers; the data of `landed`, if it is not NULL, are in place. What it
 * says beside that is none of ours.
 */
static void accept_replies(struct mallocd *client, const uint8_t *reply, size_t length,
                           const struct mallocd_op *landed) {
  while (length >= REPLY_HEAD) {
    uint64_t word = get_field(reply), body = get_field(reply + FIELD);
    reply += REPLY_HEAD;
    length -= REPLY_HEAD;
    if (body > length || (word >> 8 & 0xff & ~SESSION) != (TAGGED | REPLY)) return;
    uint32_t tag = word >> 32;
    int status = word >> 16 & 0xffff;
    struct mallocd_op *op = client->table[tag % TABLE];
    if (op != NULL && op->tag == tag && op->method == (word & 0xff)) {
      client->refusal = -ETIMEDOUT;
      if (op->place == FLYING && op->tries == 1 && client->window < client->largest_window) {
        client->window += client->datagram * op->cost / client->window + 1;
      }
      bool is_hello = op->method == MALLOCD_HELLO;
      if (status == 0 && (is_hello ? body < PLAIN_HELLO : body != body_length(op))) {
        status = EBADMSG;
      } else if (status == 0 && is_hello) {
        accept_hello(client, op->data.into, reply, body);
      } else if (status == 0 && op->method == MALLOCD_READ) {
        if (body > 0 && op != landed) memcpy(op->data.into, reply, body);
      } else if (status == 0 && body == FIELD) {
        op->value = get_field(reply);
      }
      if (!try_again(client, op, status)) finish(client, op, -status);
    }
    reply += body;
    length -= body;
  }
}

/* --- Threads ----------------------------------------------------------------------------------------- */

/*
 * With the lock, before receive(): replies mostly come in the order of the requests. Where the next ones should be
 * long reads, the kernel is told to put their data where they are to go, and the rest around the gap that they leave.
 */
static void aim(struct mallocd *client) {
  struct mallocd_op *op = client->lists[FLYING].first;
  for (int i = 0; i < BATCH; i++) {
    struct mallocd_op *first = op;
    while (op != NULL && (op = op->next) != NULL && !op->begins) continue;
    bool is_alone = first != NULL && first->next == op;
    bool lands = is_alone && first->method == MALLOCD_READ && first->fields[1] >= LONG_READ;
    size_t gap = REPLY_HEAD + (lands ? first->fields[1] : 0);
    client->landing[i] = lands ? first : NULL;
    client->buffers[i][0] = (struct iovec){client->received[i], REPLY_HEAD};
    client->buffers[i][1] = (struct iovec){lands ? first->data.into : NULL, gap - REPLY_HEAD};
    client->buffers[i][2] = (struct iovec){client->received[i] + gap, sizeof client->received[i] - gap};
  }
}

/* With the lock: carries in what receive() got. What was taken for another's goes into its gap first. */
static void carry_in(struct mallocd *client, int count) {
  for (int i = 0; i < count; i++) {
    const struct mallocd_op *op = client->landing[i];
    uint8_t *reply = client->received[i];
    size_t length = client->messages[i].msg_len;
    if (op == NULL || length < REPLY_HEAD) continue;
    size_t data = length - REPLY_HEAD < op->fields[1] ? length - REPLY_HEAD : op->fields[1];
    if (get_field(reply) >> 32 == op->tag && get_field(reply + FIELD) == data) continue;
    memcpy(reply + REPLY_HEAD, op->data.into, data);
    client->landing[i] = NULL;
  }
  for (int i = 0; i < count; i++) {
    accept_replies(client, client->received[i], client->messages[i].msg_len, client->landing[i]);
  }
}

/*
 * Receives what is there, after waiting for it until `until` at most. The number of datagrams. The socket itself
 * waits for FIRST_WAIT, and so in one system call; poll does if it is to be shorter.
 */
static int receive(struct mallocd *client, int64_t now, int64_t until) {
  if (until - now < FIRST_WAIT) {
    int count = recvmmsg(client->fd, client->messages, BATCH, MSG_DONTWAIT, NULL);
    if (count > 0 || errno != EAGAIN) return count;
    int64_t wait = until > now ? until - now : 0;
    struct pollfd poll = {.fd = client->fd, .events = POLLIN};
    struct timespec time = {wait / 1000000000, wait % 1000000000};
    if (ppoll(&poll, 1, &time, NULL) <= 0) return 0;
  }
  return recvmmsg(client->fd, client->messages, BATCH, MSG_WAITFORONE, NULL);
}

/* With the lock: receives for all, or waits for who does; until something came, or until `until`. */
static void turn(struct mallocd *client, int64_t until) {
  int64_t now = now_ns();
  if (client->receiving || client->renewing) {
    struct timespec time = {until / 1000000000, until % 1000000000};
    if (until > now) pthread_cond_timedwait(&client->turned, &client->lock, &time);
    return;
  }
  carry_out(client, now);
  /* Others may submit what is due before all that there is now: no wait is longer than the first one. */
  int64_t due = now + FIRST_WAIT < client->next_due ? now + FIRST_WAIT : client->next_due;
  client->receiving = true;
  aim(client);
  pthread_mutex_unlock(&client->lock);
  int count = receive(client, now, due < until ? due : until), error = errno;
  pthread_mutex_lock(&client->lock);
  client->receiving = false;
  if (count < 0 && error == ECONNREFUSED) client->refusal = -ECONNREFUSED;
  carry_in(client, count);
  carry_out(client, now_ns());
  pthread_cond_broadcast(&client->turned);
}

static void submit(struct mallocd *client, struct mallocd_op *ops, size_t count, bool claimed) {
  for (size_t i = 0; i < count; i++) {
    struct mallocd_op *op = &ops[i];
    op->claimed = claimed;
    op->tries = op->refused = 0;
    op->place = NOWHERE;
    op->result = -EINPROGRESS;
    if ((unsigned)op->method >= METHODS) {
      finish(client, op, -EINVAL);
    } else if (is_too_long(client, op)) {
      finish(client, op, -EMSGSIZE);
    } else {
      link_last(client, op, QUEUED);
    }
  }
  carry_out(client, now_ns());
}

static int wait_for(struct mallocd *client, struct mallocd_op *ops, size_t count) {
  int result = 0;
  for (size_t i = 0; i < count; i++) {
    while (!mallocd_done(&ops[i])) turn(client, NEVER);
    if (result == 0) result = ops[i].result;
  }
  return result;
}

void mallocd_submit(struct mallocd *client, struct mallocd_op *ops, size_t count) {
  pthread_mutex_lock(&client->lock);
  submit(client, ops, count, false);
  pthread_mutex_unlock(&client->lock);
}

int mallocd_wait(struct mallocd *client, struct mallocd_op *ops, size_t count) {
  pthread_mutex_lock(&client->lock);
  for (size_t i = 0; i < count; i++) {
    if (ops[i].place == DONE) unlink_op(client, &ops[i]);
    ops[i].claimed = true;
  }
  int result = wait_for(client, ops, count);
  pthread_mutex_unlock(&client->lock);
  return result;
}

struct mallocd_op *mallocd_complete(struct mallocd *client, int timeout) {
  int64_t until = timeout < 0 ? NEVER : now_ns() + timeout * MS;
  struct mallocd_op *op;
  pthread_mutex_lock(&client->lock);
  for (bool last = false; (op = client->lists[DONE].first) == NULL && !last;) {
    if (client->lists[QUEUED].first == NULL && client->lists[FLYING].first == NULL) break;
    last = now_ns() >= until;
    turn(client, until);
  }
  if (op != NULL) unlink_op(client, op);
  pthread_mutex_unlock(&client->lock);
  return op;
}

/* --- Blocking calls ---------------------------------------------------------------------------------- */

static int call(struct mallocd *client, struct mallocd_op *ops, size_t count) {
  pthread_mutex_lock(&client->lock);
  submit(client, ops, count, true);
  int result = wait_for(client, ops, count);
  pthread_mutex_unlock(&client->lock);
  return result;
}

static int call_for_value(struct mallocd *client, struct mallocd_op op, uint64_t *value) {
  int result = call(client, &op, 1);
  if (result == 0) *value = op.value;
  return result;
}

int mallocd_hello(struct mallocd *client, struct mallocd_hello *hello) {
  struct mallocd_op op = mallocd_hello_op(hello);
  return call(client, &op, 1);
}

int mallocd_malloc(struct mallocd *client, uint64_t length, uint64_t *pointer) {
  return call_for_value(client, mallocd_malloc_op(length), pointer);
}

int mallocd_free(struct mallocd *client, uint64_t pointer) {
  struct mallocd_op op = mallocd_free_op(pointer);
  return call(client, &op, 1);
}

int mallocd_realloc(struct mallocd *client, uint64_t pointer, uint64_t length, uint64_t *moved) {
  return call_for_value(client, mallocd_realloc_op(pointer, length), moved);
}

int mallocd_cas(struct mallocd *client, uint64_t pointer, uint64_t expected, uint64_t desired,
                uint64_t *old) {
  return call_for_value(client, mallocd_cas_op(pointer, expected, desired), old);
}

int mallocd_add(struct mallocd *client, uint64_t pointer, uint64_t delta, uint64_t *old) {
  return call_for_value(client, mallocd_add_op(pointer, delta), old);
}

/*
 * In pieces of about the same length, PIECES at a time. An access of 0 bytes is one piece, too. All of them are
 * of one epoch: what is left when it ends is of no use to the next.
 */
static int move(struct mallocd *client, struct mallocd_op whole) {
  struct mallocd_op ops[PIECES];
  pthread_mutex_lock(&client->lock);
  uint64_t pointer = whole.fields[0], length = whole.fields[1], largest = mallocd_largest(client);
  uint64_t pieces = length / largest + (length % largest > 0), at = 0;
  uint64_t piece = pieces > 0 ? length / pieces + (length % pieces > 0) : 0;
  uint64_t epoch = client->hello.epoch;
  int result;
  do {
    size_t count = 0;
    do {
      ops[count] = whole;
      ops[count].fields[0] = pointer + at;
      ops[count].fields[1] = length - at < piece ? length - at : piece;
      if (whole.data.from != NULL) ops[count].data.from = (const uint8_t *)whole.data.from + at;
      at += ops[count++].fields[1];
    } while (at < length && count < PIECES);
    submit(client, ops, count, true);
    result = wait_for(client, ops, count);
    if (at < length && client->hello.epoch != epoch) result = -ESTALE;
  } while (result == 0 && at < length);
  pthread_mutex_unlock(&client->lock);
  return result;
}

int mallocd_read(struct mallocd *client, uint64_t pointer, void *data, size_t length) {
  return move(client, mallocd_read_op(pointer, data, length));
}

int mallocd_write(struct mallocd *client, uint64_t pointer, const void *data, size_t length) {
  return move(client, mallocd_write_op(pointer, data, length));
}

/* --- Life of a client -------------------------------------------------------------------------------- */

/* HOST:PORT as an address, and its length; 0 if it is none. */
static socklen_t parse_server(const char *server, struct sockaddr_storage *address) {
  struct sockaddr_in *v4 = (struct sockaddr_in *)address;
  struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
  char host[INET6_ADDRSTRLEN + 1 + IF_NAMESIZE], *end;
  const char *colon = strrchr(server, ':');
  if (colon == NULL || colon[1] < '0' || colon[1] > '9') return 0;
  unsigned long port = strtoul(colon + 1, &end, 10);
  bool bracketed = server[0] == '[' && colon > server && colon[-1] == ']';
  size_t length = colon - server - 2 * bracketed;
  if (*end != '\0' || port == 0 || port > UINT16_MAX || length >= sizeof host) return 0;
  memcpy(host, server + bracketed, length);
  host[length] = '\0';
  memset(address, 0, sizeof *address);
  if (!bracketed) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    const char *name = strcmp(host, "localhost") == 0 ? "127.0.0.1" : host;
    return inet_pton(AF_INET, name, &v4->sin_addr) == 1 ? sizeof *v4 : 0;
  }
  char *zone = strchr(host, '%');
  if (zone != NULL) {
    *zone++ = '\0';
    v6->sin6_scope_id = if_nametoindex(zone);
    if (v6->sin6_scope_id == 0) v6->sin6_scope_id = strtoul(zone, NULL, 10);
  }
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(port);
  return inet_pton(AF_INET6, host, &v6->sin6_addr) == 1 ? sizeof *v6 : 0;
}

static bool is_loopback(const struct sockaddr_storage *address) {
  const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
  const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
  if (address->ss_family == AF_INET) return ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
  return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr) ||
         (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) && v6->sin6_addr.s6_addr[12] == IN_LOOPBACKNET);
}

/* Makes the receive buffer large enough for the window, or the window small enough for what is granted. */
static void fit_window(struct mallocd *client) {
  int wanted = client->largest_window > INT32_MAX / 2 ? INT32_MAX / 2 : (int)client->largest_window;
  socklen_t size = sizeof wanted;
  /* Only a privileged process may exceed net.core.rmem_max. The kernel doubles what it is told. */
  if (setsockopt(client->fd, SOL_SOCKET, SO_RCVBUFFORCE, &wanted, size) < 0) {
    setsockopt(client->fd, SOL_SOCKET, SO_RCVBUF, &wanted, size);
  }
  if (setsockopt(client->fd, SOL_SOCKET, SO_SNDBUFFORCE, &wanted, size) < 0) {
    setsockopt(client->fd, SOL_SOCKET, SO_SNDBUF, &wanted, size);
  }
  getsockopt(client->fd, SOL_SOCKET, SO_RCVBUF, &wanted, &size);
  size_t granted = (size_t)wanted / 4 * 3;
  if (client->largest_window > granted) client->largest_window = granted;
  client->window = client->largest_window < FIRST_WINDOW ? client->largest_window : FIRST_WINDOW;
}

int mallocd_open(struct mallocd **result, const char *server, const struct mallocd_options *given) {
  struct mallocd_options options = given != NULL ? *given : (struct mallocd_options){0};
  struct sockaddr_storage address;
  *result = NULL;
  socklen_t size = parse_server(server != NULL ? server : MALLOCD_DEFAULT_SERVER, &address);
  if (options.timeout == 0) options.timeout = DEFAULT_TIMEOUT;
  if (options.datagram == 0) options.datagram = is_loopback(&address) ? MAX_DATAGRAM : OFF_LOOPBACK;
  if (options.window == 0) options.window = DEFAULT_WINDOW;
  if (size == 0 || options.timeout < 0 || options.timeout > MALLOCD_MAX_TIMEOUT ||
      options.datagram < MIN_DATAGRAM || options.datagram > MAX_DATAGRAM) {
    return -EINVAL;
  }

  struct mallocd *client = mmap(NULL, sizeof *client, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (client == MAP_FAILED) return -errno;
  client->timeout = options.timeout * MS;
  client->datagram = options.datagram;
  client->largest_window = options.window;
  client->next_due = NEVER;
  client->refusal = -ETIMEDOUT;
  client->lead = TAGS;
  client->is_local = is_loopback(&address);
  client->in_session = true;
  for (int i = 0; i < BATCH; i++) {
    client->messages[i].msg_hdr = (struct msghdr){.msg_iov = client->buffers[i], .msg_iovlen = 3};
  }
  pthread_mutex_init(&client->lock, NULL);
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&client->turned, &monotonic);

  int error = 0;
  client->fd = socket(address.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&address, size) < 0 ||
      getrandom(&client->random, sizeof client->random, 0) != sizeof client->random) {
    error = -errno;
  } else {
    struct timeval patience = {.tv_usec = FIRST_WAIT / 1000};
    setsockopt(client->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    /* Replies that the kernel joins are read as if they were of one datagram. */
    setsockopt(client->fd, SOL_UDP, UDP_GRO, &(int){1}, sizeof(int));
    client->cuts = setsockopt(client->fd, SOL_UDP, UDP_SEGMENT, &(int){0}, sizeof(int)) == 0;
    client->random |= 1;
    client->next_tag = client->oldest_tag = client->random >> 32;
    fit_window(client);
    error = mallocd_renew(client);
  }
  if (error != 0) {
    mallocd_close(client);
  } else {
    *result = client;
  }
  return error;
}

int mallocd_renew(struct mallocd *client) {
  struct mallocd_hello hello;
  int error = mallocd_hello(client, &hello);
  if (error == -EINVAL && client->hello.epoch == 0) { /* a daemon of version 1 knows no session */
    client->in_session = false;
    error = mallocd_hello(client, &hello);
  }
  if (error != 0) return error;
  if (hello.version < 1 || hello.version > VERSION || hello.largest_datagram < MIN_DATAGRAM) return -EPROTO;
  pthread_mutex_lock(&client->lock);
  client->renewing = true;
  while (client->receiving) pthread_cond_wait(&client->turned, &client->lock);
  for (int place = QUEUED; place <= FLYING && hello.epoch != client->hello.epoch; place++) {
    for (struct mallocd_op *op = client->lists[place].first, *next; op != NULL; op = next) {
      next = op->next;
      if (op->method != MALLOCD_HELLO) finish(client, op, -ESTALE);
    }
  }
  client->hello = hello;
  if (client->datagram > hello.largest_datagram) client->datagram = hello.largest_datagram;
  client->renewing = false;
  pthread_cond_broadcast(&client->turned);
  pthread_mutex_unlock(&client->lock);
  return 0;
}

void mallocd_close(struct mallocd *client) {
  if (client->fd >= 0) close(client->fd);
  munmap(client, sizeof *client);
}

struct mallocd_hello mallocd_known(struct mallocd *client) {
  pthread_mutex_lock(&client->lock);
  struct mallocd_hello hello = client->hello;
  pthread_mutex_unlock(&client->lock);
  return hello;
}

size_t mallocd_largest(const struct mallocd *client) {
  return client->datagram - MARGIN;
}

int mallocd_fd(const struct mallocd *client) {
  return client->fd;
}
