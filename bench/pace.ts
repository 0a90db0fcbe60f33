/**
 * Whether the load generator measures the daemon or itself: the latency of paced reads as it tells them,
 * over libc and over Deno's sockets, beside what bench/compare/pace.c tells of the same daemon, which
 * shares nothing with it; and the tail of the syscall engine beside that of bench/bound.c, as pace.c
 * tells both. Rate 0 is a closed loop with one read in flight. What a loop that does nothing but send and
 * receive over Deno's sockets takes is the least that a generator over them can tell. Without a C
 * compiler it says so.
 *
 *     deno run -P=bench bench/pace.ts [--smoke]
 */

import { HOST, Prober, type Server, startMallocd } from "./prober.ts";
import { grouped, printTable, ratio } from "./table.ts";
import { HEAP_BASE } from "../lib/heap/heap.ts";
import { encodeRequest } from "../lib/protocol/wire.ts";
import { LIBC_PATHS } from "../lib/system/libc.ts";

const ROOT = new URL("../", import.meta.url);
const RATES = [0, 200, 2000, 10_000, 20_000];
const TAIL_RATES = [10_000, 50_000];

/** Latencies in microseconds. */
interface Latency {
  readonly p50: number;
  readonly p99: number;
  readonly "p99.9": number;
}

async function run(program: string, args: readonly string[]): Promise<string> {
  const options = { args: [...args], cwd: ROOT };
  const { success, stdout, stderr } = await new Deno.Command(program, options).output();
  const decoder = new TextDecoder();
  // Who lost a read says so by its exit code, and has measured all the same.
  if (!success && stdout.length === 0) {
    throw new Error(`Cannot run ${program}: ${decoder.decode(stderr).trim()}`);
  }
  return decoder.decode(stdout);
}

/** What the load generator says; over Deno's sockets if `ffi` are no paths of libc. */
async function generated(port: number, rate: number, ms: number, ffi: readonly string[]) {
  const args = [
    "run",
    "-q",
    "-P=client",
    ...ffi,
    "client.ts",
    "--server",
    `${HOST}:${port}`,
    "bench",
  ];
  const load = rate === 0 ? ["--in-flight", "1"] : ["--rate", `${rate}`];
  const words = ["--classic", "--mix", "read=1", "--json", "--seconds", `${ms}ms`, ...load];
  const { latency } = JSON.parse(await run(Deno.execPath(), [...args, ...words]));
  return latency as Latency;
}

/** A closed loop over Deno's sockets that decodes nothing and notes nothing but the time. */
async function bare(daemon: Server, ms: number): Promise<Latency> {
  using prober = new Prober(daemon);
  const bytes = new Uint8Array(64);
  const view = new DataView(bytes.buffer);
  const request = bytes.subarray(0, encodeRequest(view, 0, "read", [BigInt(HEAP_BASE), 64n]));
  const took: number[] = [];
  const end = performance.now() + ms;
  for (let start = performance.now(); start < end;) {
    await prober.ask(request);
    const now = performance.now();
    took.push((now - start) * 1000);
    start = now;
  }
  took.sort((a, b) => a - b);
  const quantile = (q: number) => took[Math.floor(q * took.length)]!;
  return { p50: quantile(0.5), p99: quantile(0.99), "p99.9": quantile(0.999) };
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >>> 1]!;
}

/** Of some rounds, in which each measurement has its turn: the medians of one figure of each. */
async function medians(
  rounds: number,
  figure: keyof Latency,
  measurements: readonly (() => Promise<Latency>)[],
): Promise<number[]> {
  const results: number[][] = measurements.map(() => []);
  for (let round = 0; round < rounds; round++) {
    for (const [i, measure] of measurements.entries()) results[i]!.push((await measure())[figure]);
  }
  return results.map(median);
}

async function main(
  rates: readonly number[],
  tailRates: readonly number[],
  ms: number,
  rounds: number,
) {
  const folder = await Deno.makeTempDir();
  try {
    const [pace, bound] = [`${folder}/pace`, `${folder}/bound`];
    await run("cc", ["-O2", "-o", pace, "bench/compare/pace.c"]);
    await run("cc", ["-O2", "-o", bound, "bench/bound.c"]);
    await using daemon = await startMallocd("syscall");
    const independent = async (port: number, rate: number): Promise<Latency> =>
      JSON.parse(await run(pace, [`${port}`, `${rate}`, `${ms}`]));

    const head = ["reads a second", "pace.c, p50 us", "libc", "times", "Deno", "times"];
    const rows = [head];
    for (const rate of rates) {
      const [c, libc, deno] = await medians(rounds, "p50", [
        () => independent(daemon.port, rate),
        () => generated(daemon.port, rate, ms, [`--allow-ffi=${LIBC_PATHS.join()}`]),
        () => generated(daemon.port, rate, ms, []),
      ]);
      const name = rate === 0 ? "one after the other" : grouped(rate);
      const times = [libc!, deno!].flatMap((us) => [us.toFixed(1), ratio(us / c!)]);
      rows.push([name, c!.toFixed(1), ...times]);
    }
    printTable(rows);

    const [c, least, deno] = await medians(rounds, "p50", [
      () => independent(daemon.port, 0),
      () => bare(daemon, ms),
      () => generated(daemon.port, 0, ms, []),
    ]);
    printTable([
      ["one after the other", "p50 us", "times pace.c", "times the bare loop"],
      ["a bare loop over Deno's sockets", least!.toFixed(1), ratio(least! / c!), ""],
      ["the generator over them", deno!.toFixed(1), ratio(deno! / c!), ratio(deno! / least!)],
    ]);

    const server = new Deno.Command(bound, { stdout: "piped" }).spawn();
    try {
      const { value } = await server.stdout.pipeThrough(new TextDecoderStream()).getReader().read();
      const port = Number(value);
      const tail = [["reads a second, as pace.c has it", "us", "syscall engine", "C", "times"]];
      for (const rate of tailRates) {
        for (const figure of ["p99", "p99.9"] as const) {
          const [ours, theirs] = await medians(rounds, figure, [
            () => independent(daemon.port, rate),
            () => independent(port, rate),
          ]);
          const us = [ours!.toFixed(1), theirs!.toFixed(1)];
          tail.push([grouped(rate), figure, ...us, ratio(ours! / theirs!)]);
        }
      }
      printTable(tail);
    } finally {
      server.kill();
      await server.status;
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Whether there is a C compiler. */
async function hasCompiler(): Promise<boolean> {
  try {
    await run("cc", ["--version"]);
    return true;
  } catch {
    return false;
  }
}

if (import.meta.main) {
  if (!await hasCompiler()) printTable([["skipped", "why"], ["", "there is no C compiler, cc"]]);
  else if (Deno.args.includes("--smoke")) await main([0, 2000], [2000], 50, 1);
  else await main(RATES, TAIL_RATES, 1500, 5);
}
