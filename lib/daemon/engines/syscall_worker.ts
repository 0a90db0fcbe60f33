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

import { Counter, type Counters } from "../counters.ts";
import { type EngineOptions, newService } from "../engine.ts";
import { MAX_DATAGRAM } from "../../protocol/wire.ts";
import { NO_REPLY, type Service } from "../service.ts";
import { SOURCE_BYTES } from "../../system/address.ts";
import {
  Arena,
  CMSGHDR,
  controlSpace,
  Errno,
  IOVEC,
  Libc,
  MMSGHDR,
  MSG_DONTWAIT,
  MSG_WAITFORONE,
  SO_RXQ_OVFL,
  SOL_UDP,
  UDP_GRO,
  UDP_SEGMENT,
} from "../../system/libc.ts";

/** What the main thread sends to start the loop. */
export interface Start {
  options: EngineOptions;
  /** The socket, and the port that it is bound to. */
  fd: number;
  port: number;
  spin: number;
  /** Whether the kernel knows UDP_SEGMENT. */
  segments: boolean;
  /** `stop[0]` is 0 until the loop is to end. */
  stop: Int32Array<SharedArrayBuffer>;
}

/** What the worker tells the main thread. */
export type Report = { state: "running" | "ended" } | { state: "failed"; error: unknown };

/**
 * Messages that one call receives, and that are answered together. A larger batch saves little, but its
 * replies leave later: a client that waits for them all does nothing meanwhile, and then the daemon does.
 */
const BATCH = 16;
/** Messages that one call sends: those that the kernel has coalesced can want many. */
const MAX_SENDS = 256;
/** Datagrams into which every kernel that knows UDP_SEGMENT can cut a message. */
const MAX_SEGMENTS = 64;
/** A message, coalesced or not, is at most what an IP packet can hold. */
const MAX_MESSAGE = 64 * 1024;
/** Not a power of two, so that the beginnings of messages don't compete for the same cache lines. */
const MESSAGE_STRIDE = MAX_MESSAGE + 3 * 64;
const SOURCE_STRIDE = 32;
/** Room for sixteen of the longest replies. */
const REPLIES_BYTES = 1024 * 1024;
/** With every received message: the size of coalesced datagrams and the drops so far, an int each. */
const INT_CONTROL_BYTES = controlSpace(4);
const RECEIVE_CONTROL_BYTES = 2 * INT_CONTROL_BYTES;
/** With a run of replies: their size, 16 bits. */
const SEGMENT_BYTES = 2;
const SEND_CONTROL_BYTES = controlSpace(SEGMENT_BYTES);

const NO_TIMEOUT = 0n;

/** How long the loop rests after an error of the socket, so that a lasting one does not take a core. */
const REST_MS = 10;

/** Where things lie in the arena. */
let arenaBytes = 0;
function region(bytes: number): number {
  const at = arenaBytes;
  arenaBytes += Math.ceil(bytes / 64) * 64;
  return at;
}
const RECEIVE_HEADERS = region(BATCH * MMSGHDR.size);
const RECEIVE_IOVECS = region(BATCH * IOVEC.size);
const RECEIVE_CONTROLS = region(BATCH * RECEIVE_CONTROL_BYTES);
const SOURCES = region(BATCH * SOURCE_STRIDE);
const SEND_HEADERS = region(MAX_SENDS * MMSGHDR.size);
const SEND_IOVECS = region(MAX_SENDS * IOVEC.size);
const SEND_CONTROLS = region(MAX_SENDS * SEND_CONTROL_BYTES);
const REPLIES = region(REPLIES_BYTES);
const REPLIES_END = REPLIES + REPLIES_BYTES;
const MESSAGES = region(BATCH * MESSAGE_STRIDE);

/** Replies that wait to be sent by one call. */
class Replies {
  readonly #libc: Libc;
  readonly #arena: Arena;
  readonly #view: DataView;
  readonly #fd: number;
  readonly #counters: Counters;
  /** The addresses of the messages' headers. */
  readonly #headers: readonly bigint[];
  #messages = 0;
  #replies = 0;
  /** Where the next reply goes. */
  #end = REPLIES;
  /** The last message is a run of replies: how many, of how many bytes altogether, and to whom. */
  #run = 0;
  #runBytes = 0;
  #peer = 0;
  /** How long a reply may be to join the run; 0 if none may. */
  #segment = 0;
  /** The longest reply that the kernel was not seen to refuse as part of a run. */
  #maxSegment: number;

