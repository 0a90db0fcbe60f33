/**
 * generate.ts FOLDER: writes the manual pages and the completions of both programs below FOLDER, from the
 * tables of flags and commands that --help is made of.
 */

import type { Program } from "../lib/cli/flags.ts";
import { CLIENT } from "../lib/client/flags.ts";
import { DAEMON } from "../lib/daemon/flags.ts";
import { VERSION } from "../lib/cli/version.ts";
import { bashCompletion, fishCompletion, zshCompletion } from "./completions.ts";
import { manualPage } from "./manual.ts";

export const PROGRAMS: readonly Program[] = [DAEMON, CLIENT];

/** The text of each file by its path. Packages look for the names of the completions, too. */
export function generate(): Map<string, string> {
  const files = new Map<string, string>();
  for (const program of PROGRAMS) {
    files.set(`man/${program.name}.${program.section}`, manualPage(program, VERSION));
    files.set(`completions/bash/${program.name}`, bashCompletion(program));
    files.set(`completions/zsh/_${program.name}`, zshCompletion(program));
    files.set(`completions/fish/${program.name}.fish`, fishCompletion(program));
  }
  return files;
}

if (import.meta.main) {
  const [folder] = Deno.args;
  if (folder === undefined) throw new Error("usage: generate.ts FOLDER");
  for (const [path, text] of generate()) {
    const file = `${folder}/${path}`;
    Deno.mkdirSync(file.slice(0, file.lastIndexOf("/")), { recursive: true });
    Deno.writeTextFileSync(file, text);
  }
}
