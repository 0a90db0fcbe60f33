/** mallocd-client sync: what was done before is on the disk. */

import { define, print } from "../command.ts";

export const sync = define({
  words: "",
  help: "wait until all that was done before is on the daemon's disk",
  details:
    "The daemon must have a heap file. What it has answered survives its process without this, but " +
    "only what is on the disk survives the machine, and only if the daemon is ended before that goes down.",
  example: "mallocd-client sync",
  silent: true,
  prepare: () => async (context) => {
    await context.remote.sync({ signal: context.terminal.signal });
    print(context, "", { synced: true });
    return true;
  },
});
