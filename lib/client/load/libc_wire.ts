/**
 * The load generator's way to a daemon over libc: one connected socket for each client, all of them
 * served in turn by one loop that does not sleep while replies are likely to come. It takes a core, and
 * saturates a daemon on another.
 *
 * With `coalesce`, datagrams of equal size that are due together go to the kernel as one message, which
 * it cuts up (UDP_SEGMENT), and it may hand over the replies likewise (UDP_GRO).
 */

import { setImmediate } from "node:timers/promises";
import {
  Arena,
  CMSGHDR,
  controlSpace,
  IOVEC,
  Libc,
  MMSGHDR,
  MSG_DONTWAIT,
  POLLFD,
  POLLIN,
  SO_RCVBUF,
  SO_RCVBUFFORCE,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOL_SOCKET,
  SOL_UDP,
  UDP_GRO,
  UDP_SEGMENT,
} from "../../system/libc.ts";
import { MAX_DATAGRAM } from "../../protocol/wire.ts";
import { SOURCE_BYTES, writeSource } from "../../system/address.ts";
import type { Client } from "./client.ts";
import type { Load } from "./load.ts";
import { type Wire, WireError } from "./wire.ts";

/** Messages that one call sends or receives at the most. */
const BATCH = 64;
/** Datagrams that one message can be cut into, UDP_MAX_SEGMENTS of Linux before 6.9. */
const MAX_SEGMENTS = 64;
/** A received message is at most what an IP packet can hold. */
const MAX_MESSAGE = 64 * 1024;
/** Not a power of two, so that the beginnings of messages don't compete for the same cache lines. */
const MESSAGE_STRIDE = MAX_MESSAGE + 3 * 64;
const OUT_BYTES = 1024 * 1024;
/** With a received message: the size of the datagrams in it, an int; with a sent one: likewise, 16 bits. */
const RECEIVE_CONTROL_BYTES = controlSpace(4);
const SEGMENT_BYTES = 2;
const SEND_CONTROL_BYTES = controlSpace(SEGMENT_BYTES);
const NO_TIMEOUT = 0n;

/** Room in the kernel for replies that wait. */
const RECEIVE_BUFFER = 4 * 1024 * 1024;

/**
 * The event loop gets a turn so often: each takes a few microseconds, and after some twenty of them a
 * signal is delivered. One turn that waits for signals would take a millisecond.
 */
const SLICE_MS = 4;

/** The error of a process that has as many files open as it may. */
const EMFILE = 24;

/** Turns without a datagram, of less than a microsecond for each client, before the loop sleeps. */
const SPIN = 1000;

/** Where things lie in the arena. */
const RECEIVE_HEADERS = 0;
const RECEIVE_IOVECS = RECEIVE_HEADERS + BATCH * MMSGHDR.size;
const RECEIVE_CONTROLS = RECEIVE_IOVECS + BATCH * IOVEC.size;
const SEND_HEADERS = RECEIVE_CONTROLS + BATCH * RECEIVE_CONTROL_BYTES;
const SEND_IOVECS = SEND_HEADERS + BATCH * MMSGHDR.size;
const SEND_CONTROLS = SEND_IOVECS + BATCH * IOVEC.size;
const MESSAGES = SEND_CONTROLS + BATCH * SEND_CONTROL_BYTES;
const OUT = MESSAGES + BATCH * MESSAGE_STRIDE;
const OUT_END = OUT + OUT_BYTES;
const POLLFDS = OUT_END;

export class LibcWire implements Wire {
  readonly name = "libc";
  readonly io: DataView;
  readonly #libc = new Libc();
  readonly #arena: Arena;
  readonly #coalesce: boolean;
  readonly #sockets: number[] = [];
  readonly #receiveHeaders: bigint;
  readonly #sendHeaders: readonly bigint[];
  readonly #pollfds: bigint;
  readonly #pollfdCount: bigint;

