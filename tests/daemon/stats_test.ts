import { assert, assertEquals } from "@std/assert";
import { figures } from "../../lib/daemon/counters.ts";
import { GRAIN, HEAP_BASE, MIN_HEAP } from "../../lib/heap/heap.ts";
import { METHODS } from "../../lib/protocol/wire.ts";
import { Box, type BoxOptions, fields, head, Random, word } from "../testing.ts";

const { malloc, free, read, write, realloc, stats } = METHODS;
const VALUES = word(1, stats.opcode) + fields(0);
const NAMES = word(2, stats.opcode) + fields(1);
const HEAD = 32; // digits

/** What a box tells by `stats`: names and values, as a client reads them. */
function ask(box: Box): Map<string, bigint> {
  const text = new TextDecoder().decode(Uint8Array.fromHex(box.ask(NAMES)!.slice(HEAD)));
  const values = box.ask(VALUES)!.slice(HEAD);
  const names = text.split("\n").map((line) => line.split(" ")[0]!);
  assertEquals(values.length, 16 * names.length);
  return new Map(names.map((name, i) => [name, BigInt(`0x${values.slice(16 * i, 16 * i + 16)}`)]));
}

Deno.test("stats tells the epoch, and then every figure of the table", () => {
  const box = new Box();
  const epoch = box.ask(word(3, METHODS.hello.opcode))!.slice(HEAD, HEAD + 16);
  const told = ask(box);
  assertEquals([...told.keys()], ["epoch", ...figures().map(({ name }) => name)]);
  assertEquals(told.get("epoch"), BigInt(`0x${epoch}`));
  assertEquals(told.get("requests.hello"), 1n);
  assertEquals(told.get("requests.stats"), 2n);
  assertEquals(told.get("heap"), BigInt(MIN_HEAP));
  assertEquals(ask(box).get("requests.stats"), 4n, "it is not remembered, whatever its tag");
});

Deno.test("stats tells the kind and the unit of each figure after its name", () => {
  const text = new TextDecoder().decode(Uint8Array.fromHex(new Box().ask(NAMES)!.slice(HEAD)));
  const lines = text.split("\n");
  for (const line of lines) assert(/^\S+ (counter|gauge)( [a-z]+)?$/.test(line), line);
  assert(lines.includes("receivedBytes counter bytes") && lines.includes("blocks gauge"), text);
});

Deno.test("stats counts bytes, refusals and drops by what they are about", () => {
  const box = new Box({ allow: ["127.0.0.0/8"], port: 8081 });
  box.ask(fields(malloc.opcode, 100));
  box.ask(word(4, malloc.opcode) + fields(30));
  box.ask(word(5, realloc.opcode) + fields(HEAP_BASE, 300));
  box.ask(fields(write.opcode, HEAP_BASE, 3) + "010203");
  box.ask(fields(read.opcode, HEAP_BASE, 7));
  box.ask(fields(read.opcode, 0, 7)); // refused
  box.ask(fields(free.opcode, HEAP_BASE + 1)); // refused
  for (const [host, port] of [["127.0.0.2", 8081], ["127.0.0.2", 53], ["10.0.0.1", 9]] as const) {
    box.from(host, port);
    assertEquals(box.ask(VALUES), undefined);
  }
  box.from("10.0.0.1", 9000);
  assertEquals(box.ask(VALUES), undefined);
  box.from("127.0.0.1", 40000);
  const told = ask(box);
  const expected = {
    "payload.malloc": 130n,
    "payload.realloc": 300n,
    "payload.write": 3n,
    "payload.read": 7n,
    "refused.outsideHeap": 1n,
    "refused.notAllocated": 1n,
    "dropped.ownPort": 1n,
    "dropped.lowPort": 2n,
    "dropped.network": 1n,
    "requests.read": 2n,
    bytesAsked: 330n, // 30 in 32 bytes, and 300 in 512 that have been 100 in 128
    "liveAsked.32": 30n,
    "liveAsked.128": 0n,
    "liveAsked.512": 300n,
    replayEntries: 2n,
    replaySenders: 1n,
    replayRoom: 64n,
    quota: 0n,
  };
  for (const [name, value] of Object.entries(expected)) assertEquals(told.get(name), value, name);
});

