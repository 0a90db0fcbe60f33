/**
 * The buddy allocator (Knowlton, CACM 1965; Knuth, TAOCP vol. 1, section 2.5), as pure arithmetic: it
 * owns no memory and does no I/O. It hands out *blocks* of *grains*. A grain is the smallest block; a
 * grain number counts grains from the start of the heap. A block of order k is 2^k grains long and
 * starts at a multiple of 2^k, so its number among the blocks of its order is `grain >> k`, and the
 * block that it was split from, its buddy, differs in the lowest bit:
 *
 *     order 2   |               0               |       block 5 of order 0 is grain 5;
 *     order 1   |       0       |       1       |       its buddy is 5 ^ 1 = 4,
 *     order 0   |   0   |   1   |   2   |   3   |       and together they are block 2 of order 1
 *
 * A heap need not be a power of two of grains. It is the end of one, whose first grains are missing, so
 * that small blocks of it lie at low addresses: one of 6 grains lacks 2, and is a block of order 1 before
 * one of order 2. Inside this file grains count from where the missing ones would be.
 *
 * What is known about each block is two bits, `free` and `live`; and of each order, how many blocks are
 * the one and the other. A block with neither bit is split, or part of a larger block, or does not exist.
 * The free bits of an order have summary levels above them, one bit for each 32-bit word below that is
 * not zero, up to a level of a few words: the lowest free block is found with a look at these and one
 * `Math.clz32` a level, at most five.
 *
 *     level 1   [ 00000000000000000000000000000101 ]              words 0 and 2 hold free blocks
 *     level 0   [ 0...010000 ] [ 0...000000 ] [ 1...000000 ]      blocks 4 and 95 are free
 *
 * | operation  | cost                                  |
 * | ---------- | ------------------------------------- |
 * | allocate   | O(log n): one split for each order    |
 * | free       | O(log n): one merge for each order    |
 * | endOfLive  | O(log n)                              |
 *
 * No operation makes garbage: every argument and result is a small integer, and the bitmaps are made
 * once. They are 2 bits for each block of each order, about 3.2% of a heap of 16-byte grains, and the
 * operating system commits their pages only where they are touched.
 */

import { type Arrays, int32, standAlone } from "./metadata.ts";

/** What became of a `free`. */
export const Freed = { freed: 0, notAllocated: 1, alreadyFree: 2 } as const;
export type Freed = (typeof Freed)[keyof typeof Freed];

/** There is no such block. */
export const NONE = -1;

/** 16 GiB of 16-byte grains: the positions of live bits, of which there are almost twice as many, fit 31 bits. */
export const MAX_GRAINS = 2 ** 30;

const BITS = 32;

/** A level of no more words than this has no summary: to look at each is as fast. */
const TOP_WORDS = 8;

function lowestBit(word: number): number {
  return 31 - Math.clz32(word & -word);
}

