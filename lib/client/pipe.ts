/**
 * mallocd-client --pipe: commands from standard input, one a line, many of them under way at a time, and
 * for each a line of output, in the order of the input. They do not wait for each other, so a line must not
 * rest on what an earlier one does.
 */

import { UsageError } from "../cli/flags.ts";
import { type Context, OutputError, within } from "./command.ts";
import { checkWords, commandOf, COMMANDS } from "./commands.ts";
import { splitLine } from "./line.ts";
import { RemoteError } from "./remote.ts";
import { quotable } from "./text.ts";

/** Lines under way at a time: enough for the network never to wait, few enough for the daemon's buffer. */
const UNDER_WAY = 256;

/** Commands whose output is one line, or none. */
const ONE_LINE: readonly string[] = [
  "malloc",
  "calloc",
  "realloc",
  "free",
  "read",
  "write",
  "cas",
  "add",
  "call",
];

const CHUNK = 64 * 1024;

/** Runs all lines; true if all went well. What went wrong is the line `error: ...` in its place. */
export async function pipe(context: Context): Promise<boolean> {
  const { terminal } = context;
  const results: Promise<Result>[] = [];
  let isWell = true;
  let isGone = false;
  const print = async () => {
    const result = await results.shift()!;
    if (result.failed) isWell = false;
    try {
      terminal.write(`${result.text}\n`);
    } catch (error) {
      isGone = true;
      // Nobody would know of these blocks.
      for (const { block } of [result, ...await Promise.all(results)]) {
        if (block !== undefined) await context.remote.free(block);
      }
      throw error;
    }
  };
  /** Each ends when its line is printed: as soon as it can be, for who reads it may be who writes the next. */
  const printing: Promise<void>[] = [];
  let last = Promise.resolve();
  for await (const line of linesOf(terminal)) {
    if (isGone) break;
    if (/^\s*(#|$)/.test(line)) continue;
    const result = run(line, context);
    result.catch(() => {}); // what it throws is seen in its turn
    results.push(result);
    last = last.then(print);
    last.catch(() => {}); // likewise
    printing.push(last);
    if (printing.length === UNDER_WAY) await printing.shift();
  }
  await last;
  return isWell;
}

interface Result {
  readonly text: string;
  readonly failed: boolean;
  /** What it has allocated. */
  readonly block?: bigint | undefined;
}

async function run(line: string, context: Context): Promise<Result> {
  let text = "";
  let block: bigint | undefined;
  const onBlock = (pointer: bigint) => {
    block = pointer;
  };
  const write = (data: string | Uint8Array) => {
    text += typeof data === "string" ? data.trimEnd() : quotable(data);
  };
  const terminal = within(context.terminal, { write, progress: () => {} });
  try {
    const [name = "", ...words] = splitLine(line, new Map()).map(({ text }) => text);
    const command = commandOf(name);
    const prepare = ONE_LINE.includes(command) ? COMMANDS[command].prepare : undefined;
    if (prepare === undefined) {
      throw new UsageError(`${command} cannot be piped`, `use ${ONE_LINE.join(", ")}`);
    }
    // Standard input is where the lines come from.
    const full = command === "write" && words.length === 2 ? [words[0]!, "-", words[1]!] : words;
    checkWords(command, full);
    const failed = !await prepare(full)({ ...context, terminal, onBlock }, {});
    return { text: text === "" ? "ok" : text, failed, block };
  } catch (error) {
    if (error instanceof OutputError) throw error;
    if (!(error instanceof UsageError || error instanceof RemoteError)) throw error;
    const message = shorten(error.message);
    return {
      text: context.json ? JSON.stringify({ error: message }) : `error: ${message}`,
      failed: true,
    };
  }
}

/** A message of one line, however long what it quotes. */
function shorten(message: string): string {
  const most = 500;
  return message.length <= most ? message : `${message.slice(0, most)}...`;
}

async function* linesOf(terminal: Context["terminal"]): AsyncGenerator<string> {
  const chunk = new Uint8Array(CHUNK);
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const length = await terminal.read(chunk);
    if (length === null) break;
    const [end = "", ...lines] = decoder.decode(chunk.subarray(0, length), { stream: true })
      .split("\n");
    rest += end;
    for (const line of lines) {
      yield rest;
      rest = line;
    }
  }
  if (rest !== "") yield rest;
}
