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
import {
  isLoopback,
  isWildcard,
  parseAddress,
  SCOPE,
  SOURCE_BYTES,
  writeSource,
} from "../../system/address.ts";
import {
  Errno,
  IP_PKTINFO,
  IPV6_RECVPKTINFO,
  Libc,
  requireLibc,
  SHUT_RD,
  SO_ATTACH_REUSEPORT_CBPF,
  SO_RCVBUF,
  SO_RCVBUFFORCE,
  SO_RCVTIMEO,
  SO_REUSEPORT,
  SO_RXQ_OVFL,
  SO_SNDBUF,
  SO_SNDBUFFORCE,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOCK_FPROG,
  SOL_IP,
  SOL_IPV6,
  SOL_SOCKET,
  SOL_UDP,
  UDP_GRO,
  UDP_SEGMENT,
  Unavailable,
} from "../../system/libc.ts";
import type { Report, Start } from "./syscall_worker.ts";

/** Room in the kernel for replies that wait for an interface, as one batch may bring. */
const SEND_BUFFER = 4 * 1024 * 1024;

/**
 * How long the loop waits for a datagram before it looks after memory that nobody uses any more, in
 * milliseconds. It would wait for ever where nobody talks to it any more.
 */
const IDLE_MS = 250;

/**
 * Sockets among which answers are shared out by address: those to whom has proven his, and those to the
 * rest. The kernel keeps about 200 KB for each neighbour that it looks for, so that a full neighbourhood
 * of 250 does not fill so many send buffers.
 */
const PROVEN_SOCKETS = 8;
const UNPROVEN_SOCKETS = 32;

/** In an executable the worker lies where tools/build.sh has put it. */
const WORKER = new URL(
  Deno.build.standalone ? "./lib/daemon/engines/syscall_worker.js" : "./syscall_worker.ts",
  import.meta.url,
);

/**
 * The worker, whose thread loads the loop while the main one goes on. Throws Unavailable if this system, or
 * what is permitted on it, is not enough.
 */
export function loadLoop(): Worker {
  requireWorker();
  requireLibc();
  return new Worker(WORKER, { type: "module" });
}

/** Rejects with Unavailable if this system, or what is permitted on it, is not enough. */
export async function serveSyscall(options: EngineOptions, worker = loadLoop()): Promise<Engine> {
  const { hostname, receiveBuffer = DEFAULT_RECEIVE_BUFFER, spin = DEFAULT_SPIN } = options;
  let socket: Socket;
  try {
    if (parseAddress(hostname) === undefined) {
      throw new Unavailable(
        `Cannot listen on ${hostname} by system calls: that takes an address, not a name`,
      );
    }
    socket = new Socket(new Libc(FUNCTIONS), hostname, options.port);
  } catch (error) {
    worker.terminate();
    throw error;
  }
  const { port, name } = socket;
  const stop = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  const granted = socket.setReceiveBuffer(receiveBuffer);
  // The kernel may be too old for the rest: each of them is done without.
  socket.set(SOL_SOCKET, SO_RXQ_OVFL, int(1));
  socket.setReceiveTimeout(IDLE_MS);
  socket.set(SOL_UDP, UDP_GRO, int(1));
  const segments = socket.set(SOL_UDP, UDP_SEGMENT, int(0)); // 0: only where a message says so
  if (isWildcard(hostname)) socket.reportLocalAddress();
  let running: { ended: Promise<void> };
  try {
    const others = isLoopback(hostname) ? [] : socket.openOthers(PROVEN_SOCKETS + UNPROVEN_SOCKETS);
    const sockets = {
      first: socket.fd,
      proven: others.slice(0, PROVEN_SOCKETS),
      unproven: others.slice(PROVEN_SOCKETS),
    };
    running = await startLoop(worker, { options, sockets, port, name, spin, segments, stop });
  } catch (error) {
    worker.terminate();
    socket.close();
    throw error;
  }
  let closed: Promise<void> | undefined;
  return {
    name: "syscall",
    address: { hostname, port },
    receiveBuffer: granted,
    close() {
      return closed ??= (async () => {
        Atomics.store(stop, 0, 1);
        Atomics.notify(stop, 0);
        socket.wake();
        await running.ended;
        socket.close();
      })();
    },
  };
}

