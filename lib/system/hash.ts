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

  /**
   * The hash, 30 bits, of the IP address of the SOURCE_BYTES at `source`: of nothing else there, for what
   * is beside it a client may choose.
   */
  address(bytes: DataView, source: number): number {
    const isInet = bytes.getUint16(source, true) === FAMILY_INET;
    const end = source + (isInet ? 8 : 24);
    let hash = this.seed;
    for (let at = source + (isInet ? 4 : 8); at < end; at += 4) {
      hash = this.mix(hash, bytes.getInt32(at));
    }
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

/** The module. To put it together here would take half a millisecond of each start: tests/system/hash_test.ts does. */
export const DIGEST =
  "0061736d010000000188000160037f7f7f017f0294000200066d656d6f727902000000036b6579037e0003820001" +
  "00078a00010664696765737400000a880201850201047e2002ad2103420121044202210542032106200141204f04" +
  "400340200320002900008523007e421d892103200420002900088523007e421d892104200520002900108523007e" +
  "421d892105200620002900188523007e421d892106200041206a2100200141206b2101200141204f0d000b200320" +
  "048523007e421d892103200320058523007e421d892103200320068523007e421d8921030b200141084f04400340" +
  "200320002900008523007e421d892103200041086a2100200141086b2101200141084f0d000b0b200141014f0440" +
  "0340200320003100008523007e421d892103200041016a2100200141016b2101200141014f0d000b0b200323007e" +
  "422088a70b";

/** A digest over one memory; `secrets` as for KeyedHash. Out of bounds it throws. */
export function newDigest(memory: WebAssembly.Memory, secrets?: Int32Array): Digest {
  const [high, low] = chosen(secrets);
  const key = new WebAssembly.Global(
    { value: "i64" },
    BigInt(high!) << 32n | BigInt(low! >>> 0) | 1n,
  );
  const module = new WebAssembly.Module(Uint8Array.fromHex(DIGEST));
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
