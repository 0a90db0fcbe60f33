/** The proofs of tests/ on heap files, at the size that takes minutes: `make soak`. */

import { assert } from "@std/assert";
import { killEverywhere, Machine } from "../daemon/machine.ts";
import { flipBits, withFolder } from "../programs/heap_files.ts";
import { killUnderLoad } from "../programs/killing.ts";
import { snapshotUnderLoad } from "../programs/snapshots.ts";

const seed = Math.floor(Math.random() * 2 ** 31);

Deno.test(`a daemon killed before every single store does requests wholly or not at all, seed ${seed}`, () => {
  const kills = killEverywhere(new Machine(), { seed, steps: 250 });
  console.log(`killed ${kills} times`);
  assert(kills > 10_000, `only ${kills} kills`);
});

Deno.test(`a daemon that is killed 100 times under load loses and doubles nothing, seed ${seed}`, async () => {
  await withFolder((folder) => killUnderLoad(`${folder}/heap`, { kills: 100, seed }));
});

Deno.test(`HeapFile finds 10,000 bits that flip, seed ${seed}`, async () => {
  await withFolder((folder) => flipBits(folder, { flips: 10_000, seed }));
});

Deno.test(`100 snapshots under load are each the heap at one instant, seed ${seed}`, async () => {
  await withFolder((folder) => snapshotUnderLoad(`${folder}/heap`, { snapshots: 100, seed }));
});