Deno.test("stats tells how many bytes were cleared and moved", () => {
  const box = new Box({ size: 1024 * 1024 });
  const work = () => Number(ask(box).get("work"));
  const malloc4 = fields(malloc.opcode, 4096);
  assertEquals(box.ask(malloc4), fields(HEAP_BASE));
  assertEquals(work(), 0, "nobody has written it");
  box.ask(fields(write.opcode, HEAP_BASE, 1) + "01");
  box.ask(fields(free.opcode, HEAP_BASE));
  assertEquals(work(), 0);
  box.ask(malloc4);
  assertEquals(work(), 4096, "cleared");
  box.ask(fields(write.opcode, HEAP_BASE, 1) + "01");
  box.ask(malloc4); // in the way of growing
  box.ask(word(7, realloc.opcode) + fields(HEAP_BASE, 8192));
  assertEquals(work(), 2 * 4096, "moved");
});

Deno.test("stats is refused for another argument, and for want of room", () => {
  const box = new Box();
  for (const what of [2n, 2n ** 32n, 2n ** 64n - 1n]) {
    assertEquals(box.ask(word(6, stats.opcode) + fields(what)), head(6, stats.opcode, 22, 0));
  }
  const many = box.ask(NAMES.repeat(100))!;
  assert(many.endsWith(head(2, stats.opcode, 90, 0)));
  assert(many.startsWith(box.ask(NAMES)!));
});

Deno.test("stats goes to who has proven its address only, for it is longer than its request", () => {
  const box = new Box();
  box.from("192.0.2.1", 40000);
  assertEquals(box.ask(VALUES), head(1, stats.opcode, 1, 0));
  assertEquals(box.ask(NAMES), head(2, stats.opcode, 1, 0));
});

/** What the heap looks like, from the blocks that a model knows to be live. */
function model(size: number, live: ReadonlyMap<number, number>) {
  const orders = new Map<number, number>();
  const asked = new Map<number, number>();
  let used = 0;
  for (const bytes of live.values()) {
    const block = Math.max(GRAIN, 2 ** Math.ceil(Math.log2(bytes)));
    orders.set(block, (orders.get(block) ?? 0) + 1);
    asked.set(block, (asked.get(block) ?? 0) + bytes);
    used += block;
  }
  return { blocks: live.size, used, orders, asked, free: size - used };
}

for (const size of [MIN_HEAP, 5 * MIN_HEAP + GRAIN, 1024 * 1024]) {
  for (const seed of [1, 2]) {
    Deno.test(`stats tells what is live and what is free in a heap of ${size}, seed ${seed}`, () => {
      const random = new Random(seed);
      const options: BoxOptions = { size, quota: size };
      const box = new Box(options);
      const live = new Map<number, number>();
      for (let step = 0; step < 400; step++) {
        const [some] = live.keys();
        // Most are small, and some have nothing.
        const bytes = random.below(random.chance(0.7) ? 2000 : size / 8);
        if (some !== undefined && bytes > 0 && random.chance(0.3)) {
          const reply = box.ask(word(step, realloc.opcode) + fields(some, bytes))!;
          if (reply.length === HEAD) continue; // no room
          live.delete(some);
          live.set(Number(BigInt(`0x${reply.slice(HEAD)}`)), bytes);
        } else if (random.chance(0.6) || some === undefined) {
          const pointer = Number(BigInt(`0x${box.ask(fields(malloc.opcode, bytes))}`));
          if (pointer !== 0) live.set(pointer, bytes);
        } else {
          box.ask(fields(free.opcode, some));
          live.delete(some);
        }
        if (step % 20 !== 0) continue;
        const told = ask(box);
        const { blocks, used, orders, asked, free: rest } = model(size, live);
        const value = (name: string) => Number(told.get(name));
        assertEquals([value("blocks"), value("bytes")], [blocks, used]);
        assertEquals(
          value("bytesAsked"),
          [...live.values()].reduce((sum, bytes) => sum + bytes, 0),
        );
        assertEquals(value("quotaHolders"), blocks === 0 ? 0 : 1);
        let freed = 0;
        for (const [name] of told) {
          const [family, block] = [name.split(".")[0], Number(name.split(".")[1])];
          if (family === "liveBlocks") assertEquals(value(name), orders.get(block) ?? 0, name);
          if (family === "liveAsked") assertEquals(value(name), asked.get(block) ?? 0, name);
          if (family === "freeBlocks") freed += value(name) * block;
        }
        assertEquals(freed, rest);
        const largest = value("largestFree");
        const ratio = rest === 0 ? 0 : Math.round((1 - largest / rest) * 1e6);
        assertEquals(value("fragmentation"), ratio);
        // The largest malloc that fits does fit, and one byte more does not.
        assertEquals(box.ask(fields(malloc.opcode, largest + 1)), fields(0));
        if (largest === 0) continue;
        const pointer = box.ask(fields(malloc.opcode, largest))!;
        assert(pointer !== fields(0), `${largest} bytes`);
        box.ask(fields(free.opcode) + pointer);
      }
    });
  }
}