  constructor(libc: Libc, arena: Arena, { fd, segments, options }: Start) {
    this.#libc = libc;
    this.#arena = arena;
    this.#view = arena.view;
    this.#fd = fd;
    this.#counters = options.counters;
    this.#maxSegment = segments ? MAX_DATAGRAM : 0;
    this.#headers = Array.from({ length: MAX_SENDS }, (_, i) => {
      const header = SEND_HEADERS + i * MMSGHDR.size;
      const control = SEND_CONTROLS + i * SEND_CONTROL_BYTES;
      arena.setPointer(header + MMSGHDR.iovecs, SEND_IOVECS + i * IOVEC.size);
      arena.setPointer(header + MMSGHDR.control, control);
      arena.view.setInt32(header + MMSGHDR.nameLength, SOURCE_BYTES, true);
      arena.view.setInt32(header + MMSGHDR.iovecCount, 1, true);
      arena.view.setInt32(control + CMSGHDR.length, CMSGHDR.size + SEGMENT_BYTES, true);
      arena.view.setInt32(control + CMSGHDR.level, SOL_UDP, true);
      arena.view.setInt32(control + CMSGHDR.type, UDP_SEGMENT, true);
      return arena.addressOf(header);
    });
  }

  /** Where the next reply is to be written: MAX_DATAGRAM bytes are free there. */
  room(): number {
    if (this.#end > REPLIES_END - MAX_DATAGRAM || this.#messages === MAX_SENDS) this.flush();
    return this.#end;
  }

  /** Takes the reply that was written to `room()`, for the sender whose name stands at `peer`. */
  add(length: number, peer: number): void {
    if (this.#joins(length, peer)) this.#extend(length);
    else this.#begin(length, peer);
    this.#end += length;
    this.#replies++;
  }

  #joins(length: number, peer: number): boolean {
    return length !== 0 && length <= this.#segment && this.#run < MAX_SEGMENTS &&
      this.#runBytes + length <= MAX_DATAGRAM && this.#isPeer(peer);
  }

  #isPeer(peer: number): boolean {
    if (peer === this.#peer) return true;
    for (let i = 0; i < SOURCE_BYTES; i += 4) {
      if (this.#view.getInt32(peer + i) !== this.#view.getInt32(this.#peer + i)) return false;
    }
    return true;
  }

  #begin(length: number, peer: number): void {
    const header = SEND_HEADERS + this.#messages * MMSGHDR.size;
    const iovec = SEND_IOVECS + this.#messages * IOVEC.size;
    this.#arena.setPointer(header + MMSGHDR.name, peer);
    this.#view.setInt32(header + MMSGHDR.controlLength, 0, true);
    this.#arena.setPointer(iovec + IOVEC.base, this.#end);
    this.#view.setInt32(iovec + IOVEC.length, length, true);
    this.#messages++;
    this.#run = 1;
    this.#runBytes = length;
    this.#peer = peer;
    this.#segment = length <= this.#maxSegment ? length : 0;
  }

  #extend(length: number): void {
    const message = this.#messages - 1;
    this.#runBytes += length;
    this.#view.setInt32(SEND_IOVECS + message * IOVEC.size + IOVEC.length, this.#runBytes, true);
    if (this.#run === 1) {
      const header = SEND_HEADERS + message * MMSGHDR.size;
      const control = SEND_CONTROLS + message * SEND_CONTROL_BYTES;
      this.#view.setInt32(header + MMSGHDR.controlLength, SEND_CONTROL_BYTES, true);
      this.#view.setUint16(control + CMSGHDR.size, this.#segment, true);
    }
    this.#run++;
    if (length < this.#segment) this.#segment = 0; // only the last of a run may be shorter
  }

  /** Sends all. A reply that the kernel will not take is lost, as datagrams may be. */
  flush(): void {
    let lost = 0;
    let flags = 0;
    for (let message = 0; message < this.#messages;) {
      const sent = this.#send(message, this.#messages - message, flags);
      if (sent > 0) {
        message += sent;
        continue;
      }
      if (sent === -Errno.EAGAIN) flags = MSG_DONTWAIT; // one wait for a full interface is enough
      lost += this.#giveUp(message++, -sent);
    }
    this.#counters[Counter.sendErrors]! += lost;
    this.#counters[Counter.sent]! += this.#replies - lost;
    this.#messages = 0;
    this.#replies = 0;
    this.#end = REPLIES;
    this.#segment = 0;
  }

  /** Returns how many messages the kernel took, or, negative, the error of the first. */
  #send(message: number, count: number, flags: number): number {
    for (;;) {
      const sent = this.#libc.symbols.sendmmsg(this.#fd, this.#headers[message]!, count, flags);
      if (sent > 0) return sent;
      const errno = this.#libc.errno();
      // A signal came in between, or the error is that of an earlier reply: this one was not tried.
      if (errno !== Errno.EINTR && errno !== Errno.ECONNREFUSED) return -errno;
    }
  }

  /**
   * Gives up a message that the kernel refused, and returns how many replies are lost: one or, of a run,
   * those that it refuses one by one, too.
   */
  #giveUp(message: number, errno: number): number {
    const header = SEND_HEADERS + message * MMSGHDR.size;
    const iovec = SEND_IOVECS + message * IOVEC.size;
    const control = SEND_CONTROLS + message * SEND_CONTROL_BYTES;
    if (this.#view.getInt32(header + MMSGHDR.controlLength, true) === 0) return 1;
    const segment = this.#view.getUint16(control + CMSGHDR.size, true);
    const start = this.#arena.offsetAt(iovec + IOVEC.base);
    const bytes = this.#view.getInt32(iovec + IOVEC.length, true);
    this.#view.setInt32(header + MMSGHDR.controlLength, 0, true);
    let lost = 0;
    for (let at = 0; at < bytes; at += segment) {
      this.#arena.setPointer(iovec + IOVEC.base, start + at);
      this.#view.setInt32(iovec + IOVEC.length, Math.min(segment, bytes - at), true);
      if (this.#send(message, 1, MSG_DONTWAIT) < 0) lost++;
    }
    if (lost === 0) this.#limitRuns(errno, segment);
    return lost;
  }

  /** Learns from a run that the kernel refused although it took each of its replies. */
  #limitRuns(errno: number, segment: number): void {
    this.#counters[Counter.sendErrors]!++;
    // The interface has no checksum offload, without which many kernels cut up nothing.
    if (errno === Errno.EIO) this.#maxSegment = 0;
    // Each of the replies is longer than what the interface sends in one piece.
    if (errno === Errno.EINVAL || errno === Errno.EMSGSIZE) {
      this.#maxSegment = Math.min(this.#maxSegment, segment - 1);
    }
  }
}

