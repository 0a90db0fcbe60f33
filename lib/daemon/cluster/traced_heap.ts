/**
 * A heap that knows which of its bytes may differ from what the log has: for each page the batch that
 * changed it last. A reply that gives away bytes of a batch which might still be lost has to wait for it.
 */

import { GRAIN, Heap, type HeapOptions, type Span } from "../../heap/heap.ts";
import { PAGE } from "../../heap/metadata.ts";
import { Refusal } from "../../heap/refusal.ts";

export class TracedHeap extends Heap {
  /** The number of the batch that what is changed now will be part of. */
  batch = 1;
  /** The newest batch that what was read depends on, since whoever looks at this last set it to 0. */
  seen = 0;
  readonly #changed: Float64Array;
  /** The batch that may have changed anything. */
  #everything = 0;

  constructor(options: HeapOptions) {
    super(options);
    this.#changed = new Float64Array(Math.ceil(options.size / PAGE));
  }

  override malloc(span: Span): Refusal {
    return this.#traceBlock(span, super.malloc(span));
  }

  override free(span: Span): Refusal {
    // A strict heap no longer admits what an unlogged free has freed.
    const bytes = this.grainsOf(span) * GRAIN;
    const refusal = super.free(span);
    if (refusal === Refusal.none) this.#trace(span.pointer, bytes);
    return refusal;
  }

  override realloc(span: Span): Refusal {
    const before = span.pointer;
    const bytes = this.grainsOf(span) * GRAIN;
    const refusal = this.#traceBlock(span, super.realloc(span));
    if (refusal === Refusal.none) this.#trace(before, bytes);
    return refusal;
  }

  override read(span: Span, at: number): Refusal {
    const refusal = super.read(span, at);
    this.#look(span.pointer, span.length);
    return refusal;
  }

  override write(span: Span, at: number): Refusal {
    return this.#traceSpan(span, super.write(span, at));
  }

  override cas(span: Span, operands: number, at: number): Refusal {
    return this.#traceSpan(span, super.cas(span, operands, at));
  }

  override add(span: Span, operand: number, at: number): Refusal {
    return this.#traceSpan(span, super.add(span, operand, at));
  }

  #traceSpan(span: Span, refusal: Refusal): Refusal {
    if (refusal === Refusal.none) this.#trace(span.pointer, span.length);
    return refusal;
  }

  #traceBlock(span: Span, refusal: Refusal): Refusal {
    if (refusal === Refusal.none) this.#trace(span.pointer, this.grainsOf(span) * GRAIN);
    else if (refusal === Refusal.overBudget) this.#everything = this.batch;
    return refusal;
  }

  #trace(pointer: number, length: number): void {
    const offset = pointer - this.base;
    const first = Math.floor(offset / PAGE);
    const last = Math.floor((offset + length - 1) / PAGE);
    for (let page = first; page <= last; page++) this.#changed[page] = this.batch;
  }

  /** What is asked for may lie anywhere. */
  #look(pointer: number, length: number): void {
    const offset = pointer - this.base;
    const first = Math.max(0, Math.floor(offset / PAGE));
    const last = Math.min(this.#changed.length, Math.ceil((offset + length) / PAGE));
    let seen = Math.max(this.seen, this.#everything);
    for (let page = first; page < last; page++) seen = Math.max(seen, this.#changed[page]!);
    this.seen = seen;
  }
}
