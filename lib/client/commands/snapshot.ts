/** mallocd-client snapshot: a consistent copy of the heap file. */

import { define, print } from "../command.ts";

export const snapshot = define({
  words: "",
  help: "have the daemon make a copy of its heap file that outlives the machine",
  details:
    "The copy is PATH.snapshot beside the daemon's heap file, in place of the one before. It holds all " +
    "that was done before, whatever becomes of the machine then, and a daemon can be started from it.",
  example: "mallocd-client snapshot",
  silent: true,
  prepare: () => async (context) => {
    await context.remote.snapshot({ signal: context.terminal.signal });
    print(context, "", { made: true });
    return true;
  },
});
