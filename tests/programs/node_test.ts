/** The client's suite on Node: the same tests, made JavaScript that Node 20 knows, on deno_on_node.mjs. */

import { assert, assertEquals } from "@std/assert";
import { done, ROOT, run } from "./programs.ts";

const TOOLS = new URL(".tools/", ROOT).pathname;
const SUITE = "tests/client/remote_test.ts";
const env = Deno.env.toObject();

async function whyNoNode(): Promise<string> {
  try {
    const { stdout } = await run("node", ["--version"], { env });
    return Number(/^v(\d+)/.exec(stdout)?.[1]) >= 20 ? "" : ` (node is ${stdout.trim()})`;
  } catch (error) {
    return ` (no node: ${(error as Error).name})`;
  }
}

const noNode = await whyNoNode();

Deno.test({
  name: `the suite of Remote passes on Node, as it does on Deno${noNode}`,
  ignore: noNode !== "",
  async fn() {
    const folder = await Deno.makeTempDir({ prefix: "mallocd-node-" });
    const sh = (line: string) =>
      run("sh", ["-euc", `cd ${ROOT.pathname}; ${line}`], { env, timeout: 120_000 });
    try {
      // It brings the compiler that the package is made with.
      assertEquals(await sh(`tools/npm.sh ${TOOLS} ${folder}`), done());
      const bundle = `${folder}/suite.mjs`;
      assertEquals(await sh(`${Deno.execPath()} bundle -q -o ${bundle} ${SUITE}`), done());
      // Without the name Deno in sight the library takes Node's sockets.
      const code = (await Deno.readTextFile(bundle)).replace(/\bDeno\./g, "Shim.");
      await Deno.writeTextFile(bundle, `import { Shim } from "./deno_on_node.mjs";\n${code}`);
      await Deno.copyFile(
        new URL("deno_on_node.mjs", import.meta.url),
        `${folder}/deno_on_node.mjs`,
      );
      // What Node 20 does not know: `await using`.
      const tsc = `$(ls -d ${TOOLS}typescript-*)/node_modules/.bin/tsc`;
      const options = "--allowJs --noCheck --target es2022 --module esnext " +
        "--moduleResolution bundler";
      const compiled = await sh(`${tsc} ${options} --outDir ${folder}/out ${bundle}`);
      assertEquals(compiled, done());
      const { code: exit, stdout } = await sh(`node --test-reporter=tap ${folder}/out/suite.mjs`);
      const failures = stdout.split("\n").filter((line) => line.startsWith("not ok"));
      assertEquals([exit, failures], [0, []], stdout);
      assert(Number(/^# pass (\d+)$/m.exec(stdout)![1]) >= 50, stdout);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
