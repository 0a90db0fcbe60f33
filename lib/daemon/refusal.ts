/**
 * Why the daemon can refuse a request: the heap's reasons and those of the service, which counts them,
 * and the errno that a tagged reply carries for each.
 */

import { Refusal as HeapRefusal } from "../heap/refusal.ts";
import { ERRNO } from "../protocol/errno.ts";

/** A refusal's number; `Refusal.none` (0) means that nothing was refused. The heap's come first. */
export const Refusal = {
  ...HeapRefusal,
  truncated: 8,
  badWord: 9,
  unknownMethod: 10,
  tooLong: 11,
  unproven: 12,
  staleEpoch: 13,
  tagReused: 14,
  overQuota: 15,
  otherRange: 16,
  badArgument: 17,
  notInstalled: 18,
  notExecutable: 19,
  outOfFuel: 20,
  trapped: 21,
  tooManyProcedures: 22,
  argumentsTooLong: 23,
  noProcedures: 24,
  noFile: 25,
  diskFull: 26,
  diskFailed: 27,
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
  overBudget: ERRNO.EAGAIN,
  truncated: ERRNO.EINVAL,
  badWord: ERRNO.EINVAL,
  unknownMethod: ERRNO.ENOSYS,
  tooLong: ERRNO.EMSGSIZE,
  unproven: ERRNO.EPERM,
  staleEpoch: ERRNO.ESTALE,
  tagReused: ERRNO.EINVAL,
  overQuota: ERRNO.ENOMEM,
  badArgument: ERRNO.EINVAL,
  otherRange: ERRNO.EREMOTE,
  notInstalled: ERRNO.ENOENT,
  notExecutable: ERRNO.ENOEXEC,
  outOfFuel: ERRNO.ETIME,
  trapped: ERRNO.ECANCELED,
  tooManyProcedures: ERRNO.ENOMEM,
  argumentsTooLong: ERRNO.EINVAL,
  noProcedures: ERRNO.ENOSYS,
  noFile: ERRNO.ENOSYS,
  diskFull: ERRNO.ENOSPC,
  diskFailed: ERRNO.EIO,
};

/** Refusal -> errno, indexed by the refusal's number. */
export const ERRNO_OF = new Uint8Array(Object.keys(Refusal).length);
for (const [name, errno] of Object.entries(REFUSAL_ERRNO)) {
  ERRNO_OF[Refusal[name as keyof typeof Refusal]] = errno;
}
