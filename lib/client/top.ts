/**
 * mallocd-client top: a screen about a daemon. What is on it is a function of a sample; the rest of this
 * file is about taking over a terminal, and leaving it as it was however this ends.
 */

import type { Flags, Values } from "../cli/flags.ts";
import { type Context, print, type Repeating, rounded, sleep, type Terminal } from "./command.ts";
import { NoReplyError } from "./remote.ts";
import { type Sample, Sampler } from "./samples.ts";

const DEFAULT_EVERY_MS = 1000;

/** The least that it needs. Of a larger terminal it uses the rows, for more of the tables. */
const COLUMNS = 80;
const ROWS = 24;
/** Lines above the tables, their titles included, and below them. */
const HEAD = 8;
const FOOT = 1;
const BAR = 40;

export async function top(context: Context, values: Values<Flags>): Promise<boolean> {
  const { terminal, remote, json } = context;
  const { repeat, every = DEFAULT_EVERY_MS } = values as Repeating;
  const sampler = new Sampler(remote);
  let sample = await sampler.next();
  if (json || !terminal.isTerminal) {
    for (let i = 0; i < (repeat ?? 1) && !terminal.signal.aborted; i++) {
      await sleep(every, terminal.signal);
      sample = await sampler.next();
      const lines = render(sample, remote.server, Infinity);
      print(context, `${i > 0 ? "\n" : ""}${lines.join("\n")}\n`, objectOf(sample, remote.server));
    }
    return true;
  }
  const screen = new Screen(terminal);
  try {
    let message = "";
    for (let i = 0; i < (repeat ?? Infinity) && !screen.signal.aborted; i++) {
      const { rows, columns } = screen.size();
      const lines = render(sample, remote.server, rows - FOOT);
      screen.draw([...lines.slice(0, rows - FOOT), message || "q or Ctrl-C ends"], columns);
      await sleep(every, screen.signal);
      try {
        sample = await sampler.next({ signal: screen.signal });
        message = "";
      } catch (error) {
        if (screen.signal.aborted) break;
        if (!(error instanceof NoReplyError)) throw error;
        message = error.message; // it may come back
      }
    }
  } finally {
    screen.leave();
  }
  return !screen.wasTold;
}

/** What the screen shows, by the names of stat; latencies in microseconds, as those of bench. */
function objectOf(sample: Sample, server: string): Readonly<Record<string, unknown>> {
  const names = [...FIGURES, ...FAMILIES.flatMap((family) => sample.namesOf(family))];
  const figures = names.map((name) => sample.figure(name));
  const microseconds = (share: number) => {
    const ns = sample.latency(share);
    return ns === undefined ? undefined : rounded(ns / 1000);
  };
  return {
    server,
    version: nameOf(sample, "version"),
    engine: nameOf(sample, "engine"),
    seconds: rounded(sample.seconds),
    ...Object.fromEntries(figures.map(({ title, value }) => [title, value])),
    latency: {
      p50: microseconds(0.5),
      p99: microseconds(0.99),
      "p99.9": microseconds(0.999),
    },
  };
}

const FIGURES = [
  ...["uptime", "heap", "bytes", "blocks", "bytesAsked", "largestFree", "fragmentation"],
  ...["requests", "received", "receivedBytes", "sent", "sentBytes", "resident"],
  ...["refused", "dropped", "kernelDrops", "replays"],
];
const FAMILIES = ["requests", "payload", "liveBlocks", "freeBlocks"];

/** The member of a family that is 1: what there is. */
function nameOf(sample: Sample, family: string): string {
  return sample.members(family).find(([, name]) => sample.value(name) === 1)?.[0] ?? "?";
}

