/** What goes on, for who wants it in a line: the service manager. */

import { Counter, type Counters, sumOf } from "./counters.ts";
import type { Gauges } from "./gauges.ts";

export class Rates {
  readonly #gauges: Gauges;
  readonly #counters: Counters;
  #requests = 0;
  #time = performance.now();

  constructor(gauges: Gauges, counters: Counters) {
    this.#gauges = gauges;
    this.#counters = counters;
  }

  /** The requests a second are those since it was last called. */
  status(address: string): string {
    this.#gauges.refresh();
    const [requests, time] = [sumOf(this.#counters, "requests"), performance.now()];
    const rate = (requests - this.#requests) / Math.max(time - this.#time, 1) * 1000;
    [this.#requests, this.#time] = [requests, time];
    const { blocks, bytes } = Counter;
    return `serving on ${address}, requests/s: ${Math.round(rate)}, ` +
      `blocks: ${this.#counters[blocks]}, bytes: ${this.#counters[bytes]}`;
  }
}
