/**
 * What a start of the executables takes, beside that of an empty program which was compiled in the same
 * way: the client until it has ended, the daemon until it says that it is ready, and until it has answered
 * its first request. Rounds in which each takes its turn. A daemon that cannot use the syscall engine here,
 * or was made without it, has no row for it. Another build of the daemon, such as that of an earlier tree,
 * can be put beside it; then both are copied first, since it is up to 4% how the kernel happens to hold a
 * file in memory.
 *
 *     make build .tools/empty && deno run -P=bench bench/startup.ts [--smoke] [DAEMON]
 *
 * Where others use the machine, least times and those of the processor are what to compare.
 */

import { Remote } from "../lib/client/remote.ts";
import { processorTime, startProgram } from "./prober.ts";
import { printTable, ratio } from "./table.ts";

const ROOT = new URL("../", import.meta.url).pathname;
const EMPTY = `${ROOT}.tools/empty`;
const BUILT = `${ROOT}dist/mallocd`;
const CLIENT = `${ROOT}dist/mallocd-client`;

/** Milliseconds of a start: those that passed, and those of the processor where they are measured. */
interface Start {
  readonly passed: number;
  readonly processor?: number;
}

async function untilEnd(program: string, ...args: string[]): Promise<Start> {
  const start = performance.now();
  const { success } = await new Deno.Command(program, { args, stdout: "null" }).spawn().status;
  const passed = performance.now() - start;
  if (!success) throw new Error(`${program} ${args.join(" ")} failed`);
  return { passed };
}

const start = (program: string, engine: string) =>
  startProgram([program, "--port", "0", "--engine", engine], "stderr");

async function untilReady(program: string, engine: string): Promise<Start> {
  const begin = performance.now();
  await using daemon = await start(program, engine);
  const passed = performance.now() - begin;
  return { passed, processor: 1000 * processorTime(daemon.pid) };
}

async function untilReply(program: string, engine: string): Promise<Start> {
  const begin = performance.now();
  await using daemon = await start(program, engine);
  await using _remote = await Remote.connect({ server: `127.0.0.1:${daemon.port}` });
  return { passed: performance.now() - begin };
}

function median(times: readonly number[]): number {
  return times.toSorted((a, b) => a - b)[times.length >> 1]!;
}

/** The engines that a daemon can use: it says so itself. */
async function findEngines(program: string): Promise<string[]> {
  await using fastest = await start(program, "auto");
  return fastest.line.includes(" engine=syscall") ? ["datagram", "syscall"] : ["datagram"];
}

const least = (times: readonly number[]) => Math.min(...times);

/** Measures `program`, and `other` beside it. */
async function measure(rounds: number, program: string, other: string | undefined): Promise<void> {
  const engines = await findEngines(program);
  await using daemon = await start(program, "datagram");
  const server = `127.0.0.1:${daemon.port}`;
  const measured: Record<string, () => Promise<Start>> = {
    "an empty program": () => untilEnd(EMPTY),
    "mallocd-client --version": () => untilEnd(CLIENT, "--version"),
    "mallocd-client malloc 5": () => untilEnd(CLIENT, "--server", server, "malloc", "5"),
  };
  for (const engine of engines) {
    const name = `mallocd --engine ${engine}`;
    if (other !== undefined) measured[`the other ${name}`] = () => untilReady(other, engine);
    measured[name] = () => untilReady(program, engine);
    measured[`${name}, to the first reply`] = () => untilReply(program, engine);
  }
  const starts = new Map<string, Start[]>();
  for (let round = 0; round < rounds; round++) {
    for (const [name, measure] of Object.entries(measured)) {
      const all = starts.get(name) ?? [];
      starts.set(name, [...all, await measure()]);
    }
  }
  const rows = [...starts].map(([name, all]) => ({
    name,
    passed: all.map(({ passed }) => passed),
    processor: all.flatMap(({ processor = [] }) => processor),
  }));
  const empty = median(rows[0]!.passed);
  printTable([
    [`${rounds} starts`, "ms", "times", "least", "of the processor"],
    ...rows.map(({ name, passed, processor }) => [
      name,
      median(passed).toFixed(1),
      ratio(median(passed) / empty),
      least(passed).toFixed(1),
      processor.length === 0 ? "" : least(processor).toFixed(1),
    ]),
  ]);
  if (other !== undefined) {
    const compare = (engine: string) => {
      const [before, now] = [`the other mallocd --engine ${engine}`, `mallocd --engine ${engine}`]
        .map((name) => rows.find((row) => row.name === name)!);
      const to = (one: typeof least, times: "passed" | "processor") =>
        ratio(one(now![times]) / one(before![times]));
      return [
        to(median, "passed"),
        to(least, "passed"),
        to(median, "processor"),
        to(least, "processor"),
      ];
    };
    console.log("");
    printTable([
      ["to the other", "ms", "least", "of the processor", "least"],
      ...engines.map((engine) => [engine, ...compare(engine)]),
    ]);
  }
  if (!engines.includes("syscall")) console.log("This daemon cannot use the syscall engine here.");
}

async function main(rounds: number, other: string | undefined): Promise<void> {
  if (other === undefined) return await measure(rounds, BUILT, undefined);
  const folder = await Deno.makeTempDir({ prefix: "mallocd-" });
  try {
    const copies = [BUILT, other].map(async (program, i) => {
      const copy = `${folder}/mallocd${i}`;
      await Deno.copyFile(program, copy);
      return copy;
    });
    const [program, beside] = await Promise.all(copies);
    await measure(rounds, program!, beside);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) {
  const [other] = Deno.args.filter((word) => word !== "--smoke");
  await main(Deno.args.includes("--smoke") ? 2 : 40, other);
}
