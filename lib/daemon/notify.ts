/**
 * What the service manager is told: sd_notify(3), by libc, because Deno's sockets have no abstract
 * addresses. It costs nothing where no manager asks for it.
 */

import {
  AF_UNIX,
  Libc,
  MSG_DONTWAIT,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  Unavailable,
} from "../system/libc.ts";

const FUNCTIONS = ["socket", "sendto"] as const;

/** sockaddr_un of <sys/un.h>: the family, then the path. */
const FAMILY_BYTES = 2;
const PATH_BYTES = 108;

/**
 * Tells the state, lines as `READY=1`, to whoever listens at $NOTIFY_SOCKET. A manager that is gone is no
 * reason not to serve, so that nothing is thrown.
 */
export type Notify = (...lines: string[]) => void;

/** `address` is $NOTIFY_SOCKET: a path, or an abstract name after "@". Undefined without it, or without libc. */
export function openNotify(address: string | undefined): Notify | undefined {
  const name = address === undefined ? undefined : socketName(address);
  if (name === undefined) return undefined;
  try {
    const { socket, sendto } = new Libc(FUNCTIONS).symbols;
    // Once: where descriptors run out, a watchdog that hears nothing would end a daemon that serves.
    const fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return (...lines) => {
      const state = new TextEncoder().encode(lines.join("\n"));
      sendto(fd, state, BigInt(state.length), MSG_DONTWAIT, name, name.length);
    };
  } catch (error) {
    if (error instanceof Unavailable) return undefined;
    throw error;
  }
}

/**
 * Milliseconds within which the manager wants to hear WATCHDOG=1, or it takes the process for dead
 * (sd_watchdog_enabled(3)); undefined if it does not wait for that, or for another process.
 */
export function watchdogMs(
  environment: Readonly<Record<string, string>>,
  pid: number,
): number | undefined {
  const { WATCHDOG_USEC: time = "", WATCHDOG_PID: owner } = environment;
  if (!/^[1-9]\d*$/.test(time) || owner !== undefined && Number(owner) !== pid) return undefined;
  return Number(time) / 1000;
}

/** The sockaddr_un; undefined if the address is of another kind, or too long. */
function socketName(address: string): Uint8Array<ArrayBuffer> | undefined {
  const path = new TextEncoder().encode(address);
  if (!/^[/@]./.test(address) || path.length >= PATH_BYTES) return undefined;
  const name = new Uint8Array(FAMILY_BYTES + path.length);
  new DataView(name.buffer).setUint16(0, AF_UNIX, true);
  name.set(path, FAMILY_BYTES);
  if (address.startsWith("@")) name[FAMILY_BYTES] = 0;
  return name;
}
