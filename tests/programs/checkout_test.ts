/** What a checkout offers to whoever types `deno test` or `deno task` in it. */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { ROOT, run } from "./programs.ts";

const text = await Deno.readTextFile(new URL("deno.json", ROOT));
const { tasks }: { tasks: Record<string, string> } = JSON.parse(text);

/** With the packages that this run has, and no permission that it does not name. */
const env = { DENO_DIR: Deno.env.get("DENO_DIR") ?? "", HOME: "/nonexistent", NO_COLOR: "1" };

const configured = ["--config", new URL("deno.json", ROOT).pathname];
const vectors = new URL("tests/daemon/vectors_test.ts", ROOT).pathname;

/** Milliseconds that all tests may take which need no permission. */
const PATIENCE_MS = 300_000;

Deno.test("deno test runs without a permission what needs none, and says why it leaves out the rest", async () => {
  const words = ["test", "--no-check", ...configured];
  const { code, stdout, stderr } = await run(Deno.execPath(), words, { env, timeout: PATIENCE_MS });
  assertEquals(code, 0, stdout.replaceAll(/^.* \.\.\. ok .*\n/gm, "") + stderr);
  assertMatch(stdout, /^ok \| [1-9]\d{2,} passed .*\| 0 failed \| [1-9]\d* ignored/m);
  assertStringIncludes(
    stdout,
    "(skipped: no permission for 127.0.0.1, which `deno test -P` gives)",
  );
});

Deno.test("deno test -P runs all of it, with loopback", async () => {
  const words = ["test", "--no-check", "-P", ...configured, vectors];
  const { code, stdout, stderr } = await run(Deno.execPath(), words, { env });
  assertEquals(code, 0, stdout + stderr);
  assertStringIncludes(stdout, "with the engine datagram does over a socket ... ok");
});

Deno.test("deno task has what make has, and no more", async () => {
  const names = ["run", "build", "test", "check", "bench"];
  assertEquals(tasks, Object.fromEntries(names.map((name) => [name, `make -s ${name}`])));
  const makefile = await Deno.readTextFile(new URL("Makefile", ROOT));
  for (const name of names) assertStringIncludes(makefile, `\n${name}:`);
});

Deno.test("make without a target builds, and starts no daemon", async () => {
  const wouldRun = async (...targets: string[]) => {
    const { stdout } = await run("make", ["-nC", ROOT.pathname, ...targets]);
    return stdout.includes("-P=daemon main.ts");
  };
  assertEquals([await wouldRun("run"), await wouldRun()], [true, false]);
});

Deno.test("deno test fetches no package but @std's: all that are in deno.lock would be", async () => {
  const { npm } = JSON.parse(await Deno.readTextFile(new URL("deno.lock", ROOT)));
  assertEquals(Object.keys(npm).map((name) => name.replace(/@[^@]*$/, "")), ["deno-std"]);
});
