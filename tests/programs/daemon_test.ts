/** mallocd as a process: its command line, what it says, signals, and whom it answers. */

import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { DAEMON_FLAGS } from "../../lib/daemon/flags.ts";
import { Remote } from "../../lib/client/remote.ts";
import { LIBC_PATHS } from "../../lib/system/libc.ts";
import { fields, head, Random, word } from "../testing.ts";
import {
  DIST,
  done,
  failed,
  FIRST,
  MALLOCD,
  Mallocd,
  misused,
  NO_FFI,
  type Outcome,
  Peer,
  ROOT,
  run,
  unstarted,
} from "./programs.ts";

const config = JSON.parse(await Deno.readTextFile(new URL("deno.json", ROOT)));

/** Runs a daemon that ends by itself. */
function mallocd(line: string, env: Record<string, string> = {}): Promise<Outcome> {
  return run(MALLOCD, line === "" ? [] : line.split(" "), { env });
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

/** The engines that must serve here. The daemon is not asked, for it may have lost one. */
async function findEngines(): Promise<string[]> {
  const made = await Deno.readTextFile(`${DIST}.engine`);
  const found = await Promise.all(LIBC_PATHS.map(exists));
  return Deno.build.os === "linux" && found.includes(true) && made.trim() !== "datagram"
    ? ["datagram", "syscall"]
    : ["datagram"];
}

const engines = await findEngines();

Deno.test("mallocd --help shows every option", async () => {
  const { code, stdout, stderr } = await mallocd("--help");
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^mallocd: .*\n\nUsage: mallocd \[OPTIONS\]\n/);
  const shown = [...stdout.matchAll(/^ {2}(?:-\w, )?--([\w-]+)/gm)].map(([, name]) => name);
  assertEquals(shown, Object.keys(DAEMON_FLAGS));
  assertEquals(await mallocd("-h"), done(stdout));
});

Deno.test("mallocd --version prints the version of deno.json", async () => {
  assertEquals(await mallocd("--version"), done(`mallocd ${config.version}\n`));
});

const EXPOSED = "can be reached from other hosts, and there is no authentication";
const ADMIT =
  "add --allow CIDR[,CIDR] to answer only those networks, or --anyone to answer everybody";
const LISTS = "mallocd --help lists the options";

/** KiB of memory that a process has. */
async function residentKib(pid: number): Promise<number> {
  const { stdout } = await run("grep", ["VmRSS", `/proc/${pid}/status`]);
  return Number(/\d+/.exec(stdout)?.[0]);
}

