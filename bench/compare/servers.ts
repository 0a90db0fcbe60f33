/**
 * The servers that are compared, each a process of its own on a free port of 127.0.0.1, and how each of
 * them is measured.
 */

import { VERSION } from "../../lib/cli/version.ts";
import { mallocd, startServer } from "../prober.ts";
import { type Load, PIPELINE, type ServerKey } from "./loads.ts";
import type { Measurement } from "./measurement.ts";
import { HOST, ROOT, run, runClient, runRedisBenchmark } from "./programs.ts";
import { runStreamLoad } from "./stream_load.ts";

/** How long a server may take to start, and how long to end before it is killed. */
const PATIENCE_MS = 10_000;

export interface Server {
  readonly key: ServerKey;
  readonly name: string;
  /** What was started, with its version. */
  readonly version: string;
  /** Puts a load on it; undefined if the load is none for such a server. */
  measure(load: Load, milliseconds: number): Promise<Measurement> | Measurement | undefined;
  stop(): Promise<void>;
}

/** Starts a program as a server, with nothing to read. */
type Launch = (
  program: string,
  args: readonly string[],
  stdout?: Deno.CommandOptions["stdout"],
) => Deno.ChildProcess;

/**
 * Starts all that can be started here, and says on stderr what cannot, and why. `prefix` comes before
 * each command line, see cores.ts.
 */
export async function startServers(prefix: readonly string[]): Promise<Server[]> {
  const launch: Launch = (program, args, stdout = "null") => {
    const [command = program, ...words] = [...prefix, program, ...args];
    const options = { args: words, cwd: ROOT, stdin: "null", stdout, stderr: "null" } as const;
    return new Deno.Command(command, options).spawn();
  };
  const servers: Server[] = [];
  for (const start of [startSyscall, startDatagram, startBound, startRedis, startMemcached]) {
    try {
      servers.push(...await start(launch, prefix));
    } catch (error) {
      console.error(`bench-compare: ${error instanceof Error ? error.message : error}`);
    }
  }
  return servers;
}

type Prefix = readonly string[];

const startSyscall = (_: Launch, prefix: Prefix) => startMallocd(prefix, "syscall");
const startDatagram = (_: Launch, prefix: Prefix) => startMallocd(prefix, "datagram");

async function startMallocd(prefix: Prefix, engine: "syscall" | "datagram"): Promise<Server[]> {
  const daemon = await startServer(mallocd(engine), "stderr", prefix);
  return [{
    key: engine,
    name: `mallocd, ${engine}`,
    version: `${VERSION}, Deno ${Deno.version.deno}`,
    measure: (load, ms) => load.client && runClient(`${daemon.port}`, load.client, ms),
    stop: async () => await daemon[Symbol.asyncDispose](),
  }];
}

/** bench/bound.c. Rejects if there is no compiler. */
async function startBound(launch: Launch): Promise<Server[]> {
  if (!await isInstalled("cc")) throw new Error("There is no C compiler, cc, for bench/bound.c");
  const [version = ""] = (await run("cc", "--version")).split("\n");
  const folder = await Deno.makeTempDir();
  const program = `${folder}/bound`;
  await run("cc", "-O2", "-o", program, new URL("bench/bound.c", ROOT).pathname);
  const child = launch(program, [], "piped");
  const port = await firstLine(child.stdout);
  await Deno.remove(folder, { recursive: true });
  return [{
    key: "bound",
    name: "C",
    version,
    measure: (load, ms) =>
      load.client?.includes("--classic") ? runClient(port, load.client, ms) : undefined,
    stop: () => stop(child),
  }];
}

/** Bytes that every server holds and every read returns. */
const LENGTH = 64;
const BLOCK = "0123456789abcdef".repeat(LENGTH / 16);

/**
 * Valkey if it is installed, else Redis, without persistence; and the same once more, measured by its own
 * benchmark tool.
 */
