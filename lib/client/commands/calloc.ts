/** mallocd-client calloc: an array of zeroed elements. */

import { define, NUMBERS, parseNumber, parseSizeOf, printBlock } from "../command.ts";

export const calloc = define({
  words: "N SIZE",
  help: "allocate N zeroed elements of SIZE bytes and print the pointer",
  details: NUMBERS,
  example: "mallocd-client calloc 16 64",
  prepare: ([count, size]) => {
    const elements = parseNumber("N", count!);
    const bytes = parseSizeOf("SIZE", size!);
    return (context) => printBlock(context, () => context.remote.calloc(elements, bytes));
  },
});
