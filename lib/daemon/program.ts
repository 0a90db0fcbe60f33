/** mallocd as a function: a command line in, an engine over a heap, signals until the end, an exit code out. */

import { Chore, secondsLeft } from "./chore.ts";
import { ServingTime, TICK_MS } from "./clock.ts";
import { Counter, type Counters, sumOf, totals } from "./counters.ts";
import { DAEMON, DAEMON_FLAGS, KNOWN_BY, NEEDS } from "./flags.ts";
import { ClusterError, meaningOf } from "./cluster/primary.ts";
import { ConnectionError, RedisError } from "./cluster/resp.ts";
import { memberOptions } from "./cluster/options.ts";
import { serveCluster } from "./cluster/engine.ts";
import type { Engine, EngineOptions } from "./engine.ts";
import { type Choice, startEngine } from "./engines/choice.ts";
import { Gauges } from "./gauges.ts";
import { HeapFile, HeapFileError } from "./heap_file.ts";
import { type HttpServer, serveHttp } from "./http/server.ts";
import { HEAP_BASE, MAX_MEMORY32, RANGE_BYTES } from "../heap/heap.ts";
import { RESERVED } from "./procedures/procedures.ts";
import { openKernelDrops } from "./kernel_drops.ts";
import { type Log, openLog } from "./log.ts";
import { memoryLimit } from "./memory_limit.ts";
import { type Notify, openNotify, watchdogMs } from "./notify.ts";
import { Pulse } from "./pulse.ts";
import { newState, type StateOptions } from "./state.ts";
import { SecretError, type SecretFiles } from "./engines/quic_secrets.ts";
import { FileError } from "../system/file.ts";
import { Errno, Unavailable } from "../system/libc.ts";
import { formatSize } from "../cli/sizes.ts";
import {
  defaults,
  type Flag,
  isOn,
  parseCommandLine,
  strayVariables,
  UsageError,
  type Values,
  variableOf,
} from "../cli/flags.ts";
import { checkWords, commandOf } from "../cli/command.ts";
import { commandHelp, programHelp } from "../cli/help.ts";
import { isLoopback } from "../system/address.ts";
import { VERSION } from "../cli/version.ts";

/** How often the service manager is told what goes on. */
const STATUS_MS = 5000;

/** How long the engine may take to end. */
const CLOSE_MS = 2000;

/** How often it is told how much is not on the disk yet, and what the service manager is to wait then. */
const SYNCING_MS = 1000;
const EXTENSION_MS = 30_000;

const VERSION_LINE = `mallocd ${VERSION}\n`;

/** Runs the daemon until a signal ends it, and returns the exit code. */
export function program(args: readonly string[]): Promise<number> {
  return main(args).catch(report);
}

