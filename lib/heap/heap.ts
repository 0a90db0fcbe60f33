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
 * For the same reason what is handed on within this file are grain and page numbers, small integers
 * in a heap of any size; offsets are local to a function.
 */

import { Buddy, buddyShape, Freed, NONE } from "./buddy.ts";
import { type Bulk, bulk, high } from "./bulk.ts";
import type { Changes } from "./changes.ts";
import { type Arrays, PAGE, PAGE_SHIFT, standAlone, uint16, uint8, WASM_PAGE } from "./metadata.ts";
import { CLEAN, DIRTY, Reclaimer, type Release } from "./reclaim.ts";
import { Refusal } from "./refusal.ts";
import type { Undo } from "./undo.ts";
import { UndoableBuddy } from "./undoable_buddy.ts";
import { Waste, wasteShape } from "./waste.ts";

/** Where the first heap starts: pointers look as they do in the paper, and 0, NULL, is none of them. */
export const HEAP_BASE = 0xc420000000;

/** Addresses are cut into ranges, of which each heap has one: from one base to the next, and how many. */
export const RANGE_BYTES = 2 ** 36;
export const MAX_RANGES = Math.floor((2 ** 53 - HEAP_BASE) / RANGE_BYTES);

/** The smallest block and the alignment of every address, in bytes. */
export const GRAIN = 16;
const GRAIN_SHIFT = 4;

/** Grains of a page, and their logarithm. */
const PAGE_GRAINS = PAGE / GRAIN;
const PAGE_GRAINS_SHIFT = PAGE_SHIFT - GRAIN_SHIFT;

export const MIN_HEAP = 4 * 1024;
/** Of one WebAssembly memory in V8, and what the allocator can count: 2^30 grains. */
export const MAX_HEAP = 16 * 1024 ** 3;

/** A larger heap needs a memory with addresses of 64 bits, in which each access is checked for its bounds. */
export const MAX_MEMORY32 = 4 * 1024 ** 3;

export const NULL = 0;

/** What compare-and-swap and fetch-and-add work on: 8 bytes, 8-aligned. */
const WORD = 8;

/** Pages are counted by regions of 4 MiB, so that a large block that nobody wrote takes no time to zero. */
const REGION_SHIFT = 10;

/** So many bytes are looked through, for pages to clear or to copy, in the time that it takes to clear one. */
const SEARCHED_PER_BYTE = 512 * 1024;

/** The arrays that a heap of `size` bytes keeps, beside those of its buddy. */
export function heapShape(size: number) {
  const pages = Math.ceil(size / PAGE);
  return {
    /** What is known about each page, CLEAN if it is all zero. Only others need zeroing. */
    dirty: uint8(pages),
    /** For each page, 1 if it was written once and is clean again. */
    cleared: uint8(pages),
    /** For each region, how many of its pages are not clean. */
    dirtyPages: uint16(Math.ceil(pages / 2 ** REGION_SHIFT)),
  };
}

/** Where a heap keeps what it knows: arrays of the shapes that belong to its size, zero for an empty one. */
export interface HeapState {
  /** What all of these arrays lie in; needed for `inside` only. */
  memory?: WebAssembly.Memory;
  buddy: Arrays<ReturnType<typeof buddyShape>>;
  heap: Arrays<ReturnType<typeof heapShape>>;
  waste: Arrays<ReturnType<typeof wasteShape>>;
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
  /** Gives pages back to the kernel; if it is left out, they are kept. */
  release?: Release | undefined;
  /** Bytes from the start, a power of two, that no client is given or may free. */
  reserved?: number | undefined;
  /** Which range of addresses it has, 0 to MAX_RANGES - 1: that of the paper if it is left out. */
  range?: number | undefined;
  /** Its own if it is left out. */
  state?: HeapState;
  /** Where is noted what state and memory were before they change, if that may have to be undone. */
  undo?: Undo | undefined;
}

