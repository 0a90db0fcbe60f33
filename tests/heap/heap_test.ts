import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { equals } from "@std/bytes";
import {
  GRAIN,
  Heap,
  HEAP_BASE,
  MAX_HEAP,
  MAX_RANGES,
  MIN_HEAP,
  newHeapMemory,
  RANGE_BYTES,
} from "../../lib/heap/heap.ts";
import { Refusal } from "../../lib/heap/refusal.ts";
import { Random } from "../testing.ts";

const KIB = 1024;
const GIB = 1024 ** 3;
const PAGE = 4 * KIB;

/** Values of a 64-bit field that are no address and no length in any heap, as doubles. */
const ABSURD = [2 ** 53 - 1, 2 ** 53, 2 ** 63 - 2 ** 10, 2 ** 63, 2 ** 64 - 2 ** 11, 2 ** 64];

/** A heap with the bytes of its I/O memory at hand. What is read lands where what is written comes from. */
class Harness {
  readonly io = new WebAssembly.Memory({ initial: 2, maximum: 2 });
  readonly bytes = new Uint8Array(this.io.buffer);
  readonly heap: Heap;

  constructor(size: number, strict = false, range = 0) {
    this.heap = new Heap({ memory: newHeapMemory(size), size, io: this.io, strict, range });
  }

  /** The address, or 0 if it was refused. */
  malloc(length: number): number {
    const span = { pointer: 0, length };
    return this.heap.malloc(span) === Refusal.none ? span.pointer : 0;
  }

  free(pointer: number): Refusal {
    return this.heap.free({ pointer, length: 0 });
  }

  /** The new address, or the refusal as a negative number. */
  realloc(pointer: number, length: number): number {
    const span = { pointer, length };
    const refusal = this.heap.realloc(span);
    return refusal === Refusal.none ? span.pointer : -refusal;
  }

  write(pointer: number, data: ArrayLike<number>): Refusal {
    this.bytes.set(data);
    return this.heap.write({ pointer, length: data.length }, 0);
  }

  read(pointer: number, length: number): Uint8Array {
    const refusal = this.heap.read({ pointer, length }, 0);
    assertEquals(refusal, Refusal.none, `read of ${length} bytes at ${pointer}`);
    return this.bytes.slice(0, length);
  }

  assertZero(pointer: number, length: number, context = ""): void {
    const soiled = this.read(pointer, length).findIndex((byte) => byte !== 0);
    assertEquals(soiled, -1, `first byte that is not zero, ${context}`);
  }

  /** Compare-and-swap; the old value or the refusal. */
  cas(pointer: number, expected: bigint, desired: bigint): bigint | Refusal {
    const view = new DataView(this.io.buffer);
    view.setBigUint64(0, expected);
    view.setBigUint64(8, desired);
    const refusal = this.heap.cas({ pointer, length: 0 }, 0, 16);
    return refusal === Refusal.none ? view.getBigUint64(16) : refusal;
  }

  /** Fetch-and-add; the old value or the refusal. */
  add(pointer: number, delta: bigint): bigint | Refusal {
    const view = new DataView(this.io.buffer);
    view.setBigUint64(0, BigInt.asUintN(64, delta));
    const refusal = this.heap.add({ pointer, length: 0 }, 0, 16);
    return refusal === Refusal.none ? view.getBigUint64(16) : refusal;
  }
}

Deno.test("Heap refuses a size that a heap cannot have", () => {
  for (const size of [0, -16, 4080, 4097, MIN_HEAP + 8, MAX_HEAP + 16, NaN, Infinity, 2 ** 53]) {
    assertThrows(() => new Harness(size), RangeError, `Cannot make a heap of ${size} bytes`);
  }
});

Deno.test("Heap says how much memory it asked for and what to try if it cannot have it", () => {
  const { Memory } = WebAssembly;
  WebAssembly.Memory = class extends Memory {
    constructor() {
      super({ initial: 1, maximum: 0 }); // throws RangeError, as it does where memory is short
    }
  };
  try {
    const error = assertThrows(() => newHeapMemory(GIB), RangeError);
    assertMatch(error.message, /^Cannot get 1073741824 bytes .* try a smaller --memory/);
    assert(error.cause instanceof RangeError);
  } finally {
    WebAssembly.Memory = Memory;
  }
});

