/**
 * All that a daemon knows beside the bytes of its clients, by owner: two tables, what can outlive the
 * process and what cannot, from each of which a shared memory is made (lib/heap/metadata.ts). The thread
 * that serves changes it, all others may read it; it is plain data and can be sent to them.
 */

import { ChoreFigure } from "./chore.ts";
import { COUNTERS_LENGTH } from "./counters.ts";
import { cacheShape } from "./duplicate_request_cache.ts";
import { quotaShape } from "./quota.ts";
import { tokenShape } from "./token.ts";
import { buddyShape } from "../heap/buddy.ts";
import { GRAIN, heapShape, requireHeapSize } from "../heap/heap.ts";
import { allocate, float64, int32 } from "../heap/metadata.ts";
import { undoShape } from "../heap/undo.ts";
import { wasteShape } from "../heap/waste.ts";

/** What the size of the state depends on; of an operator's options, those that say how much there is. */
export interface StateOptions {
  /** Size of the heap in bytes. */
  memory: number;
  /** Replies that the duplicate request cache remembers. */
  replayCache: number;
  /** Bytes of the heap that one address may hold; no limit if it is left out. */
  quota?: number | undefined;
}

/** What begins anew with each process. */
function passingShapes({ memory }: StateOptions) {
  return {
    service: {
      counters: float64(COUNTERS_LENGTH),
      /** Where the threads tell each other what is on the disk, and what is in a snapshot. */
      sync: int32(Object.keys(ChoreFigure).length),
      snapshot: int32(Object.keys(ChoreFigure).length),
    },
    waste: wasteShape(memory / GRAIN),
  };
}

/** What can outlive it, in a file. */
export function lastingShapes({ memory, replayCache, quota }: StateOptions) {
  const grains = memory / GRAIN;
  return {
    undo: undoShape(),
    service: {
      /** `clock[0]` is the time in seconds; whoever runs the service advances it. */
      clock: int32(1),
      /** The boot epoch, two words, the first being the upper one; the service chooses it if it is zero. */
      epoch: int32(2),
    },
    tokens: tokenShape(),
    buddy: buddyShape(grains),
    heap: heapShape(memory),
    cache: cacheShape(replayCache),
    quota: quotaShape(quota === undefined ? 0 : grains),
  };
}

/** The state of a daemon that has served nobody yet. Throws RangeError if it cannot be had. */
export function newState(options: StateOptions) {
  requireHeapSize(options.memory);
  const lasting = allocate(lastingShapes(options));
  const { service, waste } = allocate(passingShapes(options));
  return { ...lasting, service: { ...lasting.service, ...service }, waste };
}

export type State = ReturnType<typeof newState>;
