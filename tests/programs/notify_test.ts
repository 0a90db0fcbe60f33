/** What mallocd tells a service manager, as the manager hears it; and --check. */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { MALLOCD, Mallocd, NO_FFI, run } from "./programs.ts";

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

const READY_AND_STOPPING = 2;

/** What a daemon tells, in so many messages. */
async function told(
  address: string,
  options: string[],
  { env = {}, count = READY_AND_STOPPING, meanwhile }: {
    env?: Record<string, string>;
    count?: number;
    meanwhile?: (daemon: Mallocd) => Promise<void>;
  } = {},
): Promise<string[]> {
  const manager = new Deno.Command("python3", {
    args: ["-c", MANAGER, address, String(count)],
    stdout: "piped",
  }).spawn();
  const lines = manager.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = (await lines.read()).value ?? ""; // it is bound
  const daemon = await Mallocd.start(options, { env: { NOTIFY_SOCKET: address, ...env } });
  const stop = async () => {
    const ended = await daemon.stop();
    assertEquals(ended.code, 0, ended.stderr);
  };
  await meanwhile?.(daemon);
  if (count === READY_AND_STOPPING) await stop(); // else it has more to say before
  for (let part; !(part = await lines.read()).done;) text += part.value;
  if (count !== READY_AND_STOPPING) await stop();
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
          assertMatch(ready!, /^READY=1\nSTATUS=serving on 127\.0\.0\.1:\d+, requests\/s: 0, /);
          assertEquals(stopping, "STOPPING=1");
        } finally {
          await Deno.remove(folder, { recursive: true });
        }
      },
    });
  }
}

for (const engine of ["datagram", "syscall"]) {
  Deno.test({
    name:
      `mallocd says WATCHDOG=1 and its rates while it serves, with the engine ${engine}${NO_MANAGER}`,
    ignore: NO_MANAGER !== "",
    async fn() {
      const folder = await Deno.makeTempDir({ prefix: "mallocd-notify-" });
      try {
        const options = ["--engine", engine];
        const env = { WATCHDOG_USEC: "100000" };
        const [ready, ...barks] = await told(`${folder}/notify`, options, { env, count: 4 });
        assertMatch(ready!, /, requests\/s: 0, blocks: 0, bytes: 0$/);
        assertEquals(barks, ["WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]);
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
}

Deno.test({
  name: `mallocd says WATCHDOG=1 also when it can have no descriptor more${NO_MANAGER}`,
  ignore: NO_MANAGER !== "",
  async fn() {
    const folder = await Deno.makeTempDir({ prefix: "mallocd-notify-" });
    try {
      const env = { WATCHDOG_USEC: "200000" };
      const meanwhile = async ({ pid }: Mallocd) => {
        const { code, stderr } = await run("prlimit", [`--pid=${pid}`, "--nofile=4"]);
        assertEquals(code, 0, stderr);
      };
      const [, ...barks] = await told(`${folder}/notify`, [], { env, count: 20, meanwhile });
      assertEquals(barks.length, 19); // some may tell the rates
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

Deno.test({
  name: `mallocd leaves a watchdog alone that is another process's${NO_MANAGER}`,
  ignore: NO_MANAGER !== "",
  async fn() {
    const folder = await Deno.makeTempDir({ prefix: "mallocd-notify-" });
    try {
      const env = { WATCHDOG_USEC: "1000", WATCHDOG_PID: "1" };
      const lines = await told(`${folder}/notify`, [], { env });
      assertEquals(lines.map((line) => line.split("\n")[0]), ["READY=1", "STOPPING=1"]);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

Deno.test("mallocd --log-json prints objects, errors and all", async () => {
  await using daemon = await Mallocd.start(["--log-json"]);
  const taken = await run(MALLOCD, ["--log-json", "--port", String(daemon.port)]);
  assertEquals([taken.code, JSON.parse(taken.stderr)], [1, {
    level: "error",
    msg: "failed",
    reason: `${daemon.server} is already in use`,
    try: "stop what listens there, or take another --port, 0 for any free one",
  }]);
  const { stderr } = await daemon.stop();
  const [ready, stopped] = stderr.trimEnd().split("\n").map((line) => JSON.parse(line));
  assertEquals([ready.level, ready.msg, ready.address], ["info", "ready", daemon.server]);
  assertEquals(stopped, { level: "info", msg: "stopped", signal: "SIGTERM" });
});

Deno.test("mallocd --log-json prints mistakes in its options as objects, be it a variable that says so", async () => {
  const misused = await run(MALLOCD, ["--memory", "lots", "--log-json"]);
  assertEquals([misused.code, JSON.parse(misused.stderr)], [2, {
    level: "error",
    msg: "failed",
    reason: '--memory cannot be "lots"',
    try: "use bytes, or a number with KiB, MiB or GiB",
  }]);
  const env = { MALLOCD_LOG_JSON: "on", MALLOCD_MEMROY: "1GiB" };
  const { code, stderr } = await run(MALLOCD, ["--nonsense"], { env });
  const lines = stderr.trimEnd().split("\n").map((line) => JSON.parse(line));
  assertEquals([code, lines.map(({ level, reason }) => [level, reason])], [2, [
    ["warn", "the variable MALLOCD_MEMROY means nothing: did you mean MALLOCD_MEMORY?"],
    ["error", "unknown option --nonsense"],
  ]]);
});

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
  assertMatch(stderr, /^level=info msg=checked version=\S+ address=127\.0\.0\.1:\d+ .*engine=\w+/);
  await using daemon = await Mallocd.start();
  const taken = await check("--port", String(daemon.port));
  assertEquals(taken.code, 1);
  assertStringIncludes(taken.stderr, "is already in use");
  assertEquals((await check("--memory", "lots")).code, 2);
});
