/**
 * What the daemon counts, in one array that is made once and that another thread may read while the
 * daemon serves: each count is a double of its own, so a reader sees it before or after, never torn.
 */

import { METHODS } from "../protocol/wire.ts";
import { Refusal } from "./refusal.ts";

/** What is counted beside requests and refusals. A gauge tells how much there is, and can fall. */
const OWN = {
  received: { help: "datagrams that came" },
  sent: { help: "datagrams that went" },
  sendErrors: { help: "replies that the kernel would not take" },
  receiveErrors: { help: "errors of the socket that the daemon survived" },
  dropped: { help: "datagrams from senders that may not talk to us" },
  kernelDrops: { help: "datagrams that the kernel had no room for" },
  silent: { help: "datagrams that were refused and got no answer" },
  replays: { help: "repeats answered from the duplicate request cache" },
  evictions: { help: "replies forgotten, to make room, while they could still be asked for" },
  blocks: { help: "live allocations now", gauge: true },
  bytes: { help: "bytes in live allocations now, as usable sizes", gauge: true },
  highWater: {
    help: "bytes from the heap's start to the highest end of an allocation",
    gauge: true,
  },
} as const;

export interface CounterDescription {
  readonly name: string;
  readonly help: string;
  readonly gauge?: boolean;
}

const OWN_NAMES = Object.keys(OWN) as (keyof typeof OWN)[];

/** Where each of our own counts is found. */
export const Counter = Object.fromEntries(
  OWN_NAMES.map((name, i) => [name, i]),
) as Record<keyof typeof OWN, number>;

/** Requests by opcode start here, refusals by number after them. */
export const REQUESTS = OWN_NAMES.length;
export const REFUSALS = REQUESTS + Object.keys(METHODS).length;

/** Every count, at its place in the array. What was refused is named `refused.REASON`. */
export const COUNTERS: readonly CounterDescription[] = (() => {
  const all: CounterDescription[] = OWN_NAMES.map((name) => ({ name, ...OWN[name] }));
  for (const [name, { opcode }] of Object.entries(METHODS)) {
    all[REQUESTS + opcode] = { name, help: `requests: ${name}` };
  }
  for (const [name, refusal] of Object.entries(Refusal)) {
    all[REFUSALS + refusal] = { name: `refused.${name}`, help: `requests refused: ${name}` };
  }
  return all;
})();

/** Doubles: counts of up to 2^53, changed in place without making garbage. */
export type Counters = Float64Array<SharedArrayBuffer>;

export function newCounters(): Counters {
  return new Float64Array(new SharedArrayBuffer(COUNTERS.length * Float64Array.BYTES_PER_ELEMENT));
}

/** Every count by name, in the order of the array. */
export function namedCounts(counters: Counters): [name: string, count: number][] {
  return COUNTERS
    .map(({ name }, i): [string, number] => [name, counters[i]!])
    .filter(([name]) => name !== "refused.none");
}
