/** The module of lib/heap/bulk.ts, put together from the text format that stands there. */

import { assertEquals } from "@std/assert";
import { BULK } from "../../lib/heap/bulk.ts";

const I32 = 0x7f;
const LOCAL_GET = 0x20;
const I32_CONST = 0x41;
const I64_CONST = 0x42;
const I64_OR = 0x84;
const I64_SHL = 0x86;
const I64_EXTEND_I32_U = 0xad;
const MEMORY_COPY = [0xfc, 10];
const MEMORY_FILL = [0xfc, 11];
const END = 0x0b;
const HEAP = 0;
const IO = 1;

const name = (text: string) => [text.length, ...new TextEncoder().encode(text)];
const section = (id: number, ...bytes: number[]) => [id, bytes.length, ...bytes];
const body = (...code: number[]) => [code.length + 2, 0, ...code, END];
const type = (parameters: number) => [0x60, parameters, ...Array(parameters).fill(I32), 0];
const get = (local: number) => [LOCAL_GET, local];
const getWide = (local: number) => [...get(local), I64_EXTEND_I32_U];
const getWideOffset = (local: number) => [
  ...[...getWide(local), ...getWide(local + 1), I64_CONST, 32, I64_SHL, I64_OR],
];

function assemble(isWide: boolean): Uint8Array<ArrayBuffer> {
  // Shared, which takes a maximum: 65,536 pages or 262,144.
  const limits = isWide ? [7, 0, 0x80, 0x80, 0x10] : [3, 0, 0x80, 0x80, 0x04];
  const [offset, length] = isWide ? [getWideOffset, getWide] : [get, get];
  return new Uint8Array([
    ...[0, ...new TextEncoder().encode("asm"), 1, 0, 0, 0],
    ...section(1, 3, ...type(4), ...type(5), ...type(3)),
    ...section(
      2,
      2,
      ...name(""),
      ...name("heap"),
      2,
      ...limits,
      ...name(""),
      ...name("io"),
      2,
      0,
      0,
    ),
    ...section(3, 4, 0, 0, 1, 2), // four functions and their types
    ...section(
      7,
      4,
      ...[...name("load"), 0, 0, ...name("store"), 0, 1],
      ...[...name("move"), 0, 2, ...name("zero"), 0, 3],
    ),
    ...section(
      10,
      4,
      ...body(...get(0), ...offset(1), ...get(3), ...MEMORY_COPY, IO, HEAP),
      ...body(...offset(0), ...get(2), ...get(3), ...MEMORY_COPY, HEAP, IO),
      ...body(...offset(0), ...offset(2), ...length(4), ...MEMORY_COPY, HEAP, HEAP),
      ...body(...offset(0), I32_CONST, 0, ...length(2), ...MEMORY_FILL, HEAP),
    ),
  ]);
}

Deno.test("BULK is what its text says, for addresses of 32 and of 64 bits", () => {
  assertEquals(BULK, { narrow: assemble(false).toHex(), wide: assemble(true).toHex() });
});