const MISUSES: [line: string, message: string, hint: string, env?: Record<string, string>][] = [
  ["--port 65536", '--port cannot be "65536"', "use a whole number from 0 to 65535"],
  ["--port -1", '--port cannot be "-1"', "use a whole number from 0 to 65535"],
  ["--port", "--port needs one value", "--port PORT"],
  ["--memory lots", '--memory cannot be "lots"', "use bytes, or a number with KiB, MiB or GiB"],
  ["--memory 17GiB", '--memory cannot be "17GiB"', "use 4KiB to 16GiB, a multiple of 16 bytes"],
  ["--memory 4100", '--memory cannot be "4100"', "use 4KiB to 16GiB, a multiple of 16 bytes"],
  [
    "--huge-pages --engine datagram",
    "--huge-pages cannot be had with --engine datagram",
    "--engine syscall, or leave it out",
  ],
  [
    "--spin 0 --engine datagram",
    "--spin cannot be had with --engine datagram",
    "--engine syscall, or leave it out",
  ],
  [
    "--receive-buffer 1MiB --engine quic",
    "--receive-buffer cannot be had with --engine quic",
    "--engine syscall, or leave it out",
  ],
  [
    "--unvalidated --engine quic",
    "--unvalidated cannot be had with --engine quic",
    "--engine auto, or leave it out",
  ],
  ["--key key", "--key cannot be had with --engine auto", "--engine quic, or leave it out"],
  [
    "--engine datagram",
    "--spin cannot be had with --engine datagram",
    "--engine syscall, or leave it out",
    { MALLOCD_SPIN: "0" },
  ],
  ...["--spin 0", "--receive-buffer 1MiB", "--huge-pages", "--heap-file heap", "--cert cert"].map((
    line,
  ): [string, string, string] => [
    `${line} --cluster 127.0.0.1:1`,
    `${line.split(" ")[0]} cannot be had with --cluster`,
    "leave one of them out",
  ]),
  [
    "--huge-pages --heap-file heap",
    "--huge-pages means nothing with --heap-file",
    "leave one of them out",
  ],
  [
    "--copies 3",
    "--copies means nothing without --cluster",
    "add --cluster NODE,..., or leave it out",
  ],
  [
    "--lease 3s",
    "--lease means nothing without --cluster",
    "add --cluster NODE,..., or leave it out",
  ],
  [
    "--cluster 127.0.0.1:1 --lease 1ms",
    '--lease cannot be "1ms"',
    "use a time from 500ms to 600s",
  ],
  ["--sync 5", "--sync means nothing without --heap-file", "add --heap-file PATH, or leave it out"],
  ["--fuel 5", "--fuel means nothing without --procedures", "add --procedures, or leave it out"],
  ["", "--fuel means nothing without --procedures", "add --procedures, or leave it out", {
    MALLOCD_FUEL: "5",
  }],
  ["audit heap --strict", "--strict means nothing to audit", "mallocd audit FILE"],
  ["--engine steam", '--engine cannot be "steam"', "use one of auto, datagram, syscall, quic"],
  [
    "--allow 127.0.0.1,10.0.0.0/33",
    '--allow cannot be "127.0.0.1,10.0.0.0/33"',
    "use networks as 192.168.0.0/24,fd00::/8 (10.0.0.0/33 is none)",
  ],
  ["--replay-cache 0", '--replay-cache cannot be "0"', "use a whole number from 1 to 16777216"],
  ["--anyone=0", "--anyone takes no value", "--anyone, or leave it out"],
  ["--prot 1", "unknown option --prot: did you mean --port?", LISTS],
  ["-x", "unknown option -x", LISTS],
  ["start", 'unknown command "start"', "mallocd help lists them"],
  ["hepl", 'unknown command "hepl": did you mean help?', "mallocd help lists them"],
  ["audit", "audit: FILE is missing", "mallocd audit FILE"],
  ["version 5", 'version: "5" is one word too many', "mallocd version"],
  ["--host 0.0.0.0", `--host 0.0.0.0 ${EXPOSED}`, ADMIT],
  ["--host ::", `--host :: ${EXPOSED}`, ADMIT],
  ["", `--host 0.0.0.0 ${EXPOSED}`, ADMIT, { MALLOCD_HOST: "0.0.0.0" }],
  ["", 'MALLOCD_PORT cannot be "any"', "use a whole number from 0 to 65535", {
    MALLOCD_PORT: "any",
  }],
  ["--port 0", 'MALLOCD_STRICT cannot be "maybe"', "use 1 or 0", { MALLOCD_STRICT: "maybe" }],
  ["--port x", '--port cannot be "x"', "use a whole number from 0 to 65535", {
    MALLOCD_QUIET: "1",
  }],
];

Deno.test("mallocd help says nothing of a reader that has gone", async () => {
  const command = new Deno.Command(MALLOCD, { args: ["help"], stdout: "piped", stderr: "piped" });
  const child = command.spawn();
  await child.stdout.cancel();
  assertEquals(await new Response(child.stderr).text(), "");
  assertEquals((await child.status).code, 1);
});

Deno.test("mallocd help and version say what --help and --version do", async () => {
  assertEquals(await mallocd("help"), await mallocd("--help"));
  assertEquals(await mallocd("version"), done(`mallocd ${config.version}\n`));
  assertEquals(await mallocd("help audit"), await mallocd("audit --help"));
  assertMatch((await mallocd("help audit")).stdout, /^Usage: mallocd audit FILE$/m);
});

Deno.test("mallocd says what is wrong with its command line and what to do, exit code 2", async () => {
  for (const [line, message, hint, env] of MISUSES) {
    assertEquals(await mallocd(line, env), misused(message, hint, "mallocd"));
  }
});

