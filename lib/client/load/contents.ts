/**
 * What the load generator's blocks hold: it follows from the address, so that whoever reads a block knows
 * what must be there, and never from the length, so that a shorter block holds the beginning of a longer.
 */

/** Spreads small numbers over all 32 bits: the golden ratio, and a constant of MurmurHash3. */
const GOLDEN = 0x9e3779b1;
const MURMUR = 0x85ebca6b;
/** Set in every word of a block: then none is zero, and none looks like the first half of a pointer. */
const TOP_BIT = 1 << 31;
const WORD = 4;

function seedOf(address: number): number {
  return Math.imul(address / 16, MURMUR);
}

/** Word `i` of a block; a last part of a word is its first bytes. */
function wordOf(seed: number, i: number): number {
  return Math.imul(seed + i, GOLDEN) | TOP_BIT;
}

/** Writes what a block holds to `at`. */
export function fillBlock(io: DataView, at: number, address: number, length: number): void {
  const seed = seedOf(address);
  const whole = length & ~(WORD - 1);
  for (let i = 0; i < whole; i += WORD) io.setInt32(at + i, wordOf(seed, i));
  const last = wordOf(seed, whole);
  for (let i = whole; i < length; i++) io.setUint8(at + i, last >>> 24 - 8 * (i - whole));
}

/** The twin of `fillBlock`: whether that is there, to the last byte. */
export function holdsBlock(io: DataView, at: number, address: number, length: number): boolean {
  const seed = seedOf(address);
  const whole = length & ~(WORD - 1);
  for (let i = 0; i < whole; i += WORD) {
    if (io.getInt32(at + i) !== wordOf(seed, i)) return false;
  }
  const last = wordOf(seed, whole);
  for (let i = whole; i < length; i++) {
    if (io.getUint8(at + i) !== (last >>> 24 - 8 * (i - whole) & 0xff)) return false;
  }
  return true;
}

/** What the block at `address` holds, to be written all at once. */
export function blockOf(address: number, length: number): Uint8Array<ArrayBuffer> {
  const block = new Uint8Array(length);
  fillBlock(new DataView(block.buffer), 0, address, length);
  return block;
}

export function holdsZeros(io: DataView, at: number, length: number): boolean {
  for (let i = 0; i < length; i++) if (io.getUint8(at + i) !== 0) return false;
  return true;
}
