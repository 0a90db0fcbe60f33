/**
 * The client library: malloc(3), a promise per call, on somebody else's heap.
 *
 *     await using remote = await Remote.connect({ server: "127.0.0.1:8081" });
 *     const pointer = await remote.malloc(5);
 *     await remote.write(pointer, new TextEncoder().encode("hello"));
 *
 * Pointers are bigints, as clients hold 64 bits of them. Every method rejects with a RefusedError if the
 * daemon refuses, with a NoReplyError if it does not answer in time (a NotThereError, at once, if nobody
 * listens on an address of the loopback interface), with a StaleEpochError if the daemon was restarted, so
 * that all pointers are gone, and with the signal's reason if the call is aborted; an
 * aborted or unanswered call may have been executed all the same. Calls that do not wait for each other may
 * take effect in any order.
 */

import {
  asAddress,
  asField,
  asFields,
  asLength,
  CALL_OPTIONS,
  checkOptions,
  checkSignal,
  checkTimeout,
  isBytes,
  kindOf,
  MAX_TIMEOUT_MS,
  shown,
} from "./arguments.ts";
import { ClassicExchange } from "./exchanges/classic.ts";
import { ClusterExchange } from "./exchanges/cluster.ts";
import { asBigInt, type Cluster, decodeHello, type Hello } from "./hello.ts";
import {
  type Call,
  ElsewhereError,
  type Exchange,
  NoReplyError,
  NotThereError,
  RefusedError,
  RemoteError,
  StaleEpochError,
  unlessAborted,
} from "./exchange.ts";
import {
  FIELD,
  type MethodName,
  METHODS,
  REPLY_BODY,
  STATS_NAMES,
  STATS_VALUES,
} from "../protocol/wire.ts";
import { TaggedExchange } from "./exchanges/tagged.ts";
import {
  type Clock,
  isQuic,
  openUdp,
  parseServer,
  type Peer,
  QUIC,
  REAL_CLOCK,
  resolve,
  type Transport,
} from "./transport.ts";

export { ElsewhereError, NoReplyError, NotThereError, RefusedError, RemoteError, StaleEpochError };
export { MAX_TIMEOUT_MS };
export type { Clock, Cluster, Hello, Peer, Transport };

/** Where the daemon is unless one is told otherwise. */
export const DEFAULT_SERVER = "127.0.0.1:8081";
/** Milliseconds that a call may take unless it is told otherwise. */
export const DEFAULT_TIMEOUT_MS = 1000;

const PROTOCOLS = ["auto", "tagged", "classic"];

/** How often sync and snapshot ask whether it is done. */
const POLL_MS = 20;

/** What stats is taken to answer at the most, until it has: a few hundred names. */
const STATS_GUESS = 8192;

const NO_PROCEDURES = "the daemon runs no procedures (mallocd --procedures)";
const NO_FILE = "the daemon has no heap file (mallocd --heap-file PATH)";

/** What a daemon lacks that does not know a method. */
const LACKS: Partial<Readonly<Record<MethodName, string>>> = {
  install: NO_PROCEDURES,
  call: NO_PROCEDURES,
  uninstall: NO_PROCEDURES,
  sync: NO_FILE,
  snapshot: NO_FILE,
};

/** How many pieces of one long read or write are under way at a time. */
const PIECES_UNDER_WAY = 32;

/** Bytes of the memory for a copy of what is written that is kept for the next one. */
const SPARE = 2 ** 20;

/** How to reach a daemon. */
export interface RemoteOptions {
  /**
   * `host:port`, or `quic://host:port`; DEFAULT_SERVER if left out. With commas between them, daemons of one
   * cluster, of which the first that answers will do.
   */
  server?: string;
  /** Over QUIC: who must have signed the daemon's certificate, in PEM; those whom the runtime trusts. */
  ca?: string | undefined;
  /** Over QUIC: what the daemon asks for, a line of its token file. */
  token?: string | undefined;
  /** Which protocol to speak; "auto" is tagged if the daemon knows it, else classic. QUIC has no classic. */
  protocol?: "auto" | "tagged" | "classic";
  /** Milliseconds that a call may take from its first datagram on, MAX_TIMEOUT_MS at most. */
  timeout?: number;
  /** Other daemons of the cluster that `server` is part of, to be asked when it does not answer. */
  others?: readonly string[];
  /** For the simulation: another network, another time. */
  transport?: Transport;
  /** For the simulation, too. */
  clock?: Clock;
}

