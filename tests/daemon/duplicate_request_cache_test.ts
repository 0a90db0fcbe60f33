import { assertEquals, assertThrows } from "@std/assert";
import { Counter, COUNTERS_LENGTH } from "../../lib/daemon/counters.ts";
import {
  DuplicateRequestCache,
  LIFETIME_SECONDS,
  MAX_ENTRIES,
  NO_ROOM,
  OTHER_REQUEST,
  PROVEN_ACCOUNTS,
  UNPROVEN_ACCOUNTS,
  UNSEEN,
} from "../../lib/daemon/duplicate_request_cache.ts";
import { writeSource } from "../../lib/system/address.ts";
import { fields, head, Random, word } from "../testing.ts";

const ADD = 6;
const FREE = 1;

const SOURCE = 0;
const REQUEST = 64;
/** The reply that is remembered, and the one that is recalled. */
const GIVEN = 128;
const RECALLED = 192;

/** A cache with hex in and hex out. */
class Harness {
  readonly clock = new Int32Array(1);
  readonly counters = new Float64Array(COUNTERS_LENGTH);
  readonly cache: DuplicateRequestCache;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(entries: number) {
    const io = new WebAssembly.Memory({ initial: 1 });
    this.#bytes = new Uint8Array(io.buffer);
    this.#view = new DataView(io.buffer);
    this.cache = new DuplicateRequestCache(entries, io, this.clock, this.counters);
    this.from("127.0.0.1", 40000);
  }

  /** Of what is remembered from now on: whether its sender has proven its address. */
  proven = true;

  get account(): number {
    return this.cache.accountOf(SOURCE, this.proven);
  }

  get share(): number {
    return this.cache.share(SOURCE, this.proven);
  }

