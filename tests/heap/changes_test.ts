/** What changes in a heap file is marked, whatever changes it. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { HEAP_BASE, newHeapMemory } from "../../lib/heap/heap.ts";
import { PAGE } from "../../lib/heap/metadata.ts";
import { Changes, MAX_KEPT, newChangesPlace, Order, TOO_MANY } from "../../lib/heap/changes.ts";
import { newSavedMemory, Undo } from "../../lib/heap/undo.ts";
import { newState } from "../../lib/daemon/state.ts";
import { METHODS } from "../../lib/protocol/wire.ts";
import { Box, fields, Random, word } from "../testing.ts";

const SIZE = 512 * 1024;
/** As many replies as fill some pages. */
const SIZES = { memory: SIZE, replayCache: 300, quota: SIZE };

/** A daemon whose memories stand for a file: the heap, and the state behind it. */
class Store {
  readonly memory = newHeapMemory(SIZE);
  readonly state = newState(SIZES);
  readonly place = newChangesPlace(SIZE + this.state.undo.log.buffer.byteLength);
  readonly box: Box;
  /** Pages. */
  released = 0;

  constructor(Marks: typeof Changes) {
    const { memory, state } = this;
    const { heap, service: { clock }, undo: { log }, tokens } = state;
    const untold = [log.subarray(0, 2), clock, ...Object.values(tokens)];
    const place = { ...this.place, heapAt: 0, stateAt: SIZE };
    const changes = new Marks({ ...place, memory, heap, untold });
    const undo = new Undo(state.undo, newSavedMemory(SIZE), memory, changes);
    const release = (first: number, count: number) => {
      this.released += count;
      new Uint8Array(memory.buffer).fill(0, first * PAGE, (first + count) * PAGE);
      return true;
    };
    this.box = new Box({ ...SIZES, size: SIZE, memory, state, undo, release });
  }

  /** All of the file. */
  all(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(SIZE + this.state.undo.log.buffer.byteLength);
    bytes.set(new Uint8Array(this.memory.buffer));
    bytes.set(new Uint8Array(this.state.undo.log.buffer), SIZE);
    return bytes;
  }

  /** The same, but for what is kept in any case and what is only a hint. */
  bytes(): Uint8Array {
    const bytes = this.all();
    const { undo, service, tokens, heap } = this.state;
    const forgotten = [undo.log, service.clock, service.epoch, ...Object.values(tokens)];
    for (const array of [...forgotten, heap.dirtyPages]) {
      const at = SIZE + array.byteOffset;
      bytes.fill(0, at, at + array.byteLength);
    }
    const dirtyAt = SIZE + heap.dirty.byteOffset;
    for (let i = dirtyAt; i < dirtyAt + heap.dirty.length; i++) bytes[i] = Number(bytes[i] !== 0);
    return bytes;
  }
}

/** Carries out random requests, and throws if a page has changed that is not marked. */
function checkMarks(store: Store, seed: number, steps: number): void {
  const random = new Random(seed);
  const { box, place } = store;
  const blocks: number[] = [];
  let round = 0;
  let [changed, marked] = [0, 0];
  for (let step = 0; step < steps; step++) {
    round = round % 200 + 1;
    place.orders[Order.round] = round;
    const before = store.bytes();
    box.heap.beginTurn(step);
    assertEquals(place.orders[Order.taken], round);
    const tag = step + 1;
    const ask = (method: keyof typeof METHODS, values: number[], data = "") => {
      box.from("127.0.0.1", 40000 + random.below(3));
      const head = random.chance(0.8) || METHODS[method].opcode > METHODS.write.opcode
        ? word(tag, METHODS[method].opcode)
        : fields(METHODS[method].opcode);
      return box.ask(head + fields(...values) + data);
    };
    const block = () => random.chance(0.1) || blocks.length === 0 ? HEAP_BASE : random.pick(blocks);
    const length = () => random.pick([1, 16, 100, 1000, 5000, 20_000, 100_000]);
    const take = (reply: string | undefined) => {
      const pointer = Number(`0x${reply?.slice(-16) ?? "0"}`);
      if (pointer >= HEAP_BASE) blocks.push(pointer);
    };
    random.pick([
      () => take(ask("malloc", [length()])),
      () => {
        const pointer = block();
        ask("free", [pointer]);
        if (blocks.includes(pointer)) blocks.splice(blocks.indexOf(pointer), 1);
      },
      () => {
        const data = random.bytes(1 + random.below(9000));
        ask("write", [HEAP_BASE + random.below(SIZE - 9000), data.length], data.toHex());
      },
      () => {
        const pointer = block();
        if (blocks.includes(pointer)) blocks.splice(blocks.indexOf(pointer), 1);
        take(ask("realloc", [pointer, length()]));
      },
      () => ask("add", [block(), random.word()]),
      () => ask("cas", [block(), 0, random.word()]),
      () => ask("read", [block(), 100]),
      () => {},
    ])();
    const after = store.bytes();
    for (let page = 0; page < after.length / PAGE; page++) {
      const isMarked = place.pages[page] === round;
      const hasChanged = !areEqual(before, after, page);
      assert(isMarked || !hasChanged, `seed ${seed}, step ${step}: page ${page} is not marked`);
      if (hasChanged) changed++;
      if (isMarked) marked++;
    }
  }
  assert(store.released > 0 && changed > steps, `seed ${seed}: ${changed} pages changed`);
  assert(marked < 5 * changed, `seed ${seed}: ${marked} pages are marked, ${changed} have changed`);
}

