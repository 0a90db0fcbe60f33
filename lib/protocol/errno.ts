/**
 * What a tagged reply can carry as its status: the errno of POSIX `<errno.h>`, with the values of Linux,
 * and the words in which the client says it.
 */

export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EIO: 5,
  ENOEXEC: 8,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EINVAL: 22,
  ENOSPC: 28,
  ENOSYS: 38,
  ETIME: 62,
  EREMOTE: 66,
  EMSGSIZE: 90,
  ESTALE: 116,
  ECANCELED: 125,
} as const;

/** The names, as POSIX has them. */
export type ErrnoName = keyof typeof ERRNO;

const ERRNO_TEXT: Readonly<Record<ErrnoName, string>> = {
  EPERM: "the daemon wants proof of the sender's address first",
  ENOENT: "no procedure of that handle",
  EIO: "the daemon could not write to its disk, and its log says why",
  ENOEXEC: "not a module that may run in the heap",
  EAGAIN: "too much work at once; try again",
  ENOMEM: "out of memory",
  EACCES: "not inside one live allocation",
  EFAULT: "bad address",
  EINVAL: "invalid argument",
  ENOSPC: "no space left on the daemon's disk",
  ENOSYS: "not supported by this daemon",
  ETIME: "out of fuel",
  EREMOTE: "another daemon has that range of addresses",
  EMSGSIZE: "too long for one datagram",
  ESTALE: "the daemon was restarted since",
  ECANCELED: "the procedure was trapped",
};

/** The name and the words of an errno; a number that the protocol does not know is shown as it is. */
export function describeErrno(errno: number): { name: string; text: string } {
  for (const name of Object.keys(ERRNO) as ErrnoName[]) {
    if (ERRNO[name] === errno) return { name, text: ERRNO_TEXT[name] };
  }
  return { name: `errno ${errno}`, text: "unknown error" };
}
