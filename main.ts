/** mallocd: the daemon, which is lib/daemon/program.ts. */

import { program } from "./lib/daemon/program.ts";

Deno.exit(await program(Deno.args));