function isSame(one: Uint8Array, other: Uint8Array): boolean {
  for (let page = 0; page < one.length / PAGE; page++) {
    if (!areEqual(one, other, page)) return false;
  }
  return true;
}

function areEqual(one: Uint8Array, other: Uint8Array, page: number): boolean {
  const words = (bytes: Uint8Array) => new Int32Array(bytes.buffer, page * PAGE, PAGE / 4);
  const [left, right] = [words(one), words(other)];
  for (let i = 0; i < left.length; i++) if (left[i] !== right[i]) return false;
  return true;
}

Deno.test("every page of a heap file that changes is marked with the round", () => {
  for (const seed of [1, 2, 3]) checkMarks(new Store(Changes), seed, 600);
});

Deno.test("the check finds a page that is not marked", () => {
  class OnlyState extends Changes {
    override heap(): void {}
  }
  class OnlyHeap extends Changes {
    override word(): void {}
  }
  for (const Marks of [OnlyState, OnlyHeap]) {
    assertThrows(() => checkMarks(new Store(Marks), 1, 600), Error, "is not marked");
  }
});

Deno.test("what has changed in a round is kept as it was when the next one began", () => {
  const seed = 4;
  const random = new Random(seed);
  const store = new Store(Changes);
  const { box, place: { orders, keptPages, kept } } = store;
  const copy = store.all();
  for (let round = 1; round < 100; round++) {
    orders[Order.round] = round;
    orders[Order.keep] = Number(round > 1);
    box.heap.beginTurn(0);
    if (round > 1) {
      const pages = [...keptPages.subarray(0, orders[Order.kept])];
      assertEquals(pages, pages.toSorted((a, b) => a - b));
      pages.forEach((page, i) => copy.set(kept.slice(i * PAGE, (i + 1) * PAGE), page * PAGE));
      assert(isSame(copy, store.all()), `seed ${seed}, round ${round}: it is not the same`);
    }
    for (let i = 0; i < 5; i++) {
      const tag = 10 * round + i;
      const data = random.bytes(1 + random.below(5000));
      box.ask(word(tag, METHODS.malloc.opcode) + fields(random.below(3000)));
      box.ask(
        fields(METHODS.write.opcode, HEAP_BASE + random.below(SIZE - 5000), data.length) +
          data.toHex(),
      );
      box.ask(word(tag + 5, METHODS.free.opcode) + fields(HEAP_BASE + 16 * random.below(1000)));
    }
  }
});

Deno.test("more pages than can be kept are told, and none is", () => {
  const bytes = (MAX_KEPT + 1) * PAGE;
  const place = newChangesPlace(bytes + 64 * 1024);
  const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536) });
  const state = newState({ memory: bytes, replayCache: 1 });
  const changes = new Changes({
    ...{ ...place, memory, heapAt: 0, stateAt: bytes, heap: state.heap, untold: [] },
  });
  const { orders } = place;
  orders[Order.round] = 1;
  changes.beginTurn();
  changes.heap(0, MAX_KEPT);
  orders[Order.keep] = 1;
  orders[Order.round] = 2;
  changes.beginTurn();
  assertEquals([orders[Order.taken], orders[Order.kept]], [2, TOO_MANY]);
  assert(place.kept.every((byte) => byte === 0));
});

Deno.test("nothing is marked in no round", () => {
  const { place, box } = new Store(Changes);
  box.heap.beginTurn(0);
  box.ask(word(1, METHODS.malloc.opcode) + fields(5000));
  box.ask(fields(METHODS.write.opcode, HEAP_BASE, 1) + "ff");
  assert(place.pages.every((round) => round === 0));
});
