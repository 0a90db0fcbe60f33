/** mallocd-client write: words, or standard input, into the heap. */

import { UsageError } from "../../cli/flags.ts";
import { formatSize } from "../../cli/sizes.ts";
import {
  asTyped,
  type Context,
  define,
  formatCall,
  mustFit,
  parseLength,
  parsePointer,
  print,
  WINDOW,
} from "../command.ts";
import { bytesOf } from "../text.ts";

export const write = define({
  words: "PTR LEN [DATA...]",
  help: "write LEN bytes of DATA, or of standard input, at PTR",
  details: "Several words are joined by blanks; what begins with a dash goes after --. " +
    "DATA must have that length; of standard input LEN bytes are read, and no more. LEN - means as " +
    "long as the data is. What is longer than a datagram is written in pieces, so not atomically.",
  example: "mallocd-client write 842350460928 5 hello",
  silent: true,
  prepare: ([pointer, length, ...words]) => {
    const address = parsePointer(pointer!);
    const wanted = length === "-" ? undefined : parseLength(length!);
    const given = words.length === 0 ? undefined : bytesOf(words.join(" "));
    if (given !== undefined && wanted !== undefined && given.length !== wanted) {
      throw new UsageError(
        `LEN is ${wanted} but DATA is ${given.length} bytes long`,
        `use ${given.length}, or - for as long as the data is`,
      );
    }
    return async (context) => {
      const length = given === undefined
        ? await writeInput(context, address, wanted)
        : await writeGiven(context, address, given);
      print(context, "", { pointer: address, length });
      return true;
    };
  },
});

async function writeGiven({ remote }: Context, address: bigint, data: Uint8Array): Promise<number> {
  mustFit(remote, "write", address, data.length);
  await asTyped("write", address, data.length, () => remote.write(address, data));
  return data.length;
}

/** Writes `wanted` bytes of standard input, or all there are, and resolves with how many these were. */
async function writeInput(
  { remote, terminal }: Context,
  address: bigint,
  wanted: number | undefined,
): Promise<number> {
  const expected = wanted ?? await terminal.inputLength();
  mustFit(remote, "write", address, expected ?? 0);
  const window = new Uint8Array(Math.min(WINDOW, wanted ?? WINDOW));
  let done = 0;
  for (;;) {
    const room = window.subarray(0, Math.min(window.length, (wanted ?? Infinity) - done));
    const length = await fill(room, terminal);
    const isShort = length < room.length;
    if (isShort && wanted !== undefined) {
      throw new UsageError(
        `LEN is ${wanted} but standard input ended after ${done + length} bytes` +
          (done === 0 ? "" : `, of which ${done} were written`),
        `use ${done + length}, or - for as long as the data is`,
      );
    }
    mustFit(remote, "write", address, done + length);
    // Behind the last byte may be nothing that a strict daemon admits, nor needs it be written to.
    if (length > 0 || done === 0) {
      const piece = room.subarray(0, length);
      await asTyped(
        "write",
        address,
        expected ?? done + length,
        () => remote.write(address + BigInt(done), piece),
      );
    }
    done += length;
    terminal.progress(
      `${formatCall("write", address, expected)}: ${formatSize(done)} written`,
    );
    if (isShort || done === wanted) break;
  }
  terminal.progress("");
  return done;
}

/** Reads until the bytes are full or the input has ended, and resolves with how many were read. */
async function fill(bytes: Uint8Array, terminal: Context["terminal"]): Promise<number> {
  let length = 0;
  while (length < bytes.length) {
    const count = await terminal.read(bytes.subarray(length));
    if (count === null) break;
    length += count;
  }
  return length;
}
