/** What each command of mallocd-client does, once a daemon has been found: words in, output out. */

import type { CommandName } from "./flags.ts";
import { BENCH_FLAGS, COMMANDS, PING_FLAGS } from "./flags.ts";
import { concat } from "@std/bytes";
import { formatSize } from "../cli/sizes.ts";
import { UsageError, type Values } from "../cli/flags.ts";
import type { Remote } from "./remote.ts";
import { NoReplyError } from "./remote.ts";

/** The world as a command sees it. */
export interface Terminal {
  /** Data, and nothing else. */
  write(data: Uint8Array | string): void;
  /** Messages. */
  say(line: string): void;
  /** Shows progress on one line, if somebody is watching; "" clears it. */
  progress(line: string): void;
  readonly isTerminal: boolean;
  readonly input: ReadableStream<Uint8Array>;
  readonly signal: AbortSignal;
}

export interface Context {
  readonly remote: Remote;
  readonly terminal: Terminal;
  readonly hex: boolean;
  readonly ping: Values<typeof PING_FLAGS>;
  readonly bench: Values<typeof BENCH_FLAGS> & { readonly timeout: number };
}

export type Run = (context: Context) => Promise<boolean>;
type Prepare = (words: readonly string[]) => Run;

const MAX_U64 = 2n ** 64n - 1n;

/** A 64-bit number, decimal or 0x hexadecimal; down to -2^63 if it may be negative. Throws UsageError. */
export function parseNumber(name: string, text: string, { negative = false } = {}): bigint {
  const valid = /^(0x[0-9a-f]+|\d+)$/i.test(text) || (negative && /^-\d+$/.test(text));
  const number = valid ? BigInt(text) : undefined;
  if (number === undefined || number > MAX_U64 || number < -(2n ** 63n)) {
    throw new UsageError(
      `${name} cannot be ${JSON.stringify(text)}`,
      "use a 64-bit number, decimal or 0x hexadecimal",
    );
  }
  return number;
}

/** A length that this program can hold. */
function parseLength(text: string): number {
  const length = parseNumber("LEN", text);
  if (length > 2n ** 32n) {
    throw new UsageError(
      `LEN cannot be ${text}`,
      "use 4294967296 at most, the size of the largest heap",
    );
  }
  return Number(length);
}

/** Commands that are not in this file, see heavy.ts. */
const HEAVY = ["bench", "shell"] as const;
export type HeavyCommand = (typeof HEAVY)[number];

export function isHeavy(command: CommandName): command is HeavyCommand {
  return HEAVY.some((name) => name === command);
}

/** The command, ready to run. Throws UsageError if its words make no sense. */
export function prepare(
  command: Exclude<CommandName, HeavyCommand>,
  words: readonly string[],
): Run {
  return COMMAND_OF[command](words);
}

/** Throws UsageError unless there are as many words as the help shows. */
export function checkWords(command: CommandName, words: readonly string[]): void {
  const wanted = COMMANDS[command].words.split(" ").filter((word) => word !== "");
  const least = wanted.filter((word) => !word.startsWith("[")).length;
  const most = wanted.at(-1)?.includes("...") ? Infinity : wanted.length;
  if (words.length >= least && words.length <= most) return;
  const problem = words.length < least
    ? `${wanted[words.length]} is missing`
    : `${JSON.stringify(words[most])} is one word too many`;
  const usage = `mallocd-client ${command} ${COMMANDS[command].words}`.trim();
  throw new UsageError(`${command}: ${problem}`, usage);
}

/**
 * Each takes its words, of which there are as many as checkWords admits, and throws UsageError if they
 * make no sense, before anything is sent; what it returns does the rest, and is true if all went well.
 */
