/**
 * What it costs the daemon's clients that somebody looks at its page: a heap of 4 GiB with a mixed load,
 * requests a second while nobody asks over HTTP, and while one viewer polls as the page does, in turns. Also
 * how long an answer takes, and what a daemon takes more for --http.
 *
 *     deno run -P=bench bench/page.ts [--smoke]
 */

import { Remote } from "../lib/client/remote.ts";
import { LIBC_PATHS } from "../lib/system/libc.ts";
import { Random } from "../tests/testing.ts";
import { HOST, medians, processorTime, type Server, startMallocd } from "./prober.ts";
import { grouped, printTable, ratio } from "./table.ts";

const ROOT = new URL("../", import.meta.url);
const CELL = 64 * 1024;
/** How often the page asks, and how soon again while a walk has not ended. */
const POLL_MS = 200;
const WALK_MS = 100;

/** The page of a daemon that `startMallocd` has started with --http. */
export function pageOf({ line }: Server): string {
  return /http=(\S+)/.exec(line)![1]!;
}

export interface Filled extends AsyncDisposable {
  /** Frees some blocks at random and allocates others; how many it has done. */
  churn(steps: number): Promise<number>;
}

/** Fills a share of a heap with blocks of all sizes, of which it writes a little, and frees a third. */
export async function fill({ port }: Server, blocks: number, seed = 12): Promise<Filled> {
  const random = new Random(seed);
  const remote = await Remote.connect({ server: `${HOST}:${port}`, timeout: 20_000 });
  const live: bigint[] = [];
  const byte = Uint8Array.of(1);
  const lengthOf = () => {
    const kind = random.below(1000);
    const [least, orders] = kind < 850
      ? [16, 8]
      : kind < 960
      ? [4096, 5]
      : kind < 998
      ? [131_072, 5]
      : [4_194_304, 4];
    return least * 2 ** random.below(orders) - random.below(least / 2);
  };
  const allocate = async () => {
    const length = lengthOf();
    const pointer = await remote.malloc(length).catch(() => undefined);
    if (pointer === undefined) return; // it is full
    live.push(pointer);
    const writes: Promise<void>[] = [];
    for (let at = 0; at < length; at += CELL) writes.push(remote.write(pointer + BigInt(at), byte));
    await Promise.all(writes);
  };
  const release = () => remote.free(live.splice(random.below(live.length), 1)[0]!);
  const inParallel = async (steps: number, step: () => Promise<void>) => {
    for (let done = 0; done < steps; done += 32) {
      await Promise.all(Array.from({ length: Math.min(32, steps - done) }, step));
    }
    return steps;
  };
  await inParallel(blocks, allocate);
  await inParallel(Math.floor(live.length / 3), release);
  return {
    churn: (steps) =>
      inParallel(steps, () => live.length === 0 || random.chance(0.5) ? allocate() : release()),
    [Symbol.asyncDispose]: () => remote[Symbol.asyncDispose](),
  };
}

/** Asks as the page does until it is told to stop; times are milliseconds to an answer. */
export class Viewer {
  readonly times: number[] = [];
  #since = 0;
  #isStopped = false;
  readonly #done: Promise<void>;

  constructor(page: string) {
    this.#done = this.#poll(page);
  }

  async #poll(page: string): Promise<void> {
    while (!this.#isStopped) {
      const start = performance.now();
      const live = await (await fetch(`${page}live?since=${this.#since}`)).json();
      this.times.push(performance.now() - start);
      this.#since = live.generation;
      await new Promise((resolve) => setTimeout(resolve, live.complete ? POLL_MS : WALK_MS));
    }
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#done;
  }
}

/** What the load generator has done over libc, in a process of its own. */
async function load(
  { port }: Server,
  ms: number,
): Promise<{ requests: number; requestsPerSecond: number }> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-q", `--allow-ffi=${LIBC_PATHS.join(",")}`, `--allow-net=${HOST}`],
      ...["--allow-read", "--allow-env", "--unstable-net", "client.ts"],
      ...[
        "--server",
        `${HOST}:${port}`,
        "--timeout",
        "20s",
        "--json",
        "bench",
        "--seconds",
        `${ms}ms`,
      ],
      ...["--mix", "read=40,write=40,malloc=10,free=10", "--size", "log:16-4096"],
    ],
    cwd: ROOT,
  }).output();
  const text = new TextDecoder();
  if (!success) throw new Error(text.decode(stderr));
  return JSON.parse(text.decode(stdout));
}

async function main(memory: string, blocks: number, rounds: number, ms: number): Promise<void> {
  const rows = [[
    "engine",
    "nobody looks",
    "a page at 5 Hz",
    "ratio",
    "ratio, by processor time",
    "answer, median",
    "longest",
  ]];
  for (const engine of Deno.build.os === "linux" ? ["syscall", "datagram"] : ["datagram"]) {
    await using daemon = await startMallocd(engine, "--memory", memory, "--http", "0");
    await using _ = await fill(daemon, blocks);
    const times: number[] = [];
    /** Requests for each second of the daemon's processor time, in each round. */
    const alone: number[] = [];
    const watched: number[] = [];
    const measure = async (results: number[]) => {
      const before = processorTime(daemon.pid);
      const { requests, requestsPerSecond } = await load(daemon, ms);
      results.push(requests / (processorTime(daemon.pid) - before));
      return requestsPerSecond;
    };
    const [aloneRate, watchedRate] = await medians(rounds, [
      () => measure(alone),
      async () => {
        const viewer = new Viewer(pageOf(daemon));
        const requests = await measure(watched);
        await viewer.stop();
        times.push(...viewer.times);
        return requests;
      },
    ]);
    for (const values of [times, alone, watched]) values.sort((a, b) => a - b);
    const median = (values: number[]) => values[values.length >>> 1]!;
    rows.push([
      engine,
      grouped(Math.round(aloneRate!)),
      grouped(Math.round(watchedRate!)),
      ratio(watchedRate! / aloneRate!),
      ratio(median(watched) / median(alone)),
      `${median(times).toFixed(1)} ms`,
      `${times.at(-1)!.toFixed(1)} ms`,
    ]);
  }
  printTable(rows);
}

if (import.meta.main) {
  await (Deno.args.includes("--smoke")
    ? main("16MiB", 200, 1, 50)
    : main("4GiB", 60_000, 15, 1000));
}
