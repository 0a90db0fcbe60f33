/**
 * What docs/cluster.md promises, tried: a Redis Cluster of this test's own, daemons as their users start
 * them, 48 counters that are added to without pause, and something that breaks meanwhile.
 */

import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { Remote } from "../../lib/client/remote.ts";
import { fields, head, word } from "../testing.ts";
import { FIRST, Mallocd, Peer } from "../programs/programs.ts";
import { Load, sleep } from "./load.ts";
import { Network } from "./network.ts";
import { RedisCluster, type RedisOptions, whyNoRedis } from "./redis.ts";

const noRedis = await whyNoRedis();
/** The longest that clients may wait for any answer. */
const LONGEST_GAP_MS = 10_000;
const [MALLOC, READ, ADD] = [0, 2, 6];

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: name + noRedis, ignore: noRedis !== "", fn });
}

interface Options extends RedisOptions {
  owner?: readonly string[];
  standby?: readonly string[];
}

/** A cluster, and an owner of range 0. */
async function withOwner(
  { owner: args = [], ...options }: Options,
  use: (parts: { redis: RedisCluster; owner: Mallocd }) => Promise<void>,
) {
  await using redis = await RedisCluster.start(options);
  await using owner = await startDaemon(redis, ["--range", "0", ...args]);
  await use({ redis, owner });
}

/** The same with a standby. */
async function withPair(
  { owner: ownerArgs = [], standby: standbyArgs = [], ...options }: Options,
  use: (
    parts: { redis: RedisCluster; owner: Mallocd; standby: Mallocd; servers: string[] },
  ) => Promise<void>,
) {
  await withOwner({ owner: ownerArgs, ...options }, async ({ redis, owner }) => {
    await using standby = await startDaemon(redis, ["--range", "0", "--standby", ...standbyArgs]);
    await use({ redis, owner, standby, servers: [owner.server, standby.server] });
  });
}

function startDaemon({ nodes }: { nodes: string }, args: readonly string[]): Promise<Mallocd> {
  return Mallocd.start(["--cluster", nodes, "--memory", "16MiB", ...args]);
}

/** Puts a load on the daemons for so many seconds, and has something break meanwhile. */
async function loaded(
  servers: readonly string[],
  breakIt: (load: Load) => Promise<void> | void,
  seconds = 9,
) {
  await using load = await Load.start(servers);
  const start = performance.now();
  await sleep(1500);
  const before = load.acknowledged;
  await breakIt(load);
  const left = 1000 * seconds - (performance.now() - start);
  if (left > 0) await sleep(left);
  const atEnd = load.acknowledged;
  const outcome = await load.stop();
  const lasted = ((performance.now() - start) / 1000).toFixed(1);
  console.error(JSON.stringify({ before, atEnd, lasted, ...outcome }));
  assert(before > 0, "nothing was acknowledged before");
  assert(atEnd > before + 100, `nothing was acknowledged after it, ${JSON.stringify(outcome)}`);
  assert(outcome.gap <= LONGEST_GAP_MS, `nobody was answered for ${outcome.gap} ms`);
  return outcome;
}

/** The same, and expects that nothing is lost or done twice. */
async function survives(...args: Parameters<typeof loaded>): Promise<void> {
  const { lost, twice, wrong, unanswered } = await loaded(...args);
  assertEquals({ lost, twice, wrong, unanswered }, { lost: 0, twice: 0, wrong: 0, unanswered: 0 });
}

test("kill -9 of the owner loses nothing and does nothing twice", () =>
  withPair({}, async ({ owner, servers }) => {
    await survives(servers, () => void owner.stop("SIGKILL"));
  }));

test("kill -9 of the owner while the nodes that list the owners are stopped loses nothing", async () => {
  await using redis = await RedisCluster.start();
  await using owner = await startDaemon(redis, ["--range", "1"]);
  await using standby = await startDaemon(redis, ["--range", "1", "--standby"]);
  const holder = await redis.primaryOf("mallocd:owners");
  assert(holder !== (await redis.shardOf(1)).primary, "they are those of the range");
  await survives([owner.server, standby.server], () => {
    for (const { shard, process } of redis.servers) {
      if (shard === holder.shard) process.kill("SIGSTOP");
    }
    void owner.stop("SIGKILL");
  });
});

