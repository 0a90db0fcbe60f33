/** Keyed hashes: of a few words, for tables whose keys come from strangers, and of any number of bytes. */

import { FAMILY_INET } from "./address.ts";

/**
 * Mixes 32-bit words, with two secrets. One alone, in front of a multiplication that everybody knows, is
 * not enough: a bit that changes at the top of a word then changes the same bits of every hash, whatever
 * the secret, so that who chooses a word can collide with another, and the next word can undo it. It is
 * no MAC: who sees hashes can find the secrets. Makes no garbage.
 */
export class KeyedHash {
  /** What to begin with. */
  readonly seed: number;
  /** Odd, so that no two words give the same hash. */
  readonly #multiplier: number;

  /** `secrets` are two words, which are chosen if they are zero: whoever has them makes the same hashes. */
  constructor(secrets?: Int32Array) {
    const [seed, multiplier] = chosen(secrets);
    this.seed = seed!;
    this.#multiplier = multiplier! | 1;
  }

  /** The hash, 32 bits and signed, of all words of `hash` and one more. */
  mix(hash: number, word: number): number {
    const known = Math.imul(hash ^ word, 0x9e3779b1);
    const secret = Math.imul(known ^ known >>> 15, this.#multiplier);
    return secret ^ secret >>> 13;
  }

  /** The hash, 30 bits, of the IP address, without its port, of the SOURCE_BYTES at `source`. */
  address(bytes: DataView, source: number): number {
    const words = bytes.getUint16(source, true) === FAMILY_INET ? 1 : 5;
    let hash = this.seed;
    for (let i = 1; i <= words; i++) hash = this.mix(hash, bytes.getInt32(source + 4 * i));
    return hash >>> 2; // a small integer, which is never boxed
  }
}

/**
 * A hash of `length` bytes at `at` of a memory, 32 bits and signed, another one for each seed. It tells
 * apart what nobody made alike on purpose. In WebAssembly, which has 64-bit words, and four at a time, so
 * that no multiplication waits for the one before it: 3 microseconds for 60,000 bytes. In the text format,
 * where `(step x w)` stands for `(i64.rotl (i64.mul (i64.xor x w) (global.get $key)) (i64.const 29))`:
 *
 *     (module
 *       (import "" "memory" (memory 0))
 *       (import "" "key" (global $key i64))            ;; secret, and odd
 *       (func (export "digest") (param $at i32) (param $length i32) (param $seed i32) (result i32)
 *         (local $a i64) (local $b i64) (local $c i64) (local $d i64)
 *         (local.set $a (i64.extend_i32_u (local.get $seed)))
 *         (if (i32.ge_u (local.get $length) (i32.const 32)) (then
 *           (local.set $b (i64.const 1)) (local.set $c (i64.const 2)) (local.set $d (i64.const 3))
 *           (loop
 *             (local.set $a (step (local.get $a) (i64.load offset=0 (local.get $at))))
 *             ... the same of $b, $c and $d at the offsets 8, 16 and 24
 *             (local.set $at (i32.add (local.get $at) (i32.const 32)))
 *             (local.set $length (i32.sub (local.get $length) (i32.const 32)))
 *             (br_if 0 (i32.ge_u (local.get $length) (i32.const 32))))
 *           (local.set $a (step (local.get $a) (local.get $b)))
 *           ... the same with $c and $d))
 *         ... a loop like that one for each 8 bytes that are left, and one for each byte, to $a alone
 *         (i32.wrap_i64 (i64.shr_u (i64.mul (local.get $a) (global.get $key)) (i64.const 32)))))
 */
export type Digest = (at: number, length: number, seed: number) => number;

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

const MODULE = new Uint8Array([
  ...[0, ...new TextEncoder().encode("asm"), 1, 0, 0, 0],
  ...section(1, 1, 0x60, 3, I32, I32, I32, 1, I32),
  ...section(2, 2, ...name(""), ...name("memory"), 2, 0, 0, ...name(""), ...name("key"), 3, I64, 0),
  ...section(3, 1, 0),
  ...section(7, 1, ...name("digest"), 0, 0),
  ...section(10, 1, ...size(CODE.length), ...CODE),
]);

/** A digest over one memory; `secrets` as for KeyedHash. Out of bounds it throws. */
export function newDigest(memory: WebAssembly.Memory, secrets?: Int32Array): Digest {
  const [high, low] = chosen(secrets);
  const key = new WebAssembly.Global(
    { value: "i64" },
    BigInt(high!) << 32n | BigInt(low! >>> 0) | 1n,
  );
  const module = new WebAssembly.Module(MODULE);
  const { exports } = new WebAssembly.Instance(module, { "": { memory, key } });
  return exports["digest"] as Digest;
}

/** Two secret words, which are chosen if they are zero. */
function chosen(secrets: Int32Array = new Int32Array(2)): Int32Array {
  if (secrets.every((word) => word === 0)) {
    secrets.set(crypto.getRandomValues(new Int32Array(secrets.length)));
  }
  return secrets;
}
