/** `make image`: what is in it, and that the daemon runs on nothing else. */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { ROOT, run } from "./programs.ts";

async function whyNo(tool: string): Promise<string> {
  const found = await run(tool, ["--version"]).then(({ code }) => code === 0, () => false);
  return found ? "" : ` (skipped: no ${tool})`;
}

const missing = await whyNo("umoci") || await whyNo("bwrap");

Deno.test({
  name: `make image holds the daemon and seven libraries, on which it runs as nobody${missing}`,
  ignore: missing !== "",
  async fn() {
    const made = await run("make", ["-s", "-C", ROOT.pathname, "image"], {
      env: Deno.env.toObject(),
    });
    assertEquals(made.code, 0, made.stderr);
    const folder = await Deno.makeTempDir({ prefix: "mallocd-image-" });
    try {
      const bundle = `${folder}/bundle`;
      const words = ["unpack", "--rootless", "--image", made.stdout.trim(), bundle];
      const unpacked = await run("umoci", words, { env: { HOME: folder } });
      assertEquals(unpacked.code, 0, unpacked.stderr);
      const { process } = JSON.parse(await Deno.readTextFile(`${bundle}/config.json`));
      const { user: { uid, gid }, args } = process;
      assertEquals({ uid, gid, args }, { uid: 65532, gid: 65532, args: ["/usr/bin/mallocd"] });

      // The Containerfile makes the same, and says the same of it.
      const containerfile = await Deno.readTextFile(new URL("Containerfile", ROOT));
      const [, stage = ""] = containerfile.split("FROM scratch");
      assertEquals(stage.trim().split("\n").slice(1), [
        `USER ${uid}:${gid}`,
        "EXPOSE 8081/udp",
        `ENTRYPOINT ${JSON.stringify(args)}`,
      ]);
      assertStringIncludes(containerfile, "tools/root.sh dist ");

      const root = `${bundle}/rootfs`;
      const { stdout: files } = await run("find", [root, "-type", "f"]);
      const [programs, libraries] = [/\/usr\/bin\//, /\.so\./].map((kind) =>
        files.trim().split("\n").filter((file) => kind.test(file)).length
      );
      assertEquals([programs, libraries, files.trim().split("\n").length], [1, 7, 8]);

      const box = ["--ro-bind", root, "/", "--proc", "/proc", "--dev", "/dev", "--cap-drop", "ALL"];
      const nobody = [
        "--unshare-user",
        "--unshare-pid",
        "--uid",
        String(uid),
        "--gid",
        String(gid),
      ];
      const check = await run("bwrap", [...box, ...nobody, ...args, "--check", "--port", "0"]);
      assertEquals(check.code, 0, check.stderr);
      assertMatch(check.stderr, /^level=info msg=checked /);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