const COMMAND_OF: Readonly<Record<Exclude<CommandName, HeavyCommand>, Prepare>> = {
  malloc: ([length]) => {
    const bytes = parseNumber("LEN", length!);
    return async (context) => printPointer(context, await context.remote.malloc(bytes));
  },

  calloc: ([count, size]) => {
    const elements = parseNumber("N", count!);
    const bytes = parseNumber("SIZE", size!);
    return async (context) => printPointer(context, await context.remote.calloc(elements, bytes));
  },

  realloc: ([pointer, length]) => {
    const address = parseNumber("PTR", pointer!);
    const bytes = parseNumber("LEN", length!);
    return async (context) => printPointer(context, await context.remote.realloc(address, bytes));
  },

  free: ([pointer]) => {
    const address = parseNumber("PTR", pointer!);
    return async ({ remote }) => {
      await remote.free(address);
      return true;
    };
  },

  read: ([pointer, length]) => {
    const address = parseNumber("PTR", pointer!);
    const bytes = parseLength(length!);
    return async ({ remote, terminal }) => {
      terminal.write(await remote.read(address, bytes));
      if (terminal.isTerminal) terminal.write("\n");
      return true;
    };
  },

  write: ([pointer, length, ...words]) => {
    const address = parseNumber("PTR", pointer!);
    const wanted = length === "-" ? undefined : parseLength(length!);
    const check = (data: Uint8Array) => {
      if (wanted === undefined || data.length === wanted) return data;
      throw new UsageError(
        `LEN is ${wanted} but DATA is ${data.length} bytes long`,
        `use ${data.length}, or - for as long as the data is`,
      );
    };
    const given = words.length === 0 ? undefined : check(new TextEncoder().encode(words.join(" ")));
    return async ({ remote, terminal }) => {
      await remote.write(address, given ?? check(concat(await Array.fromAsync(terminal.input))));
      return true;
    };
  },

  dump: ([pointer, length]) => {
    const address = parseNumber("PTR", pointer!);
    const bytes = parseLength(length!);
    return async ({ remote, terminal }) => {
      terminal.write(hexdump(await remote.read(address, bytes), address));
      return true;
    };
  },

  cas: ([pointer, expected, desired]) => {
    const address = parseNumber("PTR", pointer!);
    const from = parseNumber("EXPECTED", expected!, { negative: true });
    const to = parseNumber("DESIRED", desired!, { negative: true });
    return async ({ remote, terminal }) => {
      terminal.write(`${await remote.compareAndSwap(address, from, to)}\n`);
      return true;
    };
  },

  add: ([pointer, delta]) => {
    const address = parseNumber("PTR", pointer!);
    const summand = parseNumber("DELTA", delta!, { negative: true });
    return async ({ remote, terminal }) => {
      terminal.write(`${await remote.fetchAndAdd(address, summand)}\n`);
      return true;
    };
  },

  info: () => async ({ remote, terminal, hex }) => {
    const hello = await remote.ping();
    const rows = hello === undefined ? [["protocol", "classic"]] : [
      ["protocol", `tagged ${hello.version}`],
      ["epoch", `0x${hello.epoch.toString(16).padStart(16, "0")}`],
      ["base", formatPointer(hello.base, hex)],
      ["size", `${hello.size} (${formatSize(Number(hello.size))})`],
      ["largest datagram", `${hello.largestDatagram}`],
    ];
    for (const [name, value] of [["server", remote.server], ...rows]) {
      terminal.write(`${name}: ${value}\n`);
    }
    return true;
  },

  ping: () => ping,

  stress: ([count = "10000"]) => {
    const rounds = Number(parseNumber("N", count));
    return async ({ remote, terminal }) => {
      const { lost, wrong, summary } = await stress(remote, rounds, terminal);
      terminal.write(`${summary}\n`);
      return lost === 0 && wrong === 0;
    };
  },
};

