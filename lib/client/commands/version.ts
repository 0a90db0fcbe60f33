/** mallocd-client version: that of the program, without a daemon. */

import { VERSION } from "../../cli/version.ts";
import { define, type Output, print } from "../command.ts";

export const version = define({
  words: "",
  help: "print the version",
  example: "mallocd-client version",
  prepare: () => (context) => {
    printVersion(context);
    return Promise.resolve(true);
  },
});

export function printVersion(output: Output): void {
  print(output, `mallocd-client ${VERSION}\n`, { version: VERSION });
}
