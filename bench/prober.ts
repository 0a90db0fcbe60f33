/** What the benchmarks over sockets share: servers as processes of their own, and a client that costs little. */

import { MAX_DATAGRAM } from "../lib/protocol/wire.ts";
import { openLibc } from "../lib/system/libc.ts";

export const HOST = "127.0.0.1";
const ROOT = new URL("../", import.meta.url);

/** If a measurement takes longer, a reply was lost, and would be waited for for ever. */
const PATIENCE_MS = 30_000;

export interface Server extends AsyncDisposable {
  /** The line in which it said so. */
  readonly line: string;
  /** All that it has said on that stream so far. */
  output(): string;
  readonly port: number;
  readonly pid: number;
}

/** The daemon of this source tree, on a free port. */
export function startMallocd(engine: string, ...options: string[]): Promise<Server> {
  return startServer(mallocd(engine, ...options), "stderr");
}

/** What Deno runs as the daemon of this source tree. */
export function mallocd(engine: string, ...options: string[]): string[] {
  return ["-P=daemon", "main.ts", "--port", "0", "--engine", engine, ...options];
}

/** A daemon whose V8 tells what it does. */
export interface Traced {
  /** What the daemon has said until it was ready. */
  readonly said: string;
  readonly port: number;
  /** Ends it; resolves to what V8 has told. */
  end(): Promise<string>;
}

/** The daemon of this source tree, run by Deno with flags such as --v8-flags=--trace-gc. */
export async function startTraced(
  flags: readonly string[],
  engine: string,
  ...options: string[]
): Promise<Traced> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", ...flags, ...mallocd(engine, ...options)],
    cwd: ROOT,
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const trace = new Response(child.stdout).text();
  const messages = child.stderr.pipeThrough(new TextDecoderStream()).getReader();
  let said = "";
  while (!said.includes("msg=ready")) {
    const { value, done } = await messages.read();
    if (done) throw new Error(`Cannot start mallocd --engine ${engine}: ${said}`);
    said += value;
  }
  return {
    said,
    port: Number(/address=127\.0\.0\.1:(\d+)/.exec(said)![1]),
    async end() {
      child.kill("SIGTERM");
      while (!(await messages.read()).done);
      messages.releaseLock();
      await child.status;
      return await trace;
    },
  };
}

/**
 * Runs a program with Deno, which says in its first line on which port of HOST it listens. `prefix` comes
 * before the command line, as `taskset -c 0` does.
 */
export function startServer(
  args: readonly string[],
  output: "stdout" | "stderr",
  prefix: readonly string[] = [],
): Promise<Server> {
  return startProgram([...prefix, Deno.execPath(), "run", "-q", ...args], output);
}

/** Runs a command line that says the same. */
export async function startProgram(
  line: readonly string[],
  output: "stdout" | "stderr",
): Promise<Server> {
  const [program, ...args] = line;
  const child = new Deno.Command(program!, {
    args,
    cwd: ROOT,
    stdout: "null",
    stderr: "inherit",
    [output]: "piped",
  }).spawn();
  const lines = child[output].pipeThrough(new TextDecoderStream());
  let said = "";
  const ready = Promise.withResolvers<void>();
  const listening = (async () => {
    for await (const text of lines) {
      said += text;
      if (said.includes("\n")) ready.resolve();
    }
    ready.resolve();
  })();
  await ready.promise;
  const port = /:(\d+)\b/.exec(said)?.[1];
  if (port === undefined) throw new Error(`Cannot start ${line.join(" ")}: ${said}`);
  return {
    pid: child.pid,
    line: said.split("\n")[0]!,
    port: Number(port),
    output: () => said,
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await listening;
      await child.status;
    },
  };
}

/** clock_gettime(2), opened when it is first wanted: not every bench may call libc. */
let clocks: Deno.DynamicLibrary<typeof CLOCKS> | undefined;
const CLOCKS = { clock_gettime: { parameters: ["i32", "buffer"], result: "i32" } } as const;
const CPUCLOCK_SCHED = 2;

/** Seconds that a process with all its threads has had of the processor, by the clock of clock_getcpuclockid(3). */
export function processorTime(pid: number): number {
  clocks ??= openLibc(CLOCKS);
  const timespec = new BigInt64Array(2);
  const failed = clocks.symbols.clock_gettime(~pid << 3 | CPUCLOCK_SCHED, timespec);
  if (failed !== 0) throw new Error(`Cannot tell the processor time of ${pid}`);
  return Number(timespec[0]) + Number(timespec[1]) / 1e9;
}

/** The same of the children of this process that have ended: fields 16 and 17 of proc(5), in steps of 10 ms. */
export async function childrenTime(): Promise<number> {
  const { stdout } = await new Deno.Command("cat", { args: [`/proc/${Deno.pid}/stat`] }).output();
  const fields = new TextDecoder().decode(stdout).split(") ")[1]!.split(" ");
  return (Number(fields[13]) + Number(fields[14])) / 100;
}

/** A client's socket. Replies are received, and not looked at. */
export class Prober implements Disposable {
  readonly #socket = Deno.listenDatagram({ transport: "udp", hostname: HOST, port: 0 });
  readonly #timer = setTimeout(() => this.#socket.close(), PATIENCE_MS);
  readonly #server: Deno.NetAddr;
  readonly #buffer = new Uint8Array(MAX_DATAGRAM);

  constructor({ port }: Server) {
    this.#server = { transport: "udp", hostname: HOST, port };
  }

  async send(request: Uint8Array): Promise<void> {
    await this.#socket.send(request, this.#server);
  }

  /** The next datagram; the one after it overwrites it. */
  async receive(): Promise<Uint8Array> {
    const [datagram] = await this.#socket.receive(this.#buffer);
    return datagram;
  }

  async ask(request: Uint8Array): Promise<Uint8Array> {
    await this.send(request);
    return await this.receive();
  }

  /** Replies a second with so many copies of a request in flight. */
  async rate(request: Uint8Array, inFlight: number, ms: number): Promise<number> {
    for (let i = 0; i < inFlight; i++) await this.send(request);
    const result = await rate(ms, async () => {
      await this.receive();
      await this.send(request);
    });
    for (let i = 0; i < inFlight; i++) await this.receive();
    return result;
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#socket.close();
  }
}

/** How often a second a step can be done, by doing it for so many milliseconds. */
export async function rate(ms: number, step: () => Promise<void>): Promise<number> {
  const start = performance.now();
  let steps = 0;
  let time: number;
  do {
    await step();
    steps++;
    time = performance.now() - start;
  } while (time < ms);
  return steps / time * 1000;
}

/** The median of each measurement over some rounds, in which each takes its turn; the first is warm-up. */
export async function medians(
  rounds: number,
  measurements: readonly (() => Promise<number>)[],
): Promise<number[]> {
  const results: number[][] = measurements.map(() => []);
  for (let round = 0; round <= rounds; round++) {
    for (const [i, measure] of measurements.entries()) {
      const result = await measure();
      if (round > 0) results[i]!.push(result);
    }
  }
  return results.map((values) => values.sort((a, b) => a - b)[rounds >>> 1]!);
}
