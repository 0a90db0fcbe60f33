/**
 * Counts the garbage collections of a daemon under load: it is started with V8's --trace-gc, warmed up,
 * left alone, and sent ten million requests, half of them classic, half tagged, 32 in a datagram. For each
 * engine; exit code 1 if the syscall engine, which is to make none, made any.
 *
 *     deno run -P=bench bench/gc.ts [--smoke]
 */

import { type Report, runLoad } from "../lib/client/load/run.ts";
import { LibcWire } from "../lib/client/load/libc_wire.ts";
import { parseMix, parseSizes, type Workload } from "../lib/client/load/workload.ts";
import { Remote } from "../lib/client/remote.ts";
import { grouped, printTable } from "./table.ts";

const ROOT = new URL("../", import.meta.url);
const REQUESTS = Deno.args.includes("--smoke") ? 100_000 : 10_000_000;
/** Long enough that V8 has compiled, with all it knows, whatever is used. */
const WARM_UP_MS = 1500;
/** Before the count begins. A thread counts time from its own start, which is less than this later. */
const REST_MS = 1500;
const STEP_MS = 500;

const COMMON = {
  clients: 1,
  mix: parseMix("read=70,write=20,malloc=5,free=5")!,
  sizes: parseSizes("log:16-1024")!,
  timeout: 1000,
};
const WORKLOADS: readonly Workload[] = [
  { ...COMMON, protocol: "classic", inFlight: 32, perDatagram: 1 },
  { ...COMMON, protocol: "tagged", inFlight: 8, perDatagram: 32 },
];

interface Result {
  readonly requests: number;
  readonly collections: number;
}

async function measure(engine: string): Promise<Result> {
  const started = performance.now();
  await using daemon = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--quiet", "--v8-flags=--trace-gc", "-P=daemon", "--allow-read=lib"],
      ...["main.ts", "--port", "0", "--engine", engine],
    ],
    cwd: ROOT,
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const trace = new Response(daemon.stdout).text();
  const messages = daemon.stderr.pipeThrough(new TextDecoderStream()).getReader();
  const { value: ready = "" } = await messages.read();
  const port = Number(/address=127\.0\.0\.1:(\d+)/.exec(ready)?.[1]);
  if (Number.isNaN(port)) throw new Error(`Cannot start mallocd --engine ${engine}: ${ready}`);
  const peer: Deno.NetAddr = { transport: "udp", hostname: "127.0.0.1", port };
  const wire = new LibcWire(peer, COMMON.clients, false);
  const terminal = { progress: () => {}, signal: new AbortController().signal };
  const load = async (workload: Workload, ms: number): Promise<Report> => {
    const { protocol } = workload;
    await using remote = await Remote.connect({ server: `127.0.0.1:${port}`, protocol });
    return await runLoad(workload, ms, { remote, wire, terminal });
  };

  for (const workload of WORKLOADS) await load(workload, WARM_UP_MS);
  await new Promise((resolve) => setTimeout(resolve, REST_MS));
  const begin = performance.now() - started;
  let requests = 0;
  for (const [i, workload] of WORKLOADS.entries()) {
    const goal = REQUESTS * (i + 1) / WORKLOADS.length;
    while (requests < goal) {
      const report = await load(workload, STEP_MS);
      if (report.wrong > 0) {
        throw new Error(`Cannot trust the run: ${report.wrong} replies were wrong`);
      }
      requests += report.requests;
    }
  }
  await wire.close();
  daemon.kill("SIGTERM");
  await messages.read();
  messages.releaseLock();
  return { requests, collections: countCollections(await trace, begin - REST_MS / 2) };
}

/**
 * Lines like `[4711:0x55d0c0]     1462 ms: Scavenge 7.4 (9.5) -> 6.4 (9.5) MB, ...` from `begin` on; not
 * those with `(reduce)`, by which V8 gives memory back that an idle thread does not need.
 */
function countCollections(trace: string, begin: number): number {
  const times = trace.matchAll(
    /^\[\d+:0x[0-9a-f]+\] +(\d+) ms: (?:Scavenge|(?:Incremental )?Mark-Compact(?! \(reduce\)))/gm,
  );
  return [...times].filter(([, ms]) => Number(ms) >= begin).length;
}

if (import.meta.main) {
  const rows = [["engine", "requests", "collections", "per million"]];
  let clean = true;
  for (const engine of ["datagram", "syscall"]) {
    const { requests, collections } = await measure(engine);
    const rate = collections / requests * 1e6;
    rows.push([engine, grouped(requests), grouped(collections), rate.toFixed(1)]);
    if (engine === "syscall" && collections > 0) clean = false;
  }
  printTable(rows);
  Deno.exit(clean ? 0 : 1);
}
