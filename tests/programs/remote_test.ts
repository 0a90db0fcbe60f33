/** What the client library needs of a process. */

import { assert, assertEquals } from "@std/assert";
import { startDaemon } from "../daemon.ts";
import { ROOT, run } from "./programs.ts";

const REMOTE = new URL("lib/client/remote.ts", ROOT);

Deno.test("Remote keeps nothing of calls that have ended", async () => {
  await using daemon = await startDaemon();
  const { server } = daemon;
  // In a heap of 24 MB: it would be full if each call left a hundred bytes behind.
  const code = `
    const { Remote } = await import("${REMOTE}");
    await using remote = await Remote.connect({ server: "${server}", timeout: 50_000 });
    const counter = await remote.malloc(8);
    for (let i = 0; i < 300; i++) {
      await Promise.all(Array.from({ length: 1000 }, () => remote.fetchAndAdd(counter, 1n)));
    }`;
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "-q", "--v8-flags=--max-old-space-size=24", code],
    cwd: ROOT,
  }).output();
  assert(success, new TextDecoder().decode(stderr));
});

Deno.test("Remote.connect() names the flag that Deno's UDP needs when it is missing", async () => {
  const program = `import { Remote } from "${REMOTE}";
    await Remote.connect().catch((error) => console.log(String(error)));`;
  const words = ["run", "--no-config", "--no-lock", "--no-check", "-A", "-"];
  const { stdout, stderr } = await run(Deno.execPath(), words, { input: program });
  assertEquals(stderr, "");
  assert(/^TypeError: .* use --unstable-net/.test(stdout), stdout);
});