/**
 * What WebAssembly that runs in the heap is given: the heap's memory and, in another one, what it must keep
 * true. When a page is written, the byte at `pagesAt + offset / page` becomes DIRTY; if it was CLEAN, the
 * 16-bit number of its region, at `regionsAt`, grows by one.
 */
export interface Inside {
  readonly memory: WebAssembly.Memory;
  readonly map: WebAssembly.Memory;
  readonly pagesAt: number;
  readonly regionsAt: number;
  /** Logarithms: bytes of a page, pages of a region. */
  readonly pageShift: number;
  readonly regionShift: number;
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
    `Cannot make a heap of ${size} bytes: it must be a multiple of ${GRAIN} from 4KiB to 16GiB`,
  );
}

/**
 * The memory of a heap of `size` bytes, whole from the start; the kernel commits its pages as they are
 * touched. It is shared, although one thread alone works on it: what is not shared counts as the thread's
 * garbage to come, and so much of it makes V8 look through all objects at once, amidst the start.
 * Throws RangeError if that is not a size that a heap can have, or the memory cannot be had.
 */
export function newHeapMemory(size: number): WebAssembly.Memory {
  requireHeapSize(size);
  const pages = Math.ceil(size / WASM_PAGE);
  try {
    if (size > MAX_MEMORY32) {
      const count = BigInt(pages);
      return new Memory64({ address: "i64", initial: count, maximum: count, shared: true });
    }
    return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  } catch (cause) {
    throw new RangeError(
      `Cannot get ${size} bytes of memory for the heap: try a smaller --memory, ` +
        "or raise the limit on address space (ulimit -v)",
      { cause },
    );
  }
}

/** Of the memory64 proposal, which TypeScript's declarations do not know yet. */
const Memory64 = WebAssembly.Memory as unknown as new (
  descriptor: { address: "i64"; initial: bigint; maximum: bigint; shared: boolean },
) => WebAssembly.Memory;

export class Heap {
  /** The address of its first byte. */
  readonly base: number;
  readonly size: number;
  readonly buddy: Buddy;
  readonly #waste: Waste;
  readonly #strict: boolean;
  readonly #io: DataView;
  readonly #bulk: Bulk;
  readonly #undo: Undo | undefined;
  readonly #dirty: Uint8Array;
  readonly #cleared: Uint8Array;
  readonly #dirtyPages: Uint16Array;
  readonly #workPerTurn: number;
  /**
   * One number: bytes that may still be moved and cleared in this turn. It can be overdrawn by small
   * requests. In an array, because a field would be boxed anew whenever it holds no small integer.
   */
  readonly budget = new Float64Array(1);
  /** One number, too: bytes that were cleared and moved in the turns that are over. */
  readonly worked = new Float64Array(1);
  /** For code that runs in the heap; undefined if the heap was not told what its state lies in. */
  readonly inside: Inside | undefined;
  readonly #memory: WebAssembly.Memory;
  readonly #reserved: number;
  /** Blocks of the orders below this are parts of a page, and nobody has to be told that they are cleared. */
  readonly #ordersInPage: number;
  readonly #reclaimer: Reclaimer | undefined;

