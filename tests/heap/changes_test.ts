/** What changes in a heap file is marked, whatever changes it. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { HEAP_BASE, newHeapMemory, PAGE } from "../../lib/heap/heap.ts";
import { Changes, newChangesPlace, Order } from "../../lib/heap/changes.ts";
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
    const { heap } = state;
    const changes = new Marks({ ...this.place, heapAt: 0, stateAt: SIZE, heap });
    const undo = new Undo(state.undo, newSavedMemory(SIZE), memory, changes);
    const release = (first: number, count: number) => {
      this.released += count;
      new Uint8Array(memory.buffer).fill(0, first * PAGE, (first + count) * PAGE);
      return true;
    };
    this.box = new Box({ ...SIZES, size: SIZE, memory, state, undo, release });
  }

  /** All of the file, but for what is copied in any case and what is only a hint. */
  bytes(): Uint8Array {
    const bytes = new Uint8Array(SIZE + this.state.undo.log.buffer.byteLength);
    bytes.set(new Uint8Array(this.memory.buffer));
    bytes.set(new Uint8Array(this.state.undo.log.buffer), SIZE);
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

Deno.test("nothing is marked in no round", () => {
  const { place, box } = new Store(Changes);
  box.heap.beginTurn(0);
  box.ask(word(1, METHODS.malloc.opcode) + fields(5000));
  box.ask(fields(METHODS.write.opcode, HEAP_BASE, 1) + "ff");
  assert(place.pages.every((round) => round === 0));
});
