/** mallocd-client free: gives an allocation back. */

import { define, NUMBERS, parseNumber } from "../command.ts";

export const free = define({
  words: "PTR",
  help: "free an allocation",
  details: NUMBERS,
  example: "mallocd-client free 842350460928",
  prepare: ([pointer]) => {
    const address = parseNumber("PTR", pointer!);
    return async ({ remote }) => {
      await remote.free(address);
      return true;
    };
  },
});
