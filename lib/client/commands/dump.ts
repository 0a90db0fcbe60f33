/** mallocd-client dump: bytes as a person reads them. */

import { define, parseLength, parsePointer, print, readAll } from "../command.ts";

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
        if (json) {
          print(context, "", { pointer: at, length: data.length, hex: () => data.toHex() });
        } else terminal.write(hexdump.rows(data, at));
      });
      if (!json) terminal.write(`${formatAddress(address + BigInt(bytes))}\n`);
      return true;
    };
  },
});

const ROW = 16;

/** The rows of `hexdump -C`, with addresses of 64 bits, of bytes that come in pieces of whole rows. */
class Hexdump {
  #last = "";
  #isStarred = false;

  rows(bytes: Uint8Array, address: bigint): string {
    const lines: string[] = [];
    for (let at = 0; at < bytes.length; at += ROW) {
      const row = bytes.subarray(at, at + ROW);
      const hex = Array.from(row, (byte) => byte.toString(16).padStart(2, "0"));
      const columns = `${hex.slice(0, 8).join(" ")}  ${hex.slice(8).join(" ")}`.padEnd(3 * ROW);
      const ascii = String.fromCharCode(...row).replace(/[^ -~]/g, ".");
      const text = `${columns}  |${ascii}|`;
      const isRepeat = text === this.#last && row.length === ROW;
      if (!isRepeat) lines.push(`${formatAddress(address + BigInt(at))}  ${text}\n`);
      else if (!this.#isStarred) lines.push("*\n");
      this.#isStarred = isRepeat;
      this.#last = text;
    }
    return lines.join("");
  }
}

function formatAddress(address: bigint): string {
  return address.toString(16).padStart(16, "0");
}
