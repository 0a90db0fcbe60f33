/** Which replies may give away what the log does not have yet: those to reads of pages that it changed. */

import { assertEquals } from "@std/assert";
import { HEAP_BASE, newHeapMemory } from "../../../lib/heap/heap.ts";
import { Refusal } from "../../../lib/heap/refusal.ts";
import { TracedHeap } from "../../../lib/daemon/cluster/traced_heap.ts";

const PAGE = 4096;
const SIZE = 64 * PAGE;

function newHeap(options: { strict?: boolean; workPerTurn?: number } = {}) {
  const io = new WebAssembly.Memory({ initial: 8, maximum: 8 });
  const heap = new TracedHeap({ memory: newHeapMemory(SIZE), size: SIZE, io, ...options });
  const seenBy = (offset: number, length = 1) => {
    heap.seen = 0;
    heap.read({ pointer: HEAP_BASE + offset, length }, 0);
    return heap.seen;
  };
  return { heap, seenBy };
}

Deno.test("a read depends on the batch that wrote its pages last, and on no other", () => {
  const { heap, seenBy } = newHeap();
  heap.batch = 1;
  heap.write({ pointer: HEAP_BASE + 3 * PAGE - 1, length: 2 }, 0);
  heap.batch = 2;
  heap.add({ pointer: HEAP_BASE + 8 * PAGE, length: 0 }, 0, 16);
  heap.batch = 3;
  heap.cas({ pointer: HEAP_BASE + 3 * PAGE, length: 0 }, 0, 16);
  assertEquals([1, 2, 3, 4, 7, 8, 9].map((page) => seenBy(page * PAGE)), [0, 1, 3, 0, 0, 2, 0]);
  assertEquals(seenBy(0, SIZE), 3);
  assertEquals(seenBy(4 * PAGE, 4 * PAGE), 0);
  assertEquals(seenBy(4 * PAGE, 4 * PAGE + 1), 2);
  assertEquals(seenBy(SIZE), 0);
  assertEquals(seenBy(2 ** 52), 0);
  assertEquals(seenBy(-HEAP_BASE), 0);
});

Deno.test("a read depends on the batch that allocated, moved or freed its block", () => {
  const { heap, seenBy } = newHeap();
  const span = { pointer: 0, length: 2 * PAGE };
  heap.batch = 1;
  assertEquals(heap.malloc(span), Refusal.none);
  assertEquals([0, 1, 2].map((page) => seenBy(page * PAGE)), [1, 1, 0]);
  const other = { pointer: 0, length: 2 * PAGE };
  heap.malloc(other);
  heap.batch = 2;
  span.length = 4 * PAGE; // it has to move
  assertEquals(heap.realloc(span), Refusal.none);
  assertEquals([0, 1, 2, 3, 4, 7, 8].map((page) => seenBy(page * PAGE)), [2, 2, 1, 1, 2, 2, 0]);
  heap.batch = 3;
  assertEquals(heap.free(other), Refusal.none);
  assertEquals([1, 2, 3, 4].map((page) => seenBy(page * PAGE)), [2, 3, 3, 2]);
});

Deno.test("every read depends on a batch whose malloc cleared only some of what it wanted", () => {
  const { heap, seenBy } = newHeap({ workPerTurn: PAGE });
  heap.write({ pointer: HEAP_BASE, length: 8 * PAGE }, 0);
  heap.batch = 5;
  heap.beginTurn(0);
  assertEquals(heap.malloc({ pointer: 0, length: 8 * PAGE }), Refusal.overBudget);
  assertEquals(seenBy(40 * PAGE), 5);
});