/** A worker that cannot be read would not only fail: Deno prints its error, or asks for permission. */
function requireWorker(): void {
  if (Deno.build.standalone || WORKER.protocol !== "file:") return;
  if (Deno.permissions.querySync({ name: "read", path: WORKER }).state !== "granted") {
    throw new Unavailable(
      `Cannot start the worker: run with --allow-read=${WORKER.pathname}`,
    );
  }
}

/** Resolves when the loop runs, and `ended` when it has ended. Rejects with what the worker could not do. */
function startLoop(worker: Worker, start: Start): Promise<{ ended: Promise<void> }> {
  return new Promise((resolve, reject) => {
    const ended = new Promise<void>((end) => {
      worker.onmessage = ({ data }: MessageEvent<Report>) => {
        if (data.state === "failed") reject(data.error);
        else if (data.state === "unavailable") reject(new Unavailable(data.reason));
        else if (data.state === "ended") end();
        else {
          worker.onerror = null; // from now on an error is a broken invariant, and ends the program
          resolve({ ended });
        }
      };
    });
    worker.onerror = (event) => {
      event.preventDefault();
      reject(new Unavailable(`Cannot start the worker: ${event.message}`));
    };
    worker.postMessage(start);
  });
}

/** What bind(2) most often cannot do, in the classes and the words of Deno's own sockets. */
const BIND_ERRORS: Readonly<Record<number, [new (message: string) => Error, string]>> = {
  [Errno.EACCES]: [Deno.errors.PermissionDenied, "Permission denied"],
  [Errno.EADDRINUSE]: [Deno.errors.AddrInUse, "Address already in use"],
  [Errno.EADDRNOTAVAIL]: [Deno.errors.AddrNotAvailable, "Cannot assign requested address"],
};

/** One instruction of classic BPF, <linux/bpf_common.h>: BPF_RET | BPF_K, of 0. */
const BPF_INSTRUCTION = 8;
const RETURN = Uint8Array.from([0x06, 0, 0, 0, 0, 0, 0, 0]);

/** What a socket is made of. */
const FUNCTIONS = [
  "socket",
  "bind",
  "getsockname",
  "getsockopt",
  "setsockopt",
  "shutdown",
  "close",
] as const;
type SocketLibc = Libc<(typeof FUNCTIONS)[number]>;

