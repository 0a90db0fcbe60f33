/**
 * Looks through all of a daemon's state for what does not agree with the rest: `--verify`, and
 * `mallocd audit`. It takes as long as it takes, and changes nothing.
 */

import { DuplicateRequestCache } from "./duplicate_request_cache.ts";
import type { State, StateOptions } from "./state.ts";
import { Buddy, buddyShape } from "../heap/buddy.ts";
import { GRAIN, HEAP_BASE } from "../heap/heap.ts";
import { standAlone } from "../heap/metadata.ts";
import { CLEAN } from "../heap/reclaim.ts";
import { METHODS } from "../protocol/wire.ts";

const PAGE = 4096;

/** Stretches of bytes of the heap that may not be zero, in order. */
export type Stretches = Iterable<readonly [from: number, end: number]>;

/**
 * The first fault, in words, with its offset in the state if it has one; undefined if there is none.
 * `memory` is the heap's. What was half done must have been undone.
 */
export function findFault(
  options: StateOptions,
  state: State,
  memory: WebAssembly.Memory,
  stretches: Stretches,
): string | undefined {
  return findBlockFault(options, state) ?? findQuotaFault(options, state) ??
    findReplyFault(options, state) ?? findPageFault(state, memory, stretches);
}

/** All that is known about blocks follows from which are live: it is made again, and compared. */
function findBlockFault({ memory }: StateOptions, { buddy: kept }: State): string | undefined {
  const grains = memory / GRAIN;
  const again = standAlone(buddyShape(grains));
  const made = new Buddy(grains, again);
  let end = 0;
  for (const [grain, order] of new Buddy(grains, kept).allLive()) {
    if (!made.claim(grain, order)) {
      return `the block of ${GRAIN * 2 ** order} bytes at ${
        grain * GRAIN
      } of the heap overlaps another`;
    }
    end = Math.max(end, grain + 2 ** order);
  }
  for (const name of ["live", "free", "blocksInUse", "freeBlocks"] as const) {
    const [array, other] = [again[name], kept[name]];
    const at = differenceOf(array, other);
    if (at >= 0) {
      return `${name}[${at}] is ${other[at]}, and not ${array[at]}, at ${
        offsetOf(other, at)
      } of the state`;
    }
  }
  const { highWater } = new Buddy(grains, kept);
  return highWater < end || highWater > grains
    ? `the highest block ends at ${end * GRAIN} of the heap, and not at ${highWater * GRAIN}`
    : undefined;
}

function differenceOf(one: Int32Array, other: Int32Array): number {
  for (let i = 0; i < one.length; i++) if (one[i] !== other[i]) return i;
  return -1;
}

function offsetOf(array: Int32Array, index: number): number {
  return array.byteOffset + index * array.BYTES_PER_ELEMENT;
}

/** What each address holds is the sum of its blocks. */
function findQuotaFault({ memory, quota: limit }: StateOptions, state: State): string | undefined {
  if (limit === undefined) return undefined;
  const { held, owner } = state.quota;
  const sums = new Int32Array(held.length);
  for (const [grain, order] of new Buddy(memory / GRAIN, state.buddy).allLive()) {
    sums[owner[grain]!]! += 2 ** order;
  }
  const at = differenceOf(sums, held);
  return at < 0
    ? undefined
    : `an address holds ${held[at]! * GRAIN} bytes, and not ${sums[at]! * GRAIN}`;
}

/** The lists of the duplicate request cache, and pointers in it: each is of a block, live or freed since. */
function findReplyFault({ memory, replayCache }: StateOptions, state: State): string | undefined {
  const { service: { clock, counters }, cache: arrays } = state;
  const io = new WebAssembly.Memory({ initial: 1 });
  const cache = new DuplicateRequestCache(replayCache, io, clock, counters, arrays);
  const fault = cache.findFault();
  if (fault !== undefined) return fault;
  for (const [opcode, body] of cache.replies()) {
    if (opcode !== METHODS.malloc.opcode && opcode !== METHODS.realloc.opcode) continue;
    const offset = body - BigInt(HEAP_BASE);
    const isBlock = body === 0n ||
      offset >= 0n && offset < BigInt(memory) && offset % BigInt(GRAIN) === 0n;
    if (!isBlock) return `a reply gives ${body}, which is no address of a block`;
  }
  return undefined;
}

/** A page that counts as clean is zero. */
function findPageFault(
  { heap: { dirty } }: State,
  memory: WebAssembly.Memory,
  stretches: Stretches,
): string | undefined {
  for (const [from, end] of stretches) {
    for (
      let page = Math.floor(from / PAGE);
      page < Math.min(dirty.length, Math.ceil(end / PAGE));
      page++
    ) {
      if (dirty[page] !== CLEAN) continue;
      const words = new Float64Array(memory.buffer, page * PAGE, PAGE / 8);
      if (words.some((word) => !Object.is(word, 0))) {
        return `the page at ${page * PAGE} of the heap counts as zero, and is not`;
      }
    }
  }
  return undefined;
}
