/**
 * A copy of a file as it was at one instant, although a thread goes on changing it: *pre-copy* (Clark et
 * al., Live Migration of Virtual Machines, NSDI 2005). First all of it is copied, and then, round after
 * round, what has changed meanwhile, until that is little. Only then does the thread that serves copy, too:
 * between two turns, what has changed last, to memory, which no disk can hold up; it is written when that
 * thread has gone on. If rounds do not get shorter, its turns do, and it rests before each of them.
 *
 *     serves   | round 1              | round 2   | round 3 | keeps |  off
 *     copies   | everything           | changed   | changed         |  writes what is kept
 *                                       in 1        in 2
 */

import { PAGE } from "../heap/metadata.ts";
import { type ChangesPlace, MAX_ROUND, Order, REGION_SHIFT, TOO_MANY } from "../heap/changes.ts";
import { Errno } from "../system/libc.ts";
import { type File, FileError } from "../system/file.ts";

/** Bytes that are copied in one piece, by a thread of the runtime. */
const PIECE = 4 * 1024 * 1024;
/** Bytes after which the copy is brought to the disk, so that the kernel does not make anybody wait for it. */
const UNSYNCED = 64 * 1024 * 1024;
/** Bytes for fewer of which no other thread is asked, and how many pages are copied in a row. */
const SHORT = 64 * PAGE;
const IN_A_ROW = 1024;
/** So many changed pages are few enough to be kept, with those that change until they are. */
const FEW = 256;
/** Rounds after which the thread that serves rests, each time twice as long, in milliseconds. */
const RESTLESS = 6;
const MAX_REST_MS = 4;
/** How often it is looked whether a turn has come: Deno does not notice the end of Atomics.waitAsync. */
const LOOK_MS = 1;

export interface SnapshotParts {
  from: File;
  to: File;
  /** Bytes of the file that are copied. */
  start: number;
  end: number;
  changes: ChangesPlace;
  /** Whether the copy may share its room with the file, which must then find other room when it is changed. */
  mayShare: boolean;
  signal: AbortSignal;
}

export interface Halted {
  /** How many rounds there were, and for how long nobody was served in the end, in milliseconds. */
  rounds: number;
  haltMs: number;
}

/** Copies to a file that is empty. Throws FileError: EAGAIN if it changes too fast, EINTR if it is not wanted any more. */
export async function copyLive(parts: SnapshotParts): Promise<Halted> {
  const copying = new Copying(parts);
  try {
    return await copying.run();
  } finally {
    copying.end();
  }
}

class Copying {
  readonly #parts: SnapshotParts;
  readonly #orders: Int32Array<SharedArrayBuffer>;
  readonly #buffer = new Uint8Array(PIECE);
  #unsynced = 0;
  #shares: boolean;

  constructor(parts: SnapshotParts) {
    this.#parts = parts;
    this.#orders = parts.changes.orders;
    this.#shares = parts.mayShare;
  }

