/** What the operator of an owner is told: that the cluster lets it wait, or that its log grows and grows. */

import type { Lease } from "./lease.ts";
import type { Log } from "../log.ts";
import type { Owner } from "./owner.ts";
import type { Range } from "./range.ts";

/** How often to look. */
export const WATCH_MS = 250;
/** After so long without an answer from the cluster it is told. */
const STALL_MS = 1000;
/** A log of so many times what a standby leaves of it is one that nobody cuts off. */
const LOG_FACTOR = 4;

/** What it looks at, the bytes of log after which a standby cuts it off, and whom it tells. */
export interface Watched {
  readonly owner: Pick<Owner, "underWay">;
  readonly range: Pick<Range, "number" | "reason" | "logBytes" | "snapshotBytes">;
  readonly lease: Pick<Lease, "holds">;
  readonly trim: number;
  readonly say: Log;
}

export class Watch {
  readonly #watched: Watched;
  /** What is waited for, and since when: a batch by its number, the lease as -1, or 0 for nothing. */
  #awaited = 0;
  #since = 0;
  #stalled = false;
  /** How long the log was when that was told; 0 if it need not be. */
  #told = 0;

  constructor(watched: Watched) {
    this.#watched = watched;
  }

  look(now = performance.now()): void {
    this.#lookForStalls(now);
    this.#lookAtLog();
  }

  #lookForStalls(now: number): void {
    const { owner, range, lease, say } = this.#watched;
    // Without a lease all that asks for something waits, be there anything to append or not.
    const awaited = owner.underWay || (lease.holds ? 0 : -1);
    if (awaited === 0 || awaited !== this.#awaited) {
      if (this.#stalled) {
        say({ msg: "resumed", after: `${((now - this.#since) / 1000).toFixed(1)}s` });
      }
      this.#awaited = awaited;
      this.#since = now;
      this.#stalled = false;
    } else if (!this.#stalled && now - this.#since > STALL_MS) {
      this.#stalled = true;
      const reason = range.reason || "too few nodes have what is appended";
      say({ msg: "stalled", level: "error", reason });
    }
  }

  /** It is told again whenever the log is twice as long as then. */
  #lookAtLog(): void {
    const { range: { logBytes, number, snapshotBytes }, trim, say } = this.#watched;
    if (logBytes <= LOG_FACTOR * Math.max(trim, snapshotBytes)) this.#told = 0;
    else if (logBytes > 2 * this.#told) {
      this.#told = logBytes;
      const reason = `the log of range ${number} has ${logBytes} bytes: no standby cuts it off`;
      say({ msg: "warning", level: "warn", reason });
    }
  }
}
