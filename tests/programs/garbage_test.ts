/**
 * What the syscall engine is made of stays what it is: V8 keeps a field as a small integer until it is given
 * something else. From then on it is a double, all code that knew it better is thrown away, and so is, by and
 * by, whatever is computed from it. The new code is slower, and what is run until there is any makes garbage.
 */

import { assertEquals } from "@std/assert";
import { runLoad } from "../../lib/client/load/run.ts";
import { LibcWire } from "../../lib/client/load/libc_wire.ts";
import { parseMix, parseSizes, type Workload } from "../../lib/client/load/workload.ts";
import { Remote } from "../../lib/client/remote.ts";
import { ROOT } from "./programs.ts";

const HOST = "127.0.0.1";
const HEAP = 2 ** 33;

const CLASSIC = {
  protocol: "classic",
  clients: 2,
  inFlight: 4,
  perDatagram: 1,
  mix: parseMix("read=4,write=2,malloc=1,free=1")!,
  sizes: parseSizes("16-60000")!,
  timeout: 10_000,
} as const satisfies Workload;
const TAGGED = {
  ...CLASSIC,
  protocol: "tagged",
  mix: parseMix("read=4,write=2,malloc=1,free=1,realloc=1,cas=1,add=1")!,
} as const satisfies Workload;
const WORKLOADS: readonly Workload[] = [
  CLASSIC,
  TAGGED,
  { ...TAGGED, perDatagram: 8, sizes: parseSizes("16-5000")!, proves: true },
];

/** The files whose code runs for a datagram, of those that keep numbers in fields. */
const SERVING = [
  ...["daemon/engines/syscall_worker", "daemon/service", "daemon/duplicate_request_cache"],
  ...["daemon/token", "heap/heap", "heap/buddy", "heap/undo", "heap/reclaim", "heap/changes"],
  ...["protocol/wire", "system/message", "system/hash"],
];

/** Lines like `[generalizing]size:s{Any;mutable}->d{Any;mutable} (+1 maps) [~decodeRequest+360 at file:///lib/x.ts:274]`. */
const CHANGE =
  /^\[generalizing\]([^:\n]+):s\{[^}\n]*\}->d.* \[\W*([^+\n]+)\+.* at file:.*\/lib\/(.*)\.ts:\d+\]$/gm;

/** Fields of a request that are meant to be doubles. They are from the first request on. */
const DOUBLES = ["pointer", "length"];

/** Other fields that were small integers, and that a daemon has made doubles when it has served everything. */
async function changesOf(...options: string[]): Promise<string[]> {
  const daemon = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-q", "--v8-flags=--trace-generalization", "-P=daemon", "main.ts"],
      ...["--port", "0", "--engine", "syscall", "--memory", `${HEAP}`, ...options],
    ],
    cwd: ROOT,
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const trace = new Response(daemon.stdout).text();
  const messages = daemon.stderr.pipeThrough(new TextDecoderStream()).getReader();
  const { value: ready = "" } = await messages.read();
  try {
    const port = Number(/address=127\.0\.0\.1:(\d+)/.exec(ready)?.[1]);
    const wire = new LibcWire({ transport: "udp", hostname: HOST, port }, CLASSIC.clients, false);
    const terminal = { progress: () => {}, signal: new AbortController().signal };
    await using remote = await Remote.connect({ server: `${HOST}:${port}` });
    await remote.malloc(HEAP / 2);
    for (const workload of WORKLOADS) await runLoad(workload, 50, { remote, wire, terminal });
    await wire.close();
  } finally {
    daemon.kill("SIGTERM");
    while (!(await messages.read()).done);
    messages.releaseLock();
  }
  const changes = [...(await trace).matchAll(CHANGE)]
    .filter(([, field, , file]) => SERVING.includes(file!) && !DOUBLES.includes(field!))
    .map(([, field, where]) => `${field} in ${where}()`);
  return [...new Set(changes)].sort();
}

for (const name of ["in memory", "in a file"]) {
  Deno.test(`while it serves a heap ${name}, only addresses and lengths become doubles`, async () => {
    const folder = await Deno.makeTempDir({ prefix: "mallocd-" });
    const file = name === "in a file" ? ["--heap-file", `${folder}/heap`, "--sparse"] : [];
    try {
      assertEquals(await changesOf(...file), []);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}
