/**
 * mallocd-client as a function: a command line in, calls of the daemon, an exit code out. What most calls
 * do without, the shell and the load generator, is in heavy.ts, which calls this function in turn and is
 * loaded when it is needed.
 */

import { type Command, parseCommandLine, strayVariables, UsageError } from "../cli/flags.ts";
import { commandHelp, programHelp } from "../cli/help.ts";
import { checkWords, type CommandName, commandOf, COMMANDS } from "./commands.ts";
import {
  checkEvery,
  type Context,
  OutputError,
  repeatedly,
  type Run,
  type Terminal,
} from "./command.ts";
import { CLIENT, CLIENT_FLAGS } from "./flags.ts";
import { isQuic, QUIC } from "./transport.ts";
import { pipe } from "./pipe.ts";
import { Remote, RemoteError } from "./remote.ts";
import { printVersion } from "./commands/version.ts";

let interrupted: AbortController | undefined;

/** What a command does not look at is not made: to be asked whether it is a terminal takes time, too. */
const terminal: Terminal = {
  write(data) {
    if (typeof data !== "string") return writeBytes(data);
    // Always in the same memory: the collector lets much of what would be garbage be.
    const bytes = text ??= new Uint8Array(TEXT_BYTES);
    for (let at = 0; at < data.length;) {
      const { read, written } = new TextEncoder().encodeInto(data.slice(at), bytes);
      writeBytes(bytes.subarray(0, written));
      at += read;
    }
  },
  mustBeOpen() {
    if (!isClosed) return;
    throw new OutputError(
      "standard output is closed, or /dev/null open for reading, too: >/dev/null will do",
    );
  },
  say: (line) => console.error(line),
  progress(line) {
    if (!Deno.stderr.isTerminal()) return;
    Deno.stderr.writeSync(new TextEncoder().encode(`\r\x1b[K${line}`));
  },
  get isTerminal() {
    return Deno.stdout.isTerminal();
  },
  read: (bytes) => Deno.stdin.read(bytes),
  async inputLength() {
    const { fstatSync } = await import("node:fs");
    const status = fstatSync(0);
    return status.isFile() ? status.size : undefined;
  },
  /** A command that looks at this ends with its summary at the first Ctrl-C, others without a word. */
  get signal() {
    return (interrupted ??= onFirstInterrupt()).signal;
  },
};

let text: Uint8Array | undefined;
const TEXT_BYTES = 128 * 1024;

function writeBytes(bytes: Uint8Array): void {
  try {
    for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
  } catch (cause) {
    throw new OutputError(cause);
  }
}

function onFirstInterrupt(): AbortController {
  const controller = new AbortController();
  const abort = () => {
    Deno.removeSignalListener("SIGINT", abort); // the second ends the process, as ever
    controller.abort();
  };
  Deno.addSignalListener("SIGINT", abort);
  return controller;
}

/** What the commands do that are only described in COMMANDS, or a program that knows it. */
export type Heavy =
  | Readonly<Record<string, Run>>
  | ((args: readonly string[]) => Promise<number>);

/** Runs one command and returns the exit code. */
export function program(args: readonly string[], heavy: Heavy): Promise<number> {
  return main(args, heavy).catch(report);
}

async function main(args: readonly string[], heavy: Heavy): Promise<number> {
  const environment = Deno.env.toObject();
  for (const warning of strayVariables(CLIENT, Object.keys(environment))) {
    terminal.say(`mallocd-client: ${warning}`);
  }
  const ofCommands = Object.values(COMMANDS).map(({ flags }) => flags);
  const flags: typeof CLIENT_FLAGS = Object.assign({ ...CLIENT_FLAGS }, ...ofCommands);
  const { values, words: [word, ...words], given } = parseCommandLine(
    CLIENT,
    flags,
    args,
    (name) => environment[name],
  );
  const output = { terminal, hex: values.hex, json: values.json };
  if (values.version) {
    printVersion(output);
    return 0;
  }
  if (values.pipe) checkPipe(word, given);
  if (word === undefined && values.help) {
    terminal.write(programHelp(CLIENT));
    return 0;
  }
  if (word === undefined && !values.pipe) {
    throw new UsageError("no command", "mallocd-client help lists them");
  }
  const command = word === undefined ? undefined : commandOf(word);
  if (values.help && command !== undefined) {
    terminal.write(commandHelp(CLIENT, command, COMMANDS[command]));
    return 0;
  }
  if (command !== undefined) {
    checkFlags(command, given);
    checkEvery(command, COMMANDS[command], values, given);
    checkWords(command, words);
  }
  if (command === "help") {
    const about = words[0] === undefined ? undefined : commandOf(words[0]);
    if (values.json) {
      describeAsJson(about === undefined ? Object.keys(COMMANDS) as CommandName[] : [about]);
    } else {terminal.write(
        about ? commandHelp(CLIENT, about, COMMANDS[about]) : programHelp(CLIENT),
      );}
    return 0;
  }
  if (command === "version") {
    printVersion(output);
    return 0;
  }
  const { server, timeout, classic, verbose } = values;
  checkQuic(command, server, classic, given);
  const credentials = isQuic(server) ? readCredentials(values.ca, values["token-file"]) : {};
  const prepare = command === undefined ? () => pipe : COMMANDS[command].prepare;
  const prepared = prepare?.(words);
  if (command === undefined || DEPENDENT.includes(command)) lookAtOutput();
  if (command !== "shell") forgoFiles();
  if (prepared === undefined && typeof heavy === "function") return await heavy(args);
  const run = prepared ?? (heavy as Readonly<Record<string, Run>>)[command!]!;
  const remote = await Remote.connect({
    server,
    timeout,
    ...credentials,
    ...(classic && { protocol: "classic" }),
  });
  if (verbose) {
    const why = classic
      ? "as asked"
      : remote.hello
      ? "hello was answered"
      : "hello was not answered";
    terminal.say(`mallocd-client: ${server} speaks the ${remote.protocol} protocol (${why})`);
  }
  const context: Context = { ...output, remote, timeout };
  try {
    const once = () => run(context, values);
    const isOnce = command !== undefined && COMMANDS[command].repeats === true;
    return await (isOnce ? once() : repeatedly(values, terminal, once)) ? 0 : 1;
  } finally {
    // A UDP socket is closed by the end of the process, which comes next and is faster at it; a daemon
    // that is not told of the end of a connection keeps a place for it.
    if (isQuic(server)) await remote.close();
  }
}