Deno.test("malloc() gives 16-byte aligned addresses from 0xc420000000 on", () => {
  const heap = new Harness(MIN_HEAP);
  assertEquals(heap.malloc(1), 0xc420000000);
  assertEquals(heap.malloc(16), HEAP_BASE + 16);
  assertEquals(heap.malloc(17), HEAP_BASE + 32);
  assertEquals(heap.malloc(0), HEAP_BASE + 64, "an address of its own");
  assertEquals(heap.malloc(0), HEAP_BASE + 80, "another");
});

Deno.test("malloc() refuses what does not fit, whatever its length", () => {
  for (const size of [MIN_HEAP, MIN_HEAP + 16, 3 * PAGE + 48]) {
    const heap = new Harness(size);
    for (const length of [size + 1, 2 * size, 2 ** 31, 2 ** 32, 2 ** 32 + 1, ...ABSURD]) {
      assertEquals(heap.malloc(length), 0, `${length} of ${size} bytes`);
    }
    assertEquals(heap.heap.buddy.liveBlocks, 0);
  }
  const heap = new Harness(3 * PAGE);
  assertEquals(heap.malloc(2 * PAGE + 1), 0, "no block of 4 pages");
  assertEquals(heap.malloc(2 * PAGE), HEAP_BASE + PAGE);
  assertEquals(heap.malloc(PAGE + 1), 0);
  assertEquals(heap.malloc(PAGE), HEAP_BASE);
  assertEquals(heap.malloc(0), 0, "nothing is left");
});

for (const size of [4 * GIB, MAX_HEAP]) {
  Deno.test(`malloc() and write() reach the last byte of a heap of ${size / GIB} GiB`, () => {
    const heap = new Harness(size);
    assertEquals(heap.malloc(size), HEAP_BASE);
    assertEquals(heap.malloc(0), 0);
    assertEquals(heap.heap.buddy.grainsInUse * GRAIN, size);
    const last = HEAP_BASE + size - 1;
    const places = [HEAP_BASE, HEAP_BASE + 2 * GIB - 2, HEAP_BASE + 3 * GIB, last - 3];
    for (const at of places) assertEquals(heap.write(at, [1, 2, 3, 4]), Refusal.none);
    for (const at of places) assertEquals(heap.read(at, 4), Uint8Array.of(1, 2, 3, 4));
    assertEquals(heap.write(last, [9, 9]), Refusal.outsideHeap);
    assertEquals(heap.read(last, 1), Uint8Array.of(4), "a refused write writes nothing");
    heap.assertZero(HEAP_BASE + 4, KIB, "below, an offset that wrapped would be found");

    assertEquals(heap.free(HEAP_BASE), Refusal.none);
    assertEquals(heap.malloc(size / 2 + 1), HEAP_BASE, "all of it again");
    for (const at of places) heap.assertZero(at, 4, `at ${at - HEAP_BASE}`);
  });
}

for (const far of [2 * GIB, 4 * GIB, 8 * GIB]) {
  Deno.test(`cas(), add(), realloc() and free() work beyond ${far / GIB} GiB`, () => {
    const heap = new Harness(2 * far);
    assertEquals(heap.malloc(far), HEAP_BASE);
    const high = heap.malloc(32);
    assertEquals(high, HEAP_BASE + far);
    assertEquals(heap.add(high, 5n), 0n);
    assertEquals(heap.cas(high, 5n, 7n), 5n);
    assertEquals(heap.realloc(high, 64), high, "in place");
    const neighbour = heap.malloc(64);
    assertEquals(neighbour, high + 64);
    const moved = heap.realloc(high, 100);
    assertEquals(moved, high + 128);
    assertEquals(heap.add(moved, 0n), 7n);
    assertEquals(heap.free(high), Refusal.alreadyFree);
    assertEquals(heap.malloc(64), high);
    heap.assertZero(high, 64, "where it was before");

    assertEquals(heap.free(HEAP_BASE), Refusal.none);
    assertEquals(heap.realloc(neighbour, far), HEAP_BASE, "from the upper half to the lower");
    assertEquals(heap.realloc(HEAP_BASE, 64), HEAP_BASE);
    assertEquals(heap.realloc(moved, GIB), HEAP_BASE + GIB);
    assertEquals(heap.add(HEAP_BASE + GIB, 0n), 7n);
  });
}

