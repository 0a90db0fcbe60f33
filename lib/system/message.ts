/**
 * Messages as recvmmsg(2) and sendmmsg(2) have them, laid out once in an arena and used again and again
 * without making garbage. A message is one datagram or, where the kernel can do it, many of equal size of
 * which only the last may be shorter: it cuts them apart when they go out (UDP_SEGMENT, udp(7)), and may
 * hand them over joined (UDP_GRO).
 *
 * A *peer* is where a message came from, and at which of our own addresses it arrived, so that the answer
 * can leave from there:
 *
 *     0               28      32                              72
 *     +---------------+-------+-------------------------------+
 *     |     name      |       |  IP_PKTINFO or IPV6_PKTINFO   |     the name as in address.ts; the rest is
 *     +---------------+-------+-------------------------------+     zero where nobody asked for it
 */

import { SOURCE_BYTES } from "./address.ts";
import { KeyedHash } from "./hash.ts";
import {
  type Arena,
  CMSGHDR,
  controlSpace,
  Errno,
  IOVEC,
  IP_PKTINFO,
  IPV6_PKTINFO,
  type Libc,
  MMSGHDR,
  MSG_DONTWAIT,
  SO_RXQ_OVFL,
  SOL_UDP,
  UDP_GRO,
  UDP_SEGMENT,
} from "./libc.ts";

/** What an IPv4 packet can hold is the longest datagram, and the longest message to send. */
const MAX_DATAGRAM = 65507;
/** A received message, joined or not, is at most what an IP packet can hold. */
export const MAX_MESSAGE = 64 * 1024;
/** Not a power of two, so that the beginnings of messages don't compete for the same cache lines. */
const MESSAGE_STRIDE = MAX_MESSAGE + 3 * 64;
/** Datagrams into which every kernel that knows UDP_SEGMENT can cut a message. */
const MAX_SEGMENTS = 64;

/** struct in_pktinfo and in6_pktinfo: <linux/in.h>, <linux/ipv6.h>. */
const INTERFACE = CMSGHDR.size;
const INTERFACE6 = CMSGHDR.size + 16;
const LOCAL_BYTES = controlSpace(12);
const LOCAL6_BYTES = controlSpace(20);
const INT_BYTES = controlSpace(4);
/** With a received message: the size of what was joined, the drops so far, and our own address. */
const RECEIVE_CONTROL_BYTES = 2 * INT_BYTES + LOCAL6_BYTES;
/** With a sent one: our own address, which ends at SEGMENT, and the size of what is to be cut, 16 bits. */
const SEGMENT_BYTES = 2;
const SEGMENT = LOCAL6_BYTES;
const SEGMENT_SPACE = controlSpace(SEGMENT_BYTES);
const SEND_CONTROL_BYTES = SEGMENT + SEGMENT_SPACE;

/** Of a peer. */
const LOCAL = 32;
const PEER_BYTES = LOCAL + LOCAL6_BYTES;
const PEER_STRIDE = 128;
/** The peer of a connected socket. */
export const CONNECTED = 0;

const NO_TIMEOUT = 0n;

/** Hands out stretches of an arena before there is one, each on a cache line of its own. */
export class Layout {
  #bytes = 64; // so that no offset is CONNECTED

  get bytes(): number {
    return this.#bytes;
  }

  region(bytes: number): number {
    const at = this.#bytes;
    this.#bytes += Math.ceil(bytes / 64) * 64;
    return at;
  }
}

/** Where the parts of so many received messages lie. */
export function layOutIncoming(layout: Layout, count: number) {
  return {
    count,
    headers: layout.region(count * MMSGHDR.size),
    iovecs: layout.region(count * IOVEC.size),
    controls: layout.region(count * RECEIVE_CONTROL_BYTES),
    peers: layout.region(count * PEER_STRIDE),
    messages: layout.region(count * MESSAGE_STRIDE),
  };
}

/** Where a peer lies of which nothing was received. */
export function layOutPeer(layout: Layout): number {
  return layout.region(PEER_STRIDE);
}

