/**
 * The heap that clients share: a `WebAssembly.Memory`, its buddy allocator, and the rules of access.
 * This is the only file that touches the memory, and that by the four functions of bulk.ts alone.
 *
 * An *address* is the 64-bit pointer that a client holds. An *offset* is a position in the memory, an
 * *order* the logarithm of a block's size in grains, a *length* a number of bytes. Addresses and lengths
 * come here as doubles, made from 64 unchecked bits: above 2^53 they are rounded, but a rounded one is
 * still far beyond every bound that it is compared with, and sums of two of them cannot overflow.
 *
 *     address  base                                                    base + size
 *     offset   0       16      32                                             size
 *              | grain | grain |                    ...                          |
 *
 * Bytes travel between the heap and the I/O memory, in which the engines keep their datagrams.
 *
 * Addresses are passed in the fields of an object, a Span: V8 would box a double that is an argument or
 * a result of a call which it does not inline, and that would be garbage; a field it changes in place.
 * For the same reason no offset of 2 GiB or more goes to a DataView or an index.
 */

import { Buddy, type buddyShape, Freed, NONE } from "./buddy.ts";
import { type Bulk, bulk } from "./bulk.ts";
import { type Arrays, standAlone, uint16, uint8 } from "./metadata.ts";
import { Refusal } from "./refusal.ts";

/** Where the first heap starts: pointers look as they do in the paper, and 0, NULL, is none of them. */
export const HEAP_BASE = 0xc420000000;

/** Addresses are cut into ranges, of which each heap has one: from one base to the next, and how many. */
export const RANGE_BYTES = 2 ** 36;
export const MAX_RANGES = Math.floor((2 ** 53 - HEAP_BASE) / RANGE_BYTES);

/** The smallest block and the alignment of every address, in bytes. */
export const GRAIN = 16;
const GRAIN_SHIFT = 4;

export const MIN_HEAP = 4 * 1024;
export const MAX_HEAP = 4 * 1024 ** 3;

export const NULL = 0;

/** What compare-and-swap and fetch-and-add work on: 8 bytes, 8-aligned. */
const WORD = 8;

const WASM_PAGE = 64 * 1024;
/** The unit in which the heap remembers where it has been written, the size of a kernel's page. */
const PAGE_SHIFT = 12;
const PAGE = 1 << PAGE_SHIFT;
/** Pages are counted by regions of 4 MiB, so that a large block that nobody wrote takes no time to zero. */
const REGION_SHIFT = 10;

/** The arrays that a heap of `size` bytes keeps, beside those of its buddy. */
export function heapShape(size: number) {
  const pages = Math.ceil(size / PAGE);
  return {
    /** For each page, 1 if it may hold a byte that is not zero. All other memory needs no zeroing. */
    dirty: uint8(pages),
    /** For each region, how many of its pages are dirty. */
    dirtyPages: uint16(Math.ceil(pages / 2 ** REGION_SHIFT)),
  };
}

/** Where a heap keeps what it knows: arrays of the shapes that belong to its size, zero for an empty one. */
export interface HeapState {
  buddy: Arrays<ReturnType<typeof buddyShape>>;
  heap: Arrays<ReturnType<typeof heapShape>>;
}

export interface HeapOptions {
  /** Where the bytes of clients lie, all zero: `newHeapMemory(size)`. */
  memory: WebAssembly.Memory;
  /** Bytes, MIN_HEAP to MAX_HEAP, a multiple of GRAIN. */
  size: number;
  /** The memory that `read` copies to and `write` copies from. */
  io: WebAssembly.Memory;
  /** Admit only bytes inside one live allocation; otherwise any address in the heap will do. */
  strict?: boolean;
  /** Bytes that may be moved and cleared before the next `beginTurn`; no limit if it is left out. */
  workPerTurn?: number;
  /** Which range of addresses it has, 0 to MAX_RANGES - 1: that of the paper if it is left out. */
  range?: number | undefined;
  /** Its own if it is left out. */
  state?: HeapState;
}

/** An address and a length, as a client names them or as they are told to it. */
export interface Span {
  pointer: number;
  length: number;
}

/** Throws RangeError if that is not a size that a heap can have. */
export function requireHeapSize(size: number): void {
  if (size >= MIN_HEAP && size <= MAX_HEAP && size % GRAIN === 0) return;
  throw new RangeError(
    `Cannot make a heap of ${size} bytes: it must be a multiple of ${GRAIN} from 4KiB to 4GiB`,
  );
}

/**
 * The memory of a heap of `size` bytes, whole from the start; the kernel commits its pages as they are
 * touched. Throws RangeError if that is not a size that a heap can have, or the memory cannot be had.
 */