async function startRedis(launch: Launch): Promise<Server[]> {
  const kind = await isInstalled("valkey-server") ? "valkey" : "redis";
  const name = kind === "valkey" ? "Valkey" : "Redis";
  const port = freePort();
  const server = await startStream(launch, {
    key: "redis",
    name,
    program: `${kind}-server`,
    port,
    args: ["--port", `${port}`, "--bind", HOST, "--save", ""],
    set: `SET block ${BLOCK}\r\n`,
    request: "*4\r\n$8\r\nGETRANGE\r\n$5\r\nblock\r\n$1\r\n0\r\n$2\r\n63\r\n",
    reply: `$${LENGTH}\r\n${BLOCK}\r\n`,
  });
  const tool = `${kind}-benchmark`;
  if (!await isInstalled(tool)) return [server];
  return [server, {
    key: "redisBenchmark",
    name: `${name}, by ${tool}`,
    version: server.version,
    measure: (load, ms) =>
      load.stream?.pipeline === PIPELINE
        ? runRedisBenchmark(tool, port, load.stream, ms)
        : undefined,
    stop: () => Promise.resolve(),
  }];
}

/** memcached as it comes; only root has to name a user. */
async function startMemcached(launch: Launch): Promise<Server[]> {
  const port = freePort();
  const server = await startStream(launch, {
    key: "memcached",
    name: "memcached",
    program: "memcached",
    port,
    args: ["-p", `${port}`, "-l", HOST, "-u", "nobody"],
    set: `set block 0 0 ${LENGTH}\r\n${BLOCK}\r\n`,
    request: "get block\r\n",
    reply: `VALUE block 0 ${LENGTH}\r\n${BLOCK}\r\nEND\r\n`,
  });
  return [server];
}

async function startStream(launch: Launch, {
  key,
  name,
  program,
  port,
  args,
  set,
  request,
  reply,
}: {
  key: ServerKey;
  name: string;
  program: string;
  port: number;
  args: string[];
  set: string;
  request: string;
  reply: string;
}): Promise<Server> {
  if (!await isInstalled(program)) throw new Error(`${program} is not installed`);
  const child = launch(program, args);
  try {
    await tell(port, set);
  } catch (error) {
    await stop(child);
    throw error;
  }
  const encoder = new TextEncoder();
  const stream = { port, request: encoder.encode(request), reply: encoder.encode(reply) };
  return {
    key,
    name,
    version: /\d+\.\d+\.\d+/.exec(await run(program, "--version"))?.[0] ?? "",
    measure: (load, ms) => load.stream && runStreamLoad({ ...stream, ...load.stream }, ms),
    stop: () => stop(child),
  };
}

/** Sends something to a server that is starting, over TCP, and awaits an answer. */
async function tell(port: number, text: string): Promise<void> {
  for (const deadline = performance.now() + PATIENCE_MS;;) {
    try {
      using connection = await Deno.connect({ hostname: HOST, port });
      await connection.write(new TextEncoder().encode(text));
      await connection.read(new Uint8Array(64));
      return;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

async function isInstalled(program: string): Promise<boolean> {
  return await run(program, "--version").then(() => true, () => false);
}

function freePort(): number {
  using listener = Deno.listen({ hostname: HOST, port: 0 });
  return listener.addr.port;
}

/** The first line of a stream; the rest is thrown away, so that the writer never waits. */
async function firstLine(stream: ReadableStream<Uint8Array>): Promise<string> {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("\n")) {
    const { value, done } = await reader.read();
    if (done) return text;
    text += value;
  }
  const drain = async () => {
    while (!(await reader.read()).done);
  };
  drain().catch(() => {});
  return text.split("\n")[0]!;
}

async function stop(child: Deno.ChildProcess): Promise<void> {
  try {
    child.kill("SIGTERM");
  } catch {
    return; // it has ended by itself
  }
  const timer = setTimeout(() => child.kill("SIGKILL"), PATIENCE_MS);
  await child.status;
  clearTimeout(timer);
}
