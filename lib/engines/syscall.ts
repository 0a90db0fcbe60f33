/**
 * The engine for Linux that makes the system calls itself, as the paper's section 7 has it: no garbage,
 * and batches as large as the kernel gives and takes. This is its half on the main thread, which opens
 * the socket and stops the loop; the loop runs in a worker, syscall_worker.ts.
 */

import {
  DEFAULT_RECEIVE_BUFFER,
  DEFAULT_SPIN,
  type Engine,
  type EngineOptions,
} from "../engine.ts";
import { parseAddress, SOURCE_BYTES, writeSource } from "../source.ts";
import {
  Errno,
  Libc,
  SHUT_RD,
  SO_RCVBUF,
  SO_RCVBUFFORCE,
  SO_RXQ_OVFL,
  SO_SNDTIMEO,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOL_SOCKET,
  SOL_UDP,
  TIMEVAL,
  UDP_GRO,
  UDP_SEGMENT,
  Unavailable,
} from "./libc.ts";
import { CLOSING, type Report, type Start } from "./syscall_worker.ts";

/** How long a reply may wait for a full interface, so that one cannot hold up the loop for ever. */
const SEND_TIMEOUT_US = 100_000;

const WORKER = new URL("./syscall_worker.ts", import.meta.url);

/** Rejects with Unavailable if this system or its permissions are not enough for this engine. */
export async function serveSyscall(options: EngineOptions): Promise<Engine> {
  const { hostname, receiveBuffer = DEFAULT_RECEIVE_BUFFER, spin = DEFAULT_SPIN } = options;
  if (parseAddress(hostname) === undefined) {
    throw new Unavailable(`it needs an address to listen on, not the name ${hostname}`);
  }
  requireWorker();
  const libc = new Libc();
  let socket: Socket | undefined;
  try {
    socket = new Socket(libc, hostname, options.port);
    socket.setReceiveBuffer(receiveBuffer);
    const { fd, port } = socket;
    const stop = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
    const segments = socket.enable(SOL_UDP, UDP_SEGMENT, 0); // 0: only where a message says so
    socket.enable(SOL_UDP, UDP_GRO, 1);
    socket.enable(SOL_SOCKET, SO_RXQ_OVFL, 1);
  }
}
