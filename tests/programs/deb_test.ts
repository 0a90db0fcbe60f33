/** `make deb`: two packages, as dpkg, lintian and a system of their own see them. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { ROOT, run } from "./programs.ts";

async function whyNo(tool: string): Promise<string> {
  const found = await run(tool, ["--version"]).then(({ code }) => code === 0, () => false);
  return found ? "" : ` (skipped: no ${tool})`;
}

const NO_DPKG = await whyNo("dpkg-deb");
const NO_LINTIAN = NO_DPKG || await whyNo("lintian");
const isRoot = (await run("id", ["-u"])).stdout === "0\n";

let packages: string[] = [];

Deno.test.beforeAll(async () => {
  if (NO_DPKG !== "") return;
  // Not by run(): to compress two executables takes longer than its deadline.
  const { success, stdout, stderr } = await new Deno.Command("make", {
    args: ["-s", "deb"],
    cwd: ROOT,
    env: { DEBFULLNAME: "A Packager", DEBEMAIL: "packager@debian.org" },
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  packages = new TextDecoder().decode(stdout).trim().split("\n");
});

Deno.test({
  name: `make deb makes two packages, with one program and its documents each${NO_DPKG}`,
  ignore: NO_DPKG !== "",
  async fn() {
    const names = packages.map((file) => file.split("/").at(-1)!.split("_")[0]);
    assertEquals(names, ["mallocd", "mallocd-client"]);
    for (const [i, name] of names.entries()) {
      const { stdout: info } = await run("dpkg", ["--info", packages[i]!]);
      assertStringIncludes(info, `Package: ${name}\n`);
      assertStringIncludes(info, "Depends: libc6 (>= 2.27), libgcc-s1");
      const { stdout: contents } = await run("dpkg", ["--contents", packages[i]!]);
      assertMatch(contents, new RegExp(`^-rwxr-xr-x root/root .* \\./usr/bin/${name}$`, "m"));
      assertEquals(contents.match(/usr\/bin\/./g)?.length, 1);
    }
    const { stdout: conffiles } = await run("dpkg", ["--info", packages[0]!, "conffiles"]);
    assertEquals(conffiles, "/etc/default/mallocd\n");
  },
});

Deno.test({
  name: `lintian has nothing to say against the packages${NO_LINTIAN}`,
  ignore: NO_LINTIAN !== "",
  async fn() {
    const { success, stdout, stderr } = await new Deno.Command("lintian", {
      args: ["--allow-root", "--fail-on", "error,warning", ...packages],
    }).output();
    const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
    assertEquals([success, said], [true, ""]);
  },
});

const NO_ROOT = NO_DPKG || (isRoot ? "" : " (skipped: dpkg wants root)");
Deno.test({
  name: `dpkg installs the packages into a system, keeps its options, and purges them${NO_ROOT}`,
  ignore: NO_ROOT !== "",
  async fn() {
    const root = await Deno.makeTempDir({ prefix: "mallocd-dpkg-" });
    const dpkg = async (...args: string[]) => {
      const { success, stderr } = await new Deno.Command("dpkg", {
        args: [`--root=${root}`, "--force-depends", "--force-script-chrootless", ...args],
      }).output();
      assert(success, new TextDecoder().decode(stderr));
    };
    const exists = (path: string) => Deno.stat(`${root}${path}`).then(() => true, () => false);
    try {
      await Deno.mkdir(`${root}/var/lib/dpkg/info`, { recursive: true });
      await Deno.mkdir(`${root}/var/lib/dpkg/updates`);
      await Deno.writeTextFile(`${root}/var/lib/dpkg/status`, "");
      // Users that useradd(8) and userdel(8) may change.
      await Deno.mkdir(`${root}/etc`);
      for (const name of ["passwd", "group", "shadow", "gshadow"]) {
        await Deno.writeTextFile(`${root}/etc/${name}`, "");
      }
      const users = () => Deno.readTextFile(`${root}/etc/passwd`);
      await dpkg("--install", ...packages);
      assertMatch(await users(), /^mallocd:x:\d+:\d+:[^:]*:\/nonexistent:\/usr\/sbin\/nologin\n$/);
      for (const name of ["mallocd", "mallocd-client"]) {
        const { code, stdout } = await run(`${root}/usr/bin/${name}`, ["--version"]);
        assertEquals([code, stdout.split(" ")[0]], [0, name]);
      }
      const unit = await Deno.readTextFile(`${root}/lib/systemd/system/mallocd.service`);
      assertStringIncludes(unit, "\nExecStart=/usr/bin/mallocd\n");
      await Deno.writeTextFile(`${root}/etc/default/mallocd`, "MALLOCD_PORT=1\n");
      await dpkg("--remove", "mallocd");
      assertEquals(await Deno.readTextFile(`${root}/etc/default/mallocd`), "MALLOCD_PORT=1\n");
      assertMatch(await users(), /^mallocd:/);
      await Deno.mkdir(`${root}/var/lib/private/mallocd`, { recursive: true });
      await dpkg("--install", packages[0]!); // once more, where there is the user
      await dpkg("--purge", "mallocd", "mallocd-client");
      assertEquals([await users(), await exists("/var/lib/private/mallocd")], ["", false]);
      assertEquals(await exists("/etc/default/mallocd"), false);
      assertEquals(await exists("/usr/bin/mallocd-client"), false);
    } finally {
      await Deno.remove(root, { recursive: true });
    }
  },
});
