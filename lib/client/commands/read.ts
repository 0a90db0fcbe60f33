/** mallocd-client read: bytes as they are. */

import { define, parseLength, parseNumber } from "../command.ts";

export const read = define({
  words: "PTR LEN",
  help: "print LEN bytes at PTR, exactly; on a terminal a newline follows",
  details: "What is longer than a datagram is read in pieces, so not atomically.",
  example: "mallocd-client read 842350460928 5",
  prepare: ([pointer, length]) => {
    const address = parseNumber("PTR", pointer!);
    const bytes = parseLength(length!);
    return async ({ remote, terminal }) => {
      terminal.write(await remote.read(address, bytes));
      if (terminal.isTerminal) terminal.write("\n");
      return true;
    };
  },
});