async function main(args: readonly string[]): Promise<number> {
  const environment = Deno.env.toObject();
  if (wantsObjects(args, environment)) objects = openLog({ json: true, quiet: false });
  for (const warning of strayVariables(DAEMON, Object.keys(environment))) {
    if (objects !== undefined) objects({ msg: "warning", level: "warn", reason: warning });
    else console.error(`mallocd: ${warning}`);
  }
  const { values, words, given } = parseCommandLine(
    DAEMON,
    DAEMON_FLAGS,
    args,
    (name) => environment[name],
  );
  const [word, ...rest] = words;
  if (values.help || values.version) {
    print(values.help ? helpOf(word) : VERSION_LINE);
    return 0;
  }
  if (word !== undefined) return command(word, rest, given);
  checkNeeds(values, given);
  const { allow, anyone, quiet } = values;
  const host = hostnameOf(values.host);
  if (allow !== undefined && anyone) {
    throw new UsageError("--allow and --anyone contradict each other", "leave one of them out");
  }
  const secrets = secretsOf(values);
  if (!isLoopback(host) && allow === undefined && !anyone && secrets?.tokens === undefined) {
    throw new UsageError(
      `--host ${host} can be reached from other hosts, and there is no authentication`,
      "add --allow CIDR[,CIDR] to answer only those networks, or --anyone to answer everybody" +
        (secrets === undefined ? "" : ", or --token-file FILE"),
    );
  }
  const say = openLog({ json: values["log-json"], quiet });
  const member = memberOptions(values, say);
  const fuel = fuelOf(values);
  // Certificates may be anywhere, so the executable may read everything; the source tree reads its modules.
  if (secrets === undefined && Deno.build.standalone) {
    Deno.permissions.revokeSync({ name: "read" });
  }

  const sizes: StateOptions = {
    memory: values.memory,
    replayCache: values["replay-cache"],
    quota: values.quota,
  };
  const file = openHeapFile(values, sizes);
  const state = file?.state ?? newState(sizes);
  const { counters, clock } = state.service;
  const gauges = new Gauges(sizes, state);
  const counts = () => {
    gauges.refresh();
    return totals(counters);
  };
  surviveSignals(() => say({ msg: "totals", ...counts() }));
  try {
    file?.begin();
  } catch (error) {
    throw fileError(error);
  }
  const options: EngineOptions = {
    ...sizes,
    heapPlace: file?.place,
    hostname: host,
    port: values.port,
    allow,
    fuel,
    unvalidated: values.unvalidated,
    lowPorts: values["low-ports"],
    strict: values.strict,
    receiveBuffer: values["receive-buffer"],
    spin: values.spin,
    hugePages: values["huge-pages"],
    secrets,
    state,
  };
  const starting: Promise<Choice> = member === undefined
    ? startEngine(file === undefined ? values.engine : "syscall", options)
    : serveCluster(options, member).then((engine) => ({ engine }));
  const { engine, reason } = await starting.catch((error) => {
    file?.abandon();
    throw startError(error, formatAddress({ hostname: host, port: values.port }));
  });
  const pulse = new Pulse(counters);
  let http: HttpServer | undefined;
  try {
    http = values.http && serveHttp({
      ...values.http,
      names: values["http-names"] ?? [],
      sizes,
      state,
      gauges,
      base: () => HEAP_BASE + RANGE_BYTES * Number(engine.details?.["range"] ?? 0),
      serving: formatAddress(engine.address),
      isServing: () => pulse.isServing,
    });
  } catch (error) {
    await engine.close();
    file?.abandon();
    throw startError(error, formatAddress(values.http!), "--http");
  }
  const ready = {
    ...described(engine, values.memory, reason),
    http: http && `http://${formatAddress(http)}/`,
  };
  if (values.check) {
    await Promise.all([engine.close(), http?.close()]);
    warnOfMemory(values.memory, say);
    say({ msg: "checked", ...ready });
    return 0;
  }
  const notify = openNotify(environment["NOTIFY_SOCKET"]);
  reloadOnHangup(engine, say);
  const signalled = nextSignal(); // from here on: who reads that we are ready may send one at once
  const time = new ServingTime(performance.now(), clock[0]);
  // The syscall engine counts them itself.
  const kernelDrops = engine.name === "syscall" ? undefined : openKernelDrops(engine.address);
  const tick = () => {
    if (kernelDrops !== undefined) counters[Counter.kernelDrops] = kernelDrops() ?? 0;
    if (!engine.keepsTime) Atomics.store(clock, 0, time.seconds(performance.now()));
    counters[Counter.resident] = Deno.memoryUsage().rss;
    const wasServing = pulse.isServing;
    pulse.look();
    if (pulse.isServing === wasServing) return;
    say(wasServing ? { msg: "stuck", level: "error" } : { msg: "serving again" });
  };
  tick();
  const ticking = setInterval(tick, TICK_MS);
  const syncing = file && new Chore(
    async () => await file.sync() ? 0 : Errno.EIO,
    state.service.sync,
    values.sync,
    () => say({ msg: "not synced", level: "error", file: file.path }),
  );
  const snapshots = file && new Chore(
    (signal) => snapshot(file, sizes, signal, say),
    state.service.snapshot,
    values.snapshot,
  );
  say({ msg: "ready", ...ready, heap_file: file?.path });
  const rates = new Rates(gauges, counters);
  const status = () => `STATUS=${rates.status(formatAddress(engine.address))}`;
  notify("READY=1", status());
  const reporting = setInterval(() => notify(status()), STATUS_MS);
  const watchdog = watchdogMs(environment, Deno.pid);
  const barking = watchdog === undefined ? undefined : setInterval(() => {
    if (pulse.isServing) notify("WATCHDOG=1");
  }, watchdog / 2);
  if (anyone && !isLoopback(host) && secrets === undefined) {
    say({
      msg: "warning",
      level: "warn",
      reason: "--anyone answers whoever can reach it, unencrypted",
    });
  }
  warnOfMemory(values.memory, say);
  const signal = await Promise.race([signalled, engine.failed ?? signalled])
    .catch((error) => {
      throw new StartError(
        error.message,
        "start it again, with --standby if the range has an owner",
      );
    });
  notify("STOPPING=1");
  for (const timer of [ticking, reporting, barking]) clearInterval(timer);
  syncing?.end();
  const isClosed = await Promise.race([
    Promise.all([engine.close(), http?.close()]).then(() => true),
    new Promise<boolean>((resolve) => setTimeout(resolve, CLOSE_MS, false)),
  ]);
  await snapshots?.end(); // at most a piece of one: it is given up
  const isKept = file === undefined || await endFile(file, isClosed, say, notify);
  say({ msg: "stopped", signal, ...counts() });
  return isKept ? 0 : 1;
}