export function newHeapMemory(size: number): WebAssembly.Memory {
  requireHeapSize(size);
  const pages = Math.ceil(size / WASM_PAGE);
  try {
    return new WebAssembly.Memory({ initial: pages, maximum: pages });
  } catch (cause) {
    throw new RangeError(
      `Cannot get ${size} bytes of memory for the heap: try a smaller --memory, ` +
        "or raise the limit on address space (ulimit -v)",
      { cause },
    );
  }
}

export class Heap {
  /** The address of its first byte. */
  readonly base: number;
  readonly size: number;
  readonly buddy: Buddy;
  readonly #strict: boolean;
  readonly #io: DataView;
  readonly #bulk: Bulk;
  readonly #dirty: Uint8Array;
  readonly #dirtyPages: Uint16Array;
  readonly #workPerTurn: number;
  /**
   * One number: bytes that may still be moved and cleared in this turn. It can be overdrawn by small
   * requests. In an array, because a field would be boxed anew whenever it holds no small integer.
   */
  readonly #budget = new Float64Array(1);

  constructor(
    { memory, size, io, strict = false, workPerTurn = Infinity, range = 0, state }: HeapOptions,
  ) {
    this.base = HEAP_BASE + range * RANGE_BYTES;
    this.size = size;
    this.buddy = new Buddy(size / GRAIN, state?.buddy);
    this.#strict = strict;
    this.#io = new DataView(io.buffer);
    this.#bulk = bulk(memory, io);
    const { dirty, dirtyPages } = state?.heap ?? standAlone(heapShape(size));
    this.#dirty = dirty;
    this.#dirtyPages = dirtyPages;
    this.#workPerTurn = workPerTurn;
    this.#budget[0] = workPerTurn;
  }

  /** Whoever else waits has been served: there is time for work again. */
  beginTurn(): void {
    this.#budget[0] = this.#workPerTurn;
  }

  /**
   * Allocates at least `span.length` bytes, zeroed, at a multiple of GRAIN, and sets `span.pointer` to
   * their address. Like the malloc(3) of glibc, it gives 0 bytes an address of their own, too. If there
   * is more to clear than this turn has time for, it clears what it can and is refused: the next try has
   * less to do.
   */
  malloc(span: Span): Refusal {
    if (span.length > this.size) return Refusal.outOfMemory;
    const order = orderFor(span.length);
    const grain = this.buddy.allocate(order);
    if (grain === NONE) return Refusal.outOfMemory;
    if (!this.#zero(grain << GRAIN_SHIFT, (1 << order) * GRAIN)) {
      this.buddy.free(grain);
      return Refusal.overBudget;
    }
    setOffset(span, this.base, grain * GRAIN);
    return Refusal.none;
  }

  /** Frees the allocation at `span.pointer`. Like free(3), it does nothing for NULL. */
  free(span: Span): Refusal {
    if (span.pointer === NULL) return Refusal.none;
    const offset = offsetOf(span, this.base);
    if (!(offset >= 0 && offset < this.size)) return Refusal.outsideHeap;
    if ((offset & (GRAIN - 1)) !== 0) return Refusal.notAllocated;
    const freed = this.buddy.free(offset >>> GRAIN_SHIFT);
    if (freed === Freed.freed) return Refusal.none;
    return freed === Freed.alreadyFree ? Refusal.alreadyFree : Refusal.notAllocated;
  }

  /** Grains of the allocation at `span.pointer`; 0 if there is none. */
  grainsOf(span: Span): number {
    const offset = offsetOf(span, this.base);
    if (!(offset >= 0 && offset < this.size) || (offset & (GRAIN - 1)) !== 0) return 0;
    const order = this.buddy.orderAt(offset >>> GRAIN_SHIFT);
    return order === NONE ? 0 : 1 << order;
  }

  /** The first grain of the allocation at `span.pointer`, which there must be. */
  grainOf(span: Span): number {
    return offsetOf(span, this.base) >>> GRAIN_SHIFT;
  }

  /** Copies the bytes of the span to `at` of the I/O memory. */
  read(span: Span, at: number): Refusal {
    const refusal = this.#admit(span);
    if (refusal !== Refusal.none) return refusal;
    this.#bulk.load(at, offsetOf(span, this.base) | 0, span.length | 0);
    return Refusal.none;
  }

  /** Copies the bytes at `at` of the I/O memory to the span. */
  write(span: Span, at: number): Refusal {
    const refusal = this.#admit(span);
    if (refusal !== Refusal.none || span.length === 0) return refusal;
    const offset = offsetOf(span, this.base);
    this.#markDirty(offset >>> PAGE_SHIFT, (offset + span.length - 1) >>> PAGE_SHIFT);
    this.#bulk.store(offset | 0, at, span.length | 0);
    return Refusal.none;
  }

