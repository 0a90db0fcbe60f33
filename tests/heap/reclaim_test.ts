import { assert, assertEquals } from "@std/assert";
import { equals } from "@std/bytes";
import { GRAIN, Heap, HEAP_BASE, heapShape, newHeapMemory } from "../../lib/heap/heap.ts";
import { buddyShape } from "../../lib/heap/buddy.ts";
import { PAGE, standAlone } from "../../lib/heap/metadata.ts";
import { Refusal } from "../../lib/heap/refusal.ts";
import { Random } from "../testing.ts";
import { wasteShape } from "../../lib/heap/waste.ts";

const MIB = 1024 ** 2;

/** A heap whose pages, when they are released, read as zeroes, as the kernel's do; and how many were. */
class Harness {
  readonly io = new WebAssembly.Memory({ initial: 1, maximum: 1 });
  readonly memory: WebAssembly.Memory;
  readonly state;
  readonly heap: Heap;
  released = 0;
  /** Whether the kernel does what it is asked. */
  willing = true;

  constructor(size: number) {
    this.memory = newHeapMemory(size);
    this.state = {
      buddy: standAlone(buddyShape(size / GRAIN)),
      heap: standAlone(heapShape(size)),
      waste: standAlone(wasteShape(size / GRAIN)),
    };
    const release = (first: number, count: number) => {
      if (!this.willing) return false;
      new Uint8Array(this.memory.buffer).fill(0, first * PAGE, (first + count) * PAGE);
      this.released += count;
      return true;
    };
    this.heap = new Heap({ memory: this.memory, size, io: this.io, state: this.state, release });
  }

  malloc(length: number): number {
    const span = { pointer: 0, length };
    return this.heap.malloc(span) === Refusal.none ? span.pointer : 0;
  }

  free(pointer: number): void {
    assertEquals(this.heap.free({ pointer, length: 0 }), Refusal.none);
  }

  write(pointer: number, bytes: Uint8Array): void {
    new Uint8Array(this.io.buffer).set(bytes);
    assertEquals(this.heap.write({ pointer, length: bytes.length }, 0), Refusal.none);
  }

  /** Writes a byte into each page of a stretch. */
  touch(pointer: number, length: number): void {
    for (let at = 0; at < length; at += PAGE) this.write(pointer + at, Uint8Array.of(255));
  }

  read(pointer: number, length: number): Uint8Array {
    assertEquals(this.heap.read({ pointer, length }, 0), Refusal.none);
    return new Uint8Array(this.io.buffer).slice(0, length);
  }

  /** Turns until the heap has nothing more to do in this second. */
  second(second: number): void {
    do this.heap.beginTurn(second); while (this.heap.isReclaiming);
  }

  get dirtyPages(): number {
    return this.state.heap.dirty.reduce((sum, state) => sum + (state === 0 ? 0 : 1), 0);
  }
}

Deno.test("a heap gives back what was freed and not written for a second, and nothing else", () => {
  const heap = new Harness(64 * MIB);
  const [kept, freed] = [heap.malloc(8 * MIB), heap.malloc(8 * MIB)];
  heap.touch(kept, 8 * MIB);
  heap.touch(freed, 8 * MIB);
  heap.second(1);
  heap.second(2);
  assertEquals(heap.released, 0, "all of it is live");
  heap.free(freed);
  heap.second(3);
  assertEquals(heap.released, 0, "it may be wanted again at once");
  heap.second(4);
  assertEquals(heap.released * PAGE, 8 * MIB);
  assertEquals(heap.dirtyPages * PAGE, 8 * MIB);
  assertEquals(heap.read(kept + 4 * PAGE, 1), Uint8Array.of(255));
  assertEquals(heap.malloc(8 * MIB), freed);
  assertEquals(heap.read(freed, PAGE), new Uint8Array(PAGE));
});

Deno.test("a heap gives back what was written where nothing is allocated", () => {
  const heap = new Harness(64 * MIB);
  heap.touch(HEAP_BASE, 64 * MIB);
  heap.second(1);
  heap.second(2);
  assertEquals(heap.released * PAGE, 64 * MIB);
  assertEquals(heap.dirtyPages, 0);
});

Deno.test("a heap keeps pages that are freed and written again all the time", () => {
  const heap = new Harness(64 * MIB);
  for (let second = 1; second < 10; second++) {
    const pointer = heap.malloc(MIB);
    heap.touch(pointer, MIB);
    heap.free(pointer);
    heap.second(second);
  }
  assertEquals(heap.released, 0);
});

Deno.test("a heap goes on when the kernel gives nothing for a page", () => {
  const heap = new Harness(64 * MIB);
  heap.willing = false;
  heap.touch(HEAP_BASE, 64 * MIB);
  for (let second = 1; second < 5; second++) heap.second(second);
  assertEquals([heap.released, heap.dirtyPages * PAGE], [0, 64 * MIB]);
  assertEquals(heap.malloc(64 * MIB), HEAP_BASE);
  for (let at = 0; at < 64 * MIB; at += PAGE) {
    assertEquals(heap.read(HEAP_BASE + at, 1), Uint8Array.of(0));
  }
});

/** Random operations, with steps of the hand between them; what is allocated is compared all the time. */
function exercise(size: number, seed: number): void {
  const random = new Random(seed);
  const heap = new Harness(size);
  const live = new Map<number, Uint8Array>();
  let second = 0;
  for (let step = 0; step < 1000; step++) {
    const context = `${size} bytes, seed ${seed}, step ${step}`;
    const pointer = random.pick([...live.keys()]);
    const action = random.below(6);
    if (action === 0) heap.second(++second);
    else if (action === 1) heap.heap.beginTurn(second);
    else if (action <= 3 || pointer === undefined) {
      const length = 1 + random.below(random.pick([64, 2 * PAGE, 8 * PAGE]));
      const fresh = heap.malloc(length);
      if (fresh === 0) continue;
      assert(equals(heap.read(fresh, length), new Uint8Array(length)), `zeroed, ${context}`);
      live.set(fresh, new Uint8Array(length));
    } else if (action === 4) {
      heap.free(pointer);
      live.delete(pointer);
    } else {
      const bytes = random.bytes(live.get(pointer)!.length);
      heap.write(pointer, bytes);
      live.set(pointer, bytes);
    }
    for (const [at, bytes] of live) assert(equals(heap.read(at, bytes.length), bytes), context);
  }
  for (const at of live.keys()) heap.free(at);
  heap.second(++second);
  heap.second(++second);
  // A heap of an odd size is free in blocks that do not end where pages do: one for each order, at most.
  const kept = size % PAGE === 0 ? 0 : heap.heap.buddy.maxOrder;
  assert(
    heap.dirtyPages <= kept,
    `${heap.dirtyPages} pages are kept of ${size} bytes, seed ${seed}`,
  );
  assert(heap.released > 0, `seed ${seed}`);
}

for (const size of [MIB, MIB + 16, MIB - 48 * PAGE + 4080]) {
  Deno.test(`a heap of ${size} bytes gives back no page that is in use`, () => {
    for (const seed of [1, 2]) exercise(size, seed);
  });
}