/** Received messages, as many as fit. */
export class Incoming {
  /** Datagrams that the socket's buffer had no room for, modulo 2^32: as of the last segmentOf(). */
  overflow = 0;
  readonly #libc: Libc<"recvmmsg">;
  readonly #view: DataView;
  readonly #layout: ReturnType<typeof layOutIncoming>;
  /** The addresses of the headers. */
  readonly #headers: readonly bigint[];

  constructor(libc: Libc<"recvmmsg">, arena: Arena, layout: ReturnType<typeof layOutIncoming>) {
    this.#libc = libc;
    this.#view = arena.view;
    this.#layout = layout;
    this.#headers = Array.from(
      { length: layout.count },
      (_, i) => arena.addressOf(layout.headers + i * MMSGHDR.size),
    );
    for (let i = 0; i < layout.count; i++) {
      const header = layout.headers + i * MMSGHDR.size;
      const iovec = layout.iovecs + i * IOVEC.size;
      arena.setPointer(header + MMSGHDR.name, this.peerOf(i));
      arena.setPointer(header + MMSGHDR.iovecs, iovec);
      arena.setPointer(header + MMSGHDR.control, layout.controls + i * RECEIVE_CONTROL_BYTES);
      arena.setPointer(iovec + IOVEC.base, this.startOf(i));
      this.#view.setInt32(header + MMSGHDR.nameLength, SOURCE_BYTES, true);
      this.#view.setInt32(header + MMSGHDR.iovecCount, 1, true);
      this.#view.setInt32(header + MMSGHDR.controlLength, RECEIVE_CONTROL_BYTES, true);
      this.#view.setInt32(iovec + IOVEC.length, MAX_MESSAGE, true);
    }
  }

  /**
   * Receives messages `first` to `end`, or as many as come. Returns how many, or -1: the reason is in errno
   * of this thread.
   */
  receive(socket: number, first: number, end: number, flags: number): number {
    const headers = this.#headers[first]!;
    return this.#libc.symbols.recvmmsg(socket, headers, end - first, flags, NO_TIMEOUT);
  }

  /** Where message i begins, its length, and its peer. */
  startOf(i: number): number {
    return this.#layout.messages + i * MESSAGE_STRIDE;
  }

  lengthOf(i: number): number {
    return this.#view.getInt32(this.#layout.headers + i * MMSGHDR.size + MMSGHDR.length, true);
  }

  peerOf(i: number): number {
    return this.#layout.peers + i * PEER_STRIDE;
  }

  /**
   * Takes over what the kernel says about message i, once for each that was received, and returns the
   * length of the datagrams in it.
   */
  segmentOf(i: number): number {
    const view = this.#view;
    const lengthAt = this.#layout.headers + i * MMSGHDR.size + MMSGHDR.controlLength;
    const start = this.#layout.controls + i * RECEIVE_CONTROL_BYTES;
    const end = start + view.getInt32(lengthAt, true);
    let segment = this.lengthOf(i);
    for (let at = start; at < end;) {
      const type = view.getInt32(at + CMSGHDR.type, true);
      // No two of them have the same type, whatever the level.
      if (type === UDP_GRO) segment = view.getInt32(at + CMSGHDR.size, true);
      else if (type === SO_RXQ_OVFL) this.overflow = view.getInt32(at + CMSGHDR.size, true);
      else if (type === IP_PKTINFO) this.#setLocal(this.peerOf(i), at, LOCAL_BYTES);
      else if (type === IPV6_PKTINFO) this.#setLocal(this.peerOf(i), at, LOCAL6_BYTES);
      at += (view.getInt32(at + CMSGHDR.length, true) + 7) & ~7;
    }
    view.setInt32(lengthAt, RECEIVE_CONTROL_BYTES, true); // the kernel has set what it used
    return segment;
  }

  /** The answer takes whichever way routing says, unless the address means something on one link only. */
  #setLocal(peer: number, control: number, bytes: number): void {
    const view = this.#view;
    const local = peer + LOCAL;
    for (let i = 0; i < bytes; i += 4) view.setInt32(local + i, view.getInt32(control + i));
    if (bytes === LOCAL_BYTES) view.setInt32(local + INTERFACE, 0);
    else if (view.getUint16(local + CMSGHDR.size) >>> 6 !== 0xfe80 >>> 6) {
      view.setInt32(local + INTERFACE6, 0);
    }
  }
}

