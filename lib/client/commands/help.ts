/** mallocd-client help: how it is called. The program answers it, as it does --help. */

import { describe } from "../command.ts";

export const help = describe({
  words: "[COMMAND]",
  help: "explain a command, or list all of them",
  example: "mallocd-client help malloc",
});
