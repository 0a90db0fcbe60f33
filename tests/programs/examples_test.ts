/** The examples as programs of their own, and what several of them do at once. */

import { assert, assertEquals } from "@std/assert";
import { HashMap } from "../../examples/hash_map.ts";
import { startDaemon } from "../daemon.ts";
import { connect } from "../remote.ts";

/** Runs an example with the permission that its comment says it needs. */
async function example(name: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-q", "--no-prompt", "--allow-net", `examples/${name}`, ...args],
    cwd: new URL("../../", import.meta.url),
  }).output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assertEquals(code, 0, decode(stderr));
  return decode(stdout);
}

Deno.test("examples/list.ts and examples/stack.ts print what was put in, and free all", async () => {
  await using daemon = await startDaemon();
  assertEquals(await example("list.ts", daemon.server), "hello\nworld\n");
  assertEquals(await example("stack.ts", daemon.server), "3\n2\n1\n");
  assertEquals(daemon.count("blocks"), 0);
});

Deno.test("examples/hash_map.ts counts words in the map whose address it printed", async () => {
  await using daemon = await startDaemon();
  const address = (await example("hash_map.ts", daemon.server)).trim();
  const output = await example("hash_map.ts", daemon.server, address, "a", "b", "a");
  assertEquals(output.trim().split("\n").sort(), ["a 2", "b 1"]);
});

Deno.test("HashMap counts what several processes count at once", async () => {
  await using daemon = await startDaemon();
  await using remote = await connect({ server: daemon.server });
  const { address } = await HashMap.create(remote, 1000);
  const words = "the cat the dog the end ".repeat(10).trim().split(" ");
  const outputs = await Promise.all(
    [1, 2, 3].map(() => example("hash_map.ts", daemon.server, String(address), ...words)),
  );
  const map = await HashMap.open(remote, address);
  const counts = { the: 90, cat: 30, dog: 30, end: 30 };
  assertEquals(new Map(await Array.fromAsync(map)), new Map(Object.entries(counts)));
  // The process that was the last to count saw them all.
  assert(outputs.some((output) => output.includes("the 90\n")), outputs.join("\n"));
});
