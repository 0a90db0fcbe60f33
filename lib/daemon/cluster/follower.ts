/**
 * A daemon that is made of a range's snapshot and log: it serves once more what the owners of the range
 * have served. As long as it only follows, it answers nobody.
 */

import type { EngineOptions } from "../engine.ts";
import { GRAIN, newHeapMemory } from "../../heap/heap.ts";
import { Waste } from "../../heap/waste.ts";
import { Service, WORK_PER_TURN } from "../service.ts";
import type { State } from "../state.ts";
import { replayBatch } from "./batch.ts";
import type { Membership } from "./membership.ts";
import type { Head } from "./head.ts";
import type { Range } from "./range.ts";
import { ClusterError } from "./primary.ts";
import { bytesOf, restore, takeSnapshot } from "./snapshot.ts";
import { TracedHeap } from "./traced_heap.ts";

/** Where things lie in the I/O memory: a request, its reply, and who sent it. */
export const REQUEST = 0;
export const REPLY = 64 * 1024;
export const SOURCE = 128 * 1024;
const IO_PAGES = 3;

/** The log was cut off where it was to be read, or somebody has done it anew. */
class LostError extends Error {}

/** The daemon as it is now, and all that it is made of. */
export class Follower {
  readonly io = new WebAssembly.Memory({ initial: IO_PAGES, maximum: IO_PAGES });
  heap!: TracedHeap;
  service!: Service;
  /** The number of the batch that was replayed last. */
  position = 0;
  /** Bytes of the log since the snapshot, and those of that. */
  logged = 0;
  snapshotted = 0;
  readonly #range: Range;
  readonly #options: EngineOptions;
  readonly #membership: Membership;
  readonly #port: number;
  readonly #state: State;
  readonly #io: Uint8Array;
  /** What this daemon has counted itself: to replay is not to serve. */
  readonly #counted: Float64Array;
  #memory!: WebAssembly.Memory;
  #snapshot = 0;

  private constructor(
    range: Range,
    options: EngineOptions,
    membership: Membership,
    port: number,
  ) {
    this.#range = range;
    this.#options = options;
    this.#membership = membership;
    this.#port = port;
    this.#state = options.state;
    this.#io = new Uint8Array(this.io.buffer);
    this.#counted = options.state.service.counters.slice();
  }

  /** Follows a range that there is, as a daemon that listens on `port`, from its snapshot on. */
  static async of(
    range: Range,
    options: EngineOptions,
    membership: Membership,
    port: number,
  ): Promise<Follower> {
    const follower = new Follower(range, options, membership, port);
    await follower.#load();
    return follower;
  }

  /** Replays some of what has been logged since; resolves with the number of batches. */
  async advance(): Promise<number> {
    const entries = await this.#range.read(this.position);
    try {
      for (const { number, batch } of entries) this.#replay(number, batch);
      if (entries.length === 0 && !await this.#isCurrent()) throw new LostError();
    } catch (error) {
      if (!(error instanceof LostError)) throw error;
      await this.#load();
    }
    return entries.length;
  }

  /** Replays the rest of a log that nobody appends to any more, or puts back what that has lost of it. */
  async finish(): Promise<void> {
    while (await this.advance() > 0);
    if (await this.#range.mend(this.position)) return;
    await this.#load();
    while (await this.advance() > 0);
  }

  /** Stores a snapshot and cuts the log off before it. Nothing is replayed meanwhile. */
  async trim(): Promise<boolean> {
    let bytes = 0;
    const counted = function* (chunks: Iterable<Uint8Array>) {
      for (const chunk of chunks) {
        bytes += chunk.length;
        yield chunk;
      }
    };
    const parts = { state: this.#state, memory: this.#memory };
    const chunks = counted(takeSnapshot(parts));
    const done = await this.#range.trim(this.#snapshot, this.position, chunks);
    const { snapshot } = done ? { snapshot: this.position } : (await this.#head());
    this.#snapshot = snapshot;
    this.logged = 0;
    if (done) this.snapshotted = bytes;
    return done;
  }

  #replay(number: number, batch: Uint8Array): void {
    if (number !== this.position + 1) throw new LostError();
    const { service } = this;
    const { clock, counters } = this.#state.service;
    this.#counted.set(counters);
    replayBatch(batch, this.#io, REQUEST, SOURCE, (length, second, judged) => {
      Atomics.store(clock, 0, second);
      service.beginTurn();
      service.replay(REQUEST, length, REPLY, SOURCE, judged);
    });
    counters.set(this.#counted);
    this.position = number;
    this.logged += batch.length;
  }

  /** Becomes what the snapshot says, or empty if there is none. */
  async #load(): Promise<void> {
    for (let gone = 0;;) {
      const head = await this.#head();
      if (gone > 0 && head.snapshot === gone) { // no other one has taken its place
        throw new ClusterError(`the cluster has lost the snapshot of range ${this.#range.number}`);
      }
      const { memory: size, strict } = this.#options;
      this.#memory = newHeapMemory(size);
      bytesOf(this.#state).fill(0);
      const { service, cache, quota } = this.#state;
      const secrets = Uint8Array.fromHex(head.secrets);
      const words = new DataView(secrets.buffer);
      for (let i = 0; i < 2; i++) {
        cache.secrets[i] = words.getInt32(4 * i);
        quota.secrets[i] = words.getInt32(8 + 4 * i);
      }
      const epoch = new DataView(Uint8Array.fromHex(head.epoch).buffer);
      service.epoch.set([epoch.getInt32(0), epoch.getInt32(4)]);
      if (!await this.#restore(head)) {
        gone = head.snapshot;
        continue;
      }
      this.heap = new TracedHeap({
        memory: this.#memory,
        size,
        io: this.io,
        strict,
        workPerTurn: WORK_PER_TURN,
        range: this.#range.number,
        state: this.#state,
      });
      new Waste(GRAIN, this.heap.buddy.missing, this.#state.waste).forget(
        this.heap.buddy.allLive(),
      );
      this.service = new Service(this.#options, {
        heap: this.heap,
        io: this.io,
        port: this.#port,
        membership: this.#membership,
      });
      return;
    }
  }

  /** Fetches the snapshot, if there is one; false if another one took its place meanwhile. */
  async #restore({ snapshot, chunks }: Head): Promise<boolean> {
    this.snapshotted = 0;
    for (let i = 0; i < chunks; i++) {
      const chunk = await this.#range.readChunk(snapshot, i);
      if (chunk === undefined) return false;
      restore({ state: this.#state, memory: this.#memory }, chunk);
      this.snapshotted += chunk.length;
    }
    this.#snapshot = snapshot;
    this.position = snapshot;
    this.logged = 0;
    return true;
  }

  async #head(): Promise<Head> {
    const head = await this.#range.head();
    if (head !== undefined) return head;
    throw new ClusterError(`range ${this.#range.number} is gone`);
  }

  /** Whether what the log lacks is in no snapshot that we have not seen. */
  async #isCurrent(): Promise<boolean> {
    return (await this.#head()).snapshot <= this.position;
  }
}
