/** The pages under a WebAssembly.Memory, and what can be asked of the kernel for them: madvise(2). */

import type { Libc } from "./libc.ts";

const MADV_DONTNEED = 4;
const MADV_REMOVE = 9;
const MADV_HUGEPAGE = 14;

/** What is released is counted in these. */
const PAGE = 4096;
/** 0 to 4 MiB, in pages, as BigInts that are made once: a new one is garbage. */
const PAGES = 1024;
const BYTES = Array.from({ length: PAGES + 1 }, (_, pages) => BigInt(pages * PAGE));

/** Keeps the memory alive, so that its address stays its own. */
export class Mapping {
  readonly #memory: WebAssembly.Memory;
  readonly #libc: Libc<"madvise">;
  /** Where each 4 MiB of it begin. */
  readonly #addresses: readonly bigint[];

  constructor(libc: Libc<"madvise">, memory: WebAssembly.Memory) {
    this.#memory = memory;
    this.#libc = libc;
    const start = libc.addressOf(new DataView(memory.buffer as ArrayBuffer)); // or a shared one
    const count = Math.ceil(memory.buffer.byteLength / (PAGES * PAGE));
    this.#addresses = Array.from({ length: count }, (_, i) => start + BigInt(i * PAGES * PAGE));
  }

  /**
   * Takes `count` pages, 1024 at the most, from page `first` on back from who had them: they are zero from
   * now on, and take no room until they are touched. False, with nothing changed, where the kernel's pages
   * are larger.
   */
  release(first: number, count: number): boolean {
    return this.#advise(first, count, MADV_DONTNEED);
  }

  /** The same of what is a file's: the file system has the room back, too. False where it knows no holes. */
  punch(first: number, count: number): boolean {
    return this.#advise(first, count, MADV_REMOVE);
  }

  /** Has the kernel use pages of 2 MiB where it can; false if it knows none. */
  preferHugePages(): boolean {
    const bytes = BigInt(this.#memory.buffer.byteLength);
    return this.#libc.symbols.madvise(this.#addresses[0]!, bytes, MADV_HUGEPAGE) === 0;
  }

  #advise(first: number, count: number, advice: number): boolean {
    const region = Math.floor(first / PAGES);
    const address = this.#addresses[region]! + BYTES[first - region * PAGES]!;
    return this.#libc.symbols.madvise(address, BYTES[count]!, advice) === 0;
  }
}
