/**
 * What the log of a cluster rests on: whoever does again what changed a daemon, in the same order, has the
 * same daemon, down to the last bit of what it remembers; and so has whoever copies its memory.
 */

import { assert, assertEquals } from "@std/assert";
import { equals } from "@std/bytes";
import { HEAP_BASE, MIN_HEAP, newHeapMemory } from "../../../lib/heap/heap.ts";
import { Effect } from "../../../lib/daemon/service.ts";
import { LOG_FORMAT } from "../../../lib/daemon/cluster/head.ts";
import { MAX_DATAGRAM } from "../../../lib/protocol/wire.ts";
import { newState, type State } from "../../../lib/daemon/state.ts";
import { Box, type BoxOptions, fields, Random, word } from "../../testing.ts";

const SIZE = 8 * MIN_HEAP;
const OPTIONS = { size: SIZE, replayCache: 40, quota: SIZE / 2, workPerTurn: 3 * MIN_HEAP };

interface Logged {
  datagram: string;
  source: readonly [string, number];
  clock: number;
  proven: number;
  limit: number;
}

/** Everything but what is counted. */
function bytesOf(state: State): Uint8Array {
  return new Uint8Array(state.service.clock.buffer);
}

/** A daemon and all that makes it what it is. */
function newDaemon(options: BoxOptions) {
  const state = newState({ memory: SIZE, replayCache: 40, quota: options.quota });
  const memory = newHeapMemory(SIZE);
  return { state, memory, box: new Box({ ...OPTIONS, ...options, state, memory }) };
}

function request(random: Random, pointers: readonly number[]): string {
  const tag = random.below(300);
  const pointer = random.chance(0.9) && pointers.length > 0
    ? random.pick(pointers)
    : HEAP_BASE + random.below(SIZE);
  const length = random.pick([0, 1, 16, 100, 4096, 10000, 20000]);
  const data = random.bytes(random.pick([0, 1, 33, 700])).toHex();
  return random.pick([
    () => word(tag, 0) + fields(length),
    () => word(tag, 1) + fields(random.chance(0.1) ? 0 : pointer),
    () => word(tag, 2) + fields(pointer, random.below(100)),
    () => word(tag, 3) + fields(pointer, data.length / 2) + data,
    () => word(tag, 4) + fields(pointer, length),
    () => word(tag, 5) + fields(pointer, 0, random.word()),
    () => word(tag, 6) + fields(pointer, random.word()),
    () => word(tag, 7),
  ])();
}

/** The datagram with the session flag, for an epoch, and without a token. */
function inSession(datagram: string, epoch: Int32Array): string {
  const told = Array.from(epoch, (half) => (half >>> 0).toString(16).padStart(8, "0")).join("");
  return datagram.slice(0, 12) + "03" + datagram.slice(14, 16) + told + fields(0) +
    datagram.slice(16);
}

const KINDS = {
  "a daemon": {},
  "a daemon without quotas": { quota: undefined },
  "a strict daemon": { strict: true },
  "a daemon that admits networks": { allow: ["0.0.0.0/0"] },
};