  /**
   * Makes the allocation at `span.pointer` one of at least `span.length` bytes; `span.pointer` changes
   * if it cannot grow in place. What it holds is kept up to the smaller length; all bytes after that
   * are zero. As POSIX has it, NULL makes this a malloc; for 0 bytes it frees the allocation and gives
   * NULL, like glibc. When it is refused, nothing has changed, except that one which shrinks and is over
   * the budget may have cleared some of the bytes that it gives up. What cannot be moved within one turn
   * is not moved at all: it is refused as out of memory.
   */
  realloc(span: Span): Refusal {
    if (span.pointer === NULL) return this.malloc(span);
    const offset = offsetOf(span, this.base);
    if (!(offset >= 0 && offset < this.size)) return Refusal.outsideHeap;
    if ((offset & (GRAIN - 1)) !== 0) return Refusal.notAllocated;
    const grain = offset >>> GRAIN_SHIFT;
    const order = this.buddy.orderAt(grain);
    if (order === NONE) {
      return this.buddy.isFree(grain) ? Refusal.alreadyFree : Refusal.notAllocated;
    }
    if (span.length === 0) {
      this.buddy.free(grain);
      span.pointer = NULL;
      return Refusal.none;
    }
    if (span.length > this.size) return Refusal.outOfMemory;
    const wanted = orderFor(span.length);
    const usable = (1 << wanted) * GRAIN;
    if (!this.buddy.resize(grain, order, wanted)) {
      return this.#move(span, grain, (1 << order) * GRAIN, wanted);
    }
    const kept = Math.min((1 << order) * GRAIN, span.length);
    if (this.#zero((offset + kept) | 0, usable - kept)) return Refusal.none;
    this.buddy.resize(grain, wanted, order);
    return Refusal.overBudget;
  }

  /** Moves the allocation at `grain`, of `used` bytes, to a larger block. */
  #move(span: Span, grain: number, used: number, wanted: number): Refusal {
    const offset = grain << GRAIN_SHIFT;
    const work = used <= PAGE ? 0 : this.#dirtyBytes(offset, used);
    if (work > this.#workPerTurn) return Refusal.outOfMemory;
    const target = this.buddy.allocate(wanted);
    if (target === NONE) return Refusal.outOfMemory;
    const to = target << GRAIN_SHIFT;
    if (!this.#zero(to, (1 << wanted) * GRAIN) || work > 0 && work > this.#budget[0]!) {
      this.buddy.free(target);
      return Refusal.overBudget;
    }
    this.#copy(to, offset, used);
    this.buddy.free(grain);
    setOffset(span, this.base, target * GRAIN);
    return Refusal.none;
  }

  /**
   * Compare-and-swap on the 8 bytes at `span.pointer`: if they equal the first 8 at `operands` of the
   * I/O memory, the second 8 replace them. The old value goes to `at` of the I/O memory (RFC 7306).
   */
  cas(span: Span, operands: number, at: number): Refusal {
    const refusal = this.#admitWord(span);
    if (refusal !== Refusal.none) return refusal;
    const offset = offsetOf(span, this.base);
    this.#bulk.load(at, offset | 0, WORD);
    if (this.#io.getInt32(at) !== this.#io.getInt32(operands)) return Refusal.none;
    if (this.#io.getInt32(at + 4) !== this.#io.getInt32(operands + 4)) return Refusal.none;
    this.#markDirty(offset >>> PAGE_SHIFT, offset >>> PAGE_SHIFT);
    this.#bulk.store(offset | 0, operands + WORD, WORD);
    return Refusal.none;
  }

  /**
   * Fetch-and-add: adds the 8 bytes at `operand` of the I/O memory to the 8 at `span.pointer`, modulo
   * 2^64 and big-endian. The old value goes to `at` of the I/O memory (RFC 7306).
   */
  add(span: Span, operand: number, at: number): Refusal {
    const refusal = this.#admitWord(span);
    if (refusal !== Refusal.none) return refusal;
    const offset = offsetOf(span, this.base);
    this.#bulk.load(at, offset | 0, WORD);
    const high = this.#io.getUint32(at);
    const low = this.#io.getUint32(at + 4);
    const lowSum = low + this.#io.getUint32(operand + 4);
    const carry = lowSum >= 2 ** 32 ? 1 : 0;
    this.#io.setUint32(at, high + this.#io.getUint32(operand) + carry); // modulo 2^32
    this.#io.setUint32(at + 4, lowSum);
    this.#markDirty(offset >>> PAGE_SHIFT, offset >>> PAGE_SHIFT);
    this.#bulk.store(offset | 0, at, WORD);
    this.#io.setUint32(at, high);
    this.#io.setUint32(at + 4, low);
    return Refusal.none;
  }

  #admitWord(span: Span): Refusal {
    span.length = WORD;
    const refusal = this.#admit(span);
    if (refusal !== Refusal.none) return refusal;
    return (offsetOf(span, this.base) & (WORD - 1)) === 0 ? Refusal.none : Refusal.misaligned;
  }

  /** What may be accessed. Offsets are taken modulo 2^32, by `| 0` and `>>>`, only after this. */
  #admit(span: Span): Refusal {
    const offset = offsetOf(span, this.base);
    const end = offset + span.length;
    if (!(offset >= 0 && end <= this.size)) return Refusal.outsideHeap;
    if (!this.#strict) return Refusal.none;
    if (offset === this.size) return Refusal.outsideLiveBlock;
    const grain = offset >>> GRAIN_SHIFT; // NONE ends before every span
    return end <= this.buddy.endOfLive(grain) * GRAIN ? Refusal.none : Refusal.outsideLiveBlock;
  }

  /** Notes that pages may no longer be all zero. */
  #markDirty(first: number, last: number): void {
    for (let page = first; page <= last; page++) {
      if (this.#dirty[page] !== 0) continue;
      this.#dirty[page] = 1;
      this.#dirtyPages[page >>> REGION_SHIFT]!++;
    }
  }

  /** The first dirty page from `page` to `last`; beyond `last` if there is none. */
  #nextDirty(page: number, last: number): number {
    while (page <= last) {
      if (this.#dirty[page] !== 0) return page;
      const region = page >>> REGION_SHIFT;
      page = this.#dirtyPages[region] === 0 ? (region + 1) << REGION_SHIFT : page + 1;
    }
    return page;
  }

  /**
   * Zeroes bytes, leaving alone the pages that were not written since they were last zeroed. The offset
   * comes as a 32-bit integer, negative from 2 GiB on, which no call boxes. False if this turn has not
   * the time for all of it; what is no more than a page is always done.
   */
  #zero(offset32: number, length: number): boolean {
    if (length === 0) return true;
    const offset = offset32 >>> 0;
    const end = offset + length;
    const last = (end - 1) >>> PAGE_SHIFT;
    let page = this.#nextDirty(offset >>> PAGE_SHIFT, last);
    for (; page <= last; page = this.#nextDirty(page + 1, last)) {
      if (this.#budget[0]! <= 0 && length > PAGE) return false;
      const from = Math.max(offset, page * PAGE);
      const to = Math.min(end, (page + 1) * PAGE);
      this.#bulk.zero(from | 0, (to - from) | 0);
      this.#budget[0]! -= to - from;
      if (to - from === PAGE) {
        this.#dirty[page] = 0;
        this.#dirtyPages[page >>> REGION_SHIFT]!--;
      }
    }
    return true;
  }

  /**
   * How much of a block lies in dirty pages, in bytes; whole regions are not looked through. The offset
   * comes as in #zero.
   */
  #dirtyBytes(offset32: number, length: number): number {
    const offset = offset32 >>> 0;
    const end = Math.ceil((offset + length) / PAGE);
    const region = 1 << REGION_SHIFT;
    let pages = 0;
    for (let page = Math.floor(offset / PAGE); page < end;) {
      if ((page & (region - 1)) === 0 && page + region <= end) {
        pages += this.#dirtyPages[page >>> REGION_SHIFT]!;
        page += region;
      } else {
        pages += this.#dirty[page]!;
        page++;
      }
    }
    return pages * PAGE;
  }

  /**
   * Copies bytes to where all is zero; so what lies in clean pages need not be copied. Offsets come as in
   * #zero.
   */
  #copy(target32: number, offset32: number, length: number): void {
    const target = target32 >>> 0;
    const offset = offset32 >>> 0;
    const end = offset + length;
    const last = (end - 1) >>> PAGE_SHIFT;
    let page = this.#nextDirty(offset >>> PAGE_SHIFT, last);
    for (; page <= last; page = this.#nextDirty(page + 1, last)) {
      const from = Math.max(offset, page * PAGE);
      const size = Math.min(end, (page + 1) * PAGE) - from;
      const to = target + from - offset;
      this.#markDirty(to >>> PAGE_SHIFT, (to + size - 1) >>> PAGE_SHIFT);
      this.#bulk.move(to | 0, from | 0, size | 0);
      this.#budget[0]! -= size;
    }
  }
}

/** The offset of a span's address; it may lie outside the heap, and is small enough for V8 to inline. */
function offsetOf(span: Span, base: number): number {
  return span.pointer - base;
}

/** The twin of `offsetOf`. */
function setOffset(span: Span, base: number, offset: number): void {
  span.pointer = base + offset;
}

/** The order of the smallest block that holds `length` bytes, of which there are at most MAX_HEAP. */
export function orderFor(length: number): number {
  return length <= GRAIN ? 0 : 32 - Math.clz32((length - 1) >>> GRAIN_SHIFT);
}