/** What may be different in a single call. */
export interface CallOptions {
  /** Gives the call up; it may have been executed all the same. */
  signal?: AbortSignal;
  /** Milliseconds from the call's first datagram on, MAX_TIMEOUT_MS at most; the Remote's, if left out. */
  timeout?: number;
}

/** One of the figures that a daemon tells about itself. */
export interface Stat {
  /** How many. */
  readonly value: bigint;
  /** A counter begins with 0 and never falls; a gauge tells how much there is now. */
  readonly kind: "counter" | "gauge";
  /** What is counted, as `bytes`; pieces, if it is left out. */
  readonly unit?: string;
}

/** The heap of one daemon, until it is closed or disposed of. */
export class Remote implements AsyncDisposable {
  readonly #exchange: Exchange;
  readonly #timeout: number;
  /** The daemon's address, as it was given. */
  readonly server: string;
  #hello: Hello | undefined;
  #spare: ArrayBuffer | undefined;
  /** What the daemon said of its statistics, a line each, and the epoch in which it did. */
  #statNames:
    | { readonly epoch: bigint | undefined; readonly lines: readonly (readonly string[])[] }
    | undefined;

  private constructor(server: string, exchange: Exchange, timeout: number, hello?: Hello) {
    this.server = server;
    this.#exchange = exchange;
    this.#timeout = timeout;
    this.#hello = hello;
  }

  /**
   * Finds out which protocol the daemon speaks: hello is asked for half of the timeout; then a classic
   * read of 0 bytes, which any mallocd answers. Rejects with NoReplyError if nothing comes back. With
   * `protocol: "classic"` nothing is sent. Over QUIC it first connects, for which it has the whole timeout,
   * and rejects with a RemoteError that says what is wrong: certificate, name, token.
   */
  static async connect(options: RemoteOptions = {}, call: CallOptions = {}): Promise<Remote> {
    checkOptions(call, CALL_OPTIONS);
    const { signal } = call;
    checkOptions(options, '{ server: "host:port" }');
    const {
      server = DEFAULT_SERVER,
      protocol = isQuic(server) ? "tagged" : "auto",
      timeout = DEFAULT_TIMEOUT_MS,
      clock = REAL_CLOCK,
    } = options;
    if (!PROTOCOLS.includes(protocol)) {
      throw new TypeError(`Cannot speak ${protocol}: a protocol is ${PROTOCOLS.join(", ")}`);
    }
    checkTimeout(timeout);
    checkSignal(signal);
    signal?.throwIfAborted();
    if (protocol !== "tagged" && isQuic(server)) {
      throw new TypeError(`Cannot speak another protocol than tagged over QUIC: ${server}`);
    }
    if (typeof server === "string" && server.includes(",")) {
      return await connectToAny(server.split(","), options, call);
    }
    const transport = options.transport ?? await open(server, timeout, signal, options);
    try {
      if (protocol === "classic") {
        return new Remote(server, new ClassicExchange(transport, clock), timeout);
      }
      const tagged = new TaggedExchange(transport, clock);
      const patience = protocol === "auto" ? timeout / 2 : timeout;
      try {
        const hello = decodeHello(await tagged.begin(patience, signal));
        const { cluster } = hello;
        if (cluster === undefined) return new Remote(server, tagged, timeout, hello);
        const exchange = new ClusterExchange({
          exchange: tagged,
          transport,
          server,
          hello: { ...hello, cluster },
          servers: options.others ?? [],
          open: openUdp,
          clock,
        });
        return new Remote(server, exchange, timeout, hello);
      } catch (error) {
        const isSilence = error instanceof NoReplyError && !(error instanceof NotThereError);
        if (protocol === "tagged" || !isSilence) throw error;
      }
      await transport.renew(); // a late answer to hello is none to what follows
      const classic = new ClassicExchange(transport, clock);
      const probe: Call = {
        method: "read",
        fields: [0n, 0n],
        bodyLength: 0,
        timeout: timeout - patience,
        signal,
      };
      await classic.call(probe);
      return new Remote(server, classic, timeout);
    } catch (error) {
      await transport.close();
      if (!(error instanceof NoReplyError) || error instanceof NotThereError) throw error;
      throw new NoReplyError(error.asked, server, timeout);
    }
  }