Deno.test("malloc() gives zeroes where there was data before", () => {
  const heap = new Harness(16 * PAGE);
  for (const length of [16, 48, PAGE, 3 * PAGE, 16 * PAGE]) {
    const pointer = heap.malloc(length);
    heap.assertZero(pointer, length, `${length} bytes`);
    heap.write(pointer, new Uint8Array(length).fill(0xff));
    heap.free(pointer);
    assertEquals(heap.read(pointer, length)[0], 0xff, "freed memory stays as it is");
  }
  heap.malloc(16 * PAGE);
  heap.assertZero(HEAP_BASE, 16 * PAGE);
});

Deno.test("malloc() gives zeroes where a wild write went before any allocation", () => {
  for (const size of [16 * PAGE, 16 * PAGE - 16, 5 * PAGE + 48]) {
    const heap = new Harness(size);
    const wild = [0, 15, PAGE - 1, PAGE, 2 * PAGE - 3, 4 * PAGE + 7, size - 5];
    for (const offset of wild) {
      assertEquals(heap.write(HEAP_BASE + offset, [1, 2, 3, 4, 5]), Refusal.none);
    }
    for (let pointer = heap.malloc(48); pointer !== 0; pointer = heap.malloc(48)) {
      heap.assertZero(pointer, 64, `offset ${pointer - HEAP_BASE} of ${size}`);
    }
  }
});

Deno.test("malloc() gives zeroes in a heap that does not begin with a page of its blocks", () => {
  for (const beyond of [0, 16, 32, 512, 1024, 2048, 2064]) {
    for (const length of [16, 64, 512, 1024, 2048, PAGE]) {
      const size = 3 * PAGE + beyond;
      for (let page = 0; page * PAGE < size; page++) {
        const harness = new Harness(size);
        const written = Math.min(PAGE, size - page * PAGE);
        harness.write(HEAP_BASE + page * PAGE, new Uint8Array(written).fill(0xa5));
        for (let at = harness.malloc(length); at !== 0; at = harness.malloc(length)) {
          const data = harness.read(at, length);
          assertEquals(data.findLastIndex((byte) => byte !== 0), -1, `${length} of ${size} bytes`);
        }
      }
    }
  }
});

Deno.test("malloc() gives zeroes where a wild cas or add went", () => {
  const heap = new Harness(4 * PAGE);
  assertEquals(heap.cas(HEAP_BASE + PAGE + 8, 0n, 1n), 0n);
  assertEquals(heap.add(HEAP_BASE + 4 * PAGE - 8, -1n), 0n);
  assertEquals(heap.malloc(4 * PAGE), HEAP_BASE);
  heap.assertZero(HEAP_BASE, 4 * PAGE);
});

Deno.test("malloc() gives zeroes where realloc() moved something to", () => {
  const heap = new Harness(16 * PAGE);
  const pointer = heap.malloc(2 * PAGE);
  heap.write(pointer, new Uint8Array(2 * PAGE).fill(0xff));
  heap.malloc(2 * PAGE);
  const moved = heap.realloc(pointer, 3 * PAGE);
  assertEquals(moved, HEAP_BASE + 4 * PAGE);
  heap.free(moved);
  assertEquals(heap.malloc(4 * PAGE), moved);
  heap.assertZero(moved, 4 * PAGE);
});

Deno.test("read() and write() refuse what is not wholly in the heap, however large", () => {
  const size = 3 * PAGE + 48;
  const heap = new Harness(size);
  const end = HEAP_BASE + size;
  const outside: [number, number][] = [
    ...[0, 1, HEAP_BASE - 1, end + 1, 2 ** 32, HEAP_BASE + 2 ** 32, HEAP_BASE * 2, ...ABSURD]
      .flatMap((pointer): [number, number][] => [[pointer, 0], [pointer, 1], [pointer, 2 ** 64]]),
    ...[size + 1, 2 ** 31, 2 ** 32, 2 ** 32 + 1, ...ABSURD]
      .map((length): [number, number] => [HEAP_BASE, length]),
    [end, 1],
    [end - 1, 2],
    [HEAP_BASE - 1, 2],
    [end - 1, 2 ** 64],
  ];
  for (const [pointer, length] of outside) {
    const context = `${length} bytes at ${pointer}`;
    assertEquals(heap.heap.read({ pointer, length }, 0), Refusal.outsideHeap, context);
    assertEquals(heap.heap.write({ pointer, length }, 0), Refusal.outsideHeap, context);
  }
  assertEquals(heap.read(end - 1, 1), Uint8Array.of(0));
  assertEquals(heap.read(HEAP_BASE, size).length, size);
  heap.assertZero(HEAP_BASE, size);
});

