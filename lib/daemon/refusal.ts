/**
 * Why the daemon can refuse a request: the heap's reasons and those of the service, which counts them,
 * and the errno that a tagged reply carries for each.
 */

import { Refusal as HeapRefusal } from "../heap/refusal.ts";
import { ERRNO } from "../protocol/errno.ts";

/** A refusal's number; `Refusal.none` (0) means that nothing was refused. The heap's come first. */
export const Refusal = {
  ...HeapRefusal,
  truncated: 7,
  badWord: 8,
  unknownMethod: 9,
  tooLong: 10,
  unproven: 11,
  staleEpoch: 12,
  tagReused: 13,
} as const;

export type Refusal = (typeof Refusal)[keyof typeof Refusal];

const REFUSAL_ERRNO: Readonly<Record<keyof typeof Refusal, number>> = {
  none: 0,
  outOfMemory: ERRNO.ENOMEM,
  outsideLiveBlock: ERRNO.EACCES,
  outsideHeap: ERRNO.EFAULT,
  misaligned: ERRNO.EINVAL,
  notAllocated: ERRNO.EINVAL,
  alreadyFree: ERRNO.EINVAL,
  truncated: ERRNO.EINVAL,
  badWord: ERRNO.EINVAL,
  unknownMethod: ERRNO.ENOSYS,
  tooLong: ERRNO.EMSGSIZE,
  unproven: ERRNO.EPERM,
  staleEpoch: ERRNO.ESTALE,
  tagReused: ERRNO.EINVAL,
};

/** Refusal -> errno, indexed by the refusal's number. */
export const ERRNO_OF = new Uint8Array(Object.keys(Refusal).length);
for (const [name, errno] of Object.entries(REFUSAL_ERRNO)) {
  ERRNO_OF[Refusal[name as keyof typeof Refusal]] = errno;
}
