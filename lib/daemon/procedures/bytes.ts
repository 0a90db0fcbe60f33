/**
 * The bytes of a WebAssembly module, in both directions: a cursor that reads them, and a sink that they
 * are appended to. Numbers are LEB128; a vector is a number of elements and the elements.
 */

/** A module is refused. The message says why, and at which of its bytes. */
export class ModuleRefused extends Error {
  override readonly name = "ModuleRefused";
  /** `offset` in the module, from its first byte. */
  constructor(reason: string, readonly offset: number) {
    super(`${reason}, at byte ${offset} of the module`);
  }
}

const decoder = new TextDecoder();

export class Cursor {
  at = 0;
  /** One past the last byte that may be read. */
  end: number;

  constructor(readonly bytes: Uint8Array) {
    this.end = bytes.length;
  }

  get isAtEnd(): boolean {
    return this.at >= this.end;
  }

  byte(): number {
    if (this.at >= this.end) throw new ModuleRefused("it is cut short", this.at);
    return this.bytes[this.at++]!;
  }

  /** An unsigned number of up to 32 bits, in up to 5 bytes: others V8 refuses where it sees them. */
  u32(): number {
    const from = this.at;
    let value = 0;
    for (let shift = 0; shift <= 28; shift += 7) {
      const byte = this.byte();
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80 && value < 2 ** 32) return value;
    }
    throw new ModuleRefused("it has a number of more than 32 bits", from);
  }

  /** A signed number of up to 32 bits. */
  s32(): number {
    let value = 0;
    for (let shift = 0;; shift += 7) {
      const byte = this.byte();
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return shift < 25 && byte >= 0x40 ? value | -1 << shift + 7 : value;
    }
  }

  /** Passes over a number of any length. */
  skipNumber(): void {
    while (this.byte() >= 0x80);
  }

  skip(length: number): void {
    if (length > this.end - this.at) throw new ModuleRefused("it is cut short", this.at);
    this.at += length;
  }

  text(): string {
    const length = this.u32();
    const from = this.at;
    this.skip(length);
    return decoder.decode(this.bytes.subarray(from, this.at));
  }

  /** What was read since `from`. */
  since(from: number): Uint8Array {
    return this.bytes.subarray(from, this.at);
  }
}

export class Sink {
  #buffer = new Uint8Array(64);
  #length = 0;

  /** What has been appended so far: a view, until more is. */
  get bytes(): Uint8Array {
    return this.#buffer.subarray(0, this.#length);
  }

  #grow(by: number): void {
    const wanted = this.#length + by;
    if (wanted <= this.#buffer.length) return;
    const larger = new Uint8Array(2 * wanted);
    larger.set(this.#buffer);
    this.#buffer = larger;
  }

  put(...bytes: readonly number[]): this {
    return this.copy(bytes);
  }

  copy(bytes: ArrayLike<number>): this {
    this.#grow(bytes.length);
    this.#buffer.set(bytes, this.#length);
    this.#length += bytes.length;
    return this;
  }

  #push(byte: number): void {
    this.#grow(1);
    this.#buffer[this.#length++] = byte;
  }

  u32(value: number): this {
    while (value >= 0x80) {
      this.#push(value & 0x7f | 0x80);
      value >>>= 7;
    }
    this.#push(value);
    return this;
  }

  s32(value: number): this {
    while (value < -64 || value > 63) {
      this.#push(value & 0x7f | 0x80);
      value >>= 7;
    }
    this.#push(value & 0x7f);
    return this;
  }

  text(text: string): this {
    const bytes = new TextEncoder().encode(text);
    return this.u32(bytes.length).copy(bytes);
  }

  /** Room for a number from 0 to 2^31 - 1 that `fill` will know. */
  hole(): number {
    this.put(0x80, 0x80, 0x80, 0x80, 0x00);
    return this.#length - 5;
  }

  /** Puts into a hole what belongs there; as an s32 it is the same number as it is as a u32. */
  fill(hole: number, value: number): void {
    for (let i = 0; i < 5; i++) {
      this.#buffer[hole + i] = value >>> 7 * i & 0x7f | (i < 4 ? 0x80 : 0);
    }
  }

  /** A section, or a body: its length, and what it is. */
  sized(content: Sink): this {
    return this.u32(content.bytes.length).copy(content.bytes);
  }

  section(id: number, content: Sink): this {
    return this.put(id).sized(content);
  }
}