for (const engine of engines) {
  Deno.test(`mallocd --engine ${engine} is ready, answers, and ends with its totals`, async () => {
    await using daemon = await Mallocd.start(["--engine", engine, "--memory", "64MiB"]);
    const { receive_buffer, address, ...ready } = daemon.ready;
    assertMatch(address!, /^127\.0\.0\.1:[1-9]\d*$/);
    assertEquals(receive_buffer !== undefined, engine === "syscall");
    assertEquals(ready, {
      level: "info",
      msg: "ready",
      version: config.version,
      memory: "64MiB",
      engine,
    });
    assertEquals(await daemon.client("malloc 5"), done(`${FIRST}\n`));
    const { code, stdout, totals } = await daemon.stop();
    assertEquals([code, stdout], [0, ""]);
    assertEquals(totals, {
      level: "info",
      msg: "stopped",
      signal: "SIGTERM",
      received: "2",
      receivedBytes: "56",
      sent: "2",
      sentBytes: "96",
      turns: "2",
      "requests.malloc": "1",
      "requests.hello": "1",
      "payload.malloc": "5",
      blocks: "1",
      bytes: "16",
      highWater: "16",
    });
  });

  Deno.test(`mallocd --engine ${engine} ends in order as soon as it is ready`, async () => {
    for (let i = 0; i < 5; i++) {
      await using daemon = await Mallocd.start(["--engine", engine]);
      const { code, totals } = await daemon.stop("SIGINT");
      assertEquals([code, totals], [0, { level: "info", msg: "stopped", signal: "SIGINT" }]);
    }
  });

  Deno.test(`mallocd --engine ${engine} names the port that is in use, exit code 1`, async () => {
    await using daemon = await Mallocd.start();
    const outcome = await mallocd(`--engine ${engine} --port ${daemon.port}`);
    const hint = "stop what listens there, or take another --port, 0 for any free one";
    assertEquals(outcome, unstarted(`${daemon.server} is already in use`, hint));
  });

  Deno.test(`mallocd --engine ${engine} answers only what --allow names`, async () => {
    // The datagram engine takes no wildcard.
    const address = engine === "datagram" ? "127.0.0.1" : "0.0.0.0";
    const host = ["--engine", engine, "--host", address, "--allow"];
    await using near = await Mallocd.start([...host, "127.0.0.0/8,::1"]);
    const env = { MALLOCD_SERVER: `127.0.0.1:${near.port}` };
    assertEquals(await near.client("malloc 5", { env }), done(`${FIRST}\n`));
    assertEquals((await near.stop()).totals["dropped.network"], undefined);

    await using far = await Mallocd.start([...host, "10.0.0.0/8"]);
    {
      using peer = new Peer(far);
      for (let i = 0; i < 10; i++) await peer.send(fields(0, 5));
    }
    const { code } = await far.client(`--timeout 200ms --server 127.0.0.1:${far.port} malloc 5`);
    assertEquals(code, 1);
    const { received, "dropped.network": dropped, sent } = (await far.stop()).totals;
    assert(Number(dropped) > 10);
    assertEquals([received, sent], [dropped, undefined]);
  });

  Deno.test({
    name: `mallocd --engine ${engine} drops what comes from its own port number`,
    ignore: Deno.build.os !== "linux", // elsewhere 127.0.0.1 is the only loopback address
    async fn() {
      await using daemon = await Mallocd.start(["--engine", engine]);
      using twin = new Peer(daemon, { hostname: "127.0.0.2", port: daemon.port });
      using peer = new Peer(daemon);
      await twin.send(fields(0, 5));
      assertEquals(await peer.ask(fields(0, 5)), fields(FIRST));
      const { received, "dropped.ownPort": dropped, sent } = (await daemon.stop()).totals;
      assertEquals([received, dropped, sent], ["2", "1", "1"]);
    },
  });

  Deno.test(`mallocd --engine ${engine} --strict admits only what is inside one block`, async () => {
    await using daemon = await Mallocd.start(["--engine", engine, "--strict"]);
    assertEquals(await daemon.client("malloc 16"), done(`${FIRST}\n`));
    assertEquals(await daemon.client(`write ${FIRST} 16 0123456789abcdef`), done());
    assertEquals(
      await daemon.client(`read ${FIRST} 17`),
      failed("read(0xc420000000, 17): not inside one live allocation"),
    );
    assertEquals(await daemon.client(`--classic write ${FIRST + 16} 1 x`), done());
    await daemon.settle();
    const { totals } = await daemon.stop();
    assertEquals([totals["silent"], totals["refused.outsideLiveBlock"]], ["1", "2"]);
  });

  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    Deno.test(`mallocd --engine ${engine} ends under load at ${signal}, exit code 0`, async () => {
      await using daemon = await Mallocd.start(["--engine", engine]);
      let ended = false;
      const flood = async () => {
        using peer = new Peer(daemon);
        const pointer = await peer.ask(fields(0, 1000));
        while (!ended) {
          await peer.send(fields(2) + pointer + fields(1000));
          await peer.send(fields(1, 1));
        }
      };
      const floods = [flood(), flood(), flood()];
      await daemon.client("ping --count 3 --interval 50ms");
      const { code, totals } = await daemon.stop(signal);
      ended = true;
      await Promise.all(floods);
      assertEquals([code, totals["signal"], totals["blocks"]], [0, signal, "3"]);
      assert(Number(totals["received"]) > 100);
    });
  }

  Deno.test(`mallocd --engine ${engine} serves the original's clients without a wrong byte`, async () => {
    await using daemon = await Mallocd.start(["--engine", engine, "--memory", "64KiB"]);
    const ROUNDS = 5000;
    const random = new Random(1);
    {
      using peer = new Peer(daemon);
      for (let round = 0; round < ROUNDS; round++) {
        const pointer = await peer.ask(fields(0, 20));
        const data = random.bytes(5).toHex();
        await peer.send(fields(3) + pointer + fields(5) + data);
        const back = await peer.ask(fields(2) + pointer + fields(5));
        await peer.send(fields(1) + pointer);
        assertEquals([pointer, back], [fields(FIRST), data], `round ${round}`);
      }
      await peer.ask(fields(2, 0, 0)); // the last free has been served when this is answered
    }
    const { totals } = await daemon.stop();
    const [malloc, free, read, write] = ["malloc", "free", "read", "write"]
      .map((method) => totals[`requests.${method}`]);
    const { blocks } = totals;
    assertEquals([malloc, free, write].map(Number), [ROUNDS, ROUNDS, ROUNDS]);
    assertEquals([Number(read), blocks], [ROUNDS + 1, undefined]);
  });

  Deno.test({
    name: `mallocd --engine ${engine}, idle, is as small with 16GiB as with 64MiB`,
    ignore: Deno.build.os !== "linux", // for want of /proc
    async fn() {
      const idle = async (memory: string) => {
        await using daemon = await Mallocd.start(["--engine", engine, "--memory", memory]);
        return await residentKib(daemon.pid);
      };
      const [small, large] = [await idle("64MiB"), await idle("16GiB")];
      assert(
        small > 0 && large - small < 20 * 1024,
        `${large} KiB with 16GiB, ${small} with 64MiB`,
      );
    },
  });
}

