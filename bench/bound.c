/*
 * The bound that the benchmarks compare the daemon with: the classic wire format (docs/protocol.md) in
 * the least C that answers it, with recvmmsg and sendmmsg and without an allocator. Every malloc gets
 * the same pointer; reads and writes go to one static array, within its bounds.
 *
 *     cc -O2 -o bound bench/bound.c && ./bound [PORT]
 *
 * PORT 0, the default, is any free port of 127.0.0.1; the port that it got is printed.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64, MAX_DATAGRAM = 65507, FIELD = 8 };
enum { MALLOC = 0, FREE = 1, READ = 2, WRITE = 3 };

#define HEAP_BASE UINT64_C(0xc420000000)
#define HEAP_SIZE UINT64_C(0x1000000)
static const int RECEIVE_BUFFER = 4 * 1024 * 1024;

static unsigned char heap[HEAP_SIZE];
static unsigned char requests[BATCH][MAX_DATAGRAM];
static unsigned char replies[BATCH][MAX_DATAGRAM];

static uint64_t field(const unsigned char *request, int i) {
  uint64_t value;
  memcpy(&value, request + FIELD * i, FIELD);
  return be64toh(value);
}

/* The bytes of the heap that a request names, or NULL if they are not all inside it. */
static unsigned char *span(uint64_t pointer, uint64_t length) {
  uint64_t offset = pointer - HEAP_BASE; /* wraps to a huge one below the base */
  return offset <= HEAP_SIZE && length <= HEAP_SIZE - offset ? heap + offset : NULL;
}

/* The length of the reply to a request, or -1 if there is none. */
static int serve(const unsigned char *request, size_t length, unsigned char *reply) {
  if (length < 2 * FIELD) return -1;
  uint64_t opcode = field(request, 0);
  if (opcode == MALLOC) {
    uint64_t pointer = htobe64(HEAP_BASE);
    memcpy(reply, &pointer, FIELD);
    return FIELD;
  }
  if ((opcode != READ && opcode != WRITE) || length < 3 * FIELD) return -1;
  uint64_t bytes = field(request, 2);
  unsigned char *at = span(field(request, 1), bytes);
  if (opcode == READ) {
    if (at == NULL || bytes > MAX_DATAGRAM) return 0;
    memcpy(reply, at, bytes);
    return bytes;
  }
  if (at != NULL && bytes <= length - 3 * FIELD) memcpy(at, request + 3 * FIELD, bytes);
  return -1;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

int main(int argc, char **argv) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  if (fd < 0) die("socket");
  struct sockaddr_in address = {
    .sin_family = AF_INET,
    .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0),
    .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
  };
  socklen_t size = sizeof address;
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &RECEIVE_BUFFER, sizeof RECEIVE_BUFFER) != 0 &&
      setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &RECEIVE_BUFFER, sizeof RECEIVE_BUFFER) != 0) {
    die("setsockopt");
  }
  if (bind(fd, (struct sockaddr *)&address, size) != 0) die("bind");
  if (getsockname(fd, (struct sockaddr *)&address, &size) != 0) die("getsockname");
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);

  static struct mmsghdr in[BATCH], out[BATCH];
  static struct iovec from[BATCH], to[BATCH];
  static struct sockaddr_in peers[BATCH];
  for (int i = 0; i < BATCH; i++) {
    from[i] = (struct iovec){requests[i], MAX_DATAGRAM};
    in[i].msg_hdr = (struct msghdr){
      .msg_name = &peers[i], .msg_namelen = sizeof peers[i], .msg_iov = &from[i], .msg_iovlen = 1,
    };
  }
  for (;;) {
    int received = recvmmsg(fd, in, BATCH, MSG_WAITFORONE, NULL);
    if (received < 0 && errno != EINTR) die("recvmmsg");
    int count = 0;
    for (int i = 0; i < received; i++) {
      int length = serve(requests[i], in[i].msg_len, replies[count]);
      if (length < 0) continue;
      to[count] = (struct iovec){replies[count], length};
      out[count].msg_hdr = (struct msghdr){
        .msg_name = &peers[i], .msg_namelen = sizeof peers[i], .msg_iov = &to[count], .msg_iovlen = 1,
      };
      count++;
    }
    for (int sent = 0; sent < count;) {
      int n = sendmmsg(fd, out + sent, count - sent, 0);
      sent += n > 0 ? n : 1; /* the first one that cannot be sent is given up */
    }
  }
}
