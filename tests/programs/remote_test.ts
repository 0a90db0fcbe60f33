/** What the client library needs of a process. */

import { assert } from "@std/assert";
import { startDaemon } from "../daemon.ts";

const REMOTE = new URL("../../lib/client/remote.ts", import.meta.url);

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
    cwd: new URL("../../", import.meta.url),
  }).output();
  assert(success, new TextDecoder().decode(stderr));
});
