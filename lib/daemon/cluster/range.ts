/**
 * A range in the cluster: its head, which says what it is and whose; its lease; its log; and a snapshot, by
 * which the log is kept short. Their keys share a hash tag, so that one node has all of them.
 *
 *     mallocd:{7}:head                a hash: what replay depends on, owner, fence, snapshot
 *     mallocd:{7}:lease               the owner's fence; it expires unless it is renewed
 *     mallocd:{7}:log                 a stream: batches, by number
 *     mallocd:{7}:snapshot:1234       a hash: the daemon as it was after batch 1234, in chunks
 *     mallocd:owners                  a hash: the owner of each range
 */

import { APPEND, CHANGED, CLAIM, FENCED, RELEASE, RENEW, TRIM } from "./functions.ts";
import type { Lease } from "./lease.ts";
import { ClusterError, PATIENCE_MS, Primary } from "./primary.ts";
import {
  type Access,
  type Argument,
  type Connection,
  formatNode,
  type Node,
  parseNode,
  RedisError,
  type Reply,
  textOf,
} from "./resp.ts";
import { MOST_IN_CHUNK } from "./snapshot.ts";
import { formatSize } from "../../cli/sizes.ts";
import { VERSION } from "../../cli/version.ts";

/**
 * Which replay it takes: to be counted up with every change that makes another daemon of the same log. A
 * test holds the digest of one.
 */
export const LOG_FORMAT = 1;

/** How long the primary waits for its replicas before it says how many have got it. */
const WAIT_MS = 500;
/** What is kept of what was logged, or read of it, for the case that the cluster loses the log's end. */
const KEPT_BYTES = 64 * 1024 ** 2;
/** Batches that are read in one go. */
const READ_COUNT = 64;
/** How long a snapshot that is not finished is kept. */
const UNFINISHED_MS = 600_000;
/** Chunks of a snapshot that are sent in one go. */
const CHUNKS_AT_ONCE = 8;

/** Where the cluster is and how it is used. */
export interface ClusterOptions {
  readonly nodes: readonly Node[];
  readonly access: Access;
  /** How many nodes must have what is acknowledged, the primary among them. */
  readonly copies: number;
  /** Milliseconds. */
  readonly lease: number;
}

/** The range has another owner now, or none. */
export class FencedError extends Error {}

/** What replay depends on: a range is made with them, and keeps them. */
export interface Terms {
  readonly memory: number;
  readonly strict: boolean;
  readonly replayCache: number;
  readonly quota?: number | undefined;
}

export interface Head extends Terms {
  readonly version: string;
  readonly format: number;
  /** The boot epoch, and the secrets of the cache's hash and of the quota's, as hex. */
  readonly epoch: string;
  readonly secrets: string;
  readonly owner: string;
  readonly fence: number;
  /** The number of the last batch that the snapshot holds, and its chunks; 0 if there is none. */
  readonly snapshot: number;
  readonly chunks: number;
}

export interface Entry {
  readonly number: number;
  readonly batch: Uint8Array;
}

export class Range {
  readonly number: number;
  readonly #options: ClusterOptions;
  /** One for the log, whose owner waits there for replicas, and one for all else. */
  readonly #log: Primary;
  readonly #other: Primary;
  readonly #kept: Entry[] = [];
  #keptBytes = 0;
  fence = 0;
  /** Bytes of the log since the last snapshot that its owner has heard of, and those of that snapshot. */
  logBytes = 0;
  snapshotBytes = 0;
  #snapshot = 0;
  /** How many nodes have what was written last, be it a batch or the lease. */
  copies = 0;
  /** Tells our claim from those of others. */
  readonly #claim = crypto.randomUUID();

  constructor(options: ClusterOptions, number: number) {
    this.number = number;
    this.#options = options;
    this.#log = new Primary(options.nodes, options.access, this.#key("log"));
    this.#other = new Primary(options.nodes, options.access, this.#key("head"));
  }

  /** Why the cluster does not do what it was asked for last; "" if it does. */
  get reason(): string {
    return this.#log.reason || this.#other.reason;
  }

