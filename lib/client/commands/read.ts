/** mallocd-client read: bytes as they are. */

import { define, parseLength, parsePointer, printBytes, readAll } from "../command.ts";

export const read = define({
  words: "PTR LEN",
  help: "print LEN bytes at PTR, exactly; on a terminal a newline follows",
  details: "What is longer than a datagram is read in pieces, so not atomically. " +
    "With --json the bytes are base64, and each MiB an object.",
  example: "mallocd-client read 842350460928 5",
  prepare: ([pointer, length]) => {
    const address = parsePointer(pointer!);
    const bytes = parseLength(length!);
    return async (context) => {
      const { terminal, json } = context;
      await readAll(context, address, bytes, (data, at) => {
        if (json) printBytes(context, at, data, "base64");
        else if (data.length > 0) terminal.write(data);
      });
      if (terminal.isTerminal && !json) terminal.write("\n");
      return true;
    };
  },
});
