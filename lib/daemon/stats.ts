/**
 * What the request `stats` is answered with: once the names of all figures, and then their values, one
 * field each in the order of the names, of which the first is the epoch. The names are text that is made
 * once; the values are copied from the counters without making garbage.
 */

import { COUNTERS, type Counters } from "./counters.ts";
import { Gauges } from "./gauges.ts";
import { FIELD } from "../protocol/wire.ts";
import type { State, StateOptions } from "./state.ts";

/** A line for each figure: `NAME counter`, or `NAME gauge`, and a unit if it has one. */
const LINES = [
  "epoch gauge",
  ...COUNTERS.map(({ name, kind, unit }) =>
    unit === undefined ? `${name} ${kind}` : `${name} ${kind} ${unit}`
  ),
];

export class Stats {
  readonly #io: DataView;
  readonly #bytes: Uint8Array;
  readonly #counters: Counters;
  readonly #epoch: Int32Array;
  readonly #gauges: Gauges;
  readonly #names = new TextEncoder().encode(LINES.join("\n"));
  readonly #places = Int32Array.from(COUNTERS, ({ at }) => at);

  constructor(options: StateOptions, state: State, io: WebAssembly.Memory) {
    this.#io = new DataView(io.buffer);
    this.#bytes = new Uint8Array(io.buffer);
    this.#counters = state.service.counters;
    this.#epoch = state.service.epoch;
    this.#gauges = new Gauges(options, state);
  }

  /** Bytes of the names, and of the values. */
  get namesLength(): number {
    return this.#names.length;
  }

  get valuesLength(): number {
    return FIELD * (1 + this.#places.length);
  }

  /** Writes the names to `at` of the I/O memory. */
  writeNames(at: number): void {
    this.#bytes.set(this.#names, at);
  }

  /** Writes the values to `at` of the I/O memory. */
  writeValues(at: number): void {
    this.#gauges.refresh();
    this.#io.setInt32(at, this.#epoch[0]!);
    this.#io.setInt32(at + 4, this.#epoch[1]!);
    for (let i = 0; i < this.#places.length; i++) {
      // As setField() does it, which would box the double if it was not inlined.
      const value = this.#counters[this.#places[i]!]!;
      at += FIELD;
      this.#io.setUint32(at, value / 2 ** 32);
      this.#io.setUint32(at + 4, value);
    }
  }
}