Deno.test("read() and write() of 0 bytes are admitted up to the very end of the heap", () => {
  for (const size of [MIN_HEAP, MAX_HEAP]) {
    const heap = new Harness(size);
    for (const pointer of [HEAP_BASE, HEAP_BASE + 77, HEAP_BASE + size]) {
      assertEquals(heap.write(pointer, []), Refusal.none);
      assertEquals(heap.read(pointer, 0).length, 0);
    }
  }
});

Deno.test("free() says why it frees nothing", () => {
  const heap = new Harness(MIN_HEAP);
  const pointer = heap.malloc(40);
  assertEquals(heap.free(0), Refusal.none, "NULL, as free(3) has it");
  assertEquals(heap.free(pointer + 16), Refusal.notAllocated);
  assertEquals(heap.free(pointer + 1), Refusal.notAllocated, "not aligned");
  assertEquals(heap.free(pointer + 64), Refusal.alreadyFree);
  for (const outside of [1, 16, HEAP_BASE - 16, HEAP_BASE + MIN_HEAP, ...ABSURD]) {
    assertEquals(heap.free(outside), Refusal.outsideHeap, String(outside));
  }
  assertEquals(heap.heap.buddy.liveBlocks, 1);
  assertEquals(heap.free(pointer), Refusal.none);
  assertEquals(heap.free(pointer), Refusal.alreadyFree);
});

Deno.test("a strict heap admits only bytes of one live allocation", () => {
  const heap = new Harness(MIN_HEAP, true);
  assertEquals(heap.write(HEAP_BASE, [1]), Refusal.outsideLiveBlock, "nothing is allocated");
  const first = heap.malloc(32);
  const second = heap.malloc(40);
  assertEquals([first, second], [HEAP_BASE, HEAP_BASE + 64]);
  const edges: [number, number, Refusal][] = [
    [first, 32, Refusal.none],
    [first + 31, 1, Refusal.none],
    [first + 32, 1, Refusal.outsideLiveBlock],
    [first + 31, 2, Refusal.outsideLiveBlock],
    [second - 1, 1, Refusal.outsideLiveBlock],
    [second - 1, 2, Refusal.outsideLiveBlock],
    [second, 64, Refusal.none], // the usable size is that of the block
    [second, 65, Refusal.outsideLiveBlock],
    [second + 63, 1, Refusal.none],
    [second + 64, 1, Refusal.outsideLiveBlock],
    [second + 64, 0, Refusal.outsideLiveBlock],
    [second + 5, 0, Refusal.none],
    [first, MIN_HEAP, Refusal.outsideLiveBlock],
    [HEAP_BASE + MIN_HEAP, 0, Refusal.outsideLiveBlock],
    [HEAP_BASE + MIN_HEAP, 1, Refusal.outsideHeap],
    [HEAP_BASE - 1, 1, Refusal.outsideHeap],
  ];
  for (const [pointer, length, expected] of edges) {
    const context = `${length} bytes at ${pointer - HEAP_BASE}`;
    assertEquals(heap.heap.read({ pointer, length }, 0), expected, context);
    assertEquals(heap.heap.write({ pointer, length }, 0), expected, context);
  }
  assertEquals(heap.add(first + 24, 1n), 0n);
  assertEquals(heap.add(first + 32, 1n), Refusal.outsideLiveBlock);
  assertEquals(heap.cas(second + 64, 0n, 1n), Refusal.outsideLiveBlock);
  heap.free(first);
  assertEquals(heap.write(first, [1]), Refusal.outsideLiveBlock, "use after free");
});

Deno.test("a strict heap does not let two neighbouring allocations pass for one", () => {
  const heap = new Harness(MIN_HEAP, true);
  const [first, second] = [heap.malloc(16), heap.malloc(16)];
  assertEquals(second, first + 16);
  assertEquals(heap.heap.read({ pointer: first, length: 17 }, 0), Refusal.outsideLiveBlock);
});

