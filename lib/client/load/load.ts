/**
 * The load generator, without sockets: what is to be sent next, and whether what came back is right.
 * Whoever moves the datagrams, a wire or a test, sets `now`, asks each client for what is due and gives
 * it what has come.
 *
 * A client has a *slot* for each datagram that it may have in flight, and a slot an *entry* for each
 * request of its datagram. In a closed loop a datagram is due as soon as there is a slot for it. In an
 * open loop (`rate`) datagrams are due at fixed times, and latency counts from these: when the daemon
 * stalls, all that ought to have been sent meanwhile is late, not only what was under way. A generator
 * that just waits with the daemon would leave these out ("coordinated omission", Gil Tene).
 *
 * Each client has blocks of its own. What a block holds follows from its address, so every read can be
 * checked, to the last byte, without remembering what was written.
 */

import { FIELD, MAX_DATAGRAM } from "../../protocol/wire.ts";
import { Client } from "./client.ts";
import type { Mix, Sizes } from "./workload.ts";

export interface Workload {
  /** Classic requests are answered in order, and travel one in a datagram. */
  readonly protocol: "tagged" | "classic";
  readonly clients: number;
  /** Datagrams that each client may have in flight. */
  readonly inFlight: number;
  /** Requests in each of them. */
  readonly perDatagram: number;
  readonly mix: Mix;
  readonly sizes: Sizes;
  /** Requests a second of all clients together, for an open loop. */
  readonly rate?: number | undefined;
  /** Milliseconds after which a datagram without a reply is lost. */
  readonly timeout: number;
}

/** Where latencies go, in nanoseconds: an HDR histogram. */
export interface Recorder {
  recordValueWithCount(nanoseconds: number, count: number): void;
}

/** Why there can be no such load, undefined if there can. */
export function problemOf({ protocol, perDatagram, mix, sizes }: Workload): string | undefined {
  if (protocol === "classic" && perDatagram > 1) {
    return "a classic datagram holds one request";
  }
  if (protocol === "classic" && mix.read + mix.malloc === 0) {
    return "the classic protocol answers only read and malloc: the mix needs one of them";
  }
  if (perDatagram * (3 * FIELD + sizes.max) > MAX_DATAGRAM) {
    return `${perDatagram} writes of ${sizes.max} bytes are more than a datagram can carry`;
  }
  return undefined;
}

export class Load {
  readonly workload: Workload;
  readonly clients: readonly Client[];
  /** Milliseconds, as performance.now() counts them. */
  now = 0;
  /** When the schedule began, and the last time that it reaches to. */
  begin = 0;
  end = Infinity;
  /** Milliseconds between two datagrams of the schedule; 0 in a closed loop. */
  readonly interval: number;
  /** Requests that were answered, or need no answer, by opcode. */
  readonly done = new Float64Array(4);
  lost = 0;
  wrong = 0;
  /** Those of them that the daemon would not carry out, as malloc when the heap is full. */
  refused = 0;
  readonly #recorder: Recorder;
  /** Requests that are not recorded yet, and when they were due and answered. */
  #count = 0;
  #since = 0;
  #until = 0;

  /** Datagrams lie in `io`. Each client still needs blocks, see `Client.adopt`. */
  constructor(workload: Workload, io: DataView, recorder: Recorder) {
    const { clients, perDatagram, rate } = workload;
    this.workload = workload;
    this.#recorder = recorder;
    this.interval = rate === undefined ? 0 : 1000 * perDatagram / rate;
    this.clients = Array.from({ length: clients }, (_, i) => new Client(this, io, i));
  }

  get requests(): number {
    return this.done.reduce((sum, count) => sum + count, 0);
  }

  /** Begins the schedule now. */
  start(): void {
    this.begin = this.now;
    for (const client of this.clients) client.start();
  }

  /** Forgets what was counted so far. The recorder's owner does the same with what is recorded. */
  reset(): void {
    this.#count = 0;
    this.done.fill(0);
    this.lost = this.wrong = this.refused = 0;
  }

  /** Ends the schedule now: what was due is still sent, and what is in flight awaited. */
  stop(): void {
    this.end = this.interval === 0 ? -Infinity : this.now;
  }

  /** Whether, after `stop`, everything was sent and answered or lost. */
  get isOver(): boolean {
    return this.clients.every((client) => client.isOver);
  }

  /** Milliseconds until a datagram is due; Infinity if a reply is needed before. */
  get untilDue(): number {
    return Math.min(...this.clients.map((client) => client.untilDue));
  }

  /** Counts as lost what has waited longer than the timeout. */
  expire(): void {
    for (const client of this.clients) client.expire();
  }

  /** Counts as lost what is not answered or not even sent: this is the end. */
  abandon(): void {
    this.#record();
    for (const client of this.clients) client.abandon();
  }

  /** Notes that requests which were due at `since` are answered now. */
  answered(since: number, count: number): void {
    if (since !== this.#since || this.now !== this.#until) {
      this.#record();
      this.#since = since;
      this.#until = this.now;
    }
    this.#count += count;
  }

  /** Many requests in a row are due at one time, and answered at one time: the recorder gets them as one. */
  #record(): void {
    if (this.#count === 0) return;
    const nanoseconds = Math.round((this.#until - this.#since) * 1e6);
    this.#recorder.recordValueWithCount(Math.max(nanoseconds, 1), this.#count);
    this.#count = 0;
  }
}
