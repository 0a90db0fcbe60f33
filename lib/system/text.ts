/** The text of a file, by libc: Deno reads the kernel's own, /proc and /sys, only for who has all permissions. */

import type { Libc } from "./libc.ts";

const PIECE = 64 * 1024;
const O_RDONLY_CLOEXEC = 0o2000000;

/** The functions of libc that it takes. */
export const READING = ["open", "read", "close"] as const;

/** Undefined if it cannot be read. */
export function readText(libc: Libc<(typeof READING)[number]>, path: string): string | undefined {
  const { open, read, close } = libc.symbols;
  const fd = open(new TextEncoder().encode(`${path}\0`), O_RDONLY_CLOEXEC);
  if (fd < 0) return undefined;
  const bytes = new Uint8Array(PIECE);
  const decoder = new TextDecoder();
  let text = "";
  for (let length; (length = Number(read(fd, bytes, BigInt(PIECE)))) > 0;) {
    text += decoder.decode(bytes.subarray(0, length), { stream: true });
  }
  close(fd);
  return text;
}
