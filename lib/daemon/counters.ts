/**
 * All that the daemon counts and measures: one table, which names each figure once. The totals in the log,
 * `stats` of the protocol, and whoever else shows figures are made of it.
 *
 * The figures lie in one array of shared memory, each a double of its own. The thread that serves changes
 * them in place; any thread may read them, and sees each before a change or after it, never torn. Those
 * that follow from what others keep (allocator, cache, quota) are not kept twice: gauges.ts brings them up
 * to date before they are read.
 */

import { Drop } from "./admission.ts";
import { GRAIN, MAX_HEAP } from "../heap/heap.ts";
import { METHODS } from "../protocol/wire.ts";
import { Refusal } from "./refusal.ts";
import { VERSION } from "../cli/version.ts";

/** A million millionths are 1, so that ratios are whole numbers, too. */
export type Unit = "bytes" | "seconds" | "nanoseconds" | "millionths";

/** What is said of a figure, or of all of a kind that are told apart by something. */
export interface Family {
  /** What it tells: a phrase. */
  readonly help: string;
  /** A counter begins with 0 and never falls; a gauge tells how much there is now. */
  readonly kind: "counter" | "gauge";
  /** What is counted; pieces, if it is left out. */
  readonly unit?: Unit;
  /** By what the members are told apart: `method`. */
  readonly by?: string;
  /** How many places there are for the members; some may be nobody's. */
  readonly places?: number;
  /** The place of each member. */
  readonly members?: () => Members;
}

type Members = Readonly<Record<string, number>>;

const ENGINES = { datagram: 0, syscall: 1, quic: 2, cluster: 3 } as const;

/** So many orders has the largest heap. */
const ORDERS = 1 + Math.log2(MAX_HEAP / GRAIN);

/** By a block's size in bytes: its order. */
const sizes = () =>
  Object.fromEntries(Array.from({ length: ORDERS }, (_, order) => [GRAIN * 2 ** order, order]));

/**
 * Latencies have a bucket for each power of two of nanoseconds: what takes less than 2^10 is in the first
 * one, what takes 2^30 and more in the last. By the end of a bucket, which is not in it any more, its place.
 */
const FIRST_BITS = 10;
const LAST_BITS = 31;
const BUCKETS = 1 + LAST_BITS - FIRST_BITS;
const latencies = () =>
  Object.fromEntries(
    Array.from({ length: BUCKETS }, (_, place) => [
      place === BUCKETS - 1 ? "inf" : 2 ** (FIRST_BITS + place),
      place,
    ]),
  );

const opcodes = Object.fromEntries(
  Object.entries(METHODS).map(([name, { opcode }]) => [name, opcode]),
);
const { none: _, ...reasons } = Refusal;

const counter = (help: string, unit?: Unit) =>
  ({ kind: "counter", help, ...unit && { unit } }) as const;
const gauge = (help: string, unit?: Unit) =>
  ({ kind: "gauge", help, ...unit && { unit } }) as const;

/** Members that have names. */
const named = (members: Members) => ({
  places: 1 + Math.max(...Object.values(members)),
  members: () => members,
});

const TABLE = {
  uptime: gauge("time for which it has served", "seconds"),
  engine: { ...gauge("1 for the engine that serves"), by: "engine", ...named(ENGINES) },
  version: { ...gauge("1 for the version that serves"), by: "version", ...named({ [VERSION]: 0 }) },
  resident: gauge("memory of the process that is resident", "bytes"),

  received: counter("datagrams that came"),
  receivedBytes: counter("bytes of the datagrams that came", "bytes"),
  sent: counter("datagrams that went"),
  sentBytes: counter("bytes of the datagrams that went", "bytes"),
  turns: counter("batches of datagrams that were served together"),
  busy: gauge("1 while a batch is served, by a thread of its own (syscall engine)"),
  dropped: {
    ...counter("datagrams that were ignored because of their sender"),
    by: "cause",
    ...named(Drop),
  },
  kernelDrops: counter("datagrams that the kernel had no room for"),
  silent: counter("datagrams that were refused and got no answer"),
  sendErrors: counter("replies that the kernel would not take"),
  withheld: counter("datagrams that got no reply because that would have held up others"),
  receiveErrors: counter("errors of the socket that the daemon survived"),

  requests: { ...counter("requests"), by: "method", ...named(opcodes) },
  refused: { ...counter("requests that were refused"), by: "reason", ...named(reasons) },
  payload: {
    ...counter("bytes that requests were about, of those that were carried out", "bytes"),
    by: "method",
    ...named({
      malloc: METHODS.malloc.opcode,
      realloc: METHODS.realloc.opcode,
      read: METHODS.read.opcode,
      write: METHODS.write.opcode,
    }),
  },
  latency: {
    ...counter("datagrams by the time from receipt to reply"),
    by: "below",
    places: BUCKETS,
    members: latencies,
  },
  latencySum: counter("all of the times from receipt to reply", "nanoseconds"),

  heap: gauge("size of the heap", "bytes"),
  blocks: gauge("live allocations"),
  bytes: gauge("live allocations, as usable sizes", "bytes"),
  bytesAsked: gauge("live allocations, as they were asked for", "bytes"),
  highWater: gauge("the heap's start to the highest end of an allocation so far", "bytes"),
  largestFree: gauge("the largest malloc that fits now", "bytes"),
  fragmentation: gauge("1 - largest free block / all that is free", "millionths"),
  liveBlocks: { ...gauge("live blocks"), by: "size", places: ORDERS, members: sizes },
  liveAsked: {
    ...gauge("live allocations, as they were asked for, by the size of the block", "bytes"),
    by: "size",
    places: ORDERS,
    members: sizes,
  },
  freeBlocks: { ...gauge("free blocks"), by: "size", places: ORDERS, members: sizes },
  work: counter("bytes cleared and moved, and searches and procedures as so many", "bytes"),

  replays: counter("repeats answered from the duplicate request cache"),
  evictions: counter("replies forgotten, to make room, while they could still be asked for"),
  replayEntries: gauge("replies that are remembered"),
  replaySenders: gauge("accounts of senders to whom these were given"),
  replayRoom: gauge("replies that can be remembered"),
  logged: counter("batches of changes that the cluster has got"),
  loggedBytes: counter("bytes of these", "bytes"),
  held: gauge("requests and replies that wait for the cluster", "bytes"),
  copies: gauge("nodes of the cluster that have what was logged last, or the lease"),
  log: gauge("what the cluster holds of these since the last snapshot", "bytes"),

  quota: gauge("what one address may hold, 0 for no limit", "bytes"),
  quotaHolders: gauge("addresses that hold anything, where there is a quota"),
} as const satisfies Readonly<Record<string, Family>>;