/** What is said, be it by a variable, and would be ignored is told. Throws UsageError. */
function checkNeeds(values: Values<typeof DAEMON_FLAGS>, given: readonly string[]): void {
  const standard = defaults(DAEMON_FLAGS);
  const isSaid = (name: string) =>
    given.includes(name) ||
    values[name as keyof typeof values] !== standard[name as keyof typeof values];
  for (const [name, needed] of Object.entries(NEEDS)) {
    if (!isSaid(name) || values[needed]) continue;
    const { placeholder }: Flag<unknown> = DAEMON_FLAGS[needed];
    const example = placeholder === undefined ? `--${needed}` : `--${needed} ${placeholder}`;
    throw new UsageError(
      `--${name} means nothing without --${needed}`,
      `add ${example}, or leave it out`,
    );
  }
  const engine = values.cluster === undefined ? values.engine : "cluster";
  for (const [name, engines] of Object.entries(KNOWN_BY)) {
    if (!isSaid(name) || (engines as readonly string[]).includes(engine)) continue;
    throw engine === "cluster"
      ? new UsageError(`--${name} cannot be had with --cluster`, "leave one of them out")
      : new UsageError(
        `--${name} cannot be had with --engine ${engine}`,
        `--engine ${engines[0]}, or leave it out`,
      );
  }
}

/** Says so if the heap may become larger than what there is of memory. */
function warnOfMemory(heap: number, say: Log): void {
  const limit = memoryLimit();
  if (limit === undefined || heap <= limit.bytes) return;
  const [memory, bytes] = [formatSize(heap), formatSize(limit.bytes)];
  const reason = `--memory ${memory} is more than the ${bytes} that this ${limit.owner} has`;
  say({ msg: "warning", level: "warn", reason });
}

/** Does what is no serving, and returns the exit code. */
function command(name: string, words: readonly string[], given: readonly string[]): number {
  const usage = `mallocd ${name} ${commandOf(DAEMON, name).words}`.trim();
  const [flag] = given;
  if (flag !== undefined) throw new UsageError(`--${flag} means nothing to ${name}`, usage);
  checkWords(DAEMON, name, words);
  const [first] = words;
  if (name === "audit") return audit(first!);
  print(name === "help" ? helpOf(first) : VERSION_LINE);
  return 0;
}