Deno.test("mallocd --engine auto takes the fastest engine, or says why not", async () => {
  await using fast = await Mallocd.start();
  assertEquals(fast.ready["engine"], engines.at(-1));
  assertEquals(fast.ready["reason"] === undefined, engines.includes("syscall"));
  await using local = await Mallocd.start(["--host", "localhost"]);
  assertEquals(local.ready["engine"], engines.at(-1));
});

Deno.test("mallocd --engine syscall says why it cannot be had, exit code 1", async () => {
  const { code, stderr } = await mallocd("--engine syscall --host localhost. --anyone --port 0");
  assertEquals(code, 1);
  assertMatch(
    stderr,
    /^level=error msg=failed reason="--engine syscall cannot be had: .*" try="--engine datagram"\n$/,
  );
});

Deno.test("mallocd names an address that it cannot listen on, exit code 1", async () => {
  for (const engine of engines) {
    assertEquals(
      await mallocd(`--engine ${engine} --host 192.0.2.1 --anyone --port 8081`),
      unstarted("192.0.2.1:8081 is not an address of this host", "another --host"),
    );
  }
  const { code, stderr } = await mallocd("--host nobody.invalid --anyone");
  assertEquals(code, 1);
  assertMatch(
    stderr,
    / reason="nobody\.invalid:8081 cannot be listened on: .*" try="another --host"\n$/,
  );
});

Deno.test("mallocd prefers flag to variable to default", async () => {
  const env = { MALLOCD_MEMORY: "64MiB", MALLOCD_ENGINE: "datagram", MALLOCD_VERSION: "1.0" };
  const memories: string[] = [];
  for (const [args, variables] of [[["--memory", "32MiB"], env], [[], env], [[], {}]] as const) {
    await using daemon = await Mallocd.start([...args], { env: variables });
    memories.push(daemon.ready["memory"]!);
    if (variables === env) assertEquals(daemon.ready["engine"], "datagram");
  }
  assertEquals(memories, ["32MiB", "64MiB", "1GiB"]);
});

/**
 * usage: NAME COMMAND... Runs a command in a cgroup of that name below ours, of either version, which may
 * use 512 MiB.
 */
