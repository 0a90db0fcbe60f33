/**
 * Many clients, one daemon, and the worst network that a seed can make. Every test prints its seed when
 * it fails; `deno test tests/client/simulation_test.ts -- SEED` runs the random one with that seed.
 */

import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { Counter } from "../../lib/daemon/counters.ts";
import { GRAIN } from "../../lib/heap/heap.ts";
import { NoReplyError, Remote, StaleEpochError } from "../../lib/client/remote.ts";
import { DEFAULT_ENTRIES } from "../../lib/daemon/duplicate_request_cache.ts";
import { FAIR, FOUL, Simulation, type Weather } from "./simulation.ts";
import { Box, fields, Random, word } from "../testing.ts";

/** So long that a call fails if a hundred datagrams in a row are lost: never. */
const PATIENCE_MS = 50_000;

const CLIENTS = 4;
const COUNTERS = 4;
const [MALLOC, READ, ADD] = [0, 2, 6];
const WORD = 8;

const RANDOM_SEED = Number(Deno.args[0] ?? crypto.getRandomValues(new Uint32Array(1))[0]);

const DAEMON = { size: 1024 * 1024, replayCache: DEFAULT_ENTRIES };

/** A plan that has some of everything. */
const MIXED = { mallocs: 2000, additions: 2000, swaps: 500, tasks: 4 };

/** What the clients were told, and what contradicts it. */
class Ledger {
  mallocs = 0;
  frees = 0;
  readonly violations: { kind: string; what: string }[] = [];
  /** Each grain of 16 bytes that somebody holds. */
  readonly #held = new Set<bigint>();
  /** The last acknowledged write to each block that somebody holds; at first it is all zeros. */
  readonly #contents = new Map<bigint, Uint8Array>();
  /** Successful increments of each counter. */
  readonly #counters = new Map<bigint, bigint>();

