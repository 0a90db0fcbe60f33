/** The two programs of `make build` as their users see them: command lines in, output and exit codes out. */

export const ROOT = new URL("../../", import.meta.url);
export const DIST = new URL("dist/", ROOT).pathname;
export const MALLOCD = `${DIST}mallocd`;
export const CLIENT = `${DIST}mallocd-client`;

const built = await Deno.readTextFile(`${DIST}.engine`).catch(() => "");
/** Why the daemon does not call libc, for the name of a test that wants that; empty if it does. */
export const NO_FFI = Deno.build.os !== "linux" || built.trim() === "datagram"
  ? " (skipped: the daemon has no permission for libc)"
  : "";

/** Where every heap begins, and so what the first malloc gives. */
export const FIRST = 842350460928;

/** A process that takes longer is killed, and a socket closed: then the test fails, and does not hang. */
const DEADLINE_MS = 20_000;

export interface Outcome {
  code: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  /** What it reads on standard input: nothing, if left out. */
  input?: string | Uint8Array<ArrayBuffer>;
  /** Its environment, beside PATH, in which the programs come first. */
  env?: Record<string, string>;
  /** Milliseconds that it may take. */
  timeout?: number;
}

function spawn(command: string, args: readonly string[], { input, env }: RunOptions) {
  return new Deno.Command(command, {
    args: [...args],
    clearEnv: true, // whoever runs the tests may have some MALLOCD_* set
    env: { PATH: `${DIST}:${Deno.env.get("PATH")}`, ...env },
    stdin: input === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

/** Runs a program to its end. */
export async function runBytes(command: string, args: readonly string[], options: RunOptions = {}) {
  const child = spawn(command, args, options);
  const timer = setTimeout(() => child.kill("SIGKILL"), options.timeout ?? DEADLINE_MS);
  try {
    const output = child.output(); // it may print much before it has read all, and would wait for a reader
    if (options.input !== undefined) {
      await new Response(options.input).body!.pipeTo(child.stdin);
    }
    const { code, stdout, stderr } = await output;
    return { code, stdout, stderr: new TextDecoder().decode(stderr) };
  } finally {
    clearTimeout(timer);
  }
}

export async function run(
  command: string,
  args: readonly string[],
  options?: RunOptions,
): Promise<Outcome> {
  const { stdout, ...outcome } = await runBytes(command, args, options);
  return { ...outcome, stdout: new TextDecoder().decode(stdout) };
}

/** The outcome of a program that prints data and nothing else. */
export function done(stdout = ""): Outcome {
  return { code: 0, stdout, stderr: "" };
}

/** The outcome of a program that could not do what was asked for. */
export function failed(message: string, program = "mallocd-client"): Outcome {
  return { code: 1, stdout: "", stderr: `${program}: ${message}\n` };
}

/** The outcome of a daemon that could not start, or go on: an event of its log. */
export function unstarted(reason: string, hint: string): Outcome {
  const [why, next] = [reason, hint].map((text) => /\s/.test(text) ? JSON.stringify(text) : text);
  return { code: 1, stdout: "", stderr: `level=error msg=failed reason=${why} try=${next}\n` };
}

/** The outcome of a program that could not understand what was asked for. */
export function misused(message: string, hint: string, program = "mallocd-client"): Outcome {
  return { code: 2, stdout: "", stderr: `${program}: ${message}\nTry: ${hint}\n` };
}

/** The pairs of a line of logfmt. Throws if it is none. */
export function parseLogfmt(line: string): Record<string, string> {
  const pairs: [string, string][] = [];
  for (let rest = `${line} `; rest !== "";) {
    const match = /^([\w.]+)=(?:([^\s"=]+)|("(?:[^"\\]|\\.)*")) /.exec(rest);
    if (match === null) throw new Error(`Cannot parse logfmt at ${JSON.stringify(rest)}: ${line}`);
    const [pair, key = "", bare, quoted = ""] = match;
    pairs.push([key, bare ?? JSON.parse(quoted)]);
    rest = rest.slice(pair.length);
  }
  return Object.fromEntries(pairs);
}

/** The pairs of a line of the log, which is logfmt or JSON. */
function parseLine(line: string): Record<string, string> {
  return line.startsWith("{") ? JSON.parse(line) : parseLogfmt(line);
}

/** What a daemon said when it ended. */
export interface Ended extends Outcome {
  /** The counts of the totals line; those that are 0 are not in it. */
  totals: Record<string, string>;
}

/** A daemon, on a free port unless it is told another. */
export class Mallocd implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #ready = Promise.withResolvers<void>();
  readonly #stdout: Promise<string>;
  readonly #ended: Promise<void>;
  #stderr = "";
  #hasEnded = false;

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#stdout = new Response(child.stdout).text();
    this.#ended = this.#listen();
  }

  /** Resolves when the daemon is ready, or has ended. */
  static async start(args: readonly string[] = [], options: RunOptions = {}): Promise<Mallocd> {
    return await Mallocd.from(MALLOCD, ["--port", "0", ...args], options);
  }

  static async from(command: string, args: readonly string[], options: RunOptions = {}) {
    const daemon = new Mallocd(spawn(command, args, options));
    const timer = setTimeout(() => daemon.#child.kill("SIGKILL"), DEADLINE_MS);
    await daemon.#ready.promise;
    clearTimeout(timer);
    return daemon;
  }

  async #listen(): Promise<void> {
    for await (const text of this.#child.stderr.pipeThrough(new TextDecoderStream())) {
      this.#stderr += text;
      if (this.#stderr.includes("\n")) this.#ready.resolve();
    }
    await this.#child.status;
    this.#hasEnded = true;
    this.#ready.resolve();
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** The pairs of its first line. */
  get ready(): Record<string, string> {
    const [line = ""] = this.#stderr.split("\n");
    return parseLine(line);
  }

  get server(): string {
    return this.ready["address"] ?? "";
  }

  get port(): number {
    return Number(this.server.split(":").at(-1));
  }

  /** With these variables the client finds it, and is patient where many tests share few processors. */
  get env(): Record<string, string> {
    return { MALLOCD_SERVER: this.server, MALLOCD_TIMEOUT: "10s" };
  }

  /** Runs the client on it: a command line, or its words if there are blanks in them. */
  client(line: string | readonly string[], options: RunOptions = {}): Promise<Outcome> {
    const words = typeof line === "string" ? line.split(" ") : line;
    return run(CLIENT, words, this.#known(options));
  }

  /** The bytes that the client prints. */
  async clientBytes(line: string): Promise<Uint8Array> {
    const { code, stdout, stderr } = await runBytes(CLIENT, line.split(" "), this.#known({}));
    if (code !== 0) throw new Error(`mallocd-client ${line}: ${stderr}`);
    return stdout;
  }

  /** Resolves when it has served all that was sent to it before, answered or not. */
  async settle(): Promise<void> {
    await this.client("ping --count 1");
  }

  #known({ env, ...options }: RunOptions): RunOptions {
    return { ...options, env: { ...this.env, ...env } };
  }

  async stop(signal: Deno.Signal = "SIGTERM"): Promise<Ended> {
    if (!this.#hasEnded) this.#child.kill(signal);
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), DEADLINE_MS);
    await this.#ended;
    clearTimeout(timer);
    const { code } = await this.#child.status;
    const line = this.#stderr.split("\n")
      .find((line) => /^level=info msg=stopped |^\{.*"msg":"stopped"/.test(line));
    const totals = line ? parseLine(line) : {};
    return { code, stdout: await this.#stdout, stderr: this.#stderr, totals };
  }

  /** Resolves when it has ended by itself. */
  async ended(): Promise<Ended> {
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), DEADLINE_MS);
    await this.#ended;
    clearTimeout(timer);
    return await this.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop("SIGKILL");
  }
}

/** A socket that talks to a daemon in bytes of its own. */
export class Peer implements Disposable {
  readonly #socket: Deno.DatagramConn;
  #daemon: Deno.NetAddr;
  readonly #buffer = new Uint8Array(65536);
  readonly #timer: ReturnType<typeof setTimeout>;

  constructor({ port }: Mallocd, own: { hostname?: string; port?: number } = {}) {
    this.#daemon = { transport: "udp", hostname: "127.0.0.1", port };
    this.#socket = Deno.listenDatagram({
      transport: "udp",
      hostname: "127.0.0.1",
      port: 0,
      ...own,
    });
    this.#timer = setTimeout(() => this.#socket.close(), DEADLINE_MS);
  }

  /** Talks to another daemon from now on, from the same port. */
  turnTo({ port }: Mallocd): void {
    this.#daemon = { ...this.#daemon, port };
  }

  async send(hex: string): Promise<void> {
    await this.#socket.send(Uint8Array.fromHex(hex), this.#daemon);
  }

  /** The next datagram. */
  async receive(): Promise<string> {
    const [datagram] = await this.#socket.receive(this.#buffer);
    return datagram.toHex();
  }

  async ask(hex: string): Promise<string> {
    await this.send(hex);
    return await this.receive();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#socket.close();
  }
}

/** Empty, or why programs cannot be run on a terminal here, for the name of a test. */
export async function whyNoTerminal(): Promise<string> {
  try {
    const { stdout } = await run("script", ["--version"]);
    return stdout.includes("util-linux") ? "" : " (script is not that of util-linux)";
  } catch (error) {
    return ` (no script: ${(error as Error).name})`;
  }
}

/** A command on a terminal of its own. */
export class Terminal implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #keyboard: WritableStreamDefaultWriter<Uint8Array>;
  readonly #screen: ReadableStreamDefaultReader<string>;
  readonly #errors: Promise<string>;
  readonly #timer: ReturnType<typeof setTimeout>;
  /** What has been shown and not yet been taken. */
  #shown = "";

  constructor(line: string, env: Record<string, string>) {
    const options = { input: "", env: { TERM: "xterm", ...env } };
    // With exec, for Ctrl-C is meant for the command, not for a shell around it.
    this.#child = spawn("script", ["-qefc", `exec ${line}`, "/dev/null"], options);
    this.#keyboard = this.#child.stdin.getWriter();
    this.#screen = this.#child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    this.#errors = new Response(this.#child.stderr).text();
    this.#timer = setTimeout(() => this.#child.kill("SIGKILL"), DEADLINE_MS);
  }

  async type(keys: string): Promise<void> {
    await this.#keyboard.write(new TextEncoder().encode(keys));
  }

  /** What is shown next, up to and with this text. Throws if it ends without. */
  async until(text: string): Promise<string> {
    while (!this.#shown.includes(text)) {
      if (!await this.#look()) {
        throw new Error(`No ${JSON.stringify(text)} in ${JSON.stringify(this.#shown)}`);
      }
    }
    return this.#take(this.#shown.indexOf(text) + text.length);
  }

  /** The rest of what is shown, and the exit code. */
  async end(): Promise<{ code: number; shown: string }> {
    while (await this.#look());
    return { code: (await this.#child.status).code, shown: this.#take(this.#shown.length) };
  }

  async #look(): Promise<boolean> {
    const { value = "", done } = await this.#screen.read();
    this.#shown += value;
    return !done;
  }

  #take(length: number): string {
    const taken = this.#shown.slice(0, length);
    this.#shown = this.#shown.slice(length);
    return taken;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#keyboard.close().catch(() => {}); // it may have ended
    await this.end();
    await this.#errors;
    clearTimeout(this.#timer);
  }
}

/** What only the benches need is in a lockfile of its own, and is fetched by them, by no test. */
export const BENCH_LOCK = "--lock=bench/deno.lock";

/** Empty, or why a bench cannot be run, for the name of a test. */
export async function whyNoPackages(path: string): Promise<string> {
  const { success } = await new Deno.Command(Deno.execPath(), {
    args: ["test", "-q", "--no-run", "--no-check", "--cached-only", BENCH_LOCK, path], // cache has no such option
    cwd: ROOT,
    stderr: "null",
  }).output();
  return success ? "" : " (skipped: its packages are not here; `make bench` fetches them)";
}

/** What Deno prints to standard output when it is run in the source tree with these arguments. */
export async function deno(...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args, cwd: ROOT })
    .output();
  const decoder = new TextDecoder();
  if (!success) throw new Error(`deno ${args.join(" ")}: ${decoder.decode(stderr)}`);
  return decoder.decode(stdout);
}
