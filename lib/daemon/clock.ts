/**
 * The daemon's own time, by which replies are remembered, tokens are good and budgets are filled. It
 * stands still while the daemon is stopped or its machine sleeps: what waited in the socket meanwhile
 * is then served as if it had just come, and finds the replies of its time.
 */

/** How often the time is told, and the most that it goes on between two times: a late timer is no stop. */
export const TICK_MS = 1000;
const LONGEST_STEP_MS = 2 * TICK_MS;

export class ServingTime {
  #last: number;
  #served: number;

  /** `now` is in milliseconds, of a clock that never goes back; `seconds` were served before. */
  constructor(now: number, seconds = 0) {
    this.#last = now;
    this.#served = seconds * 1000;
  }

  /** Whole seconds for which the daemon has served. */
  seconds(now: number): number {
    this.#served += Math.min(now - this.#last, LONGEST_STEP_MS);
    this.#last = now;
    return Math.floor(this.#served / 1000);
  }
}
