/**
 * The programs on a host that has nothing: a root folder with the executable and the libraries that ldd
 * names, no environment, nowhere to write.
 */

import { assertEquals, assertMatch } from "@std/assert";
import {
  CLIENT,
  done,
  FIRST,
  MALLOCD,
  Mallocd,
  type Outcome,
  ROOT,
  run,
  type RunOptions,
} from "./programs.ts";

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
mount -o remount,bind,ro "$root"
if (: >"$root/file") 2>/dev/null; then exit 99; fi
chroot=$(PATH=$PATH:/usr/sbin command -v chroot)
exec env -i "$chroot" "$root" "$program" "$@"`;

type Way = readonly string[];

/** A root folder, for as long as it is needed: what is mounted on it is not seen here. */
class Root implements AsyncDisposable {
  private constructor(readonly path: string, readonly way: Way) {}

  static async make(way: Way): Promise<Root> {
    return new Root(await Deno.makeTempDir({ prefix: "mallocd-root-" }), way);
  }

  /** The arguments of unshare that run a program in it. */
  args(program: string, line: string): string[] {
    return [...this.way, "sh", "-c", SCRIPT, "sh", this.path, program, ...line.split(" ")];
  }

  run(program: string, line: string, options?: RunOptions): Promise<Outcome> {
    return run("unshare", this.args(program, line), options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path);
  }
}

/** How this user may make a bare host, or why not: even `true` would not run on it. */
async function findWay(): Promise<{ way: Way; missing: string }> {
  let missing = "";
  for (const way of [["--mount"], ["--mount", "--map-root-user"]]) {
    await using root = await Root.make(way);
    try {
      const { code, stderr } = await root.run("/bin/true", "");
      if (code === 0) return { way, missing: "" };
      missing = ` (${stderr.trim().split("\n").at(-1)})`;
    } catch (error) {
      missing = ` (no unshare: ${(error as Error).name})`;
    }
  }
  return { way: [], missing };
}

const { way, missing } = await findWay();

function testOnBareHost(name: string, fn: (root: Root) => Promise<void>): void {
  Deno.test({
    name: `${name} on a bare host${missing}`,
    ignore: missing !== "",
    async fn() {
      await using root = await Root.make(way);
      await fn(root);
    },
  });
}

testOnBareHost("mallocd and mallocd-client print their help", async (root) => {
  for (const program of [MALLOCD, CLIENT]) {
    const { code, stdout, stderr } = await root.run(program, "--help");
    assertEquals([code, stderr], [0, ""]);
    assertEquals(stdout, (await run(program, ["--help"])).stdout);
  }
});

testOnBareHost("mallocd serves mallocd-client", async (root) => {
  await using daemon = await Mallocd.from("unshare", root.args(MALLOCD, "--port 0"));
  assertEquals(daemon.ready["msg"], "ready");
  const client = (line: string, options?: RunOptions) =>
    root.run(CLIENT, `--server ${daemon.server} --timeout 10s ${line}`, options);
  assertEquals(await client("malloc 5"), done(`${FIRST}\n`));
  assertEquals(await client(`write ${FIRST} 5 hello`), done());
  assertEquals(await client(`read ${FIRST} 4`), done("hell"));
  assertEquals(await client(`free ${FIRST}`), done());
  // What is loaded for one command only is inside the executable, too.
  assertEquals(await client("shell", { input: "malloc 5\n" }), done(`${FIRST}\n`));
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