for (const [kind, options] of Object.entries(KINDS)) {
  Deno.test(`replay() makes ${kind} again, to the last bit, of what changed it`, () => {
    const seed = Math.floor(Math.random() * 2 ** 32);
    const random = new Random(seed);
    const { quota } = { ...OPTIONS, ...options };
    const owner = newDaemon({ ...options, quota });
    const log: Logged[] = [];
    const pointers: number[] = [];
    const seen = { [Effect.read]: 0, [Effect.other]: 0, [Effect.changed]: 0 };
    const hosts = ["127.0.0.1", "192.0.2.1", "192.0.2.2", "192.0.2.3"];
    for (let step = 0; step < 4000; step++) {
      // Some are dropped, as who sends from a port of a service is.
      const port = random.chance(0.1) ? 80 : 40000 + random.below(2);
      const source = [random.pick(hosts), port] as const;
      if (random.chance(0.02)) owner.box.clock[0]! += random.below(40);
      owner.box.from(...source);
      const many = random.chance(0.2) ? 1 + random.below(5) : 1;
      const tagged = Array.from({ length: many }, () => request(random, pointers)).join("");
      const datagram = random.chance(0.05)
        ? random.bytes(random.below(16)).toHex()
        : random.chance(0.1)
        ? fields(random.below(4), random.pick([16, HEAP_BASE, HEAP_BASE + 16]), 5) + "6162636465"
        : random.chance(0.1) && !tagged.startsWith("07", 14) // whose token may take a new key
        ? inSession(tagged, owner.state.service.epoch)
        : tagged;
      const before = bytesOf(owner.state).slice();
      const bytes = new Uint8Array(owner.memory.buffer).slice(0, SIZE);
      const reply = owner.box.ask(datagram);
      const { effect, proven, limit } = owner.box.service;
      seen[effect]++;
      const clock = owner.box.clock[0]!;
      if (effect === Effect.changed) log.push({ datagram, source, clock, proven, limit });
      else {
        const context = `step ${step} of seed ${seed}: ${datagram}`;
        assert(equals(before, bytesOf(owner.state)), `the state changed unnoticed, ${context}`);
        const now = new Uint8Array(owner.memory.buffer, 0, SIZE);
        assert(equals(bytes, now), `the heap changed unnoticed, ${context}`);
      }
      if (reply?.slice(8, 16) === "00008100") {
        pointers.push(Number(BigInt("0x" + reply.slice(32, 48))));
      }
      if (pointers.length > 30) pointers.shift();
    }
    assert(Object.values(seen).every((count) => count > 100), JSON.stringify(seen));

    const { epoch } = owner.state.service;
    // The service chooses secrets when it is made, unless they are there.
    const told = newState({ memory: SIZE, replayCache: 40, quota });
    told.service.epoch.set([5, 6]); // what was judged there is not judged again
    told.cache.secrets.set(owner.state.cache.secrets);
    told.quota.secrets.set(owner.state.quota.secrets);
    const { key, previous, since } = owner.state.tokens;
    told.tokens.key.set(key);
    told.tokens.previous.set(previous);
    told.tokens.since.set(since);
    const memory = newHeapMemory(SIZE);
    const box = new Box({ ...OPTIONS, ...options, state: told, memory });
    for (const { datagram, source, clock, proven, limit } of log) {
      box.clock[0] = clock;
      box.from(...source);
      box.replay(datagram, { proven, limit });
    }
    box.clock[0] = owner.box.clock[0]!;
    epoch.set([5, 6]);
    assert(equals(bytesOf(told), bytesOf(owner.state)), `the state differs, seed ${seed}`);
    const bytes = (memory: WebAssembly.Memory) => new Uint8Array(memory.buffer, 0, SIZE);
    assert(equals(bytes(memory), bytes(owner.memory)), `the heap differs, seed ${seed}`);
  });
}

Deno.test("a daemon over copies of another's state and heap does what that does", () => {
  const seed = Math.floor(Math.random() * 2 ** 32);
  const random = new Random(seed);
  const first = newDaemon({ quota: OPTIONS.quota });
  for (let step = 0; step < 500; step++) first.box.ask(request(random, []));
  const state = newState({ memory: SIZE, replayCache: 40, quota: OPTIONS.quota });
  bytesOf(state).set(bytesOf(first.state));
  const memory = newHeapMemory(SIZE);
  new Uint8Array(memory.buffer).set(new Uint8Array(first.memory.buffer));
  const second = new Box({ ...OPTIONS, state, memory });
  for (let step = 0; step < 500; step++) {
    const datagram = request(random, []);
    assertEquals(second.ask(datagram), first.box.ask(datagram), `step ${step} of seed ${seed}`);
  }
});

Deno.test("replay() of a known log makes the heap of LOG_FORMAT: who changes that counts it up", async () => {
  const random = new Random(15);
  const state = newState({ memory: SIZE, replayCache: 40, quota: OPTIONS.quota });
  state.service.epoch.set([5, 6]);
  state.cache.secrets.set([1, 2]);
  state.quota.secrets.set([3, 4]);
  const memory = newHeapMemory(SIZE);
  const box = new Box({ ...OPTIONS, state, memory });
  const pointers = Array.from({ length: 16 }, (_, i) => HEAP_BASE + 2048 * i);
  const sent: string[] = [];
  for (let step = 0; step < 3000; step++) {
    box.clock[0] = Math.floor(step / 40);
    box.from("192.0.2.1", 40000 + random.below(3));
    sent.push(request(random, pointers));
    box.replay(sent.at(-1)!, { proven: random.below(2), limit: MAX_DATAGRAM });
  }
  const repeats = sent.slice(-100).map((datagram) => box.ask(datagram) ?? "-").join();
  const all = new Uint8Array([
    ...new Uint8Array(memory.buffer, 0, SIZE),
    ...new TextEncoder().encode(repeats),
  ]);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", all)).toHex();
  assertEquals([LOG_FORMAT, digest], [
    2,
    "9e05636840acb1502fc029704e77ab06c179f79855b3c892e957454765d1fcad",
  ]);
});