Deno.test("a strict heap admits all of a single block of 16 GiB", () => {
  const heap = new Harness(MAX_HEAP, true);
  assertEquals(heap.malloc(MAX_HEAP), HEAP_BASE);
  assertEquals(heap.write(HEAP_BASE + MAX_HEAP - 2, [1, 2]), Refusal.none);
  assertEquals(heap.write(HEAP_BASE + MAX_HEAP - 1, [1, 2]), Refusal.outsideHeap);
  assertEquals(heap.write(HEAP_BASE + MAX_HEAP, []), Refusal.outsideLiveBlock, "not the base");
});

Deno.test("realloc() of NULL is a malloc and to 0 bytes a free", () => {
  const heap = new Harness(MIN_HEAP);
  const pointer = heap.realloc(0, 20);
  assertEquals(pointer, HEAP_BASE);
  assertEquals(heap.realloc(0, 0), HEAP_BASE + 32, "like malloc(0)");
  assertEquals(heap.realloc(pointer, 0), 0);
  assertEquals(heap.free(pointer), Refusal.alreadyFree);
});

Deno.test("realloc() refuses what free() would, and what does not fit, and changes nothing", () => {
  const heap = new Harness(MIN_HEAP);
  const pointer = heap.malloc(32);
  heap.write(pointer, [1, 2, 3]);
  assertEquals(heap.realloc(pointer + 16, 8), -Refusal.notAllocated);
  assertEquals(heap.realloc(pointer + 1, 8), -Refusal.notAllocated);
  assertEquals(heap.realloc(pointer + 64, 8), -Refusal.alreadyFree);
  assertEquals(heap.realloc(pointer + 64, 0), -Refusal.alreadyFree);
  for (const outside of [1, HEAP_BASE - 16, HEAP_BASE + MIN_HEAP, ...ABSURD]) {
    assertEquals(heap.realloc(outside, 8), -Refusal.outsideHeap, String(outside));
    assertEquals(heap.realloc(outside, 0), -Refusal.outsideHeap, String(outside));
  }
  heap.malloc(32);
  for (const length of [MIN_HEAP, MIN_HEAP + 1, 2 ** 32, ...ABSURD]) {
    assertEquals(heap.realloc(pointer, length), -Refusal.outOfMemory, String(length));
  }
  assertEquals(heap.heap.buddy.grainsInUse * GRAIN, 64);
  assertEquals(heap.read(pointer, 4), Uint8Array.of(1, 2, 3, 0));
});

Deno.test("realloc() grows in place over dirty memory and gives zeroes there", () => {
  const heap = new Harness(4 * PAGE);
  heap.write(HEAP_BASE, new Uint8Array(4 * PAGE).fill(0xff));
  const pointer = heap.malloc(20);
  heap.write(pointer, new Uint8Array(20).fill(7));
  for (const length of [33, PAGE, 4 * PAGE]) {
    assertEquals(heap.realloc(pointer, length), pointer);
    assertEquals(heap.read(pointer, 20), new Uint8Array(20).fill(7));
    heap.assertZero(pointer + 20, length - 20, `after growing to ${length}`);
  }
});

Deno.test("realloc() shrinks in place, and what is beyond the new length does not come back", () => {
  const heap = new Harness(4 * PAGE);
  const pointer = heap.malloc(2 * PAGE);
  heap.write(pointer, new Uint8Array(2 * PAGE).fill(0xff));
  assertEquals(heap.realloc(pointer, 20), pointer);
  assertEquals(heap.heap.buddy.grainsInUse, 2);
  assertEquals(heap.realloc(pointer, 2 * PAGE), pointer);
  assertEquals(heap.read(pointer, 20), new Uint8Array(20).fill(0xff));
  heap.assertZero(pointer + 20, 2 * PAGE - 20);
});

