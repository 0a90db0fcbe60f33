/**
 * How many bytes of the live blocks nobody asked for. That of each block is kept, so that it is known when
 * the block is freed: one number for each block that there may be, order by order, so that those of
 * blocks of one size lie close together. Most are never touched.
 *
 *     order 0            | 1                | 2       | 3  | ...
 *     block 0  1  2  3   | 0  1  2  3  ...  | 0  1 ...
 */

import { type Arrays, float64, uint8 } from "./metadata.ts";

/** The first order of which more than 255 bytes can be wasted. */
const LARGE = 6;

/** The arrays for a heap of so many grains. */
export function wasteShape(grains: number) {
  const order = Math.ceil(Math.log2(grains));
  return {
    /** All of it, by the order of the blocks. */
    byOrder: float64(order + 1),
    small: uint8(2 ** (order + 1)),
    large: float64(2 ** Math.max(0, order + 1 - LARGE)),
  };
}

export class Waste {
  readonly #grain: number;
  readonly #missing: number;
  readonly #byOrder: Float64Array;
  readonly #small: Uint8Array;
  readonly #large: Float64Array;
  /** Where the numbers of each order begin, in the one array or the other. */
  readonly #first: Int32Array;

  /**
   * Of a heap that has grains of so many bytes, and lacks so many to a power of two. Of blocks that were live
   * before nothing is known: all passes for asked for.
   */
  constructor(
    grain: number,
    missing: number,
    { byOrder, small, large }: Arrays<ReturnType<typeof wasteShape>>,
  ) {
    this.#grain = grain;
    this.#missing = missing;
    this.#byOrder = byOrder;
    this.#small = small;
    this.#large = large;
    const first = (order: number, { length }: { length: number }) => length - length / 2 ** order;
    this.#first = Int32Array.from(
      byOrder,
      (_, order) => order < LARGE ? first(order, small) : first(order - LARGE, large),
    );
  }

  /** The block is now live, and `asked.length` of its bytes were asked for: in a field, as heap.ts says. */
  add(asked: { readonly length: number }, grain: number, order: number): void {
    const waste = (1 << order) * this.#grain - asked.length;
    const at = this.#first[order]! + (grain + this.#missing >>> order);
    if (order < LARGE) this.#small[at] = waste;
    else this.#large[at] = waste;
    this.#byOrder[order]! += waste;
  }

  /** Whatever was known, the state is another one now, with these live blocks: all passes for asked for. */
  forget(live: Iterable<[grain: number, order: number]>): void {
    this.#byOrder.fill(0);
    for (const [grain, order] of live) {
      this.add({ length: (1 << order) * this.#grain }, grain, order);
    }
  }

  /** The block is no longer live. */
  remove(grain: number, order: number): void {
    const at = this.#first[order]! + (grain + this.#missing >>> order);
    this.#byOrder[order]! -= order < LARGE ? this.#small[at]! : this.#large[at]!;
  }
}