/** Where the parts of so many messages to send lie, and room for so many bytes of datagrams. */
export function layOutOutgoing(layout: Layout, count: number, bytes: number) {
  return {
    count,
    headers: layout.region(count * MMSGHDR.size),
    iovecs: layout.region(count * IOVEC.size),
    controls: layout.region(count * SEND_CONTROL_BYTES),
    datagrams: layout.region(bytes),
    end: layout.bytes,
  };
}

/** How long the kernel's refusal to cut up messages for a destination is believed, in seconds. */
const LIMIT_SECONDS = 60;
/** What is remembered of destinations, by the hash of their addresses: a collision does no harm. */
const DESTINATIONS = 1024;

/** Where in `Outgoing.tally` it is counted: datagrams that the kernel took, their bytes, and those that it did not. */
export const Tally = { sent: 0, bytes: 1, lost: 2 } as const;

/**
 * Datagrams that wait to be sent together. Those of equal size through one socket to one peer are one
 * stretch of memory, which goes out as one message. Sending does not wait, unless the flags of sendmmsg(2)
 * say so: what the kernel will not take is lost, as datagrams may be.
 */
export class Outgoing {
  /**
   * As Tally has it. In an array, because code that V8 has made for a field of small integers is thrown away
   * when one grows beyond 2^31, and what is run until there is new code makes garbage.
   */
  readonly tally = new Float64Array(Object.keys(Tally).length);
  readonly #libc: Libc<"sendmmsg">;
  readonly #arena: Arena;
  readonly #view: DataView;
  readonly #layout: ReturnType<typeof layOutOutgoing>;
  readonly #clock: Int32Array;
  /** The addresses of the headers. */
  readonly #headers: readonly bigint[];
  readonly #flags: number;
  /** For each message its socket, and how many datagrams it is. */
  readonly #sockets: Int32Array;
  readonly #counts: Int32Array;
  /** The longest datagram that may be part of a run. */
  readonly #maxSegment: number;
  /** For each destination, the longest that the kernel cuts for it, and until which second that holds. */
  readonly #limits = new Int32Array(DESTINATIONS);
  readonly #limitEnds = new Int32Array(DESTINATIONS);
  readonly #hash = new KeyedHash();
  #messages = 0;
  /** Where the next datagram goes. */
  #end: number;
  /** The last message is a run: of how many bytes altogether, through which socket, and to whom. */
  #runBytes = 0;
  #socket = -1;
  #peer = CONNECTED;
  /** How long a datagram may be to join the run; 0 if none may. */
  #segment = 0;

