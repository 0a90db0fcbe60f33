/** mallocd-client stat and top, as their users see them. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { figures } from "../../lib/daemon/counters.ts";
import {
  CLIENT,
  done,
  failed,
  Mallocd,
  misused,
  NO_FFI,
  run,
  Terminal,
  whyNoTerminal,
} from "./programs.ts";

Deno.test("mallocd-client stat prints figures by name, families, and else all that are not 0", async () => {
  await using daemon = await Mallocd.start();
  await daemon.client("malloc 100");
  await daemon.client("malloc 20");
  assertEquals(
    await daemon.client("stat blocks bytes refused.truncated"),
    done("blocks 2\nbytes 160\nrefused.truncated 0\n"),
  );
  const { stdout } = await daemon.client("stat requests");
  assertMatch(stdout, /^requests\.malloc 2\nrequests\.free 0\n(requests\.\w+ \d+\n)+$/);
  const all = (await daemon.client("stat")).stdout;
  assertMatch(all, /^epoch 0x[0-9a-f]{16}\n(\S+ [1-9]\d*\n)+$/);
  assertStringIncludes(all, "\nliveBlocks.128 1\n");
});

Deno.test("mallocd-client --json stat prints all figures as one object", async () => {
  await using daemon = await Mallocd.start();
  const { stdout } = await daemon.client("--json stat");
  const object = JSON.parse(stdout);
  assertEquals(Object.keys(object), ["epoch", ...figures().map(({ name }) => name)]);
  const { epoch } = JSON.parse((await daemon.client("--json info")).stdout);
  assertEquals([object.epoch, object["requests.stats"], object.heap], [epoch, 2, 2 ** 30]);
  const some = await daemon.client("--json stat heap epoch");
  assertEquals(JSON.parse(some.stdout), { heap: 2 ** 30, epoch });
});

Deno.test("mallocd-client stat -i prints what was counted in each interval", async () => {
  await using daemon = await Mallocd.start();
  const { code, stdout, stderr } = await daemon.client("stat -i 100ms -r 3");
  assertEquals([code, stderr], [0, ""]);
  const [title, ...rows] = stdout.trimEnd().split("\n").map((row) => row.trim().split(/ +/));
  assertEquals(title, [
    ...["requests/s", "received/s", "sent/s", "refused/s", "kernelDrops/s"],
    ...["blocks", "bytes"],
  ]);
  assertEquals(rows.length, 3);
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);
  for (const row of rows) { // of this client's own requests: one in each interval, and the first two
    const [requests = "", , , refused, drops, blocks, bytes] = row;
    assert(Number(requests) > 0, stdout);
    assertEquals([refused, drops, blocks, bytes], ["0", "0", "0", "0"]);
  }
  const some = await daemon.client("--json stat -i 50ms -r 2 heap requests");
  for (const line of some.stdout.trimEnd().split("\n")) {
    const { seconds, heap, ["requests/s"]: rate } = JSON.parse(line);
    assertEquals([seconds >= 0.05, heap, rate > 0], [true, 2 ** 30, true], line);
  }
});

for (const engine of ["datagram", "syscall"]) {
  Deno.test({
    name: `mallocd-client stat tells what the kernel dropped, with the engine ${engine}${NO_FFI}`,
    ignore: NO_FFI !== "",
    async fn() {
      const small = engine === "syscall" ? ["--receive-buffer", "4096"] : [];
      await using daemon = await Mallocd.start(["--engine", engine, ...small]);
      const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
      Deno.kill(daemon.pid, "SIGSTOP");
      for (let i = 0; i < 500; i++) {
        await socket.send(new Uint8Array(1024), {
          transport: "udp",
          hostname: "127.0.0.1",
          port: daemon.port,
        });
      }
      Deno.kill(daemon.pid, "SIGCONT");
      socket.close();
      let drops = 0;
      for (let i = 0; i < 100 && drops === 0; i++) { // it looks once a second
        const { stdout } = await daemon.client("--json stat kernelDrops");
        drops = JSON.parse(stdout).kernelDrops;
        if (drops === 0) await new Promise((resolve) => setTimeout(resolve, 100));
      }
      assert(drops > 100, `${drops}`);
    },
  });
}

Deno.test("mallocd-client stat says what it cannot do", async () => {
  await using daemon = await Mallocd.start();
  const hint = "mallocd-client --json stat shows all";
  assertEquals(
    await daemon.client("stat blocks request"),
    misused('stat: the daemon has no figure "request": did you mean requests?', hint),
  );
  assertEquals(
    await daemon.client("--classic stat"),
    failed("stats(1): needs the tagged protocol"),
  );
});

Deno.test("mallocd-client top prints one interval where there is no terminal", async () => {
  await using daemon = await Mallocd.start();
  await daemon.client("malloc 100");
  const { code, stdout, stderr } = await daemon.client("top -i 100ms");
  assertEquals([code, stderr], [0, ""]);
  const lines = stdout.trimEnd().split("\n");
  assertMatch(lines[0]!, /^mallocd \S+ at 127\.0\.0\.1:\d+, \w+ engine, up 0:00:\d\d$/);
  assertMatch(lines[1]!, /^heap {3}\[#\.{39}\] 128 B of 1 GiB$/);
  for (const line of lines) assert(line.length <= 80 && !line.includes("\x1b"), line);
  assertMatch(stdout, /\nmalloc +0 +1 .* 128 B +1 +1\n/);
  const twice = await daemon.client("top -i 50ms -r 2");
  assertEquals(twice.stdout.match(/^mallocd /gm)?.length, 2);
});

Deno.test("mallocd-client --json top prints an object for each interval", async () => {
  await using daemon = await Mallocd.start();
  await daemon.client("malloc 100");
  const { code, stdout, stderr } = await daemon.client("--json top -i 50ms -r 2");
  assertEquals([code, stderr], [0, ""]);
  const objects = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
  assertEquals(objects.length, 2);
  for (const object of objects) {
    const { server, seconds, heap, blocks, latency } = object;
    assertEquals([server, heap, blocks, object["liveBlocks.128"]], [daemon.server, 2 ** 30, 1, 1]);
    assertEquals([seconds >= 0.05, object["requests.malloc/s"]], [true, 0]);
    assertEquals([object["requests/s"] > 0, latency.p50 > 0], [true, true], stdout);
  }
  assertEquals((await daemon.client("--json top -i 50ms")).stdout.split("\n").length, 2);
});

const noTerminal = await whyNoTerminal();

/** The other screen, without a cursor; and what was there before. */
const ENTER = "\x1b[?1049h\x1b[?25l";
const LEAVE = "\x1b[?25h\x1b[?1049l";

