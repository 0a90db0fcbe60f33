/** mallocd-client dump: bytes as a person reads them. */

import { define, parseLength, parsePointer, printBytes, readAll } from "../command.ts";

export const dump = define({
  words: "PTR LEN",
  help: "show LEN bytes at PTR in hexadecimal and ASCII, with their addresses",
  details: "Like hexdump -C: a line that repeats the one before is shown as *. " +
    "With --json the bytes are bare hexadecimal, and each MiB an object.",
  example: "mallocd-client dump 842350460928 64",
  prepare: ([pointer, length]) => {
    const address = parsePointer(pointer!);
    const bytes = parseLength(length!);
    return async (context) => {
      const { terminal, json } = context;
      const hexdump = new Hexdump();
      await readAll(context, address, bytes, (data, at) => {
        if (json) printBytes(context, at, data, "hex");
        else terminal.write(hexdump.rows(data, at));
      });
      if (!json) terminal.write(`${formatAddress(address + BigInt(bytes))}\n`);
      return true;
    };
  },
});

const ROW = 16;
/** A row: its address, its bytes, its text between bars, a newline. */
const HEX_AT = 18;
const TEXT_AT = 69;
const ROW_LENGTH = TEXT_AT + ROW + 2;
const DIGITS = new TextEncoder().encode("0123456789abcdef");
const [BLANK, TILDE, BAR, DOT, STAR, NEWLINE] = [0x20, 0x7e, 0x7c, 0x2e, 0x2a, 0x0a];

/**
 * The rows of `hexdump -C`, with addresses of 64 bits, of bytes that come in pieces of whole rows. They are
 * put together byte by byte, in memory that is used again: a GiB has 67 million of them.
 */
class Hexdump {
  #text = new Uint8Array();
  readonly #last = new Uint8Array(ROW);
  #hasLast = false;
  #isStarred = false;

  /** They are valid until the next ones are made. */
  rows(bytes: Uint8Array, address: bigint): Uint8Array {
    const most = Math.ceil(bytes.length / ROW) * ROW_LENGTH;
    if (this.#text.length < most) this.#text = new Uint8Array(most);
    const text = this.#text;
    const first = Number(address & 0xffffffffn);
    const high = Number(address >> 32n);
    let end = 0;
    for (let at = 0; at < bytes.length; at += ROW) {
      const size = Math.min(ROW, bytes.length - at);
      if (!this.#isRepeat(bytes, at, size)) {
        const low = first + at;
        writeDigits(text, end, low < 2 ** 32 ? high : high + 1);
        writeDigits(text, end + 8, low);
        end = writeBytes(text, end, bytes, at, size);
        this.#isStarred = false;
      } else if (!this.#isStarred) {
        text[end++] = STAR;
        text[end++] = NEWLINE;
        this.#isStarred = true;
      }
    }
    return text.subarray(0, end);
  }

  /** Whether it is a whole row, and the one before again. If not it is what the next one is held against. */
  #isRepeat(bytes: Uint8Array, at: number, size: number): boolean {
    let same = 0;
    if (this.#hasLast && size === ROW) {
      while (same < ROW && bytes[at + same] === this.#last[same]) same++;
    }
    if (same === ROW) return true;
    for (let i = 0; i < size; i++) this.#last[i] = bytes[at + i]!;
    this.#hasLast = size === ROW;
    return false;
  }
}

/** Eight digits, of the lower 32 bits of a number. */
function writeDigits(text: Uint8Array, at: number, number: number): void {
  for (let i = 0; i < 8; i++) text[at + i] = DIGITS[number >>> 28 - 4 * i & 15]!;
}

/** What follows the address in the row that begins at `start`; the result is where the next one begins. */
function writeBytes(
  text: Uint8Array,
  start: number,
  bytes: Uint8Array,
  at: number,
  size: number,
): number {
  text.fill(BLANK, start + HEX_AT - 2, start + TEXT_AT - 1);
  let end = start + TEXT_AT;
  text[end - 1] = BAR;
  for (let i = 0; i < size; i++) {
    const byte = bytes[at + i]!;
    const hex = start + HEX_AT + 3 * i + (i < ROW / 2 ? 0 : 1);
    text[hex] = DIGITS[byte >>> 4]!;
    text[hex + 1] = DIGITS[byte & 15]!;
    text[end++] = byte < BLANK || byte > TILDE ? DOT : byte;
  }
  text[end++] = BAR;
  text[end++] = NEWLINE;
  return end;
}

function formatAddress(address: bigint): string {
  return address.toString(16).padStart(16, "0");
}
