/** The text of a file, by libc: Deno reads the kernel's own, /proc and /sys, only for who has all permissions. */

const PIECE = 64 * 1024;
const O_RDONLY_CLOEXEC = 0o2000000;

/** The functions of libc that it takes, and no others, since each takes its time to open. */
export const READING = {
  open: { parameters: ["buffer", "i32"], result: "i32" },
  read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  close: { parameters: ["i32"], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

/** Undefined if it cannot be read. */
export function readText(
  { open, read, close }: Deno.StaticForeignLibraryInterface<typeof READING>,
  path: string,
): string | undefined {
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