  takes(pointer: bigint, contents: Uint8Array): void {
    for (const grain of grains(pointer, contents.length)) {
      if (this.#held.has(grain)) this.violate("held by two", `0x${pointer.toString(16)}`);
      this.#held.add(grain);
    }
    this.#contents.set(pointer, contents);
  }

  /** Must come before the call that frees or moves the block: from then on somebody else may get it. */
  gives(pointer: bigint): Uint8Array {
    const contents = this.#contents.get(pointer)!;
    for (const grain of grains(pointer, contents.length)) this.#held.delete(grain);
    this.#contents.delete(pointer);
    return contents;
  }

  wrote(pointer: bigint, data: Uint8Array): void {
    this.#contents.set(pointer, data);
  }

  read(pointer: bigint, data: Uint8Array | undefined): void {
    const [seen, written] = [data?.toHex(), this.#contents.get(pointer)!.toHex()];
    if (seen !== written) this.violate("contents", `${seen} instead of ${written}`);
  }

  incremented(counter: bigint): void {
    this.#counters.set(counter, (this.#counters.get(counter) ?? 0n) + 1n);
  }

  /** Compares with the daemon, when no datagram is on its way any more. */
  check(daemon: Box): void {
    const blocks = daemon.count("blocks");
    if (blocks !== this.mallocs - this.frees) {
      this.violate("blocks", `${blocks} in use after ${this.mallocs} - ${this.frees}`);
    }
    for (const [pointer, { length }] of this.#contents) {
      this.read(pointer, daemon.askBytes(Uint8Array.fromHex(fields(READ, pointer, length))));
    }
    for (const [pointer, count] of this.#counters) {
      const value = daemon.ask(fields(READ, pointer, WORD));
      if (value !== fields(count)) this.violate("counter", `${value} instead of ${fields(count)}`);
    }
  }

  violate(kind: string, what: string): void {
    this.violations.push({ kind, what });
  }
}

function* grains(pointer: bigint, length: number): Generator<bigint> {
  for (let at = pointer; at < pointer + BigInt(length); at += BigInt(GRAIN)) yield at;
}

/** Allocates, writes, resizes, reads and frees; `blocks` are those that it still holds. */
async function churn(
  remote: Remote,
  times: number,
  blocks: bigint[],
  random: Random,
  ledger: Ledger,
): Promise<void> {
  for (let i = 0; i < times; i++) {
    let length = 1 + random.below(100);
    let pointer = await remote.malloc(length);
    ledger.mallocs++;
    ledger.takes(pointer, new Uint8Array(length));
    for (let n = random.below(3); n > 0; n--) {
      const data = random.bytes(length);
      await remote.write(pointer, data);
      ledger.wrote(pointer, data);
    }
    if (random.chance(0.2)) {
      const contents = ledger.gives(pointer);
      length = 1 + random.below(100);
      pointer = await remote.realloc(pointer, length);
      const kept = new Uint8Array(length);
      kept.set(contents.subarray(0, length));
      ledger.takes(pointer, kept);
    }
    if (random.chance(0.3)) ledger.read(pointer, await remote.read(pointer, length));
    blocks.push(pointer);
    if (blocks.length > 4) await free(remote, blocks.splice(random.below(4), 1), ledger);
  }
}

async function free(remote: Remote, blocks: bigint[], ledger: Ledger): Promise<void> {
  for (const pointer of blocks) {
    ledger.gives(pointer);
    await remote.free(pointer);
    ledger.frees++;
  }
}

async function fetchAndAdd(remote: Remote, times: number, counter: bigint, ledger: Ledger) {
  for (let i = 0; i < times; i++) {
    await remote.fetchAndAdd(counter, 1n);
    ledger.incremented(counter);
  }
}

async function compareAndSwap(remote: Remote, times: number, counter: bigint, ledger: Ledger) {
  for (let i = 0; i < times; i++) {
    let expected = 0n;
    while (true) {
      const old = await remote.compareAndSwap(counter, expected, expected + 1n);
      if (old === expected) break;
      expected = old;
    }
    ledger.incremented(counter);
  }
}

function connect(simulation: Simulation, timeout = PATIENCE_MS): Promise<Remote> {
  const transport = simulation.transport();
  return Remote.connect({ transport, clock: simulation, protocol: "tagged", timeout });
}

interface Plan {
  mallocs: number;
  additions: number;
  swaps: number;
  /** Tasks of each kind that a client works on at a time. */
  tasks: number;
  replayCache?: number;
  /** Called before the daemon serves a datagram. */
  onRequest?: (daemon: Box) => void;
}

/** Runs the plan, divided among the clients, and checks; then frees everything and checks again. */
async function simulate(seed: number, weather: Weather, plan: Plan) {
  const { mallocs, additions, swaps, tasks, replayCache = DAEMON.replayCache, onRequest } = plan;
  const simulation = new Simulation(seed, weather, { ...DAEMON, replayCache });
  if (onRequest !== undefined) simulation.onRequest = onRequest;
  const daemon = simulation.daemon!;
  const random = new Random(seed + 1);
  const ledger = new Ledger();
  const clients = await simulation.run(
    Promise.all(Array.from({ length: CLIENTS }, () => connect(simulation))),
  );
  const counters = await simulation.run(
    Promise.all(Array.from({ length: COUNTERS }, () => clients[0]!.malloc(WORD))),
  );
  ledger.mallocs += COUNTERS;

  const share = (total: number) => Math.ceil(total / CLIENTS / tasks);
  // A task to which a broken daemon refuses something ends there; the others go on.
  const note = (error: Error) => ledger.violate("error", error.message);
  const work = clients.flatMap((remote) =>
    Array.from({ length: tasks }, async (_, i) => {
      const counter = counters[i % COUNTERS]!;
      const blocks: bigint[] = [];
      await Promise.all([
        churn(remote, share(mallocs), blocks, random, ledger).catch(note),
        fetchAndAdd(remote, share(additions), counter, ledger).catch(note),
        compareAndSwap(remote, share(swaps), counter, ledger).catch(note),
      ]);
      return { remote, blocks };
    })
  );
  const results = await simulation.run(Promise.all(work));
  await simulation.drain();
  ledger.check(daemon);

  const rest = results.map(({ remote, blocks }) => free(remote, blocks, ledger).catch(note));
  await simulation.run(Promise.all(rest));
  await simulation.drain();
  ledger.check(daemon);

  await simulation.run(Promise.all(clients.map((remote) => remote.close())));
  const { counters: counts } = daemon.service;
  return {
    violations: ledger.violations,
    replays: counts[Counter.replays]!,
    blocks: counts[Counter.blocks]! - COUNTERS,
    mallocs: ledger.mallocs - COUNTERS,
    finished: simulation.now(),
  };
}

Deno.test("Remote and Service keep exact accounts of 10,000 calls each on a foul network", async () => {
  const seed = 4;
  const plan = { mallocs: 10_000, additions: 10_000, swaps: 0, tasks: 16 };
  const { violations, replays, blocks, mallocs } = await simulate(seed, FOUL, plan);
  assertEquals(violations, [], `seed ${seed}`);
  assertEquals({ mallocs, blocks }, { mallocs: 10_048, blocks: 0 }, `seed ${seed}`);
  assert(replays > 10_000, `seed ${seed}`);
});

Deno.test("Remote and Service keep exact accounts whatever the seed", async () => {
  const seeds = [1, 2, 3, RANDOM_SEED];
  for (const seed of seeds) {
    const { violations } = await simulate(seed, FOUL, MIXED);
    assertEquals(violations, [], `seed ${seed}`);
  }
});

Deno.test("Remote and Service repeat nothing on a fair network", async () => {
  const { violations, replays } = await simulate(1, FAIR, MIXED);
  assertEquals({ violations, replays }, { violations: [], replays: 0 });
});

Deno.test("Simulation repeats its history when it is given the same seed", async () => {
  const first = await simulate(5, FOUL, MIXED);
  assertEquals(await simulate(5, FOUL, MIXED), first);
  const other = await simulate(6, FOUL, MIXED);
  assertNotEquals(other.finished, first.finished);
});

Deno.test("Ledger finds every kind of violation when the daemon forgets its replies", async () => {
  let seconds = 0;
  const onRequest = (daemon: Box) => void (daemon.clock[0] = seconds += 60);
  const { violations } = await simulate(7, FOUL, { ...MIXED, onRequest });
  const kinds = new Set(violations.map(({ kind }) => kind));
  assertEquals([...kinds].sort(), ["blocks", "contents", "counter", "error", "held by two"]);
});

Deno.test("Ledger finds violations when the daemon remembers too few replies", async () => {
  const { violations } = await simulate(8, FOUL, { ...MIXED, replayCache: 8 });
  assertNotEquals(violations, []);
});

Deno.test("Remote has at most once done what it did not hear of", async () => {
  const seed = 9;
  const simulation = new Simulation(seed, FOUL, DAEMON);
  const daemon = simulation.daemon!;
  const remote = await simulation.run(connect(simulation));
  const counter = await simulation.run(remote.malloc(WORD));
  const outcomes = { done: 0, unknown: 0 };
  const add = async () => {
    for (let i = 0; i < 100; i++) {
      try {
        await remote.fetchAndAdd(counter, 1n, { timeout: 150 });
        outcomes.done++;
      } catch (error) {
        if (!(error instanceof NoReplyError)) throw error;
        outcomes.unknown++;
      }
    }
  };
  await simulation.run(Promise.all(Array.from({ length: 10 }, add)));
  await simulation.drain();
  const { done, unknown } = outcomes;
  const value = parseInt(daemon.ask(fields(READ, counter, WORD))!, 16);
  assert(done > 100 && unknown > 100, `${done} done, ${unknown} unknown, seed ${seed}`);
  assert(value > done && value < done + unknown, `${value}, ${done}, ${unknown}, seed ${seed}`);
  assertEquals(value, daemon.service.counters[Counter.requests + ADD], `seed ${seed}`);
  await simulation.run(remote.close());
});

Deno.test("Remote never touches a stranger's block with a pointer of the daemon's earlier life", async () => {
  for (const seed of [10, RANDOM_SEED]) {
    const random = new Random(seed + 1);
    // Late copies of what was sent before reach the daemon after its restart.
    const simulation = new Simulation(seed, { ...FOUL, straggling: 0.1 }, DAEMON);
    const clients = await simulation.run(
      Promise.all(Array.from({ length: CLIENTS }, () => connect(simulation))),
    );
    const outcomes = { done: 0, stale: 0 };
    const note = (error: Error) => {
      if (!(error instanceof StaleEpochError)) throw error;
      outcomes.stale++;
    };
    const spoil = async (remote: Remote, pointer: bigint) => {
      for (let i = 0; i < 20; i++) {
        const call = random.pick([
          () => remote.write(pointer, new Uint8Array(16).fill(0xff)),
          () => remote.fetchAndAdd(pointer, 1n),
          () => remote.realloc(pointer, 16).then((moved) => void (pointer = moved)),
          () => remote.free(pointer).then(async () => pointer = await remote.malloc(16)),
        ]);
        await call().then(() => void outcomes.done++, note);
      }
    };
    const old = await simulation.run(
      Promise.all(clients.map((remote) => Promise.all(mallocs(remote, 20)))),
    );
    const spoiling = clients.flatMap((remote, i) => old[i]!.map((block) => spoil(remote, block)));

    const daemon = new Box(DAEMON);
    const contents = random.bytes(16);
    const restarted = simulation.sleep(400).then(async () => {
      simulation.daemon = daemon;
      const stranger = await connect(simulation);
      const blocks = await Promise.all(mallocs(stranger, 200));
      await Promise.all(blocks.map((block) => stranger.write(block, contents)));
      return { stranger, blocks };
    });
    const { stranger, blocks } = await simulation.run(restarted);
    await simulation.run(Promise.all(spoiling));
    await simulation.drain();
    assert(outcomes.done > 50 && outcomes.stale > 50, `${Object.values(outcomes)}, seed ${seed}`);
    assertEquals(daemon.count("blocks"), 200, `seed ${seed}`);
    for (const block of blocks) {
      assertEquals(daemon.ask(fields(READ, block, 16)), contents.toHex(), `seed ${seed}`);
    }

    const epochs = await simulation.run(Promise.all(clients.map((remote) => remote.renew())));
    assertEquals(new Set(epochs.map((hello) => hello!.epoch)), new Set([stranger.hello!.epoch]));
    const anew = await simulation.run(Promise.all(clients.flatMap((remote) => mallocs(remote, 5))));
    assertEquals(new Set([...blocks, ...anew]).size, 200 + CLIENTS * 5, `seed ${seed}`);
    await simulation.run(Promise.all([stranger, ...clients].map((remote) => remote.close())));
  }
});

function mallocs(remote: Remote, times: number): Promise<bigint>[] {
  return Array.from({ length: times }, () => remote.malloc(16));
}

Deno.test("Remote takes no late classic reply for the answer to a later call", async () => {
  const seed = 11;
  const random = new Random(seed);
  const simulation = new Simulation(seed, FAIR, DAEMON);
  const daemon = simulation.daemon!;
  const transport = simulation.transport();
  const remote = await Remote.connect({ transport, clock: simulation, protocol: "classic" });
  const blocks = new Map<bigint, Uint8Array>();
  for (let i = 0; i < 100; i++) {
    const data = random.bytes(16);
    const pointer = await simulation.run(remote.malloc(data.length));
    await simulation.run(remote.write(pointer, data));
    blocks.set(pointer, data);
  }
  await simulation.drain();

  // Half of the replies come after the call has been given up, for lack of patience or by a signal.
  simulation.weather = { ...FOUL, duplication: 0, longestDelay: 200 };
  const outcomes = { read: 0, unanswered: 0, aborted: 0, mallocs: 0 };
  for (let i = 0; i < 2000; i++) {
    const [pointer, data] = random.pick([...blocks]);
    const controller = new AbortController();
    if (random.chance(0.2)) simulation.after(random.below(100), () => controller.abort());
    const options = { timeout: 200, signal: controller.signal };
    try {
      if (random.chance(0.2)) {
        outcomes.mallocs++;
        const another = await simulation.run(remote.malloc(16, options));
        assert(!blocks.has(another), `seed ${seed}`);
        blocks.set(another, new Uint8Array(16));
      } else {
        const seen = await simulation.run(remote.read(pointer, data.length, options));
        assertEquals(seen, data, `seed ${seed}`);
        outcomes.read++;
      }
    } catch (error) {
      if (error instanceof NoReplyError) outcomes.unanswered++;
      else if (error === controller.signal.reason) outcomes.aborted++;
      else throw error;
    }
  }
  await simulation.drain();
  const { read, unanswered, aborted } = outcomes;
  assert(
    read > 200 && unanswered > 200 && aborted > 100,
    `${Object.values(outcomes)}, seed ${seed}`,
  );
  // No malloc was sent twice.
  assert(
    daemon.service.counters[Counter.requests + MALLOC]! <= 100 + outcomes.mallocs,
    `seed ${seed}`,
  );
  await simulation.run(remote.close());
});

Deno.test("Remote's adds happen once each although strangers leave it a small share of the cache", async () => {
  for (const seed of [1, 2, 3]) {
    // No copy comes later than the daemon remembers so few.
    const foul = { ...FOUL, loss: 0.3, straggling: 0 };
    const simulation = new Simulation(seed, foul, { size: 1024 * 1024, replayCache: 512 });
    const remote = await simulation.run(connect(simulation));
    const { base } = remote.hello!;
    const spare = base + 512n * 1024n;
    let tag = 0;
    simulation.onRequest = (daemon) => {
      for (let port = 2000; port < 2008; port++) {
        daemon.from("10.0.0.2", port);
        for (let i = 0; i < 8; i++) daemon.ask(word(tag++, ADD) + fields(spare, 1));
      }
    };
    const adds = 1500;
    const pointer = await simulation.run(remote.malloc(WORD));
    await simulation.run(Promise.all(
      Array.from({ length: adds }, () => remote.fetchAndAdd(pointer, 1n)),
    ));
    await simulation.drain();
    const value = simulation.daemon!.ask(fields(READ, pointer, WORD));
    assertEquals(value, fields(adds), `seed ${seed}`);
    await simulation.run(remote.close());
  }
});
