import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { SOURCE_BYTES, writeSource } from "../../lib/system/address.ts";
import { DIGEST, KeyedHash, newDigest } from "../../lib/system/hash.ts";

const KEYS = 256;
/** Places of the smallest table; two words of no relation share one in one case of so many. */
const PLACES = 64;
const MOST = KEYS / 8;

function place(hash: KeyedHash, hostname: string): number {
  const source = new DataView(new ArrayBuffer(SOURCE_BYTES));
  writeSource(source, 0, hostname, 40000);
  return hash.address(source, 0) & (PLACES - 1);
}

Deno.test("address() lets nobody choose an address that shares a place with another's", () => {
  const pairs = [
    ["192.0.2.1", "64.0.2.1"],
    ["192.0.2.1", "200.0.2.1"],
    ["192.0.2.1", "192.0.2.2"],
    ["2001:db8::1", "2001:db8:8000:0:8001::1"],
    ["2001:db8::1", "2001:db8::8000:0:8001:1"],
    ["2001:db8::1", "2001:db8::8000:0:8004:1"],
  ] as const;
  for (const [one, other] of pairs) {
    let shared = 0;
    for (let i = 0; i < KEYS; i++) {
      const hash = new KeyedHash();
      if (place(hash, one) === place(hash, other)) shared++;
    }
    assert(shared < MOST, `${one} and ${other} share a place with ${shared} of ${KEYS} keys`);
  }
});

Deno.test("address() is of the address alone, whatever a client has put beside it", () => {
  const hash = new KeyedHash();
  for (const [hostname, at] of [["192.0.2.1", 4], ["2001:db8::1", 8]] as const) {
    const source = new DataView(new ArrayBuffer(SOURCE_BYTES));
    writeSource(source, 0, hostname, 40000);
    const end = at + (at === 4 ? 4 : 16);
    const known = hash.address(source, 0);
    for (let i = 2; i < SOURCE_BYTES; i++) {
      source.setUint8(i, source.getUint8(i) ^ 0x55);
      assertEquals(hash.address(source, 0) === known, i < at || i >= end, `${hostname}, byte ${i}`);
      source.setUint8(i, source.getUint8(i) ^ 0x55);
    }
  }
});

Deno.test("mix() lets no word undo what the one before it changed, whatever the key", () => {
  for (let bit = 0; bit < 32; bit++) {
    for (let shift = 0; shift < 32; shift++) {
      const first = 1 << bit;
      const second = shift === 0 ? first : first ^ first >>> shift;
      let same = 0;
      for (let i = 0; i < KEYS; i++) {
        const hash = new KeyedHash();
        const one = hash.mix(hash.mix(hash.seed, 0), 0);
        if (one === hash.mix(hash.mix(hash.seed, first), second)) same++;
      }
      assert(same < MOST, `${first} and ${second}: ${same} of ${KEYS} keys`);
    }
  }
});

Deno.test("newDigest() tells texts apart by every bit, their length and the seed, not by their place", () => {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const bytes = new Uint8Array(memory.buffer);
  const digest = newDigest(memory);
  for (let length = 0; length < 100; length++) {
    const text = Uint8Array.from({ length }, (_, i) => i * 7);
    bytes.fill(0xff);
    bytes.set(text, 1);
    bytes.set(text, 513);
    const hash = digest(1, length, length);
    assertEquals(digest(513, length, length), hash);
    assertNotEquals(digest(1, length, length + 1), hash);
    assertNotEquals(digest(1, length + 1, length), hash);
    for (let bit = 0; bit < 8 * length; bit++) {
      bytes[1 + (bit >>> 3)]! ^= 1 << (bit & 7);
      assertNotEquals(digest(1, length, length), hash, `bit ${bit} of ${length} bytes`);
      bytes[1 + (bit >>> 3)]! ^= 1 << (bit & 7);
    }
  }
});

Deno.test("newDigest() has a secret: no two of them agree", () => {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const digests = Array.from({ length: 16 }, () => newDigest(memory)(0, 100, 0));
  assertEquals(new Set(digests).size, digests.length);
});

const I32 = 0x7f;
const I64 = 0x7e;
const VOID = 0x40;
const AT = 0;
const LENGTH = 1;
const SEED = 2;
const LANES = [3, 4, 5, 6];
const [A = 0] = LANES;

const get = (local: number) => [0x20, local];
const set = (local: number) => [0x21, local];
const KEY = [0x23, 0];
const i32 = (value: number) => [0x41, value];
const i64 = (value: number) => [0x42, value];
const load = (offset: number) => [...get(AT), 0x29, 0, offset];
const LOAD_BYTE = [...get(AT), 0x31, 0, 0];
/** `(x ^ w) * key`, turned, so that the next multiplication spreads what this one has left at the top. */
const step = (x: number, w: number[]) => [
  ...[...get(x), ...w, 0x85, ...KEY, 0x7e, ...i64(29), 0x89, ...set(x)],
];
/** While `bytes` or more are left. */
const whileLeft = (bytes: number, body: number[], after: number[] = []) => [
  ...[...get(LENGTH), ...i32(bytes), 0x4f, 0x04, VOID, 0x03, VOID, ...body],
  ...[
    ...get(AT),
    ...i32(bytes),
    0x6a,
    ...set(AT),
    ...get(LENGTH),
    ...i32(bytes),
    0x6b,
    ...set(LENGTH),
  ],
  ...[...get(LENGTH), ...i32(bytes), 0x4f, 0x0d, 0, 0x0b, ...after, 0x0b],
];
const CODE = [
  ...[1, LANES.length, I64],
  ...[...get(SEED), 0xad, ...set(A)],
  ...LANES.slice(1).flatMap((lane, i) => [...i64(i + 1), ...set(lane)]),
  ...whileLeft(
    32,
    LANES.flatMap((lane, i) => step(lane, load(8 * i))),
    LANES.slice(1).flatMap((lane) => step(A, get(lane))),
  ),
  ...whileLeft(8, step(A, load(0))),
  ...whileLeft(1, step(A, LOAD_BYTE)),
  ...[...get(A), ...KEY, 0x7e, ...i64(32), 0x88, 0xa7, 0x0b],
];

const name = (text: string) => [text.length, ...new TextEncoder().encode(text)];
/** A number of up to 14 bits, in two bytes (LEB128). */
const size = (value: number) => [value & 0x7f | 0x80, value >>> 7];
const section = (id: number, ...bytes: number[]) => [id, ...size(bytes.length), ...bytes];

/** As the text format has it that stands in lib/system/hash.ts. */
const MODULE = new Uint8Array([
  ...[0, ...new TextEncoder().encode("asm"), 1, 0, 0, 0],
  ...section(1, 1, 0x60, 3, I32, I32, I32, 1, I32),
  ...section(2, 2, ...name(""), ...name("memory"), 2, 0, 0, ...name(""), ...name("key"), 3, I64, 0),
  ...section(3, 1, 0),
  ...section(7, 1, ...name("digest"), 0, 0),
  ...section(10, 1, ...size(CODE.length), ...CODE),
]);

Deno.test("DIGEST is what its text says", () => {
  assertEquals(DIGEST, MODULE.toHex());
});
