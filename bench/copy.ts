/**
 * Ways to copy bytes from the heap to a reply: WebAssembly's memory.copy, as lib/heap/bulk.ts has it, beside
 * those that JavaScript has between two buffers.
 *
 *     deno run bench/copy.ts
 */

import { bulk } from "../lib/heap/bulk.ts";
import { grouped, printTable, ratio } from "./table.ts";

const LENGTHS = [16, 64, 256, 1024, 4096, 16_384, 60_000];
const PAGE = 64 * 1024;
const HEAP_PAGES = 1024;
const ROUNDS = 3;

type Copy = (at: number, offset: number, length: number) => void;

function waysToCopy(): Record<string, Copy> {
  const heap = new WebAssembly.Memory({
    initial: HEAP_PAGES,
    maximum: HEAP_PAGES,
    shared: true,
  });
  const io = new WebAssembly.Memory({ initial: 1, maximum: 1 });
  const [heapBytes, ioBytes] = [new Uint8Array(heap.buffer), new Uint8Array(io.buffer)];
  const [heapView, ioView] = [new DataView(heap.buffer), new DataView(io.buffer)];
  const { load } = bulk(heap, io);
  return {
    "memory.copy": (at, offset, length) => load(at, offset, 0, length),
    "set(subarray)": (at, offset, length) =>
      ioBytes.set(heapBytes.subarray(offset, offset + length), at),
    "DataView loop": (at, offset, length) => {
      for (let i = 0; i < length; i++) ioView.setUint8(at + i, heapView.getUint8(offset + i));
    },
    "DataView loop by 4": (at, offset, length) => {
      for (let i = 0; i < length; i += 4) ioView.setInt32(at + i, heapView.getInt32(offset + i));
    },
  };
}

/** Nanoseconds for a copy from changing places of the heap, in the best of some rounds. */
function measure(copy: Copy, length: number, copies: number): number {
  let best = Infinity;
  for (let round = 0; round <= ROUNDS; round++) { // the first is for the compiler
    let offset = 0;
    const start = performance.now();
    for (let i = 0; i < copies; i++) {
      copy(0, offset, length);
      offset = (offset + 4096) & (HEAP_PAGES / 2 * PAGE - 1);
    }
    if (round > 0) best = Math.min(best, (performance.now() - start) * 1e6 / copies);
  }
  return best;
}

function main(smoke: boolean): void {
  const ways = waysToCopy();
  const [ours, ...others] = Object.keys(ways);
  const rows = [["ns a copy of", ours!, ...others.flatMap((name) => [name, "times"])]];
  for (const length of LENGTHS) {
    const copies = smoke ? 100 : Math.ceil(1e8 / (length + 100));
    const [time, ...times] = Object.values(ways).map((copy) => measure(copy, length, copies));
    rows.push([
      `${grouped(length)} bytes`,
      time!.toFixed(1),
      ...times.flatMap((other) => [other.toFixed(1), ratio(other / time!)]),
    ]);
  }
  printTable(rows);
}

if (import.meta.main) main(Deno.args.includes("--smoke"));
