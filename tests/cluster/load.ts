/** Counters that are added to without pause, to see what a fault costs. */

import { Remote } from "../../lib/client/remote.ts";

const COUNTERS = 48;
/** Longer than any failover that is tested. */
const TIMEOUT_MS = 20_000;

export interface Outcome {
  /** Additions that were acknowledged, and those whose call failed. */
  acknowledged: number;
  unanswered: number;
  /** Additions that were acknowledged but are not in a counter's value. */
  lost: number;
  /** Counters that hold more than was asked for. */
  twice: number;
  /** Milliseconds between two acknowledgements, the longest. */
  gap: number;
}

export class Load implements AsyncDisposable {
  readonly #remote: Remote;
  readonly #block: bigint;
  readonly #acknowledged = new Array<number>(COUNTERS).fill(0);
  readonly #asked = new Array<number>(COUNTERS).fill(0);
  #unanswered = 0;
  #wrong = 0;
  #gap = 0;
  #last = performance.now();
  #stopped = false;
  #loops: Promise<void>[] = [];

  private constructor(remote: Remote, block: bigint) {
    this.#remote = remote;
    this.#block = block;
  }

  /** Begins with daemons of one cluster. */
  static async start(servers: readonly string[]): Promise<Load> {
    const remote = await Remote.connect({ server: servers.join(), timeout: TIMEOUT_MS });
    const load = new Load(remote, await remote.malloc(8 * COUNTERS));
    load.#last = performance.now();
    load.#loops = Array.from({ length: COUNTERS }, (_, i) => load.#loop(i));
    return load;
  }

  get acknowledged(): number {
    return this.#acknowledged.reduce((sum, count) => sum + count);
  }

  async #loop(i: number): Promise<void> {
    while (!this.#stopped) {
      this.#asked[i]!++;
      try {
        const old = await this.#remote.fetchAndAdd(this.#block + BigInt(8 * i), 1n);
        if (this.#unanswered === 0 && old !== BigInt(this.#acknowledged[i]!)) this.#wrong++;
        this.#acknowledged[i]!++;
      } catch {
        this.#unanswered++;
        continue;
      }
      const now = performance.now();
      this.#gap = Math.max(this.#gap, now - this.#last);
      this.#last = now;
    }
  }

  /** Stops adding, waits for the last answers, and looks at what is there. */
  async stop(): Promise<Outcome & { wrong: number }> {
    this.#stopped = true;
    await Promise.all(this.#loops);
    let [lost, twice] = [0, 0];
    const bytes = await this.#remote.read(this.#block, 8 * COUNTERS);
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    for (let i = 0; i < COUNTERS; i++) {
      const value = Number(view.getBigUint64(8 * i));
      lost += Math.max(0, this.#acknowledged[i]! - value);
      if (value > this.#asked[i]!) twice++;
    }
    const { acknowledged } = this;
    await this.#remote.close();
    return {
      acknowledged,
      unanswered: this.#unanswered,
      lost,
      twice,
      wrong: this.#wrong,
      gap: Math.round(this.#gap),
    };
  }

  /** Gives up what is under way; does nothing after `stop`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopped = true;
    await this.#remote.close();
    await Promise.all(this.#loops);
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
