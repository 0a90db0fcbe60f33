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
  /** Where in the array it is. */
  readonly at: number;
}

const OWN_NAMES = Object.keys(OWN) as (keyof typeof OWN)[];

/** Where each of our own counts is found. */
export const Counter = Object.fromEntries(
  OWN_NAMES.map((name, i) => [name, i]),
) as Record<keyof typeof OWN, number>;

/** Requests by opcode start here, refusals by number after them. Opcodes need not be without gaps. */
export const REQUESTS = OWN_NAMES.length;
export const REFUSALS = REQUESTS + 1 + Math.max(...Object.values(METHODS).map((m) => m.opcode));

/** Every count, once. What was refused is named `refused.REASON`. */
export const COUNTERS: readonly CounterDescription[] = [
  ...OWN_NAMES.map((name) => ({ name, ...OWN[name], at: Counter[name] })),
  ...Object.entries(METHODS).map(([name, { opcode }]) => (
    { name, help: `requests: ${name}`, at: REQUESTS + opcode }
  )),
  ...Object.entries(Refusal).filter(([, refusal]) => refusal !== Refusal.none)
    .map(([name, refusal]) => (
      { name: `refused.${name}`, help: `requests refused: ${name}`, at: REFUSALS + refusal }
    )),
];
for (const key of ["at", "name"] as const) {
  if (new Set(COUNTERS.map((counter) => counter[key])).size !== COUNTERS.length) {
    throw new Error(`Two counters have the same ${key}`);
  }
}

/** How many doubles hold them. */
export const COUNTERS_LENGTH = 1 + Math.max(...COUNTERS.map(({ at }) => at));

/** Doubles: counts of up to 2^53, changed in place without making garbage. */
export type Counters = Float64Array;

/** Every count by name, in the order of the table. */
export function namedCounts(counters: Counters): [name: string, count: number][] {
  return COUNTERS.map(({ name, at }) => [name, counters[at]!]);
}