/** How many bits of a word are set (Warren, Hacker's Delight, section 5-1). */
function bitsIn(word: number): number {
  word -= word >>> 1 & 0x55555555;
  word = (word & 0x33333333) + (word >>> 2 & 0x33333333);
  return Math.imul(word + (word >>> 4) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/** Where single numbers are kept, in an array that other threads can read. */
export const BuddyFigure = {
  /** 1 when the first free blocks are there. */
  seeded: 0,
  /** One past the highest grain that was ever part of a live block. */
  highWater: 1,
} as const;
const Figure = BuddyFigure;

/** Where the bits of each order lie, which follows from the number of grains alone. */
class Geometry {
  readonly maxOrder: number;
  readonly maxLevels: number;
  readonly missing: number;
  readonly first: Int32Array;
  readonly liveBase: Int32Array;
  readonly level: Int32Array;
  readonly levels: Uint8Array;
  readonly top: Int32Array;
  readonly freeWords: number;
  readonly liveWords: number;

  constructor(grains: number) {
    if (!Number.isInteger(grains) || grains < 1 || grains > MAX_GRAINS) {
      throw new RangeError(`Cannot manage ${grains} grains: it must be 1 to ${MAX_GRAINS}`);
    }
    this.maxOrder = 31 - Math.clz32(grains);
    const orders = this.maxOrder + 1;
    this.levels = new Uint8Array(orders);
    this.top = new Int32Array(orders);
    this.liveBase = new Int32Array(orders);
    this.maxLevels = Math.ceil(orders / 5) + 1;
    this.level = new Int32Array(orders * this.maxLevels);
    this.first = new Int32Array(orders);
    this.missing = 2 ** Math.ceil(Math.log2(grains)) - grains;
    let words = 0;
    let liveBits = 0;
    for (let order = 0; order < orders; order++) {
      const first = Math.ceil(this.missing / 2 ** order);
      const end = (this.missing + grains) >>> order;
      this.first[order] = first;
      this.liveBase[order] = liveBits - first;
      liveBits += end - first;
      // If the first block is odd, its buddy does not exist but has a bit, in the same word, that stays 0.
      let [from, to] = [first, end];
      let levels = 0;
      do {
        [from, to] = [from >>> 5, Math.ceil(to / BITS)];
        this.level[order * this.maxLevels + levels++] = words - from;
        words += to - from;
      } while (to - from > TOP_WORDS);
      this.levels[order] = levels;
      this.top[order] = from;
    }
    this.freeWords = words;
    this.liveWords = Math.ceil(liveBits / BITS);
  }
}

/** The arrays of a buddy of `grains` grains: any number from 1 to MAX_GRAINS will do. */
export function buddyShape(grains: number) {
  const { maxOrder, freeWords, liveWords } = new Geometry(grains);
  return {
    figures: int32(Object.keys(Figure).length),
    /** Free and live blocks of each order. */
    freeBlocks: int32(maxOrder + 1),
    blocksInUse: int32(maxOrder + 1),
    /** Free bits: for each order its levels, each in whole words, lowest level first. */
    free: int32(freeWords),
    /** Live bits: all orders packed without gaps; those of order k start at bit `liveBase[k]`. */
    live: int32(liveWords),
  };
}

export class Buddy {
  /** How many blocks of each order are free, and how many live; the latter for statistics only. */
  readonly freeBlocks: Int32Array;
  readonly blocksInUse: Int32Array;
  readonly grains: number;
  /** The order of the block that was freed last. */
  freedOrder = NONE as number;
  /** Grains before the first of the heap, in the power of two of grains that it is the end of. */
  readonly missing: number;
  readonly maxOrder: number;
  /** Bytes that the bitmaps take when every page of them is touched. */
  readonly metadataBytes: number;

  protected readonly figures: Int32Array;
  protected readonly freeBits: Int32Array;
  protected readonly liveBits: Int32Array;
  /** Where in the free bits level `l` of order `k` starts: `level[k * maxLevels + l]`. */
  protected readonly level: Int32Array;
  protected readonly levels: Uint8Array;
  /** For each order, the number of the first word of its highest level. */
  readonly #top: Int32Array;
  protected readonly maxLevels: number;
  /** For each order, the first block that lies in the heap as a whole. */
  readonly #first: Int32Array;
  protected readonly liveBase: Int32Array;

  /**
   * Over the arrays of `buddyShape(grains)`: if they are all zero, a heap that is all free; else what
   * they say, be it another thread's that goes on changing them.
   */
  constructor(
    grains: number,
    arrays: Arrays<ReturnType<typeof buddyShape>> = standAlone(buddyShape(grains)),
  ) {
    const geometry = new Geometry(grains);
    this.grains = grains;
    this.maxOrder = geometry.maxOrder;
    this.maxLevels = geometry.maxLevels;
    this.missing = geometry.missing;
    this.#first = geometry.first;
    this.liveBase = geometry.liveBase;
    this.level = geometry.level;
    this.levels = geometry.levels;
    this.#top = geometry.top;
    this.figures = arrays.figures;
    this.freeBlocks = arrays.freeBlocks;
    this.blocksInUse = arrays.blocksInUse;
    this.freeBits = arrays.free;
    this.liveBits = arrays.live;
    this.metadataBytes = this.freeBits.byteLength + this.liveBits.byteLength;
    if (this.figures[Figure.seeded] === 0) this.#seed();
  }

  /** Grains inside live blocks. */
  get grainsInUse(): number {
    let grains = 0;
    for (let k = 0; k <= this.maxOrder; k++) grains += this.blocksInUse[k]! * 2 ** k;
    return grains;
  }

  get liveBlocks(): number {
    let blocks = 0;
    for (let k = 0; k <= this.maxOrder; k++) blocks += this.blocksInUse[k]!;
    return blocks;
  }

  get highWater(): number {
    return this.figures[Figure.highWater]!;
  }

  /** The order of the largest free block, NONE if nothing is free. */
  get largestFreeOrder(): number {
    return this.freeBlocks.findLastIndex((blocks) => blocks !== 0);
  }

  /**
   * Makes a block of `order` live and returns its first grain, or NONE, with nothing changed, if no
   * free block is large enough. Of the free blocks that need the fewest splits it takes the one with
   * the lowest address, and of a split block the lower half: low memory is used again, high memory
   * stays untouched.
   */
  allocate(order: number): number {
    let from: number = order;
    while (from <= this.maxOrder && this.freeBlocks[from] === 0) from++;
    if (from > this.maxOrder) return NONE;
    let block = this.#lowestFree(from);
    this.clearFree(from, block);
    while (from > order) {
      from--;
      block <<= 1;
      this.setFree(from, block + 1);
    }
    this.setLive(order, block);
    return (block << order) - this.missing;
  }

  /** Frees the live block that starts at `grain`, and merges it with its buddy as far as that goes. */
  free(grain: number): Freed {
    const order = this.orderAt(grain);
    if (order === NONE) return this.isFree(grain) ? Freed.alreadyFree : Freed.notAllocated;
    this.freedOrder = order;
    let block = this.#blockOf(grain, order);
    this.clearLive(order, block);
    let merged: number = order;
    while (merged < this.maxOrder && this.#hasFree(merged, block ^ 1)) {
      this.clearFree(merged, block ^ 1);
      block >>>= 1;
      merged++;
    }
    this.setFree(merged, block);
    return Freed.freed;
  }

  /**
   * Makes the live block of `order` at `grain` one of `wanted`, in place, and returns true. It shrinks
   * by freeing upper halves; it grows while it is the lower of two buddies of which the upper is free.
   * If it cannot grow so far, nothing is changed and the result is false.
   */
  resize(grain: number, order: number, wanted: number): boolean {
    if (wanted === order) return true;
    if (wanted > this.maxOrder) return false;
    for (let k = order; k < wanted; k++) {
      const block = this.#blockOf(grain, k);
      if ((block & 1) !== 0 || !this.#hasFree(k, block + 1)) return false;
    }
    this.clearLive(order, this.#blockOf(grain, order));
    for (let k = order; k < wanted; k++) this.clearFree(k, this.#blockOf(grain, k) + 1);
    for (let k = order; k > wanted; k--) this.setFree(k - 1, this.#blockOf(grain, k - 1) + 1);
    this.setLive(wanted, this.#blockOf(grain, wanted));
    return true;
  }

  /**
   * Makes that very block live, which is free as a whole, and returns true. If it is not, or if no block
   * of this order begins there, nothing is changed and the result is false.
   */
  claim(grain: number, order: number): boolean {
    const start = grain + this.missing;
    const block = start >>> order;
    if (order > this.maxOrder || block << order >>> 0 !== start) return false;
    let from: number = order;
    while (from <= this.maxOrder && !this.isFreeBlock(from, start >>> from)) from++;
    if (from > this.maxOrder) return false;
    this.clearFree(from, start >>> from);
    while (from > order) {
      from--;
      this.setFree(from, start >>> from ^ 1);
    }
    this.setLive(order, block);
    return true;
  }

  /** Every live bit, order by order: where its block begins. */
  *allLive(): Generator<[grain: number, order: number]> {
    for (let order = 0; order <= this.maxOrder; order++) {
      const from = this.liveBase[order]! + this.#first[order]!;
      const end = this.liveBase[order]! + (this.missing + this.grains >>> order);
      for (let bit = from; bit < end; bit++) {
        const word = this.liveBits[bit >>> 5]! >>> (bit & 31);
        if (word === 0) bit |= 31; // on to the next word
        else if ((word & 1) !== 0) {
          yield [(bit - this.liveBase[order]! << order) - this.missing, order];
        }
      }
    }
  }

  /** The order of the live block that starts at `grain`, or NONE. */
  orderAt(grain: number): number {
    for (let order = 0; order <= this.maxOrder; order++) {
      const block = this.#blockOf(grain, order);
      if (this.#isLive(order, block)) return order;
      if ((block & 1) !== 0) break; // no larger block starts here
    }
    return NONE;
  }

  /** Whether `grain` is part of a free block. */
  isFree(grain: number): boolean {
    return this.endOfFree(grain) !== NONE;
  }

  /** One past the last grain of the live block that `grain` is part of, or NONE. */
  endOfLive(grain: number): number {
    for (let order = 0; order <= this.maxOrder; order++) {
      const block = this.#blockOf(grain, order);
      if (this.#isLive(order, block)) return this.endOf(order, block);
    }
    return NONE;
  }

  /** Whether `block`, counted from where the missing grains would be, is a free block of `order`. */
  isFreeBlock(order: number, block: number): boolean {
    return block >= this.#first[order]! && this.#hasFree(order, block);
  }

  /** Its twin for live blocks. */
  isLiveBlock(order: number, block: number): boolean {
    return this.#isLive(order, block);
  }

  /** How many blocks of `order` are live, of those from number `from` to before `to`. */
  countLive(order: number, from: number, to: number): number {
    const base = this.liveBase[order]!;
    const start = base + Math.max(from, this.#first[order]!);
    const end = base + to;
    if (start >= end) return 0;
    const last = (end - 1) >>> 5;
    let at = start >>> 5;
    let word = this.liveBits[at]! & -1 << (start & 31);
    let count = 0;
    for (; at < last; word = this.liveBits[++at]!) {
      if (word !== 0) count += bitsIn(word);
    }
    return count + bitsIn(word & -1 >>> 31 - (end - 1 & 31));
  }

  /** One past the last grain of the free block that `grain` is part of, or NONE. */
  endOfFree(grain: number): number {
    for (let order = 0; order <= this.maxOrder; order++) {
      const block = this.#blockOf(grain, order);
      if (this.isFreeBlock(order, block)) return this.endOf(order, block);
    }
    return NONE;
  }

  /** One past the last grain of a block. */
  protected endOf(order: number, block: number): number {
    return ((block + 1) << order) - this.missing;
  }

  #blockOf(grain: number, order: number): number {
    return (grain + this.missing) >>> order;
  }

  /**
   * Frees the whole heap, in the largest blocks that there are, one of each order at most. Another one that
   * was killed here may have left some of it.
   */
  #seed(): void {
    for (let order = 0, start = this.missing; order <= this.maxOrder; order++) {
      if ((this.grains >>> order & 1) === 0) continue;
      this.freeBlocks[order] = 1;
      for (let level = 0, block = start >>> order; level < this.levels[order]!; level++) {
        const at = this.level[order * this.maxLevels + level]! + (block >>> 5);
        this.freeBits[at]! |= 1 << (block & 31);
        block >>>= 5;
      }
      start += 2 ** order;
    }
    this.figures[Figure.seeded] = 1;
  }

  #lowestFree(order: number): number {
    let level = this.levels[order]! - 1;
    const top = this.level[order * this.maxLevels + level]!;
    let block = this.#top[order]!;
    while (this.freeBits[top + block] === 0) block++;
    for (; level >= 0; level--) {
      const word = this.freeBits[this.level[order * this.maxLevels + level]! + block]!;
      block = block << 5 | lowestBit(word);
    }
    return block;
  }

  /** `block` may be one before the first of its order: the buddy that does not exist. */
  #hasFree(order: number, block: number): boolean {
    const word = this.freeBits[this.level[order * this.maxLevels]! + (block >>> 5)]!;
    return (word >>> (block & 31) & 1) !== 0;
  }

  protected setFree(order: number, block: number): void {
    const levels = this.levels[order]!;
    if (this.freeBlocks[order]!++ === 0) { // so each word on the way up is 0, and not looked at
      for (let level = 0; level < levels; level++) {
        const at = this.level[order * this.maxLevels + level]! + (block >>> 5);
        this.freeBits[at] = 1 << (block & 31);
        block >>>= 5;
      }
      return;
    }
    for (let level = 0; level < levels; level++) {
      const at = this.level[order * this.maxLevels + level]! + (block >>> 5);
      const word = this.freeBits[at]!;
      this.freeBits[at] = word | 1 << (block & 31);
      if (word !== 0) return; // the levels above know already
      block >>>= 5;
    }
  }

  protected clearFree(order: number, block: number): void {
    const levels = this.levels[order]!;
    if (--this.freeBlocks[order]! === 0) { // so each word on the way up is to be 0
      for (let level = 0; level < levels; level++) {
        block >>>= 5;
        this.freeBits[this.level[order * this.maxLevels + level]! + block] = 0;
      }
      return;
    }
    for (let level = 0; level < levels; level++) {
      const at = this.level[order * this.maxLevels + level]! + (block >>> 5);
      const word = this.freeBits[at]! & ~(1 << (block & 31));
      this.freeBits[at] = word;
      if (word !== 0) return; // the levels above still stand
      block >>>= 5;
    }
  }

  #isLive(order: number, block: number): boolean {
    if (block < this.#first[order]!) return false;
    const bit = this.liveBase[order]! + block;
    return (this.liveBits[bit >>> 5]! >>> (bit & 31) & 1) !== 0;
  }

  protected setLive(order: number, block: number): void {
    const bit = this.liveBase[order]! + block;
    this.liveBits[bit >>> 5]! |= 1 << (bit & 31);
    this.blocksInUse[order]!++;
    const end = this.endOf(order, block);
    if (end > this.figures[Figure.highWater]!) this.figures[Figure.highWater] = end;
  }

  protected clearLive(order: number, block: number): void {
    const bit = this.liveBase[order]! + block;
    this.liveBits[bit >>> 5]! &= ~(1 << (bit & 31));
    this.blocksInUse[order]!--;
  }
}
