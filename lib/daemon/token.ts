/**
 * Tokens, by which a client proves that it can be reached at the address that it sends from (RFC 9000,
 * section 8.1): a keyed MAC of the source, which only who receives there has seen. They need no memory:
 * a token is made again to be compared. The MAC is HalfSipHash-2-4 with 64 bits of output (Aumasson and
 * Bernstein, SipHash: a fast short-input PRF, 2012; its reference implementation publishes the vectors).
 */

import { type Arrays, int32, standAlone } from "../heap/metadata.ts";
import { SOURCE_BYTES } from "../system/address.ts";

/** How long a key is used for new tokens; those of the one before it are accepted as long again. */
export const KEY_SECONDS = 600;

const KEY_WORDS = 2;

/** The arrays of tokens. */
export function tokenShape() {
  return {
    key: int32(KEY_WORDS),
    previous: int32(KEY_WORDS),
    /** The second in which the key was made; with one more, for 0 is none. */
    since: int32(1),
  };
}

/** HalfSipHash-2-4 of whole 32-bit words, which are read little-endian. Makes no garbage. */
export class HalfSipHash {
  /** The output, first half first. */
  first = 0;
  second = 0;
  #v0 = 0;
  #v1 = 0;
  #v2 = 0;
  #v3 = 0;

  /** Hashes `length` bytes at `at`, a multiple of 4 and less than 256, with a key of two words. */
  hash(key: Int32Array | Uint32Array, bytes: DataView, at: number, length: number): void {
    this.#v0 = key[0]! | 0;
    this.#v1 = key[1]! | 0;
    this.#v2 = 0x6c796765 ^ key[0]!;
    this.#v3 = 0x74656462 ^ key[1]!; // the constants of the reference
    this.#v1 ^= 0xee; // 64 bits of output
    for (let i = 0; i < length; i += 4) this.#absorb(bytes.getInt32(at + i, true));
    this.#absorb(length << 24); // what is left over, nothing, and the length
    this.#v2 ^= 0xee;
    this.#rounds(4);
    this.first = this.#v1 ^ this.#v3;
    this.#v1 ^= 0xdd;
    this.#rounds(4);
    this.second = this.#v1 ^ this.#v3;
  }

  #absorb(word: number): void {
    this.#v3 ^= word;
    this.#rounds(2);
    this.#v0 ^= word;
  }

  #rounds(count: number): void {
    let v0 = this.#v0;
    let v1 = this.#v1;
    let v2 = this.#v2;
    let v3 = this.#v3;
    for (let i = 0; i < count; i++) {
      v0 = (v0 + v1) | 0;
      v1 = (v1 << 5 | v1 >>> 27) ^ v0;
      v0 = v0 << 16 | v0 >>> 16;
      v2 = (v2 + v3) | 0;
      v3 = (v3 << 8 | v3 >>> 24) ^ v2;
      v0 = (v0 + v3) | 0;
      v3 = (v3 << 7 | v3 >>> 25) ^ v0;
      v2 = (v2 + v1) | 0;
      v1 = (v1 << 13 | v1 >>> 19) ^ v2;
      v2 = v2 << 16 | v2 >>> 16;
    }
    this.#v0 = v0;
    this.#v1 = v1;
    this.#v2 = v2;
    this.#v3 = v3;
  }
}

export class Tokens {
  readonly #io: DataView;
  readonly #clock: Int32Array;
  readonly #mac = new HalfSipHash();
  readonly #key: Int32Array;
  readonly #previous: Int32Array;
  readonly #since: Int32Array;

  /** `clock[0]` is the time in seconds. Sources and tokens lie in the I/O memory. */
  constructor(
    io: WebAssembly.Memory,
    clock: Int32Array,
    { key, previous, since }: Arrays<ReturnType<typeof tokenShape>> = standAlone(tokenShape()),
  ) {
    this.#io = new DataView(io.buffer);
    this.#clock = clock;
    this.#key = key;
    this.#previous = previous;
    this.#since = since;
    if (since[0] !== 0) return;
    drawKey(previous);
    drawKey(key);
    since[0] = clock[0]! + 1;
  }

  /** Writes the token of a source, 8 bytes and never 0, to `at`. */
  write(source: number, at: number): void {
    this.#rotate();
    this.#sign(this.#key, source);
    this.#io.setInt32(at, this.#mac.first);
    this.#io.setInt32(at + 4, this.#mac.second);
  }

  /** Whether the 8 bytes at `at` are a token of this source, made with this key or the one before. */
  accepts(source: number, at: number): boolean {
    const first = this.#io.getInt32(at);
    const second = this.#io.getInt32(at + 4);
    if ((first | second) === 0) return false;
    this.#rotate();
    this.#sign(this.#key, source);
    if (((this.#mac.first ^ first) | (this.#mac.second ^ second)) === 0) return true;
    this.#sign(this.#previous, source);
    return ((this.#mac.first ^ first) | (this.#mac.second ^ second)) === 0;
  }

  #sign(key: Int32Array, source: number): void {
    this.#mac.hash(key, this.#io, source, SOURCE_BYTES);
    if ((this.#mac.first | this.#mac.second) === 0) this.#mac.second = 1; // 0 is no token
  }

  #rotate(): void {
    const age = this.#clock[0]! + 1 - this.#since[0]!;
    if (age < KEY_SECONDS) return;
    if (age < 2 * KEY_SECONDS) {
      this.#previous.set(this.#key);
      this.#since[0]! += KEY_SECONDS; // and not now: it is no younger for having been asked for late
    } else { // nothing is left to be accepted
      drawKey(this.#previous);
      this.#since[0] = this.#clock[0]! + 1;
    }
    drawKey(this.#key);
  }
}

/** The generator does not write to shared memory. */
function drawKey(key: Int32Array): void {
  key.set(crypto.getRandomValues(new Int32Array(KEY_WORDS)));
}
