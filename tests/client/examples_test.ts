import { assert, assertEquals, assertRejects } from "@std/assert";
import { HashMap } from "../../examples/hash_map.ts";
import { List } from "../../examples/list.ts";
import { addressOf, readWord, Stack, successor } from "../../examples/stack.ts";
import { MAX_TIMEOUT_MS, Remote, type RemoteOptions } from "../../lib/client/remote.ts";
import { DEFAULT_ENTRIES } from "../../lib/daemon/duplicate_request_cache.ts";
import type { Transport } from "../../lib/client/transport.ts";
import { type Daemon, type DaemonOptions, startDaemon } from "../daemon.ts";
import { FOUL, Simulation } from "./simulation.ts";
import { socketTest } from "../sockets.ts";
import { Random } from "../testing.ts";

const CLIENTS = 4;

/** The first of them makes the structure, and looks at it in the end. */
type Remotes = [Remote, ...Remote[]];

interface World extends AsyncDisposable {
  daemon: Daemon;
  remotes: Remotes;
}

/** A daemon and several clients, each with a socket of its own. */
async function newWorld(options: DaemonOptions = {}): Promise<World> {
  const daemon = await startDaemon(options);
  const { server } = daemon;
  const remotes = await manyRemotes({ server, protocol: "tagged", timeout: 10_000 });
  return {
    daemon,
    remotes,
    async [Symbol.asyncDispose]() {
      await Promise.all(remotes.map((remote) => remote.close()));
      await daemon[Symbol.asyncDispose]();
    },
  };
}

async function manyRemotes(options: RemoteOptions, transport?: () => Transport): Promise<Remotes> {
  const connect = () =>
    Remote.connect({ ...options, ...(transport && { transport: transport() }) });
  const remotes: Remotes = [await connect()];
  while (remotes.length < CLIENTS) remotes.push(await connect());
  return remotes;
}

socketTest("List keeps its texts in order, for every client that has its address", async () => {
  await using world = await newWorld({ strict: true });
  const { daemon, remotes } = world;
  await Promise.all(remotes.map(async (remote, i) => {
    const list = await List.create(remote);
    assertEquals(await Array.fromAsync(list), []);
    const texts = Array.from({ length: 50 }, (_, j) => `${i}:${"é".repeat(j)}`);
    for (const text of texts) await list.prepend(text);
    await list.prepend("");
    const same = new List(remotes[(i + 1) % CLIENTS]!, list.address);
    assertEquals(await Array.fromAsync(same), ["", ...texts.toReversed()]);
    assertEquals(await same.remove(texts[49]!), true);
    assertEquals(await same.remove(texts[0]!), true);
    assertEquals(await same.remove("none"), false);
    assertEquals(await Array.fromAsync(list), ["", ...texts.slice(1, 49).toReversed()]);
    await list.free();
  }));
  assertEquals(daemon.count("blocks"), 0);
});

/** All push and pop; what was popped, to the last, is what was pushed, each value once. */
async function checkStack(remotes: Remotes): Promise<void> {
  const [first] = remotes;
  const { address } = await Stack.create(first);
  const popped: bigint[] = [];
  const tasks = remotes.flatMap((remote, i) =>
    [0, 1].map(async (j) => {
      const stack = new Stack(remote, address);
      for (let n = 0; n < 100; n++) {
        await stack.push(BigInt(1000 * (2 * i + j) + n));
        const value = n % 10 === 0 ? undefined : await stack.pop();
        if (value !== undefined) popped.push(value);
      }
    })
  );
  await Promise.all(tasks);
  const stack = new Stack(first, address);
  for (let value; (value = await stack.pop()) !== undefined;) popped.push(value);
  const pushed = Array.from(
    { length: 2 * CLIENTS * 100 },
    (_, k) => BigInt(1000 * Math.floor(k / 100) + k % 100),
  );
  assertEquals(popped.toSorted((a, b) => Number(a - b)), pushed);
  await first.free(address);
}

/** All count the same keys, each client in an order of its own. The map and its entries remain. */
async function checkHashMap(remotes: Remotes, keys: string[]): Promise<void> {
  const [first] = remotes;
  const { address } = await HashMap.create(first, 2 * keys.length);
  await Promise.all(remotes.map(async (remote, i) => {
    const random = new Random(i + 1);
    const map = await HashMap.open(remote, address);
    const todo = keys.flatMap((key) => new Array<string>(10).fill(key));
    while (todo.length > 0) {
      const [key] = todo.splice(random.below(todo.length), 1);
      await map.update(key!, (count) => Number(count ?? 0) + 1);
    }
  }));
  const entries = await Array.fromAsync(await HashMap.open(first, address));
  assertEquals(new Map(entries), new Map(keys.map((key) => [key, 10 * CLIENTS])));
}

