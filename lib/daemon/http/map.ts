/**
 * The heap as a picture: at most 65,536 *cells*, each of which stands for the same power of two of grains,
 * from where the grains that are missing to a power of two would be, as the buddy allocator counts them.
 * Along a Hilbert curve a block of it is therefore a square, or two of them.
 *
 * The cells are read from the allocator's bitmaps, in another thread than changes them or in the same. A
 * cell inside one block is known from one bit, and with it all cells of that block; of a cell that is cut
 * up the live bits are counted. That takes no time from whoever allocates, and as long as it takes: a
 * *walk* through all cells is done in slices, of which each goes on where the last one stopped. What a
 * slice sees while it is changed may be neither the old nor the new; the next walk puts it right.
 *
 * A cell is 16 bits:
 *
 *     15       14        13      12    8   7     0
 *     | absent | touched | whole | order | fullness |
 *
 * - fullness: 0, nothing in it is live; 255, all is; between, how much of it.
 * - order: one more than that of the live blocks that make up most of it, or of the free block that it is
 *   part of; 0 if there is neither.
 * - whole: it is, or is part of, one block of that order.
 * - touched: a page of it was written once. What is not live and was never touched takes no memory.
 * - absent: it lies before the heap.
 */

import type { Buddy } from "../../heap/buddy.ts";
import { GRAIN } from "../../heap/heap.ts";
import { PAGE } from "../../heap/metadata.ts";

export const MAX_CELLS = 65536;

export const FULL = 255;
const ORDER_SHIFT = 8;
const WHOLE = 1 << 13;
const TOUCHED = 1 << 14;
const ABSENT = 1 << 15;

/** So many cells of one block are looked at in one step; the time is looked at after each. */
const STEP = 1024;

/** Cells of a run of changes: the length of one fits into 16 bits. */
const MAX_RUN = 32768;

const PAGE_GRAINS = PAGE / GRAIN;

/** For each page of the heap, whether it was written since it was zeroed, and whether it was ever zeroed. */
export interface Pages {
  readonly dirty: Uint8Array;
  readonly cleared: Uint8Array;
}

export class HeapMap {
  readonly cells: Uint16Array<ArrayBuffer>;
  /** The logarithm of a cell's grains. */
  readonly order: number;
  readonly #buddy: Buddy;
  readonly #pages: Pages;
  /** For each cell, the generation in which it was last seen to have changed. */
  readonly #changed: Float64Array;
  /** Where the walk goes on. */
  #next: number;

  /** Of no more cells than `maxCells`, a power of four. */
  constructor(buddy: Buddy, pages: Pages, maxCells = MAX_CELLS) {
    this.#buddy = buddy;
    this.#pages = pages;
    const grains = buddy.missing + buddy.grains;
    let cells = maxCells; // all powers of four: the picture is a square
    while (cells > grains) cells /= 4;
    this.order = Math.log2(grains / cells);
    this.cells = new Uint16Array(cells);
    this.#changed = new Float64Array(cells);
    this.#next = buddy.missing >>> this.order;
    this.cells.fill(ABSENT, 0, this.#next);
  }

  /**
   * Goes on with the walk for so many milliseconds, or to its end, which it tells. Cells that have changed
   * are of `generation` from now on, a number that only grows.
   */
  walk(generation: number, milliseconds: number): boolean {
    const deadline = performance.now() + milliseconds;
    while (this.#next < this.cells.length) {
      this.#next = this.#step(this.#next, generation);
      if (performance.now() >= deadline) break;
    }
    if (this.#next < this.cells.length) return false;
    this.#next = this.#buddy.missing >>> this.order;
    return true;
  }

  /**
   * The cells that have changed after generation `since`, all for 0, in runs: the first cell's number, how
   * many there are, and then these.
   */
  changes(since: number): Uint16Array<ArrayBuffer> {
    const { length } = this.cells;
    const runs = new Uint16Array(2 * length + 2 * Math.ceil(length / MAX_RUN));
    let used = 0;
    for (let cell = 0; cell < length;) {
      if (since !== 0 && this.#changed[cell]! <= since) {
        cell++;
        continue;
      }
      const head = used;
      const first = cell;
      used += 2;
      do runs[used++] = this.cells[cell++]!; while (
        cell < length && cell - first < MAX_RUN && (since === 0 || this.#changed[cell]! > since)
      );
      runs[head] = first;
      runs[head + 1] = cell - first;
    }
    return runs.subarray(0, used);
  }

  /** Looks at `cell`, and at those after it as far as they are of the same block; returns the next one. */
  #step(cell: number, generation: number): number {
    for (let order = this.order; order <= this.#buddy.maxOrder; order++) {
      const block = cell >>> order - this.order;
      const live = this.#buddy.isLiveBlock(order, block);
      if (!live && !this.#buddy.isFreeBlock(order, block)) continue;
      const end = Math.min(block + 1 << order - this.order, cell + STEP);
      const seen = WHOLE | order + 1 << ORDER_SHIFT | (live ? FULL : 0);
      for (; cell < end; cell++) this.#set(cell, seen, generation);
      return end;
    }
    this.#set(cell, this.#mixture(cell), generation);
    return cell + 1;
  }

  /** A cell that is cut up. */
  #mixture(cell: number): number {
    const from = cell << this.order;
    const to = from + 2 ** this.order;
    let [live, most, mostOf] = [0, 0, 0];
    for (let order = 0; order < this.order; order++) {
      const grains = this.#buddy.countLive(order, from >>> order, to >>> order) << order;
      live += grains;
      if (grains === 0 || grains < most) continue;
      most = grains;
      mostOf = order + 1;
    }
    const grains = to - Math.max(from, this.#buddy.missing);
    const fullness = live >= grains ? FULL : live === 0 ? 0 : 1 + Math.floor(live / grains * 254);
    return mostOf << ORDER_SHIFT | fullness;
  }

  #set(cell: number, seen: number, generation: number): void {
    const value = seen | (this.#isTouched(cell) ? TOUCHED : 0);
    if (this.cells[cell] === value) return;
    this.cells[cell] = value;
    this.#changed[cell] = generation;
  }

  #isTouched(cell: number): boolean {
    const { missing } = this.#buddy;
    const { dirty, cleared } = this.#pages;
    const from = Math.max(cell << this.order, missing) - missing;
    const to = (cell + 1 << this.order) - missing;
    const last = Math.floor((to - 1) / PAGE_GRAINS);
    for (let page = Math.floor(from / PAGE_GRAINS); page <= last; page++) {
      if (dirty[page] !== 0 || cleared[page] !== 0) return true;
    }
    return false;
  }
}