test("an owner that is told to end leaves the range to the standby at once, whatever its lease", () =>
  withPair({ owner: ["--lease", "60s"] }, async ({ owner, servers }) => {
    await survives(servers, () => void owner.stop("SIGTERM"));
  }));

test("kill -9 of the cluster's primary loses nothing and does nothing twice", () =>
  withPair({ replicas: 2 }, async ({ redis, servers }) => {
    const { primary } = await redis.shardOf(0);
    await survives(servers, () => primary.process.kill("SIGKILL"), 11);
  }));

test("kill -9 of the owner and of the cluster's primary loses nothing and does nothing twice", () =>
  withPair({ replicas: 2 }, async ({ redis, owner, servers }) => {
    const { primary } = await redis.shardOf(0);
    await survives(servers, () => {
      primary.process.kill("SIGKILL");
      void owner.stop("SIGKILL");
    }, 12);
  }));

for (const [copies, loses] of [["2", false], ["1", true]] as const) {
  const what = loses ? "loses what only one had" : "loses nothing";
  test(`a primary and an owner that die while the replica is cut off: --copies ${copies} ${what}`, () =>
    withOwner({ owner: ["--copies", copies] }, async ({ redis, owner }) => {
      let next: Mallocd | undefined;
      try {
        const { lost, ...outcome } = await loaded([owner.server], async () => {
          await cutOffAndKill(redis);
          await owner.stop("SIGKILL");
          // Only one node is left: it has to do.
          const args = ["--range", "0", "--copies", "1", "--port", `${owner.port}`];
          next = await startDaemon(redis, args);
        }, 11);
        if (loses) assert(lost > 0, "the test does not bite: nothing was lost");
        else assertEquals([lost, outcome.twice, outcome.wrong, outcome.unanswered], [0, 0, 0, 0]);
      } finally {
        await next?.[Symbol.asyncDispose]();
      }
    }));
}

/** For a second the replica of range 0 gets nothing; then the primary dies, and the replica is its heir. */
async function cutOffAndKill(redis: RedisCluster): Promise<void> {
  const { primary, replicas: [replica] } = await redis.shardOf(0);
  replica!.process.kill("SIGSTOP");
  await redis.call(primary, "CLIENT", "KILL", "TYPE", "replica");
  await sleep(1000);
  primary.process.kill("SIGKILL");
  replica!.process.kill("SIGCONT");
}

test("an owner puts back what the cluster loses while it lives: --copies 1 loses nothing then", () =>
  withOwner({ owner: ["--copies", "1"] }, async ({ redis, owner }) => {
    let next: Mallocd | undefined;
    try {
      await survives([owner.server], async (load) => {
        await cutOffAndKill(redis);
        const { acknowledged } = load;
        await until(() => Promise.resolve(load.acknowledged > acknowledged + 1000));
        await owner.stop("SIGKILL");
        const args = ["--range", "0", "--copies", "1", "--port", `${owner.port}`];
        next = await startDaemon(redis, args);
      }, 12);
    } finally {
      await next?.[Symbol.asyncDispose]();
    }
  }));

test("a standby that knows more than is left of the log goes on from there", () =>
  withPair(
    { owner: ["--copies", "1"], standby: ["--copies", "1"] },
    async ({ redis, owner, servers }) => {
      await using load = await Load.start(servers);
      await sleep(1000);
      await cutOffAndKill(redis);
      await owner.stop("SIGKILL");
      const { acknowledged } = load;
      await until(() => Promise.resolve(load.acknowledged > acknowledged + 1000));
      const { twice } = await load.stop();
      assertEquals(twice, 0);
    },
  ));

