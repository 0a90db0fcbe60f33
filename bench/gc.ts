/**
 * The garbage of a daemon under load. It is started with V8's --trace-gc, and warmed up until its code is
 * compiled. Then it is sent ten million requests, classic and tagged, and long reads, so that more than 2 GiB
 * go out. What the thread that serves uses of its heap is asked of V8 before and after; what it has collected
 * meanwhile is in the trace. For each engine; for the syscall engine, which is to make none, with a heap file,
 * too, and while somebody looks at the page. Exit code 1 if it collected any.
 *
 *     deno run -P=bench bench/gc.ts [--smoke]
 */

import { runLoad } from "../lib/client/load/run.ts";
import { LibcWire } from "../lib/client/load/libc_wire.ts";
import { parseMix, parseSizes, type Workload } from "../lib/client/load/workload.ts";
import { Remote } from "../lib/client/remote.ts";
import { Inspector } from "./inspector.ts";
import { Viewer } from "./page.ts";
import { HOST, startTraced } from "./prober.ts";
import { grouped, printTable } from "./table.ts";

const HEAP = 4 * 1024 ** 3;

const COMMON = { clients: 1, sizes: parseSizes("log:16-1024")!, timeout: 10_000 } as const;
const CLASSIC = parseMix("read=70,write=20,malloc=5,free=5")!;
const TAGGED = parseMix("read=60,write=20,malloc=5,free=5,realloc=4,cas=3,add=3")!;
const WORKLOADS: readonly Workload[] = [
  { ...COMMON, mix: CLASSIC, protocol: "classic", inFlight: 32, perDatagram: 1 },
  { ...COMMON, mix: TAGGED, protocol: "tagged", inFlight: 32, perDatagram: 1 },
  { ...COMMON, mix: TAGGED, protocol: "tagged", inFlight: 8, perDatagram: 32 },
];
const LONG_READS: Workload = {
  ...{ ...COMMON, mix: parseMix("read=1")!, sizes: parseSizes("60000")! },
  ...{ protocol: "classic", inFlight: 4, perDatagram: 1 },
};
/** When a step of the load has made so little, all code is compiled that it runs. */
const WARM_BYTES = 10_000;

/** How much of it. */
interface Scale {
  readonly requests: number;
  readonly longReads: number;
  readonly stepMs: number;
  /** Of a workload before the measurement, at the most. */
  readonly warmUpSteps: number;
}

interface Daemon {
  readonly engine: string;
  readonly options?: readonly string[];
  /** Whether somebody looks at its page. */
  readonly isWatched?: boolean;
}

/** What the thread that serves did in a measurement. */
interface Garbage {
  readonly requests: number;
  readonly collections: number;
  /** What was collected, and what it uses more of its heap than before. */
  readonly bytes: number;
}

async function measure(
  { engine, options = [], isWatched = false }: Daemon,
  { requests, longReads, stepMs, warmUpSteps }: Scale,
): Promise<Garbage> {
  const started = performance.now();
  const flags = ["--v8-flags=--trace-gc", `--inspect=${HOST}:0`];
  const daemon = await startTraced(flags, engine, "--memory", `${HEAP}`, ...options);
  const { said, port } = daemon;
  const readyMs = performance.now() - started;
  const viewer = isWatched ? new Viewer(/http=(\S+)/.exec(said)![1]!) : undefined;
  using inspector = await Inspector.connect(/ws:\S+/.exec(said)![0]);
  const inWorker = engine === "syscall";
  const used = () => inspector.used(inWorker);
  const wire = new LibcWire({ transport: "udp", hostname: HOST, port }, COMMON.clients, false);
  const terminal = { progress: () => {}, signal: new AbortController().signal };
  await using remote = await Remote.connect({ server: `${HOST}:${port}` });
  await remote.malloc(HEAP / 2); // so that no offset of the rest is a small integer
  const step = async (workload: Workload): Promise<number> => {
    const report = await runLoad(workload, stepMs, { remote, wire, terminal });
    if (report.wrong > 0) throw new Error(`Cannot trust it: ${report.wrong} replies were wrong`);
    return report.requests;
  };

  await step(LONG_READS);
  for (const workload of WORKLOADS) {
    let bytes = Infinity;
    for (let i = 0; i < warmUpSteps && bytes > WARM_BYTES; i++) {
      const before = await used();
      await step(workload);
      bytes = Math.abs(await used() - before);
    }
  }
  // In the trace a thread counts time from its own start, which is before the daemon is ready.
  const begin = performance.now() - started;
  await new Promise((resolve) => setTimeout(resolve, readyMs));
  const before = await used();
  let sent = 0;
  for (const end = sent + longReads; sent < end;) sent += await step(LONG_READS);
  for (const workload of WORKLOADS) {
    for (const end = sent + requests / WORKLOADS.length; sent < end;) sent += await step(workload);
  }
  const grown = await used() - before;
  await viewer?.stop();
  await wire.close();
  const collected = collectionsOf(await daemon.end(), inWorker).filter(({ ms }) => ms >= begin);
  const bytes = collected.reduce((sum, { bytes }) => sum + bytes, grown);
  return { requests: sent, collections: collected.length, bytes };
}

/**
 * Lines like `[4711:0x55d0c0]     1462 ms: Scavenge 7.4 (9.5) -> 6.4 (9.5) MB, ...` of a thread, of which the
 * main one collects first; not those with `(reduce)`, by which V8 gives memory back that an idle thread does
 * not need.
 */
function collectionsOf(trace: string, inWorker: boolean): { ms: number; bytes: number }[] {
  const lines = [...trace.matchAll(
    /^\[\d+:(\w+)\] +(\d+) ms: ([^(\d]+|.*\(reduce\) )(?:\(.*?\) )?([\d.]+) \(.*?\) -> ([\d.]+) /gm,
  )];
  const main = lines[0]?.[1];
  return lines
    .filter(([, isolate, , kind]) => (isolate !== main) === inWorker && !kind!.includes("(reduce)"))
    .map(([, , ms, , from, to]) => ({
      ms: Number(ms),
      bytes: (Number(from) - Number(to)) * 1024 ** 2,
    }));
}

async function main(scale: Scale): Promise<boolean> {
  const directory = await Deno.makeTempDir({ prefix: "mallocd-" });
  const daemons: Record<string, Daemon> = {
    datagram: { engine: "datagram" },
    syscall: { engine: "syscall" },
    "syscall, --heap-file": {
      engine: "syscall",
      options: ["--heap-file", `${directory}/heap`, "--sparse"],
    },
    "syscall, a page open": { engine: "syscall", options: ["--http", "0"], isWatched: true },
  };
  const rows = [[
    "engine",
    "requests",
    "collections",
    "per million",
    "bytes of garbage",
    "a request",
  ]];
  let isClean = true;
  try {
    for (const [name, daemon] of Object.entries(daemons)) {
      const { requests, collections, bytes } = await measure(daemon, scale);
      rows.push([
        name,
        grouped(requests),
        grouped(collections),
        (collections / requests * 1e6).toFixed(1),
        grouped(Math.round(bytes)),
        (bytes / requests).toFixed(3),
      ]);
      if (daemon.engine === "syscall" && collections > 0) isClean = false;
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
  printTable(rows);
  return isClean;
}

if (import.meta.main) {
  if (Deno.args.includes("--smoke")) {
    await main({ requests: 1, longReads: 1, stepMs: 50, warmUpSteps: 1 });
  } else {
    const isClean = await main({ requests: 1e7, longReads: 4e4, stepMs: 2000, warmUpSteps: 8 });
    Deno.exit(isClean ? 0 : 1);
  }
}