const KEYS = ["apple", "banana", "cherry", "date", "elderberry", "fig"];

for (const strict of [false, true]) {
  const title = strict ? " of a strict daemon" : "";

  socketTest(`Stack loses and doubles nothing when many clients${title} push and pop`, async () => {
    await using world = await newWorld({ strict });
    const { daemon, remotes } = world;
    await checkStack(remotes);
    assertEquals(daemon.count("blocks"), 0);
  });

  socketTest(`HashMap counts what many clients${title} count at once`, async () => {
    await using world = await newWorld({ strict });
    const { daemon, remotes } = world;
    await checkHashMap(remotes, KEYS);
    assertEquals(daemon.count("blocks"), 1 + KEYS.length);
  });
}

Deno.test("Stack and HashMap are right on a network that loses, doubles and delays", async () => {
  for (const seed of [1, 2, 3]) {
    const daemon = { size: 1024 * 1024, replayCache: DEFAULT_ENTRIES, strict: seed === 3 };
    const simulation = new Simulation(seed, FOUL, daemon);
    const options = { clock: simulation, protocol: "tagged", timeout: MAX_TIMEOUT_MS } as const;
    const work = async () => {
      const remotes = await manyRemotes(options, () => simulation.transport());
      await checkStack(remotes);
      await checkHashMap(remotes, KEYS);
    };
    await simulation.run(work()).catch((cause) => {
      throw new Error(`seed ${seed}`, { cause });
    });
  }
});

socketTest("Stack notices that the top is another node at the same address", async () => {
  await using world = await newWorld();
  const [slow, fast] = world.remotes as [Remote, Remote];
  const { address } = await Stack.create(slow);
  const stack = new Stack(fast, address);
  const lowest = await fast.malloc(16);
  await stack.push(1n);
  await fast.free(lowest);
  await stack.push(2n); // at the lowest address, which the daemon gives again as soon as it is free
  const before = addressOf(await readWord(fast, address));

  // The slow client has read the top and what is below it; before it swaps the two, all is changed.
  const { compareAndSwap } = slow;
  slow.compareAndSwap = async (...operands) => {
    slow.compareAndSwap = compareAndSwap;
    assertEquals([await stack.pop(), await stack.pop()], [2n, 1n]);
    await stack.push(3n);
    assertEquals(addressOf(await readWord(fast, address)), before);
    return await slow.compareAndSwap(...operands);
  };
  assertEquals(await new Stack(slow, address).pop(), 3n);
  assertEquals(await stack.pop(), undefined);
});

Deno.test("successor() is never the same twice while an address comes again", () => {
  const [a, b] = [0xc420000010n, 0xc51ffffff0n];
  const tops = new Set<bigint>();
  for (let top = 0n, i = 0; i < 1000; i++) {
    const address = i % 2 === 0 ? a : b;
    top = successor(top, address);
    assertEquals(addressOf(top), address);
    tops.add(top);
  }
  assertEquals(tops.size, 1000);
  assertEquals(successor(2n ** 64n - 1n, 0n), 0n);
});

socketTest(
  "HashMap inserts, updates and deletes for concurrent clients without losing a key",
  async () => {
    await using world = await newWorld();
    const { daemon, remotes } = world;
    const [first] = remotes;
    const { address } = await HashMap.create(first, 16);
    const maps = await Promise.all(remotes.map((remote) => HashMap.open(remote, address)));
    const [map] = maps;

    // All insert the same keys at the same time: each time one of them is the first.
    for (const key of ["a", "b", "c", "d"]) {
      const olds = await Promise.all(maps.map((map, i) => map.update(key, (old) => old ?? i)));
      assertEquals(olds.filter((old) => old === undefined).length, 1);
      const winner = await map!.get(key);
      assert(olds.every((old) => old === undefined || old === winner));
    }
    // All delete them: each time one of them sees the value.
    for (const key of ["a", "b"]) {
      const olds = await Promise.all(maps.map((map) => map.update(key, () => undefined)));
      assertEquals(olds.filter((old) => old !== undefined).length, 1);
      assertEquals(await map!.get(key), undefined);
    }
    assertEquals((await Array.fromAsync(map!)).map(([key]) => key).sort(), ["c", "d"]);
    assertEquals(await map!.get("never"), undefined);
    assertEquals(await map!.update("never", () => undefined), undefined);

    // A deleted key comes back to its slot, and others take what is left.
    for (const key of ["a", "b", ..."efghijklmnop"]) await map!.update(key, () => ({ is: key }));
    assertEquals(await maps[1]!.get("p"), { is: "p" });
    await assertRejects(() => map!.update("q", () => 1), RangeError, "all 16 slots");
    await assertRejects(() => map!.update("p", () => "x".repeat(64)), RangeError, "too long");
    assertEquals(daemon.count("blocks"), 1 + 16);
  },
);
