/**
 * Which pages of a heap file have changed since when, for whoever copies it meanwhile. Time is cut into
 * *rounds*, numbered from 1 to 255, each of which begins between two turns of the thread that serves: a
 * page is marked with the number of the round in which it changed last. So whoever has ordered round n + 1,
 * and sees that it was taken, finds all pages that changed in round n: those with that number, and those
 * which have changed again since and will be found in round n + 1. Round 0 is none, and nothing is marked.
 *
 *     pages    | n | 0 | 0 | n+1 | 0 | ...      a byte for each 4 KiB of the file
 *
 * What a request changes is told by the undo log when it is done; what is not undone (memory that nobody
 * owns, and what is known about pages) is told by the heap.
 */

import { PAGE, PAGE_SHIFT } from "./metadata.ts";

/** Pages are counted by regions of 4 MiB, so that to find few of many takes no time. */
export const REGION_SHIFT = 10;
/** 32-bit words of a page. */
const WORDS_SHIFT = PAGE_SHIFT - 2;

/** Numbers by which the two threads give orders and take them. */
export const Order = {
  /** The round in which the thread that serves is to be. */
  round: 0,
  /** The round in which it is. */
  taken: 1,
  /** 1 if it is to keep what has changed in the round that ends, as it is then. */
  keep: 2,
  /** How many pages it has kept, or TOO_MANY; and how long that took, in microseconds. */
  kept: 3,
  keptUs: 4,
  /** Milliseconds that it is to rest before each turn. */
  rest: 5,
} as const;

export const MAX_ROUND = 255;

/** So many pages can be kept. */
export const MAX_KEPT = 1024;
export const TOO_MANY = -1;

/** Plain data, which can be sent to another thread. */
export interface ChangesPlace {
  /** By a page's number in the file: the round. */
  readonly pages: Uint8Array<SharedArrayBuffer>;
  /** By a region's number: the last round in which one of its pages changed. */
  readonly regions: Uint8Array<SharedArrayBuffer>;
  readonly orders: Int32Array<SharedArrayBuffer>;
  /** The pages that are kept: their numbers, in order, and what is in them. */
  readonly keptPages: Int32Array<SharedArrayBuffer>;
  readonly kept: Uint8Array<SharedArrayBuffer>;
}

/** For a file of so many bytes. */
export function newChangesPlace(bytes: number): ChangesPlace {
  const pages = Math.ceil(bytes / PAGE);
  return {
    pages: new Uint8Array(new SharedArrayBuffer(pages)),
    regions: new Uint8Array(new SharedArrayBuffer((pages >>> REGION_SHIFT) + 1)),
    orders: new Int32Array(new SharedArrayBuffer(4 * Object.keys(Order).length)),
    keptPages: new Int32Array(new SharedArrayBuffer(4 * MAX_KEPT)),
    kept: new Uint8Array(new SharedArrayBuffer(MAX_KEPT * PAGE)),
  };
}

/** Of a heap in a file: its memory, where it and the state begin there, and what the state knows about its pages. */
export interface ChangesOptions extends ChangesPlace {
  memory: WebAssembly.Memory;
  heapAt: number;
  stateAt: number;
  heap: { readonly dirty: Uint8Array; readonly cleared: Uint8Array };
  /** What changes in the state without being told: it is kept in any case. */
  untold: readonly ArrayBufferView[];
}

/** The half of the thread that serves. Nothing of it makes garbage, but to keep pages, once a snapshot. */
export class Changes {
  /** The round that this thread is in. */
  round = 0;
  readonly #pages: Uint8Array;
  readonly #regions: Uint8Array;
  readonly #orders: Int32Array;
  readonly #keptPages: Int32Array;
  readonly #kept: Uint8Array;
  readonly #heap: number;
  readonly #state: number;
  readonly #dirtyAt: number;
  readonly #clearedAt: number;
  readonly #untold: readonly ArrayBufferView[];
  readonly #heapBytes: Uint8Array;
  readonly #stateBytes: Uint8Array;

