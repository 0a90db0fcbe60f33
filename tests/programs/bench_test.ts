import { assert } from "@std/assert";

import { BENCH_LOCK, deno, ROOT, whyNoPackages } from "./programs.ts";

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
