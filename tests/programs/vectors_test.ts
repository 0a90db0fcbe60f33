/** docs/vectors.json over the socket of the Python client in examples/. */

import { assertEquals } from "@std/assert";
import { SIZE, vectorsFor } from "../vectors.ts";
import { Mallocd, ROOT, run } from "./programs.ts";

const noPython = await whyNoPython();

for (const engine of ["datagram", "auto"]) {
  for (const strict of [false, true]) {
    const daemon = `a ${strict ? "strict " : ""}daemon with the engine ${engine}`;
    Deno.test({
      name: `examples/client.py passes docs/vectors.json with ${daemon}${noPython}`,
      ignore: noPython !== "",
      async fn() {
        const flags = strict ? ["--strict"] : [];
        const options = ["--memory", String(SIZE), "--engine", engine, ...flags];
        await using mallocd = await Mallocd.start(options);
        const { pathname } = ROOT;
        const words = [
          "--server",
          mallocd.server,
          ...flags,
          "vectors",
          `${pathname}docs/vectors.json`,
        ];
        const { stdout, stderr } = await run("python3", [
          `${pathname}examples/client.py`,
          ...words,
        ]);
        assertEquals(stdout, `${vectorsFor(strict).length} vectors passed\n`, stderr);
      },
    });
  }
}

/** Empty if there is a Python to run the example. */
async function whyNoPython(): Promise<string> {
  try {
    const { code } = await run("python3", ["--version"]);
    return code === 0 ? "" : " (python3 does not run)";
  } catch (error) {
    return ` (no python3: ${(error as Error).name})`;
  }
}
