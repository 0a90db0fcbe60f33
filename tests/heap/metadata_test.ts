import { assert, assertEquals, assertThrows } from "@std/assert";
import { allocate, float64, int32, standAlone, uint16, uint8 } from "../../lib/heap/metadata.ts";
import { Buddy, buddyShape } from "../../lib/heap/buddy.ts";

Deno.test("allocate() lays out every owner's arrays in one shared memory, aligned and apart", () => {
  const state = allocate({
    first: { words: int32(3), bytes: uint8(1) },
    second: { none: int32(0), doubles: float64(17), halves: uint16(70_000) },
  });
  const arrays = [...Object.values(state.first), ...Object.values(state.second)];
  const { buffer } = state.first.words;
  assert(buffer instanceof SharedArrayBuffer);
  assertEquals(buffer.byteLength % (64 * 1024), 0);
  let end = 0;
  for (const array of arrays) {
    assertEquals(array.buffer, buffer);
    assertEquals(array.byteOffset % 64, 0);
    assert(array.byteOffset >= end);
    end = array.byteOffset + array.byteLength;
    assert(array.every((element) => element === 0));
  }
  assertEquals(arrays.map(({ length }) => length), [3, 1, 0, 17, 70_000]);
  assert(end <= buffer.byteLength);
});

Deno.test("allocate() says what to try when the memory cannot be had", () => {
  const error = assertThrows(() => allocate({ all: { bytes: uint8(2 ** 40) } }), RangeError);
  assert(error.message.includes("--memory"), error.message);
});

Deno.test("a Buddy over the arrays of another sees what that one does", () => {
  const grains = 100;
  const arrays = standAlone(buddyShape(grains));
  const writer = new Buddy(grains, arrays);
  const reader = new Buddy(grains, arrays);
  const grain = writer.allocate(3);
  assertEquals(reader.orderAt(grain), 3);
  assertEquals([reader.liveBlocks, reader.grainsInUse], [1, 8]);
  assertEquals([...reader.freeBlocks], [...writer.freeBlocks]);
  assertEquals(reader.largestFreeOrder, writer.largestFreeOrder);
  writer.free(grain);
  assertEquals(reader.isFree(grain), true);
});
