/** mallocd-client uninstall: a procedure goes. */

import { define, parseNumber, print } from "../command.ts";

export const uninstall = define({
  words: "HANDLE",
  help: "uninstall a procedure, for everybody",
  example: "mallocd-client uninstall 281474976710720",
  silent: true,
  prepare: ([handle]) => {
    const procedure = parseNumber("HANDLE", handle!);
    return async (context) => {
      await context.remote.uninstall(procedure);
      print(context, "", { handle: `${procedure}` });
      return true;
    };
  },
});
