/**
 * The duplicate request cache (Juszczak, USENIX Winter 1989): what makes a retried request execute at
 * most once. It remembers the reply of each tagged request that changed something, by the sender's
 * socket address and the tag, and gives it again, byte for byte, to whoever repeats them.
 *
 * A fixed number of entries in a ring, the oldest overwritten first, each 14 words of 32 bits:
 *
 *     0                           7                       13
 *     +---+---+---+---+---+---+---+---+---+---+---+---+---+---+
 *     |          source           |         reply         |sec|     reply: word (the tag is its first
 *     +---+---+---+---+---+---+---+---+---+---+---+---+---+---+     half), body length, 8 bytes of body
 *
 * A hash table of chains through the ring finds them; its hash is seeded, so that nobody outside can
 * aim for one chain. All of it is made once; looking up and remembering make no garbage.
 */

import type { Counters } from "./counters.ts";
import { Counter } from "./counters.ts";
import { FIELD, REPLY_HEAD } from "../protocol/wire.ts";
import { SOURCE_BYTES } from "../system/address.ts";

/** How long a reply is remembered, at the most. A client must give up, or take a new tag, before. */
export const LIFETIME_SECONDS = 60;

export const DEFAULT_ENTRIES = 65536;
export const MAX_ENTRIES = 2 ** 24;

/** Of `recall`: there is nothing to give, or it does not fit. */
export const UNSEEN = 0;
export const NO_ROOM = -1;

const SOURCE_WORDS = SOURCE_BYTES / 4;
/** The longest body that is remembered is one field. */
const REPLY_WORDS = (REPLY_HEAD + FIELD) / 4;
/** Where in a reply the lower half of its body's length stands. */
const BODY_LENGTH = 3;
const SECOND = SOURCE_WORDS + REPLY_WORDS;
const ENTRY_WORDS = SECOND + 1;
const NOWHERE = -1;

export class DuplicateRequestCache {
  readonly #entries: number;
  readonly #io: DataView;
  readonly #clock: Int32Array;
  readonly #counters: Counters;
  readonly #seed: number;
  readonly #words: Int32Array;
  /** The newest entry of each chain, and for each entry the next older one; one more than its number. */
  readonly #chains: Int32Array;
  readonly #older: Int32Array;
  #oldest = 0;

  /**
   * `clock[0]` holds seconds since some start; whoever runs the service advances it. Sources and replies
   * are read from and written to the I/O memory.
   */
  constructor(entries: number, io: WebAssembly.Memory, clock: Int32Array, counters: Counters) {
    if (!Number.isInteger(entries) || entries < 1 || entries > MAX_ENTRIES) {
      throw new RangeError(`Cannot remember ${entries} replies: it must be 1 to ${MAX_ENTRIES}`);
    }
    this.#entries = entries;
    this.#io = new DataView(io.buffer);
    this.#clock = clock;
    this.#counters = counters;
    this.#seed = crypto.getRandomValues(new Int32Array(1))[0]!;
    this.#words = new Int32Array(entries * ENTRY_WORDS);
    this.#older = new Int32Array(entries);
    this.#chains = new Int32Array(2 ** Math.ceil(Math.log2(entries)));
  }

  /**
   * If the request of `source` with the tag at `at` was answered before, writes that reply to `replyAt`
   * and returns its length in bytes: NO_ROOM, with nothing written, if it is longer than `room`.
   * Returns UNSEEN if there was no such request.
   */
  recall(source: number, at: number, replyAt: number, room: number): number {
    const entry = this.#find(source, at);
    if (entry === NOWHERE) return UNSEEN;
    const reply = entry * ENTRY_WORDS + SOURCE_WORDS;
    const length = REPLY_HEAD + this.#words[reply + BODY_LENGTH]!;
    if (length > room) return NO_ROOM;
    for (let i = 0; i < length / 4; i++) {
      this.#io.setInt32(replyAt + 4 * i, this.#words[reply + i]!);
    }
    this.#counters[Counter.replays]!++;
    return length;
  }

  /** Remembers the reply at `replyAt`, REPLY_HEAD bytes and at most 8 more, as given to `source`. */
  remember(source: number, replyAt: number): void {
    const entry = this.#oldest;
    this.#oldest = entry + 1 === this.#entries ? 0 : entry + 1;
    const at = entry * ENTRY_WORDS;
    this.#forget(entry);
    for (let i = 0; i < SOURCE_WORDS; i++) {
      this.#words[at + i] = this.#io.getInt32(source + 4 * i);
    }
    for (let i = 0; i < REPLY_WORDS; i++) {
      this.#words[at + SOURCE_WORDS + i] = this.#io.getInt32(replyAt + 4 * i);
    }
    this.#words[at + SECOND] = this.#clock[0]! + 1; // never 0: that marks an entry not used yet
    const chain = this.#chainOf(entry);
    this.#older[entry] = this.#chains[chain]!;
    this.#chains[chain] = entry + 1;
  }

  #find(source: number, at: number): number {
    const tag = this.#io.getInt32(at);
    let hash = this.#seed;
    for (let i = 0; i < SOURCE_WORDS; i++) hash = mix(hash, this.#io.getInt32(source + 4 * i));
    let entry = this.#chains[this.#chain(mix(hash, tag))]! - 1;
    while (entry !== NOWHERE && !this.#matches(entry, source, tag)) entry = this.#older[entry]! - 1;
    return entry !== NOWHERE && this.#isYoung(entry) ? entry : NOWHERE;
  }

  #matches(entry: number, source: number, tag: number): boolean {
    const at = entry * ENTRY_WORDS;
    if (this.#words[at + SOURCE_WORDS] !== tag) return false;
    for (let i = 0; i < SOURCE_WORDS; i++) {
      if (this.#words[at + i] !== this.#io.getInt32(source + 4 * i)) return false;
    }
    return true;
  }

  #isYoung(entry: number): boolean {
    const second = this.#words[entry * ENTRY_WORDS + SECOND]! - 1;
    return this.#clock[0]! - second < LIFETIME_SECONDS;
  }

  /** Takes an entry out of its chain, of which it is the last: all others are younger. */
  #forget(entry: number): void {
    if (this.#words[entry * ENTRY_WORDS + SECOND] === 0) return;
    if (this.#isYoung(entry)) this.#counters[Counter.evictions]!++;
    const chain = this.#chainOf(entry);
    let younger = this.#chains[chain]! - 1;
    if (younger === entry) {
      this.#chains[chain] = 0;
      return;
    }
    while (this.#older[younger] !== entry + 1) younger = this.#older[younger]! - 1;
    this.#older[younger] = 0;
  }

  #chainOf(entry: number): number {
    const at = entry * ENTRY_WORDS;
    let hash = this.#seed;
    for (let i = 0; i <= SOURCE_WORDS; i++) hash = mix(hash, this.#words[at + i]!); // source and tag
    return this.#chain(hash);
  }

  #chain(hash: number): number {
    return (hash ^ hash >>> 15) & (this.#chains.length - 1);
  }
}

function mix(hash: number, word: number): number {
  const mixed = Math.imul(hash ^ word, 0x9e3779b1);
  return mixed ^ mixed >>> 13;
}
