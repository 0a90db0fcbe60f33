/** The programs that put a load on a server, each run as a process of its own. */

import type { Report } from "../../lib/client/load/run.ts";
import { LIBC_PATHS } from "../../lib/system/libc.ts";
import type { Measurement } from "./measurement.ts";
import type { StreamWorkload } from "./stream_load.ts";

export const ROOT = new URL("../../", import.meta.url);
export const HOST = "127.0.0.1";

/** A run that takes longer than this hangs. */
const RUN_TIMEOUT_MS = 60_000;

/** Runs `mallocd-client bench`. Rejects if what it read was wrong. */
export async function runClient(
  port: string,
  words: readonly string[],
  ms: number,
): Promise<Measurement> {
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--quiet", "-P=client", `--allow-ffi=${LIBC_PATHS.join()}`, "client.ts"],
      ...["--server", `${HOST}:${port}`, "bench", "--json", "--seconds", `${ms}ms`],
      ...words,
    ],
    cwd: ROOT,
    signal: AbortSignal.timeout(RUN_TIMEOUT_MS),
  }).output();
  const decoder = new TextDecoder();
  const what = `bench ${words.join(" ")}`;
  if (stdout.length === 0) throw new Error(`Cannot measure ${what}: ${decoder.decode(stderr)}`);
  const report: Report = JSON.parse(decoder.decode(stdout));
  const { requestsPerSecond, latency, lost, wrong, wire } = report;
  if (wrong > 0) throw new Error(`Cannot trust ${what}: ${wrong} replies were wrong`);
  if (wire !== "libc") throw new Error(`Cannot compare by ${what}: ${decoder.decode(stderr)}`);
  return { rate: requestsPerSecond, latency, lost };
}

/** redis-benchmark takes a number of requests, not a time: about so many a millisecond are done. */
const REDIS_PER_MS = 1000;

/** Runs redis-benchmark, or valkey-benchmark, for about so many milliseconds. */
export async function runRedisBenchmark(
  tool: string,
  port: number,
  { connections, pipeline }: Pick<StreamWorkload, "connections" | "pipeline">,
  ms: number,
): Promise<Measurement> {
  const printed = await run(
    tool,
    ...["-h", HOST, "-p", `${port}`, "-c", `${connections}`, "-P", `${pipeline}`],
    ...["-n", `${ms * REDIS_PER_MS}`, "--csv", "GETRANGE", "block", "0", "63"],
  );
  // "test","rps",... and below it "GETRANGE block 0 63","1086956.50",...
  const rate = /^"GETRANGE[^"]*","([\d.]+)"/m.exec(printed)?.[1];
  if (rate === undefined) throw new Error(`Cannot understand ${tool}: ${printed}`);
  return { rate: Number(rate), lost: 0 };
}

/** Runs a program to its end and returns what it printed. Rejects if it fails. */
export async function run(program: string, ...args: string[]): Promise<string> {
  const signal = AbortSignal.timeout(RUN_TIMEOUT_MS);
  const { success, stdout, stderr } = await new Deno.Command(program, { args, signal }).output();
  const decoder = new TextDecoder();
  if (!success) throw new Error(`Cannot run ${program}: ${decoder.decode(stderr).trim()}`);
  return decoder.decode(stdout).trim();
}
