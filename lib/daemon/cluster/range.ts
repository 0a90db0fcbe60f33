/**
 * A range in the cluster: its head, which says what it is and whose; its lease; its log; and a snapshot, by
 * which the log is kept short. Their keys share a hash tag, so that one node has all of them.
 *
 *     mallocd:{7}:head                a hash: what replay depends on, owner, fence, snapshot
 *     mallocd:{7}:lease               the owner's fence; it expires unless it is renewed
 *     mallocd:{7}:log                 a stream: batches, by number
 *     mallocd:{7}:snapshot:1234       a hash: the daemon as it was after batch 1234, in chunks
 */

import { APPEND, CHANGED, CLAIM, FENCED, RELEASE, RENEW, STORE, TRIM } from "./functions.ts";
import { type Head, newHead, parseHead, type Terms } from "./head.ts";
import type { Lease } from "./lease.ts";
import { ClusterError, PATIENCE_MS, Primary } from "./primary.ts";
import type { Node } from "./node.ts";
import {
  type Access,
  type Argument,
  type Connection,
  mapOf,
  RedisError,
  type Reply,
  textOf,
} from "./resp.ts";
import { MOST_IN_CHUNK } from "./snapshot.ts";
import { joinHostPort } from "../../system/address.ts";

/** How long the primary waits for its replicas before it says how many have got it. */
const WAIT_MS = 500;
/** What is kept of what was logged, or read of it, for the case that the cluster loses the log's end. */
const KEPT_BYTES = 64 * 1024 ** 2;
/** What a batch that is kept costs beside its bytes. */
const KEPT_OVERHEAD = 300;
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
    return parseHead(mapOf(reply));
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
      joinHostPort(owner),
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
    const [mine, others] = [`snapshot:${position}`, `snapshot:${before}`];
    const known = before === 0 ? "" : before;
    let count = 0;
    let commands: Argument[][] = [];
    const send = async () => {
      await this.#other.ask(commands, { timeout: 10 * PATIENCE_MS });
      commands = [];
    };
    try {
      for (const chunk of chunks) {
        commands.push(this.#call(STORE, ["head", mine], [known, UNFINISHED_MS, count++, chunk]));
        if (commands.length === CHUNKS_AT_ONCE) await send();
      }
      await send();
      while (!await this.#isCopied()) await new Promise((resolve) => setTimeout(resolve, WAIT_MS));
      commands = [this.#call(TRIM, ["head", "log", mine, others], [known, position, count])];
      await send();
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
    this.#keptBytes += entry.batch.length + KEPT_OVERHEAD;
    while (this.#keptBytes > KEPT_BYTES) {
      this.#keptBytes -= this.#kept.shift()!.batch.length + KEPT_OVERHEAD;
    }
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
