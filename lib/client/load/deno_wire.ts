/** The load generator's way to a daemon where libc is not to be had: Deno's own sockets. */

import { MAX_DATAGRAM } from "../../protocol/wire.ts";
import { isLoopback } from "../../system/address.ts";
import type { Client } from "./client.ts";
import type { Load } from "./load.ts";
import { type Wire, WireError } from "./wire.ts";

/** Each client has room for a datagram in either direction. */
const ROOM = 64 * 1024;

/**
 * A timer may be late by more than a millisecond, which would be counted as the daemon's latency. So close
 * to what is due, the loop looks again each time that a datagram to itself has come, which takes some ten
 * microseconds: so much later are replies seen, too. On a busy machine that is not enough, and bench says so.
 */
const TIMER_LATE_MS = 4;
/** The longest time without a look at what is due. */
const TICK_MS = 10;

export class DenoWire implements Wire {
  readonly name = "Deno";
  readonly io: DataView;
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #peer: Deno.NetAddr;
  readonly #sockets: Deno.DatagramConn[] = [];
  /** By client: the sending that is under way. */
  readonly #sending: (Promise<void> | undefined)[] = [];
  #receiving: Promise<void>[] = [];
  readonly #ticker: Deno.DatagramConn;
  readonly #tick = new Uint8Array(1);
  #closed = false;

  /** Throws WireError if there cannot be so many clients. */
  constructor(peer: Deno.NetAddr, clients: number) {
    const v6 = peer.hostname.includes(":");
    const loopback = isLoopback(peer.hostname);
    const hostname = v6 ? (loopback ? "::1" : "::") : loopback ? "127.0.0.1" : "0.0.0.0";
    this.#peer = peer;
    this.#bytes = new Uint8Array(2 * ROOM * clients);
    this.io = new DataView(this.#bytes.buffer);
    try {
      while (this.#sockets.length <= clients) { // the last one is the ticker
        this.#sockets.push(Deno.listenDatagram({ transport: "udp", hostname, port: 0 }));
      }
    } catch (error) {
      for (const socket of this.#sockets) socket.close();
      if ((error as { code?: string }).code !== "EMFILE") throw error;
      throw WireError.tooManyClients(clients);
    }
    this.#ticker = this.#sockets[clients]!;
  }

  async run(load: Load, until: number): Promise<void> {
    if (this.#receiving.length === 0) {
      this.#receiving = load.clients.map((client, i) => this.#receive(i, client, load));
    }
    for (load.now = performance.now(); load.now < until; load.now = performance.now()) {
      load.clients.forEach((client, i) => this.#send(i, client));
      // In a closed loop nothing is due at a time: what is received sends what is next. In an open one,
      // what is due after the next reply may be due before a timer is over.
      const { untilDue, interval } = load;
      const due = interval === 0 ? Infinity : untilDue === Infinity ? 0 : untilDue;
      const wait = Math.min(due - TIMER_LATE_MS, until - load.now, TICK_MS);
      if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
      else await this.#turn();
    }
  }

  /** Lets all sockets have their turn: what is awaited before it is there comes when they are asked. */
  async #turn(): Promise<void> {
    const received = this.#ticker.receive(this.#tick);
    await this.#ticker.send(this.#tick, this.#ticker.addr);
    await received;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all(this.#sending);
    for (const socket of this.#sockets) socket.close();
    await Promise.all(this.#receiving);
  }

  async #receive(i: number, client: Client, load: Load): Promise<void> {
    const at = 2 * i * ROOM;
    const room = this.#bytes.subarray(at, at + MAX_DATAGRAM);
    while (!this.#closed) {
      try {
        const [datagram, from] = await this.#sockets[i]!.receive(room);
        if ((from as Deno.NetAddr).port !== this.#peer.port) continue;
        load.now = performance.now();
        client.take(at, datagram.length);
        this.#send(i, client);
      } catch (error) { // close() interrupts; on some systems a daemon that is gone shows here
        const isGone = error instanceof Deno.errors.ConnectionRefused ||
          error instanceof Deno.errors.ConnectionReset;
        if (!this.#closed && !isGone) throw error;
      }
    }
  }

  /** Sends what is due for a client, one datagram after the other, unless that is under way. */
  #send(i: number, client: Client): void {
    if (this.#sending[i] !== undefined || this.#closed) return;
    const length = client.next((2 * i + 1) * ROOM);
    if (length > 0) this.#sending[i] = this.#sendOne(i, client, length);
  }

  /** Sends a datagram, and what has become due meanwhile: there is no moment in which nobody would. */
  async #sendOne(i: number, client: Client, length: number): Promise<void> {
    const at = (2 * i + 1) * ROOM;
    try {
      await this.#sockets[i]!.send(this.#bytes.subarray(at, at + length), this.#peer);
    } catch { // what the kernel will not take is lost, as datagrams may be
    }
    this.#sending[i] = undefined;
    this.#send(i, client);
  }
}