async function ping({ remote, terminal, ping: { count, interval } }: Context): Promise<boolean> {
  let [sent, received, sum, min, max] = [0, 0, 0, Infinity, 0];
  while (sent < count) {
    if (sent > 0) await sleep(interval, terminal.signal);
    if (terminal.signal.aborted) break;
    sent++;
    const start = performance.now();
    try {
      await remote.ping({ signal: terminal.signal });
      const time = performance.now() - start;
      received++;
      sum += time;
      min = Math.min(min, time);
      max = Math.max(max, time);
      terminal.write(`reply from ${remote.server}: seq=${sent} time=${time.toFixed(3)} ms\n`);
    } catch (error) {
      if (terminal.signal.aborted) break;
      if (!(error instanceof NoReplyError)) throw error;
      terminal.say(error.message);
    }
  }
  terminal.write(`${sent} sent, ${received} received, ${sent - received} lost`);
  if (received > 0) {
    const times = [min, sum / received, max].map((time) => time.toFixed(3));
    terminal.write(`; min/avg/max ${times.join("/")} ms`);
  }
  terminal.write("\n");
  return received > 0;
}

/** The original's stress loop: malloc 20, write 5, read 5, free. */
async function stress(remote: Remote, rounds: number, { progress, signal }: Terminal) {
  const hello = new TextEncoder().encode("hello");
  const roundTrips: number[] = [];
  let [lost, wrong, done] = [0, 0, 0];
  const timed = async <T>(call: Promise<T>): Promise<T> => {
    const start = performance.now();
    const result = await call;
    roundTrips.push(performance.now() - start);
    return result;
  };
  const start = performance.now();
  let shown = start;
  for (; done < rounds && !signal.aborted; done++) {
    try {
      const pointer = await timed(remote.malloc(20));
      await remote.write(pointer, hello);
      const back = await timed(remote.read(pointer, hello.length));
      if (!back.every((byte, i) => byte === hello[i])) wrong++;
      await remote.free(pointer);
    } catch (error) {
      if (!(error instanceof NoReplyError)) throw error;
      lost++;
    }
    if (performance.now() - shown > 100) {
      shown = performance.now();
      progress(progressBar(done, rounds));
    }
  }
  progress("");
  const seconds = (performance.now() - start) / 1000;
  roundTrips.sort((a, b) => a - b);
  const percentile = (p: number) =>
    ((roundTrips[Math.floor(roundTrips.length * p)] ?? 0) * 1000).toFixed(0);
  const summary = `${4 * done} operations in ${seconds.toFixed(2)} s, ` +
    `${Math.round(4 * done / seconds)}/s, ${lost} lost, ${wrong} wrong, ` +
    `round trip p50 ${percentile(0.5)} us, p99 ${percentile(0.99)} us`;
  return { lost, wrong, summary };
}

const BAR_WIDTH = 40;

function progressBar(done: number, all: number): string {
  const filled = Math.round(done / all * BAR_WIDTH);
  return `[${"#".repeat(filled).padEnd(BAR_WIDTH, ".")}] ${done}/${all}`;
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => resolve(), { once: true });
  return promise.finally(() => clearTimeout(timer));
}

export function formatPointer(pointer: bigint, hex: boolean): string {
  return hex ? `0x${pointer.toString(16)}` : `${pointer}`;
}

function printPointer({ terminal, hex }: Context, pointer: bigint): boolean {
  terminal.write(`${formatPointer(pointer, hex)}\n`);
  return true;
}

const ROW = 16;

/** The output of `hexdump -C`, with addresses of 64 bits. */
export function hexdump(bytes: Uint8Array, address: bigint): string {
  const lines: string[] = [];
  let last = "";
  for (let at = 0; at < bytes.length; at += ROW) {
    const row = bytes.subarray(at, at + ROW);
    const hex = Array.from(row, (byte) => byte.toString(16).padStart(2, "0"));
    const columns = `${hex.slice(0, 8).join(" ")}  ${hex.slice(8).join(" ")}`.padEnd(3 * ROW);
    const ascii = String.fromCharCode(...row).replace(/[^ -~]/g, ".");
    const text = `${columns}  |${ascii}|`;
    if (text !== last || row.length < ROW) {
      lines.push(`${formatAddress(address + BigInt(at))}  ${text}`);
    } else if (lines.at(-1) !== "*") lines.push("*");
    last = text;
  }
  lines.push(formatAddress(address + BigInt(bytes.length)));
  return lines.join("\n") + "\n";
}

function formatAddress(address: bigint): string {
  return address.toString(16).padStart(16, "0");
}
