/**
 * What a heap file costs: the syscall engine's rates with one, beside those without, in turns, and how
 * long a daemon takes to be ready with many live blocks in its file.
 *
 *     deno run -P=bench bench/heap_file.ts [--smoke]
 */

import { runLoad } from "../lib/client/load/run.ts";
import { LibcWire } from "../lib/client/load/libc_wire.ts";
import { parseMix, parseSizes, type Workload } from "../lib/client/load/workload.ts";
import { Remote } from "../lib/client/remote.ts";
import { HOST, medians, startMallocd } from "./prober.ts";
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

async function rateOf(port: number, workload: Workload, ms: number): Promise<number> {
  const wire = new LibcWire({ transport: "udp", hostname: HOST, port }, COMMON.clients, false);
  const terminal = { progress: () => {}, signal: new AbortController().signal };
  await using remote = await Remote.connect({ server: `${HOST}:${port}` });
  const { requests, wrong } = await runLoad(workload, ms, { remote, wire, terminal });
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

async function main(rounds: number, ms: number, blocks: number): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "mallocd-bench-" });
  const path = `${folder}/heap`;
  const size = ["--memory", blocks > 1000 ? "4GiB" : "16MiB"];
  const inFile = [...size, "--heap-file", path];
  try {
    const rows = [["syscall engine", "in a file, a second", "in memory, a second", "ratio"]];
    {
      await using file = await startMallocd("syscall", ...inFile);
      await using memory = await startMallocd("syscall", ...size);
      for (const workload of Object.values(WORKLOADS)) { // for the compilers
        for (const { port } of [file, memory]) await rateOf(port, workload, ms);
      }
      for (const [name, workload] of Object.entries(WORKLOADS)) {
        const runs = [file, memory].map(({ port }) => () => rateOf(port, workload, ms));
        const [one, other] = await medians(rounds, runs);
        rows.push([
          name,
          grouped(Math.round(one!)),
          grouped(Math.round(other!)),
          ratio(one! / other!),
        ]);
      }
      printTable(rows);
      await using remote = await Remote.connect({ server: `${HOST}:${file.port}` });
      for (let i = 0; i < blocks; i += 1000) {
        await Promise.all(Array.from({ length: 1000 }, () => remote.malloc(64)));
      }
    }
    const [full, empty] = await medians(rounds, [
      () => timeToReady(...inFile),
      () => timeToReady(...size),
    ]);
    console.log(
      `ready with ${grouped(blocks)} live blocks in a file in ${full!.toFixed(0)} ms, ` +
        `with an empty heap in memory in ${empty!.toFixed(0)} ms`,
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) {
  await (Deno.args.includes("--smoke") ? main(1, 50, 1000) : main(11, 300, 1_000_000));
}
