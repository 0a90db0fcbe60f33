/** The commands whose modules take time to load: the shell, with its line editor, and the load generator. */

import { bench } from "./bench.ts";
import { program } from "./program.ts";
import { shell } from "./shell.ts";

export function main(args: readonly string[]): Promise<number> {
  return program(args, { bench, shell });
}
