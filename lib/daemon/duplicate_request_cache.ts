/**
 * The duplicate request cache (Juszczak, USENIX Winter 1989): what makes a retried request execute at
 * most once. It remembers the reply of each tagged request that changed something, by the sender's
 * socket address and the tag, and gives it again to whoever repeats them.
 *
 * A fixed number of entries, each 14 words of 32 bits:
 *
 *     0                           7   8   9      11  12  13  14
 *     +---+---+---+---+---+---+---+---+---+---+---+---+---+---+
 *     |          source           |tag|wrd| body  |dig|sec|new|
 *     +---+---+---+---+---+---+---+---+---+---+---+---+---+---+
 *
 *     wrd   the reply's status, 16 bits, its body length, 8 bits, and its opcode
 *     dig   a digest of the request, by which a tag that is used for another one is known
 *     sec   one more than the second in which it was remembered; 0 in an entry that is free
 *     new   the next newer one of its account. Entries are numbered from 1 in links, and 0 ends them.
 *
 * A hash table of chains finds entries; its hash is keyed, so that nobody outside can aim for a chain.
 * What is looked at on the way along a chain is apart, so that it stays in the processor's cache: of each
 * entry the hash of its source and tag, and the next older entry of its chain.
 *
 * Each source has an *account*, by the same hash. When an entry is needed and none is free, the account
 * that holds the most gives up its oldest, the one that asks if it is among those: of n accounts in use,
 * each keeps the last `entries / n` of its entries whatever the others do, and one that is alone has the
 * whole cache. Sources that have not proven their address share a few accounts, so that forged ones
 * cannot make n large. The accounts that hold k entries are a list, for each k, so that the longest is
 * found at once. All of it is made once; looking up and remembering make no garbage.
 *
 * There is one entry more than replies are remembered, the *spare* one, which is in no list. A reply is
 * written there, and another entry becomes the spare one: what was in it before is nobody's, so that only
 * the links need be undone if the process is killed meanwhile.
 */

import type { Counters } from "./counters.ts";
import { type Arrays, type Fault, faultAt, int32, standAlone } from "../heap/metadata.ts";
import type { Undo } from "../heap/undo.ts";
import { Counter } from "./counters.ts";
import { FIELD, Flag, REPLY_HEAD, type Request } from "../protocol/wire.ts";
import { SOURCE_BYTES } from "../system/address.ts";
import { type Digest, KeyedHash, newDigest } from "../system/hash.ts";

/** How long a reply is remembered, at the most. A client must give up, or take a new tag, before. */
export const LIFETIME_SECONDS = 60;

export const DEFAULT_ENTRIES = 65536;
export const MAX_ENTRIES = 2 ** 24;

/** Of `recall`: there is nothing to give, it does not fit, or the tag was another request's. */
export const UNSEEN = 0;
export const NO_ROOM = -1;
export const OTHER_REQUEST = -2;

/** Powers of two. With so many accounts, two sources of a hundred share one in about one case of 40. */
export const PROVEN_ACCOUNTS = 4096;
export const UNPROVEN_ACCOUNTS = 64;
const ACCOUNTS = PROVEN_ACCOUNTS + UNPROVEN_ACCOUNTS;

const SOURCE_WORDS = SOURCE_BYTES / 4;
const TAG = SOURCE_WORDS;
const WORD = TAG + 1;
/** The longest body that is remembered is one field. */
const BODY = WORD + 1;
const DIGEST = BODY + FIELD / 4;
const SECOND = DIGEST + 1;
const NEWER = SECOND + 1;
const ENTRY_WORDS = NEWER + 1;
/** Of the links of an entry. */
const HASH = 0;
const OLDER = 1;
const LINK_WORDS = 2;
const FLAGS_SHIFT = 8;
const NOWHERE = -1;