  from(hostname: string, port: number): void {
    writeSource(this.#view, SOURCE, hostname, port);
  }

  remember(reply: string, digest = 0): void {
    this.#bytes.set(Uint8Array.fromHex(reply), GIVEN);
    this.cache.recall(SOURCE, GIVEN, digest, RECALLED, 0); // as the service does; there is no room
    this.cache.remember(SOURCE, this.proven, digest, GIVEN);
  }

  /** The reply; undefined if the request with this tag was not seen. */
  recall(tag: number, flags = 0x01): string | undefined {
    this.#view.setUint32(REQUEST, tag);
    this.#view.setUint32(REQUEST + 4, flags << 8);
    this.#bytes.fill(0xa5, RECALLED, RECALLED + 64);
    const length = this.cache.recall(SOURCE, REQUEST, 0, RECALLED, 24);
    assertEquals(this.#bytes[RECALLED + length], 0xa5, "writes no more than it returns");
    return length === UNSEEN ? undefined : this.#bytes.slice(RECALLED, RECALLED + length).toHex();
  }

  recallIn(tag: number, room: number, digest = 0): number {
    this.#view.setUint32(REQUEST, tag);
    return this.cache.recall(SOURCE, REQUEST, digest, RECALLED, room);
  }
}

const reply = (tag: number, value: number) => head(tag, ADD, 0, 8) + fields(value);

Deno.test("recall() gives the reply that was remembered, byte for byte, as often as asked", () => {
  const harness = new Harness(4);
  const long = head(7, ADD, 0, 8) + "0123456789abcdef";
  const short = head(8, FREE, 0, 0);
  harness.remember(long);
  harness.remember(short);
  assertEquals([harness.recall(7), harness.recall(7), harness.recall(8)], [long, long, short]);
  assertEquals(harness.recall(9), undefined);
  assertEquals(harness.counters[Counter.replays], 3);
});

Deno.test("recall() writes nothing if the reply is longer than the room", () => {
  const harness = new Harness(4);
  harness.remember(reply(7, 1));
  harness.remember(head(8, FREE, 0, 0));
  assertEquals(harness.recallIn(7, 23), NO_ROOM);
  assertEquals(harness.recallIn(7, 24), 24);
  assertEquals(harness.recallIn(8, 16), 16);
  assertEquals(harness.recallIn(9, 16), UNSEEN);
  assertEquals(harness.counters[Counter.replays], 2);
});

Deno.test("recall() tells senders apart by address, port and family", () => {
  const senders: [string, number][] = [
    ["127.0.0.1", 40000],
    ["127.0.0.1", 40001],
    ["127.0.0.2", 40000],
    ["::1", 40000],
    ["::2", 40000],
    ["::1", 40001],
    ["1::1", 40000],
    ["::ffff:127.0.0.1", 40000],
    ["::7f00:1", 40000],
  ];
  const harness = new Harness(64);
  for (const [i, [hostname, port]] of senders.entries()) {
    harness.from(hostname, port);
    assertEquals(harness.recall(7), undefined, hostname);
    harness.remember(reply(7, i));
  }
  for (const [i, [hostname, port]] of senders.entries()) {
    harness.from(hostname, port);
    assertEquals(harness.recall(7), reply(7, i), hostname);
  }
});

Deno.test("recall() tells tags apart in all of their 32 bits", () => {
  const harness = new Harness(64);
  const tags = [0, 0xffffffff, ...Array.from({ length: 32 }, (_, bit) => 2 ** bit)];
  for (const tag of tags) harness.remember(reply(tag, tag));
  for (const tag of tags) assertEquals(harness.recall(tag), reply(tag, tag));
  assertEquals(harness.recall(3), undefined);
});

Deno.test("remember() forgets the oldest, and counts it if it was still of use", () => {
  const harness = new Harness(3);
  for (const tag of [1, 2, 3]) harness.remember(reply(tag, tag));
  assertEquals(harness.counters[Counter.evictions], 0);
  assertEquals(harness.recall(1), reply(1, 1), "asking for it makes it no younger");
  harness.remember(reply(4, 4));
  assertEquals(harness.recall(1), undefined);
  assertEquals(
    [2, 3, 4].map((tag) => harness.recall(tag)),
    [2, 3, 4].map((tag) => reply(tag, tag)),
  );
  assertEquals(harness.counters[Counter.evictions], 1);

  harness.clock[0] = LIFETIME_SECONDS;
  harness.remember(reply(5, 5));
  assertEquals(harness.counters[Counter.evictions], 1, "it was too old to be of use");
});

Deno.test("recall() honours a reply for 60 seconds of the clock", () => {
  for (const start of [0, 1, 1_000_000]) {
    const harness = new Harness(4);
    harness.clock[0] = start;
    harness.remember(reply(7, 1));
    harness.clock[0] = start + 59;
    assertEquals(harness.recall(7), reply(7, 1));
    harness.clock[0] = start + 60;
    assertEquals(harness.recall(7), undefined);
    harness.remember(reply(7, 2));
    assertEquals(harness.recall(7), reply(7, 2), "the tag may be used again");
  }
});

Deno.test("DuplicateRequestCache refuses a number of entries that it cannot have", () => {
  for (const entries of [0, -1, 1.5, NaN, MAX_ENTRIES + 1]) {
    assertThrows(() => new Harness(entries), RangeError, `Cannot remember ${entries} replies`);
  }
});

Deno.test("recall() gives the reply with the flags of the request that asks", () => {
  const harness = new Harness(4);
  harness.remember(word(7, ADD, { flags: 0x83 }) + fields(8, 5));
  assertEquals(harness.recall(7), reply(7, 5));
  assertEquals(harness.recall(7, 0x03), word(7, ADD, { flags: 0x83 }) + fields(8, 5));
});

Deno.test("recall() knows a tag that is used for another request by its digest", () => {
  const harness = new Harness(4);
  harness.remember(reply(7, 1), 1234);
  assertEquals(harness.recallIn(7, 24, 1234), 24);
  assertEquals(harness.recallIn(7, 24, 1235), OTHER_REQUEST);
});

Deno.test("remember() lets no source push out another's entries before its own share", () => {
  const harness = new Harness(64);
  harness.from("192.0.2.1", 1024);
  const victim = harness.account;
  for (let tag = 0; tag < 8; tag++) harness.remember(reply(tag, tag));
  const accounts = new Set([victim]);
  for (let port = 2000; accounts.size < 8; port++) {
    harness.from("192.0.2.2", port);
    if (accounts.has(harness.account)) continue;
    accounts.add(harness.account);
    for (let tag = 0; tag < 1000; tag++) harness.remember(reply(tag, tag));
  }
  harness.from("192.0.2.1", 1024);
  assertEquals(harness.share, 8);
  for (let tag = 0; tag < 8; tag++) assertEquals(harness.recall(tag), reply(tag, tag));
});

Deno.test("remember() gives a source that is alone the whole cache", () => {
  const harness = new Harness(64);
  assertEquals(harness.share, 64);
  for (let tag = 0; tag < 64; tag++) harness.remember(reply(tag, tag));
  for (let tag = 0; tag < 64; tag++) assertEquals(harness.recall(tag), reply(tag, tag));
  harness.from("192.0.2.2", 2000);
  assertEquals(harness.share, 32);
});

Deno.test("remember() holds all who have proven nothing to a few accounts", () => {
  const entries = 4096;
  const harness = new Harness(entries);
  const share = Math.floor(entries / (UNPROVEN_ACCOUNTS + 1));
  for (let tag = 0; tag < share; tag++) harness.remember(reply(tag, tag));
  harness.proven = false;
  for (let port = 1024; port < 20_000; port++) {
    harness.from("192.0.2.2", port);
    harness.remember(reply(1, port));
  }
  harness.proven = true;
  harness.from("127.0.0.1", 40000);
  assertEquals(harness.share, share);
  for (let tag = 0; tag < share; tag++) assertEquals(harness.recall(tag), reply(tag, tag));
});

Deno.test("share() no longer counts who has been silent for a minute", () => {
  const harness = new Harness(1000);
  for (let port = 1024; port < 1034; port++) {
    harness.from("192.0.2.2", port);
    harness.remember(reply(1, 1));
  }
  harness.clock[0] = LIFETIME_SECONDS;
  harness.from("192.0.2.1", 40000);
  for (let tag = 0; tag < 5000; tag++) harness.remember(reply(tag, tag));
  assertEquals(harness.share, 1000);
});

/** An entry, as a naive model keeps it. */
interface Entry {
  readonly key: string;
  readonly account: number;
  readonly reply: string;
  readonly second: number;
}

/** What the cache ought to do, told naively: the last word on which entry goes. */
class Model {
  #entries: Entry[] = [];
  /** By account: when it last came to hold as many as it does. */
  readonly #moved = new Map<number, number>();
  #moves = 0;
  #hand = 0;
  evictions = 0;

  constructor(readonly room: number, readonly accounts: number) {}

  recall(key: string, now: number): string | undefined {
    const newest = this.#entries.findLast((entry) => entry.key === key);
    return newest !== undefined && now - newest.second < 60 ? newest.reply : undefined;
  }

  remember(key: string, account: number, reply: string, now: number): void {
    const oldest = this.#entries.find((entry) => entry.account === this.#hand);
    if (oldest !== undefined && now - oldest.second >= 60) {
      this.#remove(oldest);
      this.#move(oldest.account);
    } else {
      this.#hand = (this.#hand + 1) % this.accounts;
    }
    if (this.#entries.length === this.room) {
      const victim = this.#longest(account);
      const oldest = this.#entries.find((entry) => entry.account === victim)!;
      if (now - oldest.second < 60) this.evictions++;
      this.#remove(oldest);
      if (victim !== account) this.#move(victim, account);
    } else {
      this.#move(account);
    }
    this.#entries.push({ key, account, reply, second: now });
  }

  #remove(entry: Entry): void {
    this.#entries = this.#entries.filter((other) => other !== entry);
  }

  #move(...accounts: number[]): void {
    for (const account of accounts) this.#moved.set(account, this.#moves++);
  }

