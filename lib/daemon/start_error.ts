/** Why a daemon cannot start, in the words of an operator. */

import { Unavailable } from "../system/libc.ts";

/** It cannot start, for a reason that is not the command line's; `hint` is the next step. */
export class StartError extends Error {
  constructor(message: string, readonly hint: string) {
    super(message);
  }
}

/**
 * What an error means that came of an attempt to listen on an address. `option` is the one that holds the
 * address, where it is not --host and --port.
 */
export function startError(error: unknown, address: string, option?: string): unknown {
  if (error instanceof StartError) return error;
  if (error instanceof Deno.errors.AddrInUse) {
    const other = option ?? "--port";
    const hint = `stop what listens there, or take another ${other}, 0 for any free one`;
    return new StartError(`${address} is already in use`, hint);
  }
  if (error instanceof Deno.errors.AddrNotAvailable) {
    return new StartError(
      `${address} is not an address of this host`,
      `another ${option ?? "--host"}`,
    );
  }
  if (error instanceof Deno.errors.PermissionDenied) {
    return new StartError(
      `${address} may not be listened on`,
      `a ${option ?? "--port"} above 1023`,
    );
  }
  if (error instanceof Unavailable) {
    return new StartError(`--engine syscall cannot be had: ${error.message}`, "--engine datagram");
  }
  // The heap says itself what to try; the rest is the address: a name that nobody has, and the like.
  if (error instanceof RangeError || !(error instanceof Error)) return error;
  return new StartError(
    `${address} cannot be listened on: ${error.message}`,
    `another ${option ?? "--host"}`,
  );
}