  async run(): Promise<Halted> {
    const { from, start, end } = this.#parts;
    await this.#taken(0); // the end of an earlier one
    this.#parts.changes.pages.fill(0);
    this.#parts.changes.regions.fill(0);
    this.#parts.changes.kept.fill(1); // so that its pages are there when they are needed
    await this.#order(1);
    // All are found first: to read one has the kernel read ahead, and what it has read counts as data.
    const stretches: [number, number][] = [];
    for (let data = from.nextData(start); data !== undefined && data[0] < end;) {
      const stop = Math.min(data[1], end);
      stretches.push([data[0], stop]);
      data = from.nextData(stop);
    }
    for (const [at, stop] of stretches) await this.#copyFirst(at, stop);
    for (let round = 1; round < MAX_ROUND; round++) {
      if (round > RESTLESS) {
        const rest = Math.min(2 ** (round - RESTLESS - 1), MAX_REST_MS);
        Atomics.store(this.#orders, Order.rest, rest);
      }
      const isLast = this.#count(round) <= FEW;
      Atomics.store(this.#orders, Order.keep, isLast ? 1 : 0);
      await this.#order(round + 1);
      const kept = this.#orders[Order.kept]!;
      if (isLast && kept !== TOO_MANY) {
        this.end();
        await this.#writeKept(kept);
        return { rounds: round, haltMs: this.#orders[Order.keptUs]! / 1000 };
      }
      await this.#copyRound(round);
    }
    throw new FileError(Errno.EAGAIN);
  }

  /** Lets the thread that serves go on without marking anything. */
  end(): void {
    for (const order of [Order.rest, Order.keep, Order.round]) {
      Atomics.store(this.#orders, order, 0);
    }
    Atomics.notify(this.#orders, Order.round);
  }

  /** Has the thread that serves begin a round; resolves when it has. */
  async #order(round: number): Promise<void> {
    Atomics.store(this.#orders, Order.round, round);
    Atomics.notify(this.#orders, Order.round); // if it rests
    await this.#taken(round);
  }

  async #taken(round: number): Promise<void> {
    while (Atomics.load(this.#orders, Order.taken) !== round) await this.#pause(LOOK_MS);
  }

  /** Runs of pages that changed last in a round, each within a region. */
  *#runs(round: number): Generator<[first: number, count: number]> {
    const { pages, regions } = this.#parts.changes;
    for (const [region, last] of regions.entries()) {
      if (last < round) continue; // it may have changed again since
      const end = Math.min((region + 1) << REGION_SHIFT, pages.length);
      for (let first = region << REGION_SHIFT; first < end; first++) {
        if (pages[first] !== round) continue;
        let next = first + 1;
        while (next < end && pages[next] === round) next++;
        yield [first, next - first];
        first = next;
      }
    }
  }

  /** How many pages changed last in a round; if they are more than few, some number that is, too. */
  #count(round: number): number {
    let pages = 0;
    for (const [, count] of this.#runs(round)) {
      pages += count;
      if (pages > FEW) break;
    }
    return pages;
  }

  async #writeKept(count: number): Promise<void> {
    const { to, changes: { kept, keptPages } } = this.#parts;
    this.#buffer.set(kept);
    for (let i = 0; i < count; i++) {
      to.write(this.#buffer.subarray(i * PAGE, (i + 1) * PAGE), keptPages[i]! * PAGE);
      if (i % IN_A_ROW === IN_A_ROW - 1) await this.#pause();
    }
  }

  /** Copies a stretch to where nothing was written yet, while this thread does something else. */
  async #copyFirst(at: number, end: number): Promise<void> {
    const { from, to } = this.#parts;
    while (at < end) {
      this.#requireWanted();
      const length = Math.min(PIECE, end - at);
      let copied = this.#shares ? await from.cloneMeanwhile(to, at, length) : 0;
      if (copied === 0) {
        this.#shares = false;
        const bytes = await this.#read(at, length);
        for (const [first, last] of notZero(bytes)) {
          await this.#store(at + first, bytes.subarray(first, last));
        }
        copied = length;
      }
      at += copied;
      this.#unsynced += copied;
      if (this.#unsynced < UNSYNCED) continue;
      this.#unsynced = 0;
      if (!await to.syncMeanwhile()) throw new FileError(Errno.EIO);
    }
  }

  /** Copies what changed last in a round. */
  async #copyRound(round: number): Promise<void> {
    let inARow = 0;
    for (const [first, count] of this.#runs(round)) {
      const end = (first + count) * PAGE;
      for (let at = first * PAGE; at < end; at += PIECE) {
        await this.#store(at, await this.#read(at, Math.min(PIECE, end - at)));
      }
      inARow += count;
      if (inARow < IN_A_ROW) continue;
      inARow = 0;
      await this.#pause();
    }
  }

  /** What a thread of the runtime can do at the side is not worth it for a few pages. */
  async #read(at: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = this.#buffer.subarray(0, length);
    const { from } = this.#parts;
    const read = length < SHORT ? from.read(bytes, at) : await from.readMeanwhile(bytes, at);
    if (read !== length) throw new FileError(Errno.EIO);
    return bytes;
  }

  async #store(at: number, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    const { to } = this.#parts;
    if (bytes.length < SHORT) to.write(bytes, at);
    else await to.writeMeanwhile(bytes, at);
  }

  /** Lets this thread do something else. */
  async #pause(ms = 0): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, ms));
    this.#requireWanted();
  }

  #requireWanted(): void {
    if (this.#parts.signal.aborted) throw new FileError(Errno.EINTR);
  }
}

/** Stretches of whole pages that are not zero. */
function* notZero(bytes: Uint8Array<ArrayBuffer>): Generator<[from: number, end: number]> {
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const isZero = (at: number) => {
    for (let i = at / 4; i < (at + PAGE) / 4; i++) if (words[i] !== 0) return false;
    return true;
  };
  for (let from = 0; from < bytes.length;) {
    if (isZero(from)) {
      from += PAGE;
      continue;
    }
    let end = from + PAGE;
    while (end < bytes.length && !isZero(end)) end += PAGE;
    yield [from, end];
    from = end;
  }
}