  /** `segments` says whether the kernel knows UDP_SEGMENT; `clock[0]` is the time in seconds. */
  constructor(
    libc: Libc<"sendmmsg">,
    arena: Arena,
    layout: ReturnType<typeof layOutOutgoing>,
    segments: boolean,
    clock: Int32Array,
    flags = MSG_DONTWAIT,
  ) {
    this.#libc = libc;
    this.#flags = flags;
    this.#arena = arena;
    this.#view = arena.view;
    this.#layout = layout;
    this.#clock = clock;
    this.#maxSegment = segments ? MAX_DATAGRAM : 0;
    this.#end = layout.datagrams;
    this.#sockets = new Int32Array(layout.count);
    this.#counts = new Int32Array(layout.count);
    this.#headers = Array.from({ length: layout.count }, (_, i) => {
      const header = layout.headers + i * MMSGHDR.size;
      const segment = layout.controls + i * SEND_CONTROL_BYTES + SEGMENT;
      arena.setPointer(header + MMSGHDR.iovecs, layout.iovecs + i * IOVEC.size);
      arena.view.setInt32(header + MMSGHDR.iovecCount, 1, true);
      arena.view.setInt32(segment + CMSGHDR.length, CMSGHDR.size + SEGMENT_BYTES, true);
      arena.view.setInt32(segment + CMSGHDR.level, SOL_UDP, true);
      arena.view.setInt32(segment + CMSGHDR.type, UDP_SEGMENT, true);
      return arena.addressOf(header);
    });
  }

  /** Messages that wait. */
  get messages(): number {
    return this.#messages;
  }

  /** Where the next datagram is to be written: room for the longest is free there. */
  room(): number {
    const { count, end } = this.#layout;
    if (this.#end > end - MAX_DATAGRAM || this.#messages === count) this.flush();
    return this.#end;
  }

  /** Takes the datagram that was written to `room()`, for a peer, which must stay until it is sent. */
  add(length: number, socket: number, peer: number): void {
    if (this.#joins(length, socket, peer)) this.#extend(length);
    else this.#begin(length, socket, peer);
    this.#end += length;
  }

  /** Sends all. */
  flush(): void {
    for (let message = 0; message < this.#messages;) {
      const socket = this.#sockets[message]!;
      let end = message + 1;
      while (end < this.#messages && this.#sockets[end] === socket) end++;
      const taken = this.#send(message, end - message);
      if (taken > 0) {
        for (const next = message + taken; message < next; message++) {
          this.tally[Tally.sent]! += this.#counts[message]!;
          this.tally[Tally.bytes]! += this.#bytesOf(message);
        }
      } else if (taken === -Errno.EAGAIN) { // its buffer is full: for the others, too
        while (message < end) this.tally[Tally.lost]! += this.#counts[message++]!;
      } else {
        this.#giveUp(message++, -taken);
      }
    }
    this.#messages = 0;
    this.#end = this.#layout.datagrams;
    this.#segment = 0;
  }

  #joins(length: number, socket: number, peer: number): boolean {
    return length !== 0 && length <= this.#segment && socket === this.#socket &&
      this.#counts[this.#messages - 1]! < MAX_SEGMENTS &&
      this.#runBytes + length <= MAX_DATAGRAM && this.#isPeer(peer);
  }

  #isPeer(peer: number): boolean {
    if (peer === this.#peer) return true;
    const hasLocal = this.#view.getInt32(peer + LOCAL + CMSGHDR.length, true) !== 0;
    const end = hasLocal ? PEER_BYTES : LOCAL + 4; // the length, 0, ends it
    for (let i = 0; i < end; i += 4) {
      if (this.#view.getInt32(peer + i) !== this.#view.getInt32(this.#peer + i)) return false;
    }
    return true;
  }

  #begin(length: number, socket: number, peer: number): void {
    const message = this.#messages++;
    const iovec = this.#layout.iovecs + message * IOVEC.size;
    this.#arena.setPointer(iovec + IOVEC.base, this.#end);
    this.#view.setInt32(iovec + IOVEC.length, length, true);
    this.#setControl(message, peer, 0);
    if (peer !== CONNECTED) {
      const header = this.#layout.headers + message * MMSGHDR.size;
      this.#arena.setPointer(header + MMSGHDR.name, peer);
      this.#view.setInt32(header + MMSGHDR.nameLength, SOURCE_BYTES, true);
    }
    this.#sockets[message] = socket;
    this.#counts[message] = 1;
    this.#runBytes = length;
    this.#socket = socket;
    this.#peer = peer;
    this.#segment = length <= this.#limitOf(peer) ? length : 0;
  }

  #extend(length: number): void {
    const message = this.#messages - 1;
    this.#runBytes += length;
    const iovec = this.#layout.iovecs + message * IOVEC.size;
    this.#view.setInt32(iovec + IOVEC.length, this.#runBytes, true);
    if (this.#counts[message]!++ === 1) this.#setControl(message, this.#peer, this.#segment);
    if (length < this.#segment) this.#segment = 0; // only the last of a run may be shorter
  }

  /** Says from which address a message goes, and into datagrams of which length it is cut; 0 for one. */
  #setControl(message: number, peer: number, segment: number): void {
    const view = this.#view;
    const header = this.#layout.headers + message * MMSGHDR.size;
    const length = peer === CONNECTED ? 0 : view.getInt32(peer + LOCAL + CMSGHDR.length, true);
    if ((length | segment | view.getInt32(header + MMSGHDR.controlLength, true)) === 0) return;
    const segmentAt = this.#layout.controls + message * SEND_CONTROL_BYTES + SEGMENT;
    const start = segmentAt - ((length + 7) & ~7);
    for (let i = 0; i < length; i += 4) {
      view.setInt32(start + i, view.getInt32(peer + LOCAL + i));
    }
    const end = segment === 0 ? segmentAt : segmentAt + SEGMENT_SPACE;
    this.#arena.setPointer(header + MMSGHDR.control, start);
    view.setInt32(header + MMSGHDR.controlLength, end - start, true);
    view.setUint16(segmentAt + CMSGHDR.size, segment, true);
  }

  /** Returns how many messages the kernel took, or, negative, the error of the first. */
  #send(message: number, count: number): number {
    const { sendmmsg } = this.#libc.symbols;
    for (;;) {
      const socket = this.#sockets[message]!;
      const sent = sendmmsg(socket, this.#headers[message]!, count, this.#flags);
      if (sent > 0) return sent;
      const errno = this.#libc.errno();
      // A signal came in between, or the error is that of an earlier datagram: this one was not tried.
      if (errno !== Errno.EINTR && errno !== Errno.ECONNREFUSED) return -errno;
    }
  }

  /** Gives up a message that the kernel refused; of a run, those that it refuses one by one, too. */
  #giveUp(message: number, errno: number): void {
    const view = this.#view;
    const count = this.#counts[message]!;
    // EIO: the interface has no checksum offload, without which many kernels cut up nothing.
    // EINVAL, EMSGSIZE: each of them is longer than what the interface sends in one piece.
    const isLimit = errno === Errno.EIO || errno === Errno.EINVAL || errno === Errno.EMSGSIZE;
    if (count === 1 || !isLimit) {
      this.tally[Tally.lost]! += count;
      return;
    }
    const iovec = this.#layout.iovecs + message * IOVEC.size;
    const control = this.#layout.controls + message * SEND_CONTROL_BYTES;
    const segment = view.getUint16(control + SEGMENT + CMSGHDR.size, true);
    const start = this.#arena.offsetAt(iovec + IOVEC.base);
    const bytes = view.getInt32(iovec + IOVEC.length, true);
    const header = this.#layout.headers + message * MMSGHDR.size;
    const name = this.#arena.offsetAt(header + MMSGHDR.name);
    const peer = view.getInt32(header + MMSGHDR.nameLength, true) === 0 ? CONNECTED : name;
    this.#setControl(message, peer, 0);
    let taken = 0;
    for (let at = 0; at < bytes; at += segment) {
      this.#arena.setPointer(iovec + IOVEC.base, start + at);
      view.setInt32(iovec + IOVEC.length, Math.min(segment, bytes - at), true);
      if (this.#send(message, 1) <= 0) continue;
      taken++;
      this.tally[Tally.bytes]! += Math.min(segment, bytes - at);
    }
    this.tally[Tally.sent]! += taken;
    this.tally[Tally.lost]! += count - taken;
    if (taken === 0) return; // it was not for the cutting
    const destination = this.#destinationOf(peer);
    const limit = errno === Errno.EIO ? 0 : segment - 1;
    this.#limits[destination] = Math.min(limit, this.#limitOf(peer));
    this.#limitEnds[destination] = this.#clock[0]! + LIMIT_SECONDS;
  }

  #bytesOf(message: number): number {
    const iovec = this.#layout.iovecs + message * IOVEC.size;
    return this.#view.getInt32(iovec + IOVEC.length, true);
  }

  #limitOf(peer: number): number {
    if (this.#maxSegment === 0) return 0;
    const destination = this.#destinationOf(peer);
    const isLimited = this.#limitEnds[destination]! > this.#clock[0]!;
    return isLimited ? this.#limits[destination]! : this.#maxSegment;
  }

  #destinationOf(peer: number): number {
    if (peer === CONNECTED) return 0;
    return this.#hash.address(this.#view, peer) % DESTINATIONS;
  }
}
