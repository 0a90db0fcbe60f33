/**
 * Brings up to date the figures that follow from what others keep: the allocator, the duplicate request
 * cache, the quotas. Whoever is about to read the counters does so first, in whatever thread: it looks at
 * shared memory only, and what it sees may be some requests old. It makes no garbage to speak of, and
 * takes about a microsecond.
 */

import { Counter, type Counters } from "./counters.ts";
import { CacheFigure } from "./duplicate_request_cache.ts";
import { Buddy, NONE } from "../heap/buddy.ts";
import { GRAIN } from "../heap/heap.ts";
import { QuotaFigure } from "./quota.ts";
import type { State, StateOptions } from "./state.ts";

const MILLION = 1_000_000;

export class Gauges {
  readonly #state: State;
  readonly #counters: Counters;
  readonly #buddy: Buddy;
  readonly #start: number;

  /** `state` is one that `options` have made. */
  constructor({ memory, replayCache, quota }: StateOptions, state: State) {
    this.#state = state;
    this.#buddy = new Buddy(memory / GRAIN, state.buddy);
    this.#start = state.service.clock[0]!;
    const counters = this.#counters = state.service.counters;
    counters[Counter.version] = 1;
    counters[Counter.heap] = memory;
    counters[Counter.replayRoom] = replayCache;
    counters[Counter.quota] = quota ?? 0;
  }

  refresh(): void {
    const counters = this.#counters;
    const buddy = this.#buddy;
    const { service: { clock }, waste: { byOrder } } = this.#state;
    counters[Counter.uptime] = clock[0]! - this.#start;
    let [blocks, used, free, asked] = [0, 0, 0, 0];
    for (let order = 0; order <= buddy.maxOrder; order++) {
      const bytes = GRAIN * 2 ** order;
      const inUse = buddy.blocksInUse[order]!;
      counters[Counter.liveBlocks + order] = inUse;
      counters[Counter.freeBlocks + order] = buddy.freeBlocks[order]!;
      blocks += inUse;
      used += inUse * bytes;
      // Of what changes meanwhile a part may have been counted.
      const wanted = Math.max(0, inUse * bytes - byOrder[order]!);
      counters[Counter.liveAsked + order] = wanted;
      asked += wanted;
      free += buddy.freeBlocks[order]! * bytes;
    }
    counters[Counter.blocks] = blocks;
    counters[Counter.bytes] = used;
    counters[Counter.bytesAsked] = asked;
    counters[Counter.highWater] = buddy.highWater * GRAIN;
    const largest = buddy.largestFreeOrder === NONE ? 0 : GRAIN * 2 ** buddy.largestFreeOrder;
    counters[Counter.largestFree] = largest;
    counters[Counter.fragmentation] = free === 0 ? 0 : Math.round((1 - largest / free) * MILLION);
    const { cache, quota } = this.#state;
    counters[Counter.replayEntries] = cache.figures[CacheFigure.held]!;
    counters[Counter.replaySenders] = cache.figures[CacheFigure.accounts]!;
    counters[Counter.quotaHolders] = quota.figures[QuotaFigure.holders]!;
  }
}
