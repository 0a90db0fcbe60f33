/**
 * mallocd-client bench: puts a load on a daemon and tells what became of it. This module, with the
 * histogram that it imports, is loaded for this command only.
 */

// Not in deno.json's imports, because `deno compile` puts all of those into the daemon, too.
// deno-lint-ignore no-import-prefix
import { build, type Histogram } from "npm:hdr-histogram-js@3.0.1";
import { UsageError } from "../flags.ts";
import { Unavailable } from "../engines/libc.ts";
import { BLOCKS } from "../load/client.ts";
import { blockOf } from "../load/contents.ts";
import { DenoWire } from "../load/deno_wire.ts";
import { LibcWire } from "../load/libc_wire.ts";
import { Load, problemOf, type Workload } from "../load/load.ts";
import type { Wire } from "../load/wire.ts";
import { type MethodName, METHODS } from "../protocol.ts";
import type { Remote } from "../remote.ts";
import { parseServer, resolve } from "../transport.ts";
import type { Context, Terminal } from "./commands.ts";

/** Time that is not counted, in which the compilers of both programs get to know their work. */
export const WARM_UP_MS = 300;

/** How often progress is shown, and what was lost is looked for. */
const STEP_MS = 100;

/** What a run found out; --json prints it. Latencies are in microseconds. */
export interface Report {
  readonly wire: Wire["name"];
  readonly seconds: number;
  readonly requests: number;
  readonly requestsPerSecond: number;
  readonly methods: Readonly<Partial<Record<MethodName, number>>>;
  readonly lost: number;
  readonly wrong: number;
  readonly refused: number;
  readonly latency: Readonly<Record<"p50" | "p90" | "p99" | "p99.9" | "max", number>>;
}

export async function bench(context: Context): Promise<boolean> {
  const { remote, terminal, bench: flags } = context;
  const workload: Workload = {
    protocol: remote.protocol,
    clients: flags.clients,
    inFlight: flags["in-flight"],
    perDatagram: flags["per-datagram"],
    mix: flags.mix,
    sizes: flags.size,
    rate: flags.rate,
    timeout: flags.timeout,
  };
  const problem = problemOf(workload);
  if (problem !== undefined) {
    throw new UsageError(`bench: ${problem}`, "mallocd-client bench --help tells more");
  }
  const { hostname, port } = parseServer(remote.server)!;
  const peer: Deno.NetAddr = { transport: "udp", hostname: await resolve(hostname), port };
  const wire = openWire(peer, workload.clients, flags.coalesce, terminal);
  try {
    const report = await runLoad(workload, flags.seconds, { remote, wire, terminal });
    terminal.write(flags.json ? JSON.stringify(report) + "\n" : describe(report));
    return report.lost === 0 && report.wrong === 0;
  } finally {
    await wire.close();
  }
}

/** Puts the load on the daemon for so many milliseconds; blocks are allocated before and freed after. */
export async function runLoad(
  workload: Workload,
  milliseconds: number,
  { remote, wire, terminal }: {
    remote: Remote;
    wire: Wire;
    terminal: Pick<Terminal, "progress" | "signal">;
  },
): Promise<Report> {
  const histogram = newHistogram();
  const load = new Load(workload, wire.io, histogram);
  await Promise.all(load.clients.map((client) => giveBlocks(remote, client)));

  load.now = performance.now();
  load.start();
  await wire.run(load, load.now + WARM_UP_MS);
  load.reset();
  histogram.reset();

  const start = load.now;
  const end = start + milliseconds;
  const elapsed = () => (load.now - start) / 1000;
  while (load.now < end && !terminal.signal.aborted) {
    await wire.run(load, Math.min(load.now + STEP_MS, end));
    load.expire();
    const rate = load.requests / elapsed();
    terminal.progress(`${elapsed().toFixed(1)} s, ${rate.toFixed(0)} requests/s`);
  }
  terminal.progress("");
  const counts = {
    seconds: elapsed(),
    requests: load.requests,
    requestsPerSecond: Math.round(load.requests / elapsed()),
    methods: methodsOf(load),
  };

  load.stop();
  const deadline = load.now + workload.timeout;
  while (!load.isOver && load.now < deadline) {
    await wire.run(load, load.now + 1);
    load.expire();
  }
  load.abandon();
  const blocks = load.clients.flatMap((client) => client.blocks);
  // If the daemon is gone, so are the blocks.
  await Promise.allSettled(blocks.map((address) => remote.free(BigInt(address))));
  const { lost, wrong, refused } = load;
  return { wire: wire.name, ...counts, lost, wrong, refused, latency: latencyOf(histogram) };
}

function openWire(
  peer: Deno.NetAddr,
  clients: number,
  coalesce: boolean,
  terminal: Terminal,
): Wire {
  try {
    return new LibcWire(peer, clients, coalesce);
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    if (coalesce) throw new UsageError(`--coalesce needs libc: ${error.message}`, "leave it out");
    terminal.say(`mallocd-client: Deno's sockets are used, libc's are faster: ${error.message}`);
    return new DenoWire(peer, clients);
  }
}

async function giveBlocks(remote: Remote, client: Load["clients"][number]): Promise<void> {
  const lengths = Array.from({ length: BLOCKS }, () => client.nextLength());
  await Promise.all(lengths.map(async (length) => {
    const pointer = await remote.malloc(length);
    await remote.write(pointer, blockOf(Number(pointer), length));
    client.adopt(Number(pointer), length);
  }));
}

function methodsOf({ done }: Load): Report["methods"] {
  const counts = Object.entries(METHODS).map(([name, { opcode }]) => [name, done[opcode] ?? 0]);
  return Object.fromEntries(counts.filter(([, count]) => count !== 0));
}

/** Of nanoseconds, to three digits, with counts that may exceed 32 bits. */
export function newHistogram(): Histogram {
  return build({ numberOfSignificantValueDigits: 3, bitBucketSize: 64 });
}

export function latencyOf(histogram: Histogram): Report["latency"] {
  const microseconds = (percentile: number) =>
    Math.round(histogram.getValueAtPercentile(percentile) / 10) / 100;
  return {
    p50: microseconds(50),
    p90: microseconds(90),
    p99: microseconds(99),
    "p99.9": microseconds(99.9),
    max: microseconds(100),
  };
}

function describe(report: Report): string {
  const { requests, seconds, requestsPerSecond, lost, wrong, refused, latency } = report;
  const percentiles = Object.entries(latency).map(([name, us]) => `${name} ${us.toFixed(1)}`);
  return `${requests} requests in ${seconds.toFixed(2)} s, ${requestsPerSecond}/s, ` +
    `${lost} lost, ${wrong} wrong, ${refused} refused\n` +
    `latency in us: ${percentiles.join(", ")}\n`;
}
