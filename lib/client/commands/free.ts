/** mallocd-client free: gives an allocation back. */

import { define, NUMBERS, parsePointer, print } from "../command.ts";

export const free = define({
  words: "PTR",
  help: "free an allocation",
  details: NUMBERS,
  example: "mallocd-client free 842350460928",
  silent: true,
  prepare: ([pointer]) => {
    const address = parsePointer(pointer!);
    return async (context) => {
      await context.remote.free(address);
      print(context, "", { pointer: address });
      return true;
    };
  },
});
