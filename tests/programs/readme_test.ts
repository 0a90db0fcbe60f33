/** README.md at its word: its sessions print what it says, its table has the daemon's real options. */

import { assert, assertEquals } from "@std/assert";
import { DAEMON_FLAGS } from "../../lib/daemon/flags.ts";
import { type Flag, HELP_FLAGS } from "../../lib/cli/flags.ts";
import { Mallocd, ROOT, run } from "./programs.ts";

const readme = await Deno.readTextFile(new URL("README.md", ROOT));

/** The sessions: blocks of command lines after "$ ", each with the output that follows it. */
const sessions = [...readme.matchAll(/^```console\n(.*?)^```$/gms)].map(([, block = ""]) =>
  block.split(/^\$ /m).slice(1).map((step) => {
    const end = step.indexOf("\n");
    return { line: step.slice(0, end), output: step.slice(end + 1) };
  })
);

Deno.test("README.md has sessions", () => assert(sessions.length >= 2));

for (const [i, session] of sessions.entries()) {
  Deno.test(`README.md, session ${i + 1}, prints what it says`, async () => {
    await using daemon = await Mallocd.start();
    for (const { line, output } of session) {
      const { stdout } = await run("sh", ["-c", `{ ${line}\n} 2>&1`], { env: daemon.env });
      // On a terminal, what read prints ends with a newline.
      const shown = /[^\n]$/.test(stdout) ? `${stdout}\n` : stdout;
      assertEquals(shown, output, `$ ${line}`);
    }
  });
}

Deno.test("README.md lists the daemon's options with their defaults", () => {
  const rows = [...readme.matchAll(/^\| `--([\w-]+)[^|]*\| (.*?) *\|/gm)];
  const listed = rows.map(([, name, standard]) => [name, standard]);
  const flags: [string, Flag<unknown>][] = Object.entries(DAEMON_FLAGS);
  const real = flags.map(([name, flag]) => [name, flag.default ?? ""]);
  assertEquals(listed, real.filter(([name]) => !Object.hasOwn(HELP_FLAGS, name!)));
});
