/**
 * generate.ts FOLDER: writes the manual pages and the completions of both programs below FOLDER, from the
 * tables of flags and commands that --help is made of.
 */

import { CLIENT } from "../lib/client/flags.ts";
import { DAEMON } from "../lib/daemon/flags.ts";
import { VERSION } from "../lib/cli/version.ts";
import { bashCompletion, fishCompletion, zshCompletion } from "./completions.ts";
import { type Manual, manualPage } from "./manual.ts";

const MISUSED = "The command line, or a variable, cannot be understood; nothing was done.";

export const MANUALS: readonly Manual[] = [
  {
    program: DAEMON,
    section: 8,
    exitStatus: [
      ["0", "It was told to end by a signal."],
      ["1", "It could not start; standard error says why, and what to do about it."],
      ["2", MISUSED],
    ],
    signals: [[
      "SIGINT, SIGTERM",
      "It receives no more, sends the replies that are due, prints the totals and ends.",
    ]],
    seeAlso: [["mallocd-client", 1], ["malloc", 3], ["udp", 7]],
  },
  {
    program: CLIENT,
    section: 1,
    exitStatus: [
      ["0", "It was done."],
      ["1", "The daemon refused or did not answer, or what it measured was lost or wrong."],
      ["2", MISUSED],
    ],
    seeAlso: [["mallocd", 8], ["malloc", 3]],
  },
];

/** The text of each file by its path. Packages look for the names of the completions, too. */
export function generate(): Map<string, string> {
  const files = new Map<string, string>();
  for (const manual of MANUALS) {
    const { program, section } = manual;
    files.set(`man/${program.name}.${section}`, manualPage(manual, VERSION));
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
