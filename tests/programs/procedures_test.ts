/** Procedures from the command line: the daemon's options, and install, call and uninstall. */

import { assertEquals, assertMatch } from "@std/assert";
import { add, get, i32, load, loop, procedure } from "../wasm.ts";
import { done, failed, MALLOCD, Mallocd, misused, run } from "./programs.ts";

const SWAPPED = [...get(0), ...load(4)];
/** Adds up the last bytes of its two arguments. */
const SUM = procedure([
  ...SWAPPED,
  ...[...i32(24), 0x76],
  ...[...get(0), ...load(12), ...i32(24), 0x76],
  ...add,
]);
const ENDLESS = procedure([...loop(0x0c, 0), ...i32(0)]);
const GROWING = procedure([...i32(0), 0x40, 0]);

/** Runs `use` with the paths of files that hold these modules. */
async function withFiles(
  modules: Record<string, Uint8Array>,
  use: (paths: Record<string, string>) => Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "mallocd-" });
  try {
    const paths: Record<string, string> = {};
    for (const [name, module] of Object.entries(modules)) {
      paths[name] = `${folder}/${name}.wasm`;
      await Deno.writeFile(paths[name], module);
    }
    await use(paths);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

for (const engine of ["datagram", "auto"]) {
  Deno.test(`mallocd --engine ${engine} --procedures runs what clients install`, async () => {
    await using daemon = await Mallocd.start([
      "--engine",
      engine,
      "--procedures",
      "--fuel",
      "1000",
    ]);
    await withFiles({ SUM, ENDLESS, GROWING }, async (paths) => {
      const { code, stdout } = await daemon.client(`install ${paths["SUM"]}`);
      assertEquals(code, 0);
      const handle = stdout.trim();
      assertEquals(await daemon.client(`install ${paths["SUM"]}`), done(`${handle}\n`));
      assertEquals(await daemon.client(`call ${handle} 3 4`), done("7\n"));
      assertEquals(
        await daemon.client(`call ${handle} 0x10 --json -- -1`),
        done('{"value":"271"}\n'),
      );
      const endless = (await daemon.client(`install ${paths["ENDLESS"]}`)).stdout.trim();
      const asked = `call(${endless}, 0, data)`;
      assertEquals(await daemon.client(`call ${endless}`), failed(`${asked}: out of fuel`));
      const { code: refused, stderr } = await daemon.client(`install ${paths["GROWING"]}`);
      assertEquals(refused, 1);
      assertMatch(
        stderr,
        /^mallocd-client: install\(0x[\da-f]+, \d+\): it uses memory.grow, at byte \d+ of the module\n$/,
      );
      assertEquals(await daemon.client(`uninstall ${handle}`), done());
      const gone = `call(${handle}, 0, data): no procedure of that handle`;
      assertEquals(await daemon.client(`call ${handle}`), failed(gone));
    });
  });
}

Deno.test("install of a file that is not there, or too long, is misuse", async () => {
  await withFiles({ LARGE: new Uint8Array(65537) }, async ({ LARGE }) => {
    await using daemon = await Mallocd.start(["--procedures"]);
    const { code, stderr } = await daemon.client("install /nowhere.wasm");
    assertEquals(code, 2);
    assertMatch(stderr, /^mallocd-client: \/nowhere.wasm cannot be read: .*\nTry: a file that/);
    assertEquals(
      await daemon.client(`install ${LARGE}`),
      misused(
        `${LARGE} is 65537 bytes long`,
        "a module of 65536 bytes at most; without names, as wasm-strip or -s make it, it is shorter",
      ),
    );
  });
});

Deno.test("the shell installs and calls procedures, --pipe calls them", async () => {
  await withFiles({ SUM }, async ({ SUM }) => {
    await using daemon = await Mallocd.start(["--procedures"]);
    const script = `install ${SUM}\nh = install ${SUM}\ncall $h 3 4\n`;
    const { code, stdout } = await daemon.client("shell", { input: script });
    const handle = /^(\d+)\n7\n$/.exec(stdout)?.[1];
    assertEquals([code, typeof handle], [0, "string"], stdout);
    const piped = await daemon.client("--pipe", {
      input: `call ${handle} 1 2\ncall ${handle} 3 4\n`,
    });
    assertEquals([piped.code, piped.stdout], [0, "3\n7\n"]);
  });
});

Deno.test("a daemon without --procedures says so", async () => {
  await using daemon = await Mallocd.start();
  const lack = "the daemon runs no procedures (mallocd --procedures)";
  assertEquals(await daemon.client("call 1"), failed(`call(): ${lack}`));
  assertEquals(await daemon.client("uninstall 1"), failed(`uninstall(): ${lack}`));
  assertEquals(await daemon.client("install README.md"), failed(`install(): ${lack}`));
});

const CONTRADICTIONS: Record<string, [message: string, hint: string]> = {
  "--procedures --strict": [
    "--strict and --procedures contradict each other: a procedure reaches the whole heap",
    "leave one of them out",
  ],
  "--procedures --cluster 127.0.0.1:7000": [
    "--cluster and --procedures contradict each other: a procedure need not do the same elsewhere",
    "leave one of them out",
  ],
  "--procedures --heap-file /tmp/mallocd-none": [
    "--heap-file and --procedures contradict each other: " +
    "what a killed procedure has half done cannot be undone",
    "leave one of them out",
  ],
  "--procedures --memory 5GiB": [
    "--procedures cannot be had with --memory 5GiB",
    "use a multiple of 64KiB, from twice that to 4GiB",
  ],
  "--procedures --memory 64KiB": [
    "--procedures cannot be had with --memory 64KiB",
    "use a multiple of 64KiB, from twice that to 4GiB",
  ],
  "--procedures --memory 1000016": [
    "--procedures cannot be had with --memory 1000016",
    "use a multiple of 64KiB, from twice that to 4GiB",
  ],
};

for (const [line, [message, hint]] of Object.entries(CONTRADICTIONS)) {
  Deno.test(`mallocd ${line} is misuse`, async () => {
    assertEquals(await run(MALLOCD, line.split(" ")), misused(message, hint, "mallocd"));
  });
}
