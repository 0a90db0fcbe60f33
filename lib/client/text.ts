/**
 * Bytes as text, and back. A word may hold any bytes: one that is not part of UTF-8 is the lone surrogate
 * U+DC00 + byte in it, as Python has it (PEP 383, surrogateescape).
 */

const LONE = 0xdc00;

/** The bytes that a text stands for. */
export function bytesOf(text: string): Uint8Array {
  const parts = text.split(/([\udc80-\udcff]+)/u);
  if (parts.length === 1) return new TextEncoder().encode(text);
  const bytes = parts.map((part, i) =>
    i % 2 === 0 ? new TextEncoder().encode(part) : Uint8Array.from(part, byteOf)
  );
  const joined = new Uint8Array(bytes.reduce((sum, { length }) => sum + length, 0));
  let end = 0;
  for (const part of bytes) {
    joined.set(part, end);
    end += part.length;
  }
  return joined;
}

function byteOf(lone: string): number {
  return lone.charCodeAt(0) - LONE;
}

/** A text that stands for these bytes. */
export function textOf(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return Array.from(bytes, characterOf).join("");
  }
}

/** What a byte is by itself. */
export function characterOf(byte: number): string {
  return String.fromCharCode(byte < 0x80 ? byte : LONE + byte);
}

/** What has a meaning between double quotes (line.ts). */
const SPECIAL: readonly string[] = ['"', "\\", "$"];

/** Bytes as they stand between double quotes in a line: what is no printable ASCII as \\xHH. */
export function quotable(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => {
    if (byte < 0x20 || byte > 0x7e) return `\\x${byte.toString(16).padStart(2, "0")}`;
    const character = String.fromCharCode(byte);
    return SPECIAL.includes(character) ? `\\${character}` : character;
  }).join("");
}
