/** What is measured, and how several measurements become one. */

import type { Report } from "../../lib/client/load/run.ts";
import type { Claim, LoadKey, ServerKey } from "./loads.ts";

export interface Measurement {
  /** Requests a second. */
  readonly rate: number;
  /** In microseconds, of UDP servers. */
  readonly latency?: Report["latency"];
  /** Requests without a reply. */
  readonly lost: number;
}

/** One measurement of each round, by load and server; nothing where a server is not to be had. */
export class Results {
  readonly #measurements = new Map<string, Measurement[]>();

  add(load: LoadKey, server: ServerKey, measurement: Measurement): void {
    const key = `${load} ${server}`;
    this.#measurements.set(key, [...this.of(load, server), measurement]);
  }

  of(load: LoadKey, server: ServerKey): readonly Measurement[] {
    return this.#measurements.get(`${load} ${server}`) ?? [];
  }

  /** The ratio that a claim is about, of each round; nothing if a server is missing. */
  ratios({ of, to, value }: Claim): number[] {
    const base = this.of(...to);
    return base.length === 0 ? [] : this.of(...of).map((measurement, round) => {
      return value(measurement) / value(base[round]!);
    });
  }
}

/** The middle one; the mean of the middle two of an even number. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  return (sorted[Math.floor(middle)]! + sorted[Math.ceil(middle)]!) / 2;
}
