// @ts-nocheck: it is AssemblyScript, in which integers have widths.
/**
 * Scans a range of keys in a B-tree: as many round trips as one, whatever the tree's height. A node is
 * 33 fields, of 64 bits and big-endian:
 *
 *     0       8      16                    136                    264
 *     +-------+-------+---------------------+----------------------+
 *     | count | leaf? | 15 keys, ascending  | values, or addresses |
 *     +-------+-------+---------------------+----------------------+
 *
 * A leaf has a value for each of its `count` keys; another node has count + 1 children, and the keys of
 * child i are from key i - 1 up to, and without, key i.
 *
 *     arguments   the root's address, the first key, the last key, where values go, how many may: fields
 *     result      how many there are at that address now
 *
 *     asc range.ts -O --runtime stub --importMemory --use abort= -o range.wasm
 */

const KEYS: u32 = 16;
const VALUES: u32 = 136;

// The lower half of every heap's base: an address less this is an offset.
const BASE: u32 = 0x20000000;

let first: u64;
let last: u64;
let out: u32;
let end: u32;

function field(at: u32): u64 {
  return bswap<u64>(load<u64>(at));
}

function offset(at: u32): u32 {
  return <u32> field(at) - BASE;
}

function scan(node: u32): void {
  const count = <u32> field(node);
  const isLeaf = load<u64>(node + 8) != 0;
  for (let i: u32 = 0; i < count && out < end; i++) {
    const key = field(node + KEYS + 8 * i);
    if (isLeaf) {
      if (key > last) return;
      if (key < first) continue;
      store<u64>(out, load<u64>(node + VALUES + 8 * i));
      out += 8;
    } else {
      if (key > first) scan(offset(node + VALUES + 8 * i));
      if (key > last) return;
    }
  }
  if (!isLeaf) scan(offset(node + VALUES + 8 * count));
}

export function run(args: u32, length: u32): u32 {
  if (length < 40) return 0;
  first = field(args + 8);
  last = field(args + 16);
  const begin = offset(args + 24);
  out = begin;
  end = begin + 8 * <u32> field(args + 32);
  scan(offset(args));
  return (out - begin) / 8;
}
