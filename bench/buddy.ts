/**
 * The allocator alone, beside npm's @thi.ng/malloc, which keeps its blocks in two plain lists: time for
 * a malloc and a free while a number of blocks are live. Both are given the same trace.
 *
 *     deno run --allow-env=NODE_ENV bench/buddy.ts
 */

// Not in deno.json's imports, because `deno compile` puts all of those into the executables.
// deno-lint-ignore no-import-prefix
import { MemPool } from "npm:@thi.ng/malloc@6.1.150";
import { Buddy, buddyShape } from "../lib/heap/buddy.ts";
import { GRAIN, orderFor } from "../lib/heap/heap.ts";
import { allocate } from "../lib/heap/metadata.ts";
import { Random } from "../tests/testing.ts";
import { grouped, printTable, ratio } from "./table.ts";

const HEAP = 1024 ** 3;
const SEED = 1;
const ROUNDS = 3;

interface Allocator {
  malloc(length: number): number;
  free(address: number): void;
}

function newBuddy(): Allocator {
  const grains = HEAP / GRAIN;
  const buddy = new Buddy(grains, allocate({ buddy: buddyShape(grains) }).buddy);
  return {
    malloc: (length) => buddy.allocate(orderFor(length)),
    free: (grain) => void buddy.free(grain),
  };
}

function newThing(): Allocator {
  const pool = new MemPool({ size: HEAP, align: 16 });
  return {
    malloc: (length) => pool.malloc(length),
    free: (address) => void pool.free(address),
  };
}

interface Workload {
  name: string;
  live: number;
  /** The length of the next malloc. */
  next(random: Random): number;
  /** Free each block as soon as it is there, instead of one of the live ones in its place. */
  atOnce?: boolean;
}

const small = () => 64;
/** From 16 bytes to 4 KiB, each doubling as likely as the others. */
const anySize = (random: Random) => Math.floor(16 * 2 ** (random.word() / 2 ** 29));

/** Nanoseconds for a pair of malloc and free, in the best of some rounds. */
function measure(allocator: Allocator, { live, next, atOnce }: Workload, pairs: number): number {
  const { malloc, free } = allocator;
  const random = new Random(SEED);
  const slots = Int32Array.from({ length: live }, () => malloc(next(random)));
  const trace = new Int32Array(pairs);
  const lengths = new Int32Array(pairs);
  let best = Infinity;
  for (let round = 0; round <= ROUNDS; round++) { // the first is for the compiler
    for (let i = 0; i < pairs; i++) {
      trace[i] = random.below(live);
      lengths[i] = next(random);
    }
    const start = performance.now();
    if (atOnce) {
      for (let i = 0; i < pairs; i++) free(malloc(lengths[i]!));
    } else {
      for (let i = 0; i < pairs; i++) {
        const slot = trace[i]!;
        free(slots[slot]!);
        slots[slot] = malloc(lengths[i]!);
      }
    }
    if (round > 0) best = Math.min(best, (performance.now() - start) * 1e6 / pairs);
  }
  return best;
}

function main(smoke: boolean): void {
  const most = smoke ? 1000 : 1_000_000;
  const workloads: Workload[] = [
    ...[16, 1000, 10_000, 100_000, 1_000_000].map((live) => ({
      name: "64 bytes in place of a random block",
      live,
      next: small,
    })),
    ...[16, 1000, 10_000].map((live) => ({
      name: "any size in place of a random block",
      live,
      next: anySize,
    })),
    { name: "64 bytes, freed at once", live: 1000, next: small, atOnce: true },
  ];
  const times = new Map<Workload, number>();
  const rows = [["ns a malloc and free", "live", "buddy", "@thi.ng/malloc", "times faster"]];
  for (const workload of workloads.filter(({ live }) => live <= most)) {
    const buddy = measure(newBuddy(), workload, most);
    // A pair takes @thi.ng/malloc so much longer the more blocks are live that it gets fewer of them.
    const pairs = Math.min(most, Math.ceil(5e7 / workload.live));
    const thing = measure(newThing(), workload, workload.atOnce ? most : pairs);
    times.set(workload, buddy);
    rows.push([
      workload.name,
      grouped(workload.live),
      buddy.toFixed(1),
      thing.toFixed(1),
      ratio(thing / buddy),
    ]);
  }
  printTable(rows);
  const [, few, , , many] = workloads.map((workload) => times.get(workload));
  if (few !== undefined && many !== undefined) {
    console.log(
      `buddy at 1,000,000 live blocks takes ${(many / few).toFixed(2)} times as at 1,000`,
    );
  }
}

if (import.meta.main) main(Deno.args.includes("--smoke"));