  /** What the daemon told when it was last begun with; undefined if it speaks the classic protocol only. */
  get hello(): Hello | undefined {
    return this.#hello;
  }

  /** The protocol that was found, or asked for. */
  get protocol(): "tagged" | "classic" {
    return this.#exchange.protocol;
  }

  /** Allocates at least `length` zeroed bytes. */
  async malloc(length: number | bigint, options: CallOptions = {}): Promise<bigint> {
    return asBigInt(await this.#call("malloc", [asLength("malloc", length)], options));
  }

  /** Allocates an array of `count` zeroed elements; refused with ENOMEM if the product overflows. */
  async calloc(
    count: number | bigint,
    size: number | bigint,
    options: CallOptions = {},
  ): Promise<bigint> {
    const length = asLength("calloc", count) * asLength("calloc", size);
    if (length >= 2n ** 64n) {
      throw new RefusedError(`calloc(${count}, ${size})`, "ENOMEM", "out of memory");
    }
    return await this.malloc(length, options);
  }

  /** Frees an allocation. A classic daemon does not answer: then it is done when it has been sent. */
  async free(pointer: bigint, options: CallOptions = {}): Promise<void> {
    await this.#call("free", [asAddress("a pointer", pointer)], options);
  }

  /** Resizes an allocation, like realloc(3); its address may change. Tagged protocol only. */
  async realloc(
    pointer: bigint,
    length: number | bigint,
    options: CallOptions = {},
  ): Promise<bigint> {
    return asBigInt(
      await this.#call(
        "realloc",
        [asAddress("a pointer", pointer), asLength("realloc", length)],
        options,
      ),
    );
  }

  /** Reads `length` bytes. More than one datagram holds is read in pieces, and so not atomically. */
  async read(pointer: bigint, length: number, options: CallOptions = {}): Promise<Uint8Array> {
    asAddress("a pointer", pointer);
    if (!Number.isSafeInteger(length) || length < 0) {
      throw new RangeError(
        `Cannot read ${shown(length)} bytes: a length is a number, whole and at least 0`,
      );
    }
    if (this.#hello !== undefined && !this.#hello.cluster && BigInt(length) > this.#hello.size) {
      throw new RefusedError(`read(0x${pointer.toString(16)}, ${length})`, "EFAULT", "bad address");
    }
    const bytes = new Uint8Array(length);
    await this.readInto(pointer, bytes, options);
    return bytes;
  }

