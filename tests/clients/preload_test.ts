/**
 * clients/preload, malloc for programs that don't know: real ones, and one that does to its memory what programs
 * do (preload_driver.c). Each prints, byte for byte, what it prints without the library.
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Mallocd, type Outcome, parseLogfmt, ROOT, run, runBytes } from "../programs/programs.ts";
import { Random } from "../testing.ts";
import { Proxy } from "./proxy.ts";

const FOLDER = new URL("clients/preload/", ROOT).pathname;
const BUILD = `${FOLDER}build/`;
const RUN = `${BUILD}mallocd-run`;
const DRIVER = `${BUILD}driver`;
const SECONDS = 1000;
const PATIENCE = 120 * SECONDS;
const NOBODY = 65534;

const whyNot = await whyNoPager();

/** Empty, or why the library cannot be tested here, for the names of tests. */
async function whyNoPager(): Promise<string> {
  for (const program of ["cc", "make"]) {
    const { code } = await run("sh", ["-c", `command -v ${program}`]);
    if (code !== 0) return ` (no ${program})`;
  }
  const { code, stderr } = await run("make", ["-s", "-C", FOLDER, "all", "build/driver"]);
  assertEquals({ code, stderr }, { code: 0, stderr: "" }); // no warning either
  await using daemon = await Mallocd.start();
  const probe = await run(RUN, ["true"], { env: { MALLOCD_SERVER: daemon.server } });
  return probe.code === 0 ? "" : ` (${probe.stderr.split("\n")[0]})`;
}

async function whyNo(...programs: string[]): Promise<string> {
  for (const program of programs) {
    const { code } = await run("sh", ["-c", `command -v ${program}`]);
    if (code !== 0) return ` (no ${program})`;
  }
  return "";
}

function test(name: string, fn: () => Promise<void>, reason = ""): void {
  const why = whyNot || reason;
  Deno.test({ name: `clients/preload ${name}${why}`, ignore: why !== "", fn });
}