  /**
   * Throws Unavailable if there is no libc or no permission to call it, and WireError if there is but the
   * sockets cannot be had.
   */
  constructor(peer: Deno.NetAddr, clients: number, coalesce: boolean) {
    this.#arena = new Arena(this.#libc, POLLFDS + clients * POLLFD.size);
    this.#coalesce = coalesce;
    this.io = this.#arena.view;
    try {
      while (this.#sockets.length < clients) this.#open(peer, clients);
    } catch (error) {
      this.close();
      throw error;
    }
    const messages = Array.from({ length: BATCH }, (_, i) => i);
    for (const i of messages) {
      this.#layOut(RECEIVE_HEADERS, RECEIVE_IOVECS, i);
      const header = RECEIVE_HEADERS + i * MMSGHDR.size;
      const control = RECEIVE_CONTROLS + i * RECEIVE_CONTROL_BYTES;
      this.#arena.setPointer(header + MMSGHDR.control, control);
      this.io.setInt32(header + MMSGHDR.controlLength, RECEIVE_CONTROL_BYTES, true);
      this.#setMessage(RECEIVE_IOVECS, i, MESSAGES + i * MESSAGE_STRIDE, MAX_MESSAGE);
      this.#layOut(SEND_HEADERS, SEND_IOVECS, i);
      this.#layOutSegment(i);
    }
    this.#receiveHeaders = this.#arena.addressOf(RECEIVE_HEADERS);
    this.#sendHeaders = messages.map((i) => this.#arena.addressOf(SEND_HEADERS + i * MMSGHDR.size));
    this.#sockets.forEach((socket, i) => {
      this.io.setInt32(POLLFDS + i * POLLFD.size + POLLFD.fd, socket, true);
      this.io.setInt16(POLLFDS + i * POLLFD.size + POLLFD.events, POLLIN, true);
    });
    this.#pollfds = this.#arena.addressOf(POLLFDS);
    this.#pollfdCount = BigInt(clients);
  }

  async run(load: Load, until: number): Promise<void> {
    while (load.now < until) {
      this.#runSlice(load, Math.min(load.now + SLICE_MS, until));
      await setImmediate();
    }
  }

  close(): Promise<void> {
    for (const socket of this.#sockets) this.#libc.symbols.close(socket);
    this.#libc.close();
    return Promise.resolve();
  }

  #runSlice(load: Load, until: number): void {
    const { clients } = load;
    for (let idle = 0; load.now < until;) {
      load.now = performance.now();
      let moved = 0;
      for (let i = 0; i < clients.length; i++) {
        const client = clients[i]!;
        const socket = this.#sockets[i]!;
        if (client.isWaiting) moved += this.#receive(socket, client, load);
        moved += this.#send(socket, client);
      }
      if (moved > 0) idle = 0;
      else if (++idle > SPIN) this.#sleep(Math.min(load.untilDue, until - load.now));
    }
  }

  #open(peer: Deno.NetAddr, clients: number): void {
    const { socket, connect, setsockopt } = this.#libc.symbols;
    const name = new DataView(new ArrayBuffer(SOURCE_BYTES));
    writeSource(name, 0, peer.hostname, peer.port);
    const fd = socket(name.getUint16(0, true), SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
      const errno = this.#libc.errno();
      if (errno === EMFILE) throw WireError.tooManyClients(clients);
      throw new WireError(`cannot open a socket (os error ${errno})`, "use fewer --clients");
    }
    this.#sockets.push(fd);
    const set = (level: number, option: number, value: number) =>
      setsockopt(fd, level, option, new Int32Array([value]), Int32Array.BYTES_PER_ELEMENT) === 0;
    // Only a privileged process may exceed the limit, net.core.rmem_max; others get that much.
    if (!set(SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)) {
      set(SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER);
    }
    if (this.#coalesce && !(set(SOL_UDP, UDP_SEGMENT, 0) && set(SOL_UDP, UDP_GRO, 1))) {
      throw new WireError(
        "cannot coalesce datagrams: the kernel is older than Linux 5.0",
        "leave out --coalesce",
      );
    }
    if (connect(fd, name, SOURCE_BYTES) !== 0) {
      throw new WireError(
        `cannot connect a socket to ${peer.hostname} (os error ${this.#libc.errno()})`,
        "another --server",
      );
    }
  }

  #layOut(headers: number, iovecs: number, i: number): void {
    const header = headers + i * MMSGHDR.size;
    this.#arena.setPointer(header + MMSGHDR.iovecs, iovecs + i * IOVEC.size);
    this.io.setInt32(header + MMSGHDR.iovecCount, 1, true);
  }

  #layOutSegment(i: number): void {
    const control = SEND_CONTROLS + i * SEND_CONTROL_BYTES;
    this.#arena.setPointer(SEND_HEADERS + i * MMSGHDR.size + MMSGHDR.control, control);
    this.io.setInt32(control + CMSGHDR.length, CMSGHDR.size + SEGMENT_BYTES, true);
    this.io.setInt32(control + CMSGHDR.level, SOL_UDP, true);
    this.io.setInt32(control + CMSGHDR.type, UDP_SEGMENT, true);
  }

  #setMessage(iovecs: number, i: number, at: number, length: number): void {
    this.#arena.setPointer(iovecs + i * IOVEC.size + IOVEC.base, at);
    this.io.setInt32(iovecs + i * IOVEC.size + IOVEC.length, length, true);
  }

  /** Waits for a reply, in whole milliseconds. The last one is spent awake: whoever sleeps wakes late. */
  #sleep(ms: number): void {
    if (ms >= 2) this.#libc.symbols.poll(this.#pollfds, this.#pollfdCount, Math.floor(ms) - 1);
  }

  /** Gives a client what has come for it, and returns how many messages that was. */
  #receive(socket: number, client: Client, load: Load): number {
    const { recvmmsg } = this.#libc.symbols;
    // Only a part of those in flight, so that the daemon has requests to work on while these are looked
    // at: with all at once, one of the two would always wait for the other.
    const batch = Math.min(BATCH, Math.ceil(load.workload.inFlight / 4));
    const messages = recvmmsg(socket, this.#receiveHeaders, batch, MSG_DONTWAIT, NO_TIMEOUT);
    if (messages <= 0) return 0; // an error, too, is no reply: the load counts these
    load.now = performance.now();
    for (let message = 0; message < messages; message++) {
      const start = MESSAGES + message * MESSAGE_STRIDE;
      const header = RECEIVE_HEADERS + message * MMSGHDR.size;
      const bytes = this.io.getInt32(header + MMSGHDR.length, true);
      const segment = this.#segmentOf(message, bytes);
      let at = 0;
      do { // once for an empty one
        client.take(start + at, Math.min(segment, bytes - at));
        at += segment;
      } while (at < bytes);
    }
    return messages;
  }

  /** The length of the datagrams in a received message; its last may be shorter. */
  #segmentOf(message: number, bytes: number): number {
    const lengthAt = RECEIVE_HEADERS + message * MMSGHDR.size + MMSGHDR.controlLength;
    const isOne = this.io.getInt32(lengthAt, true) === 0;
    this.io.setInt32(lengthAt, RECEIVE_CONTROL_BYTES, true); // the kernel has set what it used
    if (isOne) return bytes;
    const control = RECEIVE_CONTROLS + message * RECEIVE_CONTROL_BYTES;
    return this.io.getInt32(control + CMSGHDR.size, true);
  }

  /** Sends what is due for a client, at most a batch, and returns how many messages that was. */
  #send(socket: number, client: Client): number {
    let messages = 0;
    /** Of the last message: where it begins, how many datagrams it has, and how long another may be. */
    let start = OUT;
    let count = 0;
    let segment = 0;
    for (let end = OUT; messages < BATCH && end <= OUT_END - MAX_DATAGRAM;) {
      const length = client.next(end);
      if (length === 0) break;
      const joins = length <= segment && count < MAX_SEGMENTS &&
        end + length - start <= MAX_DATAGRAM;
      if (joins) {
        if (count++ === 1) this.#setSegment(messages - 1, segment);
      } else {
        start = end;
        count = 1;
        segment = this.#coalesce ? length : 0;
        this.#setSegment(messages++, 0);
      }
      end += length;
      this.#setMessage(SEND_IOVECS, messages - 1, start, end - start);
      if (length < segment) segment = 0; // only the last datagram of a message may be shorter
    }
    this.#flush(socket, messages);
    return messages;
  }

  /** Says into datagrams of which length a message is to be cut; 0 for not at all. */
  #setSegment(message: number, segment: number): void {
    const header = SEND_HEADERS + message * MMSGHDR.size;
    const controlLength = segment === 0 ? 0 : SEND_CONTROL_BYTES;
    this.io.setInt32(header + MMSGHDR.controlLength, controlLength, true);
    const control = SEND_CONTROLS + message * SEND_CONTROL_BYTES;
    this.io.setUint16(control + CMSGHDR.size, segment, true);
  }

  /** What the kernel will not take is lost, as datagrams may be. */
  #flush(socket: number, messages: number): void {
    const { sendmmsg } = this.#libc.symbols;
    for (let message = 0; message < messages;) {
      const sent = sendmmsg(socket, this.#sendHeaders[message]!, messages - message, 0);
      message += Math.max(sent, 1);
    }
  }
}
