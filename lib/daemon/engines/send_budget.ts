/**
 * How much those who have not proven their address may have in a socket's send buffer, where all share one
 * and to send is to wait for room. Replies to neighbours that are not there wait in it until the kernel has
 * given up looking for them, and so do those to who is behind a slow link. That costs nobody anything as
 * long as there is room; so it is only when a reply has had to wait, and the unproven have had more than
 * half of the buffer, that they get no more than half of it for a while, which is longer each time.
 */

import { KeyedHash } from "../../system/hash.ts";

/** Half of what a socket has by default on Linux, net.core.wmem_default. */
export const UNPROVEN_BYTES = 212_992 / 2;

/** What one address may have of that, beyond a single reply of any length. */
const ADDRESS_BYTES = UNPROVEN_BYTES / 2;

/** What the kernel counts for a packet beside its data, and the data of the shortest that it makes of a long reply. */
const PACKET_OVERHEAD = 768;
const PACKET_DATA = 1400;

/** A reply waits for a neighbour for three probes, one a second; they begin at any time of a second. */
const SECONDS = 4;

/**
 * A single wait of so many milliseconds counts, since no link that is any use takes that to make room; and so
 * do all waits of SECONDS together where somebody has proven his address, whom they may keep waiting, too.
 */
const LONG_WAIT_MS = 250;
const LONG_WAITS_MS = 500;

/**
 * For how long the unproven are held back: the first time, and at the most; but only for a part of it when
 * they want no more than there is.
 */
const FIRST_SECONDS = 32;
const LONGEST_SECONDS = 32 * 60;
const QUIET_PART = 1 / 4;

/** A fixed table of addresses by a keyed hash; two of one place share it. */
const PLACES = 1024;

/** A second's sum stays a small integer, whatever is sent. */
const LARGEST_SUM = 2 ** 28;

export class SendBudget {
  readonly #io: DataView;
  readonly #clock: Int32Array;
  readonly #hash = new KeyedHash();
  /** What the unproven were sent in each of the last seconds, all of them and those of each place. */
  readonly #sent = new Int32Array(SECONDS);
  readonly #sentTo = Array.from({ length: SECONDS }, () => new Int32Array(PLACES));
  /** How long replies have waited in each of the last seconds, in milliseconds. */
  readonly #waited = new Int32Array(SECONDS);
  #second: number;
  /** When a reply to who has proven its address was seen last. */
  #provenAt = -Infinity;
  /** When the unproven are held back no more, for how long they were, and when they wanted more than there is. */
  #end = 0;
  #seconds = 0;
  #fullAt = -Infinity;

  /** `clock[0]` is the time in seconds. Sources lie in the I/O memory. */
  constructor(io: WebAssembly.Memory, clock: Int32Array) {
    this.#io = new DataView(io.buffer);
    this.#clock = clock;
    this.#second = clock[0]!;
  }

  /** Whether a reply of `length` bytes may go to a source that has proven nothing. If so, it counts. */
  admits(source: number, length: number): boolean {
    this.#advance();
    const bytes = length + PACKET_OVERHEAD * (1 + Math.floor(length / PACKET_DATA));
    const place = this.#hash.address(this.#io, source) & (PLACES - 1);
    if (this.#holdsBack()) {
      if (sum(this.#sent) + bytes > UNPROVEN_BYTES) {
        this.#fullAt = this.#second;
        return false;
      }
      let own = 0;
      for (const sentTo of this.#sentTo) own += sentTo[place]!;
      if (own > 0 && own + bytes > ADDRESS_BYTES) return false;
    }
    const slot = this.#second % SECONDS;
    const sentTo = this.#sentTo[slot]!;
    sentTo[place] = Math.min(sentTo[place]! + bytes, LARGEST_SUM);
    this.#sent[slot] = Math.min(this.#sent[slot]! + bytes, LARGEST_SUM);
    return true;
  }

  /** Whether a reply that has to wait may have to because of the unproven. */
  get isExceeded(): boolean {
    this.#advance();
    return sum(this.#sent) > UNPROVEN_BYTES;
  }

  /** Notes that a reply, to who has proven its address or not (1 or 0), took `ms` while the budget was exceeded. */
  noteWait(ms: number, proven: number): void {
    this.#advance();
    if (proven !== 0) this.#provenAt = this.#second;
    if (this.#holdsBack()) return;
    // What any send takes is no wait, however many there are.
    this.#waited[this.#second % SECONDS]! += Math.floor(ms);
    const hinders = this.#provenAt > this.#second - SECONDS && sum(this.#waited) >= LONG_WAITS_MS;
    if (ms < LONG_WAIT_MS && !hinders) return;
    const isBack = this.#second < this.#end + this.#seconds;
    this.#seconds = isBack ? Math.min(2 * this.#seconds, LONGEST_SECONDS) : FIRST_SECONDS;
    this.#end = this.#second + this.#seconds;
    this.#fullAt = this.#second;
    this.#waited.fill(0);
  }

  #holdsBack(): boolean {
    return this.#second < this.#end &&
      this.#second - this.#fullAt <= QUIET_PART * this.#seconds;
  }

  /** Forgets what was sent so long ago that it waits no more. */
  #advance(): void {
    const second = this.#clock[0]!;
    if (second === this.#second) return;
    for (let i = Math.min(second - this.#second, SECONDS); i > 0; i--) {
      const slot = (second - i + 1) % SECONDS;
      this.#sent[slot] = 0;
      this.#sentTo[slot]!.fill(0);
      this.#waited[slot] = 0;
    }
    this.#second = second;
  }
}

function sum(seconds: Int32Array): number {
  let sum = 0;
  for (let i = 0; i < SECONDS; i++) sum += seconds[i]!;
  return sum;
}
