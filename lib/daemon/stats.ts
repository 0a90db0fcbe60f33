/**
 * What the request `stats` is answered with: once the names of all figures, and then their values, one
 * field each in the order of the names, of which the first is the epoch. The names are text that is made
 * when somebody first asks; the values are copied from the counters without making garbage.
 */

import { type Counters, figures } from "./counters.ts";
import { Gauges } from "./gauges.ts";
import { FIELD } from "../protocol/wire.ts";
import type { State, StateOptions } from "./state.ts";

/** A line for each figure: `NAME counter`, or `NAME gauge`, and a unit if it has one. */
const lines = () => [
  "epoch gauge",
  ...figures().map(({ name, kind, unit }) =>
    unit === undefined ? `${name} ${kind}` : `${name} ${kind} ${unit}`
  ),
];

export class Stats {
  readonly #io: DataView;
  readonly #bytes: Uint8Array;
  readonly #counters: Counters;
  readonly #epoch: Int32Array;
  readonly #gauges: Gauges;
  #madeNames: Uint8Array | undefined;
  #madePlaces: Int32Array | undefined;

  constructor(options: StateOptions, state: State, io: WebAssembly.Memory) {
    this.#io = new DataView(io.buffer);
    this.#bytes = new Uint8Array(io.buffer);
    this.#counters = state.service.counters;
    this.#epoch = state.service.epoch;
    this.#gauges = new Gauges(options, state);
  }

  get #names(): Uint8Array {
    return this.#madeNames ??= new TextEncoder().encode(lines().join("\n"));
  }

  get #places(): Int32Array {
    return this.#madePlaces ??= Int32Array.from(figures(), ({ at }) => at);
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
    const places = this.#places;
    for (let i = 0; i < places.length; i++) {
      // As setField() does it, which would box the double if it was not inlined.
      const value = this.#counters[places[i]!]!;
      at += FIELD;
      this.#io.setUint32(at, value / 2 ** 32);
      this.#io.setUint32(at + 4, value);
    }
  }
}