Deno.test("realloc() moves when it must, with all contents and zeroes after them", () => {
  const heap = new Harness(8 * PAGE);
  heap.write(HEAP_BASE, new Uint8Array(8 * PAGE).fill(0xff));
  const pointer = heap.malloc(PAGE);
  const neighbour = heap.malloc(PAGE);
  const contents = new Random(5).bytes(PAGE);
  heap.write(pointer, contents);
  const moved = heap.realloc(pointer, PAGE + 1);
  assertEquals(moved, HEAP_BASE + 2 * PAGE);
  assertEquals(heap.read(moved, PAGE), contents);
  heap.assertZero(moved + PAGE, PAGE);
  assertEquals(heap.free(pointer), Refusal.alreadyFree);
  assertEquals(heap.realloc(neighbour, 2 * PAGE), HEAP_BASE + 4 * PAGE, "it is the upper of two");
});

Deno.test("realloc() and malloc() keep track of what was written in a few pages of a large heap", () => {
  const size = 64 * 1024 ** 2;
  const heap = new Harness(4 * size);
  const pointer = heap.malloc(size);
  const neighbour = heap.malloc(size);
  const written = [0, 5, PAGE - 1, 1023 * PAGE - 2, 1024 * PAGE, size / 2 + 3, size - 4];
  for (const at of written) heap.write(pointer + at, [1, 2, 3, 4]);
  const moved = heap.realloc(pointer, 2 * size);
  assertEquals(moved, HEAP_BASE + 2 * size);
  const check = (start: number) => {
    for (const at of written.slice(1)) assertEquals(heap.read(start + at, 4)[3], 4, `at ${at}`);
    heap.assertZero(start + 9 * PAGE, 4 * PAGE);
    heap.assertZero(start + 1020 * PAGE, 2 * PAGE);
  };
  check(moved);
  heap.assertZero(moved + size, 8 * PAGE);

  heap.free(neighbour);
  heap.free(moved);
  const again = heap.malloc(4 * size);
  for (const start of [pointer, moved]) {
    for (const at of written) heap.assertZero(start + at, 4, `at ${at}, recycled`);
  }
  assertEquals(again, HEAP_BASE);
});

Deno.test("to look through a large block takes time of the turn, though there is nothing to clear or copy", () => {
  const size = 8 * GIB;
  const io = new WebAssembly.Memory({ initial: 1 });
  const heap = new Heap({ memory: newHeapMemory(size), size, io, workPerTurn: 64 * KIB });
  const half = { pointer: 0, length: size / 2 };
  let times = 0;
  for (; heap.malloc(half) === Refusal.none; times++) heap.free(half);
  assertEquals(times, 8, "of a byte for each 512 KiB");
  assertEquals(heap.malloc(half), Refusal.overBudget);
  const page = { pointer: 0, length: PAGE };
  assertEquals(heap.malloc(page), Refusal.none, "small ones are done");

  heap.beginTurn(0);
  assertEquals(heap.malloc(half), Refusal.none);
  half.length = size;
  const refusals = Array.from({ length: 8 }, () => heap.realloc(half));
  assertEquals(refusals.slice(0, 7), Array(7).fill(Refusal.outOfMemory));
  assertEquals(refusals[7], Refusal.overBudget);
});

Deno.test("cas() swaps only what it expects, and tells the old value", () => {
  const heap = new Harness(MIN_HEAP);
  const pointer = heap.malloc(16);
  assertEquals(heap.cas(pointer, 0n, 0x0102030405060708n), 0n);
  assertEquals(heap.read(pointer, 8), Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8), "big-endian");
  for (const wrong of [0n, 0x0102030405060709n, 0x1102030405060708n, 2n ** 64n - 1n]) {
    assertEquals(heap.cas(pointer, wrong, 0n), 0x0102030405060708n);
  }
  assertEquals(heap.cas(pointer, 0x0102030405060708n, 2n ** 64n - 1n), 0x0102030405060708n);
  assertEquals(heap.cas(pointer, 2n ** 64n - 1n, 0n), 2n ** 64n - 1n);
  heap.assertZero(pointer, 16);
});

Deno.test("add() adds modulo 2^64, and tells the old value", () => {
  const heap = new Harness(MIN_HEAP);
  const pointer = heap.malloc(24);
  const random = new Random(6);
  let value = 0n;
  const edges = [1n, -1n, -1n, 2n ** 32n - 1n, 1n, 2n ** 32n, 2n ** 63n, 2n ** 63n, -(2n ** 32n)];
  const deltas = Array.from({ length: 1000 }, () => new DataView(random.bytes(8).buffer));
  for (const delta of [...edges, ...deltas.map((view) => view.getBigUint64(0))]) {
    assertEquals(heap.add(pointer + 8, delta), value, `seed 6, ${delta}`);
    value = BigInt.asUintN(64, value + delta);
  }
  assertEquals(heap.add(pointer + 8, 0n), value);
  heap.assertZero(pointer, 8);
  heap.assertZero(pointer + 16, 8);
});

