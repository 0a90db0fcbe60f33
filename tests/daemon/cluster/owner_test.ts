/** What an owner sends when: its socket, its log and its lease are this test's. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { Counter, type Counters } from "../../../lib/daemon/counters.ts";
import { HEAP_BASE, newHeapMemory } from "../../../lib/heap/heap.ts";
import { MOST_HELD, Owner } from "../../../lib/daemon/cluster/owner.ts";
import { newState } from "../../../lib/daemon/state.ts";
import { Service } from "../../../lib/daemon/service.ts";
import { TracedHeap } from "../../../lib/daemon/cluster/traced_heap.ts";
import { fields, head, word } from "../../testing.ts";

const [READ, WRITE, ADD, STATS] = [2, 3, 6, 11];
const PAGE = 4096;
const SIZE = 64 * PAGE;
const ADDRESS: Deno.NetAddr = { transport: "udp", hostname: "127.0.0.1", port: 40000 };

class World {
  readonly sent: string[] = [];
  readonly batches: { number: number; bytes: number; done: PromiseWithResolvers<void> }[] = [];
  readonly lease = { holds: true };
  readonly counters: Counters;
  readonly owner: Owner;
  #give: ((datagram: string, from: Deno.NetAddr) => void) | undefined;
  readonly #serving: Promise<void>;

  constructor() {
    const io = new WebAssembly.Memory({ initial: 3, maximum: 3 });
    const sizes = { memory: SIZE, replayCache: 10_000 };
    const state = newState(sizes);
    this.counters = state.service.counters;
    const heap = new TracedHeap({ memory: newHeapMemory(SIZE), size: SIZE, io, state });
    const service = new Service({ ...sizes, state }, { heap, io, port: 0 });
    const append = (number: number, batch: Uint8Array) => {
      const done = Promise.withResolvers<void>();
      this.batches.push({ number, bytes: batch.length, done });
      return done.promise;
    };
    this.owner = new Owner({
      socket: {
        receive: (buffer) =>
          new Promise((resolve) => {
            this.#give = (hex, from) => {
              const datagram = Uint8Array.fromHex(hex);
              buffer!.set(datagram);
              resolve([buffer!.subarray(0, datagram.length) as Uint8Array<ArrayBuffer>, from]);
            };
          }),
        send: (datagram) => {
          this.sent.push(datagram.toHex());
          return Promise.resolve(datagram.length);
        },
      },
      range: { append },
      lease: this.lease,
      follower: { service, heap, io, position: 0 },
      clock: state.service.clock,
    });
    this.#serving = this.owner.serve();
  }

  /** Has a datagram served; the result is what was sent meanwhile. */
  async ask(hex: string, from = ADDRESS): Promise<string[]> {
    const before = this.sent.length;
    this.#give!(hex, from);
    this.#give = undefined;
    while (this.#give === undefined) await settle();
    return this.sent.slice(before);
  }

  async logged(): Promise<string[]> {
    const before = this.sent.length;
    this.batches.at(-1)!.done.resolve();
    await settle();
    return this.sent.slice(before);
  }

  async end(): Promise<void> {
    const closing = this.owner.close();
    this.batches.at(-1)?.done.resolve();
    this.#give?.("00", ADDRESS);
    await Promise.all([closing, this.#serving]);
  }
}

function settle(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

const read = (tag: number, page: number) => word(tag, READ) + fields(HEAP_BASE + page * PAGE, 8);
const add = (tag: number, page: number) => word(tag, ADD) + fields(HEAP_BASE + page * PAGE, 1);
const readReply = (tag: number, value: number) => head(tag, READ, 0, 8) + fields(value);
const addReply = (tag: number, old: number) => head(tag, ADD, 0, 8) + fields(old);

Deno.test("an owner holds what has changed something, and what depends on it, until that is logged", async () => {
  const world = new World();
  assertEquals(await world.ask(read(1, 0)), [readReply(1, 0)]);
  assertEquals(await world.ask(add(2, 0)), []);
  assertEquals(world.batches.length, 1);
  assertEquals(await world.ask(read(3, 0)), [], "it would give away what may be lost");
  assertEquals(await world.ask(read(4, 1)), [readReply(4, 0)], "of another page");
  assertEquals(await world.ask(add(2, 0)), [], "a repeat is as good as the first");
  assertEquals(await world.ask(add(5, 1)), [], "part of the next batch");
  assertEquals(await world.ask(read(6, 1)), []);
  assertEquals(world.batches.length, 1, "one at a time");
  assertEquals((await world.logged()).slice(0, 2), [addReply(2, 0), readReply(3, 1)]);
  assertEquals(world.batches.map(({ number }) => number), [1, 2]);
  assertEquals(await world.ask(read(7, 0)), [readReply(7, 1)]);
  const rest = await world.logged();
  assert(rest.includes(addReply(5, 0)) && rest.includes(readReply(6, 1)), rest.join());
  assertEquals(world.sent.filter((reply) => reply === addReply(2, 0)).length, 2);
  await world.end();
});

Deno.test("an owner logs nothing of what it drops, whatever came before", async () => {
  const world = new World();
  for (const [datagram, port] of [[add(2, 0), 80], ["000000", ADDRESS.port]] as const) {
    const count = world.batches.length;
    await world.ask(add(1 + count, 0));
    assertEquals(world.batches.length, count + 1);
    assertEquals(await world.ask(datagram, { ...ADDRESS, port }), []);
    await world.logged();
    assertEquals(world.batches.length, count + 1, "a batch of the next request");
  }
  await world.end();
});

Deno.test("an owner whose lease is over holds reads until it is renewed", async () => {
  const world = new World();
  world.lease.holds = false;
  assertEquals(await world.ask(read(1, 0)), []);
  world.owner.renewed(); // it was late
  assertEquals(world.sent, []);
  assertEquals(await world.ask(add(2, 1)), []);
  assertEquals(await world.logged(), [addReply(2, 0)], "the fence was looked at");
  world.lease.holds = true;
  world.owner.renewed();
  await settle();
  assertEquals(world.sent, [addReply(2, 0), readReply(1, 0)]);
  await world.end();
});

Deno.test("an owner that is fenced answers nobody any more", async () => {
  const world = new World();
  await world.ask(add(1, 0));
  await world.ask(read(2, 0));
  world.batches[0]!.done.reject(new Error("fenced"));
  await assertRejects(() => world.owner.failed, Error, "fenced");
  await world.end();
  assertEquals(world.sent, []);
});

Deno.test("an owner that holds much answers what changes nothing, and counts what it ignores", async () => {
  const world = new World();
  const length = 60_000;
  const large = word(1, WRITE) + fields(HEAP_BASE, length) + "07".repeat(length);
  let tag = 100;
  const write = () => large.replace(/^.{8}/, (++tag).toString(16).padStart(8, "0"));
  let held = 0;
  while (held <= MOST_HELD) {
    await world.ask(write());
    held += length;
  }
  const withheld = world.counters[Counter.withheld]!;
  const batches = () => world.batches.reduce((sum, { bytes }) => sum + bytes, 0);
  for (let i = 0; i < 20; i++) await world.ask(write());
  assertEquals(await world.ask(read(1, 0)), [], "it depends on what is not logged");
  assertEquals(await world.ask(read(2, 40)), [readReply(2, 0)]);
  assertEquals((await world.ask(word(3, STATS) + fields(0))).length, 1);
  assertEquals(world.counters[Counter.withheld], withheld + 21);
  await world.logged();
  await world.logged();
  assert(batches() < MOST_HELD + 3 * length, `${batches()} bytes`);
  assert(!world.sent.some((reply) => reply.startsWith(head(1, READ, 0, 8))), "it was not held");
  assertEquals(await world.ask(read(3, 1)), [head(3, READ, 0, 8) + "07".repeat(8)]);
  await world.end();
});
