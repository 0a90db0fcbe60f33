/** mallocd-client realloc: another length for an allocation. */

import { define, parsePointer, parseSizeOf, printBlock } from "../command.ts";

export const realloc = define({
  words: "PTR LEN",
  help: "resize an allocation and print its pointer, which may have changed",
  details: "What it holds is kept up to the smaller length, new bytes are zero. " +
    "PTR 0 allocates; LEN 0 frees and prints 0.",
  example: "mallocd-client realloc 842350460928 100",
  prepare: ([pointer, length]) => {
    const address = parsePointer(pointer!);
    const bytes = parseSizeOf("LEN", length!);
    return (context) => printBlock(context, () => context.remote.realloc(address, bytes), address);
  },
});