/** A folder that is gone at the end. */
async function withFolder(fn: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "mallocd-preload-" });
  try {
    await fn(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** What the reaper of each process wrote, summed up; once there are as many lines as processes with blocks. */
async function countsIn(file: string, processes = 1): Promise<Record<string, number>> {
  for (const start = Date.now(); Date.now() - start < PATIENCE;) {
    const lines = (await Deno.readTextFile(file).catch(() => "")).split("\n").slice(0, -1);
    if (lines.length < processes) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      continue;
    }
    const sums: Record<string, number> = {};
    for (const line of lines) {
      for (const [name, value] of Object.entries(parseLogfmt(line))) {
        if (name !== "program") sums[name] = (sums[name] ?? 0) + Number(value);
      }
    }
    return sums;
  }
  throw new Error(`${file} has fewer than ${processes} lines`);
}

/** Resolves when nothing is allocated any more. */
async function empty(daemon: Mallocd): Promise<void> {
  for (const start = Date.now(); Date.now() - start < PATIENCE;) {
    if (await isEmpty(daemon)) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error("something is still allocated");
}

async function isEmpty(daemon: Mallocd): Promise<boolean> {
  const { stdout } = await daemon.client("stat");
  return stdout.includes(`\nlargestFree ${256 * 1024 ** 2}\n`);
}

const HEAP = ["--memory", "256MiB"];

interface Run {
  /** The server, if it is not the daemon itself. */
  server?: string;
  local?: string;
  threshold?: string;
  options?: string[];
}

/** Runs a program plain and with the library, and asserts that it does the same, and that chunks came and went. */
async function assertSame(
  words: readonly string[],
  { local = "8MiB", threshold = "64KiB", server, options = [] }: Run,
  given: { input?: string; env?: Record<string, string>; processes?: number } = {},
): Promise<void> {
  const [program = "", ...args] = words;
  const env = { LC_ALL: "C", ...given.env };
  await withFolder(async (folder) => {
    await using daemon = await Mallocd.start(HEAP);
    const how = { ...given, env, timeout: PATIENCE };
    const plain = await runBytes(program, args, how);
    const stats = `${folder}/stats`;
    const own = ["--server", server ?? daemon.server, "--local", local, "--threshold", threshold];
    const line = [...own, "--stats", stats, ...options, program, ...args];
    assertEquals(await runBytes(RUN, line, how), plain);
    const counts = await countsIn(stats, given.processes);
    const { evicted = 0, fetched = 0 } = counts;
    assert(evicted > 0 && fetched > 0, JSON.stringify(counts));
    await empty(daemon);
  });
}

function lines(count: number, seed: number): string {
  const random = new Random(seed);
  let text = "";
  for (let i = 0; i < count; i++) text += `${random.below(2 ** 30)} ${random.below(2 ** 20)}\n`;
  return text;
}

/* --- Real programs --------------------------------------------------------------------------------------- */

test("sort of 50 MB with 8 MiB here prints the same", async () => {
  await withFolder(async (folder) => {
    const some = lines(60_000, 1);
    const file = `${folder}/lines`;
    await Deno.writeTextFile(file, some.repeat(Math.ceil(50e6 / some.length)));
    // What is sorted at a time is twice what may be here.
    await assertSame(["sort", "-S", "16M", "--parallel=1", "-T", folder, file], {});
  });
});

test("sort in memory, of twice what may be here, prints the same", async () => {
  await assertSame(["sort", "-S", "100M", "--parallel=2"], { local: "8MiB" }, {
    input: lines(150_000, 2),
  });
});

test("sqlite3 with a database in memory prints the same", async () => {
  const input = `create table t(a integer primary key, b text, c text);
    with recursive n(i) as (select 1 union all select i + 1 from n where i < 150000)
      insert into t select i, hex(i * 7919 % 100003), printf('%050d', i * 31) from n;
    create index tb on t(b);
    select count(*), sum(length(c)) from t where b like '%33%';
    select b, count(*) from t group by b order by 2 desc, 1 limit 5;
    delete from t where a % 3 = 0; select sum(a) from t where b > '35';`;
  // Its pages are blocks of 4 KiB and a little.
  await assertSame(["sqlite3", ":memory:"], { threshold: "4KiB" }, { input });
}, await whyNo("sqlite3"));

test("python3 and what it forks and starts print the same", async () => {
  const input = `
import hashlib, os, subprocess
numbers = [i * i for i in range(1000000)]
data = bytearray(bytes(range(256)) * 60000)
for name in "child", "another":
    child = os.fork()
    if child == 0:
        numbers.reverse()
        data[::7] = bytes(len(data[::7]))
        assert numbers[0] == 999999 ** 2 and sum(numbers) == 333332833333500000
        os._exit(hashlib.md5(data).digest()[0])
    print(name, os.waitpid(child, 0)[1], flush=True)
numbers.sort(key=lambda x: x % 1009)
print(sum(numbers[:1000]), hashlib.md5(data).hexdigest(), flush=True)
print(subprocess.run(["echo", "started"], capture_output=True).stdout)
print(subprocess.check_output("echo by a shell; true", shell=True))
`;
  await assertSame(["/usr/bin/python3", "-"], {}, { input, processes: 3 });
}, await whyNo("/usr/bin/python3"));

test("gcc makes the same object", async () => {
  await withFolder(async (folder) => {
    let source = "";
    for (let i = 0; i < 800; i++) {
      source += `int f${i}(int a, int b) { int c = a * ${i} + b; for (int i = 0; i < a; i++) ` +
        `{ c ^= i * ${i * 7}; if (c > ${i * 31}) c -= b; else c += a << ${i % 8}; } return c; }\n`;
    }
    await Deno.writeTextFile(`${folder}/large.c`, source);
    // The object goes to standard output; cc1 is the one process that has so many blocks.
    const line = `cd ${folder} && gcc -O1 -c -o large.o large.c && cat large.o && rm large.o`;
    await assertSame(["sh", "-c", line], { threshold: "4KiB", local: "2MiB" });
  });
}, await whyNo("gcc"));

test("xz prints the same, and reads it", async () => {
  await withFolder(async (folder) => {
    // A file, for it prints before it has read all.
    const numbers = Array.from({ length: 1_000_000 }, (_, i) => `${i}\n`).join("");
    await Deno.writeTextFile(`${folder}/numbers`, numbers);
    const xz = `xz --lzma2=preset=0,dict=16MiB -T1 <${folder}/numbers`;
    const line = `${xz} >${folder}/packed; cat ${folder}/packed; xz -d <${folder}/packed`;
    await assertSame(["sh", "-c", line], { local: "4MiB" }, { processes: 2 });
  });
}, await whyNo("xz"));

test("what fits into --local is never moved", async () => {
  await withFolder(async (folder) => {
    await using daemon = await Mallocd.start(HEAP);
    const stats = `${folder}/stats`;
    const own = ["--server", daemon.server, "--local", "8MiB", "--stats", stats];
    const bytes = 8 * 1024 ** 2 - 3 * 65_536;
    const dd = [
      "dd",
      "if=/dev/urandom",
      "of=/dev/null",
      `bs=${bytes}`,
      "count=1",
      "iflag=fullblock",
    ];
    const { code, stderr } = await runBytes(RUN, [...own, ...dd]);
    assertEquals(code, 0, stderr);
    const { zeroed = 0, faults, rescued, evicted, written } = await countsIn(stats);
    assert(zeroed >= 125, `${zeroed} chunks`);
    assertEquals({ faults, rescued, evicted, written }, {
      faults: zeroed,
      rescued: 0,
      evicted: 0,
      written: 0,
    });
  });
});

/* --- What programs do to their memory ---------------------------------------------------------------------- */

for (const threshold of ["64KiB", "4KiB"]) {
  const here = { local: "4MiB", threshold };
  test(`malloc(3) does as it says, with a threshold of ${threshold}`, async () => {
    await assertSame([DRIVER, "calls"], here);
  });

  test(`four threads count right, with a threshold of ${threshold}`, async () => {
    await assertSame([DRIVER, "threads", "4"], here);
  });

  test(`fork(2) makes copies, with a threshold of ${threshold}`, async () => {
    await assertSame([DRIVER, "fork"], here, { processes: 5 });
  });

  test(`system calls, handlers and stacks reach what is not here, with a threshold of ${threshold}`, async () => {
    await assertSame([DRIVER, "system"], here, { processes: 3 });
  });

  test(`blocks come, go, grow and shrink, with a threshold of ${threshold}`, async () => {
    const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
    console.log(`preload_driver random ${seed}`);
    await assertSame([DRIVER, "random", `${seed}`], here);
  });
}

/* --- A network that loses ---------------------------------------------------------------------------------- */

test("a network that loses 20% changes no output", async () => {
  await using daemon = await Mallocd.start(HEAP);
  using proxy = new Proxy(daemon.port, { loss: 0.2, seed: 7 });
  const options = ["--server", proxy.server, "--local", "1MiB", "--timeout", "50s"];
  const input = lines(25_000, 3);
  for (
    const words of [["sort", "-S", "20M", "--parallel=1"], ["tac"], ["sh", "-c", "tac | sort"]]
  ) {
    const [program = "", ...args] = words;
    const how = { input, env: { LC_ALL: "C" }, timeout: PATIENCE };
    const plain = await run(program, args, how);
    assertEquals(await run(RUN, [...options, program, ...args], how), plain);
  }
  assert(proxy.lost > 20, `${proxy.lost} datagrams were lost`);
  await empty(daemon);
});

/* --- Daemons that refuse, and end --------------------------------------------------------------------------- */

/** The driver, which holds 20 MiB, or as many as are said, while something happens; then it looks at them. */
async function hold(
  daemon: Mallocd,
  options: readonly string[],
  happens: () => Promise<void>,
  mib = 20,
): Promise<Outcome> {
  const own = ["--server", daemon.server, "--local", "2MiB", ...options];
  const child = new Deno.Command(RUN, {
    args: [...own, DRIVER, "hold", `${mib}`],
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const timer = setTimeout(() => child.kill("SIGKILL"), PATIENCE);
  const stderr = new Response(child.stderr).text();
  const output = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let stdout = "";
  while (!stdout.includes("ready")) {
    const { value, done } = await output.read();
    if (done) break;
    stdout += value;
  }
  await happens();
  const input = child.stdin.getWriter();
  await input.write(new TextEncoder().encode("\n")).catch(() => {});
  await input.close().catch(() => {});
  for (let next; !(next = await output.read()).done;) stdout += next.value;
  const { code } = await child.status;
  clearTimeout(timer);
  return { code, stdout, stderr: await stderr };
}

const HELD = "ready\nlater: 0 wrong\nheld: 0 wrong\n";

test("a heap that is full is no failure: what has no room there stays here", async () => {
  await withFolder(async (folder) => {
    await using daemon = await Mallocd.start(["--memory", "4MiB"]);
    const stats = `${folder}/stats`;
    const outcome = await hold(daemon, ["--stats", stats], async () => {});
    assertEquals(outcome, { code: 0, stdout: HELD, stderr: "" });
    const { evicted = 0, fetched = 0, refused = 0 } = await countsIn(stats);
    assert(evicted > 0 && fetched > 0 && refused > 0, `${evicted} ${fetched} ${refused}`);
  });
});

test("a program that has all its blocks here goes on when its daemon is killed, and has more", async () => {
  await withFolder(async (folder) => {
    await using daemon = await Mallocd.start(HEAP);
    const stats = `${folder}/stats`;
    const options = ["--local", "1MiB", "--timeout", "1s", "--stats", stats];
    const outcome = await hold(daemon, options, () => daemon.stop("SIGKILL").then(() => {}), 1);
    const { code, stdout, stderr } = outcome;
    assertEquals({ code, stdout }, { code: 0, stdout: HELD });
    assertMatch(
      stderr,
      /^mallocd: \S+ takes no more blocks: Connection refused\. Those that are still here stay here\n$/,
    );
    const { zeroed = 0, written, evicted, blocks } = await countsIn(stats);
    // The first was here, and so is the second, beyond what may be, since it could not be sent.
    assert(zeroed >= 2 * 16, `${zeroed} chunks`);
    assertEquals({ blocks, written, evicted }, { blocks: 2, written: 0, evicted: 0 });
  });
});

test("a program whose daemon is killed aborts with a message, and gets no zeros", async () => {
  await using daemon = await Mallocd.start(HEAP);
  const outcome = await hold(
    daemon,
    ["--timeout", "1s"],
    async () => void await daemon.stop("SIGKILL"),
  );
  assertEquals(outcome.code, 134);
  assertEquals(outcome.stdout.replace("later: 0 wrong\n", ""), "ready\n");
  assertMatch(
    outcome.stderr,
    /mallocd: cannot fetch 65536 bytes at 0x[0-9a-f]+ from \S+: Connection refused\. The program cannot go on\n$/,
  );
});

test("a program whose daemon was restarted aborts with a message, and gets no zeros", async () => {
  await using daemon = await Mallocd.start(HEAP);
  let next: Mallocd | undefined;
  const outcome = await hold(daemon, [], async () => {
    await daemon.stop("SIGKILL");
    next = await Mallocd.start([...HEAP, "--port", `${daemon.port}`]);
  });
  await next?.[Symbol.asyncDispose]();
  assertEquals(outcome.code, 134);
  assertEquals(outcome.stdout.replace("later: 0 wrong\n", ""), "ready\n");
  assertMatch(
    outcome.stderr,
    /cannot fetch 65536 bytes at \S+ from \S+: Stale file handle|was restarted, and has lost what/,
  );
});

test("a daemon that is there again in time was only slow", async () => {
  await using daemon = await Mallocd.start(HEAP);
  let timer;
  const outcome = await hold(daemon, [], () => {
    Deno.kill(daemon.pid, "SIGSTOP");
    timer = setTimeout(() => Deno.kill(daemon.pid, "SIGCONT"), SECONDS);
    return Promise.resolve();
  });
  clearTimeout(timer);
  assertEquals(outcome, { code: 0, stdout: HELD, stderr: "" });
});

/* --- Ends --------------------------------------------------------------------------------------------------- */

test("what a process that is killed had is freed", async () => {
  await using daemon = await Mallocd.start(HEAP);
  const args = ["--server", daemon.server, "--local", "2MiB", DRIVER, "hold", "20"];
  const child = new Deno.Command(RUN, { args, stdin: "piped", stdout: "piped" }).spawn();
  const output = child.stdout.getReader();
  await output.read();
  assertEquals(await isEmpty(daemon), false); // some of it is there
  child.kill("SIGKILL");
  await output.cancel();
  await child.stdin.close().catch(() => {});
  await child.status;
  await empty(daemon);
});

test("what a program had is freed when another takes its place", async () => {
  await using daemon = await Mallocd.start(HEAP);
  const args = ["--server", daemon.server, "--local", "2MiB", DRIVER, "exec", "20"];
  const stat = `MALLOCD_SERVER=${daemon.server} mallocd-client stat`; // an address, which needs no quotes
  const look = `until ${stat} | grep -q '^largestFree 268435456$'; do sleep 0.05; done; echo freed`;
  const outcome = await run(RUN, [...args, "env", "-u", "LD_PRELOAD", "sh", "-c", look]);
  assertEquals(outcome, { code: 0, stdout: "ready\nfreed\n", stderr: "" });
});

/* --- Where it cannot be done --------------------------------------------------------------------------------- */

test("no program starts without a daemon, but with --fallback", async () => {
  const server = "127.0.0.1:9"; // nobody's
  const refusal = `mallocd: no mallocd at ${server}: Connection refused\n`;
  const outcome = await run(RUN, ["--server", server, "echo", "hello"]);
  assertEquals({ ...outcome, stderr: "" }, { code: 1, stdout: "", stderr: "" });
  assertStringIncludes(outcome.stderr, refusal);
  assertStringIncludes(outcome.stderr, "Try: start it, or name another: MALLOCD_SERVER=HOST:PORT");
  assertEquals(await run(RUN, ["--server", server, "--fallback", "echo", "hello"]), {
    code: 0,
    stdout: "hello\n",
    stderr: refusal.replace("refused\n", "refused: this is plain malloc\n"),
  });
});

const misuses: Record<string, [string[], RegExp]> = {
  "a server that is none": [["--server", "nowhere"], /no mallocd at nowhere: Invalid argument/],
  "a size that is none": [
    ["--local", "many"],
    /MALLOCD_LOCAL cannot be many: .*Try: MALLOCD_LOCAL=/,
  ],
  "too small a size": [["--local", "64KiB"], /MALLOCD_LOCAL cannot be 64KiB: .* at least 1048576/],
  "too low a threshold": [
    ["--threshold", "16"],
    /MALLOCD_THRESHOLD cannot be 16: .* at least 4096/,
  ],
  "too long a time": [["--timeout", "51s"], /MALLOCD_TIMEOUT cannot be 51s: .* at most 50s/],
};

for (const [name, [options, message]] of Object.entries(misuses)) {
  test(`${name} is refused with a reason`, async () => {
    await using daemon = await Mallocd.start();
    const args = ["--server", daemon.server, ...options, "echo", "hello"];
    const { code, stdout, stderr } = await run(RUN, args);
    assertEquals([code, stdout], [options[0] === "--server" ? 1 : 2, ""]);
    assertMatch(stderr, message);
  });
}

test("mallocd-run says what it cannot do", async () => {
  const hint = "Try: mallocd-run --help\n";
  const nothing = await run(RUN, []);
  assertEquals(nothing, {
    code: 2,
    stdout: "",
    stderr: `mallocd-run: there is no PROGRAM\n${hint}`,
  });
  const { code, stderr } = await run(RUN, ["--lokal", "8MiB", "echo"]);
  assertEquals([code, stderr.endsWith(hint)], [2, true]);
  assertMatch((await run(RUN, ["/no/such"])).stderr, /^mallocd-run: \/no\/such: No such file/);
});

const SYSCTL = "/proc/sys/vm/unprivileged_userfaultfd";

const whyNobody = (await run("id", ["-u"])).stdout !== "0\n"
  ? " (not root)"
  : (await run("cat", [SYSCTL])).stdout !== "0\n"
  ? " (vm.unprivileged_userfaultfd is not 0)"
  : await whyNo("setpriv");

/** Runs programs as somebody who may have no userfaultfd, with a copy of the library that he may read. */
async function withNobody(
  use: (by: (...words: string[]) => Promise<Outcome>, folder: string) => Promise<void>,
): Promise<void> {
  await withFolder(async (folder) => {
    await using daemon = await Mallocd.start(HEAP);
    await Deno.chmod(folder, 0o755);
    for (const name of ["mallocd-run", "libmallocd.so", "driver"]) {
      await Deno.copyFile(BUILD + name, `${folder}/${name}`);
      await Deno.chmod(`${folder}/${name}`, 0o755);
    }
    const user = ["--reuid", `${NOBODY}`, "--regid", `${NOBODY}`, "--clear-groups"];
    const options = ["--server", daemon.server, "--local", "4MiB"];
    const by = (...words: string[]) =>
      run("setpriv", [...user, `${folder}/mallocd-run`, ...options, ...words], {
        timeout: PATIENCE,
      });
    await use(by, folder);
    await empty(daemon);
  });
}

/** What reads into memory that is not here, and what forks, does the same as without the library. */
async function assertSameForNobody(
  by: (...words: string[]) => Promise<Outcome>,
  folder: string,
): Promise<void> {
  for (const test of ["system", "fork"]) {
    const driver = `${folder}/driver`;
    assertEquals(await by(driver, test), await run(driver, [test], { timeout: PATIENCE }));
  }
}

test(
  "who may have no userfaultfd is told what to do, and mallocd-run as setuid root is one way",
  () =>
    withNobody(async (by, folder) => {
      const refused = await by("true");
      assertEquals([refused.code, refused.stdout], [1, ""]);
      assertMatch(
        refused.stderr,
        /^mallocd: no permission for userfaultfd\nmallocd: Try: let the user /,
      );
      assertEquals(await by("--fallback", "echo", "hello"), {
        code: 0,
        stdout: "hello\n",
        stderr: "mallocd: no permission for userfaultfd: this is plain malloc\n",
      });
      await Deno.chmod(`${folder}/mallocd-run`, 0o4755);
      assertEquals(await by("id", "-u"), { code: 0, stdout: `${NOBODY}\n`, stderr: "" });
      await assertSameForNobody(by, folder);
    }),
  whyNobody,
);

/** As `sysctl vm.unprivileged_userfaultfd=1` does; empty, or why it may not be. */
async function allowUserfaultfd(value: 0 | 1): Promise<string> {
  const { code } = await run("sh", ["-c", `echo ${value} >${SYSCTL}`]);
  return code === 0 ? "" : ` (vm.unprivileged_userfaultfd cannot be set)`;
}

test(
  "who may have no userfaultfd may once the sysctl says so",
  () =>
    withNobody(async (by, folder) => {
      assertEquals(await allowUserfaultfd(1), "");
      try {
        await assertSameForNobody(by, folder);
      } finally {
        await allowUserfaultfd(0);
      }
      assertEquals((await by("true")).code, 1);
    }),
  whyNobody || await allowUserfaultfd(0),
);
