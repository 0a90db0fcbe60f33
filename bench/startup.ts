/**
 * What a start of the executables takes, beside that of an empty program which was compiled in the same
 * way: the client until it has ended, the daemon until it has answered its first request. Medians of
 * rounds in which each takes its turn. A daemon that cannot use the syscall engine here, or was made
 * without it, has no row for it.
 *
 *     make build .tools/empty && deno run -P=bench bench/startup.ts [--smoke]
 */

import { Remote } from "../lib/client/remote.ts";
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
  /** The one that serves, by its name. */
  readonly engine: string;
  /** Milliseconds until it has answered. */
  readonly time: number;
  stop(): Promise<void>;
}

async function startDaemon(name: string): Promise<Daemon> {
  const start = performance.now();
  const args = ["--port", "0", "--engine", name];
  const child = new Deno.Command(DAEMON, { args, stderr: "piped" }).spawn();
  let ready = "";
  const lines = child.stderr.pipeThrough(new TextDecoderStream());
  for await (const text of lines.values({ preventCancel: true })) {
    ready += text;
    if (ready.includes("\n")) break;
  }
  const server = /\baddress=(\S+)/.exec(ready)?.[1];
  const engine = /\bengine=(\S+)/.exec(ready)?.[1];
  if (server === undefined || engine === undefined) {
    throw new Error(`${DAEMON} did not start: ${ready}`);
  }
  await using _remote = await Remote.connect({ server });
  const time = performance.now() - start;
  const stop = async () => {
    child.kill("SIGTERM");
    await lines.cancel();
    await child.status;
  };
  return { server, engine, time, stop };
}

async function timeToReply(engine: string): Promise<number> {
  const daemon = await startDaemon(engine);
  await daemon.stop();
  return daemon.time;
}

function median(times: readonly number[]): number {
  return times.toSorted((a, b) => a - b)[times.length >> 1]!;
}

/** The engines that this daemon can use: it says so itself. */
async function findEngines(): Promise<string[]> {
  const fastest = await startDaemon("auto");
  await fastest.stop();
  return fastest.engine === "syscall" ? ["datagram", "syscall"] : ["datagram"];
}

async function main(rounds: number): Promise<void> {
  const engines = await findEngines();
  const { server, stop } = await startDaemon("datagram");
  const measured: Record<string, { measure: () => Promise<number>; times: number[] }> = {
    "an empty program": { measure: () => timeToEnd(EMPTY), times: [] },
    "mallocd-client --version": { measure: () => timeToEnd(CLIENT, "--version"), times: [] },
    "mallocd-client malloc 5": {
      measure: () => timeToEnd(CLIENT, "--server", server, "malloc", "5"),
      times: [],
    },
  };
  for (const engine of engines) {
    const name = `mallocd --engine ${engine}, to the first reply`;
    measured[name] = { measure: () => timeToReply(engine), times: [] };
  }
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
  if (!engines.includes("syscall")) console.log("This daemon cannot use the syscall engine here.");
}

if (import.meta.main) await main(Deno.args.includes("--smoke") ? 2 : 40);
