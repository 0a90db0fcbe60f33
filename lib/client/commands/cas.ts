/** mallocd-client cas: compare-and-swap. */

import { define, parseNumber, parsePointer, print } from "../command.ts";

export const cas = define({
  words: "PTR EXPECTED DESIRED",
  help: "compare-and-swap the 8 bytes at PTR and print the old value",
  details:
    "The value is big-endian, PTR a multiple of 8. It was swapped if what is printed is EXPECTED.",
  example: "mallocd-client cas 842350460928 0 1",
  prepare: ([pointer, expected, desired]) => {
    const address = parsePointer(pointer!);
    const from = parseNumber("EXPECTED", expected!, { negative: true });
    const to = parseNumber("DESIRED", desired!, { negative: true });
    return async (context) => {
      const old = await context.remote.compareAndSwap(address, from, to);
      print(context, `${old}\n`, { old: `${old}`, swapped: old === BigInt.asUintN(64, from) });
      return true;
    };
  },
});
