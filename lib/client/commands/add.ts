/** mallocd-client add: fetch-and-add. */

import { define, parseNumber, parsePointer, print } from "../command.ts";

export const add = define({
  words: "PTR DELTA",
  help: "add DELTA to the 8 bytes at PTR and print the old value",
  details:
    "The value is big-endian, PTR a multiple of 8. DELTA may be negative; the sum is taken modulo 2^64.",
  example: "mallocd-client add 842350460928 -1",
  prepare: ([pointer, delta]) => {
    const address = parsePointer(pointer!);
    const summand = parseNumber("DELTA", delta!, { negative: true });
    return async (context) => {
      const old = await context.remote.fetchAndAdd(address, summand);
      print(context, `${old}\n`, { old: `${old}` });
      return true;
    };
  },
});
