import { assert, assertEquals } from "@std/assert";

import { BENCH_LOCK, ROOT, whyNoPackages } from "./programs.ts";

const SERVICE = new URL("bench/service.ts", ROOT);
const PROCEDURE = new URL("bench/procedure.ts", ROOT);

async function deno(...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args, cwd: ROOT })
    .output();
  const decoder = new TextDecoder();
  assert(success, `deno ${args.join(" ")}:\n${decoder.decode(stderr)}`);
  return decoder.decode(stdout);
}

/** Every benchmark, but not what they share: that has no main. */
const benches = [...Deno.readDirSync(new URL("bench/", ROOT))]
  .map(({ name }) => `bench/${name}`)
  .filter((path) => path.endsWith(".ts"))
  .filter((path) => Deno.readTextFileSync(new URL(path, ROOT)).includes("import.meta.main"))
  .sort();

for (const path of benches) {
  const noPackages = await whyNoPackages(path);
  Deno.test({
    name: `${path} runs and prints a table${noPackages}`,
    ignore: noPackages !== "",
    async fn() {
      const words = ["run", "-q", "--cached-only", BENCH_LOCK, "-P=bench", path, "--smoke"];
      const rows = (await deno(...words)).trim().split("\n");
      assert(rows.length > 1, rows.join("\n"));
    },
  });
}

/**
 * Runs code that calls gc() twice; the result is what V8 collected in between. It tells by its trace, in
 * which a collection that was asked for is "testing". Nothing else may be printed: it would come first.
 */
async function collectionsWithin(code: string): Promise<string[]> {
  const quiet = `console.log = () => {}; ${code}`;
  const trace = await deno("eval", "-q", "--v8-flags=--trace-gc,--expose-gc", quiet);
  const lines = trace.trim().split("\n");
  const first = lines.findIndex((line) => line.includes("testing"));
  const last = lines.findLastIndex((line) => line.includes("testing"));
  assert(first !== -1 && first < last, trace);
  return lines.slice(first + 1, last);
}

Deno.test("bench/service.ts makes no garbage while it measures", async () => {
  const code = `const { main } = await import("${SERVICE}"); main(200_000, 500_000);`;
  assertEquals(await collectionsWithin(code), []);
});

Deno.test("a million calls of procedures make no garbage", async () => {
  const code = `const { serveCalls } = await import("${PROCEDURE}"); serveCalls(1e6, 1e6);`;
  assertEquals(await collectionsWithin(code), []);
});

Deno.test("the check for garbage finds a few bytes a request", async () => {
  const code = "gc(); const kept = []; " +
    "for (let i = 0; i < 200_000; i++) kept[i & 15] = [i]; gc();";
  const collections = await collectionsWithin(code);
  assert(collections.length > 0);
});