/** Where single numbers are kept. */
export const CacheFigure = {
  /** The most entries that any account holds, and the accounts that hold any. */
  most: 0,
  accounts: 1,
  /** The last entry that was ever used; those that were and are free are linked by NEWER. */
  used: 2,
  free: 3,
  /** The account whose oldest entry is the next to be looked at, whether it is too old. */
  hand: 4,
  /** The entries that all accounts hold. */
  held: 5,
  /** Which entry, counted from 0, the next reply is written to. */
  spare: 6,
} as const;
const Figure = CacheFigure;

/** The arrays of a cache of so many entries, 1 to MAX_ENTRIES. */
export function cacheShape(entries: number) {
  if (!Number.isInteger(entries) || entries < 1 || entries > MAX_ENTRIES) {
    throw new RangeError(`Cannot remember ${entries} replies: it must be 1 to ${MAX_ENTRIES}`);
  }
  return {
    /** Of the hashes: of sources and tags, and of requests. */
    secrets: int32(2),
    figures: int32(Object.keys(Figure).length),
    words: int32((entries + 1) * ENTRY_WORDS),
    links: int32((entries + 1) * LINK_WORDS),
    /** The newest entry of each chain. */
    chains: int32(2 ** Math.ceil(Math.log2(entries))),
    /** Of each account: how many entries it holds, its oldest and its newest. */
    held: int32(ACCOUNTS),
    oldest: int32(ACCOUNTS),
    newest: int32(ACCOUNTS),
    /** By a number of entries: the accounts that hold so many, as a list that is linked both ways. */
    holders: int32(entries + 1),
    nextHolder: int32(ACCOUNTS),
    previousHolder: int32(ACCOUNTS),
  };
}

export class DuplicateRequestCache {
  readonly #entries: number;
  readonly #io: DataView;
  readonly #clock: Int32Array;
  readonly #counters: Counters;
  readonly #hash: KeyedHash;
  readonly #digest: Digest;
  readonly #undo: Undo | undefined;
  readonly #figures: Int32Array;
  readonly #words: Int32Array;
  readonly #links: Int32Array;
  readonly #chains: Int32Array;
  readonly #held: Int32Array;
  readonly #oldest: Int32Array;
  readonly #newest: Int32Array;
  readonly #holders: Int32Array;
  readonly #nextHolder: Int32Array;
  readonly #previousHolder: Int32Array;
  /** Of what was looked up last: whoever is remembered was looked up before. With the tag, and without. */
  #hashed = 0;
  #sourceHash = 0;

  /**
   * `clock[0]` holds seconds since some start; whoever runs the service advances it. Sources, requests
   * and replies are read from and written to the I/O memory.
   */
  constructor(
    entries: number,
    io: WebAssembly.Memory,
    clock: Int32Array,
    counters: Counters,
    arrays: Arrays<ReturnType<typeof cacheShape>> = standAlone(cacheShape(entries)),
    undo?: Undo,
  ) {
    this.#undo = undo;
    this.#entries = entries;
    this.#io = new DataView(io.buffer);
    this.#clock = clock;
    this.#counters = counters;
    this.#hash = new KeyedHash(arrays.secrets);
    this.#digest = newDigest(io, arrays.secrets);
    this.#figures = arrays.figures;
    this.#words = arrays.words;
    this.#links = arrays.links;
    this.#chains = arrays.chains;
    this.#held = arrays.held;
    this.#oldest = arrays.oldest;
    this.#newest = arrays.newest;
    this.#holders = arrays.holders;
    this.#nextHolder = arrays.nextHolder;
    this.#previousHolder = arrays.previousHolder;
  }

  /** The account of a source. Others may have the same: their entries then compete as one source's. */
  accountOf(source: number, proven: boolean): number {
    return this.#account(this.#hashSource(source), proven);
  }

