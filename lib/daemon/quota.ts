/**
 * Quotas: how much of the heap one address may hold, in live blocks as they are cut, so that one client
 * that allocates everything leaves something to the others. Ports don't count. Each block remembers whose
 * it is, and counts back to its owner whoever frees it.
 *
 * An address is known by its place in a table, which a keyed hash finds; of two that fall into the same
 * place each has what the other leaves. Made once, without garbage: 2 bytes for each grain of the heap.
 */

import { type Arrays, int32, uint16 } from "../heap/metadata.ts";
import type { Undo } from "../heap/undo.ts";
import { GRAIN, type Heap, NULL, orderFor, type Span } from "../heap/heap.ts";
import { KeyedHash } from "../system/hash.ts";
import { Refusal } from "./refusal.ts";

const PLACES = 65536;

/** Where single numbers are kept. */
export const QuotaFigure = {
  /** Places that hold anything. */
  holders: 0,
} as const;

/** The arrays of the quotas of a heap of so many grains. */
export function quotaShape(grains: number) {
  return {
    figures: int32(Object.keys(QuotaFigure).length),
    /** Of the hash that finds places. */
    secrets: int32(2),
    /** Grains that each place holds. */
    held: int32(PLACES),
    /** By a block's first grain: the place of its owner. */
    owner: uint16(grains),
  };
}

export class Quota {
  readonly #heap: Heap;
  readonly #io: DataView;
  /** In grains. */
  readonly #limit: number;
  readonly #figures: Int32Array;
  readonly #held: Int32Array;
  readonly #owner: Uint16Array;
  readonly #hash: KeyedHash;
  readonly #undo: Undo | undefined;

  /** `bytes` for each address. Sources lie in the I/O memory. */
  constructor(
    bytes: number,
    heap: Heap,
    io: WebAssembly.Memory,
    { figures, secrets, held, owner }: Arrays<ReturnType<typeof quotaShape>>,
    undo?: Undo,
  ) {
    this.#undo = undo;
    this.#heap = heap;
    this.#io = new DataView(io.buffer);
    this.#limit = Math.floor(bytes / GRAIN);
    this.#figures = figures;
    this.#hash = new KeyedHash(secrets);
    this.#held = held;
    this.#owner = owner;
  }

  /** `heap.malloc`, or a refusal if `source` would hold too much. */
  malloc(span: Span, source: number): Refusal {
    if (span.length > this.#heap.size) return this.#heap.malloc(span);
    const place = this.#place(source);
    if (this.#held[place]! + (1 << orderFor(span.length)) > this.#limit) return Refusal.overQuota;
    const refusal = this.#heap.malloc(span);
    if (refusal === Refusal.none) this.#charge(span, place);
    return refusal;
  }

  free(span: Span): Refusal {
    const grains = this.#heap.grainsOf(span);
    if (grains > 0) this.#hold(this.#owner[this.#heap.grainOf(span)]!, -grains);
    return this.#heap.free(span);
  }

  /** `heap.realloc`: who asks for it is the owner of what comes of it. */
  realloc(span: Span, source: number): Refusal {
    const grains = this.#heap.grainsOf(span);
    if (span.length > this.#heap.size) return this.#heap.realloc(span);
    if (span.pointer === NULL) return this.malloc(span, source);
    if (grains === 0) return this.#heap.realloc(span);
    const place = this.#place(source);
    const owner = this.#owner[this.#heap.grainOf(span)]!;
    const more = span.length === 0 ? 0 : 1 << orderFor(span.length);
    const held = this.#held[place]! - (owner === place ? grains : 0);
    if (more > 0 && held + more > this.#limit) return Refusal.overQuota;
    const refusal = this.#heap.realloc(span);
    if (refusal !== Refusal.none) return refusal;
    this.#hold(owner, -grains);
    if (span.pointer !== NULL) this.#charge(span, place);
    return refusal;
  }

  #charge(span: Span, place: number): void {
    const grain = this.#heap.grainOf(span);
    this.#undo?.noteHalf(this.#owner, grain);
    this.#owner[grain] = place;
    this.#hold(place, this.#heap.grainsOf(span));
  }

  #hold(place: number, more: number): void {
    const before = this.#held[place]!;
    const now = before + more;
    this.#undo?.note(this.#held, place);
    this.#held[place] = now;
    const change = (now === 0 ? 0 : 1) - (before === 0 ? 0 : 1);
    if (change === 0) return;
    this.#undo?.note(this.#figures, QuotaFigure.holders);
    this.#figures[QuotaFigure.holders]! += change;
  }

  #place(source: number): number {
    return this.#hash.address(this.#io, source) & (PLACES - 1);
  }
}
