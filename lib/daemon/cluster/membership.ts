/** What a daemon knows about the cluster that it is part of: its own range, and who has the others. */

import { HEAP_BASE, MAX_RANGES, RANGE_BYTES } from "../../heap/heap.ts";
import { FIELD, OWNER_BODY, setField } from "../../protocol/wire.ts";
import { parseAddress } from "../../system/address.ts";

const OWNER_WORDS = OWNER_BODY / 4;

export class Membership {
  /** Which part of the address space is ours. */
  readonly range: number;
  /** A number that is higher for each new owner of the range. */
  fence = 0;
  /** How many ranges there are: one more than the highest that has ever had an owner. */
  ranges: number;
  /** By range, the words of its owner's address as they are told to clients; zeros for nobody known. */
  #owners: Int32Array;

  constructor(range: number) {
    this.range = range;
    this.ranges = range + 1;
    this.#owners = new Int32Array(this.ranges * OWNER_WORDS);
  }

  /** Notes who has a range; the hostname must be an address. */
  setOwner(range: number, hostname: string, port: number): void {
    if (!(range >= 0 && range < MAX_RANGES)) return;
    if (range >= this.ranges) {
      this.ranges = range + 1;
      const owners = new Int32Array(this.ranges * OWNER_WORDS);
      owners.set(this.#owners);
      this.#owners = owners;
    }
    const words = parseAddress(hostname);
    if (words !== undefined) this.#owners.set([...words, 0, port], range * OWNER_WORDS);
  }

  /** The range that an address lies in, if it is another one that somebody has or had; -1 otherwise. */
  otherRange(address: number): number {
    const range = Math.floor((address - HEAP_BASE) / RANGE_BYTES);
    return range >= 0 && range < this.ranges && range !== this.range ? range : -1;
  }

  /** Writes the OWNER_BODY bytes that tell who has a range to `at`. */
  writeOwner(range: number, bytes: DataView, at: number): void {
    for (let i = 0; i < OWNER_WORDS; i++) {
      bytes.setInt32(at + 4 * i, this.#owners[range * OWNER_WORDS + i]!);
    }
  }

  /** Writes the three fields that hello tells in a cluster to `at`. */
  writeSelf(bytes: DataView, at: number): void {
    setField(bytes, at, this.range);
    setField(bytes, at + FIELD, this.fence);
    setField(bytes, at + 2 * FIELD, this.ranges);
  }
}
