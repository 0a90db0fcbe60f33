/** mallocd-client: the command line, which is lib/client/program.ts. */

import { program } from "./lib/client/program.ts";

// Loaded for the commands that need it only: it takes time.
const heavy = async (args: readonly string[]) =>
  await (await import("./lib/client/heavy.ts")).main(args);

Deno.exit(await program(Deno.args, heavy));
