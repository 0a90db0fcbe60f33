/** A keyed hash for tables whose keys come from strangers. */

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
  constructor(secrets: Int32Array = new Int32Array(2)) {
    if (secrets.every((word) => word === 0)) {
      secrets.set(crypto.getRandomValues(new Int32Array(secrets.length)));
    }
    const [seed, multiplier] = secrets;
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
