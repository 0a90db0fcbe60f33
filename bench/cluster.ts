/**
 * What it costs that a Redis Cluster has all that is acknowledged: a daemon with `--cluster --copies 2`
 * beside one without, both over Deno's sockets, in turns. Client, daemons and six servers share this
 * machine's cores. And how fast a log is replayed, by which a standby begins and a successor ends.
 *
 *     deno run -P=bench bench/cluster.ts [--smoke]
 */

import { Follower } from "../lib/daemon/cluster/follower.ts";
import { Membership } from "../lib/daemon/cluster/membership.ts";
import { Range } from "../lib/daemon/cluster/range.ts";
import { Remote } from "../lib/client/remote.ts";
import { newState } from "../lib/daemon/state.ts";
import { DEFAULT_ENTRIES } from "../lib/daemon/duplicate_request_cache.ts";
import { RedisCluster, whyNoRedis } from "../tests/cluster/redis.ts";
import { HOST, medians, type Server, startMallocd } from "./prober.ts";
import { grouped, printTable, ratio } from "./table.ts";

const ROOT = new URL("..", import.meta.url);
const MEMORY = 64 * 1024 ** 2;

/** What is asked for: in flight, requests a datagram, method. */
const LOADS = [
  ["reads, 32 in flight", 32, 1, "read"],
  ["reads, 8 x 32 pipelined", 8, 32, "read"],
  ["writes, 32 in flight", 32, 1, "write"],
  ["writes, 8 x 32 pipelined", 8, 32, "write"],
  ["writes, one at a time", 1, 1, "write"],
] as const;

/** Requests a second. */
async function measure(
  { port }: Server,
  [, inFlight, perDatagram, method]: (typeof LOADS)[number],
  ms: number,
): Promise<number> {
  const words = ["--in-flight", inFlight, "--per-datagram", perDatagram, "--mix", `${method}=100`];
  const args = [
    "run",
    "-q",
    "-P=client",
    "client.ts",
    "--server",
    `${HOST}:${port}`,
    "--json",
    "bench",
  ];
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...args, "--seconds", `${ms}ms`, ...words.map(String)],
    cwd: ROOT,
  }).output();
  const { requestsPerSecond } = JSON.parse(new TextDecoder().decode(stdout) || "{}");
  if (requestsPerSecond === undefined) throw new Error(new TextDecoder().decode(stderr));
  return requestsPerSecond;
}

/** Seconds that it takes to replay the log that is there. */
async function replay(redis: RedisCluster): Promise<number> {
  const nodes = redis.servers.map(({ node }) => node);
  const range = new Range({ nodes, access: {}, copies: 1, lease: 3000 }, 0);
  const sizes = { memory: MEMORY, replayCache: DEFAULT_ENTRIES };
  const state = newState(sizes);
  const options = { hostname: HOST, port: 0, strict: false, ...sizes, state };
  const follower = await Follower.of(range, options, new Membership(0), 0);
  const start = performance.now();
  while (await follower.advance() > 0);
  const seconds = (performance.now() - start) / 1000;
  range.close();
  return seconds;
}

async function main(rounds: number, ms: number): Promise<void> {
  await using redis = await RedisCluster.start();
  const memory = ["--memory", `${MEMORY}`];
  await using local = await startMallocd("datagram", ...memory);
  const part = ["--cluster", redis.nodes, "--range", "0"];
  await using clustered = await startMallocd("datagram", ...memory, ...part);
  const rows = LOADS.flatMap((load) =>
    [local, clustered].map((daemon) => () => measure(daemon, load, ms))
  );
  const rates = await medians(rounds, rows);
  await using remote = await Remote.connect({ server: `${HOST}:${clustered.port}` });
  const stats = await remote.stats();
  const logged = ["malloc", "free", "write"].map((method) =>
    stats.get(`requests.${method}`)!.value
  );
  const requests = Number(logged.reduce((sum, count) => sum + count));
  const rate = requests / await replay(redis);
  printTable([
    ["64 bytes, requests a second", "alone", "--copies 2", "times"],
    ...LOADS.map(([name], i) => [
      name,
      grouped(Math.round(rates[2 * i]!)),
      grouped(Math.round(rates[2 * i + 1]!)),
      ratio(rates[2 * i + 1]! / rates[2 * i]!),
    ]),
    [`replay of ${grouped(requests)} requests`, "", grouped(Math.round(rate)), ""],
  ]);
}

if (import.meta.main) {
  const reason = await whyNoRedis();
  if (reason !== "") {
    printTable([["64 bytes, requests a second", ""], [`cannot be measured${reason}`, ""]]);
  } else await (Deno.args.includes("--smoke") ? main(1, 50) : main(3, 1000));
}
