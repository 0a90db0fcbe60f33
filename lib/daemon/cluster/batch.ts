/**
 * What one entry of a range's log holds: the datagrams that changed the daemon between two appends, in the
 * order in which they were served, with all that their replay depends on.
 *
 *     0       4       8      12                             40
 *     +-------+-------+-------+---- - - - ----+---- - - - ----+
 *     |length | clock | limit | source        | datagram      |  and the next one
 *     +-------+-------+-------+---- - - - ----+---- - - - ----+
 *
 * All numbers are big-endian; the highest bit of `limit` says whether the sender had proven its address.
 */

import { SOURCE_BYTES } from "../../system/address.ts";

const HEAD = 12 + SOURCE_BYTES;
const PROVEN = 2 ** 31;
const FIRST_ROOM = 4096;

export class Batch {
  #bytes = new Uint8Array(FIRST_ROOM);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;

  /** From 1 on, without a gap; the log's entries have these numbers. */
  constructor(readonly number: number) {}

  get length(): number {
    return this.#length;
  }

  /** A copy, which whoever keeps it for long can keep without the room for more. */
  get bytes(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }

  /** Adds the datagram of `length` bytes at `at` of `io`, from the sender at `source`. */
  add(
    io: Uint8Array,
    at: number,
    length: number,
    source: number,
    { clock, proven, limit }: { clock: number; proven: number; limit: number },
  ): void {
    const start = this.#length;
    const end = start + HEAD + length;
    if (end > this.#bytes.length) this.#grow(end);
    this.#view.setUint32(start, length);
    this.#view.setInt32(start + 4, clock);
    this.#view.setUint32(start + 8, limit + proven * PROVEN);
    this.#bytes.set(io.subarray(source, source + SOURCE_BYTES), start + 12);
    this.#bytes.set(io.subarray(at, at + length), start + HEAD);
    this.#length = end;
  }

  #grow(length: number): void {
    const larger = new Uint8Array(2 * length);
    larger.set(this.#bytes);
    this.#bytes = larger;
    this.#view = new DataView(larger.buffer);
  }
}

/**
 * Copies the datagrams of a batch to `at` of `io`, one after the other, each with its sender at `source`,
 * and calls `replay` for each. Throws RangeError if it is no batch.
 */
export function replayBatch(
  bytes: Uint8Array,
  io: Uint8Array,
  at: number,
  source: number,
  replay: (length: number, clock: number, judged: { proven: number; limit: number }) => void,
): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let start = 0; start < bytes.length;) {
    const length = view.getUint32(start);
    const limit = view.getUint32(start + 8);
    const end = start + HEAD + length;
    if (end > bytes.length) throw new RangeError("Cannot replay a batch that is cut short");
    io.set(bytes.subarray(start + 12, start + HEAD), source);
    io.set(bytes.subarray(start + HEAD, end), at);
    const proven = limit >= PROVEN ? 1 : 0;
    replay(length, view.getInt32(start + 4), { proven, limit: limit - proven * PROVEN });
    start = end;
  }
}