  /** Finds out whether we may do what an owner does; it does nothing, since no fence is empty. */
  async probe(until: number): Promise<void> {
    await this.#other.ask([this.#call(RENEW, ["head", "lease"], ["", 1])], { until }).catch(
      (error) => {
        if (!(error instanceof RedisError) || error.code !== FENCED) throw error;
      },
    );
  }

  /** How many nodes have the range's keys, the primary among them, as far as they answer. */
  async countNodes(until: number): Promise<number> {
    const command = ["WAIT", this.#options.copies - 1, WAIT_MS];
    const [others] = await this.#other.ask([command], { timeout: WAIT_MS + PATIENCE_MS, until });
    return 1 + Number(others);
  }

  /** What is known about the range; undefined if there is no such range. Gives up at that time. */
  async head(until = Infinity): Promise<Head | undefined> {
    const [reply] = await this.#other.ask([["HGETALL", this.#key("head")]], { until });
    const fields = mapOf(reply);
    if (!fields.has("epoch")) return undefined;
    const number = (name: string) => Number(fields.get(name) ?? 0);
    return {
      version: fields.get("version") ?? "?",
      format: number("format"),
      memory: number("memory"),
      strict: number("strict") === 1,
      replayCache: number("cache"),
      quota: fields.has("quota") ? number("quota") : undefined,
      epoch: fields.get("epoch")!,
      secrets: fields.get("secrets") ?? "",
      owner: fields.get("owner") ?? "",
      fence: number("fence"),
      snapshot: number("snapshot"),
      chunks: number("chunks"),
    };
  }

  /**
   * Makes `owner` the one that the range belongs to, and the range if there is none: `head` is what was
   * known about it. Resolves with undefined when that is done, and with the owner if there is one.
   */
  async claim(
    head: Head | undefined,
    terms: Terms,
    owner: Node,
    lease: Lease,
  ): Promise<{ owner: string; ms: number } | undefined> {
    const command = this.#call(CLAIM, ["head", "lease"], [
      head?.epoch ?? "",
      formatNode(owner),
      lease.ms,
      this.#claim,
      ...(head === undefined ? newHead(terms) : []),
    ]);
    const asked = lease.now();
    const [reply] = await this.#other.ask([command]);
    const [done, answer, ms] = reply as Reply[];
    if (done === 0) return { owner: textOf(answer), ms: Number(ms) };
    this.fence = Number(answer);
    if (await this.#isCopied()) lease.renew(asked);
    return undefined;
  }

  /** Renews the lease. Rejects with FencedError if the range has another owner. */
  async renew(lease: Lease): Promise<void> {
    const asked = lease.now();
    const until = asked.steady + lease.ms;
    const [, copies, position, chunks] = await this.#fenced(() =>
      this.#other.ask([
        this.#call(RENEW, ["head", "lease"], [this.fence, lease.ms]),
        ["WAIT", this.#options.copies - 1, WAIT_MS],
        ["HGET", this.#key("head"), "snapshot"],
        ["HGET", this.#key("head"), "chunks"],
      ], { timeout: WAIT_MS + PATIENCE_MS, until })
    );
    this.copies = 1 + Number(copies);
    if (this.copies >= this.#options.copies) lease.renew(asked);
    this.#noteSnapshot(Number(textOf(position)), Number(textOf(chunks)));
  }

  /** Gives the lease up, so that a successor need not wait for its end. */
  async release(): Promise<void> {
    const command = this.#call(RELEASE, ["head", "lease"], [this.fence]);
    await this.#other.ask([command], { until: performance.now() + PATIENCE_MS });
  }

  /**
   * Appends a batch, and resolves when as many nodes have it as must; until then this goes on, whatever
   * happens to the cluster. Rejects with FencedError if the range has another owner.
   */
  async append(number: number, batch: Uint8Array): Promise<void> {
    const commands = [
      this.#append(number, batch),
      ["WAIT", this.#options.copies - 1, WAIT_MS],
    ].slice(0, this.#options.copies > 1 ? 2 : 1);
    const recover = (connection: Connection) => this.#mend(connection, number);
    for (;;) {
      const replies = await this.#fenced(() =>
        this.#log.ask(commands, { timeout: WAIT_MS + PATIENCE_MS, recover })
      );
      if (replies.length > 1) this.copies = 1 + Number(replies[1]);
      if (this.#options.copies === 1 || this.copies >= this.#options.copies) break;
    }
    this.#keep({ number, batch });
    this.logBytes += batch.length;
  }

  /** A standby has cut the log off; of what is left we know the length, unless it is more than we keep. */
  #noteSnapshot(position: number, chunks: number): void {
    if (position === this.#snapshot) return;
    this.#snapshot = position;
    this.snapshotBytes = chunks * MOST_IN_CHUNK;
    const left = this.#kept.filter(({ number }) => number > position);
    if (left.length === this.#kept.length) return;
    this.logBytes = left.reduce((sum, { batch }) => sum + batch.length, 0);
  }

  /** Puts back what we know of the log, up to `position`, and it has lost; false if that cannot be done. */
  async mend(position: number): Promise<boolean> {
    try {
      await this.#fenced(() =>
        this.#log.ask([], { recover: (connection) => this.#mend(connection, position + 1) })
      );
      return true;
    } catch (error) {
      if (error instanceof ClusterError) return false;
      throw error;
    }
  }

  /** The batches after `position`, some at a time; none at the end of the log. */
  async read(position: number): Promise<Entry[]> {
    const from = `${position + 1}-0`;
    const command = ["XRANGE", this.#key("log"), from, "+", "COUNT", READ_COUNT];
    const [reply] = await this.#other.ask([command], { timeout: 10 * PATIENCE_MS });
    const entries = (reply as Reply[][]).map(([id, fields]) => ({
      number: parseInt(textOf(id)),
      batch: (fields as Reply[])[1] as Uint8Array,
    }));
    for (const entry of entries) this.#keep(entry);
    return entries;
  }

  /** A chunk of the snapshot of that position; undefined if it is gone. */
  async readChunk(position: number, chunk: number): Promise<Uint8Array | undefined> {
    const command = ["HGET", this.#snapshotKey(position), chunk];
    const [reply] = await this.#other.ask([command], { timeout: 10 * PATIENCE_MS });
    return reply instanceof Uint8Array ? reply : undefined;
  }

  /**
   * Stores a snapshot of the range after the batch `position`, and then drops the log up to there, and the
   * snapshot `before`. Resolves with false if somebody else was faster.
   */
  async trim(
    before: number,
    position: number,
    chunks: Iterable<Uint8Array>,
  ): Promise<boolean> {
    const key = this.#snapshotKey(position);
    let count = 0;
    let commands: Argument[][] = [];
    const send = async () => {
      if (commands.length === 0) return;
      commands.push(["PEXPIRE", key, UNFINISHED_MS]);
      await this.#other.ask(commands, { timeout: 10 * PATIENCE_MS });
      commands = [];
    };
    for (const chunk of chunks) {
      commands.push(["HSET", key, count++, chunk]);
      if (commands.length === CHUNKS_AT_ONCE) await send();
    }
    await send();
    while (!await this.#isCopied()) await new Promise((resolve) => setTimeout(resolve, WAIT_MS));
    const keys = ["head", "log", `snapshot:${position}`, `snapshot:${before}`];
    const command = this.#call(TRIM, keys, [before === 0 ? "" : before, position, count]);
    try {
      await this.#other.ask([command], { timeout: 10 * PATIENCE_MS });
      return true;
    } catch (error) {
      if (error instanceof RedisError && error.code === CHANGED) return false;
      throw error;
    }
  }

  close(): void {
    this.#log.close();
    this.#other.close();
  }

  /** Whether as many nodes as must have all that we wrote; it writes something, for WAIT to count. */
  async #isCopied(): Promise<boolean> {
    const needed = this.#options.copies - 1;
    if (needed === 0) return true;
    const [, copies] = await this.#other.ask([
      ["HSET", this.#key("head"), "touched", this.fence],
      ["WAIT", needed, WAIT_MS],
    ], { timeout: WAIT_MS + PATIENCE_MS });
    return Number(copies) >= needed;
  }

  #keep(entry: Entry): void {
    this.#kept.push(entry);
    this.#keptBytes += entry.batch.length;
    while (this.#keptBytes > KEPT_BYTES) this.#keptBytes -= this.#kept.shift()!.batch.length;
  }

  /**
   * A new primary may lack the end of the log, although it was acknowledged: what was acknowledged with
   * one copy, or by a replica that did not become the primary. We still have it.
   */
  async #mend(connection: Connection, next: number): Promise<void> {
    const last = await this.#lastNumber(connection);
    if (last >= next - 1) return;
    const missing = this.#kept.filter(({ number }) => number > last);
    if (missing[0]?.number !== last + 1) {
      throw new ClusterError(
        `the cluster has lost the log of range ${this.number} after batch ${last}, of ${next - 1}`,
      );
    }
    for (const { number, batch } of missing) {
      await connection.call(this.#append(number, batch), PATIENCE_MS);
    }
  }

  async #lastNumber(connection: Connection): Promise<number> {
    let reply: Reply;
    try {
      reply = await connection.call(["XINFO", "STREAM", this.#key("log")], PATIENCE_MS);
    } catch (error) {
      if (error instanceof RedisError && error.message.includes("no such key")) return 0;
      throw error;
    }
    const fields = reply as Reply[];
    const at = fields.findIndex((field) =>
      field instanceof Uint8Array && textOf(field) === "last-generated-id"
    );
    return parseInt(textOf(fields[at + 1]));
  }

  async #fenced<T>(ask: () => Promise<T>): Promise<T> {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof RedisError) || error.code !== FENCED) throw error;
      throw new FencedError(
        `range ${this.number} was taken: ${error.message.slice(FENCED.length + 1)}; ` +
          `our fence was ${this.fence}`,
      );
    }
  }

  #append(number: number, batch: Uint8Array): Argument[] {
    return this.#call(APPEND, ["head", "log"], [this.fence, number, batch]);
  }

  /** A call of a function: it declares its keys, and one that never exists. */
  #call(name: string, keys: readonly string[], args: readonly Argument[]): Argument[] {
    const all = [...keys, "never"].map((key) => this.#key(key));
    return ["FCALL", name, all.length, ...all, ...args];
  }

  #snapshotKey(position: number): string {
    return this.#key(`snapshot:${position}`);
  }

  #key(name: string): string {
    return `mallocd:{${this.number}}:${name}`;
  }
}

