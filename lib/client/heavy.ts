/** The commands whose modules take time to load: the shell, with its line editor, the load generator, and the screen of top. */

import { bench } from "./bench.ts";
import { program } from "./program.ts";
import { shell } from "./shell.ts";
import { top } from "./top.ts";

export function main(args: readonly string[]): Promise<number> {
  return program(args, { bench, shell, top });
}
