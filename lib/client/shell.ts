/**
 * A place to look around: the commands of mallocd-client at a prompt, with history and variables. The
 * line editor is that of node:readline, which is loaded for this command only.
 */

import { createInterface, type Interface } from "node:readline";
import process from "node:process";
import { type Flags, parseCommandLine, UsageError } from "../cli/flags.ts";
import { commandHelp } from "../cli/help.ts";
import { nearest } from "../cli/nearest.ts";
import { parseSize } from "../cli/sizes.ts";
import { bench } from "./bench.ts";
import { checkEvery, type Context, repeatedly, type Terminal, within } from "./command.ts";
import { checkWords, type CommandName, COMMANDS, isCommand as isAny } from "./commands.ts";
import { CLIENT, CLIENT_FLAGS } from "./flags.ts";
import { loadHistory, saveHistory } from "./history.ts";
import { splitLine, type Variables, type Word } from "./line.ts";
import { NoReplyError, type Remote, RemoteError } from "./remote.ts";
import { textOf } from "./text.ts";

/** What is a program's, and not a line's. */
const OUTSIDE = ["shell", "top", "help"] as const;
type ShellCommand = Exclude<CommandName, (typeof OUTSIDE)[number]>;
const NAMES = (Object.keys(COMMANDS) as CommandName[]).filter(isCommand);

/** Commands of the shell itself. */
const OWN: readonly string[] = ["help", "vars", "exit", "quit"];

/** Options of the command line that a line of the shell can have, too, beside those of its command. */
const { hex, json, repeat, every, help } = CLIENT_FLAGS;
const LINE_FLAGS = { hex, json, repeat, every, help } as const satisfies Flags;

