/** mallocd-client: the command line, which is lib/client/program.ts. */

import { program } from "./lib/client/program.ts";

Deno.exit(await program(Deno.args));
