/**
 * A daemon's life: it starts an engine over a heap, tells that it is ready, looks after what goes on, and
 * ends when a signal says so. What only some daemons need is loaded when it is asked for, since all that is
 * read at each start takes its time (docs/architecture.md).
 */

import { ServingTime, TICK_MS } from "./clock.ts";
import { Counter, totals } from "./counters.ts";
import { memberOptions } from "./cluster/options.ts";
import type { Engine, EngineOptions } from "./engine.ts";
import { type Choice, loadEngine, startEngine } from "./engines/choice.ts";
import { Gauges } from "./gauges.ts";
import type { HttpServer } from "./http/server.ts";
import { openKernelDrops } from "./kernel_drops.ts";
import { type Log, openLog } from "./log.ts";
import { memoryLimit } from "./memory_limit.ts";
import { openNotify, watchdogMs } from "./notify.ts";
import { Pulse } from "./pulse.ts";
import { Rates } from "./rates.ts";
import type { DaemonValues, Settings } from "./settings.ts";
import { nextSignal, reloadOnHangup, surviveSignals } from "./signals.ts";
import { StartError, startError } from "./start_error.ts";
import { newState, type State, type StateOptions } from "./state.ts";
import { HEAP_BASE, RANGE_BYTES } from "../heap/heap.ts";
import { formatSize } from "../cli/sizes.ts";
import { VERSION } from "../cli/version.ts";
import { joinHostPort } from "../system/address.ts";

/** How often the service manager is told what goes on. */
const STATUS_MS = 5000;

/** How long the engine may take to end. */
const CLOSE_MS = 2000;

/**
 * Resolves when a signal has ended it, to false if the disk has failed. Rejects with UsageError or
 * StartError if it cannot start.
 */
export async function live(
  values: DaemonValues,
  settings: Settings,
  environment: Readonly<Record<string, string>>,
): Promise<boolean> {
  const say = openLog({ json: values["log-json"], quiet: values.quiet });
  const member = memberOptions(values, say);
  // Certificates may be anywhere, so the executable may read everything; the source tree reads its modules.
  if (settings.secrets === undefined && Deno.build.standalone) {
    Deno.permissions.revokeSync({ name: "read" });
  }

  const sizes: StateOptions = {
    memory: values.memory,
    replayCache: values["replay-cache"],
    quota: values.quota,
  };
  const path = values["heap-file"];
  const keeper = path === undefined ? undefined : await import("./keeper.ts");
  const engineName = path === undefined ? values.engine : "syscall";
  const worker = member === undefined ? loadEngine(engineName) : undefined;
  const file = keeper?.openHeapFile(path!, sizes, values);
  const state = file?.state ?? newState(sizes);
  const gauges = new Gauges(sizes, state);
  const counts = () => {
    gauges.refresh();
    return totals(state.service.counters);
  };
  surviveSignals(() => say({ msg: "totals", ...counts() }));
  file?.begin();
  const options: EngineOptions = {
    ...sizes,
    heapPlace: file?.place,
    hostname: settings.host,
    port: values.port,
    allow: values.allow,
    fuel: settings.fuel,
    unvalidated: values.unvalidated,
    lowPorts: values["low-ports"],
    strict: values.strict,
    receiveBuffer: values["receive-buffer"],
    spin: values.spin,
    hugePages: values["huge-pages"],
    secrets: settings.secrets,
    state,
  };
  const starting: Promise<Choice> = member === undefined
    ? startEngine(engineName, options, worker)
    : import("./cluster/engine.ts").then(async ({ serveCluster }) => ({
      engine: await serveCluster(options, member),
    }));
  const { engine, reason } = await starting.catch((error) => {
    file?.abandon();
    throw startError(error, joinHostPort(options));
  });
  const pulse = new Pulse(state.service.counters);
  const http = await startHttp(values, { sizes, state, gauges, engine, pulse })
    .catch(async (error) => {
      await engine.close();
      file?.abandon();
      throw startError(error, joinHostPort(values.http!), "--http");
    });
  const ready = {
    ...described(engine, values.memory, reason),
    http: http && `http://${joinHostPort(http)}/`,
  };
  if (values.check) {
    await Promise.all([engine.close(), http?.close()]);
    warnOfMemory(values.memory, say);
    say({ msg: "checked", ...ready });
    return true;
  }
  const notify = openNotify(environment["NOTIFY_SOCKET"]);
  reloadOnHangup(engine, say);
  const signalled = nextSignal(); // from here on: who reads that we are ready may send one at once
  const timers = [tell(state, engine, pulse, say)];
  const chores = file && keeper?.keep(file, sizes, values, say);
  say({ msg: "ready", ...ready, heap_file: file?.path });
  const rates = new Rates(gauges, state.service.counters);
  const status = () => `STATUS=${rates.status(joinHostPort(engine.address))}`;
  if (notify !== undefined) {
    notify("READY=1", status());
    timers.push(setInterval(() => notify(status()), STATUS_MS));
    const watchdog = watchdogMs(environment, Deno.pid);
    const bark = () => {
      if (pulse.isServing) notify("WATCHDOG=1");
    };
    if (watchdog !== undefined) timers.push(setInterval(bark, watchdog / 2));
  }
  if (settings.isOpen) {
    const reason = "--anyone answers whoever can reach it, unencrypted";
    say({ msg: "warning", level: "warn", reason });
  }
  warnOfMemory(values.memory, say);
  const signal = await Promise.race([signalled, engine.failed ?? signalled])
    .catch((error) => {
      throw new StartError(
        error.message,
        "start it again, with --standby if the range has an owner",
      );
    });
  notify?.("STOPPING=1");
  timers.forEach(clearInterval);
  chores?.syncing.end();
  const isClosed = await Promise.race([
    Promise.all([engine.close(), http?.close()]).then(() => true),
    new Promise<boolean>((resolve) => setTimeout(resolve, CLOSE_MS, false)),
  ]);
  await chores?.snapshots.end(); // at most a piece of one: it is given up
  const isKept = file === undefined || await keeper!.endFile(file, isClosed, say, notify);
  say({ msg: "stopped", signal, ...counts() });
  return isKept;
}