Deno.test("cas() and add() want 8 aligned bytes inside the heap", () => {
  const heap = new Harness(MIN_HEAP);
  const end = HEAP_BASE + MIN_HEAP;
  for (const apart of [1, 2, 3, 4, 5, 6, 7]) {
    assertEquals(heap.cas(HEAP_BASE + apart, 0n, 1n), Refusal.misaligned);
    assertEquals(heap.add(HEAP_BASE + apart, 1n), Refusal.misaligned);
    assertEquals(heap.add(end - apart, 1n), Refusal.outsideHeap);
  }
  for (const outside of [0, HEAP_BASE - 8, HEAP_BASE - 1, end, ...ABSURD]) {
    assertEquals(heap.cas(outside, 0n, 1n), Refusal.outsideHeap, String(outside));
    assertEquals(heap.add(outside, 1n), Refusal.outsideHeap, String(outside));
  }
  assertEquals(heap.add(end - 8, 1n), 0n);
  heap.assertZero(HEAP_BASE, MIN_HEAP - 8);
});

/**
 * Does random things to a small heap and to an array of bytes that is told what the heap ought to hold,
 * and compares them after each.
 */
function exercise(size: number, seed: number): void {
  const random = new Random(seed);
  const heap = new Harness(size);
  const mirror = new Uint8Array(size);
  const live = new Map<number, number>();
  for (let step = 0; step < 2000; step++) {
    const context = `seed ${seed}, step ${step}`;
    const offset = random.below(size);
    const length = random.below(random.pick([2, 100, PAGE, size]));
    const pointer = random.pick([...live.keys()]) ?? 0;
    const action = random.below(6);
    if (action === 0) {
      const fresh = heap.malloc(length);
      if (fresh === 0) continue;
      live.set(fresh, length);
      mirror.fill(0, fresh - HEAP_BASE, fresh - HEAP_BASE + usable(length));
    } else if (action === 1) {
      assertEquals(heap.free(pointer), Refusal.none, context);
      live.delete(pointer);
    } else if (action === 2 && pointer !== 0 && length !== 0) {
      const next = heap.realloc(pointer, length);
      if (next < 0) continue;
      const kept = Math.min(usable(live.get(pointer)!), length);
      live.delete(pointer);
      live.set(next, length);
      mirror.copyWithin(next - HEAP_BASE, pointer - HEAP_BASE, pointer - HEAP_BASE + kept);
      mirror.fill(0, next - HEAP_BASE + kept, next - HEAP_BASE + usable(length));
    } else if (action === 3) {
      const word = HEAP_BASE + offset - offset % 8;
      const view = new DataView(mirror.buffer, word - HEAP_BASE, 8);
      const old = view.getBigUint64(0);
      assertEquals(heap.add(word, 2n ** 40n), old, context);
      view.setBigUint64(0, old + 2n ** 40n);
    } else { // anywhere, into live allocations and past them
      const data = random.bytes(Math.min(length, size - offset));
      assertEquals(heap.write(HEAP_BASE + offset, data), Refusal.none, context);
      mirror.set(data, offset);
    }
    assert(equals(heap.read(HEAP_BASE, size), mirror), `the heap differs, ${context}`);
  }
}

for (const size of [MIN_HEAP, 3 * PAGE + 48, 8 * PAGE, 8 * PAGE - 16]) {
  Deno.test(`Heap holds what an array of bytes does, in ${size} bytes`, () => {
    for (const seed of [1, 2]) exercise(size, seed);
  });
}

