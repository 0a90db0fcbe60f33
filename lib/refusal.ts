/**
 * Why a request can be refused: the reasons that the daemon counts, the errno (POSIX `<errno.h>`, the
 * values of Linux) that a tagged reply carries for each, and the words in which the client says it.
 */

export const ERRNO = {
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EINVAL: 22,
  ENOSYS: 38,
  EMSGSIZE: 90,
} as const;

export type ErrnoName = keyof typeof ERRNO;

/** A refusal's number; `Refusal.none` (0) means that nothing was refused. */
export const Refusal = {
  none: 0,
  outOfMemory: 1,
  outsideLiveBlock: 2,
  outsideHeap: 3,
  truncated: 4,
  badWord: 5,
  misaligned: 6,
  notAllocated: 7,
  alreadyFree: 8,
  unknownMethod: 9,
  tooLong: 10,
} as const;

export type Refusal = (typeof Refusal)[keyof typeof Refusal];

const REFUSAL_ERRNO: Readonly<Record<keyof typeof Refusal, number>> = {
  none: 0,
  outOfMemory: ERRNO.ENOMEM,
  outsideLiveBlock: ERRNO.EACCES,
  outsideHeap: ERRNO.EFAULT,
  truncated: ERRNO.EINVAL,
  badWord: ERRNO.EINVAL,
  misaligned: ERRNO.EINVAL,
  notAllocated: ERRNO.EINVAL,
  alreadyFree: ERRNO.EINVAL,
  unknownMethod: ERRNO.ENOSYS,
  tooLong: ERRNO.EMSGSIZE,
};

/** Refusal -> errno, indexed by the refusal's number. */
export const ERRNO_OF = new Uint8Array(Object.keys(Refusal).length);
for (const [name, errno] of Object.entries(REFUSAL_ERRNO)) {
  ERRNO_OF[Refusal[name as keyof typeof Refusal]] = errno;
}

const ERRNO_TEXT: Readonly<Record<ErrnoName, string>> = {
  ENOMEM: "out of memory",
  EACCES: "not inside one live allocation",
  EFAULT: "bad address",
  EINVAL: "invalid argument",
  ENOSYS: "not supported by this daemon",
  EMSGSIZE: "too long for one datagram",
};

/** The name and the words of an errno; a number that the protocol does not know is shown as it is. */
export function describeErrno(errno: number): { name: string; text: string } {
  for (const name of Object.keys(ERRNO) as ErrnoName[]) {
    if (ERRNO[name] === errno) return { name, text: ERRNO_TEXT[name] };
  }
  return { name: `errno ${errno}`, text: "unknown error" };
}