function helpOf(name: string | undefined): string {
  return name === undefined
    ? programHelp(DAEMON)
    : commandHelp(DAEMON, name, commandOf(DAEMON, name));
}

function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(text));
}

/** Looks through a heap file, and changes nothing in it. */
function audit(path: string): number {
  try {
    const { memory, fault } = HeapFile.audit(path);
    if (fault !== undefined) throw fileFault(path, fault);
    console.log(`${path}: a heap of ${formatSize(memory)}, no fault found`);
    return 0;
  } catch (error) {
    throw fileError(error);
  }
}

function fileFault(path: string, fault: string): StartError {
  return new StartError(`${path} is damaged: ${fault}`, "a copy that was made of it, or remove it");
}

function fileError(error: unknown): unknown {
  if (error instanceof HeapFileError) return new StartError(error.message, error.hint);
  if (!(error instanceof Unavailable)) return error;
  return new StartError(`a heap file cannot be had: ${error.message}`, "a daemon without");
}

/**
 * The heap file that the command line names, open; with --check it is only looked at. It is libc that opens
 * it, so that this takes no permission but that of the syscall engine.
 */
function openHeapFile(
  { "heap-file": path, sparse, verify, check, "huge-pages": hugePages }: Values<
    typeof DAEMON_FLAGS
  >,
  sizes: StateOptions,
): HeapFile | undefined {
  if (path === undefined) return undefined;
  if (hugePages) {
    throw new UsageError("--huge-pages means nothing with --heap-file", "leave one of them out");
  }
  try {
    const file = HeapFile.open(path, sizes, { sparse, check });
    const fault = verify ? file.findFault({ ...sizes, memory: file.place.heap }) : undefined;
    if (fault === undefined && !check) return file;
    file.abandon();
    if (fault !== undefined) throw fileFault(path, fault);
    return undefined;
  } catch (error) {
    throw fileError(error);
  }
}

/** Makes a snapshot, and says what became of it; returns why there is none, as Linux numbers it, or 0. */
async function snapshot(
  file: HeapFile,
  sizes: StateOptions,
  signal: AbortSignal,
  say: Log,
): Promise<number> {
  const start = performance.now();
  try {
    const { rounds, haltMs } = await file.snapshot(sizes, signal);
    const ms = Math.round(performance.now() - start);
    say({ msg: "snapshot", file: file.snapshotPath, ms, rounds, halt_ms: haltMs.toFixed(2) });
    return 0;
  } catch (error) {
    const reason = signal.aborted ? "the daemon ends" : error instanceof Error ? error.message : "";
    say({ msg: "no snapshot", level: "error", file: file.snapshotPath, reason });
    return error instanceof FileError ? error.errno : Errno.EIO;
  }
}

/**
 * Brings all of it to the disk. If that takes its time, what is left and about how long that will be are
 * told again and again; a second signal ends the waiting. Resolves to false if the disk has failed.
 */
async function endFile(
  file: HeapFile,
  isClosed: boolean,
  say: Log,
  notify: Notify,
): Promise<boolean> {
  const [start, before] = [performance.now(), file.unwritten()];
  const telling = setInterval(() => {
    const left = file.unwritten();
    const seconds = before === undefined || left === undefined
      ? undefined
      : secondsLeft(before, left, performance.now() - start);
    say({
      msg: "syncing",
      file: file.path,
      left: left && formatSize(left - left % 1024 ** 2),
      seconds,
      reason: "a second signal leaves that to the kernel",
    });
    notify(`EXTEND_TIMEOUT_USEC=${EXTENSION_MS * 1000}`);
  }, SYNCING_MS);
  const impatient = nextSignal();
  const isSynced = await Promise.race([file.sync(), impatient.then(() => undefined)]);
  clearInterval(telling);
  if (isSynced === false) say({ msg: "not synced", level: "error", file: file.path });
  if (isSynced && isClosed) file.end(); // else the next daemon finds it as if this one had been killed
  return isSynced !== false;
}