/** What the daemon serves and how it is, for who looks at it. */
interface Looks {
  readonly sizes: StateOptions;
  readonly state: State;
  readonly gauges: Gauges;
  readonly engine: Engine;
  readonly pulse: Pulse;
}

async function startHttp(
  { http, "http-names": names = [] }: DaemonValues,
  { engine, pulse, ...shared }: Looks,
): Promise<HttpServer | undefined> {
  if (http === undefined) return undefined;
  const { serveHttp } = await import("./http/server.ts");
  return serveHttp({
    ...http,
    ...shared,
    names,
    base: () => HEAP_BASE + RANGE_BYTES * Number(engine.details?.["range"] ?? 0),
    serving: joinHostPort(engine.address),
    isServing: () => pulse.isServing,
  });
}

/** Tells the thread that serves what time it is, and the operator if it has ended to serve; returns the timer. */
function tell({ service: { clock, counters } }: State, engine: Engine, pulse: Pulse, say: Log) {
  const time = new ServingTime(performance.now(), clock[0]);
  const tick = () => {
    if (!engine.keepsTime) Atomics.store(clock, 0, time.seconds(performance.now()));
    counters[Counter.resident] = Deno.memoryUsage().rss;
    const wasServing = pulse.isServing;
    pulse.look();
    if (pulse.isServing === wasServing) return;
    say(wasServing ? { msg: "stuck", level: "error" } : { msg: "serving again" });
  };
  tick();
  // The syscall engine counts them itself. Opened when a second is over, since that takes its time.
  let kernelDrops: (() => number | undefined) | undefined;
  return setInterval(() => {
    tick();
    if (engine.name === "syscall") return;
    kernelDrops ??= openKernelDrops(engine.address);
    counters[Counter.kernelDrops] = kernelDrops() ?? counters[Counter.kernelDrops]!;
  }, TICK_MS);
}

/** Says so if the heap may become larger than what there is of memory. */
function warnOfMemory(heap: number, say: Log): void {
  const limit = memoryLimit();
  if (limit === undefined || heap <= limit.bytes) return;
  const [memory, bytes] = [formatSize(heap), formatSize(limit.bytes)];
  const reason = `--memory ${memory} is more than the ${bytes} that this ${limit.owner} has`;
  say({ msg: "warning", level: "warn", reason });
}

/** What the ready line tells of an engine. */
function described(engine: Engine, memory: number, reason: string | undefined) {
  return {
    version: VERSION,
    address: joinHostPort(engine.address),
    memory: formatSize(memory),
    engine: engine.name,
    reason,
    garbage: engine.name === "quic" ? "some for each request" : undefined,
    ...engine.details,
    receive_buffer: engine.receiveBuffer && formatSize(engine.receiveBuffer),
  };
}
