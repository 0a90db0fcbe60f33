/** mallocd-client malloc: zeroed memory, and its pointer. */

import { define, NUMBERS, parseNumber, printPointer } from "../command.ts";

export const malloc = define({
  words: "LEN",
  help: "allocate LEN zeroed bytes and print the pointer",
  details: NUMBERS,
  example: "mallocd-client malloc 5",
  prepare: ([length]) => {
    const bytes = parseNumber("LEN", length!);
    return async (context) => printPointer(context, await context.remote.malloc(bytes));
  },
});