/** Reads and runs lines until the end of input, `exit`, or in a script Ctrl-C. */
export async function shell(context: Context): Promise<boolean> {
  const { terminal, remote } = context;
  const variables = new Map<string, string>();
  const isPrompt = terminal.isTerminal && Deno.stdin.isTerminal();
  const lines = createInterface({
    input: process.stdin,
    output: process.stdout,
    terminal: isPrompt,
    prompt: terminal.isTerminal ? `${remote.server}> ` : "",
    completer: (line: string) => [complete(line, variables), line.split(/\s+/).at(-1) ?? ""],
    history: isPrompt ? loadHistory() : [],
    removeHistoryDuplicates: true,
  });
  if (isPrompt) {
    keepHistory(lines, terminal);
    // The editor pauses its input while it completes a word; Deno then loses the next key.
    lines.pause = () => lines;
  }
  const daemon = new Daemon(remote);
  let failed = false;
  const interrupts = new Interrupts(lines);
  lines.prompt();
  for await (const line of lines) {
    if (/^\s*(exit|quit)\s*$/.test(line)) break;
    const signal = interrupts.begin();
    try {
      if (!/^\s*(#|$)/.test(line)) await daemon.check(variables);
      const isWell = await runLine(
        line,
        { ...context, terminal: within(terminal, { signal }) },
        variables,
      );
      if (!isWell) failed = true;
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

/** A history that cannot be kept is said once, and is no reason to end. */
function keepHistory(lines: Interface, terminal: Terminal): void {
  let isKept = true;
  lines.on("history", (history: string[]) => {
    if (!isKept) return;
    try {
      saveHistory(history);
    } catch (error) {
      isKept = false;
      terminal.say(`the history cannot be kept: ${error instanceof Error ? error.message : error}`);
    }
  });
}

/** Whether the daemon is still the one that the pointers came from. */
class Daemon {
  readonly #remote: Remote;
  #epoch: bigint | undefined;

  constructor(remote: Remote) {
    this.#remote = remote;
    this.#epoch = remote.hello?.epoch;
  }

  /**
   * Throws UsageError, once, when the daemon was restarted since the line before, and forgets all
   * variables: a pointer of before would now be somebody else's, and any may hold one. A daemon that does
   * not answer is the concern of the command itself.
   */
  async check(variables: Map<string, string>): Promise<void> {
    if (this.#epoch === undefined) return; // the classic protocol does not tell
    let epoch: bigint | undefined;
    try {
      epoch = (await this.#remote.ping())?.epoch;
    } catch (error) {
      if (error instanceof NoReplyError) return;
      throw error;
    }
    if (epoch === undefined || epoch === this.#epoch) return;
    const names = [...variables.keys()].map((name) => `$${name}`).join(", ");
    variables.clear();
    await this.#remote.renew();
    this.#epoch = epoch; // last: who could not begin anew tries again before the next line
    throw new UsageError(
      "the daemon was restarted: all pointers from before are stale, and this line was not run",
      names === "" ? "allocate anew" : `allocate anew (forgotten: ${names})`,
    );
  }
}

/** Words that a line can go on with: a command or an option and the blank after it, or a variable. */
function complete(line: string, variables: Variables): string[] {
  const words = line.split(/\s+/);
  const word = words.at(-1) ?? "";
  if (word.startsWith("$")) {
    return [...variables.keys()].map((name) => `$${name}`).filter((name) => name.startsWith(word));
  }
  const command = words.find(isCommand);
  const known = word.startsWith("-")
    ? Object.keys({ ...LINE_FLAGS, ...command && COMMANDS[command].flags }).map((flag) =>
      `--${flag}`
    )
    : [...NAMES, ...OWN];
  return known.map((name) => `${name} `).filter((candidate) => candidate.startsWith(word));
}

/** Resolves with whether all went well; throws what is said to a person. */
async function runLine(
  line: string,
  context: Context,
  variables: Map<string, string>,
): Promise<boolean> {
  if (/^\s*(#|$)/.test(line)) return true;
  const assignment = /^\s*([A-Za-z_]\w*)\s*=\s*(.*)$/.exec(line);
  const words = splitLine(assignment?.[2] ?? line, variables);
  const [command = { text: "", quoted: true }, ...rest] = words;
  if (
    variables.has(command.text) && !command.quoted && ![...NAMES, ...OWN].includes(command.text)
  ) {
    throw new UsageError(`${command.text} is a variable, and no command`, `$${command.text}`);
  }
  if (assignment !== null) {
    const value = await evaluate(command, rest, context);
    variables.set(assignment[1]!, value);
    context.terminal.say(`${assignment[1]} = ${value}`);
  } else if (isValue(command, rest)) context.terminal.write(`${command.text}\n`);
  else if (command.text === "help") showHelp(rest, context.terminal);
  else if (command.text === "vars" && rest.length === 0) {
    for (const [name, value] of variables) context.terminal.say(`${name} = ${value}`);
  } else return await run(command, rest, context);
  return true;
}

/** Whether a line, or what stands behind `=`, is a number or text in quotes, and no command. */
function isValue({ text, quoted }: Word, rest: readonly Word[]): boolean {
  return rest.length === 0 && (quoted || isNumber(text));
}

function isNumber(text: string): boolean {
  return /^(0x[\da-f]+|-?\d+)$/i.test(text);
}

/** What a variable is to hold: what a command prints, a number, or text in quotes. */
async function evaluate(
  command: Word,
  rest: readonly Word[],
  context: Context,
): Promise<string> {
  if (isValue(command, rest)) return command.text;
  const name = command.text;
  if (OWN.includes(name) || (isCommand(name) && COMMANDS[name].silent)) {
    throw new UsageError(`${name} gives no value`, "leave NAME = out");
  }
  let value = "";
  const write = (data: Uint8Array | string) => {
    value += typeof data === "string" ? data : textOf(data);
  };
  const mustBeOpen = () => {};
  const terminal = within(context.terminal, { write, mustBeOpen, isTerminal: false });
  await run(command, rest, { ...context, terminal, json: false });
  return name === "read" ? value : value.trimEnd(); // bytes are kept as they are
}

function showHelp(words: readonly Word[], terminal: Terminal): void {
  const [word] = words;
  if (word !== undefined && !OWN.includes(word.text)) {
    const name = word.text;
    if (!isCommand(name)) throw unknownCommand(name);
    const here = { ...CLIENT, flags: LINE_FLAGS };
    terminal.say(commandHelp(here, name, COMMANDS[name]).trimEnd());
    return;
  }
  for (const name of NAMES) {
    terminal.say(`  ${`${name} ${COMMANDS[name].words}`.padEnd(26)}  ${COMMANDS[name].help}`);
  }
  terminal.say("  NAME = COMMAND              keep what a command prints; $NAME gives it back");
  terminal.say(
    "  $NAME+16, $NAME-$OTHER      calculate with pointers and numbers; alone it is printed",
  );
  terminal.say("  help COMMAND, vars, exit or quit");
}

async function run(word: Word, words: readonly Word[], context: Context): Promise<boolean> {
  const command = word.text;
  if (!isCommand(command)) throw unknownCommand(command);
  const ownFlags = COMMANDS[command].flags ?? {};
  // What begins with a dash but stood in quotes is no option, nor is what comes after it.
  const text = words.findIndex(({ text, quoted }) => quoted && text.startsWith("-"));
  const args = words.map(({ text }) => text);
  const parsed = parseCommandLine(
    { ...CLIENT, name: command },
    { ...LINE_FLAGS, ...ownFlags },
    text === -1 ? args : [...args.slice(0, text), "--", ...args.slice(text)],
    () => undefined,
  );
  if (parsed.values.help) {
    showHelp([word], context.terminal);
    return true;
  }
  const full = command === "write" ? withLength(parsed.words) : parsed.words;
  checkWords(command, full);
  const execute = COMMANDS[command].prepare?.(full) ?? bench;
  const { values, given } = parsed;
  checkEvery(command, COMMANDS[command], values, given);
  const here = {
    ...context,
    hex: values.hex || context.hex,
    json: values.json || context.json,
  };
  const once = () => execute(here, values);
  return COMMANDS[command].repeats === true
    ? await once()
    : await repeatedly(values, context.terminal, once);
}

function unknownCommand(name: string): UsageError {
  if (OWN.includes(name)) return new UsageError(`${name} takes no words`, name);
  if (isNumber(name)) {
    return new UsageError(`${name} is a number, and no command`, "$p+16, without blanks");
  }
  if (name.startsWith("-")) {
    return new UsageError(`${name} stands before a command`, "malloc 5 --hex");
  }
  if (isAny(name)) {
    return new UsageError(`${name} cannot be run in the shell`, `mallocd-client ${name}`);
  }
  const meant = nearest(name, [...NAMES, ...OWN]);
  return new UsageError(
    `unknown command ${JSON.stringify(name)}`,
    meant === undefined ? "help lists the commands" : `did you mean ${meant}?`,
  );
}

/** At a prompt LEN may be left out, because DATA is always there: standard input is the prompt's. */
function withLength(words: readonly string[]): readonly string[] {
  const [pointer, length, ...data] = words;
  if (pointer === undefined || length === undefined) return words;
  const isSize = /^(-|0x[\da-f]+)$/i.test(length) || parseSize(length) !== undefined;
  const isLength = data.length > 0 && isSize;
  return isLength ? words : [pointer, "-", length, ...data];
}

function isCommand(word: string | undefined): word is ShellCommand {
  return isAny(word) && OUTSIDE.every((name) => name !== word);
}
