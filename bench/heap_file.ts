/**
 * What a heap file costs: the syscall engine's rates with one, beside those without, in turns, how long a
 * daemon takes to be ready with many live blocks and much else in its file, and how long to end when all
 * of the heap was written since it began. And what a heap of 16 GiB costs that nobody uses. It takes
 * as much room on the disk as the file is large.
 *
 *     deno run -P=bench bench/heap_file.ts [--smoke]
 */

import { runLoad } from "../lib/client/load/run.ts";
import { LibcWire } from "../lib/client/load/libc_wire.ts";
import { parseMix, parseSizes, type Workload } from "../lib/client/load/workload.ts";
import { Remote } from "../lib/client/remote.ts";
import { HEAP_BASE } from "../lib/heap/heap.ts";
import { readShort } from "../lib/system/file.ts";
import { HOST, medians, processorTime, type Server, startMallocd } from "./prober.ts";
import { grouped, printTable, ratio } from "./table.ts";

const COMMON = {
  protocol: "tagged",
  clients: 1,
  sizes: parseSizes("log:16-1024")!,
  timeout: 1000,
} as const;
const MIXED = parseMix("read=70,write=20,malloc=5,free=5")!;
const WORKLOADS: Record<string, Workload> = {
  "reads, 32 in flight": { ...COMMON, mix: parseMix("read=1")!, inFlight: 32, perDatagram: 1 },
  "mixed, 32 in flight": { ...COMMON, mix: MIXED, inFlight: 32, perDatagram: 1 },
  "mixed, 32 a datagram, 8 in flight": { ...COMMON, mix: MIXED, inFlight: 8, perDatagram: 32 },
};

/** What a daemon has done in all measurements, and the seconds of processors that this took. */
interface Spent {
  requests: number;
  seconds: number;
}

/** Requests a second. */
async function rateOf(
  server: Server,
  workload: Workload,
  ms: number,
  spent: Spent,
): Promise<number> {
  const { port, pid } = server;
  const wire = new LibcWire({ transport: "udp", hostname: HOST, port }, COMMON.clients, false);
  const terminal = { progress: () => {}, signal: new AbortController().signal };
  await using remote = await Remote.connect({ server: `${HOST}:${port}` });
  const before = processorTime(pid);
  const { requests, wrong } = await runLoad(workload, ms, { remote, wire, terminal });
  spent.seconds += processorTime(pid) - before;
  spent.requests += requests;
  await wire.close();
  if (wrong > 0) throw new Error(`Cannot trust the run: ${wrong} replies were wrong`);
  return requests * 1000 / ms;
}

/** Milliseconds until a daemon is ready. */
async function timeToReady(...args: string[]): Promise<number> {
  const start = performance.now();
  await using _daemon = await startMallocd("syscall", ...args);
  return performance.now() - start;
}

/** Bytes of a write, and how many writes are on their way. */
const PIECE = 60_000;
const AT_ONCE = 64;

/** Writes all of the heap, and returns milliseconds until the daemon has then ended by SIGTERM. */
async function timeToEnd(bytes: number, ...args: string[]): Promise<number> {
  const daemon = await startMallocd("syscall", ...args);
  await using remote = await Remote.connect({ server: `${HOST}:${daemon.port}` });
  const data = new Uint8Array(PIECE).fill(0x5a);
  let at = 0;
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    while (at < bytes) {
      const piece = data.subarray(0, Math.min(PIECE, bytes - at));
      at += piece.length;
      await remote.write(BigInt(HEAP_BASE) + BigInt(at - piece.length), piece);
    }
  }));
  const start = performance.now();
  await daemon[Symbol.asyncDispose]();
  return performance.now() - start;
}

/** Bytes of a daemon that are resident when it is ready and nobody uses it. */
async function residentOf(...args: string[]): Promise<number> {
  await using daemon = await startMallocd("syscall", ...args);
  const status = readShort(`/proc/${daemon.pid}/status`);
  return Number(/^VmRSS:\s*(\d+) kB$/m.exec(status)?.[1]) * 1024;
}

async function main(rounds: number, ms: number, blocks: number): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "mallocd-bench-" });
  const path = `${folder}/heap`;
  const [bytes, name] = blocks > 1000 ? [4 * 1024 ** 3, "4GiB"] : [16 * 1024 ** 2, "16MiB"];
  const size = ["--memory", name];
  const inFile = [...size, "--heap-file", path];
  try {
    const rows = [[
      "syscall engine",
      "in a file, a second",
      "in memory, a second",
      "ratio",
      "by CPU time",
    ]];
    {
      // What spins while others have the processor spends time on nothing.
      await using file = await startMallocd("syscall", ...inFile, "--spin", "0");
      await using memory = await startMallocd("syscall", ...size, "--spin", "0");
      const unspent = () => ({ requests: 0, seconds: 0 });
      for (const workload of Object.values(WORKLOADS)) { // for the compilers
        for (const server of [file, memory]) await rateOf(server, workload, ms, unspent());
      }
      for (const [name, workload] of Object.entries(WORKLOADS)) {
        const both = [unspent(), unspent()] as const;
        const [one, other] = await medians(rounds, [
          () => rateOf(file, workload, ms, both[0]),
          () => rateOf(memory, workload, ms, both[1]),
        ]);
        const [inFileTime, inMemoryTime] = both.map(({ requests, seconds }) => seconds / requests);
        rows.push([
          name,
          grouped(Math.round(one!)),
          grouped(Math.round(other!)),
          ratio(one! / other!),
          ratio(inMemoryTime! / inFileTime!),
        ]);
      }
      printTable(rows);
      await using remote = await Remote.connect({ server: `${HOST}:${file.port}` });
      for (let i = 0; i < blocks; i += 1000) {
        await Promise.all(Array.from({ length: 1000 }, () => remote.malloc(64)));
      }
    }
    const empty = () => timeToReady(...size);
    const full = () => timeToReady(...inFile);
    const [someMs, emptyMs] = await medians(rounds, [full, empty]);
    const endMs = await timeToEnd(bytes, ...inFile, "--sync", "0");
    const huge = ["--memory", "16GiB"];
    const [fullMs, hugeMs, againMs] = await medians(rounds, [
      full,
      () => timeToReady(...huge),
      empty,
    ]);
    const [hugeBytes, emptyBytes] = await medians(rounds, [
      () => residentOf(...huge),
      () => residentOf(...size),
    ]);
    const row = (what: string, one: number, other: number, unit: string) => [
      what,
      `${one.toFixed(0)} ${unit}`,
      `${other.toFixed(0)} ${unit}`,
      ratio(one / other),
    ];
    const MIB = 1024 ** 2;
    printTable([
      ["", "", `empty ${name} in memory`, "ratio"],
      row(`ready with ${grouped(blocks)} live blocks in a file`, someMs!, emptyMs!, "ms"),
      row(`ready with these and all ${name} written`, fullMs!, againMs!, "ms"),
      row("ready with 16GiB in memory", hugeMs!, againMs!, "ms"),
      row("resident with 16GiB in memory", hugeBytes! / MIB, emptyBytes! / MIB, "MiB"),
    ]);
    console.log(`ended by SIGTERM ${endMs.toFixed(0)} ms after the last of ${name} was written`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) {
  await (Deno.args.includes("--smoke") ? main(1, 50, 1000) : main(11, 300, 1_000_000));
}
