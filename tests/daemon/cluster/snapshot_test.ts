import { assert, assertEquals } from "@std/assert";
import { equals } from "@std/bytes";
import { restore, takeSnapshot } from "../../../lib/daemon/cluster/snapshot.ts";
import { newHeapMemory } from "../../../lib/heap/heap.ts";
import { newState } from "../../../lib/daemon/state.ts";
import { Box, fields, head, Random, word } from "../../testing.ts";

const SIZE = 4 * 1024 ** 2;

function newParts() {
  const state = newState({ memory: SIZE, replayCache: 100 });
  return { state, memory: newHeapMemory(SIZE) };
}

Deno.test("restore() makes of all chunks of a snapshot a daemon that knows its blocks and its replies", () => {
  const seed = Math.floor(Math.random() * 2 ** 32);
  const random = new Random(seed);
  const parts = newParts();
  const box = new Box({ size: SIZE, replayCache: 100, ...parts });
  const pointers: bigint[] = [];
  for (let tag = 0; tag < 500; tag++) {
    const reply = box.ask(word(2 * tag, 0) + fields(random.below(10_000)))!;
    const pointer = BigInt("0x" + reply.slice(32, 48));
    pointers.push(pointer);
    const data = random.bytes(random.below(5000));
    box.ask(word(2 * tag + 1, 3) + fields(pointer, data.length) + data.toHex());
  }
  const chunks = [...takeSnapshot(parts)];
  assert(chunks.length > 2, `${chunks.length} chunks`);
  const copy = newParts();
  for (const chunk of chunks) restore(copy, chunk);
  const bytes = ({ memory }: typeof parts) => new Uint8Array(memory.buffer);
  assert(equals(bytes(copy), bytes(parts)), `the heap differs, seed ${seed}`);
  const other = new Box({ size: SIZE, replayCache: 100, ...copy });
  const refused = box.ask(word(998, 0) + fields(1))!; // the tag of another request
  assertEquals(other.ask(word(998, 0) + fields(1)), refused, `seed ${seed}`);
  for (const [i, pointer] of pointers.entries()) {
    const free = word(1000 + i, 1) + fields(pointer);
    assertEquals(other.ask(free), head(1000 + i, 1, 0, 0), `free ${i}, seed ${seed}`);
  }
});

Deno.test("takeSnapshot() takes nothing of a heap that nobody has written", () => {
  const parts = newParts();
  new Box({ size: SIZE, replayCache: 100, ...parts });
  const bytes = [...takeSnapshot(parts)].reduce((sum, chunk) => sum + chunk.length, 0);
  assert(bytes < 100_000, `${bytes} bytes`);
  assertEquals([...takeSnapshot(parts)].length, 1);
});