/** The lines that show a sample, each of 80 columns at the most; `most` of them, if the tables are longer. */
export function render(sample: Sample, server: string, most: number): string[] {
  const value = (name: string) => sample.value(name);
  const rate = (name: string) => `${count(sample.rate(name))}/s`;
  const [heap, used] = [value("heap"), value("bytes")];
  const filled = heap === 0 ? 0 : Math.ceil(used / heap * BAR);
  const latency = [0.5, 0.99, 0.999].map((share) => duration(sample.latency(share)));
  const lines = [
    `mallocd ${nameOf(sample, "version")} at ${server}, ${nameOf(sample, "engine")} engine, up ${
      clock(value("uptime"))
    }`,
    `heap   [${"#".repeat(filled).padEnd(BAR, ".")}] ${bytes(used)} of ${bytes(heap)}`,
    `       ${count(value("blocks"))} ${value("blocks") === 1 ? "block" : "blocks"}, ${
      bytes(value("bytesAsked"))
    } asked for, ` +
    `largest free ${bytes(value("largestFree"))}, fragmented ${
      (value("fragmentation") / 10_000).toFixed(1)
    }%`,
    `rates  ${rate("requests")} requests, ${rate("received")} in (${
      bytes(sample.rate("receivedBytes"))
    }/s), ${rate("sent")} out (${bytes(sample.rate("sentBytes"))}/s)`,
    `time   p50 ${latency[0]}, p99 ${latency[1]}, p99.9 ${latency[2]}; resident ${
      bytes(value("resident"))
    }`,
    `not so ${rate("refused")} refused, ${rate("dropped")} dropped, ${
      rate("kernelDrops")
    } by the kernel, ${rate("replays")} repeats`,
    "",
  ];
  const room = Math.max(0, most - HEAD);
  const left = methods(sample);
  const right = sizes(sample, room);
  lines.push("METHOD     REQUESTS/S      TOTAL     BYTES/S    BLOCK SIZE       LIVE       FREE");
  for (let i = 0; i < Math.min(room, Math.max(left.length, right.length)); i++) {
    lines.push(`${(left[i] ?? "").padEnd(44)}    ${right[i] ?? ""}`.trimEnd());
  }
  return lines.map((line) => line.slice(0, COLUMNS));
}

function methods(sample: Sample): string[] {
  return sample.members("requests").map(([method, name]) => {
    const payload = `payload.${method}`;
    const moved = sample.stats.has(payload) ? `${bytes(sample.rate(payload))}/s` : "";
    return method.padEnd(10) + count(sample.rate(name)).padStart(11) +
      count(sample.value(name)).padStart(11) + moved.padStart(12);
  });
}

/** The sizes of which there are blocks, the largest of them last; of more than there is room for, the smallest are left out. */
function sizes(sample: Sample, room: number): string[] {
  const rows = sample.members("liveBlocks").map(([size, name]) => ({
    size: Number(size),
    live: sample.value(name),
    free: sample.value(`freeBlocks.${size}`),
  })).filter(({ live, free }) => live > 0 || free > 0);
  return rows.slice(Math.max(0, rows.length - room)).map(({ size, live, free }) =>
    bytes(size).padStart(10) + count(live).padStart(11) + count(free).padStart(11)
  );
}

/** Four digits, or three and a letter. */
function count(number: number): string {
  if (number < 9999.5) return `${Math.round(number)}`;
  for (const [letter, factor] of [["k", 1e3], ["M", 1e6], ["G", 1e9]] as const) {
    if (number < 999.5 * factor) return `${(number / factor).toPrecision(3)}${letter}`;
  }
  return `${(number / 1e12).toPrecision(3)}T`;
}

function bytes(number: number): string {
  if (number < 1023.5) return `${Math.round(number)} B`;
  for (const [unit, factor] of [["KiB", 2 ** 10], ["MiB", 2 ** 20], ["GiB", 2 ** 30]] as const) {
    const amount = number / factor;
    if (amount < 1023.5 || unit === "GiB") {
      return `${
        amount < 99.95 && amount % 1 !== 0 ? amount.toFixed(1) : Math.round(amount)
      } ${unit}`;
    }
  }
  return "";
}

