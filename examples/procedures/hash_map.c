/*
 * A hash map of 64-bit keys and 32-bit values, which lives in the heap and is changed there. What it is
 * asked shows in how many fields, of 64 bits and big-endian, it is called with:
 *
 *     (buckets)            makes a map and returns its offset, 0 if there is no memory for it
 *     (map, key)           returns the value of a key, 0 if it has none
 *     (map, key, value)    gives a key a value and returns the one it had; 0xffffffff if there is no memory
 *
 * A map is named by its address, which is what hello calls the base and the offset.
 *
 *     clang --target=wasm32-unknown-emscripten -ffreestanding -fvisibility=hidden -fPIC -O2 -c hash_map.c
 *     wasm-ld --experimental-pic -shared --no-entry -s -o hash_map.wasm hash_map.o
 */

#include <stdint.h>

__attribute__((import_module("env"), import_name("malloc"))) void *allocate(uint32_t length);

/* The lower half of every heap's base: an address less this is an offset. */
#define BASE 0x20000000u

struct entry {
  struct entry *next;
  uint32_t value;
  uint64_t key;
};

struct map {
  uint32_t mask;
  struct entry *buckets[];
};

static struct entry **bucket(struct map *map, uint64_t key) {
  return &map->buckets[(key * 0x9e3779b97f4a7c15u >> 32) & map->mask];
}

static struct entry *find(struct map *map, uint64_t key) {
  struct entry *entry = *bucket(map, key);
  while (entry != 0 && entry->key != key) entry = entry->next;
  return entry;
}

static uint32_t create(uint64_t wanted) {
  if (wanted > 1 << 24) return 0;
  uint32_t count = 1;
  while (count < wanted) count *= 2;
  struct map *map = allocate(sizeof *map + count * sizeof *map->buckets);
  if (map != 0) map->mask = count - 1;
  return (uint32_t)map;
}

static uint32_t insert(struct map *map, uint64_t key, uint32_t value) {
  struct entry *entry = find(map, key);
  if (entry != 0) {
    uint32_t old = entry->value;
    entry->value = value;
    return old;
  }
  entry = allocate(sizeof *entry);
  if (entry == 0) return UINT32_MAX;
  struct entry **first = bucket(map, key);
  *entry = (struct entry){.next = *first, .value = value, .key = key};
  *first = entry;
  return 0;
}

__attribute__((visibility("default"))) uint32_t run(const uint64_t *arguments, uint32_t length) {
  uint64_t first = __builtin_bswap64(arguments[0]);
  if (length == 8) return create(first);
  struct map *map = (struct map *)((uint32_t)first - BASE);
  uint64_t key = __builtin_bswap64(arguments[1]);
  if (length == 24) return insert(map, key, __builtin_bswap64(arguments[2]));
  struct entry *entry = find(map, key);
  return entry == 0 ? 0 : entry->value;
}
