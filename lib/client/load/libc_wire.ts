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
  Libc,
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
import {
  CONNECTED,
  Incoming,
  Layout,
  layOutIncoming,
  layOutOutgoing,
  Outgoing,
} from "../../system/message.ts";
import { SCOPE, SOURCE_BYTES, writeSource } from "../../system/address.ts";
import type { Client } from "./client.ts";
import type { Load } from "./load.ts";
import { type Wire, WireError } from "./wire.ts";

/** Messages that one call sends or receives at the most. */
const BATCH = 64;
/** Room for what is sent by one call. */
const OUT_BYTES = 1024 * 1024;

/** Flags of sendmmsg: who measures waits until the kernel has room. */
const WAIT = 0;

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

export class LibcWire implements Wire {
  readonly name = "libc";
  readonly io: DataView;
  readonly #libc = new Libc();
  readonly #incoming: Incoming;
  readonly #outgoing: Outgoing;
  readonly #coalesce: boolean;
  readonly #sockets: number[] = [];
  readonly #pollfds: bigint;
  readonly #pollfdCount: bigint;

  /**
   * Throws Unavailable if there is no libc or no permission to call it, and WireError if there is but the
   * sockets cannot be had.
   */
  constructor(peer: Deno.NetAddr, clients: number, coalesce: boolean) {
    const layout = new Layout();
    const incoming = layOutIncoming(layout, BATCH);
    const outgoing = layOutOutgoing(layout, BATCH, OUT_BYTES);
    const pollfds = layout.region(clients * POLLFD.size);
    const arena = new Arena(this.#libc, layout.bytes);
    this.#coalesce = coalesce;
    this.io = arena.view;
    try {
      while (this.#sockets.length < clients) this.#open(peer, clients);
    } catch (error) {
      this.close();
      throw error;
    }
    this.#incoming = new Incoming(this.#libc, arena, incoming);
    const clock = new Int32Array(1); // what the kernel refuses once, it is not asked again
    this.#outgoing = new Outgoing(this.#libc, arena, outgoing, coalesce, clock, WAIT);
    this.#sockets.forEach((socket, i) => {
      this.io.setInt32(pollfds + i * POLLFD.size + POLLFD.fd, socket, true);
      this.io.setInt16(pollfds + i * POLLFD.size + POLLFD.events, POLLIN, true);
    });
    this.#pollfds = arena.addressOf(pollfds);
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
    const scope = this.#libc.scopeOf(peer.hostname);
    if (scope === undefined) {
      throw new WireError(`${peer.hostname}: there is no such interface`, "another --server");
    }
    name.setUint32(SCOPE, scope, true);
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

  /** Waits for a reply, in whole milliseconds. The last one is spent awake: whoever sleeps wakes late. */
  #sleep(ms: number): void {
    if (ms >= 2) this.#libc.symbols.poll(this.#pollfds, this.#pollfdCount, Math.floor(ms) - 1);
  }

  /** Gives a client what has come for it, and returns how many messages that was. */
  #receive(socket: number, client: Client, load: Load): number {
    // Only a part of those in flight, so that the daemon has requests to work on while these are looked
    // at: with all at once, one of the two would always wait for the other.
    const batch = Math.min(BATCH, Math.ceil(load.workload.inFlight / 4));
    const messages = this.#incoming.receive(socket, 0, batch, MSG_DONTWAIT);
    if (messages <= 0) return 0; // an error, too, is no reply: the load counts these
    load.now = performance.now();
    for (let message = 0; message < messages; message++) {
      const start = this.#incoming.startOf(message);
      const bytes = this.#incoming.lengthOf(message);
      const segment = this.#incoming.segmentOf(message);
      let at = 0;
      do { // once for an empty one
        client.take(start + at, Math.min(segment, bytes - at));
        at += segment;
      } while (at < bytes);
    }
    return messages;
  }

  /** Sends what is due for a client, at most a batch, and returns how many messages that was. */
  #send(socket: number, client: Client): number {
    const outgoing = this.#outgoing;
    while (outgoing.messages < BATCH) {
      const length = client.next(outgoing.room());
      if (length === 0) break;
      outgoing.add(length, socket, CONNECTED);
    }
    const { messages } = outgoing;
    if (messages > 0) outgoing.flush();
    return messages;
  }
}
