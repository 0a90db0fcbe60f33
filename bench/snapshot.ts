/**
 * What snapshots take from those who are served meanwhile: the syscall engine's rates while one is made
 * after the other, beside those while none is, in turns; how long everybody waited for the last pages of
 * each, and how long it took.
 *
 *     deno run -P=bench bench/snapshot.ts [--smoke]
 */

import { runLoad } from "../lib/client/load/run.ts";
import { LibcWire } from "../lib/client/load/libc_wire.ts";
import { parseMix, parseSizes, type Workload } from "../lib/client/load/workload.ts";
import { Remote } from "../lib/client/remote.ts";
import { HOST, medians, type Server, startMallocd } from "./prober.ts";
import { grouped, printTable, ratio } from "./table.ts";

const COMMON = { protocol: "tagged", timeout: 1000 } as const;
const MIXED = parseMix("read=70,write=20,malloc=5,free=5")!;
const SMALL = { clients: 1, mix: MIXED, sizes: parseSizes("log:16-1024")! };
const WORKLOADS: Record<string, Workload> = {
  "mixed, 32 in flight": { ...COMMON, ...SMALL, inFlight: 32, perDatagram: 1 },
  "mixed, 32 a datagram, 8 in flight": { ...COMMON, ...SMALL, inFlight: 8, perDatagram: 32 },
  "writes of 16 KiB to 8 MiB, 32 in flight": {
    ...{ ...COMMON, clients: 16, mix: parseMix("write=1")!, sizes: parseSizes("16KiB")! },
    ...{ inFlight: 2, perDatagram: 1 },
  },
};

/** Requests a second, and the longest time that one took, in milliseconds. */
async function measure({ port }: Server, workload: Workload, ms: number, slowest: number[]) {
  const wire = new LibcWire({ transport: "udp", hostname: HOST, port }, workload.clients, false);
  const terminal = { progress: () => {}, signal: new AbortController().signal };
  await using remote = await Remote.connect({ server: `${HOST}:${port}` });
  const { requestsPerSecond, wrong, latency } = await runLoad(workload, ms, {
    ...{ remote, wire, terminal },
  });
  await wire.close();
  if (wrong > 0) throw new Error(`Cannot trust the run: ${wrong} replies were wrong`);
  slowest.push(latency.max / 1000);
  return requestsPerSecond;
}

/** Asks for one snapshot after the other, for as long as it is not killed. */
async function ask(server: string): Promise<never> {
  const remote = await Remote.connect({ server, timeout: 30_000 });
  for (;;) await remote.snapshot();
}

/** Does so in a process of its own, until it is disposed of. */
function askElsewhere({ port }: Server): AsyncDisposable {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-q", "-P=bench", import.meta.filename!, "--ask", `${HOST}:${port}`],
    stderr: "null",
  }).spawn();
  return {
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.status;
    },
  };
}

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1]!;

async function main(rounds: number, ms: number, written: number): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "mallocd-bench-" });
  try {
    const size = ["--memory", "1GiB", "--heap-file", `${folder}/heap`];
    await using daemon = await startMallocd("syscall", "--log-json", ...size);
    await using remote = await Remote.connect({
      server: `${HOST}:${daemon.port}`,
      timeout: 30_000,
    });
    const pointer = await remote.malloc(written);
    await remote.write(pointer, new Uint8Array(written).fill(1));
    await remote.sync();
    const rows = [[
      "syscall engine",
      "with snapshots",
      "without",
      "ratio",
      "slowest, ms",
      "without",
    ]];
    for (const [name, workload] of Object.entries(WORKLOADS)) {
      const slowest: [number[], number[]] = [[], []];
      const [one, other] = await medians(rounds, [
        async () => {
          await using _asking = askElsewhere(daemon);
          await remote.snapshot();
          return await measure(daemon, workload, ms, slowest[0]);
        },
        () => measure(daemon, workload, ms, slowest[1]),
      ]);
      rows.push([
        name,
        ...[one!, other!].map((rate) => grouped(rate)),
        ratio(one! / other!),
        ...slowest.map((times) => median(times).toFixed(1)),
      ]);
    }
    printTable(rows);
    const made = daemon.output().split("\n").filter((line) => line.includes('"snapshot"'))
      .map((line) => JSON.parse(line) as { ms: number; halt_ms: string });
    const halts = made.map(({ halt_ms }) => Number(halt_ms)).sort((a, b) => a - b);
    console.log(
      `${made.length} snapshots of ${grouped(written / 2 ** 20)} MiB, each in ` +
        `${grouped(median(made.map(({ ms }) => ms)))} ms; everybody waited for ` +
        `${median(halts).toFixed(2)} ms, of the slowest for ${halts.at(-1)!.toFixed(2)} ms`,
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) {
  const [, server] = Deno.args;
  if (server !== undefined) await ask(server);
  await (Deno.args.includes("--smoke") ? main(1, 50, 2 ** 20) : main(7, 700, 512 * 2 ** 20));
}
