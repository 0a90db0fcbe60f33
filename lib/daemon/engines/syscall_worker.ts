/// <reference lib="deno.worker" />
/**
 * The loop of the syscall engine: receive a batch, serve it, send the replies, again. It makes no garbage.
 *
 * All that the kernel reads or writes lies in one WebAssembly.Memory, the *arena*, whose address never
 * changes; it is at the same time the I/O memory of the service. Datagrams are received where they are
 * served, replies are sent from where they were made, and the name that the kernel writes for a sender
 * is the service's source: no datagram is copied on its way.
 *
 * Replies are packed one behind the other. Those of equal size to one peer are thus one stretch of
 * memory, which goes out as one message that the kernel cuts up (UDP_SEGMENT). The other way round, what
 * the kernel has coalesced (UDP_GRO) is one message that holds many datagrams of the same size.
 */

import { Counter, type Counters, noteLatency } from "../counters.ts";
import type { EngineOptions } from "../engine.ts";
import { newService } from "../engine_service.ts";
import { MAX_DATAGRAM, METHODS } from "../../protocol/wire.ts";
import { NO_REPLY, type Service } from "../service.ts";
import { KeyedHash } from "../../system/hash.ts";
import {
  Arena,
  Errno,
  Libc,
  MSG_DONTWAIT,
  MSG_WAITFORONE,
  Unavailable,
} from "../../system/libc.ts";
import { Mapping } from "../../system/mapping.ts";
import { layOutStopwatch, Stopwatch } from "../../system/stopwatch.ts";
import {
  Incoming,
  Layout,
  layOutIncoming,
  layOutOutgoing,
  layOutPeer,
  MAX_MESSAGE,
  Outgoing,
  Tally,
} from "../../system/message.ts";

/** What the main thread sends to start the loop. */
export interface Start {
  options: EngineOptions;
  /**
   * The socket that receives; those that answer who has proven his address, and those that answer the
   * others, where the first one does not; and the port of all.
   */
  sockets: { first: number; proven: readonly number[]; unproven: readonly number[] };
  port: number;
  /** The address that all are bound to, as bytes. */
  name: Uint8Array;
  spin: number;
  /** Whether the kernel knows UDP_SEGMENT. */
  segments: boolean;
  /** `stop[0]` is 0 until the loop is to end. */
  stop: Int32Array<SharedArrayBuffer>;
}

/** What the worker tells the main thread. */
export type Report =
  | { state: "running" | "ended" }
  | { state: "unavailable"; reason: string }
  | { state: "failed"; error: unknown };

/**
 * Messages that are received before all of them are answered, most often by one call. A larger batch saves
 * little, but its replies leave later: a client that waits for them all does nothing meanwhile, and then the
 * daemon does.
 */
const BATCH = 16;
/**
 * Bytes of requests that are served before their replies leave, without what they write, which costs little:
 * what one message can hold, so that a batch of the worst of them keeps nobody waiting for longer than a
 * single one, but for those that came after it; and the heads of a batch of writes that are as long as can be.
 */
const MAX_TURN_BYTES = MAX_MESSAGE + 1024;
/** Who writes so much at once most often writes more, and waits for all of it. */
const LONG_WRITE = 16 * 1024;
/** Bytes that all requests have written. */
const WRITTEN = Counter.payload + METHODS.write.opcode;
/** Messages that one call sends: those that the kernel has coalesced can want many. */
const MAX_SENDS = 256;
/** Room for sixteen of the longest replies. */
const REPLIES_BYTES = 1024 * 1024;

/** How long the loop rests after an error of the socket, so that a lasting one does not take a core. */
const REST_MS = 10;

/** How long a datagram may take to this process from itself, in milliseconds. */
const PROBE_MS = 1000;

const LAYOUT = new Layout();
const INCOMING = layOutIncoming(LAYOUT, BATCH);
const OUTGOING = layOutOutgoing(LAYOUT, MAX_SENDS, REPLIES_BYTES);
const SELF = layOutPeer(LAYOUT);
const TIMES = layOutStopwatch(LAYOUT);

/** What the loop calls. */
const FUNCTIONS = ["recvmmsg", "sendmmsg", "clock_gettime", "madvise"] as const;
/** Opened at once, while the main thread makes what it sends to start the loop. */
const LIBC = new Libc(FUNCTIONS);