/** Who owns which range, as far as their owners have told. */
export class Owners {
  readonly #primary: Primary;
  #version: string | undefined;

  constructor({ nodes, access }: ClusterOptions) {
    this.#primary = new Primary(nodes, access, OWNERS);
  }

  async tell(range: number, owner: Node): Promise<void> {
    await this.#primary.ask([
      ["HSET", OWNERS, range, formatNode(owner)],
      ["HINCRBY", OWNERS, OWNERS_VERSION, 1],
    ]);
  }

  /** All that is known, or undefined if it is what it was at the last call. Gives up at that time. */
  async changes(until = Infinity): Promise<ReadonlyMap<number, Node> | undefined> {
    const [version] = await this.#primary.ask([["HGET", OWNERS, OWNERS_VERSION]], { until });
    if (this.#version !== undefined && textOf(version) === this.#version) return undefined;
    const [reply] = await this.#primary.ask([["HGETALL", OWNERS]]);
    const fields = mapOf(reply);
    this.#version = fields.get(OWNERS_VERSION) ?? "";
    fields.delete(OWNERS_VERSION);
    const owners = new Map<number, Node>();
    for (const [range, address] of fields) {
      const node = parseNode(address);
      if (node !== undefined) owners.set(Number(range), node);
    }
    return owners;
  }

  close(): void {
    this.#primary.close();
  }
}

