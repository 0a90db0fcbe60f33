/**
 * A buddy whose every store can be undone, for state that outlives its process. Apart from it the plain
 * one asks nothing of an undo log that it has not.
 */

import { Buddy, BuddyFigure, type buddyShape } from "./buddy.ts";
import type { Arrays } from "./metadata.ts";
import type { Undo } from "./undo.ts";

export class UndoableBuddy extends Buddy {
  readonly #undo: Undo;

  constructor(grains: number, arrays: Arrays<ReturnType<typeof buddyShape>>, undo: Undo) {
    super(grains, arrays);
    this.#undo = undo;
  }

  protected override setFree(order: number, block: number): void {
    this.#noteFree(order, block);
    super.setFree(order, block);
  }

  protected override clearFree(order: number, block: number): void {
    this.#noteFree(order, block);
    super.clearFree(order, block);
  }

  protected override setLive(order: number, block: number): void {
    this.#noteLive(order, block);
    if (this.endOf(order, block) > this.highWater) {
      this.#undo.note(this.figures, BuddyFigure.highWater);
    }
    super.setLive(order, block);
  }

  protected override clearLive(order: number, block: number): void {
    this.#noteLive(order, block);
    super.clearLive(order, block);
  }

  /** Notes what setting or clearing a free bit stores: up to the first level in whose word it is not alone. */
  #noteFree(order: number, block: number): void {
    this.#undo.note(this.freeBlocks, order);
    for (let level = 0; level < this.levels[order]!; level++) {
      const bit = 1 << (block & 31);
      block >>>= 5;
      const at = this.level[order * this.maxLevels + level]! + block;
      this.#undo.note(this.freeBits, at);
      if ((this.freeBits[at]! & ~bit) !== 0) return;
    }
  }

  #noteLive(order: number, block: number): void {
    this.#undo.note(this.liveBits, this.liveBase[order]! + block >>> 5);
    this.#undo.note(this.blocksInUse, order);
  }
}
