/** Why the heap can refuse: what `malloc`, `free` and the others return. */

/** A refusal's number; `Refusal.none` (0) means that nothing was refused. */
export const Refusal = {
  none: 0,
  outOfMemory: 1,
  outsideLiveBlock: 2,
  outsideHeap: 3,
  misaligned: 4,
  notAllocated: 5,
  alreadyFree: 6,
  overBudget: 7,
} as const;

export type Refusal = (typeof Refusal)[keyof typeof Refusal];
