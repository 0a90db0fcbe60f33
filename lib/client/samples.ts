/**
 * A daemon's statistics, looked at again and again: what was counted between two looks, as rates, and
 * quantiles of the latencies among that.
 */

import { type CallOptions, type Remote, StaleEpochError, type Stat } from "./remote.ts";

/** Of a family of figures, `latency.1024` and so on: the datagrams that took less than so many ns. */
const LATENCY = "latency.";

export class Sample {
  readonly stats: ReadonlyMap<string, Stat>;
  /** What was there before; undefined if nothing is known of that, and all rates are 0. */
  readonly #before: ReadonlyMap<string, Stat> | undefined;
  readonly seconds: number;

  /** `seconds` since `before`. */
  constructor(
    stats: ReadonlyMap<string, Stat>,
    before: ReadonlyMap<string, Stat> | undefined,
    seconds: number,
  ) {
    this.stats = stats;
    this.#before = before;
    this.seconds = seconds;
  }

  /** The names that are `name`, or members of it. */
  namesOf(name: string): string[] {
    if (this.stats.has(name)) return [name];
    return [...this.stats.keys()].filter((key) => key.startsWith(`${name}.`));
  }

  /** A figure or, of a family, the sum; 0 if there is none. */
  value(name: string): number {
    return sum(this.namesOf(name), this.stats);
  }

  /** By how much it has grown. */
  growth(name: string): number {
    if (this.#before === undefined) return 0;
    const names = this.namesOf(name);
    return sum(names, this.stats) - sum(names, this.#before);
  }

  /** The same for each second. */
  rate(name: string): number {
    return this.seconds > 0 ? this.growth(name) / this.seconds : 0;
  }

  /** What is shown of a name: a counter's rate, or how much there is of what is no count; whole. */
  figure(name: string): { title: string; value: number } {
    const isCount = this.stats.get(this.namesOf(name)[0] ?? "")?.kind === "counter";
    const value = Math.round(isCount ? this.rate(name) : this.value(name));
    return { title: isCount ? `${name}/s` : name, value };
  }

  /** Members of a family, without its name, and their names. */
  members(family: string): [member: string, name: string][] {
    return this.namesOf(family).map((name) => [name.slice(family.length + 1), name]);
  }

  /**
   * Nanoseconds below which this share of the latencies lies, of those since the sample before; undefined
   * if there are none. Inside a bucket they are taken to be spread evenly.
   */
  latency(share: number): number | undefined {
    const buckets = this.members(LATENCY.slice(0, -1))
      .map(([bound, name]) => ({ bound: Number(bound), count: this.growth(name) }));
    const all = buckets.reduce((sum, { count }) => sum + count, 0);
    if (all <= 0) return undefined;
    let rest = share * all;
    let low = 0;
    for (const { bound, count } of buckets) {
      if (rest <= count) return Number.isFinite(bound) ? low + (bound - low) * rest / count : low;
      rest -= count;
      if (Number.isFinite(bound)) low = bound;
    }
    return low;
  }
}

function sum(names: readonly string[], stats: ReadonlyMap<string, Stat>): number {
  return names.reduce((sum, name) => sum + Number(stats.get(name)?.value ?? 0), 0);
}

/** Takes samples. When the daemon was restarted it goes on with the new one, and begins anew. */
export class Sampler {
  readonly #remote: Remote;
  #last: { stats: ReadonlyMap<string, Stat>; time: number } | undefined;

  constructor(remote: Remote) {
    this.#remote = remote;
  }

  async next(options: CallOptions = {}): Promise<Sample> {
    let stats: ReadonlyMap<string, Stat>;
    try {
      stats = await this.#remote.stats(options);
    } catch (error) {
      if (!(error instanceof StaleEpochError)) throw error;
      await this.#remote.renew(options);
      this.#last = undefined;
      stats = await this.#remote.stats(options);
    }
    const time = performance.now();
    const last = this.#last;
    this.#last = { stats, time };
    return new Sample(stats, last?.stats, last === undefined ? 0 : (time - last.time) / 1000);
  }
}