function duration(ns: number | undefined): string {
  if (ns === undefined) return "-";
  for (const [unit, factor] of [["ns", 1], ["us", 1e3], ["ms", 1e6]] as const) {
    if (ns < 999.5 * factor) return `${Number((ns / factor).toPrecision(3))} ${unit}`;
  }
  return `${(ns / 1e9).toPrecision(3)} s`;
}

function clock(seconds: number): string {
  const [minutes, rest] = [Math.floor(seconds / 60), seconds % 60];
  const two = (number: number) => `${number}`.padStart(2, "0");
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(rest)}`;
}

/** Another screen, as editors have it: what was there before comes back. */
const ENTER = "\x1b[?1049h\x1b[?25l";
const LEAVE = "\x1b[?25h\x1b[?1049l";
const HOME = "\x1b[H";
/** They come before what is written: after a line of all columns the cursor is still on its last letter. */
const CLEAR_LINE = "\x1b[K";
const CLEAR_REST = "\x1b[J";
const BOLD = "\x1b[1m";
const GREEN = "\x1b[32m";
const PLAIN = "\x1b[m";

const CTRL_C = 3;

/** A terminal that was taken over. */
class Screen {
  readonly #terminal: Terminal;
  readonly #controller = new AbortController();
  readonly #isKeyboard = Deno.stdin.isTerminal();
  readonly #hasColours = !Deno.env.get("NO_COLOR") && Deno.env.get("TERM") !== "dumb";
  /** Whether somebody else wants it to end. */
  wasTold = false;

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
    terminal.signal.addEventListener("abort", this.#end);
    for (const signal of TOLD) Deno.addSignalListener(signal, this.#tell);
    // A screen that is put to sleep would stay on the terminal.
    Deno.addSignalListener("SIGTSTP", nothing);
    if (this.#isKeyboard) {
      Deno.stdin.setRaw(true);
      this.#listen();
    }
    terminal.write(ENTER);
  }

  /** Aborted when it is to end. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  size(): { rows: number; columns: number } {
    let [rows, columns] = [0, 0];
    try {
      ({ rows, columns } = Deno.consoleSize());
    } catch {
      // Of some it cannot be known.
    }
    return { rows: rows || ROWS, columns: columns || COLUMNS };
  }

  draw(lines: readonly string[], columns: number): void {
    const painted = lines.map((line, i) =>
      (i < lines.length - 1 ? CLEAR_LINE : CLEAR_REST) + this.#paint(line.slice(0, columns))
    );
    this.#terminal.write(HOME + painted.join("\r\n"));
  }

  /** Gives it back; more than once does no harm. */
  leave(): void {
    this.#controller.abort();
    this.#terminal.signal.removeEventListener("abort", this.#end);
    for (const signal of TOLD) Deno.removeSignalListener(signal, this.#tell);
    Deno.removeSignalListener("SIGTSTP", nothing);
    try {
      if (this.#isKeyboard) Deno.stdin.setRaw(false);
      this.#terminal.write(LEAVE);
    } catch {
      // It is gone.
    }
  }

  #end = () => this.#controller.abort();

  #tell = () => {
    this.wasTold = true;
    this.#controller.abort();
  };

  /** The keys come as they are, Ctrl-C, too. */
  async #listen(): Promise<void> {
    const keys = new Uint8Array(16);
    while (!this.signal.aborted) {
      const length = await this.#terminal.read(keys).catch(() => null);
      if (length === null) return this.#tell();
      const pressed = keys.subarray(0, length);
      if (pressed.some((key) => key === CTRL_C || key === 0x71 || key === 0x51)) this.#end();
    }
  }

  #paint(line: string): string {
    if (!this.#hasColours) return line;
    return line
      .replace(/^(heap {3}\[)(#+)/, `$1${GREEN}$2${PLAIN}`)
      .replace(/^(METHOD.*|\w+(?= {2,}))/, `${BOLD}$1${PLAIN}`);
  }
}

const TOLD: readonly Deno.Signal[] = ["SIGTERM", "SIGHUP"];

function nothing(): void {}
