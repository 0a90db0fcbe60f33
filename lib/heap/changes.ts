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

const PAGE_SHIFT = 12;
const PAGE = 1 << PAGE_SHIFT;
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
  /** 1 if it is to wait when it has taken it. */
  halt: 2,
  /** Milliseconds that it is to rest before each turn. */
  rest: 3,
} as const;

export const MAX_ROUND = 255;

/** How long the thread that serves waits at the most; then it takes back the order to wait. */
export const MAX_HALT_MS = 50;

/** Plain data, which can be sent to another thread. */
export interface ChangesPlace {
  /** By a page's number in the file: the round. */
  readonly pages: Uint8Array<SharedArrayBuffer>;
  /** By a region's number: the last round in which one of its pages changed. */
  readonly regions: Uint8Array<SharedArrayBuffer>;
  readonly orders: Int32Array<SharedArrayBuffer>;
}

/** For a file of so many bytes. */
export function newChangesPlace(bytes: number): ChangesPlace {
  const pages = Math.ceil(bytes / PAGE);
  return {
    pages: new Uint8Array(new SharedArrayBuffer(pages)),
    regions: new Uint8Array(new SharedArrayBuffer((pages >>> REGION_SHIFT) + 1)),
    orders: new Int32Array(new SharedArrayBuffer(4 * Object.keys(Order).length)),
  };
}

/** Of a heap in a file: where it and the state begin there, and what the state knows about its pages. */
export interface ChangesOptions extends ChangesPlace {
  heapAt: number;
  stateAt: number;
  heap: { readonly dirty: Uint8Array; readonly cleared: Uint8Array };
}

/** The half of the thread that serves. Nothing of it makes garbage. */
export class Changes {
  /** The round that this thread is in. */
  round = 0;
  readonly #pages: Uint8Array;
  readonly #regions: Uint8Array;
  readonly #orders: Int32Array;
  readonly #heap: number;
  readonly #state: number;
  readonly #dirtyAt: number;
  readonly #clearedAt: number;

  constructor(
    { pages, regions, orders, heapAt, stateAt, heap: { dirty, cleared } }: ChangesOptions,
  ) {
    this.#pages = pages;
    this.#regions = regions;
    this.#orders = orders;
    this.#heap = heapAt / PAGE;
    this.#state = stateAt / PAGE;
    this.#dirtyAt = dirty.byteOffset;
    this.#clearedAt = cleared.byteOffset;
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
    this.round = round;
    Atomics.store(this.#orders, Order.taken, round);
    Atomics.notify(this.#orders, Order.taken);
    if (Atomics.wait(this.#orders, Order.halt, 1, MAX_HALT_MS) === "timed-out") {
      Atomics.compareExchange(this.#orders, Order.halt, 1, 0);
    }
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
