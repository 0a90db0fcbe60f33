/**
 * A Redis Cluster of this test's own, on loopback: three shards, each with one replica or more, all of them
 * processes that it starts and ends. Debian's redis-server will do; so will Valkey's.
 */

import type { Node } from "../../lib/daemon/cluster/node.ts";
import { Connection, type Reply, textOf } from "../../lib/daemon/cluster/resp.ts";

const SHARDS = 3;
const SLOTS = 16384;
/** Milliseconds after which a node that does not answer is taken for dead. */
export const NODE_TIMEOUT_MS = 2000;
const START_MS = 15_000;
const CALL_MS = 2000;

/** REDIS_SERVER=valkey-server tries another one. */
export const SERVER = Deno.env.get("REDIS_SERVER") ?? "redis-server";

/** Empty, or why there can be no cluster here, for the name of a test. */
export async function whyNoRedis(): Promise<string> {
  try {
    const { stdout } = await new Deno.Command(SERVER, { args: ["--version"] }).output();
    const version = /v=(\d+)/.exec(new TextDecoder().decode(stdout))?.[1];
    return Number(version) >= 7 ? "" : ` (${SERVER} is of version ${version}, and 7 is needed)`;
  } catch (error) {
    return ` (no ${SERVER}: ${(error as Error).name})`;
  }
}

export interface RedisOptions {
  /** Of each primary. */
  replicas?: number;
  /** More arguments of each server. */
  args?: readonly string[];
  /** How to get in, if it takes anything. */
  access?: { ca?: string; user?: { name: string; password: string } };
  /** Whether the servers speak TLS on their ports. */
  tls?: boolean;
}

/** One server. */
export interface Server {
  readonly node: Node;
  readonly process: Deno.ChildProcess;
  /** Its place among the shards, and whether it began as the primary of one. */
  readonly shard: number;
  readonly isFirst: boolean;
}

export class RedisCluster implements AsyncDisposable {
  readonly servers: Server[] = [];
  readonly #folder: string;
  readonly #options: RedisOptions;
  readonly #connections = new Map<Server, Connection>();

  private constructor(folder: string, options: RedisOptions) {
    this.#folder = folder;
    this.#options = options;
  }

  /** Somebody else may take a port between the look at it and its use: then others are tried. */
  static async start(options: RedisOptions = {}, tries = 3): Promise<RedisCluster> {
    const folder = await Deno.makeTempDir({ prefix: "mallocd-cluster-" });
    const cluster = new RedisCluster(folder, options);
    try {
      await cluster.#start(options);
      return cluster;
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      if (tries <= 1) throw error;
      return await RedisCluster.start(options, tries - 1);
    }
  }

  /** For --cluster. */
  get nodes(): string {
    return this.servers.map(({ node }) => `${node.hostname}:${node.port}`).join();
  }