/** A UDP socket, bound. It is outside Deno's own: no resource, and no permission but that for libc. */
class Socket {
  readonly fd: number;
  readonly port: number;
  readonly #libc: SocketLibc;
  readonly #name: DataView<ArrayBuffer>;
  /** The address that it is bound to, as bytes. */
  get name(): Uint8Array {
    return new Uint8Array(this.#name.buffer);
  }

  /** All of the port: this one, and the others. */
  readonly #fds: number[] = [];

  constructor(libc: SocketLibc, hostname: string, port: number) {
    this.#libc = libc;
    const name = this.#name = new DataView(new ArrayBuffer(SOURCE_BYTES));
    writeSource(name, 0, hostname, port);
    const scope = libc.scopeOf(hostname);
    if (scope === undefined) throw new Error(`there is no interface ${hostname.split("%")[1]}`);
    name.setUint32(SCOPE, scope, true);
    const family = name.getUint16(0, true);
    this.fd = libc.symbols.socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (this.fd >= 0) this.#fds.push(this.fd);
    if (
      this.fd < 0 ||
      libc.symbols.bind(this.fd, name, SOURCE_BYTES) !== 0 ||
      libc.symbols.getsockname(this.fd, name, int(SOURCE_BYTES)) !== 0
    ) {
      const error = this.#error(`bind ${hostname}`);
      this.close();
      throw error;
    }
    this.port = name.getUint16(2);
    setSendBuffer(libc, this.fd);
  }

  /**
   * Opens other sockets on the same port, which have send buffers of their own and receive nothing: what
   * is stuck in one buffer, because its receiver is slow or cannot be reached, does not hold up what goes
   * through the others. The first one is bound before others may share its port, and stops them when
   * these have joined, so that no other process can. Returns those that the kernel will have.
   */
  openOthers(count: number): number[] {
    const { socket, bind, setsockopt } = this.#libc.symbols;
    const joined: number[] = [];
    this.set(SOL_SOCKET, SO_REUSEPORT, int(1));
    while (joined.length < count) {
      const fd = socket(this.#name.getUint16(0, true), SOCK_DGRAM | SOCK_CLOEXEC, 0);
      if (fd < 0) break;
      this.#fds.push(fd);
      const set = (option: number, value: BufferSource) =>
        setsockopt(fd, SOL_SOCKET, option, value, value.byteLength) === 0;
      if (!set(SO_REUSEPORT, int(1)) || bind(fd, this.#name, SOURCE_BYTES) !== 0) break;
      // Before the next one joins: all that come after it are steered by it, too.
      if (joined.length === 0 && !set(SO_ATTACH_REUSEPORT_CBPF, this.#toFirst())) {
        this.#libc.symbols.close(this.#fds.pop()!); // or it would receive
        break;
      }
      setSendBuffer(this.#libc, fd);
      joined.push(fd);
    }
    this.set(SOL_SOCKET, SO_REUSEPORT, int(0));
    return joined;
  }

  /** A filter that gives each datagram to the socket that was bound first: ret #0. */
  #toFirst(): DataView<ArrayBuffer> {
    const program = new DataView(new ArrayBuffer(SOCK_FPROG.size));
    program.setUint16(SOCK_FPROG.length, RETURN.length / BPF_INSTRUCTION, true);
    program.setBigUint64(SOCK_FPROG.filter, this.#libc.addressOf(RETURN), true);
    return program;
  }

  /** Asks the kernel at which of our addresses each datagram came: a wildcard has many. */
  reportLocalAddress(): void {
    this.set(SOL_IP, IP_PKTINFO, int(1));
    this.set(SOL_IPV6, IPV6_RECVPKTINFO, int(1));
  }

  /** Sets an option and returns whether the kernel took it. */
  set(level: number, option: number, value: BufferSource): boolean {
    const { setsockopt } = this.#libc.symbols;
    return setsockopt(this.fd, level, option, value, value.byteLength) === 0;
  }

  /** After so many milliseconds without a datagram, a call that waits for one returns EAGAIN. */
  setReceiveTimeout(milliseconds: number): void {
    const timeval = new BigInt64Array([0n, BigInt(milliseconds * 1000)]);
    this.set(SOL_SOCKET, SO_RCVTIMEO, timeval);
  }

  /** Returns what was granted. Only a privileged process may exceed the limit, net.core.rmem_max. */
  setReceiveBuffer(bytes: number): number {
    if (!this.set(SOL_SOCKET, SO_RCVBUFFORCE, int(bytes))) {
      this.set(SOL_SOCKET, SO_RCVBUF, int(bytes));
    }
    const doubled = int(0); // the kernel adds as much again for its own use, see socket(7)
    const { getsockopt } = this.#libc.symbols;
    getsockopt(this.fd, SOL_SOCKET, SO_RCVBUF, doubled, int(doubled.byteLength));
    return doubled[0]! / 2;
  }

  /** Wakes who waits for a datagram. The call fails, because the socket is not connected; it works. */
  wake(): void {
    this.#libc.symbols.shutdown(this.fd, SHUT_RD);
  }

  close(): void {
    for (const fd of this.#fds) this.#libc.symbols.close(fd);
    this.#libc.close();
  }

  /** Of the call that failed last. */
  #error(what: string): Error {
    const errno = this.#libc.errno();
    const [ErrorClass, text] = BIND_ERRORS[errno] ?? [Error, `Cannot ${what}`];
    return new ErrorClass(`${text} (os error ${errno})`);
  }
}

function int(value: number): Int32Array<ArrayBuffer> {
  return new Int32Array([value]);
}

function setSendBuffer(libc: SocketLibc, fd: number): void {
  const bytes = int(SEND_BUFFER);
  for (const option of [SO_SNDBUFFORCE, SO_SNDBUF]) {
    if (libc.symbols.setsockopt(fd, SOL_SOCKET, option, bytes, bytes.byteLength) === 0) return;
  }
}