const CGROUP = `set -eu
own=/sys/fs/cgroup/memory$(sed -n "s/^[0-9]*:memory://p" /proc/self/cgroup)
limit=memory.limit_in_bytes
[ -f "$own/$limit" ] || own=/sys/fs/cgroup/memory
[ -f "$own/$limit" ] || { own=/sys/fs/cgroup limit=memory.max; }
group=$own/$1
shift
mkdir -p "$group"
trap 'rmdir "$group"' EXIT
echo 536870912 >"$group/$limit"
sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$group" "$@" & child=$!
trap 'kill $child' TERM
wait $child || wait $child`;

/** Why no command can be run in a cgroup of its own; empty if one can. */
async function whyNoCgroup(): Promise<string> {
  if (Deno.build.os !== "linux") return " (skipped: no cgroups)";
  if (!engines.includes("syscall")) return " (skipped: the daemon has no libc)";
  const { code, stderr } = await run("sh", ["-c", CGROUP, "sh", "mallocd-probe", "true"]);
  return code === 0 ? "" : ` (skipped: ${stderr.trim().split("\n").at(-1)})`;
}

const noCgroup = await whyNoCgroup();

Deno.test({
  name: `mallocd warns of a --memory above what its cgroup may use, with --check, too${noCgroup}`,
  ignore: noCgroup !== "",
  async fn() {
    for (const [memory, warns] of [["1GiB", true], ["512MiB", false]] as const) {
      const command = [MALLOCD, "--port", "0", "--memory", memory];
      const args = ["-c", CGROUP, "sh", `mallocd-${Deno.pid}`, ...command];
      await using daemon = await Mallocd.from("sh", args);
      await daemon.settle();
      const { stderr } = await daemon.stop();
      const reason = `--memory ${memory} is more than the 512MiB that this cgroup has`;
      assertEquals(stderr.includes(`msg=warning reason="${reason}"\n`), warns, stderr);
      const checked = await run("sh", [...args, "--check"]);
      assertEquals(checked.code, 0, checked.stderr);
      assertEquals(checked.stderr.includes(reason), warns, checked.stderr);
    }
  },
});

Deno.test("mallocd takes its port from MALLOCD_PORT, and 0 for any free one", async () => {
  await using first = await Mallocd.from(MALLOCD, [], { env: { MALLOCD_PORT: "0" } });
  await first.stop();
  const env = { MALLOCD_PORT: `${first.port}` };
  await using second = await Mallocd.from(MALLOCD, [], { env });
  assertEquals(second.port, first.port);
  assertNotEquals(second.port, 0);
});

Deno.test("mallocd --quiet says nothing but errors", async () => {
  await using first = await Mallocd.start();
  const port = `${first.port}`;
  assertEquals((await mallocd(`--quiet --port ${port}`)).code, 1);
  await first.stop();
  // It does not say when it is ready, and until then nobody listens.
  const ping = `mallocd-client --server 127.0.0.1:${port} ping --count 1 >/dev/null 2>&1`;
  const script = `mallocd --quiet --port ${port} & until ${ping}; do :; done; kill $!; wait $!`;
  assertEquals(await run("sh", ["-c", script]), done());
});

Deno.test("mallocd --replay-cache N answers the last N requests again", async () => {
  await using daemon = await Mallocd.start(["--replay-cache", "2"]);
  using peer = new Peer(daemon);
  const malloc = (tag: number) => peer.ask(word(tag, 0) + fields(16));
  const reply = (tag: number, block: number) => head(tag, 0, 0, 8) + fields(FIRST + 16 * block);
  assertEquals(await malloc(1), reply(1, 0));
  assertEquals(await malloc(1), reply(1, 0));
  assertEquals(await malloc(2), reply(2, 1));
  assertEquals(await malloc(1), reply(1, 0));
  assertEquals(await malloc(3), reply(3, 2));
  assertEquals(await malloc(1), reply(1, 3)); // forgotten
  const { "requests.malloc": mallocs, replays, evictions } = (await daemon.stop()).totals;
  assertEquals([mallocs, replays, evictions], ["4", "2", "2"]);
});

