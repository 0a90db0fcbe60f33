/**
 * Compares mallocd's engines with the C bound, with Redis or Valkey, and with memcached, in one go, and
 * writes docs/benchmarks.md with its plots. What is not installed is left out.
 *
 *     make bench-compare
 *
 * The servers run side by side, but only one at a time is given a load. Each round visits all of them,
 * so that what disturbs the machine for a while disturbs all; a ratio is the median of those of the
 * rounds. With --smoke, everything is done once and shortly, and nothing is written.
 */

import { printTable } from "../table.ts";
import { shareCores } from "./cores.ts";
import { claimRows, document, latencyRows, OTHER_BENCHES, rateRows } from "./document.ts";
import { atRate, IN_FLIGHT, LINES, type Load, type LoadKey, LOADS, OFFERED } from "./loads.ts";
import { describeMachine } from "./machine.ts";
import { type Measurement, median, Results } from "./measurement.ts";
import { latencyPlot, throughputPlot } from "./plots.ts";
import { run } from "./programs.ts";
import { type Server, startServers } from "./servers.ts";

const DOCS = new URL("../../docs/", import.meta.url);

/** How much is measured. */
interface Plan {
  readonly rounds: number;
  readonly measureMs: number;
  /** Of the plots: of throughput, which varies little, there is one round only. */
  readonly plotMs: number;
  readonly latencyRounds: number;
  readonly inFlight: readonly number[];
  readonly offered: readonly number[];
}

const FULL: Plan = {
  rounds: 5,
  measureMs: 1000,
  plotMs: 500,
  latencyRounds: 3,
  inFlight: IN_FLIGHT,
  offered: OFFERED,
};
const SMOKE: Plan = {
  rounds: 1,
  measureMs: 20,
  plotMs: 20,
  latencyRounds: 1,
  inFlight: [8],
  offered: [0.5],
};

async function main(plan: Plan, write: boolean): Promise<void> {
  const prefix = await shareCores();
  const servers = await startServers(prefix);
  try {
    const results = new Results();
    const loads = Object.entries(LOADS) as [LoadKey, Load][];
    await inRounds(plan, "throughput", loads, servers, results);
    const highest = (key: Server["key"]) => median(results.of("many", key).map(({ rate }) => rate));
    const halfRate = highest("bound") / 2;
    if (halfRate > 0) {
      const quick = servers.filter(({ key }) => key === "syscall" || key === "bound");
      await inRounds(plan, "latency", [["half", atRate(halfRate)]], quick, results);
    }
    printTable(claimRows(results));
    printTable(rateRows(results, servers));
    printTable(latencyRows(results, servers));

    const throughput = throughputPlot(await measureInFlight(plan, servers));
    const latency = latencyPlot(await measureOffered(plan, servers, highest));
    const text = document({
      results,
      servers,
      machine: await describeMachine(),
      prefix: prefix.join(" "),
      halfRate,
      rounds: plan.rounds,
      seconds: plan.measureMs / 1000,
    });
    if (!write) return;
    await Deno.writeTextFile(new URL("throughput.svg", DOCS), throughput);
    await Deno.writeTextFile(new URL("latency.svg", DOCS), latency);
    const path = new URL("benchmarks.md", DOCS);
    const before = await Deno.readTextFile(path);
    await Deno.writeTextFile(path, text + before.slice(before.indexOf(OTHER_BENCHES)));
    await run(Deno.execPath(), "fmt", "--quiet", new URL("benchmarks.md", DOCS).pathname);
  } finally {
    await Promise.all(servers.map((server) => server.stop()));
  }
}

async function inRounds(
  { rounds, measureMs }: Plan,
  what: string,
  loads: readonly (readonly [LoadKey, Load])[],
  servers: readonly Server[],
  results: Results,
): Promise<void> {
  for (let round = 1; round <= rounds; round++) {
    say(`${what}, round ${round} of ${rounds}`);
    for (const [key, load] of loads) {
      for (const server of servers) {
        const measurement = await measure(server, load, measureMs);
        if (measurement !== undefined) results.add(key, server.key, measurement);
      }
    }
  }
}

async function measure(server: Server, load: Load, ms: number): Promise<Measurement | undefined> {
  const measurement = await server.measure(load, ms);
  if (measurement !== undefined && measurement.lost > 0) {
    say(`${server.name}, ${load.title}: ${measurement.lost} requests were lost`);
  }
  return measurement;
}

/** Requests a second by datagrams in flight, for each line of the plot. */
async function measureInFlight({ inFlight, plotMs }: Plan, servers: readonly Server[]) {
  const rates: Record<string, [inFlight: number, rate: number][]> = {};
  for (const count of inFlight) {
    say(`plot of throughput, ${count} in flight`);
    for (const { name, server: key, client } of LINES) {
      const server = servers.find((server) => server.key === key);
      const load = { title: name, client: [...client, "--in-flight", String(count)] };
      const measurement = server && await measure(server, load, plotMs);
      if (measurement !== undefined) (rates[name] ??= []).push([count, measurement.rate]);
    }
  }
  return rates;
}

/** Latencies by offered load, for each of our servers, medians of rounds. */
async function measureOffered(
  { offered, latencyRounds, plotMs }: Plan,
  servers: readonly Server[],
  highest: (key: Server["key"]) => number,
) {
  const found: Partial<Record<Server["key"], Measurement[][]>> = {};
  for (let round = 1; round <= latencyRounds; round++) {
    say(`plot of latency, round ${round} of ${latencyRounds}`);
    for (const [i, part] of offered.entries()) {
      for (const server of servers) {
        const measurement = await measure(server, atRate(part * highest(server.key)), plotMs);
        if (measurement === undefined) continue;
        ((found[server.key] ??= [])[i] ??= []).push(measurement);
      }
    }
  }
  return Object.entries(found).map(([key, loads]) => ({
    server: key as Server["key"],
    points: loads.map((measurements) => ({
      rate: median(measurements.map(({ rate }) => rate)),
      p50: median(measurements.map(({ latency }) => latency!.p50)),
      p99: median(measurements.map(({ latency }) => latency!.p99)),
    })),
  }));
}

function say(line: string): void {
  console.error(`bench-compare: ${line}`);
}

if (import.meta.main) {
  const smoke = Deno.args.includes("--smoke");
  await main(smoke ? SMOKE : FULL, !smoke);
}