  /**
   * Reads as many bytes as `into` has, into it, and makes no array of its own. What is in it is not defined
   * until the promise has resolved.
   */
  async readInto(pointer: bigint, into: Uint8Array, options: CallOptions = {}): Promise<void> {
    asAddress("a pointer", pointer);
    if (!isBytes(into)) {
      throw new TypeError(`Cannot read into ${kindOf(into)}: it has to be a Uint8Array`);
    }
    const epoch = this.#epochOf("read", [pointer]); // of all pieces, whatever happens between them
    await this.#inPieces(into.length, async (at, bodyLength) => {
      const piece = into.subarray(at, at + bodyLength);
      const fields = [pointer + BigInt(at), BigInt(bodyLength)];
      const body = await this.#call("read", fields, options, { bodyLength, into: piece, epoch });
      if (body !== piece) piece.set(body);
    });
  }

  /** Writes bytes. More than one datagram holds is written in pieces, and so not atomically. */
  async write(pointer: bigint, data: Uint8Array, options: CallOptions = {}): Promise<void> {
    asAddress("a pointer", pointer);
    if (!isBytes(data)) {
      throw new TypeError(`Cannot write ${kindOf(data)}: what is written is a Uint8Array`);
    }
    const epoch = this.#epochOf("write", [pointer]); // of all pieces, whatever happens between them
    const taken = this.#copy(data); // the caller may change its own before the last repeat is sent
    try {
      await this.#inPieces(taken.length, async (at, size) => {
        const fields = [pointer + BigInt(at), BigInt(size)];
        await this.#call("write", fields, options, { data: taken.subarray(at, at + size), epoch });
      });
    } finally {
      if (taken.buffer.byteLength === SPARE) this.#spare = taken.buffer;
    }
  }

  /** A copy, for what is long in memory that an earlier one has left: of garbage the collector lets 64 MiB be. */
  #copy(data: Uint8Array): Uint8Array<ArrayBuffer> {
    if (data.length <= this.#exchange.chunk || data.length > SPARE) return new Uint8Array(data);
    const copy = new Uint8Array(this.#spare ?? new ArrayBuffer(SPARE), 0, data.length);
    this.#spare = undefined;
    copy.set(data);
    return copy;
  }

  /**
   * If the 8-aligned, big-endian 64-bit value at `pointer` is `expected`, makes it `desired`, atomically.
   * Resolves with the old value: it was swapped if that equals `expected`. Tagged protocol only.
   */
  async compareAndSwap(
    pointer: bigint,
    expected: bigint,
    desired: bigint,
    options: CallOptions = {},
  ): Promise<bigint> {
    return asBigInt(
      await this.#call(
        "cas",
        [
          asAddress("a pointer", pointer),
          asField("a value", expected),
          asField("a value", desired),
        ],
        options,
      ),
    );
  }

  /** Adds to the value at `pointer`, modulo 2^64, and resolves with the old one. Tagged protocol only. */
  async fetchAndAdd(pointer: bigint, delta: bigint, options: CallOptions = {}): Promise<bigint> {
    return asBigInt(
      await this.#call(
        "add",
        [asAddress("a pointer", pointer), asField("a delta", delta)],
        options,
      ),
    );
  }

  /**
   * Installs a WebAssembly module as a procedure, and resolves with its handle, which is good until it is
   * uninstalled or the daemon restarts: then call() is refused with ENOENT, and it may be installed again.
   * The same bytes have the same handle. Refused with ENOEXEC, and why, if it may not run in the heap.
   * Tagged protocol only.
   */
  async install(module: Uint8Array, options: CallOptions = {}): Promise<bigint> {
    this.#check(options);
    const { signal: _, ...unaborted } = options; // whoever gives it up wants the block back all the same
    if (!isBytes(module)) {
      throw new TypeError(`Cannot install ${kindOf(module)}: a module is a Uint8Array`);
    }
    const taken = new Uint8Array(module); // now, as in write()
    const pointer = await this.malloc(taken.length, options);
    let handle: bigint;
    try {
      await this.write(pointer, taken, options);
      handle = asBigInt(await this.#call("install", [pointer, BigInt(taken.length)], options));
    } catch (error) {
      await this.free(pointer, unaborted).catch(() => {}); // it is the first error that is told
      throw error;
    }
    await this.free(pointer, unaborted);
    return handle;
  }

  /**
   * Runs a procedure between two requests, and resolves with what it returns: 32 bits. Its arguments are
   * bytes, or fields: 64 bits each and big-endian. Refused with ETIME if it ran out of fuel and with
   * ECANCELED if it was trapped; what it did before stays done. Tagged protocol only.
   */
  async call(
    handle: bigint,
    args: Uint8Array | readonly bigint[] = [],
    options: CallOptions = {},
  ): Promise<bigint> {
    const data = isBytes(args) ? new Uint8Array(args) : asFields(args);
    const { chunk } = this.#exchange;
    if (data.length > chunk) {
      throw new RangeError(
        `Cannot call with ${data.length} bytes: a datagram has room for ${chunk}`,
      );
    }
    const fields = [asAddress("a handle", handle), BigInt(data.length)];
    return asBigInt(await this.#call("call", fields, options, { data }));
  }

  /** Uninstalls a procedure, for whoever uses it. Tagged protocol only. */
  async uninstall(handle: bigint, options: CallOptions = {}): Promise<void> {
    await this.#call("uninstall", [asAddress("a handle", handle)], options);
  }

  /**
   * Resolves when all that was answered before is on the daemon's disk. Refused with ENOSYS if it has no
   * heap file. Tagged protocol only.
   */
  async sync(options: CallOptions = {}): Promise<void> {
    const { timeout } = this.#check(options);
    await this.#finish("sync", options, performance.now() + timeout);
  }

  /**
   * Resolves when the daemon has a snapshot of its heap file, of an instant after this call, and that is on
   * its disk; however long that takes, as long as the daemon answers. Refused with ENOSYS if it has no heap
   * file, with ENOSPC or EIO if it cannot be made. Tagged protocol only.
   */
  async snapshot(options: CallOptions = {}): Promise<void> {
    await this.#finish("snapshot", options, Infinity);
  }

  async #finish(method: "sync" | "snapshot", options: CallOptions, end: number): Promise<void> {
    for (let number = 0n;;) {
      const body = await this.#call(method, [number], options);
      number = asBigInt(body);
      if (asBigInt(body, FIELD) >= number) return;
      if (performance.now() > end) {
        throw new NoReplyError(`${method}()`, this.server, this.#check(options).timeout);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** One round trip that changes nothing: hello, or in the classic protocol a read of 0 bytes. */
  async ping(options: CallOptions = {}): Promise<Hello | undefined> {
    if (this.protocol === "tagged") return decodeHello(await this.#call("hello", [], options));
    await this.#call("read", [0n, 0n], options);
    return undefined;
  }

  /**
   * What the daemon counts and measures, by name, in its order; docs/operations.md explains the names. Tagged protocol only.
   */
  async stats(options: CallOptions = {}): Promise<Map<string, Stat>> {
    const ask = (what: number) =>
      this.#call("stats", [BigInt(what)], options, { bodyLength: STATS_GUESS, anyLength: true });
    const epoch = this.#hello?.epoch;
    if (this.#statNames === undefined || this.#statNames.epoch !== epoch) {
      const text = new TextDecoder().decode(await ask(STATS_NAMES));
      this.#statNames = { epoch, lines: text.split("\n").map((line) => line.split(" ")) };
    }
    const { lines } = this.#statNames;
    const values = await ask(STATS_VALUES);
    if (values.length !== FIELD * lines.length) {
      this.#statNames = undefined; // those of another daemon, which has no session to tell that by
      throw new RefusedError(`stats(${STATS_VALUES})`, undefined, "reply of a wrong length");
    }
    return new Map(lines.map(([name = "", kind, unit], i) => {
      const value = asBigInt(values, FIELD * i);
      return [name, { value, kind: kind === "counter" ? kind : "gauge", ...unit && { unit } }];
    }));
  }

  /**
   * Goes on with a daemon that was restarted, after a StaleEpochError. All pointers of before are gone, and
   * calls that are pending with them are rejected with that error. Resolves with what the daemon tells now;
   * in the classic protocol, which cannot know, with undefined.
   */
  async renew(options: CallOptions = {}): Promise<Hello | undefined> {
    const { timeout, signal } = this.#check(options);
    if (this.#exchange instanceof ClusterExchange) {
      return this.#hello = await this.#exchange.renew(timeout, signal);
    }
    if (!(this.#exchange instanceof TaggedExchange)) return undefined;
    return this.#hello = decodeHello(await this.#exchange.begin(timeout, signal));
  }

  /**
   * What the daemon of each range of a cluster says about itself, in the order of the ranges, and where it
   * is; undefined for a range whose daemon does not answer. Of a daemon that is alone, nothing.
   */
  async survey(
    options: CallOptions = {},
  ): Promise<({ server: string; hello: Hello } | undefined)[]> {
    const { timeout, signal } = this.#check(options);
    signal?.throwIfAborted();
    if (!(this.#exchange instanceof ClusterExchange)) return [];
    return await unlessAborted(signal, this.#exchange.survey(timeout));
  }

  /** Rejects the calls that are pending, with an AbortError, and lets go of the socket. */
  close(): Promise<void> {
    return this.#exchange.close();
  }

  /** Closes it at the end of an `await using` block. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #call(
    method: Call["method"],
    fields: readonly bigint[],
    options: CallOptions,
    {
      data,
      bodyLength = REPLY_BODY[METHODS[method].opcode]!,
      anyLength,
      into,
      epoch = this.#epochOf(method, fields),
    }: {
      data?: Uint8Array;
      bodyLength?: number;
      anyLength?: boolean;
      into?: Uint8Array;
      epoch?: bigint | undefined;
    } = {},
  ): Promise<Uint8Array> {
    const { timeout, signal } = this.#check(options);
    const unsigned = fields.map((field) => BigInt.asUintN(64, field));
    const called = this.#exchange.call({
      method,
      fields: unsigned,
      data,
      bodyLength,
      anyLength,
      into,
      timeout,
      signal,
      epoch,
    });
    const lack = LACKS[method];
    if (lack === undefined || this.protocol === "classic") return called;
    return called.catch((error) => {
      throw error.errno === "ENOSYS" ? new RefusedError(`${method}()`, "ENOSYS", lack) : error;
    });
  }

  /** The epoch that a call is of: in a cluster each range has its own. */
  #epochOf(method: MethodName, fields: readonly bigint[]): bigint | undefined {
    if (method === "hello") return undefined;
    return this.#exchange instanceof ClusterExchange
      ? this.#exchange.epochOf(method, fields)
      : this.#hello?.epoch;
  }

  #check(options: CallOptions): { timeout: number; signal: AbortSignal | undefined } {
    checkOptions(options, CALL_OPTIONS);
    const { signal, timeout = this.#timeout } = options;
    checkTimeout(timeout);
    checkSignal(signal);
    return { timeout, signal };
  }

  /**
   * Runs `piece` over 0 to `length` in steps of what a call carries, in order, some at a time. When one
   * fails no more are begun, and when the others have ended, too, its error is thrown.
   */
  async #inPieces(
    length: number,
    piece: (at: number, size: number) => Promise<void>,
  ): Promise<void> {
    const { chunk } = this.#exchange;
    let next = 0;
    let failure: { error: unknown } | undefined;
    const worker = async () => {
      do {
        const at = next;
        next += chunk;
        try {
          await piece(at, Math.min(chunk, length - at));
        } catch (error) {
          failure ??= { error };
        }
      } while (next < length && failure === undefined);
    };
    const workers = Math.max(1, Math.min(PIECES_UNDER_WAY, Math.ceil(length / chunk)));
    await Promise.all(Array.from({ length: workers }, worker));
    if (failure !== undefined) throw failure.error;
  }
}

/** Connects to the first that answers of some daemons of one cluster. */
async function connectToAny(
  servers: readonly string[],
  options: RemoteOptions,
  call: CallOptions,
): Promise<Remote> {
  let failure: unknown;
  for (const server of servers) {
    const others = servers.filter((other) => other !== server);
    try {
      return await Remote.connect({ protocol: "tagged", ...options, server, others }, call);
    } catch (error) {
      if (!(error instanceof NoReplyError)) throw error;
      failure = error;
    }
  }
  throw failure;
}

/** What the signal ends is the wait: a name may be looked up for long. */
async function open(
  server: string,
  timeout: number,
  signal: AbortSignal | undefined,
  options: RemoteOptions,
): Promise<Transport> {
  const opening = openAny(server, timeout, options);
  try {
    return await unlessAborted(signal, opening);
  } catch (error) {
    opening.then((transport) => transport.close(), () => {});
    throw error;
  }
}

async function openAny(
  server: string,
  timeout: number,
  { ca, token }: RemoteOptions,
): Promise<Transport> {
  if (!isQuic(server)) return await openUdp(server);
  const parsed = parseServer(server.slice(QUIC.length));
  if (parsed === undefined) {
    throw new TypeError(`Cannot parse server: ${server}: a server is "quic://host:port"`);
  }
  if (!("Deno" in globalThis)) {
    throw new TypeError(`Cannot connect to ${server}: only Deno has QUIC`);
  }
  const address = await resolve(parsed.hostname);
  // Loaded for quic:// only: it takes time.
  const { openQuic } = await import("./transports/quic.ts");
  try {
    return await openQuic({ server, ...parsed, address, ca, token, timeout });
  } catch (error) {
    const { name, message } = error as Error;
    throw name === "TimeoutError"
      ? new NoReplyError("hello()", server, timeout)
      : new RemoteError(`cannot connect to ${server}: ${message}`, "hello()");
  }
}
