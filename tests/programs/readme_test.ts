/**
 * README.md at its word: its sessions print what it says, its table has the daemon's real options. And the
 * links of all documents lead somewhere.
 */

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

/** What follows "#" in a link to a heading, as GitHub makes it. */
function anchorOf(heading: string): string {
  return heading.toLowerCase().replace(/[^\p{L}\p{N}\- _]/gu, "").replaceAll(" ", "-");
}

Deno.test("links from one document to another lead to a file, and to a heading of it", async () => {
  const { stdout } = await run("sh", ["-c", `cd '${ROOT.pathname}' && ls *.md */*.md */*/*.md`]);
  let headings = 0;
  const lost: string[] = [];
  for (const name of stdout.trim().split("\n")) {
    const text = await Deno.readTextFile(new URL(name, ROOT));
    for (const [, target = ""] of text.matchAll(/\]\((?!\w+:)([^)\s]+)\)/g)) {
      const url = new URL(target, new URL(name, ROOT));
      const anchor = url.hash.slice(1);
      const found = await Deno.stat(url).then(() => true, () => false);
      if (!found) lost.push(`${name}: ${target}`);
      if (!found || anchor === "") continue;
      headings++;
      const there = await Deno.readTextFile(url);
      const anchors = [...there.matchAll(/^#+ (.*)$/gm)].map(([, heading]) => anchorOf(heading!));
      if (!anchors.includes(anchor)) lost.push(`${name}: ${target}`);
    }
  }
  assertEquals(lost, []);
  assert(headings > 0);
});
