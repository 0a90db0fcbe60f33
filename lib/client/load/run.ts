/** One run of the load generator, from the blocks that its clients need to a report. */

import { type MethodName, METHODS } from "../../protocol/wire.ts";
import { RefusedError, type Remote } from "../remote.ts";
import { BLOCKS, type Client } from "./client.ts";
import { blockOf } from "./contents.ts";
import { Histogram } from "./histogram.ts";
import { Load } from "./load.ts";
import type { Workload } from "./workload.ts";
import type { Wire } from "./wire.ts";

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
  /** Of a rate that was not reached: requests that were due and never sent, and why. */
  readonly unsent: number;
  readonly shortfall?: string;
  /** Of an open loop, by how many microseconds half of the requests were sent later than due. */
  readonly late?: number;
  readonly latency: Readonly<Record<"p50" | "p90" | "p99" | "p99.9" | "max", number>>;
}

/** What a run goes by. */
export interface Surroundings {
  /** Of the same daemon as the wire: allocates the blocks before, and frees them after. */
  readonly remote: Remote;
  readonly wire: Wire;
  /** Is shown how the run goes, and may end it before its time. */
  readonly terminal: { progress(line: string): void; readonly signal: AbortSignal };
}

/** Puts the load on the daemon for so many milliseconds. It leaves no blocks behind, even if it fails. */
export async function runLoad(
  workload: Workload,
  milliseconds: number,
  { remote, wire, terminal }: Surroundings,
): Promise<Report> {
  const histogram = new Histogram();
  const load = new Load(workload, wire.io, histogram);
  const counters: bigint[] = [];
  try {
    await giveBlocks(remote, load.clients);
    for (const client of load.clients) {
      if (client.counterBytes === 0) continue;
      const pointer = await remote.malloc(client.counterBytes);
      counters.push(pointer);
      client.adoptCounters(Number(pointer));
    }
    return await measure(load, milliseconds, histogram, wire, terminal);
  } finally {
    const blocks = load.clients.flatMap((client) => client.blocks);
    // If the daemon is gone, so are the blocks.
    const pointers = [...counters, ...blocks.map(BigInt)];
    await Promise.allSettled(pointers.map((pointer) => remote.free(pointer)));
  }
}

async function measure(
  load: Load,
  milliseconds: number,
  histogram: Histogram,
  wire: Wire,
  terminal: Surroundings["terminal"],
): Promise<Report> {
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
  await settle(load, wire);
  load.cancel(); // after a rate that was too high there would be no end of what is due
  await settle(load, wire);
  load.abandon();
  const { lost, wrong, refused, unsent } = load;
  const shortfall = shortfallOf(load, counts.requestsPerSecond);
  return {
    wire: wire.name,
    ...counts,
    ...{ lost, wrong, refused, unsent },
    ...(shortfall === undefined ? {} : { shortfall }),
    ...(load.interval === 0 ? {} : { late: microseconds(load.lateness, 50) }),
    latency: latencyOf(histogram),
  };
}

/** Goes on until all is over, for as long as a reply may take. */
async function settle(load: Load, wire: Wire): Promise<void> {
  const deadline = load.now + load.workload.timeout;
  while (!load.isOver && load.now < deadline) {
    await wire.run(load, load.now + 1);
    load.expire();
  }
}

/** A rate that is missed by less was missed by chance: the first and the last requests are few. */
const REACHED = 0.99;

/** Why the rate was not reached, if it was not, or so late that nobody would say it was. */
export function shortfallOf({ workload, held, requests }: Load, rate: number): string | undefined {
  const { rate: wanted, inFlight } = workload;
  if (wanted === undefined || rate >= REACHED * wanted) return undefined;
  const what = `the rate of ${wanted} a second was not reached`;
  return held > requests / 2
    ? `${what}: --in-flight ${inFlight} held requests back, as replies came no faster`
    : `${what}: this client sends no faster`;
}

/** When one cannot be had, the others are awaited all the same: whoever frees them has to know them. */
async function giveBlocks(remote: Remote, clients: readonly Client[]): Promise<void> {
  const giveBlock = async (client: Client) => {
    const length = client.nextLength();
    const pointer = await remote.malloc(length);
    client.adopt(Number(pointer), length);
    await remote.write(pointer, blockOf(Number(pointer), length));
  };
  const given = await Promise.allSettled(
    clients.flatMap((client) => Array.from({ length: BLOCKS }, () => giveBlock(client))),
  );
  const failed = given.find((outcome) => outcome.status === "rejected");
  if (failed === undefined) return;
  const { reason } = failed;
  if (!(reason instanceof RefusedError) || reason.errno !== "ENOMEM") throw reason;
  const blocks = `${BLOCKS * clients.length} blocks, ${BLOCKS} for each of --clients`;
  throw new RefusedError(
    `bench: ${reason.asked}`,
    reason.errno,
    `out of memory: it takes ${blocks}: use fewer, or a smaller --size`,
  );
}

function methodsOf({ done }: Load): Report["methods"] {
  const counts = Object.entries(METHODS).map(([name, { opcode }]) => [name, done[opcode] ?? 0]);
  return Object.fromEntries(counts.filter(([, count]) => count !== 0));
}

/** A latency of which the client itself has more than this share tells nothing of the daemon. */
const OWN_SHARE = 0.2;

/** Says that the client has sent so late that its latencies are its own, if it has. */
export function latenessOf(
  { late = 0, latency }: Pick<Report, "late" | "latency">,
): string | undefined {
  if (late <= OWN_SHARE * latency.p50) return undefined;
  return `half of the requests were sent ${late} us late, or later: so much of the latencies is this ` +
    "client's, or its machine's, and not the daemon's";
}

export function latencyOf(histogram: Histogram): Report["latency"] {
  return {
    p50: microseconds(histogram, 50),
    p90: microseconds(histogram, 90),
    p99: microseconds(histogram, 99),
    "p99.9": microseconds(histogram, 99.9),
    max: microseconds(histogram, 100),
  };
}

function microseconds(histogram: Histogram, percentile: number): number {
  return Math.round(histogram.percentile(percentile) / 10) / 100;
}
