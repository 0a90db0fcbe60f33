/**
 * The owner of a range serves: it receives, serves and replies like the datagram engine, but holds the
 * replies that depend on what the cluster does not have yet. What it has served is appended to the log in
 * batches, one at a time: what comes while one is on its way is the next one.
 */

import { Counter, type Counters } from "../counters.ts";
import {
  CHANGES_NOTHING,
  Decoded,
  decodeRequest,
  FIELD,
  MAX_DATAGRAM,
} from "../../protocol/wire.ts";
import { Request, Word, wordAt } from "../../protocol/wire.ts";
import { Effect, NO_REPLY, type Service } from "../service.ts";
import { writeSource } from "../../system/address.ts";
import { Batch } from "./batch.ts";
import { type Follower, REPLY, REQUEST, SOURCE } from "./follower.ts";
import type { Lease } from "./lease.ts";
import type { Range } from "./range.ts";
import type { TracedHeap } from "./traced_heap.ts";

/** How long the loop rests after an error of `receive`, so that a lasting one does not take a core. */
const REST_MS = 10;

/** Bytes of requests and replies that wait for the cluster; beyond that only what changes nothing is served. */
export const MOST_HELD = 16 * 1024 ** 2;

/** What a reply that is held costs beside its bytes. */
const HELD_OVERHEAD = 200;

interface Held {
  readonly reply: Uint8Array;
  readonly to: Deno.NetAddr;
}

export interface Ownership {
  readonly socket: Pick<Deno.DatagramConn, "receive" | "send">;
  readonly range: Pick<Range, "append">;
  readonly lease: Pick<Lease, "holds">;
  readonly follower: Pick<Follower, "service" | "heap" | "io" | "position">;
  readonly clock: Int32Array;
}

export class Owner {
  readonly #socket: Ownership["socket"];
  readonly #range: Ownership["range"];
  readonly #lease: Ownership["lease"];
  readonly #service: Service;
  readonly #heap: TracedHeap;
  readonly #counters: Counters;
  readonly #clock: Int32Array;
  readonly #io: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;
  readonly #request = new Request();
  /** What is served now becomes part of it; the replies that wait for it. */
  #batch: Batch;
  #held: Held[] = [];
  /** What is on its way to the log: a number, 0 if nothing is; the replies that wait for it. */
  #underWay = 0;
  #heldUnderWay: Held[] = [];
  /** Replies that wait for the lease to be renewed. */
  #unleased: Held[] = [];
  #heldBytes = 0;
  #appending: Promise<void> | undefined;
  #closing = false;
  #sending: Promise<unknown> = Promise.resolve();
  readonly #failed = Promise.withResolvers<never>();

  constructor({ socket, range, lease, follower, clock }: Ownership) {
    this.#socket = socket;
    this.#range = range;
    this.#lease = lease;
    this.#service = follower.service;
    this.#heap = follower.heap;
    this.#counters = follower.service.counters;
    this.#clock = clock;
    this.#io = new Uint8Array(follower.io.buffer as ArrayBuffer);
    this.#view = new DataView(follower.io.buffer);
    this.#batch = new Batch(follower.position + 1);
    this.#heap.batch = this.#batch.number;
    this.#failed.promise.catch(() => {});
  }

  /** Rejects when the range is no longer ours, or the cluster cannot be used any more. */
  get failed(): Promise<never> {
    return this.#failed.promise;
  }

