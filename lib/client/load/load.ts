/**
 * The load generator, without sockets: what is to be sent next, and whether what came back is right.
 * Whoever moves the datagrams, a wire or a test, sets `now`, asks each client for what is due and gives
 * it what has come.
 *
 * What all clients share, the clock, the schedule and what is counted, is in ledger.ts.
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

import { Client } from "./client.ts";
import type { Histogram } from "./histogram.ts";
import { Ledger } from "./ledger.ts";
import type { Workload } from "./workload.ts";

export class Load extends Ledger {
  readonly clients: readonly Client[];

  /** Datagrams lie in `io`. Each client still needs blocks, see `Client.adopt`. */
  constructor(workload: Workload, io: DataView, latencies: Histogram) {
    super(workload, latencies);
    this.clients = Array.from({ length: workload.clients }, (_, i) => new Client(this, io, i));
  }

  /** Begins the schedule now. */
  start(): void {
    this.begin = this.now;
    for (const client of this.clients) client.start();
  }

  /** Whether, after `stop`, everything was sent and answered or lost. */
  get isOver(): boolean {
    return this.clients.every((client) => client.isOver);
  }

  /** Milliseconds until a datagram is due; Infinity if a reply is needed before. */
  get untilDue(): number {
    let least = Infinity;
    for (const client of this.clients) least = Math.min(least, client.untilDue);
    return least;
  }

  /** Counts as lost what has waited longer than the timeout. */
  expire(): void {
    for (const client of this.clients) client.expire();
  }

  /** Counts what is due, after `stop`, as unsent: nothing more is sent. */
  cancel(): void {
    for (const client of this.clients) client.cancel();
  }

  /** Counts what is not answered as lost, and what is due as unsent: this is the end. */
  abandon(): void {
    for (const client of this.clients) client.abandon();
    this.flush();
  }
}
