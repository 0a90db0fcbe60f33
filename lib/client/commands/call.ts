/** mallocd-client call: runs a procedure. */

import { define, parseNumber, print } from "../command.ts";

export const call = define({
  words: "HANDLE [ARG...]",
  help: "call a procedure and print what it returns",
  details:
    "Each ARG is 64 bits, and comes to the procedure big-endian, as a pointer or a number that " +
    "may be negative. What it returns is 32 bits, and no less than 0. It is run at most once, and " +
    "nothing that it did is undone if it fails.",
  example: "mallocd-client call 281474976710720 842350526464 100",
  prepare: ([handle, ...words]) => {
    const procedure = parseNumber("HANDLE", handle!);
    const args = words.map((word) => parseNumber("ARG", word, { negative: true }));
    return async (context) => {
      const value = await context.remote.call(procedure, args);
      print(context, `${value}\n`, { value: `${value}` });
      return true;
    };
  },
});
