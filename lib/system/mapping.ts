/** The pages under a WebAssembly.Memory, and what can be asked of the kernel for them: madvise(2). */

import type { Libc } from "./libc.ts";

const MADV_DONTNEED = 4;
const MADV_REMOVE = 9;
const MADV_HUGEPAGE = 14;

/** Keeps the memory alive, so that its address stays its own. */
export class Mapping {
  readonly #memory: WebAssembly.Memory;
  readonly #libc: Libc;
  readonly #address: bigint;

  constructor(libc: Libc, memory: WebAssembly.Memory) {
    this.#memory = memory;
    this.#libc = libc;
    this.#address = libc.addressOf(new DataView(memory.buffer as ArrayBuffer)); // or a shared one
  }

  /**
   * Takes the pages from `offset` on back from who had them: they are zero from now on, and take no room
   * until they are touched. False, with nothing changed, where the kernel's pages are larger.
   */
  release(offset: number, length: number): boolean {
    return this.#advise(offset, length, MADV_DONTNEED);
  }

  /** The same of what is a file's: the file system has the room back, too. False where it knows no holes. */
  punch(offset: number, length: number): boolean {
    return this.#advise(offset, length, MADV_REMOVE);
  }

  /** Has the kernel use pages of 2 MiB where it can; false if it knows none. */
  preferHugePages(): boolean {
    return this.#advise(0, this.#memory.buffer.byteLength, MADV_HUGEPAGE);
  }

  #advise(offset: number, length: number, advice: number): boolean {
    const { madvise } = this.#libc.symbols;
    return madvise(this.#address + BigInt(offset), BigInt(length), advice) === 0;
  }
}