  constructor(options: ChangesOptions) {
    const { heap: { dirty, cleared } } = options;
    this.#pages = options.pages;
    this.#regions = options.regions;
    this.#orders = options.orders;
    this.#keptPages = options.keptPages;
    this.#kept = options.kept;
    this.#heap = options.heapAt / PAGE;
    this.#state = options.stateAt / PAGE;
    this.#dirtyAt = dirty.byteOffset;
    this.#clearedAt = cleared.byteOffset;
    this.#untold = options.untold;
    this.#heapBytes = new Uint8Array(options.memory.buffer);
    this.#stateBytes = new Uint8Array(dirty.buffer);
  }

  /** Whether whoever copies cannot keep up: a turn is to be short then. */
  get isPressed(): boolean {
    return this.#orders[Order.rest] !== 0;
  }

  /** Takes the order for another round, if there is one: to be called when nothing is half done. */
  beginTurn(): void {
    const { round } = this;
    const wanted = Atomics.load(this.#orders, Order.round);
    if (wanted !== round) this.#take(wanted);
    else if (round !== 0) this.#rest(round);
  }

  #rest(round: number): void {
    const rest = this.#orders[Order.rest]!;
    if (rest === 0 || Atomics.wait(this.#orders, Order.round, round, rest) === "timed-out") return;
    this.#take(Atomics.load(this.#orders, Order.round));
  }

  #take(round: number): void {
    if (this.#orders[Order.keep] === 1) this.#keep();
    this.round = round;
    Atomics.store(this.#orders, Order.taken, round);
    Atomics.notify(this.#orders, Order.taken);
  }

  /** Copies what has changed in this round and not since: everybody waits for it. */
  #keep(): void {
    const start = performance.now();
    for (const { byteOffset, byteLength } of this.#untold) {
      this.#bytes(byteOffset, byteOffset + byteLength - 1);
    }
    const count = this.#find();
    for (let i = 0; i < count; i++) {
      const page = this.#keptPages[i]!;
      const [bytes, first] = page < this.#state
        ? [this.#heapBytes, this.#heap]
        : [this.#stateBytes, this.#state];
      const at = (page - first) * PAGE;
      this.#kept.set(bytes.subarray(at, at + PAGE), i * PAGE);
    }
    this.#orders[Order.kept] = count;
    this.#orders[Order.keptUs] = (performance.now() - start) * 1000;
  }

  /** Notes the numbers of all pages that have changed last in this round; how many, or TOO_MANY. */
  #find(): number {
    const [pages, regions, { round }] = [this.#pages, this.#regions, this];
    let count = 0;
    for (let region = regions.indexOf(round); region >= 0;) {
      const end = Math.min((region + 1) << REGION_SHIFT, pages.length);
      for (let page = region << REGION_SHIFT; page < end; page++) {
        if (pages[page] !== round) continue;
        if (count === MAX_KEPT) return TOO_MANY;
        this.#keptPages[count++] = page;
      }
      region = regions.indexOf(round, region + 1);
    }
    return count;
  }

  /** Bytes of the heap have changed, in its pages `first` to `last`; and so what is known about these. */
  heap(first: number, last: number): void {
    if (this.round === 0) return;
    for (let page = first; page <= last; page++) this.#mark(this.#heap + page);
    this.#bytes(this.#dirtyAt + first, this.#dirtyAt + last);
    this.#bytes(this.#clearedAt + first, this.#clearedAt + last);
  }

  /** A 32-bit word of the state has changed. */
  word(at: number): void {
    this.#mark(this.#state + (at >>> WORDS_SHIFT));
  }

  /** Bytes of the state have. */
  #bytes(first: number, last: number): void {
    for (let page = first >>> PAGE_SHIFT; page <= last >>> PAGE_SHIFT; page++) {
      this.#mark(this.#state + page);
    }
  }

  #mark(page: number): void {
    this.#pages[page] = this.round;
    this.#regions[page >>> REGION_SHIFT] = this.round;
  }
}
