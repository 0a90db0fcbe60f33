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
  /** The place of each member among them; some places may be nobody's. */
  readonly members?: Readonly<Record<string, number>>;
}

const ENGINES = { datagram: 0, syscall: 1, quic: 2, cluster: 3 } as const;

/** So many orders has the largest heap. */
export const ORDERS = 1 + Math.log2(MAX_HEAP / GRAIN);

/** By a block's size in bytes: its order. */
const SIZES = Object.fromEntries(
  Array.from({ length: ORDERS }, (_, order) => [GRAIN * 2 ** order, order]),
);

/**
 * Latencies have a bucket for each power of two of nanoseconds: what takes less than 2^10 is in the first
 * one, what takes 2^30 and more in the last. By the end of a bucket, which is not in it any more, its place.
 */
const FIRST_BITS = 10;
const LAST_BITS = 31;
const LATENCIES: Record<string, number> = { inf: LAST_BITS - FIRST_BITS };
for (let bits = FIRST_BITS; bits < LAST_BITS; bits++) LATENCIES[2 ** bits] = bits - FIRST_BITS;

const opcodes = Object.fromEntries(
  Object.entries(METHODS).map(([name, { opcode }]) => [name, opcode]),
);
const { none: _, ...reasons } = Refusal;

const counter = (help: string, unit?: Unit) =>
  ({ kind: "counter", help, ...unit && { unit } }) as const;
const gauge = (help: string, unit?: Unit) =>
  ({ kind: "gauge", help, ...unit && { unit } }) as const;

const TABLE = {
  uptime: gauge("time for which it has served", "seconds"),
  engine: { ...gauge("1 for the engine that serves"), by: "engine", members: ENGINES },
  version: { ...gauge("1 for the version that serves"), by: "version", members: { [VERSION]: 0 } },
  resident: gauge("memory of the process that is resident", "bytes"),

  received: counter("datagrams that came"),
  receivedBytes: counter("bytes of the datagrams that came", "bytes"),
  sent: counter("datagrams that went"),
  sentBytes: counter("bytes of the datagrams that went", "bytes"),
  turns: counter("looks at the socket that found datagrams: batches"),
  busy: gauge("1 while a batch is served, by a thread of its own (syscall engine)"),
  dropped: {
    ...counter("datagrams that were ignored because of their sender"),
    by: "cause",
    members: Drop,
  },
  kernelDrops: counter("datagrams that the kernel had no room for"),
  silent: counter("datagrams that were refused and got no answer"),
  sendErrors: counter("replies that the kernel would not take"),
  withheld: counter("replies to who has not proven its address that would have held up others"),
  receiveErrors: counter("errors of the socket that the daemon survived"),

  requests: { ...counter("requests"), by: "method", members: opcodes },
  refused: { ...counter("requests that were refused"), by: "reason", members: reasons },
  payload: {
    ...counter("bytes that requests were about, of those that were carried out", "bytes"),
    by: "method",
    members: {
      malloc: METHODS.malloc.opcode,
      realloc: METHODS.realloc.opcode,
      read: METHODS.read.opcode,
      write: METHODS.write.opcode,
    },
  },
  latency: {
    ...counter("datagrams by the time from receipt to reply"),
    by: "below",
    members: LATENCIES,
  },
  latencySum: counter("all of the times from receipt to reply", "nanoseconds"),

  heap: gauge("size of the heap", "bytes"),
  blocks: gauge("live allocations"),
  bytes: gauge("live allocations, as usable sizes", "bytes"),
  bytesAsked: gauge("about how much of them was asked for, by the mean of each size", "bytes"),
  highWater: gauge("the heap's start to the highest end of an allocation so far", "bytes"),
  largestFree: gauge("the largest malloc that fits now", "bytes"),
  fragmentation: gauge("1 - largest free block / all that is free", "millionths"),
  liveBlocks: { ...gauge("live blocks"), by: "size", members: SIZES },
  freeBlocks: { ...gauge("free blocks"), by: "size", members: SIZES },
  work: counter("bytes that were cleared for malloc and moved for realloc", "bytes"),

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
export interface Figure extends Family {
  /** That of its family, or with a member `refused.outOfMemory`. */
  readonly name: string;
  readonly family: FamilyName;
  readonly member?: string;
  /** Where in the array it is. */
  readonly at: number;
}

/** Every figure, in the order of the table; and where each family begins, with the member of place 0. */
export const { COUNTERS, Counter, COUNTERS_LENGTH } = layOut(TABLE);

/** Doubles: counts of up to 2^53, changed in place without making garbage. */
export type Counters = Float64Array;

function layOut(table: Readonly<Record<FamilyName, Family>>) {
  const figures: Figure[] = [];
  const places: [FamilyName, number][] = [];
  let end = 0;
  for (const [family, description] of Object.entries(table) as [FamilyName, Family][]) {
    places.push([family, end]);
    const { members } = description;
    if (members === undefined) {
      figures.push({ ...description, name: family, family, at: end++ });
      continue;
    }
    for (const [member, place] of Object.entries(members).sort(([, a], [, b]) => a - b)) {
      const name = `${family}.${member}`;
      figures.push({ ...description, name, family, member, at: end + place });
    }
    end += 1 + Math.max(...Object.values(members));
  }
  return {
    COUNTERS: figures as readonly Figure[],
    Counter: Object.fromEntries(places) as Readonly<Record<FamilyName, number>>,
    COUNTERS_LENGTH: end,
  };
}

/** Counts so many datagrams, each of which took `ns` nanoseconds, 0 to 2^31 - 1, from receipt to reply. */
export function noteLatency(counters: Counters, datagrams: number, ns: number): void {
  const place = 32 - Math.clz32(ns) - FIRST_BITS;
  counters[Counter.latency + (place < 0 ? 0 : place)]! += datagrams;
  counters[Counter.latencySum]! += datagrams * ns;
}

/** All figures of a family together. */
export function sumOf(counters: Counters, family: FamilyName): number {
  return COUNTERS.filter((figure) => figure.family === family)
    .reduce((sum, { at }) => sum + counters[at]!, 0);
}

/** Where a figure of a family is; throws if there is no such member. */
export function placeOf(family: FamilyName, member: string): number {
  const figure = COUNTERS.find((figure) => figure.family === family && figure.member === member);
  if (figure === undefined) throw new Error(`No figure is named ${family}.${member}`);
  return figure.at;
}

/** Every figure by name, in the order of the table. */
export function namedCounts(counters: Counters): [name: string, count: number][] {
  return COUNTERS.map(({ name, at }) => [name, counters[at]!]);
}

/** Gauges that a total has, too. */
const TOLD: readonly FamilyName[] = ["blocks", "bytes", "highWater"];

/** Of these, what a line of the log tells: counts that are not 0, without the many of the latencies. */
export function totals(counters: Counters): Record<string, number> {
  const told = COUNTERS.filter(({ kind, family }) =>
    kind === "counter" && !family.startsWith("latency") || TOLD.includes(family)
  );
  const counts = told.map(({ name, at }) => [name, counters[at]!] as const);
  return Object.fromEntries(counts.filter(([, count]) => count > 0));
}