export type FamilyName = keyof typeof TABLE;

/** All that is said of a figure. */
export interface Figure extends Omit<Family, "places" | "members"> {
  /** That of its family, or with a member `refused.outOfMemory`. */
  readonly name: string;
  readonly family: FamilyName;
  readonly member?: string;
  /** Where in the array it is. */
  readonly at: number;
}

const families = Object.entries(TABLE) as [FamilyName, Family][];

let end = 0;
const starts = families.map(([family, { places = 1 }]) =>
  [family, (end += places) - places] as const
);

/** Where each family begins, with the member of place 0. */
export const Counter = Object.fromEntries(starts) as Readonly<Record<FamilyName, number>>;
export const COUNTERS_LENGTH = end;

/** Doubles: counts of up to 2^53, changed in place without making garbage. */
export type Counters = Float64Array;

let made: readonly Figure[] | undefined;

/**
 * Every figure, in the order of the table. They are made when somebody first asks: the names of sizes alone
 * let V8's cache of numbers as text grow by 400 KB, and a daemon that starts would collect garbage.
 */
export function figures(): readonly Figure[] {
  return made ??= families.flatMap(([family, { places: _, members, ...description }]): Figure[] => {
    const start = Counter[family];
    if (members === undefined) return [{ ...description, name: family, family, at: start }];
    return Object.entries(members())
      .sort(([, a], [, b]) => a - b)
      .map(([member, place]) => {
        const name = `${family}.${member}`;
        return { ...description, name, family, member, at: start + place };
      });
  });
}

/** Counts so many datagrams, each of which took `ns` nanoseconds, 0 to 2^31 - 1, from receipt to reply. */
export function noteLatency(counters: Counters, datagrams: number, ns: number): void {
  const place = 32 - Math.clz32(ns) - FIRST_BITS;
  counters[Counter.latency + (place < 0 ? 0 : place)]! += datagrams;
  counters[Counter.latencySum]! += datagrams * ns;
}

/** All figures of a family together. */
export function sumOf(counters: Counters, family: FamilyName): number {
  const { places = 1 }: Family = TABLE[family];
  return counters.subarray(Counter[family], Counter[family] + places)
    .reduce((sum, count) => sum + count, 0);
}

/** Where a figure of a family is; throws if there is no such member. */
export function placeOf(family: FamilyName, member: string): number {
  const { members }: Family = TABLE[family];
  const place = members?.()[member];
  if (place === undefined) throw new Error(`No figure is named ${family}.${member}`);
  return Counter[family] + place;
}

/** Every figure by name, in the order of the table. */
export function namedCounts(counters: Counters): [name: string, count: number][] {
  return figures().map(({ name, at }) => [name, counters[at]!]);
}

/** Gauges that a total has, too. */
const TOLD: readonly FamilyName[] = ["blocks", "bytes", "highWater"];

/** Of these, what a line of the log tells: counts that are not 0, without the many of the latencies. */
export function totals(counters: Counters): Record<string, number> {
  const told = figures().filter(({ kind, family }) =>
    kind === "counter" && !family.startsWith("latency") || TOLD.includes(family)
  );
  const counts = told.map(({ name, at }) => [name, counters[at]!] as const);
  return Object.fromEntries(counts.filter(([, count]) => count > 0));
}