class Loop {
  readonly #arena: Arena;
  readonly #incoming: Incoming;
  readonly #outgoing: Outgoing;
  readonly #stopwatch: Stopwatch;
  readonly #first: number;
  readonly #proven: readonly number[];
  readonly #unproven: readonly number[];
  readonly #hash = new KeyedHash();
  readonly #spin: number;
  /** Of this time: #spin or twice that. */
  #tries: number;
  readonly #stop: Int32Array<SharedArrayBuffer>;
  readonly #counters: Counters;
  readonly #service: Service;
  /** Datagrams that the kernel has dropped so far, modulo 2^32. */
  #drops = 0;
  /** Messages that were received, and datagrams in those of this turn. */
  #messages = 0;
  #datagrams = 0;

  static async over(start: Start): Promise<Loop> {
    const { options, port } = start;
    const arena = new Arena(LIBC, LAYOUT.bytes);
    const release = (memory: WebAssembly.Memory) => {
      const mapping = new Mapping(LIBC, memory);
      if (options.hugePages && !mapping.preferHugePages()) {
        throw new Unavailable("Cannot have pages of 2 MiB for the heap: the kernel knows none");
      }
      return options.heapPlace === undefined
        ? (first: number, count: number) => mapping.release(first, count)
        : (first: number, count: number) => mapping.punch(first, count);
    };
    const service = await newService(options, arena.memory, port, {
      // Where the room of a file is reserved, a page that was given back might not be had again.
      ...(options.heapPlace?.sparse !== false && { release }),
    });
    return new Loop(start, arena, service);
  }

  private constructor(
    { options, sockets, spin, segments, stop }: Start,
    arena: Arena,
    service: Service,
  ) {
    this.#arena = arena;
    this.#service = service;
    this.#incoming = new Incoming(LIBC, arena, INCOMING);
    this.#stopwatch = new Stopwatch(LIBC, arena, TIMES);
    this.#first = sockets.first;
    this.#proven = sockets.proven;
    this.#unproven = sockets.unproven;
    this.#spin = this.#tries = spin;
    this.#stop = stop;
    const { counters, clock } = options.state.service;
    this.#counters = counters;
    this.#outgoing = new Outgoing(LIBC, arena, OUTGOING, segments, clock);
  }

