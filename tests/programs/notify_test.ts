/** What mallocd tells a service manager, as the manager hears it; and --check. */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { DIST, MALLOCD, Mallocd, run } from "./programs.ts";

const built = await Deno.readTextFile(`${DIST}.engine`);
const NO_FFI = Deno.build.os !== "linux" || built.trim() === "datagram"
  ? " (skipped: the daemon has no permission for libc)"
  : "";

/** Receives so many datagrams at an address and prints each as JSON; abstract ones, too. */
const MANAGER = `
import json, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.settimeout(20)
s.bind(sys.argv[1].replace("@", "\\0", 1) if sys.argv[1][0] == "@" else sys.argv[1])
print("bound", flush=True)
for _ in range(int(sys.argv[2])): print(json.dumps(s.recv(4096).decode()), flush=True)
`;

async function whyNoPython(): Promise<string> {
  const found = await run("python3", ["--version"]).then(({ code }) => code === 0, () => false);
  return found ? "" : " (skipped: no python3)";
}

const NO_MANAGER = NO_FFI || await whyNoPython();

async function told(address: string, options: string[]): Promise<string[]> {
  const manager = new Deno.Command("python3", {
    args: ["-c", MANAGER, address, "2"],
    stdout: "piped",
  }).spawn();
  const lines = manager.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = (await lines.read()).value ?? ""; // it is bound
  const env = { NOTIFY_SOCKET: address };
  const daemon = await Mallocd.start(options, { env });
  const ended = await daemon.stop();
  assertEquals(ended.code, 0, ended.stderr);
  for (let part; !(part = await lines.read()).done;) text += part.value;
  await manager.status;
  return text.trim().split("\n").slice(1).map((line) => JSON.parse(line));
}

for (const engine of ["datagram", "syscall"]) {
  for (const kind of ["path", "abstract"]) {
    Deno.test({
      name: `mallocd tells the service manager over ${
        kind === "path" ? "a path" : "an abstract address"
      } when it is ready and when it stops, with the engine ${engine}${NO_MANAGER}`,
      ignore: NO_MANAGER !== "",
      async fn() {
        const folder = await Deno.makeTempDir({ prefix: "mallocd-notify-" });
        try {
          const address = kind === "path" ? `${folder}/notify` : `@${folder}`;
          const [ready, stopping] = await told(address, ["--engine", engine]);
          assertMatch(ready!, /^READY=1\nSTATUS=serving on 127\.0\.0\.1:\d+$/);
          assertEquals(stopping, "STOPPING=1");
        } finally {
          await Deno.remove(folder, { recursive: true });
        }
      },
    });
  }
}

Deno.test("mallocd serves when nobody listens at NOTIFY_SOCKET, or nobody could", async () => {
  for (const address of ["/nonexistent/notify", "@nobody", "relative", "", "/" + "x".repeat(200)]) {
    const daemon = await Mallocd.start([], { env: { NOTIFY_SOCKET: address } });
    assertEquals((await daemon.client("malloc 1")).code, 0, address);
    assertEquals((await daemon.stop()).code, 0, address);
  }
});

Deno.test("mallocd --check ends at once, and says whether it could serve", async () => {
  const check = (...options: string[]) => run(MALLOCD, ["--check", ...options]);
  const { code, stdout, stderr } = await check("--port", "0");
  assertEquals([code, stdout], [0, ""]);
  assertMatch(stderr, /^msg=checked version=\S+ address=127\.0\.0\.1:\d+ .*engine=\w+/);
  await using daemon = await Mallocd.start();
  const taken = await check("--port", String(daemon.port));
  assertEquals(taken.code, 1);
  assertStringIncludes(taken.stderr, "is already in use");
  assertEquals((await check("--memory", "lots")).code, 2);
});
