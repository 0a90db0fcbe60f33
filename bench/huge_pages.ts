/**
 * What pages of 2 MiB gain for a heap (`--huge-pages`), and what they cost: random additions to words of
 * a heap that is all in use, and the memory that is resident after one byte was written into each MiB.
 *
 *     deno run -P=bench bench/huge_pages.ts
 */

import { Heap, HEAP_BASE, newHeapMemory } from "../lib/heap/heap.ts";
import { Refusal } from "../lib/heap/refusal.ts";
import { Libc } from "../lib/system/libc.ts";
import { Mapping } from "../lib/system/mapping.ts";
import { printTable, ratio } from "./table.ts";

const MIB = 1024 ** 2;
const ROUNDS = 7;

const io = new WebAssembly.Memory({ initial: 1, maximum: 1 });
const libc = new Libc();

class Subject {
  readonly #heap: Heap;
  readonly #span = { pointer: 0, length: 8 };
  #seed = 1;

  constructor(readonly size: number, huge: boolean) {
    const memory = newHeapMemory(size);
    if (huge && !new Mapping(libc, memory).preferHugePages()) {
      throw new Error("Cannot measure huge pages: this kernel has none");
    }
    this.#heap = new Heap({ memory, size, io });
  }

  /** Writes a byte at each multiple of `stride`, and returns how many bytes became resident. */
  touch(stride: number): number {
    const before = Deno.memoryUsage().rss;
    for (let at = 0; at < this.size; at += stride) {
      this.#span.pointer = HEAP_BASE + at;
      this.#span.length = 1;
      if (this.#heap.write(this.#span, 0) !== Refusal.none) throw new Error("refused");
    }
    return Deno.memoryUsage().rss - before;
  }

  /** Nanoseconds for an addition at a random place. */
  add(count: number): number {
    const start = performance.now();
    for (let i = 0; i < count; i++) {
      this.#seed = Math.imul(this.#seed, 1664525) + 1013904223 | 0;
      this.#span.pointer = HEAP_BASE + (this.#seed >>> 7) % (this.size / 8) * 8;
      this.#heap.add(this.#span, 0, 16);
    }
    return (performance.now() - start) * 1e6 / count;
  }
}

function main(smoke: boolean): void {
  const size = (smoke ? 16 : 256) * MIB;
  const [sparse, sparseHuge] = [false, true].map((huge) => new Subject(size, huge).touch(MIB));
  const subjects = [new Subject(size, false), new Subject(size, true)];
  for (const subject of subjects) subject.touch(4096);
  const best = [Infinity, Infinity];
  for (let round = 0; round < ROUNDS; round++) {
    subjects.forEach((subject, i) => {
      best[i] = Math.min(best[i]!, subject.add(smoke ? 1000 : 2_000_000));
    });
  }
  const [small, huge] = best as [number, number];
  const mib = (bytes: number) => `${(bytes / MIB).toFixed(1)} MiB`;
  printTable([
    [`${size / MIB} MiB of heap`, "4 KiB", "2 MiB", "times"],
    ["ns for a random add", small.toFixed(1), huge.toFixed(1), ratio(huge / small)],
    ["resident, a byte in each MiB", mib(sparse!), mib(sparseHuge!), ""],
  ]);
}

if (import.meta.main) main(Deno.args.includes("--smoke"));
