/**
 * What admitted senders may be sent although they have proven nothing: so many bytes a second for each
 * address, beyond three times what came from it. A fixed table of addresses by a keyed hash; two of one
 * place share it, and nothing is garbage.
 */

import { KeyedHash } from "../system/hash.ts";

export const UNPROVEN_BYTES_PER_SECOND = 8 * 1024 ** 2;

const PLACES = 4096;

export class ReplyBudget {
  readonly #io: DataView;
  readonly #clock: Int32Array;
  readonly #hash = new KeyedHash();
  /** Of each place: bytes that were sent in its second, and one more than that second. */
  readonly #spent = new Int32Array(PLACES);
  readonly #second = new Int32Array(PLACES);

  /** `clock[0]` is the time in seconds. Sources lie in the I/O memory. */
  constructor(io: WebAssembly.Memory, clock: Int32Array) {
    this.#io = new DataView(io.buffer);
    this.#clock = clock;
  }

  /** Bytes that this address may still be sent in this second. */
  left(source: number): number {
    const place = this.#place(source);
    const second = this.#clock[0]! + 1;
    if (this.#second[place] !== second) {
      this.#second[place] = second;
      this.#spent[place] = 0;
    }
    return Math.max(UNPROVEN_BYTES_PER_SECOND - this.#spent[place]!, 0);
  }

  spend(source: number, bytes: number): void {
    this.#spent[this.#place(source)]! += bytes;
  }

  #place(source: number): number {
    return this.#hash.address(this.#io, source) & (PLACES - 1);
  }
}