  /** Serves until `close` is called or it has failed. */
  async serve(): Promise<void> {
    const requests = this.#io.subarray(REQUEST, REQUEST + MAX_DATAGRAM);
    let lastHostname = "";
    while (!this.#closing) {
      let length: number;
      let sender: Deno.NetAddr;
      try {
        const [request, from] = await this.#socket.receive(requests);
        length = request.length;
        sender = from as Deno.NetAddr;
      } catch {
        if (this.#closing) break;
        this.#counters[Counter.receiveErrors]!++;
        await new Promise((resolve) => setTimeout(resolve, REST_MS));
        continue;
      }
      if (this.#closing) break;
      this.#counters[Counter.received]!++;
      this.#counters[Counter.receivedBytes]! += length;
      if (this.#heldBytes > MOST_HELD && !this.#isReadOnly(length)) { // it will be sent again
        this.#counters[Counter.withheld]!++;
        continue;
      }
      if (sender.hostname === lastHostname) this.#view.setUint16(SOURCE + 2, sender.port);
      else writeSource(this.#view, SOURCE, lastHostname = sender.hostname, sender.port);
      await this.#answer(length, sender);
    }
  }

  /** Receives no more; resolves when what was served is logged and answered, or cannot be. */
  async close(): Promise<void> {
    this.#closing = true;
    await this.#appending?.catch(() => {});
    await this.#sending.catch(() => {});
  }

  /** The lease was renewed: what waited for that can go. */
  renewed(): void {
    if (!this.#lease.holds) return;
    this.#sendAll(this.#unleased);
    this.#unleased = [];
  }

  /** Ends it: nothing that is held is ever sent. */
  fail(error: Error): void {
    this.#closing = true;
    this.#failed.reject(error);
  }

  /** The number of the batch that is on its way; 0 if none is. */
  get underWay(): number {
    return this.#underWay;
  }

  /** Bytes of requests and replies that wait for the cluster. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  async #answer(length: number, sender: Deno.NetAddr): Promise<void> {
    const service = this.#service;
    // Whoever reads what we are about to read reads it now, and now it is ours to say what that is: to be
    // stopped after this is to be slow.
    const leased = this.#lease.holds;
    this.#heap.seen = 0;
    service.beginTurn();
    const replyLength = service.serve(REQUEST, length, REPLY, SOURCE);
    let awaited = 0;
    if (service.effect === Effect.read) {
      // A batch that is neither on its way nor the next one is in the log.
      if (this.#heap.seen >= (this.#underWay || this.#batch.number)) awaited = this.#heap.seen;
    } else if (service.effect === Effect.changed) {
      const { proven, limit } = service;
      const before = this.#batch.length;
      this.#batch.add(this.#io, REQUEST, length, SOURCE, { clock: this.#clock[0]!, proven, limit });
      this.#heldBytes += this.#batch.length - before;
      awaited = this.#batch.number;
    } else {
      awaited = this.#batch.length > 0 ? this.#batch.number : this.#underWay;
    }
    if (replyLength !== NO_REPLY) {
      if (awaited === 0 && leased) {
        await this.#send(this.#io.subarray(REPLY, REPLY + replyLength), sender);
      } else this.#hold(awaited, replyLength, sender);
    }
    if (this.#appending === undefined && this.#batch.length > 0) this.#appending = this.#append();
  }

  /** Keeps a copy of the reply until the batch of that number is logged, or for 0 the lease renewed. */
  #hold(awaited: number, length: number, to: Deno.NetAddr): void {
    if (this.#heldBytes > MOST_HELD && this.#service.effect !== Effect.changed) {
      this.#counters[Counter.withheld]!++; // it has changed nothing, and may be asked for again
      return;
    }
    const held = { reply: this.#io.slice(REPLY, REPLY + length), to };
    this.#heldBytes += length + HELD_OVERHEAD;
    if (awaited === 0) this.#unleased.push(held);
    else if (awaited === this.#batch.number) this.#held.push(held);
    else this.#heldUnderWay.push(held);
  }

  /** Appends batch after batch, as long as there is something in the next one. */
  async #append(): Promise<void> {
    try {
      while (this.#batch.length > 0) {
        const batch = this.#batch;
        this.#batch = new Batch(batch.number + 1);
        this.#heap.batch = this.#batch.number;
        this.#underWay = batch.number;
        this.#heldUnderWay = this.#held;
        this.#held = [];
        await this.#range.append(batch.number, batch.bytes);
        this.#underWay = 0;
        this.#heldBytes -= batch.length;
        this.#counters[Counter.logged]!++;
        this.#counters[Counter.loggedBytes]! += batch.length;
        this.#sendAll(this.#heldUnderWay);
        this.#heldUnderWay = [];
      }
    } catch (error) {
      this.fail(error as Error);
    } finally {
      this.#appending = undefined;
    }
  }

  #sendAll(all: readonly Held[]): void {
    const sends = all.map(({ reply, to }) => {
      this.#heldBytes -= reply.length + HELD_OVERHEAD;
      return this.#send(reply, to);
    });
    this.#sending = Promise.all([this.#sending, ...sends]).then(() => {});
  }

  async #send(reply: Uint8Array, to: Deno.NetAddr): Promise<void> {
    try {
      await this.#socket.send(reply, to);
      this.#counters[Counter.sent]!++;
      this.#counters[Counter.sentBytes]! += reply.length;
    } catch { // the sender is gone or out of reach, or its port is 0: its loss, not ours
      this.#counters[Counter.sendErrors]!++;
    }
  }

  /** Whether the datagram asks for nothing but what changes nothing. */
  #isReadOnly(length: number): boolean {
    const isRead = (opcode: number) => CHANGES_NOTHING[opcode] === 1;
    if (length < FIELD) return true;
    const word = wordAt(this.#view, REQUEST);
    if (word === Word.classic) return isRead(this.#io[REQUEST + FIELD - 1]!);
    for (let at = REQUEST; at + FIELD <= REQUEST + length; at += this.#request.size) {
      if (wordAt(this.#view, at) !== Word.tagged) return true;
      const left = REQUEST + length - at;
      if (decodeRequest(this.#view, at, left, this.#request) !== Decoded.whole) return true;
      if (!isRead(this.#request.opcode)) return false;
    }
    return true;
  }
}
