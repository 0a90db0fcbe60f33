/*
 * A load generator that shares nothing with `mallocd-client bench`, to check it by: classic reads of 64
 * bytes, due at fixed times of the monotonic clock, or with RATE 0 each as soon as the one before it is
 * answered. It never sleeps. Latency counts from when a read was due, in a log-linear histogram.
 *
 *     cc -O2 -o pace bench/compare/pace.c && ./pace PORT RATE MILLISECONDS
 *
 * It asks 127.0.0.1:PORT, which has to be the only one that answers and has to answer in order, and prints
 * a JSON object: requests, lost, wrong, and percentiles in microseconds.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { MALLOC = 0, FREE = 1, READ = 2, WRITE = 3 };
enum { LENGTH = 64, FIELD = 8 };
enum { MAX_IN_FLIGHT = 128 }; /* more would not fit into a default socket buffer */
#define SECOND UINT64_C(1000000000)
/* The first tenth of a second gets everybody going, and is not counted; the last waits for replies. */
#define WARM_UP (SECOND / 10)
#define PATIENCE (SECOND / 10)

/*
 * Each power of two has 2^PRECISION buckets, so that a value is known to one part in 2^PRECISION; below
 * 2^PRECISION each value has one. This is what HdrHistogram does.
 */
enum { PRECISION = 8, BUCKETS = (64 - PRECISION + 1) << PRECISION };
static uint64_t counts[BUCKETS];

static int bucket_of(uint64_t value) {
  if (value >> PRECISION == 0) return value;
  int shift = 63 - __builtin_clzll(value) - PRECISION;
  return ((shift + 1) << PRECISION) + (int)(value >> shift) - (1 << PRECISION);
}

/* The middle of what falls into a bucket. */
static double value_of(int bucket) {
  int shift = (bucket >> PRECISION) - 1;
  if (shift < 0) return bucket;
  uint64_t low = (uint64_t)((1 << PRECISION) + (bucket & ((1 << PRECISION) - 1))) << shift;
  return low + ((UINT64_C(1) << shift) - 1) / 2.0;
}

static double percentile(double part, uint64_t total) {
  uint64_t rank = part * total, seen = 0;
  for (int bucket = 0; bucket < BUCKETS; bucket++) {
    seen += counts[bucket];
    if (seen > rank || (seen == total && seen > 0)) return value_of(bucket) / 1000;
  }
  return 0;
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * SECOND + time.tv_nsec;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void put(unsigned char *request, int field, uint64_t value) {
  value = htobe64(value);
  memcpy(request + FIELD * field, &value, FIELD);
}

static void tell(int fd, const void *request, size_t length) {
  if (send(fd, request, length, 0) < 0) die("send");
}

int main(int argc, char **argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: pace PORT RATE MILLISECONDS\n");
    return 2;
  }
  double rate = atof(argv[2]);
  double interval = rate > 0 ? SECOND / rate : 0;
  uint64_t duration = strtoull(argv[3], NULL, 10) * (SECOND / 1000);

  struct sockaddr_in server = {
    .sin_family = AF_INET,
    .sin_port = htons(atoi(argv[1])),
    .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
  };
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  if (fd < 0) die("socket");
  if (connect(fd, (struct sockaddr *)&server, sizeof server) != 0) die("connect");

  unsigned char request[3 * FIELD + LENGTH], reply[2 * LENGTH];
  uint64_t pointer;
  put(request, 0, MALLOC);
  put(request, 1, LENGTH);
  tell(fd, request, 2 * FIELD);
  if (recv(fd, &pointer, sizeof pointer, 0) != sizeof pointer) die("malloc");
  pointer = be64toh(pointer);
  put(request, 0, WRITE);
  put(request, 1, pointer);
  put(request, 2, LENGTH);
  memset(request + 3 * FIELD, 0xa5, LENGTH);
  tell(fd, request, sizeof request);
  put(request, 0, READ);

  uint64_t dues[MAX_IN_FLIGHT]; /* of those in flight: first % MAX_IN_FLIGHT is the oldest */
  uint64_t sent = 0, answered = 0, measured = 0, wrong = 0;
  uint64_t begin = now(), from = begin + WARM_UP, end = from + duration;
  for (uint64_t time = begin; time < end + PATIENCE; time = now()) {
    if (time >= end && sent == answered) break;
    ssize_t length = sent > answered ? recv(fd, reply, sizeof reply, MSG_DONTWAIT) : -1;
    if (length >= 0) {
      time = now();
      uint64_t due = dues[answered++ % MAX_IN_FLIGHT];
      wrong += length != LENGTH || memcmp(reply, request + 3 * FIELD, LENGTH) != 0;
      if (due >= from) counts[bucket_of(time - due)]++, measured++;
    }
    uint64_t due = rate > 0 ? begin + (uint64_t)(sent * interval) : time;
    int is_free = sent - answered < (rate > 0 ? MAX_IN_FLIGHT : 1);
    if (is_free && due <= time && due < end) {
      dues[sent++ % MAX_IN_FLIGHT] = due;
      tell(fd, request, 3 * FIELD);
    }
  }
  put(request, 0, FREE);
  tell(fd, request, 2 * FIELD);
  printf("{\"requests\":%llu,\"lost\":%llu,\"wrong\":%llu", (unsigned long long)measured,
         (unsigned long long)(sent - answered), (unsigned long long)wrong);
  printf(",\"p50\":%.2f,\"p90\":%.2f,\"p99\":%.2f,\"p99.9\":%.2f}\n", percentile(0.5, measured),
         percentile(0.9, measured), percentile(0.99, measured), percentile(0.999, measured));
  return sent != answered || wrong != 0;
}