/** What goes on, in a line for the service manager. */
class Rates {
  readonly #gauges: Gauges;
  readonly #counters: Counters;
  #requests = 0;
  #time = performance.now();

  constructor(gauges: Gauges, counters: Counters) {
    this.#gauges = gauges;
    this.#counters = counters;
  }

  /** The requests a second are those since it was last called. */
  status(address: string): string {
    this.#gauges.refresh();
    const [requests, time] = [sumOf(this.#counters, "requests"), performance.now()];
    const rate = (requests - this.#requests) / Math.max(time - this.#time, 1) * 1000;
    [this.#requests, this.#time] = [requests, time];
    const { blocks, bytes } = Counter;
    return `serving on ${address}, requests/s: ${Math.round(rate)}, ` +
      `blocks: ${this.#counters[blocks]}, bytes: ${this.#counters[bytes]}`;
  }
}

/** What the ready line tells of an engine. */
function described(engine: Engine, memory: number, reason: string | undefined) {
  return {
    version: VERSION,
    address: formatAddress(engine.address),
    memory: formatSize(memory),
    engine: engine.name,
    reason,
    garbage: engine.name === "quic" ? "some for each request" : undefined,
    ...engine.details,
    receive_buffer: engine.receiveBuffer && formatSize(engine.receiveBuffer),
  };
}

/** What a call of a procedure may use up; undefined if there are to be none. */
function fuelOf(
  { procedures, fuel, strict, cluster, memory, "heap-file": file }: Values<typeof DAEMON_FLAGS>,
): number | undefined {
  if (!procedures) return undefined;
  const foreign = [
    [strict, "--strict", "a procedure reaches the whole heap"],
    [cluster !== undefined, "--cluster", "a procedure need not do the same elsewhere"],
    [file !== undefined, "--heap-file", "what a killed procedure has half done cannot be undone"],
  ] as const;
  for (const [isGiven, flag, reason] of foreign) {
    if (!isGiven) continue;
    throw new UsageError(
      `${flag} and --procedures contradict each other: ${reason}`,
      "leave one of them out",
    );
  }
  if (memory % RESERVED !== 0 || memory < 2 * RESERVED || memory > MAX_MEMORY32) {
    throw new UsageError(
      `--procedures cannot be had with --memory ${formatSize(memory)}`,
      `use a multiple of ${formatSize(RESERVED)}, from twice that to ${formatSize(MAX_MEMORY32)}`,
    );
  }
  return fuel;
}

/** Where the quic engine's secrets are; undefined for the other engines, which have none. */
function secretsOf(
  { engine, cert, key, "token-file": tokens }: Values<typeof DAEMON_FLAGS>,
): SecretFiles | undefined {
  if (engine !== "quic") return undefined;
  if (cert !== undefined && key !== undefined) return { cert, key, tokens };
  throw new UsageError(
    "--engine quic needs a certificate and its key",
    "add --cert FILE and --key FILE; docs/operations.md shows how to make them with openssl",
  );
}

/** Certificates end, and tokens are withdrawn, while a daemon goes on. */
function reloadOnHangup(engine: Engine, say: Log): void {
  if (engine.reload === undefined || Deno.build.os === "windows") return;
  Deno.addSignalListener("SIGHUP", () => {
    engine.reload!().then(
      () => say({ msg: "reloaded" }),
      (error) => say({ msg: "not reloaded", level: "error", reason: error.message }),
    );
  });
}

/** Without the brackets that an IPv6 address has before a port; localhost is an address for all engines. */
function hostnameOf(host: string): string {
  return host === "localhost" ? "127.0.0.1" : host.replace(/^\[(.+)\]$/, "$1");
}

function formatAddress({ hostname, port }: Engine["address"]): string {
  return hostname.includes(":") ? `[${hostname}]:${port}` : `${hostname}:${port}`;
}

function nextSignal(): Promise<Deno.Signal> {
  const { promise, resolve } = Promise.withResolvers<Deno.Signal>();
  const signals: Deno.Signal[] = Deno.build.os === "windows"
    ? ["SIGINT", "SIGBREAK"]
    : ["SIGINT", "SIGTERM"];
  for (const signal of signals) Deno.addSignalListener(signal, () => resolve(signal));
  return promise;
}

/** USR1 asks for the totals; the other two would kill, and mean nothing but to the quic engine. Windows has none of them. */
function surviveSignals(tellTotals: () => void): void {
  if (Deno.build.os === "windows") return;
  Deno.addSignalListener("SIGUSR1", tellTotals);
  Deno.addSignalListener("SIGUSR2", () => {});
  Deno.addSignalListener("SIGHUP", () => {});
}

/** The daemon cannot start, for a reason that is not the command line's; `hint` is the next step. */
class StartError extends Error {
  constructor(message: string, readonly hint: string) {
    super(message);
  }
}

/** `option` is the one that holds the address, where it is not --host and --port. */
function startError(error: unknown, address: string, option?: string): unknown {
  if (error instanceof Deno.errors.AddrInUse) {
    const other = option ?? "--port";
    const hint = `stop what listens there, or take another ${other}, 0 for any free one`;
    return new StartError(`${address} is already in use`, hint);
  }
  if (error instanceof Deno.errors.AddrNotAvailable) {
    return new StartError(
      `${address} is not an address of this host`,
      `another ${option ?? "--host"}`,
    );
  }
  if (error instanceof Deno.errors.PermissionDenied) {
    return new StartError(
      `${address} may not be listened on`,
      `a ${option ?? "--port"} above 1023`,
    );
  }
  if (error instanceof SecretError) {
    const hint = "PEM files that belong together; docs/operations.md shows how to make them";
    return new StartError(error.message, hint);
  }
  if (error instanceof ClusterError) return new StartError(error.message, error.hint);
  if (error instanceof ConnectionError) {
    const hint = "--cluster with nodes that answer; docs/cluster.md shows how to start some";
    return new StartError(`the cluster cannot be used: ${error.message}`, hint);
  }
  if (error instanceof RedisError) return startError(meaningOf(error), address);
  if (error instanceof Unavailable) {
    return new StartError(`--engine syscall cannot be had: ${error.message}`, "--engine datagram");
  }
  // The heap says itself what to try; the rest is the address: a name that nobody has, and the like.
  if (error instanceof RangeError || !(error instanceof Error)) return error;
  return new StartError(
    `${address} cannot be listened on: ${error.message}`,
    `another ${option ?? "--host"}`,
  );
}

/** The log, if it is to be objects. */
let objects: Log | undefined;

/** Looked for before anything else, so that a mistake in the rest of the options is an object, too. */
function wantsObjects(
  args: readonly string[],
  environment: Readonly<Record<string, string>>,
): boolean {
  const flag = "log-json" satisfies keyof typeof DAEMON_FLAGS;
  return args.includes(`--${flag}`) || isOn(environment[variableOf(flag)]);
}

/** What goes wrong is said in one line on stderr, and what to do about it in another; or in an object. */
function report(error: unknown): number {
  const reason = error instanceof Error ? error.message : String(error);
  const hint = error instanceof UsageError || error instanceof StartError ? error.hint : undefined;
  if (objects !== undefined) objects({ msg: "failed", level: "error", reason, try: hint });
  else {
    console.error(`mallocd: ${reason}`);
    if (hint !== undefined) console.error(`Try: ${hint}`);
  }
  return error instanceof UsageError ? 2 : 1;
}