  #longest(own: number): number {
    const counts = new Map<number, number>();
    for (const { account } of this.#entries) counts.set(account, (counts.get(account) ?? 0) + 1);
    const most = Math.max(...counts.values());
    if (counts.get(own) === most) return own;
    return [...counts.keys()].filter((account) => counts.get(account) === most)
      .reduce((a, b) => this.#moved.get(a)! > this.#moved.get(b)! ? a : b);
  }
}

for (const entries of [1, 2, 3, 5, 40]) {
  Deno.test(`DuplicateRequestCache does what a naive model does with room for ${entries}`, () => {
    for (const seed of [1, 2, 3]) {
      const random = new Random(seed);
      const harness = new Harness(entries);
      const model = new Model(entries, PROVEN_ACCOUNTS + UNPROVEN_ACCOUNTS);
      for (let step = 0; step < 6000; step++) {
        const context = `seed ${seed}, step ${step}`;
        if (random.chance(0.05)) harness.clock[0]! += random.below(50);
        const tag = random.below(entries + 2);
        const port = 40000 + (random.chance(0.5) ? 0 : random.below(9));
        const key = `${port} ${tag}`;
        harness.from("127.0.0.1", port);
        harness.proven = port % 3 !== 0;
        const recalled = harness.recall(tag);
        assertEquals(recalled, model.recall(key, harness.clock[0]!), context);
        if (recalled !== undefined && random.chance(0.9)) continue;
        const fresh = random.chance(0.5) ? reply(tag, step) : head(tag, FREE, 0, 0);
        harness.remember(fresh);
        model.remember(key, harness.account, fresh, harness.clock[0]!);
        assertEquals(harness.counters[Counter.evictions], model.evictions, context);
      }
    }
  });
}