  constructor(
    {
      memory,
      size,
      io,
      strict = false,
      workPerTurn = Infinity,
      reserved = 0,
      range = 0,
      state,
      undo,
      release,
    }: HeapOptions,
  ) {
    this.base = HEAP_BASE + range * RANGE_BYTES;
    this.size = size;
    this.#strict = strict;
    this.#io = new DataView(io.buffer);
    this.#bulk = bulk(memory, io);
    const { dirty, cleared, dirtyPages } = state?.heap ?? standAlone(heapShape(size));
    this.#dirty = dirty;
    this.#cleared = cleared;
    this.#dirtyPages = dirtyPages;
    this.#workPerTurn = workPerTurn;
    this.budget[0] = workPerTurn;
    this.#memory = memory;
    this.#reserved = reserved;
    this.#undo = undo;
    if (undo !== undefined) this.#recover(undo);
    const kept = state?.buddy ?? standAlone(buddyShape(size / GRAIN));
    this.buddy = undo === undefined
      ? new Buddy(size / GRAIN, kept)
      : new UndoableBuddy(size / GRAIN, kept, undo);
    this.#ordersInPage = undo === undefined ? ordersInPage(this.buddy.missing) : 0;
    const waste = state?.waste ?? standAlone(wasteShape(size / GRAIN));
    this.#waste = new Waste(GRAIN, this.buddy.missing, waste);
    this.#reclaimer = release && new Reclaimer({
      buddy: this.buddy,
      pages: dirty,
      cleared,
      dirtyPages,
      pagesPerRegion: 1 << REGION_SHIFT,
      grainsPerPage: PAGE_GRAINS,
      release: undo?.changes === undefined ? release : told(release, undo.changes),
    });
    if (reserved > 0) this.#reserve(orderFor(reserved));
    undo?.commit();
    this.inside = state?.memory && {
      memory,
      map: state.memory,
      pagesAt: dirty.byteOffset,
      regionsAt: dirtyPages.byteOffset,
      pageShift: PAGE_SHIFT,
      regionShift: REGION_SHIFT,
    };
  }

  /** If the state and the memory are those of a process that was killed, undoes what it had begun. */
  #recover(undo: Undo): void {
    undo.rollback((offset, length) => this.#markDirty(pageAt(offset), pageAt(offset + length - 1)));
    this.#dirtyPages.fill(0);
    for (let page = 0; page < this.#dirty.length; page++) {
      if (this.#dirty[page] !== 0) this.#dirtyPages[page >>> REGION_SHIFT]!++;
    }
  }

  /** Makes the block at the start a live one that is nobody's, unless it is one already. */
  #reserve(order: number): void {
    if (this.buddy.orderAt(0) === order) return;
    const grain = this.buddy.allocate(order);
    if (grain === 0) return;
    if (grain !== NONE) this.buddy.free(grain);
    throw new RangeError(
      `Cannot reserve the first ${this.#reserved} bytes of the heap: they are in use`,
    );
  }

  /** Whoever else waits has been served: there is time for work again. `second` is the time. */
  beginTurn(second: number): void {
    this.#undo?.changes?.beginTurn();
    if (this.budget[0] !== this.#workPerTurn) {
      this.worked[0]! += this.#workPerTurn - this.budget[0]!;
      this.budget[0] = this.#workPerTurn;
    }
    this.#reclaimer?.step(second);
  }

  /** Whether whoever copies the file cannot keep up, so that a turn is to be short. */
  get isPressed(): boolean {
    return this.#undo?.changes?.isPressed === true;
  }

  /** Whether another turn would give memory back, though there is nobody to serve. */
  get isReclaiming(): boolean {
    return this.#reclaimer !== undefined && this.#reclaimer.isBusy;
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
    if (order < this.#ordersInPage) {
      // Nearly all blocks: here, because a call of #zero takes longer than what is to be done.
      if (this.#dirty[grain >>> PAGE_GRAINS_SHIFT] !== CLEAN) {
        this.#bulk.zero(grain << GRAIN_SHIFT, grain >>> 32 - GRAIN_SHIFT, GRAIN << order);
        this.budget[0]! -= GRAIN << order;
      }
    } else if (!this.#zero(grain, 0, (1 << order) * GRAIN, false)) {
      this.buddy.free(grain);
      return Refusal.overBudget;
    }
    this.#waste.add(span, grain, order);
    setOffset(span, this.base, grain * GRAIN);
    return Refusal.none;
  }

  /** Frees the allocation at `span.pointer`. Like free(3), it does nothing for NULL. */
  free(span: Span): Refusal {
    if (span.pointer === NULL) return Refusal.none;
    const offset = offsetOf(span, this.base);
    if (!(offset >= this.#reserved && offset < this.size)) return Refusal.outsideHeap;
    if ((offset & (GRAIN - 1)) !== 0) return Refusal.notAllocated;
    const grain = grainAt(offset);
    const freed = this.buddy.free(grain);
    if (freed === Freed.freed) {
      this.#waste.remove(grain, this.buddy.freedOrder);
      return Refusal.none;
    }
    return freed === Freed.alreadyFree ? Refusal.alreadyFree : Refusal.notAllocated;
  }

  /** A copy of the bytes of the span, for what is no datagram; undefined if they are not in the heap. */
  copyOf(span: Span): Uint8Array<ArrayBuffer> | undefined {
    if (this.#admit(span) !== Refusal.none) return undefined;
    return new Uint8Array(this.#memory.buffer, offsetOf(span, this.base), span.length).slice();
  }

  /** Copies `length` bytes at `at` of the I/O memory to `offset`, in what is reserved. */
  put(offset: number, at: number, length: number): void {
    this.#bulk.store(offset, 0, at, length);
  }

  /** Notes that the bytes of the span, which must lie in the heap, were written by somebody else. */
  markDirty(span: Span): void {
    const offset = offsetOf(span, this.base);
    this.#markDirty(pageAt(offset), pageAt(offset + span.length - 1));
  }

  /** Grains of the allocation at `span.pointer`; 0 if there is none. */
  grainsOf(span: Span): number {
    const offset = offsetOf(span, this.base);
    if (!(offset >= this.#reserved && offset < this.size) || (offset & (GRAIN - 1)) !== 0) return 0;
    const order = this.buddy.orderAt(grainAt(offset));
    return order === NONE ? 0 : 1 << order;
  }

  /** The first grain of the allocation at `span.pointer`, which there must be. */
  grainOf(span: Span): number {
    return grainAt(offsetOf(span, this.base));
  }

  /** Copies the bytes of the span to `at` of the I/O memory. */
  read(span: Span, at: number): Refusal {
    const refusal = this.#admit(span);
    if (refusal !== Refusal.none) return refusal;
    const offset = offsetOf(span, this.base);
    this.#bulk.load(at, offset | 0, high(offset), span.length | 0);
    return Refusal.none;
  }

  /** Copies the bytes at `at` of the I/O memory to the span. */
  write(span: Span, at: number): Refusal {
    const refusal = this.#admit(span);
    if (refusal !== Refusal.none || span.length === 0) return refusal;
    const offset = offsetOf(span, this.base);
    this.#markDirty(pageAt(offset), pageAt(offset + span.length - 1));
    this.#undo?.save(offset | 0, high(offset), span.length | 0);
    this.#bulk.store(offset | 0, high(offset), at, span.length | 0);
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
    if (!(offset >= this.#reserved && offset < this.size)) return Refusal.outsideHeap;
    if ((offset & (GRAIN - 1)) !== 0) return Refusal.notAllocated;
    const grain = grainAt(offset);
    const order = this.buddy.orderAt(grain);
    if (order === NONE) {
      return this.buddy.isFree(grain) ? Refusal.alreadyFree : Refusal.notAllocated;
    }
    if (span.length === 0) {
      this.buddy.free(grain);
      this.#waste.remove(grain, order);
      span.pointer = NULL;
      return Refusal.none;
    }
    if (span.length > this.size) return Refusal.outOfMemory;
    const wanted = orderFor(span.length);
    const usable = (1 << wanted) * GRAIN;
    if (!this.buddy.resize(grain, order, wanted)) {
      return this.#move(span, grain, order, wanted);
    }
    const kept = Math.min((1 << order) * GRAIN, span.length);
    if (this.#zero(grain, kept, usable - kept, wanted <= order)) {
      this.#waste.remove(grain, order);
      this.#waste.add(span, grain, wanted);
      return Refusal.none;
    }
    this.buddy.resize(grain, wanted, order);
    return Refusal.overBudget;
  }

  /** Moves the allocation at `grain`, of `order`, to a block of a larger one. */
  #move(span: Span, grain: number, order: number, wanted: number): Refusal {
    const used = (1 << order) * GRAIN;
    if (used > PAGE) {
      if (this.budget[0]! <= 0) return Refusal.overBudget;
      this.budget[0]! -= (used / SEARCHED_PER_BYTE) | 0;
    }
    const work = used <= PAGE ? 0 : this.#dirtyBytes(grain, used);
    if (work > this.#workPerTurn) return Refusal.outOfMemory;
    const target = this.buddy.allocate(wanted);
    if (target === NONE) return Refusal.outOfMemory;
    if (
      !this.#zero(target, 0, (1 << wanted) * GRAIN, false) || work > 0 && work > this.budget[0]!
    ) {
      this.buddy.free(target);
      return Refusal.overBudget;
    }
    this.#copy(target, grain, used);
    this.buddy.free(grain);
    this.#waste.remove(grain, order);
    this.#waste.add(span, target, wanted);
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
    this.#bulk.load(at, offset | 0, high(offset), WORD);
    if (this.#io.getInt32(at) !== this.#io.getInt32(operands)) return Refusal.none;
    if (this.#io.getInt32(at + 4) !== this.#io.getInt32(operands + 4)) return Refusal.none;
    this.#markDirty(pageAt(offset), pageAt(offset));
    this.#undo?.save(offset | 0, high(offset), WORD);
    this.#bulk.store(offset | 0, high(offset), operands + WORD, WORD);
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
    this.#bulk.load(at, offset | 0, high(offset), WORD);
    const upper = this.#io.getUint32(at);
    const lower = this.#io.getUint32(at + 4);
    const sum = lower + this.#io.getUint32(operand + 4);
    const carry = sum >= 2 ** 32 ? 1 : 0;
    this.#io.setUint32(at, upper + this.#io.getUint32(operand) + carry); // modulo 2^32
    this.#io.setUint32(at + 4, sum);
    this.#markDirty(pageAt(offset), pageAt(offset));
    this.#undo?.save(offset | 0, high(offset), WORD);
    this.#bulk.store(offset | 0, high(offset), at, WORD);
    this.#io.setUint32(at, upper);
    this.#io.setUint32(at + 4, lower);
    return Refusal.none;
  }

  #admitWord(span: Span): Refusal {
    span.length = WORD;
    const refusal = this.#admit(span);
    if (refusal !== Refusal.none) return refusal;
    return (offsetOf(span, this.base) & (WORD - 1)) === 0 ? Refusal.none : Refusal.misaligned;
  }

  /** What may be accessed. Only after this has an offset a grain and a page. */
  #admit(span: Span): Refusal {
    const offset = offsetOf(span, this.base);
    const end = offset + span.length;
    if (!(offset >= 0 && end <= this.size)) return Refusal.outsideHeap;
    if (!this.#strict) return Refusal.none;
    if (offset === this.size) return Refusal.outsideLiveBlock;
    const grain = grainAt(offset); // NONE ends before every span
    return end <= this.buddy.endOfLive(grain) * GRAIN ? Refusal.none : Refusal.outsideLiveBlock;
  }

  /** Notes that pages may no longer be all zero. */
  #markDirty(first: number, last: number): void {
    for (let page = first; page <= last; page++) {
      const state = this.#dirty[page];
      if (state === DIRTY) continue;
      if (state === CLEAN) this.#dirtyPages[page >>> REGION_SHIFT]!++;
      this.#dirty[page] = DIRTY;
    }
  }

  /** The first dirty page from `page` to `last`; beyond `last` if there is none. */
  #nextDirty(page: number, last: number): number {
    while (page <= last) {
      if (this.#dirty[page] !== CLEAN) return page;
      const region = page >>> REGION_SHIFT;
      page = this.#dirtyPages[region] === 0 ? (region + 1) << REGION_SHIFT : page + 1;
    }
    return page;
  }

  /**
   * Zeroes the bytes from `skip` after the start of `grain`, leaving alone the pages that were not
   * written since they were last zeroed. False if this turn has not the time for all of it; what is no
   * more than a page is always done. Bytes that somebody `owned` until now come back if that is undone.
   */
  #zero(grain: number, skip: number, length: number, owned: boolean): boolean {
    if (length === 0) return true;
    if (length > PAGE) {
      if (this.budget[0]! <= 0) return false;
      this.budget[0]! -= (length / SEARCHED_PER_BYTE) | 0;
    }
    const offset = grain * GRAIN + skip;
    const end = offset + length;
    const last = pageAt(end - 1);
    let page = this.#nextDirty(pageAt(offset), last);
    for (; page <= last; page = this.#nextDirty(page + 1, last)) {
      if (this.budget[0]! <= 0 && length > PAGE) return false;
      const from = Math.max(offset, page * PAGE);
      const to = Math.min(end, (page + 1) * PAGE);
      if (owned) this.#undo?.save(from | 0, high(from), (to - from) | 0);
      else this.#undo?.changes?.heap(page, page);
      this.#bulk.zero(from | 0, high(from), (to - from) | 0);
      this.budget[0]! -= to - from;
      if (to - from === PAGE) {
        this.#dirty[page] = CLEAN;
        this.#cleared[page] = 1;
        this.#dirtyPages[page >>> REGION_SHIFT]!--;
      }
    }
    return true;
  }

  /**
   * How much of the block at `grain` lies in dirty pages, in bytes; whole regions are not looked through.
   */
  #dirtyBytes(grain: number, length: number): number {
    const offset = grain * GRAIN;
    const end = Math.ceil((offset + length) / PAGE);
    const region = 1 << REGION_SHIFT;
    let pages = 0;
    for (let page = pageAt(offset); page < end;) {
      if ((page & (region - 1)) === 0 && page + region <= end) {
        pages += this.#dirtyPages[page >>> REGION_SHIFT]!;
        page += region;
      } else {
        if (this.#dirty[page] !== CLEAN) pages++;
        page++;
      }
    }
    return pages * PAGE;
  }

  /**
   * Copies the block at `grain` to one where all is zero; so what lies in clean pages need not be copied.
   */
  #copy(target: number, grain: number, length: number): void {
    const offset = grain * GRAIN;
    const end = offset + length;
    const last = pageAt(end - 1);
    let page = this.#nextDirty(pageAt(offset), last);
    for (; page <= last; page = this.#nextDirty(page + 1, last)) {
      const from = Math.max(offset, page * PAGE);
      const size = Math.min(end, (page + 1) * PAGE) - from;
      const to = target * GRAIN + (from - offset);
      this.#markDirty(pageAt(to), pageAt(to + size - 1));
      this.#undo?.changes?.heap(pageAt(to), pageAt(to + size - 1));
      this.#bulk.move(to | 0, high(to), from | 0, high(from), size | 0);
      this.budget[0]! -= size;
    }
  }
}

/** The same, and what is released is told. */
function told(release: Release, changes: Changes): Release {
  return (first, count) => {
    changes.heap(first, first + count - 1);
    return release(first, count);
  };
}

/** The offset of a span's address; it may lie outside the heap, and is small enough for V8 to inline. */
function offsetOf(span: Span, base: number): number {
  return span.pointer - base;
}

/** The twin of `offsetOf`. */
function setOffset(span: Span, base: number, offset: number): void {
  span.pointer = base + offset;
}

/** The page that an offset in the heap lies in: by `| 0`, not by a shift, which would take it modulo 2^32. */
function pageAt(offset: number): number {
  return (offset / PAGE) | 0;
}

/** The grain that an offset in the heap lies in. */
function grainAt(offset: number): number {
  return (offset / GRAIN) | 0;
}

/**
 * How many orders there are whose blocks each lie in one page and are less than that: if there are `missing`
 * grains, pages begin at a multiple of their size less these.
 */
function ordersInPage(missing: number): number {
  const aligned = missing | PAGE_GRAINS / 2;
  return 32 - Math.clz32(aligned & -aligned);
}

/** The order of the smallest block that holds `length` bytes, of which there are at most MAX_HEAP. */
export function orderFor(length: number): number {
  if (length <= GRAIN) return 0;
  return 32 - Math.clz32(length <= MAX_MEMORY32 ? length - 1 >>> 4 : grainAt(length - 1));
}
