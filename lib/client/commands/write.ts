/** mallocd-client write: words, or standard input, into the heap. */

import { concat } from "@std/bytes";
import { UsageError } from "../../cli/flags.ts";
import { define, parseLength, parseNumber } from "../command.ts";

export const write = define({
  words: "PTR LEN [DATA...]",
  help: "write LEN bytes of DATA, or of standard input, at PTR",
  details:
    "Several words are joined by blanks; what begins with a dash goes after --. LEN - means as " +
    "long as the data is; otherwise data must have that length. What is longer than a datagram is " +
    "written in pieces, so not atomically.",
  example: "mallocd-client write 842350460928 5 hello",
  prepare: ([pointer, length, ...words]) => {
    const address = parseNumber("PTR", pointer!);
    const wanted = length === "-" ? undefined : parseLength(length!);
    const check = (data: Uint8Array) => {
      if (wanted === undefined || data.length === wanted) return data;
      throw new UsageError(
        `LEN is ${wanted} but DATA is ${data.length} bytes long`,
        `use ${data.length}, or - for as long as the data is`,
      );
    };
    const given = words.length === 0 ? undefined : check(new TextEncoder().encode(words.join(" ")));
    return async ({ remote, terminal }) => {
      await remote.write(address, given ?? check(concat(await Array.fromAsync(terminal.input))));
      return true;
    };
  },
});
