/** mallocd-client malloc: zeroed memory, and its pointer. */

import { define, NUMBERS, parseSizeOf, printBlock } from "../command.ts";

export const malloc = define({
  words: "LEN",
  help: "allocate LEN zeroed bytes and print the pointer",
  details: NUMBERS,
  example: "mallocd-client malloc 5",
  prepare: ([length]) => {
    const bytes = parseSizeOf("LEN", length!);
    return (context) => printBlock(context, () => context.remote.malloc(bytes));
  },
});
