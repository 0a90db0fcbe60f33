/** mallocd-client version: how it is called. The program answers it, as it does --version. */

import { describe } from "../command.ts";

export const version = describe({
  words: "",
  help: "print the version",
  example: "mallocd-client version",
});