Deno.test("heap of another range differs from that of the paper in the upper bits of its pointers alone", () => {
  for (const range of [1, 7, MAX_RANGES - 1]) {
    const heap = new Harness(MIN_HEAP, false, range);
    const base = HEAP_BASE + range * RANGE_BYTES;
    assertEquals(heap.heap.base, base);
    assertEquals([heap.malloc(16), heap.malloc(32)], [base, base + 32]);
    assertEquals(heap.write(base + 16, [1, 2, 3]), Refusal.none);
    assertEquals(heap.read(base + 16, 3), Uint8Array.of(1, 2, 3));
    assertEquals(heap.realloc(base, 64), base + 64);
    assertEquals(heap.free(base + 64), Refusal.none);
    assertEquals(heap.write(HEAP_BASE, [1]), Refusal.outsideHeap);
    assertEquals(heap.write(base + MIN_HEAP - 1, [1, 2]), Refusal.outsideHeap);
    assertEquals(heap.free(base - RANGE_BYTES), Refusal.outsideHeap);
  }
  assert(Number.isSafeInteger(HEAP_BASE + MAX_RANGES * RANGE_BYTES), "pointers are exact doubles");
  assert(
    HEAP_BASE + (MAX_RANGES + 1) * RANGE_BYTES > Number.MAX_SAFE_INTEGER + 1,
    "there are no more",
  );
});

/**
 * Where numbers change their nature: V8's small integers end at 2^30 or 2^31, offsets in 32 bits at 2^32,
 * and the largest heap has 2^30 grains.
 */
const LARGE = [2, 4, 8, 16].flatMap((gib) =>
  [-3 * PAGE - 16, -16, 0, 16, 5 * PAGE + 48].map((more) => gib * GIB + more)
).filter((size) => size <= MAX_HEAP);

/** Bytes of the block that an allocation of `length` bytes gets. */
const usable = (length: number) => 2 ** Math.ceil(Math.log2(Math.max(length, GRAIN)));

/**
 * Does random things to a large heap and to a list of what was written to each allocation, and compares
 * all that lies around those places after each.
 */
function exerciseLarge(size: number, seed: number): void {
  const random = new Random(seed);
  const heap = new Harness(size);
  /** For each live address: its usable bytes, and the words that were written, by their place in it. */
  const live = new Map<number, { usable: number; words: Map<number, bigint> }>();
  const word = (pointer: number) => new DataView(heap.read(pointer, 8).buffer).getBigUint64(0);
  for (let step = 0; step < 250; step++) {
    const context = `${size} bytes, seed ${seed}, step ${step}`;
    // A multiple of 8, so that no word is kept in half.
    const length = 8 * Math.ceil(2 ** (random.below(3100) / 100)) % size;
    const pointer = random.pick([...live.keys()]);
    const action = random.below(7);
    if (action <= 1 || pointer === undefined) {
      const fresh = heap.malloc(length);
      if (fresh === 0) continue;
      assert(fresh >= HEAP_BASE && fresh + length <= HEAP_BASE + size, context);
      for (const [start, block] of live) {
        assert(fresh + usable(length) <= start || start + block.usable <= fresh, context);
      }
      live.set(fresh, { usable: usable(length), words: new Map() });
    } else if (action === 2) {
      assertEquals(heap.free(pointer), Refusal.none, context);
      assertEquals(heap.free(pointer), Refusal.alreadyFree, context);
      live.delete(pointer);
    } else if (action === 3 && length > 0) {
      const next = heap.realloc(pointer, length);
      if (next < 0) continue;
      const { words } = live.get(pointer)!;
      live.delete(pointer);
      for (const at of words.keys()) if (at + 8 > length) words.delete(at);
      live.set(next, { usable: usable(length), words });
    } else {
      const block = live.get(pointer)!;
      const last = block.usable - 8;
      const somewhere = Math.floor(random.below(2 ** 30) / 2 ** 30 * last);
      const at = random.pick([0, last, somewhere - somewhere % 8])!;
      const delta = BigInt(step + 1) << 33n | 7n;
      assertEquals(heap.add(pointer + at, delta), block.words.get(at) ?? 0n, context);
      block.words.set(at, (block.words.get(at) ?? 0n) + delta);
    }
    for (const [start, block] of live) {
      for (const at of [0, block.usable - 8, ...block.words.keys()]) {
        assertEquals(word(start + at), block.words.get(at) ?? 0n, `${at} of ${start}, ${context}`);
      }
    }
    assertEquals(heap.heap.buddy.liveBlocks, live.size, context);
  }
}

for (const size of LARGE) {
  Deno.test(`Heap holds what was written to each allocation, in ${size} bytes`, () => {
    exerciseLarge(size, 1);
  });
}
