/** mallocd-client dump: bytes as a person reads them. */

import { define, parseLength, parseNumber } from "../command.ts";

export const dump = define({
  words: "PTR LEN",
  help: "show LEN bytes at PTR in hexadecimal and ASCII, with their addresses",
  details: "Like hexdump -C: a line that repeats the one before is shown as *.",
  example: "mallocd-client dump 842350460928 64",
  prepare: ([pointer, length]) => {
    const address = parseNumber("PTR", pointer!);
    const bytes = parseLength(length!);
    return async ({ remote, terminal }) => {
      terminal.write(hexdump(await remote.read(address, bytes), address));
      return true;
    };
  },
});

const ROW = 16;

/** The output of `hexdump -C`, with addresses of 64 bits. */
export function hexdump(bytes: Uint8Array, address: bigint): string {
  const lines: string[] = [];
  let last = "";
  for (let at = 0; at < bytes.length; at += ROW) {
    const row = bytes.subarray(at, at + ROW);
    const hex = Array.from(row, (byte) => byte.toString(16).padStart(2, "0"));
    const columns = `${hex.slice(0, 8).join(" ")}  ${hex.slice(8).join(" ")}`.padEnd(3 * ROW);
    const ascii = String.fromCharCode(...row).replace(/[^ -~]/g, ".");
    const text = `${columns}  |${ascii}|`;
    if (text !== last || row.length < ROW) {
      lines.push(`${formatAddress(address + BigInt(at))}  ${text}`);
    } else if (lines.at(-1) !== "*") lines.push("*");
    last = text;
  }
  lines.push(formatAddress(address + BigInt(bytes.length)));
  return lines.join("\n") + "\n";
}

function formatAddress(address: bigint): string {
  return address.toString(16).padStart(16, "0");
}