/** The receiving half, and the loop. */
class Loop {
  readonly #libc = new Libc();
  readonly #arena = new Arena(this.#libc, arenaBytes);
  readonly #view = this.#arena.view;
  readonly #fd: number;
  readonly #spin: number;
  readonly #stop: Int32Array<SharedArrayBuffer>;
  readonly #counters: Counters;
  readonly #service: Service;
  readonly #replies: Replies;
  /** The address of the first message's header. */
  readonly #headers = this.#arena.addressOf(RECEIVE_HEADERS);
  /** Datagrams that the kernel has dropped so far, modulo 2^32. */
  #drops = 0;

  constructor(start: Start) {
    const { options, fd, port, spin, stop } = start;
    this.#fd = fd;
    this.#spin = spin;
    this.#stop = stop;
    this.#counters = options.counters;
    this.#service = newService(options, this.#arena.memory, port);
    this.#replies = new Replies(this.#libc, this.#arena, start);
    for (let i = 0; i < BATCH; i++) {
      const header = RECEIVE_HEADERS + i * MMSGHDR.size;
      const iovec = RECEIVE_IOVECS + i * IOVEC.size;
      this.#arena.setPointer(header + MMSGHDR.name, SOURCES + i * SOURCE_STRIDE);
      this.#arena.setPointer(header + MMSGHDR.iovecs, iovec);
      this.#arena.setPointer(
        header + MMSGHDR.control,
        RECEIVE_CONTROLS + i * RECEIVE_CONTROL_BYTES,
      );
      this.#arena.setPointer(iovec + IOVEC.base, MESSAGES + i * MESSAGE_STRIDE);
      this.#view.setInt32(header + MMSGHDR.nameLength, SOURCE_BYTES, true);
      this.#view.setInt32(header + MMSGHDR.iovecCount, 1, true);
      this.#view.setInt32(header + MMSGHDR.controlLength, RECEIVE_CONTROL_BYTES, true);
      this.#view.setInt32(iovec + IOVEC.length, MAX_MESSAGE, true);
    }
  }

  run(): void {
    for (;;) {
      const messages = this.#receive();
      if (Atomics.load(this.#stop, 0) !== 0) return; // what came now, or woke us, came too late
      for (let i = 0; i < messages; i++) this.#serve(i);
      this.#replies.flush();
    }
  }

  /** Waits for messages and returns how many came. To try a few times is quicker than to be woken. */
  #receive(): number {
    for (let i = 0; i < this.#spin; i++) {
      const messages = this.#tryReceive(MSG_DONTWAIT);
      if (messages > 0) return messages;
    }
    return this.#tryReceive(MSG_WAITFORONE);
  }

  #tryReceive(flags: number): number {
    const { recvmmsg } = this.#libc.symbols;
    const messages = recvmmsg(this.#fd, this.#headers, BATCH, flags, NO_TIMEOUT);
    if (messages >= 0) return messages;
    const errno = this.#libc.errno();
    if (errno !== Errno.EAGAIN && errno !== Errno.EINTR) {
      this.#counters[Counter.receiveErrors]!++;
      Atomics.wait(this.#stop, 0, 0, REST_MS);
    }
    return 0;
  }

  /** Serves one message: a datagram, or as many as the kernel has coalesced in it. */
  #serve(i: number): void {
    const source = SOURCES + i * SOURCE_STRIDE;
    const start = MESSAGES + i * MESSAGE_STRIDE;
    const bytes = this.#view.getInt32(RECEIVE_HEADERS + i * MMSGHDR.size + MMSGHDR.length, true);
    const segment = this.#segment(i, bytes);
    let at = 0;
    do { // once for an empty one
      this.#counters[Counter.received]!++;
      const length = Math.min(segment, bytes - at, MAX_DATAGRAM);
      this.#answer(start + at, length, source);
      at += segment;
    } while (at < bytes);
  }

  #answer(at: number, length: number, source: number): void {
    const replyLength = this.#service.serve(at, length, this.#replies.room(), source);
    if (replyLength !== NO_REPLY) this.#replies.add(replyLength, source);
  }

  /** Reads what the kernel says about a message, and returns the length of the datagrams in it. */
  #segment(i: number, bytes: number): number {
    const lengthAt = RECEIVE_HEADERS + i * MMSGHDR.size + MMSGHDR.controlLength;
    const start = RECEIVE_CONTROLS + i * RECEIVE_CONTROL_BYTES;
    const end = start + this.#view.getInt32(lengthAt, true);
    let segment = bytes;
    for (let at = start; at < end; at += INT_CONTROL_BYTES) {
      const type = this.#view.getInt32(at + CMSGHDR.type, true);
      const value = this.#view.getInt32(at + CMSGHDR.size, true);
      if (type === UDP_GRO) segment = value;
      if (type === SO_RXQ_OVFL) {
        this.#counters[Counter.kernelDrops]! += (value - this.#drops) >>> 0;
        this.#drops = value;
      }
    }
    this.#view.setInt32(lengthAt, RECEIVE_CONTROL_BYTES, true); // the kernel has set what it used
    return segment;
  }
}

self.onmessage = ({ data }: MessageEvent<Start>) => {
  let loop: Loop;
  try {
    loop = new Loop(data);
  } catch (error) {
    report({ state: "failed", error });
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
