/**
 * Whether the engine serves: looked at from the main thread, for the service manager's watchdog and whoever
 * else asks. An engine that has nothing to do is as well as one that gets on.
 */

import { Counter, type Counters } from "./counters.ts";

/** So many looks in a row at the same turn mean that it will not end. */
const STUCK_AFTER = 3;

export class Pulse {
  readonly #counters: Counters;
  #turn = -1;
  #looks = 0;

  constructor(counters: Counters) {
    this.#counters = counters;
  }

  /** To be called once a second or so, for longer than any turn takes. */
  look(): void {
    const turn = this.#counters[Counter.turns]!;
    const isSame = this.#counters[Counter.busy] !== 0 && turn === this.#turn;
    this.#looks = isSame ? this.#looks + 1 : 0;
    this.#turn = turn;
  }

  /** False while it has been busy with one and the same turn for several looks. */
  get isServing(): boolean {
    return this.#looks < STUCK_AFTER;
  }
}
