/**
 * What a start of the executables takes, beside that of an empty program which was compiled in the same
 * way: the client until it has ended, the daemon until it has answered its first request. Medians of
 * rounds in which each takes its turn.
 *
 *     make build && deno run -P=bench bench/startup.ts [--smoke]
 */

import { Remote } from "../lib/remote.ts";
import { printTable, ratio } from "./table.ts";

const ROOT = new URL("../", import.meta.url).pathname;
const EMPTY = `${ROOT}.tools/empty`;
const DAEMON = `${ROOT}dist/mallocd`;
const CLIENT = `${ROOT}dist/mallocd-client`;

/** Milliseconds until a program has ended. */
async function timeToEnd(program: string, ...args: string[]): Promise<number> {
  const start = performance.now();
  const { success } = await new Deno.Command(program, { args, stdout: "null" }).spawn().status;
  const time = performance.now() - start;
  if (!success) throw new Error(`${program} ${args.join(" ")} failed`);
  return time;
}

interface Daemon {
  readonly server: string;
  /** Milliseconds until it has answered. */
  readonly time: number;
  stop(): Promise<void>;
}

async function startDaemon(engine: string): Promise<Daemon> {
  const start = performance.now();
  const args = ["--port", "0", "--engine", engine];
  const child = new Deno.Command(DAEMON, { args, stderr: "piped" }).spawn();
  let ready = "";
  const lines = child.stderr.pipeThrough(new TextDecoderStream());
  for await (const text of lines.values({ preventCancel: true })) {
    ready += text;
    if (ready.includes("\n")) break;
  }
  const server = /\baddress=(\S+)/.exec(ready)?.[1];
  if (server === undefined) throw new Error(`${DAEMON} did not start: ${ready}`);
  await using _remote = await Remote.connect({ server });
  const time = performance.now() - start;
  const stop = async () => {
    child.kill("SIGTERM");
    await lines.cancel();
    await child.status;
  };
  return { server, time, stop };
}

async function timeToReply(engine: string): Promise<number> {
  const daemon = await startDaemon(engine);
  await daemon.stop();
  return daemon.time;
}

function median(times: readonly number[]): number {
  return times.toSorted((a, b) => a - b)[times.length >> 1]!;
}

async function main(rounds: number): Promise<void> {
  const { server, stop } = await startDaemon("datagram");
  const measured: Record<string, { measure: () => Promise<number>; times: number[] }> = {
    "an empty program": { measure: () => timeToEnd(EMPTY), times: [] },
    "mallocd-client --version": { measure: () => timeToEnd(CLIENT, "--version"), times: [] },
    "mallocd-client malloc 5": {
      measure: () => timeToEnd(CLIENT, "--server", server, "malloc", "5"),
      times: [],
    },
    "mallocd --engine datagram, to the first reply": {
      measure: () => timeToReply("datagram"),
      times: [],
    },
    "mallocd --engine syscall, to the first reply": {
      measure: () => timeToReply("syscall"),
      times: [],
    },
  };
  for (let round = 0; round < rounds; round++) {
    for (const { measure, times } of Object.values(measured)) times.push(await measure());
  }
  await stop();
  const [empty] = Object.values(measured);
  printTable([
    [`${rounds} starts`, "ms", "times"],
    ...Object.entries(measured).map(([name, { times }]) => [
      name,
      median(times).toFixed(1),
      ratio(median(times) / median(empty!.times)),
    ]),
  ]);
}

if (import.meta.main) await main(Deno.args.includes("--smoke") ? 2 : 40);
