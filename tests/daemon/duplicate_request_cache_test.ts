import { assertEquals, assertThrows } from "@std/assert";
import { Counter, newCounters } from "../../lib/daemon/counters.ts";
import {
  DuplicateRequestCache,
  LIFETIME_SECONDS,
  MAX_ENTRIES,
  NO_ROOM,
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
  readonly counters = newCounters();
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

  from(hostname: string, port: number): void {
    writeSource(this.#view, SOURCE, hostname, port);
  }

  remember(reply: string): void {
    this.#bytes.set(Uint8Array.fromHex(reply), GIVEN);
    this.cache.remember(SOURCE, GIVEN);
  }

  /** The reply; undefined if the request with this tag was not seen. */
  recall(tag: number): string | undefined {
    this.#view.setUint32(REQUEST, tag);
    this.#bytes.fill(0xa5, RECALLED, RECALLED + 64);
    const length = this.cache.recall(SOURCE, REQUEST, RECALLED, 24);
    assertEquals(this.#bytes[RECALLED + length], 0xa5, "writes no more than it returns");
    return length === UNSEEN ? undefined : this.#bytes.slice(RECALLED, RECALLED + length).toHex();
  }

  recallIn(tag: number, room: number): number {
    this.#view.setUint32(REQUEST, tag);
    return this.cache.recall(SOURCE, REQUEST, RECALLED, room);
  }
}

const reply = (tag: number, value: number) => head(tag, ADD, 0, 8) + fields(value);

Deno.test("recall() gives the reply that was remembered, byte for byte, as often as asked", () => {
  const harness = new Harness(4);
  const long = head(7, ADD, 0, 8) + "0123456789abcdef";
  const short = head(8, FREE, 22, 0);
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

/** What the cache ought to do, told naively. */
class Model {
  readonly #replies: { key: string; reply: string; second: number }[] = [];
  evictions = 0;

  constructor(readonly entries: number) {}

  recall(key: string, now: number): string | undefined {
    const newest = this.#replies.findLast((entry) => entry.key === key);
    return newest !== undefined && now - newest.second < 60 ? newest.reply : undefined;
  }

  remember(key: string, reply: string, now: number): void {
    this.#replies.push({ key, reply, second: now });
    if (this.#replies.length <= this.entries) return;
    if (now - this.#replies.shift()!.second < 60) this.evictions++;
  }
}

for (const entries of [1, 2, 3, 5, 100]) {
  Deno.test(`DuplicateRequestCache does what a naive model does with room for ${entries}`, () => {
    for (const seed of [1, 2, 3]) {
      const random = new Random(seed);
      const harness = new Harness(entries);
      const model = new Model(entries);
      for (let step = 0; step < 3000; step++) {
        const context = `seed ${seed}, step ${step}`;
        if (random.chance(0.1)) harness.clock[0]! += random.below(50);
        const tag = random.below(entries + 2);
        const hostname = random.pick(["127.0.0.1", "127.0.0.2", "::1"]);
        const key = `${hostname} ${tag}`;
        harness.from(hostname, 40000);
        const recalled = harness.recall(tag);
        assertEquals(recalled, model.recall(key, harness.clock[0]!), context);
        if (recalled !== undefined && random.chance(0.9)) continue;
        const fresh = random.chance(0.5) ? reply(tag, step) : word(tag, FREE) + fields(0);
        harness.remember(fresh);
        model.remember(key, fresh, harness.clock[0]!);
        assertEquals(harness.counters[Counter.evictions], model.evictions, context);
      }
    }
  });
}
