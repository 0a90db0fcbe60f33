/**
 * The programs on a host that has nothing: a root folder with the executable and the libraries that ldd
 * names, no environment, nowhere to write.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { CLIENT, done, FIRST, MALLOCD, Mallocd, ROOT, run, type RunOptions } from "./programs.ts";

/** usage: ROOT PROGRAM ARGS... The mounts are seen by this process only, and end with it. */
const SCRIPT = `set -eu
root=$1 program=$2
shift 2
mount -t tmpfs none "$root"
for file in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do
  mkdir -p "$root\${file%/*}"
  : >"$root$file"
  mount --bind "$file" "$root$file"
  mount -o remount,bind,ro "$root$file"
done
mkdir "$root/proc"
mount --rbind /proc "$root/proc"
mount -o remount,ro "$root"
if (: >"$root/file") 2>/dev/null; then exit 99; fi
exec env -i "$(command -v chroot)" "$root" "$program" "$@"`;

/** Options of unshare by which this user may mount, or why there are none. */
async function findWay(): Promise<{ options: string[]; missing: string }> {
  if (Deno.build.os !== "linux") return { options: [], missing: " (not Linux)" };
  let missing = "";
  for (const options of [["--mount"], ["--mount", "--map-root-user"]]) {
    try {
      const { code, stderr } = await run("unshare", [
        ...options,
        "mount",
        "-t",
        "tmpfs",
        "none",
        "/mnt",
      ]);
      if (code === 0) return { options, missing: "" };
      missing = ` (${stderr.trim()})`;
    } catch (error) {
      missing = ` (no unshare: ${(error as Error).name})`;
    }
  }
  return { options: [], missing };
}

const { options, missing } = await findWay();

function testOnBareHost(name: string, fn: (root: string) => Promise<void>): void {
  Deno.test({
    name: `${name} on a bare host${missing}`,
    ignore: missing !== "",
    async fn() {
      const root = await Deno.makeTempDir({ prefix: "mallocd-root-" });
      try {
        await fn(root);
      } finally {
        await Deno.remove(root);
      }
    },
  });
}

function words(root: string, program: string, line: string): string[] {
  return [...options, "sh", "-c", SCRIPT, "sh", root, program, ...line.split(" ")];
}

function bare(root: string, program: string, line: string, options?: RunOptions) {
  return run("unshare", words(root, program, line), options);
}

testOnBareHost("mallocd and mallocd-client print their help", async (root) => {
  for (const program of [MALLOCD, CLIENT]) {
    const { code, stdout, stderr } = await bare(root, program, "--help");
    assertEquals([code, stderr], [0, ""]);
    assertEquals(stdout, (await run(program, ["--help"])).stdout);
  }
});

testOnBareHost("mallocd serves mallocd-client", async (root) => {
  await using daemon = await Mallocd.from("unshare", words(root, MALLOCD, "--port 0"));
  assertEquals(daemon.ready["msg"], "ready");
  const client = (line: string, input?: string) =>
    bare(
      root,
      CLIENT,
      `--server ${daemon.server} --timeout 10s ${line}`,
      input === undefined ? {} : { input },
    );
  assertEquals(await client("malloc 5"), done(`${FIRST}\n`));
  assertEquals(await client(`write ${FIRST} 5 hello`), done());
  assertEquals(await client(`read ${FIRST} 4`), done("hell"));
  assertEquals(await client(`free ${FIRST}`), done());
  // What is loaded for one command only is inside the executable, too.
  assertEquals(await client("shell", "malloc 5\n"), done(`${FIRST}\n`));
  assertMatch((await client("bench --seconds 100ms")).stdout, / 0 lost, 0 wrong, 0 refused\n/);
  const { code, totals } = await daemon.stop();
  assertEquals([code, totals["blocks"]], [0, "1"]);
});

Deno.test({
  name: "README.md names the libraries that ldd does",
  ignore: Deno.build.os !== "linux" || Deno.build.arch !== "x86_64",
  async fn() {
    const readme = await Deno.readTextFile(new URL("README.md", ROOT));
    const named = new Set([...readme.matchAll(/`([\w-]+\.so\.\d)`/g)].map(([, name]) => name));
    for (const program of [MALLOCD, CLIENT]) {
      const { stdout } = await run("ldd", [program]);
      const needed = [...stdout.matchAll(/([\w-]+\.so\.\d) (?==>|\()/g)].map(([, name]) => name);
      // The kernel itself provides linux-vdso.
      assertEquals(new Set(needed.filter((name) => name !== "linux-vdso.so.1")), named);
    }
  },
});
