/**
 * Measures times of nanoseconds to two seconds without garbage, by clock_gettime(2) into the arena: about
 * 30 ns a look. `performance.now()` returns a double, which V8 boxes.
 *
 *     0               8               16              24              32
 *     +-------+-------+-------+-------+-------+-------+-------+-------+
 *     |    seconds    |  nanoseconds  |    seconds    |  nanoseconds  |     start, stop: two timespecs
 *     +-------+-------+-------+-------+-------+-------+-------+-------+
 */

import { type Arena, CLOCK_MONOTONIC, type Libc, TIMESPEC } from "./libc.ts";
import type { Layout } from "./message.ts";

const SECOND = 1_000_000_000;
const LONGEST = 2 ** 31 - 1;

export function layOutStopwatch(layout: Layout): number {
  return layout.region(2 * TIMESPEC.size);
}

export class Stopwatch {
  readonly #libc: Libc<"clock_gettime">;
  readonly #view: DataView;
  readonly #start: number;
  readonly #stop: number;
  readonly #startAddress: bigint;
  readonly #stopAddress: bigint;

  /** `at` is what layOutStopwatch() returned for the arena. */
  constructor(libc: Libc<"clock_gettime">, arena: Arena, at: number) {
    this.#libc = libc;
    this.#view = arena.view;
    this.#start = at;
    this.#stop = at + TIMESPEC.size;
    this.#startAddress = arena.addressOf(this.#start);
    this.#stopAddress = arena.addressOf(this.#stop);
  }

  start(): void {
    this.#libc.symbols.clock_gettime(CLOCK_MONOTONIC, this.#startAddress);
  }

  /** Nanoseconds since `start()`; what is longer than two seconds is 2^31 - 1. */
  stop(): number {
    this.#libc.symbols.clock_gettime(CLOCK_MONOTONIC, this.#stopAddress);
    const seconds = this.#of(this.#stop, TIMESPEC.seconds) -
      this.#of(this.#start, TIMESPEC.seconds);
    const rest = this.#of(this.#stop, TIMESPEC.nanoseconds) -
      this.#of(this.#start, TIMESPEC.nanoseconds);
    return Math.min(seconds * SECOND + rest, LONGEST) | 0;
  }

  /** The lower half of a field, which is small enough. */
  #of(timespec: number, field: number): number {
    return this.#view.getInt32(timespec + field, true);
  }
}
