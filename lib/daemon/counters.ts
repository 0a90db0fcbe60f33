/**
 * What the daemon counts, in one array that is made once and that another thread may read while the
 * daemon serves: each count is a double of its own, so a reader sees it before or after, never torn.
 */

import { METHODS } from "../protocol/wire.ts";
import { Refusal } from "./refusal.ts";

const NAMES = [
  "received", // datagrams that came
  "sent", // datagrams that went
  "sendErrors", // replies that the kernel would not take
  "receiveErrors", // errors of the socket that the daemon survived
  "dropped", // datagrams from senders that may not talk to us
  "kernelDrops", // datagrams that the kernel had no room for
  "silent", // datagrams that were refused and got no answer
  "replays", // repeats answered from the duplicate request cache
  "evictions", // replies forgotten, to make room, while they could still be asked for
  "blocks", // live allocations now
  "bytes", // bytes in live allocations now, as usable sizes
  "highWater", // bytes from the heap's start to the end of its highest allocation ever
] as const;

/** Where each count is found. */
export const Counter = Object.fromEntries(
  NAMES.map((name, i) => [name, i]),
) as Record<(typeof NAMES)[number], number>;

/** Requests by opcode start here, refusals by number after them. */
export const REQUESTS = NAMES.length;
export const REFUSALS = REQUESTS + Object.keys(METHODS).length;
const LENGTH = REFUSALS + Object.keys(Refusal).length;

/** Doubles: counts of up to 2^53, changed in place without making garbage. */
export type Counters = Float64Array<SharedArrayBuffer>;

export function newCounters(): Counters {
  return new Float64Array(new SharedArrayBuffer(LENGTH * Float64Array.BYTES_PER_ELEMENT));
}

/** Every count by name, in the order of the array; what was refused is named `refused.REASON`. */
export function namedCounts(counters: Counters): [name: string, count: number][] {
  const names = [
    ...NAMES,
    ...Object.keys(METHODS),
    ...Object.keys(Refusal).map((name) => `refused.${name}`),
  ];
  return names
    .map((name, i): [string, number] => [name, counters[i]!])
    .filter(([name]) => name !== "refused.none");
}
