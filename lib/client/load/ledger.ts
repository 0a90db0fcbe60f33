/** What the clients of a load share: the clock, the schedule, and what has become of their requests. */

import { OPCODES } from "../../protocol/wire.ts";
import { Histogram } from "./histogram.ts";
import type { Workload } from "./workload.ts";

export class Ledger {
  readonly workload: Workload;
  /** Milliseconds, as performance.now() counts them. */
  now = 0;
  /** When the schedule began, and the last time that it reaches to. */
  begin = 0;
  end = Infinity;
  /** Milliseconds between two datagrams of the schedule; 0 in a closed loop. */
  readonly interval: number;
  /** Requests that were answered, or need no answer, by opcode. */
  readonly done = new Float64Array(OPCODES);
  lost = 0;
  wrong = 0;
  /** Those of them that the daemon would not carry out, as malloc when the heap is full. */
  refused = 0;
  /** Requests of an open loop that were due and never sent, because the rate was too high. */
  unsent = 0;
  /** Requests that were sent later than due because the client had its datagrams in flight. */
  held = 0;
  /** Of an open loop: by how much requests were sent later than due, unless they were held back. */
  readonly lateness = new Histogram();
  readonly #latencies: Histogram;
  /** Requests that are not recorded yet, and when they were due and answered. */
  #count = 0;
  #since = 0;
  #until = 0;

  constructor(workload: Workload, latencies: Histogram) {
    const { perDatagram, rate } = workload;
    this.workload = workload;
    this.#latencies = latencies;
    this.interval = rate === undefined ? 0 : 1000 * perDatagram / rate;
  }

  get requests(): number {
    return this.done.reduce((sum, count) => sum + count, 0);
  }

  /** Forgets what was counted so far. The histogram's owner does the same with it. */
  reset(): void {
    this.#count = 0;
    this.lateness.reset();
    this.done.fill(0);
    this.lost =
      this.wrong =
      this.refused =
      this.unsent =
      this.held =
        0;
  }

  /** Ends the schedule now: what was due is still sent, and what is in flight awaited. */
  stop(): void {
    this.end = this.interval === 0 ? -Infinity : this.now;
  }

  /** Notes that requests which were due at `since` are answered now. */
  answered(since: number, count: number): void {
    if (since !== this.#since || this.now !== this.#until) {
      this.flush();
      this.#since = since;
      this.#until = this.now;
    }
    this.#count += count;
  }

  /** Many requests in a row are due at one time, and answered at one time: they are recorded as one. */
  flush(): void {
    if (this.#count === 0) return;
    const nanoseconds = Math.round((this.#until - this.#since) * 1e6);
    this.#latencies.record(Math.max(nanoseconds, 1), this.#count);
    this.#count = 0;
  }
}
