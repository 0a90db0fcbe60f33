/** examples/procedures/, built anew as their sources say, do the same as those that are there. */

import { assert, assertEquals } from "@std/assert";
import { Mallocd, ROOT, run } from "../programs/programs.ts";
import { SUITES } from "../procedures.ts";
import { connect } from "../remote.ts";

const FOLDER = new URL("examples/procedures/", ROOT).pathname;
/** Where tools/asc.sh puts AssemblyScript's compiler. */
const ASC = new URL(".tools/assemblyscript/node_modules/.bin", ROOT).pathname;
const HOW = { env: { PATH: `${Deno.env.get("PATH")}:${ASC}` }, timeout: 120_000 };
const SOURCES: Readonly<Record<string, string>> = {
  list: "list.wat",
  hash_map: "hash_map.c",
  range: "range.ts",
};

for (const [name, source] of Object.entries(SOURCES)) {
  const text = await Deno.readTextFile(FOLDER + source);
  const steps = [...text.matchAll(/^(?:;;| \*) {5}((?:wat2wasm|clang|wasm-ld|asc) .*)$/gm)]
    .map(([, step]) => step!);
  const missing = await whyNo(steps.map((step) => step.split(" ")[0]!));
  Deno.test({
    name: `examples/procedures/${source} is built by what it says, and does what it says${missing}`,
    ignore: missing !== "",
    async fn() {
      assert(steps.length > 0, "it does not say how");
      const folder = await Deno.makeTempDir({ prefix: "mallocd-" });
      try {
        await Deno.copyFile(FOLDER + source, `${folder}/${source}`);
        const { code, stderr } = await run("sh", ["-ec", `cd ${folder}\n${steps.join("\n")}`], HOW);
        const errors = stderr.split("\n").filter((line) =>
          !line.includes("warning: creating shared")
        );
        assertEquals([code, errors.join("\n")], [0, ""]);
        await using daemon = await Mallocd.start(["--procedures", "--memory", "16MiB"]);
        await using remote = await connect({ server: daemon.server });
        const handle = await remote.install(await Deno.readFile(`${folder}/${name}.wasm`));
        await SUITES[name]!(remote, handle);
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
}

/** Empty, or the first of these programs that is missing. */
async function whyNo(programs: readonly string[]): Promise<string> {
  for (const program of programs) {
    const { code } = await run("sh", ["-c", `command -v ${program}`], HOW);
    if (code !== 0) return ` (skipped: no ${program})`;
  }
  return "";
}
