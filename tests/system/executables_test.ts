/** What `make build` made needs nothing of its host, and may do next to nothing there. */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { CLIENT, FIRST, MALLOCD, Mallocd, ROOT, run } from "./programs.ts";

const readText = (path: string) => Deno.readTextFileSync(new URL(path, ROOT));

/** Empty, or why a program cannot be run here, for the name of a test. */
async function whyNot(command: string, ...args: string[]): Promise<string> {
  try {
    const { code, stderr } = await run(command, args);
    return code === 0 ? "" : ` (${stderr.trim()})`;
  } catch (error) {
    return ` (no ${command}: ${(error as Error).name})`;
  }
}

const noStrings = await whyNot("strings", "--version");

const { permissions: SETS } = JSON.parse(readText("deno.json"));

for (
  const [program, path, libc] of [
    ["mallocd", MALLOCD, { allow_ffi: SETS.daemon.ffi }],
    ["mallocd-client", CLIENT, {}],
  ] as const
) {
  Deno.test({
    name: `${program} may use the network and its variables, and never asks for more${noStrings}`,
    ignore: noStrings !== "",
    fn: async () => {
      // Behind the runtime there is a line of JSON with all that the runtime is told.
      const { stdout } = await run("strings", ["--bytes=100", path]);
      const line = stdout.split("\n").find((line) => line.startsWith('{"argv":'));
      const { permissions, code_cache_key, node_modules } = JSON.parse(line ?? "{}");
      const granted = Object.entries(permissions).filter(([, value]) => value !== null);
      const { allow_import: _, ...narrow } = Object.fromEntries(granted); // nothing is left to import
      assertEquals(narrow, {
        allow_net: [], // any
        allow_env: ["MALLOCD_*"],
        ...libc,
        prompt: false,
      });
      assertEquals({ code_cache_key, node_modules }, { code_cache_key: null, node_modules: null });
    },
  });
}

/** The shared libraries of both programs, as paths. */
async function libraries(): Promise<string[]> {
  const { stdout } = await run("ldd", [MALLOCD]);
  return [...stdout.matchAll(/(?:=> )?(\/\S+) \(0x/g)].map(([, path]) => path!);
}

const isLinux = Deno.build.os === "linux";

Deno.test({
  name: "mallocd needs the shared libraries that the README names, and no others",
  ignore: !isLinux || Deno.build.arch !== "x86_64",
  fn: async () => {
    const named = new Set(readText("README.md").match(/\b(lib|ld-)[\w-]+\.so\.\d+/g));
    const needed = (await libraries()).map((path) => path.replace(/.*\//, ""));
    assertEquals([...named].sort(), needed.sort());
  },
});

/**
 * Runs a program in a root of its own: sh -c ENTER sh ROOT PROGRAM ARGS. It becomes that program, so that
 * signals reach it. /proc is there because a program that Deno compiled finds itself through it.
 */
const ENTER = `set -e
mount --bind "$1" "$1"
mount --rbind /proc "$1/proc"
mount -o remount,bind,ro "$1"
chroot=$(PATH=$PATH:/usr/sbin command -v chroot)
exec env -i "$chroot" "$@"`;
const UNSHARE = ["--user", "--map-root-user", "--mount"];

class BareHost implements Disposable {
  readonly root = Deno.makeTempDirSync({ dir: "/tmp" });

  static async make(): Promise<BareHost> {
    const host = new BareHost();
    Deno.mkdirSync(`${host.root}/proc`);
    for (const path of await libraries()) {
      Deno.mkdirSync(host.root + path.replace(/[^/]*$/, ""), { recursive: true });
      Deno.copyFileSync(path, host.root + path);
    }
    Deno.copyFileSync(MALLOCD, `${host.root}/mallocd`);
    Deno.copyFileSync(CLIENT, `${host.root}/mallocd-client`);
    return host;
  }

  /** The words after `unshare` of a command line within. */
  enter(...line: string[]): string[] {
    return [...UNSHARE, "sh", "-c", ENTER, "sh", this.root, ...line];
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.root, { recursive: true });
  }
}

const noNamespaces = isLinux
  ? await whyNot("unshare", ...UNSHARE, "sh", "-c", "mount --rbind /proc /proc")
  : " (no Linux)";

Deno.test({
  name: `a bare host runs both programs from a file system that is read only${noNamespaces}`,
  ignore: noNamespaces !== "",
  fn: async () => {
    using host = await BareHost.make();
    for (const program of ["mallocd", "mallocd-client"]) {
      const { code, stdout, stderr } = await run("unshare", host.enter(`/${program}`, "--help"));
      assertEquals({ code, stderr }, { code: 0, stderr: "" });
      assertStringIncludes(stdout, `Usage: ${program} [OPTIONS]`);
    }
    const args = host.enter("/mallocd", "--port", "0");
    await using daemon = await Mallocd.from("unshare", args);
    const client = (...words: string[]) =>
      run("unshare", host.enter("/mallocd-client", "--server", daemon.server, ...words));
    assertEquals(await client("malloc", "5"), { code: 0, stdout: `${FIRST}\n`, stderr: "" });
    await client("write", `${FIRST}`, "5", "hello");
    assertEquals(await client("read", `${FIRST}`, "4"), { code: 0, stdout: "hell", stderr: "" });
    assertEquals((await daemon.stop()).code, 0);
  },
});