  async call(server: Server, ...command: (string | number)[]): Promise<Reply> {
    let connection = this.#connections.get(server);
    if (connection === undefined || connection.isClosed) {
      connection = await Connection.open(server.node, this.#options.access ?? {}, CALL_MS);
      this.#connections.set(server, connection);
    }
    return await connection.call(command, CALL_MS);
  }

  async text(server: Server, ...command: (string | number)[]): Promise<string> {
    return textOf(await this.call(server, ...command));
  }

  /** Who is the primary of a range's keys, and its replicas. */
  shardOf(range: number): Promise<{ primary: Server; replicas: Server[]; slot: number }> {
    return this.#shardOf(`{${range}}`);
  }

  async primaryOf(key: string): Promise<Server> {
    return (await this.#shardOf(key)).primary;
  }

  async #shardOf(key: string): Promise<{ primary: Server; replicas: Server[]; slot: number }> {
    for (const server of this.servers) {
      try {
        const slot = Number(await this.call(server, "CLUSTER", "KEYSLOT", key));
        const slots = await this.call(server, "CLUSTER", "SLOTS") as Reply[][];
        const found = slots.find(([from, to]) => Number(from) <= slot && slot <= Number(to))!;
        const nodes = found.slice(2).map((node) =>
          this.servers.find(({ node: { port } }) => port === Number((node as Reply[])[1]))!
        );
        return { primary: nodes[0]!, replicas: nodes.slice(1), slot };
      } catch {
        // this one is dead: another one knows
      }
    }
    throw new Error("No server of the cluster answers");
  }

  /** Moves a slot with all of its keys to another shard, as `redis-cli --cluster reshard` does. */
  async moveSlot(slot: number, from: Server, to: Server): Promise<void> {
    const [fromId, toId] = [
      await this.text(from, "CLUSTER", "MYID"),
      await this.text(to, "CLUSTER", "MYID"),
    ];
    await this.call(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", fromId);
    await this.call(from, "CLUSTER", "SETSLOT", slot, "MIGRATING", toId);
    for (;;) {
      const keys = await this.call(from, "CLUSTER", "GETKEYSINSLOT", slot, 1) as Reply[];
      if (keys.length === 0) break;
      const { hostname, port } = to.node;
      await this.call(from, "MIGRATE", hostname, port, textOf(keys[0]), 0, CALL_MS);
    }
    for (const server of [to, from]) {
      await this.call(server, "CLUSTER", "SETSLOT", slot, "NODE", toId);
    }
  }

  async #start({ replicas = 1 }: RedisOptions): Promise<void> {
    const count = SHARDS * (1 + replicas);
    const ports = freePorts(count);
    for (const [i, port] of ports.entries()) {
      const folder = `${this.#folder}/${port}`;
      await Deno.mkdir(folder);
      const process = new Deno.Command(SERVER, {
        args: [
          ...(this.#options.tls
            ? [
              "--tls-port",
              `${port}`,
              "--port",
              "0",
              "--tls-replication",
              "yes",
              "--tls-cluster",
              "yes",
            ]
            : ["--port", `${port}`]),
          ...["--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"],
          ...["--cluster-enabled", "yes", "--cluster-node-timeout", `${NODE_TIMEOUT_MS}`],
          ...["--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0"],
          ...["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"],
          ...["--daemonize", "no", "--logfile", `${folder}/log`],
          ...this.#options.args ?? [],
        ],
        stdin: "null",
        stdout: "null",
        stderr: "null",
      }).spawn();
      const node = { hostname: "127.0.0.1", port };
      this.servers.push({ node, process, shard: i % SHARDS, isFirst: i < SHARDS });
    }
    const deadline = Date.now() + START_MS;
    for (const server of this.servers) await until(deadline, () => this.call(server, "PING"));
    const [first] = this.servers;
    for (const server of this.servers) {
      if (server !== first) {
        await this.call(server, "CLUSTER", "MEET", "127.0.0.1", first!.node.port);
      }
      if (!server.isFirst) continue;
      const [from, to] = [server.shard, server.shard + 1].map((i) =>
        Math.floor(i * SLOTS / SHARDS)
      );
      await this.call(server, "CLUSTER", "ADDSLOTSRANGE", from!, to! - 1);
    }
    for (const server of this.servers) {
      await until(deadline, async () => {
        const known = await this.text(server, "CLUSTER", "INFO");
        if (!known.includes(`cluster_known_nodes:${count}\r\n`)) throw new Error(known);
      });
    }
    for (const server of this.servers) {
      if (server.isFirst) continue;
      const primary = this.servers.find(({ shard, isFirst }) => isFirst && shard === server.shard)!;
      const id = await this.text(primary, "CLUSTER", "MYID");
      await until(deadline, () => this.call(server, "CLUSTER", "REPLICATE", id));
    }
    for (const server of this.servers) {
      await until(deadline, async () => {
        const info = await this.text(server, "CLUSTER", "INFO");
        if (!info.includes("cluster_state:ok")) throw new Error(info);
        const slots = await this.call(server, "CLUSTER", "SLOTS") as Reply[][];
        const isKnown = slots.length === SHARDS &&
          slots.every((slot) => slot.length === 3 + replicas);
        if (!isKnown) throw new Error("It does not know all replicas");
        const replication = await this.text(server, "INFO", "replication");
        const wanted = server.isFirst
          ? `connected_slaves:${replicas}\r\n`
          : "master_link_status:up";
        if (!replication.includes(wanted)) throw new Error(replication);
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const connection of this.#connections.values()) connection.close();
    for (const { process } of this.servers) {
      try {
        process.kill("SIGKILL");
      } catch {
        // it has ended
      }
    }
    await Promise.all(this.servers.map(({ process }) => process.status));
    await Deno.remove(this.#folder, { recursive: true });
  }
}

/** Ports that are free now, of which the ports of the cluster's own bus, 10,000 higher, are free, too. */
function freePorts(count: number): number[] {
  const ports: number[] = [];
  while (ports.length < count) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    try {
      for (const each of [port, port + 10_000]) {
        Deno.listen({ hostname: "127.0.0.1", port: each }).close();
      }
    } catch {
      continue;
    }
    if (!ports.includes(port)) ports.push(port);
  }
  return ports;
}

/** Tries again until it works. */
async function until<T>(deadline: number, attempt: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
