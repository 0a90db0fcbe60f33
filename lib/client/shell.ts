/**
 * A place to look around: the commands of mallocd-client at a prompt, with history and variables. The
 * line editor is that of node:readline, which is loaded for this command only.
 */

import { createInterface, type Interface } from "node:readline";
import process from "node:process";
import { bench } from "./bench.ts";
import { checkWords, type CommandName, COMMANDS, isCommand as isAny } from "./commands.ts";
import type { Context, Terminal } from "./command.ts";
import { defaults, UsageError } from "../cli/flags.ts";
import { RemoteError } from "./remote.ts";

type ShellCommand = Exclude<CommandName, "shell">;
const NAMES = (Object.keys(COMMANDS) as CommandName[]).filter(isCommand);

/** Commands of the shell itself. */
const OWN = ["help", "vars", "exit"] as const;

/**
 * The words of a line: blanks separate, quotes of either kind keep them, $NAME stands for a variable,
 * but not between single quotes. Throws UsageError for an open quote or a variable that is not set.
 */
export function splitLine(line: string, variables: ReadonlyMap<string, string>): string[] {
  const words: string[] = [];
  let word: string | undefined;
  for (
    const [part, double, single, name, open] of line.matchAll(
      /"((?:[^"\\]|\\.)*)"|'([^']*)'|\$(\w+)|(["'])|\s+|[^\s"'$]+|\$/g,
    )
  ) {
    if (open !== undefined) throw new UsageError(`no closing ${open}`, "close the quote");
    if (/^\s/.test(part)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else if (double !== undefined) {
      const unescaped = double.replace(/\\(["\\$])/g, "\0$1");
      word = (word ?? "") + expand(unescaped, variables).replaceAll("\0", "");
    } else word = (word ?? "") + (single ?? (name === undefined ? part : expand(part, variables)));
  }
  if (word !== undefined) words.push(word);
  return words;
}

function expand(text: string, variables: ReadonlyMap<string, string>): string {
  return text.replace(/(?<!\0)\$(\w+)/g, (_, name: string) => {
    const value = variables.get(name);
    if (value === undefined) throw new UsageError(`$${name} is not set`, `${name} = malloc 64`);
    return value;
  });
}

/** Reads and runs lines until the end of input, `exit`, or in a script Ctrl-C. */
export async function shell(context: Context): Promise<boolean> {
  const { terminal, remote } = context;
  const variables = new Map<string, string>();
  const lines = createInterface({
    input: process.stdin,
    output: process.stdout,
    terminal: terminal.isTerminal && Deno.stdin.isTerminal(),
    prompt: terminal.isTerminal ? `${remote.server}> ` : "",
    completer: (line: string) => [complete(line), line.split(/\s+/).at(-1) ?? ""],
  });
  let failed = false;
  const interrupts = new Interrupts(lines);
  lines.prompt();
  for await (const line of lines) {
    if (line.trim() === "exit") break;
    const signal = interrupts.begin();
    try {
      await runLine(line, { ...context, terminal: within(terminal, { signal }) }, variables);
    } catch (error) {
      failed = true;
      if (error instanceof UsageError) terminal.say(`${error.message}\nTry: ${error.hint}`);
      else if (error instanceof RemoteError) terminal.say(error.message);
      else throw error;
    } finally {
      interrupts.end();
    }
    if (signal.aborted && !lines.terminal) {
      failed = true;
      break;
    }
    lines.prompt();
  }
  lines.close();
  // A script that is piped in wants to know; a person has seen it.
  return !failed || terminal.isTerminal;
}

/** What Ctrl-C does: it ends the command that is running, as far as that looks at its signal. */
class Interrupts {
  #running: AbortController | undefined;

  constructor(lines: Interface) {
    // The line editor takes the keys as they are, so that Ctrl-C is no signal but an event of its own.
    lines.on("SIGINT", () => {
      if (this.#running !== undefined) this.#running.abort();
      else clearLine(lines);
    });
  }

  /** Each command gets a signal of its own: an aborted one stays aborted. */
  begin(): AbortSignal {
    this.#running = new AbortController();
    Deno.addSignalListener("SIGINT", this.#onSignal);
    return this.#running.signal;
  }

  end(): void {
    Deno.removeSignalListener("SIGINT", this.#onSignal);
    this.#running = undefined;
  }

  #onSignal = () => {
    Deno.removeSignalListener("SIGINT", this.#onSignal); // the second ends the process, as ever
    this.#running?.abort();
  };
}

/** By the keys of the line editor: to the end, and delete all before. */
function clearLine(lines: Interface): void {
  lines.write(null, { ctrl: true, name: "e" });
  lines.write(null, { ctrl: true, name: "u" });
}

/** The terminal with some things changed. As in program.ts, input is not touched until it is read. */
function within(
  terminal: Terminal,
  {
    signal = terminal.signal,
    write = (data) => terminal.write(data),
    isTerminal = terminal.isTerminal,
  }: Partial<Pick<Terminal, "signal" | "write" | "isTerminal">>,
): Terminal {
  return {
    write,
    isTerminal,
    signal,
    say: (line) => terminal.say(line),
    progress: (line) => terminal.progress(line),
    get input() {
      return terminal.input;
    },
  };
}

function complete(line: string): string[] {
  const word = line.split(/\s+/).at(-1) ?? "";
  return [...NAMES, ...OWN].filter((name) => name.startsWith(word));
}

async function runLine(line: string, context: Context, variables: Map<string, string>) {
  if (/^\s*(#|$)/.test(line)) return;
  const assignment = /^\s*([A-Za-z_]\w*)\s*=\s*(.*)$/.exec(line);
  const [command, ...words] = splitLine(assignment?.[2] ?? line, variables);
  if (assignment !== null) {
    const output: string[] = [];
    const write = (data: Uint8Array | string) => {
      output.push(typeof data === "string" ? data : new TextDecoder().decode(data));
    };
    // A bare number or text may be kept, too.
    if (isCommand(command)) {
      const terminal = within(context.terminal, { write, isTerminal: false });
      await run(command, words, { ...context, terminal });
    } else output.push([command, ...words].join(" "));
    const value = output.join("").trimEnd();
    variables.set(assignment[1]!, value);
    context.terminal.say(`${assignment[1]} = ${value}`);
  } else if (command === "help") {
    for (const name of NAMES) {
      context.terminal.say(
        `  ${`${name} ${COMMANDS[name].words}`.padEnd(24)}  ${COMMANDS[name].help}`,
      );
    }
    context.terminal.say(
      "  NAME = COMMAND            keep what a command prints; $NAME gives it back",
    );
    context.terminal.say("  vars, help, exit");
  } else if (command === "vars") {
    for (const [name, value] of variables) context.terminal.say(`${name} = ${value}`);
  } else if (isCommand(command)) {
    await run(command, words, context);
  } else {
    throw new UsageError(`unknown command ${JSON.stringify(command)}`, "help lists the commands");
  }
}

async function run(command: ShellCommand, words: readonly string[], context: Context) {
  const full = command === "write" ? withLength(words) : words;
  checkWords(command, full);
  const { prepare, flags = {} } = COMMANDS[command];
  await (prepare?.(full) ?? bench)(context, defaults(flags));
}

/** At a prompt LEN may be left out, because DATA is always there: standard input is the prompt's. */
function withLength(words: readonly string[]): readonly string[] {
  const [pointer, length, ...data] = words;
  if (pointer === undefined || length === undefined) return words;
  const isLength = data.length > 0 && /^(-|\d+|0x[\da-f]+)$/i.test(length);
  return isLength ? words : [pointer, "-", length, ...data];
}

function isCommand(word: string | undefined): word is ShellCommand {
  return word !== "shell" && isAny(word);
}
