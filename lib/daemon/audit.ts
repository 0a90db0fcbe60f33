/**
 * Looks through all of a daemon's state for what does not agree with the rest: `--verify`, and
 * `mallocd audit`. It takes as long as it takes, and changes nothing.
 */

import { DuplicateRequestCache } from "./duplicate_request_cache.ts";
import type { State, StateOptions } from "./state.ts";
import { Buddy, BuddyFigure, buddyShape } from "../heap/buddy.ts";
import { GRAIN, HEAP_BASE } from "../heap/heap.ts";
import { type Fault, faultAt, PAGE, standAlone } from "../heap/metadata.ts";
import { CLEAN } from "../heap/reclaim.ts";
import { METHODS } from "../protocol/wire.ts";

/** Stretches of bytes of the heap that may not be zero, in order. */
export type Stretches = Iterable<readonly [from: number, end: number]>;

/** Where a file has the state, and the heap. */
export interface Places {
  stateAt: number;
  heapAt: number;
}

/**
 * The first fault, in words, with its offset in the file; undefined if there is none. `memory` is the heap's.
 * What was half done must have been undone.
 */
export function findFault(
  options: StateOptions,
  state: State,
  memory: WebAssembly.Memory,
  stretches: Stretches,
  { stateAt, heapAt }: Places,
): string | undefined {
  const told = (fault: Fault | undefined, from: number) =>
    fault && `${fault.what}, at byte ${from + fault.at} of the file`;
  return told(findOverlap(options, state), heapAt) ??
    told(findBlockFault(options, state), stateAt) ??
    told(findQuotaFault(options, state), stateAt) ??
    told(findReplyFault(options, state), stateAt) ??
    told(findPageFault(state, memory, stretches), heapAt);
}

/** A block that overlaps another, or would not lie where blocks of its size do. */
function findOverlap({ memory }: StateOptions, { buddy: kept }: State): Fault | undefined {
  const grains = memory / GRAIN;
  const made = new Buddy(grains);
  for (const [grain, order] of new Buddy(grains, kept).allLive()) {
    if (made.claim(grain, order)) continue;
    return { what: `a block of ${GRAIN * 2 ** order} bytes overlaps another`, at: grain * GRAIN };
  }
  return undefined;
}

/** All that is known about blocks follows from which are live: it is made again, and compared. */
function findBlockFault({ memory }: StateOptions, { buddy: kept }: State): Fault | undefined {
  const grains = memory / GRAIN;
  const again = standAlone(buddyShape(grains));
  const made = new Buddy(grains, again);
  let end = 0;
  for (const [grain, order] of new Buddy(grains, kept).allLive()) {
    made.claim(grain, order);
    end = Math.max(end, grain + 2 ** order);
  }
  for (const name of ["live", "free", "blocksInUse", "freeBlocks"] as const) {
    const [array, other] = [again[name], kept[name]];
    const at = differenceOf(array, other);
    if (at < 0) continue;
    return faultAt(`${name}[${at}] is ${other[at]}, and not ${array[at]}`, other, at);
  }
  const { highWater } = new Buddy(grains, kept);
  if (highWater >= end && highWater <= grains) return undefined;
  const what = `the highest block ends at ${end * GRAIN} of the heap, and not at ${
    highWater * GRAIN
  }`;
  return faultAt(what, kept.figures, BuddyFigure.highWater);
}

function differenceOf(one: Int32Array, other: Int32Array): number {
  for (let i = 0; i < one.length; i++) if (one[i] !== other[i]) return i;
  return -1;
}

/** What each address holds is the sum of its blocks. */
function findQuotaFault({ memory, quota: limit }: StateOptions, state: State): Fault | undefined {
  if (limit === undefined) return undefined;
  const { held, owner } = state.quota;
  const sums = new Int32Array(held.length);
  for (const [grain, order] of new Buddy(memory / GRAIN, state.buddy).allLive()) {
    sums[owner[grain]!]! += 2 ** order;
  }
  const at = differenceOf(sums, held);
  if (at < 0) return undefined;
  const [said, summed] = [held[at]! * GRAIN, sums[at]! * GRAIN];
  return faultAt(`an address holds ${said} bytes, and not ${summed}`, held, at);
}

/** The lists of the duplicate request cache, and pointers in it: each is of a block, live or freed since. */
function findReplyFault({ memory, replayCache }: StateOptions, state: State): Fault | undefined {
  const { service: { clock, counters }, cache: arrays } = state;
  const io = new WebAssembly.Memory({ initial: 1 });
  const cache = new DuplicateRequestCache(replayCache, io, clock, counters, arrays);
  const fault = cache.findFault();
  if (fault !== undefined) return fault;
  for (const [opcode, body, at] of cache.replies()) {
    if (opcode !== METHODS.malloc.opcode && opcode !== METHODS.realloc.opcode) continue;
    const offset = body - BigInt(HEAP_BASE);
    const isBlock = body === 0n ||
      offset >= 0n && offset < BigInt(memory) && offset % BigInt(GRAIN) === 0n;
    if (!isBlock) return { what: `a reply gives ${body}, which is no address of a block`, at };
  }
  return undefined;
}

/** A page that counts as clean is zero. */
function findPageFault(
  { heap: { dirty } }: State,
  memory: WebAssembly.Memory,
  stretches: Stretches,
): Fault | undefined {
  for (const [from, end] of stretches) {
    for (
      let page = Math.floor(from / PAGE);
      page < Math.min(dirty.length, Math.ceil(end / PAGE));
      page++
    ) {
      if (dirty[page] !== CLEAN) continue;
      const words = new Float64Array(memory.buffer, page * PAGE, PAGE / 8);
      if (words.some((word) => !Object.is(word, 0))) {
        return { what: "a page counts as zero, and is not", at: page * PAGE };
      }
    }
  }
  return undefined;
}