  /**
   * Sends a datagram to itself and receives it, before anybody relies on that: the libc is there, but a
   * filter of system calls may refuse these, as those of containers do. Throws Unavailable.
   */
  probe(name: Uint8Array): void {
    const { view } = this.#arena;
    for (const [i, byte] of name.entries()) view.setUint8(SELF + i, byte);
    const sockets = [this.#first, ...this.#proven, ...this.#unproven];
    for (const socket of sockets) this.#outgoing.add(0, socket, SELF);
    this.#outgoing.flush();
    if (this.#outgoing.tally[Tally.lost]! > 0) throw new Unavailable("Cannot send by sendmmsg");
    this.#outgoing.tally.fill(0);
    let missing = sockets.length;
    for (const start = performance.now(); missing > 0;) {
      const messages = this.#incoming.receive(this.#first, 0, 1, MSG_DONTWAIT);
      if (messages > 0) {
        if (view.getUint16(this.#incoming.peerOf(0) + 2) !== view.getUint16(SELF + 2)) {
          this.#serve(0); // somebody has not waited
        } else {
          this.#incoming.segmentOf(0);
          missing--;
        }
      } else if (!this.#isEmpty()) {
        throw new Unavailable("Cannot receive by recvmmsg");
      } else {
        if (performance.now() - start > PROBE_MS) {
          throw new Unavailable("Cannot receive what was sent to the daemon's own address");
        }
        Atomics.wait(this.#stop, 0, 0, 1);
      }
    }
    this.#outgoing.flush();
  }

  run(): void {
    for (;;) {
      this.#messages = this.#receive();
      if (Atomics.load(this.#stop, 0) !== 0) return; // what came now, or woke us, came too late
      if (this.#messages === 0) this.#service.idle();
      for (let next = 0; next < this.#messages;) next = this.#turn(next);
    }
  }

  /** Serves messages from `first` on, as many as a turn may hold, and returns the first that is left. */
  #turn(first: number): number {
    const counters = this.#counters;
    counters[Counter.busy] = 1;
    this.#stopwatch.start();
    this.#service.beginTurn();
    this.#datagrams = 0;
    let i = first;
    for (let bytes = 0; i < this.#messages;) {
      bytes += this.#incoming.lengthOf(i);
      if (bytes > MAX_TURN_BYTES) break; // never at the first: none is longer
      const before = counters[WRITTEN]!;
      this.#serve(i++);
      const written = (counters[WRITTEN]! - before) | 0;
      bytes -= written;
      if (written >= LONG_WRITE && i === this.#messages) this.#receiveMore();
    }
    this.#outgoing.flush();
    const { tally } = this.#outgoing;
    counters[Counter.sent] = tally[Tally.sent]!;
    counters[Counter.sentBytes] = tally[Tally.bytes]!;
    counters[Counter.sendErrors] = tally[Tally.lost]!;
    counters[Counter.busy] = 0;
    noteLatency(counters, this.#datagrams, this.#stopwatch.stop());
    return i;
  }

  /**
   * Waits for messages and returns how many came, 0 after a while without any or if there is something
   * else to do. To try a few times is quicker than to be woken; who came late in that time is likely to do
   * so again, and gets twice as much.
   */
  #receive(): number {
    for (let i = 0; i < this.#tries; i++) {
      const messages = this.#tryReceive(0, MSG_DONTWAIT);
      if (messages === 0) continue;
      this.#tries = 2 * i < this.#spin ? this.#spin : 2 * this.#spin;
      return messages;
    }
    this.#tries = this.#spin;
    return this.#service.heap.isReclaiming ? 0 : this.#tryReceive(0, MSG_WAITFORONE);
  }

  /** Receives what has come since, if there is room: to be woken once for all replies is quicker for a client, too. */
  #receiveMore(): void {
    if (this.#messages === BATCH || this.#service.heap.isPressed) return;
    this.#messages += this.#tryReceive(this.#messages, MSG_DONTWAIT);
  }

  /** Whether nothing was received because nothing was there, or a signal came. */
  #isEmpty(): boolean {
    const errno = LIBC.errno();
    return errno === Errno.EAGAIN || errno === Errno.EINTR;
  }

  /** Receives messages from number `first` on. */
  #tryReceive(first: number, flags: number): number {
    const end = this.#service.heap.isPressed ? first + 1 : BATCH;
    const messages = this.#incoming.receive(this.#first, first, end, flags);
    if (messages >= 0) return messages;
    if (!this.#isEmpty()) {
      this.#counters[Counter.receiveErrors]!++;
      Atomics.wait(this.#stop, 0, 0, REST_MS);
    }
    return 0;
  }

  /** Serves one message: a datagram, or as many as the kernel has coalesced in it. */
  #serve(i: number): void {
    const peer = this.#incoming.peerOf(i);
    const start = this.#incoming.startOf(i);
    const bytes = this.#incoming.lengthOf(i);
    const segment = this.#incoming.segmentOf(i);
    this.#counters[Counter.kernelDrops]! += (this.#incoming.overflow - this.#drops) >>> 0;
    this.#drops = this.#incoming.overflow;
    this.#counters[Counter.receivedBytes]! += bytes;
    let at = 0;
    do { // once for an empty one
      this.#datagrams++;
      this.#counters[Counter.received]!++;
      const length = Math.min(segment, bytes - at, MAX_DATAGRAM);
      this.#answer(start + at, length, peer);
      at += segment;
    } while (at < bytes);
  }

  #answer(at: number, length: number, peer: number): void {
    const replyLength = this.#service.serve(at, length, this.#outgoing.room(), peer);
    if (replyLength !== NO_REPLY) this.#outgoing.add(replyLength, this.#socketFor(peer), peer);
  }

  /** Whoever does not fetch answers fills the send buffer of a few others, not that of all. */
  #socketFor(peer: number): number {
    const sockets = this.#service.proven === 0 ? this.#unproven : this.#proven;
    if (sockets.length === 0) return this.#first;
    return sockets[this.#hash.address(this.#arena.view, peer) % sockets.length]!;
  }
}

self.onmessage = async ({ data }: MessageEvent<Start>) => {
  let loop: Loop;
  try {
    loop = await Loop.over(data);
    loop.probe(data.name);
  } catch (error) {
    // The class of an error of ours would be lost on the way.
    if (error instanceof Unavailable) report({ state: "unavailable", reason: error.message });
    else report({ state: "failed", error });
    return;
  }
  report({ state: "running" });
  loop.run();
  report({ state: "ended" });
};

function report(report: Report): void {
  self.postMessage(report);
  if (report.state !== "running") self.close();
}