for (const more of [[], ["--huge-pages"]]) {
  Deno.test({
    name:
      `mallocd --engine syscall ${more} gives memory back that was written and is not allocated`,
    ignore: Deno.build.os !== "linux",
    async fn() {
      const PAGES = 20_000;
      await using daemon = await Mallocd.start(["--engine", "syscall", ...more]);
      using peer = new Peer(daemon);
      const kept = await peer.ask(fields(0, 4096));
      await peer.send(fields(3) + kept + fields(1) + "55");
      const before = await residentKib(daemon.pid);
      for (let page = 1; page <= PAGES; page++) {
        await peer.send(fields(3, FIRST + page * 4096, 1) + "55");
        if (page % 64 === 0) await peer.ask(fields(2, FIRST, 1)); // or the socket would overflow
      }
      // Two rounds of the hand, a second each, and as long again for a slow machine; then it fails.
      let gained = Infinity;
      for (let i = 0; i < 100 && gained > PAGES; i++) {
        await new Promise((resolve) => setTimeout(resolve, 200));
        gained = await residentKib(daemon.pid) - before;
      }
      assert(gained < PAGES, `${gained} KiB stay of ${4 * PAGES}`);
      assertEquals(await peer.ask(fields(2) + kept + fields(1)), "55");
    },
  });
}

for (const memory of ["64MiB", "1GiB", "1.5GiB", "3GiB", "4GiB", "6.5GiB", "16GiB"]) {
  Deno.test(`mallocd --memory ${memory} begins with ${FIRST}`, async () => {
    await using daemon = await Mallocd.start(["--memory", memory]);
    assertEquals(daemon.ready["memory"], memory);
    assertEquals(await daemon.client("malloc 5"), done(`${FIRST}\n`));
    assertMatch(
      (await daemon.client("info")).stdout,
      new RegExp(`^size: \\d+ \\(${memory}\\)$`, "m"),
    );
    assertEquals(
      await daemon.client(`malloc ${2 ** 34 + 1}`),
      failed("malloc(17179869185): out of memory"),
    );
  });
}

Deno.test("mallocd --engine auto on a wildcard says why it can have neither engine", async () => {
  const words = ["run", "-q", "--no-prompt", "-P=daemon-without-ffi", "main.ts"];
  const flags = ["--port", "0", "--host", "0.0.0.0", "--anyone"];
  const env = Deno.env.toObject();
  const { code, stderr } = await run(Deno.execPath(), [...words, ...flags], { env });
  assertEquals(code, 1);
  assertMatch(stderr, /with the datagram engine: .* --engine syscall, which cannot be had here: /);
});

Deno.test("mallocd's time stands still while it is stopped: what it remembers does not age", async () => {
  const STOPPED_MS = 8000;
  await using daemon = await Mallocd.start();
  await using remote = await Remote.connect({ server: daemon.server, timeout: 40_000 });
  using peer = new Peer(daemon);
  const uptime = async () => (await remote.stats()).get("uptime")!.value;
  const pointer = await remote.malloc(8);
  const add = word(7, 6) + fields(pointer, 1);
  const reply = await peer.ask(add);
  const before = await uptime();
  Deno.kill(daemon.pid, "SIGSTOP");
  await peer.send(add); // waits in the socket
  await new Promise((resolve) => setTimeout(resolve, STOPPED_MS));
  Deno.kill(daemon.pid, "SIGCONT");
  assertEquals(await peer.receive(), reply);
  const served = Number(await uptime() - before);
  assert(served < STOPPED_MS / 1000, `${served} s went by`);
  assertEquals(await remote.fetchAndAdd(pointer, 0n), 1n);
});

for (
  const [text, datagram, areTogether] of [
    // of NULL; the rest of it is ignored
    ["no more than 64 KiB of requests", fields(1, 0) + "00".repeat(40_000), false],
    [
      "as many long writes as have come",
      fields(3, 0xc420000000, 40_000) + "00".repeat(40_000),
      true,
    ],
  ] as const
) {
  Deno.test({
    name: `mallocd serves ${text} before it answers${NO_FFI}`,
    ignore: NO_FFI !== "",
    async fn() {
      const COUNT = 12;
      await using daemon = await Mallocd.start(["--engine", "syscall"]);
      await using remote = await Remote.connect({ server: daemon.server, timeout: 40_000 });
      using peer = new Peer(daemon);
      const turns = async () => (await remote.stats()).get("turns")!.value;
      const before = await turns();
      Deno.kill(daemon.pid, "SIGSTOP");
      for (let i = 0; i < COUNT; i++) await peer.send(datagram);
      Deno.kill(daemon.pid, "SIGCONT");
      const took = await turns() - before;
      const isRight = areTogether ? took < COUNT / 2 : took >= COUNT;
      assert(isRight, `${COUNT} datagrams of 40 KB took ${took} turns`);
    },
  });
}