  /** Entries that this source can count on, with the accounts that are now in use. */
  share(source: number, proven: boolean): number {
    const isIn = this.#held[this.accountOf(source, proven)] !== 0;
    const accounts = this.#figures[Figure.accounts]!;
    return Math.floor(this.#entries / (isIn ? accounts : accounts + 1));
  }

  /** Of all bytes of a request but its tag, its flags and its session: what a repeat has in common. */
  digest(at: number, request: Request): number {
    const { fields, size, opcode } = request;
    const length = at + size - fields;
    return this.#digest(fields, length, length << FLAGS_SHIFT | opcode);
  }

  /**
   * If the request of `source` at `at`, with this digest, was answered before, writes that reply to
   * `replyAt`, with the flags of this request, and returns its length in bytes: NO_ROOM, with nothing
   * written, if it is longer than `room`; OTHER_REQUEST if the digest is another. Returns UNSEEN if
   * there was no such request.
   */
  recall(source: number, at: number, digest: number, replyAt: number, room: number): number {
    const tag = this.#io.getInt32(at);
    this.#sourceHash = this.#hashSource(source);
    this.#hashed = this.#hash.mix(this.#sourceHash, tag);
    const entry = this.#find(source, tag, this.#hashed);
    if (entry === NOWHERE) return UNSEEN;
    const from = entry * ENTRY_WORDS;
    if (this.#words[from + DIGEST] !== digest) return OTHER_REQUEST;
    const word = this.#words[from + WORD]!;
    const bodyLength = word >>> FLAGS_SHIFT & 0xff;
    const length = REPLY_HEAD + bodyLength;
    if (length > room) return NO_ROOM;
    const flags = this.#io.getUint8(at + 6) | Flag.reply;
    this.#io.setInt32(replyAt, tag);
    this.#io.setInt32(replyAt + 4, word & 0xffff0000 | flags << FLAGS_SHIFT | word & 0xff);
    this.#io.setInt32(replyAt + 8, 0);
    this.#io.setInt32(replyAt + 12, bodyLength);
    for (let i = 0; i < bodyLength / 4; i++) {
      this.#io.setInt32(replyAt + REPLY_HEAD + 4 * i, this.#words[from + BODY + i]!);
    }
    this.#counters[Counter.replays]!++;
    return length;
  }

  /**
   * Remembers the reply at `replyAt`, REPLY_HEAD bytes and at most 8 more, as given to
   * `source` for a request with this digest: the one of which `recall` has just said that it is UNSEEN.
   */
  remember(source: number, proven: boolean, digest: number, replyAt: number): void {
    const account = this.#account(this.#sourceHash, proven);
    this.#sweep();
    const entry = this.#figures[Figure.spare]!;
    this.#set(this.#figures, Figure.spare, this.#take(account));
    const at = entry * ENTRY_WORDS;
    for (let i = 0; i < SOURCE_WORDS; i++) {
      this.#words[at + i] = this.#io.getInt32(source + 4 * i);
    }
    const bodyLength = this.#io.getInt32(replyAt + 12);
    const word = this.#io.getInt32(replyAt + 4);
    this.#words[at + TAG] = this.#io.getInt32(replyAt);
    this.#words[at + WORD] = word & 0xffff0000 | bodyLength << FLAGS_SHIFT | word & 0xff;
    for (let i = 0; i < bodyLength / 4; i++) {
      this.#words[at + BODY + i] = this.#io.getInt32(replyAt + REPLY_HEAD + 4 * i);
    }
    this.#words[at + DIGEST] = digest;
    this.#words[at + SECOND] = this.#clock[0]! + 1;
    this.#words[at + NEWER] = 0;
    const links = entry * LINK_WORDS;
    const chain = this.#chain(this.#hashed);
    this.#links[links + HASH] = this.#hashed;
    this.#links[links + OLDER] = this.#chains[chain]!;
    this.#undo?.skip(this.#words, at, ENTRY_WORDS);
    this.#undo?.skip(this.#links, links, LINK_WORDS);
    this.#set(this.#chains, chain, entry + 1);
    const newest = this.#newest[account]!;
    if (newest === 0) this.#set(this.#oldest, account, entry + 1);
    else this.#set(this.#words, (newest - 1) * ENTRY_WORDS + NEWER, entry + 1);
    this.#set(this.#newest, account, entry + 1);
  }

  /** What does not agree with the rest, if anything does not. It looks at all of it, and makes garbage. */
  findFault(): Fault | undefined {
    const [UNLISTED, FREE, HELD, CHAINED] = [0, 1, 2, 3];
    const entries = this.#entries + 1;
    const isEntry = (link: number) => link > 0 && link <= entries;
    const found = new Uint8Array(entries);
    let [accounts, held, most] = [0, 0, 0];
    for (let account = 0; account < ACCOUNTS; account++) {
      let [count, last] = [0, 0];
      for (let link = this.#oldest[account]!; link !== 0; count++) {
        if (!isEntry(link) || found[link - 1] !== UNLISTED) {
          return faultAt(`account ${account} has a loop`, this.#oldest, account);
        }
        found[link - 1] = HELD;
        last = link;
        link = this.#words[(link - 1) * ENTRY_WORDS + NEWER]!;
      }
      if (count !== this.#held[account] || last !== this.#newest[account]) {
        return faultAt(`account ${account} does not hold what it says`, this.#held, account);
      }
      if (count > 0) accounts++;
      held += count;
      most = Math.max(most, count);
    }
    const figures = this.#figures;
    if (figures[Figure.accounts] !== accounts || figures[Figure.held] !== held) {
      return faultAt(
        "the accounts are not as many as they are said to be",
        figures,
        Figure.accounts,
      );
    }
    if (held === entries) {
      return faultAt("more replies are remembered than there is room for", figures, Figure.held);
    }
    if (figures[Figure.most] !== most) {
      return faultAt(
        "the longest account is not as long as it is said to be",
        figures,
        Figure.most,
      );
    }
    for (let link = figures[Figure.free]!; link !== 0;) {
      if (!isEntry(link) || found[link - 1] !== UNLISTED) {
        return faultAt(`entry ${link} is free and is not`, figures, Figure.free);
      }
      found[link - 1] = FREE;
      link = this.#words[(link - 1) * ENTRY_WORDS + NEWER]!;
    }
    const spare = figures[Figure.spare]!;
    if (!isEntry(spare + 1) || found[spare] !== UNLISTED) {
      return faultAt("the spare entry is not spare", figures, Figure.spare);
    }
    found[spare] = FREE;
    const used = figures[Figure.used]!;
    const lost = found.findIndex((state, entry) => (state === UNLISTED) === entry <= used);
    if (lost >= 0) {
      return faultAt(
        `entry ${lost + 1} is in no list, or was never used`,
        this.#words,
        lost * ENTRY_WORDS,
      );
    }
    for (let chain = 0; chain < this.#chains.length; chain++) {
      for (let link = this.#chains[chain]!; link !== 0;) {
        if (!isEntry(link) || found[link - 1] !== HELD) {
          return faultAt(`chain ${chain} has a loop`, this.#chains, chain);
        }
        found[link - 1] = CHAINED;
        const hash = this.#links[(link - 1) * LINK_WORDS + HASH]!;
        if (this.#chain(hash) !== chain || hash !== this.#hashOf(link - 1)) {
          return faultAt(
            `entry ${link} has another's hash`,
            this.#links,
            (link - 1) * LINK_WORDS + HASH,
          );
        }
        link = this.#links[(link - 1) * LINK_WORDS + OLDER]!;
      }
    }
    const unchained = found.indexOf(HELD);
    if (unchained >= 0) {
      return faultAt(`entry ${unchained + 1} is in no chain`, this.#words, unchained * ENTRY_WORDS);
    }
    return this.#findHolderFault(accounts);
  }

  #findHolderFault(accounts: number): Fault | undefined {
    let listed = 0;
    for (let held = 0; held <= this.#entries; held++) { // nobody is in the first list
      for (let before = 0, link = this.#holders[held]!; link !== 0;) {
        const account = link - 1;
        const isRight = this.#held[account] === held && this.#previousHolder[account] === before;
        if (!isRight || ++listed > accounts) {
          return faultAt(`account ${account} is in another's list`, this.#held, account);
        }
        before = link;
        link = this.#nextHolder[account]!;
      }
    }
    return listed === accounts ? undefined : faultAt("an account is in no list", this.#holders, 0);
  }

  /** The hash of the source and the tag of an entry. */
  #hashOf(entry: number): number {
    const word = (i: number) => this.#words[entry * ENTRY_WORDS + i]!;
    let hash = this.#hash.mix(this.#hash.mix(this.#hash.seed, word(0)), word(1));
    const rest = Array.from({ length: SOURCE_WORDS - 2 }, (_, i) => word(i + 2));
    if (rest.some((each) => each !== 0)) hash = rest.reduce((h, w) => this.#hash.mix(h, w), hash);
    return this.#hash.mix(hash, word(TAG));
  }

  /** Of every reply that is remembered: the method that it answers, and its body as 64 bits. */
  *replies(): Generator<[opcode: number, body: bigint, at: number]> {
    for (let link of this.#chains) {
      for (; link !== 0; link = this.#links[(link - 1) * LINK_WORDS + OLDER]!) {
        const at = (link - 1) * ENTRY_WORDS;
        const [high, low] = [this.#words[at + BODY]! >>> 0, this.#words[at + BODY + 1]! >>> 0];
        const body = BigInt(high) << 32n | BigInt(low);
        yield [this.#words[at + WORD]! & 0xff, body, this.#words.byteOffset + 4 * (at + BODY)];
      }
    }
  }

  #find(source: number, tag: number, hash: number): number {
    let entry = this.#chains[this.#chain(hash)]! - 1;
    while (entry !== NOWHERE) {
      const links = entry * LINK_WORDS;
      if (this.#links[links + HASH] === hash && this.#matches(entry, source, tag)) break;
      entry = this.#links[links + OLDER]! - 1;
    }
    return entry !== NOWHERE && this.#isYoung(entry) ? entry : NOWHERE;
  }

  #matches(entry: number, source: number, tag: number): boolean {
    const at = entry * ENTRY_WORDS;
    if (this.#words[at + TAG] !== tag) return false;
    for (let i = 0; i < SOURCE_WORDS; i++) {
      if (this.#words[at + i] !== this.#io.getInt32(source + 4 * i)) return false;
    }
    return true;
  }

  #isYoung(entry: number): boolean {
    const second = this.#words[entry * ENTRY_WORDS + SECOND]! - 1;
    return this.#clock[0]! - second < LIFETIME_SECONDS;
  }

  /** An entry that is in no list any more, instead of which this account may hold one. */
  #take(account: number): number {
    if (this.#figures[Figure.held] === this.#entries) return this.#takeOver(account);
    this.#hold(account, 1);
    const free = this.#figures[Figure.free]!;
    if (free === 0) {
      const entry = this.#figures[Figure.used]! + 1;
      this.#set(this.#figures, Figure.used, entry);
      return entry;
    }
    this.#set(this.#figures, Figure.free, this.#words[(free - 1) * ENTRY_WORDS + NEWER]!);
    return free - 1;
  }

  /** The oldest entry of the account that holds the most. */
  #takeOver(account: number): number {
    const most = this.#figures[Figure.most]!;
    const longest = this.#held[account] === most ? account : this.#holders[most]! - 1;
    const entry = this.#forgetOldest(longest);
    if (longest !== account) {
      this.#hold(longest, -1);
      this.#hold(account, 1);
    }
    if (this.#isYoung(entry)) this.#counters[Counter.evictions]!++;
    return entry;
  }

  /** Frees at most one entry that is too old, so that who is gone counts as an account no longer. */
  #sweep(): void {
    const hand = this.#figures[Figure.hand]!;
    const oldest = this.#oldest[hand]!;
    if (oldest === 0 || this.#isYoung(oldest - 1)) {
      this.#figures[Figure.hand] = hand + 1 === ACCOUNTS ? 0 : hand + 1; // wherever it stands is right
      return;
    }
    const entry = this.#forgetOldest(hand);
    this.#hold(hand, -1);
    this.#set(this.#words, entry * ENTRY_WORDS + NEWER, this.#figures[Figure.free]!);
    this.#set(this.#figures, Figure.free, entry + 1);
  }

  /** Takes the oldest entry of an account that has any out of its order and its chain. */
  #forgetOldest(account: number): number {
    const entry = this.#oldest[account]! - 1;
    const newer = this.#words[entry * ENTRY_WORDS + NEWER]!;
    this.#set(this.#oldest, account, newer);
    if (newer === 0) this.#set(this.#newest, account, 0);
    const links = entry * LINK_WORDS;
    const older = this.#links[links + OLDER]!;
    const chain = this.#chain(this.#links[links + HASH]!);
    let younger = this.#chains[chain]! - 1;
    if (younger === entry) {
      this.#set(this.#chains, chain, older);
      return entry;
    }
    while (this.#links[younger * LINK_WORDS + OLDER] !== entry + 1) {
      younger = this.#links[younger * LINK_WORDS + OLDER]! - 1;
    }
    this.#set(this.#links, younger * LINK_WORDS + OLDER, older);
    return entry;
  }

  /** Notes that an account holds one more, or one less. */
  #hold(account: number, change: number): void {
    const before = this.#held[account]!;
    const now = before + change;
    this.#set(this.#held, account, now);
    this.#set(this.#figures, Figure.held, this.#figures[Figure.held]! + change);
    if (before === 0) {
      this.#set(this.#figures, Figure.accounts, this.#figures[Figure.accounts]! + 1);
    } else this.#unlist(account, before);
    if (now === 0) this.#set(this.#figures, Figure.accounts, this.#figures[Figure.accounts]! - 1);
    else this.#list(account, now);
    const most = this.#figures[Figure.most]!;
    if (now > most || before === most && this.#holders[before] === 0) {
      this.#set(this.#figures, Figure.most, now);
    }
  }

  #list(account: number, held: number): void {
    const next = this.#holders[held]!;
    this.#set(this.#holders, held, account + 1);
    this.#set(this.#nextHolder, account, next);
    this.#set(this.#previousHolder, account, 0);
    if (next !== 0) this.#set(this.#previousHolder, next - 1, account + 1);
  }

  #unlist(account: number, held: number): void {
    const next = this.#nextHolder[account]!;
    const previous = this.#previousHolder[account]!;
    if (previous === 0) this.#set(this.#holders, held, next);
    else this.#set(this.#nextHolder, previous - 1, next);
    if (next !== 0) this.#set(this.#previousHolder, next - 1, previous);
  }

  #hashSource(source: number): number {
    const hash = this.#hash.mix(this.#hash.seed, this.#io.getInt32(source));
    return this.#hashRest(source, this.#hash.mix(hash, this.#io.getInt32(source + 4)));
  }

  /** With what follows the second word, which is nothing but zeros in IPv4. */
  #hashRest(source: number, hash: number): number {
    const rest = this.#io.getInt32(source + 8) | this.#io.getInt32(source + 12) |
      this.#io.getInt32(source + 16) | this.#io.getInt32(source + 20) |
      this.#io.getInt32(source + 24);
    if (rest === 0) return hash;
    for (let i = 2; i < SOURCE_WORDS; i++) {
      hash = this.#hash.mix(hash, this.#io.getInt32(source + 4 * i));
    }
    return hash;
  }

  #account(hash: number, proven: boolean): number {
    const folded = hash ^ hash >>> 15;
    return proven
      ? folded & (PROVEN_ACCOUNTS - 1)
      : PROVEN_ACCOUNTS + (folded & (UNPROVEN_ACCOUNTS - 1));
  }

  #chain(hash: number): number {
    return (hash ^ hash >>> 15) & (this.#chains.length - 1);
  }

  /** Every other store but into the spare entry goes through here, so that it can be undone. */
  #set(array: Int32Array, index: number, value: number): void {
    this.#undo?.note(array, index);
    array[index] = value;
  }
}