function testOnTerminal(name: string, fn: (daemon: Mallocd) => Promise<void>): void {
  Deno.test({
    name: `mallocd-client top ${name}${noTerminal}`,
    ignore: noTerminal !== "",
    async fn() {
      await using daemon = await Mallocd.start();
      await fn(daemon);
    },
  });
}

/** A shell that says how the terminal is set, before and after. */
function inShell(daemon: Mallocd, line: string, env: Record<string, string> = {}): Terminal {
  return new Terminal(`sh -c 'stty -g; ${line}; echo exit $?; stty -g'`, { ...daemon.env, ...env });
}

/** What was shown after `ENTER`, if the terminal was left as it was found. */
function between(shown: string, code: number): string {
  const [before, rest] = shown.split(ENTER) as [string, string];
  const [screen, after] = rest.split(LEAVE) as [string, string];
  const [exit, settings] = after.trim().split("\r\n").slice(-2);
  assertEquals([exit, settings], [`exit ${code}`, before.trim()], JSON.stringify(shown));
  return screen;
}

for (const key of ["q", "Q", "\x03"]) {
  testOnTerminal(`shows a screen and leaves it at ${JSON.stringify(key)}`, async (daemon) => {
    await using terminal = inShell(daemon, "mallocd-client top -i 100ms");
    const begun = await terminal.until("q or Ctrl-C ends");
    await terminal.until("q or Ctrl-C ends");
    await terminal.type(key);
    const screen = between(begun + (await terminal.end()).shown, 0);
    assertStringIncludes(screen, "mallocd ");
    assertStringIncludes(screen, "\x1b[1mMETHOD");
  });
}

testOnTerminal(
  "clears nothing behind what it has written, where a last column would be lost",
  async (daemon) => {
    await using terminal = inShell(daemon, "mallocd-client top -i 50ms -r 2");
    const screen = between((await terminal.end()).shown, 0);
    // deno-lint-ignore no-control-regex
    assertEquals(/(?<!\r\n|\x1b\[H)\x1b\[[JK]/.exec(screen), null);
  },
);

testOnTerminal("has no colours where NO_COLOR is set, or for a dumb terminal", async (daemon) => {
  for (const env of [{ NO_COLOR: "1" }, { TERM: "dumb" }]) {
    await using terminal = inShell(daemon, "mallocd-client top -i 50ms -r 2", env);
    const screen = between((await terminal.end()).shown, 0);
    // deno-lint-ignore no-control-regex
    assert(!/\x1b\[[\d;]*m/.test(screen), JSON.stringify(screen));
  }
});

testOnTerminal("leaves the terminal as it was at SIGINT, SIGTERM and SIGHUP", async (daemon) => {
  for (const [signal, code] of [["INT", 0], ["TERM", 1], ["HUP", 1]] as const) {
    const line = `mallocd-client top -i 10s & sleep 1; kill -${signal} $!; wait $!`;
    await using terminal = inShell(daemon, line);
    const begun = await terminal.until("ends");
    between(begun + (await terminal.end()).shown, code);
  }
});

testOnTerminal("says that the daemon is gone, and goes on when it is back", async (daemon) => {
  await using terminal = inShell(daemon, "mallocd-client --timeout 300ms top -i 100ms");
  let shown = await terminal.until("q or Ctrl-C ends");
  await daemon.stop();
  shown += await terminal.until("is mallocd running there?");
  await using other = await Mallocd.from("mallocd", [
    "--port",
    String(daemon.port),
    "--memory",
    "2GiB",
  ]);
  shown += await terminal.until("of 2 GiB");
  await terminal.type("q");
  between(shown + (await terminal.end()).shown, 0);
  assertEquals((await other.stop()).code, 0);
});

testOnTerminal("ends when its output is closed", async (daemon) => {
  await using terminal = inShell(daemon, "mallocd-client top -i 50ms -r 100 | head -1");
  const { shown } = await terminal.end();
  assertMatch(shown, /\nmallocd [^\n]*engine/);
  assert(!shown.includes(ENTER), shown);
});

Deno.test("mallocd-client top ends at once where there is no daemon, exit code 1", async () => {
  await using daemon = await Mallocd.start();
  await daemon.stop();
  const outcome = await run(CLIENT, ["top"], { env: daemon.env });
  assertEquals([outcome.code, outcome.stdout], [1, ""]);
  assertStringIncludes(outcome.stderr, "nobody listens");
});