test("an owner that was stopped is fenced, and answers no read after its lease", () =>
  withPair({}, async ({ owner, standby, servers }) => {
    await using remote = await Remote.connect({ server: servers.join(), timeout: 15_000 });
    const pointer = await remote.malloc(8);
    await remote.fetchAndAdd(pointer, 5n);
    using peer = new Peer(owner);
    assertEquals(
      await peer.ask(word(1, READ) + fields(pointer, 8)),
      head(1, READ, 0, 8) + fields(5),
    );
    Deno.kill(owner.pid, "SIGSTOP");
    // By another client, of which the old owner hears nothing: it would make what it reads wait for that.
    await until(async () => (await standby.client("ping --count 1 --timeout 500ms")).code === 0);
    await using other = await Remote.connect({ server: standby.server, timeout: 15_000 });
    assertEquals(await other.fetchAndAdd(pointer, 1n), 5n);
    // Asked for after the new value was told, by many who may find the old owner first.
    for (let tag = 2; tag < 100; tag++) await peer.send(word(tag, READ) + fields(pointer, 8));
    await peer.send(fields(READ, pointer, 8));
    await peer.send(word(200, ADD) + fields(pointer, 1));
    const stray = peer.receive().then((reply) => reply, () => undefined);
    Deno.kill(owner.pid, "SIGCONT");
    const { code, stderr } = await owner.ended();
    assertEquals(code, 1);
    assertMatch(stderr, / reason="range 0 was taken: .* fence 2; our fence was 1" try="/m);
    assertEquals(await Promise.race([stray, sleep(200)]), undefined, "an answer of the old owner");
    assertEquals(await remote.fetchAndAdd(pointer, 0n), 6n);
    assertEquals((await standby.client("info")).code, 0);
  }));

test("an owner that is stopped and goes on under load is fenced, and loses nothing", () =>
  withPair({}, async ({ owner, servers }) => {
    await survives(servers, async () => {
      Deno.kill(owner.pid, "SIGSTOP");
      await sleep(6000);
      Deno.kill(owner.pid, "SIGCONT");
    });
    const { code, stderr } = await owner.ended();
    assertEquals(code, 1);
    assertMatch(stderr, / reason="range 0 was taken: .* fence 2; our fence was 1" try="/m);
  }));

test("an owner that is cut off from the cluster answers no read after its lease, until it is back", () =>
  withCutOff(["--lease", "1500ms"], async ({ network, owner }) => {
    await using remote = await Remote.connect({ server: owner.server, timeout: 15_000 });
    const pointer = await remote.malloc(8);
    await remote.fetchAndAdd(pointer, 5n);
    network.cut();
    await sleep(1500);
    const error = await remote.read(pointer, 8, { timeout: 500 }).catch((error) => error);
    assertEquals(error.name, "NoReplyError");
    network.mend();
    assertEquals((await remote.read(pointer, 8)).at(-1), 5);
    assertEquals(await remote.fetchAndAdd(pointer, 1n), 5n);
  }));

test("an owner that is cut off under load gives no old value away, and is fenced when it is back", () =>
  withCutOff([], async ({ redis, network, owner }) => {
    await using standby = await startDaemon(redis, ["--range", "0", "--standby"]);
    await using remote = await Remote.connect({ server: owner.server, timeout: 15_000 });
    const pointer = await remote.malloc(8192); // in pages that the load does not touch
    await remote.fetchAndAdd(pointer, 5n);
    using peer = new Peer(owner);
    const read = (tag: number) => word(tag, READ) + fields(pointer, 8);
    assertEquals(await peer.ask(read(1)), head(1, READ, 0, 8) + fields(5));
    await survives([owner.server, standby.server], async () => {
      network.cut();
      await until(async () => (await standby.client("ping --count 1 --timeout 500ms")).code === 0);
      await using other = await Remote.connect({ server: standby.server, timeout: 15_000 });
      assertEquals(await other.fetchAndAdd(pointer, 1n), 5n);
      const stray = peer.receive().then((reply) => reply, () => undefined);
      for (let tag = 2; tag < 100; tag++) await peer.send(read(tag));
      await peer.send(fields(READ, pointer, 8));
      // It lives, and says nothing as long as it is alone, nor when it hears of the other one.
      assertEquals(await Promise.race([stray, sleep(1000)]), undefined, "an old value");
      network.mend();
      const { code, stderr } = await owner.ended();
      assertEquals(code, 1);
      assertMatch(stderr, / reason="range 0 was taken: .* fence 2; our fence was 1" try="/m);
      assertEquals(await Promise.race([stray, sleep(200)]), undefined, "an old value");
    });
  }));

/** A cluster, and an owner of range 0 on the other side of a network that can be cut. */
async function withCutOff(
  args: readonly string[],
  use: (parts: { redis: RedisCluster; network: Network; owner: Mallocd }) => Promise<void>,
) {
  await using redis = await RedisCluster.start();
  using network = new Network(redis.servers.map(({ node }) => node));
  await using owner = await startDaemon(network, ["--range", "0", ...args]);
  await use({ redis, network, owner });
}

test("moving the range's slot to another shard and back under load aborts nothing", () =>
  withPair({}, async ({ redis, servers }) => {
    let moves = 0;
    await survives(servers, async () => {
      const until = Date.now() + 7000;
      while (Date.now() < until) {
        const { primary, slot } = await redis.shardOf(0);
        const other = redis.servers.find(({ isFirst, node }) =>
          isFirst && node.port !== primary.node.port
        )!;
        await redis.moveSlot(slot, primary, other);
        moves++;
        await sleep(300);
      }
    }, 10);
    assert(moves >= 4, `${moves} moves`);
  }));

test("a request with the tag of before the takeover gets the reply of before", () =>
  withPair({}, async ({ owner, standby }) => {
    using peer = new Peer(owner);
    const requests = [
      word(1, MALLOC) + fields(64),
      word(2, ADD) + fields(FIRST, 7),
      word(3, ADD) + fields(FIRST, 1),
      word(4, MALLOC) + fields(64),
    ];
    const replies: string[] = [];
    for (const request of requests) replies.push(await peer.ask(request));
    await owner.stop("SIGKILL");
    peer.turnTo(standby);
    await until(async () => (await standby.client("ping --count 1 --timeout 500ms")).code === 0);
    for (const [i, request] of requests.entries()) {
      assertEquals(await peer.ask(request), replies[i]);
    }
    assertEquals(await peer.ask(word(5, READ) + fields(FIRST, 8)), head(5, READ, 0, 8) + fields(8));
    assertEquals(
      await peer.ask(word(6, MALLOC) + fields(64)),
      head(6, MALLOC, 0, 8) + fields(FIRST + 128),
    );
  }));

test("reads of what is logged go on while the primary is dead; reads of what is not wait", () =>
  withPair({ replicas: 2, owner: ["--lease", "20s"] }, async ({ redis, owner }) => {
    await using remote = await Remote.connect({ server: owner.server, timeout: 15_000 });
    const pointer = await remote.malloc(64 * 1024);
    const { primary } = await redis.shardOf(0);
    primary.process.kill("SIGKILL");
    const order: string[] = [];
    const write = remote.write(pointer, Uint8Array.of(7)).then(() => order.push("write"));
    await sleep(100); // it is served now
    const dependent = remote.read(pointer, 1).then(([byte]) => order.push(`read ${byte}`));
    for (let i = 0; i < 50; i++) await remote.read(pointer + 32n * 1024n, 100);
    order.push("50 reads");
    await Promise.all([write, dependent]);
    assertEquals(order, ["50 reads", "write", "read 7"]);
  }));

test("four daemons are one address space of four heaps for four clients", async () => {
  await using redis = await RedisCluster.start();
  const daemons: Mallocd[] = [];
  try {
    for (let i = 0; i < 4; i++) {
      const args = ["--cluster", redis.nodes, "--memory", "64KiB", "--range", "auto"];
      daemons.push(await Mallocd.start(args));
    }
    assertEquals(daemons.map(({ ready }) => ready["range"]), ["0", "1", "2", "3"]);
    await sleep(1500); // until all have heard of each other
    const remotes = await Promise.all(
      daemons.map(({ server }) => Remote.connect({ server, timeout: 5000 })),
    );
    await using clients = new AsyncDisposableStack();
    for (const remote of remotes) clients.use(remote);
    assertEquals(remotes.map(({ hello }) => hello!.cluster!.range), [0, 1, 2, 3]);
    // 16 blocks of a quarter of a heap, in turn: each client gets what is left somewhere.
    const pointers: bigint[] = [];
    for (let i = 0; i < 16; i++) pointers.push(await remotes[i % 3]!.malloc(16 * 1024));
    assertEquals(new Set(pointers).size, 16);
    const ranges = pointers.map((pointer) => Number((pointer - BigInt(FIRST)) >> 36n));
    assertEquals(ranges.toSorted((a, b) => a - b).join(""), "0000111122223333");
    for (const remote of remotes) {
      const error = await remote.malloc(1).catch((error) => error);
      assertEquals(error.errno, "ENOMEM");
    }
    for (const [i, pointer] of pointers.entries()) {
      await remotes[i % 4]!.write(pointer, Uint8Array.of(i));
      assertEquals(await remotes[(i + 1) % 4]!.read(pointer, 1), Uint8Array.of(i));
      assertEquals(await remotes[(i + 2) % 4]!.fetchAndAdd(pointer + 8n, 3n), 0n);
    }
    // Over the end of a heap: nothing is done.
    const last = pointers.find((pointer) => (pointer - BigInt(FIRST)) % 2n ** 36n === 49152n)!;
    const across = await remotes[0]!.write(last + 16383n, Uint8Array.of(1, 1)).catch((error) =>
      error
    );
    assertEquals(across.errno, "EFAULT");
    assertEquals(await remotes[1]!.read(last + 16383n, 1), Uint8Array.of(0));
    for (const [i, pointer] of pointers.entries()) await remotes[(i + 3) % 4]!.free(pointer);
    const survey = async () => {
      const { code, stdout } = await daemons[2]!.client("cluster");
      assertEquals(code, 0);
      return stdout.trimEnd().split("\n").slice(1).map((line) => line.split(/ +/));
    };
    // Both are noted some times a second; once the last free is in the log, nothing waits.
    await until(async () =>
      (await survey()).every(([, , , , , , , waiting, log]) => waiting === "0" && log !== "0")
    );
    assertEquals(
      (await survey()).map((
        [range, , owner, fence, , size, copies],
      ) => [range, owner, fence, size, copies]),
      daemons.map(({ server }, i) => [`${i}`, server, "1", "64KiB", "2"]),
    );
  } finally {
    for (const daemon of daemons) await daemon[Symbol.asyncDispose]();
  }
});

test("a standby keeps the log short, and who comes later begins with its snapshot", () =>
  withOwner({}, async ({ redis, owner }) => {
    // So far from the cluster that there is always something to read.
    using network = new Network(redis.servers.map(({ node }) => node), 10);
    const args = ["--range", "0", "--standby", "--trim", "32KiB"];
    await using standby = await startDaemon(network, args);
    const servers = [owner.server, standby.server];
    await using before = await Remote.connect({ server: owner.server, timeout: 15_000 });
    const block = await before.malloc(100);
    await using load = await Load.start(servers);
    const { primary } = await redis.shardOf(0);
    const snapshot = () => redis.text(primary, "HGET", "mallocd:{0}:head", "snapshot");
    await until(async () => Number(await snapshot()) > 0);
    const first = Number(await snapshot());
    await until(async () => Number(await snapshot()) > first);
    const keys = (await redis.call(primary, "KEYS", "mallocd:{0}:snapshot:*")) as Uint8Array[];
    assert(keys.length <= 2, "one, and one that is being written");
    await using late = await startDaemon(redis, ["--range", "0", "--standby"]);
    await standby.stop("SIGKILL");
    await owner.stop("SIGKILL");
    servers.push(late.server);
    await using other = await Remote.connect({ server: late.server, timeout: 15_000 });
    await other.ping();
    await load[Symbol.asyncDispose]();
    assertNotEquals(await other.malloc(100), block, "it is in use");
    await other.free(block);
    const oldest =
      (await redis.call(primary, "XRANGE", "mallocd:{0}:log", "-", "+", "COUNT", 1)) as [
        Uint8Array,
        unknown,
      ][];
    const begins = oldest.length === 0
      ? Infinity
      : parseInt(new TextDecoder().decode(oldest[0]![0]));
    assert(begins > 1, "the log was not cut off");
  }));

test("an owner says how long its log is, and that nobody cuts it off, until a standby does", () =>
  withOwner({ owner: ["--trim", "16KiB"] }, async ({ redis, owner }) => {
    await using load = await Load.start([owner.server]);
    const log = async (): Promise<number> =>
      JSON.parse((await owner.client("--json cluster")).stdout).ranges[0].log;
    await until(async () => await log() > 64 * 1024);
    await sleep(1000);
    await using _ = await startDaemon(redis, ["--range", "0", "--standby", "--trim", "16KiB"]);
    let most = 0;
    await until(async () => {
      const bytes = await log();
      most = Math.max(most, bytes);
      return bytes < most;
    });
    await load.stop();
    const { stderr } = await owner.stop();
    assertMatch(
      stderr,
      /msg=warning reason="the log of range 0 has \d+ bytes: no standby cuts it off"/,
    );
  }));

test("daemons that would replay to something else are refused", async () => {
  await using redis = await RedisCluster.start();
  const args = ["--cluster", redis.nodes, "--range", "0", "--memory", "16MiB"];
  await using owner = await Mallocd.start(args);
  const refused = async (more: readonly string[], problem: RegExp) => {
    await using daemon = await Mallocd.start([...args, ...more]);
    const { code, stderr } = await daemon.ended();
    assertEquals(code, 1, stderr);
    assertMatch(stderr, problem);
    assertMatch(stderr, /^Try: | try=/m);
  };
  await refused(
    [],
    / reason="range 0 belongs to 127\.0\.0\.1:\d+, which renews its lease" try="--standby/,
  );
  const others: [string[], RegExp][] = [
    [["--memory", "32MiB"], /with --memory 16MiB, and .* --memory 32MiB" try="--memory 16MiB, or/],
    [["--strict"], /range 0 was made with no --strict, and this is a daemon with --strict/],
    [
      ["--replay-cache", "9"],
      /range 0 was made with --replay-cache 65536, and .* --replay-cache 9/,
    ],
    [
      ["--quota", "1MiB"],
      /range 0 was made with no --quota, and this is a daemon with --quota 1MiB/,
    ],
  ];
  for (const [flags, problem] of others) await refused([...flags, "--standby"], problem);
  await refused(["--range", "5", "--standby"], /there is no range 5 to stand by for/);
  await owner.stop();
  for (const [flags, problem] of others) await refused(flags, problem); // as successors
  const { primary } = await redis.shardOf(0);
  await redis.call(primary, "HSET", "mallocd:{0}:head", "version", "0.0.1");
  await refused(
    ["--standby"],
    /range 0 was made by mallocd 0\.0\.1, and this is [\d.]+: all daemons/,
  );
  await redis.call(primary, "HSET", "mallocd:{0}:head", "format", "77");
  await refused(
    ["--standby"],
    /range 0 has a log of format 77, made by mallocd 0\.0\.1; this is mallocd/,
  );
  await refused([], /range 0 has a log of format 77/);
});

test("a range whose log is gone is fenced off, and made anew with another epoch", async () => {
  await using redis = await RedisCluster.start();
  const args = ["--cluster", redis.nodes, "--range", "0", "--memory", "16MiB"];
  await using owner = await Mallocd.start(args);
  await using remote = await Remote.connect({ server: owner.server, timeout: 10_000 });
  const pointer = await remote.malloc(8);
  const { primary } = await redis.shardOf(0);
  await redis.call(primary, "FLUSHALL");
  const { code, stderr } = await owner.ended();
  assertEquals(code, 1);
  assertMatch(stderr, / reason="range 0 was taken: the range is gone; our fence was 1" try=/);
  await using next = await Mallocd.start([...args, "--port", String(owner.port)]);
  const error = await remote.write(pointer, Uint8Array.of(1)).catch((error) => error);
  assertEquals(error.name, "StaleEpochError");
  assertEquals(next.ready["fence"], "1");
});

async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!await condition()) {
    assert(Date.now() < deadline, "it did not come about");
    await sleep(50);
  }
}