/** What help tells in one line, as an object. */
function describeAsJson(names: readonly CommandName[]): void {
  for (const command of names) {
    const { words, help } = COMMANDS[command];
    terminal.write(`${JSON.stringify({ command, words, help })}\n`);
  }
}

/** Commands that leave behind what nobody knows of without their output. */
const DEPENDENT: readonly CommandName[] = [
  "malloc",
  "calloc",
  "realloc",
  "install",
  "shell",
];

let isClosed = false;

/**
 * Finds out whether standard output was closed by whoever started the program (`>&-`). The runtime has put
 * /dev/null in its place, open for reading, too, which is how it shows. A /dev/null that somebody else has
 * opened so cannot be told from it, by nothing that /proc shows, and so no command is refused for it that
 * leaves nothing behind.
 */
function lookAtOutput(): void {
  if (Deno.build.os !== "linux" || Deno.stdout.isTerminal()) return;
  const own = "/proc/self/fd/1";
  try {
    const isReadable = (Deno.lstatSync(own).mode! & 0o400) !== 0;
    isClosed = isReadable && Deno.readLinkSync(own) === "/dev/null";
  } catch {
    // without /proc it cannot be known
  }
}

/** What goes together with a quic:// server, and what does not. */
function checkQuic(
  command: CommandName | undefined,
  server: string,
  classic: boolean,
  given: readonly string[],
): void {
  if (!isQuic(server)) {
    const flag = given.find((flag) => flag === "ca" || flag === "token-file");
    if (flag === undefined) return;
    throw new UsageError(`--${flag} means nothing to ${server}`, `--server ${QUIC}${server}`);
  }
  if (classic) throw new UsageError(`${server} speaks no classic protocol`, "leave --classic out");
  if (command === "bench") {
    throw new UsageError(
      `bench: ${server} cannot be loaded, for bench sends over UDP only`,
      "mallocd-client stress, which works over QUIC, too",
    );
  }
}

/** What the library takes as text. */
function readCredentials(ca: string | undefined, tokenFile: string | undefined) {
  const token = tokenFile && read(tokenFile).split("\n")[0]!.trim();
  if (token === "" && tokenFile) {
    throw new RemoteError(`${tokenFile} has no token in its first line`, "");
  }
  return { ca: ca && read(ca), token };
}

function read(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    throw new RemoteError(`cannot read ${path}: ${(error as Error).message}`, "");
  }
}

/**
 * Only the shell has to do with files, for its history, whose place depends on who runs it, and QUIC and
 * install, for which they have been read: no narrower permission can be compiled in. For all else it is
 * given up before anything comes from the network.
 */
function forgoFiles(): void {
  Deno.permissions.revokeSync({ name: "read" });
  Deno.permissions.revokeSync({ name: "write" });
}

/** What --pipe runs is in standard input, which ends. */
function checkPipe(word: string | undefined, given: readonly string[]): void {
  if (word !== undefined) {
    throw new UsageError(`--pipe leaves no room for ${word}`, "put it into standard input");
  }
  const flag = given.find((flag) => flag === "repeat" || flag === "every");
  if (flag !== undefined) {
    throw new UsageError(`--${flag} means nothing to --pipe`, "leave one of them out");
  }
}

/** A flag of one command means nothing to another. */
function checkFlags(command: CommandName, given: readonly string[]): void {
  const { flags = {} }: Command = COMMANDS[command];
  const foreign = given.find((flag) => !Object.hasOwn({ ...CLIENT_FLAGS, ...flags }, flag));
  if (foreign === undefined) return;
  throw new UsageError(
    `${command} takes no option --${foreign}`,
    `mallocd-client ${command} --help lists those that it takes`,
  );
}

/** What goes wrong is one line on stderr; only what is a defect of this program shows a stack. */
function report(error: unknown): number {
  if (error instanceof UsageError) {
    terminal.say(`mallocd-client: ${error.message}\nTry: ${error.hint}`);
    return 2;
  }
  if (error instanceof RemoteError) terminal.say(`mallocd-client: ${error.message}`);
  else if (error instanceof OutputError) {
    // A reader that has gone wants no word about it.
    const isGone = error.cause instanceof Deno.errors.BrokenPipe;
    if (!isGone) terminal.say(`mallocd-client: ${error.message}`);
  } else if (error instanceof Error && "hostname" in error) {
    terminal.say(`mallocd-client: cannot find the host ${error.hostname}: ${error.message}`);
  } else if (error instanceof Error && "code" in error) {
    terminal.say(`mallocd-client: ${error.message}`);
  } else throw error;
  return 1;
}