const OWNERS = "mallocd:owners";
/** Counts the changes of the table, of which it is a field. */
const OWNERS_VERSION = "version";

/** Throws ClusterError unless a daemon of these terms can have the range that there is. */
export function checkHead(number: number, head: Head, terms: Terms): void {
  const range = `range ${number}`;
  if (head.format !== LOG_FORMAT) {
    throw new ClusterError(
      `${range} has a log of format ${head.format}, made by mallocd ${head.version}; ` +
        `this is mallocd ${VERSION}, which replays format ${LOG_FORMAT}`,
    );
  }
  if (head.version !== VERSION) {
    throw new ClusterError(
      `${range} was made by mallocd ${head.version}, and this is ${VERSION}: ` +
        "all daemons of a range must be of the same version",
    );
  }
  const [theirs, ours] = [flagsOf(head), flagsOf(terms)];
  for (const [i, flag] of theirs.entries()) {
    if (flag === ours[i]) continue;
    throw new ClusterError(
      `${range} was made with ${flag}, and this is a daemon with ${ours[i]}`,
      `${flag}, or another --range`,
    );
  }
}

/** The terms as they are said on a command line. */
function flagsOf({ memory, strict, replayCache, quota }: Terms): string[] {
  return [
    `--memory ${formatSize(memory)}`,
    strict ? "--strict" : "no --strict",
    `--replay-cache ${replayCache}`,
    quota === undefined ? "no --quota" : `--quota ${formatSize(quota)}`,
  ];
}

function newHead({ memory, strict, replayCache, quota }: Terms): Argument[] {
  const random = crypto.getRandomValues(new Uint8Array(8 + 16));
  random[7]! |= 1; // an epoch is never 0
  const hex = random.toHex();
  return [
    ...["format", LOG_FORMAT, "version", VERSION, "memory", memory, "strict", strict ? 1 : 0],
    ...["cache", replayCache, "epoch", hex.slice(0, 16), "secrets", hex.slice(16)],
    ...(quota === undefined ? [] : ["quota", quota]),
  ];
}

function mapOf(reply: Reply | undefined): Map<string, string> {
  const map = new Map<string, string>();
  const list = reply as Reply[];
  for (let i = 0; i + 1 < list.length; i += 2) map.set(textOf(list[i]), textOf(list[i + 1]));
  return map;
}
