/** mallocd-client: a command line in, calls of the daemon, an exit code out. */

import { program } from "./lib/cli/program.ts";

Deno.exit(await program(Deno.args));
