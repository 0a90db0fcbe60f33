/**
 * How long an owner may answer reads without asking the cluster: until the lease is over that it last
 * renewed. That is looked at on real clocks, whenever it matters: whoever was stopped for a while is told
 * by no timer. One clock does not stand still while the machine sleeps, the other is nobody's to set; the
 * lease is over as soon as one of them says so.
 */

/** For clocks that do not run alike: this part of a lease is not used. */
const MARGIN = 0.1;

export class Lease {
  #until = -Infinity;
  #untilByWall = -Infinity;

  /** `ms` is what the cluster grants. */
  constructor(readonly ms: number) {}

  /** What time it is, to be asked before the cluster is. */
  now(): { steady: number; wall: number } {
    return { steady: performance.now(), wall: Date.now() };
  }

  /** The cluster has granted it at some time after `asked`. */
  renew(asked: { steady: number; wall: number }): void {
    const used = this.ms * (1 - MARGIN);
    this.#until = asked.steady + used;
    this.#untilByWall = asked.wall + used;
  }

  get holds(): boolean {
    return performance.now() < this.#until && Date.now() < this.#untilByWall;
  }
}
